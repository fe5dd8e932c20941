"""Options, search spaces and protocols: a study, validated."""
