"""The training loop: a step, a task, a sequence of tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clsearch.config.unlearning import unlearned_by
from clsearch.methods.base import Student, TrainingScheme
from clsearch.networks.mlp import Params, leaves_of, per_member
from clsearch.tasks.benchmark import Task
from clsearch.tasks.samples import Batch, Samples, taken
from clsearch.tasks.transforms import cropped
from clsearch.training.evaluation import measured, of_retained
from clsearch.training.first_task_cache import first_task, shares
from clsearch.training.learning_curve import StepLog, rows_of
from clsearch.training.optimizers import Moments
from clsearch.training.state import TrialState
from clsearch.training.task_setup import Lesson, epochs_of, prepare_lesson
from clsearch.training.trial_setup import Run
from clsearch.training.unlearning import feature_distance, may_go, retaining, unlearn, with_update

CHECK_STEPS = 50
"""Steps between two checks for divergence; a check at every step would wait for the device each time."""


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
    run: Run,
    lesson: Lesson,
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
        run: The trial's setup.
        setup: The task's setup.
        params: Name -> [M, ...], leaf tensors (see `trainable_copy`); updated in place.
        moments: Name -> [M, ...]; updated in place.
        batch: Positions of the samples.
        rate: [M] learning rates of this step; None uses the configured ones.
        seen: Inputs [M, B, D] and labels [M, B] of the batch, if they are loaded already.

    Returns:
        The step's log, see `curve_rows`.
    """
    inputs, labels = seen or lesson.samples.take(batch.positions)
    if batch.crops is not None:
        inputs = cropped(inputs, batch.crops, run.benchmark.shape)
    if rate is None:
        rate = run.hyperparameters["learning_rate"]
    features = run.features(params, inputs)
    student = Student(params, features, run.network.logits(params, features), inputs)
    logits = lesson.answers(student.logits, labels)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    classification = batch.mean(losses.view_as(labels))
    terms = {"learning_rate": rate, "loss_classification": classification}
    total = classification
    if outputs := [penalty(student, batch) for penalty in lesson.penalties]:
        penalty = sum((output.penalty for output in outputs[1:]), outputs[0].penalty)
        total = classification + penalty
        logged = {name: value for output in outputs for name, value in output.logged.items()} | {"penalty": penalty}
        # Clones, because the values can be views of parameters; detached, because their graph can be large.
        terms |= {name: value.detach().clone() for name, value in logged.items()}
    # Sums instead of passing grad_outputs, for which torch imports a module that takes half a second.
    gradients = torch.autograd.grad(total if len(total) == 1 else total.sum(), list(params.values()))
    with torch.no_grad():
        _move(run, lesson, params, dict(zip(params, gradients, strict=True)), moments, batch, rate)
    # Without penalties, grad() has freed the graph of the loss, so it needs no detach.
    return StepLog(terms | {"loss": total.detach() if outputs else total}, logits.detach().argmax(-1), labels, batch)


def _move(
    run: Run, lesson: Lesson, params: Params, gradients: Params, moments: Moments, batch: Batch, rate: Tensor
) -> None:
    """Apply the optimizer, except to entries that must not change.

    Momentum and weight decay would also change masked outputs, although their gradient is 0.
    """
    values = params | moments
    masks = {name: mask for name in values if (mask := lesson.movable.get(name.rpartition("/")[2])) is not None}
    if batch.valid is not None:
        active = batch.valid.any(1)
        rows = {name: per_member(active, value) for name, value in values.items()}
        masks = {name: row & masks[name] if name in masks else row for name, row in rows.items()}
    old = {name: values[name].clone() for name in masks}
    run.optimizer.update(params, gradients, moments, rate)
    for name, mask in masks.items():
        values[name].copy_(torch.where(mask, values[name], old[name]))


def train_task(run: Run, state: TrialState, task: Task) -> TrialState:
    """Train on one task.

    Args:
        run: The trial's setup.
        state: The state before the task.
        task: The task to train on.

    Returns:
        The state with new parameters, moments and rows of the learning curve. If some of several configurations
        diverge, they keep the parameters and moments from before the task.

    Raises:
        DivergedError: If all configurations have a member with a NaN or infinite loss or parameter, within CHECK_STEPS
            steps.
    """
    lesson, diverged = prepare_lesson(run, state, task), dict[int, str]()
    params = leaves_of(state.params)
    keep = run.config.optimizer_state == "keep"
    moments = {n: v.clone() for n, v in state.moments.items()} if keep else run.optimizer.initial(state.params)
    rows: list[Tensor] = []
    for epoch, steps in enumerate(epochs_of(run, lesson), start=1):
        total = torch.zeros(len(run.seeds), len(run.columns), device=run.device)
        samples = torch.zeros(len(run.seeds), 1, device=run.device)
        for first in range(0, len(steps), CHECK_STEPS):
            part, logs = steps[first : first + CHECK_STEPS], []
            for step, seen in zip(part, taken(lesson.samples, [step.batch for step in part]), strict=True):
                logs.append(train_step(run, lesson, params, moments, step.batch, step.rate, seen))
            sizes = torch.stack([step.batch.sizes for step in part])[:, :, None]
            total = total + (rows_of(run.columns, logs) * sizes).sum(0)
            samples = samples + sizes.sum(0)
            diverged = _diverged(run, total, params, task, epoch) | diverged
            if len(diverged) == run.configurations:
                raise DivergedError(diverged[0], diverged)
        rows.append((total / samples).cpu())  # NaN for a member whose training has ended before this epoch
    epochs = torch.tensor([[task.index, epoch] for epoch in range(1, len(rows) + 1)])
    trained = {name: value.detach() for name, value in params.items()}
    if diverged:
        going = torch.tensor([position not in diverged for position in range(run.configurations)], device=run.device)
        going = going.repeat_interleave(run.seeds_each)
        trained, moments = _where(going, trained, state.params), _where(going, moments, state.moments)
    return replace(
        state,
        params=trained,
        moments=moments,
        diverged=diverged,
        curve=torch.cat([state.curve, torch.stack(rows)]),
        epochs=torch.cat([state.epochs, epochs]),
    )


