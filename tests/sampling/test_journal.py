"""Optuna's journal, damaged in every way, is made again from the trials' records; nothing is asked for twice."""

import json
import shutil
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from clsearch.records.seeds import join_seeds
from clsearch.records.study_file import JOURNAL
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import STATE_FILE, read_trials, trial_label
from clsearch.records.writer import StudyWriter
from clsearch.sampling.journal import open_storage
from clsearch.sampling.samplers import generation_attribute
from tests.builders import plan_of, record_of
from tests.execution.reports import FlatSearcher
from tests.execution.test_searcher import Host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
ENDS = ("finished", "finished", "pruned", "diverged", "lost its worker", "finished", "running")
"""How the trials of a study went on; the last one did not end."""
TWO = {"objectives": ("average_accuracy", "average_forgetting")}
SAMPLERS = {"random": {}, "tpe": {}, "qmc": {}, "gp": {}, "cmaes": {}, "nsga2": TWO, "nsga3": TWO}
SAMPLERS["grid"] = {"trials": None, "grid_points": 3}


def begin(folder, sampler="random", ends=ENDS, **more):
    """A study whose process is gone: its plan, with the journal and the records that it left."""
    plan = plan_of(folder, **({"sampler": sampler, "trials": 9, "references": ()} | SAMPLERS[sampler] | more))
    StudyWriter(plan).begin()
    searcher = FlatSearcher(plan, open_storage(plan), Host())
    for number, end in enumerate(ends):
        write_and_tell(searcher, number, end)
    return plan


def write_and_tell(searcher, number, end):
    """Ask for a trial, tell Optuna how it went on, and write its record."""
    values, learned = searcher.suggest(f"t{number}")["values"], 3 if end == "finished" else 2
    state = {"diverged": "failed", "lost its worker": "failed"}.get(end, end)
    reason = {"diverged": "training diverged in epoch 1 of task 3", "lost its worker": "the worker died"}.get(end, "")
    record = record_of(
        searcher.plan, number, [0.6 + 0.01 * number] * 3, values, state=state, learned=learned, reason=reason
    )
    told = [{"tasks_learned": k, **scores(record, k)} for k in range(1, learned + 1)]
    for each in told:
        searcher.on_trial_result(f"t{number}", dict(each))
    if end == "pruned":
        searcher.open[record.label].study.tell(number, state=TrialState.PRUNED)
    elif end != "running":
        failed = {"failed": reason} if end == "diverged" else {}
        searcher.on_trial_complete(f"t{number}", None if end == "lost its worker" else told[-1] | failed)
    StudyWriter(searcher.plan).write_trial(record)


def scores(record, learned):
    found = metrics_after(record, learned) if learned < record.tasks_learned else record.metrics
    return {name: found[name] for name in TWO["objectives"] if name in found}


