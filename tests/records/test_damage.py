"""A damaged file of a study: what is derived is derived again, what is not is named, and no number changes."""

from __future__ import annotations

import json
import random
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from clsearch.cli.main import main
from clsearch.common.checked_files import DamagedFile, digest_of, write_json
from clsearch.common.errors import ConfigError
from clsearch.planning.plan import Plan
from clsearch.records.attempts import (
    METHOD_PHASE,
    RATE_PHASE,
    STATE_FILE,
    Attempt,
    Decision,
    attempts_json,
    read_progress,
)
from clsearch.records.evaluation_file import FINAL_ACCURACY
from clsearch.records.resume import check_same, nothing_left
from clsearch.records.store import RecordStore
from clsearch.records.study_record import find_record, read_study
from clsearch.records.test_ledger import LEDGER, read_openings, record_opening
from clsearch.records.trials import CURVE_FILE, read_trials, with_curve
from clsearch.records.writer import StudyWriter
from clsearch.training.loop import learn_task
from tests.builders import plan_of
from tests.helpers import small_run
from tests.refusals import broken, refusals
from tests.study_folders import evaluated, references_of, small_plan, trials_of, written

pytestmark = pytest.mark.slow

DAMAGE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "damage.py")))
NAME = DAMAGE.NAME
BEST = "trial_00002"

