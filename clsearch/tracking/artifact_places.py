"""Keep the addresses of artifacts right in a SQLite store after a results folder was moved, copied or renamed.

MLflow keeps an absolute address for each experiment and each run, and has no call that changes one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
"""Folder of the artifacts in a results folder, with a folder for each study."""

COLUMNS = (("experiments", "experiment_id", "artifact_location"), ("runs", "run_uuid", "artifact_uri"))
"""Table, key and address of MLflow's database."""


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for another store."""
    scheme, found, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if found and scheme.partition("+")[0] == "sqlite" else None


def local_path(address: str) -> Path:
    """Return the path of a file's address."""
    return Path(url2pathname(urlsplit(address).path))


def mend_addresses(database: Path, results: Path, experiment: str | None = None) -> None:
    """Point a store's addresses below another results folder's `mlartifacts` to those of this one.

    An address stays if its folder exists and this results folder has none of that name: it is another results folder's.

    Args:
        database: The SQLite file.
        results: The results folder.
        experiment: The id of the only experiment to mend; None for all.
    """
    base = (results.absolute() / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, key, address in COLUMNS:
            only, given = ("", ()) if experiment is None else (" AND experiment_id = ?", (experiment,))
            query = f"SELECT {key}, {address} FROM {table} WHERE {address} LIKE ? AND {address} NOT LIKE ?{only}"
            rows = connection.execute(query, (f"file://%/{ARTIFACTS}/%", f"{base}/%", *given)).fetchall()
            moved = [(new, own) for own, old in rows if (new := find_moved_address(old, base)) is not None]
            connection.executemany(f"UPDATE {table} SET {address} = ? WHERE {key} = ?", moved)


def find_moved_address(old: str, base: str) -> str | None:
    """Return an address below a base; None if what is there belongs to another results folder."""
    before, _, inside = old.rpartition(f"/{ARTIFACTS}/")
    study = inside.partition("/")[0]
    belongs_elsewhere = (
        local_path(f"{before}/{ARTIFACTS}/{study}").exists() and not local_path(f"{base}/{study}").exists()
    )
    return None if belongs_elsewhere else f"{base}/{inside}"
