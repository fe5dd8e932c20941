"""The continual protocol (De Lange et al. 2021, "A continual learning survey", Algorithm 1): hyperparameters are chosen
task by task, on the current task's data only.

For each task: (1) the best learning rate of a grid by plain finetuning from the current model; A* is its validation
accuracy on the task. (2) The method learns the task at that rate with its factor at the top of the range. That is
accepted at accuracy >= 0.8 A*, else the factor is halved, at most 10 times; the last one tried is kept. Everything else
stays as configured, and each task begins at the top again. Accuracies are means over seeds: one decision holds for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import torch

from clsearch.core.config import TrialConfig
from clsearch.core.datasets import Data
from clsearch.core.loop import DivergedError, accuracy_on, attempted, remembered
from clsearch.core.run import build_run
from clsearch.core.state import TrialState
from clsearch.tuning.plan import Plan
from clsearch.tuning.protocols import DECAYING, HALVINGS
from clsearch.tuning.ranking import Choice, Cost
from clsearch.tuning.records import now
from clsearch.tuning.workers import side_by_side

SHARE = 0.8
"""Of A*: what the method must keep of a task's accuracy (1 - p in the paper, whose p is 0.2)."""

ATTEMPTS, STATE = "attempts.csv", "continual.pt"
"""Files of a study's folder."""

RATE, METHOD = "learning_rate", "method"
"""The phases of a task."""

SCORE = "learning_accuracy"
"""What the protocol sees of its choice: accuracy on each task right after learning it, for earlier data is gone."""


@dataclass(frozen=True)
class Attempt:
    """One training of one task on `seeds` seeds. phase: `learning_rate` (plain finetuning) or `method`. values: the
    hyperparameters tried. accuracies: validation accuracy on the task, of each seed; empty where training diverged.
    bar: what the method's mean must reach; None in the first phase. kept: whether its values were chosen. when: it
    ended, in milliseconds since 1970.
    """

    task: int
    phase: str
    values: dict[str, float]
    accuracies: tuple[float, ...]
    bar: float | None
    seeds: int
    seconds: float
    kept: bool = False
    when: int = 0

    @property
    def accuracy(self) -> float:
        """Mean over seeds; -inf where training diverged."""
        return math.fsum(self.accuracies) / len(self.accuracies) if self.accuracies else -math.inf


