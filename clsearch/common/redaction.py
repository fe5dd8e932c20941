"""Leave secrets out of addresses and control characters out of text, wherever either is stored or shown.

The full address stays in memory, in the options of a study, for the connection alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Stands for what is left out."""

ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])(?!folder:)(?:[A-Za-z][A-Za-z0-9+.-]*:/|/(?=/))/*[^\s\"'<>`]+")
"""An address in a text. One slash is enough: `Path` drops the second one. `folder:` precedes a path."""

ENCODED = re.compile(r"[^\s\"'<>`]*%(?:25)*3A%(?:25)*2F[^\s\"'<>`]*", re.IGNORECASE)
"""A word with a percent-encoded address."""

MAY_BE_ADDRESS = re.compile(r"(?!folder:)(?!/).*(?:/|:.*@)", re.DOTALL)
"""A value that is an address, perhaps one of an odd form, and not a path."""

SHORTEST = 4
"""Secrets of fewer characters are hidden between other characters than letters and digits only."""

DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the order in which others are shown."""


def redact_address(address: str) -> str:
    """Return an address without user, password, values of its query and fragment.

    A user and a password can contain any character, as some libraries allow. Text that could be part of a password is
    left out too.

    >>> redact_address("postgresql://bob:s3@cret@host:5432/runs?sslmode=require")
    'postgresql://host:5432/runs?sslmode=***'
    """
    if ENCODED.fullmatch(address):
        return _redact_encoded(address)
    mark = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]*(?=:/))?:?/+", address)
    if mark is None and "@" not in address:
        return _redact_query(address)
    start = "" if mark is None else mark.group()
    inner = address[len(start) :]
    if "::" in inner.partition("@")[0] and "://" in inner:  # a chain of fsspec's, as zip://a.zip::https://...
        first, _, second = inner.partition("::")
        return f"{redact_address(start + first)}::{redact_address(second)}"
    if not start.endswith("//") and not start.startswith("/") and mark is None:
        return _redact_query(inner.rpartition("@")[2])
    if start.endswith("///") or start == "/":  # no server: a path
        return start + _redact_query(inner)
    return start + _redact_server(inner)


def _redact_server(inner: str) -> str:
    """Redact what follows the `//` of an address."""
    authority = re.split(r"[/?#\\]", inner, maxsplit=1)[0]
    rest = inner[len(authority) :]
    decoded = unquote(authority)
    if "@" in rest and (":" in decoded or "@" in decoded):  # a password with a slash, a question mark or a #
        return _redact_query(inner.rpartition("@")[2])
    server = decoded.rpartition("@")[2] if "@" in decoded else authority
    port = re.sub(r"\[[^\]]*\]", "", server).partition(":")
    if port[1] and port[2] and not port[2].isdecimal():  # no port, so perhaps a password
        server = HIDDEN
    return server + _redact_query(rest)


def _redact_query(text: str) -> str:
    """Redact the query and the fragment at the end of an address."""
    rest, fragment_mark, _ = text.partition("#")
    path, mark, query = rest.partition("?")
    if mark:
        query = "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in map(_split, query.split("&")))
    return f"{path}{mark}{query}{fragment_mark}{HIDDEN if fragment_mark else ''}"


def _split(pair: str) -> tuple[str, str, str]:
    return pair.partition("=")


def redact_value(value: str) -> str:
    """Return a value, which is an address as a whole or has some in it, without their secrets."""
    return redact_address(value) if MAY_BE_ADDRESS.match(value) else redact(value)


def redact(text: str, *addresses: str | None) -> str:
    """Return a text without the secrets of the addresses in it.

    Args:
        text: For example the message of a library's error.
        addresses: Addresses that the text is about. Their secrets are left out wherever and however they occur.
    """
    for address in sorted({a for a in addresses if a}, key=len, reverse=True):
        if (shown := redact_address(address)) != address:
            text = text.replace(address, shown)
            for secret in sorted(_secrets(address), key=len, reverse=True):
                text = _hide(text, secret)
    text = ENCODED.sub(lambda word: _redact_encoded(word.group()), text) if "%" in text else text
    return ADDRESS.sub(lambda found: redact_address(found.group()), text) if "/" in text else text


def clean_values(content: Any) -> Any:
    """Return values that were read from JSON without secrets and control characters, to be shown."""
    if isinstance(content, str):
        return printable(redact(content))
    if isinstance(content, dict):
        return {name: clean_values(value) for name, value in content.items()}
    return [clean_values(value) for value in content] if isinstance(content, list) else content


def _redact_encoded(word: str) -> str:
    """Redact a word with a percent-encoded address; decoded, unless there is nothing to hide."""
    decoded = word
    for _ in range(3):
        decoded = unquote(decoded)
    return word if (shown := redact(decoded)) == decoded else shown


def _secrets(address: str) -> set[str]:
    """Return the secrets of an address, in every form in which a library could repeat them."""
    return {form for secret in _plain_secrets(address) for form in _forms(secret) if form}


def _plain_secrets(address: str) -> Iterator[str]:
    before, _, fragment = address.partition("#")
    yield fragment
    for pair in before.partition("?")[2].split("&"):
        name, equals, value = pair.partition("=")
        yield value if equals else name
    user = re.sub(r"^[^/@]*/+", "", address).rpartition("@")[0]
    if user and redact_address(address).count(user) == 0:
        yield user
        yield from user.partition(":")[::2]


def _forms(secret: str) -> set[str]:
    decoded = {secret, unquote(secret), unquote_plus(secret)}
    return decoded | {write(one) for one in decoded for write in (quote, quote_plus, lambda one: quote(one, safe=""))}


def _hide(text: str, secret: str) -> str:
    if len(secret) >= SHORTEST:
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", HIDDEN, text)


def is_control(character: str) -> bool:
    """Return True if a terminal acts on a character, or cannot show it."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTIONS


def printable(text: str) -> str:
    """Return a text whose control characters are written as escapes, so that no terminal acts on them.

    Line breaks and tabs stay.

    >>> printable("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not is_control(c) else ascii(c)[1:-1] for c in text)
