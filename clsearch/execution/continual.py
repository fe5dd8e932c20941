"""The continual protocol (De Lange et al. 2021, "A continual learning survey", Algorithm 1): choose hyperparameters
task by task, on the current task's data only.

For each task: (1) plain finetuning from the current model chooses the best learning rate of a grid; A* is its
validation accuracy on the task. (2) The method learns the task at that rate with its factor at the top of the range. An
accuracy >= 0.8 A* is accepted, else the factor is halved, at most 10 times; the last attempt is kept. All other
settings stay as configured, and each task starts at the top of the range. Accuracies are means over seeds: one decision
holds for all seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
import torch

from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data
from clsearch.execution.ray_tasks import fetch, side_by_side, store_object
from clsearch.methods.registry import decaying
from clsearch.planning.plan import Plan
from clsearch.planning.protocols import HALVINGS
from clsearch.records.attempts import (
    METHOD_PHASE,
    MIN_ACCURACY_SHARE,
    RATE_PHASE,
    SCORE,
    Attempt,
    Decision,
    SavedProgress,
)
from clsearch.records.ranking import Choice
from clsearch.records.trials import now
from clsearch.training.evaluation import measure_accuracy
from clsearch.training.loop import DivergedError, remember_task, train_next_task
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import build_trial


def decide(
    plan: Plan,
    data: ray.ObjectRef,
    begun: SavedProgress | None = None,
    keep: Callable[[bytes], None] = lambda state: None,
) -> Iterator[Decision]:
    """Choose the hyperparameters of every task; yield the decision after each step.

    Args:
        plan: The study.
        data: A reference to the training data.
        begun: The progress of an earlier process.
        keep: Called with the packed state after each task, once the decision on that task has been yielded.
    """
    begun = begun or SavedProgress()
    decision, known = Decision(), begun.attempts
    state = None if begun.state is None else store_object(begun.state)
    if begun.tasks:
        decision = Decision(tuple(a for a in known if a.task <= begun.tasks))
        yield decision
    for task in plan.tasks[begun.tasks :]:
        own = {(a.phase, *a.values.items()): a for a in known if a.task == task}
        rates = _rates(plan, data, state, task, own)
        best = max(rates, key=lambda attempt: attempt.accuracy)
        decision = decision.with_attempts(*rates)
        if best.accuracies:
            decision = decision.with_kept(best)
        yield decision
        if not best.accuracies:
            yield replace(decision, reason=f"every learning rate diverged at task {task}")
            return
        for factors, last in _factors(plan):
            values, bar = best.values | factors, MIN_ACCURACY_SHARE * best.accuracy
            earlier = own.get((METHOD_PHASE, *values.items()))
            if earlier is not None and earlier.accuracy < bar and not last:
                decision = decision.with_attempts(earlier)
                continue
            found, after = _method(plan, data, state, task, values, bar, last)
            decision = decision.with_attempts(found)
            yield decision
            if found.accuracy >= MIN_ACCURACY_SHARE * best.accuracy:
                break
        if not found.accuracies:
            yield replace(decision, reason=f"the last factor tried diverged at task {task}")
            return
        decision, state = decision.with_kept(found), after
        yield decision
        keep(fetch(state))
    score = math.fsum(a.accuracy for a in decision.kept) / len(decision.kept)
    choice = Choice("continual", {}, {SCORE: score}, tuple(a.values for a in decision.kept))
    yield replace(decision, choice=choice, reason="")


def _factors(plan: Plan) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield the factors to try, strongest first, each with True if it is the last."""
    tops = {name: float(plan.space[name].ends[-1] or 0) for name in decaying() if name in plan.space}
    most = HALVINGS if tops else 0
    for halving in range(most + 1):
        yield {name: top / 2**halving for name, top in tops.items()}, halving == most


def _rates(
    plan: Plan, data: ray.ObjectRef, state: ray.ObjectRef | None, task: int, known: Mapping[Any, Attempt]
) -> list[Attempt]:
    """Finetune at each learning rate, side by side. known: attempts that are not repeated."""
    found = {
        rate: replace(a, kept=False) for rate in plan.rates if (a := known.get((RATE_PHASE, ("learning_rate", rate))))
    }
    rates = [rate for rate in plan.rates if rate not in found]
    jobs = [(plan.config, plan.seeds, data, state, {"learning_rate": r}, True, None) for r in rates]
    for index, (result, _) in side_by_side(plan, _attempt, jobs, returns=2):
        accuracies, seconds = fetch(result)
        values = {"learning_rate": rates[index]}
        found[rates[index]] = Attempt(task, RATE_PHASE, values, accuracies, None, len(plan.seeds), seconds, when=now())
    return [found[rate] for rate in plan.rates]


def _method(
    plan: Plan,
    data: ray.ObjectRef,
    state: ray.ObjectRef | None,
    task: int,
    values: dict[str, float],
    bar: float,
    last: bool,
) -> tuple[Attempt, ray.ObjectRef]:
    """Try the method with these hyperparameters; return the attempt and, if it is accepted, the state after it."""
    job = (plan.config, plan.seeds, data, state, values, False, -math.inf if last else bar)
    ((_, (result, after)),) = side_by_side(plan, _attempt, [job], returns=2)
    accuracies, seconds = fetch(result)
    return Attempt(task, METHOD_PHASE, values, accuracies, bar, len(plan.seeds), seconds, when=now()), after


def _attempt(
    device: torch.device,
    config: TrialConfig,
    seeds: tuple[int, ...],
    data: Data,
    before: bytes | None,
    values: Mapping[str, float],
    plain: bool,
    bar: float | None,
) -> tuple[tuple[tuple[float, ...], float], bytes | None]:
    """Learn the next task from a state, and measure the accuracy on that task's validation data alone (runs in a
    worker).

    Args:
        device: The worker's device.
        config: The configuration.
        seeds: One member is trained per seed.
        data: The training data.
        before: The packed state before the task; None for the first task.
        values: The hyperparameters to try.
        plain: Train without regularizers.
        bar: The mean accuracy from which the state is remembered; None: never.

    Returns:
        ((accuracy of each seed, empty if training diverged; seconds), the packed state with the task remembered or
        None).
    """
    began = time.perf_counter()
    trial = build_trial(config, seeds, device, data).with_hyperparameters(values)
    state = trial.initial_state() if before is None else TrialState.unpacked(before, trial.fingerprint, trial.device)
    if plain:
        trial = replace(trial, regularizers=())
        state = replace(state, curve=torch.empty(0, len(seeds), len(trial.columns)), epochs=state.epochs[:0])
    task = trial.benchmark.tasks[state.tasks_learned]
    try:
        trained = train_next_task(trial, state)
        answers = trial.benchmark.active_outputs(task.index, task.index)
        accuracies = tuple(measure_accuracy(trial, trained.params, answers, task.validation).tolist())
    except DivergedError:
        return ((), time.perf_counter() - began), None
    good = bar is not None and math.fsum(accuracies) / len(accuracies) >= bar
    after = remember_task(trial, trained).packed() if good else None
    return (accuracies, time.perf_counter() - began), after
