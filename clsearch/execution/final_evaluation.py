"""The final evaluation: the choice and its references on seeds that the search never used, measured on test data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch

from clsearch.common.checked_files import DamagedFile
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, Source, read_data
from clsearch.execution.ray_tasks import fetch, side_by_side, store_object, unlearning_references
from clsearch.execution.sealed_data import open_test, read_for_evaluation
from clsearch.methods.registry import fields_of
from clsearch.planning.plan import Plan
from clsearch.planning.targets import Target, rows_of, targets_of
from clsearch.records.evaluation import PARTS, EvaluatedConfiguration, FinalEvaluation
from clsearch.records.evaluation_file import read_final
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening
from clsearch.tasks.test_data import sealed_samples
from clsearch.training.evaluation import drop_unlearned, measure_row
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.retraining import References, move_references
from clsearch.training.trial_setup import build_trial
from clsearch.training.unlearning import without_unlearned

PerTask = tuple[dict[str, float], ...]


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
    if final is None or final.seeds != plan.report_seeds:
        return None
    if plan.further:  # the same configuration has other scores then
        final = replace(final, searched_seeds=plan.every_seed, choice=replace(final.choice, scores=choice.scores))
    if final.choice != choice:
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

    opened = _open_data(plan, targets_of(plan), choice, data, say, note)
    rows = rows_of(plan)
    settings = [settings_of(plan, choice, algorithm, target) for target, algorithm in rows]
    jobs = [
        (config, plan.report_seeds, target.tasks, per_task, *opened[target.config.source], against)
        for (target, _), (config, per_task) in zip(rows, settings, strict=True)
    ]
    found: dict[int, EvaluatedConfiguration] = {}
    what = f"final evaluation on {len(plan.report_seeds)} fresh seeds"
    say(what)
    for index, result in side_by_side(plan, _measure_in_worker, jobs):
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


def _open_data(
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
            train = data if config.source == plan.config.source else store_object(_read_training(config))
            results, study = plan.folder.parent, plan.options.name
            test, _ = open_test(results, study, config, values, plan.report_seeds, plan.every_seed, on_opening)
            found[config.source] = (train, store_object(test))
    return found


def _read_training(config: TrialConfig) -> Data:
    return read_for_evaluation(partial(read_data, config.source, config.data_root), config)


def settings_of(plan: Plan, choice: Choice, algorithm: str, target: Target) -> tuple[TrialConfig, PerTask]:
    """Return the configuration, and the values per task, of the choice or a reference.

    A reference uses the chosen values of the hyperparameters that it has too (the learning rate); otherwise it would be
    easy to beat.
    """
    own = fields_of(algorithm)
    per_task = tuple({name: value for name, value in task.items() if name in own} for task in choice.per_task)
    return plan.trial_config(choice.values, algorithm, target.config), per_task


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


def _measure_in_worker(
    device: torch.device,
    config: TrialConfig,
    seeds: Sequence[int],
    tasks: Sequence[int],
    per_task: PerTask,
    data: Data,
    test: Data,
    references: References | None,
) -> dict[str, Any]:
    """Run `measure` in a worker, and return arrays: records are read without torch."""
    found = measure(config, seeds, data, test, tasks, per_task, device, references)
    matrices = {part: found[part].numpy() for part in PARTS}
    unlearning = {part: {name: v.numpy() for name, v in of.items()} for part, of in found["unlearning"].items()}
    return found | matrices | {"unlearning": unlearning}
