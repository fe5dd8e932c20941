"""Every Fisher information against one plain backward pass per sample (or batch), in double precision."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from clsearch.common.seeding import derive_generator
from clsearch.config.sections import Scenario
from clsearch.methods.penalties import fisher as importance
from clsearch.methods.penalties.fisher import Fisher, draw_labels, scale_fisher
from clsearch.networks.mlp import MLP, LinearLayers, Network, Params, is_head, output_mask
from clsearch.networks.modules import module_network
from clsearch.tasks.samples import Samples
from tests.helpers import (
    CPU,
    doubled,
    everything,
    forward,
    member_of,
    network_for,
    pairs,
    random_params,
    tiny_benchmark,
)

pytestmark = pytest.mark.slow


def cnn_of_four(shape: tuple[int, int, int]) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(shape[0], 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten())


KINDS = ("empirical", "sampled", "exact", "batch")


@dataclass(frozen=True)
class Opaque:
    """An MLP that does not show its layers, so that nothing can be known of them."""

    inner: MLP

    @property
    def eval_batch_size(self) -> int:
        return self.inner.eval_batch_size

    def initial(self, seeds, device) -> Params:
        return self.inner.initial(seeds, device)

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        return self.inner.features(params, inputs)

    def logits(self, params: Params, features: Tensor) -> Tensor:
        return self.inner.logits(params, features)


@dataclass(frozen=True)
class Convolution:
    """Two filters of width 3 slid over the inputs, tanh, a linear head: weights that a sample uses more than once."""

    inputs: int
    outputs: int

    @property
    def eval_batch_size(self) -> int:
        return 100

    def initial(self, seeds, device) -> Params:
        shapes = {
            "backbone.filters": (2, 1, 3),
            "backbone.shift": (2,),
            "head.weight": (2 * (self.inputs - 2), self.outputs),
            "head.bias": (1, self.outputs),
        }
        members = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            members.append({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
        return {name: torch.stack([member[name] for member in members]).to(device) for name in shapes}

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        members = len(inputs)
        slid = torch.nn.functional.conv1d(
            inputs.transpose(0, 1),
            params["backbone.filters"].flatten(0, 1),
            params["backbone.shift"].flatten(),
            1,
            0,
            1,
            members,
        )  # [B, M * 2, D - 2]
        return slid.tanh().unflatten(1, (members, 2)).flatten(2).transpose(0, 1)

    def logits(self, params: Params, features: Tensor) -> Tensor:
        return torch.baddbmm(params["head.bias"], features, params["head.weight"])


NETWORKS = {
    "layers": lambda benchmark: network_for(benchmark, (8, 6)),
    "layers, hidden": lambda benchmark: Opaque(network_for(benchmark, (8, 6))),
    "convolution": lambda benchmark: Convolution(benchmark.inputs, benchmark.outputs),
}


def surprise(network: Network, params: Params, x: Tensor, label: int, answers: tuple[int, ...]) -> Tensor:
    """-log p(label | x) of one member over the classes `answers`."""
    stacked = {name: value[None] for name, value in params.items()}
    logits = network.logits(stacked, network.features(stacked, x[None, None]))[0, 0]
    return torch.log(sum(torch.exp(logits[c]) for c in answers)) - logits[label]


def squared(loss: Tensor, params: Params) -> Params:
    slopes = torch.autograd.grad(loss, list(params.values()))
    return {name: slope**2 for name, slope in zip(params, slopes, strict=True)}


def chosen(samples: Samples, m: int, fisher: Fisher, seed: int, task: int) -> list[int]:
    """Positions of the samples that a member's Fisher information is measured on, in their order."""
    order = torch.randperm(samples.sizes[m], generator=derive_generator(seed, task, 0, "fisher samples"))
    return order[: fisher.most].tolist()


