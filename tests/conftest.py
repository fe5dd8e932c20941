"""Fixtures that the tests share: one Ray session, one results folder (its MLflow store takes seconds to create)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clsearch.common.telemetry import disable_telemetry
from clsearch.methods.registry import CUSTOM_METHODS

disable_telemetry()  # before Ray or MLflow is imported

os.environ["TQDM_DISABLE"] = "1"

# The networks here are so small that threads only wait for each other: minutes instead of seconds on a busy machine.
torch.set_num_threads(1)


INTEGRATION = Path(__file__).parent / "integration"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what is slow, and the integration tests")


def pytest_configure(config: pytest.Config) -> None:
    """Run named files and markers whole. A worker of xdist does as the process that started it."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    worker = getattr(config, "workerinput", None)
    config.option.all = worker["all"] if worker else bool(config.option.all or config.option.markexpr or named)


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_configure_node(node: Any) -> None:
    node.workerinput["all"] = node.config.option.all


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of what is not there are left out, and counted so; .ci/run installs the browser. So are those that take
    long, unless they are asked for.
    """
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker("integration")
    there = {
        "gpu": torch.cuda.is_available,
        "browser": lambda: shutil.which("chromedriver") is not None,
        "mount": may_mount,
        "slow": lambda: config.option.all,
        "integration": lambda: config.option.all,
    }
    missing = [name for name, found in there.items() if not found()]
    apart = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    items[:] = [item for item in items if item not in apart]
    config.hook.pytest_deselected(items=apart)


def may_mount() -> bool:
    """Whether a file system can be mounted where no other process sees it; containers mostly refuse that to root."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    there = shutil.which("unshare") and shutil.which("nsenter")
    return bool(there) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What a test registers is not known to the next one."""
    before = dict(CUSTOM_METHODS)
    yield
    CUSTOM_METHODS.clear()
    CUSTOM_METHODS.update(before)


@contextmanager
def started(cpus: int) -> Iterator[str]:
    """A Ray on this machine; gives its address."""
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=cpus,
        num_gpus=4,  # logical ones: places to be given, with nothing behind them
        log_to_driver=False,
        logging_level="ERROR",
        # Workers of final evaluations wait for the next study's, instead of ending after a second.
        _system_config={"num_workers_soft_limit": 4, "idle_worker_killing_time_threshold_ms": 600_000},
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A Ray of two cores, shared by all tests; gives its address."""
    with started(cpus=2) as address:
        yield address


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of MLflow's, to be copied: it takes seconds to create."""
    from clsearch.tracking.run_store import new_store
    from clsearch.tracking.stores import STORE

    path = tmp_path_factory.mktemp("store") / STORE
    new_store(path)
    return path


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A results folder that studies with different names share, as users' studies do."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(store, folder)
    return folder


@pytest.fixture
def write_mnist() -> Callable[..., None]:
    """Writes MNIST's files of a part (train or t10k), in their real on-disk format, with 12 noisy images a class."""

    def write(root: Path, part: str = "train") -> None:
        rng = np.random.default_rng(int(part == "t10k"))
        labels = np.repeat(np.arange(10, dtype=np.uint8), 12)
        images = rng.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
        images[np.arange(len(labels)), 2 * labels] = 250  # a bright row that tells the class
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        header = struct.pack(">4i", 2051, len(labels), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())

    return write


@pytest.fixture
def image_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images of folders go to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLSEARCH_CACHE", str(folder))
    return folder
