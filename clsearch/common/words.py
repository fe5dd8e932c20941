"""Words of a command line: none is empty, and what is shown of them has no secrets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TypeVar

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.redaction import printable, redact_address, redact_value

T = TypeVar("T")


def check_words(words: Sequence[str]) -> None:
    """Refuse an option whose value is empty: as a path it would be the working directory. Raises ConfigError."""
    pairs = [word.partition("=")[::2] for word in words if word.startswith("--") and "=" in word]
    pairs += [pair for pair in pairwise(words) if pair[0].startswith("--")]
    pairs += [("arguments", word) for word in words]
    if empty := dict.fromkeys(flag.lstrip("-").replace("-", "_") for flag, value in pairs if not value.strip()):
        name = next(iter(empty))
        raise ConfigError([Refusal("not-empty", f"{name}: must not be empty; got ''")])


def redact_words(words: Sequence[str], addresses: Collection[str]) -> list[str]:
    """Return the words of a command line without secrets.

    Args:
        words: The words.
        addresses: Names of the options that hold an address.
    """
    shown, address_follows = [], False
    for word in words:
        flag, equals, value = word.partition("=")
        names_address = flag.removeprefix("--").replace("-", "_") in addresses
        if names_address and equals:
            shown.append(f"{flag}={redact_address(value)}")
        else:
            shown.append(redact_address(word) if address_follows and not word.startswith("--") else redact_value(word))
        address_follows = names_address and not equals
    return [printable(word) for word in shown]


def parse_quietly(
    parse: Callable[[Sequence[str]], T],
    parse_shown: Callable[[Sequence[str]], T],
    words: Sequence[str],
    shown: Sequence[str],
) -> T:
    """Parse words; if the parser ends the process, with help or with an error, it prints no secrets.

    Args:
        parse: Takes words. Ends the process after printing, and may print words and defaults.
        parse_shown: The same with defaults that have no secrets.
        words: The words.
        shown: The same without secrets.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return parse(words)
    except SystemExit:
        parse_shown(shown)
        raise
