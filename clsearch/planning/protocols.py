"""Selection protocols: the data that a search sees, the data that it reports on, and the options of each protocol.

end_of_sequence  searches on validation data of all tasks after the last; reports on test data of the same sequence
first_k          searches on the first k tasks (Chaudhry et al. 2019, A-GEM); reports on the others, with fresh weights
two_phase        searches on one benchmark; reports on another (Cha & Cho 2024)
continual        chooses task by task on the current task's data (De Lange et al. 2021), see `execution.continual`
Each choice is also evaluated on the full sequence, so that protocols compare.
"""

from __future__ import annotations

from typing import Any

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.data_source import class_counts
from clsearch.config.rules import LARGEST, SMALLEST
from clsearch.config.sections import COMMON_SECTIONS
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import unlearned_by
from clsearch.methods.registry import decaying
from clsearch.planning.objectives import check_constraints, check_objectives
from clsearch.planning.options import Options, Protocol, Pruner
from clsearch.planning.samplers import check_sampler, describe_choice
from clsearch.planning.search_fields import write_word

FIRST_K = 3
"""Default number of tasks that first_k searches on (Chaudhry et al. 2019)."""

RATE_STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Default learning rates from which continual chooses, as multiples of the configured one."""

REPORT_SEEDS = {"digits": 5}
"""Source -> default number of seeds of a final evaluation; others have 10."""

PROTOCOL_OPTIONS = {
    Protocol.FIRST_K: ("first_k",),
    Protocol.TWO_PHASE: ("report_benchmark",),
    Protocol.CONTINUAL: ("learning_rates",),
}
"""Protocol -> options that act only in it."""

SEARCH_OPTIONS = (
    *("trials", "sampler", "sampler_seed", "pruner", "grid_points", "objectives", "cohort"),
    *("constraints", "hours", "patience", "enqueue", "warm_start", "top", "anyway"),
)
"""Options that act only if a sampler chooses, which it does not in continual."""

HALVINGS = 10
"""Maximum number of times that continual halves its factors."""

GRACE = 2
"""Number of tasks after which pruning begins: after task 1, trials with the same seed are all alike."""

BENCHMARK_SETTINGS = ("grouping", "image_size", "image_channels", "classes_per_task")
"""Settings that describe the classes and images of one benchmark and do not carry over to another."""


def searched_tasks(options: Options, tasks: int) -> tuple[int, ...]:
    """Return the numbers of the tasks that trials of the search learn."""
    first_k = options.protocol is Protocol.FIRST_K
    return tuple(range(1, ((options.first_k or FIRST_K) if first_k else tasks) + 1))


def reported_tasks(options: Options, tasks: int) -> tuple[int, ...]:
    """Return the numbers of the tasks to report on, in the benchmark to report on."""
    first_k = options.protocol is Protocol.FIRST_K
    return tuple(range(((options.first_k or FIRST_K) + 1) if first_k else 1, tasks + 1))


def reporting_seeds(options: Options, config: TrialConfig) -> tuple[int, ...]:
    """Return the fresh seeds of the final evaluation."""
    count = options.report_seeds or REPORT_SEEDS.get(config.source.name, 10)
    return tuple(range(options.first_report_seed, options.first_report_seed + count))


def report_settings(settings: dict[str, Any], config: TrialConfig, benchmark: str) -> dict[str, Any]:
    """Carry the settings of a search over to the benchmark that two_phase reports on.

    Scenario and number of tasks stay; settings that describe the classes and images of the search's benchmark go.
    """
    kept = {name: value for name, value in settings.items() if name not in BENCHMARK_SETTINGS}
    return kept | {"benchmark": benchmark, "scenario": config.scenario.value, "tasks": config.tasks}


def check_protocol(options: Options, given: set[str], config: TrialConfig, space: SearchSpace) -> list[Refusal]:
    """Check the rules of a study's protocol.

    Args:
        options: Options of the study.
        given: Names of the options that the script or the user sets.
        config: A complete configuration of the study.
        space: Hyperparameter -> the range to search.
    """
    learned = len(searched_tasks(options, config.tasks))
    unlearned = unlearned_by(config.requests, learned)
    return [
        *_option_problems(options, config.tasks),
        *_warm_start_problems(options, given),
        *(_continual_problems(options, given, config, space) if options.protocol is Protocol.CONTINUAL else ()),
        *(_unlearning_problems(options, config, space) if config.unlearns else ()),
        *check_objectives(options.objectives, learned, config.scenario, unlearned),
        *check_constraints(options.constraints, learned, config.scenario, unlearned),
        *_reference_problems(options, config),
        *_rate_problems(options),
        *check_sampler(options.sampler, space, options.objectives, bool(options.constraints)),
        *_patience_problems(options),
        *_pruner_problems(options, learned),
        *_seed_problems(options, config),
    ]


def _option_problems(options: Options, tasks: int) -> list[Refusal]:
    """Check that options fit the protocol, the benchmark and each other."""
    protocol = options.protocol
    problems = [
        Refusal(
            "protocol-only", f"{name}: acts with protocol = {other} only; got {getattr(options, name)} with {protocol}"
        )
        for other, names in PROTOCOL_OPTIONS.items()
        for name in names
        if other is not protocol and getattr(options, name) is not None
    ]
    first_k = options.first_k or FIRST_K
    if protocol is Protocol.FIRST_K and not first_k <= tasks - 2:
        text = f"first_k: must leave at least two of the {tasks} tasks to report on; got {first_k}"
        problems.append(Refusal("two-tasks-to-report", text))
    if protocol is Protocol.TWO_PHASE and options.report_benchmark is None:
        text = "report_benchmark: must name the benchmark that two_phase reports on; got none"
        problems.append(Refusal("report-benchmark-needed", text))
    if options.quiet and options.verbose:
        problems.append(Refusal("quiet-or-verbose", "quiet, verbose: at most one of the two; got both"))
    return problems


def _warm_start_problems(options: Options, given: set[str]) -> list[Refusal]:
    """Check that options of a warm start have one."""
    return [
        Refusal("warm-start-needed", f"{name}: acts with --warm-start only; got {getattr(options, name)} without one")
        for name in ("top", "anyway")
        if options.warm_start is None and name in given and getattr(options, name)
    ]


def _continual_problems(options: Options, given: set[str], config: TrialConfig, space: SearchSpace) -> list[Refusal]:
    """Check what continual can search, and that no option of a sampler is given."""
    if config.algorithm in ("joint", "independent"):
        rule = f"continual continues from the current model, which {config.algorithm} does not have"
        return [Refusal("continual-keeps-model", f"protocol: {rule}; got continual")]
    problems = []
    for name in SEARCH_OPTIONS:
        value = getattr(options, name)
        if name in given and value != Options.model_fields[name].default:
            shown = " ".join(map(str, value)) if isinstance(value, tuple | dict) else describe_choice(value)
            text = f"{name}: acts only if a sampler chooses, which it does not in continual; got {shown}"
            problems.append(Refusal("sampler-only", text))
    for name, domain in space.items():
        kind = "range" if domain.numeric else "choice"
        if name == "learning_rate":
            text = "learning_rate: continual chooses it from --learning-rates; give one value, not a range"
            problems.append(Refusal("continual-rates", text))
        elif name not in decaying():
            rule = f"stays the same in continual, where only {' and '.join(decaying())} decay"
            example = write_word(domain.setting(domain.ends[0]))
            hint = f"give one value (--{name.replace('_', '-')} {example}) instead of a {kind}"
            problems.append(Refusal("continual-decays", f"{name}: {rule}; {hint}"))
    if config.algorithm != "finetuning" and not any(name in decaying() for name in space):
        text = "protocol: continual needs the range of a factor, from whose top it decays; got none"
        problems.append(Refusal("continual-needs-factor", text))
    return problems


def _unlearning_problems(options: Options, config: TrialConfig, space: SearchSpace) -> list[Refusal]:
    """Check that a study of unlearning has a request, and one model to measure all trials against."""
    problems = []
    if not config.unlearn:
        text = f"unlearn: {config.algorithm} needs a request, as 3:1 (after task 3 unlearn task 1); got none"
        problems.append(Refusal("unlearn-needed", text))
    if options.protocol is not Protocol.END_OF_SEQUENCE:
        text = f"protocol: must be end_of_sequence if tasks are unlearned; got {options.protocol}"
        problems.append(Refusal("unlearning-protocol", text))
    if others := [name for name in options.references if name != "finetuning"]:
        rule = "must be finetuning alone (with the same requests) if tasks are unlearned, because others do not unlearn"
        problems.append(Refusal("unlearning-references", f"references: {rule}; got {' '.join(others)}"))
    common = {name for section in COMMON_SECTIONS for name in section.model_fields}
    rule = "must have one value if tasks are unlearned, because the model that all trials are measured against has it"
    problems += [
        Refusal("unlearning-one-value", f"{name}: {rule}; got {space[name]}") for name in space if name in common
    ]
    return problems


def _reference_problems(options: Options, config: TrialConfig) -> list[Refusal]:
    """Check that every trained algorithm has the objectives."""
    if "forward_transfer" in options.objectives and "independent" in (config.algorithm, *options.references):
        rule = "forward_transfer is not defined for independent networks, because later tasks have no network yet"
        return [Refusal("no-forward-transfer", f"objectives: {rule}; got both")]
    return []


def _rate_problems(options: Options) -> list[Refusal]:
    return [
        Refusal(
            "single-precision",
            f"learning_rates: must lie in single precision, {SMALLEST:g} to {LARGEST:g}; got {rate:g}",
        )
        for rate in options.learning_rates or ()
        if not SMALLEST <= rate <= LARGEST
    ]


def _patience_problems(options: Options) -> list[Refusal]:
    if options.patience is not None and len(options.objectives) > 1:
        text = "patience: waits for a better best trial, which several objectives do not have"
        return [Refusal("patience-one-objective", f"{text}; got {' '.join(options.objectives)}")]
    return []


def _pruner_problems(options: Options, tasks: int) -> list[Refusal]:
    """Check that trials can be stopped early: the pruner compares average accuracy after each task."""
    if options.pruner is Pruner.NONE or options.protocol is Protocol.CONTINUAL:
        return []
    if options.objectives != ("average_accuracy",):
        rule = "stops by average_accuracy, which must be the only objective"
        got = f"{describe_choice(options.pruner)} with {' '.join(options.objectives)}"
        return [Refusal("pruner-objective", f"pruner: {rule}; got {got}")]
    if tasks <= GRACE and isinstance(options.pruner, Pruner):
        rule = f"stops after task {GRACE} at the earliest, so more tasks must be searched"
        return [Refusal("pruner-needs-tasks", f"pruner: {rule}; got {tasks}")]
    return []


def _seed_problems(options: Options, config: TrialConfig) -> list[Refusal]:
    """Check that the seeds of the final evaluation are fresh."""
    searched = range(options.first_seed, options.first_seed + options.seeds)
    reported = reporting_seeds(options, config)
    both = range(max(searched[0], reported[0]), min(searched[-1], reported[-1]) + 1)
    if not options.final or not both:
        return []
    shown = f"{both[0]} to {both[-1]}" if len(both) > 1 else f"{both[0]}"
    rule = f"the final evaluation's seeds, {reported[0]} to {reported[-1]}, must be none that the search uses"
    return [Refusal("fresh-seeds", f"first_report_seed: {rule}; got {shown} in both")]


def check_report(search: TrialConfig, report: TrialConfig) -> None:
    """Refuse a report benchmark that is the search's own, or whose tasks and classes differ. Raises ConfigError."""
    if report.benchmark == search.benchmark:
        text = f"report_benchmark: must differ from the search's; got {report.benchmark}"
        raise ConfigError([Refusal("report-another-benchmark", text)])
    counts = [class_counts(config) for config in (search, report)]
    if counts[0] != counts[1]:
        wanted, got = (" ".join(map(str, one)) for one in counts)
        rule = f"must have as many tasks and classes per task as {search.benchmark}, {wanted}"
        raise ConfigError([Refusal("report-same-counts", f"report_benchmark: {rule}; got {got} of {report.benchmark}")])
