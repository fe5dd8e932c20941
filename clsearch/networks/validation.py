"""What a backbone out of a torch module must keep to, found by running it; networks of configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clsearch.common.errors import ConfigError
from clsearch.common.seeding import generator_of
from clsearch.config.sections import NetworkConfig
from clsearch.networks.mlp import MLP, Network
from clsearch.networks.modules import Factory, ModuleNetwork, Shape, factory_of, module_network, seeded

NAMED = 10
"""How many names a refusal lists."""


def build_network(config: NetworkConfig, shape: Shape, outputs: int, device: torch.device) -> Network:
    """The network of a configuration, for images of a shape. Raises ConfigError where its backbone cannot be used."""
    if config.backbone == "mlp":
        return MLP(math.prod(shape), config.hidden, outputs)
    factory = factory_of(config)
    if problems := problems_of(factory, shape, device):
        raise ConfigError(problems)
    return module_network(factory, shape, outputs)


def problems_of(factory: Factory, shape: Shape, device: torch.device | None = None) -> list[str]:
    """Why a factory cannot be used for images of this shape; empty where it can. Runs it on two random images, in
    training mode, and where `device` is no CPU there as well. Torch's global generator is left as it was.
    """
    with seeded(0), torch.no_grad():
        try:
            module = factory(shape)
        except Exception as error:  # a user's code: whatever it raises is the answer
            return [f"backbone: must be made by its factory from (channels, height, width); got {_shown(error)}"]
        if not isinstance(module, nn.Module):
            return [f"backbone: its factory must return a torch.nn.Module; got {_kind(module)}"]
        if factory(shape) is module:
            return ["backbone: its factory must make a new module at each call, or all seeds begin alike; got the same"]
        problems = _state_problems(module) or _call_problems(module.train(), shape)
        if device is not None and device.type != "cpu":
            problems = problems or stacked_problems(module_network(factory, shape, 2), device)
        return problems


def stacked_problems(network: ModuleNetwork, device: torch.device) -> list[str]:
    """Why a module cannot run for all seeds at once on a device, by torch.vmap; empty where it gives what it should."""
    rule = "backbone: must run for all seeds at once, by torch.vmap, as it does for one after the other"
    images = torch.rand(2, 2, math.prod(network.shape), generator=generator_of(0, 0, 0, "images")).to(device)
    own, stacked = network.separated(network.initial((0, 1), device), images)
    try:
        together, in_turn = network.together(own, stacked), network.in_turn(own, stacked)
    except Exception as error:  # a user's code: whatever it raises is the answer
        return [f"{rule}; got {_shown(error)}"]
    apart, most = (together - in_turn).abs().max().item(), in_turn.abs().max().item()
    return [f"{rule}; got features {apart / most:.2g} of the largest away"] if apart > 1e-3 * most else []


def _state_problems(module: nn.Module) -> list[str]:
    """What a module holds that members cannot have each for themselves."""
    problems = []
    parts = module.named_modules()
    if plain := [f"{p}.{n}".lstrip(".") for p, part in parts for n, v in vars(part).items() if isinstance(v, Tensor)]:
        problems.append(
            "backbone: must keep no tensors beside its parameters: they stay on the CPU while it trains elsewhere, and "
            f"a resumed trial would not have them; got {_listed(plain)}"
        )
    if buffers := [name for name, _ in module.named_buffers()]:
        problems.append(
            "backbone: must have no buffers: they are no parameters, so members would share them and a resumed trial "
            "would not have them. For BatchNorm, which keeps running statistics in them, take GroupNorm; "
            f"got {_listed(buffers)}"
        )
    rule = "backbone: must have parameters, all of floating point, with a shape from the start and requires_grad"
    params = dict(module.named_parameters())
    unfit = [name for name, value in params.items() if not _is_fit(value)]
    if unfit or not params:
        problems.append(f"{rule}; got {_listed(unfit) or 'none'}")
    return problems


def _is_fit(parameter: nn.Parameter) -> bool:
    """Whether a parameter can be stacked over members and trained."""
    lazy = nn.parameter.is_lazy(parameter)
    return not lazy and parameter.is_floating_point() and parameter.requires_grad


def _call_problems(module: nn.Module, shape: Shape) -> list[str]:
    """How a module's features differ from finite [B, F], the same in every call, each of its own image alone."""
    images = torch.rand(2, *shape, generator=generator_of(0, 0, 0, "images"))
    before = torch.get_rng_state()
    features = _features_or_fault(module, images)
    drew = not torch.equal(torch.get_rng_state(), before)
    if isinstance(features, str):
        return [f"backbone: must map images {[2, *shape]} to finite features [2, F] of their precision; got {features}"]
    rule = (
        "backbone: must give the same features in every call, in training mode too: a resumed trial cannot follow the "
        "generator that dropout draws from"
    )
    if drew:
        return [f"{rule}; got numbers drawn from torch's global generator"]
    again = _features_or_fault(module, images)
    if isinstance(again, str) or not torch.equal(features, again):
        return [f"{rule}; got {again if isinstance(again, str) else 'others in the second call'}"]
    return _mixing_problems(features, _features_or_fault(module, images[:1]))


def _mixing_problems(together: Tensor, alone: Tensor | str) -> list[str]:
    """together: features [2, F] of two images. alone: of the first without the second, or what is wrong with them."""
    rule = "backbone: must treat each image by itself: statistics of a batch, as BatchNorm's, mix its images"
    if isinstance(alone, str):
        return [f"{rule}; got, of one image alone, {alone}"]
    if alone.shape[1] != together.shape[1]:
        return [f"{rule}; got {together.shape[1]} features in a batch of two and {alone.shape[1]} alone"]
    apart, most = (alone - together[:1]).abs().max().item(), together.abs().max().item()
    if apart > 1e-4 * most:
        return [f"{rule}; got features {apart / most:.2g} of the largest away from those of the image alone"]
    return []


def _features_or_fault(module: nn.Module, images: Tensor) -> Tensor | str:
    """The features of images [B, C, H, W], or what is wrong with them."""
    try:
        features = module(images)
    except Exception as error:  # a user's code: whatever it raises is the answer
        return _shown(error)
    if not isinstance(features, Tensor):
        return _kind(features)
    if features.dim() != 2 or len(features) != len(images) or features.shape[1] == 0:
        return str(list(features.shape))
    if features.dtype != images.dtype:
        return str(features.dtype)
    return features if features.isfinite().all() else "NaN or infinity"


def _shown(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _kind(value: object) -> str:
    return f"{value.__name__}, a class" if isinstance(value, type) else type(value).__name__


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
