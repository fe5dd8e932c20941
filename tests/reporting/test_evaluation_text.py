"""The table and sentences of a final evaluation, from numbers worked out by hand."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from clsearch import LogRange, Study
from clsearch.common.statistics import Interval
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening
from clsearch.reporting.evaluation_table import describe_target, format_row, make_evaluation_table
from clsearch.reporting.evaluation_text import describe_openings, describe_optimism, format_interval


def plan_of(**settings):
    defaults = {"space": {"distillation_factor": LogRange(0.1, 10)}, "tasks": 5, "hidden": (8,), "epochs": 1}
    return Study(algorithm="lwf", **(defaults | {"report_seeds": 3} | settings)).plan


def matrix(scores, forgotten, tasks):
    """R [M, T+1, T] whose average accuracy is `scores`, a number per seed, and whose forgetting is the same for all."""
    R = np.empty((len(scores), tasks + 1, tasks))
    R[:] = np.array(scores)[:, None, None] + forgotten
    R[:, tasks] -= forgotten
    return R


def row_of(configuration="chosen", scores=(0.90, 0.91, 0.92), forgotten=0.05, tasks=(1, 2, 3, 4, 5), **other):
    own = {
        "algorithm": "lwf" if configuration == "chosen" else configuration,
        "on": "full_sequence",
        "benchmark": "split-digits",
        "settings": {},
        "per_task": (),
        "validation": matrix([score + 0.02 for score in scores], forgotten, len(tasks)),
        "test": matrix(scores, forgotten, len(tasks)),
        "seconds": 1.0,
    }
    return EvaluatedConfiguration(configuration=configuration, tasks=tasks, **(own | other))


def final_of(*rows, plan=None, scores=None, before=0):
    opening = Opening("digits", "2030-01-02T03:04:05+00:00", "mine", "lwf", {}, (1000, 1001, 1002), before)
    choice = Choice("trial_00001", {"distillation_factor": 2.0}, scores or {"average_accuracy": 0.95})
    return FinalEvaluation.of(plan or plan_of(), choice, rows, (opening,), 7.5)


def text_of(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


REASON = "training diverged in epoch 1 of task 2 (loss or parameters not finite; seeds 1001)"


# Numbers


@pytest.mark.parametrize(
    ("found", "signed", "expected"),
    [
        (Interval(0.91, 0.885159, 0.934841), False, "91.00 (88.52 to 93.48)"),
        (Interval(0.02, -0.001, 0.041), True, "+2.00 (-0.10 to +4.10)"),
        (Interval(-0.02, -0.041, 0.001), True, "-2.00 (-4.10 to +0.10)"),
        (Interval(0.9, math.nan, math.nan), False, "90.00"),
        (Interval(0.9, math.nan, math.nan), True, "+90.00"),
    ],
)
def test_a_mean_is_in_percent_with_its_interval_where_it_has_one(found, signed, expected):
    assert format_interval(found, signed) == expected


def test_the_cells_of_a_row_are_its_accuracies_its_forgetting_and_the_choices_lead():
    """Student's t of three seeds is 4.3027, a standard deviation of 1 % gives 4.3027 / sqrt(3) = 2.48 points."""
    chosen, reference = row_of(), row_of("finetuning", (0.80, 0.82, 0.81), 0.15)
    final = final_of(chosen, reference)
    assert format_row(final, chosen) == ["93.00 (90.52 to 95.48)", "91.00 (88.52 to 93.48)", "5.00 (5.00 to 5.00)", ""]
    # Differences 0.10, 0.09, 0.11 seed by seed.
    assert format_row(final, reference)[1:] == [
        "81.00 (78.52 to 83.48)",
        "15.00 (15.00 to 15.00)",
        "+10.00 (+7.52 to +12.48)",
    ]


def test_a_row_that_diverged_says_so_and_no_number():
    row = row_of("finetuning", reason=REASON)
    assert format_row(final_of(row_of(), row), row) == ["training diverged in epoch 1 of task 2", "", "", ""]


def test_without_the_choice_a_reference_has_no_lead_to_show():
    reference = row_of("finetuning")
    assert format_row(final_of(row_of(reason=REASON), reference), reference)[3] == ""


# The table


def test_the_table_of_one_target_has_no_headings():
    shown = text_of(make_evaluation_table(final_of(row_of(), row_of("finetuning"), row_of("joint"))))
    assert "Final evaluation on 3 fresh seeds (1000 to 1002), mean (95 % interval)" in shown
    assert "full sequence" not in shown
    assert "reported" not in shown
    names = [line.split("  ")[0].strip() for line in shown.splitlines()]
    assert [name for name in names if name in ("chosen lwf", "finetuning", "joint")] == [
        "chosen lwf",
        "finetuning",
        "joint",
    ]


