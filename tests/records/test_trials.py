"""What a study leaves in results/."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clsearch import Choice, IntRange, When
from clsearch.records.study_file import finite
from clsearch.records.trials import trials_table
from clsearch.records.writer import PACKAGES, StudyWriter, code_version
from tests.builders import plan_of, planned, record_of, study_of, write_images
from tests.study_folders import mixed_study, references_of


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path, seeds=2)


@pytest.fixture
def results(plan):
    return StudyWriter(plan)


def strict_json(path):
    """The file's content; NaN and Infinity, which are no JSON, are refused."""

    def refuse(word):
        raise AssertionError(f"{path}: {word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_study_json_says_what_was_asked_and_with_what(tmp_path):
    study = study_of("ewc", question="Why, and how?\n", results=tmp_path, seeds=2, first_seed=5, batch_size=7)
    plan = planned(study, "--trials", "4", "--sampler-seed", "3")
    StudyWriter(plan).begin()
    content = strict_json(tmp_path / "mine" / "study.json")
    assert content["question"] == "Why, and how?"
    assert content["algorithm"] == "ewc"
    assert content["command"] == plan.command
    assert content["space"] == {
        "penalty_factor": {"low": 0.1, "high": 1000, "log": True},
        "penalty_p_norm": {"low": 1, "high": 3, "log": False},
    }
    assert content["config"]["batch_size"] == 7
    assert content["config"]["benchmark"] == "split-digits"
    assert not set(content["config"]) & set(content["space"])
    assert (content["trials"], content["seeds"]) == (4, [5, 6])
    assert (content["sampler"], content["sampler_seed"]) == ("tpe", 3)
    assert set(content["versions"]) == {*PACKAGES, "clsearch", "python"}
    assert content["commit"] == code_version()
    assert pd.Timestamp(content["started"]).tzinfo is not None


def test_study_json_says_what_the_search_sees_and_what_is_reported_and_on_which_seeds(tmp_path):
    settings = {
        "end": {},
        "first": {"protocol": "first_k", "first_k": 2, "tasks": 5, "report_seeds": 2, "first_report_seed": 70},
        "two": {"protocol": "two_phase", "report_benchmark": "split-mnist"},
        "none": {"final": False, "objectives": ("average_forgetting", "learning_accuracy")},
    }
    found = []
    for name, own in settings.items():
        StudyWriter(plan_of(tmp_path, name=name, **own)).begin()
        found.append(strict_json(tmp_path / name / "study.json"))
    end, first, two, none = found
    assert [content["protocol"] for content in found] == ["end_of_sequence", "first_k", "two_phase", "end_of_sequence"]
    assert (end["tasks"], end["reported_tasks"], end["report_benchmark"]) == ([1, 2, 3], [1, 2, 3], None)
    assert (end["report_seeds"], end["objectives"]) == ([1000, 1001, 1002, 1003, 1004], ["average_accuracy"])
    assert (first["tasks"], first["reported_tasks"], first["report_seeds"]) == ([1, 2], [3, 4, 5], [70, 71])
    assert (two["reported_tasks"], two["report_benchmark"]) == ([1, 2, 3], "split-mnist")
    assert (none["report_seeds"], none["objectives"]) == ([], ["average_forgetting", "learning_accuracy"])


def test_study_json_says_which_data_it_was(tmp_path):
    StudyWriter(plan_of(tmp_path)).begin()
    assert strict_json(tmp_path / "mine" / "study.json")["data"] == {
        "source": "digits",
        "shape": [1, 8, 8],
        "classes": list("0123456789"),
        "groups": None,
        "identity": None,
    }


def test_study_json_has_a_digest_of_ones_own_images_and_the_names_of_grouped_classes(tmp_path):
    (tmp_path / "groups.txt").write_text("f, a\nb, c, e\n")
    found = []
    for place in ("here", "there"):
        folder = write_images(tmp_path / place / "pets")
        settings = {"benchmark": f"folder:{folder}", "grouping": tmp_path / "groups.txt", "tasks": None}
        StudyWriter(plan_of(tmp_path, name=place, **settings)).begin()
        found.append(strict_json(tmp_path / place / "study.json")["data"])
    assert found[0] == found[1]  # the same images, copied
    assert len(found[0].pop("identity")) == 16
    assert found[0] == {
        "source": "folder",
        "shape": [1, 8, 8],
        "classes": list("fabce"),
        "groups": [["f", "a"], ["b", "c", "e"]],
    }


def test_code_version_is_a_commit_or_a_version():
    words = code_version().removesuffix("+changes")
    assert words.replace(".", "").isalnum()


def test_accuracy_csv_is_the_matrix_with_a_row_per_seed_and_tasks_learned(plan, results):
    record = record_of(plan, 4, [0.8, 0.6])
    results.write_trial(record)
    table = pd.read_csv(results.trial_folder("trial_00004") / "accuracy.csv")
    assert list(table.columns) == ["seed", "tasks_learned", "task_01", "task_02", "task_03"]
    assert list(zip(table.seed, table.tasks_learned, strict=True)) == [(s, i) for s in (0, 1) for i in range(4)]
    matrix = table[["task_01", "task_02", "task_03"]].to_numpy().reshape(2, 4, 3)
    assert np.array_equal(matrix, np.array(record.accuracy))


def test_accuracy_csv_has_the_tasks_that_the_search_saw(tmp_path):
    plan = plan_of(tmp_path, protocol="first_k", first_k=2, tasks=5)
    StudyWriter(plan).write_trial(record_of(plan, 0, [0.8, 0.6, 0.7]))
    table = pd.read_csv(plan.folder / "trials" / "trial_00000" / "accuracy.csv")
    assert list(table.columns) == ["seed", "tasks_learned", "task_01", "task_02"]
    assert list(table.groupby("seed").size()) == [3, 3, 3]


def test_what_was_not_measured_is_null_in_json_and_empty_in_csv(plan, results):
    R = np.full((2, 4, 3), 0.5)
    R[:, 0] = np.nan
    R[:, 1, 1:] = np.nan  # class-incremental: no answer for a class that was not seen
    R[:, 2, 2:] = np.nan
    results.write_trial(replace(record_of(plan, 0, [0.8, 0.6]), accuracy=R.tolist()))
    folder = results.trial_folder("trial_00000")
    lower = [[None, None, None], [0.5, None, None], [0.5, 0.5, None], [0.5, 0.5, 0.5]]
    assert strict_json(folder / "record.json")["accuracy"] == [lower, lower]
    assert (folder / "accuracy.csv").read_text().splitlines()[1:3] == ["0,0,,,", "0,1,0.5,,"]
    table = pd.read_csv(folder / "accuracy.csv")
    assert np.array_equal(table.iloc[:, 2:].to_numpy().reshape(2, 4, 3), R, equal_nan=True)


def test_learning_curve_csv_has_a_row_per_epoch_and_seed(plan, results):
    record = replace(record_of(plan, 0, [0.8, 0.6], learned=2), epochs=[[1, 1], [2, 1]])
    results.write_trial(record)
    table = pd.read_csv(results.trial_folder("trial_00000") / "learning_curve.csv")
    assert list(table.columns) == ["seed", "task", "epoch", "loss", "accuracy"]
    assert table.to_numpy().tolist() == [[0, 1, 1, 1, 0.5], [1, 1, 1, 1, 0.6], [0, 2, 1, 0.5, 0.5], [1, 2, 1, 0.5, 0.6]]


def test_record_json_is_the_record(plan, results):
    values = {"distillation_factor": 0.1 + 0.2, "distillation_temperature": 1e-5}
    record = record_of(plan, 7, [0.8, 0.6], values)
    results.write_trial(record)
    content = strict_json(results.trial_folder("trial_00007") / "record.json")
    assert content["values"] == values
    assert content["settings"]["distillation_factor"] == 0.1 + 0.2
    assert content["metrics"] == record.metrics
    assert content["accuracy"] == record.accuracy
    assert content["seeds"] == [0, 1]
    assert (content["label"], content["number"], content["algorithm"]) == ("trial_00007", 7, "lwf")
    assert (content["state"], content["reason"], content["tasks_learned"]) == ("finished", "", 3)


def test_a_trial_that_never_reported_has_its_files_too(plan, results):
    blank = {"accuracy": [], "curve": [], "columns": [], "epochs": []}
    record = record_of(plan, 0, [0.8, 0.6], state="failed", learned=0, reason="the worker died")
    results.write_trial(replace(record, **blank))
    folder = results.trial_folder("trial_00000")
    assert list(pd.read_csv(folder / "accuracy.csv").columns)[:2] == ["seed", "tasks_learned"]
    assert len(pd.read_csv(folder / "accuracy.csv")) == len(pd.read_csv(folder / "learning_curve.csv")) == 0
    assert strict_json(folder / "record.json")["reason"] == "the worker died"


def test_trials_csv_has_a_row_per_trial_with_values_metrics_and_reason(plan, results):
    done = record_of(plan, 0, [0.8, 0.6], {"distillation_factor": 0.1 + 0.2, "distillation_temperature": 2.0})
    lost = record_of(plan, 1, [0.8, 0.6], state="failed", learned=0, reason='diverged, "badly"')
    results.write_table("trials", [done, lost])
    table = pd.read_csv(results.folder / "trials.csv", float_precision="round_trip")
    assert table.label.tolist() == ["trial_00000", "trial_00001"]
    assert table.number.tolist() == [0, 1]
    assert table.state.tolist() == ["finished", "failed"]
    assert table.distillation_factor.tolist() == [0.1 + 0.2, 0.01]
    assert table.average_accuracy[0] == pytest.approx(0.7)
    assert table["average_accuracy/std"][0] == pytest.approx(0.2 / math.sqrt(2))
    assert math.isnan(table.average_accuracy[1])
    assert table.reason.tolist()[1] == 'diverged, "badly"'
    assert table.tasks_learned.tolist() == [3, 0]
    assert table.seconds.tolist() == [4.5, 0]


def test_references_csv_has_the_references(plan, results):
    results.write_table("references", [record_of(plan, None, [0.5, 0.6], algorithm="finetuning")])
    table = pd.read_csv(results.folder / "references.csv")
    assert table.label.tolist() == ["reference_finetuning"]
    assert table.algorithm.tolist() == ["finetuning"]
    assert table.number.isna().all()


def test_references_csv_keeps_the_order_and_the_seconds_of_several(plan, results):
    names = ["joint", "finetuning", "independent"]
    results.write_table("references", [record_of(plan, None, [0.5, 0.6], algorithm=name) for name in names])
    table = pd.read_csv(results.folder / "references.csv")
    assert table.algorithm.tolist() == names
    assert table.seconds.tolist() == [4.5] * 3


def test_a_metric_added_after_the_search_is_a_column_of_the_finished(plan, results):
    done, lost = record_of(plan, 0, [0.8, 0.6]), record_of(plan, 1, [0.8, 0.6], state="failed", learned=1)
    added = replace(done, metrics=done.metrics | {"intransigence": 0.25, "intransigence/std": 0.125})
    results.write_table("trials", [added, lost])
    table = pd.read_csv(results.folder / "trials.csv")
    assert table.intransigence.tolist()[0] == 0.25
    assert table["intransigence/std"].tolist()[0] == 0.125
    assert math.isnan(table.intransigence[1])
    results.write_trial(added)
    assert strict_json(results.trial_folder("trial_00000") / "record.json")["metrics"]["intransigence"] == 0.25


def test_best_json_holds_what_it_is_given(results):
    content = {"label": "trial_00001", "values": {"x": 1e-300}, "nothing": float("nan"), "ü": [float("inf")]}
    results.write_json("best.json", content)
    expected = {"label": "trial_00001", "values": {"x": 1e-300}, "nothing": None, "ü": [None]}
    found = strict_json(results.folder / "best.json")
    assert {name: value for name, value in found.items() if name not in ("format", "digest")} == expected


def test_a_table_of_the_study_holds_what_it_is_given_and_an_empty_cell_for_nan(results):
    for score in (0.25, 0.1 + 0.2):
        results.write_csv("final.csv", pd.DataFrame({"what, where": ["ü"], "score": [score], "reason": [math.nan]}))
    assert (results.folder / "final.csv").read_text() == '"what, where",score,reason\nü,0.30000000000000004,\n'
    assert [path.name for path in results.folder.iterdir()] == ["final.csv"]


def test_a_file_is_replaced_as_a_whole_and_nothing_else_stays(plan, results):
    results.write_trial(record_of(plan, 0, [0.8, 0.6]))
    results.write_trial(record_of(plan, 0, [0.4, 0.2]))
    folder = results.trial_folder("trial_00000")
    assert sorted(p.name for p in folder.iterdir()) == ["accuracy.csv", "learning_curve.csv", "record.json"]
    assert strict_json(folder / "record.json")["metrics"]["average_accuracy"] == pytest.approx(0.3)


def test_finite_turns_nan_and_infinity_to_none_at_any_depth():
    nan, inf = float("nan"), float("inf")
    assert finite({"a": [1, nan, (2.5, -inf)], "b": {"c": inf}, "d": "nan", "e": True}) == {
        "a": [1, None, [2.5, None]],
        "b": {"c": None},
        "d": "nan",
        "e": True,
    }


def test_a_table_without_rows_is_a_table(tmp_path):
    plan = plan_of(tmp_path, "ewc")
    StudyWriter(plan).write_table("references", [])
    table = pd.read_csv(plan.folder / "references.csv")
    assert len(table) == 0
    assert {"label", "state", "penalty_factor", "reason"} <= set(table.columns)


def test_a_trial_that_did_not_finish_has_no_metrics_to_be_sorted_by(tmp_path):
    plan = plan_of(tmp_path, "ewc")
    done = record_of(plan, 0, [0.5, 0.5, 0.5], {"penalty_factor": 1.0, "penalty_p_norm": 2.0})
    lost = record_of(plan, 1, [0.99, 0.99, 0.99], done.values, state="failed", learned=1, reason="training diverged")
    StudyWriter(plan).write_table("trials", [done, lost])
    table = pd.read_csv(plan.folder / "trials.csv")
    assert table.average_accuracy.isna().tolist() == [False, True]
    assert table.tasks_learned.tolist()[1] == 1


# Tables


def test_the_columns_of_hyperparameters_have_the_type_of_their_values(tmp_path):
    plan, records = mixed_study(tmp_path)
    table = trials_table(records, plan.space)
    assert {name: str(table[name].dtype) for name in plan.space} == {
        "distillation_factor": "float64",
        "optimizer": "string",
        "epochs": "Int64",
        "hidden": "string",
        "train_head": "boolean",
        "teachers": "string",
        "batch_size": "Int64",
        "schedule": "string",
        "learning_rate": "float64",
        "decay": "float64",
    }
    for record, row in zip(records, table.to_dict("records"), strict=True):
        for name in plan.space:
            value = record.values.get(name)
            expected = "none" if name == "teachers" and value is None else value
            assert pd.isna(row[name]) if name not in record.values else row[name] == expected
    names = list(table.columns)
    assert names[:4] + list(plan.space) == names[: 4 + len(plan.space)]


def test_whole_numbers_stay_whole_though_some_trials_lack_them(tmp_path):
    space = [
        {"optimizer": Choice("sgd", "adam"), "epochs": Choice(1, 2)},
        When("optimizer", "sgd", {"batch_size": IntRange(16, 64), "train_head": Choice(True, False)}),
    ]
    plan = plan_of(tmp_path, "lwf", space=space)
    sgd = {"optimizer": "sgd", "epochs": 2, "batch_size": 30, "train_head": True}
    values = [sgd, {"optimizer": "adam", "epochs": 1}]
    records = [record_of(plan, n, [0.5] * 3, own) for n, own in enumerate(values)]
    StudyWriter(plan).write_table("trials", records)
    lines = [line.split(",")[4:8] for line in (plan.folder / "trials.csv").read_text().splitlines()]
    assert lines == [
        ["optimizer", "epochs", "batch_size", "train_head"],
        ["sgd", "2", "30", "True"],
        ["adam", "1", "", ""],
    ]


def test_a_table_is_read_back_the_same_with_its_types(tmp_path):
    plan, records = mixed_study(tmp_path)
    table = trials_table(records, plan.space)
    StudyWriter(plan).write_table("trials", records)
    kinds = {name: table[name].dtype for name in plan.space}
    back = pd.read_csv(plan.folder / "trials.csv", dtype=kinds, float_precision="round_trip")
    pd.testing.assert_frame_equal(back[list(plan.space)], table[list(plan.space)])


def test_a_table_of_references_has_the_values_that_they_share_with_the_choice(tmp_path):
    plan, _ = mixed_study(tmp_path)
    table = trials_table(references_of(plan, {"epochs": 2, "hidden": "8,8"}), plan.space)
    assert {*plan.space} & {*table.columns} == {"epochs", "hidden"}
    assert {*plan.space} <= {*trials_table([], plan.space).columns}
