"""Where the values of hyperparameters lie on the axes of pictures."""

from __future__ import annotations

import pytest

from clsearch import Choice, IntRange, LogRange, Range, When
from clsearch.config.spaces import SearchSpace
from clsearch.reporting.axes import arrange_panels, find_axis, is_map, name_part, round_ticks, shorten
from tests.builders import plan_of, record_of
from tests.study_folders import MIXED_SPACE, mixed_study

MIXED = SearchSpace.of(MIXED_SPACE)


def trials_with(tmp_path, name, values):
    plan = plan_of(tmp_path, space={name: Choice(*dict.fromkeys(values))})
    return [record_of(plan, n, [0.5] * 3, {name: value}) for n, value in enumerate(values)]


def test_choices_lie_in_the_order_in_which_they_were_written() -> None:
    axis = find_axis(SearchSpace.of({"fisher": Choice("exact", "batch", "empirical")}), "fisher")
    assert axis.ticks == ((0.0, "exact"), (1.0, "batch"), (2.0, "empirical"))
    assert [axis.place(value) for value in ("empirical", "exact")] == [2.0, 0.0]


def test_widths_true_and_none_are_choices_by_their_names() -> None:
    names = {name: [text for _, text in find_axis(MIXED, name).ticks] for name in ("hidden", "train_head", "teachers")}
    assert names == {"hidden": ["8", "8,8"], "train_head": ["true", "false"], "teachers": ["none", "last"]}


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_trials_with_the_same_choice_lie_beside_each_other_in_their_order(tmp_path, count) -> None:
    records = trials_with(tmp_path, "optimizer", ["sgd", "adam"] * count)
    axis = find_axis(SearchSpace.of({"optimizer": Choice("sgd", "adam")}), "optimizer", records)
    places = axis.place_trials(records)
    for middle, own in enumerate((records[::2], records[1::2])):
        found = [places[record.label] for record in own]
        assert found == sorted(set(found))
        assert sum(found) / count == pytest.approx(middle)
        assert all(abs(place - middle) < 0.4 for place in found)


def test_numbers_lie_where_they_are_and_have_their_scale() -> None:
    log, whole = (find_axis(MIXED, name) for name in ("distillation_factor", "epochs"))
    assert (log.log, log.place(0.5), log.ticks) == (True, 0.5, ())
    assert (whole.log, whole.place(3)) == (False, 3.0)


@pytest.mark.parametrize(
    ("domain", "ticks"),
    [
        (IntRange(1, 4), [1, 2, 3, 4]),
        (IntRange(1, 200), [50, 100, 150, 200]),
        (IntRange(16, 128, log=True), [16, 32, 64, 128]),
        (IntRange(1, 1000, log=True), [1, 10, 100, 1000]),
        (IntRange(5, 7, log=True), [5, 7]),
    ],
)
def test_the_ticks_of_whole_numbers_are_whole(domain, ticks) -> None:
    found = find_axis(SearchSpace.of({"epochs": domain}), "epochs").ticks
    assert found == tuple((tick, str(tick)) for tick in ticks)


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.0, 0.9), [0, 0.2, 0.4, 0.6, 0.8]),
        ((0.16, 0.24), [0.16, 0.18, 0.2, 0.22, 0.24]),
        ((-3, 1), [-3, -2, -1, 0, 1]),
        ((7, 7), [7]),
    ],
)
def test_ticks_are_round_numbers_between_the_ends(ends, ticks) -> None:
    assert round_ticks(*ends) == ticks


def test_an_axis_says_which_trials_have_a_conditional_hyperparameter(tmp_path) -> None:
    _, records = mixed_study(tmp_path)
    sgd = sum(record.values["optimizer"] == "sgd" for record in records)
    step = sum(record.values.get("schedule") == "step" for record in records)
    notes = {name: find_axis(MIXED, name, records).note for name in ("epochs", "learning_rate", "schedule", "decay")}
    assert notes == {
        "epochs": "",
        "learning_rate": "",
        "schedule": f"{sgd} of 24 trials: optimizer = sgd",
        "decay": f"{step} of 24 trials: optimizer = sgd and schedule = step",
    }
    assert 0 < step < sgd < 24


def test_an_entry_is_called_by_its_hyperparameter_and_its_condition() -> None:
    names = [name_part(part) for part in MIXED.parts if part.name == "learning_rate"]
    assert names == ["learning rate, if optimizer = sgd", "learning rate, if optimizer = adam"]


def test_numbers_to_choose_from_lie_on_the_axis_of_a_range_of_the_same_hyperparameter() -> None:
    space = [
        {"optimizer": Choice("sgd", "adam")},
        When("optimizer", "sgd", {"learning_rate": Choice(0.1, 1)}),
        When("optimizer", "adam", {"learning_rate": LogRange(1e-4, 1e-2)}),
    ]
    axis = find_axis(SearchSpace.of(space), "learning_rate")
    assert (axis.choices, axis.place(0.003), axis.place(1)) == ((), 0.003, 1.0)


def test_two_hyperparameters_are_a_map_if_every_trial_has_numbers() -> None:
    number, whole, name = LogRange(0.1, 10), IntRange(1, 4), Choice("sgd", "adam")
    assert is_map(SearchSpace.of({"learning_rate": number, "epochs": whole}))
    assert not is_map(SearchSpace.of({"learning_rate": number, "optimizer": name}))
    assert not is_map(SearchSpace.of([{"epochs": whole}, When("epochs", 1, {"momentum": Range(0, 0.9)})]))
    assert not is_map(SearchSpace.of({"learning_rate": number}))


def test_panels_fill_their_rows() -> None:
    assert [arrange_panels(n) for n in (1, 3, 4, 5, 6, 7, 9, 10)] == [
        (1, 1),
        (1, 3),
        (1, 4),
        (2, 3),
        (2, 3),
        (2, 4),
        (3, 3),
        (3, 4),
    ]


def test_a_long_choice_is_cut_in_its_middle() -> None:
    assert shorten("my_networks.make_wide(width=300)") == "my_networks…(width=300)"
    assert shorten("cross_entropy") == "cross_entropy"
