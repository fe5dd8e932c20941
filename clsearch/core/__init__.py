"""Continual learning in plain PyTorch. Knows nothing of Ray, Optuna or MLflow."""
