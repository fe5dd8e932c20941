"""results/ on disk: written, read, ranked, resumed."""
