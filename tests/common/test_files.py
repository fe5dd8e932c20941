"""A file is whole, or what it was before."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clsearch.common.files import atomic_path, create_once, write_atomically


def test_content_arrives_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folders" / "state"
    for content in (b"first" * 1000, b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["state"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from clsearch.common.files import write_atomically

path = Path(sys.argv[1])
write_atomically(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(path, b"new" * 1000)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.slow
def test_a_disk_that_refuses_raises_and_leaves_the_old_content(tmp_path):
    # In a process of its own: the limit holds for every file of a process, its logs and those of Ray's threads too.
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "state")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert (tmp_path / "state").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_refused_rename_raises_and_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def refuse(source: object, target: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="read-only"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_next_write_succeeds_after_one_that_failed(tmp_path, monkeypatch):
    path = tmp_path / "state"
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda source, target: os.stat(tmp_path / "absent"))
        with pytest.raises(FileNotFoundError):
            write_atomically(path, b"new")
    assert not path.exists()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_takes_its_place_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "new" / "array"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"old")
        assert not path.exists()
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["array"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "array"
    write_atomically(path, b"old")

    def write():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["array"]


def test_two_writers_of_one_file_do_not_share_a_temporary_path(tmp_path):
    with atomic_path(tmp_path / "array") as first, atomic_path(tmp_path / "array") as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert (tmp_path / "array").read_bytes() == b"first"  # the outer one ends last


def test_nothing_written_is_an_error_and_not_an_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "array"):
        pass
    assert os.listdir(tmp_path) == []


def found(path):
    return path.read_bytes() if path.exists() else None


def test_a_file_is_made_once_and_then_found(tmp_path):
    path, made = tmp_path / "new" / "file", []

    def make(target):
        made.append(target)
        target.write_bytes(b"content")

    assert [create_once(path, found, make) for _ in range(3)] == [b"content"] * 3
    assert len(made) == 1


def test_who_comes_while_a_file_is_made_waits_and_finds_it(tmp_path):
    path, made, begun, missed = tmp_path / "file", [], threading.Event(), threading.Event()

    def make(target):
        made.append(target)
        begun.set()
        missed.wait()
        target.write_bytes(b"content")

    def miss(path):
        content = found(path)
        missed.set()
        return content

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(create_once, path, found, make)
        begun.wait()
        assert create_once(path, miss, make) == b"content"
        assert first.result() == b"content"
    assert len(made) == 1


def test_what_a_killed_maker_left_of_this_file_is_removed_and_of_others_kept(tmp_path):
    names = [".a[1].0123456789abcdef.tmp", ".a[1].b.0123456789abcdef.tmp", ".a1.0123456789abcdef.tmp"]
    for name in names:
        (tmp_path / name).touch()
    create_once(tmp_path / "a[1]", found, lambda target: target.write_bytes(b"content"))
    assert sorted(os.listdir(tmp_path)) == sorted(["a[1]", ".a[1].lock", *names[1:]])


def test_a_file_that_cannot_be_read_when_made_is_an_error(tmp_path):
    with pytest.raises(OSError, match="cannot read"):
        create_once(tmp_path / "file", lambda path: None, lambda target: target.touch())
