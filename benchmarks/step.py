"""Measure the cost of a training step against a hand-written loop, over tasks, and over seeds.

    python benchmarks/step.py

Three tables of medians; pieces that are compared take turns, on one thread and random images.
1. A step of each algorithm in its third task, one member, over the same arithmetic written by hand (`minimal`).
2. A step at task 20 of permuted-mnist over one at task 2; and the cost of a task besides its steps.
3. A step of many seeds over one of one seed.

With --peers, instead: the same task learned by other libraries (`peers`), if they are installed, over clsearch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
import tyro
from minimal import minimal_loop
from peers import PEERS
from timing import micro, noise_like, show, side_by_side, table

from clsearch.execution.resources import WorkerResources
from clsearch.methods.registry import configure
from clsearch.networks.mlp import trainable_copy
from clsearch.tasks.samples import load_batches
from clsearch.training.learning_curve import curve_rows
from clsearch.training.loop import CHECK_STEPS, remember_task, train_step, train_task
from clsearch.training.state import TrialState
from clsearch.training.task_setup import Step, TaskSetup, plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup, build_trial

NETWORKS: dict[str, dict[str, Any]] = {
    "digits": {"benchmark": "split-digits", "batch_size": 32},
    "Split MNIST": {"benchmark": "split-mnist", "hidden": (400, 400), "batch_size": 128},
}
"""The digits MLP with a study's defaults; Split MNIST's of van de Ven et al. 2022."""

ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetuning": ("finetuning", {}),
    "LwF": ("lwf", {}),
    "EWC, p = 2": ("ewc", {"penalty_factor": 10.0}),
    "EWC, p = 1.5": ("ewc", {"penalty_factor": 10.0, "penalty_p_norm": 1.5}),
    "LwF + EWC": ("lwf_ewc", {"penalty_factor": 10.0}),
}


PEER_EPOCHS = 5
"""Epochs of the task that other libraries learn."""


@dataclass
class Options:
    rounds: int = 5
    """Number of timings of each piece."""
    steps: int = 100
    """Steps per round."""
    seeds: tuple[int, ...] = (3, 10)
    """Numbers of seeds that are compared with one."""
    peers: bool = False
    """Compare with other libraries that are installed."""


def run_of(algorithm: str, settings: dict[str, Any], seeds: int = 1, samples: int = 0) -> TrialSetup:
    """Make a trial on random images."""
    config = configure(algorithm, {"epochs": 1, "learning_rate": 1e-3} | settings)
    return build_trial(config, range(seeds), data=noise_like(config, samples))


def before(run: TrialSetup, task: int) -> TrialState:
    """Make a state that has learned the tasks before one: parameters change slightly at each, and are remembered."""
    state, generator = run.initial_state(), torch.Generator().manual_seed(0)
    for _ in range(task - 1):
        moved = {n: v + 1e-3 * torch.randn(v.shape, generator=generator) for n, v in state.params.items()}
        state = remember_task(run, replace(state, params=moved))
    return state


def lesson_of(run: TrialSetup, state: TrialState) -> tuple[TaskSetup, list[Step]]:
    """Prepare the next task, and the steps of its first epoch."""
    setup = prepare_task(run, state, run.benchmark.tasks[state.tasks_learned])
    return setup, next(plan_epochs(run, setup))


def loop(run: TrialSetup, state: TrialState, steps: int) -> Callable[[], object]:
    """Make work that runs `steps` steps of clsearch in the next task."""
    setup, own = lesson_of(run, state)

    def work() -> object:
        params, moments, rows = trainable_copy(state.params), run.optimizer.initial(state.params), []
        for first in range(0, steps, CHECK_STEPS):  # as in `train_task`
            logs = []
            part = [own[n % len(own)] for n in range(first, min(first + CHECK_STEPS, steps))]
            for step, seen in zip(part, load_batches(setup.samples, [step.batch for step in part]), strict=True):
                logs.append(train_step(run, setup, params, moments, step.batch, step.rate, seen))
            rows.append(curve_rows(run.columns, logs))
        return params, rows

    return work


def against_minimal(options: Options) -> None:
    shown = table("A step in task 3, one member", "network", "algorithm", "ours (µs)", "by hand (µs)", "ratio")
    for network, settings in NETWORKS.items():
        for name, (algorithm, own) in ALGORITHMS.items():
            run = run_of(algorithm, settings | own, samples=0 if network == "digits" else 12_000)
            state = before(run, 3)
            _, steps = lesson_of(run, state)
            timed = side_by_side(
                {"ours": loop(run, state, options.steps), "hand": minimal_loop(run, state, steps, options.steps)},
                options.rounds,
            )
            each = [micro(timed.median(kind) / options.steps) for kind in ("ours", "hand")]
            shown.add_row(network, name, *each, f"{timed.ratio('ours', 'hand'):.2f}")
    show(shown)


def over_tasks(options: Options) -> None:
    shown = table(
        "permuted-mnist, 20 tasks, one member: task 20 over task 2",
        *("algorithm", "step, 2 (µs)", "20 (µs)", "ratio"),
        *("prepared, 2 (ms)", "20 (ms)", "remembered, 20 (ms)", "epoch, 20 (ms)"),
    )
    for name, (algorithm, own) in ALGORITHMS.items():
        run = run_of(algorithm, {"benchmark": "permuted-mnist", "tasks": 20, "batch_size": 128} | own, samples=6_000)
        early, late = before(run, 2), before(run, 20)
        batches = len(lesson_of(run, late)[1])
        timed = side_by_side({"2": loop(run, early, 40), "20": loop(run, late, 40)}, min(options.rounds, 3))
        besides = side_by_side(
            {
                "2": lambda run=run, early=early: lesson_of(run, early),
                "20": lambda run=run, late=late: lesson_of(run, late),
                "remembered": lambda run=run, late=late: remember_task(run, late),
            },
            3,
        )
        each = [micro(timed.median(kind) / 40) for kind in ("2", "20")]
        more = [f"{1e3 * besides.median(kind):,.0f}" for kind in ("2", "20", "remembered")]
        epoch = f"{1e3 * timed.median('20') / 40 * batches:,.0f}"
        shown.add_row(name, *each, f"{timed.ratio('20', '2'):.2f}", *more, epoch)
    show(shown)


def over_seeds(options: Options) -> None:
    shown = table(
        "A step of many seeds in task 3, over one of one seed",
        *("network", "algorithm", "one (µs)"),
        *(f"{n} seeds, per seed" for n in options.seeds),
    )
    for network, settings in NETWORKS.items():
        for name in ("LwF", "EWC, p = 2"):
            (algorithm, own), steps = ALGORITHMS[name], options.steps // 4
            work = {}
            for n in (1, *options.seeds):
                run = run_of(algorithm, settings | own, n, samples=0 if network == "digits" else 12_000)
                work[str(n)] = loop(run, before(run, 3), steps)
            timed = side_by_side(work, 3)
            ratios = [f"{timed.ratio(str(n), '1') / n:.2f}" for n in options.seeds]
            shown.add_row(network, name, micro(timed.median("1") / steps), *ratios)
    show(shown)


def against_peers(options: Options) -> None:
    there = {library: peer for library, peer in PEERS.items() if find_spec(library.lower()) is not None}
    if not there:
        raise SystemExit(f"error: {' or '.join(PEERS)} must be installed here for --peers; got neither")
    shown = table(
        f"Learning task 3, {PEER_EPOCHS} epochs, one seed, with what is remembered of it; nothing is evaluated",
        *("network", "algorithm", "library", "its (ms)", "ours (ms)", "ratio"),
    )
    for network, settings in NETWORKS.items():
        for name in ("finetuning", "LwF", "EWC, p = 2"):
            algorithm, own = ALGORITHMS[name]
            more = own | {"epochs": PEER_EPOCHS}
            run = run_of(algorithm, settings | more, samples=0 if network == "digits" else 12_000)
            state = before(run, 3)
            for library, peer in there.items():
                work = {"theirs": peer(run, 2), "ours": lambda run=run, state=state: learned(run, state)}
                timed = side_by_side(work, options.rounds)
                each = [f"{1e3 * timed.median(kind):,.0f}" for kind in ("theirs", "ours")]
                shown.add_row(network, name, library, *each, f"{timed.ratio('theirs', 'ours'):.1f}")
    show(shown)


def learned(run: TrialSetup, state: TrialState) -> TrialState:
    """Learn the next task as `learn_task` does, without evaluation."""
    return remember_task(run, train_task(run, state, run.benchmark.tasks[state.tasks_learned]))


def main(options: Options) -> None:
    WorkerResources(1, 0).apply("cpu")
    if options.peers:
        against_peers(options)
        return
    against_minimal(options)
    over_tasks(options)
    over_seeds(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
