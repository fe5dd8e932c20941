"""Stacked modules against the modules themselves, built and called by torch."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clsearch.common.seeding import derive_generator, derive_seed
from clsearch.config.sections import Scenario
from clsearch.methods.penalties.fisher import Fisher
from clsearch.networks.mlp import LinearLayers, Params, trainable_copy
from clsearch.networks.modules import (
    Factory,
    ModuleNetwork,
    Shape,
    cnn,
    count_parameters,
    module_network,
    resnet18,
)
from clsearch.networks.validation import find_problems, find_stacking_problems
from tests.helpers import CPU, doubled, everything, in_double, member_of, tiny_benchmark

GREY, COLOUR = (1, 8, 8), (3, 8, 8)
OUTPUTS = 5
small_cnn = partial(cnn, hidden=(6,))


class Tied(nn.Module):
    """One weight that is used twice, under two names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inputs = math.prod(shape)
        self.first, self.second = nn.Linear(inputs, inputs), nn.Linear(inputs, inputs)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)).tanh())


class Residual(nn.Module):
    """What ResNet-18 consists of, with a thousandth of its parameters: strides, normalization by groups, shortcuts."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 8, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, 8)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.GroupNorm(4, 16))
        self.shortcut = nn.Conv2d(8, 16, 1, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.stem(images)).relu()
        return (self.block(features) + self.shortcut(features)).relu().mean((2, 3))


FACTORIES: dict[str, tuple[Factory, Shape]] = {
    "cnn": (small_cnn, GREY),
    "cnn, no linear layer": (partial(cnn, hidden=()), COLOUR),
    "residual": (Residual, GREY),
    "tied": (Tied, (1, 3, 2)),
}
every_factory = pytest.mark.parametrize(("factory", "shape"), FACTORIES.values(), ids=FACTORIES)


def images_of(shape: Shape, members: int, batch: int) -> Tensor:
    """[M, B, C, H, W] in [0, 1]."""
    return torch.rand(members, batch, *shape, generator=torch.Generator().manual_seed(0))


def labels_of(members: int, batch: int) -> Tensor:
    return torch.randint(0, OUTPUTS, (members, batch), generator=torch.Generator().manual_seed(1))


def seeded_module(factory: Factory, shape: Shape, seed: int) -> nn.Module:
    """The module of a seed, as anybody would make it."""
    state = torch.get_rng_state()
    torch.manual_seed(derive_seed(seed, 0, 0, "parameters"))
    module = factory(shape)
    torch.set_rng_state(state)
    return module


def head_of(params: Params, m: int) -> nn.Linear:
    weight, bias = params["head.weight"][m], params["head.bias"][m]
    head = nn.Linear(*weight.shape, dtype=weight.dtype)
    head.load_state_dict({"weight": weight.T, "bias": bias[0]})
    return head


def backbone_of(factory: Factory, shape: Shape, params: Params, m: int) -> nn.Module:
    """A member's parameters in a module of their own, of their precision."""
    module = factory(shape).to(params["head.bias"].dtype)
    own = {name.removeprefix("backbone."): value for name, value in member_of(params, m).items() if "head" not in name}
    missing = module.load_state_dict(own, strict=False).missing_keys
    assert set(missing) <= {"second.weight"}  # tied
    return module


