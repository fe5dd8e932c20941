"""Start, watch and leave Ray; none of it knows studies."""
