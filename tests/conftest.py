"""Selection of the tests, and fixtures that they share: a Ray session, an MLflow store, a results folder."""

from __future__ import annotations

import gc
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

from clsearch.common.telemetry import disable_telemetry
from clsearch.methods.registry import CUSTOM_METHODS

disable_telemetry()  # before Ray or MLflow is imported

os.environ["TQDM_DISABLE"] = "1"

gc.disable()  # until all is imported: collections take a quarter of the time of importing torch and Ray

INTEGRATION = Path(__file__).parent / "integration"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run also the slow tests and the integration tests")


def pytest_configure(config: pytest.Config) -> None:
    """Include slow tests of named files and markers. A worker of xdist selects as the process that started it."""
    import torch

    # Networks are so small that threads only wait for each other: minutes instead of seconds on a busy machine.
    torch.set_num_threads(1)
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    worker = getattr(config, "workerinput", None)
    config.option.all = worker["all"] if worker else bool(config.option.all or config.option.markexpr or named)


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_configure_node(node: Any) -> None:
    node.workerinput["all"] = node.config.option.all


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files of which no test will run: their imports (plotly, MLflow, torchvision) take seconds."""
    if config.option.all:
        return None
    if collection_path == INTEGRATION:
        return True
    slow = collection_path.suffix == ".py" and "\npytestmark = pytest.mark.slow\n" in collection_path.read_text("utf-8")
    return slow or None


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests unless asked for, and tests that need what the machine lacks (.ci/run installs a browser)."""
    import torch

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
    missing = {name for name, found in there.items() if not found()}
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        (kept if missing.isdisjoint(mark.name for mark in item.iter_markers()) else deselected).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=deselected)


def pytest_collection_finish() -> None:
    """Collect garbage again, but not among the modules."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or triton complains at exit that its objects are still there


def may_mount() -> bool:
    """Return whether root can mount a file system that no other process sees; most containers refuse it."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    there = shutil.which("unshare") and shutil.which("nsenter")
    return bool(there) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def _forget_custom_methods() -> Iterator[None]:
    """Forget the methods that a test registers."""
    before = dict(CUSTOM_METHODS)
    yield
    CUSTOM_METHODS.clear()
    CUSTOM_METHODS.update(before)


@contextmanager
def started(cpus: int) -> Iterator[str]:
    """Start Ray on this machine, and give its address."""
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=cpus,
        num_gpus=4,  # logical ones: Ray hands them out, but no device exists
        log_to_driver=False,
        logging_level="ERROR",
        # Idle workers stay for the next study, instead of ending after a second.
        _system_config={"num_workers_soft_limit": 4, "idle_worker_killing_time_threshold_ms": 600_000},
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Start Ray with two cores for all tests, and give its address."""
    with started(cpus=2) as address:
        yield address


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an empty MLflow store to copy; creating one takes seconds."""
    from clsearch.tracking.run_store import new_store
    from clsearch.tracking.stores import STORE

    path = tmp_path_factory.mktemp("store") / STORE
    new_store(path)
    return path


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Make a results folder that studies with different names share, as users' studies do."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(store, folder)
    return folder


@pytest.fixture
def write_mnist() -> Callable[..., None]:
    """Give a function that writes a part of MNIST (train or t10k) in its real file format: 12 noisy images a class."""

    def write(root: Path, part: str = "train") -> None:
        rng = np.random.default_rng(int(part == "t10k"))
        labels = np.repeat(np.arange(10, dtype=np.uint8), 12)
        images = rng.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
        images[np.arange(len(labels)), 2 * labels] = 250  # a bright row marks the class
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        header = struct.pack(">4i", 2051, len(labels), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())

    return write


@pytest.fixture
def image_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache decoded images in a folder of this test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLSEARCH_CACHE", str(folder))
    return folder