def content(study):
    """What a study knows of each trial."""
    return [(t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.trials]


def proposals(plan, count=3):
    """The values of the next trials, with their labels."""
    searcher = FlatSearcher(plan, open_storage(plan), Host(), ended_of(plan))
    asked = [searcher.suggest(f"u{i}") for i in range(count)]
    return [(each["label"], each["values"]) for each in asked]


def ended_of(plan):
    files = [json.loads(path.read_text()) for path in plan.folder.glob("trials/*/record.json")]
    return {one["label"]: one["values"] for one in files if one["state"] in ("finished", "pruned", "failed")}


def in_middle(journal, change):
    lines = journal.read_bytes().splitlines(keepends=True)
    place = len(lines) // 2
    journal.write_bytes(b"".join([*lines[:place], change(lines[place]), *lines[place + 1 :]]))


def replaced(journal, old, new):
    before = journal.read_bytes()
    assert old in before
    journal.write_bytes(before.replace(old, new, 1))


def folder_in_place(journal):
    journal.unlink()
    journal.mkdir()
    (journal / "file").write_text("kept")


DAMAGE = {
    "garbage in the middle": lambda j: in_middle(j, lambda line: b"\x00\xff garbage\n" + line),
    "a line cut in the middle": lambda j: in_middle(j, lambda line: line[:20]),
    "no object": lambda j: in_middle(j, lambda line: b"[1]\n" + line),
    "an unknown operation": lambda j: in_middle(j, lambda line: b'{"op_code": 77}\n' + line),
    "an operation without its trial": lambda j: in_middle(j, lambda line: b'{"op_code": 5, "worker_id": "w"}\n' + line),
    "garbage at the end": lambda j: j.write_bytes(j.read_bytes() + b"garbage\n"),
    "its first line is gone": lambda j: j.write_bytes(j.read_bytes().partition(b"\n")[2]),
    "its second half is gone": lambda j: j.write_bytes(b"".join(j.read_bytes().splitlines(True)[:15])),
    "empty": lambda j: j.write_bytes(b""),
    "missing": lambda j: j.unlink(),
    "a folder": folder_in_place,
    "binary": lambda j: j.write_bytes(bytes(range(256)) * 9),
    "a value moved by one bit": lambda j: replaced(j, b'"param_value_internal":', b'"param_value_internal":1'),
    "an end moved by one bit": lambda j: replaced(j, b'"state":1', b'"state":3'),
    "other ranges": lambda j: replaced(j, b'\\"high\\": 100.0', b'\\"high\\": 900.0'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_is_made_again_with_all_that_it_said(tmp_path, damage):
    plan = begin(tmp_path / "a")
    before, journal = content(open_storage(plan)), plan.folder / JOURNAL
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    DAMAGE[damage](journal)
    said = []
    assert content(open_storage(plan, said.append)) == before
    (line,) = said
    assert line.startswith(f"Optuna's journal {journal} ")
    assert "made again from the records of 7 trials" in line
    kept = journal.with_name(f"{JOURNAL}.1")
    assert kept.exists() == (damage != "missing")
    assert ("; the old one is kept as optuna.journal.1" in line) == (damage != "missing")
    assert content(open_storage(plan, said.append)) == before
    assert len(said) == 1
    assert proposals(plan) == proposals(plan_of(tmp_path / "b", sampler="random", trials=9, references=()))


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "grid", "cmaes"])
def test_a_search_goes_on_as_with_the_journal_that_was_lost(tmp_path, sampler):
    """Its unfinished trial with the same values, then with the same suggestions."""
    ends = ("finished",) * 5 + ("running",)
    plan, other = (begin(tmp_path / name, sampler, ends) for name in "ab")
    (plan.folder / JOURNAL).unlink()
    found, expected = proposals(plan), proposals(other)
    assert [label for label, _ in found] == ["trial_00005", "trial_00006", "trial_00007"]
    assert found == expected


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_a_genetic_search_goes_on_with_the_generation_that_it_had(tmp_path, sampler):
    plan = begin(tmp_path, sampler, ("finished",) * 5)
    (plan.folder / JOURNAL).unlink()
    study = open_storage(plan)
    assert [t.system_attrs for t in study.trials] == [generation_attribute(plan, g) for g in (0, 0, 0, 0, 1)]


@pytest.mark.parametrize("sampler", ["random", "grid", "qmc"])
def test_a_trial_whose_record_is_lost_too_is_asked_for_again_and_no_other(tmp_path, sampler):
    plan = begin(tmp_path, sampler, ("finished",) * 4)
    searched = [t.params for t in open_storage(plan).trials][:4]
    (plan.folder / JOURNAL).unlink()
    shutil.rmtree(plan.folder / "trials" / trial_label(1))
    state = plan.folder / "trials" / trial_label(1) / STATE_FILE
    state.parent.mkdir()
    state.write_bytes(b"the state of values that nobody knows")
    found = proposals(plan, 2)
    assert [label for label, _ in found] == ["trial_00001", "trial_00004"]
    assert not state.exists()
    others = [values for place, values in enumerate(searched) if place != 1]
    assert all(values not in others for _, values in found)
    if sampler == "grid":
        assert [values for _, values in found] == [list(plan.space.grid(3))[n] for n in (1, 4)]
    if sampler == "random":  # its suggestion depends on its number alone
        assert found[0][1] == searched[1]


def test_optuna_keeps_what_it_was_told_of_a_trial_that_got_further_seeds(tmp_path):
    plan = begin(tmp_path, "random", ("finished", "pruned"))
    before, said = content(open_storage(plan)), []
    for record in read_trials(plan.folder).values():
        more = replace(record, accuracy=record.accuracy[:2], columns=[], curve=[], epochs=[])
        StudyWriter(plan).write_trial(join_seeds(record, more, (3, 4)))
    assert content(open_storage(plan, said.append)) == before
    assert said == []
    (plan.folder / JOURNAL).unlink()
    assert content(open_storage(plan, said.append)) == before


QUEUE = [{"distillation_factor": 2.0, "distillation_temperature": 1.0}, {"distillation_factor": 3.0}]
LONGER = [*QUEUE, {"distillation_temperature": 4.0}]


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "nsga2"])
def test_what_is_enqueued_is_tried_first_and_once_and_a_longer_list_later(tmp_path, sampler):
    plan = begin(tmp_path, sampler, (), enqueue=QUEUE)
    for _ in range(3):  # as after kills
        study = open_storage(plan)
        assert [trial.system_attrs for trial in study.trials] == [{"fixed_params": params} for params in QUEUE]
    searcher = FlatSearcher(plan, study, Host())
    values = [searcher.suggest(f"t{n}")["values"] for n in range(3)]
    assert values[0] == QUEUE[0]
    assert values[1]["distillation_factor"] == 3.0
    assert {*values[1]} == {*plan.space}
    assert {label: origin.given for label, origin in searcher.host.origins.items()} == {
        trial_label(0): ("distillation_factor", "distillation_temperature"),
        trial_label(1): ("distillation_factor",),
    }
    longer = plan_of(
        tmp_path, **({"sampler": sampler, "trials": 9, "references": ()} | SAMPLERS[sampler]), enqueue=LONGER
    )
    searcher = FlatSearcher(longer, open_storage(longer), Host())
    resumed = [searcher.suggest(f"u{n}") for n in range(4)]
    assert [each["values"] for each in resumed[:3]] == values
    assert resumed[3]["values"]["distillation_temperature"] == 4.0
    assert len(open_storage(longer).trials) == 4


