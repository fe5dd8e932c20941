"""The stacked network against torch's own layers."""

import itertools
import math

import pytest
import torch

from clsearch.networks.mlp import MLP, is_head, mask_logits, output_mask
from tests.helpers import CPU, forward, member_of

HIDDEN = [(6,), (6, 4), (7, 5, 3)]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_each_members_forward_pass_is_torchs_linear_layers(hidden):
    network = MLP(5, hidden, 3)
    params = network.initial((0, 1, 2), CPU)
    inputs = torch.rand(3, 8, 5, generator=torch.Generator().manual_seed(0))
    logits = network.logits(params, network.features(params, inputs))
    assert logits.shape == (3, 8, 3)
    for m in range(3):
        torch.testing.assert_close(logits[m], forward(member_of(params, m), inputs[m]))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_layers_end_in_the_logits_and_begin_with_the_inputs(hidden):
    network = MLP(5, hidden, 3)
    params = network.initial((0, 1), CPU)
    inputs = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1))
    layers = network.layers(params, inputs)
    features = network.features(params, inputs)
    assert [f"{layer.name}.{part}" for layer in layers for part in ("weight", "bias")] == list(params)
    assert torch.equal(layers[0].inputs, inputs)
    assert torch.equal(layers[-1].inputs, features)
    assert torch.equal(layers[-1].outputs, network.logits(params, features))
    for before, after in itertools.pairwise(layers):
        assert torch.equal(before.outputs.relu(), after.inputs)


def test_a_members_initial_parameters_do_not_depend_on_the_others():
    network = MLP(5, (6, 4), 3)
    together, alone = network.initial((4, 8, 15), CPU), network.initial((8,), CPU)
    for name, value in together.items():
        assert torch.equal(value[1:2], alone[name])
        assert not torch.equal(value[0], value[1])


def test_initial_parameters_leave_torchs_global_generator_alone_and_do_not_follow_it():
    network = MLP(5, (6,), 3)
    torch.manual_seed(0)
    first = network.initial((1,), CPU)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = network.initial((1,), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_initial_parameters_fill_the_range_of_torchs_linear_layers():
    network = MLP(100, (400, 50), 10)
    fan_in = {"backbone.0": 100, "backbone.1": 400, "head": 50}
    for name, value in network.initial(range(20), CPU).items():
        bound = 1 / math.sqrt(fan_in[name.rpartition(".")[0]])
        assert value.abs().max() <= bound
        assert value.abs().max() > 0.95 * bound
        # A uniform distribution's deviation is its half width / sqrt(3).
        assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert abs(value.mean()) < 0.15 * bound


def test_parameters_have_the_documented_shapes_and_the_head_is_the_last_layer():
    params = MLP(5, (6, 4), 3).initial((0, 1), CPU)
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        "backbone.0.weight": (2, 5, 6),
        "backbone.0.bias": (2, 1, 6),
        "backbone.1.weight": (2, 6, 4),
        "backbone.1.bias": (2, 1, 4),
        "head.weight": (2, 4, 3),
        "head.bias": (2, 1, 3),
    }
    assert [name for name in params if is_head(name)] == ["head.weight", "head.bias"]


def test_softmax_over_restricted_logits_is_softmax_over_the_allowed_ones():
    logits = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    probabilities = mask_logits(logits, output_mask((1, 4, 5), 6, CPU)).softmax(-1)
    torch.testing.assert_close(probabilities[..., [1, 4, 5]], logits[..., [1, 4, 5]].softmax(-1))
    assert (probabilities[..., [0, 2, 3]] == 0).all()


def test_nothing_is_masked_where_every_output_may_be_answered():
    logits = torch.ones(1, 2, 3)
    assert output_mask((0, 1, 2), 3, CPU) is None
    assert mask_logits(logits, None) is logits
    mask = output_mask((2,), 3, CPU)
    assert mask is not None
    assert mask.tolist() == [False, False, True]
