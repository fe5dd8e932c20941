"""How uncaught refusals are printed, and output after its reader has gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clsearch.common.errors import CLOSED_STDOUT_EXIT_CODE, did_you_mean

SWEEP = Path(__file__).parents[2] / "studies" / "lwf_temperature_sweep.py"


def ran(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_script_whose_study_is_refused_as_it_is_made_prints_the_problem_and_exits_with_2() -> None:
    done = ran("from clsearch import Study\nStudy(algorithm='lwf')")
    assert done.returncode == 2
    assert done.stderr == "error: epochs, iterations: exactly one of the two must be given; got None, None\n"


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
    assert "error: epochs, iterations: exactly one" in done.stderr
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
