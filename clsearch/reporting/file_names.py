"""Names of the files that reports and pictures are written to."""

REPORT = "report.html"
COMPARISON_REPORT = "comparison.html"

PICTURES = ("response.png", "front.png")
"""Pictures that a study may write into its folder."""