@pytest.mark.parametrize("asked", [1, 2, 4])
def test_a_lost_journal_keeps_the_queue_and_says_what_was_enqueued(tmp_path, asked):
    plans = [begin(tmp_path / name, "random", ("finished",) * asked, enqueue=LONGER) for name in "ab"]
    for plan in plans:
        write_origins(plan)
    (plans[0].folder / JOURNAL).unlink()
    lost, whole = (open_storage(plan) for plan in plans)
    assert content(lost) == content(whole)
    assert [trial.system_attrs for trial in lost.trials] == [trial.system_attrs for trial in whole.trials]
    assert proposals(plans[0]) == proposals(plans[1])


def test_a_lost_record_of_an_enqueued_trial_is_asked_for_with_its_values(tmp_path):
    plan = begin(tmp_path, "random", ("finished",) * 4, enqueue=LONGER)
    write_origins(plan)
    (plan.folder / JOURNAL).unlink()
    shutil.rmtree(plan.folder / "trials" / trial_label(1))
    ((label, values), (_, new)) = proposals(plan, 2)
    assert (label, values["distillation_factor"]) == (trial_label(1), 3.0)
    assert new["distillation_factor"] != 3.0


def write_origins(plan):
    """Write the origins of trials into their records, as a host does."""
    origins = FlatSearcher(plan, open_storage(plan), Host()).origins
    for label, record in read_trials(plan.folder).items():
        if label in origins:
            StudyWriter(plan).write_trial(replace(record, origin=origins[label].why, given=list(origins[label].given)))


def test_a_journal_that_knows_more_than_the_records_stays_as_it_is(tmp_path):
    """Optuna hears of an end before the record is written, and of a trial before it has a record."""
    plan = begin(tmp_path)
    writer, record = StudyWriter(plan), record_of(plan, 1, [0.5] * 3)
    shutil.rmtree(writer.trial_folder(trial_label(0)))
    file = writer.trial_folder(trial_label(1)) / "record.json"
    writer.write_status(replace(record, values=json.loads(file.read_text())["values"], state="running"))
    before, said = (plan.folder / JOURNAL).read_bytes(), []
    open_storage(plan, said.append)
    assert (plan.folder / JOURNAL).read_bytes() == before
    assert said == []


def test_a_new_study_says_nothing(tmp_path):
    plan, said = plan_of(tmp_path), []
    open_storage(plan, said.append)
    (plan.folder / JOURNAL).write_bytes(b"")  # killed at once
    open_storage(plan, said.append)
    assert said == []


def test_a_folder_that_was_renamed_keeps_its_search(tmp_path):
    plan = begin(tmp_path)
    before = content(open_storage(plan))
    plan.folder.rename(tmp_path / "other")
    renamed = plan_of(tmp_path, name="other", sampler="random", trials=14, references=())
    said = []
    assert content(open_storage(renamed, said.append)) == before
    assert said == []
    assert [label for label, _ in proposals(renamed, 2)] == ["trial_00006", "trial_00007"]
