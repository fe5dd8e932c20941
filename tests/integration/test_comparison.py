"""Comparisons of small real studies."""

import json

import pandas as pd
import pytest
from scipy import stats

from clsearch import Comparison, LogRange
from clsearch.reporting.tables import select_reported_rows

TINY = {"benchmark": "permuted-digits", "tasks": 3, "hidden": (16,), "epochs": 1, "trials": 2, "seeds": 2}
TINY |= {"report_seeds": 3, "optimizer": "adam", "learning_rate": 0.01}


def ended(comparison, args):
    with pytest.raises(SystemExit) as error:
        comparison.main(args)
    return error.value.code


@pytest.fixture(scope="module")
def methods(ray_session, results):
    comparison = Comparison(
        name="methods",
        kind="methods",
        algorithm="lwf_ewc",
        studies={
            "finetuning": {"algorithm": "finetuning", "references": ("joint",)},
            "ewc": {"algorithm": "ewc", "references": ()},
        },
        space={"penalty_factor": LogRange(0.1, 10)},
        results=results,
        **TINY,
    )
    return results / "methods", comparison.run()


def test_the_table_has_a_row_per_method_and_reference_from_their_final_evaluations(methods):
    folder, found = methods
    table = pd.read_csv(folder / "methods.csv").set_index("method")
    assert list(table.index) == ["finetuning", "ewc", "joint"]
    for label, study in found.items():
        final = pd.read_csv(study.plan.folder / "final.csv")
        (row,) = final[(final.configuration == "chosen") & (final.part == "test")].to_dict("records")
        for name in ("average_accuracy", "average_forgetting", "backward_transfer", "learning_accuracy"):
            for end in ("", "/low", "/high"):
                assert table[f"{name}{end}"][label] == pytest.approx(row[f"{name}{end}"])
    assert table["task-trainings"]["ewc"] == 2 * 2 * 3  # trials x seeds x tasks
    assert (table["final training (s)"] >= 0).all()
    assert {path.suffix for path in folder.glob("methods.*")} == {".csv", ".md", ".tex"}


def test_differences_are_paired_over_the_fresh_seeds(methods):
    folder, found = methods
    scores = {label: row.per_seed("test")["average_accuracy"] for label, _, _, row in select_reported_rows(found)}
    table = pd.read_csv(folder / "differences.csv").set_index("minus")
    for first, second in (("ewc", "finetuning"), ("joint", "ewc")):
        bounds = stats.ttest_rel(scores[first], scores[second]).confidence_interval(0.95)
        assert table[second][first] == pytest.approx((scores[first] - scores[second]).mean().item())
        assert (table[f"{second}/low"][first], table[f"{second}/high"][first]) == pytest.approx(tuple(bounds))


def test_a_page_compares_the_studies(methods):
    folder, found = methods
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    table = pd.read_csv(folder / "differences.csv").set_index("minus")
    assert f"{100 * abs(table['finetuning']['ewc']):.2f}" in page
    for result in found.values():
        assert result.plan.options.name in page
        assert (result.plan.folder / "report.html").exists()
    assert {label: list(result.pages) for label, result in found.items()} == {
        "finetuning": ["Trials"],  # has one trial
        "ewc": ["Trials", "Compare"],
    }


def test_comparison_json_names_the_studies_and_their_seeds(methods):
    content = json.loads((methods[0] / "comparison.json").read_text())
    assert content["studies"] == {"finetuning": "methods-finetuning", "ewc": "methods-ewc"}
    assert content["seeds"] == {"selecting": [0, 1], "reporting": [1000, 1001, 1002]}


def test_protocols_on_one_benchmark_end_in_one_table(ray_session, results, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["studies/protocols.py"])
    names = ("two_phase", "continual")
    comparison = Comparison(
        name="protocols",
        kind="protocols",
        algorithm="ewc",
        studies={name: {"protocol": name, "references": ()} for name in names},
        report_benchmark="rotated-digits",
        **TINY | {"tasks": 4},
    )
    args = ["--results", str(results), "--learning-rates", "0.01", "0.03", "--penalty-p-norm", "2"]
    assert ended(comparison, args) == 0
    table = pd.read_csv(results / "protocols" / "protocols.csv").set_index("protocol")
    assert list(table.index) == list(names)
    assert list(table["believed/metric"]) == ["average_accuracy", "learning_accuracy"]
    for name in names:
        final = json.loads((results / f"protocols-{name}" / "final.json").read_text())
        assert table["optimism, test"][name] == pytest.approx(final["optimism"][0]["against_test"])
        assert table["believed"][name] == pytest.approx(next(iter(final["choice"]["scores"].values())))
        assert table["full sequence test"][name] == pytest.approx(final["rows"][-1]["test"]["average_accuracy"]["mean"])
    attempts = pd.read_csv(results / "protocols-continual" / "attempts.csv")
    assert table["task-trainings"]["continual"] == 2 * len(attempts)
    assert table["task-trainings"]["two_phase"] == 2 * 2 * 4
    printed = capsys.readouterr().out
    assert "Chosen task by task" in printed
    command = json.loads((results / "protocols" / "comparison.json").read_text())["command"]
    assert command[1:] == ["studies/protocols.py", *args]
