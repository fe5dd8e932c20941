"""The summary that a study prints at its end."""

import io
import re
import runpy
from dataclasses import replace

import pytest
from rich.console import Console

from clsearch import LogRange
from clsearch.records.attempts import METHOD_PHASE, RATE_PHASE, Attempt, Decision
from clsearch.records.ranking import Choice, choice_of, rank
from clsearch.reporting.result import StudyResult
from clsearch.reporting.terminal import print_result
from clsearch.reporting.trial_tables import MAX_FRONT_ROWS, TABLE_ROWS
from clsearch.tracking.stores import mlflow_row
from tests.builders import STUDIES, final_of, measured_of, plan_of, planned, record_of, study_of, write_images


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def printed(found, width=80):
    """What is printed of a result."""
    console = Console(file=io.StringIO(), width=width)
    print_result(console, found, mlflow_row(found.plan, bool(found.pages)))
    return console.file.getvalue()


def result_of(plan, records, references=(), **more):
    """What a study of these records found."""
    ranking = rank(list(records), plan.objectives)
    return StudyResult(plan, list(records), list(references), ranking, choice_of(ranking), None, False, **more)


def shown(plan, records, references=(), width=80, **more):
    return printed(result_of(plan, records, references, **more), width)


def in_one_line(text):
    """Text without its line breaks and rows of spaces."""
    return re.sub(r"\s+", " ", text)


def finetuning(plan, scores=(0.5, 0.52, 0.54), **more):
    return record_of(plan, None, list(scores), algorithm="finetuning", **more)


def row_of(text, first):
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return row


def rows_below(text, title):
    """The rows of a table: from its rule to the next empty line."""
    lines = text[text.index(title) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("──")) + 1
    return [line.split() for line in lines[start : next(i for i in range(start, 99) if not lines[i].strip())]]


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_no_cell_of_a_scripts_summary_is_cut_off_at_80_columns(path, tmp_path):
    study = runpy.run_path(str(path))["study"]
    plan = planned(study, "--results", str(tmp_path))
    # Spreads of two digits before the point, numbers of five, values of eight characters.
    scores = [[0.2, 0.5 + 0.1 * n, 0.45] for n in range(6)]
    values = [{name: 0.0012345 * (n + 1) if r.log else 1.2345 for name, r in plan.space.items()} for n in range(6)]
    forgetting = {"average_forgetting": 0.1234, "average_forgetting/std": 0.1234}
    records = [record_of(plan, 10_000 + n, s, v) for n, (s, v) in enumerate(zip(scores, values, strict=True))]
    lost = (
        forgetting | {"intransigence": 0.1234, "intransigence/std": 0.1234}
        if "joint" in plan.references
        else forgetting
    )
    records = [replace(r, metrics=r.metrics | lost, seconds=1234.5) for r in records]
    references = [record_of(plan, None, [0.2, 0.5, 0.45], algorithm=name) for name in plan.references]
    text = shown(plan, records, references)
    assert "…" not in text
    heading = text[text.index("Validation") : text.index("──")]
    assert {word for name in plan.space for word in name.split("_")} <= set(heading.split())
    assert "not shown" in heading
    assert "worse" in heading
    assert [row[0] for row in rows_below(text, "Validation")] == [f"#1000{n}" for n in (5, 4, 3, 2, 1)]
    for name in plan.references:
        assert row_of(text, name)[1 : 1 + len(plan.space)] == ["–"] * len(plan.space)


def test_the_best_comes_first_with_its_values(plan):
    records = [
        record_of(plan, n, [0.5 + n / 10] * 3, {"distillation_factor": 1.5 * n, "distillation_temperature": 2.0})
        for n in (1, 3, 2)
    ]
    text = shown(plan, records)
    first = "Best configuration (trial 3): distillation_factor = 4.5, distillation_temperature = 2 "
    assert first in re.sub(r"\s+", " ", text)
    assert [row[0] for row in rows_below(text, "Validation")] == ["#3", "#2", "#1"]
    assert row_of(text, "#3")[1:6] == ["4.5", "2", "80.00", "±", "0.00"]


