"""Ray and Optuna carry out a plan."""
