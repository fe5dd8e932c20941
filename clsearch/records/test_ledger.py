"""The ledger of test data: a line in results/test_openings.jsonl for each opening by any study there.

A line is written before the data are read, so that every opening is counted; deleting a study does not lower the count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

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
    """Write an opening to the ledger of a results folder. Raises OSError if it cannot be written."""
    ledger = results / LEDGER
    with FileLock(ledger.with_suffix(".lock"), timeout=60):
        before = sum(opening["data"] == data for opening in read_openings(results))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        opening = Opening(data, now, study, algorithm, dict(values), tuple(seeds), before)
        lines = [*read_openings(results), opening.as_json()]
        write_atomically(ledger, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return opening


def read_openings(results: Path) -> list[OpeningJson]:
    """Read all openings of a results folder, oldest first."""
    try:
        lines = (results / LEDGER).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.strip()]
