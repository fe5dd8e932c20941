"""What a final evaluation found, from small matrices: intervals against scipy, optimism and intransigence by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from clsearch import LogRange, Study, metrics
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.records.evaluation_file import accuracy_table, evaluation_json, intervals_as_json, metrics_table
from clsearch.records.ranking import Choice
from clsearch.records.study_file import finite
from clsearch.records.test_ledger import Opening

SEEDS = 4
T = 5
NAN = math.nan


def plan_of(algorithm="lwf", **settings):
    defaults = {"space": {"distillation_factor": LogRange(0.1, 10)}, "tasks": T, "hidden": (8,), "epochs": 1}
    return Study(algorithm=algorithm, **(defaults | {"report_seeds": SEEDS} | settings)).plan


def matrices(number, tasks=T, seeds=SEEDS):
    """R [M, T+1, T], no two numbers alike."""
    return np.random.default_rng(number).random((seeds, tasks + 1, tasks))


def row_of(configuration="chosen", algorithm="lwf", on="full_sequence", number=0, tasks=(1, 2, 3, 4, 5), **other):
    """A configuration whose validation matrices are `matrices(number)`, its test matrices `matrices(number + 1)`."""
    own = {
        "benchmark": "split-digits",
        "settings": {"learning_rate": 0.1},
        "per_task": (),
        "validation": matrices(number, len(tasks)),
        "test": matrices(number + 1, len(tasks)),
        "seconds": 2.5,
    }
    return EvaluatedConfiguration(configuration=configuration, algorithm=algorithm, on=on, tasks=tasks, **(own | other))


def lost(row):
    """The row as where training diverged after two tasks."""
    cut = {part: getattr(row, part).copy() for part in ("validation", "test")}
    for part in cut.values():
        part[:, 3:] = NAN
    return replace(row, reason="training diverged in epoch 1 of task 3 (loss not finite; seeds 1001)", **cut)


OPENING = Opening("digits", "2030-01-02T03:04:05+00:00", "mine", "lwf", {"distillation_factor": 2.0}, (1000, 1001), 3)


def final_of(*rows, plan=None, scores=None, per_task=()):
    choice = Choice("trial_00001", {"distillation_factor": 2.0}, scores or {"average_accuracy": 0.9}, per_task)
    return FinalEvaluation.of(plan or plan_of(), choice, rows, (OPENING,), 7.5)


def first_k(k, *rows, scores=None):
    return final_of(*rows, plan=plan_of(protocol="first_k", first_k=k), scores=scores)


# Rows


def test_what_is_reported_is_the_first_row():
    reported, full = row_of(on="reported", tasks=(3, 4, 5), number=10), row_of(number=20)
    final = first_k(2, reported, row_of("finetuning", "finetuning", "reported", 30, (3, 4, 5)), full)
    assert final.reported_on == "reported"
    assert final.reported is reported
    assert final.row("chosen", "full_sequence") is full
    assert final.row("finetuning", "full_sequence") is None
    assert final_of(full).reported is full
    assert final_of(full).reported_on == "full_sequence"


def test_a_row_that_diverged_is_none_and_has_no_metrics():
    row = lost(row_of())
    final = final_of(row)
    assert final.reported is None
    assert final.row("chosen", "full_sequence") is None
    assert row.per_seed("validation") == {}
    assert final.intervals(row, "test") == {}


def test_a_row_has_every_metric_of_each_seed_after_all_its_tasks_or_the_first():
    row = row_of(number=3)
    for part, R in (("validation", matrices(3)), ("test", matrices(4))):
        found = row.per_seed(part)
        assert set(found) == set(metrics.summary(R, T))
        for m in range(SEEDS):
            assert found["average_accuracy"][m].item() == pytest.approx(R[m, 5].mean().item())
            assert found["learning_accuracy"][m].item() == pytest.approx(sum(R[m, j, j - 1] for j in range(1, 6)) / 5)
        early = row.per_seed(part, 2)
        assert "accuracy/task_03" not in early
        np.testing.assert_allclose(early["average_accuracy"], (R[:, 2, 0] + R[:, 2, 1]) / 2)


# Intervals


def test_intervals_are_those_of_scipy():
    row = row_of(number=5)
    for part, R in (("validation", matrices(5)), ("test", matrices(6))):
        found = final_of(row).intervals(row, part)
        assert set(found) == set(metrics.summary(R, T))
        for name, values in metrics.summary(R, T).items():
            expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            assert found[name].mean == pytest.approx(values.mean().item())
            assert (found[name].low, found[name].high) == pytest.approx((expected.low, expected.high))


def test_differences_are_the_choices_minus_a_references_paired_over_seeds():
    chosen, reference = row_of(number=7), row_of("finetuning", "finetuning", number=40)
    final = final_of(chosen, reference)
    for part in ("validation", "test"):
        for name in ("average_accuracy", "average_forgetting"):
            own, others = (metrics.summary(getattr(r, part), T)[name] for r in (chosen, reference))
            found = final.against(reference, part, name)
            expected = stats.ttest_rel(own, others).confidence_interval(0.95)
            assert found.mean == pytest.approx(own.mean() - others.mean())
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_is_to_the_choice_on_the_same_tasks():
    rows = [row_of(on=on, number=n, tasks=t) for on, n, t in (("reported", 1, (3, 4, 5)), ("full_sequence", 5, (1, 2)))]
    references = [replace(r, configuration="finetuning", test=r.test / 2) for r in rows]
    final = first_k(2, rows[0], references[0], rows[1], references[1])
    for row, reference in zip(rows, references, strict=True):
        found = final.against(reference, "test", "average_accuracy")
        assert found.mean == pytest.approx(metrics.average_accuracy(row.test, len(row.tasks)).mean().item() / 2)


def test_the_choice_has_no_difference_to_itself_nor_what_diverged_to_anything():
    chosen, reference = row_of(number=1), row_of("finetuning", "finetuning", number=3)
    assert final_of(chosen).against(chosen, "test", "average_accuracy") is None
    broken = lost(reference)
    assert final_of(chosen, broken).against(broken, "test", "average_accuracy") is None
    assert final_of(lost(chosen), reference).against(reference, "test", "average_accuracy") is None


# Intransigence


def test_intransigence_is_joint_minus_own_learning_accuracy_seed_by_seed():
    chosen, joint = row_of(number=1), row_of("joint", "joint", number=3)
    reference = row_of("finetuning", "finetuning", number=5)
    final = final_of(chosen, reference, joint)
    for part in ("validation", "test"):
        upper = getattr(joint, part)
        for row in (chosen, reference):
            R = getattr(row, part)
            expected = [
                np.mean([(upper[m, j, j - 1] - R[m, j, j - 1]).item() for j in range(1, 6)]) for m in range(SEEDS)
            ]
            assert final.per_seed(row, part)["intransigence"].tolist() == pytest.approx(expected)
            found = final.intervals(row, part)["intransigence"]
            bounds = stats.ttest_1samp(expected, 0).confidence_interval(0.95)
            assert (found.mean, found.low, found.high) == pytest.approx((np.mean(expected), bounds.low, bounds.high))
        assert "intransigence" not in final.per_seed(joint, part)


def test_intransigence_is_against_joint_training_on_the_same_tasks():
    rows = [row_of(on="reported", number=1, tasks=(3, 4, 5)), row_of("joint", "joint", "reported", 3, (3, 4, 5))]
    full = row_of(number=9)
    final = first_k(2, *rows, full)
    assert "intransigence" in final.per_seed(rows[0], "test")
    assert "intransigence" not in final.per_seed(full, "test")  # joint was not trained on those


@pytest.mark.parametrize("joint", [None, "diverged"])
def test_without_a_joint_reference_there_is_no_intransigence(joint):
    chosen = row_of(number=1)
    rows = [chosen] if joint is None else [chosen, lost(row_of("joint", "joint", number=3))]
    assert "intransigence" not in final_of(*rows).intervals(chosen, "test")


# Optimism


def test_optimism_is_what_was_believed_minus_what_is_on_fresh_seeds():
    row = row_of(number=1)
    (found,) = final_of(row, scores={"average_accuracy": 0.9}).optimism
    seen, test = matrices(1)[:, 5].mean(1), matrices(2)[:, 5].mean(1)
    assert (found.metric, found.believed) == ("average_accuracy", 0.9)
    assert found.validation.mean == pytest.approx(seen.mean().item())
    assert found.test.mean == pytest.approx(test.mean().item())
    assert found.against_validation == pytest.approx(0.9 - seen.mean().item())
    assert found.against_test == pytest.approx(0.9 - test.mean().item())
    for interval, values in ((found.validation, seen), (found.test, test)):
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def flat(forgotten):
    """R [M, 4, 3] where accuracy is 0.9, and each earlier task has lost `forgotten` at the end."""
    R = np.full((SEEDS, 4, 3), 0.9)
    R[:, 3, :2] -= forgotten
    return R


def test_where_less_is_better_optimism_is_how_much_less_was_believed():
    row = row_of(tasks=(1, 2, 3), validation=flat(0.3), test=flat(0.4))
    scores = {
        "average_forgetting": 0.1,
        "forgetting/task_01": 0.35,
        "average_accuracy": 0.75,
        "backward_transfer": -0.1,
    }
    found = {o.metric: o for o in final_of(row, plan=plan_of(tasks=3), scores=scores).optimism}
    assert list(found) == list(scores)
    against = {name: (o.against_validation, o.against_test) for name, o in found.items()}
    assert against["average_forgetting"] == pytest.approx((0.2, 0.3))
    assert against["forgetting/task_01"] == pytest.approx((-0.05, 0.05))
    assert against["average_accuracy"] == pytest.approx((0.75 - 0.7, 0.75 - (0.9 - 0.8 / 3)))
    assert against["backward_transfer"] == pytest.approx((0.2, 0.3))


def test_first_k_believed_what_it_saw_after_k_tasks_so_fresh_seeds_are_asked_the_same():
    """The full sequence's R after k = 2 tasks, by hand; its test score is of the tasks that are reported."""
    reported, full = row_of(on="reported", number=1, tasks=(3, 4, 5)), row_of(number=3)
    scores = {"average_accuracy": 0.9, "average_forgetting": 0.05, "average_incremental_accuracy": 0.9}
    found = {o.metric: o for o in first_k(2, reported, full, scores=scores).optimism}
    R = matrices(3)
    assert found["average_accuracy"].validation.mean == pytest.approx(((R[:, 2, 0] + R[:, 2, 1]) / 2).mean().item())
    assert found["average_forgetting"].validation.mean == pytest.approx((R[:, 1, 0] - R[:, 2, 0]).mean().item())
    steps = (R[:, 1, 0] + (R[:, 2, 0] + R[:, 2, 1]) / 2) / 2
    assert found["average_incremental_accuracy"].validation.mean == pytest.approx(steps.mean().item())
    test = matrices(2, 3)
    assert found["average_accuracy"].test.mean == pytest.approx(test[:, 3].mean().item())
    assert found["average_accuracy"].against_test == pytest.approx(0.9 - test[:, 3].mean().item())


