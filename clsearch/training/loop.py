"""The training loop: a step, a task, a sequence of tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clsearch.config.unlearning import unlearned_by
from clsearch.methods.base import Student, TrainingScheme
from clsearch.networks.mlp import Params, broadcast_members, trainable_copy
from clsearch.tasks.benchmark import Task
from clsearch.tasks.samples import Batch, Samples, load_batches
from clsearch.tasks.transforms import crop
from clsearch.training.evaluation import drop_unlearned, measure_row
from clsearch.training.first_task_cache import can_share, train_or_load_first_task
from clsearch.training.learning_curve import StepLog, curve_rows
from clsearch.training.optimizers import Moments
from clsearch.training.state import TrialState
from clsearch.training.task_setup import TaskSetup, plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup
from clsearch.training.unlearning import feature_distance, may_be_unlearned, record_update, unlearn, without_unlearned

CHECK_STEPS = 50
"""Steps between two checks for divergence; a check at every step would wait for the device each time."""

DIVERGED = "training diverged"
"""How the message about a diverged configuration begins."""


class DivergedError(ArithmeticError):
    """A loss or a parameter became NaN or infinite, so no later number of the trial would be valid.

    Args:
        why: The message.
        reasons: Position among several configurations -> message, for each that diverged.
    """

    def __init__(self, why: str, reasons: dict[int, str] | None = None) -> None:
        super().__init__(why)
        self.reasons = reasons or {}


def train_step(
    trial: TrialSetup,
    setup: TaskSetup,
    params: Params,
    moments: Moments,
    batch: Batch,
    rate: Tensor | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
) -> StepLog:
    """Run one training step in place, without branching on a tensor's value.

    The gradient of the sum of the members' losses is each member's own gradient, because members share no parameter. A
    member without a sample in the batch keeps its parameters and moments.

    Args:
        trial: The trial's setup.
        setup: The task's setup.
        params: Name -> [M, ...], leaf tensors (see `trainable_copy`); updated in place.
        moments: Name -> [M, ...]; updated in place.
        batch: Positions of the samples.
        rate: [M] learning rates of this step; None uses the configured ones.
        seen: Inputs [M, B, D] and labels [M, B] of the batch, if they are loaded already.

    Returns:
        The step's log, see `curve_rows`.
    """
    inputs, labels = seen or setup.samples.take(batch.positions)
    if batch.crops is not None:
        inputs = crop(inputs, batch.crops, trial.benchmark.shape)
    if rate is None:
        rate = trial.hyperparameters["learning_rate"]
    features = trial.features(params, inputs)
    student = Student(params, features, trial.network.logits(params, features), inputs)
    logits = setup.mask_logits(student.logits, labels)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    classification = batch.mean(losses.view_as(labels))
    terms = {"learning_rate": rate, "loss_classification": classification}
    total = classification
    if outputs := [penalty(student, batch) for penalty in setup.penalties]:
        penalty = sum((output.penalty for output in outputs[1:]), outputs[0].penalty)
        total = classification + penalty
        logged = {name: value for output in outputs for name, value in output.logged.items()} | {"penalty": penalty}
        # Clones, because the values can be views of parameters; detached, because their graph can be large.
        terms |= {name: value.detach().clone() for name, value in logged.items()}
    # Sums instead of passing grad_outputs, for which torch imports a module that takes half a second.
    gradients = torch.autograd.grad(total if len(total) == 1 else total.sum(), list(params.values()))
    with torch.no_grad():
        _update(trial, setup, params, dict(zip(params, gradients, strict=True)), moments, batch, rate)
    # Without penalties, grad() has freed the graph of the loss, so it needs no detach.
    return StepLog(terms | {"loss": total.detach() if outputs else total}, logits.detach().argmax(-1), labels, batch)


def _update(
    trial: TrialSetup, setup: TaskSetup, params: Params, gradients: Params, moments: Moments, batch: Batch, rate: Tensor
) -> None:
    """Apply the optimizer, except to entries that must not change.

    Momentum and weight decay would also change masked outputs, although their gradient is 0.
    """
    values = params | moments
    masks = {name: mask for name in values if (mask := setup.trainable_mask.get(name.rpartition("/")[2])) is not None}
    if batch.valid is not None:
        active = batch.valid.any(1)
        rows = {name: broadcast_members(active, value) for name, value in values.items()}
        masks = {name: row & masks[name] if name in masks else row for name, row in rows.items()}
    old = {name: values[name].clone() for name in masks}
    trial.optimizer.update(params, gradients, moments, rate)
    for name, mask in masks.items():
        values[name].copy_(torch.where(mask, values[name], old[name]))


def train_task(trial: TrialSetup, state: TrialState, task: Task) -> TrialState:
    """Train on one task.

    Args:
        trial: The trial's setup.
        state: The state before the task.
        task: The task to train on.

    Returns:
        The state with new parameters, moments and rows of the learning curve. If some of several configurations
        diverge, they keep the parameters and moments from before the task.

    Raises:
        DivergedError: If all configurations have a member with a NaN or infinite loss or parameter, within CHECK_STEPS
            steps.
    """
    setup, diverged = prepare_task(trial, state, task), dict[int, str]()
    params = trainable_copy(state.params)
    keep = trial.config.optimizer_state == "keep"
    moments = {n: v.clone() for n, v in state.moments.items()} if keep else trial.optimizer.initial(state.params)
    rows: list[Tensor] = []
    for epoch, steps in enumerate(plan_epochs(trial, setup), start=1):
        total = torch.zeros(len(trial.seeds), len(trial.columns), device=trial.device)
        samples = torch.zeros(len(trial.seeds), 1, device=trial.device)
        for first in range(0, len(steps), CHECK_STEPS):
            part, logs = steps[first : first + CHECK_STEPS], []
            for step, seen in zip(part, load_batches(setup.samples, [step.batch for step in part]), strict=True):
                logs.append(train_step(trial, setup, params, moments, step.batch, step.rate, seen))
            sizes = torch.stack([step.batch.sizes for step in part])[:, :, None]
            total = total + (curve_rows(trial.columns, logs) * sizes).sum(0)
            samples = samples + sizes.sum(0)
            diverged = _find_diverged(trial, total, params, task, epoch) | diverged
            if len(diverged) == trial.configurations:
                raise DivergedError(diverged[0], diverged)
        rows.append((total / samples).cpu())  # NaN for a member whose training has ended before this epoch
    epochs = torch.tensor([[task.index, epoch] for epoch in range(1, len(rows) + 1)])
    trained = {name: value.detach() for name, value in params.items()}
    if diverged:
        going = torch.tensor(
            [position not in diverged for position in range(trial.configurations)], device=trial.device
        )
        going = going.repeat_interleave(trial.seeds_each)
        trained, moments = _select(going, trained, state.params), _select(going, moments, state.moments)
    return replace(
        state,
        params=trained,
        moments=moments,
        diverged=diverged,
        curve=torch.cat([state.curve, torch.stack(rows)]),
        epochs=torch.cat([state.epochs, epochs]),
    )


def _select(going: Tensor, new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the new values of the members marked in `going` [M], and the old values of the others."""
    return {name: torch.where(broadcast_members(going, value), value, old[name]) for name, value in new.items()}


