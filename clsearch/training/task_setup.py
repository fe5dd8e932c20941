"""Prepare a task: its loss, and the batches, augmentation and learning rates of its steps, drawn beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsearch.common.seeding import derive_generator
from clsearch.config.sections import Scenario
from clsearch.methods.base import Penalty, TrainingScheme
from clsearch.networks.mlp import output_mask
from clsearch.tasks.benchmark import Task
from clsearch.tasks.samples import Batch, Mixture, Samples, make_batches
from clsearch.tasks.transforms import draw_crops
from clsearch.training.schedules import lr_multipliers
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup


@dataclass(frozen=True)
class TaskSetup:
    """The parts of a task that all its training steps share.

    Args:
        origin: The task's original number; batches and augmentation derive from it.
        samples: Training samples; in joint training those of all tasks so far.
        tasks: Number of tasks that `samples` come from.
        logit_mask: Added to the logits: 0 for an active output, -inf otherwise; [C], or [C, C] with a row per label if
            tasks are mixed. None if all outputs are active.
        penalties: Penalties of the loss.
        trainable_mask: Parameter -> mask of the entries that an update may change, for the parameters of which the
            optimizer would also change others.
    """

    origin: int
    samples: Samples | Mixture
    tasks: int
    logit_mask: Tensor | None
    penalties: tuple[Penalty, ...]
    trainable_mask: dict[str, Tensor]

    def mask_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mask the logits of inactive outputs.

        Args:
            logits: [M, B, C].
            labels: [M, B], which select the mask if tasks are mixed.

        Returns:
            [M, B, C], -inf for an inactive output.
        """
        logit_mask = self.logit_mask
        if logit_mask is None:
            return logits
        return logits + (logit_mask[labels] if logit_mask.dim() == 2 else logit_mask)


def prepare_task(trial: TrialSetup, state: TrialState, task: Task) -> TaskSetup:
    """Compute everything of a task that its steps do not change.

    Args:
        trial: The trial's setup.
        state: The state before the task.
        task: The task to train on.
    """
    benchmark, t = trial.benchmark, task.index
    prepared = [
        r.prepare(trial.network, benchmark, task, state.memory, trial.hyperparameters) for r in trial.regularizers
    ]
    active = benchmark.active_outputs(t, t)
    allowed = output_mask(active, benchmark.outputs, trial.device)
    joint = trial.scheme is TrainingScheme.JOINT
    if joint or any(r.trains_head for r in trial.regularizers):
        active = tuple(sorted({*active, *benchmark.seen(t)}))
    if joint and benchmark.scenario is Scenario.TASK:
        allowed = torch.zeros(benchmark.outputs, benchmark.outputs, dtype=torch.bool, device=trial.device)
        for learned in benchmark.tasks[:t]:
            columns = torch.tensor(learned.classes, device=trial.device)
            allowed[columns[:, None], columns] = True
    trainable = output_mask(active, benchmark.outputs, trial.device) if trial.optimizer.drifts else None
    return TaskSetup(
        origin=task.origin,
        samples=Mixture(tuple(learned.train for learned in benchmark.tasks[:t])) if joint else task.train,
        tasks=t if joint else 1,
        logit_mask=None if allowed is None else torch.where(allowed, 0.0, -torch.inf),
        penalties=tuple(p for p in prepared if p is not None),
        trainable_mask={} if trainable is None else {"head.weight": trainable, "head.bias": trainable},
    )


@dataclass(frozen=True)
class Step:
    """A training step.

    Args:
        batch: Positions of the samples.
        rate: [M] learning rates; None uses the configured ones.
    """

    batch: Batch
    rate: Tensor | None


def plan_epochs(trial: TrialSetup, setup: TaskSetup) -> Iterator[list[Step]]:
    """Yield the steps of a task, one epoch at a time.

    Each member passes through its own samples as it would alone, whatever the sizes of the others; its last epoch ends
    with the configured number of steps. With `iterations`, joint training runs that many steps for each task that it
    trains on.

    Args:
        trial: The trial's setup.
        setup: The task's setup.
    """
    config, size = trial.config, trial.config.batch_size
    epochs, iterations = config.epochs or 0, (config.iterations or 0) * setup.tasks
    left = [iterations or epochs * -(-n // size) for n in setup.samples.sizes]
    multipliers = [lr_multipliers(trial.config_of(m // trial.seeds_each), steps) for m, steps in enumerate(left)]
    for epoch in itertools.count(1):
        if not any(left):
            return
        drawn = {  # several configurations have the same seeds
            seed: torch.randperm(n, generator=derive_generator(seed, setup.origin, epoch, "batches"))[: steps * size]
            for seed, n, steps in dict.fromkeys(zip(trial.seeds, setup.samples.sizes, left, strict=True))
        }
        orders = [drawn[seed] for seed in trial.seeds]
        batches = make_batches(orders, size, trial.device)
        if config.augmented:
            batches = _add_crops(trial, setup, epoch, batches, [len(order) for order in orders])
        rates: Sequence[Tensor | None] = [None] * len(batches)
        if trial.scheduled:
            remaining = [factors[len(factors) - n :] for factors, n in zip(multipliers, left, strict=True)]
            rates = _split_rates(trial, remaining, len(batches))
        left = [steps - -(-len(order) // size) for steps, order in zip(left, orders, strict=True)]
        yield [Step(batch, rate) for batch, rate in zip(batches, rates, strict=True)]


def _add_crops(trial: TrialSetup, setup: TaskSetup, epoch: int, batches: list[Batch], images: list[int]) -> list[Batch]:
    """Add crops and flips to the batches of an epoch.

    Args:
        trial: The trial's setup.
        setup: The task's setup.
        epoch: From 1.
        batches: The batches of the epoch.
        images: Number of images of each member in this epoch.
    """
    config = trial.config
    drawn = {
        seed: draw_crops(
            n, config.random_crop, config.horizontal_flip, derive_generator(seed, setup.origin, epoch, "augmentation")
        )
        for seed, n in dict.fromkeys(zip(trial.seeds, images, strict=True))
    }
    by_member = [drawn[seed] for seed in trial.seeds]
    crops = (
        torch.nn.utils.rnn.pad_sequence(by_member, batch_first=True).to(trial.device).split(config.batch_size, dim=1)
    )
    return [replace(batch, crops=each) for batch, each in zip(batches, crops, strict=True)]


def _split_rates(trial: TrialSetup, multipliers: Sequence[Tensor], steps: int) -> Sequence[Tensor]:
    """Return the learning rates [M] of the next steps.

    Args:
        trial: The trial's setup.
        multipliers: For each member, the factors of the learning rate at its remaining steps; 0 after them.
        steps: Number of steps.
    """
    stacked = torch.nn.utils.rnn.pad_sequence([factors[:steps] for factors in multipliers])
    stacked = torch.nn.functional.pad(stacked, (0, 0, 0, steps - len(stacked))).to(trial.device)
    rate = trial.hyperparameters["learning_rate"]
    return (stacked * rate).to(rate.dtype).unbind()