def test_the_references_row_has_its_accuracy_and_the_difference_its_interval(plan):
    text = shown(plan, [record_of(plan, 0, [0.9, 0.92, 0.94])], [finetuning(plan, (0.85, 0.86, 0.87))])
    assert row_of(text, "finetuning")[:6] == ["finetuning", "–", "–", "86.00", "±", "1.00"]
    # Differences 5, 6, 7 points: 6 ± 4.303 / sqrt(3).
    assert "Against finetuning: +6.00 points, 95 % interval +3.52 to +8.48." in text


def test_the_seconds_of_trials_and_references_are_shown(plan):
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)], [replace(finetuning(plan), seconds=12.34)])
    assert row_of(text, "#0")[-2:] == ["4.5", "best"]
    assert row_of(text, "finetuning")[-1] == "12.3"
    assert "seconds" in text


def test_what_joint_training_knows_more_has_a_column_where_it_was_measured(plan):
    best, base = record_of(plan, 0, [0.9] * 3), finetuning(plan)
    joint = record_of(plan, None, [0.95] * 3, algorithm="joint")
    assert "sigence" not in shown(plan, [best], [base])
    assert "sigence" not in shown(plan, [best], [base, joint])
    best, base = (replace(r, metrics=r.metrics | {"intransigence": v}) for r, v in ((best, 0.0321), (base, -0.0123)))
    text = shown(plan, [best], [base, joint])
    assert re.search(r"intran-", text)
    assert row_of(text, "#0")[-3:] == ["3.21", "4.5", "best"]
    assert row_of(text, "finetuning")[-2:] == ["-1.23", "4.5"]
    assert row_of(text, "joint")[-2:] == ["–", "4.5"]


def test_every_reference_has_a_row_and_a_line_in_the_order_that_it_is_given(plan):
    names = ["joint", "finetuning", "independent"]
    references = [record_of(plan, None, [0.8, 0.82, 0.84], algorithm=name) for name in names]
    text = shown(plan, [record_of(plan, 0, [0.9, 0.92, 0.94])], references)
    assert [row[0] for row in rows_below(text, "Validation")[1:]] == []
    assert [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0] in names] == names
    assert re.findall(r"Against (\w+): \+10\.00 points", text) == names


def test_without_references_there_is_nothing_to_compare_with(plan):
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)])
    assert "Against" not in text
    assert "finetuning" not in text


def test_trials_that_are_not_shown_to_be_worse_than_the_best_are_marked(plan):
    scores = [[0.90, 0.92, 0.94], [0.89, 0.89, 0.95], [0.85, 0.86, 0.87]]
    text = shown(plan, [record_of(plan, n, s) for n, s in enumerate(scores)])
    assert row_of(text, "#0")[-1] == "best"
    assert row_of(text, "#1")[-1] == "yes"
    assert row_of(text, "#2")[-1] not in ("best", "yes")
    assert "contains 0; this holds for 1 of 2 other trials." in in_one_line(text)


def test_one_seed_has_no_deviation_and_no_interval(tmp_path):
    plan = plan_of(tmp_path, seeds=1)
    text = shown(plan, [record_of(plan, 0, [0.9])], [finetuning(plan, [0.5])])
    assert "over 1 seed\n" in re.sub(r" +\n", "\n", text)
    assert "One seed has no interval" in text
    assert "Against finetuning: +40.00 points." in text
    assert row_of(text, "#0")[3] == "90.00"
    assert "nan" not in text


def test_the_matrix_of_the_best_is_the_mean_over_seeds(plan):
    best = record_of(plan, 0, [0.7, 0.8, 0.9])
    rows = rows_below(shown(plan, [best]), "Accuracy (%) of the best")
    assert rows == [["1", "79.2", "80.2", "81.2"], ["2", "79.1", "80.1", "81.1"], ["3", "79.0", "80.0", "81.0"]]


def test_cells_of_the_matrix_without_a_meaning_are_blank(tmp_path):
    plan = plan_of(tmp_path, scenario="class")
    nan = float("nan")
    R = [[[nan] * 3, [0.9, nan, nan], [0.6, 0.9, nan], [0.4, 0.5, 0.9]]] * 3
    rows = rows_below(shown(plan, [replace(record_of(plan, 0, [0.6] * 3), accuracy=R)]), "Accuracy (%) of the best")
    assert rows == [["1", "90.0"], ["2", "60.0", "90.0"], ["3", "40.0", "50.0", "90.0"]]


