"""Networks over stacked members."""
