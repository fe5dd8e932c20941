"""Training data of every source, one row per data set. Test data is opened in `held_out` alone.

Importing this module is cheap (configuration is checked against its table before torch is loaded).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Data = tuple[Tensor, Tensor]

DIGITS_CUT_SEED = 20260101
"""Seed of the digits' one test cut; changing it changes every published number."""


@dataclass(frozen=True)
class Source:
    """A data set: what is known of it before it is read, and how its training part is read.

    classes: number of classes, labelled 0..classes-1.
    shape: of one input, channels first for images with channels.
    maximum: the largest stored value; inputs reach the network divided by it, in [0, 1].
    validation_fraction: the share of the training data held back for validation.
    files: paths below the data root that the training part needs.
    read: (data root, download) -> inputs [N, *shape] uint8, labels [N] int64.
    """

    classes: int
    shape: tuple[int, ...]
    maximum: int
    validation_fraction: float
    files: tuple[str, ...]
    read: Callable[[Path | None, bool], Data]

    def missing_files(self, root: Path | None) -> list[str]:
        """The files that the training part needs and `root` lacks (all of them without a root)."""
        return [f for f in self.files if root is None or not os.path.isfile(root / f)]


def digits_cut(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the digits' training and test part: 20 % of each class, cut once by a fixed seed."""
    order = np.random.default_rng(DIGITS_CUT_SEED).permutation(len(labels))
    test = np.concatenate([rows[: round(0.2 * len(rows))] for rows in _by_class(order, labels)])
    return np.setdiff1d(order, test), np.sort(test)


def _by_class(order: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    return [order[labels[order] == c] for c in np.unique(labels)]


def read_digits(part: str) -> Data:
    """scikit-learn's 8x8 handwritten digits (1,797 images, values 0..16), one of their two parts."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = dict(zip(("train", "test"), digits_cut(labels), strict=True))[part]
    inputs = torch.from_numpy(images[rows].astype(np.uint8)).reshape(-1, 8, 8)
    return inputs, torch.from_numpy(labels[rows].astype(np.int64))


def read_torchvision(name: str, part: str, root: Path | None, download: bool) -> Data:
    """One part of a torchvision data set of the MNIST family, read by torchvision's own class.

    The class is narrowed to the files of that part: torchvision's own existence check and download look at all
    four, and a search must run where the test files do not exist.
    """
    import torch
    from torchvision import datasets

    full = getattr(datasets, name)
    prefix = {"train": "train", "test": "t10k"}[part]
    narrowed = type(name, (full,), {"resources": [r for r in full.resources if r[0].startswith(prefix)]})
    data = narrowed(root=str(root), train=part == "train", download=download)
    return data.data, data.targets.to(torch.int64)


SOURCES: dict[str, Source] = {
    "digits": Source(10, (8, 8), 16, 0.25, (), lambda root, download: read_digits("train")),
    "mnist": Source(
        10,
        (28, 28),
        255,
        0.10,
        ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"),
        lambda root, download: read_torchvision("MNIST", "train", root, download),
    ),
}


@functools.lru_cache(maxsize=4)
def training_data(source: str, root: Path | None) -> Data:
    """The training part of a source, read once per process: inputs [N, D] uint8 (flattened), labels [N] int64."""
    inputs, labels = SOURCES[source].read(root, False)
    return inputs.flatten(1), labels
