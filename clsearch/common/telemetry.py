"""Telemetry of the libraries that run a study."""

from __future__ import annotations

import os


def disable_telemetry() -> None:
    """Turn off the usage statistics of MLflow and Ray, unless the environment says otherwise.

    Both libraries read their variable when they are imported or started, so call this before. Workers inherit the
    environment.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
