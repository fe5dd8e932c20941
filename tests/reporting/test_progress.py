"""The status line of a running study."""

import io
import time

import pytest
from rich.console import Console

from clsearch.reporting import progress
from clsearch.reporting.progress import ProgressLine
from tests.builders import plan_of, record_of


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path, seeds=2)


@pytest.fixture
def line():
    """A line of three trials on what is no terminal; its file holds what was printed."""
    return ProgressLine(Console(file=io.StringIO(), width=80), 3)


def printed(line):
    return line.console.file.getvalue().splitlines()


def test_a_study_that_has_not_begun_has_no_best_and_no_time_left(line):
    assert line.status() == "0/3 trials · 0 running"


def test_the_line_counts_trials_and_names_the_best_in_percent(line, plan):
    line.update(record_of(plan, 0, [0.8, 0.6]))
    line.update(record_of(plan, 1, [0.8, 0.6], state="failed", learned=0))
    line.update(record_of(plan, 2, [0.9, 0.9], state="running", learned=1))
    begin, rate, left = line.status().rsplit(" · ", 2)
    assert begin == "2/3 trials · 1 running · 1 failed · best 70.00 %"
    assert rate.endswith("/min")
    assert left.startswith("about ")
    assert left.endswith(" left")


def test_the_best_is_the_highest_of_the_finished_in_any_order(line, plan):
    for number, score in enumerate([0.5, 0.812, 0.6]):
        line.update(record_of(plan, number, [score, score]))
    assert line.status() == "3/3 trials · 0 running · best 81.20 %"


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        ("average_accuracy", "best 90.00 %"),
        ("average_forgetting", "best average forgetting 10.00 %"),
        ("backward_transfer", "best backward transfer -10.00 %"),
    ],
)
def test_another_objective_is_named_and_its_best_is_the_lowest_where_less_is_better(plan, objective, best):
    line = ProgressLine(Console(file=io.StringIO(), width=80), 3, objective)
    for number, (accuracy, forgetting) in enumerate([(0.5, 0.2), (0.6, 0.1), (0.9, 0.3)]):
        line.update(record_of(plan, number, [accuracy] * 2, forgetting=[forgetting] * 2))
    assert line.status() == f"3/3 trials · 0 running · {best}"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_what_has_not_finished_is_never_the_best(line, plan, state):
    line.update(record_of(plan, 0, [0.6, 0.6]))
    line.update(record_of(plan, 1, [0.9, 0.9], state=state, learned=1))
    assert "best 60.00 %" in line.status()


def test_a_trial_is_counted_once_in_its_newest_state(line, plan):
    for learned in (1, 2):
        line.update(record_of(plan, 0, [0.5, 0.5], state="running", learned=learned))
    assert line.status().startswith("0/3 trials · 1 running")
    line.update(record_of(plan, 0, [0.5, 0.5]))
    assert line.status().startswith("1/3 trials · 0 running")


def test_references_are_not_counted_and_never_the_best(line, plan):
    line.update(record_of(plan, None, [0.9, 0.9], algorithm="finetuning"))
    line.update(record_of(plan, None, [0.9, 0.9], algorithm="finetuning", state="running", learned=1))
    assert line.status() == "0/3 trials · 0 running"


@pytest.mark.parametrize(("seconds", "left"), [(600, "20 min"), (4 * 3600, "8.0 h")])
def test_the_time_left_goes_by_the_trials_that_are_done(line, plan, seconds, left):
    line.started -= seconds
    line.update(record_of(plan, 0, [0.5, 0.5]))
    assert line.status().endswith(f"about {left} left")


def test_nothing_is_left_at_the_end(line, plan):
    for number in range(3):
        line.update(record_of(plan, number, [0.5, 0.5]))
    assert "left" not in line.status()


