"""Files that are read back: each has a format number and a digest of its content, so that damage is seen.

A JSON file has `format` and `digest` beside its own keys; the digest is that of the canonical JSON of all the rest, so
a file that another program formats anew stays valid. A binary file begins with one line (magic word, format, digest).
The digest is the same in every format: a file of a newer version is told from a damaged one. Files of clsearch 0.1 have
neither format nor digest; of their JSON files only keys and types are checked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import write_atomically
from clsearch.common.formatting import relative_path
from clsearch.common.redaction import redact

FORMAT = 1
"""Version of the files' form. It changes only if an older version of clsearch would misread a file."""

MAGIC = b"clsearch-file"
HEADER_BYTES = len(MAGIC) + len(" 0001 ") + 64 + len("\n")

UNMARKED = b"PK"
"""What states of 0.1 begin with, which have no digest: torch's own mark."""

T = TypeVar("T")


class DamagedFile(ConfigError):
    """A file that clsearch wrote and cannot read back. Where nothing derives it again, it is a refusal.

    Args:
        path: The file.
        why: What is wrong with it: `key seeds: missing`.
    """

    def __init__(self, path: Path, why: str) -> None:
        self.path, self.why = path, why
        text = f"{relative_path(path)}: must be a whole file, as clsearch wrote it; got {why}"
        super().__init__([Refusal("file-whole", text)])

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[Path, str]]:  # type: ignore[override]
        """Pickle both arguments: workers send errors to the driver."""
        return type(self), (self.path, self.why)


class NewerFile(ConfigError):
    """A file of a newer version of clsearch, which is whole and must not be replaced."""

    def __init__(self, path: Path, found: int) -> None:
        self.path, self.found = path, found
        text = (
            f"{relative_path(path)}: must have format {FORMAT} or lower, which this version of clsearch reads; got "
            f"format {found}: use the version that wrote it, or a newer one"
        )
        super().__init__([Refusal("file-format-known", text)])

    def __reduce__(self) -> tuple[type[NewerFile], tuple[Path, int]]:  # type: ignore[override]
        """Pickle both arguments: workers send errors to the driver."""
        return type(self), (self.path, self.found)


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes: SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def finite(content: Any) -> Any:
    """Convert content for JSON: NaN and infinity become null, and addresses lose their secrets."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, dict):
        return {k: finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [finite(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return finite JSON content with format and digest."""
    own = {name: value for name, value in content.items() if name not in ("format", "digest")}
    plain = json.loads(json.dumps({"format": FORMAT, **finite(own)}))  # tuples and keys as they are read
    return {"format": FORMAT, "digest": _digest_of_json(plain), **plain}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checked JSON file atomically; NaN and infinity become null. Raises OSError."""
    text = json.dumps(seal(content), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path, form: type[T]) -> T | None:
    """Read a JSON file of `write_json`, without format and digest; None if it does not exist.

    Args:
        path: The file.
        form: A TypedDict: the keys and their types.

    Raises:
        DamagedFile: It cannot be read, its digest is that of other content, or a key is missing or of another type.
        NewerFile: A newer version of clsearch wrote it.
    """
    try:
        return check_json(path, _read(path), form)
    except FileNotFoundError:
        return None


def check_json(path: Path, text: bytes, form: type[T]) -> T:
    """Return the content of a JSON text, with the errors of `read_json`. path: the origin, for messages."""
    if not text.strip(b"\0 \n"):
        raise DamagedFile(path, "no content")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"no JSON ({error})") from None
    if not isinstance(content, dict):
        raise DamagedFile(path, f"a {type(content).__name__}, not a JSON object")
    content = _unsealed(path, content)
    if problem := _problem_of(content, form):
        raise DamagedFile(path, problem)
    return cast(T, content)


def _unsealed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Check format and digest, and remove them. Both are missing in a file of clsearch 0.1."""
    if "format" not in content and "digest" not in content:
        return content
    if "digest" not in content or "format" not in content:
        raise DamagedFile(path, f"key {'format' if 'digest' in content else 'digest'}: missing")
    digest = content.pop("digest")
    if digest != _digest_of_json(content):
        raise DamagedFile(path, "content that does not fit its digest")
    if (found := content.pop("format")) != FORMAT:
        raise NewerFile(path, found)
    return content