def test_what_is_reported_may_lack_a_metric_of_the_search():
    """accuracy/task_03 of three searched tasks; the two that are reported have no third."""
    reported, full = row_of(on="reported", number=1, tasks=(4, 5)), row_of(number=3)
    (found,) = first_k(3, reported, full, scores={"accuracy/task_03": 0.9}).optimism
    assert found.validation.mean == pytest.approx(matrices(3)[:, 3, 2].mean().item())
    assert found.test is None
    assert math.isnan(found.against_test)


def test_two_phase_is_asked_again_on_the_searchs_benchmark_and_tested_on_the_other():
    plan = plan_of(
        protocol="two_phase", benchmark="permuted-digits", report_benchmark="rotated-digits", tasks=3, scenario="domain"
    )
    reported = row_of(on="reported", number=1, tasks=(1, 2, 3), benchmark="rotated-digits")
    full = row_of(number=3, tasks=(1, 2, 3), benchmark="permuted-digits")
    (found,) = final_of(reported, full, plan=plan).optimism
    assert found.validation.mean == pytest.approx(matrices(3, 3)[:, 3].mean().item())
    assert found.test.mean == pytest.approx(matrices(2, 3)[:, 3].mean().item())


def test_continual_believed_its_learning_accuracy():
    plan = plan_of(protocol="continual")
    (found,) = final_of(row_of(number=1), plan=plan, scores={"learning_accuracy": 0.97}).optimism
    for interval, R in ((found.validation, matrices(1)), (found.test, matrices(2))):
        assert interval.mean == pytest.approx(np.mean([[R[m, j, j - 1] for j in range(1, 6)] for m in range(SEEDS)]))
    assert found.against_validation == pytest.approx(0.97 - found.validation.mean)


