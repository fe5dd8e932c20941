"""Where the runs of a study are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from clsearch.common.formatting import relative_path, without_password
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.tracking.ui import HOST, PORT

STORE = "mlflow.db"


def default_store(folder: Path) -> str:
    """URI of the SQLite store that a study, whose folder this is, shares with those beside it."""
    return f"sqlite:///{folder.parent / STORE}"


def shown_store(folder: Path, uri: str | None) -> str:
    """Where the runs of a study are, as it is printed. uri: the store; None for the study's own."""
    own = default_store(folder)
    return f"sqlite:///{relative_path(folder.parent / STORE)}" if uri in (None, own) else uri


def mlflow_row(plan: Plan, pages: bool) -> tuple[str, str]:
    """Where the runs are, or the command that serves them. pages: whether their addresses are said."""
    store = shown_store(plan.folder, tracking_uri(plan))
    if not store.startswith("sqlite:"):
        return "MLflow", f"{without_password(store)}, experiment {plan.options.name}"
    then = "" if pages else f"   then open http://{HOST}:{PORT}"
    return "MLflow", f"{server_command(store)}{then}"


def server_command(store: str) -> str:
    """The command that serves a store of MLflow's at the address that pages are given with."""
    words = [relative_path(Path(sys.executable)), "-m", "mlflow", "server", "--backend-store-uri", store]
    return f"MLFLOW_DISABLE_TELEMETRY=true {shlex.join([*words, '--host', HOST, '--port', str(PORT)])}"