@pytest.mark.parametrize(("trials", "words"), [(3, True), (2, False)])
def test_trials_that_an_interrupt_cut_off_are_counted(tmp_path, trials, words):
    plan = plan_of(tmp_path, trials=trials)
    records = [record_of(plan, 0, [0.9] * 3), record_of(plan, 1, [0.5] * 3, state="failed", learned=0, reason="lost")]
    assert ("1 of 3 trials did not finish" in shown(plan, records)) == words


def test_no_trial_finished_is_said_with_the_first_reason(plan):
    records = [
        record_of(plan, n, [0.5] * 3, state="failed", learned=0, reason=f"diverged in epoch {n + 1}") for n in range(3)
    ]
    text = shown(plan, records, [finetuning(plan)])
    assert "No trial finished." in text
    assert "3 of 3 trials failed. The first reason: diverged in epoch 1" in text
    assert "Best configuration" not in text
    assert "Retrain" not in text


def test_failed_trials_are_counted_beside_the_best(plan):
    records = [record_of(plan, 0, [0.9] * 3), record_of(plan, 1, [0.5] * 3, state="failed", learned=0, reason="lost")]
    text = shown(plan, records)
    assert "1 of 2 trials failed. The first reason: lost" in text
    assert "#1" not in text


def test_no_failure_is_no_news(plan):
    assert "failed" not in shown(plan, [record_of(plan, 0, [0.9] * 3)])


@pytest.mark.slow
def test_a_reference_that_failed_has_no_row_but_its_reason(plan):
    failed = replace(finetuning(plan, state="failed", learned=0), reason="training diverged")
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)], [failed])
    assert text.count("finetuning") == 1
    assert "Reference finetuning failed: training diverged." in text
    joint = shown(plan, [record_of(plan, 0, [0.9] * 3)], [replace(failed, algorithm="joint")])
    assert "Reference joint failed: training diverged, so intransigence was not measured." in in_one_line(joint)


def test_a_study_that_searches_nothing_is_shown_as_given(tmp_path):
    plan = plan_of(tmp_path, space={})
    text = shown(plan, [record_of(plan, 0, [0.9] * 3, {})])
    assert "\nConfiguration (trial 0): as given" in text
    assert "optimistic" not in text


# Where everything is


def test_paths_are_named_and_the_picture_only_where_there_is_one(plan):
    records = [record_of(plan, 0, [0.9] * 3)]
    assert f"{plan.folder}/" in shown(plan, records)
    assert "response.png" not in shown(plan, records)
    plan.folder.mkdir()
    (plan.folder / "response.png").write_bytes(b"")
    assert f"{plan.folder}/response.png" in shown(plan, records)


def test_paths_below_the_working_directory_are_short(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)])
    assert re.search(r"^Record +mine/ ", text, re.MULTILINE)


def test_the_studys_own_store_comes_with_the_command_that_shows_it(plan, tmp_path):
    (line,) = re.findall(r"^MLflow .*", shown(plan, [record_of(plan, 0, [0.9] * 3)]), re.MULTILINE)
    assert f"-m mlflow server --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in line
    assert line.endswith("then open http://127.0.0.1:5000")


def test_pages_that_show_the_study_have_a_line_each_unbroken(plan):
    pages = {"Trials": f"http://127.0.0.1:5000/#/{'x' * 100}", "Compare": f"http://127.0.0.1:5000/#/{'y' * 300}"}
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)], pages=pages)
    assert f"\nTrials   {pages['Trials']}\nCompare  {pages['Compare']}\n" in text
    assert "then open" not in text


def test_a_server_is_named_without_its_password(tmp_path):
    plan = plan_of(tmp_path, tracking_uri="http://bob:secret@mlflow.example:5000")
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)])
    assert "http://mlflow.example:5000, experiment mine" in text
    assert "secret" not in text
    assert "mlflow server" not in text


