"""The final evaluation: the only code that opens test data. It comes after a configuration was chosen, for that
configuration and its references, on seeds that the search never used; each opening is recorded before it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from clsearch.common.errors import ConfigError
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, ImageFolder, Source, read_data
from clsearch.data.image_folder import list_images
from clsearch.execution.data_loading import unreadable
from clsearch.execution.ray_tasks import side_by_side, unlearning_references
from clsearch.methods.registry import fields_of
from clsearch.planning.plan import Plan
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation, read_final
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening, record_opening
from clsearch.tasks.test_data import read_test, sealed_reader, sealed_samples
from clsearch.training.evaluation import drop_unlearned, measure_row
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.retraining import References, move_references
from clsearch.training.trial_setup import build_trial
from clsearch.training.unlearning import without_unlearned

PerTask = tuple[dict[str, float], ...]


class SealedError(RuntimeError):
    """Test data cannot be opened, or be recorded as opened; what the search found stays as it is."""


@dataclass(frozen=True)
class Target:
    """What a choice is scored on. on: `reported` or `full_sequence`. config: on its benchmark. tasks: which of its
    tasks are learned, with fresh weights.
    """

    on: str
    config: TrialConfig
    tasks: tuple[int, ...]


def targets_of(plan: Plan) -> list[Target]:
    """What the protocol reports on, and the full sequence of the search's benchmark, on which protocols compare."""
    full = Target("full_sequence", plan.config, tuple(range(1, plan.config.tasks + 1)))
    reported = Target("reported", plan.report or plan.config, plan.reported)
    return [full] if (reported.config, reported.tasks) == (full.config, full.tasks) else [reported, full]


def rows_of(plan: Plan) -> list[tuple[Target, str]]:
    """What is measured: the choice, then its references, on each target."""
    return [(target, algorithm) for target in targets_of(plan) for algorithm in (plan.algorithm, *plan.references)]


def already_evaluated(plan: Plan, choice: Choice) -> FinalEvaluation | None:
    """The final evaluation that an earlier process ended, where it is the one that `evaluate` would make."""
    final = read_final(plan.folder)
    if final is None or (final.choice, final.seeds) != (choice, plan.report_seeds):
        return None
    same = [(row.on, row.algorithm) for row in final.rows] == [(target.on, name) for target, name in rows_of(plan)]
    return final if same else None


def evaluate(
    plan: Plan, choice: Choice, data: ray.ObjectRef, say: Callable[[str], None], told: Callable[[Opening], None]
) -> FinalEvaluation:
    """Train the choice and its references on fresh seeds, in Ray's workers, and measure them on validation and test
    data. data: the training data of the search's benchmark. say: told what is being done; told: of each opening, as
    it is recorded.

    Raises SealedError where data cannot be read.
    """
    began = time.perf_counter()
    against = unlearning_references(plan, plan.report_seeds, data, say)
    openings: list[Opening] = []

    def note(opening: Opening) -> None:
        openings.append(opening)
        told(opening)

    opened = _opened(plan, targets_of(plan), choice, data, say, note)
    rows = rows_of(plan)
    settings = [settings_of(plan, choice, algorithm, target) for target, algorithm in rows]
    jobs = [
        (config, plan.report_seeds, target.tasks, per_task, *opened[target.config.source], against)
        for (target, _), (config, per_task) in zip(rows, settings, strict=True)
    ]
    found: dict[int, EvaluatedConfiguration] = {}
    what = f"final evaluation on {len(plan.report_seeds)} fresh seeds"
    say(what)
    for index, result in side_by_side(plan, _measured, jobs):
        (target, algorithm), (config, per_task) = rows[index], settings[index]
        found[index] = EvaluatedConfiguration(
            configuration="chosen" if algorithm == plan.algorithm else algorithm,
            algorithm=algorithm,
            on=target.on,
            benchmark=config.benchmark,
            tasks=target.tasks,
            settings={name: value for name, value in config.flat().items() if not any(name in v for v in per_task)},
            per_task=per_task,
            **ray.get(result),
        )
        say(f"{what}: {len(found)}/{len(jobs)} configurations")
    rows_found = tuple(found[i] for i in sorted(found))
    return FinalEvaluation.of(plan, choice, rows_found, tuple(openings), time.perf_counter() - began)


def _opened(
    plan: Plan,
    targets: Sequence[Target],
    choice: Choice,
    data: ray.ObjectRef,
    say: Callable[[str], None],
    told: Callable[[Opening], None],
) -> dict[Source, tuple[ray.ObjectRef, ray.ObjectRef]]:
    """Training and test data of each source that is reported on, in the object store; each test set opened once."""
    values = choice.values | ({"per_task": list(choice.per_task)} if choice.per_task else {})
    found: dict[Source, tuple[ray.ObjectRef, ray.ObjectRef]] = {}
    for config in (target.config for target in targets):
        if config.source not in found:
            say(f"opening the test data of {config.benchmark}")
            train = data if config.source == plan.config.source else ray.put(_training(config))
            results, study = plan.folder.parent, plan.options.name
            test, _ = open_test(results, study, config, values, plan.report_seeds, plan.seeds, told)
            found[config.source] = (train, ray.put(test))
    return found


