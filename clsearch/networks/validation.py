"""Build the network of a configuration, and check a torch module for use as a backbone by running it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.seeding import derive_generator
from clsearch.config.sections import NetworkConfig
from clsearch.networks.mlp import MLP, Network
from clsearch.networks.modules import Factory, ModuleNetwork, Shape, backbone_factory, build_seeded, module_network

NAMED = 10
"""Number of names that a refusal lists."""


def build_network(config: NetworkConfig, shape: Shape, outputs: int, device: torch.device) -> Network:
    """Build the network of a configuration.

    Args:
        config: The network's settings.
        shape: [C, H, W] of an image.
        outputs: Outputs of the head, C.
        device: Device that the network will run on.

    Raises:
        ConfigError: If its backbone cannot be used.
    """
    if config.backbone == "mlp":
        return MLP(math.prod(shape), config.hidden, outputs)
    factory = backbone_factory(config)
    if problems := find_problems(factory, shape, device):
        raise ConfigError(problems)
    return module_network(factory, shape, outputs)


def find_problems(factory: Factory, shape: Shape, device: torch.device | None = None) -> list[Refusal]:
    """List the reasons why a factory cannot be used; empty if it can.

    Runs the module on two random images in training mode, on the CPU and, if `device` is another one, also there.
    Restores torch's global generator.

    Args:
        factory: Makes the backbone.
        shape: [C, H, W] of an image.
        device: Device that the network will run on; None checks on the CPU only.
    """
    with build_seeded(0), torch.no_grad():
        try:
            module = factory(shape)
        except Exception as error:  # a user's code can raise anything
            text = f"backbone: must be made by its factory from (channels, height, width); got {_shown(error)}"
            return [Refusal("backbone-made-of-shape", text)]
        if not isinstance(module, nn.Module):
            text = f"backbone: its factory must return a torch.nn.Module; got {_kind(module)}"
            return [Refusal("backbone-is-module", text)]
        if factory(shape) is module:
            rule = "its factory must make a new module at each call, or all seeds start from the same weights"
            return [Refusal("backbone-new-module", f"backbone: {rule}; got the same module twice")]
        problems = _state_problems(module) or _call_problems(module.train(), shape)
        if device is not None and device.type != "cpu":
            problems = problems or find_stacking_problems(module_network(factory, shape, 2), device)
        return problems


def find_stacking_problems(network: ModuleNetwork, device: torch.device) -> list[Refusal]:
    """List the reasons why a module cannot run for all seeds at once on a device, by torch.vmap; empty if it can.

    Compares the features with those of one member after another.
    """
    rule = "backbone: must run for all seeds at once, by torch.vmap, and give the features of one seed after another"
    images = torch.rand(2, 2, math.prod(network.shape), generator=derive_generator(0, 0, 0, "images")).to(device)
    backbone, stacked = network.separated(network.initial((0, 1), device), images)
    try:
        together, in_turn = network.together(backbone, stacked), network.in_turn(backbone, stacked)
    except Exception as error:  # a user's code can raise anything
        return [Refusal("backbone-stacks", f"{rule}; got {_shown(error)}")]
    difference, largest = (together - in_turn).abs().max().item(), in_turn.abs().max().item()
    if difference > 1e-3 * largest:
        got = f"features that differ by {difference / largest:.2%} of the largest"
        return [Refusal("backbone-stacks", f"{rule}; got {got}")]
    return []


def _state_problems(module: nn.Module) -> list[Refusal]:
    """List the module's state that cannot be separate for each member."""
    problems = []
    parts = module.named_modules()
    if plain := [f"{p}.{n}".lstrip(".") for p, part in parts for n, v in vars(part).items() if isinstance(v, Tensor)]:
        text = (
            "backbone: must have no tensor attributes except its parameters: they stay on the CPU while the backbone "
            f"trains on another device, and a resumed trial does not restore them; got {_join_names(plain)}"
        )
        problems.append(Refusal("backbone-no-tensors", text))
    if buffers := [name for name, _ in module.named_buffers()]:
        text = (
            "backbone: must have no buffers: members would share them, and a resumed trial does not restore them. Use "
            "GroupNorm instead of BatchNorm, whose running statistics are buffers; "
            f"got {_join_names(buffers)}"
        )
        problems.append(Refusal("backbone-no-buffers", text))
    rule = "backbone: must have parameters, all of floating point, with a shape from the start and requires_grad"
    params = dict(module.named_parameters())
    unfit = [name for name, value in params.items() if not _is_fit(value)]
    if unfit or not params:
        problems.append(Refusal("backbone-trainable", f"{rule}; got {_join_names(unfit) or 'none'}"))
    return problems


