"""The runs of a study in MLflow: a parent, and a child per trial, reference and finally evaluated configuration.

Runs are found again by their tags `study_id` and `label`, and everything is sent with its original time, so that
sending it twice changes nothing. Metrics have step = tasks learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric, Param, RunTag

from clsearch.config.spaces import SearchSpace
from clsearch.metrics import over_seeds
from clsearch.records.attempts import Decision, attempt_metrics
from clsearch.records.evaluation import PARTS, FinalEvaluation
from clsearch.records.evaluation_file import evaluation_json
from clsearch.records.json_types import BestJson
from clsearch.records.study_file import FINAL, finite, show_domain
from clsearch.records.test_ledger import Opening
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import TrialRecord, mark_feasible, now, with_curve
from clsearch.reporting.trial_names import format_run_name, format_setting, make_run_label, trial_parameters
from clsearch.tracking.artifact_places import local_path
from clsearch.tracking.run_metrics import (
    choice_metrics,
    choice_tags,
    evaluation_run_name,
    finite_only,
    interval_ends,
    interval_means,
    task_time,
)
from clsearch.tracking.run_store import MLFLOW_STATES, PARENT_TAG, RunStore, end_tags
from clsearch.tracking.stores import PLACE, default_store
from clsearch.tracking.ui import COMPARED, VIEW_TAG, base_of, comparison_page, trials_page, view_name, view_of

NOTE = "mlflow.note.content"
"""The tag that the user interface shows as a description, in Markdown."""
PARENT = "study"
"""The parent's label."""
MATRIX = "accuracy_matrix"


class Runs(RunStore):
    """What is sent of a study to its runs in MLflow. Errors of the store are raised."""

    def begin(self) -> None:
        """Begin the study's own run."""
        study = self.study
        space = {f"space/{name}": show_domain(values) for name, values in study["space"].items()}
        own = {name: study[name] for name in ("sampler", "algorithm", "protocol", "objectives", "seeds")}
        tags = {"trials": str(study["trials"])}
        if self.uri != default_store(self.folder):  # results folders can share it
            tags[PLACE] = str(self.folder.resolve())
        self._run(PARENT, "study", study["algorithm"], self.folder.name, study["config"] | space | own, tags)
        self.client.update_run(self.ids[PARENT], name=self.folder.name)  # the folder can have been renamed
        self._adopt()
        self.client.set_experiment_tag(self.experiment, VIEW_TAG + view_name(study["id"]), view_of(study))

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        return SearchSpace.from_json(self.study["space"])

    def _adopt(self) -> None:
        """Make all runs children of the study's run, which was created anew if somebody deleted it."""
        for label, parent in self.parents.items():
            if parent not in ("", self.ids[PARENT]):
                self.client.set_tag(self.ids[label], PARENT_TAG, self.ids[PARENT])
                self.parents[label] = self.ids[PARENT]

    def log_description(self, note: str) -> None:
        """Set the description, in Markdown, of the study's run and of the experiment."""
        self.client.set_tag(self.ids[PARENT], NOTE, note)
        self.client.set_experiment_tag(self.experiment, NOTE, note)

    def log_trial(self, record: TrialRecord) -> None:
        """Log a trial's record: the first call creates its run, a final state ends it."""
        label, ended = make_run_label(record), record.state in MLFLOW_STATES
        seeds = format_setting(record.seeds)
        joined = self.seeds.get(label, seeds) != seeds  # it got further seeds since it was sent
        unchanged = record.ended and label not in self.live and self.states.get(label) == record.state and not joined
        if unchanged and self._has_artifacts(label, record):
            return  # an earlier process sent everything
        record = with_curve(self.folder, record, self.damaged.append)
        kind, settings = "reference", record.settings
        if record.number is not None:
            kind, settings = "trial", trial_parameters(record, self.space)
        run_id, params = self._open_child(
            label, kind, record.algorithm, format_run_name(record), settings, record.seeds, record.origin
        )
        self.seeds[label] = seeds
        logged = [
            # Of two values at a step MLflow shows the later one.
            Metric(name, value, record.reported if joined else task_time(record, step), step)
            for step in range(1 if joined else self.sent.get(label, 0) + 1, record.tasks_learned + 1)
            for name, value in self._metrics_at(record, step).items()
        ]
        if ended:
            logged.append(Metric("seconds", record.seconds, task_time(record, record.tasks_learned), 0))
        tags = end_tags(record.state, record.reason) if ended else []
        tags += [RunTag("seeds", seeds)] if joined else []
        limits = self.study.get("constraints")
        if limits and record.state == "finished" and record.number is not None:
            tags.append(RunTag("feasible", mark_feasible(record, limits)))
        self._send(run_id, label, logged, params, tags)
        self.sent[label] = record.tasks_learned
        if ended:
            self._log_measurements(run_id, record)
            self._terminate(label, record.state)

    def _metrics_at(self, record: TrialRecord, step: int) -> dict[str, float]:
        return record.metrics if step == record.tasks_learned else metrics_after(record, step)

    def _log_measurements(self, run_id: str, record: TrialRecord) -> None:
        """Log the accuracy matrices of a trial, and what was measured of unlearning, as artifacts."""
        if record.tasks_learned:
            R = np.array(record.accuracy, dtype=float)
            self._matrix(run_id, R, record.seeds, MATRIX, "Validation")
        if record.unlearning:
            self.client.log_dict(run_id, finite({"seeds": list(record.seeds)} | record.unlearning), "unlearning.json")

    def _has_artifacts(self, label: str, record: TrialRecord) -> bool:
        """Return True unless the artifacts of a trial are missing: somebody deleted them, or left them behind."""
        if self.artifacts is None or not record.tasks_learned or not self.artifacts.startswith("file:"):
            return True
        return (local_path(self.artifacts) / self.ids[label] / "artifacts" / f"{MATRIX}.json").exists()

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
        if tags := [RunTag(name, value) for name, value in choice_tags(content, self.space).items()]:
            self.client.log_batch(self.ids[PARENT], tags=tags)
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
                R = getattr(row, part)
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
        found = {"Trials": trials_page(base, self.experiment, view_name(self.study["id"]))}
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
        """Begin or resume a run below the study's; return its id."""
        run_id, unsent = self._open_child(label, kind, algorithm, name, params, seeds)
        self._send(run_id, label, (), unsent)
        return run_id

    def _open_child(
        self,
        label: str,
        kind: str,
        algorithm: str,
        name: str,
        params: dict[str, Any],
        seeds: Sequence[int],
        origin: str = "",
    ) -> tuple[str, list[Param]]:
        """Begin or resume a run below the study's; return its id, and the parameters that are to be sent."""
        own = {PARENT_TAG: self.ids[PARENT], "seeds": format_setting(seeds), "benchmark": params["benchmark"]}
        own |= {"origin": origin} if origin else {}
        params = params | {"algorithm": algorithm, "seeds": format_setting(seeds)}
        return self._open(label, kind, algorithm, name, params, own)

    def _matrix(
        self, run_id: str, R: np.ndarray, seeds: Sequence[int], name: str, of: str, tasks: Sequence[int] = ()
    ) -> None:
        """Log R [M, T+1, T] as numbers and as a figure. of: name of the data part."""
        self.client.log_dict(run_id, {"seeds": list(seeds), "accuracy": finite(R.tolist())}, f"{name}.json")
        from clsearch.reporting.figures import draw_accuracy_matrix

        self.client.log_figure(run_id, draw_accuracy_matrix(R, f"{of} accuracy (%)", tasks), f"{name}.png")
