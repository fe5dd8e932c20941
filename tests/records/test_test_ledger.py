"""The ledger of test data: every opening has a line, no two the same count, whoever writes at the same time."""

import json
import multiprocessing
import time
from datetime import UTC, datetime, timedelta

import pytest

from clsearch.records.test_ledger import LEDGER, Opening, check_ledger, read_openings, record_opening
from tests.refusals import refusals


def opened(results, data="digits", study="mine", **settings):
    own = {"algorithm": "lwf", "values": {"distillation_factor": 0.5}, "seeds": (1000, 1001)}
    return record_opening(results, data, study, **(own | settings))


def lines_of(results):
    """The lines without their digests."""
    lines = [json.loads(line) for line in (results / LEDGER).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("format", "digest")} for line in lines]


def test_before_any_opening_there_is_none_and_no_file(tmp_path):
    assert read_openings(tmp_path) == []
    assert not (tmp_path / LEDGER).exists()


def test_an_opening_says_what_was_opened_when_for_which_configuration_and_seeds(tmp_path):
    earliest = datetime.now(UTC) - timedelta(seconds=1)
    found = opened(tmp_path, values={"learning_rate": 0.1, "per_task": [{"distillation_factor": 2.0}, {}]})
    latest = datetime.now(UTC)
    assert found == Opening(
        data="digits",
        when=found.when,
        study="mine",
        algorithm="lwf",
        values={"learning_rate": 0.1, "per_task": [{"distillation_factor": 2.0}, {}]},
        seeds=(1000, 1001),
        before=0,
    )
    assert earliest <= datetime.fromisoformat(found.when) <= latest
    assert datetime.fromisoformat(found.when).utcoffset() == timedelta(0)
    assert lines_of(tmp_path) == read_openings(tmp_path) == [vars(found) | {"seeds": [1000, 1001], "also": []}]


def test_each_opening_adds_a_line_after_the_others(tmp_path):
    for study in ("first", "second", "third"):
        before = (tmp_path / LEDGER).read_bytes() if (tmp_path / LEDGER).exists() else b""
        opened(tmp_path, study=study)
        assert (tmp_path / LEDGER).read_bytes().startswith(before)
    assert [line["study"] for line in lines_of(tmp_path)] == ["first", "second", "third"]
    assert (tmp_path / LEDGER).read_bytes().endswith(b"}\n")


def test_openings_are_counted_for_each_data_by_all_studies(tmp_path):
    order = ["digits", "mnist", "digits", "digits", "mnist", "cifar10"]
    found = [opened(tmp_path, data, study=f"study-{i}") for i, data in enumerate(order)]
    assert [opening.before for opening in found] == [0, 0, 1, 2, 1, 0]
    assert [line["before"] for line in lines_of(tmp_path)] == [0, 0, 1, 2, 1, 0]


def test_results_folders_count_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    opened(tmp_path / "one")
    assert opened(tmp_path / "two").before == 0
    assert opened(tmp_path / "one").before == 1


def test_one_study_may_open_twice_and_both_count(tmp_path):
    assert [opened(tmp_path, study="mine").before for _ in range(3)] == [0, 1, 2]


def test_an_opening_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError):  # noqa: PT011
        opened(tmp_path / "file")


def test_empty_lines_in_the_ledger_are_none(tmp_path):
    opened(tmp_path)
    (tmp_path / LEDGER).write_text((tmp_path / LEDGER).read_text() + "\n\n")
    assert opened(tmp_path).before == 1
    assert len(read_openings(tmp_path)) == 2


def _open_often(results, study, times, start):
    """In a process of its own."""
    start.wait(60)
    for _ in range(times):
        opened(results, study=study)
        opened(results, data=f"only of {study}", study=study)


@pytest.mark.slow
def test_openings_from_several_processes_each_have_a_count_of_their_own_and_none_is_lost(tmp_path):
    processes, times = 3, 8
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    workers = [
        context.Process(target=_open_often, args=(tmp_path, f"study-{p}", times, start)) for p in range(processes)
    ]
    for worker in workers:
        worker.start()
    start.set()
    seen, until = 0, time.monotonic() + 120
    while any(worker.is_alive() for worker in workers) and time.monotonic() < until:
        found = read_openings(tmp_path)  # no reader sees half a line, or fewer lines than before
        assert len(found) >= seen
        seen = len(found)
        time.sleep(0.01)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    shared = [line for line in lines_of(tmp_path) if line["data"] == "digits"]
    assert [line["before"] for line in shared] == list(range(processes * times))
    for p in range(processes):
        assert sum(line["study"] == f"study-{p}" for line in shared) == times
        own = [line["before"] for line in lines_of(tmp_path) if line["data"] == f"only of study-{p}"]
        assert own == list(range(times))


WHOLE = {"data": "a", "when": "now", "study": "s", "algorithm": "lwf", "values": {}, "seeds": [1], "before": 0}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"<<<<<<< HEAD", "no JSON"),
        (b'{"data": "a"', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 20_000, "no JSON"),
        (b"[]", "a list, not a JSON object"),
        (json.dumps(WHOLE | {"before": "1"}).encode(), "key before: "),
        (json.dumps(WHOLE | {"also": "x"}).encode(), "key also: "),
        (json.dumps({**WHOLE, "data": None}).encode(), "key data: "),
    ],
)
def test_a_damaged_line_is_refused_by_file_and_line_with_what_to_do(tmp_path, line, what):
    (tmp_path / LEDGER).write_bytes(json.dumps(WHOLE).encode() + b"\n\n" + line + b"\n")
    for call in (check_ledger, read_openings, opened):
        (problem,) = refusals(call, tmp_path)
        assert (problem.field, problem.rule) == ("results", "ledger-whole")
        assert f"{LEDGER}: line 3: {what}" in problem
        assert "Mend the line" in problem


def test_a_folder_in_place_of_the_ledger_is_refused(tmp_path):
    (tmp_path / LEDGER).mkdir()
    assert refusals(check_ledger, tmp_path)[0].rule == "ledger-whole"


def test_a_ledger_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / LEDGER).write_text(json.dumps(WHOLE) + "\n")
    check_ledger(tmp_path)
    assert opened(tmp_path, "a").before == 1
    assert opened(tmp_path, "b", also=("p",)).before == 0
    assert opened(tmp_path, "c", also=("n", "p")).before == 1
