"""Objectives: their names against the metrics, fronts and knees against values worked out by hand and brute force."""

import numpy as np
import pytest
import torch

from clsearch import metrics
from clsearch.config.sections import Scenario
from clsearch.planning.objectives import (
    check_objectives,
    choose,
    direction,
    find_knee,
    known_objectives,
    pareto_front,
    sign,
)


def matrix(tasks, scenario):
    """Random R [2, T+1, T] with NaN where the scenario defines nothing."""
    R = torch.rand(2, tasks + 1, tasks, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64)
    if scenario is Scenario.CLASS:
        R = torch.where(torch.arange(tasks) < torch.arange(tasks + 1)[:, None], R, torch.nan)
    return R


# Names


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("tasks", [2, 3, 5, 12])
def test_the_known_names_are_those_that_the_metrics_have_after_so_many_tasks(scenario, tasks):
    known = known_objectives(tasks, scenario)
    assert len(known) == len(set(known))
    assert set(known) == set(metrics.summary(matrix(tasks, scenario), tasks))


@pytest.mark.parametrize("scenario", list(Scenario))
def test_every_known_name_is_accepted(scenario):
    assert check_objectives(known_objectives(4, scenario), 4, scenario) == []


@pytest.mark.parametrize("name", ["accuracy/task_04", "forgetting/task_03", "accuracy/task_00", "accuracy/task_1"])
def test_a_task_that_is_not_searched_has_no_objective(name):
    (problem,) = check_objectives([name], 3, Scenario.TASK)
    assert problem.rule == "objectives-known"
    assert problem.endswith(f"; got {name}")


def test_class_incremental_learning_has_no_forward_transfer():
    (problem,) = check_objectives(["forward_transfer"], 3, Scenario.CLASS)
    assert "forward_transfer" not in problem.partition("; got ")[0]
    assert problem.endswith("; got forward_transfer")


def test_each_wrong_name_is_a_problem_of_its_own():
    problems = check_objectives(["loss", "average_accuracy", "intransigence"], 3, Scenario.DOMAIN)
    assert [problem.rule for problem in problems] == ["objectives-known", "objective-of-a-trial"]


# Signs

LESS = {"average_forgetting", "forgetting/task_01", "forgetting/task_02"}


def test_of_forgetting_alone_less_is_better():
    for name in known_objectives(3, Scenario.TASK):
        assert sign(name) == (-1 if name in LESS else 1), name
        assert direction(name) == ("minimize" if name in LESS else "maximize"), name


# Fronts


def test_a_front_worked_out_by_hand():
    gains = np.array(
        [
            [3.0, 1.0],  # on it
            [1.0, 3.0],  # on it
            [2.0, 2.0],  # on it
            [2.0, 1.0],  # less than the first in one, equal in the other
            [1.0, 1.0],
            [0.0, 2.9],
        ]
    )
    assert pareto_front(gains) == [0, 2, 1]


def test_one_objective_has_its_best_as_its_front():
    assert pareto_front(np.array([[1.0], [5.0], [2.0], [5.0]])) == [1, 3]


def test_equal_points_are_all_on_the_front_or_none_of_them():
    assert pareto_front(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]])) == [2, 3, 0, 1]
    assert pareto_front(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])) == [2]
    assert pareto_front(np.ones((3, 2))) == [0, 1, 2]


def test_one_point_is_its_own_front():
    assert pareto_front(np.array([[0.3, -0.1, 7.0]])) == [0]


def test_of_two_points_one_dominates_or_both_stay():
    assert pareto_front(np.array([[1.0, 1.0], [2.0, 1.0]])) == [1]
    assert pareto_front(np.array([[1.0, 2.0], [2.0, 1.0]])) == [1, 0]


def test_equal_in_the_first_objective_go_by_the_second():
    gains = np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0, 0.0]])
    assert pareto_front(gains) == [2, 1, 0]


def dominates(one, other):
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def brute_force_front(gains):
    rows = gains.tolist()
    return {i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows)}


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [3, 1000])
def test_fronts_are_what_comparing_every_pair_finds(objectives, levels):
    generator = np.random.default_rng(10 * objectives + levels)
    for n in (1, 2, 5, 40):
        for _ in range(20):
            gains = generator.integers(0, levels, (n, objectives)) / levels  # few levels: many ties
            found = pareto_front(gains)
            assert set(found) == brute_force_front(gains)
            assert len(found) == len(set(found))
            assert [*gains[found, 0]] == sorted(gains[found, 0], reverse=True)


