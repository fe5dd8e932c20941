"""Places of a study's MLflow runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from clsearch.common.formatting import relative_path
from clsearch.common.redaction import redact_address
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.tracking.ui import HOST, PORT

STORE = "mlflow.db"
PLACE = "place"
"""Tag of a study's run in a store that several results folders can share: its folder."""


def default_store(folder: Path) -> str:
    """Return the URI of the SQLite store that a study shares with the other studies of its results folder."""
    return f"sqlite:///{folder.parent / STORE}"


def shown_store(folder: Path, uri: str | None) -> str:
    """Format the store of a study's runs, without secrets. uri: the store; None for the study's own."""
    if uri is None or uri == default_store(folder):
        return f"sqlite:///{relative_path(folder.parent / STORE)}"
    return redact_address(uri)


def mlflow_row(plan: Plan, pages: bool) -> tuple[str, str]:
    """Return a printed row with the store, or the command that serves it. pages: their addresses are printed too."""
    store = shown_store(plan.folder, tracking_uri(plan))
    if not store.startswith("sqlite:"):
        return "MLflow", f"{store}, experiment {plan.options.name}"
    then = "" if pages else f"   then open http://{HOST}:{PORT}"
    return "MLflow", f"{server_command(store)}{then}"


def server_command(store: str) -> str:
    """Return the command that serves an MLflow store at the address of the printed pages."""
    words = [relative_path(Path(sys.executable)), "-m", "mlflow", "server", "--backend-store-uri", store]
    return f"MLFLOW_DISABLE_TELEMETRY=true {shlex.join([*words, '--host', HOST, '--port', str(PORT)])}"
