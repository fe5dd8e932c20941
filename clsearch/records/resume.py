"""Resume a study: the same command continues what its folder holds.

Optuna's journal knows which trials were asked for, trials/<label>/record.json which of them ended, and
trials/<label>/state.pt the progress of the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clsearch.common.checked_files import DamagedFile
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import missing_folders, remove_empty
from clsearch.common.formatting import relative_path
from clsearch.methods.registry import CODE, digest_classes
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan
from clsearch.records.identity import check_not_copy, check_not_renamed
from clsearch.records.json_types import DescriptionJson, StudyJson
from clsearch.records.study_file import (
    COMPARISON,
    ENDED,
    MAY_CHANGE,
    STUDY,
    description,
    has_lost_study_json,
    read_comparison_json,
    read_records,
    read_study_json,
    show_domain,
)

CODES = {"regularizers": "the regularizers", "backbone_code": "the backbone"}
"""Digests of the user's own code in study.json, and what they are of."""


def lock_path(folder: Path) -> Path:
    """Return the lock file of the study in a folder."""
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold a study for this process until the process ends, for any reason: the operating system releases the lock.

    Raises:
        ConfigError: Another process holds it.
    """
    missing = missing_folders(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path(folder))
    try:
        lock.acquire(timeout=1)  # another process can hold it briefly to examine it
    except Timeout:
        text = f"name: must be a study that no other process runs; got {relative_path(folder)}, which is running now"
        raise ConfigError([Refusal("study-runs-once", text)]) from None
    try:
        yield
    finally:
        if missing and not folder.exists():  # refused before it began: leave no trace
            lock_path(folder).unlink(missing_ok=True)
        lock.release()
        remove_empty(missing)


def check_same(plan: Plan, comparison: str | None = None) -> None:
    """Check that a folder is resumed by the study that created it; --fresh moves it aside.

    Args:
        plan: The study.
        comparison: The name of the comparison that it is part of.

    Raises:
        ConfigError: The study differs; the message names each difference. Or study.json is missing or damaged.
    """
    described = description(plan)  # before training can change what it covers
    if plan.options.fresh:
        return
    if (plan.folder / COMPARISON).exists():
        text = f"name: must not be that of a comparison; got {plan.options.name}"
        raise ConfigError([Refusal("name-of-comparison", text)])
    try:
        found = read_study_json(plan.folder)
    except DamagedFile as damage:
        text = f"{damage}: put it back from a copy{suggest_ways_out(plan.folder, comparison)}"
        raise ConfigError([Refusal("file-whole", text)]) from None
    if found is None:
        if has_lost_study_json(plan.folder):
            text = (
                f"name: must be a study that can be resumed; got {relative_path(plan.folder)}, which has trials and no "
                f"study.json: put it back from a copy{suggest_ways_out(plan.folder, comparison)}"
            )
            raise ConfigError([Refusal("study-known", text)])
        return
    old, new = identity_settings(found), identity_settings(as_recorded(described, found, plan))
    where = f"as in the study in {relative_path(plan.folder)}"
    problems = [
        f"{name}: must be {CODES[name]} that it began with, {where}; got other code or values"
        if name in CODES
        else f"{name}: must be {old.get(name, 'left out')}, {where}; got {new.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if problems:
        problems[-1] += suggest_ways_out(plan.folder, comparison)
        raise ConfigError(Refusal("same-study", problem) for problem in problems)
    check_not_copy(plan.folder, found)


def nothing_left(plan: Plan) -> bool:
    """Return True if a folder holds exactly this study, finished, and all that its result is made from."""
    found = None if plan.options.fresh else read_study_json(plan.folder)
    if not found or found["state"] != "finished" or not is_complete(plan):
        return False
    new = as_recorded(description(plan), found, plan)
    return identity_settings(found) == identity_settings(new) and all(
        found.get(name) == new.get(name) for name in MAY_CHANGE if name != "hours"
    )


def is_complete(plan: Plan) -> bool:
    """Return True if the files of a finished study hold all that its result is made from, and none is damaged.

    best.json and the tables are derived from them.
    """
    from clsearch.records.evaluation_file import read_final  # pandas, which a new study does not wait for
    from clsearch.records.search_end import is_out_of_patience
    from clsearch.records.trials import record_from_json

    folder = plan.folder
    try:
        if plan.options.final and read_final(folder) is None:
            return False
    except DamagedFile:
        return False
    if plan.protocol is Protocol.CONTINUAL:
        from clsearch.records.attempts import read_progress

        progress = read_progress(folder, plan.seeds, plan.tasks)
        return progress.tasks == len(plan.tasks)
    found, study = read_records(folder, plan.objectives), read_study_json(folder)
    begin = study.get("patience_from", 0) if study else 0
    ended = [content for content in found.whole.values() if content["state"] in ENDED]
    trials = [content for content in ended if content["number"] is not None]
    references = {content["algorithm"] for content in ended if content["number"] is None}
    expected = {*plan.references} if any(content["state"] == "finished" for content in trials) else set()
    searched = len(trials) == plan.trials or (
        len(trials) == len([one for one in found.whole.values() if one["number"] is not None])
        and is_out_of_patience(plan, map(record_from_json, trials), begin)
    )
    return not found.damaged and expected <= references and searched


def check_same_comparison(folder: Path, kind: str, studies: dict[str, str]) -> None:
    """Check that a comparison's folder is resumed by the comparison that created it. Raises ConfigError."""
    if (folder / STUDY).exists():
        raise ConfigError([Refusal("name-of-study", f"name: must not be that of a study; got {folder.name}")])
    try:
        found = read_comparison_json(folder)
    except DamagedFile as damage:
        text = f"{damage}: the comparison's command writes it anew once it is deleted{suggest_ways_out(folder, None)}"
        raise ConfigError([Refusal("file-whole", text)]) from None
    if found is None:
        return
    if (found.get("kind"), {*found["studies"]}) != (kind, {*studies}):
        text = (
            f"name: must be a comparison of {found.get('kind')}, {', '.join(found['studies'])}, as in "
            f"{relative_path(folder)}; got {kind}, {', '.join(studies)}"
            f"{suggest_ways_out(folder, None)}"
        )
        raise ConfigError([Refusal("comparison-same", text)])
    check_not_renamed(folder.parent, studies, found)


