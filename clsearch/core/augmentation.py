"""Augmentation of training images: each is cropped from its padded self at random, and mirrored, anew at each epoch.

What happens to an image is drawn beforehand, per member, from its own seed (a move); applying moves to a batch is one
gather on the device and draws nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_moves(images: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """[n, 3] for each image: down and right, -padding..padding pixels, and whether it is mirrored (0 or 1)."""
    shifts = torch.randint(-padding, padding + 1, (images, 2), generator=generator)
    mirrored = torch.randint(0, 2, (images, 1), generator=generator) if flip else torch.zeros_like(shifts[:, :1])
    return torch.cat([shifts, mirrored], 1)


def moved(inputs: Tensor, moves: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Inputs [M, B, C*H*W] after their moves [M, B, 3]: a crop of the image padded with 0, then mirrored."""
    channels, height, width = shape
    along, across = (torch.arange(n, device=inputs.device) for n in (height, width))
    rows = along + moves[..., :1]
    columns = torch.where(moves[..., 2:] == 1, across.flip(0), across) + moves[..., 1:2]
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    places = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    images = inputs.unflatten(2, (channels, height * width))
    taken = images.gather(3, places.flatten(2)[:, :, None].expand_as(images))
    return torch.where(inside.flatten(2)[:, :, None], taken, 0).flatten(2)