def fisher_by_loops(
    fisher: Fisher,
    network: Network,
    params: Params,
    samples: Samples,
    answers: tuple[int, ...],
    m: int,
    seed: int,
    task: int,
) -> Params:
    """One member's, in double precision."""
    theta = doubled(member_of(params, m))
    inputs, labels = everything(samples, m)
    data = [(inputs[i].double(), int(labels[i])) for i in chosen(samples, m, fisher, seed, task)]
    total = {name: torch.zeros_like(value) for name, value in theta.items()}

    def add(weight: float | Tensor, square: Params) -> None:
        for name in total:
            total[name] = total[name] + weight * square[name]

    if fisher.kind == "batch":
        for start in range(0, len(data), fisher.batch_size):
            batch = data[start : start + fisher.batch_size]
            mean = sum(surprise(network, theta, x, y, answers) for x, y in batch) / len(batch)
            add(len(batch), squared(mean, theta))
        return {name: value / len(data) for name, value in total.items()}
    uniform = torch.rand(len(data), generator=derive_generator(seed, task, 0, "fisher labels"), dtype=torch.float64)
    for (x, y), u in zip(data, uniform.tolist(), strict=True):
        probabilities = {c: torch.exp(-surprise(network, theta, x, c, answers)).item() for c in answers}
        if fisher.kind == "empirical":
            add(1, squared(surprise(network, theta, x, y, answers), theta))
        elif fisher.kind == "sampled":  # the first class at which the probabilities add up to more than u
            passed, sums = [], 0.0
            for c in answers:
                sums += probabilities[c]
                passed += [c] if sums > u else []
            add(1, squared(surprise(network, theta, x, passed[0], answers), theta))
        else:
            for c in answers:
                add(probabilities[c], squared(surprise(network, theta, x, c, answers), theta))
    return {name: value / len(data) for name, value in total.items()}


def assert_fisher_is_a_loop(fisher, network, params, samples, answers, outputs, seeds, task) -> None:
    measured = fisher(network, params, samples, output_mask(answers, outputs, CPU), seeds, task)
    assert measured.keys() == params.keys()
    for m, seed in enumerate(seeds):
        expected = fisher_by_loops(fisher, network, params, samples, answers, m, seed, task)
        assert all(value.max() > 1e-6 for value in expected.values())
        for name, value in expected.items():
            assert measured[name].dtype == torch.float32
            torch.testing.assert_close(measured[name][m].double(), value, rtol=1e-4, atol=1e-9)


MEASURED = pairs(itertools.product(KINDS, NETWORKS), Scenario, [None, 7, 100], [(9, 9), (9, 6)])


@pytest.mark.parametrize(
    ("kind", "name", "scenario", "most", "sizes"), [(*measured, *others) for measured, *others in MEASURED]
)
def test_each_fisher_is_a_loop_over_samples_or_batches(kind, name, scenario, most, sizes):
    benchmark = tiny_benchmark(scenario, (3, 3, 3), samples=sizes)
    task, network = benchmark.tasks[1], NETWORKS[name](benchmark)
    assert isinstance(network, LinearLayers) == (name == "layers")
    params = network.initial((2, 3), CPU)
    answers = {
        Scenario.TASK: (3, 4, 5),
        Scenario.DOMAIN: (0, 1, 2),
        Scenario.CLASS: (0, 1, 2, 3, 4, 5),
    }[scenario]
    fisher = Fisher(kind, most, batch_size=4)
    assert_fisher_is_a_loop(fisher, network, params, task.train, answers, benchmark.outputs, (4, 9), 2)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(6,), (6, 4), (9, 8, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_any_depth(kind, hidden):
    benchmark = tiny_benchmark(Scenario.TASK, (4, 3, 3))
    network = network_for(benchmark, hidden)
    params = random_params(network, 2, seed=1)
    task = benchmark.tasks[1]
    assert_fisher_is_a_loop(Fisher(kind, None, 4), network, params, task.train, task.classes, 10, (0, 1), 2)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sizes", "name"), pairs(KINDS, [(17, 17), (17, 11)], ["layers", "convolution"]))
def test_samples_beyond_the_first_chunk_count_too(monkeypatch, name, kind, sizes):
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), samples=sizes)
    train, network = benchmark.tasks[0].train, NETWORKS[name](benchmark)
    params, fisher = network.initial((2, 3), CPU), Fisher(kind, None, 4)
    whole = fisher(network, params, train, None, (0, 1), 1)
    monkeypatch.setattr(importance, "CHUNK", 5)
    monkeypatch.setattr(importance, "MAX_GRADIENT_ELEMENTS", 5 * sum(value.numel() for value in params.values()))
    chunked = fisher(network, params, train, None, (0, 1), 1)
    for key, value in whole.items():
        torch.testing.assert_close(chunked[key], value, rtol=1e-5, atol=1e-9)
    assert_fisher_is_a_loop(fisher, network, params, train, (0, 1), 2, (0, 1), 1)


