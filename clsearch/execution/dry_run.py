"""Estimate a study without running it: the amount of training, the time, and the places of its output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from clsearch.common.formatting import count_of, format_duration, relative_path
from clsearch.common.redaction import printable, redact_address
from clsearch.config.plain_values import Plain, Values
from clsearch.config.space_parts import show_conditions
from clsearch.data.datasets import Data
from clsearch.execution.preflight import this_node
from clsearch.execution.resources import WorkerResources
from clsearch.execution.sensitivity import is_allowed
from clsearch.execution.time_limit import (
    TimeLimit,
    check_room,
    seconds_of_evaluation,
    seconds_of_trial,
    weigh_algorithms,
)
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.planning.protocols import HALVINGS
from clsearch.planning.spaces import typical_values
from clsearch.ray_runtime.address import joins
from clsearch.records.listing import progress_counts, study_state
from clsearch.records.study_file import ENDED, read_study_json
from clsearch.records.trials import read_trials
from clsearch.tracking.stores import shown_store
from clsearch.training.loop import DivergedError, learn_sequence
from clsearch.training.trial_setup import build_trial, build_trials

PROBES = (2, 10)
"""Steps per task of the two probes. Their difference gives the time of a step, the rest is the time of a task."""

MOST_PROBES = 4
"""Configurations that are probed if structures are searched."""

BESIDES, BESIDES_A_TRIAL = 25.0, 0.5
"""Seconds per study, and per trial, that are not training; measured on two cores."""


@dataclass(frozen=True)
class Pace:
    """Measured speed of training.

    Attributes:
        step: Seconds of a step.
        task: Seconds per task outside its steps (evaluation, importance).
        seeds: Number of members that were trained together.
        structures: Number of configurations whose mean it is.
    """

    step: float
    task: float
    seeds: int
    structures: int = 1

    def of(self, steps: int, tasks: int, seeds: int) -> float:
        """Return the seconds of a trial with this many steps and tasks, in proportion to its seeds."""
        return (self.step * steps + self.task * tasks) * seeds / self.seeds


def typical_trials(plan: Plan) -> list[dict[str, Plain]]:
    """Return the values of trials whose mean cost is that of a trial.

    They have the middle of each searched range and some combinations of choices; numbers that do not change the cost
    are at their low end.
    """
    typical = typical_values(plan.space, plan.config.hyperparameters, MOST_PROBES)
    return [values for values in typical if is_allowed(plan, values)] or [plan.space.first]


def measure(plan: Plan, data: Data) -> tuple[Pace | None, int]:
    """Measure the speed of typical trials, and count their steps.

    Returns:
        The mean speed, None if training diverges; and the mean number of steps.
    """
    trials = typical_trials(plan)
    together = max(1, plan.cohort // len(trials))  # others train apart
    paces = [probe(plan, data, values, together) for values in trials]
    steps = [steps_of(plan, data, values) for values in trials]
    mean, known = sum(steps) / len(steps), [pace for pace in paces if pace is not None]
    if len(known) < len(paces):
        return None, round(mean)
    step = sum(pace.step * own for pace, own in zip(known, steps, strict=True)) / sum(steps)
    task = sum(pace.task for pace in known) / len(known)
    return Pace(step, task, known[0].seeds, len(known)), round(mean)


def probe(plan: Plan, data: Data, values: Values, together: int) -> Pace | None:
    """Measure the speed of a trial on its first two tasks, cut short; return None if training diverges.

    Args:
        plan: The study.
        data: The training data.
        values: The trial's searched values.
        together: Number of configurations that train together.
    """
    seconds = {}
    device = WorkerResources(plan.options.cpus_per_trial, 0).apply(plan.device if torch.cuda.is_available() else "cpu")
    for steps in (PROBES[0], *PROBES):  # the first is not counted: it includes one-time loading
        changed: dict[str, Any] = {"epochs": None, "iterations": steps}
        config = plan.trial_config(values, changed=changed | ({"unlearn": ()} if plan.config.unlearns else {}))
        trial = build_trials([config] * together, plan.seeds, device, data, plan.tasks[:2])
        try:
            seconds[steps] = learn_sequence(trial).seconds / len(trial.benchmark.tasks)
        except DivergedError:
            return None
    few, many = (seconds[steps] for steps in PROBES)
    step = max(many - few, 0.0) / (PROBES[1] - PROBES[0])
    return Pace(step, max(few - PROBES[0] * step, 0.0), len(plan.seeds) * together)


def limit_time(plan: Plan, data: Data, started: float) -> TimeLimit | None:
    """Return the time limit of a call; None if it has none.

    Args:
        plan: The study.
        data: Its data.
        started: The time of `time.monotonic` at which the call began.

    Raises:
        ConfigError: No trial of a new study fits into it, by a probe.
    """
    if plan.options.hours is None:
        return None
    limit = TimeLimit(plan, 3600 * float(plan.options.hours), started)
    ended = [] if plan.options.fresh else [r for r in read_trials(plan.folder).values() if r.ended]
    pace, steps = (None, 0) if seconds_of_trial(ended) else measure(plan, data)
    if pace is not None:
        one = pace.of(steps, len(plan.tasks), len(plan.seeds))
        limit = replace(limit, probed=one)
        check_room(limit, 1 if joins(plan) else at_a_time(plan))
    return limit


def steps_of(plan: Plan, data: Data, values: Values) -> int:
    """Count the steps of a trial over all its tasks."""
    config = plan.trial_config(values)
    benchmark = build_trial(config, plan.seeds, "cpu", data, plan.tasks).benchmark
    sizes = [max(task.train.sizes) for task in benchmark.tasks]
    return sum(config.iterations or (config.epochs or 0) * -(-size // config.batch_size) for size in sizes)


def print_dry_run(plan: Plan, data: Data) -> None:
    """Print the estimate of a study."""
    console = Console()
    rows = [("Study", f"{plan.options.name}: {plan.algorithm} on {plan.config.benchmark}, {plan.protocol} protocol")]
    rows += [("Search", f"{part.name}, {part.domain}{show_conditions(part)}") for part in plan.space.parts]
    if plan.enqueued:
        rows.append(("Enqueued", f"{count_of(len(plan.enqueued), 'configuration')} that are tried first"))
    for name, value in [*rows, *training_rows(plan, *measure(plan, data)), *place_rows(plan)]:
        console.print(printable(f"{name:<10} {value}"), highlight=False, markup=False, soft_wrap=True)


def training_rows(plan: Plan, pace: Pace | None, steps: int) -> list[tuple[str, str]]:
    """Describe the amount of training and its estimated time."""
    T, M = len(plan.tasks), len(plan.seeds)
    trials, most = plan.trials, ""
    if plan.protocol is Protocol.CONTINUAL:  # an attempt trains one task
        trials, most = len(plan.rates) + HALVINGS + 1, "at most "
    elif plan.options.pruner != "none":
        most = "at most "
    ended = (
        sum(progress_counts(plan.folder, plan.objectives[0])[0][name] for name in ENDED)
        if not plan.options.fresh
        else 0
    )
    rows = [
        ("Trials", f"{most}{trials} x {M} seed{'s' * (M > 1)} x {T} tasks = {trials * M * T:,} task-seed trainings")
    ]
    rows += [("Ended", f"{ended} trials; the study resumes with the others")] * bool(ended)
    if plan.further:
        seeds = plan.every_seed[M:]
        which = "every finished trial" if plan.further[-1].all else "the trials not shown worse than the best"
        rows.append(("Seeds", f"then {' '.join(map(str, seeds))}, of {which} and the references"))
    searched = plan.protocol is not Protocol.CONTINUAL
    rows += [("References", f"{', '.join(plan.references)} on the same seeds")] * bool(plan.references and searched)
    if plan.options.final:
        of = ", ".join(["the choice", *plan.references])
        rows.append(("Final", f"{of} on {len(plan.report_seeds)} fresh seeds; opens test data at the end"))
    share = f"{plan.options.cpus_per_trial} CPU" + f", {plan.options.gpus_per_trial:g} GPU" * (plan.device == "cuda")
    where = "as many at a time as the cluster holds" if joins(plan) else f"{at_a_time(plan)} at a time on this machine"
    of = "per trial" if plan.cohort == 1 else f"for up to {plan.cohort} trials that train together"
    rows.append(("Resources", f"{share} {of}, {where}"))
    return [*rows, ("Time", time_of(plan, pace, steps, max(0, trials - ended), most))]


def time_of(plan: Plan, pace: Pace | None, steps: int, trials: int, most: str) -> str:
    """Estimate the time of the remaining trials, the references and the final evaluation."""
    if pace is None:
        return "unknown: a probe of a few steps diverged, with the low end of each range"
    T, M = len(plan.tasks), len(plan.seeds)
    weights = weigh_algorithms(plan)
    one = weights[plan.algorithm] * pace.of(steps, T, M)
    seconds = (
        trials + len(plan.config.requests)
    ) * one  # each request adds a model that never sees the unlearned tasks
    if plan.protocol is not Protocol.CONTINUAL:
        seconds += sum(weights[name] for name in plan.references) * pace.of(steps, T, M)
    seconds += seconds_of_evaluation(plan, pace.of(steps, T, M))
    by = f"by a probe of {PROBES[1]} steps on this machine"
    if pace.structures > 1:
        by += f", the mean of {pace.structures} configurations"
    if joins(plan):
        return f"{most}about {format_duration(one)} per trial, {format_duration(seconds)} in total on one worker; {by}"
    besides = f"records, start-up and the report add about {format_duration(BESIDES + BESIDES_A_TRIAL * trials)}"
    total = format_duration(seconds / at_a_time(plan))
    return f"{most}about {format_duration(one)} per trial, {total} in total for training, {by}; {besides}"


def at_a_time(plan: Plan) -> int:
    """Count the trials that this machine holds at a time; 1 if it holds none."""
    node, options = this_node(plan), plan.options
    fit = int(node.cpus // options.cpus_per_trial)
    if options.gpus_per_trial:
        fit = min(fit, int(node.gpus / options.gpus_per_trial))
    return max(1, min(fit, options.max_concurrent or fit, -(-plan.trials // plan.cohort)))


def place_rows(plan: Plan) -> list[tuple[str, str]]:
    """Describe the places of the output, and their present content."""
    study = read_study_json(plan.folder)
    there = "new"
    if study is not None and plan.options.fresh:
        there = "starts over; the existing folder is moved aside"
    elif study is not None:
        counts, _ = progress_counts(plan.folder, plan.objectives[0])
        there = f"{study_state(plan.folder, study)}, {sum(counts[name] for name in ENDED)} trials have ended"
    shown = shown_store(plan.folder, tracking_uri(plan))
    rows = [
        ("Record", f"{relative_path(plan.folder)}/ ({there})"),
        ("MLflow", f"{shown}, experiment {plan.options.name}"),
    ]
    return [*rows, ("Mirror", redact_address(plan.options.mirror))] if plan.options.mirror else rows
