"""Optuna behind Ray Tune's Searcher. Optuna's storage is the record of the search; nothing is kept beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from clsearch.core.config import fields_of
from clsearch.core.seeding import seed_of
from clsearch.tuning.objectives import chosen, direction, sign
from clsearch.tuning.plan import Plan
from clsearch.tuning.spaces import Space, grid

JOURNAL = "optuna.journal"


def open_storage(plan: Plan) -> optuna.Study:
    """Create the Optuna study of a plan in its journal file; a grid is queued there as a whole."""
    optuna.logging.set_verbosity(optuna.logging.INFO if plan.options.verbose else optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(plan.folder / JOURNAL)))
    study = optuna.create_study(
        storage=storage, study_name=plan.options.name, directions=[direction(name) for name in plan.objectives]
    )
    if plan.options.sampler == "grid" and plan.space:
        # GridSampler raises at the last `tell` outside `optimize`; a queue gives the same points.
        for point in grid(plan.space, plan.options.grid_points):
            study.enqueue_trial(point)
    return study


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


class OptunaSearcher(Searcher):
    """Suggests the references first, then up to the plan's number of trials. Where the search moves a setting that a
    reference has, too (the learning rate), references come last and take the best trial's value: at any other they
    would be easy to beat.

    configure: (label, values, algorithm or None) -> config of a trial. room: whether one more may be suggested now.
    """

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        references: Iterable[str],
        configure: Callable[[str, dict[str, float], str | None], dict[str, Any]],
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.study = study
        self.configure = configure
        self.room = room
        self.distributions = distributions_of(plan.space)
        self.references = list(references)
        self.asked = len(study.get_trials(deepcopy=False, states=_ASKED))
        self.open: dict[str, optuna.trial.Trial] = {}
        self.told: dict[int, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if not self.room():
            return None
        if self.references and not self._shared(self.references[0]):
            name = self.references.pop(0)
            return self.configure(reference_label(name), {}, name)
        if self.asked >= self.plan.trials:
            return self._last()
        self.study.sampler = sampler_for(self.plan, self.asked)
        trial = self.study.ask(fixed_distributions=self.distributions)
        self.asked += 1
        self.open[trial_id] = trial
        return self.configure(trial_label(trial.number), trial.params, None)

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
        return self.configure(reference_label(name), values, name)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self.open:
            self._report(self.open[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Diverged trials are told as pruned: TPE avoids their region, and learns nothing from failed ones."""
        trial = self.open.pop(trial_id, None)
        if trial is None:
            return
        if error or result is None:
            self.study.tell(trial, state=OptunaState.FAIL)
            return
        self._report(trial, result)
        if "failed" in result:
            trial.set_user_attr("reason", result["failed"])
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
