"""The identity of a study is in its folder, not in the folder's name: find studies by it, and refuse copies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.formatting import relative_path
from clsearch.records.study_file import STUDY, read_study_json


def folders_by_id(results: Path) -> dict[str, list[Path]]:
    """Return the folders of a results folder's studies by their ids; a study has several if it was copied."""
    found: dict[str, list[Path]] = {}
    for path in sorted(results.glob(f"*/{STUDY}")):
        with suppress(ConfigError):  # damaged: `list` and `show` name it
            if content := read_study_json(path.parent):
                found.setdefault(content["id"], []).append(path.parent)
    return found


def check_not_copy(folder: Path, study: Mapping[str, Any]) -> None:
    """Check that no other folder beside a study's holds the same study.

    The original has the name that its study.json recorded last, so it goes on; older files have no name, and then
    neither goes on.

    Args:
        folder: The study's folder.
        study: Its study.json.

    Raises:
        ConfigError: It is a copy.
    """
    if study.get("name") == folder.name:
        return
    others = [other for other in folders_by_id(folder.parent).get(study["id"], ()) if other.name != folder.name]
    if others:
        text = (
            f"name: must be the only folder of its study; got {relative_path(folder)}, whose study is also in "
            f"{', '.join(map(relative_path, others))}. Go on with the original, and move the copy out of "
            f"{relative_path(folder.parent)}; or start over with --fresh, which moves this folder aside"
        )
        raise ConfigError([Refusal("study-not-copied", text)])


def check_not_renamed(results: Path, named: Mapping[str, str], found: Mapping[str, Any]) -> None:
    """Check that the studies of a comparison have the names that it gives them.

    Args:
        results: The results folder.
        named: Label -> name that the comparison gives its study now.
        found: comparison.json.

    Raises:
        ConfigError: A study of the comparison lies under another name; the message says how to rename it.
    """
    by_id, known = folders_by_id(results), found.get("ids", {})
    moves = []
    for label, name in named.items():
        if (results / name / STUDY).exists():
            continue
        old = results / str(found.get("studies", {}).get(label, name))
        places = by_id.get(known.get(label, ""), []) or [old] * (old.name != name and (old / STUDY).exists())
        if places:
            moves.append(f"mv {relative_path(places[0])} {relative_path(results / name)}")
    if moves:
        rule = "name: must be the one that the comparison's studies have too, or they are trained again"
        text = f"{rule}; got {', '.join(named.values())}. Rename the folders: {'; '.join(moves)}"
        raise ConfigError([Refusal("comparison-studies-named", text)])
