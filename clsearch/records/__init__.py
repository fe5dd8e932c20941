"""Records of studies in results/: write, read, rank and resume them."""