def test_a_choice_that_diverged_on_fresh_seeds_has_no_optimism():
    reported, full = row_of(on="reported", number=1, tasks=(3, 4, 5)), row_of(number=3)
    assert final_of(lost(full)).optimism == ()
    assert first_k(2, lost(reported), full).optimism == ()
    assert first_k(2, reported, lost(full)).optimism == ()


def test_one_seed_has_means_without_intervals():
    row = row_of(validation=matrices(1, seeds=1), test=matrices(2, seeds=1))
    final = final_of(row, plan=plan_of(report_seeds=1))
    found = final.intervals(row, "test")["average_accuracy"]
    assert found.mean == pytest.approx(matrices(2, seeds=1)[0, 5].mean().item())
    assert math.isnan(found.low)
    assert math.isnan(found.high)


# Tables


def test_the_table_has_a_row_per_configuration_target_and_part_with_the_ends_of_its_intervals():
    rows = (
        row_of(on="reported", number=1, tasks=(3, 4, 5)),
        row_of("finetuning", "finetuning", "reported", 11, (3, 4, 5)),
        row_of(number=21),
        lost(row_of("finetuning", "finetuning", number=31)),
    )
    final = first_k(2, *rows)
    table = metrics_table(final)
    assert list(zip(table.configuration, table.on, table.part, strict=True)) == [
        (row.configuration, row.on, part) for row in rows for part in ("validation", "test")
    ]
    assert list(table.tasks) == ["3 4 5"] * 4 + ["1 2 3 4 5"] * 4
    assert list(table.benchmark) == ["split-digits"] * 8
    parts = [(row, part) for row in rows for part in ("validation", "test")]
    for (_, line), (row, part) in zip(table.iterrows(), parts, strict=True):
        if row.reason:
            assert line.reason == row.reason
            assert math.isnan(line.average_accuracy)
            continue
        assert line.reason == ""
        values = metrics.summary(getattr(row, part), len(row.tasks))["average_forgetting"]
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert line.average_forgetting == pytest.approx(values.mean())
        assert line["average_forgetting/low"] == pytest.approx(expected.low)
        assert line["average_forgetting/high"] == pytest.approx(expected.high)
    assert list(table.seconds) == [2.5] * 8


