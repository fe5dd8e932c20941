"""Check by training, before a search, that each searched hyperparameter has an effect.

A search over a number without effect looks like any other search. So the two ends of each range, and each choice and
the first one, are trained on a small part of the first two tasks, with the other hyperparameters set where its effect
is largest, and must give different parameters. What can only act with two earlier tasks, as one teacher or several,
gets a third one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.plain_values import Plain, show_value
from clsearch.config.space_parts import Part
from clsearch.data.datasets import Data
from clsearch.execution.resources import is_out_of_memory
from clsearch.methods.registry import BUILT_IN, fields_of, method_named
from clsearch.planning.plan import Plan
from clsearch.planning.spaces import pick_with
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

ALWAYS_ACT = ("epochs", "iterations", "fisher_samples")
"""Hyperparameters whose effect the small part of the tasks would hide."""

STRENGTHS = ("low", "middle", "high")
"""Where a hyperparameter lets the others act most."""

OTHERS_AT = (("low", "middle", "high"), ("middle", "middle", "middle"), ("high", "middle", "low"))
"""Settings of the other hyperparameters, by their strong end (low, middle or high), tried in this order: at the strong
end, in the middle, at the opposite end.
"""


@dataclass(frozen=True)
class TwoTaskOutcome:
    """The outcome of learning two tasks, or three.

    Attributes:
        params: All parameters after the last task.
        moved: Euclidean distance that the last task moved them.
        penalty: The largest mean penalty of an epoch of the last task.
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
    """Return a refusal for each searched hyperparameter without effect, and for each choice like the first one."""
    probe = SensitivityProbe(plan, data)
    problems = []
    for part in plan.space.parts:
        first, *others = part.domain.ends
        if part.name in ALWAYS_ACT:
            continue
        say(part.name)
        for other in others:
            pairs = []
            lengths = [(False, 2), (True, 2), *[(True, 3)] * needs_third_task(plan, part.name)]
            for (long, tasks), pair in itertools.product(lengths, value_pairs(plan, part, first, other)):
                low, high = (probe.outcome(values, long, tasks) for values in pair)
                pairs.append((low, high))
                if sensitivity(low, high) >= MIN_RELATIVE_EFFECT:
                    break
            if pairs and all(sensitivity(*pair) < MIN_RELATIVE_EFFECT for pair in pairs):
                problems.append(
                    Refusal("hyperparameter-acts", explain_insensitivity(part, (first, other), pairs, lengths[-1][1]))
                )
    return problems


def needs_third_task(plan: Plan, name: str) -> bool:
    """Return True if a setting without effect on two tasks can have one on three: of the method, and no factor."""
    method = method_named(plan.algorithm)
    late = name not in fields_of("finetuning") and name not in method.hyperparameters
    return late and len(plan.tasks) > 2


