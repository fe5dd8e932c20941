"""Whether each searched hyperparameter acts: seen by training, before a search starts.

A search over a number that changes nothing looks like any other search. So the two ends of each range are trained on a
small part of the first two tasks, the others standing where its effect is largest, and must lead to other parameters.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch

from clsearch.core.benchmarks import miniature
from clsearch.core.config import ConfigError, TrialConfig
from clsearch.core.loop import DivergedError, learn_task
from clsearch.core.run import build_run
from clsearch.tuning.plan import Plan

SAMPLES = 512
"""Of each task; all where it has fewer."""

STEPS = 20
"""At least this many a task, and at least one epoch."""

MOST_STEPS = 2000
"""What seems not to act is trained again for as many steps as the study would take on these samples, up to this many:
some effects grow late (|d|^3 with a small learning rate).
"""

LEAST = 1e-4
"""An effect smaller than this share of what the task itself moves is none."""

SETTINGS = (("low", "middle", "high"), ("middle", "middle", "middle"), ("high", "middle", "low"))
"""Where the others stand, by their strong end (low, middle or high), tried in this order: at it, between, opposite."""


@dataclass(frozen=True)
class Outcome:
    """Two tasks, learned. params: all parameters after task 2. moved: how far task 2 moved them (Euclidean). penalty:
    the largest mean penalty of an epoch of it.
    """

    params: torch.Tensor
    moved: float
    penalty: float


def check_effect(plan: Plan) -> None:
    """Every searched hyperparameter acts. Raises ConfigError naming those that do not, and why that may be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks so small only wait for each other
    try:
        problems = inert(plan)
    finally:
        torch.set_num_threads(threads)
    if problems:
        raise ConfigError(problems)


def inert(plan: Plan) -> list[str]:
    """What is to be said of each searched hyperparameter that does not act."""
    trained: dict[tuple[float, ...], Outcome | None] = {}

    def outcome(values: dict[str, float], long: bool) -> Outcome | None:
        key = (*(values[name] for name in plan.space), float(long))
        if key not in trained:
            trained[key] = learned(plan, values, long)
        return trained[key]

    problems = []
    for name, values in plan.space.items():
        pairs = []
        for long, others in itertools.product((False, True), settings_of_others(plan, name)):
            pairs.append((outcome(others | {name: values.low}, long), outcome(others | {name: values.high}, long)))
            if effect(*pairs[-1]) >= LEAST:
                break
        else:
            problems.append(reason(plan, name, pairs))
    return problems


def settings_of_others(plan: Plan, name: str) -> list[dict[str, float]]:
    """Values of the other searched hyperparameters, those with the largest expected effect first; no setting twice."""
    found: list[dict[str, float]] = []
    for ends in SETTINGS:
        setting = {}
        for other, values in plan.space.items():
            extra = TrialConfig.model_fields[other].json_schema_extra
            assert isinstance(extra, dict)
            end = ends[("low", "middle", "high").index(str(extra["strong"]))]
            setting[other] = dict(zip(("low", "middle", "high"), values.points(3), strict=True))[end]
        del setting[name]
        if setting not in found:
            found.append(setting)
    return found


def learned(plan: Plan, values: dict[str, float], long: bool = False) -> Outcome | None:
    """Train a small part of the first two tasks with these hyperparameters on the CPU; None where it diverges."""
    config = plan.trial_config(values)
    run = build_run(config, plan.seeds[:1])
    benchmark = miniature(run.benchmark, 2, SAMPLES)
    epoch = math.ceil(max(max(task.train.sizes) for task in benchmark.tasks) / config.batch_size)
    steps = max(STEPS, epoch)
    if long:
        steps = max(steps, min(MOST_STEPS, config.iterations or (config.epochs or 0) * epoch))
    short = plan.trial_config(values | {"iterations": steps, "epochs": None})
    run = replace(run, config=short, benchmark=benchmark)
    try:
        first = learn_task(run, run.initial_state())
        second = learn_task(run, first)
    except DivergedError:
        return None
    before, after = (
        torch.cat([value.flatten().double() for value in state.params.values()]) for state in (first, second)
    )
    penalties = second.curve[second.epochs[:, 0] == 2, 0, run.columns.index("penalty")]
    return Outcome(after, (after - before).norm().item(), penalties.max().item())


def effect(low: Outcome | None, high: Outcome | None) -> float:
    """How far apart two outcomes are, as a share of what task 2 moved; infinite where one alone diverged, and 0 where
    both did or nothing moved, which shows nothing.
    """
    if low is None or high is None:
        return 0.0 if low is high else math.inf
    apart, moved = (high.params - low.params).norm().item(), max(low.moved, high.moved)
    return apart / moved if moved else 0.0


def reason(plan: Plan, name: str, pairs: list[tuple[Outcome | None, Outcome | None]]) -> str:
    """What is said of a hyperparameter that does not act."""
    values = plan.space[name]
    rule = f"{name}: must act: the parameters after task 2 must differ between the ends of its range"
    got = f"got {values.low:g} to {values.high:g}"
    shown = [(low, high) for low, high in pairs if low is not None and high is not None]
    if not shown:
        return f"{rule}; {got}, and training diverged at both. Try a smaller learning rate or range"
    outcomes = [outcome for pair in shown for outcome in pair]
    penalty, moved = max(o.penalty for o in outcomes), max(o.moved for o in outcomes)
    if name == "learning_rate" or moved < LEAST:
        why = f"task 2 moved the parameters by {moved:.1g} at most; search larger learning rates, or give a larger one"
    elif penalty == 0:
        why = (
            "the penalty stayed 0, as it does where what is remembered of task 1 is 0 (a Fisher information that "
            "vanishes in single precision, or a learning rate so large that no gradient is left)"
        )
    else:
        why = f"the penalties together reached {penalty:.2g} at most; search another range"
    largest = max(effect(low, high) for low, high in shown)
    return f"{rule} (by {LEAST:g} of what the task moves); {got}, which differ by {largest:.1g}: {why}"
