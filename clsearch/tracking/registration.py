"""Refuse to send a copy of a study to a store in which its original has runs: both would be one study there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.records.study_file import read_study_json
from clsearch.tracking.stores import PLACE, default_store


def check_registered_once(folder: Path, uri: str | None) -> None:
    """Check that a store has the runs of a study from no other folder that still holds it.

    Args:
        folder: The study's folder.
        uri: The store; None for the study's own.

    Raises:
        ConfigError: The study in the folder is a copy.
    """
    study = read_study_json(folder)
    if uri in (None, default_store(folder)) or not study or "id" not in study:
        return
    place = find_place(study["id"], str(uri))
    if place is None or place == folder.resolve():
        return
    other = read_study_json(place)
    if not other or other.get("id") != study["id"]:  # the study was moved
        return
    text = (
        f"tracking_uri: must have the runs of this study from one folder only; got those of {relative_path(place)}, of "
        f"which {relative_path(folder)} is a copy. Go on there, or remove one of the two folders, or use another store"
    )
    raise ConfigError([Refusal("study-registered-once", text)])


def find_place(study_id: str, uri: str) -> Path | None:
    """Return the folder from which a store has the runs of a study; None if it has none, or does not answer."""
    from mlflow.tracking import MlflowClient  # takes a second to import

    from clsearch.tracking.experiments import registered_experiment
    from clsearch.tracking.sender import quiet

    quiet()
    with suppress(Exception):  # stores raise many types; the sender tells of them
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = registered_experiment(client, study_id)
        if experiment is not None:
            search = f"tags.study_id = '{study_id}' and tags.kind = 'study'"
            for run in client.search_runs([experiment.experiment_id], search):
                if place := run.data.tags.get(PLACE):
                    return Path(place)
    return None