TRIALS = f"{NAME}/trials"
FILES = [
    *(f"{NAME}/{name}" for name in ("study.json", "best.json", "final.json", FINAL_ACCURACY)),
    *(f"{TRIALS}/{label}/record.json" for label in (BEST, "trial_00001", "reference_finetuning")),
    f"{TRIALS}/{BEST}/{CURVE_FILE}",
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A finished study, and a copy of its results folder."""
    place = tmp_path_factory.mktemp("damage")
    plan = small_plan(place / "results", name=NAME)
    folder = written(plan, [*trials_of(plan), *references_of(plan)], evaluated(plan))
    final = json.loads((folder / "final.json").read_text())
    tables = {FINAL_ACCURACY: digest_of((folder / FINAL_ACCURACY).read_bytes())}
    write_json(folder / "final.json", final | {"tables": tables})
    shutil.copytree(place / "results", place / "pristine")
    return plan, place / "pristine"


@pytest.fixture
def study(pristine: tuple[Plan, Path]) -> Plan:
    """The study, whole, at the place where it was made."""
    plan, copy = pristine
    shutil.rmtree(plan.folder.parent, ignore_errors=True)
    shutil.copytree(copy, plan.folder.parent)
    return plan


@pytest.mark.parametrize("way", DAMAGE.DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_command_names_what_is_damaged_and_changes_nothing(study: Plan, file: str, way: str) -> None:
    results = study.folder.parent
    commands = {name: run for name, run in DAMAGE.readers(results, BEST).items() if name in ("list", "show", "best")}
    whole = {name: run() for name, run in commands.items()}
    assert {done.code for done in whole.values()} == {0}
    DAMAGE.damage(results / file, way, random.Random(0))
    before = DAMAGE.contents(results)
    for name, run in commands.items():
        done = run()
        assert DAMAGE.judge(done, whole[name], results / file) in DAMAGE.GOOD, (name, done.text)
        if name != "list" and file.endswith("study.json"):
            assert done.code == 2
        elif name != "show":
            assert done.code == 0
    assert DAMAGE.contents(results) == before
    if not file.endswith((CURVE_FILE, "study.json", "best.json")):  # the last is derived without Ray
        assert not nothing_left(study)


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    file, done = tmp_path / "best.json", DAMAGE.Done
    seen = [
        DAMAGE.judge(done(code, text), done(0, "94 %"), file)
        for code, text in ((None, ""), (0, "93 %"), (1, "best.json: x"), (2, "no"), (0, "94 %"), (2, "best.json: x"))
    ]
    assert seen == ["TRACEBACK", "CHANGED", "EXIT CODE 1", "EXIT CODE 2", "unaffected", "refused by name"]
    assert [verdict in DAMAGE.GOOD for verdict in seen] == [False] * 4 + [True] * 2


@pytest.mark.slow
@pytest.mark.parametrize("file", [FILES[0], FILES[2], FILES[4]])
def test_the_report_names_what_is_damaged_and_others_are_written(study: Plan, file: str, capsys) -> None:
    results = study.folder.parent
    shutil.copytree(study.folder, results / "other")
    (results / file).write_bytes(b"")
    code = main(["report", str(study.folder), str(results / "other"), "--output", str(results / "both.html")])
    seen = capsys.readouterr()
    assert (results / "other" / "report.html").exists()
    if file.endswith("study.json"):
        assert code == 2
        assert f"{file}: must be a whole file" in seen.err
    else:
        assert code == 0
        page = (study.folder / "report.html").read_text()
        assert f"{file}: must be a whole file" in page


def test_a_study_whose_choice_is_lost_answers_with_no_other_trial(study: Plan, capsys) -> None:
    expected = read_study(study.folder)
    (study.folder / "trials" / BEST / "record.json").write_text("{")
    found = read_study(study.folder)
    assert (found.chosen, found.lost_choice) == (None, BEST)
    assert found.final is not None  # of the choice, as before
    assert found.final.choice.label == BEST
    assert main(["best", str(study.folder)]) == 0
    seen = capsys.readouterr()
    assert yaml.safe_load(seen.out) == expected.chosen.values
    assert f"{BEST}/record.json" in seen.err
    with pytest.raises(DamagedFile):
        find_record(found, "2")
    assert find_record(found, "1").number == 1


def test_the_trials_of_damaged_records_are_begun_again_and_the_others_are_not(study: Plan) -> None:
    folder = study.folder / "trials"
    (folder / "trial_00001" / "record.json").write_bytes(b"\0" * 100)
    (folder / "trial_00003" / "record.json").unlink()
    (folder / "trial_00003" / "record.json").mkdir()
    store = RecordStore(study, StudyWriter(study))
    assert [damage.path.parent.name for damage in store.damaged] == ["trial_00001", "trial_00003"]
    assert {*store.records} == {path.name for path in folder.iterdir()} - {"trial_00001", "trial_00003"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "ended"}, "key state: ended"),
        ({"label": "trial_00009"}, "key label: trial_00009"),
        ({"accuracy": []}, "key accuracy: none of a finished trial"),
        ({"accuracy": [[[0.5]]]}, "key accuracy: other than one matrix for each of 2 seeds"),
        ({"accuracy": [[[0.5, 0.5]], [[0.5]]]}, "key accuracy: other than one matrix for each of 2 seeds"),
        ({"tasks_learned": 4}, "key tasks_learned: 4"),
        ({"metrics": {}}, "key metrics.average_accuracy: missing"),
        ({"metrics": {"average_accuracy": "0.9"}}, "key metrics.average_accuracy: input should be a valid number"),
    ],
)
def test_a_record_without_digest_must_make_sense(study: Plan, change: dict, why: str) -> None:
    path = study.folder / "trials" / "trial_00001" / "record.json"
    content = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("format", "digest", "tables")}
    path.write_text(json.dumps(content | {"more": 1}))
    assert "trial_00001" in read_trials(study.folder)
    path.write_text(json.dumps(content | change))
    (damage,) = read_study(study.folder).damaged
    assert damage.path == path
    assert damage.why.startswith(why)


def test_a_damaged_learning_curve_is_left_out_and_said(study: Plan) -> None:
    record, path = read_trials(study.folder)[BEST], study.folder / "trials" / BEST / CURVE_FILE
    whole, said = path.read_bytes(), []
    assert len(with_curve(study.folder, record, said.append).curve) == 3
    for content in (whole.replace(b"1.0", b"1.1", 1), whole[:50], b"", b"\xff\xfe", whole.replace(b"loss", b"lost")):
        path.write_bytes(content)
        assert with_curve(study.folder, record, said.append) == record
    assert [damage.path for damage in said] == [path] * 5
    older = replace(record, tables={})  # of 0.1, without digest
    path.write_bytes(whole)
    assert with_curve(study.folder, older).curve == with_curve(study.folder, record).curve
    path.write_bytes(whole.replace(b"task", b"x", 1))
    assert with_curve(study.folder, older, said.append) == older
    assert len(said) == 6


# study.json


@pytest.mark.parametrize(
    "left", ["trials/trial_00000/record.json", "trials/trial_00000/state.pt", "optuna.journal", "attempts.csv"]
)
def test_a_folder_with_trials_and_no_study_json_is_refused(tmp_path: Path, left: str, capsys) -> None:
    plan = plan_of(tmp_path)
    path = plan.folder / left
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert broken(check_same, plan) == [("name", "study-known")]
    with pytest.raises(
        ConfigError, match=r"which has trials and no study.json: put it back from a copy. .*--name mine-2"
    ):
        check_same(plan)
    assert not nothing_left(plan)
    check_same(plan_of(tmp_path, fresh=True))
    assert main(["show", str(plan.folder)]) == 2
    assert "which has trials and no study.json" in capsys.readouterr().err


def test_a_folder_with_the_users_own_files_may_become_a_study(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    plan.folder.mkdir()
    (plan.folder / "notes.txt").write_text("Which?")
    check_same(plan)


def test_a_new_study_writes_study_json_once_and_first(tmp_path: Path) -> None:
    writer = StudyWriter(plan_of(tmp_path))
    writer.begin_new()
    first = (writer.folder / "study.json").read_bytes()
    writer.begin()
    assert (writer.folder / "study.json").read_bytes() == first
    later = StudyWriter(plan_of(tmp_path))
    later.begin_new()
    assert (writer.folder / "study.json").read_bytes() == first
    later.begin()
    assert len(json.loads((writer.folder / "study.json").read_text())["resumed"]) == 1


# The ledger


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda whole: b"", "no content"),
        (lambda whole: whole[:-30], "line 2: no JSON"),
        (lambda whole: whole.replace(b"digits", b"digitz", 1), "line 1: content that does not fit its digest"),
        (lambda whole: b"[1]\n" + whole, "line 1: a list"),
        (lambda whole: b'{"data": "digits"}\n' + whole, "line 1: key when: missing"),
    ],
)
def test_a_damaged_ledger_is_refused_by_its_line_and_stays(tmp_path: Path, damage, why: str) -> None:
    for _ in range(2):
        record_opening(tmp_path, "digits", "mine", "lwf", {}, (1000,))
    ledger = tmp_path / LEDGER
    content = damage(ledger.read_bytes())
    ledger.write_bytes(content)
    for call in (lambda: read_openings(tmp_path), lambda: record_opening(tmp_path, "digits", "a", "lwf", {}, (1,))):
        (problem,) = refusals(call)
        assert problem.rule == "ledger-whole"
        assert f"{LEDGER}: {why}" in problem
    assert ledger.read_bytes() == content


def test_lines_of_0_1_are_counted(tmp_path: Path) -> None:
    opening = record_opening(tmp_path, "digits", "mine", "lwf", {"a": 1.0}, (1000,))
    (tmp_path / LEDGER).write_text(json.dumps(opening.as_json()) + "\n")
    assert record_opening(tmp_path, "digits", "mine", "lwf", {}, (1000,)).before == 1
    assert read_openings(tmp_path)[0] == opening.as_json()


# The protocol continual


def attempts_of(tasks: int) -> tuple[Attempt, ...]:
    def of(task: int, phase: str, bar: float | None, **values: float) -> Attempt:
        return Attempt(task, phase, values, (0.1 + 0.2, 1 / 3), bar, 2, 1.5, True, 1_700_000_000_000 + task)

    pairs = (
        (of(n, RATE_PHASE, None, learning_rate=0.1), of(n, METHOD_PHASE, 0.7, learning_rate=0.1, penalty_factor=n / 3))
        for n in range(1, tasks + 1)
    )
    return tuple(attempt for pair in pairs for attempt in pair)


def progress_in(folder: Path, decided: int, states: int) -> None:
    """Write the attempts of some tasks, and the state after each."""
    plan = plan_of(folder.parent, "ewc", space=None, protocol="continual", seeds=2, name=folder.name)
    decision, writer = Decision(attempts_of(decided)), StudyWriter(plan)
    writer.write_json("attempts.json", attempts_json(decision))
    writer.write_csv("attempts.csv", decision.table((0, 1)))
    run = small_run(seeds=(0, 1))
    state = run.initial_state()
    for _ in range(states):
        state = learn_task(run, state)
        state.save(folder / STATE_FILE)


@pytest.mark.slow
def test_the_progress_of_continual_survives_each_damage(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    progress_in(folder, 2, 2)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {*whole} == {"attempts.json", "attempts.csv", "continual.pt", "continual.previous.pt"}
    expected = read_progress(folder, (0, 1), (1, 2, 3))
    assert (expected.attempts, expected.tasks, expected.damaged) == (attempts_of(2), 2, ())
    for name in whole:
        for way in DAMAGE.DAMAGES:
            DAMAGE.damage(folder / name, way, random.Random(1))
            found = read_progress(folder, (0, 1), (1, 2, 3))
            assert found.attempts == expected.attempts, (name, way)
            assert found.tasks == (1 if name == "continual.pt" else 2), (name, way)
            unread = name in ("attempts.csv", "continual.previous.pt") or way == "missing"
            assert [damage.path.name for damage in found.damaged] == ([] if unread else [name]), way
            shutil.rmtree(folder / name) if (folder / name).is_dir() else None
            for other, content in whole.items():
                (folder / other).write_bytes(content)


@pytest.mark.slow
def test_a_state_of_another_study_is_passed_over(tmp_path: Path) -> None:
    progress_in(tmp_path / "mine", 2, 2)
    own = small_run(seeds=(0, 1)).fingerprint
    assert read_progress(tmp_path / "mine", (0, 1), (1, 2, 3), own).tasks == 2
    found = read_progress(tmp_path / "mine", (0, 1), (1, 2, 3), "another")
    assert (found.tasks, len(found.damaged)) == (0, 2)


@pytest.mark.slow
def test_a_state_whose_attempts_are_lost_is_not_gone_on_with(tmp_path: Path) -> None:
    progress_in(tmp_path / "mine", 1, 2)
    assert read_progress(tmp_path / "mine", (0, 1), (1, 2, 3)).tasks == 1  # by the state before
    (tmp_path / "mine" / "continual.previous.pt").unlink()
    assert read_progress(tmp_path / "mine", (0, 1), (1, 2, 3)).tasks == 0


def test_attempts_of_0_1_are_read_from_their_table(tmp_path: Path) -> None:
    progress_in(tmp_path / "mine", 3, 0)
    (tmp_path / "mine" / "attempts.json").unlink()
    assert read_progress(tmp_path / "mine", (0, 1), (1, 2, 3)).attempts == attempts_of(3)
