"""Measure the memory that the workers of a study need for its data: loaded by each, or shared through Ray's object
store.

    python benchmarks/shared_data.py --images 400000 --workers 1 2 4

Writes a data set of that many images in MNIST's format, trains trials of LwF on it in separate workers, and prints the
memory of all processes together (proportional set size: shared memory counts once), minus that of the same workers with
a data set of 2,000 images. Linux only.
"""

from __future__ import annotations

import gc
import struct
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import tyro
from ray import tune
from rich import box
from rich.console import Console
from rich.table import Table

from clsearch.data.datasets import read_data
from clsearch.methods.registry import configure
from clsearch.trainables import LwFTrainable

FEW = 2000
"""Images of the small data set of the baseline."""


@dataclass
class Options:
    images: int = 400_000
    """Images of 28 x 28 pixels, 784 bytes each."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of workers to compare."""


def write_mnist(root: Path, images: int) -> None:
    """Write training files in MNIST's format with random images."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, shape in (("images-idx3", (images, 28, 28)), ("labels-idx1", (images,))):
        values = generator.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8)
        header = struct.pack(f">{1 + len(shape)}i", 2048 + len(shape), *shape)
        (folder / f"train-{name}-ubyte").write_bytes(header + values.tobytes())


def memory(workers: list[int]) -> float:
    """Return MB of this process, the workers and Ray's object store (the raylet), shared memory counted once.

    Mapped files, such as torch's libraries, are left out: their share depends on other processes.
    """
    process = psutil.Process()
    stores = [child.pid for child in process.children(recursive=True) if child.name() == "raylet"]
    rows = [row.split() for pid in (process.pid, *stores, *workers) for row in smaps(pid)]
    return sum(int(row[1]) for row in rows if row[0] in ("Pss_Anon:", "Pss_Shmem:")) * 1024 / 1e6


def smaps(pid: int) -> list[str]:
    """Read Linux's summary of a process's memory, in kB."""
    return Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


def needed(root: Path, workers: int, shared: bool) -> float:
    """Measure MB while `workers` workers have trained on the data of a root."""
    settings: dict[str, Any] = {
        "benchmark": "split-mnist",
        "data_root": str(root),
        "iterations": 20,
        "hidden": [64],
        "seeds": [0],
    }
    ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        trainable: Any = LwFTrainable
        if shared:
            config = configure("lwf", {k: v for k, v in settings.items() if k != "seeds"})
            trainable = tune.with_parameters(LwFTrainable, data=read_data(config.source, root))
            gc.collect()
        actors = [ray.remote(num_cpus=1)(trainable).remote(settings) for _ in range(workers)]
        for _ in range(2):
            found = ray.get([actor.train.remote() for actor in actors])
        return memory([result["pid"] for result in found])
    finally:
        ray.shutdown()


def alone(root: Path, workers: int, shared: bool) -> float:
    """Measure the same in a new process, which holds nothing of earlier measurements."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(needed, root, workers, shared).result()


def main(options: Options) -> None:
    table = Table(title=f"{options.images:,} images, {options.images * 784 / 1e6:,.0f} MB", box=box.SIMPLE_HEAD)
    for column in ("workers", "read by each (MB)", "shared (MB)", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        write_mnist(few, FEW)
        write_mnist(many, options.images)
        for workers in options.workers:
            each, shared = (alone(many, workers, kind) - alone(few, workers, kind) for kind in (False, True))
            table.add_row(str(workers), f"{each:,.0f}", f"{shared:,.0f}", f"{each / shared:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
