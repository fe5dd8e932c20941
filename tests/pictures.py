"""Image files for tests, and what is refused of them."""

import numpy as np
import pytest
from PIL import Image

from clsearch.common.errors import ConfigError


def picture(mode="RGB", width=12, height=10, seed=0):
    """An image of random pixels, which lossless formats keep."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def fill(folder, classes=("cats", "dogs"), count=5, suffix="png", **form):
    """A folder of `count` different images per class."""
    for c, name in enumerate(classes):
        for i in range(count):
            save(folder / name / f"{i:02}.{suffix}", picture(seed=100 * c + i, **form))
    return folder


def names(listing):
    return [file.name for files in listing.files for file in files]


def refusal(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems
