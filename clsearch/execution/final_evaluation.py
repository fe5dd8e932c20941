"""The final evaluation: the only code that opens test data.

It trains the chosen configuration and its references on seeds that the search never used. Each opening is recorded
before it happens.
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

from clsearch.common.checked_files import DamagedFile
from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, ImageFolder, Source, read_data
from clsearch.data.image_folder import digest_words, list_images
from clsearch.execution.data_loading import unreadable
from clsearch.execution.ray_tasks import fetch, side_by_side, store_object, unlearning_references
from clsearch.methods.registry import fields_of
from clsearch.planning.plan import Plan
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation, read_final
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening, check_ledger, record_opening
from clsearch.tasks.test_data import check_test, read_test, sealed_reader, sealed_samples
from clsearch.training.evaluation import drop_unlearned, measure_row
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.retraining import References, move_references
from clsearch.training.trial_setup import build_trial
from clsearch.training.unlearning import without_unlearned

PerTask = tuple[dict[str, float], ...]


WITHOUT = ", as test data; or leave the final evaluation out (--no-final)"
"""What to do if test data cannot be used."""


class SealedError(RuntimeError):
    """Test data cannot be opened, or the opening cannot be recorded. The findings of the search are kept."""


@dataclass(frozen=True)
class Target:
    """A benchmark and tasks on which a choice is scored.

    Attributes:
        on: `reported` or `full_sequence`.
        config: The configuration on the target's benchmark.
        tasks: The tasks that are learned, from fresh weights.
    """

    on: str
    config: TrialConfig
    tasks: tuple[int, ...]


def targets_of(plan: Plan) -> list[Target]:
    """Return the target of the protocol, and the full sequence of the search's benchmark, on which protocols are
    compared.
    """
    full = Target("full_sequence", plan.config, tuple(range(1, plan.config.tasks + 1)))
    reported = Target("reported", plan.report or plan.config, plan.reported)
    return [full] if (reported.config, reported.tasks) == (full.config, full.tasks) else [reported, full]


def rows_of(plan: Plan) -> list[tuple[Target, str]]:
    """Return the configurations to measure: the choice, then its references, on each target."""
    return [(target, algorithm) for target in targets_of(plan) for algorithm in (plan.algorithm, *plan.references)]


def already_evaluated(plan: Plan, choice: Choice, warn: Callable[[str], None]) -> FinalEvaluation | None:
    """Return the final evaluation of an earlier process if it is the one that `evaluate` would make, else None.

    Args:
        plan: The study.
        choice: The chosen configuration.
        warn: Called if it is damaged, and test data must be opened again.
    """
    try:
        final = read_final(plan.folder)
    except DamagedFile as damage:
        warn(f"the final evaluation is made again, and test data are opened again: {damage}")
        return None
    if final is None or (final.choice, final.seeds) != (choice, plan.report_seeds):
        return None
    same = [(row.on, row.algorithm) for row in final.rows] == [(target.on, name) for target, name in rows_of(plan)]
    return final if same else None


def evaluate(
    plan: Plan, choice: Choice, data: ray.ObjectRef, say: Callable[[str], None], on_opening: Callable[[Opening], None]
) -> FinalEvaluation:
    """Train the choice and its references on fresh seeds in Ray's workers, and measure them on validation and test
    data.

    Args:
        plan: The study.
        choice: The chosen configuration.
        data: A reference to the training data of the search's benchmark.
        say: Called with a description of the current step.
        on_opening: Called with each opening when it is recorded.

    Raises:
        SealedError: Data cannot be read.
    """
    began = time.perf_counter()
    against = unlearning_references(plan, plan.report_seeds, data, say)
    openings: list[Opening] = []

    def note(opening: Opening) -> None:
        openings.append(opening)
        on_opening(opening)

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
            **fetch(result),
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
    on_opening: Callable[[Opening], None],
) -> dict[Source, tuple[ray.ObjectRef, ray.ObjectRef]]:
    """Load training and test data of each reported source into the object store; open each test set once."""
    values = choice.values | ({"per_task": list(choice.per_task)} if choice.per_task else {})
    found: dict[Source, tuple[ray.ObjectRef, ray.ObjectRef]] = {}
    for config in (target.config for target in targets):
        if config.source not in found:
            say(f"opening the test data of {config.benchmark}")
            train = data if config.source == plan.config.source else store_object(_training(config))
            results, study = plan.folder.parent, plan.options.name
            test, _ = open_test(results, study, config, values, plan.report_seeds, plan.seeds, on_opening)
            found[config.source] = (train, store_object(test))
    return found


def _training(config: TrialConfig) -> Data:
    return _read(partial(read_data, config.source, config.data_root), config)


def settings_of(plan: Plan, choice: Choice, algorithm: str, target: Target) -> tuple[TrialConfig, PerTask]:
    """Return the configuration, and the values per task, of the choice or a reference.

    A reference uses the chosen values of the hyperparameters that it has too (the learning rate); otherwise it would be
    easy to beat.
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
    on_opening: Callable[[Opening], None] = lambda opening: None,
) -> tuple[Data, Opening]:
    """Open the test data of a benchmark for a chosen configuration. No other function returns test data.

    Args:
        results: The results folder; its ledger records the opening before the data are read.
        study: The name of the study, for the ledger.
        config: The configuration, which names the benchmark.
        values: The chosen hyperparameters.
        seeds: The seeds to measure on.
        searched: The seeds of the search.
        on_opening: Called after the opening is recorded and before the data are read.

    Raises:
        ValueError: The search used one of the seeds.
        SealedError: The data cannot be read, or the opening cannot be recorded.
    """
    if used := sorted({*seeds} & {*searched}):
        raise ValueError(f"seeds: must be fresh, none that the search used; got {' '.join(map(str, used))} among them")
    try:
        opening = record_opening(
            results, test_identity(config), study, config.algorithm, values, seeds, lasting_identities(config)
        )
    except ConfigError as error:
        raise SealedError("; ".join(error.problems)) from None
    except (OSError, ValueError, KeyError) as error:
        raise SealedError(f"results: the ledger of test data must be whole and writable; got: {error!r}") from None
    on_opening(opening)
    return _read(partial(read_test, config), config), opening


def test_identity(config: TrialConfig) -> str:
    """Return the identity of test data: the source's name, or a digest of a folder's test images."""
    read = config.source.read
    if isinstance(read, ImageFolder):
        return list_images(read.folder, "test", sorted(config.source.classes)).identity
    return config.source.name


def lasting_identities(config: TrialConfig) -> tuple[str, ...]:
    """Return digests of the place, and of the name and the classes, of a user's own images.

    They stay the same when a file is mended, while `test_identity` changes. A source with a name needs none.
    """
    read = config.source.read
    if not isinstance(read, ImageFolder):
        return ()
    folder = read.folder.resolve()
    return digest_words(["place", str(folder)])[:16], digest_words(
        ["name", folder.name, *sorted(config.source.classes)]
    )[:16]


def check_sealed(plan: Plan) -> None:
    """Check before the search that the final evaluation will find usable test data and a whole ledger.

    The sealed module decodes the data, and says only whether it could.

    Raises:
        ConfigError: Test data cannot be decoded, or the ledger is damaged.
    """
    if not plan.options.final:
        return
    check_ledger(plan.folder.parent)
    for config in {target.config.source: target.config for target in targets_of(plan)}.values():
        try:
            check_test(config)
        except ConfigError as error:
            raise ConfigError(Refusal(problem.rule, f"{problem}{WITHOUT}") for problem in error.problems) from None
        except Exception as error:  # readers raise many types
            problem = unreadable(config, False, error)
            raise ConfigError([Refusal(problem.rule, f"{problem}{WITHOUT}")]) from None


def fetch_test(plan: Plan) -> None:
    """Download the test files that the final evaluation needs, before the search.

    torchvision's reader decodes the files that it downloads; the decoded data are discarded here.

    Raises:
        ConfigError: The files cannot be downloaded.
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
    """Learn a sequence from fresh weights, and measure it on validation and test data after each task.

    Args:
        config: The configuration.
        seeds: One member is trained per seed (M in total).
        data: The training data.
        test: The test data.
        tasks: See `build_benchmark`.
        per_task: Hyperparameters of each task, if they differ from the configuration's.
        device: Where to train.
        references: The models that unlearning is measured against.

    Returns:
        `validation` and `test`, R [M, T+1, T] each; `unlearning` of both parts if tasks were unlearned; `seconds`; and
        `reason`: why training diverged, else empty.

    Raises:
        ValueError: per_task does not have one entry per task.
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
    """Run `measure` in a worker."""
    return measure(config, seeds, data, test, tasks, per_task, device, references)
