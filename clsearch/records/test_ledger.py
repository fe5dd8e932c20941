"""The ledger of test data: a line in results/test_openings.jsonl for each opening by any study there.

A line is written before the data are read, so that every opening is counted; deleting a study does not lower the count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import write_atomically
from clsearch.common.formatting import relative_path
from clsearch.records.json_types import OpeningJson

LEDGER = "test_openings.jsonl"

KEYS: dict[str, type] = {
    "data": str,
    "when": str,
    "study": str,
    "algorithm": str,
    "values": dict,
    "seeds": list,
    "before": int,
    "also": list,
}
"""Keys of a line -> type."""

LATER: dict[str, Any] = {"also": []}
"""Keys that lines of earlier versions lack -> value."""


@dataclass(frozen=True)
class Opening:
    """One opening of test data.

    Attributes:
        data: Identity of the data: the source's name, or the digest of a folder.
        also: Digests of the place and of the name of a user's own images, which stay the same test set when one of
            their files is mended; none for a source with a name.
        when: UTC.
        study: The study that chose the configuration.
        algorithm: The configuration's algorithm.
        values: The chosen values.
        seeds: The seeds of the evaluation.
        before: Number of earlier openings of this data by any study of the results folder.
    """

    data: str
    when: str
    study: str
    algorithm: str
    values: dict[str, Any]
    seeds: tuple[int, ...]
    before: int
    also: tuple[str, ...] = ()

    def as_json(self) -> OpeningJson:
        """Return the line of the ledger."""
        return {
            "data": self.data,
            "when": self.when,
            "study": self.study,
            "algorithm": self.algorithm,
            "values": self.values,
            "seeds": list(self.seeds),
            "before": self.before,
            "also": list(self.also),
        }


def record_opening(
    results: Path,
    data: str,
    study: str,
    algorithm: str,
    values: Mapping[str, Any],
    seeds: Sequence[int],
    also: Sequence[str] = (),
) -> Opening:
    """Write an opening to the ledger of a results folder.

    An earlier opening counts if its data had the same content, name or place.

    Raises:
        OSError: If it cannot be written.
        ConfigError: If the ledger is damaged.
    """
    ledger = results / LEDGER
    with FileLock(ledger.with_suffix(".lock"), timeout=60):
        earlier = read_openings(results)
        before = sum(opening["data"] == data or bool({*also} & {*opening.get("also", ())}) for opening in earlier)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        opening = Opening(data, now, study, algorithm, dict(values), tuple(seeds), before, tuple(also))
        lines = [*earlier, opening.as_json()]
        write_atomically(ledger, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return opening


def read_openings(results: Path) -> list[OpeningJson]:
    """Read all openings of a results folder, oldest first. Raises ConfigError if the ledger is damaged."""
    ledger = results / LEDGER
    try:
        lines = ledger.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError([_damage(ledger, error.strerror or type(error).__name__)]) from None
    return [_parse(ledger, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def check_ledger(results: Path) -> None:
    """Check that the ledger of a results folder is whole. Raises ConfigError."""
    read_openings(results)


def _parse(ledger: Path, number: int, line: bytes) -> OpeningJson:
    """Parse a line of a ledger: an object with the keys of an opening, of their types. Raises ConfigError."""
    try:
        found = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ConfigError([_damage(ledger, f"line {number} is no JSON")]) from None
    if not isinstance(found, dict):
        raise ConfigError([_damage(ledger, f"line {number} is no object")])
    if wrong := [name for name, kind in KEYS.items() if not isinstance(found.get(name, LATER.get(name)), kind)]:
        raise ConfigError([_damage(ledger, f"line {number} has no usable {', '.join(wrong)}")])
    return cast(OpeningJson, found)


def _damage(ledger: Path, what: str) -> Refusal:
    """Make the refusal of a damaged ledger."""
    text = (
        f"results: the ledger of test data must be whole, since no opening may be forgotten; got "
        f"{relative_path(ledger)}: {what}. Mend the line or restore the file from a copy; "
        f"moved aside, openings count from zero again"
    )
    return Refusal("ledger-whole", text)
