"""The training loop: a pure step, a task, a sequence of tasks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsearch.core.benchmarks import Task
from clsearch.core.networks import Params, allowed_mask, restricted
from clsearch.core.optimizers import Moments
from clsearch.core.regularizers import Penalty, Student
from clsearch.core.run import Run
from clsearch.core.seeding import generator_of
from clsearch.core.state import TrialState

CHECK_STEPS = 50
"""Within an epoch, divergence is looked for this often; looking at every step would wait for the device each time."""


class DivergedError(ArithmeticError):
    """Training left the finite numbers; no later number of this trial would mean anything."""


@dataclass(frozen=True)
class Lesson:
    """A task, prepared: what every step of it shares.

    allowed: [C] outputs that may be answered, or None for all.
    movable: parameter -> mask of the entries that may move, for parameters of which not all may.
    """

    task: Task
    allowed: Tensor | None
    penalties: tuple[Penalty, ...]
    movable: dict[str, Tensor]


def prepare_lesson(run: Run, state: TrialState, task: Task) -> Lesson:
    """Everything of a task that its steps do not change."""
    benchmark, t = run.benchmark, task.index
    prepared = [r.prepare(run.network, benchmark, task, state.memory, run.hyperparameters) for r in run.regularizers]
    active = benchmark.answers(t, t)
    if any(r.trains_head for r in run.regularizers):
        active = tuple(sorted({*active, *benchmark.seen(t)}))
    movable = allowed_mask(active, benchmark.outputs, run.device)
    return Lesson(
        task=task,
        allowed=allowed_mask(benchmark.answers(t, t), benchmark.outputs, run.device),
        penalties=tuple(p for p in prepared if p is not None),
        movable={} if movable is None else {"head.weight": movable, "head.bias": movable},
    )


def train_step(
    run: Run, lesson: Lesson, params: Params, moments: Moments, positions: Tensor
) -> tuple[Params, Moments, Tensor]:
    """One step on the batch at `positions` [M, B]; pure, no branch on a tensor's value.

    The gradient of the sum of the members' losses is each member's own, because members share no parameter.
    Returns: parameters, moments, and what the step logs, [M, K] in the order of run.columns.
    """
    inputs, labels = lesson.task.train.batch(positions)
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    features = run.network.features(leaves, inputs)
    student = Student(leaves, features, run.network.logits(leaves, features))
    answers = restricted(student.logits, lesson.allowed)
    losses = torch.nn.functional.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
    classification = losses.view_as(labels).mean(1)
    terms = [penalty(student, positions) for penalty in lesson.penalties]
    penalty = sum((term.penalty for term in terms), torch.zeros_like(classification))
    total = classification + penalty
    gradients = torch.autograd.grad(total.sum(), list(leaves.values()))
    new_params, new_moments = run.optimizer.update(
        params, dict(zip(leaves, gradients, strict=True)), moments, run.hyperparameters["learning_rate"]
    )
    logged = {name: value for term in terms for name, value in term.logged.items()} | {
        "loss": total,
        "loss_classification": classification,
        "penalty": penalty,
        "accuracy": (answers.argmax(-1) == labels).float().mean(1),
    }
    # Momentum and weight decay reach masked outputs though their gradient is 0.
    return (
        _held(new_params, params, lesson.movable),
        _held(new_moments, moments, lesson.movable),
        torch.stack([logged.get(name, torch.zeros_like(total)).detach() for name in run.columns], 1),
    )


def _held(new: dict[str, Tensor], old: dict[str, Tensor], movable: dict[str, Tensor]) -> dict[str, Tensor]:
    if not movable:
        return new
    masks = {name: movable.get(name.rpartition("/")[2]) for name in new}
    return {
        name: value if (mask := masks[name]) is None else torch.where(mask, value, old[name])
        for name, value in new.items()
    }


def epochs_of(run: Run, task: Task) -> Iterator[list[Tensor]]:
    """Batches of positions [M, B], an epoch at a time; the last epoch ends where the configured steps end."""
    config, n = run.config, len(task.train)
    steps_left = config.iterations or (config.epochs or 0) * -(-n // config.batch_size)
    for epoch in itertools.count(1):
        if steps_left <= 0:
            return
        orders = [torch.randperm(n, generator=generator_of(s, task.index, epoch, "batches")) for s in run.seeds]
        batches = torch.stack(orders).to(run.device).split(config.batch_size, dim=1)[:steps_left]
        steps_left -= len(batches)
        yield list(batches)


def train_task(run: Run, state: TrialState, task: Task) -> TrialState:
    """Train on one task: new parameters, moments and rows of the learning curve.

    Raises DivergedError within CHECK_STEPS steps of a loss or parameter of any member that is not finite.
    """
    lesson = prepare_lesson(run, state, task)
    params = state.params
    moments = state.moments if run.config.optimizer_state == "keep" else run.optimizer.initial(params)
    rows: list[Tensor] = []
    for epoch, batches in enumerate(epochs_of(run, task), start=1):
        total = torch.zeros(len(run.seeds), len(run.columns), device=run.device)
        for step, positions in enumerate(batches, start=1):
            params, moments, logged = train_step(run, lesson, params, moments, positions)
            total += logged * positions.shape[1]
            if step % CHECK_STEPS == 0:
                _check_finite(run, total, params, task, epoch)
        _check_finite(run, total, params, task, epoch)
        rows.append(total.cpu() / sum(positions.shape[1] for positions in batches))
    at = torch.tensor([[task.index, epoch] for epoch in range(1, len(rows) + 1)])
    return replace(
        state,
        params=params,
        moments=moments,
        curve=torch.cat([state.curve, torch.stack(rows)]),
        epochs=torch.cat([state.epochs, at]),
    )


def _check_finite(run: Run, logged: Tensor, params: Params, task: Task, epoch: int) -> None:
    finite = logged.isfinite().all(1)
    for value in params.values():
        finite = finite & value.isfinite().flatten(1).all(1)
    if not finite.all():
        seeds = [s for s, ok in zip(run.seeds, finite.tolist(), strict=True) if not ok]
        raise DivergedError(
            f"training diverged in epoch {epoch} of task {task.index} (loss or parameters not finite; "
            f"seeds {', '.join(map(str, seeds))})"
        )


@torch.no_grad()
def evaluate(run: Run, params: Params, learned: int) -> Tensor:
    """Row `learned` of R: validation accuracy of every task, [M, T] float64, NaN where undefined."""
    row = torch.full((len(run.seeds), len(run.benchmark.tasks)), torch.nan, dtype=torch.float64)
    for task in run.benchmark.tasks:
        answers = run.benchmark.answers(learned, task.index)
        if not answers or not run.benchmark.is_defined(learned, task.index):
            continue
        allowed = allowed_mask(answers, run.benchmark.outputs, run.device)
        correct = torch.zeros(len(run.seeds), dtype=torch.int64, device=run.device)
        for positions in task.validation.chunks(4096):
            inputs, labels = task.validation.batch(positions)
            logits = run.network.logits(params, run.network.features(params, inputs))
            correct += (restricted(logits, allowed).argmax(-1) == labels).sum(1)
        row[:, task.index - 1] = correct.cpu().double() / len(task.validation)
    return row


def learn_task(run: Run, state: TrialState) -> TrialState:
    """Learn the next task, remember it, measure a row of R. Raises DivergedError."""
    start = time.perf_counter()
    task = run.benchmark.tasks[state.tasks_learned]
    accuracy = state.accuracy.clone()
    if state.tasks_learned == 0:
        accuracy[:, 0] = evaluate(run, state.params, 0)
    trained = train_task(run, state, task)
    memory = trained.memory
    for regularizer in run.regularizers:
        memory = regularizer.remember(run.network, run.benchmark, task, trained.params, memory)
    accuracy[:, task.index] = evaluate(run, trained.params, task.index)
    return replace(
        trained,
        tasks_learned=task.index,
        memory=memory,
        accuracy=accuracy,
        seconds=state.seconds + time.perf_counter() - start,
    )


def learn_sequence(run: Run, state: TrialState | None = None) -> TrialState:
    """Learn all tasks that a state has not learned yet. Raises DivergedError."""
    state = state or run.initial_state()
    while state.tasks_learned < len(run.benchmark.tasks):
        state = learn_task(run, state)
    return state
