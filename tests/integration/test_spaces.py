"""A study over numbers, names, widths and a condition, with the real tools: killed and resumed, and in cohorts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clsearch.records.trials import read_trials
from clsearch.reporting.result import StudyResult
from tests.integration import whole_space
from tests.integration.scripts import wait_for
from tests.integration.test_resume import CHAOS, matrix_in_peace, optuna_trials
from tests.integration.whole_space import TRIALS

ONE = {"max_concurrent": 1}


@pytest.fixture(scope="module")
def unbroken(ray_session: str, results: Path) -> StudyResult:
    return whole_space.study("unbroken", results=results, **ONE).run()


def test_a_study_that_is_killed_and_resumed_suggests_what_an_unbroken_one_does(
    unbroken: StudyResult, ray_session: str, results: Path
) -> None:
    mine = results / "whole_space"
    with CHAOS.session(results, TRIALS, "--max-concurrent", "1", script=whole_space.__file__) as process:
        wait_for(lambda: len(list(mine.glob("trials/trial_*/accuracy.csv"))) >= 4, process)
        wait_for(lambda: list(mine.glob("trials/trial_*/state.pt")), process)
    assert len(read_trials(mine)) < TRIALS
    found = whole_space.study(results=results, **ONE).run()
    assert [record.values for record in found.records] == [record.values for record in unbroken.records]
    assert [record.accuracy for record in found.records] == [record.accuracy for record in unbroken.records]
    for record in found.records:
        assert ("momentum" in record.values) == (record.values["optimizer"] == "sgd")
        np.testing.assert_array_equal(np.array(record.accuracy, dtype=float), matrix_in_peace(record))
    assert Counter(trial.state.name for trial in optuna_trials(mine)) == {"COMPLETE": TRIALS}


def test_the_reference_has_the_chosen_values_of_what_it_shares(unbroken: StudyResult) -> None:
    (reference,), best = unbroken.references, unbroken.best
    shared = {name: value for name, value in best.values.items() if name != "distillation_factor"}
    assert reference.values == shared
    assert (reference.settings["optimizer"], reference.settings["hidden"]) == (
        best.settings["optimizer"],
        best.settings["hidden"],
    )
    np.testing.assert_array_equal(np.array(reference.accuracy, dtype=float), matrix_in_peace(reference))


def test_configurations_of_several_structures_train_in_cohorts_as_each_would_alone(
    ray_session: str, results: Path
) -> None:
    found = whole_space.study("in_groups", results=results, cohort=4).run()
    assert [record.state for record in found.records] == ["finished"] * TRIALS
    sizes = {record.label: record.cohort for record in found.records}
    assert {*sizes.values()} > {1}  # some alone, and some with others
    for record in found.records:
        expected = matrix_in_peace(record)
        np.testing.assert_allclose(np.array(record.accuracy, dtype=float), expected, rtol=0, atol=1e-5)
    table = pd.read_csv(found.plan.folder / "trials.csv")
    assert {*table.optimizer} == {"sgd", "adam"}
    assert table.momentum.isna().tolist() == (table.optimizer == "adam").tolist()
