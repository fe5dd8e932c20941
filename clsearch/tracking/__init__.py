"""Send studies to MLflow, and find its pages."""
