"""A file is whole, or what it was before."""

import os
import resource

import pytest

from clsearch.core.files import write_atomically


@pytest.fixture
def full_disk():
    """The kernel refuses to let any file grow beyond 1,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_content_arrives_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folders" / "state"
    for content in (b"first" * 1000, b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["state"]


def test_a_disk_that_refuses_raises_and_leaves_the_old_content(tmp_path, full_disk):
    path = tmp_path / "state"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old"


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
