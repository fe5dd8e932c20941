"""Ranges, grids, and the spaces that are refused."""

import itertools
import math

import pytest
import torch

from clsearch.common.errors import ConfigError
from clsearch.config.domains import Choice, IntRange, LogRange, Range
from clsearch.config.sections import COMMON_SECTIONS
from clsearch.config.space_parts import When
from clsearch.config.spaces import SearchSpace
from clsearch.methods.ewc import count_backbone_parameters, relative_fisher
from clsearch.methods.registry import BUILT_IN, configure, default_space, fields_of, searchable
from clsearch.networks.mlp import is_head
from clsearch.planning.spaces import SPACES, read_written_space
from clsearch.planning.spaces import check_space as check_read_space
from clsearch.study import Study
from clsearch.training.loop import learn_task
from clsearch.training.trial_setup import build_trial
from tests.helpers import pairs
from tests.refusals import broken

EPOCHS = {"epochs": 1}


def check_space(algorithm, written, settings):
    """Read a space and check it, as a plan does."""
    space, fixed = read_written_space(algorithm, written)
    check_read_space(algorithm, space, settings | fixed)


def grid(written, n):
    return SearchSpace.of(written).grid(n)


def test_points_of_a_linear_range_have_equal_steps():
    assert Range(1, 3).points(5) == pytest.approx([1, 1.5, 2, 2.5, 3])


def test_points_of_a_log_range_have_equal_ratios():
    assert LogRange(0.1, 1000).points(5) == pytest.approx([0.1, 1, 10, 100, 1000])


@pytest.mark.parametrize("values", [Range(0.1, 0.7), LogRange(0.05, 50), LogRange(1e-3, 1e3), LogRange(1e-300, 1e300)])
@pytest.mark.parametrize("n", [2, 3, 10, 49])
def test_points_hold_both_ends_exactly_and_increase(values, n):
    points = values.points(n)
    assert len(points) == n
    assert (points[0], points[-1]) == (values.low, values.high)
    assert all(a < b for a, b in itertools.pairwise(points))


def test_log_range_is_a_range_whose_scale_is_log():
    assert LogRange(1, 2) == Range(1, 2, log=True)
    assert LogRange(1, 2) != Range(1, 2)


def test_grid_is_every_combination_once():
    points = list(grid({"a": Range(0, 1), "b": LogRange(1, 100)}, 3))
    assert len(points) == 9
    found = {(round(p["a"], 9), round(p["b"], 9)) for p in points}
    assert found == {(a, b) for a in (0, 0.5, 1) for b in (1, 10, 100)}
    assert all(list(p) == ["a", "b"] for p in points)


def test_grid_of_three_dimensions_has_the_cube_of_its_points():
    points = list(grid({name: Range(0, 1) for name in "abc"}, 4))
    assert len({tuple(p.values()) for p in points}) == len(points) == 64


def test_searchable_are_the_learning_rate_and_the_numbers_of_the_methods():
    assert {name: "log" if mark.range.log else "linear" for name, mark in searchable().items()} == {
        "learning_rate": "log",
        "distillation_factor": "log",
        "distillation_temperature": "log",
        "penalty_factor": "log",
        "penalty_p_norm": "linear",
    }


@pytest.mark.parametrize("algorithm", SPACES)
def test_rows_of_spaces_are_valid_and_of_the_scale_of_their_field(algorithm):
    space = SPACES[algorithm]
    check_space(algorithm, space, EPOCHS)
    assert space == {name: searchable()[name].range for name in space}


def test_every_algorithm_has_a_row_of_spaces():
    assert set(SPACES) == set(BUILT_IN)


@pytest.mark.parametrize("algorithm", SPACES)
def test_rows_of_spaces_search_what_is_the_algorithms_own(algorithm):
    own = {name for part in BUILT_IN[algorithm].sections if part not in COMMON_SECTIONS for name in part.model_fields}
    otherwise = set() if "unlearn" in own else {"learning_rate"}
    assert set(SPACES[algorithm]) == (own & set(searchable()) or otherwise)


