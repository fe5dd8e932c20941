"""Amnesiac unlearning (Graves et al. 2021): subtract the parameter updates that learning a task made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import unlearned_by
from clsearch.methods.base import Memory
from clsearch.networks.mlp import Params, is_head
from clsearch.tasks.samples import Samples
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup

HELD = ("teacher", "anchor")
"""Kinds of memory that contain parameters: <kind>/<task>/<name>."""


def without_unlearned(trial: TrialSetup, state: TrialState) -> TrialSetup:
    """Return the setup for continuing a state: its unlearned tasks count as never seen."""
    if not state.unlearned:
        return trial
    return replace(trial, benchmark=replace(trial.benchmark, unlearned=frozenset(state.unlearned)))


def may_be_unlearned(config: TrialConfig, task: int) -> bool:
    """Return True if a task can be unlearned later.

    A task can be unlearned if a request names it, or if there are no requests, which leaves the choice to the caller.
    No update is kept of other tasks, because an update takes twice the memory of the network.
    """
    if config.disable_unlearning:
        return False
    return not config.requests or task in unlearned_by(config.requests, config.tasks)


def record_update(learned: TrialState, before: Params) -> TrialState:
    """Add the update of the last task, Δ = θ after the task - θ before it, to a state.

    Updates are in double precision, so subtracting one restores θ before the task except for its last bit.

    Args:
        learned: The state after the task.
        before: Name -> [M, ...], the parameters before the task.
    """
    update = {
        f"{learned.tasks_learned}/{name}": value.double() - before[name] for name, value in learned.params.items()
    }
    return replace(learned, updates=learned.updates | update)


def unlearn(trial: TrialSetup, state: TrialState, tasks: Collection[int]) -> TrialState:
    """Unlearn tasks: θ <- θ - Σ_s Δ^(s); drops their teachers, anchors and importances.

    In task-incremental learning, their outputs of the head are reset to the initial values. With `unlearn_memories`
    shift, the updates are also subtracted from the parameters in the memories of later tasks.

    Source: Graves et al. 2021.

    Args:
        trial: The trial's setup.
        state: The state with the tasks.
        tasks: Indices of the tasks to unlearn.

    Raises:
        ValueError: For a task that is not learned, is already unlearned, occurs twice, or has no stored update (see
            `may_be_unlearned`).
    """
    for task in tasks:
        if not 1 <= task <= state.tasks_learned:
            raise ValueError(f"unlearn: a task must have been learned before it is unlearned; got {task}")
    if len({*tasks}) < len(tasks) or {*tasks} & {*state.unlearned}:
        raise ValueError(f"unlearn: a task can be unlearned only once; got {' '.join(map(str, tasks))}")
    names = {name.partition("/")[0] for name in state.updates}
    if missing := [task for task in tasks if str(task) not in names]:
        raise ValueError(f"unlearn: must be tasks that the configuration's requests name; got {missing[0]}")
    params = {
        name: subtract_updates(value, [state.updates[f"{task}/{name}"] for task in tasks])
        for name, value in state.params.items()
    }
    if trial.benchmark.scenario is Scenario.TASK:
        classes = sorted({c for task in tasks for c in trial.benchmark.tasks[task - 1].classes})
        params = _with_fresh_head(trial, params, classes)
    return replace(
        state,
        params=params,
        memory=_drop_memories(state, tasks, trial.config.unlearn_memories == "shift"),
        updates={name: value for name, value in state.updates.items() if int(name.partition("/")[0]) not in tasks},
        unlearned=tuple(sorted({*state.unlearned, *tasks})),
    )


def subtract_updates(value: Tensor, updates: Sequence[Tensor]) -> Tensor:
    """Subtract some updates from a parameter."""
    return (value.double() - torch.stack(list(updates)).sum(0)).to(value.dtype) if updates else value


def _with_fresh_head(trial: TrialSetup, params: Params, classes: list[int]) -> Params:
    """Reset the head of some classes to its initial values."""
    initial = trial.network.initial(trial.seeds, trial.device)
    rows = torch.zeros(trial.benchmark.outputs, dtype=torch.bool, device=trial.device)
    rows[classes] = True
    return {name: torch.where(rows, initial[name], value) if is_head(name) else value for name, value in params.items()}


def _drop_memories(state: TrialState, tasks: Collection[int], shift: bool) -> Memory:
    """Drop the memories of some tasks. shift: also subtract their updates from the memories of later tasks."""
    kept = {}
    for name, value in state.memory.items():
        kind, number, parameter = name.split("/", 2)
        earlier = [state.updates[f"{task}/{parameter}"] for task in tasks if task < int(number)]
        if int(number) not in tasks:
            kept[name] = subtract_updates(value, earlier) if shift and kind in HELD else value
    return kept


@torch.no_grad()
def feature_distance(trial: TrialSetup, params: Params, others: Params, samples: Samples) -> Tensor:
    """Measure the mean distance of the backbone features of two models.

    Args:
        trial: The trial's setup; `unlearning_distance` selects Euclidean, 1 - cosine of the angle, or Manhattan.
        params: Name -> [M, ...], the first model.
        others: Name -> [M, ...], the second model.
        samples: Samples of each member.

    Returns:
        [M] float64, mean over the samples.
    """
    total = torch.zeros(len(trial.seeds), dtype=torch.float64, device=trial.device)
    for batch in samples.in_order(trial.network.eval_batch_size):
        inputs, _ = samples.take(batch.positions)
        first, second = (trial.network.features(model, inputs) for model in (params, others))
        total += batch.sum(_distance(trial.config.unlearning_distance, first, second).double())
    return total.cpu() / torch.tensor(samples.sizes)


def _distance(kind: str, first: Tensor, second: Tensor) -> Tensor:
    """Return the distances [M, B] between features [M, B, H]."""
    if kind == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(first, second, dim=-1)
    return torch.linalg.vector_norm(first - second, ord=1 if kind == "manhattan" else 2, dim=-1)
