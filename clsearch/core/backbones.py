"""Networks out of torch modules: a small CNN, ResNet-18, or any factory of a user's; a linear head on its features.

A module stays what it is. Its parameters are stacked over members and put back by `torch.func.functional_call`, so it
must have no other state: no buffers, no random numbers (`problems_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from clsearch.core.errors import ConfigError
from clsearch.core.networks import HEAD, MLP, Network, Params, is_head
from clsearch.core.parts import NetworkConfig
from clsearch.core.seeding import generator_of, seed_of

Shape = tuple[int, int, int]
"""Channels, height, width of an image."""

Factory = Callable[[Shape], nn.Module]
"""Makes, for images of a shape, a module from images [B, C, H, W] to features [B, F]. Its parameters are drawn from
torch's global CPU generator, as torch's layers do."""

BACKBONE = "backbone."
"""Prefix of the backbone's parameters; after it comes the module's own name."""

SMALL = 64
"""Largest side, in pixels, of images that ResNet-18 reads at full resolution."""

PIXELS = 2**20
"""Pixels in a pass without gradients: a layer of 64 channels at full size then holds 256 MiB for each member."""

NAMED = 10
"""How many names a refusal lists."""


def cnn(shape: Shape, hidden: tuple[int, ...]) -> nn.Module:
    """Two times 3x3 convolution (32, then 64 channels), ReLU, 2x2 max-pooling; then linear layers with ReLU.

    hidden: widths of the linear layers; none: the features are what the convolutions give, 64 (H // 4) (W // 4).
    Raises ValueError for images below 4x4.
    """
    channels, height, width = shape
    if min(height, width) < 4:
        raise ValueError(f"cnn: images must be at least 4x4; got {height}x{width}")
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    fan_in = 64 * (height // 4) * (width // 4)
    for fan_out in hidden:
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        fan_in = fan_out
    return nn.Sequential(*layers)


def resnet18(shape: Shape) -> nn.Module:
    """ResNet-18 (He et al. 2016) with GroupNorm of 32 groups (Wu & He 2018) for BatchNorm; 512 features.

    Images of at most 64x64: a 3x3 stem of stride 1 without max-pooling (as He et al. read CIFAR). Larger: the 7x7 stem.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    channels, height, width = shape
    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=1, norm_layer=partial(nn.GroupNorm, 32))
    small = max(height, width) <= SMALL
    kernel, stride = (3, 1) if small else (7, 2)
    stem = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as ResNet's own convolutions
    network.conv1 = stem
    if small:
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


