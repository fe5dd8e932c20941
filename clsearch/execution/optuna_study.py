"""Optuna's study of a plan, in its journal, and what chooses in it."""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.seeding import derive_seed
from clsearch.config.hyperparameters import Space
from clsearch.execution.pruners import pruner_of
from clsearch.planning.objectives import direction
from clsearch.planning.plan import Plan
from clsearch.planning.spaces import grid
from clsearch.records.study_file import JOURNAL

_ASKED = (OptunaState.RUNNING, OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)


def open_storage(plan: Plan) -> optuna.Study:
    """The Optuna study of a plan in its journal file, created where it is not there yet; a grid is queued there as a
    whole. Only for a process that holds the study (`resume.study_lock`).

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
        text = f"trials: must be at least {asked}, as many as the study has already; got {plan.trials}"
        raise ConfigError([Refusal("trials-begun", text)])
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
    derived = derive_seed(seed, 0, asked, "sampler") % 2**32
    match plan.options.sampler:
        case "tpe":
            with warnings.catch_warnings():  # multivariate is experimental before Optuna 5
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(seed=derived, constant_liar=True, multivariate=True)
        case "nsga2":  # at least two generations, whatever the budget
            return NSGAIISampler(population_size=min(50, max(4, plan.trials // 4)), seed=derived)
        case "qmc":  # one sequence, whose place Optuna keeps in its storage
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(derived))
            if asked and optuna.__version__ < "5":  # which draws at random until a first trial has its result
                sampler.infer_relative_search_space = lambda *_: distributions_of(plan.space)  # type: ignore[method-assign]
            return sampler
    return RandomSampler(seed=derived)
