"""Optuna's study of a plan, in its journal, with its sampler."""

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
    """Open the Optuna study of a plan in its journal file, or create it and queue the whole grid if there is one.

    The process must hold the study (`resume.study_lock`).

    Raises:
        ConfigError: The study has asked for more trials than the plan has.
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
        text = f"trials: must be at least {asked}, the number of trials that the study already has; got {plan.trials}"
        raise ConfigError([Refusal("trials-begun", text)])
    return study


def mend(journal: Path) -> None:
    """Repair what a killed process can leave: a lock, which blocks every write, and an incomplete last line."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if journal.exists():
        with journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def asked_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were asked for, in any state, without the queue of a grid."""
    return study.get_trials(deepcopy=False, states=_ASKED)


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Convert a space to Optuna's distributions."""
    return {name: FloatDistribution(r.low, r.high, log=r.log) for name, r in space.items()}


def sampler_for(plan: Plan, asked: int) -> BaseSampler:
    """Make the sampler for the next suggestion.

    Its seed is derived from the number of trials asked so far, because a fixed seed would repeat the first suggestions
    after a reload.
    """
    seed = plan.options.sampler_seed
    derived = derive_seed(seed, 0, asked, "sampler") % 2**32
    match plan.options.sampler:
        case "tpe":
            with warnings.catch_warnings():  # multivariate is experimental before Optuna 5
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(seed=derived, constant_liar=True, multivariate=True)
        case "nsga2":  # at least two generations for any budget
            return NSGAIISampler(population_size=min(50, max(4, plan.trials // 4)), seed=derived)
        case "qmc":  # one sequence; Optuna keeps the position in its storage
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(derived))
            if asked and optuna.__version__ < "5":  # older versions draw at random until a first trial has its result
                sampler.infer_relative_search_space = lambda *_: distributions_of(plan.space)  # type: ignore[method-assign]
            return sampler
    return RandomSampler(seed=derived)