# Knees


def test_a_knee_worked_out_by_hand():
    """Scaled: (0, 1), (0.5, 0.8), (0.75, 0.3), (1, 0); sums 1, 1.3, 1.05, 1."""
    gains = np.array([[0.50, -0.10], [0.70, -0.20], [0.80, -0.45], [0.90, -0.60]])
    assert find_knee(gains) == 1


def test_a_knee_in_three_dimensions_worked_out_by_hand():
    """Ranges 4, 2, 10. Scaled: (1, 0, 0), (0, 1, 0.5), (0.5, 0.5, 0.4), (0.25, 0.5, 1); sums 1, 1.5, 1.4, 1.75."""
    gains = np.array([[4.0, 1.0, 0.0], [0.0, 3.0, 5.0], [2.0, 2.0, 4.0], [1.0, 2.0, 10.0]])
    assert pareto_front(gains) == [0, 2, 3, 1]
    assert find_knee(gains) == 3


def beyond_the_line(gains):
    """Of two objectives: how far each point lies beyond the straight line through the front's ends, unscaled."""
    a, b = gains[gains[:, 0].argmin()], gains[gains[:, 0].argmax()]
    along = (b - a) / np.linalg.norm(b - a)
    outward = np.array([-along[1], along[0]])  # a is high in the second, b in the first: outward is up and right
    return (gains - a) @ outward


def test_of_two_objectives_the_knee_is_the_point_farthest_beyond_the_line_between_the_ends():
    generator = np.random.default_rng(3)
    inner = 0
    for scale in (1.0, 1e-3, 50.0):
        for _ in range(100):
            gains = generator.random((25, 2)) * (1.0, scale)
            own = gains[pareto_front(gains)]
            if len(own) > 1:
                distances = beyond_the_line(own)
                assert distances[find_knee(own)] == pytest.approx(distances.max(), abs=1e-9 * scale)
                inner += 0 < find_knee(own) < len(own) - 1
    assert inner > 100  # most knees are no ends, so the ends alone would not pass


def test_a_front_that_is_a_straight_line_ends_in_its_best_of_the_first_objective():
    gains = np.array([[1.0, 9.0], [4.0, 6.0], [7.0, 3.0], [3.0, 7.0]])
    assert find_knee(gains) == 2


def test_where_every_point_lies_below_the_line_an_end_is_the_knee():
    assert find_knee(np.array([[0.0, 1.0], [0.3, 0.3], [1.0, 0.0]])) == 2


def test_of_two_ends_the_knee_is_the_best_of_the_first_objective():
    assert find_knee(np.array([[1.0, 2.0], [2.0, 1.0]])) == 1


def test_rounding_does_not_decide_between_points_on_one_line():
    gains = np.array([[0.9, 0.1], [0.1 + 0.2, 0.7], [0.6, 0.4], [0.1, 0.9]])  # 0.1 + 0.2 > 0.3
    assert find_knee(gains) == 0


def test_of_equal_points_the_first_is_the_knee():
    assert find_knee(np.array([[1.0, 1.0], [1.0, 1.0]])) == 0
    assert find_knee(np.array([[2.0, 5.0]])) == 0


def test_the_knee_does_not_depend_on_the_units_of_an_objective():
    generator = np.random.default_rng(8)
    for _ in range(50):
        gains = generator.random((20, 3))
        own = gains[pareto_front(gains)]
        assert find_knee(own) == find_knee(own * (100.0, 0.01, 7.0) + (5.0, -3.0, 0.0))


# What a search ends with


def test_of_one_objective_the_best_is_chosen_and_of_equal_ones_the_first():
    assert choose(np.array([[0.2], [0.9], [0.9], [0.1]])) == 1


def test_of_several_objectives_the_knee_of_the_front_is_chosen_among_all_rows():
    gains = np.array([[0.0, 0.0], [0.9, -0.6], [0.5, -0.1], [0.1, 0.0], [0.6, -0.11], [0.55, -0.3]])
    # Front: rows 1, 4, 2, 3; scaled sums 1, 0.625 + 0.8167, 0.5 + 0.8333, 1.
    assert pareto_front(gains) == [1, 4, 2, 3]
    assert choose(gains) == 4


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_what_is_chosen_is_dominated_by_nothing(objectives):
    generator = np.random.default_rng(objectives)
    for _ in range(50):
        gains = generator.integers(0, 6, (12, objectives)) / 6
        assert not any(dominates(other, gains[choose(gains)]) for other in gains)
