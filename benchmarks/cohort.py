"""Measure how many members one worker trains per second, for several sizes of a cohort.

    python benchmarks/cohort.py
    python benchmarks/cohort.py --device cuda --sizes 1 4 16 64 256 --network "Split MNIST"

Members (here: seeds of one configuration) train together as one stack of networks. Each size learns the same two tasks
as a trial does, including evaluation and memory. Sizes take turns; the ratio is to one member at a time.

The second table compares 32 members with one for networks of two layers of other widths. The third compares a step of
task 2 with its matrix products alone, which are a lower bound; on a GPU it also has the step captured as a CUDA graph,
which almost removes the cost of launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import tyro
from step import NETWORKS
from timing import micro, noise_like, show, side_by_side, table

from clsearch.execution.resources import WorkerResources
from clsearch.methods.registry import configure
from clsearch.networks.mlp import MLP, trainable_copy
from clsearch.training.loop import learn_sequence, learn_task, train_step
from clsearch.training.task_setup import plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup, build_trial


@dataclass
class Options:
    network: Literal["digits", "Split MNIST"] = "digits"
    """The MLP."""
    algorithm: str = "lwf"
    """Algorithm, with its default hyperparameters."""
    sizes: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Numbers of members trained together."""
    iterations: int = 60
    """Steps per task."""
    widths: tuple[int, ...] = (16, 32, 64, 100, 256)
    """Widths of the second table's networks; none omits the table."""
    rounds: int = 3
    """Number of timings of each size."""
    device: str = "cpu"
    """The device."""
    threads: int = 1
    """Number of torch threads on a CPU."""


def run_of(options: Options, members: int, width: int | None = None) -> TrialSetup:
    """Make a trial of two tasks on random images. width: of two hidden layers, instead of the network's own."""
    settings = NETWORKS[options.network] | {"iterations": options.iterations, "learning_rate": 1e-2}
    settings |= {} if width is None else {"hidden": (width, width)}
    config = configure(options.algorithm, settings)
    data = noise_like(config, 0 if options.network == "digits" else 12_000)
    return build_trial(config, range(members), options.device, data, sequence=(1, 2))


def trained(options: Options, members: int, width: int | None = None) -> Callable[[], object]:
    """Make work that learns two tasks."""
    run = run_of(options, members, width)

    def work() -> object:
        state = learn_sequence(run)
        if options.device != "cpu":
            torch.cuda.synchronize()
        return state

    return work


def over_widths(options: Options) -> None:
    shown = table(f"32 members, {options.network}", "hidden layers", "one (s)", "32 (s)", "times one at a time")
    for width in options.widths:
        timed = side_by_side({str(n): trained(options, n, width) for n in (1, 32)}, options.rounds)
        seconds = [f"{timed.median(name):.3f}" for name in ("1", "32")]
        shown.add_row(f"{width}, {width}", *seconds, f"{32 / timed.ratio('32', '1'):.1f}")
    show(shown)


STEPS = 20
"""Steps, and products, per round of the third table."""


def stepping(run: TrialSetup, captured: bool) -> Callable[[], object]:
    """Make work that runs steps of task 2, one launch after another or captured as a CUDA graph."""
    state = learn_task(run, run.initial_state())
    setup = prepare_task(run, state, run.benchmark.tasks[1])
    step = next(plan_epochs(run, setup))[0]
    seen = setup.samples.take(step.batch.positions)
    params, moments = trainable_copy(state.params), run.optimizer.initial(state.params)

    def once() -> None:
        train_step(run, setup, params, moments, step.batch, step.rate, seen)

    if not captured:
        return repeated(once, run.device)
    side = torch.cuda.Stream()  # capture needs a warm-up on another stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return repeated(graph.replay, run.device)


def products(run: TrialSetup) -> Callable[[], object]:
    """Make work that computes the matrix products of a step, forward and backward, on tensors of the same sizes."""
    assert isinstance(run.network, MLP)
    M, B = len(run.seeds), run.config.batch_size
    widths = (run.network.inputs, *run.network.hidden, run.network.outputs)
    layers = [
        tuple(torch.randn(M, *size, device=run.device) for size in ((B, before), (before, after), (B, after)))
        for before, after in pairwise(widths)
    ]

    def once() -> None:
        for number, (inputs, weights, outputs) in enumerate(layers):
            torch.bmm(inputs, weights)
            torch.bmm(inputs.mT, outputs)
            if number:
                torch.bmm(outputs, weights.mT)

    return repeated(once, run.device)


def repeated(once: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Make work that repeats a call STEPS times and waits for the device."""

    def work() -> None:
        for _ in range(STEPS):
            once()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return work


def steps_over_products(options: Options) -> None:
    cuda = options.device != "cpu"
    more = ("captured (µs)", "over products") if cuda else ()
    shown = table("A step of task 2", "members", "products (µs)", "step (µs)", "over products", *more)
    for size in options.sizes:
        run = run_of(options, size)
        work = {"products": products(run), "step": stepping(run, False)}
        if cuda:
            work["captured"] = stepping(run, True)
        timed = side_by_side(work, options.rounds)
        cells = [micro(timed.median("products") / STEPS)]
        for kind in list(work)[1:]:
            cells += [micro(timed.median(kind) / STEPS), f"{timed.ratio(kind, 'products'):.2f}"]
        shown.add_row(str(size), *cells)
    show(shown)


def main(options: Options) -> None:
    WorkerResources(options.threads, 0).apply("cpu")
    timed = side_by_side({str(size): trained(options, size) for size in options.sizes}, options.rounds)
    first = str(options.sizes[0])
    shown = table(
        f"{options.algorithm}, {options.network} MLP, two tasks of {options.iterations} steps, {options.device}",
        *("members", "seconds", "members per second", "times one at a time"),
    )
    for size in options.sizes:
        seconds = timed.median(str(size))
        gain = size / options.sizes[0] / timed.ratio(str(size), first)
        shown.add_row(str(size), f"{seconds:.3f}", f"{size / seconds:,.1f}", f"{gain:.2f}")
    show(shown)
    if options.widths:
        over_widths(options)
    steps_over_products(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
