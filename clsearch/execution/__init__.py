"""Carry out a plan with Ray and Optuna."""
