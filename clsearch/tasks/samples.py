"""Samples of a task for M members, and batches of them.

Members share the source's tensors; what differs between them is indices. So memory grows with the data once, not with
seeds or tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsearch.tasks.transforms import View


@dataclass(frozen=True)
class Batch:
    """Positions [M, B] in a task's samples.

    valid: [M, B] False where a member has fewer samples than the others; its position there is 0 and must not count.
    None where every position counts.
    crops: [M, B, 3] how each image is augmented (see `augmentation`), None where none is.
    """

    positions: Tensor
    valid: Tensor | None = None
    crops: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """[M] sums over the batch of `values` [M, B]."""
        return values.sum(1) if self.valid is None else torch.where(self.valid, values, 0).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """[M] means over the batch of `values` [M, B]; 0 for a member without a sample in it."""
        return values.mean(1) if self.valid is None else self.sum(values) / self.sizes.clamp_min(1)

    @property
    def sizes(self) -> Tensor:
        """[M] how many samples of each member count."""
        if self.valid is None:
            return torch.full(self.positions.shape[:1], self.positions.shape[1], device=self.positions.device)
        return self.valid.sum(1)


def batches_of(orders: Sequence[Tensor], size: int, device: torch.device) -> list[Batch]:
    """Cut each member's order of positions [n_m] into batches of `size`. A shorter order ends in smaller batches, and
    in empty ones once it is used up.
    """
    lengths = torch.tensor([len(order) for order in orders])
    stacked = torch.nn.utils.rnn.pad_sequence(list(orders), batch_first=True)
    valid = torch.arange(stacked.shape[1]) < lengths[:, None]
    full = [bool(part.all()) for part in valid.split(size, dim=1)]  # a mask costs: only where it is needed
    cut = zip(stacked.to(device).split(size, dim=1), valid.to(device).split(size, dim=1), full, strict=True)
    return [Batch(positions, None if whole else mask) for positions, mask, whole in cut]


TAKEN = 2**20
"""Numbers of inputs that are taken at a time."""


@dataclass(frozen=True)
class Samples:
    """Samples of each of M members: rows of a source that all members share.

    inputs: [N, D] uint8, the source. labels: [N] the source's classes, 0..S-1.
    scale: what a stored value is divided by.
    rows: [M, n] which rows of the source each member has, filled up with its first where it has fewer than n.
    sizes: how many each member has.
    outputs: [M, S] source class -> output of the head that stands for it (-1: not in this task).
    view: how the task shows the inputs; None: as they are.
    """

    inputs: Tensor
    labels: Tensor
    scale: float
    rows: Tensor
    sizes: tuple[int, ...]
    outputs: Tensor
    view: View | None = None

    @property
    def width(self) -> int:
        """Numbers of an input."""
        return self.inputs.shape[1]

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `positions` [M, B] of each member: inputs [M, B, D] float in [0, 1], labels [M, B]."""
        rows = self.rows.gather(1, positions)
        inputs = self.inputs[rows].float().div_(self.scale)
        if self.view is not None:
            inputs = self.view(inputs)
        return inputs, self.outputs.gather(1, self.labels[rows])

    def in_order(self, size: int = 1024) -> list[Batch]:
        """All samples in batches of at most `size`, for passes that do not train."""
        return batches_of([torch.arange(n) for n in self.sizes], size, self.rows.device)

    def first(self, members: int) -> Samples:
        """The first members' alone."""
        return replace(
            self,
            rows=self.rows[:members],
            sizes=self.sizes[:members],
            outputs=self.outputs[:members],
            view=None if self.view is None else self.view.first(members),
        )

    def thinned(self, most: int) -> Samples:
        """At most `most` of each member's samples, evenly spread over its rows (which are sorted by class)."""
        steps = [-(-n // most) for n in self.sizes]
        rows = [own[:n:step] for own, n, step in zip(self.rows, self.sizes, steps, strict=True)]
        return replace(self, rows=stacked_rows(rows), sizes=tuple(map(len, rows)))


def stacked_rows(rows: Sequence[Tensor]) -> Tensor:
    """[M, n] the members' rows [n_m], each filled up with its first."""
    longest = max(map(len, rows))
    return torch.stack([torch.cat([own, own[:1].expand(longest - len(own))]) for own in rows])


@dataclass(frozen=True)
class Mixture:
    """The samples of several tasks together, each seen as its own task shows it, for training."""

    parts: tuple[Samples, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(part.sizes for part in self.parts), strict=True)))

    @property
    def width(self) -> int:
        return self.parts[0].width

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As Samples.take; a member's positions go through its samples of the first part, then the second, ..."""
        inputs, labels = self.parts[0].take(torch.zeros_like(positions))
        first = torch.zeros(len(positions), 1, dtype=positions.dtype, device=positions.device)
        for part in self.parts:
            sizes = torch.tensor(part.sizes, device=positions.device)[:, None]
            here = (positions >= first) & (positions < first + sizes)
            own_inputs, own_labels = part.take(torch.where(here, positions - first, 0))
            inputs = torch.where(here[:, :, None], own_inputs, inputs)
            labels = torch.where(here, own_labels, labels)
            first = first + sizes
        return inputs, labels


def taken(samples: Samples | Mixture, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs [M, B, D] and labels [M, B] of each batch, taken for several at a time: with small networks, taking them
    one by one is a tenth of a step.
    """
    width = samples.width * batches[0].positions.numel()
    at_once = max(1, TAKEN // width)
    for first in range(0, len(batches), at_once):
        positions = [batch.positions for batch in batches[first : first + at_once]]
        sizes = [own.shape[1] for own in positions]
        inputs, labels = samples.take(torch.cat(positions, 1))
        yield from zip(inputs.split(sizes, 1), labels.split(sizes, 1), strict=True)
