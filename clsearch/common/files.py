"""Write files atomically: a file is complete or does not exist."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TEMPORARY = f".*.{'[0-9a-f]' * 16}.tmp"
"""Glob pattern of the temporary files of `atomic_path`."""


def read_small_text(path: Path, most: int) -> str:
    """Read a text file of at most `most` bytes. A device or a pipe, which need not end, is not read.

    Raises:
        OSError: If it cannot be read, is no regular file or is larger.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe would block
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
    return content.decode("utf-8-sig")


def previous_path(path: Path) -> Path:
    """Return the file beside a state's in which the state before it is kept: `state.previous.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


@contextmanager
def temporary_folders(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents; at the end, remove those that were missing and are empty.

    Raises:
        OSError: If it cannot be created.
    """
    missing = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        remove_empty(missing)


def missing_folders(folder: Path) -> list[Path]:
    """List a folder and its parents that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that exist and are empty; the order must be from the inside out."""
    for path in folders:
        with suppress(OSError):
            path.rmdir()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which becomes `path` on success and is removed after an error.

    `path` contains either all the new data or its previous content, even if the process is killed. The temporary path
    is in the same folder, which is created if it is missing, and unique among processes and hosts.

    Raises:
        OSError: If the disk refuses the write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        set_folder_aside(path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def set_folder_aside(path: Path) -> None:
    """Rename a folder that lies in the place of a file to `<name>.damaged`, or a free name after it."""
    if path.is_dir() and not path.is_symlink():
        names = (f"{path.name}.damaged{mark}" for mark in ("", *(f".{n}" for n in range(1, 10_000))))
        os.rename(path, next(place for name in names if not (place := path.with_name(name)).exists()))


def remove_file(path: Path) -> None:
    """Remove a file, if there is one; a folder in its place stays."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` contains either all of it or its previous content.

    Raises:
        OSError: If the disk refuses the write.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def create_once(
    path: Path,
    read: Callable[[Path], T | None],
    make: Callable[[Path], None],
    wait: Callable[[], object] = lambda: None,
) -> T:
    """Read a file; create it first if it is missing.

    Of several processes that call this at the same time, one creates the file and the others wait. A killed process
    blocks nobody: the system releases its lock, and the next process removes its temporary file.

    Args:
        path: The file.
        read: Returns the content of the file, or None if it is missing or unusable.
        make: Writes the file to the path that it receives.
        wait: Called before waiting for another process.

    Raises:
        OSError: If the disk refuses the write.
    """
    from filelock import FileLock, Timeout

    if (content := read(path)) is not None:
        return content
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        wait()
        acquired = lock.acquire()
    with acquired:
        if (content := read(path)) is None:
            for partial in path.parent.glob(TEMPORARY.replace("*", glob.escape(path.name), 1)):
                partial.unlink(missing_ok=True)
            with atomic_path(path) as temporary:
                make(temporary)
            content = read(path)
    if content is None:
        raise OSError(errno.EIO, "cannot read the written file", str(path))
    return content