def test_the_command_that_trains_the_best_again_is_on_one_line(tmp_path):
    plan = planned(study_of(results=tmp_path), "--seeds", "2", "--hidden", "6", "4", "--batch-size", "7")
    values = {"distillation_factor": 0.1 + 0.2, "distillation_temperature": 2.0}
    (line,) = re.findall(r"^Retrain .*", shown(plan, [record_of(plan, 0, [0.9] * 2, values)]), re.MULTILINE)
    assert "--distillation-factor 0.30000000000000004 --distillation-temperature 2.0" in line
    assert "--hidden 6 4 --batch-size 7" in line


def test_a_study_from_python_prints_no_command(plan):
    assert "Retrain" not in shown(plan, [record_of(plan, 0, [0.9] * 3)])


def test_a_reason_with_brackets_is_shown_as_it_is(plan):
    lost = record_of(plan, 0, [0.1, 0.1, 0.1], {}, state="failed", learned=0, reason="could not read [/data/mnist]")
    assert "could not read [/data/mnist]" in shown(plan, [lost]).replace("\n", " ")


def test_no_number_of_three_hyperparameters_is_cut_off_at_60_columns(tmp_path):
    space = {
        "distillation_factor": LogRange(0.01, 10),
        "distillation_temperature": LogRange(0.1, 10),
        "learning_rate": LogRange(0.001, 1),
    }
    plan = plan_of(tmp_path, space=space)
    values = dict.fromkeys(space, 0.0012345)
    text = shown(plan, [record_of(plan, n, [0.2, 0.5, 0.9], values) for n in range(3)], width=60)
    assert "…" not in text
    assert text.count("0.001234") >= 9


# Classes of one's own images


def test_the_classes_of_each_task_are_named_where_the_user_named_them(tmp_path):
    folder = write_images(tmp_path / "pets", ["cat", "[bold]", "dog", "owl"])
    (tmp_path / "groups.txt").write_text("owl, cat\ndog, [bold]\n")
    settings = {"benchmark": f"folder:{folder}", "tasks": None}
    for grouping, lines in (
        (None, ["task 1: [bold], cat", "task 2: dog, owl"]),
        (tmp_path / "groups.txt", ["task 1: owl, cat", "task 2: dog, [bold]"]),
    ):
        plan = plan_of(tmp_path, grouping=grouping, **settings)
        text = shown(plan, [record_of(plan, 0, [0.5, 0.6, 0.7])])
        assert [line for line in text.splitlines() if re.match(r"task \d:", line)] == lines


def test_no_classes_are_named_where_they_differ_between_seeds_or_are_numbers(tmp_path):
    folder = write_images(tmp_path / "pets")
    shuffled = plan_of(tmp_path, benchmark=f"folder:{folder}", class_order="shuffled")
    for plan in (plan_of(tmp_path), shuffled):
        assert not re.search(r"^task \d:", shown(plan, [record_of(plan, 0, [0.5, 0.6, 0.7])]), re.MULTILINE)


# What it cost


@pytest.mark.slow
def test_the_cost_of_the_search_is_said_without_its_references(plan):
    records = [replace(record_of(plan, n, [0.9] * 3), seconds=600.4) for n in range(120)]
    text = in_one_line(shown(plan, records, [finetuning(plan)]))
    assert "The search cost 1,080 task-seed trainings, 72048 s of training time." in text


# Other objectives, and several

ACCURACY, FORGETTING = "average_accuracy", "average_forgetting"


def traded(plan, pairs):
    """Trials with these accuracies and forgettings."""
    return [record_of(plan, n, [a - 0.02, a, a + 0.02], forgetting=[f] * 3) for n, (a, f) in enumerate(pairs)]


#        front, knee, front; dominated
PAIRS = [(0.90, 0.50), (0.85, 0.10), (0.50, 0.00), (0.80, 0.20), (0.85, 0.30)]


