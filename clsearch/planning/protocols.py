"""Selection protocols: what a search may see, on what its choice is reported, and which options each needs.

end_of_sequence  searches on validation data of all tasks after the last; reported on test data of the same sequence
first_k          searches on the first k tasks (Chaudhry et al. 2019, A-GEM); reported on the others, with fresh weights
two_phase        searches on one benchmark; reported on another (Cha & Cho 2024)
continual        chooses task by task on the current task's data (De Lange et al. 2021, see `continual`)
Each choice is also scored on the full sequence, so that protocols compare.
"""

from __future__ import annotations

from typing import Any

from clsearch.common.errors import ConfigError
from clsearch.config.data_source import class_counts
from clsearch.config.hyperparameters import Space
from clsearch.config.rules import LARGEST, SMALLEST
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import unlearned_by
from clsearch.methods.registry import decaying
from clsearch.planning.objectives import problems_of_objectives
from clsearch.planning.options import Options, Protocol, Pruner

FIRST_K = 3
"""Tasks that first_k searches on unless told (Chaudhry et al. 2019)."""

RATE_STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""The learning rates that continual chooses from unless told, as multiples of the configured one."""

REPORT_SEEDS = {"digits": 5}
"""Source -> how many seeds a final evaluation has unless told; others have 10."""

PROTOCOL_OPTIONS = {
    Protocol.FIRST_K: ("first_k",),
    Protocol.TWO_PHASE: ("report_benchmark",),
    Protocol.CONTINUAL: ("learning_rates",),
}
"""Protocol -> options that act in it only."""

SEARCHING = ("trials", "sampler", "sampler_seed", "pruner", "grid_points", "objectives", "cohort")
"""Options that act where a sampler chooses, which is not in continual."""

HALVINGS = 10
"""How often continual halves its factors, at most."""

GRACE = 2
"""Tasks that every trial learns before one may be stopped early: after task 1 all are alike, under one seed."""

OF_ITS_OWN = ("grouping", "image_size", "image_channels", "classes_per_task")
"""Settings that belong to a benchmark's classes and images and are not carried to another."""


def searched_tasks(options: Options, tasks: int) -> tuple[int, ...]:
    """Numbers of the tasks that trials of the search learn."""
    first_k = options.protocol is Protocol.FIRST_K
    return tuple(range(1, ((options.first_k or FIRST_K) if first_k else tasks) + 1))


def reported_tasks(options: Options, tasks: int) -> tuple[int, ...]:
    """Numbers of the tasks that the choice is reported on, of the benchmark that it is reported on."""
    first_k = options.protocol is Protocol.FIRST_K
    return tuple(range(((options.first_k or FIRST_K) + 1) if first_k else 1, tasks + 1))


def reporting_seeds(options: Options, config: TrialConfig) -> tuple[int, ...]:
    """The fresh seeds of the final evaluation."""
    count = options.report_seeds or REPORT_SEEDS.get(config.source.name, 10)
    return tuple(range(options.first_report_seed, options.first_report_seed + count))


def report_settings(settings: dict[str, Any], config: TrialConfig, benchmark: str) -> dict[str, Any]:
    """Flat settings for the benchmark that two_phase reports on: those of the search, with its scenario and number of
    tasks, but without what belongs to its classes and images.
    """
    kept = {name: value for name, value in settings.items() if name not in OF_ITS_OWN}
    return kept | {"benchmark": benchmark, "scenario": config.scenario.value, "tasks": config.tasks}


def protocol_problems(options: Options, given: set[str], config: TrialConfig, space: Space) -> list[str]:
    """What is against the rules of a study's protocol. given: names of the settings that the user or script gave."""
    protocol, tasks = options.protocol, config.tasks
    problems = [
        f"{name}: acts with protocol = {other} only; got {getattr(options, name)} with {protocol}"
        for other, names in PROTOCOL_OPTIONS.items()
        for name in names
        if other is not protocol and getattr(options, name) is not None
    ]
    if protocol is Protocol.FIRST_K and not (options.first_k or FIRST_K) <= tasks - 2:
        problems.append(
            f"first_k: must leave at least two of the {tasks} tasks to report on; got {options.first_k or FIRST_K}"
        )
    if protocol is Protocol.TWO_PHASE and options.report_benchmark is None:
        problems.append("report_benchmark: must name the benchmark that two_phase reports on; got none")
    if protocol is Protocol.CONTINUAL:
        problems += _continual_problems(options, given, config, space)
    if config.unlearns:
        problems += _unlearning_problems(options, config, space)
    learned = len(searched_tasks(options, tasks))
    gone = unlearned_by(config.requests, learned)
    problems += problems_of_objectives(options.objectives, learned, config.scenario, gone)
    if "forward_transfer" in options.objectives and "independent" in (config.algorithm, *options.references):
        problems.append(
            "objectives: forward_transfer is not defined for independent networks, which later tasks have none of yet; "
            "got both"
        )
    if options.quiet and options.verbose:
        problems.append("quiet, verbose: at most one of the two; got both")
    problems += [
        f"learning_rates: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {rate:g}"
        for rate in options.learning_rates or ()
        if not SMALLEST <= rate <= LARGEST
    ]
    return problems + _sampler_problems(options) + _pruner_problems(options, learned) + _seed_problems(options, config)


