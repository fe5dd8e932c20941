"""Amnesiac unlearning (Graves et al. 2021): what learning a task changed of the parameters is subtracted again."""

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
from clsearch.training.trial_setup import Run

HELD = ("teacher", "anchor")
"""Kinds of memories that hold parameters: <kind>/<task>/<name>."""


def retaining(run: Run, state: TrialState) -> Run:
    """The run as a state goes on with it: what was unlearned counts as never seen."""
    if not state.unlearned:
        return run
    return replace(run, benchmark=replace(run.benchmark, unlearned=frozenset(state.unlearned)))


def may_go(config: TrialConfig, task: int) -> bool:
    """Whether a task may come to be unlearned: one that is requested; any where nothing is, which leaves it to the
    caller. Of others no update is kept, each of which is twice as large as the network.
    """
    if config.disable_unlearning:
        return False
    return not config.requests or task in unlearned_by(config.requests, config.tasks)


def with_update(learned: TrialState, before: Params) -> TrialState:
    """A state that keeps what its last task changed of the parameters, Δ = θ after the task - θ before it. In double
    precision, so that subtracting it gives θ before the task but for its last bit.
    """
    update = {
        f"{learned.tasks_learned}/{name}": value.double() - before[name] for name, value in learned.params.items()
    }
    return replace(learned, updates=learned.updates | update)


def unlearn(run: Run, state: TrialState, tasks: Collection[int]) -> TrialState:
    """Unlearn tasks: θ <- θ - Σ_s Δ^(s) of the parameters; their teachers, anchors and importances are dropped. In
    task-incremental learning their rows of the head become the initial ones. With `unlearn_memories` shift, the
    updates are subtracted from what is held of later tasks, too.

    Raises ValueError for a task that was not learned, that was unlearned before, that comes twice, or of which no
    update was kept (see `may_go`).
    """
    for task in tasks:
        if not 1 <= task <= state.tasks_learned:
            raise ValueError(f"unlearn: a task must have been learned before it is unlearned; got {task}")
    if len({*tasks}) < len(tasks) or {*tasks} & {*state.unlearned}:
        raise ValueError(f"unlearn: a task can be unlearned only once; got {' '.join(map(str, tasks))}")
    names = {name.partition("/")[0] for name in state.updates}
    if kept_not := [task for task in tasks if str(task) not in names]:
        raise ValueError(f"unlearn: must be tasks that the configuration's requests name; got {kept_not[0]}")
    params = {
        name: without(value, [state.updates[f"{task}/{name}"] for task in tasks])
        for name, value in state.params.items()
    }
    if run.benchmark.scenario is Scenario.TASK:
        classes = sorted({c for task in tasks for c in run.benchmark.tasks[task - 1].classes})
        params = _with_fresh_head(run, params, classes)
    return replace(
        state,
        params=params,
        memory=_kept(state, tasks, run.config.unlearn_memories == "shift"),
        updates={name: value for name, value in state.updates.items() if int(name.partition("/")[0]) not in tasks},
        unlearned=tuple(sorted({*state.unlearned, *tasks})),
    )


def without(value: Tensor, updates: Sequence[Tensor]) -> Tensor:
    """A parameter less some of its updates."""
    return (value.double() - torch.stack(list(updates)).sum(0)).to(value.dtype) if updates else value


def _with_fresh_head(run: Run, params: Params, classes: list[int]) -> Params:
    """The parameters with the head's initial values for some classes."""
    initial = run.network.initial(run.seeds, run.device)
    rows = torch.zeros(run.benchmark.outputs, dtype=torch.bool, device=run.device)
    rows[classes] = True
    return {name: torch.where(rows, initial[name], value) if is_head(name) else value for name, value in params.items()}


def _kept(state: TrialState, tasks: Collection[int], shift: bool) -> Memory:
    """The memory without that of some tasks. shift: subtract their updates from what is held of later ones."""
    kept = {}
    for name, value in state.memory.items():
        kind, number, of = name.split("/", 2)
        earlier = [state.updates[f"{task}/{of}"] for task in tasks if task < int(number)]
        if int(number) not in tasks:
            kept[name] = without(value, earlier) if shift and kind in HELD else value
    return kept


@torch.no_grad()
def feature_distance(run: Run, params: Params, others: Params, samples: Samples) -> Tensor:
    """[M] float64: mean distance of the backbone features of each sample in two models, as `unlearning_distance` says:
    Euclidean, 1 - cosine of their angle, or Manhattan.
    """
    total = torch.zeros(len(run.seeds), dtype=torch.float64, device=run.device)
    for batch in samples.in_order(run.network.at_once):
        inputs, _ = samples.take(batch.positions)
        here, there = (run.network.features(own, inputs) for own in (params, others))
        total += batch.sum(_distance(run.config.unlearning_distance, here, there).double())
    return total.cpu() / torch.tensor(samples.sizes)


def _distance(kind: str, here: Tensor, there: Tensor) -> Tensor:
    """[M, B] between features [M, B, H]."""
    if kind == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(here, there, dim=-1)
    return torch.linalg.vector_norm(here - there, ord=1 if kind == "manhattan" else 2, dim=-1)