def test_the_best_of_another_objective_comes_first_and_is_compared_in_it(tmp_path):
    plan = plan_of(tmp_path, objectives=(FORGETTING,))
    reference = record_of(plan, None, [0.9] * 3, forgetting=[0.31, 0.30, 0.32], algorithm="finetuning")
    text = shown(plan, traded(plan, PAIRS), [reference])
    assert "Best configuration (trial 2)" in text
    assert [row[0] for row in rows_below(text, "Validation")][:5] == ["#2", "#1", "#3", "#4", "#0"]
    # 31, 30 and 32 points less: 31 ± 4.303 / sqrt(3).
    assert "Against finetuning: -31.00 points of average forgetting, 95 % interval -33.48 to -28.52." in in_one_line(
        text
    )
    assert "front" not in text


def test_of_several_objectives_the_knee_is_the_answer_and_the_front_comes_before_the_others(tmp_path):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING))
    text = shown(plan, traded(plan, PAIRS))
    assert "Knee of the Pareto front (trial 1)" in text
    assert [row[:2] for row in rows_below(text, "Validation")[:3]] == [
        ["#1", "front"],
        ["#0", "front"],
        ["#2", "front"],
    ]
    assert [row[0] for row in rows_below(text, "Validation")[3:5]] == ["#4", "#3"]
    assert row_of(text, "#1")[-1] == "knee"
    said = in_one_line(text)
    assert "3 of 5 trials are on the Pareto front of average accuracy and average forgetting: no other trial" in said
    assert "the point farthest beyond the line between the ends of the front" in said
    assert "The best average accuracy on the front is trial 0's, 5.00 points better than the knee's." in said
    assert "The best average forgetting on the front is trial 2's, 10.00 points better than the knee's." in said
    assert "With several objectives no trial is stopped early." in said


def test_the_knee_has_no_line_about_an_end_that_it_is_itself(tmp_path):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING))
    said = in_one_line(shown(plan, traded(plan, [(0.9, 0.1), (0.5, 0.2)])))
    assert "1 of 2 trials are on the Pareto front" in said
    assert "on the front is trial" not in said


def test_of_three_objectives_no_line_between_two_ends_is_spoken_of(tmp_path):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING, "learning_accuracy"))
    said = in_one_line(shown(plan, traded(plan, PAIRS)))
    assert "average accuracy and average forgetting and learning accuracy" in said
    assert "the largest sum of objectives, each scaled from 0 (worst on the front) to 1 (best)." in said


def test_not_shown_worse_holds_in_every_objective(tmp_path):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING))
    best = record_of(plan, 0, [0.90, 0.92, 0.94], forgetting=[0.1, 0.2, 0.3])
    like = record_of(plan, 1, [0.89, 0.89, 0.95], forgetting=[0.3, 0.1, 0.3])
    other = record_of(plan, 2, [0.89, 0.89, 0.95], forgetting=[0.2, 0.31, 0.39])
    text = shown(plan, [best, like, other])
    assert [row_of(text, name)[-1] for name in ("#0", "#1")] == ["knee", "yes"]
    assert row_of(text, "#2")[-1] != "yes"
    assert "contains 0 in every objective; this holds for 1 of 2 other trials." in in_one_line(text)


def test_every_objective_has_a_column_once(tmp_path):
    for objectives, words in (
        ((FORGETTING, ACCURACY), []),
        (("learning_accuracy", FORGETTING), ["learning"]),
        (("backward_transfer", "accuracy/task_01"), ["backward", "accuracy/task"]),
    ):
        plan = plan_of(tmp_path, objectives=objectives)
        text = shown(plan, traded(plan, PAIRS))
        heading = text[text.index("Validation") : text.index("──")].split()
        assert [heading.count(word) for word in ["average", *words]] == [2] + [1] * len(words)


@pytest.mark.parametrize(("points", "rows"), [(3, TABLE_ROWS), (9, 9), (MAX_FRONT_ROWS + 3, MAX_FRONT_ROWS)])
def test_the_whole_front_is_shown_up_to_a_number(tmp_path, points, rows):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING))
    dominated = [(0.1, 0.9)] * 4
    text = shown(plan, traded(plan, [(0.5 + 0.01 * n, 0.01 * n) for n in range(points)] + dominated))
    assert len([row for row in rows_below(text, "Validation") if row[0].startswith("#")]) == rows


