"""The ledger of test data: a line in results/test_openings.jsonl for each opening by any study there.

A line is written before the data are read, so that every opening is counted; deleting a study does not lower the count.
Nothing can derive the ledger again, so a damaged one is refused. Each line has its own digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from clsearch.common.checked_files import DamagedFile, check_json, seal
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import write_atomically
from clsearch.common.formatting import relative_path
from clsearch.records.json_types import OpeningJson

LEDGER = "test_openings.jsonl"


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

    @classmethod
    def from_json(cls, content: OpeningJson) -> Opening:
        """Read a line of the ledger."""
        return cls(
            content["data"],
            content["when"],
            content["study"],
            content["algorithm"],
            content["values"],
            tuple(content["seeds"]),
            content["before"],
            tuple(content.get("also", ())),
        )

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
        line = json.dumps(seal(opening.as_json()), ensure_ascii=False).encode()
        write_atomically(ledger, b"".join(text + b"\n" for text in [*_lines(ledger).values(), line]))
    return opening


def read_openings(results: Path) -> list[OpeningJson]:
    """Read all openings of a results folder, oldest first. Raises ConfigError if the ledger is damaged."""
    ledger = results / LEDGER
    found = []
    for number, line in _lines(ledger).items():
        try:
            found.append(check_json(ledger, line, OpeningJson))
        except DamagedFile as error:
            raise ConfigError([_damage(ledger, f"line {number}: {error.why}")]) from None
    return found


def check_ledger(results: Path) -> None:
    """Check that the ledger of a results folder is whole. Raises ConfigError."""
    read_openings(results)


def _lines(ledger: Path) -> dict[int, bytes]:
    """Return the lines of a ledger by their numbers; none without a ledger. It is never empty: that is damage."""
    try:
        lines = {n: line for n, line in enumerate(ledger.read_bytes().split(b"\n"), start=1) if line.strip()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError([_damage(ledger, error.strerror or type(error).__name__)]) from None
    if not lines:
        raise ConfigError([_damage(ledger, "no content")])
    return lines


def _damage(ledger: Path, what: str) -> Refusal:
    """Make the refusal of a damaged ledger."""
    text = (
        f"results: the ledger of test data must be whole, since no opening may be forgotten; got "
        f"{relative_path(ledger)}: {what}. Mend the line or restore the file from a copy; "
        f"moved aside, openings count from zero again"
    )
    return Refusal("ledger-whole", text)
