"""Ranking, what cannot be told from the best, and the command that trains the best again."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from clsearch import LogRange, Range
from clsearch.records.ranking import (
    Cost,
    add_intransigence,
    best_json,
    choice_of,
    cost_of,
    difference_to_reference,
    labels_close_to_first,
    rank,
    rerun_command,
)
from clsearch.records.trial_metrics import accuracy_matrices, metric_of_each, metric_per_seed
from tests.builders import plan_of, planned, record_of, study_of
from tests.study_folders import MIXED_SPACE

ACCURACY, FORGETTING = "average_accuracy", "average_forgetting"

BEST = [0.90, 0.92, 0.94]
LIKE = [0.89, 0.89, 0.95]  # 1, 3 and -1 points less: 1 ± 4.97 holds 0
WORSE = [0.85, 0.86, 0.87]  # 5, 6 and 7 points less: 6 ± 2.48 does not
NOISY = [0.95, 0.70, 0.85]  # -5, 22 and 9 points less: 8.67 ± 33.5 holds 0, though its mean is below WORSE's


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path)


def ranked(records, *objectives):
    return rank(list(records), objectives or (ACCURACY,))


@pytest.fixture
def records(plan):
    return [record_of(plan, n, scores) for n, scores in enumerate([WORSE, NOISY, BEST, LIKE])]


def test_trials_are_ranked_by_their_mean_over_seeds(records):
    assert [r.number for r in ranked(records).trials] == [2, 3, 0, 1]
    assert ranked(records).best is records[2]


def test_trials_whose_paired_interval_holds_zero_are_marked_whatever_their_rank(records):
    assert ranked(records).close == {"trial_00002", "trial_00003", "trial_00001"}


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_mark_is_scipys_paired_interval(records, number):
    ranking = ranked(records)
    scores = [metric_per_seed(records[n], ACCURACY) for n in (2, number)]
    interval = stats.ttest_rel(*scores).confidence_interval(0.95)
    assert (records[number].label in ranking.close) == (interval.low <= 0 <= interval.high)


def test_a_trial_far_below_on_every_seed_is_told_apart_though_seeds_differ_more(plan):
    # Unpaired, the seeds' spread of 30 points would hide a difference of 2.
    best, other = record_of(plan, 0, [0.3, 0.6, 0.9]), record_of(plan, 1, [0.28, 0.58, 0.881])
    assert ranked([best, other]).close == {"trial_00000"}


def test_failed_and_unfinished_trials_are_never_ranked(plan, records):
    lost = record_of(plan, 8, [0.99, 0.99, 0.99], state="failed", learned=2, reason="diverged")
    running = record_of(plan, 9, [0.99, 0.99, 0.99], state="running", learned=2)
    ranking = ranked([lost, *records, running])
    assert ranking.best is records[2]
    assert {r.number for r in ranking.trials} == {0, 1, 2, 3}
    assert not {lost.label, running.label} & ranking.close


@pytest.mark.parametrize("states", [[], ["failed"], ["failed", "running"]])
def test_without_a_finished_trial_there_is_no_best(plan, states):
    records = [record_of(plan, n, BEST, state=state, learned=1) for n, state in enumerate(states)]
    ranking = ranked(records)
    assert (ranking.best, ranking.trials, ranking.close, ranking.front) == (None, [], frozenset(), ())
    assert choice_of(ranking) is None
    content = best_json(plan, ranking, records, [])
    assert content == {
        "label": None,
        "reason": "no trial finished",
        "trials": {state: states.count(state) for state in ("finished", "pruned", "failed")},
        "cost": asdict(cost_of(records)),
    }


def test_one_seed_tells_nothing_apart(tmp_path):
    plan = plan_of(tmp_path, seeds=1)
    records = [record_of(plan, n, [score]) for n, score in enumerate([0.2, 0.9])]
    assert ranked(records).best is records[1]
    assert ranked(records).close == {"trial_00000", "trial_00001"}


def test_equal_trials_are_alike_and_the_earlier_one_is_best(plan):
    records = [record_of(plan, n, BEST) for n in range(2)]
    assert ranked(records).best is records[0]
    assert ranked(records).close == {"trial_00000", "trial_00001"}


def test_the_difference_to_a_reference_is_paired_over_seeds(plan):
    difference = difference_to_reference(
        record_of(plan, 0, BEST), record_of(plan, None, WORSE, algorithm="finetuning"), ACCURACY
    )
    interval = stats.ttest_rel(BEST, WORSE).confidence_interval(0.95)
    assert difference.mean == pytest.approx(0.06)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def test_best_content_is_what_a_reader_needs_to_judge_it(plan, records):
    reference = record_of(plan, None, WORSE, algorithm="finetuning")
    failed = record_of(plan, 9, WORSE, state="failed", learned=1)
    content = best_json(plan, ranked(records), [*records, failed], [reference])
    assert (content["label"], content["number"]) == ("trial_00002", 2)
    assert content["values"] == records[2].values
    assert content["config"] == records[2].settings
    assert content["seeds"] == [0, 1, 2]
    assert content["metrics"]["average_accuracy"] == pytest.approx(0.92)
    assert content["indistinguishable"] == ["trial_00003", "trial_00001"]
    assert (content["objectives"], content["front"]) == ([ACCURACY], [])
    assert content["cost"] == asdict(cost_of([*records, failed]))
    assert content["trials"] == {"finished": len(records), "pruned": 0, "failed": 1}
    assert content["references"]["finetuning"]["metrics"] == reference.metrics
    interval = stats.ttest_rel(BEST, WORSE).confidence_interval(0.95)
    assert content["references"]["finetuning"]["difference"] == pytest.approx(
        {"mean": 0.06, "low": interval.low, "high": interval.high}
    )
    assert json.loads(json.dumps(content)) == content


def test_of_a_reference_that_failed_the_reason_is_kept(plan, records):
    reference = record_of(plan, None, WORSE, algorithm="finetuning", state="failed", learned=1)
    content = best_json(plan, ranked(records), records, [replace(reference, reason="diverged")])
    assert content["references"] == {"finetuning": {"state": "failed", "reason": "diverged"}}


def test_a_choice_has_the_values_and_the_score_of_the_best_alone(plan, records):
    best = record_of(plan, 7, BEST, {"distillation_factor": 3.0, "distillation_temperature": 2.0})
    choice = choice_of(ranked([*records[:2], best]))
    assert (choice.label, choice.values, choice.per_task) == ("trial_00007", best.values, ())
    assert choice.scores == {ACCURACY: pytest.approx(0.92)}


@pytest.mark.parametrize("learned", [1, 2, 3])
def test_the_accuracy_of_each_seed_is_the_mean_over_the_tasks_learned(plan, learned):
    record = record_of(plan, 0, [0.8, 0.6], learned=learned)
    assert metric_per_seed(record, ACCURACY) == pytest.approx([0.8, 0.6])


def test_a_metric_of_a_seed_by_hand(plan):
    R = [[[0.1, 0.1, 0.1], [0.9, 0.2, 0.3], [0.8, 0.6, 0.4], [0.1, 0.1, 0.1]]]
    record = replace(record_of(plan, 0, [0.8, 0.6], learned=2), accuracy=R)
    assert metric_per_seed(record, ACCURACY) == pytest.approx([0.7])  # (0.8 + 0.6) / 2, task 3 not learned
    assert metric_per_seed(record, FORGETTING) == pytest.approx([0.1])  # 0.9 - 0.8
    assert metric_per_seed(record, "learning_accuracy") == pytest.approx([0.75])  # (0.9 + 0.6) / 2


def test_the_cost_of_a_search_counts_each_task_on_each_seed_and_the_one_that_diverged(plan):
    lost = record_of(plan, 1, BEST, state="failed", learned=1)  # in task 2
    cut_off = record_of(plan, 2, BEST, state="unfinished", learned=2)
    found = cost_of([record_of(plan, 0, BEST), lost, cut_off, record_of(plan, 3, BEST, state="waiting", learned=0)])
    assert found == Cost(3 * (3 + 2 + 2), 4.5 + 1.5 + 3.0)
    assert cost_of([]) == Cost(0, 0)
    assert "reused" not in str(found)


def test_the_cost_says_what_was_taken_over_from_another_trial(plan):
    first, *others = (record_of(plan, number, BEST) for number in range(3))
    found = cost_of([first, *(replace(record, shared_seconds=1.25) for record in others)])
    assert (found.shared, found.saved) == (2 * 3, 2.5)
    assert str(found).endswith("6 of them were reused from a trial with an equal first task, which saved 2 s.")


# Other objectives, and several


def trial(plan, number, accuracy, forgetting):
    """A trial with these averages over three seeds, whose differences to others are the same on each seed."""
    return record_of(
        plan,
        number,
        [accuracy - 0.02, accuracy, accuracy + 0.02],
        forgetting=[forgetting + 0.01 * m for m in (-1, 0, 1)],
    )


def test_of_forgetting_less_is_better(plan):
    records = [trial(plan, n, 0.5 + forgetting, forgetting) for n, forgetting in enumerate((0.3, 0.1, 0.2))]
    assert [r.number for r in ranked(records, FORGETTING).trials] == [1, 2, 0]
    assert [r.number for r in ranked(records, ACCURACY).trials] == [0, 2, 1]
    assert choice_of(ranked(records, FORGETTING)).scores == {FORGETTING: pytest.approx(0.1)}
    assert ranked(records, FORGETTING).front == ()


def test_backward_transfer_is_a_gain_though_it_is_often_negative(plan):
    records = [trial(plan, n, 0.7, forgetting) for n, forgetting in enumerate((0.3, 0.1, 0.2))]
    assert [r.metrics["backward_transfer"] for r in records] == pytest.approx([-0.3, -0.1, -0.2])
    assert [r.number for r in ranked(records, "backward_transfer").trials] == [1, 2, 0]


def test_what_cannot_be_told_apart_is_judged_by_the_objective(plan):
    best = record_of(plan, 0, BEST, forgetting=[0.1, 0.2, 0.3])
    other = record_of(plan, 1, WORSE, forgetting=[0.3, 0.1, 0.3])
    assert ranked([best, other], ACCURACY).close == {best.label}
    assert ranked([best, other], FORGETTING).close == {best.label, other.label}


@pytest.fixture
def traded(plan):
    """Accuracy against forgetting: the first three are the front, 3 and 4 are dominated by 1."""
    pairs = [(0.90, 0.50), (0.85, 0.10), (0.50, 0.00), (0.80, 0.20), (0.85, 0.30)]
    return [trial(plan, n, *pair) for n, pair in enumerate(pairs)]


def test_the_front_has_what_no_other_trial_is_better_than_and_its_knee_is_chosen(traded):
    ranking = ranked(traded, ACCURACY, FORGETTING)
    # Scaled over the front: 1 + 0, 0.875 + 0.8, 0 + 1.
    assert ranking.best is traded[1]
    assert ranking.front == ("trial_00000", "trial_00001", "trial_00002")
    assert [r.number for r in ranking.trials] == [1, 0, 2, 4, 3]  # knee, front, others, by accuracy
    assert choice_of(ranking).scores == {ACCURACY: pytest.approx(0.85), FORGETTING: pytest.approx(0.1)}


def test_the_first_objective_orders_the_front_and_the_others(traded):
    ranking = ranked(traded, FORGETTING, ACCURACY)
    assert ranking.front == ("trial_00002", "trial_00001", "trial_00000")
    assert [r.number for r in ranking.trials] == [1, 2, 0, 3, 4]


def test_a_trial_that_did_not_finish_is_on_no_front(plan, traded):
    lost = replace(trial(plan, 9, 0.99, -0.1), state="failed")
    assert ranked([lost, *traded], ACCURACY, FORGETTING) == ranked(traded, ACCURACY, FORGETTING)


def test_a_trial_that_is_best_in_everything_is_the_whole_front(plan, traded):
    ranking = ranked([*traded, trial(plan, 5, 0.95, 0.0)], ACCURACY, FORGETTING)
    assert ranking.front == ("trial_00005",)
    assert ranking.best.number == 5


def test_of_equal_trials_all_are_on_the_front_and_the_earliest_is_chosen(plan):
    ranking = ranked([trial(plan, n, 0.8, 0.2) for n in range(3)], ACCURACY, FORGETTING)
    assert ranking.front == ("trial_00000", "trial_00001", "trial_00002")
    assert ranking.best.number == 0


def test_a_metric_of_many_trials_at_once_is_that_of_each(tmp_path, plan):
    unlearning = plan_of(tmp_path, "amnesiac_lwf", unlearn=("2:1",), space={"distillation_factor": LogRange(1, 9)})
    trials = [record_of(plan, n, [0.5 + 0.01 * n, 0.6, 0.7], learned=learned) for n, learned in enumerate((3, 2, 3, 1))]
    trials += [record_of(unlearning, n, [0.5 + 0.01 * n, 0.6, 0.7]) for n in (4, 5)]
    for learned in (None, 1):
        found = metric_of_each(trials, ACCURACY, learned)
        assert found == [pytest.approx(metric_per_seed(trial, ACCURACY, learned)) for trial in trials]
    assert len({str(values) for values in metric_of_each(trials, ACCURACY)}) == len(trials)


def test_alike_is_alike_in_every_objective(plan):
    best = record_of(plan, 0, BEST, forgetting=[0.1, 0.2, 0.3])
    in_both = record_of(plan, 1, LIKE, forgetting=[0.3, 0.1, 0.3])
    in_accuracy = record_of(plan, 2, LIKE, forgetting=[0.2, 0.31, 0.39])  # 10, 11 and 9 points more
    in_forgetting = record_of(plan, 3, WORSE, forgetting=[0.3, 0.1, 0.3])
    trials, both = [best, in_both, in_accuracy, in_forgetting], (ACCURACY, FORGETTING)
    assert labels_close_to_first(trials, both) == {best.label, in_both.label}
    assert labels_close_to_first(trials, (ACCURACY,)) >= {in_accuracy.label}
    assert labels_close_to_first(trials, (FORGETTING,)) >= {in_forgetting.label}
    ranking = ranked(trials, *both)
    assert ranking.best is best
    assert ranking.close == {best.label, in_both.label}


def test_the_difference_to_a_reference_is_of_the_metric_that_is_asked_for(plan, traded):
    reference = record_of(plan, None, [0.5] * 3, forgetting=[0.3, 0.5, 0.4], algorithm="finetuning")
    interval = stats.ttest_rel([0.09, 0.10, 0.11], [0.3, 0.5, 0.4]).confidence_interval(0.95)
    difference = difference_to_reference(traded[1], reference, FORGETTING)
    assert difference.mean == pytest.approx(-0.3)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def test_best_content_of_several_objectives_names_them_and_the_front(plan, traded):
    reference = record_of(plan, None, [0.5] * 3, forgetting=[0.3, 0.5, 0.4], algorithm="finetuning")
    content = best_json(plan, ranked(traded, FORGETTING, ACCURACY), traded, [reference])
    assert content["objectives"] == [FORGETTING, ACCURACY]
    assert content["front"] == ["trial_00002", "trial_00001", "trial_00000"]
    assert content["label"] == "trial_00001"
    assert content["references"]["finetuning"]["difference"]["mean"] == pytest.approx(-0.3)  # of the first
    assert json.loads(json.dumps(content)) == content


# The command that trains the best again


def rerun(study, plan, values):
    """The plan of the command that is printed for a best trial with these values."""
    words = shlex.split(rerun_command(plan, record_of(plan, 3, BEST, values)))
    assert words[:2] == plan.command[:2]
    return planned(study, *words[2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [0.1 + 0.2, 1 / 3, 1e-05, 3.0, 123456.7890123, 9.876543210987654e30, 1.2345678901234567e-30]
)
def test_the_command_holds_the_best_values_exactly(value):
    study = study_of("ewc")
    plan = planned(study)
    again = rerun(study, plan, {"penalty_factor": value, "penalty_p_norm": 1 + 1 / 3})
    assert again.space == {}
    assert again.config.penalty_factor == value
    assert again.config.penalty_p_norm == 1 + 1 / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--trials", "9"],
        ["--sampler", "grid", "--grid-points", "3"],
        ["--sampler", "random", "--sampler-seed", "4", "--trials", "9"],
        ["--penalty-factor", "2", "30", "--seeds", "2", "--first-seed", "6"],
        ["--iterations", "7", "--hidden", "6", "4", "--average-over-tasks"],
        ["--learning-rate", "0.01", "1"],
        ["--results", "else where", "--name", "other"],
        ["--penalty-p-norm", "1.5"],
        ["--objectives", "average_forgetting", "average_accuracy", "--sampler", "nsga2", "--trials", "9"],
        ["--tasks", "5", "--protocol", "first_k", "--first-k", "2"],
        ["--protocol", "two_phase", "--report-benchmark", "split-mnist"],
        ["--report-seeds", "2", "--first-report-seed", "77"],
        ["--no-final"],
    ],
    ids=" ".join,
)
def test_the_command_trains_the_same_configuration_on_the_same_seeds(args):
    study = study_of("ewc")
    plan = planned(study, *args)
    values = {name: (r.low + r.high) / 2 for name, r in plan.space.items()}
    again = rerun(study, plan, values)
    assert again.config == plan.trial_config(values)
    assert again.seeds == plan.seeds
    assert again.options.results == plan.options.results
    assert (again.space, again.trials) == ({}, 1)
    for name in ("protocol", "tasks", "reported", "objectives"):
        assert getattr(again, name) == getattr(plan, name)
    assert not again.options.final  # test data is not opened once more
    assert rerun_command(again, record_of(again, 0, [0.5] * 3, {})) is None
    assert again.report == (plan.report and plan.trial_config(values, on=plan.report))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"trials": 9},
        {"sampler": "grid"},
        {"sampler": "grid", "trials": 25},
        {"sampler": "nsga2", "objectives": (ACCURACY, FORGETTING)},
    ],
)
def test_a_budget_in_the_script_is_no_obstacle(settings):
    study = study_of("ewc", **settings)
    values = {"penalty_factor": 2.0, "penalty_p_norm": 1.5}
    assert rerun(study, planned(study), values).trials == 1


@pytest.mark.slow
@pytest.mark.parametrize("args", [[], ["--name", "other"]])
def test_the_commands_study_has_a_name_of_its_own(args):
    study = study_of("ewc")
    plan = planned(study, *args)
    again = rerun(study, plan, {"penalty_factor": 2.0, "penalty_p_norm": 1.5})
    assert again.options.name.startswith(plan.options.name)
    assert again.folder != plan.folder


def test_the_command_survives_a_shell_with_odd_paths(monkeypatch):
    monkeypatch.setattr("sys.argv", ["my studies/it's.py"])
    study = study_of("lwf", space={"learning_rate": LogRange(1e-3, 1)})
    plan = planned(study, "--results", "a b/$HOME")
    again = rerun(study, plan, {"learning_rate": 0.25})
    assert again.options.results == plan.options.results
    assert again.config.learning_rate == 0.25


def test_a_study_from_python_has_no_command(plan, records):
    assert rerun_command(plan, records[0]) is None
    assert best_json(plan, ranked(records), records, [])["command"] is None


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_command_has_choices_and_what_applies_to_the_best_alone(optimizer):
    study = study_of("lwf", space=MIXED_SPACE)
    plan = planned(study)
    values = plan.space.pick(lambda part: optimizer if part.name == "optimizer" else part.domain.points(2)[-1])
    again = rerun(study, plan, values)
    assert again.space == {}
    assert again.config == plan.trial_config(values)
    without = {name: value for name, value in values.items() if name != "teachers"} | {"teachers": None}
    assert rerun(study, plan, without).config == plan.trial_config(without)


def test_hyperparameters_that_the_script_fixes_stay_fixed():
    study = study_of("ewc", space={"penalty_p_norm": Range(1, 2)}, penalty_factor=3.0)
    again = rerun(study, planned(study), {"penalty_p_norm": 1.75})
    assert (again.config.penalty_factor, again.config.penalty_p_norm) == (3.0, 1.75)


def test_metrics_of_a_partly_learned_trial_do_not_make_it_best(plan, records):
    # Its mean over one task must never be compared with means over all.
    early = replace(record_of(plan, 9, [1.0, 1.0, 1.0], learned=1), state="failed")
    assert ranked([*records, early]).best is records[2]


# Intransigence: what a joint model knows of each task, and the trial never learned


def with_matrix(record, *members):
    """A record whose R are these 3x3 matrices (after task 1, 2, 3), one per seed, above a row 0 that must not count."""
    return replace(record, accuracy=[[[0.9, 0.9, 0.9], *rows] for rows in members])


#     after 1                 after 2          after 3
JOINT = [[0.90, 0.10, 0.20], [0.5, 0.80, 0.3], [0.6, 0.7, 0.70]]
TRIAL = [[0.85, 0.30, 0.40], [0.1, 0.90, 0.2], [0.2, 0.3, 0.40]]
OTHER_JOINT = [[1.00, 0, 0], [0, 0.60, 0], [0, 0, 0.50]]
OTHER_TRIAL = [[0.70, 0, 0], [0, 0.60, 0], [0, 0, 0.20]]


@pytest.fixture
def compared(tmp_path):
    """A trial of two seeds, finetuning and joint."""
    plan = plan_of(tmp_path, seeds=2, references=("finetuning", "joint"))
    trial = with_matrix(record_of(plan, 0, [0.5, 0.5]), TRIAL, OTHER_TRIAL)
    finetuning = with_matrix(record_of(plan, None, [0.5, 0.5], algorithm="finetuning"), OTHER_TRIAL, TRIAL)
    joint = with_matrix(record_of(plan, None, [0.5, 0.5], algorithm="joint"), JOINT, OTHER_JOINT)
    return trial, finetuning, joint


def test_intransigence_by_hand(compared):
    trial, finetuning = add_intransigence(list(compared))
    # Seed 0: (0.05 - 0.10 + 0.30) / 3; seed 1: (0.30 + 0 + 0.30) / 3.
    first, second = 0.25 / 3, 0.6 / 3
    assert trial.label == "trial_00000"
    assert trial.metrics["intransigence"] == pytest.approx((first + second) / 2)
    assert trial.metrics["intransigence/std"] == pytest.approx((second - first) / 2**0.5)
    # Seed 0: (0.20 + 0.20 + 0.50) / 3; seed 1: (0.15 - 0.30 + 0.10) / 3.
    assert finetuning.metrics["intransigence"] == pytest.approx((0.9 - 0.05) / 6)
    assert finetuning.metrics["intransigence/std"] == pytest.approx((0.9 + 0.05) / 3 / 2**0.5)


def test_intransigence_is_added_and_nothing_else_is_changed(compared):
    found = add_intransigence(list(compared))
    assert [r.label for r in found] == ["trial_00000", "reference_finetuning"]  # joint has none against itself
    for before, after in zip(compared, found, strict=False):
        assert "intransigence" not in before.metrics
        names = {"intransigence", "intransigence/std"}
        assert {k: v for k, v in after.metrics.items() if k not in names} == before.metrics
        assert replace(after, metrics=before.metrics) == before


def test_the_average_hides_what_is_paired_by_seed(compared):
    trial, _, joint = compared
    (found,) = add_intransigence([trial, joint])
    (crossed,) = add_intransigence([trial, replace(joint, accuracy=joint.accuracy[::-1])])
    assert crossed.metrics["intransigence"] == pytest.approx(found.metrics["intransigence"])
    assert crossed.metrics["intransigence/std"] != pytest.approx(found.metrics["intransigence/std"])


def test_intransigence_reads_no_cell_without_a_meaning(compared):
    trial, _, joint = compared
    (expected,) = add_intransigence([trial, joint])

    def lower(record):
        members = [
            [[v if j < i else None for j, v in enumerate(row)] for i, row in enumerate(R)] for R in record.accuracy
        ]
        return replace(record, accuracy=members)

    (found,) = add_intransigence([lower(trial), lower(joint)])
    assert found.metrics == expected.metrics
    assert np.isnan(accuracy_matrices(lower(joint))).sum() == 2 * (3 + 3)


def test_one_seed_has_no_spread_of_intransigence(tmp_path):
    plan = plan_of(tmp_path, seeds=1, references=("joint",))
    trial = with_matrix(record_of(plan, 0, [0.5]), TRIAL)
    joint = with_matrix(record_of(plan, None, [0.5], algorithm="joint"), JOINT)
    (found,) = add_intransigence([trial, joint])
    assert found.metrics["intransigence"] == pytest.approx(0.25 / 3)
    assert "intransigence/std" not in found.metrics


def test_without_a_joint_reference_that_finished_there_is_no_intransigence(compared):
    trial, finetuning, joint = compared
    assert add_intransigence([trial, finetuning]) == []
    for state in ("failed", "unfinished"):
        assert add_intransigence([trial, finetuning, replace(joint, state=state, tasks_learned=1)]) == []
    # A trial of joint training is no reference.
    assert add_intransigence([trial, replace(joint, number=1)]) == []
    assert add_intransigence([]) == []


def test_trials_that_did_not_finish_get_none(compared):
    trial, _, joint = compared
    lost = replace(trial, label="trial_00001", state="failed", tasks_learned=1)
    assert [r.label for r in add_intransigence([lost, trial, joint])] == ["trial_00000"]


def test_best_content_holds_intransigence_and_every_reference(compared):
    trial, finetuning, joint = compared
    trial, finetuning = add_intransigence([trial, finetuning, joint])
    plan = plan_of(Path("results"), seeds=2)
    content = best_json(plan, ranked([trial]), [trial], [finetuning, joint])
    assert content["metrics"]["intransigence"] == trial.metrics["intransigence"]
    assert list(content["references"]) == ["finetuning", "joint"]
    assert content["references"]["finetuning"]["metrics"] == finetuning.metrics
    assert "intransigence" not in content["references"]["joint"]["metrics"]
