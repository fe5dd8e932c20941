"""Optuna behind Ray Tune's Searcher. Optuna's storage is the record of the search; nothing is kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from clsearch.execution.messages import OUT_OF_MEMORY, results_in
from clsearch.execution.optuna_study import asked_of, distributions_of, sampler_for
from clsearch.methods.registry import fields_of
from clsearch.planning.objectives import chosen, sign
from clsearch.planning.plan import Plan

REASON = "reason"
"""Attribute of trials that diverged: why."""

T = TypeVar("T")


class Desk(Protocol):
    """Who watches a search."""

    def configure(self, asked: Mapping[str, dict[str, float]], algorithm: str | None) -> dict[str, Any]:
        """What Ray Tune runs for configurations (label -> searched values) that train together, or for a reference,
        which has an algorithm of its own.
        """

    def room(self) -> bool:
        """Whether one more may be suggested now."""

    def halt(self, error: OSError) -> None:
        """The search's record can't be written: end it, as it stands."""


class OptunaSearcher(Searcher):
    """Suggests the references first, then trials that were asked for and did not end, then new ones, up to the plan's
    number. Where the search moves a setting that a reference has, too (the learning rate), references come last and
    take the best trial's value: at any other they would be easy to beat.

    ended: labels of what an earlier process brought to its end -> the searched values that it had.
    """

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        desk: Desk,
        ended: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.study = study
        self.desk = desk
        self.halted = False
        self.distributions = distributions_of(plan.space)
        self.ended = ended or {}
        self.references = [name for name in plan.references if self._shared(name) or not self._is_done(name, {})]
        asked = asked_of(study)
        self.asked = len(asked)
        self.again = [trial for trial in asked if trial_label(trial.number) not in self.ended]
        self.labels: dict[str, list[str]] = {}
        self.open: dict[str, optuna.trial.Trial] = {}
        self.known: dict[str, FrozenTrial] = {}
        self.told = {trial.number: max(trial.intermediate_values, default=0) for trial in self.again}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        return self._kept(lambda: self._next(trial_id)) if self.desk.room() else None

    def _kept(self, step: Callable[[], T]) -> T | None:
        """A step that is written into Optuna's journal; nothing is, after one that could not be."""
        try:
            return None if self.halted else step()
        except OSError as error:
            self.halted = True
            self.desk.halt(error)
            return None

    def _next(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.references and not self._shared(self.references[0]):
            return self._reference(trial_id, self.references.pop(0), {})
        if self.again or self.asked < self.plan.trials:
            asked = dict(self._continued() if self.again else self._asked())
            self.labels[trial_id] = list(asked)
            return self.desk.configure(asked, None)
        return self._last(trial_id)

    def _asked(self) -> Iterator[tuple[str, dict[str, float]]]:
        """New trials that train together: label and searched values."""
        for _ in range(min(self.plan.cohort, self.plan.trials - self.asked)):
            self.study.sampler = sampler_for(self.plan, self.asked)
            trial = self.study.ask(fixed_distributions=self.distributions)
            self.asked += 1
            label = trial_label(trial.number)
            self.open[label] = trial
            yield label, trial.params

    def _continued(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Trials that an earlier process asked for. Where Optuna was told of the end of one, but its record was not
        written, it is not told again.
        """
        size = self.plan.cohort
        taken, self.again = self.again[:size], self.again[size:]
        for found in taken:
            label = trial_label(found.number)
            if found.state.is_finished():
                self.known[label] = found
                yield label, found.params
                continue
            trial = optuna.trial.Trial(self.study, found._trial_id)
            for name, values in self.plan.space.items():  # as suggested; new where the process died in between
                trial.suggest_float(name, values.low, values.high, log=values.log)
            self.open[label] = trial
            yield label, trial.params

    def _reference(self, trial_id: str, algorithm: str, values: dict[str, float]) -> dict[str, Any]:
        label = reference_label(algorithm)
        self.labels[trial_id] = [label]
        return self.desk.configure({label: values}, algorithm)

    def _is_done(self, reference: str, values: Mapping[str, float]) -> bool:
        """Whether a reference ended in an earlier process, with these values."""
        return self.ended.get(reference_label(reference)) == values

    def _shared(self, algorithm: str) -> list[str]:
        """The searched hyperparameters that a reference has, too."""
        return [name for name in self.plan.space if name in fields_of(algorithm)]

    def _last(self, trial_id: str) -> dict[str, Any] | str | None:
        """References that wait for the best trial; without a finished trial there is nothing to compare."""
        if self.references and self.open:
            return None
        finished = self.study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        if not self.references or not finished:
            return Searcher.FINISHED
        name = self.references.pop(0)
        signs = np.array([sign(name) for name in self.plan.objectives])
        best = finished[chosen(signs * np.array([trial.values for trial in finished]))]
        values = {key: best.params[key] for key in self._shared(name)}
        if self._is_done(name, values):
            return self._last(trial_id)
        return self._reference(trial_id, name, values)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether nothing is left of a trial of Ray Tune after the task that a result is of. Optuna is told of every
        configuration first, so those of a cohort are judged against each other, too; one that is stopped early is
        marked as done in the result.
        """
        if result.get("done"):
            return False
        labels = self.labels[trial_id]
        moved = results_in(result, labels)
        for label in [label for label, own in moved.items() if own.get("done")]:
            self._ended(label, moved[label])
        news = {label: self._note(label, own) for label, own in moved.items() if not own.get("done")}
        for label, is_new in news.items():
            if self._is_stopped(label, moved[label], is_new):
                moved[label]["done"] = True
                self._ended(label, moved[label], stopped=True)
        gone = [label for label, own in moved.items() if own.get("done")]
        labels[:] = [label for label in labels if label not in gone]
        return not labels

    def _is_stopped(self, label: str, result: dict[str, Any], is_new: bool) -> bool:
        if (known := self.known.get(label)) is not None:  # as it was decided
            last = max(known.intermediate_values, default=0)
            pruned = known.state is OptunaState.PRUNED and REASON not in known.user_attrs
            return pruned and result["tasks_learned"] >= last
        # Who was let go on is not asked about again, though others have come to the same task since.
        return is_new and bool(self._kept(self.open[label].should_prune))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        for label, own in results_in(result, self.labels.get(trial_id, [])).items():
            self._note(label, own)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Diverged trials are told as pruned, as those are that were stopped early: TPE avoids their region, and learns
        nothing from failed ones, as those are whose worker died or had too little memory.
        """
        labels = self.labels.pop(trial_id, [])
        told = results_in(result, labels) if result and labels and not error else {}
        for label in labels:
            self._ended(label, told.get(label))

    def _note(self, label: str, result: dict[str, Any]) -> bool:
        """Tell Optuna how a trial stands; gives whether that was news."""
        return label in self.open and bool(self._kept(lambda: self._report(self.open[label], result)))

    def _ended(self, label: str, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Tell Optuna how a trial ended; without a result it failed."""
        trial = self.open.pop(label, None)
        if trial is not None:
            self._kept(lambda: self._tell(trial, result, stopped))

    def _tell(self, trial: optuna.trial.Trial, result: dict[str, Any] | None, stopped: bool) -> None:
        if result is None or OUT_OF_MEMORY in result:
            self.study.tell(trial, state=OptunaState.FAIL)
            return
        self._report(trial, result)
        if "failed" in result:
            trial.set_user_attr(REASON, result["failed"])
        if "failed" in result or stopped:
            self.study.tell(trial, state=OptunaState.PRUNED)
        else:
            self.study.tell(trial, [result[name] for name in self.plan.objectives])

    def _report(self, trial: optuna.trial.Trial, result: dict[str, Any]) -> bool:
        """An intermediate value per learned task; gives whether there was one: the same task told again is no news, and
        Optuna takes none where there are several objectives.
        """
        learned, name = result["tasks_learned"], self.plan.objectives[0]
        if len(self.plan.objectives) > 1 or name not in result or learned <= self.told.get(trial.number, 0):
            return False
        trial.report(result[name], step=learned)
        self.told[trial.number] = learned
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: Optuna's storage already holds all of it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a fresh searcher on the same storage is the same searcher."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its Tuner for a restore that is never used; open files and handles stay here."""
        return {}


def trial_label(number: int) -> str:
    """Name of a trial in folders and runs."""
    return f"trial_{number:05d}"


def reference_label(algorithm: str) -> str:
    """Name of a reference in folders and runs."""
    return f"reference_{algorithm}"