@pytest.mark.parametrize("algorithm", SPACES)
def test_every_point_of_a_row_is_a_valid_configuration(algorithm):
    for point in grid(SPACES[algorithm], 3):
        config = configure(algorithm, EPOCHS | dict(point))
        assert {name: getattr(config, name) for name in point} == point


REFUSED = [
    # algorithm, name, range, rule
    ("lwf", "distillation_factor", LogRange(0, 10), "log-range-positive"),
    ("lwf", "distillation_factor", LogRange(-1, 10), "log-range-positive"),
    ("lwf", "distillation_factor", LogRange(-2, -1), "log-range-positive"),
    ("lwf", "distillation_temperature", LogRange(0, 1), "log-range-positive"),
    ("lwf", "distillation_temperature", Range(-0.5, 1), "greater-than"),
    ("lwf", "distillation_temperature", LogRange(math.nan, 1), "range-of-numbers"),
    ("lwf", "distillation_temperature", LogRange(1, math.nan), "range-of-numbers"),
    ("lwf", "distillation_temperature", LogRange(1, math.inf), "range-of-numbers"),
    ("lwf", "distillation_factor", LogRange(10, 1), "range-increases"),
    ("lwf", "distillation_factor", LogRange(2, 2), "range-increases"),
    ("lwf", "penalty_factor", LogRange(1, 2), "searchable"),
    ("lwf", "batch_size", Range(1, 2), "whole-range"),
    ("lwf", "nonsense", Range(1, 2), "searchable"),
    ("lwf", "learning_rate", LogRange(0, 1), "log-range-positive"),
    ("ewc", "penalty_p_norm", Range(0.99, 3), "greater-than-equal"),
    ("ewc", "penalty_p_norm", Range(0, 3), "greater-than-equal"),
    ("ewc", "penalty_factor", LogRange(0, 3), "log-range-positive"),
    ("ewc", "distillation_factor", LogRange(1, 3), "searchable"),
    ("finetuning", "penalty_p_norm", Range(1, 3), "searchable"),
]


@pytest.mark.parametrize(("algorithm", "name", "values", "rule"), REFUSED)
def test_check_space_refuses_what_cannot_be_searched(algorithm, name, values, rule):
    assert broken(check_space, algorithm, {name: values}, EPOCHS) == [(name, rule)]


def test_check_space_tells_every_problem_at_once():
    space = {"distillation_factor": LogRange(0, 1), "distillation_temperature": LogRange(3, 2), "nonsense": Range(1, 2)}
    assert {field for field, _ in broken(check_space, "lwf", space, EPOCHS)} == set(space)


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_the_learning_rate_can_be_searched_in_every_algorithm(algorithm):
    assert "learning_rate" in fields_of(algorithm)
    check_space(algorithm, {"learning_rate": LogRange(1e-4, 1)}, EPOCHS)


def test_check_space_refuses_a_temperature_where_the_distance_has_none():
    space = SPACES["lwf"]
    check_space("lwf", space, EPOCHS | {"distance": "kl"})
    check_space("lwf", {"distillation_factor": space["distillation_factor"]}, EPOCHS | {"distance": "mse"})
    problems = broken(check_space, "lwf", space, EPOCHS | {"distance": "mse"})
    assert problems == [("distillation_temperature", "searched-acts")]


# Default ranges, which follow the settings

EWC_RANGE = SPACES["ewc"]["penalty_factor"]
FISHERS = ["empirical", "sampled", "exact", "batch"]
SCALES = ["none", "per_parameter", "unit_trace"]


def test_a_scaled_range_has_ends_of_one_digit_and_its_own_scale():
    assert LogRange(1e-1, 1e5).scaled(32) == LogRange(3, 3e6)
    assert Range(1, 3).scaled(0.026) == Range(0.03, 0.08)
    assert LogRange(1e-1, 1e5).scaled(1) == LogRange(1e-1, 1e5)


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_the_default_space_is_the_row_of_spaces_and_leaves_it_as_it_is(algorithm):
    before = dict(SPACES[algorithm])
    space = default_space(configure(algorithm, EPOCHS))
    assert space == SPACES[algorithm] == before
    space.clear()
    assert SPACES[algorithm] == before


