"""Networks out of torch modules: a small CNN, ResNet-18, or any factory of a user's; a linear head on its features.

A module stays what it is. Its parameters are stacked over members and put back by `torch.func.functional_call`, so it
must have no other state: no buffers, no random numbers (see `backbone_rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from clsearch.common.seeding import generator_of, seed_of
from clsearch.config.sections import NetworkConfig
from clsearch.networks.mlp import HEAD, Params, is_head

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
        with seeded(seed):
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
            return self.in_turn(own, images)
        return self.together(own, images)

    def separated(self, params: Params, inputs: Tensor) -> tuple[Params, Tensor]:
        """The backbone's parameters under the module's own names, and images [M, B, C, H, W]."""
        own = {name.removeprefix(BACKBONE): value for name, value in params.items() if not is_head(name)}
        return own, inputs.unflatten(-1, self.shape)

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """The head's outputs [M, B, C]."""
        return torch.baddbmm(params[f"{HEAD}.bias"], features, params[f"{HEAD}.weight"])

    def in_turn(self, own: Params, images: Tensor) -> Tensor:
        """Features [M, B, F] of images [M, B, C, H, W], one member after the other."""
        members = zip(*(value.unbind() for value in own.values()), strict=True)
        return torch.stack(
            [self._of_one(dict(zip(own, m, strict=True)), x) for m, x in zip(members, images.unbind(), strict=True)]
        )

    def together(self, own: Params, images: Tensor) -> Tensor:
        """The same, all members in one."""
        features: Tensor = torch.vmap(self._of_one, randomness="error")(own, images)
        return features

    def _of_one(self, member: Params, images: Tensor) -> Tensor:
        features: Tensor = torch.func.functional_call(self.module, member, images, strict=True)
        return features


def module_network(factory: Factory, shape: Shape, outputs: int) -> ModuleNetwork:
    """A network of `outputs` classes on the factory's features, whose number is found on an empty image."""
    with seeded(0), torch.no_grad():
        module = factory(shape).train()
        width = module(torch.zeros(1, *shape)).shape[1]
    return ModuleNetwork(factory, shape, width, outputs, module)


def parameter_count(factory: Factory, shape: Shape) -> int:
    """Number of the backbone's parameters; one that goes by two names counts once."""
    with seeded(0):
        return sum(value.numel() for value in factory(shape).parameters())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
