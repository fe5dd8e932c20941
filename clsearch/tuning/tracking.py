"""Results -> MLflow, live. Only the driver talks to MLflow, from one thread of its own, so that a slow server costs the
search nothing. results/ is the record; what MLflow misses can be written again.

Runs: a parent per study, a child per trial and reference. Metrics have step = tasks learned.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from clsearch.core.metrics import over_seeds
from clsearch.tuning.continual import Decision, metrics_of
from clsearch.tuning.display import without_password
from clsearch.tuning.figures import accuracy_matrix
from clsearch.tuning.final import PARTS, Final, Measured, content_of
from clsearch.tuning.openings import Opening
from clsearch.tuning.plan import Plan
from clsearch.tuning.records import TrialRecord, code_version, finite

STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open on training runs, not on traces of language models."""
MLFLOW_STATES = {"finished": "FINISHED", "failed": "FAILED", "unfinished": "KILLED"}


def default_store(plan: Plan) -> str:
    """URI of the SQLite store that studies in one results folder share."""
    return f"sqlite:///{plan.folder.parent / STORE}"


class Tracker:
    """Sends a study to MLflow from a thread. Errors end the sending, are told once, and never end the study.

    uri: the store; None for the study's own SQLite file. warn: called with a message at most once.
    """

    def __init__(self, plan: Plan, uri: str | None, warn: Callable[[str], None]) -> None:
        self.plan = plan
        self.uri = uri or default_store(plan)
        served = self.uri.startswith(("http:", "https:", "databricks"))
        self.artifacts = None if served else (plan.folder.parent / ARTIFACTS / plan.options.name).as_uri()
        self.warn = warn
        self.broken = False
        self.runs: dict[str, str] = {}
        self.sent: dict[str, int] = {}
        self.tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def begin(self) -> None:
        """Connect, create the experiment and the parent run (in the thread: a new SQLite store takes seconds)."""
        self.thread.start()
        self.tasks.put(self._begin)

    def update(self, record: TrialRecord) -> None:
        """Log a trial as it stands: its run is created at the first call and ended by a final state."""
        self.tasks.put(lambda: self._update(record))

    def add(self, record: TrialRecord, name: str) -> None:
        """Log a metric (and its spread) that an ended trial was given afterwards."""
        added = {key: value for key, value in record.metrics.items() if key.partition("/")[0] == name}
        self.tasks.put(lambda: self._log(self.runs[record.label], metrics=added, step=record.tasks_learned))

    def decided(self, decision: Decision) -> None:
        """Log what the continual protocol chose for the task that it decided last."""
        self.tasks.put(lambda: self._decided(decision))

    def concluded(self, content: dict[str, Any], metrics: dict[str, float]) -> None:
        """Log best.json, and the best trial's metrics, with the study."""
        self.tasks.put(lambda: self._concluded(content, metrics))

    def opened(self, openings: tuple[Opening, ...]) -> None:
        """Tag the study with when test data was opened, and how often it had been before."""
        self.tasks.put(lambda: self._opened(openings))

    def evaluated(self, final: Final) -> None:
        """Log the final evaluation: a run per configuration, the choice's test metrics with the study."""
        self.tasks.put(lambda: self._evaluated(final))

    def end(self, state: str) -> None:
        """End the study's run, and wait until everything is sent."""
        self.tasks.put(lambda: self._end(state))
        self.tasks.put(None)
        self.thread.join()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            if self.broken:
                continue
            try:
                task()
            except Exception as error:  # whatever a store may raise, the study goes on
                self.broken = True
                said = str(error).replace(self.uri, without_password(self.uri)).strip().partition("\n")[0][:200]
                self.warn(
                    f"MLflow stopped taking records ({type(error).__name__}: {said}); "
                    f"the study goes on and results/ stays complete"
                )

    def _begin(self) -> None:
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        plan, name = self.plan, self.plan.options.name
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment = (
            experiment.experiment_id
            if experiment is not None
            else self.client.create_experiment(name, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS)
        )
        tags = self._tags("study") | {"mlflow.note.content": plan.question}
        run = self.client.create_run(self.experiment, tags=tags, run_name=name)
        self.parent = run.info.run_id
        settings = {k: v for k, v in plan.config.flat().items() if k not in plan.space}
        space = {f"space/{n}": f"{r.low:g} to {r.high:g}{' (log)' if r.log else ''}" for n, r in plan.space.items()}
        own: dict[str, Any] = {"trials": plan.trials, "sampler": plan.options.sampler, "algorithm": plan.algorithm}
        own |= {"protocol": plan.protocol.value, "objectives": plan.objectives}
        self._log(self.parent, params=settings | space | own | {"seeds": text(plan.seeds)})

    def _tags(self, kind: str, algorithm: str | None = None) -> dict[str, str]:
        config = self.plan.config
        return {
            "kind": kind,
            "study": self.plan.options.name,
            "algorithm": algorithm or self.plan.algorithm,
            "benchmark": config.benchmark,
            "scenario": config.scenario.value,
            "seeds": " ".join(map(str, self.plan.seeds)),
            "protocol": self.plan.protocol.value,
            "state": "running",
            "code_version": code_version(),
        }

    def _update(self, record: TrialRecord) -> None:
        if record.label not in self.runs:
            kind = "trial" if record.number is not None else "reference"
            self.runs[record.label] = self._child(
                kind, record.algorithm, run_name(record), record.settings, record.seeds
            )
        run_id = self.runs[record.label]
        if record.tasks_learned > self.sent.get(record.label, 0):
            self._log(run_id, metrics=record.metrics, step=record.tasks_learned)
            self.sent[record.label] = record.tasks_learned
        if record.state in MLFLOW_STATES:
            self._finish(run_id, record)

    def _finish(self, run_id: str, record: TrialRecord) -> None:
        self._log(run_id, metrics={"seconds": record.seconds})
        if record.tasks_learned:
            content = {"seeds": list(record.seeds), "accuracy": finite(record.accuracy)}
            self.client.log_dict(run_id, content, "accuracy_matrix.json")
            self.client.log_figure(run_id, accuracy_matrix(record), "accuracy_matrix.png")
        self._done(run_id, record.state, record.reason)

    def _child(self, kind: str, algorithm: str, name: str, params: dict[str, Any], seeds: tuple[int, ...]) -> str:
        """A new run below the study's."""
        own = {"mlflow.parentRunId": self.parent, "seeds": text(seeds), "benchmark": params["benchmark"]}
        run = self.client.create_run(self.experiment, tags=self._tags(kind, algorithm) | own, run_name=name)
        self._log(run.info.run_id, params=params | {"algorithm": algorithm, "seeds": text(seeds)})
        return str(run.info.run_id)

    def _decided(self, decision: Decision) -> None:
        attempt, plan = decision.kept[-1], self.plan
        if "continual" not in self.runs:
            fixed = {name: value for name, value in plan.config.flat().items() if name not in attempt.values}
            self.runs["continual"] = self._child("trial", plan.algorithm, "continual", fixed, plan.seeds)
        self._log(self.runs["continual"], metrics=metrics_of(attempt, decision), step=attempt.task)
        if attempt.task == plan.tasks[-1]:
            self._done(self.runs.pop("continual"), "finished")

    def _concluded(self, content: dict[str, Any], metrics: dict[str, float]) -> None:
        self._log(self.parent, metrics=metrics, step=len(self.plan.tasks))
        self.client.log_dict(self.parent, finite(content), "best.json")

    def _evaluated(self, final: Final) -> None:
        for row in final.rows:
            shown = {name: value for name, value in row.settings.items() if not any(name in v for v in row.per_task)}
            name = f"final {row.configuration} on {row.on.replace('_', ' ')}"
            run_id = self._child("final", row.algorithm, name, shown, final.plan.report_seeds)
            for learned in range(1, len(row.tasks) + 1):
                steps = {f"{p}/{n}": v for p in PARTS for n, v in over_seeds(row.per_seed(p, learned)).items()}
                self._log(run_id, metrics=finite_only(steps), step=learned)
            extra = {name: v for name, v in means(final, row).items() if name.endswith("intransigence")}
            self._log(run_id, metrics=bounds(final, row) | extra, step=len(row.tasks))
            self._done(run_id, "failed" if row.reason else "finished", row.reason)
        if final.reported is not None:
            reported = means(final, final.reported) | bounds(final, final.reported)
            self._log(self.parent, metrics=reported, step=len(final.reported.tasks))
        self.client.log_dict(self.parent, finite(content_of(final)), "final.json")

    def _opened(self, openings: tuple[Opening, ...]) -> None:
        tags = {
            "test_opened": " ".join(opening.when for opening in openings),
            "test_openings_before": " ".join(str(opening.before) for opening in openings),
        }
        self.client.log_batch(self.parent, tags=[RunTag(name, value) for name, value in tags.items()])

    def _done(self, run_id: str, state: str, reason: str = "") -> None:
        tags = [RunTag("state", state)] + ([RunTag("reason", reason[:4000])] if reason else [])
        self.client.log_batch(run_id, tags=tags)
        self.client.set_terminated(run_id, MLFLOW_STATES[state])

    def _end(self, state: str) -> None:
        if "continual" in self.runs:  # cut off, or nothing could be chosen
            self._done(self.runs["continual"], state)
        self._done(self.parent, state)

    def _log(
        self,
        run_id: str,
        metrics: dict[str, float] | None = None,
        step: int = 0,
        params: dict[str, Any] | None = None,
    ) -> None:
        now = _now()
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, step) for name, value in (metrics or {}).items()],
            params=[Param(name, text(value)) for name, value in (params or {}).items()],
        )