def _digest_of_json(content: Mapping[str, Any]) -> str:
    # ASCII with escapes: content of a damaged file can have half a surrogate pair, which UTF-8 cannot encode.
    return digest_of(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def _problem_of(content: Any, form: type) -> str:
    """Return the first key that is missing or of another type, and what is wrong with it; "" if all fit."""
    from pydantic import ValidationError

    try:
        _adapter(form).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"key {key}: missing"
        return f"key {key}: {first['msg'].lower()}, not {str(first['input'])[:40]!r}"
    return ""


@cache
def _adapter(form: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(form)


def write_checked(path: Path, payload: bytes) -> None:
    """Write a binary file atomically, with a header. Raises OSError."""
    write_atomically(path, header_of(payload) + payload)


def header_of(payload: bytes) -> bytes:
    """Return the line that a binary file begins with."""
    return _mark(str(FORMAT), hashlib.sha256(payload))


def _mark(version: str, content: hashlib._Hash) -> bytes:
    """Return a line with format and digest; the digest covers the format. content: the hash of the rest of the file."""
    content.update(version.encode())
    return MAGIC + f" {version:0>4} {content.hexdigest()}\n".encode()


def read_checked(path: Path, unmarked: bytes = b"") -> bytes:
    """Read the payload of a binary file of `write_checked`.

    Args:
        path: The file.
        unmarked: What a file without a header, of clsearch 0.1, begins with; such a file is returned as it is. Empty:
            there are none.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It cannot be read, or its digest is that of other content.
        NewerFile: A newer version of clsearch wrote it.
    """
    content = _read(path)
    header, payload = content[:HEADER_BYTES], content[HEADER_BYTES:]
    if unmarked and content.startswith(unmarked):
        return content
    if not content:
        raise DamagedFile(path, "no content")
    if not header.startswith(MAGIC):
        raise DamagedFile(path, "content without the header of clsearch's files")
    version = header[len(MAGIC) :].split()[0:1]
    found = version[0].decode("ascii", "replace").lstrip("0") if version else ""
    if header != _mark(found, hashlib.sha256(payload)):
        raise DamagedFile(path, "content that does not fit its digest")
    if found != str(FORMAT):
        raise NewerFile(path, int(found))
    return payload


def _read(path: Path) -> bytes:
    """Read a file. Raises FileNotFoundError, or DamagedFile if a folder or a pipe lies there."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise DamagedFile(path, "a folder" if stat.S_ISDIR(kind) else "no regular file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise DamagedFile(path, _reason(error)) from None


def append_digest(path: Path) -> None:
    """Append a file's digest to it; for files of other formats, whose readers ignore what follows. Raises OSError."""
    with path.open("r+b") as file:
        found = hashlib.file_digest(file, hashlib.sha256)
        file.seek(0, os.SEEK_END)
        file.write(_mark(str(FORMAT), found))


def check_appended_digest(path: Path) -> None:
    """Check a file of `append_digest`. Raises DamagedFile; FileNotFoundError if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - HEADER_BYTES
            file.seek(max(0, size))
            trailer = file.read()
            file.seek(0)
            found, left = hashlib.sha256(), size
            while left > 0 and (part := file.read(min(left, 1 << 20))):
                found.update(part)
                left -= len(part)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(path, _reason(error)) from None
    if trailer != _mark(str(FORMAT), found):
        raise DamagedFile(path, "content that does not fit its digest")


def _reason(error: OSError) -> str:
    """Return why a file cannot be read, without its path."""
    return "a folder" if isinstance(error, IsADirectoryError) else (error.strerror or str(error)).lower()
