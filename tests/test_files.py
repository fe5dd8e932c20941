"""A file is whole, or what it was before."""

import os
import subprocess
import sys

import pytest

from clsearch.core.files import write_atomically


def test_content_arrives_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folders" / "state"
    for content in (b"first" * 1000, b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["state"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from clsearch.core.files import write_atomically

path = Path(sys.argv[1])
write_atomically(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(path, b"new" * 1000)
except OSError as error:
    print(error.strerror)
"""


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
