"""Cohorts: configurations that train together in one stack of networks; results equal those of separate training up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clsearch.config.trial import TrialConfig
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.state import TrialState, split_state, stack_states
from clsearch.training.trial_setup import TrialSetup, fingerprint


def initial_states(trial: TrialSetup, configs: Sequence[TrialConfig]) -> list[TrialState]:
    """Return the state of each configuration of a trial before its first task."""
    parts = split_state(state := trial.initial_state(), [state] * len(configs))
    seeds, sequence = trial.seeds[: trial.seeds_each], [task.origin for task in trial.benchmark.tasks]
    return [
        replace(part, fingerprint=fingerprint(config, seeds, sequence))
        for part, config in zip(parts, configs, strict=True)
    ]


def learn_together(trial: TrialSetup, states: Sequence[TrialState]) -> list[TrialState | DivergedError]:
    """Train all configurations on their next task, which is the same for all.

    Returns:
        For each configuration, its new state, or the error if it diverged. A diverged one does not affect the others.
    """
    try:
        learned = learn_task(trial, stack_states(states))
    except DivergedError as error:  # all of them
        return [DivergedError(error.reasons.get(place, str(error))) for place in range(len(states))]
    lost = learned.diverged
    return [
        DivergedError(lost[place]) if place in lost else own for place, own in enumerate(split_state(learned, states))
    ]
