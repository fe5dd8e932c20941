"""Pages of MLflow's user interface that show a study: their addresses, and the columns that they have.

MLflow documents neither; a test follows the addresses in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from clsearch.common.formatting import without_password
from clsearch.planning.objectives import sign
from clsearch.records.json_types import StudyJson

HOST, PORT = "127.0.0.1", 5000
"""Where the server answers that a study's end says how to start."""

COMPARED = 10
"""Best trials in a comparison."""

VIEW_TAG = "mlflow.sharedViewState."
"""Begins the name of an experiment's tag that holds a view, whose name ends it."""

WIDTHS = {"attributes.`Run Name`": 260, "params": 180, "metrics": 160, "tags.`state`": 100}
"""Of columns, in pixels, so that names and numbers are not cut off."""


def base_of(uri: str) -> str | None:
    """Where a store's pages are; None where nobody knows. Of a SQLite file: where a server for it will answer."""
    if uri.startswith(("http:", "https:")):
        return without_password(uri).rstrip("/")
    return f"http://{HOST}:{PORT}" if uri.startswith("sqlite:") else None


def view_name(study: StudyJson) -> str:
    """Of the view of a study's trials: an experiment has a study after the other where it was begun afresh."""
    return f"trials-{study['id'][:8]}"


def view_of(study: StudyJson) -> str:
    """The trials of a study, the best first, with its objectives, accuracy, forgetting and hyperparameters as columns,
    as MLflow stores a view.
    """
    metrics, params = dict.fromkeys([*study["objectives"], "average_accuracy", "average_forgetting"]), study["space"]
    if study["protocol"] == "continual":  # one run, whose values change from task to task
        metrics, params = dict.fromkeys(["accuracy", "bar", "attempts", "learning_rate", *params]), {}
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
    """The address of an experiment's runs in a view."""
    return f"{base}/#/experiments/{experiment}/runs?viewStateShareKey={quote(view)}"


def comparison_page(base: str, experiment: str, runs: Sequence[str]) -> str:
    """The address of a comparison of runs, by their ids."""
    own, of = (quote(json.dumps(values, separators=(",", ":"))) for values in (list(runs), [experiment]))
    return f"{base}/#/compare-runs?runs={own}&experiments={of}"
