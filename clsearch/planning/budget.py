"""Refuse a study that no machine can finish, by arithmetic on its settings, before anything is counted out in memory.

Every number is a lower bound: what is refused needs more than is there, and what passes may still need too much. Of
what is searched, memory is counted for the largest network and batch, which some trial has, and time, disk and records
for the mean of epochs, iterations and batch size.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from operator import itemgetter
from pathlib import Path

from clsearch.common.errors import Refusal
from clsearch.common.formatting import count_of
from clsearch.config.sections import TaskConstruction
from clsearch.config.space_reading import mean_of
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import TrialConfig
from clsearch.planning.options import Options, Protocol

LARGEST_SEED = 2**63 - 1
"""Tables hold seeds as 64-bit integers."""

YEAR = 365.25 * 24 * 3600
"""Seconds after which a study needs --yes."""

WHOLE_BATCH = 2**16
"""A batch of at most this size may exceed the samples: it then holds a whole task."""

STEP_SECONDS = 5e-5
"""Lower bound of a training step, which is not measured here: a CUDA graph of a small network replays in twice that."""

TRIAL_SECONDS = 0.01
"""Lower bound of what a trial costs besides its training: asking Optuna, and writing its files."""

CLUSTER_WORKERS = 1000
"""Assumed number of workers of a cluster, which is not known before it is joined."""

CLUSTER_MEMORY = 2**44
"""Assumed memory of a node of a cluster, 16 TiB."""

PARAMETER_BYTES = 3 * 4
"""Memory of a parameter: itself, the copy that a task moves, and its gradient."""

NUMBER_BYTES = 32
"""Memory of a number in a list of Python, in which the driver holds accuracies and learning curves."""

CURVE_COLUMNS = 4
"""Columns that every learning curve has."""

RECORD_BYTES, RECORD_FILES = 2000, 3
"""Memory, and disk, of a trial's record without its numbers; and the number of its files."""

CURVE_ROW_BYTES = 40
"""Size of a row of learning_curve.csv."""