def test_the_picture_of_the_front_is_named_where_there_is_one(tmp_path):
    plan = plan_of(tmp_path, objectives=(ACCURACY, FORGETTING))
    assert "front.png" not in shown(plan, traded(plan, PAIRS))
    plan.folder.mkdir()
    (plan.folder / "front.png").write_bytes(b"")
    assert f"{plan.folder}/front.png" in shown(plan, traded(plan, PAIRS))


# The final evaluation

CHOSEN, LOWER = [0.90, 0.92, 0.94], [0.80, 0.81, 0.82]


def with_final(plan, *rows, **more):
    """A study of one trial, and its final evaluation."""
    final = final_of(plan, *rows, scores={ACCURACY: 0.95}, **more)
    return printed(result_of(plan, [record_of(plan, 3, [0.95] * 3)], final=final))


def test_the_final_evaluation_is_one_table_one_optimism_and_one_opening(tmp_path):
    plan = plan_of(tmp_path, report_seeds=3)
    rows = [measured_of(plan, CHOSEN, LOWER), measured_of(plan, LOWER, [0.70, 0.71, 0.72], "finetuning")]
    text = with_final(plan, *rows, before=[4])
    assert text.count("Final evaluation on 3 fresh seeds (1000 to 1002)") == 1
    chosen, reference = rows_below(text, "Final evaluation")
    # 92 ± 2 * 4.303 / sqrt(3), 81 and 71 ± 4.303 / sqrt(3); the difference is 10 on each seed.
    assert chosen[:6] == ["chosen", "lwf", "92.00", "(87.03", "to", "96.97)"]
    assert chosen[6:10] == ["81.00", "(78.52", "to", "83.48)"]
    assert reference[:5] == ["finetuning", "81.00", "(78.52", "to", "83.48)"]
    assert reference[-4:] == ["+10.00", "(+10.00", "to", "+10.00)"]
    said = in_one_line(text)
    assert said.count("Optimism: ") == 1
    assert "the search estimated 95.00 % average accuracy" in said
    assert "(optimism +3.00 points)" in said
    assert "(optimism +14.00 points)." in said
    assert said.count("was opened once for this evaluation") == 1
    assert "it had been opened 4 times before in this results folder" in said
    assert "No final evaluation" not in said


def test_the_search_comes_before_the_final_evaluation_and_where_everything_is_after_it(tmp_path):
    plan = plan_of(tmp_path, report_seeds=3)
    text = with_final(plan, measured_of(plan, CHOSEN, LOWER))
    order = ["Best configuration", "Validation, mean", "Accuracy (%) of the best", "Final evaluation", "Optimism: "]
    places = [text.index(words) for words in [*order, "The search cost", "Record "]]
    assert places == sorted(places)


def test_files_of_the_final_evaluation_are_named_where_there_is_one(tmp_path):
    plan = plan_of(tmp_path, report_seeds=3)
    assert "final.json, final.csv" in with_final(plan, measured_of(plan, CHOSEN, LOWER))
    assert "final.json" not in shown(plan, [record_of(plan, 3, CHOSEN)])


def test_why_there_is_no_final_evaluation_is_said_beside_what_the_search_found(plan):
    reason = "data_root: the files of split-mnist must be whole; got: [Errno 2] no file, in /data [old]"
    text = shown(plan, [record_of(plan, 3, CHOSEN)], unsealed=reason)
    assert "Best configuration (trial 3)" in text
    assert f"No final evaluation: {reason}" in in_one_line(text)


def test_a_study_without_one_says_nothing_of_a_final_evaluation(plan):
    text = shown(plan, [record_of(plan, 3, CHOSEN)])
    assert "inal evaluation" not in text
    assert "Optimism" not in text


def test_a_study_stopped_in_its_final_evaluation_says_so(tmp_path):
    plan = plan_of(tmp_path, trials=1)
    found = result_of(plan, [record_of(plan, 0, CHOSEN)])
    assert "Interrupted: the final evaluation did not finish." in printed(replace(found, interrupted=True))
    assert "Interrupted" not in printed(found)


# The continual protocol

CONTINUAL = {"protocol": "continual", "space": {"distillation_factor": LogRange(0.01, 4)}, "tasks": 2, "seeds": 2}


