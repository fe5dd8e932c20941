"""Models that never saw what is unlearned: what unlearning is measured against."""

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
from clsearch.training.trial_setup import build_run

REFERENCE = "finetuning"
"""It has none of the hyperparameters that a search moves, so one serves all trials of a structure."""

References = dict[int, Params]
"""Number of tasks learned -> parameters [M, ...]."""


def placed(references: References, device: torch.device | str) -> References:
    """The same on a device."""
    return {at: {name: value.to(device) for name, value in params.items()} for at, params in references.items()}


def task_trainings(config: TrialConfig, seeds: int) -> int:
    """How many tasks, each on a seed, `retrained` trains."""
    moments = sorted({*config.requests, config.tasks}) if config.requests else []
    last = {unlearned_by(config.requests, at): at for at in moments}
    return seeds * sum(at - len(gone) for gone, at in last.items())


def retrained(
    config: TrialConfig, seeds: Sequence[int], device: torch.device | str = "cpu", data: Data | None = None
) -> References:
    """For each request, and for the end of the sequence: the same network with the same seeds, finetuned on the tasks
    that are retained by then and on nothing else. Tasks keep their numbers in the random seeds, so the batches are
    those of a trial. Raises DivergedError.
    """
    if not config.requests:
        return {}
    settings = {name: getattr(config, name) for name in fields_of(REFERENCE)}
    own = configure(REFERENCE, settings, config.source)
    moments = sorted({*config.requests, config.tasks})
    found: References = {}
    for gone, ats in groupby(moments, partial(unlearned_by, config.requests)):
        until = list(ats)
        run = build_run(own, seeds, device, data, [k for k in range(1, until[-1] + 1) if k not in gone])
        state = run.initial_state()
        for at in until:
            while state.tasks_learned < sum(task.origin <= at for task in run.benchmark.tasks):
                state = learn_task(run, state)
            found[at] = state.params
    return found
