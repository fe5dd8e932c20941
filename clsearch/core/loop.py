"""The training loop: a pure step, a task, a sequence of tasks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clsearch.core.algorithms import Course
from clsearch.core.benchmarks import Task
from clsearch.core.networks import Params, allowed_mask, per_member, restricted
from clsearch.core.optimizers import Moments
from clsearch.core.parts import Scenario
from clsearch.core.regularizers import Penalty, Student
from clsearch.core.run import Run
from clsearch.core.samples import Batch, Mixture, Samples, batches_of
from clsearch.core.seeding import generator_of
from clsearch.core.state import TrialState

CHECK_STEPS = 50
"""Within an epoch, divergence is looked for this often; looking at every step would wait for the device each time."""


class DivergedError(ArithmeticError):
    """Training left the finite numbers; no later number of this trial would mean anything."""


@dataclass(frozen=True)
class Lesson:
    """What is learned at a task, prepared: what every step of it shares.

    samples: trained on; all tasks' so far in joint training. tasks: how many tasks they are of.
    allowed: outputs that may be answered: [C], or [C, C] with a row per label where tasks are mixed, or None for all.
    movable: parameter -> mask of the entries that may move, for parameters of which not all may.
    """

    index: int
    samples: Samples | Mixture
    tasks: int
    allowed: Tensor | None
    penalties: tuple[Penalty, ...]
    movable: dict[str, Tensor]

    def answers(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [M, B, C] with -inf where a sample of this label may not be answered so."""
        allowed = self.allowed
        if allowed is not None and allowed.dim() == 2:
            allowed = allowed[labels]
        return restricted(logits, allowed)


def prepare_lesson(run: Run, state: TrialState, task: Task) -> Lesson:
    """Everything of a task that its steps do not change."""
    benchmark, t = run.benchmark, task.index
    prepared = [r.prepare(run.network, benchmark, task, state.memory, run.hyperparameters) for r in run.regularizers]
    active = benchmark.answers(t, t)
    allowed = allowed_mask(active, benchmark.outputs, run.device)
    joint = run.course is Course.JOINT
    if joint or any(r.trains_head for r in run.regularizers):
        active = tuple(sorted({*active, *benchmark.seen(t)}))
    if joint and benchmark.scenario is Scenario.TASK:
        allowed = torch.zeros(benchmark.outputs, benchmark.outputs, dtype=torch.bool, device=run.device)
        for learned in benchmark.tasks[:t]:
            columns = torch.tensor(learned.classes, device=run.device)
            allowed[columns[:, None], columns] = True
    movable = allowed_mask(active, benchmark.outputs, run.device)
    return Lesson(
        index=t,
        samples=Mixture(tuple(learned.train for learned in benchmark.tasks[:t])) if joint else task.train,
        tasks=t if joint else 1,
        allowed=allowed,
        penalties=tuple(p for p in prepared if p is not None),
        movable={} if movable is None else {"head.weight": movable, "head.bias": movable},
    )


