"""Keep a copy of a study's folder in a bucket, or any other place that fsspec can write, while the study runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from typing_extensions import TypedDict

from clsearch.common.checked_files import check_json, read_json
from clsearch.common.deadline import PROBE_SECONDS, call_within
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import TEMPORARY, temporary_folders
from clsearch.common.formatting import relative_path
from clsearch.common.redaction import printable, redact, redact_address
from clsearch.records.study_file import RAY, STUDY

PATIENCE_SECONDS = 300.0
"""At a study's end, wait at most this long for the copy."""


class Mirror:
    """Copies changed files from its own thread, so that a slow store does not delay the search.

    Errors are printed once and never end the study; the next copy tries again. A copy of another study with the same
    name is moved aside first.

    Args:
        folder: The study's folder.
        uri: The place of the copies, each in a folder with the study's name; None: no copy.
        warn: Called with a message.
    """

    def __init__(self, folder: Path, uri: str | None, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.uri = uri
        self.warn = warn
        self.sent: dict[Path, tuple[int, int]] = {}
        self.due, self.last, self.warned, self.behind = threading.Event(), False, False, False
        self.thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        if uri is not None:
            self.thread.start()

    def update(self) -> None:
        """Copy the changed files soon."""
        self.due.set()

    def end(self) -> None:
        """Copy the remaining files, and wait for it."""
        if self.uri is None:
            return
        self.last = True
        self.due.set()
        self.thread.join(PATIENCE_SECONDS)
        if self.thread.is_alive() or self.behind:
            self.warn(
                f"The copy in {redact_address(self.uri)} is incomplete; {relative_path(self.folder)} is complete. Run "
                f"the same command again to update the copy"
            )

    def _work(self) -> None:
        assert self.uri is not None
        last = False
        while not last:
            self.due.wait()
            self.due.clear()
            last = self.last  # read before the copy, so that the last copy follows the last write
            try:
                if not self.sent:
                    set_aside_copy(self.folder, self.uri)
                self.sent = copy_changes(self.folder, self.uri, self.sent)
                self.behind = False
            except Exception as error:  # stores raise many types; the study continues
                self.behind = True
                self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            self.warn(
                f"no copy to {redact_address(self.uri or '')} ({type(error).__name__}: "
                f"{error_text(error, self.uri or '')}); the study continues and retries after each trial"
            )


def copy_changes(folder: Path, uri: str, sent: dict[Path, tuple[int, int]]) -> dict[Path, tuple[int, int]]:
    """Copy the changed files of a folder to a folder of its name below a URI, and delete copies of deleted files.

    Args:
        folder: The study's folder.
        uri: The place of the copies.
        sent: The files in the copy: path -> (time of change, size).

    Returns:
        The files in the copy now. Errors of the store are raised.
    """
    store, root = fsspec.core.url_to_fs(uri)
    target, found = f"{root.rstrip('/')}/{folder.name}", dict(sent)
    now = dict(list_files(folder))
    for path, stamp in now.items():
        place = f"{target}/{path.relative_to(folder).as_posix()}"
        if sent.get(path) != stamp:
            store.makedirs(place.rpartition("/")[0], exist_ok=True)
            try:
                store.put_file(str(path), place)
            except FileNotFoundError:
                if path.exists():
                    raise
                continue  # deleted since it was listed
            found[path] = stamp
    for path in sent.keys() - now.keys():
        store.rm_file(f"{target}/{path.relative_to(folder).as_posix()}")
        del found[path]
    return found


def set_aside_copy(folder: Path, uri: str) -> None:
    """Move the copy of another study with the same name, for example one that was started over, to `<name>.1`."""
    store, root = fsspec.core.url_to_fs(uri)
    target = f"{root.rstrip('/')}/{folder.name}"
    name = f"{target}/{STUDY}"
    if store.exists(name) and id_in(Path(name), store.cat_file(name)) != id_in(folder / STUDY):
        free = next(place for n in range(1, 10_000) if not store.exists(place := f"{target}.{n}"))
        store.mv(target, free, recursive=True)


class Identified(TypedDict):
    """What a copy's study.json is read for."""

    id: str


def id_in(path: Path, text: bytes | None = None) -> str:
    """Return the id in a study.json; "" if it cannot be read: such a copy is moved aside, too."""
    try:
        found = read_json(path, Identified) if text is None else check_json(path, text, Identified)
    except ConfigError:
        return ""
    return "" if found is None else found["id"]


def list_files(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Yield the files of a study and their (time of change, size), except Ray's own and those being written."""
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] == RAY or fnmatch(path.name, TEMPORARY):
            continue
        try:
            if path.is_file():
                stat = path.stat()
                yield path, (stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:
            continue


def check_mirror(folder: Path, uri: str | None) -> None:
    """Check that a URI is writable and outside the study's own folder. Raises ConfigError."""
    if uri is None:
        return
    try:
        call_within(PROBE_SECONDS, _probe, folder, uri)
    except ConfigError:
        raise
    except Exception as error:  # stores raise many types
        text = f"mirror: must be writable; got {redact_address(uri)} ({error_text(error, uri)})"
        raise ConfigError([Refusal("mirror-writable", text)]) from None


def _probe(folder: Path, uri: str) -> None:
    """Write a file to a URI and delete it. Errors of the store are raised."""
    store, root = fsspec.core.url_to_fs(uri)
    probe = f"{root.rstrip('/')}/.probe-{time.time_ns():x}"
    with ExitStack() as stack:
        if isinstance(store, LocalFileSystem):
            place = Path(root).resolve() / folder.name
            if place.is_relative_to(folder) or folder.is_relative_to(place):
                text = f"mirror: must lie outside the study's own folder; got {redact_address(uri)}"
                raise ConfigError([Refusal("mirror-outside", text)])
            stack.enter_context(temporary_folders(Path(root)))
        store.makedirs(root, exist_ok=True)
        store.pipe_file(probe, b"probe")
        store.rm_file(probe)


def error_text(error: Exception, uri: str) -> str:
    """Return the first line of a store's error message, without secrets."""
    return printable(redact(str(error).strip() or type(error).__name__, uri).partition("\n")[0][:300])