@dataclass(frozen=True)
class Budget:
    """What a study asks for.

    Attributes:
        options: Options of the study.
        config: A complete configuration of the study, with the mean of searched lengths.
        trials: Number of configurations.
        largest: Configurations with the ends of searched sizes, instead of `config` for memory; empty if none is
            searched.
    """

    options: Options
    config: TrialConfig
    trials: int
    largest: tuple[TrialConfig, ...] = ()

    @property
    def trainings(self) -> int:
        """Number of trainings of the search, with references."""
        return self.trials + len(self.options.references)

    @property
    def tasks(self) -> int:
        """Number of tasks that the search learns, without listing them."""
        first_k = self.options.protocol is Protocol.FIRST_K
        return min(self.config.tasks, self.options.first_k or 3) if first_k else self.config.tasks

    def trial_bytes(self, config: TrialConfig, members: int) -> int:
        """Memory of a trial of some members: networks, a batch, the numbers of its samples, accuracies."""
        samples = config.source.samples
        sequences = 1 if config.kind is TaskConstruction.SPLIT else self.tasks
        chosen = samples if config.source.groups is None and config.classes_per_task is None else 0
        batch = min(config.batch_size, samples or config.batch_size) * prod(config.source.shape) * 4
        return members * (
            count_parameters(config) * PARAMETER_BYTES + batch + chosen * sequences * 8 + self.tasks**2 * 8
        )

    @property
    def curve_rows(self) -> int:
        """Rows of the learning curve of a training, one per epoch, task and seed."""
        return (self.config.epochs or 1) * self.tasks * self.options.seeds

    @property
    def driver_bytes(self) -> int:
        """Memory of the records in the driver."""
        matrix = self.options.seeds * self.tasks * (self.tasks + 1)
        curve = self.curve_rows * CURVE_COLUMNS
        return self.trainings * ((matrix + curve) * NUMBER_BYTES + RECORD_BYTES)

    @property
    def disk_bytes(self) -> int:
        """Disk space of the records."""
        return self.trainings * (self.curve_rows * CURVE_ROW_BYTES + RECORD_BYTES)

    @property
    def steps(self) -> int:
        """Training steps of all trainings; those of all seeds of a trial are one step."""
        config, samples = self.config, self.config.source.samples
        per_epoch = max(1, int(samples * (1 - config.source.validation_fraction)) // config.batch_size)
        split = config.kind is TaskConstruction.SPLIT
        whole = config.source.groups is None and config.classes_per_task is None
        if not whole:
            per_epoch = config.tasks
        elif not split:
            per_epoch *= config.tasks
        searched = config.epochs * per_epoch if config.epochs else (config.iterations or 1) * config.tasks
        evaluated = (1 + len(self.options.references)) * searched if self.options.final else 0
        together = max(1, min(self.options.cohort, self.trials))
        return self.trainings * searched * self.tasks // config.tasks // together + evaluated

    @property
    def workers(self) -> int:
        """Number of trials that train at a time, at most."""
        own = CLUSTER_WORKERS if _joins_cluster(self.options) else (os.cpu_count() or 1)
        return max(1, min(own // self.options.cpus_per_trial, self.options.max_concurrent or own))

    @property
    def seconds(self) -> float:
        """Time of the study on its workers."""
        return self.steps * STEP_SECONDS / self.workers + self.trials * TRIAL_SECONDS


def count_parameters(config: TrialConfig) -> int:
    """Count the parameters of a network, as far as the widths of its layers tell."""
    widths = [*config.hidden, 2]
    if config.backbone == "mlp":
        widths = [prod(config.source.shape), *widths]
    return sum(a * b for a, b in pairwise(widths))


def mean_config(config: TrialConfig, space: SearchSpace) -> TrialConfig:
    """Return a configuration with the mean of what is searched of epochs, iterations and batch size."""
    means = {
        name: max(1, round(mean_of(space[name])))
        for name in ("epochs", "iterations", "batch_size")
        if name in space and getattr(config, name) is not None
    }
    return config.model_copy(update=means) if means else config


def largest_configs(config: TrialConfig, space: SearchSpace) -> tuple[TrialConfig, ...]:
    """Return configurations with each end of the searched widths and batch sizes, one at a time."""
    return tuple(
        config.model_copy(update={part.name: part.domain.setting(end)})
        for part in space.parts
        if part.name in ("hidden", "batch_size")
        for end in part.domain.ends
        if end is not None
    )


def check_budget(options: Options, config: TrialConfig, trials: int, space: SearchSpace | None = None) -> list[Refusal]:
    """Check that seeds, memory, disk and time suffice for a study.

    Args:
        options: Options of the study.
        config: A complete configuration of the study.
        trials: Number of configurations.
        space: What is searched.
    """
    space = space or SearchSpace()
    largest = largest_configs(config, space)
    batches = [problem for each in largest or (config,) for problem in _batch_problems(each)]
    if problems := [*_seed_problems(options), *dict.fromkeys(batches)]:
        return problems
    budget = Budget(options, mean_config(config, space), trials, largest)
    return [*_memory_problems(budget)] or [*_disk_problems(budget)] or [*_time_problems(budget)]


def _seed_problems(options: Options) -> Iterator[Refusal]:
    ends = {
        "seeds": options.first_seed + options.seeds - 1,
        "report_seeds": options.first_report_seed + (options.report_seeds or 1) - 1,
    }
    for name, last in ends.items():
        if last > LARGEST_SEED:
            yield Refusal("largest-seed", f"{name}: the last seed must be at most 2^63 - 1; got {last}")


def _batch_problems(config: TrialConfig) -> Iterator[Refusal]:
    samples = config.source.samples
    most = max(samples, WHOLE_BATCH)
    if samples and config.batch_size > most:
        rule = f"must be at most {most:,}; {config.benchmark} has {samples:,} training samples"
        yield Refusal("batch-of-the-data", f"batch_size: {rule}; got {config.batch_size}")


def _memory_problems(budget: Budget) -> Iterator[Refusal]:
    options, config = budget.options, budget.config
    here = machine_memory()
    node = CLUSTER_MEMORY if _joins_cluster(options) else here
    cohort = min(options.cohort, budget.trials) if not budget.largest else 1  # other sizes train apart
    members = {"seeds": options.seeds * cohort} | ({"report_seeds": options.report_seeds} if options.final else {})
    for name, count in members.items():
        if count is None:
            continue
        needed, config = max(
            ((budget.trial_bytes(each, count), each) for each in budget.largest or (config,)), key=itemgetter(0)
        )
        if needed > node:
            got = f"{count_of(count, 'network')} of {count_of(count_parameters(config), 'parameter')} at a time"
            names = f"{name}, hidden, batch_size, tasks" + ", cohort" * (cohort > 1 and name == "seeds")
            rule = f"a training must fit into {format_bytes(node)} of memory; it needs more than {format_bytes(needed)}"
            yield Refusal("training-fits-memory", f"{names}: {rule}; got {got}, {count_of(config.tasks, 'task')}")
            return
    if (needed := budget.driver_bytes) > here:
        got = (
            f"{count_of(budget.trainings, 'training')} with {count_of(options.seeds, 'seed')}, "
            f"{count_of(budget.tasks, 'task')} and {count_of(budget.curve_rows, 'row')} of the learning curve each"
        )
        rule = (
            f"the records must fit into this machine's memory, {format_bytes(here)}; "
            f"they need more than {format_bytes(needed)}"
        )
        yield Refusal("records-fit-memory", f"{_trials_field(options)}, seeds, tasks, epochs: {rule}; got {got}")


def _disk_problems(budget: Budget) -> Iterator[Refusal]:
    free, files = free_disk(budget.options.results)
    fields = f"{_trials_field(budget.options)}, seeds, epochs"
    if (needed := budget.disk_bytes) > free:
        rule = f"the records must fit on the disk of the results, {format_bytes(free)} free"
        got = f"{count_of(budget.trainings, 'training')}, which write more than {format_bytes(needed)}"
        yield Refusal("records-fit-disk", f"{fields}: {rule}; got {got}")
    elif files and (count := budget.trainings * RECORD_FILES) > files:
        rule = f"the disk of the results must take the files of the records, {files:,} at most"
        yield Refusal("records-fit-files", f"{fields}: {rule}; got {count:,}")


def _time_problems(budget: Budget) -> Iterator[Refusal]:
    if budget.options.yes or budget.seconds <= YEAR:
        return
    fields = f"{_trials_field(budget.options)}, epochs, iterations, tasks"
    rule = "a study must end within a year, or go on with --yes"
    years = budget.seconds / YEAR
    got = (
        f"{count_of(budget.trials, 'trial')} and {count_of(budget.steps, 'step')} on "
        f"{count_of(budget.workers, 'worker')}, more than {years:,.1f} years at {STEP_SECONDS * 1e6:g} microseconds a "
        f"step, which is assumed and not measured"
    )
    yield Refusal("within-a-year", f"{fields}: {rule}; got {got}")


def _trials_field(options: Options) -> str:
    return "grid_points" if options.sampler == "grid" and options.trials is None else "trials"


def _joins_cluster(options: Options) -> bool:
    """Return True if the trials may run on other machines than this one."""
    ray = sys.modules.get("ray")
    address = options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    return address != "local" or (ray is not None and bool(ray.is_initialized()))


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or of this process's control group if that has fewer."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or `max`
            continue
    return found


def free_disk(folder: Path) -> tuple[int, int]:
    """Return free bytes and free files of the disk that a folder is on, or will be on; 0 files if it has no limit."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free, os.statvfs(there).f_favail


def format_bytes(count: int) -> str:
    """Format a number of bytes: `1.5 GB`.

    >>> format_bytes(3 * 10**9)
    '3.0 GB'
    """
    for unit, size in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.1f} MB"
