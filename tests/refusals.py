"""Which rules a call breaks."""

from collections.abc import Callable
from typing import Any

import pytest

from clsearch.common.errors import ConfigError, Refusal


def refusals(call: Callable[..., Any], *arguments: Any, **settings: Any) -> list[Refusal]:
    """Call, and return what it refuses."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **settings)
    return caught.value.problems


def broken(call: Callable[..., Any], *arguments: Any, **settings: Any) -> list[tuple[str, str]]:
    """Call, and return field and rule of each problem that it refuses."""
    return [(problem.field, problem.rule) for problem in refusals(call, *arguments, **settings)]
