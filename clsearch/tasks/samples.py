"""Samples of a task for M members, and batches of them.

Members share the tensors of the source and differ in indices only, so memory grows with the data once, and not with
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
    """Positions of a batch in a task's samples.

    Args:
        positions: [M, B].
        valid: [M, B], False if a member has fewer samples than the others; its position there is 0 and must not count.
            None if every position counts.
        crops: [M, B, 3] crop and flip of each image (see `transforms`); None for no augmentation.
    """

    positions: Tensor
    valid: Tensor | None = None
    crops: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums [M] over the batch of `values` [M, B]."""
        return values.sum(1) if self.valid is None else torch.where(self.valid, values, 0).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """Return the means [M] over the batch of `values` [M, B]; 0 for a member with no sample in it."""
        return values.mean(1) if self.valid is None else self.sum(values) / self.sizes.clamp_min(1)

    @property
    def sizes(self) -> Tensor:
        """Number of valid samples of each member, [M]."""
        if self.valid is None:
            return torch.full(self.positions.shape[:1], self.positions.shape[1], device=self.positions.device)
        return self.valid.sum(1)


def make_batches(orders: Sequence[Tensor], size: int, device: torch.device) -> list[Batch]:
    """Split each member's order of positions into batches.

    Args:
        orders: Positions [n_m] of each member. A shorter order ends in smaller batches, then in empty ones.
        size: Batch size, in samples.
        device: Device of the batches.
    """
    lengths = torch.tensor([len(order) for order in orders])
    stacked = torch.nn.utils.rnn.pad_sequence(list(orders), batch_first=True)
    valid = torch.arange(stacked.shape[1]) < lengths[:, None]
    # A mask costs time, so only incomplete batches have one.
    full = [bool(part.all()) for part in valid.split(size, dim=1)]
    cut = zip(stacked.to(device).split(size, dim=1), valid.to(device).split(size, dim=1), full, strict=True)
    return [Batch(positions, None if whole else mask) for positions, mask, whole in cut]


MAX_GATHER_ELEMENTS = 2**20
"""Upper limit on the input elements that one gather loads."""


@dataclass(frozen=True)
class Samples:
    """Samples of each of M members: rows of a source that all members share.

    Args:
        inputs: [N, D] uint8, the inputs of the source.
        labels: [N] classes of the source, 0..S-1.
        scale: Divisor of the stored values.
        rows: [M, n] rows of the source that each member has; a member with fewer than n repeats its first row.
        sizes: Number of samples of each member.
        outputs: [M, S] source class -> output of the head; -1 for a class of another task.
        view: Transform of the task's inputs; None shows them unchanged.
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
        """Elements of an input, D."""
        return self.inputs.shape[1]

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Load the samples at some positions.

        Args:
            positions: [M, B] positions in each member's samples.

        Returns:
            Inputs [M, B, D] float in [0, 1] and labels [M, B] (outputs of the head).
        """
        rows = self.rows.gather(1, positions)
        inputs = self.inputs[rows].float().div_(self.scale)
        if self.view is not None:
            inputs = self.view(inputs)
        return inputs, self.outputs.gather(1, self.labels[rows])

    def in_order(self, size: int = 1024) -> list[Batch]:
        """Return all samples in batches of at most `size`, for passes that do not train."""
        return make_batches([torch.arange(n) for n in self.sizes], size, self.rows.device)

    def first(self, members: int) -> Samples:
        """Return the samples of the first members alone."""
        return replace(
            self,
            rows=self.rows[:members],
            sizes=self.sizes[:members],
            outputs=self.outputs[:members],
            view=None if self.view is None else self.view.first(members),
        )

    def thinned(self, most: int) -> Samples:
        """Return at most `most` samples of each member, evenly spaced over its rows (which are sorted by class)."""
        steps = [-(-n // most) for n in self.sizes]
        rows = [member[:n:step] for member, n, step in zip(self.rows, self.sizes, steps, strict=True)]
        return replace(self, rows=stack_rows(rows), sizes=tuple(map(len, rows)))


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """Stack the members' rows [n_m] to [M, n]; a member with fewer repeats its first row."""
    longest = max(map(len, rows))
    return torch.stack([torch.cat([member, member[:1].expand(longest - len(member))]) for member in rows])


@dataclass(frozen=True)
class Mixture:
    """The samples of several tasks together, each shown as by its own task, for joint training.

    Args:
        parts: Samples of each task.
    """

    parts: tuple[Samples, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of samples of each member, over all tasks."""
        return tuple(map(sum, zip(*(part.sizes for part in self.parts), strict=True)))

    @property
    def width(self) -> int:
        """Elements of an input, D."""
        return self.parts[0].width

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Load the samples at some positions, as `Samples.take`.

        Args:
            positions: [M, B]; a member's positions count through its samples of the first part, then of the second, and
                so on.
        """
        inputs, labels = self.parts[0].take(torch.zeros_like(positions))
        first = torch.zeros(len(positions), 1, dtype=positions.dtype, device=positions.device)
        for part in self.parts:
            sizes = torch.tensor(part.sizes, device=positions.device)[:, None]
            here = (positions >= first) & (positions < first + sizes)
            part_inputs, part_labels = part.take(torch.where(here, positions - first, 0))
            inputs = torch.where(here[:, :, None], part_inputs, inputs)
            labels = torch.where(here, part_labels, labels)
            first = first + sizes
        return inputs, labels


def load_batches(samples: Samples | Mixture, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Load the inputs [M, B, D] and labels [M, B] of each batch, several batches per gather.

    With small networks, one gather per batch costs a tenth of a step.
    """
    width = samples.width * batches[0].positions.numel()
    chunk = max(1, MAX_GATHER_ELEMENTS // width)
    for first in range(0, len(batches), chunk):
        positions = [batch.positions for batch in batches[first : first + chunk]]
        sizes = [each.shape[1] for each in positions]
        inputs, labels = samples.take(torch.cat(positions, 1))
        yield from zip(inputs.split(sizes, 1), labels.split(sizes, 1), strict=True)
