"""Measure the cost of the Fisher information, relative to an epoch of training on the same data.

    python benchmarks/fisher.py

Each estimator processes a whole task; the baseline is one epoch of finetuning on that task. They take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import tyro
from step import NETWORKS, lesson_of, run_of
from timing import show, side_by_side, table

from clsearch.execution.resources import WorkerResources
from clsearch.methods.ewc import EWCConfig
from clsearch.methods.penalties.fisher import Fisher
from clsearch.networks.mlp import output_mask, trainable_copy
from clsearch.training.loop import train_step
from clsearch.training.trial_setup import TrialSetup

KINDS: tuple[str, ...] = get_args(EWCConfig.model_fields["fisher"].annotation)


@dataclass
class Options:
    seeds: int = 1
    """Number of members measured together."""
    rounds: int = 5
    """Number of timings of each piece."""


def epoch(run: TrialSetup) -> Callable[[], object]:
    """Make work that trains one epoch of a task."""
    state = run.initial_state()
    setup, steps = lesson_of(run, state)

    def work() -> object:
        params, moments = trainable_copy(state.params), run.optimizer.initial(state.params)
        for step in steps:
            train_step(run, setup, params, moments, step.batch, step.rate)
        return params

    return work


def measured(run: TrialSetup, kind: str) -> Callable[[], object]:
    """Make work that estimates the Fisher information of the first task."""
    task, params = run.benchmark.tasks[0], run.initial_state().params
    allowed = output_mask(run.benchmark.active_outputs(1, 1), run.benchmark.outputs, run.device)
    estimator = Fisher(kind, None, run.config.batch_size)
    return lambda: estimator(run.network, params, task.train, allowed, run.seeds, task.origin)


def main(options: Options) -> None:
    WorkerResources(1, 0).apply("cpu")
    shown = table(
        f"Fisher information of a task over one epoch of training on it, {options.seeds} member(s)",
        *("network", "epoch (ms)", *(f"{kind}" for kind in KINDS)),
    )
    settings: dict[str, dict[str, Any]] = NETWORKS | {"permuted MNIST": {"benchmark": "permuted-mnist", "tasks": 2}}
    for network, own in settings.items():
        run = run_of("finetuning", own, options.seeds, samples=0 if network == "digits" else 12_000)
        timed = side_by_side({"epoch": epoch(run)} | {kind: measured(run, kind) for kind in KINDS}, options.rounds)
        ratios = [f"{timed.ratio(kind, 'epoch'):.2f}" for kind in KINDS]
        shown.add_row(network, f"{1e3 * timed.median('epoch'):,.1f}", *ratios)
    show(shown)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
