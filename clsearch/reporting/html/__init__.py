"""The HTML report of a study, and the page that compares several."""
