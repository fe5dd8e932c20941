"""The configuration of one trial and its rules."""