def test_every_accuracy_has_a_cell_with_its_seed_and_the_tasks_learned():
    rows = (row_of(on="reported", number=1, tasks=(3, 4, 5)), row_of(number=21), lost(row_of("joint", "joint")))
    final = first_k(2, *rows)
    table = accuracy_table(final)
    assert len(table) == sum(2 * SEEDS * (len(row.tasks) + 1) for row in rows)
    for row in rows:
        for part in ("validation", "test"):
            for m, seed in enumerate(final.seeds):
                own = table[(table.on == row.on) & (table.configuration == row.configuration)]
                own = own[(own.part == part) & (own.seed == seed)].sort_values("tasks_learned")
                assert list(own.tasks_learned) == list(range(len(row.tasks) + 1))
                found = own[[f"task_{j:02d}" for j in range(1, 6)]].to_numpy()
                places = [task - 1 for task in row.tasks]  # a task's number, whichever were learned
                np.testing.assert_array_equal(found[:, places], getattr(row, part)[m])
                assert np.isnan(np.delete(found, places, axis=1)).all()


def test_a_metric_of_one_task_has_the_tasks_number_in_the_whole_sequence():
    row = row_of(on="reported", number=1, tasks=(4, 5))
    values = row.per_seed("test")
    assert {name for name in values if "/" in name} == {"accuracy/task_04", "accuracy/task_05", "forgetting/task_04"}
    np.testing.assert_array_equal(values["accuracy/task_05"], row.test[:, 2, 1])


