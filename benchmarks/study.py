"""Measure the cost of a study besides its training.

    python benchmarks/study.py

Three tables.
1. From a command to its first trial's result, over a plain Ray Tune script with a trainable that imports torch; the two
   take turns.
2. Trials of about two seconds on two workers: the wall time of the search over the training time in the workers,
   divided by the workers. Ray runs already; the start of its workers is shown separately.
3. Tiny trials, 100 and 1,000: the driver's computation per trial, with and without asking Optuna.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import optuna
import ray
import tyro
from timing import show, table

from clsearch import LogRange, Study
from clsearch.execution import run_study as driver
from clsearch.records.study_record import read_study
from clsearch.records.trials import TrialRecord
from clsearch.tracking.sender import Tracker

WORKERS = 2

BARE = """
import time

from ray import init, tune


class Trivial(tune.Trainable):
    def setup(self, config):
        import torch

        self.x = torch.ones(1) * config["x"]

    def step(self):
        return {"score": float(self.x), "done": True}


class First(tune.Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        print("first result", time.time(), flush=True)


init(num_cpus=2, include_dashboard=False, log_to_driver=False)
tune.Tuner(
    Trivial,
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=1),
    run_config=tune.RunConfig(storage_path=STORAGE, callbacks=[First()], verbose=0),
).fit()
"""


@dataclass
class Options:
    trials: int = 64
    """Number of trials of the second table."""
    epochs: int = 30
    """Epochs per task: about two seconds per trial."""
    rounds: int = 2
    """Number of runs of each command of the first table."""
    few: int = 100
    """Number of tiny trials of the third table."""
    many: int = 1000
    """Number of tiny trials of its second study."""


@dataclass
class Spent:
    """Time spent by a search.

    Attributes:
        began: When it began.
        wall: Seconds by the clock.
        driver: Seconds of the driver's own thread.
        asking: Seconds of asking Optuna.
        tracking: Seconds of handing records to MLflow's thread.
    """

    began: float = 0.0
    wall: float = 0.0
    driver: float = 0.0
    asking: float = 0.0
    tracking: float = 0.0


@contextlib.contextmanager
def measured() -> Iterator[Spent]:
    """Measure the searches of studies that run inside the context."""
    spent, search = Spent(), driver.search

    def counted(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            start = time.thread_time()
            try:
                return own(*args, **settings)
            finally:
                setattr(spent, name, getattr(spent, name) + time.thread_time() - start)

        return call

    def whole(*args: Any) -> None:
        spent.began, start = time.time(), time.perf_counter()
        counted("driver", search)(*args)
        spent.wall = time.perf_counter() - start

    with (
        patch.object(driver, "search", whole),
        patch.object(optuna.Study, "ask", counted("asking", optuna.Study.ask)),
        patch.object(Tracker, "update", counted("tracking", Tracker.update)),
    ):
        yield spent


def searched(name: str, results: Path, **settings: Any) -> tuple[list[TrialRecord], Spent]:
    """Run a study without references and final evaluation; return its trials and the time of the search."""
    space = {"distillation_factor": LogRange(0.01, 100)}
    study = Study(algorithm="lwf", name=name, space=space, results=results, references=(), final=False, quiet=True,
                  **settings)  # fmt: skip
    with measured() as spent, contextlib.redirect_stdout(None):
        return study.run().records, spent


def overhead(options: Options, results: Path) -> None:
    records, spent = searched("overhead", results, trials=options.trials, epochs=options.epochs, sampler_seed=0)
    training = sum(r.seconds for r in records)
    starts = min(r.times[0] for r in records) / 1000 - min(r.seconds for r in records) / 5 - spent.began
    shown = table(f"{options.trials} trials on {WORKERS} workers", "", "seconds")
    each = training / len(records)
    rows = [("training, a trial", each), ("training, in all, over the workers", training / WORKERS)]
    rows += [("the search, by the clock", spent.wall), ("of it until the first trial trained", starts)]
    rows += [("computed by the driver", spent.driver), ("of it handing records to MLflow's thread", spent.tracking)]
    for name, seconds in rows:
        shown.add_row(name, f"{seconds:.2f}")
    shown.add_row("ratio: the search over training", f"{spent.wall / (training / WORKERS):.2f}")
    shown.add_row("ratio, without the workers' start", f"{(spent.wall - starts) / (training / WORKERS):.2f}")
    show(shown)


def first_result(options: Options, place: Path) -> None:
    shown = table("From the command to the first trial's result", "", "seconds", "over bare Ray Tune")
    seconds: dict[str, list[float]] = {"bare Ray Tune": [], "a study": []}
    for number in range(options.rounds):
        seconds["bare Ray Tune"].append(_bare(place / f"bare-{number}"))
        seconds["a study"].append(_study(place / f"study-{number}"))
    base = seconds["bare Ray Tune"]
    for name, found in seconds.items():
        ratio = median(own / other for own, other in zip(found, base, strict=True))
        shown.add_row(name, f"{median(found):.1f}", f"{ratio:.2f}")
    show(shown)


def _bare(place: Path) -> float:
    place.mkdir()
    (place / "bare.py").write_text(BARE.replace("STORAGE", repr(str(place))), encoding="utf-8")
    start = time.time()
    done = subprocess.run([sys.executable, "bare.py"], cwd=place, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split("first result ")[1].split()[0]) - start


def _study(place: Path) -> float:
    """Run the README's first script; return the seconds until the first learned task of a trial."""
    script = Path(__file__).parents[1] / "studies" / "lwf_temperature_sweep.py"
    words = ["--trials", "1", "--references", "--epochs", "1", "--no-final", "--results", str(place)]
    start = time.time()
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise RuntimeError(done.stderr)
    (record,) = read_study(place / "lwf_temperature_sweep").trials
    return record.times[0] / 1000 - start


def _environment() -> dict[str, str]:
    """Return the environment without this process's Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def growth(options: Options, results: Path) -> None:
    shown = table(
        "Tiny trials: milliseconds a trial",
        *("trials", "by the clock", "the driver's thread", "asking Optuna (TPE)", "the driver's, without asking"),
    )
    each = {}
    for trials in (options.few, options.many):
        tiny = {"hidden": (4,), "tasks": 2, "iterations": 1, "seeds": 1, "batch_size": 8}
        _, spent = searched(f"tiny-{trials}", results, trials=trials, **tiny)
        each[trials] = (spent.driver - spent.asking) / trials
        parts = (spent.wall, spent.driver, spent.asking, spent.driver - spent.asking)
        shown.add_row(f"{trials:,}", *(f"{1000 * part / trials:.1f}" for part in parts))
    shown.add_row("ratio", "", "", "", f"{each[options.many] / each[options.few]:.2f}")
    show(shown)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as place:
        first_result(options, Path(place))
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        overhead(options, Path(place) / "results")
        growth(options, Path(place) / "results")
        ray.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
