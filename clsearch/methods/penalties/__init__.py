"""Computations that methods share: distillation, parameter change, Fisher information."""
