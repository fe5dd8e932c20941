"""A trial, built: everything fixed before training starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data
from clsearch.methods.base import Hyperparameters, Regularizer, TrainingScheme
from clsearch.methods.registry import method_named
from clsearch.networks.mlp import Network, Params
from clsearch.networks.validation import build_network
from clsearch.tasks.benchmark import Benchmark, build_benchmark
from clsearch.training.optimizers import Optimizer, build_optimizer
from clsearch.training.state import TrialState


@dataclass(frozen=True)
class Run:
    """Configurations on seeds, ready to train; each seed of each is one of M members, in this order. Usually there is
    one configuration; several differ in hyperparameters only.

    config: what they share. configurations: how many they are.
    references: number of tasks learned -> parameters of a model that never saw those unlearned by then, see
    `retraining`. prefixes: the folder where trials leave the first task for each other, see `prefix`; None: they don't.
    """

    config: TrialConfig
    device: torch.device
    benchmark: Benchmark
    network: Network
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...]
    scheme: TrainingScheme
    hyperparameters: Hyperparameters
    configurations: int = 1
    references: Mapping[int, Params] = field(default_factory=dict)
    prefixes: Path | None = None

    def with_numbers(self, values: Mapping[str, float]) -> Run:
        """The run with other values of some hyperparameters, the same for all members. Its states continue with them,
        because nothing that a state holds depends on them.

        Raises ValueError for another name, and where the run was built for a special value (p = 2) that is changed.
        """
        known = method_named(self.config.algorithm).hyperparameters
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"{unknown[0]}: must be one of {', '.join(known)}, which a run may change")
        for name, value in values.items():
            special = known[name].special
            if special is not None and getattr(self.config, name) == special != value:
                raise ValueError(f"{name}: must stay {special:g} in a run that was built with it; got {value:g}")
        new = {name: torch.full_like(self.hyperparameters[name], value) for name, value in values.items()}
        return replace(self, hyperparameters=self.hyperparameters | new)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per member."""
        return self.benchmark.seeds

    @property
    def seeds_each(self) -> int:
        """How many members a configuration has."""
        return len(self.seeds) // self.configurations

    @property
    def lead(self) -> Run:
        """The first configuration alone."""
        if self.configurations == 1:
            return self
        S = self.seeds_each
        own = {name: numbers[:S] for name, numbers in self.hyperparameters.items()}
        references = {at: {name: value[:S] for name, value in of.items()} for at, of in self.references.items()}
        return replace(
            self,
            benchmark=self.benchmark.first(S),
            hyperparameters=own,
            configurations=1,
            references=references,
        )

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Backbone features [M, B, H] in float32, as training computes them: in the configured precision."""
        if self.config.precision == "float32":
            return self.network.features(params, inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.network.features(params, inputs).float()

    @property
    def columns(self) -> tuple[str, ...]:
        """What each step logs: columns of the learning curve."""
        logs = tuple(name for regularizer in self.regularizers for name in regularizer.logs)
        rate = ("learning_rate",) if self.scheduled else ()
        return ("loss", "loss_classification", "penalty", *logs, "accuracy", *rate)

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes within a task."""
        return self.config.schedule != "constant" or self.config.warmup > 0

    @property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.config, self.seeds, [task.origin for task in self.benchmark.tasks])

    def initial_state(self) -> TrialState:
        """The state before the first task, row 0 of the accuracy matrix not measured yet."""
        params = self.network.initial(self.seeds, self.device)
        M, T = len(self.seeds), len(self.benchmark.tasks)
        return TrialState(
            fingerprint=self.fingerprint,
            tasks_learned=0,
            params=params,
            moments=self.optimizer.initial(params),
            memory={},
            accuracy=torch.full((M, T + 1, T), torch.nan, dtype=torch.float64),
            curve=torch.empty(0, M, len(self.columns)),
            epochs=torch.empty(0, 2, dtype=torch.int64),
            seconds=0.0,
        )


def settings_of(config: TrialConfig, names: Collection[str] | None = None) -> dict[str, Any]:
    """A configuration's settings, or those of these names, with what the data are in place of where they lie."""
    settings, source = config.flat(), config.source
    settings |= {"data_root": None, "grouping": source.groups}
    if source.identity:
        settings["benchmark"] = source.identity
    return {name: value for name, value in settings.items() if names is None or name in names}


def fingerprint_of(config: TrialConfig, seeds: Sequence[int], sequence: Sequence[int]) -> str:
    """Names a configuration, its seeds and the tasks learned. The device is left out, so a trial may move, and so is
    the data's place: images of a folder count by what they are.
    """
    text = json.dumps([config.algorithm, settings_of(config), tuple(seeds), list(sequence)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_run(
    config: TrialConfig,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> Run:
    """Build what a configuration names, for one member per seed. data: the source's, unless it is to be read here.
    sequence: see `build_benchmark`.

    Raises ValueError without seeds, where one comes twice, or for a task that is not there, ConfigError for a backbone
    that cannot be used, and as Reader does where data cannot be read.
    """
    return build_cohort([config], seeds, device, data, sequence)


def build_cohort(
    configs: Sequence[TrialConfig],
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> Run:
    """As `build_run`, of several configurations that train together, each on all seeds: members 0..S-1 are the first
    one's. Raises ValueError where they differ in more than hyperparameters, too.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: must be at least one, each once; got {list(seeds)}")
    if others := {name for config in configs for name in differing(configs[0], config)} - {*configs[0].hyperparameters}:
        raise ValueError(f"configurations that train together must have the same {min(others)}")
    config = configuration_for_all(configs)
    where, method = torch.device(device), method_named(config.algorithm)
    benchmark = build_benchmark(config, [*seeds] * len(configs), where, data, sequence)

    def numbers(name: str) -> Tensor:
        return torch.tensor([float(getattr(c, name)) for c in configs], device=where).repeat_interleave(len(seeds))

    return Run(
        config=config,
        device=where,
        benchmark=benchmark,
        network=build_network(config, benchmark.shape, benchmark.outputs, where),
        optimizer=build_optimizer(config),
        regularizers=tuple(build(config) for build in method.builders),
        scheme=method.scheme,
        hyperparameters={name: numbers(name) for name in config.hyperparameters},
        configurations=len(configs),
    )


def configuration_for_all(configs: Sequence[TrialConfig]) -> TrialConfig:
    """A configuration whose built step serves all of several: special values (p = 2) only where all have them."""
    general: dict[str, float] = {}
    for name, mark in method_named(configs[0].algorithm).hyperparameters.items():
        others = [value for config in configs if (value := getattr(config, name)) != mark.special]
        if mark.special is not None and others:
            general[name] = others[0]
    return configs[0].model_copy(update=general)


def differing(one: TrialConfig, other: TrialConfig) -> list[str]:
    """Names of the settings, the algorithm among them, in which two configurations differ."""
    ours, theirs = ({"algorithm": config.algorithm} | config.flat() for config in (one, other))
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
