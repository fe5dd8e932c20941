"""The `clsearch` command."""