def _find_diverged(trial: TrialSetup, logged: Tensor, params: Params, task: Task, epoch: int) -> dict[int, str]:
    """Find the configurations with a member whose logs [M, K] or parameters are NaN or infinite.

    Returns:
        Position of the configuration -> message.
    """
    finite = logged.isfinite().all(1)
    for value in params.values():
        finite = finite & value.isfinite().flatten(1).all(1)
    if finite.all():
        return {}
    lost: dict[int, list[int]] = {}
    for member in (~finite).nonzero().flatten().tolist():
        lost.setdefault(member // trial.seeds_each, []).append(trial.seeds[member])
    return {
        position: f"{DIVERGED} in epoch {epoch} of task {task.index} (loss or parameters not finite; "
        f"seeds {', '.join(map(str, seeds))})"
        for position, seeds in lost.items()
    }


def learn_task(trial: TrialSetup, state: TrialState) -> TrialState:
    """Learn the next task: train, remember, evaluate a row of R, then apply the unlearning requests.

    Raises:
        DivergedError: If training diverges.
    """
    start = time.perf_counter()
    retained = without_unlearned(trial, state)
    validation = [task.validation for task in trial.benchmark.tasks]
    accuracy = state.accuracy if state.tasks_learned else measure_row(trial, state, state.accuracy, validation)
    learned = remember_task(retained, train_next_task(retained, state))
    learned = replace(learned, accuracy=measure_row(retained, learned, accuracy, validation))
    if trial.config.unlearns and may_be_unlearned(trial.config, learned.tasks_learned):
        learned = record_update(learned, state.params)
    if trial.config.requests:
        learned = apply_requests(trial, learned, validation)
    return replace(learned, seconds=state.seconds + time.perf_counter() - start)


def apply_requests(trial: TrialSetup, state: TrialState, samples: Sequence[Samples]) -> TrialState:
    """Apply the unlearning requests that follow the last task, and evaluate again.

    From then on R contains the retained tasks only. The control without unlearning is evaluated on the same tasks.

    Args:
        trial: The trial's setup.
        state: The state whose last task has just been learned and evaluated.
        samples: Samples of each task of the benchmark.
    """
    t, requests = state.tasks_learned, trial.config.requests
    before = state.accuracy
    if t in requests and not trial.config.disable_unlearning:
        state = unlearn(trial, state, requests[t])
    retained = without_unlearned(trial, state)
    after = measure_row(retained, state, before, samples) if t in requests else before
    previous = state.unlearning or {
        "before": before.clone(),
        "after": before.clone(),
        "chance": torch.full_like(before, torch.nan),
        "distance": torch.full_like(before, torch.nan),
    }
    cells = {name: value.clone() for name, value in previous.items()}
    cells["before"][:, t], cells["after"][:, t] = before[:, t], after[:, t]
    for k in unlearned_by(requests, t):
        cells["chance"][:, t, k - 1] = 1 / len(retained.benchmark.active_outputs(t, k))
    if t in trial.references:
        for k in range(1, t + 1):
            cells["distance"][:, t, k - 1] = feature_distance(trial, state.params, trial.references[t], samples[k - 1])
    return replace(state, accuracy=drop_unlearned(after, cells), unlearning=cells)


def train_next_task(trial: TrialSetup, state: TrialState) -> TrialState:
    """Train the next task only, without remembering or evaluating it.

    Raises:
        DivergedError: If training diverges.
    """
    before = state if trial.scheme is TrainingScheme.CONTINUAL else restart(trial, state)

    def train(part: TrialSetup, start: TrialState) -> TrialState:
        return train_task(part, start, part.benchmark.tasks[state.tasks_learned])

    return train_or_load_first_task(trial, before, train) if can_share(trial, state) else train(trial, before)


def remember_task(trial: TrialSetup, trained: TrialState) -> TrialState:
    """Mark the trained task as learned, and store in memory what the regularizers keep of it."""
    task, memory = trial.benchmark.tasks[trained.tasks_learned], trained.memory
    for regularizer in trial.regularizers:
        memory = regularizer.remember(trial.network, trial.benchmark, task, trained.params, memory)
    return replace(trained, tasks_learned=task.index, memory=memory)


def restart(trial: TrialSetup, state: TrialState) -> TrialState:
    """Return the state with fresh parameters and moments."""
    fresh = trial.initial_state()
    return replace(state, params=fresh.params, moments=fresh.moments)


def learn_sequence(trial: TrialSetup, state: TrialState | None = None) -> TrialState:
    """Learn all tasks that a state has not learned yet.

    Args:
        trial: The trial's setup.
        state: The state to continue from; None starts before the first task.

    Raises:
        DivergedError: If training diverges.
    """
    state = state or trial.initial_state()
    while state.tasks_learned < len(trial.benchmark.tasks):
        state = learn_task(trial, state)
    return state
