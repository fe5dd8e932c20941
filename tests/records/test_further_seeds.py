"""Further seeds: which trials get them, how they join a record, and that trials compare on common seeds only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clsearch.planning.plan import Plan, SeedExtension
from clsearch.records.further_seeds import missing_seeds, with_further_seeds
from clsearch.records.ranking import add_intransigence, difference_to_reference, rank
from clsearch.records.resume import check_same, nothing_left
from clsearch.records.seeds import join_seeds, on_seeds
from clsearch.records.store import RecordStore
from clsearch.records.study_file import read_study_json
from clsearch.records.trial_metrics import metric_per_seed
from clsearch.records.trials import TrialRecord, read_trials, with_curve
from clsearch.records.writer import StudyWriter
from tests.builders import plan_of, record_of
from tests.refusals import broken
from tests.study_folders import written

ACCURACY = "average_accuracy"


def begun(results: Path, **settings: Any) -> Plan:
    """A study of three seeds that exists."""
    plan = plan_of(results, **({"seeds": 3} | settings))
    StudyWriter(plan).begin()
    return plan


def asked(results: Path, seeds: int, **settings: Any) -> Plan:
    """The same study, asked for as many seeds."""
    return with_further_seeds(plan_of(results, seeds=seeds, **settings))


def trial(plan: Plan, number: int | None, scores: list[float], **more: Any) -> TrialRecord:
    """A trial with one score per seed, from 0 on."""
    values = None if number is None else {"distillation_factor": number + 1.0, "distillation_temperature": 1.0}
    return replace(record_of(plan, number, scores, values, **more), seeds=tuple(range(len(scores))))


# Which seeds a study has


def test_more_seeds_are_further_ones_and_the_search_keeps_its_own(tmp_path: Path) -> None:
    begun(tmp_path)
    plan = asked(tmp_path, 5)
    assert (plan.seeds, plan.further, plan.every_seed) == ((0, 1, 2), (SeedExtension((3, 4)),), (0, 1, 2, 3, 4))
    check_same(plan)
    StudyWriter(plan).begin()
    content = read_study_json(plan.folder)
    assert content is not None
    assert (content["seeds"], content["more_seeds"]) == ([0, 1, 2], [{"seeds": [3, 4], "all": False}])
    assert asked(tmp_path, 5).further == plan.further
    assert asked(tmp_path, 6).further == (*plan.further, SeedExtension((5,)))
    assert asked(tmp_path, 5, all=True).further == (SeedExtension((3, 4), all=True),)


def test_fewer_seeds_than_before_are_refused_and_other_ones_are_another_study(tmp_path: Path) -> None:
    begun(tmp_path)
    assert broken(check_same, asked(tmp_path, 2)) == [("seeds", "same-study")]
    assert broken(check_same, asked(tmp_path, 5, first_seed=1)) == [("seeds", "same-study")]
    StudyWriter(asked(tmp_path, 5)).begin()
    for seeds in (3, 4):
        assert broken(asked, tmp_path, seeds) == [("seeds", "seeds-not-fewer")]
    assert asked(tmp_path, 3, fresh=True).further == ()


def test_all_needs_further_seeds(tmp_path: Path) -> None:
    assert broken(asked, tmp_path, 3, all=True) == [("all", "all-needs-seeds")]
    begun(tmp_path)
    assert broken(asked, tmp_path, 3, all=True) == [("all", "all-needs-seeds")]


def test_a_finished_study_has_something_left_to_do_if_it_gets_seeds(tmp_path: Path) -> None:
    plan = begun(tmp_path, trials=1, references=(), final=False)
    written(plan, [trial(plan, 0, [0.9] * 3)])
    assert nothing_left(asked(tmp_path, 3, trials=1, references=(), final=False))
    assert not nothing_left(asked(tmp_path, 5, trials=1, references=(), final=False))


# Which trials get them


@pytest.fixture
def five(tmp_path: Path) -> Plan:
    begun(tmp_path)
    return asked(tmp_path, 5)


def test_the_trials_not_shown_worse_and_the_references_get_them(five: Plan) -> None:
    trials = [trial(five, 0, [0.90, 0.91, 0.92]), trial(five, 1, [0.91, 0.90, 0.91]), trial(five, 2, [0.5, 0.51, 0.52])]
    trials.append(trial(five, 3, [0.9] * 3, state="pruned", learned=2))
    reference = trial(five, None, [0.8] * 3, algorithm="finetuning")
    close = {"trial_00000": (3, 4), "trial_00001": (3, 4), "reference_finetuning": (3, 4)}
    assert missing_seeds(five, trials, [reference]) == close
    every = replace(five, further=(SeedExtension((3, 4), all=True),))
    assert missing_seeds(every, trials, [reference]) == close | {"trial_00002": (3, 4)}
    assert missing_seeds(replace(five, further=()), trials, [reference]) == {}


def test_who_gets_them_does_not_depend_on_who_has_them_already(five: Plan) -> None:
    """A killed study trains the same trials as one that was not killed."""
    better, second = trial(five, 0, [0.90, 0.91, 0.92, 0.1, 0.1]), trial(five, 1, [0.91, 0.90, 0.91])
    assert missing_seeds(five, [better, second], []) == {"trial_00001": (3, 4)}
    failed = replace(second, reason="seeds 3 4: training diverged")
    assert missing_seeds(five, [better, failed], []) == {}


def test_a_second_extension_asks_those_that_have_the_first(five: Plan) -> None:
    twice = replace(five, further=(SeedExtension((3, 4)), SeedExtension((5,))))
    first, second = trial(five, 0, [0.9, 0.91, 0.92]), trial(five, 1, [0.91, 0.9, 0.91])
    assert missing_seeds(twice, [first, second], []) == {"trial_00000": (3, 4), "trial_00001": (3, 4)}
    first, second = trial(five, 0, [0.9, 0.91, 0.92, 0.9, 0.91]), trial(five, 1, [0.91, 0.9, 0.91, 0.91, 0.9])
    assert missing_seeds(twice, [first, second], []) == {"trial_00000": (5,), "trial_00001": (5,)}


# How trials compare


def test_the_best_has_the_most_seeds_and_pairs_are_on_common_ones(five: Plan) -> None:
    lucky = trial(five, 0, [0.99, 0.98, 0.99])
    best, other = trial(five, 1, [0.9, 0.91, 0.92, 0.93, 0.94]), trial(five, 2, [0.9, 0.9, 0.93, 0.9, 0.9])
    worse = trial(five, 3, [0.5, 0.52, 0.51])
    ranking = rank([lucky, worse, other, best], (ACCURACY,))
    assert [record.number for record in ranking.trials] == [1, 2, 0, 3]
    assert ranking.close == {"trial_00001", "trial_00002"}
    reference = trial(five, None, [0.8, 0.8, 0.8], algorithm="finetuning")
    difference = difference_to_reference(best, reference, ACCURACY)
    assert difference.mean == pytest.approx(np.mean([0.1, 0.11, 0.12]))


def test_intransigence_is_of_the_seeds_that_the_joint_reference_has(five: Plan) -> None:
    joint = trial(five, None, [0.95, 0.96, 0.97], algorithm="joint")
    whole, short = trial(five, 0, [0.9, 0.8, 0.7, 0.6, 0.5]), trial(five, 0, [0.9, 0.8, 0.7])
    found = [add_intransigence([joint, record])[0].metrics["intransigence"] for record in (whole, short)]
    assert found[0] == pytest.approx(found[1])


# How they join a record


@pytest.fixture
def parts(five: Plan) -> tuple[TrialRecord, TrialRecord, TrialRecord]:
    """A trial on five seeds, and the same on the first three and on the last two."""
    whole = trial(five, 0, [0.9, 0.8, 0.85, 0.7, 0.95])
    several = []
    for seeds in ((0, 1, 2), (3, 4)):
        curve = [[rows[seed] for seed in seeds] for rows in whole.curve]
        several.append(replace(on_seeds(whole, seeds), columns=whole.columns, curve=curve, epochs=whole.epochs))
    return whole, several[0], several[1]


def test_a_joined_record_measures_what_one_training_on_all_seeds_would(parts) -> None:
    whole, first, rest = parts
    joined = join_seeds(first, rest, (3, 4))
    assert (joined.seeds, joined.accuracy, joined.curve, joined.groups) == (
        whole.seeds,
        whole.accuracy,
        whole.curve,
        [3, 2],
    )
    assert {name: joined.metrics[name] for name in whole.metrics} == pytest.approx(whole.metrics)
    assert metric_per_seed(joined, ACCURACY) == pytest.approx([0.9, 0.8, 0.85, 0.7, 0.95])
    assert on_seeds(joined, (0, 1, 2)).metrics == on_seeds(whole, (0, 1, 2)).metrics


def test_groups_with_other_epochs_have_gaps(parts) -> None:
    _, first, rest = parts
    joined = join_seeds(first, replace(rest, epochs=[[1, 1], [2, 1], [2, 2]]), (3, 4))
    assert joined.epochs == [[1, 1], [2, 1], [2, 2], [3, 1]]
    gaps = np.isnan(np.array(joined.curve)).any(axis=2)
    assert gaps.tolist() == [[False] * 5, [False] * 5, [True] * 3 + [False] * 2, [False] * 3 + [True] * 2]


def test_a_store_writes_a_joined_trial_that_is_read_back_whole(five: Plan, parts) -> None:
    whole, first, rest = parts
    writer, told = StudyWriter(five), []
    writer.begin()
    writer.write_trial(first)
    store = RecordStore(five, writer, [told.append])
    store.join_seeds(first.label, rest, (3, 4))
    read = read_trials(five.folder)[first.label]
    assert [record.seeds for record in (*told, read)] == [whole.seeds] * 2
    assert with_curve(five.folder, read).curve == whole.curve
    assert read.metrics["train/loss"] == pytest.approx(store.records[first.label].metrics["train/loss"])


def test_a_kill_while_a_trial_is_joined_leaves_the_trial_that_it_was(five: Plan, parts) -> None:
    _, first, rest = parts
    writer = StudyWriter(five)
    writer.begin()
    first = writer.write_trial(first)
    writer.write_group(first, rest, (3, 4))  # and no record.json
    read = read_trials(five.folder)[first.label]
    damaged: list[Any] = []
    assert with_curve(five.folder, read, damaged.append).curve == first.curve
    assert damaged == []
    assert missing_seeds(five, [read], []) == {first.label: (3, 4)}
