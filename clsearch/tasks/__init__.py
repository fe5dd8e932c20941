"""Sequences of tasks, their samples, and the sealed test data."""
