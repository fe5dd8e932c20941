"""What several tests of the driver's end build and read: reports of trials, metrics of flat results."""

from __future__ import annotations

from typing import Any

from clsearch.execution.messages import REPORTS, TrialReport
from clsearch.execution.searcher import OptunaSearcher

METRICS = (
    "average_",
    "learning_accuracy",
    "backward_",
    "forward_",
    "accuracy/",
    "forgetting/",
    "train/",
    "unlearning/",
)


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of a flat result, without what Ray Tune adds to it."""
    return {name: value for name, value in result.items() if name.startswith(METRICS)}


def report_of(
    label: str, learned: int, score: float | None = None, forgetting: float | None = None, **more: Any
) -> TrialReport:
    """A report whose metrics are given, so that no matrix has to be made up for them."""
    report = TrialReport(label, tasks_learned=learned, **more)
    given = {"average_accuracy": score, "average_forgetting": forgetting}
    vars(report)["metrics"] = {name: value for name, value in given.items() if value is not None}
    return report


def result_of(*reports: TrialReport, done: bool = False) -> dict[str, Any]:
    """What Ray Tune hands on after a step."""
    return {REPORTS: list(reports), "done": done}


class FlatSearcher(OptunaSearcher):
    """A searcher whose tests say what a trial reports as a flat dict, without its label: it has one configuration."""

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        return super().should_stop(trial_id, self._labelled(trial_id, result))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        super().on_trial_result(trial_id, self._labelled(trial_id, result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result and self._labelled(trial_id, result), error)

    def _labelled(self, trial_id: str, result: dict[str, Any]) -> dict[str, Any]:
        (label,) = self.labels.get(trial_id) or ["ended before"]
        given, done = dict(result), result.get("done", False)
        score, forgetting = given.pop("average_accuracy", None), given.pop("average_forgetting", None)
        return result_of(report_of(label, given.pop("tasks_learned"), score, forgetting, **given), done=done)
