"""What is learned at a task, and its steps: batches, augmentation and learning rates, drawn before they are taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsearch.common.seeding import generator_of
from clsearch.config.sections import Scenario
from clsearch.methods.base import Penalty, TrainingScheme
from clsearch.networks.mlp import allowed_mask
from clsearch.tasks.benchmark import Task
from clsearch.tasks.samples import Batch, Mixture, Samples, batches_of
from clsearch.tasks.transforms import drawn_crops
from clsearch.training.schedules import rate_shares
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import Run


@dataclass(frozen=True)
class Lesson:
    """What is learned at a task, prepared: what every step of it shares.

    origin: the task's, which batches and augmentation follow.
    samples: trained on; all tasks' so far in joint training. tasks: how many tasks they are of.
    barred: what is added to the logits: 0 where an output may be answered, -inf elsewhere; [C], or [C, C] with a row
    per label where tasks are mixed, or None where all may.
    movable: parameter -> mask of the entries that may move, for parameters of which not all may, though the optimizer
    would move them.
    """

    origin: int
    samples: Samples | Mixture
    tasks: int
    barred: Tensor | None
    penalties: tuple[Penalty, ...]
    movable: dict[str, Tensor]

    def answers(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [M, B, C] with -inf where a sample of this label may not be answered so."""
        barred = self.barred
        if barred is None:
            return logits
        return logits + (barred[labels] if barred.dim() == 2 else barred)


def prepare_lesson(run: Run, state: TrialState, task: Task) -> Lesson:
    """Everything of a task that its steps do not change."""
    benchmark, t = run.benchmark, task.index
    prepared = [r.prepare(run.network, benchmark, task, state.memory, run.hyperparameters) for r in run.regularizers]
    active = benchmark.answers(t, t)
    allowed = allowed_mask(active, benchmark.outputs, run.device)
    joint = run.scheme is TrainingScheme.JOINT
    if joint or any(r.trains_head for r in run.regularizers):
        active = tuple(sorted({*active, *benchmark.seen(t)}))
    if joint and benchmark.scenario is Scenario.TASK:
        allowed = torch.zeros(benchmark.outputs, benchmark.outputs, dtype=torch.bool, device=run.device)
        for learned in benchmark.tasks[:t]:
            columns = torch.tensor(learned.classes, device=run.device)
            allowed[columns[:, None], columns] = True
    movable = allowed_mask(active, benchmark.outputs, run.device) if run.optimizer.drifts else None
    return Lesson(
        origin=task.origin,
        samples=Mixture(tuple(learned.train for learned in benchmark.tasks[:t])) if joint else task.train,
        tasks=t if joint else 1,
        barred=None if allowed is None else torch.where(allowed, 0.0, -torch.inf),
        penalties=tuple(p for p in prepared if p is not None),
        movable={} if movable is None else {"head.weight": movable, "head.bias": movable},
    )


@dataclass(frozen=True)
class Step:
    """A batch, and each member's learning rate [M] on it; None: as it is."""

    batch: Batch
    rate: Tensor | None


def epochs_of(run: Run, lesson: Lesson) -> Iterator[list[Step]]:
    """Steps, an epoch at a time. Each member goes through its own samples as it would alone, whatever the others'
    sizes; its last epoch ends where the configured steps end.

    With `iterations`, joint training takes as many per task that it trains on, as `epochs` do by themselves.
    """
    config, size = run.config, run.config.batch_size
    epochs, iterations = config.epochs or 0, (config.iterations or 0) * lesson.tasks
    left = [iterations or epochs * -(-n // size) for n in lesson.samples.sizes]
    shares = [rate_shares(config, steps) for steps in left]
    for epoch in itertools.count(1):
        if not any(left):
            return
        drawn = {  # members of a cohort have the same seeds
            seed: torch.randperm(n, generator=generator_of(seed, lesson.origin, epoch, "batches"))[: steps * size]
            for seed, n, steps in dict.fromkeys(zip(run.seeds, lesson.samples.sizes, left, strict=True))
        }
        orders = [drawn[seed] for seed in run.seeds]
        batches = batches_of(orders, size, run.device)
        if config.augmented:
            batches = _with_crops(run, lesson, epoch, batches, [len(order) for order in orders])
        rates: Sequence[Tensor | None] = [None] * len(batches)
        if run.scheduled:
            rates = _rates(run, [own[len(own) - n :] for own, n in zip(shares, left, strict=True)], len(batches))
        left = [steps - -(-len(order) // size) for steps, order in zip(left, orders, strict=True)]
        yield [Step(batch, rate) for batch, rate in zip(batches, rates, strict=True)]


def _with_crops(run: Run, lesson: Lesson, epoch: int, batches: list[Batch], images: list[int]) -> list[Batch]:
    """An epoch's batches with how each image is augmented. images: how many each member sees."""
    config = run.config
    drawn = {
        seed: drawn_crops(
            n, config.random_crop, config.horizontal_flip, generator_of(seed, lesson.origin, epoch, "augmentation")
        )
        for seed, n in dict.fromkeys(zip(run.seeds, images, strict=True))
    }
    own = [drawn[seed] for seed in run.seeds]
    crops = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(run.device).split(config.batch_size, dim=1)
    return [replace(batch, crops=each) for batch, each in zip(batches, crops, strict=True)]


def _rates(run: Run, shares: Sequence[Tensor], steps: int) -> Sequence[Tensor]:
    """[M] learning rates of the next steps. shares: of each member's steps to come; it stands still after them."""
    stacked = torch.nn.utils.rnn.pad_sequence([own[:steps] for own in shares])
    stacked = torch.nn.functional.pad(stacked, (0, 0, 0, steps - len(stacked))).to(run.device)
    rate = run.hyperparameters["learning_rate"]
    return (stacked * rate).to(rate.dtype).unbind()