class Narrow(Convolution):
    """A network that can take three samples at once and no more."""

    @property
    def eval_batch_size(self) -> int:
        return 3

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        assert inputs.shape[1] <= 3
        return super().features(params, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pass_takes_more_samples_than_the_network_takes_at_once(kind):
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), samples=(11, 8))
    network, train = Narrow(benchmark.inputs, 2), benchmark.tasks[0].train
    params = network.initial((2, 3), CPU)
    found = Fisher(kind, None, 3)(network, params, train, None, (0, 1), 1)
    whole = Fisher(kind, None, 3)(Convolution(benchmark.inputs, 2), params, train, None, (0, 1), 1)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [(0, 1, 2), (1, 2), (0, 1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize("network", [MLP(12, (6, 4), 7), Convolution(12, 7), module_network(cnn_of_four, (3, 2, 2), 7)])
def test_sample_after_sample_as_on_a_cpu_and_all_in_one_as_elsewhere_are_the_same(network, answers):
    generator = torch.Generator().manual_seed(8)
    params, inputs = network.initial((2, 3), CPU), torch.rand(2, 9, 12, generator=generator)
    labels = torch.tensor(answers)[torch.randint(len(answers), (2, 9), generator=generator)]
    weights = torch.rand(2, 9, generator=generator)
    weights[1, 6:] = 0  # a member of another size
    mask = output_mask(answers, 7, CPU)
    turn, together = (
        squares(network, params, inputs, labels, weights, mask)
        for squares in (importance._squares_in_turn, importance._squares_together)
    )
    assert turn.keys() == together.keys() == params.keys()
    for name, value in turn.items():
        assert value.max() > 1e-6
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_more_samples_than_a_chunk_holds():
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), members=1, samples=1100, inputs=3)
    train, network = benchmark.tasks[0].train, network_for(benchmark, (2,))
    params = random_params(network, 1, seed=2)
    assert_fisher_is_a_loop(Fisher("empirical", None, 4), network, params, train, (0, 1), 2, (0,), 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("most", [None, 4])
def test_batches_of_one_are_the_empirical_fisher(name, most):
    benchmark = tiny_benchmark(Scenario.CLASS, (4, 3, 3), samples=(9, 5))
    network, mask = NETWORKS[name](benchmark), output_mask(benchmark.seen(2), 10, CPU)
    params, train = network.initial((1, 2), CPU), benchmark.tasks[1].train
    single, empirical = (
        Fisher(kind, most, 1)(network, params, train, mask, (0, 1), 2) for kind in ("batch", "empirical")
    )
    for key, value in empirical.items():
        torch.testing.assert_close(single[key], value, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_the_batch_fisher_is_about_one_over_the_batch_size_of_the_empirical():
    """Where gradients of samples are independent with mean 0: at labels drawn from the model itself."""
    benchmark = tiny_benchmark(Scenario.DOMAIN, (3, 3), members=1, samples=4000, inputs=3)
    train, network = benchmark.tasks[0].train, network_for(benchmark, (3,))
    params = {name: torch.zeros_like(value) for name, value in random_params(network, 1, 1).items()}
    labels = train.take(torch.arange(4000)[None])[1][0]
    params["head.bias"] = labels.bincount(minlength=3).float().log()[None, None]  # the labels' own frequencies
    empirical, batch = (
        Fisher(kind, None, 8)(network, params, train, None, (0,), 1)["head.bias"] for kind in ("empirical", "batch")
    )
    torch.testing.assert_close(batch * 8, empirical, rtol=0.25, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [None, 5])
def test_a_members_fisher_does_not_depend_on_the_others_or_their_sizes(kind, most):
    sizes, seeds = (6, 9, 4), (5, 0, 12)
    benchmark = tiny_benchmark(Scenario.TASK, (4, 3, 3), members=3, samples=sizes)
    network, task = network_for(benchmark), benchmark.tasks[1]
    params, mask = random_params(network, 3, 1), output_mask(task.classes, 10, CPU)
    fisher = Fisher(kind, most, 4)
    together = fisher(network, params, task.train, mask, seeds, 2)
    for m, n in enumerate(sizes):
        own = replace(
            task.train, rows=task.train.rows[m : m + 1, :n], sizes=(n,), outputs=task.train.outputs[m : m + 1]
        )
        alone = fisher(network, {k: v[m : m + 1] for k, v in params.items()}, own, mask, seeds[m : m + 1], 2)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][m], value[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cap_takes_samples_that_depend_on_seed_and_task_and_repeats_itself(kind):
    benchmark = tiny_benchmark(Scenario.DOMAIN, (3, 3), members=1, samples=30)
    network, train = network_for(benchmark), benchmark.tasks[0].train
    params = random_params(network, 1, 1)

    def trace(most: int | None, seed: int, task: int) -> float:
        return sum(
            value.sum().item() for value in Fisher(kind, most, 4)(network, params, train, None, (seed,), task).values()
        )

    assert trace(5, 0, 1) == trace(5, 0, 1)
    assert len({trace(5, seed, task) for seed in (0, 1) for task in (1, 2)}) == 4
    assert trace(30, 0, 1) == trace(None, 0, 1) == trace(1000, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_that_may_not_be_answered_have_no_importance_at_all(kind, name):
    benchmark = tiny_benchmark(Scenario.CLASS, (4, 3, 3))
    network = NETWORKS[name](benchmark)
    mask = output_mask(benchmark.seen(2), 10, CPU)
    fisher = Fisher(kind, None, 4)(network, network.initial((3, 4), CPU), benchmark.tasks[1].train, mask, (0, 1), 2)
    for key in ("head.weight", "head.bias"):
        assert (fisher[key][..., 7:] == 0).all()
        assert (fisher[key][..., :7].amax((0, 1)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_measuring_changes_nothing_in_the_model(kind, name):
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2))
    network = NETWORKS[name](benchmark)
    params = network.initial((4, 5), CPU)
    before = {key: value.clone() for key, value in params.items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    fisher = Fisher(kind, None, 4)(network, params, benchmark.tasks[0].train, None, (0, 1), 1)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in params.items():
        assert torch.equal(value, before[key])
        assert not value.requires_grad
        assert not fisher[key].requires_grad
        assert (fisher[key] >= 0).all()


# --- labels drawn from the model ---


def test_drawn_labels_have_the_probabilities_they_are_drawn_from():
    probabilities = torch.tensor([0.1, 0.0, 0.45, 0.25, 0.2, 0.0])
    uniform = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = draw_labels(probabilities.expand(1, 200_000, -1), uniform)
    found = labels.flatten().bincount(minlength=6) / 200_000
    # Four standard deviations of the most spread of them.
    assert ((found - probabilities).abs() < 4 * (0.25 / 200_000) ** 0.5).all()
    assert found[1] == found[5] == 0


@pytest.mark.parametrize(
    "probabilities", [(0.0, 0.5, 0.5, 0.0), (0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.1, 0.0, 0.9)]
)
@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.1, 0.5, 1 - 2**-53])
def test_no_output_of_probability_zero_is_ever_drawn(probabilities, uniform):
    p = torch.tensor([[probabilities]])
    label = draw_labels(p, torch.tensor([[uniform]], dtype=torch.float64)).item()
    assert p[0, 0, label] > 0


def test_no_output_of_probability_zero_is_drawn_at_the_edges_of_rounded_sums():
    generator = torch.Generator().manual_seed(2)
    logits = 8 * torch.randn(3, 5000, 12, generator=generator)
    logits[..., [0, 5, 11]] = -torch.inf
    p = logits.softmax(-1)
    for edge in (0.0, 1 - 2**-53):
        labels = draw_labels(p, torch.full((3, 5000), edge, dtype=torch.float64))
        assert labels.min() > 0
        assert labels.max() < 11
        assert (p.gather(-1, labels[..., None]) > 0).all()


@pytest.mark.parametrize("name", ["layers", "convolution"])
def test_the_sampled_fisher_is_the_exact_one_on_average(name):
    members = 1500
    benchmark = tiny_benchmark(Scenario.TASK, (4, 3, 3), members=1)
    network = NETWORKS[name](benchmark)
    one = {key: 2 * value for key, value in network.initial((6,), CPU).items()}
    params = {key: value.expand(members, *value.shape[1:]).contiguous() for key, value in one.items()}
    task = benchmark.tasks[1]
    many = replace(
        task.train,
        rows=task.train.rows.expand(members, -1),
        sizes=(9,) * members,
        outputs=task.train.outputs.expand(members, -1),
    )
    mask = output_mask(task.classes, 10, CPU)
    sampled = Fisher("sampled", None, 4)(network, params, many, mask, tuple(range(members)), 2)
    exact = Fisher("exact", None, 4)(network, one, task.train, mask, (0,), 2)
    empirical = Fisher("empirical", None, 4)(network, one, task.train, mask, (0,), 2)

    def error(found: Params) -> float:
        """Of the mean over members, relative to the exact one."""
        missed = sum((found[key].mean(0) - value[0]).square().sum() for key, value in exact.items())
        return (missed / sum(value.square().sum() for value in exact.values())).sqrt().item()

    assert error(sampled) < 0.05
    assert error(empirical) > 0.15  # the true labels' is another


def test_the_exact_fisher_of_a_linear_classifier_is_the_known_formula():
    """E_y[(p_c - 1[y = c])²] x² = p_c (1 - p_c) x² for the weights of class c."""
    benchmark = tiny_benchmark(Scenario.DOMAIN, (3, 3), members=1)
    network, train = network_for(benchmark, (4,)), benchmark.tasks[0].train
    params = random_params(network, 1, 5)
    fisher = Fisher("exact", None, 4)(network, params, train, None, (0,), 1)
    inputs, _ = everything(train, 0)
    p = forward(member_of(params, 0), inputs).softmax(-1)
    features = network.features(params, inputs[None])[0]
    torch.testing.assert_close(fisher["head.bias"][0, 0], (p * (1 - p)).mean(0))
    expected = (features.square().T @ (p * (1 - p))) / len(inputs)
    torch.testing.assert_close(fisher["head.weight"][0], expected)


# --- scale ---


def some_fisher() -> Params:
    generator = torch.Generator().manual_seed(3)
    shapes = {"backbone.0.weight": (4, 3), "backbone.0.bias": (1, 3), "head.weight": (3, 2), "head.bias": (1, 2)}
    return {name: torch.rand(2, *shape, generator=generator) for name, shape in shapes.items()}


def test_no_scale_leaves_the_fisher_as_it_is():
    fisher = some_fisher()
    assert all(torch.equal(value, fisher[name]) for name, value in scale_fisher(fisher, "none").items())


@pytest.mark.parametrize("head", [True, False])
def test_per_parameter_divides_by_the_number_of_backbone_parameters(head):
    fisher = {name: value for name, value in some_fisher().items() if head or not is_head(name)}
    found = scale_fisher(fisher, "per_parameter")
    assert found.keys() == fisher.keys()
    for name, value in fisher.items():
        torch.testing.assert_close(found[name], value / 15)


@pytest.mark.parametrize("head", [True, False])
def test_unit_trace_sums_to_one_for_each_member_and_keeps_proportions(head):
    fisher = {name: value for name, value in some_fisher().items() if head or not is_head(name)}
    fisher = {name: value * torch.tensor([1e-6, 3.0]).view(2, 1, 1) for name, value in fisher.items()}
    found = scale_fisher(fisher, "unit_trace")
    torch.testing.assert_close(sum(value.flatten(1).sum(1) for value in found.values()), torch.ones(2))
    for m in range(2):
        total = sum(value[m].sum() for value in fisher.values())
        for name, value in fisher.items():
            torch.testing.assert_close(found[name][m], value[m] / total)


@pytest.mark.parametrize("how", ["none", "per_parameter", "unit_trace"])
def test_a_fisher_of_nothing_stays_nothing_and_does_not_touch_another_members(how):
    fisher = some_fisher()
    expected = {name: value[1:].clone() for name, value in scale_fisher(fisher, how).items()}
    for value in fisher.values():
        value[0] = 0
    found = scale_fisher(fisher, how)
    for name, value in found.items():
        assert (value[0] == 0).all()
        assert torch.equal(value[1:], expected[name])


def test_a_model_that_is_sure_of_its_labels_has_no_importance_and_the_penalty_stays_finite():
    benchmark = tiny_benchmark(Scenario.DOMAIN, (2, 2), members=1)
    network = network_for(benchmark)
    params = {name: torch.zeros_like(value) for name, value in random_params(network, 1, 1).items()}
    params["head.bias"] = torch.tensor([[[0.0, 1e4]]])
    train = benchmark.tasks[0].train
    for kind in ("sampled", "exact"):
        fisher = Fisher(kind, None, 4)(network, params, train, None, (0,), 1)
        found = scale_fisher(fisher, "unit_trace")
        assert all((value == 0).all() for value in found.values())
