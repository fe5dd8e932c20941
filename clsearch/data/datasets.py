"""Training data of every source, one row per data set. Test data is opened in `held_out` alone.

Importing this module is cheap (configuration is checked against its table before torch is loaded).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from clsearch.common.errors import ConfigError
from clsearch.data.image_cache import Progress, decoded, header
from clsearch.data.image_folder import Part, listed

Arrays = tuple[np.ndarray, np.ndarray]
"""Inputs [N, C, H, W] uint8 and labels [N] int64."""

DIGITS_CUT_SEED = 20260101
"""Seed of the digits' one test cut; changing it changes every published number."""


class Reader(Protocol):
    """Reads one part of a data set; `download` fetches it into the root first. Raises OSError, RuntimeError, or
    ConfigError for a folder of images.
    """

    def __call__(self, root: Path | None, download: bool, progress: Progress | None) -> Arrays: ...


@dataclass(frozen=True)
class Source:
    """A data set: what is known of it before it is read, and how its training part is read.

    classes: their names, in the order of their labels. shape: of one input, [C, H, W].
    maximum: the largest stored value; inputs reach the network divided by it, in [0, 1].
    validation_fraction: the share of the training data held back for validation.
    files, test_files: paths below the data root that the training and the test part need.
    identity: of a user's own images, a digest of what they are, wherever they lie.
    groups: classes of each task, where the user grouped them.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    maximum: int
    validation_fraction: float
    files: tuple[str, ...]
    test_files: tuple[str, ...]
    read: Reader
    identity: str = ""
    groups: tuple[tuple[int, ...], ...] | None = None

    def missing_files(self, root: Path | None, part: Part = "train") -> list[str]:
        """The files that a part needs and `root` lacks (all of them without a root); none of them is opened."""
        files = self.files if part == "train" else self.test_files
        return [f for f in files if root is None or not os.path.isfile(root / f)]


@dataclass(frozen=True)
class Data:
    """The training part of a source: inputs [N, C*H*W] uint8, labels [N] int64.

    Arrays of numpy, because Ray hands those to all processes of a node as one copy in shared memory.
    """

    source: Source
    inputs: np.ndarray
    labels: np.ndarray


def read_data(source: Source, root: Path | None, download: bool = False, progress: Progress | None = None) -> Data:
    """Read the training part of a source, after downloading it where that is asked for.

    Raises what its reader does, and ValueError where images and labels differ in number.
    """
    inputs, labels = source.read(root, download, progress)
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs):,} images and {len(labels):,} labels")
    return Data(source, inputs.reshape(len(inputs), math.prod(source.shape)), labels)


@functools.lru_cache(maxsize=2)
def training_data(source: Source, root: Path | None) -> Data:
    """The training part of a source, read once per process."""
    return read_data(source, root)


def digits_cut(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the digits' training and test part: 20 % of each class, cut once by a fixed seed."""
    order = np.random.default_rng(DIGITS_CUT_SEED).permutation(len(labels))
    test = np.concatenate([rows[: round(0.2 * len(rows))] for rows in _by_class(order, labels)])
    return np.setdiff1d(order, test), np.sort(test)


