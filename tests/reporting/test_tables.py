"""Tables of several studies: cells, and the three kinds of file."""

import pandas as pd
import pytest

from clsearch.common.statistics import Interval
from clsearch.reporting.tables import SearchScore, escape_latex, make_numeric_frame, make_text_frame, write_table

NAN = float("nan")
ROWS = [
    {"method": "lwf_a", "average_accuracy": Interval(0.5, 0.4, 0.6), "task-trainings": 1200, "chosen": "x 1"},
    {"method": "joint", "average_accuracy": Interval(0.75, NAN, NAN), "task-trainings": 0, "chosen": ""},
]


def test_a_metric_is_shown_in_percent_with_half_of_its_interval():
    table = make_text_frame(ROWS)
    assert list(table.columns) == ["method", "average accuracy (%)", "task-seed trainings", "chosen"]
    assert list(table["average accuracy (%)"]) == ["50.00 ± 10.00", "75.00"]
    assert list(table["task-seed trainings"]) == ["1,200", "–"]


def test_a_difference_has_its_sign():
    table = make_text_frame([{"minus": "a", "b": Interval(0.02, 0.01, 0.03), "c": None}], signed=True)
    assert list(table.iloc[0]) == ["a", "+2.00 ± 1.00", "–"]


def test_a_score_of_another_metric_than_average_accuracy_is_marked():
    rows = [
        {"p": "a", "believed": SearchScore("average_accuracy", 0.5)},
        {"p": "b", "believed": SearchScore("x", 0.25)},
    ]
    assert list(make_text_frame(rows)["search estimate"]) == ["50.00", "25.00*"]
    assert list(make_numeric_frame(rows)["believed/metric"]) == ["average_accuracy", "x"]


def test_optimism_is_shown_in_points():
    assert make_text_frame([{"p": "a", "optimism, test": -0.0123}]).iloc[0, 1] == "-1.23"


def test_a_spreadsheet_gets_fractions_and_the_ends_of_intervals():
    table = make_numeric_frame(ROWS)
    assert list(table.columns[:4]) == ["method", "average_accuracy", "average_accuracy/low", "average_accuracy/high"]
    assert list(table.iloc[0, 1:4]) == [0.5, 0.4, 0.6]


@pytest.mark.parametrize(
    ("words", "latex"),
    [
        ("a_b 5 %", r"a\_b 5 \%"),
        ("C:\\x~^", r"C:\textbackslash{}x\textasciitilde{}\textasciicircum{}"),
        ("{$&#}", r"\{\$\&\#\}"),
    ],
)
def test_what_means_something_in_latex_is_escaped(words, latex):
    assert escape_latex(words) == latex


def test_the_same_table_is_written_for_a_spreadsheet_a_page_and_a_paper(tmp_path):
    write_table(tmp_path, "methods", ROWS, "Of 5 % of it.")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "methods.csv", keep_default_na=False, na_values=[""]).iloc[:, :2],
        make_numeric_frame(ROWS).iloc[:, :2],
    )
    lines = (tmp_path / "methods.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["lwf_a", "50.00 ± 10.00", "1,200", "x 1"]
    assert lines[-1] == "Of 5 % of it."
    latex = (tmp_path / "methods.tex").read_text()
    assert r"lwf\_a & $50.00 \pm 10.00$ & 1,200 & x 1 \\" in latex
    assert r"\caption{Of 5 \% of it.}" in latex
    assert r"\begin{tabular}{lrrl}" in latex