def train_step(
    run: Run, lesson: Lesson, params: Params, moments: Moments, batch: Batch
) -> tuple[Params, Moments, Tensor]:
    """One step; pure, no branch on a tensor's value.

    The gradient of the sum of the members' losses is each member's own, because members share no parameter. A member
    without a sample in the batch stands still: its parameters and moments stay what they were.
    Returns: parameters, moments, and what the step logs, [M, K] in the order of run.columns.
    """
    inputs, labels = lesson.samples.take(batch.positions)
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    features = run.network.features(leaves, inputs)
    student = Student(leaves, features, run.network.logits(leaves, features))
    answers = lesson.answers(student.logits, labels)
    losses = torch.nn.functional.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
    classification = batch.mean(losses.view_as(labels))
    terms = [penalty(student, batch) for penalty in lesson.penalties]
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
        "accuracy": batch.mean((answers.argmax(-1) == labels).float()),
    }
    # Momentum and weight decay reach masked outputs though their gradient is 0.
    new_params, new_moments = (
        _held(new, old, lesson.movable) for new, old in ((new_params, params), (new_moments, moments))
    )
    if batch.valid is not None:
        moving = batch.valid.any(1)
        new_params, new_moments = (
            _resting(new, old, moving) for new, old in ((new_params, params), (new_moments, moments))
        )
    return (
        new_params,
        new_moments,
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


def _resting(new: dict[str, Tensor], old: dict[str, Tensor], moving: Tensor) -> dict[str, Tensor]:
    return {name: torch.where(per_member(moving, value), value, old[name]) for name, value in new.items()}


def epochs_of(run: Run, lesson: Lesson) -> Iterator[list[Batch]]:
    """Batches, an epoch at a time. Each member goes through its own samples as it would alone, whatever the others'
    sizes; its last epoch ends where the configured steps end.

    With `iterations`, joint training takes as many per task that it trains on, as `epochs` do by themselves.
    """
    config, size = run.config, run.config.batch_size
    epochs, iterations = config.epochs or 0, (config.iterations or 0) * lesson.tasks
    left = [iterations or epochs * -(-n // size) for n in lesson.samples.sizes]
    for epoch in itertools.count(1):
        if not any(left):
            return
        orders = [
            torch.randperm(n, generator=generator_of(seed, lesson.index, epoch, "batches"))[: steps * size]
            for seed, n, steps in zip(run.seeds, lesson.samples.sizes, left, strict=True)
        ]
        left = [steps - -(-len(order) // size) for steps, order in zip(left, orders, strict=True)]
        yield batches_of(orders, size, run.device)


def train_task(run: Run, state: TrialState, task: Task) -> TrialState:
    """Train on one task: new parameters, moments and rows of the learning curve.

    Raises DivergedError within CHECK_STEPS steps of a loss or parameter of any member that is not finite.
    """
    lesson = prepare_lesson(run, state, task)
    params = state.params
    moments = state.moments if run.config.optimizer_state == "keep" else run.optimizer.initial(params)
    rows: list[Tensor] = []
    for epoch, batches in enumerate(epochs_of(run, lesson), start=1):
        total = torch.zeros(len(run.seeds), len(run.columns), device=run.device)
        samples = torch.zeros(len(run.seeds), 1, device=run.device)
        for step, batch in enumerate(batches, start=1):
            params, moments, logged = train_step(run, lesson, params, moments, batch)
            sizes = batch.sizes[:, None]
            total, samples = total + logged * sizes, samples + sizes
            if step % CHECK_STEPS == 0:
                _check_finite(run, total, params, task, epoch)
        _check_finite(run, total, params, task, epoch)
        rows.append((total / samples).cpu())  # NaN for a member whose steps were over before this epoch
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
def accuracies(run: Run, params: Params, learned: int, samples: Sequence[Samples]) -> Tensor:
    """Accuracy after learning `learned` tasks on the samples of every task, [M, T] float64, NaN where undefined."""
    row = torch.full((len(run.seeds), len(run.benchmark.tasks)), torch.nan, dtype=torch.float64)
    for task, measured in zip(run.benchmark.tasks, samples, strict=True):
        answers = run.benchmark.answers(learned, task.index)
        if not answers or not run.benchmark.is_defined(learned, task.index):
            continue
        allowed = allowed_mask(answers, run.benchmark.outputs, run.device)
        correct = torch.zeros(len(run.seeds), dtype=torch.float64, device=run.device)
        for batch in measured.in_order(4096):
            inputs, labels = measured.take(batch.positions)
            logits = run.network.logits(params, run.network.features(params, inputs))
            correct += batch.sum((restricted(logits, allowed).argmax(-1) == labels).double())
        row[:, task.index - 1] = correct.cpu() / torch.tensor(measured.sizes)
    return row


def evaluate(run: Run, params: Params, learned: int) -> Tensor:
    """Row `learned` of R: validation accuracy of every task, [M, T] float64, NaN where undefined."""
    return accuracies(run, params, learned, [task.validation for task in run.benchmark.tasks])


def learn_task(run: Run, state: TrialState) -> TrialState:
    """Learn the next task, remember it, measure a row of R. Raises DivergedError."""
    start = time.perf_counter()
    task = run.benchmark.tasks[state.tasks_learned]
    accuracy = state.accuracy.clone()
    if state.tasks_learned == 0:
        accuracy[:, 0] = evaluate(run, state.params, 0)
    before = state if run.course is Course.CONTINUAL else restarted(run, state)
    trained = train_task(run, before, task)
    memory = trained.memory
    for regularizer in run.regularizers:
        memory = regularizer.remember(run.network, run.benchmark, task, trained.params, memory)
    row = evaluate(run, trained.params, task.index)
    if run.course is Course.INDEPENDENT:  # each task's own network answers for it; later tasks have none yet
        row = torch.where(torch.arange(row.shape[1]) == task.index - 1, row, accuracy[:, task.index - 1])
        row[:, task.index :] = torch.nan
    accuracy[:, task.index] = row
    return replace(
        trained,
        tasks_learned=task.index,
        memory=memory,
        accuracy=accuracy,
        seconds=state.seconds + time.perf_counter() - start,
    )


def restarted(run: Run, state: TrialState) -> TrialState:
    """The state with fresh parameters and moments."""
    fresh = run.initial_state()
    return replace(state, params=fresh.params, moments=fresh.moments)


def learn_sequence(run: Run, state: TrialState | None = None) -> TrialState:
    """Learn all tasks that a state has not learned yet. Raises DivergedError."""
    state = state or run.initial_state()
    while state.tasks_learned < len(run.benchmark.tasks):
        state = learn_task(run, state)
    return state
