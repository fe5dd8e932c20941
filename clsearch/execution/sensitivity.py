"""Whether each searched hyperparameter acts: seen by training, before a search starts.

A search over a number that changes nothing looks like any other search. So the two ends of each range are trained on a
small part of the first two tasks, the others standing where its effect is largest, and must lead to other parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from clsearch.common.errors import ConfigError, Refusal
from clsearch.data.datasets import Data
from clsearch.execution.resources import is_out_of_memory
from clsearch.methods.registry import method_named
from clsearch.planning.plan import Plan
from clsearch.tasks.benchmark import shrink
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial

SAMPLES_PER_TASK = 512
"""Of each task; all where it has fewer."""

MIN_STEPS = 20
"""At least this many a task, and at least one epoch."""

MAX_STEPS = {"mlp": 2000, "other": 200}
"""What seems not to act is trained again for as many steps as the study would take on these samples, up to this many:
some effects grow late (|d|^3 with a small learning rate). Convolutions cost a hundred times as much a step.
"""

MIN_RELATIVE_EFFECT = 1e-4
"""An effect smaller than this share of what the task itself moves is none."""

OTHERS_AT = (("low", "middle", "high"), ("middle", "middle", "middle"), ("high", "middle", "low"))
"""Where the others stand, by their strong end (low, middle or high), tried in this order: at it, between, opposite."""


@dataclass(frozen=True)
class TwoTaskOutcome:
    """Two tasks, learned. params: all parameters after task 2. moved: how far task 2 moved them (Euclidean). penalty:
    the largest mean penalty of an epoch of it.
    """

    params: torch.Tensor
    moved: float
    penalty: float


def check_sensitivity(plan: Plan, data: Data, say: Callable[[str], None] = lambda name: None) -> None:
    """Every searched hyperparameter acts. Raises ConfigError naming those that do not, and why that may be.

    say: told the name of each before its turn.
    """
    threads = torch.get_num_threads()
    if plan.config.backbone == "mlp":  # whose threads only wait for each other
        torch.set_num_threads(1)
    try:
        problems = find_insensitive(plan, data, say)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = (
            f"batch_size: a trial on one seed must fit into this machine's memory; got {plan.config.batch_size}, with "
            f"which it does not. Take a smaller one, or a smaller network"
        )
        problems = [Refusal("trial-fits-memory", text)]
    finally:
        torch.set_num_threads(threads)
    if problems:
        raise ConfigError(problems)


def find_insensitive(plan: Plan, data: Data, say: Callable[[str], None] = lambda name: None) -> list[Refusal]:
    """What is to be said of each searched hyperparameter that does not act."""
    probe = SensitivityProbe(plan, data)
    problems = []
    for name, values in plan.space.items():
        say(name)
        pairs = []
        for long, others in itertools.product((False, True), other_values(plan, name)):
            low, high = (probe.outcome(others | {name: end}, long) for end in (values.low, values.high))
            pairs.append((low, high))
            if sensitivity(low, high) >= MIN_RELATIVE_EFFECT:
                break
        else:
            problems.append(Refusal("hyperparameter-acts", explain_insensitivity(plan, name, pairs)))
    return problems


def other_values(plan: Plan, name: str) -> list[dict[str, float]]:
    """Values of the other searched hyperparameters, those with the largest expected effect first; no setting twice."""
    found: list[dict[str, float]] = []
    known = method_named(plan.algorithm).hyperparameters
    for ends in OTHERS_AT:
        setting = {}
        for other, values in plan.space.items():
            end = ends[("low", "middle", "high").index(known[other].strongest)]
            setting[other] = dict(zip(("low", "middle", "high"), values.points(3), strict=True))[end]
        del setting[name]
        if setting not in found:
            found.append(setting)
    return found


class SensitivityProbe:
    """Trains a small part of the first two tasks, each setting once, on the trials' device where this machine has it.

    Task 1 is trained once for all settings with the same learning rate: no other searched hyperparameter acts in it.
    """

    def __init__(self, plan: Plan, data: Data) -> None:
        self.plan = plan
        self.data = data
        self.device = plan.device if torch.cuda.is_available() else "cpu"
        self.firsts: dict[tuple[float, bool], TrialState | None] = {}
        self.outcomes: dict[tuple[float | bool, ...], TwoTaskOutcome | None] = {}

    def outcome(self, values: dict[str, float], long: bool) -> TwoTaskOutcome | None:
        """Two tasks with these hyperparameters; None where training diverges. long: for the study's own length."""
        key = (*(values[name] for name in self.plan.space), long)
        if key not in self.outcomes:
            self.outcomes[key] = self._trained(values, long)
        return self.outcomes[key]

    def _trained(self, values: dict[str, float], long: bool) -> TwoTaskOutcome | None:
        trial = self._run(values, long)
        key = (trial.config.learning_rate, long)
        if key not in self.firsts:
            self.firsts[key] = _learned(trial, trial.initial_state())
        first = self.firsts[key]
        second = None if first is None else _learned(trial, first)
        if first is None or second is None:
            return None
        before, after = (
            torch.cat([value.flatten().double() for value in state.params.values()]) for state in (first, second)
        )
        penalties = second.curve[second.epochs[:, 0] == 2, 0, trial.columns.index("penalty")]
        return TwoTaskOutcome(after, (after - before).norm().item(), penalties.max().item())

    def _run(self, values: dict[str, float], long: bool) -> TrialSetup:
        still = {"unlearn": ()}  # a request would take away what a value did
        whole = self.plan.trial_config(values | still)
        trial = build_trial(whole, self.plan.seeds[:1], self.device, self.data, self.plan.tasks)
        config, benchmark = trial.config, shrink(trial.benchmark, 2, SAMPLES_PER_TASK)
        epoch = math.ceil(max(max(task.train.sizes) for task in benchmark.tasks) / config.batch_size)
        steps = max(MIN_STEPS, epoch)
        if long:
            most = MAX_STEPS["mlp" if config.backbone == "mlp" else "other"]
            steps = max(steps, min(most, config.iterations or (config.epochs or 0) * epoch))
        short = self.plan.trial_config(values | still | {"iterations": steps, "epochs": None})
        return replace(trial, config=short, benchmark=benchmark)


