"""Build everything of a trial that is fixed before training starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
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


def ignore_line(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class TrialSetup:
    """One or several configurations on seeds, ready to train.

    Each seed of each configuration is one of M members, in this order. Several configurations differ in hyperparameters
    only, see `TrialConfig.structure`.

    Args:
        config: The settings that the configurations share.
        device: Device to train on.
        benchmark: Tasks for M members.
        network: Backbone and head over M members.
        optimizer: Updates the parameters.
        regularizers: Penalties of the method.
        scheme: Network and data of each task.
        hyperparameters: Name -> [M].
        configurations: Number of configurations.
        differing: Name -> the value of each configuration, of the hyperparameters in which they differ.
        references: Number of tasks learned -> parameters of a model that never saw the tasks unlearned by then, see
            `retraining`.
        prefixes: Folder in which trials share the first task, see `first_task_cache`; None for no sharing.
        tell: Called with a line for the user, about a file that was damaged.
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
    differing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    references: Mapping[int, Params] = field(default_factory=dict)
    prefixes: Path | None = None
    tell: Callable[[str], None] = ignore_line

    def with_hyperparameters(self, values: Mapping[str, float]) -> TrialSetup:
        """Return the setup with other values of some hyperparameters, the same for all members.

        States of this setup can be continued with the new one, because no part of a state depends on these values.

        Args:
            values: Hyperparameter -> value.

        Raises:
            ValueError: For a name that is no hyperparameter of the method, or for another value than the special one (p
                = 2) that the trial was built for.
        """
        known = method_named(self.config.algorithm).hyperparameters
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"{unknown[0]}: must be one of {', '.join(known)}, which a trial can change")
        for name, value in values.items():
            special = known[name].special
            if special is not None and getattr(self.config, name) == special != value:
                raise ValueError(f"{name}: must stay {special:g} in a trial that was built with it; got {value:g}")
        new = {name: torch.full_like(self.hyperparameters[name], value) for name, value in values.items()}
        return replace(self, hyperparameters=self.hyperparameters | new)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each member."""
        return self.benchmark.seeds

    @property
    def seeds_each(self) -> int:
        """Number of members of each configuration."""
        return len(self.seeds) // self.configurations

    def config_of(self, place: int) -> TrialConfig:
        """Return the configuration at a place among those that train together."""
        own = {name: values[place] for name, values in self.differing.items()}
        return self.config.model_copy(update=own) if own else self.config

    @property
    def first_configuration(self) -> TrialSetup:
        """The setup of the first configuration alone."""
        if self.configurations == 1:
            return self
        S = self.seeds_each
        hyperparameters = {name: values[:S] for name, values in self.hyperparameters.items()}
        references = {
            after: {name: value[:S] for name, value in params.items()} for after, params in self.references.items()
        }
        config = self.config_of(0)
        return replace(
            self,
            config=config,
            benchmark=self.benchmark.first(S),
            optimizer=build_optimizer(config),
            regularizers=bind_members(self.regularizers, {name: hyperparameters[name] for name in self.differing}),
            hyperparameters=hyperparameters,
            configurations=1,
            differing={},
            references=references,
        )

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Compute backbone features [M, B, H] in float32, with the precision of training."""
        if self.config.precision == "float32":
            return self.network.features(params, inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.network.features(params, inputs).float()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the logged values of a step: the columns of the learning curve."""
        logs = tuple(name for regularizer in self.regularizers for name in regularizer.logs)
        rate = ("learning_rate",) if self.scheduled else ()
        return ("loss", "loss_classification", "penalty", *logs, "accuracy", *rate)

    @property
    def scheduled(self) -> bool:
        """True if the learning rate changes within a task."""
        return self.config.schedule != "constant" or self.config.warmup > 0

    @property
    def fingerprint(self) -> str:
        """Digest of configuration, seeds and tasks, see the function `fingerprint`."""
        return fingerprint(self.config, self.seeds, [task.origin for task in self.benchmark.tasks])

    def initial_state(self) -> TrialState:
        """Return the state before the first task; row 0 of the accuracy matrix is not measured yet."""
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


def identifying_settings(config: TrialConfig, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return a configuration's settings, with the identity of the data in place of their path.

    Args:
        config: The configuration.
        names: Settings to return; None for all.
    """
    settings, source = config.flat(), config.source
    settings |= {"data_root": None, "grouping": source.groups}
    if source.identity:
        settings["benchmark"] = source.identity
    return {name: value for name, value in settings.items() if names is None or name in names}


def fingerprint(config: TrialConfig, seeds: Sequence[int], sequence: Sequence[int]) -> str:
    """Return a digest of a configuration, its seeds and the learned tasks.

    The digest does not depend on the device, so a trial can move to another one, nor on the path of the data: a folder
    of images counts by its identity.

    Args:
        config: The configuration.
        seeds: One per member.
        sequence: Original numbers of the tasks.

    Returns:
        16 hex digits.
    """
    text = json.dumps([config.algorithm, identifying_settings(config), tuple(seeds), list(sequence)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_trial(
    config: TrialConfig,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> TrialSetup:
    """Build a configuration, for one member per seed.

    Args:
        config: The configuration.
        seeds: One per member, each once.
        device: Device to train on.
        data: Training data of the source; None reads it.
        sequence: Numbers of the tasks to learn, see `build_benchmark`.

    Raises:
        ValueError: Without seeds, for a repeated seed, or for a task that does not exist.
        ConfigError: For a backbone that cannot be used.
        OSError, RuntimeError, ConfigError: As `Reader`, if data cannot be read.
    """
    return build_trials([config], seeds, device, data, sequence)


def build_trials(
    configs: Sequence[TrialConfig],
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    data: Data | None = None,
    sequence: Sequence[int] | None = None,
) -> TrialSetup:
    """Build several configurations that train together, each on all seeds.

    Members 0..S-1 belong to the first configuration, and so on.

    Args:
        configs: The configurations.
        seeds: One per member of a configuration, each once.
        device: Device to train on.
        data: Training data of the source; None reads it.
        sequence: Numbers of the tasks to learn, see `build_benchmark`.

    Raises:
        ValueError: If the configurations differ in structure, and as `build_trial`.
        ConfigError, OSError, RuntimeError: As `build_trial`.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: must name at least one, each once; got {list(seeds)}")
    structure = configs[0].structure()
    for other in (config.structure() for config in configs[1:]):
        if apart := [name for name in structure | other if structure.get(name) != other.get(name)]:
            raise ValueError(f"configurations that train together must have the same {min(apart)}")
    config = configuration_for_all(configs)
    device, method = torch.device(device), method_named(config.algorithm)
    benchmark = build_benchmark(config, [*seeds] * len(configs), device, data, sequence)

    numbers = {name: tuple(float(getattr(each, name)) for each in configs) for name in config.hyperparameters}
    hyperparameters = {
        name: torch.tensor(values, device=device).repeat_interleave(len(seeds)) for name, values in numbers.items()
    }
    differing = {name: values for name, values in numbers.items() if len({*values}) > 1}
    of_members = {name: hyperparameters[name] for name in differing}
    return TrialSetup(
        config=config,
        device=device,
        benchmark=benchmark,
        network=build_network(config, benchmark.shape, benchmark.outputs, device),
        optimizer=build_optimizer(config, of_members),
        regularizers=bind_members([build(config) for build in method.builders], of_members),
        scheme=method.scheme,
        hyperparameters=hyperparameters,
        configurations=len(configs),
        differing=differing,
    )


def bind_members(regularizers: Sequence[Regularizer], differing: Hyperparameters) -> tuple[Regularizer, ...]:
    """Give the numbers in which members differ to the regularizers whose `remember` reads them, see `Regularizer`."""
    return tuple(
        each.for_members(differing) if differing and hasattr(each, "for_members") else each for each in regularizers
    )


def configuration_for_all(configs: Sequence[TrialConfig]) -> TrialConfig:
    """Return a configuration whose training step serves all; a special value (p = 2) needs all to have it."""
    general: dict[str, float] = {}
    for name, hyperparameter in method_named(configs[0].algorithm).hyperparameters.items():
        others = [value for config in configs if (value := getattr(config, name)) != hyperparameter.special]
        if hyperparameter.special is not None and others:
            general[name] = others[0]
    return configs[0].model_copy(update=general)