@pytest.mark.parametrize("algorithm", ["lwf", "lwf_ewc"])
@pytest.mark.parametrize("distance", ["cross_entropy", "kl", "mse"])
def test_the_default_space_has_a_temperature_where_the_distance_has_one(algorithm, distance):
    space = default_space(configure(algorithm, EPOCHS | {"distance": distance}))
    assert ("distillation_temperature" in space) == (distance != "mse")
    assert "distillation_factor" in space


def layers(*widths):
    """Parameters of linear layers, counted one by one."""
    return sum(a * b + b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize(
    ("fisher", "scale", "hidden", "batch_size", "algorithm"),
    pairs(FISHERS, SCALES, [(16,), (256, 100)], [8, 32, 128], ["ewc", "lwf_ewc"]),
)
def test_the_default_factor_follows_how_the_importance_is_measured(fisher, scale, hidden, batch_size, algorithm):
    settings = {"fisher": fisher, "fisher_scale": scale, "hidden": hidden, "batch_size": batch_size}
    config = configure(algorithm, EPOCHS | settings)
    by = 1.0
    if fisher == "batch" and scale != "unit_trace":
        by *= batch_size
    if scale == "per_parameter":
        by *= layers(64, *hidden)
    found = default_space(config)["penalty_factor"]
    assert relative_fisher(config) == pytest.approx(1 / by)
    for end, base in ((found.low, EWC_RANGE.low), (found.high, EWC_RANGE.high)):
        assert end == pytest.approx(base * by, rel=0.34)  # one digit: at worst 1.5 becomes 2 or 1
        assert float(f"{end:.0e}") == end
    assert found.log
    check_space(algorithm, default_space(config), EPOCHS | settings)


def test_the_number_of_parameters_is_that_of_the_benchmarks_backbone():
    config = configure(
        "ewc", EPOCHS | {"benchmark": "split-mnist", "hidden": (400, 400), "fisher_scale": "per_parameter"}
    )
    assert relative_fisher(config) == pytest.approx(1 / layers(784, 400, 400))


# Parameters of other backbones, counted layer by layer

CONVOLUTIONS = 32 * (9 * 1 + 1) + 64 * (9 * 32 + 1)
"""Of the CNN on grey images: 3x3 filters and a bias for each of 32 channels, then of 64."""


class Shared(torch.nn.Module):
    """Two linear layers of one width that have their weight in common."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.second(self.first(images.flatten(1)).relu())


def shared(shape):
    return Shared(math.prod(shape))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backbone": "mlp", "hidden": (7, 5)}, (64 + 1) * 7 + (7 + 1) * 5),
        ({"backbone": "mlp"}, (64 + 1) * 256 + (256 + 1) * 256),
        ({"backbone": "cnn"}, CONVOLUTIONS + (64 * 2 * 2 + 1) * 128),
        ({"backbone": "cnn", "hidden": (10, 6)}, CONVOLUTIONS + (64 * 2 * 2 + 1) * 10 + (10 + 1) * 6),
        ({"backbone": "cnn", "benchmark": "split-mnist"}, CONVOLUTIONS + (64 * 7 * 7 + 1) * 128),
        (
            {"backbone": "cnn", "benchmark": "split-cifar10"},
            CONVOLUTIONS + 32 * 9 * 2 + (64 * 8 * 8 + 1) * 128,  # two more channels come in
        ),
        ({"backbone": shared}, 64 * 64 + 2 * 64),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],
)
def test_a_backbones_parameters_are_counted_without_its_head(settings, expected):
    config = configure("ewc", EPOCHS | {"fisher_scale": "per_parameter"} | settings)
    assert count_backbone_parameters(config) == expected
    assert relative_fisher(config) == pytest.approx(1 / expected)
    found = default_space(config)["penalty_factor"]
    assert found == EWC_RANGE.scaled(expected)
    assert found.high / found.low == pytest.approx(EWC_RANGE.high / EWC_RANGE.low)


@pytest.mark.parametrize("backbone", ["mlp", "cnn", shared])
def test_the_number_of_parameters_is_that_of_what_is_trained(backbone):
    run = build_trial(configure("ewc", EPOCHS | {"backbone": backbone}), [0])
    trained = {name: value for name, value in run.initial_state().params.items() if not is_head(name)}
    assert count_backbone_parameters(run.config) == sum(value.numel() for value in trained.values())


@pytest.mark.parametrize("scale", ["none", "unit_trace"])
def test_the_range_follows_the_backbone_only_where_the_scale_does(scale):
    spaces = [
        default_space(configure("ewc", EPOCHS | {"fisher_scale": scale, "backbone": backbone}))
        for backbone in ("mlp", "cnn", shared)
    ]
    assert spaces[0] == spaces[1] == spaces[2]


def penalties(benchmark, scenario, hidden, batch_size):
    """(fisher, scale) -> penalty at the low end of its default range and p = 2, for finetuning's own parameters after
    two tasks, mean over seeds.
    """
    shared = {"hidden": hidden, "batch_size": batch_size, "benchmark": benchmark, "scenario": scenario, "tasks": 2}
    plain = build_trial(configure("finetuning", shared | {"epochs": 5}), [0, 1])
    first = learn_task(plain, plain.initial_state())
    second = learn_task(plain, first)
    found = {}
    for fisher, scale in itertools.product(FISHERS, SCALES):
        config = configure("ewc", shared | {"epochs": 5, "fisher": fisher, "fisher_scale": scale})
        run = build_trial(config, [0, 1])
        (regularizer,) = run.regularizers
        memory = regularizer.remember(run.network, run.benchmark, run.benchmark.tasks[0], first.params, {})
        total = torch.zeros(2)
        for name, value in memory.items():
            if name.startswith("importance/1/"):
                changed = (
                    second.params[name.removeprefix("importance/1/")] - first.params[name.removeprefix("importance/1/")]
                )
                total += (value * changed.square()).flatten(1).sum(1)
        found[fisher, scale] = default_space(config)["penalty_factor"].low * total.mean().item()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "scenario"), [("split-digits", "task"), ("permuted-digits", "domain"), ("split-digits", "class")]
)
@pytest.mark.parametrize(("hidden", "batch_size"), [((16,), 8), ((256,), 32)])
def test_penalties_at_the_default_ranges_ends_compare_however_importance_is_measured(
    benchmark, scenario, hidden, batch_size
):
    found = penalties(benchmark, scenario, hidden, batch_size)
    share = {key: value / found["empirical", "none"] for key, value in found.items()}
    print({key: float(f"{value:.2g}") for key, value in share.items()})
    # One digit may be off by half, twice where both are rounded.
    for fisher, (low, high) in {"empirical": (1, 1), "batch": (1, 1.5), "sampled": (1, 10), "exact": (1, 10)}.items():
        assert low / 1.6 < share[fisher, "none"] < high * 1.6, fisher
        assert low / 1.6 < share[fisher, "per_parameter"] < high * 1.6, fisher
    for fisher in FISHERS:
        assert 0.01 < share[fisher, "unit_trace"] < 10, fisher


# Choices and conditions


def test_values_that_do_not_go_together_are_refused_with_a_condition_as_the_remedy():
    space = {"optimizer": Choice("sgd", "adam"), "momentum": Range(0, 0.9)}
    with pytest.raises(ConfigError, match=r"acts with sgd only; got 0.9 with adam. Search momentum in a When"):
        check_space("lwf", space, EPOCHS)
    check_space(
        "lwf", [{"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"momentum": Range(0, 0.9)})], EPOCHS
    )


def test_what_a_choice_makes_idle_is_refused_unless_a_condition_leaves_it_out():
    temperature = {"distillation_temperature": LogRange(1, 4)}
    distance = {"distance": Choice("kl", "mse")}
    assert broken(check_space, "lwf", distance | temperature, EPOCHS) == [("distillation_temperature", "searched-acts")]
    check_space("lwf", [distance, When("distance", "kl", temperature)], EPOCHS)


def test_a_condition_on_a_fixed_setting_is_decided_when_the_plan_is_made():
    parts = [When("optimizer", "sgd", {"momentum": Range(0, 0.9)}), When("momentum", [0.5], {"warmup": Range(0, 0.5)})]
    searched = {"distillation_factor": LogRange(0.1, 10)}
    for optimizer, expected in (("sgd", ["momentum", "distillation_factor"]), ("adam", ["distillation_factor"])):
        study = Study(algorithm="lwf", epochs=1, optimizer=optimizer, space=[searched, parts[0]])
        assert list(study.plan.space) == expected
        assert not study.plan.space.conditional
    assert broken(Study, algorithm="lwf", epochs=1, space=parts) == [("momentum", "condition-on-values")]


def test_one_hyperparameter_has_a_domain_under_each_of_several_conditions():
    space = SearchSpace.of(
        [
            {"optimizer": Choice("sgd", "adam")},
            When("optimizer", "sgd", {"learning_rate": LogRange(0.01, 1)}),
            When("optimizer", "adam", {"learning_rate": LogRange(1e-4, 0.01)}),
        ]
    )
    assert [part.key for part in space.parts] == ["optimizer", "learning_rate", "learning_rate/2"]
    assert space.has({"optimizer": "adam", "learning_rate": 1e-3})
    assert not space.has({"optimizer": "sgd", "learning_rate": 1e-3})
    assert not space.has({"optimizer": "sgd"})
    assert space["learning_rate"] == LogRange(1e-4, 1)
    assert list(space.grid(2)) == [
        {"optimizer": "sgd", "learning_rate": 0.01},
        {"optimizer": "sgd", "learning_rate": 1},
        {"optimizer": "adam", "learning_rate": 1e-4},
        {"optimizer": "adam", "learning_rate": 0.01},
    ]


def test_conditions_nest_and_order_themselves():
    space = SearchSpace.of(
        [
            When("schedule", "step", {"decay": Range(0.1, 0.9)}),
            When("optimizer", ["sgd", "adamw"], [{"schedule": Choice("constant", "step")}]),
            {"optimizer": Choice("sgd", "adam", "adamw")},
        ]
    )
    assert [part.name for part in space.parts] == ["optimizer", "schedule", "decay"]
    assert space.active({"optimizer": "adam"}) == ["optimizer"]
    assert space.active({"optimizer": "adamw", "schedule": "step"}) == ["optimizer", "schedule", "decay"]
    assert space.count_grid(3) == 1 + 2 * (1 + 3) == len(list(space.grid(3)))


def test_optuna_distributions_are_domains():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = SearchSpace.of(
        {
            "learning_rate": FloatDistribution(1e-3, 1, log=True),
            "momentum": FloatDistribution(0, 0.8, step=0.2),
            "epochs": IntDistribution(1, 9, step=2),
            "optimizer": CategoricalDistribution(["sgd", "adam"]),
        }
    )
    assert dict(space) == {
        "learning_rate": LogRange(1e-3, 1),
        "momentum": Range(0.0, 0.8, step=0.2),
        "epochs": IntRange(1, 9, step=2),
        "optimizer": Choice("sgd", "adam"),
    }


def test_the_order_in_which_a_space_is_written_does_not_matter():
    parts = {"momentum": Range(0, 0.9), "epochs": IntRange(1, 4), "distillation_factor": LogRange(0.1, 10)}
    spaces = [Study(algorithm="lwf", space=dict(order)).plan.space for order in itertools.permutations(parts.items())]
    assert all(space == spaces[0] for space in spaces)
    assert list(spaces[0]) == ["epochs", "momentum", "distillation_factor"]


def test_one_value_is_no_dimension():
    plan = Study(algorithm="lwf", epochs=1, space={"momentum": 0.9, "distillation_factor": LogRange(0.1, 10)}).plan
    assert list(plan.space) == ["distillation_factor"]
    assert plan.config.momentum == 0.9


def test_a_network_of_ones_own_is_a_choice():
    plan = Study(algorithm="lwf", epochs=1, space={"backbone": Choice("mlp", shared)}).plan
    label = plan.space["backbone"].ends[1]
    assert label.endswith("test_spaces.shared")
    assert plan.trial_config({"backbone": label}).backbone is shared
