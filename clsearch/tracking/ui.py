"""Addresses and columns of the pages of MLflow's user interface that show a study.

MLflow documents neither; a test follows the addresses in a browser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import quote

from clsearch.common.redaction import redact_address
from clsearch.config.spaces import SearchSpace
from clsearch.planning.objectives import sign
from clsearch.records.json_types import StudyJson

HOST, PORT = "127.0.0.1", 5000
"""Address of the server that the printed command starts."""

COMPARED = 10
"""Number of best trials in a comparison."""

VIEW_TAG = "mlflow.sharedViewState."
"""Prefix of an experiment's tag that holds a view; the view's name follows."""

WIDTHS = {"attributes.`Run Name`": 260, "params": 180, "metrics": 160, "tags.`state`": 100}
"""Column widths in pixels, so that names and numbers are not cut off."""


def base_of(uri: str) -> str | None:
    """Return the base address of a store's pages, for a SQLite file its future server's; None if unknown."""
    if uri.startswith(("http:", "https:")):
        return redact_address(re.split("[?#]", uri, maxsplit=1)[0]).rstrip("/")
    return f"http://{HOST}:{PORT}" if uri.startswith("sqlite:") else None


def view_name(study_id: str) -> str:
    """Return the name of the view of a study's trials; an experiment has several studies if one was started over."""
    return f"trials-{study_id[:8]}"


def view_of(study: StudyJson) -> str:
    """Make the view of a study's trials in MLflow's format.

    It shows the best first, with objectives, accuracy, forgetting and hyperparameters as columns.
    """
    metrics = dict.fromkeys([*study["objectives"], "average_accuracy", "average_forgetting"])
    params = list(SearchSpace.from_json(study["space"]))
    if study["protocol"] == "continual":  # one run whose values change between tasks
        metrics, params = dict.fromkeys(["accuracy", "bar", "attempts", "learning_rate", *params]), []
    shown = [f"metrics.`{name}`" for name in metrics] + [f"params.`{name}`" for name in params]
    columns = ["attributes.`Run Name`", *shown, "tags.`state`"]
    state = {
        "searchFilter": f"tags.study_id = '{study['id']}' and tags.kind = 'trial'",
        "orderByKey": shown[0],
        "orderByAsc": sign(next(iter(metrics))) < 0,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [*shown, "tags.`state`"],
        "columnOrder": columns,
        "columnWidths": {name: WIDTHS.get(name) or WIDTHS[name.partition(".")[0]] for name in columns},
    }
    return json.dumps(state)


def trials_page(base: str, experiment: str, view: str) -> str:
    """Return the address of an experiment's runs in a view."""
    return f"{base}/#/experiments/{experiment}/runs?viewStateShareKey={quote(view)}"


def comparison_page(base: str, experiment: str, runs: Sequence[str]) -> str:
    """Return the address of a comparison of runs, by their ids."""
    own, of = (quote(json.dumps(values, separators=(",", ":"))) for values in (list(runs), [experiment]))
    return f"{base}/#/compare-runs?runs={own}&experiments={of}"
