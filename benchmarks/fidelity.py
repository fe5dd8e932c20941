"""Compare clsearch's methods with published numbers: Split MNIST, task-incremental, as van de Ven et al. 2022.

    python benchmarks/fidelity.py --data-root data

Searches LwF's factor and temperature and EWC's factor (grids, two seeds, validation data), then trains finetuning, the
two best configurations and joint on seeds that the search did not use. Prints test accuracy with 95 % intervals
(Student t over seeds) next to the published means (Table 2 there; 20 seeds). Existing studies in the results folder are
reused. Writes <results>/reference/fidelity.json.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from clsearch import LogRange, Study
from clsearch.common.errors import ConfigError
from clsearch.common.files import write_atomically
from clsearch.common.statistics import interval
from clsearch.data.datasets import SOURCES, training_data
from clsearch.execution.final_evaluation import measure
from clsearch.execution.sealed_data import open_test
from clsearch.methods.registry import configure
from clsearch.metrics import average_accuracy
from clsearch.records.writer import PACKAGES, code_version

PUBLISHED = {"finetuning": 84.3, "lwf": 99.6, "ewc": 99.1, "joint": 99.7}
"""Test accuracy in %, van de Ven et al. 2022, Table 2."""

SETTING: dict[str, Any] = {
    "benchmark": "split-mnist",
    "scenario": "task",
    "class_order": "shuffled",
    "hidden": (400, 400),
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "optimizer_state": "keep",
    "batch_size": 128,
}
OWN: dict[str, dict[str, Any]] = {
    "lwf": {"teachers": "last", "train_head": True},
    "ewc": {"fisher": "exact", "penalty_p_norm": 2},
}
SPACES = {
    "lwf": {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 8)},
    "ewc": {"penalty_factor": LogRange(1e2, 1e8)},
}
POINTS = {"lwf": 3, "ewc": 7}


@dataclass
class Options:
    data_root: Path
    """Folder of MNIST's files, in torchvision's layout."""
    results: Path = Path("results")
    """Folder of the studies and the result file."""
    iterations: int = 2000
    """Training steps per task."""
    seeds: int = 5
    """Number of fresh seeds of the reported results: 0, 1, ..."""
    search_seeds: int = 2
    """Number of seeds of the search: 100, 101, ..."""
    max_concurrent: int | None = None
    """Trials of a search at the same time. Default: one per core."""
    threads: int = 1
    """Torch threads of the reported trials."""


def searched(algorithm: str, options: Options) -> dict[str, Any]:
    """Return best.json of the algorithm's study; run the study if it does not exist."""
    study = Study(
        name=f"fidelity_{algorithm}",
        question=f"Which hyperparameters should {algorithm} have on Split MNIST?",
        algorithm=algorithm,
        space=SPACES[algorithm],
        sampler="grid",
        grid_points=POINTS[algorithm],
        seeds=options.search_seeds,
        first_seed=100,
        references=(),
        final=False,  # this benchmark evaluates on its own seeds
        results=options.results,
        max_concurrent=options.max_concurrent,
        data_root=options.data_root,
        iterations=options.iterations,
        **SETTING,
        **OWN[algorithm],
    )
    folder, plan = study.plan.folder, study.plan
    if not (folder / "best.json").exists() and study.run().exit_code:
        raise SystemExit(f"{folder}: the search must finish before anything is reported")
    made = json.loads((folder / "study.json").read_text())
    config = json.loads(json.dumps({k: v for k, v in plan.config.flat().items() if k not in plan.space}))
    same = {"config": config, "space": {name: vars(r) for name, r in plan.space.items()}, "seeds": list(plan.seeds)}
    if different := [name for name, value in same.items() if made[name] != value]:
        raise SystemExit(
            f"{folder}: must be a search in this setting; got another {', '.join(different)}. Move it away"
        )
    best: dict[str, Any] = json.loads((folder / "best.json").read_text())
    if best["label"] is None or len(study_rows(folder)) < plan.trials:
        raise SystemExit(f"{folder}: the search must be finished, all {plan.trials} trials. Move it away")
    return best


def study_rows(folder: Path) -> pd.DataFrame:
    """Return the finished and failed trials of a study."""
    table = pd.read_csv(folder / "trials.csv")
    return table[table.state.isin(["finished", "failed"])]


def reported(algorithm: str, options: Options) -> dict[str, Any]:
    """Search hyperparameters if the algorithm has any, then measure test accuracy on fresh seeds."""
    best = searched(algorithm, options) if algorithm in SPACES else {"values": {}, "seeds": []}
    settings = {**SETTING, **OWN.get(algorithm, {}), **best["values"], "iterations": options.iterations}
    config = configure(algorithm, settings | {"data_root": options.data_root})
    start, seeds = time.perf_counter(), range(options.seeds)
    test, opening = open_test(options.results, "fidelity", config, best["values"], seeds, best["seeds"])
    found = measure(config, seeds, training_data(config.source, config.data_root), test)
    if found["reason"]:
        raise SystemExit(f"{algorithm}: {found['reason']}")
    scores = (100 * average_accuracy(found["test"], config.tasks)).tolist()
    i = interval(scores)
    return {
        "published": PUBLISHED[algorithm],
        "mean": i.mean,
        "low": i.low,
        "high": i.high,
        "per_seed": scores,
        "searched": best["values"],
        "search_seeds": best["seeds"],
        "config": {k: v for k, v in config.flat().items() if k != "data_root"},
        "test_opened": opening.when,
        "seconds": time.perf_counter() - start,
    }


def main(options: Options) -> None:
    source = SOURCES["mnist"]
    if missing := [f for part in ("train", "test") for f in source.missing_files(options.data_root, part)]:
        rule = "data-root: must hold the files of mnist, in torchvision's layout (a study's --download fetches them)"
        raise ConfigError([f"{rule}; got {options.data_root} without {', '.join(missing)}"])
    torch.set_num_threads(options.threads)
    table = Table(title=f"Split MNIST, task-incremental, test, {options.seeds} seeds", box=box.SIMPLE_HEAD)
    for column in ("", "test accuracy (%)", "95 % interval", "published", "difference", "searched"):
        table.add_column(column, no_wrap=True)
    content: dict[str, Any] = {
        "source": "van de Ven et al. 2022, Table 2, Split MNIST, task-incremental",
        "versions": {name: version(name) for name in PACKAGES},
        "commit": code_version(),
        "rows": {},
    }
    for algorithm, published in PUBLISHED.items():
        row = content["rows"][algorithm] = reported(algorithm, options)
        values = ", ".join(f"{name} {value:g}" for name, value in row["searched"].items())
        cells = [f"{row['mean']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}", f"{published:.1f}"]
        table.add_row(algorithm, *cells, f"{row['mean'] - published:+.2f}", values)
        print(f"{algorithm}: {row['mean']:.2f} ({row['seconds']:.0f} s)", flush=True)
    Console(width=140).print(table)
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(options.results / "reference" / "fidelity.json", text.encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
