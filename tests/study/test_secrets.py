"""Secrets of addresses, planted in every option that takes one, are in nothing that is written or printed."""

import contextlib
import io
import json
import logging
import sys
from pathlib import Path

import pytest

from clsearch import Comparison
from clsearch.cli.doctor import check_mlflow
from clsearch.common.errors import ConfigError
from clsearch.execution import preflight
from clsearch.execution.dry_run import place_rows
from clsearch.planning.config_file import format_plan
from clsearch.planning.options import ADDRESSES
from clsearch.records.mirror import Mirror
from clsearch.records.study_file import read_study_json
from clsearch.records.study_record import read_study
from clsearch.records.writer import StudyWriter
from clsearch.reporting.answer_text import write_question
from clsearch.reporting.html.report import write_report
from clsearch.tracking.sender import Tracker
from clsearch.tracking.stores import mlflow_row
from tests.builders import study_of

PLANTED = ("planteduser", "planted-password", "planted-value", "planted-fragment")

PLACES = [
    "http://planteduser:planted-password@127.0.0.1:1/x?sig=planted-value#planted-fragment",
    "postgresql://planteduser:planted-password%2F@127.0.0.1:1/x?password=planted-value",
    "ftp://planteduser:planted-p@planted-password@127.0.0.1:1/x",
    "s3://planteduser:pl/planted-password@bucket/x?token=planted-value",
    "s3://planteduser:a planted-password@bucket/x?k=planted-value",
    "http%3A%2F%2Fplanteduser%3Aplanted-password%40127.0.0.1%3A1",
    "planteduser:planted-password@127.0.0.1:1",
    "simplecache::http://planteduser:planted-password@127.0.0.1:1/x?sig=planted-value",
]

pytestmark = pytest.mark.slow


def ended(call) -> str:
    """What a call prints, to both streams, and says in its refusal."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            call()
        except (ConfigError, SystemExit) as error:
            out.write(str(error))
    return out.getvalue()


def assert_nowhere(*texts: str) -> None:
    for text in texts:
        assert [secret for secret in PLANTED if secret in text] == [], text


@pytest.fixture(autouse=True)
def _script(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["studies/mine.py"])
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


PATHS = ("results", "data_root", "grouping", "benchmark", "config", "name")
"""Options that take no address."""


@pytest.mark.parametrize(
    ("option", "place"),
    [
        *((option, place) for option in ADDRESSES for place in PLACES),
        *zip(PATHS, (*PLACES[:5], PLACES[0]), strict=True),
    ],
)
def test_in_an_option(option, place, tmp_path, caplog):
    flag, results = f"--{option.replace('_', '-')}", str(tmp_path / "out")
    place = f"folder:{place}" if option == "benchmark" else place
    own = [] if option == "results" else ["--results", results]
    caplog.set_level(logging.INFO)
    said = [
        ended(lambda words=words: study_of().main([*words, *own]))
        for words in (
            [flag, place, "--print-config"],
            [f"{flag}={place}", "--print-config"],
            [flag, place, "--help"],
            [flag, place, "--seeds", "x"],
            [f"{flag}-mistyped", place],
        )
    ]
    assert all(said)
    settings = {} if option == "config" else {option: place}
    if option in ADDRESSES:
        study = study_of(results=results, **settings)
        said += [ended(lambda: study.main(["--help"])), ended(lambda: study.main(["--print-config"]))]
        plan = study_of().plan_for([flag, place, *own])
        said += [" ".join(plan.command or []), repr(plan), str(plan.options), repr(study.plan)]
        said += [format_plan(plan, {}), str(mlflow_row(plan, False)), str(place_rows(plan))]
        said += [ended(lambda: preflight.check(plan)), ended(lambda: preflight.check_address(plan))]
        StudyWriter(plan).begin()
        said += [write_report(plan.folder).read_text(), str(read_study_json(plan.folder))]
        said += [file.read_text() for file in Path(results).rglob("*") if file.is_file()]
        assert vars(plan.options)[option] == place  # what connects has it all
    elif settings:
        said.append(ended(lambda: study_of(**settings).run()))
    file = tmp_path / "options.yml"
    for quoted in (json.dumps(place), f'"{place}', f"'{place}' x", f"{{a: {json.dumps(place)}}}"):
        file.write_text(f"{option}: {quoted}\n")
        said.append(ended(lambda: study_of().main(["--config", str(file), "--print-config", *own])))
    assert_nowhere(*said, caplog.text)


@pytest.mark.parametrize("place", PLACES[:4])
def test_in_what_is_said_while_a_study_runs(place, tmp_path):
    study = study_of(results=tmp_path / "out").plan_for([])
    StudyWriter(study).begin()
    warned: list[str] = []
    mirror = Mirror(study.folder, place, warned.append)
    mirror.end()
    tracker = Tracker(read_study_json(study.folder), study.folder, place, warned.append)
    tracker.warn = warned.append
    apart = "; user planteduser with planted-password, planted-value" if place == PLACES[0] else ""
    tracker._warn_once(OSError(f"cannot reach {place}{apart}"))
    assert len(warned) >= 2
    assert_nowhere(*warned, str(check_mlflow(place)))


def test_in_the_environment_and_in_a_comparison(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", PLACES[0])
    monkeypatch.setenv("RAY_ADDRESS", PLACES[6])
    plan = study_of(results=tmp_path).plan
    said = [str(mlflow_row(plan, False)), str(place_rows(plan)), ended(lambda: preflight.check(plan))]
    said.append(ended(lambda: preflight.check_places(plan)))
    pair = Comparison(
        name="pair", algorithm="lwf", kind="methods", studies={"a": {}, "b": {"algorithm": "ewc"}}, epochs=1
    )
    for words in (["--mirror", PLACES[0]], [f"--tracking-uri={PLACES[1]}"]):
        said += [ended(lambda words=words: pair.main([*words, "--print-config"]))]
        said += [ended(lambda words=words: pair.main([*words, "--results", str(tmp_path / "out")]))]
    assert all(said)
    assert_nowhere(*said)


def test_in_a_question_and_in_a_record_of_an_earlier_version(tmp_path):
    question = f"Is {PLACES[0]} red?\x1b[31m"
    plan = study_of(results=tmp_path, question=question).plan
    StudyWriter(plan).begin()
    content = json.loads((plan.folder / "study.json").read_text())
    assert_nowhere(json.dumps(content))
    del content["format"], content["digest"]  # as in 0.1
    content |= {"command": ["python", "--mirror", PLACES[1]], "question": question}
    (plan.folder / "study.json").write_text(json.dumps(content))
    shown = write_question(read_study(plan.folder)) + str(read_study_json(plan.folder))
    assert_nowhere(shown, write_report(plan.folder).read_text())
    assert "\x1b" not in shown
