"""Augmentation of training images: each is cropped from its padded self at random, and mirrored, anew at each epoch.

Where an image is cropped and whether it is mirrored is drawn beforehand, per member, from its own seed; cropping a
batch is one gather on the device and draws nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_crops(images: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """[n, 3] for each image: down and right, -padding..padding pixels, and whether it is mirrored (0 or 1)."""
    shifts = torch.randint(-padding, padding + 1, (images, 2), generator=generator)
    mirrored = torch.randint(0, 2, (images, 1), generator=generator) if flip else torch.zeros_like(shifts[:, :1])
    return torch.cat([shifts, mirrored], 1)


def cropped(inputs: Tensor, crops: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Inputs [M, B, C*H*W] cropped [M, B, 3] from the image padded with 0, then mirrored."""
    channels, height, width = shape
    along, across = (torch.arange(n, device=inputs.device) for n in (height, width))
    rows = along + crops[..., :1]
    columns = torch.where(crops[..., 2:] == 1, across.flip(0), across) + crops[..., 1:2]
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    places = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    images = inputs.unflatten(2, (channels, height * width))
    taken = images.gather(3, places.flatten(2)[:, :, None].expand_as(images))
    return torch.where(inside.flatten(2)[:, :, None], taken, 0).flatten(2)
