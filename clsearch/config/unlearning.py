"""Requests to unlearn tasks, and the section of a configuration that has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from clsearch.config.sections import Section

Requests = dict[int, tuple[int, ...]]
"""Task after which something is to be unlearned -> numbers of the tasks that are, in rising order."""


class UnlearningConfig(Section):
    """Unlearning"""

    unlearn: tuple[str, ...] = Field(
        (),
        description="Requests, AFTER:TASK each: 3:1 5:2 unlearns task 1 after task 3, and task 2 after task 5; 5:1,2 "
        "both at once.",
    )
    unlearn_memories: Literal["as_is", "shift"] = Field(
        "as_is",
        description="What becomes of the teachers and anchors of tasks learned after an unlearned one: they stay, or "
        "its update is subtracted from them, too.",
    )
    disable_unlearning: bool = Field(
        False, description="Train the twin of which nothing is requested; it is measured on the same tasks."
    )
    unlearning_distance: Literal["euclidean", "cosine", "manhattan"] = Field(
        "euclidean",
        description="Between the backbone features of an image here and in a model that never saw the unlearned tasks.",
    )

    @field_validator("unlearn", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """From Python also a mapping of tasks, {3: 1, 5: (2, 4)}."""
        if not isinstance(value, Mapping):
            return value
        own = {at: tuple(tasks) if isinstance(tasks, list | tuple | set) else (tasks,) for at, tasks in value.items()}
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in own.items())

    @field_validator("unlearn")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """One way to write the same requests."""
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in requests_of(value).items())

    @property
    def requests(self) -> Requests:
        """What is to be unlearned when."""
        return requests_of(self.unlearn)

    @property
    def newest_may_go(self) -> bool:
        """Whether the task learned last may be unlearned: a request names it, or there is none, which leaves it to the
        caller.
        """
        requests = self.requests
        return not self.disable_unlearning and (not requests or any(at in tasks for at, tasks in requests.items()))


def requests_of(words: tuple[str, ...]) -> Requests:
    """Requests as they are written, in the order of their moments. Raises ValueError with the rule."""
    found: dict[int, list[int]] = {}
    for word in words:
        at, _, tasks = word.partition(":")
        if not all(number.isascii() and number.isdecimal() for number in (at, *tasks.split(","))):
            raise ValueError("must be requests as 3:1 (after task 3 unlearn task 1), with commas between several tasks")
        found[int(at)] = [*found.get(int(at), []), *map(int, tasks.split(","))]
    return {at: tuple(sorted(found[at])) for at in sorted(found)}


def unlearned_by(requests: Requests, t: int) -> frozenset[int]:
    """The tasks that are unlearned once task t was learned, and what was requested then was done."""
    return frozenset(task for at, tasks in requests.items() if at <= t for task in tasks)


def request_problems(words: tuple[str, ...], tasks: int) -> list[str]:
    """What is wrong with requests in a sequence of this many tasks."""
    problems, gone, shown = [], set[int](), " ".join(words)
    for at, asked in requests_of(words).items():
        if not 1 <= at <= tasks:
            problems.append(f"unlearn: a request must come after one of the {tasks} tasks; got {shown}")
        elif not all(1 <= task <= at for task in asked):
            problems.append(f"unlearn: a task must have been learned before it is unlearned; got {shown}")
        elif len({*asked}) < len(asked) or gone & {*asked}:
            problems.append(f"unlearn: a task can be unlearned only once; got {shown}")
        gone |= {*asked}
        if len(gone) >= at:
            problems.append(f"unlearn: a request must leave one of the tasks learned so far; got {shown}")
    return list(dict.fromkeys(problems))