def _continual_problems(options: Options, given: set[str], config: TrialConfig, space: Space) -> list[str]:
    if config.algorithm in ("joint", "independent"):
        return [f"protocol: continual goes on from the current model, which {config.algorithm} does not; got continual"]
    problems = []
    defaults = {name: Options.model_fields[name].default for name in SEARCHING}
    for name in SEARCHING:
        if name in given and getattr(options, name) != defaults[name]:
            got = getattr(options, name)
            shown = " ".join(got) if isinstance(got, tuple) else got
            problems.append(f"{name}: acts where a sampler chooses, which is not in continual; got {shown}")
    for name in space:
        if name == "learning_rate":
            problems.append("learning_rate: continual chooses it from --learning-rates; give one value, not a range")
        elif name not in decaying():
            problems.append(
                f"{name}: stays the same in continual, where only {' and '.join(decaying())} decay; give one value (--"
                f"{name.replace('_', '-')} 2) instead of a range"
            )
    if config.algorithm != "finetuning" and not any(name in decaying() for name in space):
        problems.append("protocol: continual needs the range of a factor, from whose top it decays; got none")
    return problems


def _unlearning_problems(options: Options, config: TrialConfig, space: Space) -> list[str]:
    """What a study of unlearning needs: something to unlearn, and one model to measure all trials against."""
    problems = []
    if not config.unlearn:
        problems.append(f"unlearn: {config.algorithm} needs a request, as 3:1 (after task 3 unlearn task 1); got none")
    if options.protocol is not Protocol.END_OF_SEQUENCE:
        problems.append(f"protocol: must be end_of_sequence where tasks are unlearned; got {options.protocol}")
    if others := [name for name in options.references if name != "finetuning"]:
        problems.append(
            f"references: must be finetuning alone (with the same requests) where tasks are unlearned, because others "
            f"do not unlearn; got {' '.join(others)}"
        )
    if "learning_rate" in space:
        problems.append(
            "learning_rate: must have one value where tasks are unlearned, because the model that all trials are "
            "measured against is trained with it; got a range"
        )
    return problems


def _sampler_problems(options: Options) -> list[str]:
    if options.sampler == "nsga2" and len(options.objectives) == 1:
        return ["sampler: nsga2 trades objectives off against each other, so it needs two or more; got one. Use tpe"]
    return []


def _pruner_problems(options: Options, tasks: int) -> list[str]:
    """Trials are stopped by what the search optimizes, and it is told of that after each task."""
    if options.pruner is Pruner.NONE or options.protocol is Protocol.CONTINUAL:
        return []
    if options.objectives != ("average_accuracy",):
        got = " ".join(options.objectives)
        return [f"pruner: stops by average_accuracy, which must be the only objective; got {options.pruner} with {got}"]
    if tasks <= GRACE:
        return [f"pruner: stops after task {GRACE} at the earliest, so more tasks must be searched; got {tasks}"]
    return []


def _seed_problems(options: Options, config: TrialConfig) -> list[str]:
    """Reporting seeds must be fresh."""
    searched = range(options.first_seed, options.first_seed + options.seeds)
    reported = reporting_seeds(options, config)
    if options.final and (both := {*searched} & {*reported}):
        shown = f"{min(both)} to {max(both)}" if len(both) > 1 else f"{min(both)}"
        return [
            f"first_report_seed: the final evaluation's seeds, {reported[0]} to {reported[-1]}, must be none that the "
            f"search uses; got {shown} in both"
        ]
    return []


def check_report(search: TrialConfig, report: TrialConfig) -> None:
    """The benchmark that two_phase reports on: other data, as many tasks and classes. Raises ConfigError."""
    if report.benchmark == search.benchmark:
        raise ConfigError([f"report_benchmark: must be another than the search's; got {report.benchmark}"])
    counts = [class_counts(config) for config in (search, report)]
    if counts[0] != counts[1]:
        shown = [" ".join(map(str, own)) for own in counts]
        raise ConfigError(
            [
                f"report_benchmark: must have as many tasks and classes per task as {search.benchmark}, {shown[0]}; "
                f"got {shown[1]} of {report.benchmark}"
            ]
        )
