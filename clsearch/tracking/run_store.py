"""The runs of a study in an MLflow store: found again, opened, written in batches, ended.

Runs are found by their tags `study_id` and `label`, in the experiment that has the study's view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from clsearch.common.checked_files import DamagedFile
from clsearch.common.files import create_once
from clsearch.records.json_types import StudyJson
from clsearch.records.writer import code_version
from clsearch.reporting.trial_names import format_setting
from clsearch.tracking.artifact_places import ARTIFACTS, database_of, mend_addresses
from clsearch.tracking.experiments import find_experiment
from clsearch.tracking.stores import STORE, default_store

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the user interface open on training runs, not on traces of language models."""
MLFLOW_STATES = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "unfinished": "KILLED"}
PARENT_TAG = "mlflow.parentRunId"
MOST_METRICS, MOST_PARAMS = 800, 100
"""Most that one request holds; MLflow takes 1,000 entries, of which 100 are parameters."""


class RunStore:
    """The runs of a study in MLflow. Errors of the store are raised.

    Args:
        study: study.json, whose `id` is a tag of all its runs.
        folder: The study's folder.
        uri: The store.
    """

    def __init__(self, study: StudyJson, folder: Path, uri: str) -> None:
        self.study = study
        self.folder = folder
        self.uri = uri
        served = uri.startswith(("http:", "https:", "databricks"))
        self.artifacts = None if served else (folder.parent / ARTIFACTS / folder.name).as_uri()
        self.parents: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.known: set[str] = set()
        self.live: set[str] = set()
        self.sent: dict[str, int] = {}
        self.seeds: dict[str, str] = {}
        self.damaged: list[DamagedFile] = []

    def connect(self) -> None:
        """Find or create the study's experiment, mend addresses of artifacts that were moved, and find its runs."""
        own = self.uri == default_store(self.folder)
        if own:
            create_once(self.folder.parent / STORE, lambda path: path if path.exists() else None, new_store)
        database = database_of(self.uri)
        if own and database is not None:
            mend_addresses(database, self.folder.parent)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        experiment = find_experiment(self.client, self.study, self.folder)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment = (
            experiment.experiment_id
            if experiment is not None
            else self.client.create_experiment(self.folder.name, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS)
        )
        if not own and database is not None:
            mend_addresses(database, self.folder.parent, self.experiment)
        if self.artifacts is not None:
            self.artifacts = self.client.get_experiment(self.experiment).artifact_location
        self.find()

    def close(self) -> None:
        """Stop sending: another thread's next request raises AttributeError."""
        vars(self).pop("client", None)

    def find(self) -> None:
        """Find the study's runs in the store, and delete duplicates.

        A server that hung can create a run after its request timed out and a second one was created. Of two with one
        label, the one that is in use or has parameters stays.
        """
        token: str | None = ""
        while token is not None:
            found = self.client.search_runs(
                [self.experiment], f"tags.study_id = '{self.study['id']}'", page_token=token or None
            )
            for run in found:
                label, run_id = run.data.tags["label"], run.info.run_id
                held = self.ids.get(label, run_id)
                if held != run_id and (label in self.live or not run.data.params):
                    self.client.delete_run(run_id)
                    continue
                if held != run_id:
                    self.client.delete_run(held)
                ended = run.info.status != "RUNNING"  # tags are written before the status
                self.ids[label], self.states[label] = run_id, run.data.tags["state"] if ended else "running"
                self.known |= {label} if run.data.params else set()
                self.parents[label] = run.data.tags.get(PARENT_TAG, "")
                self.seeds[label] = run.data.tags.get("seeds", "")
            token = found.token or None

    def _run(
        self, label: str, kind: str, algorithm: str, name: str, params: dict[str, Any], own: dict[str, str]
    ) -> str:
        """Begin the run of a label, or resume the run of an earlier process; return its id."""
        run_id, unsent = self._open(label, kind, algorithm, name, params, own)
        self._send(run_id, label, (), unsent)
        return run_id

    def _open(
        self, label: str, kind: str, algorithm: str, name: str, params: dict[str, Any], own: dict[str, str]
    ) -> tuple[str, list[Param]]:
        if label not in self.live:
            tags = self._tags(label, kind, algorithm) | own
            if label in self.ids:
                self.client.log_batch(self.ids[label], tags=[RunTag(key, value) for key, value in tags.items()])
                self.client.update_run(self.ids[label], status="RUNNING")
            else:
                self.ids[label] = self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id
            self.live.add(label)
        sent = label in self.known  # parameters cannot be changed
        return self.ids[label], [] if sent else [Param(key, format_setting(value)) for key, value in params.items()]

    def _send(
        self,
        run_id: str,
        label: str,
        logged: Sequence[Metric],
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """Send what belongs to a run in as few requests as MLflow takes, since each is a transaction of its store."""
        first, *others = [logged[at : at + MOST_METRICS] for at in range(0, len(logged), MOST_METRICS)] or [()]
        if first or params or tags:
            self.client.log_batch(run_id, metrics=first, params=params[:MOST_PARAMS], tags=tags)
        for at in range(MOST_PARAMS, len(params), MOST_PARAMS):
            self.client.log_batch(run_id, params=params[at : at + MOST_PARAMS])
        for more in others:
            self.client.log_batch(run_id, metrics=more)
        self.known.add(label)

    def _tags(self, label: str, kind: str, algorithm: str) -> dict[str, str]:
        study = self.study
        return {
            "kind": kind,
            "label": label,
            "study": self.folder.name,
            "study_id": study["id"],
            "algorithm": algorithm,
            "benchmark": study["config"]["benchmark"],
            "scenario": study["config"]["scenario"],
            "seeds": format_setting(study["seeds"]),
            "protocol": study["protocol"],
            "state": "running",
            "code_version": code_version(),
        }

    def _end_run(self, label: str, state: str, reason: str = "") -> None:
        self.client.log_batch(self.ids[label], tags=end_tags(state, reason))
        self._terminate(label, state)

    def _terminate(self, label: str, state: str) -> None:
        self.client.set_terminated(self.ids[label], MLFLOW_STATES[state])
        self.states[label] = state

    def _log(self, run_id: str, values: dict[str, float], step: int, when: int) -> None:
        self.client.log_batch(run_id, metrics=[Metric(name, value, when, step) for name, value in values.items()])


def end_tags(state: str, reason: str) -> list[RunTag]:
    """Return the tags of a run that ended."""
    return [RunTag("state", state)] + ([RunTag("reason", reason[:4000])] if reason else [])


def new_store(path: Path) -> None:
    """Create a SQLite store. MLflow takes seconds, and an incomplete store cannot be opened again."""
    MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}")