def _learned(trial: TrialSetup, state: TrialState) -> TrialState | None:
    try:
        return learn_task(trial, state)
    except DivergedError:
        return None


def sensitivity(low: TwoTaskOutcome | None, high: TwoTaskOutcome | None) -> float:
    """How far apart two outcomes are, as a share of what task 2 moved; infinite where one alone diverged, and 0 where
    both did or nothing moved, which shows nothing.
    """
    if low is None or high is None:
        return 0.0 if low is high else math.inf
    apart, moved = (high.params - low.params).norm().item(), max(low.moved, high.moved)
    return apart / moved if moved else 0.0


def explain_insensitivity(
    plan: Plan, name: str, pairs: list[tuple[TwoTaskOutcome | None, TwoTaskOutcome | None]]
) -> str:
    """What is said of a hyperparameter that does not act."""
    values = plan.space[name]
    rule = f"{name}: must act: the parameters after task 2 must differ between the ends of its range"
    got = f"got {values.low:g} to {values.high:g}"
    shown = [(low, high) for low, high in pairs if low is not None and high is not None]
    if not shown:
        return f"{rule}; {got}, and training diverged at both. Try a smaller learning rate or range"
    outcomes = [outcome for pair in shown for outcome in pair]
    penalty, moved = max(o.penalty for o in outcomes), max(o.moved for o in outcomes)
    if name == "learning_rate" or moved < MIN_RELATIVE_EFFECT:
        why = f"task 2 moved the parameters by {moved:.1g} at most; search larger learning rates, or give a larger one"
    elif penalty == 0:
        why = (
            "the penalty stayed 0, as it does where what is remembered of task 1 is 0 (a Fisher information that "
            "vanishes in single precision, or a learning rate so large that no gradient is left)"
        )
    else:
        why = f"the penalties together reached {penalty:.2g} at most; search another range"
    largest = max(sensitivity(low, high) for low, high in shown)
    return f"{rule} (by {MIN_RELATIVE_EFFECT:g} of what the task moves); {got}, which differ by {largest:.1g}: {why}"
