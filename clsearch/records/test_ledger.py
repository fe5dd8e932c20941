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
from clsearch.common.files import write_atomically
from clsearch.records.json_types import OpeningJson

LEDGER = "test_openings.jsonl"


@dataclass(frozen=True)
class Opening:
    """One opening of test data.

    Attributes:
        data: Identity of the data: the source's name, or the digest of a folder.
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
        }


def record_opening(
    results: Path, data: str, study: str, algorithm: str, values: Mapping[str, Any], seeds: Sequence[int]
) -> Opening:
    """Write an opening to the ledger of a results folder.

    Raises:
        OSError: It cannot be written.
        DamagedFile: It cannot be read.
    """
    ledger = results / LEDGER
    with FileLock(ledger.with_suffix(".lock"), timeout=60):
        before = sum(opening["data"] == data for opening in read_openings(results))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        opening = Opening(data, now, study, algorithm, dict(values), tuple(seeds), before)
        line = json.dumps(seal(opening.as_json()), ensure_ascii=False).encode()
        write_atomically(ledger, b"".join(text + b"\n" for text in [*_lines(ledger), line]))
    return opening


def read_openings(results: Path) -> list[OpeningJson]:
    """Read all openings of a results folder, oldest first. Raises DamagedFile that names the line."""
    ledger = results / LEDGER
    found = []
    for number, line in enumerate(_lines(ledger), start=1):
        try:
            found.append(check_json(ledger, line, OpeningJson))
        except DamagedFile as error:
            raise DamagedFile(ledger, f"line {number}: {error.why}") from None
    return found


def _lines(ledger: Path) -> list[bytes]:
    """Return the lines of a ledger; none if there is no ledger. A ledger is never empty: that is damage."""
    try:
        lines = [line for line in ledger.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        raise DamagedFile(ledger, "a folder") from None
    if not lines:
        raise DamagedFile(ledger, "no content")
    return lines