def test_without_a_terminal_there_is_a_plain_line_per_ended_trial_once_its_worker_has_another(plan, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    line = ProgressLine(Console(file=io.StringIO(), width=80), 3)
    with line.live():
        line.show_step("starting Ray")
        line.update(record_of(plan, 0, [0.5, 0.5], state="running", learned=1))
        line.update(record_of(plan, 0, [0.5, 0.5]))
        line.update(record_of(plan, 1, [0.5, 0.5], state="running", learned=0))
        line.update(record_of(plan, 1, [0.5, 0.5], state="failed", learned=0))
        for learned in range(3):
            line.update(record_of(plan, 2, [0.5, 0.5], state="running", learned=learned))
    first, second, third = printed(line)
    assert first == "starting Ray"
    assert second.startswith("1/3 trials · 1 running · best 50.00 %")
    assert third.startswith("2/3 trials · 1 running · 1 failed · best 50.00 %")
    assert "\x1b" not in line.console.file.getvalue()


def test_plain_lines_keep_their_distance_but_the_last_is_always_told(plan, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 1e9)
    line = ProgressLine(Console(file=io.StringIO(), width=80), 3)
    for number in range(3):
        line.update(record_of(plan, number, [0.5, 0.5], state="running", learned=1))
        line.update(record_of(plan, number, [0.5, 0.5]))
    assert [text.split()[0] for text in printed(line)] == ["1/3", "3/3"]


def test_what_only_moves_is_not_printed_where_nothing_moves():
    line = ProgressLine(Console(file=io.StringIO(), width=80), 3)
    line.show_step("task 1/3 · 5 attempts", moving=True)
    line.show_step("task 1/3 · 6 attempts")
    assert printed(line) == ["task 1/3 · 6 attempts"]
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    line = ProgressLine(console, 3)
    with line.live():
        line.show_step("task 1/3 · 7 attempts", moving=True)
        time.sleep(0.3)  # eight pictures a second
        assert "task 1/3 · 7 attempts" in console.file.getvalue()


def test_on_a_terminal_the_line_moves_and_is_taken_away(plan):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    line = ProgressLine(console, 3)
    with line.live():
        line.update(record_of(plan, 0, [0.5, 0.5]))
        time.sleep(0.3)
        assert "1/3 trials · 0 running · best 50.00 %" in console.file.getvalue()
    assert line.bar.tasks[0].completed == 1
    assert console.file.getvalue().rstrip().endswith("\x1b[2K")  # the last picture is taken away, line by line
    assert console.file.getvalue().count("\x1b[1A") >= 2


def test_the_last_trials_are_above_the_line_each_with_how_it_ended(plan):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    line = ProgressLine(console, 9)
    for number in range(4):
        line.update(record_of(plan, number, [0.5, 0.7]))
    line.update(record_of(plan, 4, [0.5, 0.7], state="pruned", learned=2))
    line.update(record_of(plan, 5, [0.5, 0.7], state="failed", learned=0, reason="training diverged"))
    line.update(record_of(plan, 6, [0.5, 0.7], state="running", learned=1))
    line.update(record_of(plan, None, [0.5, 0.7], algorithm="finetuning"))
    console.print(line)
    shown = [" ".join(text.split()) for text in console.file.getvalue().splitlines()]
    assert shown[:-1] == [
        "#2 LwF factor=0.01 τ=0.5 60.00 ± 14.14 % 4.5 s",
        "#3 LwF factor=0.01 τ=0.5 60.00 ± 14.14 % 4.5 s",
        "#4 LwF factor=0.01 τ=0.5 stopped early, after task 2",
        "#5 LwF factor=0.01 τ=0.5 failed: training diverged",
    ]
    assert "6/9 trials · 1 running · 1 failed · 1 stopped early" in shown[-1]


def test_a_reference_that_is_waited_for_is_named(line, plan):
    for number in range(3):
        line.update(record_of(plan, number, [0.5, 0.5]))
    line.update(record_of(plan, None, [0.9, 0.9], algorithm="joint", state="running", learned=2))
    assert line.status().endswith(" · reference joint has learned 2 tasks")


@pytest.mark.parametrize(("seconds", "said"), [(0.5, "120/min"), (6, "10/min"), (20, "180/h"), (1800, "2/h")])
def test_the_rate_is_told_in_numbers_that_can_be_read(seconds, said):
    assert progress.format_pace(seconds) == said


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_nothing(plan, monkeypatch, terminal):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    line = ProgressLine(Console(file=io.StringIO(), width=80, force_terminal=terminal), 3, quiet=True)
    with line.live():
        line.show_step("starting Ray")
        line.print_line("results go there")
        for number in range(3):
            line.update(record_of(plan, number, [0.5, 0.5]))
    assert line.console.file.getvalue() == ""
