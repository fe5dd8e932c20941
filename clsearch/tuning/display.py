"""How paths and addresses are shown."""

from __future__ import annotations

from pathlib import Path


def near(path: Path) -> str:
    """A path from the working directory where it lies below, else absolute; links are not followed."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def without_password(uri: str) -> str:
    """A URI as it may be shown: user and password taken out."""
    scheme, mark, rest = uri.partition("://")
    server, slash, path = rest.partition("/")
    return f"{scheme}{mark}{server.rpartition('@')[2]}{slash}{path}"
