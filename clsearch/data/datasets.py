"""The training part of every data set, one row per data set. Only `clsearch.tasks.test_data` opens test data.

Importing this module is cheap: the configuration is checked against its table before torch is loaded.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from clsearch.common.deadline import no_endless_sockets
from clsearch.common.echo import ShortRepr
from clsearch.common.errors import ConfigError, Refusal
from clsearch.data.image_cache import Progress, decode_images, read_header
from clsearch.data.image_folder import Part, list_images

Arrays = tuple[np.ndarray, np.ndarray]
"""Inputs [N, C, H, W] uint8 and labels [N] int64."""

DIGITS_CUT_SEED = 20260101
"""Seed of the one test split of the digits. Another seed changes every published number."""


class Reader(Protocol):
    """Reads one part of a data set: (root, download, progress) -> inputs [N, C, H, W] uint8, labels [N] int64.

    Args:
        root: Folder of the data sets, in torchvision's layout; None for data that need no folder.
        download: Download the files into `root` first.
        progress: Called with (images decoded, number of images).

    Raises:
        OSError: If the files cannot be read.
        RuntimeError: If torchvision does not accept the files.
        ConfigError: If a folder of images cannot be used.
    """

    def __call__(self, root: Path | None, download: bool, progress: Progress | None) -> Arrays: ...


@dataclass(frozen=True, repr=False)
class Source(ShortRepr):
    """A data set: the properties that are known before it is read, and the reader of its training part.

    Args:
        name: Name in benchmarks: `mnist` in `split-mnist`.
        classes: Names of the classes, in the order of their labels.
        shape: Shape of one input, [C, H, W].
        maximum: Largest stored value; inputs are divided by it, so the network sees [0, 1].
        validation_fraction: Fraction of the training data held back for validation.
        files: Paths below the data root that the training part needs.
        test_files: Paths below the data root that the test part needs.
        read: Reads the training part.
        identity: Digest of a user's own images, the same in whatever folder they are.
        groups: Classes of each task, if the user grouped them.
        samples: Number of samples of the training part; 0 if it is not known before it is read.
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
    samples: int = field(default=0, compare=False)

    def missing_files(self, root: Path | None, part: Part = "train") -> list[str]:
        """List the files that a part needs and `root` does not have; opens none of them.

        Args:
            root: Folder of the data sets; None: every file is missing.
            part: train or test.

        Returns:
            Paths below `root`.
        """
        files = self.files if part == "train" else self.test_files
        return [f for f in files if root is None or not os.path.isfile(root / f)]


@dataclass(frozen=True, repr=False)
class Data(ShortRepr):
    """The training part of a source.

    The arrays are numpy's, because Ray gives all processes of a node one copy of them in shared memory.

    Args:
        source: The data set.
        inputs: [N, C*H*W] uint8.
        labels: [N] int64.
    """

    source: Source
    inputs: np.ndarray
    labels: np.ndarray


def read_data(source: Source, root: Path | None, download: bool = False, progress: Progress | None = None) -> Data:
    """Read the training part of a source.

    Args:
        source: The data set.
        root: Folder of the data sets; None for data that need no folder.
        download: Download the files into `root` first.
        progress: Called with (images decoded, number of images).

    Raises:
        ValueError: If the numbers of images and labels differ.
        OSError, RuntimeError, ConfigError: As `Reader`.
    """
    with no_endless_sockets() if download else nullcontext():
        inputs, labels = source.read(root, download, progress)
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs):,} images and {len(labels):,} labels")
    return Data(source, inputs.reshape(len(inputs), math.prod(source.shape)), labels)


@functools.lru_cache(maxsize=2)
def training_data(source: Source, root: Path | None) -> Data:
    """Read the training part of a source, once per process."""
    return read_data(source, root)