def _by_class(order: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    return [order[labels[order] == c] for c in np.unique(labels)]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's images [1797, 64] and labels. Its file is read where it is found, because importing the package
    takes a second at each start of a study.
    """
    package = importlib.util.find_spec("sklearn")
    file = Path((package and package.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 8x8 handwritten digits (1,797 images, values 0..16), one of their two parts."""

    part: Part = "train"

    def __call__(self, root: Path | None = None, download: bool = False, progress: Progress | None = None) -> Arrays:
        images, labels = digits()
        rows = dict(zip(("train", "test"), digits_cut(labels), strict=True))[self.part]
        return images[rows].astype(np.uint8).reshape(-1, 1, 8, 8), labels[rows].astype(np.int64)


@dataclass(frozen=True)
class Torchvision:
    """One part of a data set of torchvision's, read by its own class.

    The class is narrowed to the files of that part: its own existence check and download look at both parts, and a
    search must run where the test files do not exist.
    """

    name: str
    part: Part = "train"

    def __call__(self, root: Path | None, download: bool = False, progress: Progress | None = None) -> Arrays:
        from torchvision import datasets

        if root is None:
            raise FileNotFoundError(f"data_root: {self.name} needs the folder of its files; got none")
        full, train = getattr(datasets, self.name), self.part == "train"
        if issubclass(full, datasets.CIFAR10):
            data = type(self.name, (full,), {"test_list" if train else "train_list": []})(
                root, train, download=download
            )
            return data.data.transpose(0, 3, 1, 2), np.array(data.targets, dtype=np.int64)
        if full is datasets.SVHN:
            data = full(root, self.part, download=download)
            return data.data, data.labels
        if full is datasets.EMNIST:
            data = full(root, "letters", train=train, download=download)
            # The files hold each letter transposed, and count letters from 1.
            return data.data.numpy().transpose(0, 2, 1)[:, None], data.targets.numpy().astype(np.int64) - 1
        own = [r for r in full.resources if r[0].startswith("train" if train else "t10k")]
        data = type(self.name, (full,), {"resources": own})(root, train=train, download=download)
        return data.data.numpy()[:, None], data.targets.numpy().astype(np.int64)


@dataclass(frozen=True)
class ImageFolder:
    """The user's own images, one folder per class; see `image_folder`.

    only: the classes to use, None for all. size, channels: what images are brought to, None: as they are.
    key: of the training part's files when the study began, so that a change of them is noticed.
    """

    folder: Path
    only: tuple[str, ...] | None
    size: int | None
    channels: int | None
    part: Part = "train"
    key: str | None = None

    def __call__(self, root: Path | None = None, download: bool = False, progress: Progress | None = None) -> Arrays:
        self.check_unchanged()
        listing = listed(self.folder, self.part, self.only)
        return decoded(listing, self.size, self.channels, progress), listing.labels

    def check_unchanged(self) -> None:
        """Raises ConfigError where the training files are others than when the study began."""
        if self.key is not None and self.key != listed(self.folder, "train", self.only).key:
            raise ConfigError(
                [f"benchmark: the images must stay as they are while a study runs; got folder:{self.folder}"]
            )


def folder_source(folder: Path, only: tuple[str, ...] | None, size: int | None, channels: int | None) -> Source:
    """The user's own images as a source; their names are listed and one header is read. Raises ConfigError."""
    listing = listed(folder, "train", only)
    found_channels, height, width = header(listing)
    return Source(
        name="folder",
        classes=listing.classes,
        shape=(channels or found_channels, size or height, size or width),
        maximum=255,
        validation_fraction=0.10,
        files=(),
        test_files=(),
        read=ImageFolder(folder, only, size, channels, key=listing.key),
        identity=listing.identity,
    )


def _row(
    name: str,
    torchvision: str,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: tuple[str, ...] = tuple("0123456789"),
) -> Source:
    return Source(name, classes, shape, 255, 0.10, *files, Torchvision(torchvision))


def _idx(folder: str, train: str = "train", test: str = "t10k") -> tuple[tuple[str, ...], tuple[str, ...]]:
    kinds = ("images-idx3", "labels-idx1")
    return (
        tuple(f"{folder}/raw/{train}-{kind}-ubyte" for kind in kinds),
        tuple(f"{folder}/raw/{test}-{kind}-ubyte" for kind in kinds),
    )


def _batches(folder: str, train: tuple[str, ...], test: str, meta: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(f"{folder}/{name}" for name in (*train, meta)), (f"{folder}/{test}", f"{folder}/{meta}")


CIFAR10_FILES = _batches(
    "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ROWS = (
    Source("digits", tuple("0123456789"), (1, 8, 8), 16, 0.25, (), (), Digits()),
    _row("mnist", "MNIST", _idx("MNIST")),
    _row("fashion-mnist", "FashionMNIST", _idx("FashionMNIST")),
    _row("kmnist", "KMNIST", _idx("KMNIST")),
    _row(
        "emnist-letters",
        "EMNIST",
        _idx("EMNIST", "emnist-letters-train", "emnist-letters-test"),
        classes=tuple("abcdefghijklmnopqrstuvwxyz"),
    ),
    _row("svhn", "SVHN", (("train_32x32.mat",), ("test_32x32.mat",)), (3, 32, 32)),
    _row("cifar10", "CIFAR10", CIFAR10_FILES, (3, 32, 32), CIFAR10_CLASSES),
    _row(
        "cifar100",
        "CIFAR100",
        _batches("cifar-100-python", ("train",), "test", "meta"),
        (3, 32, 32),
        tuple(map(str, range(100))),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in ROWS}
