"""Train the reference models of unlearning: models that never saw the unlearned tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import torch

from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import unlearned_by
from clsearch.data.datasets import Data
from clsearch.methods.registry import configure, fields_of
from clsearch.networks.mlp import Params
from clsearch.training.loop import learn_task
from clsearch.training.trial_setup import build_trial

REFERENCE = "finetuning"
"""Algorithm of the references. It has no searched hyperparameter, so one serves all trials of a structure."""

References = dict[int, Params]
"""Number of tasks learned -> parameters [M, ...]."""


def move_references(references: References, device: torch.device | str) -> References:
    """Move the references to a device."""
    return {after: {name: value.to(device) for name, value in params.items()} for after, params in references.items()}


def retrain(
    config: TrialConfig, seeds: Sequence[int], device: torch.device | str = "cpu", data: Data | None = None
) -> References:
    """Train the reference model of each unlearning request, and of the end of the sequence.

    A reference is the same network with the same seeds, finetuned on the tasks retained by then only. Tasks keep their
    numbers in the random seeds, so the batches are those of a trial.

    Args:
        config: A trial's configuration.
        seeds: One per member.
        device: Device to train on.
        data: Training data of the source; None reads it.

    Returns:
        Number of tasks learned -> parameters [M, ...]; empty without requests.

    Raises:
        DivergedError: If training diverges.
    """
    if not config.requests:
        return {}
    settings = {name: getattr(config, name) for name in fields_of(REFERENCE)}
    reference = configure(REFERENCE, settings, config.source)
    moments = sorted({*config.requests, config.tasks})
    references: References = {}
    for unlearned, group in groupby(moments, partial(unlearned_by, config.requests)):
        until = list(group)
        trial = build_trial(reference, seeds, device, data, [k for k in range(1, until[-1] + 1) if k not in unlearned])
        state = trial.initial_state()
        for after in until:
            while state.tasks_learned < sum(task.origin <= after for task in trial.benchmark.tasks):
                state = learn_task(trial, state)
            references[after] = state.params
    return references
