"""The empirical Fisher information against one plain backward pass per sample."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from clsearch.core.config import Scenario
from clsearch.core.importance import empirical_fisher
from clsearch.core.networks import Params, allowed_mask
from tests.helpers import CPU, forward, member_of, network_for, random_params, tiny_benchmark


def fisher_sample_by_sample(params: Params, inputs, labels, answers) -> Params:
    """One member's mean of squared gradients of -log p(label) over the classes `answers`."""
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for x, y in zip(inputs, labels, strict=True):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        logits = forward(leaves, x[None])[:, list(answers)]
        loss = cross_entropy(logits, torch.tensor([list(answers).index(y)]))
        for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            total[name] += gradient**2
    return {name: value / len(labels) for name, value in total.items()}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("hidden", [(6,), (6, 4)])
def test_the_fisher_is_the_mean_of_squared_per_sample_gradients(masked, hidden):
    benchmark = tiny_benchmark(Scenario.TASK, (4, 3, 3))
    task, network = benchmark.tasks[1], network_for(benchmark, hidden)
    params = random_params(network, 2, seed=1)
    answers = task.classes if masked else tuple(range(10))
    fisher = empirical_fisher(network, params, task.train, allowed_mask(answers, 10, CPU))
    inputs, labels = task.train.batch(torch.arange(9).expand(2, -1))
    for m in range(2):
        expected = fisher_sample_by_sample(member_of(params, m), inputs[m], labels[m].tolist(), answers)
        assert any(value.max() > 1e-3 for value in expected.values())
        for name, value in expected.items():
            torch.testing.assert_close(fisher[name][m], value, rtol=1e-4, atol=1e-8)


def test_samples_beyond_the_first_chunk_count_too():
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), members=1, samples=1100, inputs=3)
    train, network = benchmark.tasks[0].train, network_for(benchmark, (2,))
    assert len(train.chunks()) == 2
    params = random_params(network, 1, seed=2)
    inputs, labels = train.batch(torch.arange(1100)[None])
    fisher = empirical_fisher(network, params, train, None)
    expected = fisher_sample_by_sample(member_of(params, 0), inputs[0], labels[0].tolist(), (0, 1))
    for name, value in expected.items():
        torch.testing.assert_close(fisher[name][0], value, rtol=1e-4, atol=1e-8)


def test_outputs_that_may_not_be_answered_have_no_importance_at_all():
    benchmark = tiny_benchmark(Scenario.CLASS, (4, 3, 3))
    network = network_for(benchmark)
    mask = allowed_mask(benchmark.seen(2), 10, CPU)
    fisher = empirical_fisher(network, random_params(network, 2, seed=3), benchmark.tasks[1].train, mask)
    for name in ("head.weight", "head.bias"):
        assert (fisher[name][..., 7:] == 0).all()
        assert (fisher[name][..., :7].amax((0, 1)) > 0).all()


def test_measuring_changes_nothing_in_the_model():
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2))
    network = network_for(benchmark)
    params = random_params(network, 2, seed=4)
    before = {name: value.clone() for name, value in params.items()}
    fisher = empirical_fisher(network, params, benchmark.tasks[0].train, None)
    for name, value in params.items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad
        assert not fisher[name].requires_grad
        assert (fisher[name] >= 0).all()
