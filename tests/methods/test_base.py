"""What regularizers share: nothing to hold on to at first, and a memory whose entries are told apart by prefix."""

import pytest
import torch

from clsearch.config.sections import Scenario
from clsearch.methods.base import recall
from clsearch.methods.ewc import ElasticWeightConsolidation
from clsearch.methods.lwf import LearningWithoutForgetting
from clsearch.methods.penalties.fisher import Fisher
from tests.helpers import network_for, random_params, tiny_benchmark

REGULARIZERS = [
    LearningWithoutForgetting(newest_only=False, train_head=True, distance="cross_entropy", squared=False),
    LearningWithoutForgetting(newest_only=True, train_head=False, distance="mse", squared=False),
    ElasticWeightConsolidation(
        merged=True, average=False, fisher=Fisher("empirical", None, 4), scale="none", online=None
    ),
    ElasticWeightConsolidation(merged=False, average=False, fisher=Fisher("exact", None, 4), scale="none", online=0.5),
]


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_the_first_task_has_nothing_to_hold_on_to(regularizer):
    benchmark = tiny_benchmark(Scenario.TASK, (2, 2))
    assert regularizer.prepare(network_for(benchmark), benchmark, benchmark.tasks[0], {}, {}) is None


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_what_another_regularizer_remembers_is_left_alone(regularizer):
    benchmark = tiny_benchmark(Scenario.CLASS, (2, 2))
    network = network_for(benchmark)
    alone: dict[str, torch.Tensor] = {}
    beside = {"another/1/head.bias": torch.ones(2), "another/11/head.bias": torch.zeros(2)}
    for task, seed in zip(benchmark.tasks, (1, 2), strict=True):
        params = random_params(network, 2, seed)
        before = dict(beside)
        alone, beside = (regularizer.remember(network, benchmark, task, params, m) for m in (alone, beside))
        assert all(before[name] is beside[name] for name in before if name.startswith("another/"))
    assert beside.keys() == alone.keys() | {"another/1/head.bias", "another/11/head.bias"}
    assert all(torch.equal(beside[name], alone[name]) for name in alone)


def test_entries_are_recalled_by_their_whole_prefix_without_it():
    memory = {name: torch.tensor(i) for i, name in enumerate(("teacher/1/a", "teacher/1/b", "teacher/11/a", "a/1/a"))}
    assert recall(memory, "teacher/1/") == {"a": torch.tensor(0), "b": torch.tensor(1)}
    assert recall(memory, "teacher/2/") == {}
