"""The runs of a study in MLflow: a parent, and a child per trial, reference and finally evaluated configuration.

Runs are found again by their tags `study_id` and `label`, and everything is sent with its original time, so that
sending it twice changes nothing. Metrics have step = tasks learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from clsearch.common.checked_files import DamagedFile
from clsearch.common.files import create_once
from clsearch.metrics import over_seeds
from clsearch.records.attempts import Decision, attempt_metrics
from clsearch.records.evaluation import PARTS, FinalEvaluation, evaluation_json
from clsearch.records.json_types import BestJson, StudyJson
from clsearch.records.study_file import FINAL, finite, show_range
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import TrialRecord, now, with_curve
from clsearch.records.writer import code_version
from clsearch.reporting.trial_names import format_run_name, format_setting, log_parameters, make_run_label
from clsearch.tracking.run_metrics import (
    choice_metrics,
    evaluation_run_name,
    finite_only,
    interval_ends,
    interval_means,
    task_time,
)
from clsearch.tracking.stores import STORE, default_store
from clsearch.tracking.ui import COMPARED, VIEW_TAG, base_of, comparison_page, trials_page, view_name, view_of

ARTIFACTS = "mlartifacts"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the user interface open on training runs, not on traces of language models."""
MLFLOW_STATES = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "unfinished": "KILLED"}
NOTE = "mlflow.note.content"
"""The tag that the user interface shows as a description, in Markdown."""
PARENT = "study"
"""The parent's label."""