# final.json


def test_final_json_holds_what_was_found():
    chosen, joint = row_of(number=1, per_task=({"learning_rate": 0.1},) * 5), row_of("joint", "joint", number=3)
    final = final_of(chosen, joint, per_task=({"learning_rate": 0.1},) * 5)
    content = evaluation_json(final)
    assert content["protocol"] == "end_of_sequence"
    assert content["choice"] == {
        "label": "trial_00001",
        "values": {"distillation_factor": 2.0},
        "scores": {"average_accuracy": 0.9},
        "per_task": ({"learning_rate": 0.1},) * 5,
    }
    assert content["seeds"] == {"selecting": [0, 1, 2], "reporting": [1000, 1001, 1002, 1003]}
    assert content["openings"] == [OPENING.as_json()]
    (optimism,) = content["optimism"]
    assert optimism["metric"] == "average_accuracy"
    assert optimism["against_test"] == pytest.approx(0.9 - optimism["test"]["mean"])
    own, other = content["rows"]
    assert (own["configuration"], own["algorithm"], own["on"]) == ("chosen", "lwf", "full_sequence")
    assert (own["tasks"], own["config"], own["per_task"]) == (
        [1, 2, 3, 4, 5],
        {"learning_rate": 0.1},
        [{"learning_rate": 0.1}] * 5,
    )
    assert "chosen_minus_this" not in own["test"]
    assert "intransigence" in own["test"]
    values = [metrics.average_accuracy(R, T) for R in (matrices(2), matrices(4))]
    expected = stats.ttest_rel(*values).confidence_interval(0.95)
    assert other["test"]["chosen_minus_this"] == pytest.approx(
        {"mean": (values[0] - values[1]).mean(), "low": expected.low, "high": expected.high}
    )
    assert content["seconds"] == 7.5


def test_final_json_is_json_even_where_training_diverged_or_there_is_one_seed():
    broken = lost(row_of("finetuning", "finetuning", number=3))
    for final in (
        final_of(row_of(number=1), broken),
        final_of(broken),
        final_of(
            row_of(validation=matrices(1, seeds=1), test=matrices(2, seeds=1)),
            plan=plan_of(report_seeds=1),
            scores={"average_accuracy": 0.5, "average_forgetting": 0.1},
        ),
    ):
        content = finite(evaluation_json(final))
        assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
    lines = finite(evaluation_json(final_of(row_of(number=1), broken)))["rows"]
    assert lines[1]["reason"] == broken.reason
    assert (lines[1]["validation"], lines[1]["test"]) == ({}, {})


def test_intervals_are_shown_by_name():
    row = row_of(number=1)
    intervals = final_of(row).intervals(row, "test")
    assert intervals_as_json({"average_accuracy": intervals["average_accuracy"]}) == {
        "average_accuracy": vars(intervals["average_accuracy"])
    }
