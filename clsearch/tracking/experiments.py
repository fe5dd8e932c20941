"""Find the experiment of a study, also after its folder was renamed."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Experiment, ViewType
from mlflow.tracking import MlflowClient

from clsearch.records.json_types import StudyJson
from clsearch.tracking.ui import VIEW_TAG, view_name


def find_experiment(client: MlflowClient, study: StudyJson, folder: Path) -> Experiment | None:
    """Return the experiment that holds a study's runs, else the one of its folder's name; None if there is none.

    An experiment has the name that the folder had when it was created. It gets the folder's new name if that is free
    and the old one has no folder any more.
    """
    found = registered_experiment(client, study["id"])
    named: Experiment | None = client.get_experiment_by_name(folder.name)
    if found is None or (named is not None and named.experiment_id == found.experiment_id):
        return named
    if named is None and not (folder.parent / found.name).exists():
        client.rename_experiment(found.experiment_id, folder.name)
    return found


def registered_experiment(client: MlflowClient, study_id: str) -> Experiment | None:
    """Return the experiment that has the view of a study, and its run; None if there is none."""
    search = f"tags.`{VIEW_TAG}{view_name(study_id)}` LIKE '%'"
    for experiment in client.search_experiments(view_type=ViewType.ALL, filter_string=search):
        if client.search_runs([experiment.experiment_id], f"tags.study_id = '{study_id}'", max_results=1):
            return experiment
    return None
