"""Measure what a known configuration saves: short searches that try it first, and short and long ones without it.

    python benchmarks/enqueue.py

LwF on the split digits. The best of a long study, with a sampler seed of its own, is enqueued in short studies. Prints
the best validation average accuracy of each group of studies, which differ in the sampler's seed only.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import ray
import tyro
from timing import show, table

from clsearch import SPACES, LogRange, Study

SOURCE_SEED = 1_000
"""Sampler seed of the study whose best configuration is enqueued."""


@dataclass
class Options:
    studies: int = 10
    """Number of studies of each group."""
    short: int = 8
    """Number of trials of a short study."""
    long: int = 32
    """Number of trials of a long study."""
    epochs: int = 3
    """Epochs per task."""
    seeds: int = 2
    """Seeds per trial."""
    workers: int = 2
    """Number of trials at a time."""


def best_of(results: Path, options: Options, name: str, **settings: Any) -> tuple[float, dict[str, Any]]:
    """Run a study; return the best validation average accuracy, and its values."""
    study = Study(
        algorithm="lwf",
        name=name,
        space=SPACES["lwf"] | {"learning_rate": LogRange(1e-4, 1)},
        hidden=(64,),
        epochs=options.epochs,
        seeds=options.seeds,
        references=(),
        final=False,
        quiet=True,
        results=results,
        **settings,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        best = study.run().best
    assert best is not None, f"no trial of {name} finished"
    return best.metrics["average_accuracy"], dict(best.values)


def main(options: Options) -> None:
    groups: dict[str, dict[str, Any]] = {
        f"{options.short} trials, the known best enqueued": {"trials": options.short},
        f"{options.short} trials": {"trials": options.short},
        f"{options.long} trials": {"trials": options.long},
    }
    with tempfile.TemporaryDirectory() as place:
        results = Path(place)
        ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        score, known = best_of(results, options, "source", trials=options.long, sampler_seed=SOURCE_SEED)
        groups[f"{options.short} trials, the known best enqueued"]["enqueue"] = known
        found = {
            name: [
                best_of(results, options, f"study-{number}-{seed}", sampler_seed=seed, **settings)[0]
                for seed in range(options.studies)
            ]
            for number, (name, settings) in enumerate(groups.items())
        }
        ray.shutdown()
    shown = table(
        "Best validation average accuracy", "group", f"mean of {options.studies} (%)", "worst (%)", "best (%)"
    )
    for name, scores in found.items():
        shown.add_row(name, *(f"{100 * value:.2f}" for value in (mean(scores), min(scores), max(scores))))
    show(shown)
    values = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
    print(f"known best, of another study with {options.long} trials: {100 * score:.2f} % with {values}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
