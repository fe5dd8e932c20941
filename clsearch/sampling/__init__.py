"""Optuna: its study, journal, samplers and pruners for a plan."""
