"""Networks made of torch modules: a small CNN, ResNet-18 or a user's own factory, with a linear head on the features.

The module itself does not change. Its parameters are stacked over members and passed to `torch.func.functional_call`,
so it must have no other state: no buffers and no random numbers (see `validation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from clsearch.common.seeding import derive_generator, derive_seed
from clsearch.config.sections import NetworkConfig
from clsearch.networks.mlp import HEAD, Params, is_head

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

Factory = Callable[[Shape], nn.Module]
"""Makes, for images of a shape, a module from images [B, C, H, W] to features [B, F].

The module's parameters are drawn from torch's global CPU generator, as torch's layers do.
"""

BACKBONE = "backbone."
"""Prefix of the backbone's parameters; the module's own name follows."""

SMALL = 64
"""Largest side, in pixels, of images that ResNet-18 reads at full resolution."""

EVAL_BATCH_PIXELS = 2**20
"""Pixels in one pass without gradients: a layer of 64 channels at full size then takes 256 MiB per member."""


def cnn(shape: Shape, hidden: tuple[int, ...]) -> nn.Module:
    """Build two blocks of 3x3 convolution (32, then 64 channels), ReLU and 2x2 max-pooling; then linear layers with
    ReLU.

    Args:
        shape: [C, H, W] of an image.
        hidden: Widths of the linear layers. If empty, the features are the output of the convolutions, 64 (H // 4) (W
            // 4).

    Raises:
        ValueError: For images below 4x4.
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
    """Build ResNet-18 (He et al. 2016) with GroupNorm of 32 groups (Wu & He 2018) instead of BatchNorm; 512 features.

    Images of at most 64x64 have a 3x3 stem of stride 1 without max-pooling (as in He et al. for CIFAR), larger ones the
    7x7 stem.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    channels, height, width = shape
    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=1, norm_layer=partial(nn.GroupNorm, 32))
    small = max(height, width) <= SMALL
    kernel, stride = (3, 1) if small else (7, 2)
    stem = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(
        stem.weight, mode="fan_out", nonlinearity="relu"
    )  # as torchvision initializes ResNet's convolutions
    network.conv1 = stem
    if small:
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


@dataclass(frozen=True)
class ModuleNetwork:
    """A backbone from a factory and one linear head over all classes of the benchmark.

    Parameters: `backbone.<the module's own name>` [M, ...] (a shared parameter goes by its first name), `head.weight`
    [M, F, C], `head.bias` [M, 1, C].

    Args:
        factory: Makes the backbone.
        shape: [C, H, W] of an image; inputs are [M, B, C * H * W].
        width: Number of features, F.
        outputs: Outputs of the head, C.
        module: Called with the members' parameters instead of its own, which are never used; always in training mode.
    """

    factory: Factory
    shape: Shape
    width: int
    outputs: int
    module: nn.Module = field(repr=False)

    @property
    def eval_batch_size(self) -> int:
        """Number of samples in one pass without gradients: 2^20 pixels, at least 16 and at most 1024 samples."""
        _, height, width = self.shape
        return max(16, min(1024, EVAL_BATCH_PIXELS // (height * width)))

    def initial(self, seeds: Sequence[int], device: torch.device) -> Params:
        """Draw fresh parameters, each member's from its own seed.

        The factory draws the backbone's; the head's are uniform in ±1/sqrt(F).
        """
        members = [self._initial_member(seed) for seed in seeds]
        return {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}

    def _initial_member(self, seed: int) -> Params:
        with build_seeded(seed):
            module = self.factory(self.shape)
        params = {f"{BACKBONE}{name}": value.detach() for name, value in module.named_parameters()}
        generator, bound = derive_generator(seed, 0, 0, HEAD), 1 / math.sqrt(self.width)
        for name, rows in (("weight", self.width), ("bias", 1)):
            empty = torch.empty(rows, self.outputs)
            params[f"{HEAD}.{name}"] = empty.uniform_(-bound, bound, generator=generator)
        return params

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Compute the backbone's features [M, B, F] of `inputs` [M, B, C * H * W]."""
        backbone = {name.removeprefix(BACKBONE): value for name, value in params.items() if not is_head(name)}
        images = inputs.reshape(*inputs.shape[:-1], *self.shape)
        # vmap turns convolutions into grouped ones: on a CPU these are slower than one member after another.
        if len(images) == 1 or images.device.type == "cpu":
            return self.in_turn(backbone, images)
        return self.together(backbone, images)

    def separated(self, params: Params, inputs: Tensor) -> tuple[Params, Tensor]:
        """Return the backbone's parameters by the module's own names, and the images [M, B, C, H, W]."""
        backbone = {name.removeprefix(BACKBONE): value for name, value in params.items() if not is_head(name)}
        return backbone, inputs.unflatten(-1, self.shape)

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """Compute the head's outputs [M, B, C] of `features` [M, B, F]."""
        return torch.baddbmm(params[f"{HEAD}.bias"], features, params[f"{HEAD}.weight"])

    def in_turn(self, backbone: Params, images: Tensor) -> Tensor:
        """Compute the features [M, B, F] of images [M, B, C, H, W], one member after another."""
        members = zip(*(value.unbind() for value in backbone.values()), strict=True)
        return torch.stack(
            [
                self._of_one(dict(zip(backbone, m, strict=True)), x)
                for m, x in zip(members, images.unbind(), strict=True)
            ]
        )

    def together(self, backbone: Params, images: Tensor) -> Tensor:
        """Compute the features [M, B, F] of images [M, B, C, H, W] for all members at once."""
        features: Tensor = torch.vmap(self._of_one, randomness="error")(backbone, images)
        return features

    def _of_one(self, member: Params, images: Tensor) -> Tensor:
        features: Tensor = torch.func.functional_call(self.module, member, images, strict=True)
        return features


def module_network(factory: Factory, shape: Shape, outputs: int) -> ModuleNetwork:
    """Build a network on a factory's features; an empty image shows how many there are.

    Args:
        factory: Makes the backbone.
        shape: [C, H, W] of an image.
        outputs: Outputs of the head, C.
    """
    with build_seeded(0), torch.no_grad():
        module = factory(shape).train()
        width = module(torch.zeros(1, *shape)).shape[1]
    return ModuleNetwork(factory, shape, width, outputs, module)


def count_parameters(factory: Factory, shape: Shape) -> int:
    """Count the backbone's parameters; a shared parameter counts once."""
    with build_seeded(0):
        return sum(value.numel() for value in factory(shape).parameters())


@contextmanager
def build_seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the parameters of one member, then restore its state."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed the GPU's generators.
        torch.default_generator.manual_seed(derive_seed(seed, 0, 0, "parameters"))
        yield


def backbone_factory(config: NetworkConfig) -> Factory:
    """Return the factory of a configuration's backbone; the MLP has none."""
    if config.backbone == "cnn":
        return partial(cnn, hidden=config.hidden)
    factory: Factory = resnet18 if config.backbone == "resnet18" else config.backbone
    return factory