def bounds(final: Final, row: Measured) -> dict[str, float]:
    """The ends of the intervals of a row's metrics on both parts, `<part>/<name>/low` and `/high`."""
    found: dict[str, float] = {}
    for part in PARTS:
        for name, i in final.intervals(row, part).items():
            found |= {f"{part}/{name}/low": i.low, f"{part}/{name}/high": i.high}
    return finite_only(found)


def means(final: Final, row: Measured) -> dict[str, float]:
    """A row's metrics on both parts, `<part>/<name>`: means over seeds."""
    return finite_only({f"{p}/{name}": i.mean for p in PARTS for name, i in final.intervals(row, p).items()})


def finite_only(values: dict[str, float]) -> dict[str, float]:
    """MLflow stores no infinity as it is, and NaN says nothing."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def run_name(record: TrialRecord) -> str:
    """A name that tells runs apart in a list: `#17 factor=0.8 temperature=2.1`."""
    if record.number is None:
        return record.label.replace("_", " ")
    return " ".join(
        [f"#{record.number}", *(f"{short(name, record.values)}={v:.3g}" for name, v in record.values.items())]
    )


def short(name: str, names: Iterable[str]) -> str:
    """A hyperparameter without the word that its algorithm's others begin with, too, if that tells it apart."""
    last = name.partition("_")[2] or name
    alike = [other for other in names if other.endswith(last)]
    return last if len(alike) == 1 else name


def text(value: Any) -> str:
    """A setting as MLflow shows it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _now() -> int:
    return int(time.time() * 1000)


def quiet() -> None:
    """MLflow's own chatter off."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.set(15)
