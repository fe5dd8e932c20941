"""How many members does one worker train per second, over the size of a cohort?

    python benchmarks/cohort.py
    python benchmarks/cohort.py --device cuda --sizes 1 4 16 64 256 --network "Split MNIST"

Members (here: seeds of one configuration) train together as one stack of networks. Each size learns the same two tasks
as a trial does, evaluation and what is remembered included. Sizes take turns; the ratio is to one member at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from step import NETWORKS
from timing import noise_like, show, side_by_side, table

from clsearch.core.config import TrialConfig
from clsearch.core.loop import learn_sequence
from clsearch.core.run import build_run


@dataclass
class Options:
    network: Literal["digits", "Split MNIST"] = "digits"
    """Which MLP."""
    algorithm: str = "lwf"
    """Algorithm, with its default hyperparameters."""
    sizes: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Members trained together."""
    iterations: int = 60
    """Steps per task."""
    rounds: int = 5
    """How often each size is timed."""
    device: str = "cpu"
    """Where."""
    threads: int = 1
    """Torch's, on a CPU."""


def trained(options: Options, members: int) -> Callable[[], object]:
    """Two tasks of so many members."""
    settings = NETWORKS[options.network] | {"iterations": options.iterations, "learning_rate": 1e-2}
    config = TrialConfig.of(options.algorithm, settings)
    data = noise_like(config, 0 if options.network == "digits" else 12_000)
    run = build_run(config, range(members), options.device, data, sequence=(1, 2))

    def work() -> object:
        state = learn_sequence(run)
        if options.device != "cpu":
            torch.cuda.synchronize()
        return state

    return work


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
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


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
