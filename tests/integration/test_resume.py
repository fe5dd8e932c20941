"""Studies that are killed, interrupted, run again, extended and started over, with the real tools."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clsearch import Comparison, LogRange, Study
from clsearch.common.checked_files import write_json
from clsearch.methods.registry import configure
from clsearch.records.test_ledger import read_openings
from clsearch.records.trials import TrialRecord, read_trials
from clsearch.reporting.result import StudyResult
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial
from tests.integration.scripts import wait_for

SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
TINY = {"algorithm": "lwf", "space": SPACE, "hidden": (16,), "epochs": 1, "seeds": 2, "report_seeds": 2}


def study(results: Path, name: str, **settings: object) -> Study:
    return Study(name=name, results=results, **TINY | settings)


def matrix_in_peace(record: TrialRecord) -> np.ndarray:
    """The accuracy matrices that a trial's configuration and seeds give without Ray, from beginning to end."""
    settings = {name: value for name, value in record.settings.items() if value is not None}
    return learn_sequence(build_trial(configure(record.algorithm, settings), record.seeds)).accuracy.numpy()


def mlflow_runs(results: Path, name: str) -> Counter[tuple[str, str]]:
    """(label, status) of each run of a study."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    return Counter((run.data.tags["label"].split()[0], run.info.status) for run in runs)


def optuna_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def written(folder: Path) -> dict[str, bytes]:
    """The files of a study's record, but those that say when it was run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("study.json", "optuna.journal") and path.suffix != ".png"
    }


# A driver that is killed


CHAOS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "chaos.py")))
"""The benchmark that kills a study again and again, which is for a night: here it is killed once."""

TRIALS, SURVIVORS = 3, ("--max-concurrent", "1", "--epochs", "8")


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, str]:
    """Results of a study whose driver is killed in the middle of a trial and started again, and its output."""
    results = tmp_path_factory.mktemp("survivor") / "results"
    results.mkdir()
    shutil.copy(store, results)
    mine = results / "chaos"
    with CHAOS.session(results, TRIALS, *SURVIVORS) as process:
        wait_for(lambda: list(mine.glob("trials/trial_*/accuracy.csv")), process)
        wait_for(lambda: list(mine.glob("trials/trial_*/state.pt")), process)
    with CHAOS.session(results, TRIALS, *SURVIVORS) as process:
        assert process.wait(timeout=240) == 0, (results.parent / "log.txt").read_text()
    return results, (results.parent / "log.txt").read_text()


def records_of(folder: Path) -> dict[str, TrialRecord]:
    return read_trials(folder)


@pytest.mark.system
def test_a_killed_study_ends_with_as_many_trials_as_it_was_to_have_and_none_twice(survivor) -> None:
    results, output = survivor
    mine = results / "chaos"
    table = pd.read_csv(mine / "trials.csv")
    assert list(table.number) == list(range(TRIALS))
    assert set(table.state) == {"finished"}
    assert [trial.state.name for trial in optuna_trials(mine)] == ["COMPLETE"] * TRIALS
    assert {trial.number: trial.value for trial in optuna_trials(mine)} == dict(
        zip(table.number, table.average_accuracy, strict=True)
    )
    assert len(json.loads((mine / "study.json").read_text())["resumed"]) == 1
    assert output.count("Best configuration") == 1


@pytest.mark.system
def test_every_matrix_of_a_killed_study_is_bit_for_bit_the_one_of_an_unbroken_training(survivor) -> None:
    records = records_of(survivor[0] / "chaos")
    assert len(records) == TRIALS + 2  # two are references
    for record in records.values():
        np.testing.assert_array_equal(np.array(record.accuracy, dtype=float), matrix_in_peace(record))
        assert len(record.times) == record.tasks_learned == 5