def suggest_ways_out(folder: Path, comparison: str | None) -> str:
    """Suggest what to do if a folder holds something else. comparison: the name of its comparison."""
    other = folder if comparison is None else folder.with_name(comparison)
    free = next(path for n in range(2, 10_000) if not (path := sibling_folder(other, f"-{n}")).exists())
    return (
        f". A folder can only be resumed by the study that created it: use another name (--name {free.name}), or start "
        f"over with --fresh, which moves the folder aside"
    )


def as_recorded(described: Mapping[str, Any], found: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return a description with the digests of code that a study.json has; older ones have fewer, in another form."""
    old = found.get("regularizers")
    if old is not None and not str(old).startswith(CODE):
        described = {**described, "regularizers": digest_classes(plan.config)}
    return {name: value for name, value in described.items() if name in found or name not in CODES}


def identity_settings(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of study.json that must not change on resume, as they are printed.

    The places of data can change, as for a trial (`TrialSetup.fingerprint`): images of a folder and a grouping are
    identified by content.
    """
    parts = ("config", "space", "data")
    places = {"data_root", "grouping"} | ({"benchmark"} if content.get("data", {}).get("identity") else set())
    progress = {*StudyJson.__annotations__} - {*DescriptionJson.__annotations__}
    kept = (*MAY_CHANGE, "command", "preset", *progress)
    found = {name: value for name, value in content.items() if name not in (*parts, *kept)}
    found |= {name: value for name, value in content.get("config", {}).items() if name not in places}
    found |= {name: show_domain(value) for name, value in content.get("space", {}).items()}
    found |= {f"data ({name})": value for name, value in content.get("data", {}).items()}
    return {name: as_option(value) for name, value in found.items() if value is not None}


def as_option(value: Any) -> str:
    """Format a value of study.json as on a command line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def set_aside(folder: Path) -> Path | None:
    """Move a folder aside for a study that starts over; return its new place, or None if there was no folder."""
    if not os.path.exists(folder):
        return None
    place = next(path for n in range(1, 10_000) if not (path := sibling_folder(folder, f".{n}")).exists())
    os.rename(folder, place)
    return place


def sibling_folder(folder: Path, mark: str) -> Path:
    """Return a folder next to a study's, with its name and a mark."""
    return folder.with_name(folder.name + mark)
