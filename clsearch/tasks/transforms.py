"""How a task shows the images of a source, each member its own way: their pixels in another order, or turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class View(Protocol):
    """Inputs [M, B, D] as they are -> as each member's task shows them."""

    def __call__(self, inputs: Tensor) -> Tensor: ...

    def first(self, members: int) -> View:
        """The first members' alone."""
        ...


@dataclass(frozen=True)
class PixelOrder:
    """Pixels in another order. order: [M, D] which pixel comes where."""

    order: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.gather(2, self.order[:, None, :].expand_as(inputs))

    def first(self, members: int) -> PixelOrder:
        return PixelOrder(self.order[:members])


@dataclass(frozen=True)
class Rotation:
    """Images turned about their centre, bilinearly; 0 comes in from beyond the edges.

    grid: [M, H, W, 2] where each pixel comes from, as torch.nn.functional.grid_sample reads it.
    """

    grid: Tensor

    @classmethod
    def of(cls, degrees: Tensor, height: int, width: int) -> Rotation:
        """Turned by `degrees` [M], counterclockwise."""
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
        images = inputs.reshape(members, -1, height, width)  # each member's images and channels share its grid
        return torch.nn.functional.grid_sample(images, self.grid, align_corners=False).view_as(inputs)