def attempted(task, phase, accuracy, kept=False, bar=None, **values):
    accuracies = () if accuracy is None else (accuracy - 0.01, accuracy + 0.01)
    return Attempt(task, phase, values, accuracies, bar, 2, 1.5, kept)


ATTEMPTS = (
    attempted(1, RATE_PHASE, 0.90, learning_rate=0.01),
    attempted(1, RATE_PHASE, 0.95, learning_rate=0.1, kept=True),
    attempted(1, RATE_PHASE, None, learning_rate=10.0),
    attempted(1, METHOD_PHASE, 0.94, learning_rate=0.1, distillation_factor=4.0, bar=0.76, kept=True),
    attempted(2, RATE_PHASE, 0.85, learning_rate=0.01, kept=True),
    attempted(2, RATE_PHASE, 0.80, learning_rate=0.1),
    attempted(2, METHOD_PHASE, 0.60, learning_rate=0.01, distillation_factor=4.0, bar=0.68),
    attempted(2, METHOD_PHASE, 0.70, learning_rate=0.01, distillation_factor=2.0, bar=0.68, kept=True),
)


def task_by_task(plan, decision, **more):
    ranking = rank([], plan.objectives)
    return printed(StudyResult(plan, [], [], ranking, decision.choice, decision, False, **more))


def test_every_attempt_of_continual_is_shown_by_task_and_phase(tmp_path):
    plan = plan_of(tmp_path, distillation_temperature=2.0, **CONTINUAL)
    per_task = tuple(a.values for a in ATTEMPTS if a.kept and a.phase == METHOD_PHASE)
    choice = Choice("continual", {}, {"learning_accuracy": 0.82}, per_task)
    text = task_by_task(plan, Decision(ATTEMPTS, choice, ""))
    rows = rows_below(text, "Chosen task by task")
    assert rows == [
        ["1", "learning_rate", "0.01", "0.1", "10", "90.0", "95.0", "diverged", "0.1"],
        ["distillation_factor", "4", "94.0", "76.0", "4"],
        ["2", "learning_rate", "0.01", "0.1", "85.0", "80.0", "0.01"],
        ["distillation_factor", "4", "2", "60.0", "70.0", "68.0", "2"],
    ]
    said = in_one_line(text)
    assert "distillation_temperature stayed at 2." in said
    assert "penalty_p_norm" not in said
    assert "Mean accuracy on each task right after learning it: 82.00 %." in said
    assert "The search cost 16 task-seed trainings, 12 s of training time." in said
    assert "attempts.csv" in text
    for words in ("Interrupted", "No trial finished", "trials.csv", "Retrain", "Validation, mean"):
        assert words not in text


def test_why_continual_chose_nothing_is_said_below_what_it_tried(tmp_path):
    plan = plan_of(tmp_path, distillation_temperature=2.0, **CONTINUAL)
    text = task_by_task(plan, Decision(ATTEMPTS[:3], None, "every factor diverged at task 1"))
    assert len(rows_below(text, "Chosen task by task")) == 1
    assert "Nothing was chosen: every factor diverged at task 1." in text
    assert "Interrupted" not in text


def test_continual_that_was_interrupted_says_so(tmp_path):
    plan = plan_of(tmp_path, distillation_temperature=2.0, **CONTINUAL)
    found = StudyResult(plan, [], [], rank([], plan.objectives), None, Decision(ATTEMPTS[:3]), True)
    assert "Interrupted: nothing was chosen." in printed(found)


def test_of_the_final_evaluation_of_continual_the_belief_is_its_accuracy_right_after_learning(tmp_path):
    plan = plan_of(tmp_path, report_seeds=3, distillation_temperature=2.0, **CONTINUAL)
    final = final_of(plan, measured_of(plan, CHOSEN, LOWER), scores={"learning_accuracy": 0.97})
    text = task_by_task(plan, Decision(ATTEMPTS, final.choice, ""), final=final)
    assert "the search estimated 97.00 % learning accuracy" in in_one_line(text)
    assert rows_below(text, "Final evaluation")[0][:2] == ["chosen", "lwf"]
