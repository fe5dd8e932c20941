"""Where the runs of a study are."""

from __future__ import annotations

from pathlib import Path

from clsearch.tuning.display import near

STORE = "mlflow.db"


def default_store(folder: Path) -> str:
    """URI of the SQLite store that a study, whose folder this is, shares with those beside it."""
    return f"sqlite:///{folder.parent / STORE}"


def shown_store(folder: Path, uri: str | None) -> str:
    """Where the runs of a study are, as it is printed. uri: the store; None for the study's own."""
    own = default_store(folder)
    return f"sqlite:///{near(folder.parent / STORE)}" if uri in (None, own) else uri
