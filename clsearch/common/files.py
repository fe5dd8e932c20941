"""Writing files that are whole or not there."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TEMPORARY = f".*.{'[0-9a-f]' * 16}.tmp"
"""The names of files that are being written."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` at a clean end and is removed after an error.

    So `path` holds either all that was written or what it held before, whenever the process dies. The temporary path
    lies beside `path`, in a folder that is made where it is missing, and no other process or host has the same one.
    Raises OSError where the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either all of it or what it held before, whenever the process dies.

    Raises OSError where the disk refuses.
    """
    with whole(path) as temporary:
        temporary.write_bytes(content)


def made_once(
    path: Path,
    read: Callable[[Path], T | None],
    make: Callable[[Path], None],
    wait: Callable[[], object] = lambda: None,
) -> T:
    """What `read` finds at `path`; where it finds None, `make` writes the file first, to the path that it is handed.

    Of several processes that want it at once, one makes it and the others call `wait`, and wait. One that is killed
    stops nobody: the system frees its lock, and the next one removes what it left. Raises OSError where the disk
    refuses.
    """
    from filelock import FileLock, Timeout

    if (found := read(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        wait()
        held = lock.acquire()
    with held:
        if (found := read(path)) is None:
            for left in path.parent.glob(TEMPORARY.replace("*", glob.escape(path.name), 1)):
                left.unlink(missing_ok=True)
            with whole(path) as temporary:
                make(temporary)
            found = read(path)
    if found is None:
        raise OSError(errno.EIO, "what was written cannot be read", str(path))
    return found