def _training(config: TrialConfig) -> Data:
    return _read(partial(read_data, config.source, config.data_root), config)


def settings_of(plan: Plan, choice: Choice, algorithm: str, target: Target) -> tuple[TrialConfig, PerTask]:
    """Configuration, and values per task, of the choice or a reference. A reference takes what was chosen of the
    settings that it has, too (the learning rate): at any other it would be easy to beat.
    """
    own = fields_of(algorithm)
    per_task = tuple({name: value for name, value in task.items() if name in own} for task in choice.per_task)
    return plan.trial_config(choice.values, algorithm, target.config), per_task


def open_test(
    results: Path,
    study: str,
    config: TrialConfig,
    values: Mapping[str, Any],
    seeds: Sequence[int],
    searched: Sequence[int],
    told: Callable[[Opening], None] = lambda opening: None,
) -> tuple[Data, Opening]:
    """The test data of a configuration's benchmark, for a configuration that was chosen; the one function that gives
    it out. results, study: whose ledger says so, before the data is read; told: after that, before it is read, too.
    values: what was chosen. seeds: that it will be measured on; searched: that it was chosen on.

    Raises ValueError where a seed was searched on, SealedError where the data cannot be read.
    """
    if used := sorted({*seeds} & {*searched}):
        raise ValueError(f"seeds: must be fresh, none that the search used; got {' '.join(map(str, used))} among them")
    try:
        opening = record_opening(results, test_identity(config), study, config.algorithm, values, seeds)
    except ConfigError as error:
        raise SealedError("; ".join(error.problems)) from None
    except (OSError, ValueError, KeyError) as error:
        raise SealedError(f"results: the ledger of test data must be whole and writable; got: {error!r}") from None
    told(opening)
    return _read(partial(read_test, config), config), opening


def test_identity(config: TrialConfig) -> str:
    """Which test data a configuration's is: the source's name, or a digest of a folder's test images."""
    read = config.source.read
    if isinstance(read, ImageFolder):
        return list_images(read.folder, "test", sorted(config.source.classes)).identity
    return config.source.name


def fetch_test(plan: Plan) -> None:
    """Download test files that the final evaluation will need and that are not there, before the search. torchvision's
    reader decodes what it fetched; that is dropped here and given to nobody.

    Raises ConfigError where they cannot be fetched.
    """
    for config in (plan.config, plan.report or plan.config):
        if plan.options.final and config.source.missing_files(config.data_root, "test"):
            try:
                sealed_reader(config)(config.data_root, True, None)
            except Exception as error:  # readers raise many types
                raise ConfigError([unreadable(config, True, error)]) from None


def _read(read: Callable[[], Data], config: TrialConfig) -> Data:
    try:
        return read()
    except ConfigError as error:
        raise SealedError("; ".join(error.problems)) from None
    except Exception as error:  # readers raise many types
        raise SealedError(unreadable(config, False, error)) from None


def measure(
    config: TrialConfig,
    seeds: Sequence[int],
    data: Data,
    test: Data,
    tasks: Sequence[int] | None = None,
    per_task: PerTask = (),
    device: torch.device | str = "cpu",
    references: References | None = None,
) -> dict[str, Any]:
    """Learn a sequence with fresh weights, and measure it on validation and test data after each task.

    tasks: see `build_benchmark`. per_task: hyperparameters of each task, where they differ from the configuration's.
    references: what unlearning is measured against.
    Raises ValueError where per_task has not one entry per task.
    Returns `validation` and `test`, R [M, T+1, T] each, `unlearning` of both parts where tasks were, `seconds`, and
    `reason`: why there is no more of them where training diverged, else empty.
    """
    began, reason = time.perf_counter(), ""
    trial = build_trial(config, seeds, device, data, tasks)
    trial = replace(trial, references=move_references(references or {}, trial.device))
    sealed = sealed_samples(config, trial.benchmark, test)
    runs = [trial.with_hyperparameters(own) for own in per_task] or [trial] * len(sealed)
    if len(runs) != len(sealed):
        raise ValueError(f"per_task: must have one entry for each of {len(sealed)} tasks; got {len(per_task)}")
    state = trial.initial_state()
    accuracy = measure_row(trial, state, state.accuracy, sealed)
    try:
        for own in runs:
            state = learn_task(own, state)
            accuracy = measure_row(without_unlearned(own, state), state, accuracy, sealed)
    except DivergedError as error:
        reason = str(error)
    found = {"validation": state.accuracy, "test": drop_unlearned(accuracy, state.unlearning), "unlearning": {}}
    if state.unlearning:  # before a request, and of features, on validation data alone
        on_test = {"after": accuracy, "chance": state.unlearning["chance"]}
        found["unlearning"] = {"validation": state.unlearning, "test": on_test}
    return found | {"seconds": time.perf_counter() - began, "reason": reason}


def _measured(
    device: torch.device,
    config: TrialConfig,
    seeds: Sequence[int],
    tasks: Sequence[int],
    per_task: PerTask,
    data: Data,
    test: Data,
    references: References | None,
) -> dict[str, Any]:
    """`measure`, in a worker."""
    return measure(config, seeds, data, test, tasks, per_task, device, references)