def gradients_of(factory: Factory, shape: Shape, params: Params, m: int, images: Tensor, labels: Tensor) -> Params:
    """A member's gradients of the mean loss, by autograd through a module of its own."""
    module, head = backbone_of(factory, shape, params, m), head_of(params, m)
    cross_entropy(head(module(images)), labels).backward()
    own = {f"backbone.{name}": value.grad for name, value in module.named_parameters()}
    return own | {"head.weight": head.weight.grad.T, "head.bias": head.bias.grad[None]}


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding, which differs between the ways to convolve. Gradients are compared in double precision:
    in single precision a rounded 0 may lie on the other side of a ReLU.
    """
    near = 1e-9 if expected.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=near * expected.abs().max().item() + 1e-12)


# --- parameters ---


@pytest.mark.slow
@every_factory
def test_a_members_parameters_are_the_modules_that_its_seed_makes(factory, shape):
    params = module_network(factory, shape, OUTPUTS).initial((3, 7), CPU)
    for m, seed in enumerate((3, 7)):
        expected = {f"backbone.{n}": value for n, value in seeded_module(factory, shape, seed).named_parameters()}
        assert [name for name in params if not name.startswith("head.")] == list(expected)
        for name, value in expected.items():
            assert torch.equal(params[name][m], value)


@pytest.mark.slow
@every_factory
def test_a_members_initial_parameters_do_not_depend_on_the_others(factory, shape):
    network = module_network(factory, shape, OUTPUTS)
    together, alone = network.initial((4, 8, 15), CPU), network.initial((8,), CPU)
    for name, value in together.items():
        assert torch.equal(value[1:2], alone[name])
        assert not value.requires_grad
    assert any(not torch.equal(value[0], value[1]) for value in together.values())


@pytest.mark.slow
@pytest.mark.parametrize("factory", [small_cnn, Residual])
def test_torchs_global_generator_is_left_alone_and_not_followed(factory):
    torch.manual_seed(0)
    first = module_network(factory, GREY, OUTPUTS).initial((1,), CPU)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = module_network(factory, GREY, OUTPUTS).initial((1,), CPU)
    count_parameters(factory, GREY)
    find_problems(factory, GREY)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_torchs_global_generator_is_left_alone_by_a_factory_that_fails():
    draws_left = [2]

    def failing(shape: Shape) -> nn.Module:
        torch.rand(3)
        draws_left[0] -= 1
        if draws_left[0] < 1:
            raise RuntimeError("no more")
        return small_cnn(shape)

    before = torch.get_rng_state()
    network = module_network(failing, GREY, OUTPUTS)
    with pytest.raises(RuntimeError, match="no more"):
        network.initial((1,), CPU)
    with pytest.raises(RuntimeError, match="no more"):
        module_network(failing, GREY, OUTPUTS)
    assert find_problems(failing, GREY)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_and_shapes_are_the_documented_ones():
    params = module_network(small_cnn, (3, 8, 12), OUTPUTS).initial((0, 1), CPU)
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        "backbone.0.weight": (2, 32, 3, 3, 3),
        "backbone.0.bias": (2, 32),
        "backbone.3.weight": (2, 64, 32, 3, 3),
        "backbone.3.bias": (2, 64),
        "backbone.7.weight": (2, 6, 64 * 2 * 3),
        "backbone.7.bias": (2, 6),
        "head.weight": (2, 6, OUTPUTS),
        "head.bias": (2, 1, OUTPUTS),
    }


def test_the_head_is_uniform_in_the_range_of_torchs_linear_layers_and_drawn_by_itself():
    params = module_network(partial(cnn, hidden=(100,)), GREY, 40).initial(range(20), CPU)
    for name in ("head.weight", "head.bias"):
        value = params[name]
        assert value.abs().max() <= 0.1
        assert value.abs().max() > 0.095
        assert value.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    drawn = torch.rand(100, 40, generator=derive_generator(3, 0, 0, "head"))
    torch.testing.assert_close(params["head.weight"][3], 0.2 * drawn - 0.1)


def test_parameters_are_counted_by_hand():
    convolutions = (9 * 3 + 1) * 32 + (9 * 32 + 1) * 64
    assert count_parameters(partial(cnn, hidden=()), (3, 9, 7)) == convolutions
    assert count_parameters(partial(cnn, hidden=(10, 6)), (3, 9, 7)) == convolutions + (128 + 1) * 10 + (10 + 1) * 6
    assert count_parameters(Tied, (1, 3, 2)) == 36 + 6 + 6


@pytest.mark.parametrize(("shape", "stem"), [((3, 32, 32), 9 * 3 * 64), ((1, 96, 96), 49 * 64)])
def test_resnet18_has_the_parameters_of_the_paper_but_for_stem_and_head(shape, stem):
    published = 11_689_512  # torchvision's count, with a 7x7 stem on three channels and 1000 classes
    assert count_parameters(resnet18, shape) == published - (512 + 1) * 1000 - 49 * 3 * 64 + stem


# --- forward ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "shape", "members"),
    [(*made, members) for made in FACTORIES.values() for members in (1, 3)] + [(resnet18, GREY, 2)],
)
def test_each_members_features_and_logits_are_those_of_its_own_module(factory, shape, members):
    network = module_network(factory, shape, OUTPUTS)
    params, images = network.initial(range(members), CPU), images_of(shape, members, 4)
    features = network.features(params, images.flatten(2))
    logits = network.logits(params, features)
    assert features.shape == (members, 4, network.width)
    assert logits.shape == (members, 4, OUTPUTS)
    for m in range(members):
        expected = backbone_of(factory, shape, params, m)(images[m])
        assert_near(features[m], expected)
        assert_near(logits[m], head_of(params, m)(expected))


@pytest.mark.slow
@every_factory
def test_members_in_one_give_what_members_in_turn_give(factory, shape):
    network = module_network(factory, shape, OUTPUTS)
    params, images = doubled(network.initial((0, 1), CPU)), images_of(shape, 2, 3).double()
    own = {name.removeprefix("backbone."): value for name, value in params.items() if "head" not in name}
    in_turn, together = network.in_turn(own, images), network.together(own, images)
    assert_near(together, in_turn)
    first, second = (torch.autograd.grad(found.square().sum(), list(own.values())) for found in (in_turn, together))
    for expected, found in zip(first, second, strict=True):
        assert_near(found, expected)


@pytest.mark.slow
@every_factory
def test_a_members_features_do_not_depend_on_the_others(factory, shape):
    network = module_network(factory, shape, OUTPUTS)
    params, inputs = network.initial((0, 1, 2), CPU), images_of(shape, 3, 2).flatten(2)
    before = network.features(params, inputs)
    params = {name: torch.cat([value[:1] + 1, value[1:]]) for name, value in params.items()}
    inputs[2] = 0
    after = network.features(params, inputs)
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[2], after[2])


def test_a_module_made_elsewhere_is_not_changed_by_what_is_run_through_it():
    network = module_network(small_cnn, GREY, OUTPUTS)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    params, inputs = trainable_copy(network.initial((5,), CPU)), images_of(GREY, 1, 2).flatten(2)
    network.features(params, inputs).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert all(value.grad is None for value in network.module.parameters())


def test_a_parameter_that_is_left_out_is_an_error_and_not_the_modules_own():
    network = module_network(small_cnn, GREY, OUTPUTS)
    params = network.initial((0,), CPU)
    del params["backbone.3.bias"]
    with pytest.raises(RuntimeError, match=r"3\.bias"):
        network.features(params, images_of(GREY, 1, 2).flatten(2))


def test_a_factory_that_always_returns_the_same_module_keeps_that_modules_parameters():
    module = small_cnn(GREY)
    network = module_network(lambda shape: module, GREY, OUTPUTS)
    params = network.initial((0, 1), CPU)
    network.features(trainable_copy(params), images_of(GREY, 2, 2).flatten(2)).sum().backward()
    for name, value in module.named_parameters():
        assert torch.equal(params[f"backbone.{name}"], torch.stack([value, value]))


def test_a_network_of_modules_shows_no_layers():
    assert not isinstance(module_network(small_cnn, GREY, OUTPUTS), LinearLayers)


@pytest.mark.parametrize(("side", "samples"), [(8, 1024), (32, 1024), (64, 256), (100, 104), (400, 16)])
def test_a_pass_holds_2_to_the_20_pixels_but_16_to_1024_samples(side, samples):
    assert ModuleNetwork(small_cnn, (3, side, side), 6, OUTPUTS, nn.Identity()).eval_batch_size == samples


# --- gradients ---


@pytest.mark.slow
@every_factory
def test_the_gradient_of_the_sum_of_losses_is_each_members_own(factory, shape):
    network = module_network(factory, shape, OUTPUTS)
    params, images, labels = doubled(network.initial((0, 1), CPU)), images_of(shape, 2, 4).double(), labels_of(2, 4)
    logits = network.logits(params, network.features(params, images.flatten(2)))
    sum(cross_entropy(logits[m], labels[m]) for m in range(2)).backward()
    for m in range(2):
        expected = gradients_of(factory, shape, params, m, images[m], labels[m])
        assert expected.keys() == params.keys()
        for name, value in expected.items():
            assert_near(params[name].grad[m], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "shape", "samples"), [(small_cnn, (2, 5, 4), 9), (Tied, (1, 3, 2), 9), (Residual, (1, 4, 4), 3)]
)
def test_the_fisher_information_is_a_loop_over_samples(factory, shape, samples):
    benchmark = in_double(tiny_benchmark(Scenario.CLASS, (3, 2), samples=samples, inputs=math.prod(shape)))
    network, train = module_network(factory, shape, OUTPUTS), benchmark.tasks[0].train
    params = doubled(network.initial((4, 5), CPU))
    found = Fisher("empirical", None, 8)(network, params, train, None, (0, 1), 1)
    for m in range(2):
        inputs, labels = everything(train, m)
        total = {name: torch.zeros_like(value[m]) for name, value in params.items()}
        for x, y in zip(inputs, labels, strict=True):
            slopes = gradients_of(factory, shape, params, m, x.view(1, *shape), y[None])
            total = {name: value + slopes[name].square() for name, value in total.items()}
        for name, value in total.items():
            assert_near(found[name][m], value / len(labels))


def test_a_tied_weight_is_one_parameter_and_trains_as_one():
    shape = (1, 3, 2)
    network = module_network(Tied, shape, OUTPUTS)
    params, images, labels = network.initial((0, 1), CPU), images_of(shape, 2, 6), labels_of(2, 6)
    assert [name for name in params if "second" in name] == ["backbone.second.bias"]
    modules = [nn.Sequential(backbone_of(Tied, shape, params, m), head_of(params, m)) for m in range(2)]
    for _ in range(5):
        params = trainable_copy(params)
        logits = network.logits(params, network.features(params, images.flatten(2)))
        sum(cross_entropy(logits[m], labels[m]) for m in range(2)).backward()
        params = {name: value.detach() - 0.5 * value.grad for name, value in params.items()}
        for m, module in enumerate(modules):
            optimizer = torch.optim.SGD(module.parameters(), 0.5)
            optimizer.zero_grad()
            cross_entropy(module(images[m]), labels[m]).backward()
            optimizer.step()
    for m, module in enumerate(modules):
        torch.testing.assert_close(params["backbone.first.weight"][m], module[0].first.weight.detach())
        assert module[0].second.weight is module[0].first.weight


# --- the two backbones ---


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9), (1, 28, 28)])
def test_a_cnn_is_two_convolutions_with_pooling_and_linear_layers(shape):
    module = cnn(shape, (12, 7))
    first, second, wide, narrow = [layer for layer in module if list(layer.parameters())]
    values = images_of(shape, 1, 3)[0]
    for layer in (first, second):
        values = nn.functional.conv2d(values, layer.weight, layer.bias, padding=1).relu()
        values = nn.functional.max_pool2d(values, 2)
    values = values.flatten(1)
    for layer in (wide, narrow):
        values = (values @ layer.weight.T + layer.bias).relu()
    assert (first.out_channels, second.out_channels, *values.shape) == (32, 64, 3, 7)
    torch.testing.assert_close(module(images_of(shape, 1, 3)[0]), values)
    assert module_network(partial(cnn, hidden=()), shape, 2).width == 64 * (shape[1] // 4) * (shape[2] // 4)


@pytest.mark.parametrize("shape", [(1, 3, 8), (3, 8, 3)])
def test_a_cnn_of_images_below_4x4_is_refused(shape):
    with pytest.raises(ValueError, match="at least 4x4"):
        cnn(shape, ())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride"),
    [(8, 8, 3, 1), (32, 32, 3, 1), (64, 40, 3, 1), (40, 65, 7, 2), (96, 96, 7, 2)],
)
def test_resnet18_reads_small_images_at_full_resolution(channels, height, width, kernel, stride):
    module = resnet18((channels, height, width))
    stem = module.conv1
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (channels, (kernel, kernel), (stride, stride))
    assert isinstance(module.maxpool, nn.MaxPool2d if kernel == 7 else nn.Identity)
    with torch.no_grad():
        images = torch.zeros(1, channels, height, width)
        seen = module.maxpool(module.conv1(images))
        assert seen.shape[2:] == ((height, width) if kernel == 3 else (-(-height // 4), -(-width // 4)))
        assert module(images).shape == (1, 512)
    # He et al. 2015: deviation sqrt(2 / fan out).
    assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * kernel**2)), rel=0.1)


def test_resnet18_normalises_by_groups_and_keeps_no_buffers():
    module = resnet18(COLOUR)
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
    assert len(norms) == 20
    assert {norm.num_groups for norm in norms} == {32}
    assert not [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert not list(module.buffers())


# --- factories that cannot be used ---


class Flat(nn.Module):
    """A linear layer on the pixels, then what a test says."""

    def __init__(self, shape: Shape, then=lambda values: values) -> None:
        super().__init__()
        self.linear, self.then = nn.Linear(math.prod(shape), 6), then

    def forward(self, images: Tensor) -> Tensor:
        return self.then(self.linear(images.flatten(1)))


def after(then) -> Factory:
    return partial(Flat, then=then)


def raising(shape: Shape) -> nn.Module:
    raise KeyError("width\nof a layer")


def many_buffers(shape: Shape) -> nn.Module:
    module = Flat(shape)
    for i in range(13):
        module.register_buffer(f"b{i}", torch.zeros(1))
    return module


def frozen(shape: Shape) -> nn.Module:
    module = Flat(shape)
    module.linear.bias.requires_grad_(False)
    return module


def with_integers(shape: Shape) -> nn.Module:
    module = Flat(shape)
    module.steps = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    return module


FACTORIES_OF_USERS: dict[str, tuple[Factory, str, str]] = {
    "raises": (raising, "must be made by its factory", "KeyError: 'width\\nof a layer'"),
    "raises in a cnn": (lambda shape: cnn((1, 2, 2), ()), "must be made", "ValueError: cnn: images must be at least"),
    "returns nothing": (lambda shape: None, "must return a torch.nn.Module", "NoneType"),
    "returns a class": (lambda shape: nn.Flatten, "must return a torch.nn.Module", "Flatten, a class"),
    "batch norm": (
        lambda shape: nn.Sequential(Flat(shape), nn.BatchNorm1d(6)),
        "must have no buffers",
        "1.running_mean, 1.running_var, 1.num_batches_tracked",
    ),
    "buffers": (many_buffers, "GroupNorm", "b0, b1, b2, b3, b4, b5, b6, b7, b8, b9 and 3 more"),
    "no parameters": (lambda shape: nn.Flatten(), "must have parameters", "none"),
    "integers": (with_integers, "of floating point", "steps"),
    "frozen": (frozen, "requires_grad", "linear.bias"),
    "lazy": (lambda shape: nn.Sequential(nn.Flatten(), nn.LazyLinear(6)), "from the start", "1.weight, 1.bias"),
    "rank 3": (after(lambda values: values[:, None]), "features [2, F]", "[2, 1, 6]"),
    "rank 1": (after(lambda values: values.sum(1)), "features [2, F]", "[2]"),
    "other batch": (after(lambda values: values.repeat(2, 1)), "features [2, F]", "[4, 6]"),
    "no features": (after(lambda values: values[:, :0]), "features [2, F]", "[2, 0]"),
    "a pair": (after(lambda values: (values, values)), "features [2, F]", "tuple"),
    "other precision": (after(lambda values: values.double()), "of their precision", "torch.float64"),
    "forward raises": (after(lambda values: values @ values), "must map images", "RuntimeError: "),
    "nan": (after(lambda values: values / 0 - values / 0), "finite features", "NaN or infinity"),
    "infinity": (after(lambda values: values / 0), "finite features", "NaN or infinity"),
    "dropout": (after(nn.Dropout(0.01)), "same features in every call", "drawn from torch's global generator"),
    "a generator": (
        after(partial(lambda g, v: v + torch.rand(6, generator=g), torch.Generator().manual_seed(0))),
        "same features in every call",
        "different features in the second call",
    ),
    "batch norm without statistics": (
        lambda shape: nn.Sequential(Flat(shape), nn.BatchNorm1d(6, track_running_stats=False)),
        "must treat each image by itself",
        "of one image alone, ValueError: Expected more than 1 value per channel",
    ),
    "2d batch norm without statistics": (
        lambda shape: nn.Sequential(nn.BatchNorm2d(shape[0], track_running_stats=False), Flat(shape)),
        "must treat each image by itself",
        "of the largest from those of the image alone",
    ),
    "batch mean": (after(lambda v: v - v.mean(0)), "must treat each image by itself", "% of the largest from"),
    "squeezed": (after(lambda values: values.squeeze()), "by itself", "of one image alone, [6]"),
    "as wide as the batch": (after(lambda v: v[:, : len(v)]), "by itself", "2 features in a batch of two and 1 alone"),
}


@pytest.mark.parametrize(("factory", "rule", "got"), FACTORIES_OF_USERS.values(), ids=FACTORIES_OF_USERS)
def test_a_factory_that_cannot_be_used_is_told_the_rule_and_then_what_it_gave(factory, rule, got):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (problem,) = find_problems(factory, COLOUR)
    told, _, found = problem.partition("; got")
    assert told.startswith("backbone: ")
    assert rule in told
    assert got in found
    assert "\n" not in problem
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_and_parameters_that_do_not_fit_are_told_together():
    def both(shape: Shape) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape), affine=False))

    first, second = find_problems(both, GREY)
    assert "must have no buffers" in first
    assert "must have parameters" in second


def in_evaluation(shape: Shape) -> nn.Module:
    """A module that would leave out no feature as long as it is not trained."""
    return nn.Sequential(Flat(shape), nn.Dropout()).eval()


def test_a_module_is_judged_and_run_in_training_mode():
    assert "same features" in find_problems(in_evaluation, GREY)[0]
    assert module_network(in_evaluation, GREY, OUTPUTS).module.training


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory",
    [
        Flat,
        Tied,
        small_cnn,
        resnet18,
        after(nn.Dropout(0.0)),
        after(nn.LayerNorm(6)),
        after(lambda values: 0 * values),
        lambda shape: nn.Sequential(nn.GroupNorm(1, shape[0]), nn.InstanceNorm2d(shape[0]), Flat(shape)),
    ],
)
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_a_factory_that_can_be_used_has_no_problems(factory, shape):
    assert find_problems(factory, shape) == []


class Branching(nn.Module):
    """Asks what is in its images."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) if images.max() > 2 else self.layer(images.flatten(1)) / 2


class Centred(Branching):
    """Keeps a tensor that is neither parameter nor buffer, in a part of itself."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.layer.mean = torch.tensor(0.5)


@pytest.mark.slow
def test_what_cannot_run_for_all_seeds_at_once_is_refused_where_it_must():
    assert find_problems(Branching, GREY) == []  # one seed after the other, as on a CPU, it can
    (problem,) = find_stacking_problems(module_network(Branching, GREY, 2), CPU)
    assert problem.startswith("backbone: must run for all seeds at once, by torch.vmap")
    assert "control flow" in problem
    for factory in (small_cnn, resnet18, Tied):
        assert find_stacking_problems(module_network(factory, GREY, 2), CPU) == []


def test_tensors_beside_the_parameters_are_named():
    (problem,) = find_problems(Centred, GREY)
    assert "must have no tensor attributes except its parameters" in problem
    assert problem.endswith("got layer.mean")


def test_a_factory_makes_a_new_module_at_each_call():
    module = small_cnn(GREY)
    (problem,) = find_problems(lambda shape: module, GREY)
    assert problem.startswith("backbone: its factory must make a new module at each call")
