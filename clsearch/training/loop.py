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
"""Within an epoch, divergence is looked for this often; looking at every step would wait for the device each time."""


class DivergedError(ArithmeticError):
    """Training left the finite numbers; no later number of this trial would mean anything. reasons: of several
    configurations, the place of each -> why.
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
    """One step, in place: moves `params`, which are leaves (see `leaves_of`), and `moments`. No branch on a value.

    The gradient of the sum of the members' losses is each member's own, because members share no parameter. A member
    without a sample in the batch stands still: its parameters and moments stay what they were.
    rate: [M] of this step; None: the learning rate as it is. seen: the batch's inputs and labels, where they are taken
    already. Returns: what the step logs, see `rows_of`.
    """
    inputs, labels = seen or lesson.samples.take(batch.positions)
    if batch.crops is not None:
        inputs = cropped(inputs, batch.crops, run.benchmark.shape)
    if rate is None:
        rate = run.hyperparameters["learning_rate"]
    features = run.features(params, inputs)
    student = Student(params, features, run.network.logits(params, features), inputs)
    answers = lesson.answers(student.logits, labels)
    losses = torch.nn.functional.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
    classification = batch.mean(losses.view_as(labels))
    told = {"learning_rate": rate, "loss_classification": classification}
    total = classification
    if terms := [penalty(student, batch) for penalty in lesson.penalties]:
        penalty = sum((term.penalty for term in terms[1:]), terms[0].penalty)
        total = classification + penalty
        logged = {name: value for term in terms for name, value in term.logged.items()} | {"penalty": penalty}
        # Copies, since they may be views of parameters, which move; cut off, since they may hold what is large.
        told |= {name: value.detach().clone() for name, value in logged.items()}
    # Not with weights of one: for those torch imports what takes half a second.
    gradients = torch.autograd.grad(total if len(total) == 1 else total.sum(), list(params.values()))
    with torch.no_grad():
        _move(run, lesson, params, dict(zip(params, gradients, strict=True)), moments, batch, rate)
    # Where there are no penalties, the graph of what is told has let go of its tensors by now.
    return StepLog(told | {"loss": total.detach() if terms else total}, answers.detach().argmax(-1), labels, batch)


def _move(
    run: Run, lesson: Lesson, params: Params, gradients: Params, moments: Moments, batch: Batch, rate: Tensor
) -> None:
    """The optimizer's update, but for what must stay: momentum and weight decay would reach masked outputs too, though
    their gradient is 0.
    """
    values = params | moments
    mobile = {name: mask for name in values if (mask := lesson.movable.get(name.rpartition("/")[2])) is not None}
    if batch.valid is not None:
        moving = batch.valid.any(1)
        rows = {name: per_member(moving, value) for name, value in values.items()}
        mobile = {name: row & mobile[name] if name in mobile else row for name, row in rows.items()}
    old = {name: values[name].clone() for name in mobile}
    run.optimizer.update(params, gradients, moments, rate)
    for name, mask in mobile.items():
        values[name].copy_(torch.where(mask, values[name], old[name]))


def train_task(run: Run, state: TrialState, task: Task) -> TrialState:
    """Train on one task: new parameters, moments and rows of the learning curve.

    Raises DivergedError within CHECK_STEPS steps of a loss or parameter of any member that is not finite; of several
    configurations, where all have diverged. One that has, of others that have not, ends the task where it began it.
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
        rows.append((total / samples).cpu())  # NaN for a member whose steps were over before this epoch
    at = torch.tensor([[task.index, epoch] for epoch in range(1, len(rows) + 1)])
    trained = {name: value.detach() for name, value in params.items()}
    if diverged:
        going = torch.tensor([place not in diverged for place in range(run.configurations)], device=run.device)
        going = going.repeat_interleave(run.seeds_each)
        trained, moments = _where(going, trained, state.params), _where(going, moments, state.moments)
    return replace(
        state,
        params=trained,
        moments=moments,
        diverged=diverged,
        curve=torch.cat([state.curve, torch.stack(rows)]),
        epochs=torch.cat([state.epochs, at]),
    )