def digits_cut(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers of the digits' training and test part.

    The test part is 20 % of each class, drawn once with a fixed seed.
    """
    order = np.random.default_rng(DIGITS_CUT_SEED).permutation(len(labels))
    test = np.concatenate([rows[: round(0.2 * len(rows))] for rows in _by_class(order, labels)])
    return np.setdiff1d(order, test), np.sort(test)


def _by_class(order: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Return the entries of `order` of each class, in their order."""
    return [order[labels[order] == c] for c in np.unique(labels)]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Read scikit-learn's images [1797, 64] and labels.

    Reads scikit-learn's file directly, because importing the package takes a second at each start of a study.
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
    """Reads one part of scikit-learn's 8x8 handwritten digits (1,797 images, values 0..16)."""

    part: Part = "train"

    def __call__(self, root: Path | None = None, download: bool = False, progress: Progress | None = None) -> Arrays:
        images, labels = digits()
        rows = dict(zip(("train", "test"), digits_cut(labels), strict=True))[self.part]
        return images[rows].astype(np.uint8).reshape(-1, 1, 8, 8), labels[rows].astype(np.int64)


@dataclass(frozen=True)
class Torchvision:
    """Reads one part of a torchvision data set with torchvision's own class.

    Restricts the class to the files of that part: otherwise its existence check and its download include both parts,
    and a search must run on a machine without the test files.

    Args:
        name: Name of the class in torchvision.datasets.
        part: train or test.
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
            # The files store each letter transposed, and number the letters from 1.
            return data.data.numpy().transpose(0, 2, 1)[:, None], data.targets.numpy().astype(np.int64) - 1
        files = [r for r in full.resources if r[0].startswith("train" if train else "t10k")]
        data = type(self.name, (full,), {"resources": files})(root, train=train, download=download)
        return data.data.numpy()[:, None], data.targets.numpy().astype(np.int64)


@dataclass(frozen=True)
class ImageFolder:
    """Reads a user's own images, one folder per class; see `image_folder`.

    Args:
        folder: Folder of the images.
        only: The classes to use; None for all.
        size: Height and width to which images are scaled and cropped; None keeps their size.
        channels: Channels to which images are converted, 1 or 3; None keeps them.
        part: train or test.
        key: Digest of the training files at the start of the study, to detect changes; None for no check.
    """

    folder: Path
    only: tuple[str, ...] | None
    size: int | None
    channels: int | None
    part: Part = "train"
    key: str | None = None

    def __call__(self, root: Path | None = None, download: bool = False, progress: Progress | None = None) -> Arrays:
        self.check_unchanged()
        listing = list_images(self.folder, self.part, self.only)
        return decode_images(listing, self.size, self.channels, progress), listing.labels

    def check_unchanged(self) -> None:
        """Raise ConfigError if the training files have changed since the study started."""
        if self.key is not None and self.key != list_images(self.folder, "train", self.only).key:
            text = f"benchmark: the images must not change while a study runs; got folder:{self.folder}"
            raise ConfigError([Refusal("images-unchanged", text)])


def folder_source(folder: Path, only: tuple[str, ...] | None, size: int | None, channels: int | None) -> Source:
    """Describe a user's own images as a source; lists the files and reads the header of one.

    Args:
        folder: Folder of the images.
        only: The classes to use; None for all.
        size: Height and width to which images are scaled and cropped; None keeps their size.
        channels: Channels to which images are converted, 1 or 3; None keeps them.

    Raises:
        ConfigError: If the folder, a class or a file cannot be used.
    """
    listing = list_images(folder, "train", only)
    own_channels, height, width = read_header(listing)
    return Source(
        name="folder",
        classes=listing.classes,
        shape=(channels or own_channels, size or height, size or width),
        maximum=255,
        validation_fraction=0.10,
        files=(),
        test_files=(),
        read=ImageFolder(folder, only, size, channels, key=listing.key),
        identity=listing.identity,
        samples=len(listing.labels),
    )


def _row(
    name: str,
    torchvision: str,
    samples: int,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: tuple[str, ...] = tuple("0123456789"),
) -> Source:
    """Return the source of a torchvision class. files: of the training part, then of the test part."""
    return Source(name, classes, shape, 255, 0.10, *files, Torchvision(torchvision), samples=samples)


def _idx(folder: str, train: str = "train", test: str = "t10k") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of a data set in MNIST's format: training part, test part."""
    kinds = ("images-idx3", "labels-idx1")
    return (
        tuple(f"{folder}/raw/{train}-{kind}-ubyte" for kind in kinds),
        tuple(f"{folder}/raw/{test}-{kind}-ubyte" for kind in kinds),
    )


def _batches(folder: str, train: tuple[str, ...], test: str, meta: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of a data set in CIFAR's format: training part, test part."""
    return tuple(f"{folder}/{name}" for name in (*train, meta)), (f"{folder}/{test}", f"{folder}/{meta}")


CIFAR10_FILES = _batches(
    "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ROWS = (
    Source("digits", tuple("0123456789"), (1, 8, 8), 16, 0.25, (), (), Digits(), samples=1438),
    _row("mnist", "MNIST", 60_000, _idx("MNIST")),
    _row("fashion-mnist", "FashionMNIST", 60_000, _idx("FashionMNIST")),
    _row("kmnist", "KMNIST", 60_000, _idx("KMNIST")),
    _row(
        "emnist-letters",
        "EMNIST",
        124_800,
        _idx("EMNIST", "emnist-letters-train", "emnist-letters-test"),
        classes=tuple("abcdefghijklmnopqrstuvwxyz"),
    ),
    _row("svhn", "SVHN", 73_257, (("train_32x32.mat",), ("test_32x32.mat",)), (3, 32, 32)),
    _row("cifar10", "CIFAR10", 50_000, CIFAR10_FILES, (3, 32, 32), CIFAR10_CLASSES),
    _row(
        "cifar100",
        "CIFAR100",
        50_000,
        _batches("cifar-100-python", ("train",), "test", "meta"),
        (3, 32, 32),
        tuple(map(str, range(100))),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in ROWS}
"""Name -> data set, of all that have a name."""
