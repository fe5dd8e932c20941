"""Optuna behind Ray Tune's Searcher. Optuna's storage is the record of the search; nothing is kept beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from clsearch.core.config import ConfigError, fields_of
from clsearch.core.seeding import seed_of
from clsearch.tuning.objectives import chosen, direction, sign
from clsearch.tuning.plan import Plan
from clsearch.tuning.pruning import pruner_of
from clsearch.tuning.spaces import Space, grid
from clsearch.tuning.trainable import OUT_OF_MEMORY

JOURNAL = "optuna.journal"

REASON = "reason"
"""Attribute of trials that diverged: why."""

T = TypeVar("T")


def open_storage(plan: Plan) -> optuna.Study:
    """The Optuna study of a plan in its journal file, created where it is not there yet; a grid is queued there as a
    whole. Only for a process that holds the study (`resume.claimed`).

    Raises ConfigError where more trials were asked for than the plan has.
    """
    optuna.logging.set_verbosity(optuna.logging.INFO if plan.options.verbose else optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    mend(plan.folder / JOURNAL)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(plan.folder / JOURNAL))),
        study_name=plan.options.name,
        directions=[direction(name) for name in plan.objectives],
        pruner=pruner_of(plan),
        load_if_exists=True,
    )
    if plan.options.sampler == "grid" and plan.space:
        # GridSampler raises at the last `tell` outside `optimize`; a queue gives the same points.
        queued = len(study.get_trials(deepcopy=False))
        for point in islice(grid(plan.space, plan.options.grid_points), queued, None):
            study.enqueue_trial(point)
    asked = len(asked_of(study))
    if asked > plan.trials:
        raise ConfigError([f"trials: must be at least {asked}, as many as the study has already; got {plan.trials}"])
    return study


def mend(journal: Path) -> None:
    """Undo what a killed process may leave: its lock, for which every write would wait, and a line half written."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if journal.exists():
        with journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def asked_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were asked for, whatever became of them; a grid's queue is not."""
    return study.get_trials(deepcopy=False, states=_ASKED)


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """A space in Optuna's words."""
    return {name: FloatDistribution(r.low, r.high, log=r.log) for name, r in space.items()}


def sampler_for(plan: Plan, asked: int) -> BaseSampler:
    """The sampler for the next suggestion. Its seed is derived from the number of trials asked so far, because a
    fixed one would repeat its first suggestions after a reload.
    """
    seed = plan.options.sampler_seed
    derived = seed_of(seed, 0, asked, "sampler") % 2**32
    match plan.options.sampler:
        case "tpe":
            return TPESampler(seed=derived, constant_liar=True, multivariate=True)
        case "nsga2":  # at least two generations, whatever the budget
            return NSGAIISampler(population_size=min(50, max(4, plan.trials // 4)), seed=derived)
        case "qmc":  # one sequence, whose place Optuna keeps in its storage
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(derived))
    return RandomSampler(seed=derived)


class Desk(Protocol):
    """Who watches a search."""

    def configure(self, label: str, values: dict[str, float], algorithm: str | None) -> dict[str, Any]:
        """The config of a trial that begins, or of a reference, which has an algorithm of its own."""

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
        self.open: dict[str, optuna.trial.Trial] = {}
        self.stopped: set[str] = set()
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
            name = self.references.pop(0)
            return self.desk.configure(reference_label(name), {}, name)
        if self.again:
            return self._continued(trial_id, self.again.pop(0))
        if self.asked >= self.plan.trials:
            return self._last()
        self.study.sampler = sampler_for(self.plan, self.asked)
        trial = self.study.ask(fixed_distributions=self.distributions)
        self.asked += 1
        self.open[trial_id] = trial
        return self.desk.configure(trial_label(trial.number), trial.params, None)

    def _continued(self, trial_id: str, found: FrozenTrial) -> dict[str, Any]:
        """A trial that an earlier process asked for. Where Optuna was told of its end, but its record was not written,
        it is not told again.
        """
        if found.state.is_finished():
            self.known[trial_id] = found
            return self.desk.configure(trial_label(found.number), found.params, None)
        trial = optuna.trial.Trial(self.study, found._trial_id)
        for name, values in self.plan.space.items():  # as they were suggested; new where the process died in between
            trial.suggest_float(name, values.low, values.high, log=values.log)
        self.open[trial_id] = trial
        return self.desk.configure(trial_label(found.number), trial.params, None)

    def _is_done(self, reference: str, values: Mapping[str, float]) -> bool:
        """Whether a reference ended in an earlier process, with these values."""
        return self.ended.get(reference_label(reference)) == values

    def _shared(self, algorithm: str) -> list[str]:
        """The searched hyperparameters that a reference has, too."""
        return [name for name in self.plan.space if name in fields_of(algorithm)]

    def _last(self) -> dict[str, Any] | str | None:
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
            return self._last()
        return self.desk.configure(reference_label(name), values, name)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial is to be stopped early, after the task that a result is of; Optuna is told of that first."""
        if result.get("done"):
            return False
        if (known := self.known.get(trial_id)) is not None:  # as it was decided
            last = max(known.intermediate_values, default=0)
            pruned = known.state is OptunaState.PRUNED and REASON not in known.user_attrs
            return pruned and result["tasks_learned"] >= last
        if trial_id not in self.open or len(self.plan.objectives) > 1:
            return False
        self.on_trial_result(trial_id, result)
        if self._kept(self.open[trial_id].should_prune):
            self.stopped.add(trial_id)
        return trial_id in self.stopped

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self.open:
            self._kept(lambda: self._report(self.open[trial_id], result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Diverged trials are told as pruned, as those are that were stopped early: TPE avoids their region, and learns
        nothing from failed ones, as those are whose worker died or had too little memory.
        """
        trial = self.open.pop(trial_id, None)
        if trial is not None:
            self._kept(lambda: self._tell(trial, result, error, trial_id in self.stopped))

    def _tell(self, trial: optuna.trial.Trial, result: dict[str, Any] | None, error: bool, stopped: bool) -> None:
        if error or result is None or OUT_OF_MEMORY in result:
            self.study.tell(trial, state=OptunaState.FAIL)
            return
        self._report(trial, result)
        if "failed" in result:
            trial.set_user_attr(REASON, result["failed"])
        if "failed" in result or stopped:
            self.study.tell(trial, state=OptunaState.PRUNED)
        else:
            self.study.tell(trial, [result[name] for name in self.plan.objectives])

    def _report(self, trial: optuna.trial.Trial, result: dict[str, Any]) -> None:
        """An intermediate value per learned task; the same task told again is no news. Optuna takes none where there
        are several objectives.
        """
        learned, name = result["tasks_learned"], self.plan.objectives[0]
        if len(self.plan.objectives) == 1 and name in result and learned > self.told.get(trial.number, 0):
            trial.report(result[name], step=learned)
            self.told[trial.number] = learned

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: Optuna's storage already holds all of it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a fresh searcher on the same storage is the same searcher."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its Tuner for a restore that is never used; open files and handles stay here."""
        return {}


_ASKED = (OptunaState.RUNNING, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)


def trial_label(number: int) -> str:
    """Name of a trial in folders and runs."""
    return f"trial_{number:05d}"


def reference_label(algorithm: str) -> str:
    """Name of a reference in folders and runs."""
    return f"reference_{algorithm}"