def _where(going: Tensor, new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    """The new values of members that are `going` [M], the old ones of the others."""
    return {name: torch.where(per_member(going, value), value, old[name]) for name, value in new.items()}


def _diverged(run: Run, logged: Tensor, params: Params, task: Task, epoch: int) -> dict[int, str]:
    """The configurations of which a member's logs [M, K] or parameters are not finite: place -> what is said of it."""
    finite = logged.isfinite().all(1)
    for value in params.values():
        finite = finite & value.isfinite().flatten(1).all(1)
    if finite.all():
        return {}
    lost: dict[int, list[int]] = {}
    for member in (~finite).nonzero().flatten().tolist():
        lost.setdefault(member // run.seeds_each, []).append(run.seeds[member])
    return {
        place: f"training diverged in epoch {epoch} of task {task.index} (loss or parameters not finite; "
        f"seeds {', '.join(map(str, seeds))})"
        for place, seeds in lost.items()
    }


def learn_task(run: Run, state: TrialState) -> TrialState:
    """Learn the next task, remember it, measure a row of R; then unlearn what is requested. Raises DivergedError."""
    start = time.perf_counter()
    own = retaining(run, state)
    validation = [task.validation for task in run.benchmark.tasks]
    accuracy = state.accuracy if state.tasks_learned else measured(run, state, state.accuracy, validation)
    learned = remembered(own, attempted(own, state))
    learned = replace(learned, accuracy=measured(own, learned, accuracy, validation))
    if run.config.unlearns and may_go(run.config, learned.tasks_learned):
        learned = with_update(learned, state.params)
    if run.config.requests:
        learned = asked_for(run, learned, validation)
    return replace(learned, seconds=state.seconds + time.perf_counter() - start)


def asked_for(run: Run, state: TrialState, samples: Sequence[Samples]) -> TrialState:
    """A state whose last task was just learned and measured, after the requests that follow it: what is asked for is
    unlearned, and all is measured again. From then on R is of the tasks that are retained. The twin of which nothing is
    requested is measured on the same tasks.
    """
    t, requests = state.tasks_learned, run.config.requests
    before = state.accuracy
    if t in requests and not run.config.disable_unlearning:
        state = unlearn(run, state, requests[t])
    own = retaining(run, state)
    after = measured(own, state, before, samples) if t in requests else before
    found = state.unlearning or {
        "before": before.clone(),
        "after": before.clone(),
        "chance": torch.full_like(before, torch.nan),
        "distance": torch.full_like(before, torch.nan),
    }
    found = {name: value.clone() for name, value in found.items()}
    found["before"][:, t], found["after"][:, t] = before[:, t], after[:, t]
    for k in unlearned_by(requests, t):
        found["chance"][:, t, k - 1] = 1 / len(own.benchmark.answers(t, k))
    if t in run.references:
        for k in range(1, t + 1):
            found["distance"][:, t, k - 1] = feature_distance(run, state.params, run.references[t], samples[k - 1])
    return replace(state, accuracy=of_retained(after, found), unlearning=found)


def attempted(run: Run, state: TrialState) -> TrialState:
    """The next task, trained and nothing else: not remembered, not measured. Raises DivergedError."""
    before = state if run.scheme is TrainingScheme.CONTINUAL else restarted(run, state)

    def train(own: Run, start: TrialState) -> TrialState:
        return train_task(own, start, own.benchmark.tasks[state.tasks_learned])

    return first_task(run, before, train) if shares(run, state) else train(run, before)


def remembered(run: Run, trained: TrialState) -> TrialState:
    """A state that has learned the task that it was trained on: its memory holds what must be kept of it."""
    task, memory = run.benchmark.tasks[trained.tasks_learned], trained.memory
    for regularizer in run.regularizers:
        memory = regularizer.remember(run.network, run.benchmark, task, trained.params, memory)
    return replace(trained, tasks_learned=task.index, memory=memory)


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
