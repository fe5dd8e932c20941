"""Present results to people: terminal summary, tables, figures, the HTML report."""