def value_pairs(plan: Plan, part: Part, first: Plain, other: Plain) -> list[tuple[dict[str, Plain], dict[str, Plain]]]:
    """Return pairs of values of all hyperparameters that differ in one, those with the largest expected effect first.

    Pairs with a combination that the rules refuse are left out; if all are, the others stand at their low ends, which
    the plan has checked.

    Args:
        plan: The study.
        part: The entry of the space that is checked.
        first, other: Its values.
    """
    known = method_named(plan.algorithm).hyperparameters
    found: list[tuple[dict[str, Plain], dict[str, Plain]]] = []
    for ends in (*OTHERS_AT, ()):
        if not ends and found:
            break

        def choose(each: Part, ends: tuple[str, ...] = ends) -> Plain:
            if not each.domain.numeric or not ends:
                return each.domain.ends[0]
            strongest = known[each.name].strongest if each.name in known else "middle"
            points = each.domain.points(3)
            return points[{"low": 0, "middle": len(points) // 2, "high": -1}[ends[STRENGTHS.index(strongest)]]]

        pair = pick_with(plan.space, {part.key: first}, choose), pick_with(plan.space, {part.key: other}, choose)
        if pair not in found and all(is_allowed(plan, values) for values in pair):
            found.append(pair)
    return found


def is_allowed(plan: Plan, values: dict[str, Plain]) -> bool:
    """Return True unless the rules refuse a combination that nobody asked for."""
    try:
        plan.trial_config(values)
    except ConfigError:
        return False
    return True


class SensitivityProbe:
    """Trains a small part of the first tasks, each setting once, on the trials' device if this machine has it.

    Task 1 is trained once for all settings that differ in the factors and the like of this package's methods alone,
    which do not affect it. A method of the user's own may read its own in the first task, or remember by them.
    """

    def __init__(self, plan: Plan, data: Data) -> None:
        self.plan = plan
        self.data = data
        self.device = plan.device if torch.cuda.is_available() else "cpu"
        self.firsts: dict[object, TrialState | None] = {}
        self.outcomes: dict[object, TwoTaskOutcome | None] = {}

    def outcome(self, values: dict[str, Plain], long: bool, tasks: int = 2) -> TwoTaskOutcome | None:
        """Learn some tasks with these hyperparameters; return None if training diverges. long: train for the study's
        own length.
        """
        key = (tuple(sorted(values.items())), long, tasks)
        if key not in self.outcomes:
            self.outcomes[key] = self._train_tasks(values, long, tasks)
        return self.outcomes[key]

    def _train_tasks(self, values: dict[str, Plain], long: bool, tasks: int) -> TwoTaskOutcome | None:
        trial = self._run(values, long, tasks)
        late = method_named(self.plan.algorithm).own_hyperparameters if self.plan.algorithm in BUILT_IN else {}
        key = (tuple((name, value) for name, value in sorted(values.items()) if name not in late), long, tasks)
        if key not in self.firsts:
            self.firsts[key] = _learned(trial, trial.initial_state())
        before = self.firsts[key]
        before = before and replace(before, fingerprint=trial.fingerprint)
        after = None if before is None else _learned(trial, before)
        for _ in range(tasks - 2):
            before, after = after, None if after is None else _learned(trial, after)
        if before is None or after is None:
            return None
        old, new = (
            torch.cat([value.flatten().double() for value in state.params.values()]) for state in (before, after)
        )
        penalties = after.curve[after.epochs[:, 0] == tasks, 0, trial.columns.index("penalty")]
        return TwoTaskOutcome(new, (new - old).norm().item(), penalties.max().item())

    def _run(self, values: dict[str, Plain], long: bool, tasks: int) -> TrialSetup:
        still = {"unlearn": ()} if self.plan.config.unlearns else {}  # it would remove the effect of a value
        whole = self.plan.trial_config(values, changed=still)
        trial = build_trial(whole, self.plan.seeds[:1], self.device, self.data, self.plan.tasks)
        config, benchmark = trial.config, shrink(trial.benchmark, tasks, SAMPLES_PER_TASK)
        epoch = math.ceil(max(max(task.train.sizes) for task in benchmark.tasks) / config.batch_size)
        steps = max(MIN_STEPS, epoch)
        if long:
            most = MAX_STEPS["mlp" if config.backbone == "mlp" else "other"]
            steps = max(steps, min(most, config.iterations or (config.epochs or 0) * epoch))
        short = self.plan.trial_config(values, changed=still | {"iterations": steps, "epochs": None})
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
    if low.params.shape != high.params.shape:  # of networks of different sizes
        return math.inf
    apart, moved = (high.params - low.params).norm().item(), max(low.moved, high.moved)
    return apart / moved if moved else 0.0


def explain_insensitivity(
    part: Part,
    values: tuple[Plain, Plain],
    pairs: list[tuple[TwoTaskOutcome | None, TwoTaskOutcome | None]],
    tasks: int,
) -> str:
    """Explain a hyperparameter without effect, or a choice like the first one. tasks: number of tasks learned."""
    name, numeric = part.name, part.domain.numeric
    where = "between the ends of its range" if numeric else "between its choices"
    rule = f"{name}: must act: the parameters after task {tasks} must differ {where}"
    got = f"got {show_value(values[0])} {'to' if numeric else 'and'} {show_value(values[1])}"
    shown = [(low, high) for low, high in pairs if low is not None and high is not None]
    if not shown:
        return f"{rule}; {got}, and training diverged at both. Try a smaller learning rate or range"
    outcomes = [outcome for pair in shown for outcome in pair]
    penalty, moved = max(o.penalty for o in outcomes), max(o.moved for o in outcomes)
    if name == "learning_rate" or moved < MIN_RELATIVE_EFFECT:
        why = f"task 2 moved the parameters by {moved:.1g} at most; search larger learning rates, or use a larger one"
    elif name in fields_of("finetuning"):
        why = "both train alike here; leave one out, or search a wider range"
    elif penalty == 0:
        why = (
            "the penalty stayed 0, as it does if the stored importance of task 1 is 0 (a Fisher information that "
            "vanishes in single precision, or a learning rate so large that no gradient is left)"
        )
    else:
        why = f"the penalties together reached {penalty:.2g} at most; search another range"
    largest = max(sensitivity(low, high) for low, high in shown)
    return f"{rule} (by {MIN_RELATIVE_EFFECT:g} of what the task moves); {got}, which differ by {largest:.1g}: {why}"
