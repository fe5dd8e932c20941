"""Studies side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clsearch.cli.main import main
from clsearch.common.checked_files import write_json
from clsearch.records.listing import list_studies, make_entry, study_state
from clsearch.records.resume import study_lock
from tests.builders import plan_of, record_of
from tests.study_folders import evaluated, references_of, small_plan, trials_of, written


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study that ended, one cut off, and what is no study."""
    plan = small_plan(tmp_path, name="whole")
    written(plan, [*trials_of(plan), *references_of(plan)], evaluated(plan))
    plan = plan_of(tmp_path, "ewc", name="cut", seeds=2, trials=9, objectives=("average_forgetting",))
    records = [record_of(plan, n, [0.5, 0.6], forgetting=[0.1 * n + 0.1] * 2) for n in range(3)]
    records[2] = replace(records[2], state="running")
    written(plan, [*records, record_of(plan, 3, [0.5, 0.5], state="failed", learned=1)], state="running")
    (plan.folder / "best.json").unlink()
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text("[]")
    return tmp_path


def test_a_study_that_ended_is_listed_with_its_best_and_what_it_reaches(results: Path) -> None:
    (whole,) = [entry for entry in list_studies(results) if entry.name == "whole"]
    assert (whole.algorithm, whole.benchmark, whole.state) == ("LwF", "split-digits", "finished")
    assert (whole.trials, whole.best, whole.test) == ("6/6", "91.00", "90.00")


def test_one_that_was_cut_off_is_listed_as_far_as_it_came(results: Path) -> None:
    (cut,) = [entry for entry in list_studies(results) if entry.name == "cut"]
    assert (cut.algorithm, cut.state, cut.trials, cut.test) == ("EWC", "interrupted", "3/9", "")
    assert cut.best == "10.00 average forgetting"  # of which less is better


def test_the_newest_is_first(results: Path) -> None:
    folder = results / "cut"
    study = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", study | {"started": "2999-01-01T00:00:00+00:00"})
    assert [entry.name for entry in list_studies(results)] == ["cut", "whole", "other"]


def test_a_damaged_study_is_named_and_the_others_are_listed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "cut" / "study.json").unlink()
    (results / "whole" / "trials" / "trial_00001" / "record.json").write_text("")  # its best.json has the counts
    (results / "whole" / "final.json").write_text("{")
    entries = {entry.name: entry for entry in list_studies(results)}
    assert [entries[name].state for name in ("whole", "cut", "other")] == ["finished", "damaged", "damaged"]
    assert (entries["whole"].trials, entries["whole"].best, entries["whole"].test) == ("6/6", "91.00", "")
    assert main(["list", str(results)]) == 0
    seen = capsys.readouterr()
    assert "whole" in seen.out
    assert [line.partition(": ")[2].partition(";")[0] for line in seen.err.splitlines()] == [
        f"{results}/cut: has trials and no study.json: put it back from a copy",
        f"{results}/other/study.json: must be a whole file, as clsearch wrote it",
        f"{results}/whole/final.json: must be a whole file, as clsearch wrote it",
    ]


@pytest.mark.slow
def test_a_study_that_a_process_holds_is_running(results: Path) -> None:
    folder = results / "cut"
    study = json.loads((folder / "study.json").read_text())
    with study_lock(folder):
        seen = subprocess.run([sys.executable, "-m", "clsearch", "list", str(results)], capture_output=True, text=True)
    (line,) = [line for line in seen.stdout.splitlines() if line.strip().startswith("cut")]
    assert "running" in line
    assert study_state(folder, study) == "interrupted"
    assert make_entry(folder, study | {"state": "unfinished"}).state == "interrupted"


def test_the_command_prints_them(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(results)]) == 0
    printed = capsys.readouterr().out
    assert "whole" in printed
    assert "interrupted" in printed
    (results / "nothing").mkdir()
    assert main(["list", str(results / "nothing")]) == 0
    assert capsys.readouterr().out.startswith("no study in ")
    assert main(["list", str(results / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: results: must be a folder that exists; got ")


@pytest.mark.slow
def test_a_list_waits_for_no_library_that_trains(results: Path) -> None:
    seen = "import sys; from clsearch.cli.main import main; main(['list', sys.argv[1]]); \
print(sorted({'ray', 'torch', 'optuna', 'mlflow', 'pandas'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", seen, str(results)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_studies_are_read_without_a_library_that_trains_sends_or_draws(results: Path) -> None:
    seen = "import sys; from clsearch.cli.main import main; results = sys.argv[1]; \
print([main([word, results + place]) for word, place in (('list', ''), ('best', '/whole'), ('show', '/cut'), \
('show', '/whole'))]); \
print(sorted({'ray', 'torch', 'optuna', 'mlflow', 'matplotlib', 'plotly', 'sklearn'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", seen, str(results)], capture_output=True, text=True, check=True)
    assert "Final evaluation" in done.stdout
    assert done.stdout.strip().splitlines()[-2:] == ["[0, 0, 0, 0]", "[]"]
