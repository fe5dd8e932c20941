"""What a study prints at its end."""

import io
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from clsearch import LogRange
from clsearch.tuning.selection import rank
from clsearch.tuning.summary import show
from clsearch.tuning.tracking import default_store
from tests.tuning.builders import plan_of, planned, record_of, study_of, write_images

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.py"))


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path)


def shown(plan, records, references=(), uri=None, width=80):
    console = Console(file=io.StringIO(), width=width)
    show(console, plan, rank(list(records)), list(references), list(records), uri or default_store(plan))
    return console.file.getvalue()


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
    assert "like" in heading
    assert "the best" in heading
    assert [row[0] for row in rows_below(text, "Validation")] == [f"#1000{n}" for n in (5, 4, 3, 2, 1)]
    for name in plan.references:
        assert row_of(text, name)[1:3] == ["–", "–"]


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


def test_trials_that_cannot_be_told_from_the_best_are_marked(plan):
    scores = [[0.90, 0.92, 0.94], [0.89, 0.89, 0.95], [0.85, 0.86, 0.87]]
    text = shown(plan, [record_of(plan, n, s) for n, s in enumerate(scores)])
    assert row_of(text, "#0")[-1] == "best"
    assert row_of(text, "#1")[-1] == "yes"
    assert row_of(text, "#2")[-1] not in ("best", "yes")
    assert "1 of 2 other trials cannot be told from it" in re.sub(r"\s+", " ", text)


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
    assert ("1 of 3 trials were not finished" in shown(plan, records)) == words


def test_no_trial_finished_is_said_with_the_first_reason(plan):
    records = [
        record_of(plan, n, [0.5] * 3, state="failed", learned=0, reason=f"diverged in epoch {n + 1}") for n in range(3)
    ]
    text = shown(plan, records, [finetuning(plan)])
    assert "No trial finished." in text
    assert "3 of 3 trials failed; the first: diverged in epoch 1" in text
    assert "Best configuration" not in text
    assert "Again" not in text


def test_failed_trials_are_counted_beside_the_best(plan):
    records = [record_of(plan, 0, [0.9] * 3), record_of(plan, 1, [0.5] * 3, state="failed", learned=0, reason="lost")]
    text = shown(plan, records)
    assert "1 of 2 trials failed; the first: lost" in text
    assert "#1" not in text


def test_no_failure_is_no_news(plan):
    assert "failed" not in shown(plan, [record_of(plan, 0, [0.9] * 3)])


def test_a_reference_that_failed_has_no_row_but_its_reason(plan):
    failed = replace(finetuning(plan, state="failed", learned=0), reason="training diverged")
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)], [failed])
    assert text.count("finetuning") == 1
    assert "Reference finetuning failed: training diverged." in text
    joint = shown(plan, [record_of(plan, 0, [0.9] * 3)], [replace(failed, algorithm="joint")])
    assert "Reference joint failed: training diverged, so there is no intransigence." in joint


def test_a_study_that_searches_nothing_is_shown_as_given(tmp_path):
    plan = plan_of(tmp_path, space={})
    text = shown(plan, [record_of(plan, 0, [0.9] * 3, {})])
    assert "Best configuration (trial 0): as given" in text


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


def test_a_server_is_named_without_its_password(plan):
    text = shown(plan, [record_of(plan, 0, [0.9] * 3)], uri="http://bob:secret@mlflow.example:5000")
    assert "http://mlflow.example:5000, experiment mine" in text
    assert "secret" not in text
    assert "mlflow server" not in text


def test_the_command_that_trains_the_best_again_is_on_one_line(tmp_path):
    plan = planned(study_of(results=tmp_path), "--seeds", "2", "--hidden", "6", "4", "--batch-size", "7")
    values = {"distillation_factor": 0.1 + 0.2, "distillation_temperature": 2.0}
    (line,) = re.findall(r"^Again .*", shown(plan, [record_of(plan, 0, [0.9] * 2, values)]), re.MULTILINE)
    assert "--distillation-factor 0.30000000000000004 --distillation-temperature 2.0" in line
    assert "--hidden 6 4 --batch-size 7" in line


def test_a_study_from_python_prints_no_command(plan):
    assert "Again" not in shown(plan, [record_of(plan, 0, [0.9] * 3)])


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
