"""Configurations that are tried first: every form says the same, and none goes into a study that cannot be tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clsearch import Choice, Comparison, IntRange, LogRange, Range, Study, When
from clsearch.planning.plan import Plan
from tests.builders import plan_of, planned, study_of
from tests.refusals import broken

SPACE = [
    {"optimizer": Choice("sgd", "adam"), "learning_rate": LogRange(1e-3, 1), "hidden": Choice((8,), (16, 16))},
    {"epochs": IntRange(1, 4)},
    When("optimizer", "sgd", {"momentum": Range(0, 0.9)}),
]
WHOLE = {"optimizer": "sgd", "learning_rate": 0.01, "hidden": (16, 16), "epochs": 2, "momentum": 0.5}
PLAIN = WHOLE | {"hidden": "16,16"}
PART = {"learning_rate": 0.1}


def wide(**settings: Any) -> Study:
    made: dict[str, Any] = {"algorithm": "lwf", "name": "mine", "space": SPACE, "tasks": 3, "trials": 9}
    return Study(**(made | settings))


def values_of(plan: Plan) -> list[dict[str, Any]]:
    return [dict(one.values) for one in plan.enqueued]


YAML = """
- {optimizer: sgd, learning_rate: 1e-2, hidden: [16, 16], epochs: 2, momentum: 0.5}
- learning-rate: 0.1
"""
CSV = """\
optimizer,learning_rate,hidden,epochs,momentum
sgd,1e-2,"16,16",2,0.5
,0.1,,,
"""
FORMS = {
    "python": [WHOLE, PART],
    "texts": ["{optimizer: sgd, learning_rate: 1e-2, hidden: [16, 16], epochs: 2, momentum: 0.5}", dict(PART)],
    "yaml": "file.yml",
    "csv": "FILE.CSV",
    "csv from a spreadsheet": "bom.csv",
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.yml").write_text(YAML)
    Path("FILE.CSV").write_text(CSV)
    Path("bom.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_configurations_gives_the_same_plain_values(form: str) -> None:
    assert values_of(wide(enqueue=FORMS[form]).plan) == [PLAIN, PART]


@pytest.mark.parametrize("form", FORMS)
def test_a_command_line_takes_every_form_and_is_recorded_so_that_it_can_be_repeated(form: str) -> None:
    plan = wide(enqueue=FORMS[form]).plan_for(["--trials", "5"])
    words = ["--enqueue", "file.yml", "{epochs: 3}"]
    assert values_of(plan) == [PLAIN, PART]
    typed = wide().plan_for(words)
    assert values_of(typed) == [PLAIN, PART, {"epochs": 3}]
    assert typed.command is not None
    assert typed.command[2:] == words


def test_a_printed_configuration_has_what_a_script_enqueues(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file.yml").write_text("learning_rate: 0.1")
    with pytest.raises(SystemExit):
        wide(enqueue=[WHOLE, "file.yml"]).main(["--print-config"])
    Path("all.yml").write_text(capsys.readouterr().out)
    assert yaml.safe_load(Path("all.yml").read_text())["enqueue"] == [WHOLE | {"hidden": [16, 16]}, "file.yml"]
    assert values_of(wide().plan_for(["--config", "all.yml"])) == [PLAIN, PART]


def test_a_setting_that_is_not_searched_may_be_named_with_the_value_that_it_has() -> None:
    everything = wide().plan.config.flat() | PART
    shown = {
        name: value for name, value in everything.items() if name not in ("optimizer", "hidden", "epochs", "momentum")
    }
    assert values_of(wide(enqueue=shown | {"epochs": 3}).plan) == [PART | {"epochs": 3}]


def test_a_hyperparameter_with_two_ranges_has_the_one_that_applies() -> None:
    two = [
        {"optimizer": Choice("sgd", "adam")},
        When("optimizer", "sgd", {"learning_rate": LogRange(0.1, 1)}),
        When("optimizer", "adam", {"learning_rate": LogRange(1e-4, 1e-2)}),
    ]
    enqueue = [{"optimizer": "adam", "learning_rate": 1e-3}, {"optimizer": "sgd", "learning_rate": 0.5}]
    assert values_of(wide(space=two, epochs=1, enqueue=enqueue).plan) == enqueue
    wrong = {"optimizer": "adam", "learning_rate": 0.5}
    assert broken(wide, space=two, epochs=1, enqueue=wrong) == [("enqueue", "enqueue-in-space")]


@pytest.mark.parametrize(
    ("enqueue", "rule"),
    [
        ({"momentum": 0.5}, "enqueue-applies"),
        ({"optimizer": "adam", "momentum": 0.5}, "enqueue-applies"),
        ({"epochs": 2.5}, "enqueue-in-space"),
        ({"epochs": True}, "enqueue-in-space"),
        ({"learning_rate": float("nan")}, "enqueue-in-space"),
        ({"learning_rate": None}, "enqueue-in-space"),
        ({"hidden": "8,8"}, "enqueue-in-space"),
        ({"optimizer": "lion"}, "enqueue-in-space"),
        ({"weight_decay": 0.1, "epochs": 2}, "enqueue-searched"),
        ({"scenario": "class", "epochs": 2}, "enqueue-searched"),
        ("{scenario: task}", "enqueue-values"),
        ({}, "enqueue-values"),
        ([], "enqueue-some"),
        ("empty.yml", "enqueue-some"),
        ("empty.csv", "enqueue-some"),
        ("list.yml", "enqueue-form"),
        ("long.csv", "enqueue-file"),
        ("twice.csv", "enqueue-file"),
        ("binary.csv", "enqueue-file"),
        ("none.yml", "enqueue-file"),
        ("https://host/file.yml", "path-local"),
        ([PART, {"learning_rate": "0.1"}], "enqueue-once"),
    ],
)
def test_what_cannot_be_tried_is_refused(enqueue: Any, rule: str) -> None:
    Path("empty.yml").touch()
    Path("empty.csv").write_text("learning_rate,epochs\n")
    Path("list.yml").write_text("[1, 2]")
    Path("long.csv").write_text("epochs\n1,2\n")
    Path("twice.csv").write_text("epochs,epochs\n1,2\n")
    Path("binary.csv").write_bytes(bytes(range(256)))
    assert broken(wide, enqueue=enqueue) == [("enqueue", rule)]


def test_values_that_do_not_go_together_are_refused_with_their_rule() -> None:
    space = {"schedule": Choice("constant", "step"), "learning_rate": LogRange(0.1, 1)}
    assert broken(plan_of, Path(), space=space, enqueue={"schedule": "step", "decay": 0.5}) == [
        ("enqueue", "enqueue-searched")
    ]


def test_there_are_at_most_as_many_as_trials_and_none_in_a_grid_or_continual(tmp_path: Path) -> None:
    three = [{"distillation_factor": value} for value in (1, 2, 3)]
    assert len(plan_of(tmp_path, trials=3, enqueue=three).enqueued) == 3
    assert broken(plan_of, tmp_path, trials=2, enqueue=three) == [("enqueue", "enqueue-within-trials")]
    assert broken(plan_of, tmp_path, trials=None, sampler="grid", enqueue=three) == [("enqueue", "enqueue-not-in-grid")]
    assert ("enqueue", "sampler-only") in broken(plan_of, tmp_path, protocol="continual", space=None, enqueue=three)
    assert broken(plan_of, tmp_path, space={}, trials=None, enqueue=three[1]) == [("enqueue", "enqueue-searched")]


def test_a_study_of_a_comparison_can_have_its_own(tmp_path: Path) -> None:
    studies = {"LwF": {"algorithm": "lwf", "enqueue": [{"distillation_factor": 2.0}]}, "EWC": {"algorithm": "ewc"}}
    plans = Comparison(name="c", kind="methods", algorithm="lwf", studies=studies, epochs=1, trials=3).plans
    assert [len(plan.enqueued) for plan in plans.values()] == [1, 0]


def test_options_of_a_warm_start_need_one(tmp_path: Path) -> None:
    plan = planned(study_of(results=tmp_path), "--warm-start", "other", "--top", "3", "--anyway")
    assert (plan.options.warm_start, plan.options.top, plan.options.anyway) == (Path("other"), 3, True)
