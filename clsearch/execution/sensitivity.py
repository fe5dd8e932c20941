"""Check by training, before a search, that each searched hyperparameter has an effect.

A search over a number without effect looks like any other search. So the two ends of each range are trained on a small
part of the first two tasks, with the other hyperparameters set where its effect is largest, and must give different
parameters.
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
"""Samples of each task; all if it has fewer."""

MIN_STEPS = 20
"""Minimum number of steps per task; at least one epoch is trained."""

MAX_STEPS = {"mlp": 2000, "other": 200}
"""A hyperparameter that shows no effect is trained again for as many steps as the study would take on these samples, up
to this many: some effects grow late (|d|^3 with a small learning rate). A step of a convolutional network costs a
hundred times as much.
"""

MIN_RELATIVE_EFFECT = 1e-4
"""A smaller effect, relative to the change of the parameters in task 2, counts as none."""

OTHERS_AT = (("low", "middle", "high"), ("middle", "middle", "middle"), ("high", "middle", "low"))
"""Settings of the other hyperparameters, by their strong end (low, middle or high), tried in this order: at the strong
end, in the middle, at the opposite end.
"""


@dataclass(frozen=True)
class TwoTaskOutcome:
    """The outcome of learning two tasks.

    Attributes:
        params: All parameters after task 2.
        moved: Euclidean distance that task 2 moved them.
        penalty: The largest mean penalty of an epoch of task 2.
    """

    params: torch.Tensor
    moved: float
    penalty: float


def check_sensitivity(plan: Plan, data: Data, say: Callable[[str], None] = lambda name: None) -> None:
    """Check that every searched hyperparameter has an effect.

    Args:
        plan: The study.
        data: The training data.
        say: Called with the name of each hyperparameter before its turn.

    Raises:
        ConfigError: Some hyperparameters have no effect; the message names them and a probable reason.
    """
    threads = torch.get_num_threads()
    if plan.config.backbone == "mlp":  # its threads would only wait for each other
        torch.set_num_threads(1)
    try:
        problems = find_insensitive(plan, data, say)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = (
            f"batch_size: a trial on one seed must fit into this machine's memory; got {plan.config.batch_size}, "
            f"which needs more. Use a smaller batch or a smaller network"
        )
        problems = [Refusal("trial-fits-memory", text)]
    finally:
        torch.set_num_threads(threads)
    if problems:
        raise ConfigError(problems)


def find_insensitive(plan: Plan, data: Data, say: Callable[[str], None] = lambda name: None) -> list[Refusal]:
    """Return a refusal for each searched hyperparameter without effect."""
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
    """Return settings of the other searched hyperparameters, those with the largest expected effect first, without
    duplicates.
    """
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
    """Trains a small part of the first two tasks, each setting once, on the trials' device if this machine has it.

    Task 1 is trained once for all settings with the same learning rate: no other searched hyperparameter affects it.
    """

    def __init__(self, plan: Plan, data: Data) -> None:
        self.plan = plan
        self.data = data
        self.device = plan.device if torch.cuda.is_available() else "cpu"
        self.firsts: dict[tuple[float, bool], TrialState | None] = {}
        self.outcomes: dict[tuple[float | bool, ...], TwoTaskOutcome | None] = {}

    def outcome(self, values: dict[str, float], long: bool) -> TwoTaskOutcome | None:
        """Learn two tasks with these hyperparameters; return None if training diverges. long: train for the study's own
        length.
        """
        key = (*(values[name] for name in self.plan.space), long)
        if key not in self.outcomes:
            self.outcomes[key] = self._train_two_tasks(values, long)
        return self.outcomes[key]

    def _train_two_tasks(self, values: dict[str, float], long: bool) -> TwoTaskOutcome | None:
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
        still = {"unlearn": ()}  # unlearning would remove the effect of a value
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
    """Return the distance of two outcomes relative to the change of the parameters in task 2.

    It is infinite if one of them diverged, and 0 if both did or nothing moved, which is no evidence of an effect.
    """
    if low is None or high is None:
        return 0.0 if low is high else math.inf
    apart, moved = (high.params - low.params).norm().item(), max(low.moved, high.moved)
    return apart / moved if moved else 0.0


def explain_insensitivity(
    plan: Plan, name: str, pairs: list[tuple[TwoTaskOutcome | None, TwoTaskOutcome | None]]
) -> str:
    """Explain a hyperparameter without effect."""
    values = plan.space[name]
    rule = f"{name}: must act: the parameters after task 2 must differ between the ends of its range"
    got = f"got {values.low:g} to {values.high:g}"
    shown = [(low, high) for low, high in pairs if low is not None and high is not None]
    if not shown:
        return f"{rule}; {got}, and training diverged at both. Try a smaller learning rate or range"
    outcomes = [outcome for pair in shown for outcome in pair]
    penalty, moved = max(o.penalty for o in outcomes), max(o.moved for o in outcomes)
    if name == "learning_rate" or moved < MIN_RELATIVE_EFFECT:
        why = f"task 2 moved the parameters by {moved:.1g} at most; search larger learning rates, or use a larger one"
    elif penalty == 0:
        why = (
            "the penalty stayed 0, as it does if the stored importance of task 1 is 0 (a Fisher information that "
            "vanishes in single precision, or a learning rate so large that no gradient is left)"
        )
    else:
        why = f"the penalties together reached {penalty:.2g} at most; search another range"
    largest = max(sensitivity(low, high) for low, high in shown)
    return f"{rule} (by {MIN_RELATIVE_EFFECT:g} of what the task moves); {got}, which differ by {largest:.1g}: {why}"
