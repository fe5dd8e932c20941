"""MLflow: what is sent, and its pages."""