def _is_fit(parameter: nn.Parameter) -> bool:
    """Return True if a parameter can be stacked over members and trained."""
    lazy = nn.parameter.is_lazy(parameter)
    return not lazy and parameter.is_floating_point() and parameter.requires_grad


def _call_problems(module: nn.Module, shape: Shape) -> list[Refusal]:
    """Check that features are finite [B, F], equal in every call, and that each depends on its own image alone."""
    images = torch.rand(2, *shape, generator=derive_generator(0, 0, 0, "images"))
    before = torch.get_rng_state()
    features = _features_or_fault(module, images)
    drew = not torch.equal(torch.get_rng_state(), before)
    if isinstance(features, str):
        rule = f"backbone: must map images {[2, *shape]} to finite features [2, F] of their precision"
        return [Refusal("backbone-features", f"{rule}; got {features}")]
    rule = (
        "backbone: must give the same features in every call, also in training mode: a resumed trial cannot restore "
        "the generator of dropout"
    )
    if drew:
        return [Refusal("backbone-repeatable", f"{rule}; got numbers drawn from torch's global generator")]
    again = _features_or_fault(module, images)
    if isinstance(again, str) or not torch.equal(features, again):
        got = again if isinstance(again, str) else "different features in the second call"
        return [Refusal("backbone-repeatable", f"{rule}; got {got}")]
    return _mixing_problems(features, _features_or_fault(module, images[:1]))


def _mixing_problems(together: Tensor, alone: Tensor | str) -> list[Refusal]:
    """Check that an image's features do not depend on the other images of the batch.

    Args:
        together: Features [2, F] of two images.
        alone: Features [1, F] of the first image without the second, or the fault.
    """
    rule = "backbone: must treat each image by itself: batch statistics, as in BatchNorm, mix images"
    if isinstance(alone, str):
        return [Refusal("backbone-separates-images", f"{rule}; got, of one image alone, {alone}")]
    if alone.shape[1] != together.shape[1]:
        got = f"{together.shape[1]} features in a batch of two and {alone.shape[1]} alone"
        return [Refusal("backbone-separates-images", f"{rule}; got {got}")]
    difference, largest = (alone - together[:1]).abs().max().item(), together.abs().max().item()
    if difference > 1e-4 * largest:
        share = f"{difference / largest:.2%} of the largest"
        got = f"features that differ by {share} from those of the image alone"
        return [Refusal("backbone-separates-images", f"{rule}; got {got}")]
    return []


def _features_or_fault(module: nn.Module, images: Tensor) -> Tensor | str:
    """Return the features of images [B, C, H, W], or a description of their fault."""
    try:
        features = module(images)
    except Exception as error:  # a user's code can raise anything
        return _shown(error)
    if not isinstance(features, Tensor):
        return _kind(features)
    if features.dim() != 2 or len(features) != len(images) or features.shape[1] == 0:
        return str(list(features.shape))
    if features.dtype != images.dtype:
        return str(features.dtype)
    return features if features.isfinite().all() else "NaN or infinity"


def _shown(error: Exception) -> str:
    """Write an error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _kind(value: object) -> str:
    """Name the type of a value, or a class as such."""
    return f"{value.__name__}, a class" if isinstance(value, type) else type(value).__name__


def _join_names(names: Sequence[str]) -> str:
    """Write the first names, and the number of the others."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
