"""Some of the tasks: learned as if there were no others, each with the draws of its own number."""

import dataclasses

import pytest
import torch
from torch import Tensor

from clsearch.common.seeding import derive_generator
from clsearch.data.datasets import SOURCES, Data, training_data
from clsearch.methods.base import recall
from clsearch.networks.mlp import Params
from clsearch.tasks import benchmark as benchmarks
from clsearch.tasks.benchmark import Task
from clsearch.training.loop import (
    learn_sequence,
    learn_task,
)
from clsearch.training.task_setup import plan_epochs
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests.helpers import (
    assert_bit_equal,
    beyond,
    pairs,
    same_params,
    small_config,
    small_run,
)
from tests.training.runs import column, lesson_of

SHUFFLED = {"class_order": "shuffled", "classes_per_task": (2, 3, 2, 3)}
OF_FOUR = [
    {"scenario": "task"},
    {"scenario": "domain", "classes_per_task": (2, 2, 2, 2)},
    {"scenario": "class"},
    {"scenario": "task", **SHUFFLED},
    {"scenario": "class", **SHUFFLED},
    {"benchmark": "permuted-digits", "scenario": "domain"},
    {"benchmark": "rotated-digits", "scenario": "domain", "random_crop": 1},
]
LEARNERS = [
    ("finetuning", {"momentum": 0.9, "optimizer_state": "keep"}),
    ("lwf", {"optimizer": "adam", "learning_rate": 0.01}),
    ("ewc", {"penalty_factor": 10.0, "fisher": "sampled", "fisher_samples": 20}),
    ("lwf_ewc", {"average_over_tasks": True}),
    ("joint", {}),
]


def four(algorithm, sequence=None, **settings):
    return small_run(algorithm, (0, 5), sequence, **{"tasks": 4, "epochs": 1} | settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings", "scenario"),
    [(*LEARNERS[i], OF_FOUR[j]) for i in range(5) for j in range(7) if (i + j) % 2 == 0],
)
def test_learning_the_first_tasks_alone_is_learning_the_first_of_all_bit_for_bit(algorithm, settings, scenario):
    whole = four(algorithm, **settings, **scenario)
    state = whole.initial_state()
    for _ in range(2):
        state = learn_task(whole, state)
    accuracy = learn_sequence(whole, state).accuracy
    alone = learn_sequence(four(algorithm, (1, 2), **settings, **scenario))
    assert_bit_equal(alone, dataclasses.replace(state, accuracy=accuracy[:, :3, :2]), but=("fingerprint",))


@pytest.mark.parametrize("scenario", [OF_FOUR[0], OF_FOUR[3], OF_FOUR[5]])
def test_independent_networks_of_the_first_tasks_are_the_first_of_all_bit_for_bit(scenario):
    accuracy = learn_sequence(four("independent", **scenario)).accuracy
    alone = learn_sequence(four("independent", (1, 2), **scenario)).accuracy
    assert torch.equal(alone.nan_to_num(-1), accuracy[:, :3, :2].nan_to_num(-1))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OF_FOUR)
