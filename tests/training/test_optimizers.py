"""Each optimizer against torch.optim, a member at a time."""

import pytest
import torch

from clsearch.training.optimizers import SGD, Adam, build_optimizer
from tests.helpers import small_config

RATES = (0.1, 0.01, 0.003)
SHAPES = {"head.weight": (4, 3), "head.bias": (1, 3)}

CASES = [
    ({"optimizer": "sgd"}, torch.optim.SGD, {}),
    ({"optimizer": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    ({"optimizer": "sgd", "weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    (
        {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.8, "weight_decay": 0.1},
    ),
    ({"optimizer": "adam"}, torch.optim.Adam, {}),
    ({"optimizer": "adam", "weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    ({"optimizer": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.0}),
    ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
]


def random_steps(count: int, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    """The first is where parameters start, the others are gradients; a member in each row."""
    generator = torch.Generator().manual_seed(3)
    return [
        {
            name: torch.randn(len(RATES), *shape, generator=generator) * (scale if step else 1)
            for name, shape in SHAPES.items()
        }
        for step in range(count)
    ]


# Gradients of 1e-8 are as small as Adam's epsilon, so its place in the formula shows.
@pytest.mark.parametrize("scale", [1.0, 1e-8])
@pytest.mark.parametrize(("settings", "reference", "options"), CASES)
def test_five_steps_are_torchs_for_every_member_at_its_own_rate(settings, reference, options, scale):
    optimizer = build_optimizer(small_config(**settings))
    start, *gradients = random_steps(6, scale)
    params, moments = {name: value.clone() for name, value in start.items()}, optimizer.initial(start)
    theirs = [{name: value[m].clone().requires_grad_() for name, value in start.items()} for m in range(3)]
    references = [reference(list(one.values()), lr=rate, **options) for one, rate in zip(theirs, RATES, strict=True)]
    for gradient in gradients:
        optimizer.update(params, gradient, moments, torch.tensor(RATES))
        for m, (one, torchs) in enumerate(zip(theirs, references, strict=True)):
            for name, value in one.items():
                value.grad = gradient[name][m].clone()
            torchs.step()
            for name, value in one.items():
                torch.testing.assert_close(params[name][m], value.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("settings", "reference", "options"), CASES)
def test_an_update_moves_all_but_the_gradients(settings, reference, options):
    optimizer = build_optimizer(small_config(**settings))
    params, gradient = random_steps(2)
    moments = optimizer.initial(params)
    before = [{name: value.clone() for name, value in tree.items()} for tree in (params, moments, gradient)]
    optimizer.update(params, gradient, moments, torch.tensor(RATES))
    for moved, tree, old in zip((True, True, False), (params, moments, gradient), before, strict=True):
        assert all(torch.equal(tree[name], old[name]) != moved for name in old)


@pytest.mark.parametrize("optimizer", [SGD(0.9, 0.0), Adam(0.0, decoupled=False), Adam(0.1, decoupled=True)])
def test_moments_are_named_by_kind_and_parameter_and_have_its_shape(optimizer):
    (params,) = random_steps(1)
    for name, value in optimizer.initial(params).items():
        assert value.shape == ((3,) if name == "steps" else params[name.partition("/")[2]].shape)
