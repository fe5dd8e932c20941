"""Configuration errors and how they are printed."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

from clsearch.common.echo import shorten
from clsearch.common.redaction import printable, redact

CLOSED_STDOUT_EXIT_CODE = 141
"""Exit code after the reader of standard output has gone: 128 + SIGPIPE, as shells report it."""


MOST_OF_VALUE, MOST_OF_LINE = 800, 3000
"""Characters of the value in a refusal, with a hint that follows it, and of the whole line."""

MOST_COMPARED = 100
"""Characters of a word that is compared with known ones."""


class Refusal(str):
    """One setting that clsearch refuses: a line `field: rule; got value` that also knows the id of its rule.

    Tests and programs check `field` and `rule`; people read the text. It has no secrets of addresses and no control
    characters, and a long value is cut.

    Args:
        rule: Id of the broken rule, in kebab-case, as `tasks-divide-classes`. Rules that pydantic checks have the name
            of its error: `greater-than`, `literal-error`, `extra-forbidden`.
        text: The field (or several, separated by commas), a colon, the rule, a semicolon, and the value.

    >>> refusal = Refusal("sgd-only", "momentum: acts with sgd only; got 0.9 with adam")
    >>> refusal.field, refusal.rule
    ('momentum', 'sgd-only')
    """

    rule: str

    def __new__(cls, rule: str, text: str) -> Refusal:
        words, got, value = printable(redact(text)).partition("; got ")
        refusal = super().__new__(cls, shorten(words + got + shorten(value, MOST_OF_VALUE), MOST_OF_LINE))
        refusal.rule = rule
        return refusal

    @property
    def field(self) -> str:
        """Name of the refused setting: the text before the first colon."""
        return self.partition(":")[0]

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        """Pickle both arguments; the default passes the text alone."""
        return type(self), (self.rule, str(self))


class RuleError(ValueError):
    """Raised by the validator of a field for a value that breaks a rule; field and value are added to the words.

    Args:
        rule: Id of the rule, in kebab-case.
        words: The rule, to follow the name of the field: `must be ...`.
    """

    def __init__(self, rule: str, words: str) -> None:
        super().__init__(words)
        self.rule = rule

    def __reduce__(self) -> tuple[type[RuleError], tuple[str, str]]:
        """Pickle both arguments; the default passes the words alone."""
        return type(self), (self.rule, str(self))


class ConfigError(ValueError):
    """Input that clsearch refuses.

    Args:
        problems: One line per refused setting: field, rule, value. A plain string gets the rule id `refused`.

    Attributes:
        problems: The lines, each a `Refusal`.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [line if isinstance(line, Refusal) else Refusal("refused", line) for line in problems]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Refusal]]]:
        """Pickle the list of problems: workers send errors to the driver; the default pickles the joined text."""
        return type(self), (self.problems,)


class RayDiedError(RuntimeError):
    """Ray ended under a study. The message names what died; records are kept, and the same command resumes."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to the refusal of a word that resembles a known one; empty without one.

    A word resembles a known one by its letters, as its initials, or as one of its parts:

    >>> known = ["learning_rate", "distillation_temperature", "momentum"]
    >>> [did_you_mean(word, known) for word in ("momentm", "lr", "temperature")]
    [' (did you mean momentum?)', ' (did you mean learning_rate?)', ' (did you mean distillation_temperature?)']
    """
    names = list(dict.fromkeys(known))
    word = word[:MOST_COMPARED].lower().replace("-", "_")
    similar = get_close_matches(word, names, 1, cutoff=0.7)
    if not similar and word:
        parts = {name: name.split("_") for name in names}
        similar = [name for name in names if len(word) > 1 and "".join(part[:1] for part in parts[name]) == word]
        similar = similar or [name for name in names if word in parts[name]]
    return f" (did you mean {' or '.join(similar[:2])}?)" if similar else ""


def print_problems(error: ConfigError) -> None:
    """Print each problem of a refusal to standard error."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)


class script_refusals:
    """Context of a public call: a ConfigError that leaves a script uncaught ends it as a refused option does.

    The process prints `error: ...` for each problem instead of a traceback, and its exit code is 2. Studies are
    constructed at the top level of their scripts, where nothing catches a refusal.

    Only a refusal changes anything, and only if the call comes from the script itself (module `__main__`) and nobody
    types into the interpreter: then `sys.excepthook` handles this one error and passes on all others. Code that
    catches ConfigError, imported modules, notebooks and test runners see a normal exception.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, ConfigError) or trace is None:
            return
        caller = trace.tb_frame.f_back  # the traceback begins in the function that has the `with` statement
        if caller is not None and caller.f_globals.get("__name__") == "__main__" and not hasattr(sys, "ps1"):
            _end_script_by(error)


def _end_script_by(refused: ConfigError) -> None:
    """Make `sys.excepthook` print a refusal as problems and exit with code 2."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is not refused:
            before(kind, error, trace)
            return
        print_problems(refused)
        raise SystemExit(2)

    sys.excepthook = hook


def silence_closed_stdout() -> bool:
    """Discard further output if the reader of standard output has gone, as after `| head`; returns whether it has."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
