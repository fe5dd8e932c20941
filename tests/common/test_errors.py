"""How uncaught refusals are printed, and output after its reader has gone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from clsearch import Study
from clsearch.common.errors import CLOSED_STDOUT_EXIT_CODE, ConfigError, Refusal, did_you_mean

SWEEP = Path(__file__).parents[2] / "studies" / "lwf_temperature_sweep.py"


def ran(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words, "-c", script], capture_output=True, text=True, check=False)


def test_a_refusal_is_its_text_and_knows_its_field_and_its_rule() -> None:
    refusal = Refusal("sgd-only", "momentum: acts with sgd only; got 0.9 with adam")
    assert refusal == "momentum: acts with sgd only; got 0.9 with adam"
    assert (refusal.field, refusal.rule) == ("momentum", "sgd-only")


def test_a_pickled_error_is_the_same_error() -> None:
    error = pickle.loads(pickle.dumps(ConfigError([Refusal("b-or-c", "a: must be b; got d"), "e: f"])))
    assert str(error) == "a: must be b; got d\ne: f"
    assert error.problems == ["a: must be b; got d", "e: f"]
    assert [problem.rule for problem in error.problems] == ["b-or-c", "refused"]


@pytest.mark.slow
def test_a_script_whose_study_is_refused_as_it_is_made_prints_the_problem_and_exits_with_2() -> None:
    done = ran("from clsearch import Study\nStudy(algorithm='lwf')")
    assert done.returncode == 2
    assert done.stderr == "error: epochs, iterations: exactly one of the two must be given; got None, None\n"


@pytest.mark.slow
def test_a_refusal_that_is_caught_changes_nothing() -> None:
    lines = "try:\n    Study(algorithm='lwf')\nexcept ConfigError: pass\nraise ValueError('mine')"
    done = ran(f"from clsearch import ConfigError, Study\n{lines}")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: mine\n")


def test_a_refusal_outside_of_a_script_is_a_normal_exception() -> None:
    before = sys.excepthook
    with pytest.raises(ConfigError):
        Study(algorithm="lwf")
    assert sys.excepthook is before


@pytest.mark.slow
def test_importing_changes_nothing_in_the_process() -> None:
    script = """
import os, sys
before = sys.excepthook, dict(os.environ)
import clsearch
for name in {*clsearch.__all__} - {"trainables"}:  # which load Ray, which sets variables of its own
    getattr(clsearch, name)
print((sys.excepthook, dict(os.environ)) == before)
"""
    assert ran(script).stdout == "True\n"


@pytest.mark.slow
def test_other_errors_of_a_script_keep_their_traceback() -> None:
    done = ran("import clsearch\nraise ValueError('mine')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: mine\n")


@pytest.mark.slow
def test_an_interpreter_that_is_typed_into_goes_on() -> None:
    typed = "from clsearch import Study\nStudy(algorithm='lwf')\nprint('still here')\n"
    done = subprocess.run([sys.executable, "-i"], input=typed, capture_output=True, text=True, check=True)
    assert "ConfigError: epochs, iterations: exactly one" in done.stderr
    assert done.stdout == "still here\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [[str(SWEEP), "--help"], ["-m", "clsearch", "report", "--help"]], ids=["study", "-m"])
def test_output_that_nobody_reads_is_no_error(words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == CLOSED_STDOUT_EXIT_CODE


def test_a_word_that_is_nearly_known_is_named() -> None:
    assert did_you_mean("trails", ["trials", "tasks"]) == " (did you mean trials?)"
    assert did_you_mean("xyz", ["trials", "tasks"]) == ""
