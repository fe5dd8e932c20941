"""What tests of a study's command line build."""

import torch

from clsearch import SPACES
from tests.builders import (
    study_of,
)

DEFAULT = SPACES["ewc"]


def following(algorithm="ewc", **settings):
    """A script that leaves the space to the defaults."""
    return study_of(algorithm, space=None, **settings)


def cached(tmp_path):
    """Decoded images, and what was left of some."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npy", ".tmp")]


class Tiny(torch.nn.Module):
    """What a user might write."""

    def __init__(self, shape, width=6):
        super().__init__()
        self.layer = torch.nn.Conv2d(shape[0], width, 3)

    def forward(self, images):
        return self.layer(images).relu().mean((2, 3))


def tiny(shape):
    return Tiny(shape)
