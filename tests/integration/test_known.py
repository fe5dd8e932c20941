"""Studies that start from what is known, and that get more seeds later, with the real tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from clsearch import LogRange, Study
from clsearch.methods.registry import configure
from clsearch.records.known import start_from_known
from clsearch.records.store import RecordStore
from clsearch.records.test_ledger import read_openings
from clsearch.records.trials import TrialRecord, read_trials
from clsearch.reporting.result import StudyResult
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial

SPACE = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
KNOWN = {"distillation_factor": 0.5, "distillation_temperature": 2.0}
PART = {"distillation_factor": 3.0}


def study(results: Path, **settings: Any) -> Study:
    made: dict[str, Any] = {"algorithm": "lwf", "name": "known", "space": SPACE, "results": results, "hidden": (16,)}
    made |= {"epochs": 1, "tasks": 5, "trials": 3, "seeds": 2, "report_seeds": 2, "enqueue": [KNOWN, PART]}
    return Study(**(made | settings))


@pytest.fixture(scope="module")
def first(ray_session: str, results: Path) -> tuple[StudyResult, pd.DataFrame, str]:
    """A study of which two trials are enqueued, its table and its report; a test extends it later."""
    result = study(results).run()
    table = pd.read_csv(result.plan.folder / "trials.csv", keep_default_na=False)
    return result, table, (result.plan.folder / "report.html").read_text()


def runs(results: Path) -> dict[str, Any]:
    """Label -> MLflow's run of each trial and reference."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("known").experiment_id])
    return {run.data.tags["label"].split()[0]: run for run in found if run.data.tags["kind"] in ("trial", "reference")}


def test_what_is_enqueued_is_tried_first_and_marked_everywhere(first, results: Path) -> None:
    result, table, report = first
    records = {record.number: record for record in result.records}
    assert records[0].values == KNOWN
    assert records[1].values["distillation_factor"] == 3.0
    assert [(r.origin, r.given) for r in records.values()] == [
        ("enqueued", ["distillation_factor", "distillation_temperature"]),
        ("enqueued", ["distillation_factor"]),
        ("", []),
    ]
    assert table.origin.tolist() == ["enqueued", "enqueued", ""]
    assert "enqueued; distillation temperature by the sampler" in report
    tags = [runs(results)[f"trial_{number:05d}"].data.tags.get("origin") for number in range(3)]
    assert tags == ["enqueued", "enqueued", None]


def test_another_study_starts_from_its_best(first, results: Path) -> None:
    said: list[str] = []
    settings = {"enqueue": None, "name": "next", "warm_start": first[0].plan.folder, "top": 2}
    plan = start_from_known(study(results, **settings).plan, said.append)
    assert [one.values for one in plan.enqueued] == [record.values for record in first[0].ranking.trials[:2]]
    assert said == ["warm start: 2 of 3 finished trials of known are tried first"]


def matrix_on(record: TrialRecord, seeds: tuple[int, ...]) -> np.ndarray:
    """The accuracy matrices that a trial's configuration gives on some seeds without Ray."""
    settings = {name: value for name, value in record.settings.items() if value is not None}
    return learn_sequence(build_trial(configure(record.algorithm, settings), seeds)).accuracy.numpy()


def test_further_seeds_are_trained_once_through_an_interrupt_and_join_the_records(
    first, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one more configuration, which extends the study."""
    result, folder = first[0], first[0].plan.folder
    before = read_trials(folder)
    longer: dict[str, Any] = {"seeds": 4, "trials": 4, "enqueue": [KNOWN, PART, {"distillation_temperature": 4.0}]}
    join, joined = RecordStore.join_seeds, list[str]()

    def join_one(store: RecordStore, label: str, *measured: Any) -> None:
        if len(joined) == 1:
            raise KeyboardInterrupt
        joined.append(label)
        join(store, label, *measured)

    with monkeypatch.context() as patched:
        patched.setattr(RecordStore, "join_seeds", join_one)
        cut_off = study(results, all=True, **longer).run()
    assert cut_off.interrupted
    assert cut_off.exit_code == 130
    middle = read_trials(folder)
    assert [label for label, record in middle.items() if len(record.seeds) == 4] == joined
    whole = study(results, **longer).run()
    records = read_trials(folder)
    assert {label: record.seeds for label, record in records.items()} == dict.fromkeys(records, (0, 1, 2, 3))
    assert len(records) == 5
    assert records[joined[0]].seconds == middle[joined[0]].seconds
    assert records["trial_00003"].values["distillation_temperature"] == 4.0
    for label, record in records.items():
        assert record.accuracy[:2] == before[label].accuracy if label in before else True
        assert np.array_equal(np.array(record.accuracy[2:], dtype=float), matrix_on(record, (2, 3)), equal_nan=True)
    assert whole.best is not None
    found = json.loads((folder / "best.json").read_text())
    assert found["seeds"] == [0, 1, 2, 3]
    for label, run in runs(results).items():
        assert run.info.status == "FINISHED"
        assert run.data.tags["seeds"] == "0 1 2 3"
        assert run.data.metrics["average_accuracy"] == records[label].metrics["average_accuracy"]
    assert "made again" not in capsys.readouterr().err
    final = json.loads((folder / "final.json").read_text())
    assert final["seeds"]["selecting"] == [0, 1, 2, 3]
    openings = [one for one in read_openings(results) if one["study"] == "known"]
    assert len(openings) == (
        1 if final["choice"]["values"] == result.choice.values else 2
    )  # a choice that stays keeps it
    assert "Further seeds 2 3, of every finished trial and the references." in (folder / "report.html").read_text()
