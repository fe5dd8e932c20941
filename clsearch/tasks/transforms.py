"""Transforms of images: views, by which a task shows them to each member, and random crops and flips in training.

A view permutes or rotates the images of a task. Augmentation crops each training image from its padded self and mirrors
it, at random, again in each epoch. All crops of an epoch are drawn beforehand, per member, from its own seed; cropping
a batch is one gather on the device and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class View(Protocol):
    """Maps stored inputs [M, B, D] to those that each member's task shows, [M, B, D]."""

    def __call__(self, inputs: Tensor) -> Tensor: ...

    def first(self, members: int) -> View:
        """Return the view of the first members alone."""
        ...


@dataclass(frozen=True)
class PixelOrder:
    """Permutes the pixels.

    Args:
        order: [M, D] source pixel of each pixel.
    """

    order: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.gather(2, self.order[:, None, :].expand_as(inputs))

    def first(self, members: int) -> PixelOrder:
        return PixelOrder(self.order[:members])


@dataclass(frozen=True)
class Rotation:
    """Rotates images about their centre, with bilinear interpolation and zeros outside the image.

    Args:
        grid: [M, H, W, 2] source position of each pixel, as torch.nn.functional.grid_sample reads it.
    """

    grid: Tensor

    @classmethod
    def of(cls, degrees: Tensor, height: int, width: int) -> Rotation:
        """Build a rotation of images of one size.

        Args:
            degrees: [M] counterclockwise angles.
            height: H of the images, in pixels.
            width: W of the images, in pixels.
        """
        angle = torch.deg2rad(degrees.double())[:, None, None]
        y = (torch.arange(height) - (height - 1) / 2).double()[:, None]
        x = (torch.arange(width) - (width - 1) / 2).double()
        from_x = angle.cos() * x - angle.sin() * y
        from_y = angle.sin() * x + angle.cos() * y
        return cls(torch.stack([2 * from_x / width, 2 * from_y / height], -1).float())

    def to(self, device: torch.device) -> Rotation:
        return Rotation(self.grid.to(device))

    def first(self, members: int) -> Rotation:
        return Rotation(self.grid[:members])

    def __call__(self, inputs: Tensor) -> Tensor:
        members, height, width, _ = self.grid.shape
        images = inputs.reshape(members, -1, height, width)  # all images and channels of a member share its grid
        return torch.nn.functional.grid_sample(images, self.grid, align_corners=False).view_as(inputs)


def draw_crops(images: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draw the crop and the flip of each image.

    Args:
        images: Number of images, n.
        padding: Largest shift, in pixels.
        flip: Mirror half of the images at random.
        generator: Draws the numbers.

    Returns:
        [n, 3] for each image: shift down and shift right, -padding..padding pixels, and 1 to mirror it, else 0.
    """
    shifts = torch.randint(-padding, padding + 1, (images, 2), generator=generator)
    mirrored = torch.randint(0, 2, (images, 1), generator=generator) if flip else torch.zeros_like(shifts[:, :1])
    return torch.cat([shifts, mirrored], 1)


def crop(inputs: Tensor, crops: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Crop images from themselves padded with 0, then mirror them.

    Args:
        inputs: [M, B, C*H*W].
        crops: [M, B, 3], see `draw_crops`.
        shape: [C, H, W].

    Returns:
        [M, B, C*H*W].
    """
    channels, height, width = shape
    along, across = (torch.arange(n, device=inputs.device) for n in (height, width))
    rows = along + crops[..., :1]
    columns = torch.where(crops[..., 2:] == 1, across.flip(0), across) + crops[..., 1:2]
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    pixels = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    images = inputs.unflatten(2, (channels, height * width))
    values = images.gather(3, pixels.flatten(2)[:, :, None].expand_as(images))
    return torch.where(inside.flatten(2)[:, :, None], values, 0).flatten(2)