def test_the_table_of_one_seed_says_which():
    row = row_of(scores=(0.9,))
    shown = text_of(make_evaluation_table(final_of(row, plan=plan_of(report_seeds=1, first_report_seed=77))))
    assert "Final evaluation on 1 fresh seed (77), mean" in shown
    assert "90.00" in shown


def test_each_target_has_a_heading_before_its_rows():
    reported = [row_of(name, on="reported", tasks=(3, 4, 5)) for name in ("chosen", "finetuning")]
    full = [row_of(name, scores=(0.8, 0.8, 0.8)) for name in ("chosen", "finetuning")]
    shown = text_of(make_evaluation_table(final_of(*reported, *full, plan=plan_of(protocol="first_k", first_k=2))))
    assert "[" not in shown
    order = [
        "reported: tasks 3 to 5, fresh weights",
        "chosen lwf",
        "finetuning",
        "full sequence of split-digits",
        "chosen lwf",
        "finetuning",
    ]
    firsts = [line.split("  ")[0].strip() for line in shown.splitlines() if line.strip()]
    assert [first for first in firsts if first in order] == order


def test_a_second_benchmark_is_named():
    plan = plan_of(
        protocol="two_phase", benchmark="permuted-digits", report_benchmark="rotated-digits", tasks=3, scenario="domain"
    )
    reported = row_of(on="reported", tasks=(1, 2, 3), benchmark="rotated-digits")
    full = row_of(tasks=(1, 2, 3), benchmark="permuted-digits")
    final = final_of(reported, full, plan=plan)
    assert describe_target(final, reported) == "reported: rotated-digits"
    assert describe_target(final, full) == "full sequence of permuted-digits"


def test_a_folder_of_images_is_named_as_it_is():
    plan = plan_of(protocol="first_k", first_k=2)
    rows = row_of(on="reported", tasks=(3, 4, 5)), row_of(benchmark="folder:/data/pets [old]")
    assert "full sequence of folder:/data/pets [old]" in text_of(make_evaluation_table(final_of(*rows, plan=plan)))


# Sentences


def test_optimism_is_a_sentence_with_what_was_believed_and_what_was_found():
    assert describe_optimism(final_of(row_of())) == [
        "Optimism: the search estimated 95.00 % average accuracy. On 3 fresh seeds the same configuration has 93.00 "
        "(90.52 to 95.48) on validation data (optimism +2.00 points) and 91.00 (88.52 to 93.48) on test data (optimism "
        "+4.00 points)."
    ]


def test_believing_in_less_forgetting_than_there_is_is_optimism_above_zero():
    (line,) = describe_optimism(final_of(row_of(forgotten=0.05), scores={"average_forgetting": 0.02}))
    assert line.startswith("Optimism: the search estimated 2.00 % average forgetting. ")
    assert line.count("+3.00 points") == 2


def test_each_objective_has_a_sentence():
    lines = describe_optimism(final_of(row_of(), scores={"average_accuracy": 0.9, "average_forgetting": 0.1}))
    assert [line.partition(". ")[0] for line in lines] == [
        "Optimism: the search estimated 90.00 % average accuracy",
        "Optimism: the search estimated 10.00 % average forgetting",
    ]
    assert "(optimism -3.00 points)" in lines[0]
    assert "(optimism -5.00 points)" in lines[1]


def test_where_other_tasks_are_reported_optimism_says_that_the_test_is_of_those():
    reported, full = row_of(on="reported", tasks=(3, 4, 5), scores=(0.7, 0.7, 0.7)), row_of(forgotten=0)
    (line,) = describe_optimism(final_of(reported, full, plan=plan_of(protocol="first_k", first_k=2)))
    assert "has 93.00 (90.52 to 95.48) on validation data (optimism +2.00 points)" in line
    assert line.endswith("and 70.00 (70.00 to 70.00) on the reported test data (optimism +25.00 points).")


def test_a_choice_that_diverged_has_no_sentence():
    assert describe_optimism(final_of(row_of(reason=REASON))) == []


def test_a_metric_that_what_is_reported_lacks_is_not_shown_as_a_number():
    reported, full = row_of(on="reported", tasks=(4, 5)), row_of()
    final = final_of(reported, full, plan=plan_of(protocol="first_k"), scores={"accuracy/task_03": 0.9})
    assert not any("nan" in line for line in describe_optimism(final))


@pytest.mark.parametrize(
    ("before", "said"),
    [(0, "not been opened before"), (1, "been opened 1 time before"), (7, "been opened 7 times before")],
)
def test_it_is_said_how_often_test_data_had_been_opened_before(before, said):
    assert describe_openings(final_of(row_of(), before=before)) == [
        f"The test data of digits was opened once for this evaluation, after the choice; it had {said} in this results "
        f"folder."
    ]