def _where(going: Tensor, new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the new values of the members marked in `going` [M], and the old values of the others."""
    return {name: torch.where(per_member(going, value), value, old[name]) for name, value in new.items()}


def _diverged(run: Run, logged: Tensor, params: Params, task: Task, epoch: int) -> dict[int, str]:
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
        lost.setdefault(member // run.seeds_each, []).append(run.seeds[member])
    return {
        position: f"training diverged in epoch {epoch} of task {task.index} (loss or parameters not finite; "
        f"seeds {', '.join(map(str, seeds))})"
        for position, seeds in lost.items()
    }


def learn_task(run: Run, state: TrialState) -> TrialState:
    """Learn the next task: train, remember, evaluate a row of R, then apply the unlearning requests.

    Raises:
        DivergedError: If training diverges.
    """
    start = time.perf_counter()
    retained = retaining(run, state)
    validation = [task.validation for task in run.benchmark.tasks]
    accuracy = state.accuracy if state.tasks_learned else measured(run, state, state.accuracy, validation)
    learned = remembered(retained, attempted(retained, state))
    learned = replace(learned, accuracy=measured(retained, learned, accuracy, validation))
    if run.config.unlearns and may_go(run.config, learned.tasks_learned):
        learned = with_update(learned, state.params)
    if run.config.requests:
        learned = asked_for(run, learned, validation)
    return replace(learned, seconds=state.seconds + time.perf_counter() - start)


def asked_for(run: Run, state: TrialState, samples: Sequence[Samples]) -> TrialState:
    """Apply the unlearning requests that follow the last task, and evaluate again.

    From then on R contains the retained tasks only. The control without unlearning is evaluated on the same tasks.

    Args:
        run: The trial's setup.
        state: The state whose last task has just been learned and evaluated.
        samples: Samples of each task of the benchmark.
    """
    t, requests = state.tasks_learned, run.config.requests
    before = state.accuracy
    if t in requests and not run.config.disable_unlearning:
        state = unlearn(run, state, requests[t])
    retained = retaining(run, state)
    after = measured(retained, state, before, samples) if t in requests else before
    previous = state.unlearning or {
        "before": before.clone(),
        "after": before.clone(),
        "chance": torch.full_like(before, torch.nan),
        "distance": torch.full_like(before, torch.nan),
    }
    cells = {name: value.clone() for name, value in previous.items()}
    cells["before"][:, t], cells["after"][:, t] = before[:, t], after[:, t]
    for k in unlearned_by(requests, t):
        cells["chance"][:, t, k - 1] = 1 / len(retained.benchmark.answers(t, k))
    if t in run.references:
        for k in range(1, t + 1):
            cells["distance"][:, t, k - 1] = feature_distance(run, state.params, run.references[t], samples[k - 1])
    return replace(state, accuracy=of_retained(after, cells), unlearning=cells)


def attempted(run: Run, state: TrialState) -> TrialState:
    """Train the next task only, without remembering or evaluating it.

    Raises:
        DivergedError: If training diverges.
    """
    before = state if run.scheme is TrainingScheme.CONTINUAL else restarted(run, state)

    def train(trial: Run, start: TrialState) -> TrialState:
        return train_task(trial, start, trial.benchmark.tasks[state.tasks_learned])

    return first_task(run, before, train) if shares(run, state) else train(run, before)


def remembered(run: Run, trained: TrialState) -> TrialState:
    """Mark the trained task as learned, and store in memory what the regularizers keep of it."""
    task, memory = run.benchmark.tasks[trained.tasks_learned], trained.memory
    for regularizer in run.regularizers:
        memory = regularizer.remember(run.network, run.benchmark, task, trained.params, memory)
    return replace(trained, tasks_learned=task.index, memory=memory)


def restarted(run: Run, state: TrialState) -> TrialState:
    """Return the state with fresh parameters and moments."""
    fresh = run.initial_state()
    return replace(state, params=fresh.params, moments=fresh.moments)


def learn_sequence(run: Run, state: TrialState | None = None) -> TrialState:
    """Learn all tasks that a state has not learned yet.

    Args:
        run: The trial's setup.
        state: The state to continue from; None starts before the first task.

    Raises:
        DivergedError: If training diverges.
    """
    state = state or run.initial_state()
    while state.tasks_learned < len(run.benchmark.tasks):
        state = learn_task(run, state)
    return state