@pytest.mark.system
def test_mlflow_has_each_trial_of_a_killed_study_once_and_every_step_once(survivor) -> None:
    results, _ = survivor
    labels = [f"trial_{number:05d}" for number in range(TRIALS)] + ["reference_finetuning", "reference_joint"]
    assert mlflow_runs(results, "chaos") == Counter((label, "FINISHED") for label in [*labels, "study", *["final"] * 3])
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("chaos")
    records = records_of(results / "chaos")
    for run in client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"):
        points = client.get_metric_history(run.info.run_id, "average_accuracy")
        record = records[run.data.tags["label"].split()[0]]
        assert sorted((p.step, p.timestamp) for p in points) == list(enumerate(record.times, start=1))
        assert run.data.metrics["average_accuracy"] == record.metrics["average_accuracy"]


@pytest.mark.system
def test_nothing_half_written_and_no_state_is_left_of_a_killed_study(survivor) -> None:
    mine = survivor[0] / "chaos"
    assert not list(mine.rglob(".*.tmp"))
    assert not list(mine.rglob("state.pt"))
    assert not (mine / "ray").exists()
    assert len(read_openings(survivor[0])) == 1


@pytest.mark.system
def test_the_benchmark_of_chaos_finds_nothing_wrong_with_it_and_what_is_wrong_with_less(
    survivor, tmp_path: Path
) -> None:
    results, _ = survivor
    assert all(good for *_, good in CHAOS.compared(results, results).values())
    less = tmp_path / "results"
    shutil.copytree(results, less)
    shutil.rmtree(less / "chaos" / "trials" / "trial_00001")
    (less / "chaos" / "trials" / "trial_00002" / "state.pt").touch()
    record = less / "chaos" / "trials" / "trial_00000" / "record.json"
    content = json.loads(record.read_text())
    content["accuracy"][1][5][0] += 1e-9
    write_json(record, content)
    wrong = {what for what, (*_, good) in CHAOS.compared(less, results).items() if not good}
    assert wrong == {
        "trials and references in results/",
        "labels in results/",
        "matrices equal to undisturbed training, bit for bit",
        "states and incomplete files left",
    }


def test_a_second_driver_is_refused_while_the_first_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "from clsearch.records.resume import study_lock\nwith study_lock(Path(sys.argv[1])): print(flush=True), input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{words}", str(tmp_path / "twice")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "\n"
    with pytest.raises(SystemExit) as refused:
        study(tmp_path, "twice", trials=1).main([])
    first.communicate("\n")
    assert (first.returncode, refused.value.code) == (0, 2)
    assert "error: name: must be a study that no other process runs; " in capsys.readouterr().err


# The same study again


@pytest.fixture(scope="module")
def whole(ray_session: str, results: Path) -> StudyResult:
    return study(results, "whole", trials=2).run()


def test_a_study_that_is_done_is_told_again_and_nothing_is_trained_or_opened(
    whole: StudyResult, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, openings, runs = written(whole.plan.folder), len(read_openings(results)), mlflow_runs(results, "whole")
    began = time.monotonic()
    again = study(results, "whole", trials=2).run()
    assert time.monotonic() - began < 60
    said = capsys.readouterr().err
    assert "study already finished; use --fresh to start over" in said
    assert "checking" not in said
    assert "starting Ray" not in said
    assert again.exit_code == 0
    assert again.choice == whole.choice
    assert [row.configuration for row in again.final.rows] == ["chosen", "finetuning"]
    for row, first in zip(again.final.rows, whole.final.rows, strict=True):
        np.testing.assert_array_equal(row.test, first.test)
    assert again.final.openings == whole.final.openings
    assert len(read_openings(results)) == openings
    assert written(whole.plan.folder) == before
    assert mlflow_runs(results, "whole") == runs


def test_more_trials_extend_a_study_and_keep_what_it_had(
    whole: StudyResult, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if Optuna's journal is damaged."""
    journal = whole.plan.folder / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:5], b"garbage\n", *lines[5:]]))
    second = study(results, "whole", trials=4, references=("finetuning", "joint")).run()
    assert [r.number for r in second.records] == [0, 1, 2, 3]
    assert [r.values for r in second.records[:2]] == [r.values for r in whole.records]
    assert [r.seconds for r in second.records[:2]] == [r.seconds for r in whole.records]
    assert [r.algorithm for r in second.references] == ["finetuning", "joint"]
    assert "intransigence" in second.records[0].metrics
    assert len(optuna_trials(second.plan.folder)) == 4
    assert "made again from the records of 2 trials" in " ".join(capsys.readouterr().err.split())
    assert journal.with_name("optuna.journal.1").exists()
    labels = [f"trial_{number:05d}" for number in range(4)] + ["reference_finetuning", "reference_joint", "study"]
    runs = mlflow_runs(results, "whole")
    assert {run: count for run, count in runs.items() if run[0] != "final"} == {
        (label, "FINISHED"): 1 for label in labels
    }
    curves = list(second.plan.folder.glob("trials/*/learning_curve.csv"))
    assert {len(pd.read_csv(path)) for path in curves} == {10}  # five tasks, two seeds


