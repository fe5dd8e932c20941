"""The accuracy matrix: which models are asked what, and how often they are right."""

import pytest
import torch

from clsearch.training.evaluation import measure_accuracy, measure_row
from clsearch.training.loop import (
    learn_sequence,
    learn_task,
)
from tests.helpers import everything as everything_of
from tests.helpers import (
    forward,
    member_of,
    small_run,
)
from tests.training.runs import CLASS, DOMAIN, GROUPS, SCENARIOS, TASK, everything


@pytest.mark.parametrize("scenario", [TASK, DOMAIN])
def test_row_zero_is_the_untrained_network_and_near_chance(scenario):
    run = small_run(seeds=range(10), epochs=1, **scenario)
    row = learn_task(run, run.initial_state()).accuracy[:, 0]
    chance = torch.tensor([1 / len(task.classes) for task in run.benchmark.tasks])
    assert ((row.mean(0) - chance).abs() < 0.2).all()
    params = run.initial_state().params
    for task in run.benchmark.tasks:
        inputs, labels = everything(task.validation)
        for m in range(10):
            logits = forward(member_of(params, m), inputs[m])[:, list(task.classes)]
            correct = (logits.argmax(-1) + task.classes[0] == labels[m]).double().mean()
            assert row[m, task.index - 1].item() == pytest.approx(correct.item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "answers"),
    [
        (TASK, lambda i, k: GROUPS[k - 1]),
        (DOMAIN, lambda i, k: slice(0, 2)),
        (CLASS, lambda i, k: slice(0, (4, 7, 10)[i - 1])),
    ],
)
def test_every_row_is_the_accuracy_on_validation_data_over_what_may_be_answered(scenario, answers):
    run = small_run(seeds=(0, 1), epochs=4, **scenario)
    state = run.initial_state()
    for i, _ in enumerate(run.benchmark.tasks, start=1):
        state = learn_task(run, state)
        for k, task in enumerate(run.benchmark.tasks, start=1):
            if scenario is CLASS and k > i:
                continue
            inputs, labels = everything(task.validation)
            columns = answers(i, k)
            for m in range(2):
                guesses = forward(member_of(state.params, m), inputs[m])[:, columns].argmax(-1) + columns.start
                expected = (guesses == labels[m]).double().mean().item()
                assert state.accuracy[m, i, k - 1].item() == pytest.approx(expected)


def test_class_incremental_accuracy_on_tasks_not_learned_yet_is_not_a_number():
    accuracy = learn_sequence(small_run(seeds=(0, 1), **CLASS)).accuracy
    for i in range(4):
        for k in range(1, 4):
            assert bool(accuracy[:, i, k - 1].isnan().all()) == (k > i)
            assert bool(accuracy[:, i, k - 1].isfinite().all()) == (k <= i)


def test_rows_of_tasks_to_come_are_not_a_number_until_they_are_learned():
    run = small_run()
    first = learn_task(run, run.initial_state())
    assert first.tasks_learned == 1
    assert first.accuracy[:, :2].isfinite().all()
    assert first.accuracy[:, 2:].isnan().all()
    last = learn_sequence(run, first)
    assert last.tasks_learned == 3
    assert last.accuracy.isfinite().all()
    assert torch.equal(last.accuracy[:, :2], first.accuracy[:, :2])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_task_just_learned_is_known_far_above_chance(scenario):
    accuracy = learn_sequence(small_run(seeds=(0, 1), epochs=10, batch_size=16, **scenario)).accuracy
    assert (accuracy[:, 1:].diagonal(dim1=1, dim2=2) > 0.8).all()


@pytest.mark.parametrize("answers", [(0, 1, 2, 3), (2, 5, 9), tuple(range(10))])
def test_accuracy_is_the_share_of_samples_that_the_likeliest_answer_is_right_about(answers):
    run = small_run(seeds=(0, 1, 2), class_order="shuffled", classes_per_task=(4, 3, 3))
    params = learn_task(run, run.initial_state()).params
    for samples in (run.benchmark.tasks[0].validation, run.benchmark.tasks[1].train):
        assert len(set(samples.sizes)) > 1
        found = measure_accuracy(run, params, answers, samples)
        assert (found.shape, found.dtype) == ((3,), torch.float64)
        for m in range(3):
            inputs, labels = everything_of(samples, m)
            guesses = torch.tensor(answers)[forward(member_of(params, m), inputs)[:, list(answers)].argmax(-1)]
            assert found[m] == (guesses == labels).double().mean()


def test_a_row_is_measured_on_the_samples_given_and_leaves_the_others_as_they_are():
    run = small_run(seeds=(0, 1))
    state = learn_task(run, run.initial_state())
    training = [task.train for task in run.benchmark.tasks]
    found = measure_row(run, state, state.accuracy, training)
    for k, task in enumerate(run.benchmark.tasks):
        assert torch.equal(found[:, 1, k], measure_accuracy(run, state.params, task.classes, task.train))
    assert not torch.equal(found[:, 1], state.accuracy[:, 1])
    others = [0, 2, 3]
    assert torch.equal(found[:, others].nan_to_num(-1), state.accuracy[:, others].nan_to_num(-1))
