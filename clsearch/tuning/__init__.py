"""The edges: Ray Tune runs trials, Optuna chooses them, MLflow shows them, results/ keeps them."""