def test_nothing_looks_at_tasks_beyond_those_that_are_learned(scenario, monkeypatch):
    for name in ("build_view", "classes_of", "output_map"):
        monkeypatch.setattr(benchmarks, name, beyond(2, getattr(benchmarks, name)))
    for algorithm in ("lwf_ewc", "joint"):
        assert learn_sequence(four(algorithm, (1, 2), **scenario)).tasks_learned == 2
    with pytest.raises(AssertionError, match="task 3 was looked at"):
        four("lwf_ewc", **scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize(("algorithm", "settings"), LEARNERS)
def test_data_of_tasks_beyond_those_that_are_learned_could_be_anything(algorithm, settings, scenario):
    data = training_data(SOURCES["digits"], None)
    later = data.labels >= 5  # the classes of tasks 3 and 4
    spoilt = Data(data.source, data.inputs.copy(), data.labels)
    spoilt.inputs[later] = 255
    config = small_config(algorithm, **settings, scenario=scenario, classes_per_task=(2, 3, 2, 3), tasks=4, epochs=1)
    first, whole = (
        [learn_sequence(build_trial(config, (0, 5), data=own, sequence=sequence)) for own in (data, spoilt)]
        for sequence in ((1, 2), None)
    )
    assert_bit_equal(*first)
    assert not same_params(whole[0].params, whole[1].params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings", "scenario", "sequence"),
    [(*learner, *others) for learner, *others in pairs(LEARNERS, OF_FOUR, [(3, 4), (1, 3)])],
)
def test_some_tasks_are_learned_as_if_no_others_had_been_made(algorithm, settings, scenario, sequence):
    whole = four(algorithm, **settings, **scenario)
    chosen = [whole.benchmark.tasks[origin - 1] for origin in sequence]
    tasks = tuple(dataclasses.replace(task, index=index) for index, task in enumerate(chosen, start=1))
    expected = learn_sequence(dataclasses.replace(whole, benchmark=dataclasses.replace(whole.benchmark, tasks=tasks)))
    found = learn_sequence(four(algorithm, sequence, **settings, **scenario))
    assert_bit_equal(found, expected)
    assert found.epochs.tolist() == [[1, 1], [2, 1]]
    # The first of them has nothing to hold on to, whatever its number.
    penalties = column(whole, found.curve, "penalty")
    assert (penalties[0] == 0).all()
    assert bool((penalties[1] > 0).all()) == (algorithm not in ("finetuning", "joint"))


def drawn(run: TrialSetup, task: Task) -> list[tuple[Tensor, Tensor | None]]:
    """Positions and crops of every batch of a task."""
    return [
        (step.batch.positions, step.batch.crops) for steps in plan_epochs(run, lesson_of(run, task)) for step in steps
    ]


@pytest.mark.parametrize("scenario", [{"scenario": "domain"}, {"scenario": "task"}])
def test_a_task_keeps_its_own_batches_and_crops_wherever_it_comes(scenario):
    settings = {"benchmark": "rotated-digits", "random_crop": 1, "horizontal_flip": True} | scenario
    whole, some = four("finetuning", **settings), four("finetuning", (2, 4), **settings)
    for origin, task in zip((2, 4), some.benchmark.tasks, strict=True):
        ours, among_all = drawn(some, task), drawn(whole, whole.benchmark.tasks[origin - 1])
        for part in (0, 1):
            assert all(torch.equal(own[part], other[part]) for own, other in zip(ours, among_all, strict=True))
        others = [drawn(whole, other) for other in whole.benchmark.tasks if other.origin != origin]
        for part in (0, 1):
            assert not any(torch.equal(ours[0][part], other[0][part]) for other in others)
    # They are those of its number among all.
    n = some.benchmark.tasks[0].train.sizes[0]
    order = torch.randperm(n, generator=derive_generator(5, 2, 1, "batches"))
    assert torch.equal(torch.cat([positions for positions, _ in drawn(some, some.benchmark.tasks[0])], 1)[1], order)


@pytest.mark.parametrize(
    "settings", [{"fisher": "sampled"}, {"fisher": "empirical", "fisher_samples": 30}, {"fisher": "batch"}]
)
def test_a_task_keeps_its_own_fisher_draws_wherever_it_comes(settings):
    settings = {"benchmark": "permuted-digits", "scenario": "domain", "fisher_samples": 40} | settings
    whole, some = four("ewc", **settings), four("ewc", (2, 4), **settings)
    params, (ewc,) = whole.initial_state().params, whole.regularizers

    def importance(run: TrialSetup, task: Task) -> Params:
        memory = ewc.remember(run.network, run.benchmark, task, params, {})
        return recall(memory, f"importance/{task.index}/")

    for origin, task in zip((2, 4), some.benchmark.tasks, strict=True):
        found = importance(some, task)
        assert same_params(found, importance(whole, whole.benchmark.tasks[origin - 1]))
        # By its place, which is 1 or 2, it would be another.
        assert not same_params(found, importance(some, dataclasses.replace(task, origin=task.index)))
