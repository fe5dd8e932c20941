"""Files, errors, seeds, statistics and formatting that every package uses."""
