"""Ranges, grids, and the spaces that are refused."""

import itertools
import math

import pytest

from clsearch.core.config import PARTS, ConfigError, TrialConfig, fields_of
from clsearch.tuning.spaces import SPACES, LogRange, Range, check_space, grid, searchable

EPOCHS = {"epochs": 1}


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
    assert searchable() == {
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
    assert {name: "log" if r.log else "linear" for name, r in space.items()} == {n: searchable()[n] for n in space}


@pytest.mark.parametrize("algorithm", SPACES)
def test_rows_of_spaces_search_what_is_the_algorithms_own(algorithm):
    own = set(PARTS[algorithm][-1].model_fields)
    assert set(SPACES[algorithm]) == own & set(searchable())


@pytest.mark.parametrize("algorithm", SPACES)
def test_every_point_of_a_row_is_a_valid_configuration(algorithm):
    for point in grid(SPACES[algorithm], 3):
        config = TrialConfig.of(algorithm, EPOCHS | point)
        assert {name: getattr(config, name) for name in point} == point


REFUSED = [
    # algorithm, name, range, rule, value
    ("lwf", "distillation_factor", LogRange(0, 10), "greater than 0", "got 0"),
    ("lwf", "distillation_factor", LogRange(-1, 10), "greater than 0", "got -1"),
    ("lwf", "distillation_factor", LogRange(-2, -1), "greater than 0", "got -2"),
    ("lwf", "distillation_temperature", LogRange(0, 1), "greater than 0", "got 0"),
    ("lwf", "distillation_temperature", Range(-0.5, 1), "greater than 0", "got -0.5"),
    ("lwf", "distillation_temperature", LogRange(math.nan, 1), "finite", "got nan"),
    ("lwf", "distillation_temperature", LogRange(1, math.nan), "finite", "got nan"),
    ("lwf", "distillation_temperature", LogRange(1, math.inf), "finite", "got inf"),
    ("lwf", "distillation_factor", LogRange(10, 1), "from low to high", "got 10 to 1"),
    ("lwf", "distillation_factor", LogRange(2, 2), "from low to high", "got 2 to 2"),
    ("lwf", "penalty_factor", LogRange(1, 2), "not a hyperparameter that lwf can search", "distillation_factor"),
    ("lwf", "batch_size", Range(1, 2), "not a hyperparameter that lwf can search", "learning_rate"),
    ("lwf", "nonsense", Range(1, 2), "not a hyperparameter that lwf can search", "distillation_temperature"),
    ("lwf", "learning_rate", LogRange(0, 1), "greater than 0", "got 0"),
    ("ewc", "penalty_p_norm", Range(0.99, 3), "greater than or equal to 1", "got 0.99"),
    ("ewc", "penalty_p_norm", Range(0, 3), "greater than or equal to 1", "got 0"),
    ("ewc", "penalty_factor", LogRange(0, 3), "greater than 0", "got 0"),
    ("ewc", "distillation_factor", LogRange(1, 3), "not a hyperparameter that ewc can search", "penalty_factor"),
    ("finetuning", "penalty_p_norm", Range(1, 3), "not a hyperparameter that finetuning can search", "learning_rate"),
]


@pytest.mark.parametrize(("algorithm", "name", "values", "rule", "value"), REFUSED)
def test_check_space_refuses_with_field_rule_and_value(algorithm, name, values, rule, value):
    with pytest.raises(ConfigError) as refused:
        check_space(algorithm, {name: values}, EPOCHS)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: ")
    assert problem.index(rule) < problem.index(value)


def test_check_space_tells_every_problem_at_once():
    space = {"distillation_factor": LogRange(0, 1), "distillation_temperature": LogRange(3, 2), "nonsense": Range(1, 2)}
    with pytest.raises(ConfigError) as refused:
        check_space("lwf", space, EPOCHS)
    assert {p.partition(":")[0] for p in refused.value.problems} == set(space)


@pytest.mark.parametrize("algorithm", PARTS)
def test_the_learning_rate_can_be_searched_in_every_algorithm(algorithm):
    assert "learning_rate" in fields_of(algorithm)
    check_space(algorithm, {"learning_rate": LogRange(1e-4, 1)}, EPOCHS)