@dataclass(frozen=True)
class Decision:
    """What the protocol decided so far: its attempts, and once every task has values, the choice. reason: why there is
    none.
    """

    attempts: tuple[Attempt, ...] = ()
    choice: Choice | None = None
    reason: str = "interrupted"

    @property
    def kept(self) -> list[Attempt]:
        """The method's attempt that each task ended with."""
        return [a for a in self.attempts if a.kept and a.phase == METHOD]

    @property
    def cost(self) -> Cost:
        """What all attempts spent."""
        trainings = sum(a.seeds for a in self.attempts)
        return Cost(trainings, math.fsum(a.seconds for a in self.attempts))

    def tried(self, *attempts: Attempt) -> Decision:
        """With more attempts."""
        return replace(self, attempts=(*self.attempts, *attempts))

    def keeping(self, attempt: Attempt) -> Decision:
        """With one of its attempts kept."""
        return replace(self, attempts=tuple(replace(a, kept=True) if a is attempt else a for a in self.attempts))

    def table(self, seeds: Sequence[int]) -> pd.DataFrame:
        """A row per attempt. seeds: that they were made on."""
        rows = [
            {
                "task": a.task,
                "phase": a.phase,
                **a.values,
                "accuracy": a.accuracy if a.accuracies else math.nan,
                **{f"accuracy/seed_{seed}": value for seed, value in zip(seeds, a.accuracies, strict=False)},
                "bar": a.bar,
                "kept": a.kept,
                "seconds": a.seconds,
                "when": a.when,
            }
            for a in self.attempts
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Begun:
    """Where a process left the protocol. tasks: how many have a state after them. state: that of the last, packed."""

    attempts: tuple[Attempt, ...] = ()
    tasks: int = 0
    state: bytes | None = None


def read_begun(folder: Path, seeds: Sequence[int], tasks: Sequence[int]) -> Begun:
    """What a study's folder holds of the protocol: attempts.csv, and the state after the last task that has one."""
    if not (folder / ATTEMPTS).exists():
        return Begun()
    table = pd.read_csv(folder / ATTEMPTS, float_precision="round_trip").astype(object)
    rows = table.where(table.notna(), None).to_dict("records")
    attempts = tuple(
        Attempt(
            task=row["task"],
            phase=row["phase"],
            values={name: row[name] for name in (RATE, *DECAYING) if row.get(name) is not None},
            accuracies=tuple(value for seed in seeds if (value := row.get(f"accuracy/seed_{seed}")) is not None),
            bar=row["bar"],
            seeds=len(seeds),
            seconds=row["seconds"],
            when=row["when"],
            kept=row["kept"],
        )
        for row in rows
    )
    if {a.task for a in attempts if a.kept and a.phase == METHOD} == {*tasks}:
        return Begun(attempts, len(tasks))
    if not (folder / STATE).exists():
        return Begun(attempts)
    packed = (folder / STATE).read_bytes()
    return Begun(attempts, TrialState.tasks_in(packed), packed)


def decide(
    plan: Plan, data: ray.ObjectRef, begun: Begun | None = None, keep: Callable[[bytes], None] = lambda state: None
) -> Iterator[Decision]:
    """Choose the hyperparameters of every task; gives what is decided after each step of it. begun: where an earlier
    process left it. keep: told the state after each task, packed, once the decision that it follows from was given.
    """
    begun = begun or Begun()
    decision, known = Decision(), begun.attempts
    state = None if begun.state is None else ray.put(begun.state)
    if begun.tasks:
        decision = Decision(tuple(a for a in known if a.task <= begun.tasks))
        yield decision
    for task in plan.tasks[begun.tasks :]:
        own = {(a.phase, *a.values.items()): a for a in known if a.task == task}
        rates = _rates(plan, data, state, task, own)
        best = max(rates, key=lambda attempt: attempt.accuracy)
        decision = decision.tried(*rates)
        if best.accuracies:
            decision = decision.keeping(best)
        yield decision
        if not best.accuracies:
            yield replace(decision, reason=f"every learning rate diverged at task {task}")
            return
        for factors, last in _factors(plan):
            values, bar = best.values | factors, SHARE * best.accuracy
            earlier = own.get((METHOD, *values.items()))
            if earlier is not None and earlier.accuracy < bar and not last:
                decision = decision.tried(earlier)
                continue
            found, after = _method(plan, data, state, task, values, bar, last)
            decision = decision.tried(found)
            yield decision
            if found.accuracy >= SHARE * best.accuracy:
                break
        if not found.accuracies:
            yield replace(decision, reason=f"the last factor tried diverged at task {task}")
            return
        decision, state = decision.keeping(found), after
        yield decision
        keep(ray.get(state))
    score = math.fsum(a.accuracy for a in decision.kept) / len(decision.kept)
    choice = Choice("continual", {}, {SCORE: score}, tuple(a.values for a in decision.kept))
    yield replace(decision, choice=choice, reason="")


def _factors(plan: Plan) -> Iterator[tuple[dict[str, float], bool]]:
    """What the method is tried with, strongest first, and whether it is the last."""
    tops = {name: plan.space[name].high for name in DECAYING if name in plan.space}
    most = HALVINGS if tops else 0
    for halving in range(most + 1):
        yield {name: top / 2**halving for name, top in tops.items()}, halving == most


def _rates(
    plan: Plan, data: ray.ObjectRef, state: ray.ObjectRef | None, task: int, known: Mapping[Any, Attempt]
) -> list[Attempt]:
    """Plain finetuning at each learning rate, side by side; known: attempts that need not be made again."""
    found = {rate: replace(a, kept=False) for rate in plan.rates if (a := known.get((RATE, ("learning_rate", rate))))}
    rates = [rate for rate in plan.rates if rate not in found]
    jobs = [(plan.config, plan.seeds, data, state, {"learning_rate": r}, True, None) for r in rates]
    for index, (result, _) in side_by_side(plan, _attempt, jobs, returns=2):
        accuracies, seconds = ray.get(result)
        values = {"learning_rate": rates[index]}
        found[rates[index]] = Attempt(task, RATE, values, accuracies, None, len(plan.seeds), seconds, when=now())
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
    """The method with these hyperparameters, and the state that it leaves where it is accepted."""
    job = (plan.config, plan.seeds, data, state, values, False, -math.inf if last else bar)
    ((_, (result, after)),) = side_by_side(plan, _attempt, [job], returns=2)
    accuracies, seconds = ray.get(result)
    return Attempt(task, METHOD, values, accuracies, bar, len(plan.seeds), seconds, when=now()), after


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
    """In a worker: learn the next task after a state, and measure it on that task's validation data alone.

    plain: without regularizers. bar: the mean accuracy from which the state is remembered.
    Returns: (accuracy of each seed, none where it diverged; seconds), and the state with the task remembered.
    """
    began = time.perf_counter()
    run = build_run(config, seeds, device, data).with_numbers(values)
    state = run.initial_state() if before is None else TrialState.unpacked(before, run.fingerprint, run.device)
    if plain:
        run = replace(run, regularizers=())
        state = replace(state, curve=torch.empty(0, len(seeds), len(run.columns)), epochs=state.epochs[:0])
    task = run.benchmark.tasks[state.tasks_learned]
    try:
        trained = attempted(run, state)
        answers = run.benchmark.answers(task.index, task.index)
        accuracies = tuple(accuracy_on(run, trained.params, answers, task.validation).tolist())
    except DivergedError:
        return ((), time.perf_counter() - began), None
    good = bar is not None and math.fsum(accuracies) / len(accuracies) >= bar
    after = remembered(run, trained).packed() if good else None
    return (accuracies, time.perf_counter() - began), after


def metrics_of(attempt: Attempt, decision: Decision) -> dict[str, float]:
    """What MLflow shows of a task: what was chosen, the accuracy that it gave, the bar, and how many were tried."""
    tried = float(sum(a.task == attempt.task for a in decision.attempts))
    bar = {} if attempt.bar is None else {"bar": attempt.bar}
    return attempt.values | bar | {"accuracy": attempt.accuracy, "attempts": tried}


def decision_content(plan: Plan, decision: Decision) -> dict[str, Any]:
    """What best.json holds; `config` is what all tasks share."""
    chosen = {"learning_rate", *plan.space}
    return {
        "label": None if decision.choice is None else decision.choice.label,
        "reason": decision.reason,
        "values": {},
        "config": {name: value for name, value in plan.config.flat().items() if name not in chosen},
        "per_task": [attempt.values for attempt in decision.kept],
        "seeds": list(plan.seeds),
        "cost": asdict(decision.cost),
        "scores": {} if decision.choice is None else decision.choice.scores,
    }
