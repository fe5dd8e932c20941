"""Requests to unlearn tasks, and the section of a configuration that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from clsearch.common.errors import Refusal, RuleError
from clsearch.config.sections import Section

Requests = dict[int, tuple[int, ...]]
"""Task after which to unlearn -> numbers of the tasks to unlearn, in increasing order."""


class UnlearningConfig(Section):
    """Unlearning"""

    unlearn: tuple[str, ...] = Field(
        (),
        description="Requests to unlearn, each AFTER:TASK: 3:1 5:2 unlearns task 1 after task 3 and task 2 after "
        "task 5; 5:1,2 unlearns both at once.",
    )
    unlearn_memories: Literal["as_is", "shift"] = Field(
        "as_is",
        description="Teachers and anchors of tasks learned after an unlearned one: keep them (as_is), or subtract its "
        "update from them too (shift).",
    )
    disable_unlearning: bool = Field(
        False, description="Train the control without unlearning; it is measured on the same tasks."
    )
    unlearning_distance: Literal["euclidean", "cosine", "manhattan"] = Field(
        "euclidean",
        description="Distance between the backbone features of an image in this model and in one that never saw the "
        "unlearned tasks.",
    )

    @field_validator("unlearn", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """Accept a mapping of tasks from Python, {3: 1, 5: (2, 4)}."""
        if not isinstance(value, Mapping):
            return value
        own = {at: tuple(tasks) if isinstance(tasks, list | tuple | set) else (tasks,) for at, tasks in value.items()}
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in own.items())

    @field_validator("unlearn")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Write the same requests in one way only."""
        return tuple(f"{at}:{','.join(map(str, tasks))}" for at, tasks in parse_requests(value).items())

    @property
    def requests(self) -> Requests:
        """Task after which to unlearn -> tasks to unlearn."""
        return parse_requests(self.unlearn)

    @property
    def newest_may_go(self) -> bool:
        """Whether the newest task can be unlearned: a request names it, or there are none and the caller decides."""
        requests = self.requests
        return not self.disable_unlearning and (not requests or any(at in tasks for at, tasks in requests.items()))


def parse_requests(words: tuple[str, ...]) -> Requests:
    """Parse requests and sort them by the task that they follow.

    Args:
        words: Each `AFTER:TASK` or `AFTER:TASK,TASK`.

    Raises:
        ValueError: If a word is no request; the message is the rule.
    """
    requests: dict[int, list[int]] = {}
    for word in words:
        at, _, tasks = word.partition(":")
        if not all(number.isascii() and number.isdecimal() for number in (at, *tasks.split(","))):
            rule = "must be requests as 3:1 (after task 3 unlearn task 1), with commas between several tasks"
            raise RuleError("unlearn-form", rule)
        requests[int(at)] = [*requests.get(int(at), []), *map(int, tasks.split(","))]
    return {at: tuple(sorted(requests[at])) for at in sorted(requests)}


def unlearned_by(requests: Requests, t: int) -> frozenset[int]:
    """Return the tasks that are unlearned once task t is learned and the requests after it are done."""
    return frozenset(task for at, tasks in requests.items() if at <= t for task in tasks)


def count_retraining(requests: Requests, tasks: int, seeds: int) -> int:
    """Count the task-seed trainings of the models that never saw the unlearned tasks (`training.retraining`).

    Args:
        requests: The requests.
        tasks: Number of tasks of the sequence.
        seeds: Number of seeds.
    """
    moments = sorted({*requests, tasks}) if requests else []
    last = {unlearned_by(requests, after): after for after in moments}
    return seeds * sum(after - len(unlearned) for unlearned, after in last.items())


def request_problems(words: tuple[str, ...], tasks: int) -> list[Refusal]:
    """Check requests against the number of tasks in the sequence."""
    problems, gone, shown = [], set[int](), " ".join(words)
    for at, asked in parse_requests(words).items():
        if not 1 <= at <= tasks:
            rule = f"a request must follow one of the {tasks} tasks"
            problems.append(Refusal("unlearn-after-a-task", f"unlearn: {rule}; got {shown}"))
        elif not all(1 <= task <= at for task in asked):
            rule = "a task must be learned before it is unlearned"
            problems.append(Refusal("unlearn-learned-task", f"unlearn: {rule}; got {shown}"))
        elif len({*asked}) < len(asked) or gone & {*asked}:
            problems.append(Refusal("unlearn-once", f"unlearn: a task can be unlearned only once; got {shown}"))
        gone |= {*asked}
        if len(gone) >= at:
            rule = "a request must keep at least one of the tasks learned so far"
            problems.append(Refusal("unlearn-keeps-a-task", f"unlearn: {rule}; got {shown}"))
    return list(dict.fromkeys(problems))