def test_a_renamed_study_goes_on_in_its_records_and_its_runs(whole: StudyResult, results: Path) -> None:
    before, runs = written(whole.plan.folder), mlflow_runs(results, "whole")
    for old, new in (("whole", "renamed"), ("renamed", "whole")):
        (results / old).rename(results / new)
        again = study(results, new, trials=4, references=("finetuning", "joint")).run()
        assert again.exit_code == 0
        assert [r.number for r in again.records] == [0, 1, 2, 3]
        assert mlflow_runs(results, new) == runs
    assert written(whole.plan.folder) == before


def test_a_fresh_study_of_that_name_moves_the_first_one_aside(whole: StudyResult, results: Path) -> None:
    folder, runs = whole.plan.folder, mlflow_runs(results, "whole")
    before = written(folder)
    fresh = study(results, "whole", trials=1, final=False, epochs=2, fresh=True).run()
    assert written(folder.with_name("whole.1")) == before
    assert json.loads((fresh.plan.folder / "study.json").read_text())["config"]["epochs"] == 2
    new = [(label, "FINISHED") for label in ("trial_00000", "reference_finetuning", "study")]
    assert mlflow_runs(results, "whole") == runs + Counter(new)


def test_a_study_that_is_interrupted_twice_says_how_to_resume_and_ends(
    ray_session: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, folder = {"trials": 3, "epochs": 20, "final": False}, results / "cut"

    def interrupt(how: signal.Signals) -> None:
        known = {path: path.stat().st_mtime_ns for path in folder.glob("trials/trial_*/state.pt")}

        def advanced() -> bool:
            states = folder.glob("trials/trial_*/state.pt")
            with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile
                return any(path.stat().st_mtime_ns != known.get(path) for path in states)
            return False

        wait_for(advanced)
        os.kill(os.getpid(), how)

    for how in (signal.SIGINT, signal.SIGTERM):
        interrupter = threading.Thread(target=interrupt, args=(how,))
        interrupter.start()
        cut = study(results, "cut", **settings).run()
        interrupter.join()
        assert cut.exit_code == 130
        said = capsys.readouterr().out
        assert "Interrupted: " in said
        assert "Resume   run the same study again" in said
        assert ("study", "KILLED") in mlflow_runs(results, "cut")
    done = study(results, "cut", **settings).run()
    assert done.exit_code == 0
    assert [r.number for r in done.records] == [0, 1, 2]
    for record in done.records:
        np.testing.assert_array_equal(np.array(record.accuracy, dtype=float), matrix_in_peace(record))
    labels = [f"trial_{number:05d}" for number in range(3)] + ["reference_finetuning", "study"]
    assert mlflow_runs(results, "cut") == Counter((label, "FINISHED") for label in labels)


# Results that can't be written


def test_results_that_cannot_be_written_end_the_search_and_it_goes_on_when_they_can(
    ray_session: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file lies where the folder was; to its writers that is one refusal of the system like another."""
    folder, away = results / "full", results / "full-away"

    def refuse() -> None:
        wait_for(lambda: list(folder.glob("trials/trial_*/accuracy.csv")))
        (results / "blocker").write_text("")
        folder.rename(away)
        while True:
            try:
                (results / "blocker").rename(folder)
                return
            except OSError:  # a record was written in between, and its folder made anew
                shutil.rmtree(folder)

    refuser = threading.Thread(target=refuse)
    refuser.start()
    settings = {"trials": 4, "epochs": 10, "final": False}
    with pytest.raises(SystemExit) as stopped:
        study(results, "full", **settings).main([])
    refuser.join()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "error: results: must stay writable while a study runs; got " in said
    assert "Re-run the same command to resume." in said
    folder.unlink()
    away.rename(folder)
    kept = {r.label: r for r in records_of(folder).values() if r.state == "finished"}
    assert kept
    done = study(results, "full", **settings).run()
    assert [r.state for r in done.records] == ["finished"] * 4
    assert {r.label: r.seconds for r in done.records if r.label in kept} == {
        label: r.seconds for label, r in kept.items() if r.number is not None
    }
    for record in done.records:
        np.testing.assert_array_equal(np.array(record.accuracy, dtype=float), matrix_in_peace(record))


# Protocols and comparisons


CONTINUAL = {
    "algorithm": "ewc",
    "space": {"penalty_factor": LogRange(1, 1e3)},
    "protocol": "continual",
    "benchmark": "permuted-digits",
    "learning_rates": (0.01, 0.03),
    "tasks": 4,
    "final": False,
}


def attempts(result: StudyResult) -> list[tuple[object, ...]]:
    return [(a.task, a.phase, a.values, a.accuracies, a.bar, a.kept) for a in result.decision.attempts]


def test_continual_that_is_interrupted_goes_on_from_its_last_task_and_decides_the_same(
    ray_session: str, results: Path
) -> None:
    unbroken = study(results, "in-peace", **CONTINUAL).run()
    folder = results / "broken"

    def interrupt() -> None:
        wait_for((folder / "continual.pt").exists)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    cut = study(results, "broken", **CONTINUAL).run()
    interrupter.join()
    assert cut.exit_code == 130
    assert 1 <= len(cut.decision.kept) < 4
    done = study(results, "broken", **CONTINUAL).run()
    assert done.exit_code == 0
    assert attempts(done) == attempts(unbroken)
    assert done.choice == unbroken.choice
    first = [a for a in cut.decision.attempts if a.task == 1]
    assert [a.when for a in done.decision.attempts if a.task == 1] == [a.when for a in first]  # not made again
    assert not (folder / "continual.pt").exists()
    assert mlflow_runs(results, "broken") == Counter({("continual", "FINISHED"): 1, ("study", "FINISHED"): 1})
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("broken")
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert sorted(p.step for p in client.get_metric_history(run.info.run_id, "accuracy")) == [1, 2, 3, 4]
    again = study(results, "broken", **CONTINUAL).run()
    assert [a.when for a in again.decision.attempts] == [a.when for a in done.decision.attempts]


def test_a_comparison_goes_on_where_it_was_cut_off(ray_session: str, results: Path) -> None:
    def comparison() -> Comparison:
        settings = {name: value for name, value in TINY.items() if name not in ("space", "algorithm")}
        return Comparison(
            name="pair",
            kind="methods",
            algorithm="lwf_ewc",
            studies={"finetuning": {"algorithm": "finetuning", "learning_rate": 0.1}, "lwf": {"algorithm": "lwf"}},
            results=results,
            trials=2,
            **settings | {"epochs": 10, "references": ()},
        )

    def interrupt() -> None:
        wait_for(lambda: list((results / "pair-lwf").glob("trials/trial_*/state.pt")))
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    cut = comparison().run()
    interrupter.join()
    assert {label: found.interrupted for label, found in cut.items()} == {"finetuning": False, "lwf": True}
    kept, opened = written(results / "pair-finetuning"), len(read_openings(results))
    done = comparison().run()
    assert [found.exit_code for found in done.values()] == [0, 0]
    assert written(results / "pair-finetuning") == kept
    assert len(read_openings(results)) == opened + 1
    table = pd.read_csv(results / "pair" / "methods.csv")
    assert list(table.method) == ["finetuning", "lwf"]
