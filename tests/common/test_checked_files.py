"""Files that are read back: damage is seen, whatever it is, and files of 0.1 and of newer versions are told from it."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any, NotRequired

import pytest
from typing_extensions import TypedDict

from clsearch.common.checked_files import (
    HEADER_BYTES,
    DamagedFile,
    NewerFile,
    append_digest,
    check_appended_digest,
    header_of,
    read_checked,
    read_json,
    seal,
    write_checked,
    write_json,
)
from clsearch.common.files import write_atomically


class Inner(TypedDict):
    """A part of a form."""

    low: float


class Form(TypedDict):
    """A form with each kind of value."""

    name: str
    count: int
    ratio: float | None
    parts: list[Inner]
    free: dict[str, Any]
    later: NotRequired[str]


CONTENT: Form = {"name": "ü", "count": 3, "ratio": 1, "parts": [{"low": 0.1}], "free": {"b": [None, 1e-300], "a": True}}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_json_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "file.json"
    assert read_json(path, Form) is None
    write_json(path, CONTENT)
    assert read_json(path, Form) == CONTENT
    assert list(json.loads(path.read_text())) == ["format", "digest", *CONTENT]


def test_json_that_is_written_in_another_form_is_the_same(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, CONTENT)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_json(path, Form) == CONTENT


def test_what_json_cannot_hold_is_null_and_keys_are_text(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {**CONTENT, "ratio": float("nan"), "free": {"x": (1, float("inf")), 2: 1, 10: 2}})
    found = read_json(path, Form)
    assert (found["ratio"], found["free"]) == (None, {"x": [1, None], "2": 1, "10": 2})


def test_each_bit_of_a_json_file_that_changes_its_content_is_seen(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, CONTENT)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        try:
            assert read_json(path, Form) == CONTENT, bit  # white space
        except DamagedFile:
            continue


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no content"),
        (b"\0" * 500, "no content"),
        (b"{", "no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"\xff\xfe\x00", None),
        (b"[" * 100_000, None),
        (b"[1]", "a list, not a JSON object"),
        ({"name": 1}, "key name: input should be a valid string, not '1'"),
        ({"name": None}, "key name: input should be a valid string, not 'None'"),
        ({"count": "3"}, "key count: input should be a valid integer, not '3'"),
        ({"count": True}, "key count: input should be a valid integer, not 'True'"),
        ({"parts": {}}, "key parts: input should be a valid list, not '{}'"),
        ({"parts": [{}]}, "key parts.0.low: missing"),
        ({"later": 1}, "key later: input should be a valid string, not '1'"),
        ("count", "key count: missing"),
    ],
)
def test_what_does_not_fit_the_form_is_named_by_file_and_key(tmp_path, content, why):
    path = tmp_path / "file.json"
    if isinstance(content, dict):
        content = json.dumps({**CONTENT, **content}).encode()
    elif isinstance(content, str):
        content = json.dumps({name: value for name, value in CONTENT.items() if name != content}).encode()
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as error:
        read_json(path, Form)
    (problem,) = error.value.problems
    assert problem.rule == "file-whole"
    start = f"{path}: must be a whole file, as clsearch wrote it; got "
    assert problem.startswith(start)
    assert why is None or problem == start + why


def test_a_file_of_0_1_has_neither_format_nor_digest_and_only_one_of_them_is_damage(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(CONTENT))
    assert read_json(path, Form) == CONTENT
    for left in ("format", "digest"):
        path.write_text(json.dumps({**CONTENT, left: seal(CONTENT)[left]}))
        with pytest.raises(DamagedFile, match="missing"):
            read_json(path, Form)


def test_a_newer_file_is_no_damage_and_refused(tmp_path, monkeypatch):
    for name, write, read in (
        ("file.json", lambda path: write_json(path, {"other": 1}), lambda path: read_json(path, Form)),
        ("file.pt", lambda path: write_checked(path, b"x"), read_checked),
    ):
        with monkeypatch.context() as newer:
            newer.setattr("clsearch.common.checked_files.FORMAT", 12)
            write(tmp_path / name)
        with pytest.raises(NewerFile) as error:
            read(tmp_path / name)
        assert error.value.problems == [
            f"{tmp_path / name}: must have format 1 or lower, which this version of clsearch reads; got format 12: use "
            f"the version that wrote it, or a newer one"
        ]


def test_a_binary_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(FileNotFoundError):
        read_checked(path)
    for payload in (b"", b"PK\3\4", bytes(range(256)) * 100):
        write_checked(path, payload)
        assert read_checked(path) == read_checked(path, b"PK") == payload
        assert len(path.read_bytes()) == HEADER_BYTES + len(payload)


def test_each_bit_of_a_binary_file_is_seen(tmp_path):
    path = tmp_path / "file.pt"
    write_checked(path, b"payload")
    whole = path.read_bytes()
    for content in [flipped(whole, bit) for bit in range(8 * len(whole))] + [whole[:end] for end in range(len(whole))]:
        path.write_bytes(content)
        with pytest.raises(DamagedFile):
            read_checked(path, b"PK")
    path.write_bytes(whole + b" ")
    with pytest.raises(DamagedFile):
        read_checked(path)


def test_a_file_without_header_is_taken_as_it_is_where_it_is_known_by_its_beginning(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(b"PK and more")
    assert read_checked(path, b"PK") == b"PK and more"
    with pytest.raises(DamagedFile, match="without the header"):
        read_checked(path)


def test_a_digest_at_a_files_end_covers_all_before_it(tmp_path):
    path = tmp_path / "file.npy"
    with pytest.raises(FileNotFoundError):
        check_appended_digest(path)
    path.write_bytes(random.Random(0).randbytes(3_000_000))
    append_digest(path)
    check_appended_digest(path)
    whole = path.read_bytes()
    broken = [flipped(whole, bit) for bit in (0, 12_345_678, 8 * len(whole) - 1)]
    for content in (*broken, whole[:-1], whole[:2_000_000], b"", b"x", whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(DamagedFile):
            check_appended_digest(path)


@pytest.mark.parametrize("read", [lambda path: read_json(path, Form), read_checked, check_appended_digest])
def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path, read):
    (tmp_path / "file").mkdir()
    with pytest.raises(DamagedFile, match="got a folder"):
        read(tmp_path / "file")


def test_a_folder_in_the_place_of_a_file_is_kept_beside_the_new_file(tmp_path):
    for n in range(2):
        (tmp_path / "file").mkdir()
        (tmp_path / "file" / "within").write_text(str(n))
        write_atomically(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"
        (tmp_path / "file").unlink()
    assert [(tmp_path / f"file.damaged{mark}" / "within").read_text() for mark in ("", ".1")] == ["0", "1"]


def test_errors_travel_between_processes():
    for error in (DamagedFile(Path("a/b"), "no content"), NewerFile(Path("a/b"), 2)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.problems, again.path) == (type(error), error.problems, Path("a/b"))


def test_a_header_is_one_line_of_text():
    assert header_of(b"").startswith(b"clsearch-file 0001 ")
    assert header_of(b"").endswith(b"\n")
    assert len(header_of(b"")) == HEADER_BYTES
