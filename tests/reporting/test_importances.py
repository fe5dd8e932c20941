"""The importance of hyperparameters that not all trials have."""

from __future__ import annotations

import numpy as np
import pytest

from clsearch import Choice, LogRange, Range, When
from clsearch.reporting.importances import Importances, compute_importances
from tests.builders import plan_of, record_of
from tests.study_folders import mixed_study

RATES = (LogRange(1e-2, 0.5), LogRange(1e-4, 1e-2))
SPACE = [
    {"optimizer": Choice("sgd", "adam"), "distillation_factor": LogRange(0.01, 100)},
    When("optimizer", "sgd", {"momentum": Range(0.0, 0.9), "learning_rate": RATES[0]}),
    When("optimizer", "adam", {"learning_rate": RATES[1]}),
]


def found_for(tmp_path, score_of, space=SPACE, count=60):
    """The importances of trials with random values, half of them with sgd. score_of: values -> score."""
    plan, rng = plan_of(tmp_path, space=space, seeds=2, trials=count), np.random.default_rng(1)
    records = []
    for n in range(count):
        values = plan.space.pick(lambda part: part.domain.points(50)[rng.integers(len(part.domain.points(50)))])
        records.append(record_of(plan, n, [score_of(values)] * 2, values))
    return compute_importances(records, plan.space, "average_accuracy")


def test_hyperparameters_that_all_trials_have_share_the_variance_over_all_trials(tmp_path) -> None:
    found = found_for(tmp_path, lambda values: 0.8 if values["optimizer"] == "sgd" else 0.6)
    assert found.shared == pytest.approx({"optimizer": 1, "distillation_factor": 0}, abs=0.05)
    assert found.conditional == {}  # among the trials of one optimizer scores are equal


def test_a_conditional_one_has_its_share_over_the_trials_to_which_it_applies(tmp_path) -> None:
    found = found_for(tmp_path, lambda values: 0.5 + 0.4 * values.get("momentum", 0.0) + 1e-3 * len(values))
    assert {*found.shared} == {"optimizer", "distillation_factor"}
    assert found.conditional["momentum"] > 0.9
    assert found.conditional["learning_rate"] < 0.1
    assert "learning_rate/2" not in found.conditional


def test_a_hyperparameter_with_two_ranges_has_two_shares_by_the_keys_of_its_entries(tmp_path) -> None:
    def score(values):
        return 0.7 + 0.05 * np.log10(values["learning_rate"]) if values["optimizer"] == "adam" else 0.5

    found = found_for(tmp_path, score)
    assert {*found.conditional} == {"learning_rate/2"}
    assert found.conditional["learning_rate/2"] > 0.9


def test_a_hyperparameter_with_one_range_under_every_condition_is_one_that_all_trials_have(tmp_path) -> None:
    space = [SPACE[0], *(When("optimizer", name, {"learning_rate": RATES[0]}) for name in ("sgd", "adam"))]
    found = found_for(tmp_path, lambda values: 0.7 + 0.05 * np.log10(values["learning_rate"]), space)
    assert found.shared["learning_rate"] > 0.9
    assert found.conditional == {}


def test_no_share_is_computed_of_what_too_few_trials_have(tmp_path) -> None:
    plan, records = mixed_study(tmp_path)
    found = compute_importances(records, plan.space, "average_accuracy")
    done = [record for record in records if record.state == "finished"]
    counts = {part.key: sum(part.applies(record.values) for record in done) for part in plan.space.parts}
    conditional = {key for key, count in counts.items() if 4 <= count < len(done)}
    assert {*found.conditional} == conditional
    assert {*found.shared} == {key for key, count in counts.items() if count == len(done)}
    assert sum(found.shared.values()) == pytest.approx(1)
    few = compute_importances(records[:3], plan.space, "average_accuracy")
    assert few == Importances()


def test_they_are_read_from_best_json_as_they_were_written() -> None:
    found = Importances({"optimizer": 0.75, "epochs": 0.25}, {"learning_rate/2": 0.5})
    assert Importances.from_json(found.as_json()) == found
    assert Importances().as_json() == {}