class Runs:
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
        self.ids: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.known: set[str] = set()
        self.live: set[str] = set()
        self.sent: dict[str, int] = {}
        self.damaged: list[DamagedFile] = []

    def connect(self) -> None:
        """Find or create the study's experiment, and find its runs."""
        if self.uri == default_store(self.folder):
            create_once(self.folder.parent / STORE, lambda path: path if path.exists() else None, new_store)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        name = self.folder.name
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment = (
            experiment.experiment_id
            if experiment is not None
            else self.client.create_experiment(name, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS)
        )
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
            token = found.token or None

    def begin(self) -> None:
        """Begin the study's own run."""
        study = self.study
        space = {f"space/{name}": show_range(values) for name, values in study["space"].items()}
        own = {name: study[name] for name in ("sampler", "algorithm", "protocol", "objectives", "seeds")}
        tags = {"trials": str(study["trials"])}
        self._run(PARENT, "study", study["algorithm"], self.folder.name, study["config"] | space | own, tags)
        self.client.set_experiment_tag(self.experiment, VIEW_TAG + view_name(study), view_of(study))

    def log_description(self, note: str) -> None:
        """Set the description, in Markdown, of the study's run and of the experiment."""
        self.client.set_tag(self.ids[PARENT], NOTE, note)
        self.client.set_experiment_tag(self.experiment, NOTE, note)

    def log_trial(self, record: TrialRecord) -> None:
        """Log a trial's record: the first call creates its run, a final state ends it."""
        label = make_run_label(record)
        if record.ended and label not in self.live and self.states.get(label) == record.state:
            return  # an earlier process sent everything
        record = with_curve(self.folder, record, self.damaged.append)
        kind, settings = "reference", record.settings
        if record.number is not None:
            kind, settings = "trial", settings | log_parameters(record.values, self.study["space"])
        run_id = self._child(label, kind, record.algorithm, format_run_name(record), settings, record.seeds)
        for step in range(self.sent.get(label, 0) + 1, record.tasks_learned + 1):
            values = record.metrics if step == record.tasks_learned else metrics_after(record, step)
            self._log(run_id, values, step, task_time(record, step))
        self.sent[label] = record.tasks_learned
        if record.state in MLFLOW_STATES:
            self._log(run_id, {"seconds": record.seconds}, 0, task_time(record, record.tasks_learned))
            if record.tasks_learned:
                R = np.array(record.accuracy, dtype=float)
                self._matrix(run_id, R, record.seeds, "accuracy_matrix", "Validation")
            if record.unlearning:
                self.client.log_dict(
                    run_id, finite({"seeds": list(record.seeds)} | record.unlearning), "unlearning.json"
                )
            self._end_run(label, record.state, record.reason)

    def log_added_metric(self, record: TrialRecord, name: str) -> None:
        """Log a metric, and its spread, that was added to an ended trial."""
        added = {key: value for key, value in record.metrics.items() if key.partition("/")[0] == name}
        self._log(
            self.ids[make_run_label(record)], added, record.tasks_learned, task_time(record, record.tasks_learned)
        )

    def log_decision(self, decision: Decision) -> None:
        """Log the continual protocol's choice for each task so far."""
        study, kept = self.study, decision.kept
        fixed = {name: value for name, value in study["config"].items() if name not in kept[-1].values}
        run_id = self._child("continual", "trial", study["algorithm"], "continual", fixed, study["seeds"])
        for attempt in kept[self.sent.get("continual", 0) :]:
            self._log(run_id, attempt_metrics(attempt, decision), attempt.task, attempt.when)
        self.sent["continual"] = len(kept)
        if kept[-1].task == study["tasks"][-1]:
            self._end_run("continual", "finished")

    def log_choice(self, content: BestJson, when: int) -> None:
        """Log best.json with the study's run, as a file and as metrics."""
        self._log(self.ids[PARENT], finite_only(choice_metrics(content)), len(self.study["tasks"]), when)
        self.client.log_dict(self.ids[PARENT], finite(content), "best.json")

    def log_openings(self, openings: tuple[Opening, ...]) -> None:
        """Tag the study's run with the times of openings of test data and the number of earlier openings."""
        tags = {
            "test_opened": " ".join(opening.when for opening in openings),
            "test_openings_before": " ".join(str(opening.before) for opening in openings),
        }
        self.client.log_batch(self.ids[PARENT], tags=[RunTag(name, value) for name, value in tags.items()])

    def log_evaluation(self, final: FinalEvaluation) -> None:
        """Log the final evaluation: a run per configuration, and the choice's metrics with the study's run."""
        when = max((round(datetime.fromisoformat(o.when).timestamp() * 1000) for o in final.openings), default=now())
        for row in final.rows:
            shown = {name: value for name, value in row.settings.items() if not any(name in v for v in row.per_task)}
            label = f"final {row.configuration} on {row.on}, opened {when}"
            run_id = self._child(label, "final", row.algorithm, evaluation_run_name(row), shown, final.seeds)
            for learned in range(1, len(row.tasks) + 1):
                steps = {f"{p}/{n}": v for p in PARTS for n, v in over_seeds(row.per_seed(p, learned)).items()}
                self._log(run_id, finite_only(steps), learned, when)
            extra = {name: v for name, v in interval_means(final, row).items() if name.endswith("intransigence")}
            self._log(run_id, interval_ends(final, row) | extra, len(row.tasks), when)
            for part in () if row.reason else PARTS:
                R = getattr(row, part).numpy()
                self._matrix(run_id, R, final.seeds, f"accuracy_matrix_{part}", part.capitalize(), row.tasks)
            self._end_run(label, "failed" if row.reason else "finished", row.reason)
        if final.reported is not None:
            reported = interval_means(final, final.reported) | interval_ends(final, final.reported)
            reported |= finite_only({f"optimism/{o.metric}": o.against_validation for o in final.optimism})
            self._log(self.ids[PARENT], reported, len(final.reported.tasks), when)
        self.client.log_dict(self.ids[PARENT], finite(evaluation_json(final)), FINAL)

    def log_report(self, path: Path) -> None:
        """Log the report with the study's run."""
        self.client.log_artifact(self.ids[PARENT], str(path))

    def pages(self, ranked: Sequence[TrialRecord]) -> dict[str, str]:
        """Return addresses of pages that show the study's trials and, if there are two or more, compare the best ones.

        Args:
            ranked: The finished trials, the best first.
        """
        base = base_of(self.uri)
        if base is None or PARENT not in self.ids:
            return {}
        found = {"Trials": trials_page(base, self.experiment, view_name(self.study))}
        if (
            len(
                own := [
                    self.ids[label] for record in ranked[:COMPARED] if (label := make_run_label(record)) in self.ids
                ]
            )
            > 1
        ):
            found["Compare"] = comparison_page(base, self.experiment, own)
        return found

    def end(self, state: str) -> None:
        """End the study's run with its final state."""
        if "continual" in self.ids and self.states.get("continual") != "finished":  # interrupted, or without a choice
            self._end_run("continual", state)
        self._end_run(PARENT, state)
        self.find()

    def _child(
        self, label: str, kind: str, algorithm: str, name: str, params: dict[str, Any], seeds: Sequence[int]
    ) -> str:
        """Begin or resume a run below the study's."""
        tags = {
            "mlflow.parentRunId": self.ids[PARENT],
            "seeds": format_setting(seeds),
            "benchmark": params["benchmark"],
        }
        return self._run(
            label, kind, algorithm, name, params | {"algorithm": algorithm, "seeds": format_setting(seeds)}, tags
        )

    def _run(
        self, label: str, kind: str, algorithm: str, name: str, params: dict[str, Any], own: dict[str, str]
    ) -> str:
        """Begin the run of a label, or resume the run of an earlier process; return its id."""
        if label in self.live:
            return self.ids[label]
        tags = self._tags(label, kind, algorithm) | own
        if label in self.ids:
            self.client.log_batch(self.ids[label], tags=[RunTag(key, value) for key, value in tags.items()])
            self.client.update_run(self.ids[label], status="RUNNING")
        else:
            self.ids[label] = self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id
        if label not in self.known:  # parameters cannot be changed
            self.client.log_batch(
                self.ids[label], params=[Param(key, format_setting(value)) for key, value in params.items()]
            )
        self.known.add(label)
        self.live.add(label)
        return self.ids[label]

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
        tags = [RunTag("state", state)] + ([RunTag("reason", reason[:4000])] if reason else [])
        self.client.log_batch(self.ids[label], tags=tags)
        self.client.set_terminated(self.ids[label], MLFLOW_STATES[state])
        self.states[label] = state

    def _matrix(
        self, run_id: str, R: np.ndarray, seeds: Sequence[int], name: str, of: str, tasks: Sequence[int] = ()
    ) -> None:
        """Log R [M, T+1, T] as numbers and as a figure. of: name of the data part."""
        self.client.log_dict(run_id, {"seeds": list(seeds), "accuracy": finite(R.tolist())}, f"{name}.json")
        from clsearch.reporting.figures import draw_accuracy_matrix

        self.client.log_figure(run_id, draw_accuracy_matrix(R, f"{of} accuracy (%)", tasks), f"{name}.png")

    def _log(self, run_id: str, values: dict[str, float], step: int, when: int) -> None:
        self.client.log_batch(run_id, metrics=[Metric(name, value, when, step) for name, value in values.items()])


def new_store(path: Path) -> None:
    """Create a SQLite store. MLflow takes seconds, and an incomplete store cannot be opened again."""
    MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}")