@dataclass(frozen=True)
class ModuleNetwork:
    """A backbone out of any factory and one linear head over all classes of the benchmark.

    Parameters: `backbone.<the module's own name>` [M, ...] (one that goes by two names: the first), `head.weight`
    [M, F, C], `head.bias` [M, 1, C]. shape: of an image, as inputs [M, B, C * H * W] hold it. width: F.
    module: what is called with members' parameters in place of its own, which are never used. Always in training mode.
    """

    factory: Factory
    shape: Shape
    width: int
    outputs: int
    module: nn.Module = field(repr=False)

    @property
    def at_once(self) -> int:
        """How many samples a pass without gradients may hold: 2^20 pixels' worth, but 16 to 1024."""
        _, height, width = self.shape
        return max(16, min(1024, PIXELS // (height * width)))

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Fresh parameters, each member from its own seed: the factory's, and a head uniform in ±1/sqrt(F)."""
        members = [self._initial_member(seed) for seed in seeds]
        return {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}

    def _initial_member(self, seed: int) -> Params:
        with _seeded(seed):
            module = self.factory(self.shape)
        params = {f"{BACKBONE}{name}": value.detach() for name, value in module.named_parameters()}
        generator, bound = generator_of(seed, 0, 0, HEAD), 1 / math.sqrt(self.width)
        for name, rows in (("weight", self.width), ("bias", 1)):
            empty = torch.empty(rows, self.outputs)
            params[f"{HEAD}.{name}"] = empty.uniform_(-bound, bound, generator=generator)
        return params

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Backbone features [M, B, F] of `inputs` [M, B, C * H * W]."""
        own = {name.removeprefix(BACKBONE): value for name, value in params.items() if not is_head(name)}
        images = inputs.reshape(*inputs.shape[:-1], *self.shape)
        # Convolutions of stacked weights are grouped ones: on a CPU slower than one member after the other.
        if len(images) == 1 or images.device.type == "cpu":
            return self._in_turn(own, images)
        return self._together(own, images)

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """The head's outputs [M, B, C]."""
        return torch.baddbmm(params[f"{HEAD}.bias"], features, params[f"{HEAD}.weight"])

    def _in_turn(self, own: Params, images: Tensor) -> Tensor:
        """Features [M, B, F] of images [M, B, C, H, W], one member after the other."""
        members = zip(*(value.unbind() for value in own.values()), strict=True)
        return torch.stack(
            [self._of_one(dict(zip(own, m, strict=True)), x) for m, x in zip(members, images.unbind(), strict=True)]
        )

    def _together(self, own: Params, images: Tensor) -> Tensor:
        """The same, all members in one."""
        features: Tensor = torch.vmap(self._of_one, randomness="error")(own, images)
        return features

    def _of_one(self, member: Params, images: Tensor) -> Tensor:
        features: Tensor = torch.func.functional_call(self.module, member, images, strict=True)
        return features


def module_network(factory: Factory, shape: Shape, outputs: int) -> ModuleNetwork:
    """A network of `outputs` classes on the factory's features, whose number is found on an empty image."""
    with _seeded(0), torch.no_grad():
        module = factory(shape).train()
        width = module(torch.zeros(1, *shape)).shape[1]
    return ModuleNetwork(factory, shape, width, outputs, module)


def parameter_count(factory: Factory, shape: Shape) -> int:
    """Number of the backbone's parameters; one that goes by two names counts once."""
    with _seeded(0):
        return sum(value.numel() for value in factory(shape).parameters())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator as this seed's parameters are drawn from it; afterwards as it was before."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reseeds the GPU's generators as well.
        torch.default_generator.manual_seed(seed_of(seed, 0, 0, "parameters"))
        yield


def factory_of(config: NetworkConfig) -> Factory:
    """What makes a configuration's backbone, other than the MLP."""
    if config.backbone == "cnn":
        return partial(cnn, hidden=config.hidden)
    factory: Factory = resnet18 if config.backbone == "resnet18" else config.backbone
    return factory


def build_network(config: NetworkConfig, shape: Shape, outputs: int) -> Network:
    """The network of a configuration, for images of a shape. Raises ConfigError where its backbone cannot be used."""
    if config.backbone == "mlp":
        return MLP(math.prod(shape), config.hidden, outputs)
    factory = factory_of(config)
    if problems := problems_of(factory, shape):
        raise ConfigError(problems)
    return module_network(factory, shape, outputs)


# --- what a factory must keep to ---


def problems_of(factory: Factory, shape: Shape) -> list[str]:
    """Why a factory cannot be used for images of this shape; empty where it can. Runs it on two random images, in
    training mode. Torch's global generator is left as it was.
    """
    with _seeded(0), torch.no_grad():
        try:
            module = factory(shape)
        except Exception as error:  # a user's code: whatever it raises is the answer
            return [f"backbone: must be made by its factory from (channels, height, width); got {_shown(error)}"]
        if not isinstance(module, nn.Module):
            return [f"backbone: its factory must return a torch.nn.Module; got {_kind(module)}"]
        return _state_problems(module) or _call_problems(module.train(), shape)


def _state_problems(module: nn.Module) -> list[str]:
    """What a module holds that members cannot have each for themselves."""
    problems = []
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
