"""Values in refusals, and reprs, are short."""

from dataclasses import dataclass

import numpy as np
import pytest

from clsearch.common.echo import ShortRepr, echo
from clsearch.common.errors import Refusal


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((1000, 1000)),
        np.random.default_rng(0).random((20, 20)),
        [0.1234567] * 10**5,
        {n: [n] * 100 for n in range(1000)},
        "x" * 10**6,
        b"x" * 10**6,
        [[[[[[1] * 9] * 9] * 9] * 9] * 9] * 9,
        object(),
    ],
)
def test_a_value_is_shown_in_about_eighty_characters_on_one_line(value):
    assert len(echo(value)) <= 90
    assert "\n" not in echo(value)


def test_short_values_are_shown_whole():
    shown = [echo(value) for value in (3, "a b", (0.1, 0.0), {"a": 1}, None)]
    assert shown == ["3", "'a b'", "(0.1, 0.0)", "{'a': 1}", "None"]


def test_a_number_of_more_digits_than_python_writes_is_shown():
    assert echo(10**5000) == "<int>"


def test_a_value_has_no_secrets_and_no_control_characters():
    assert echo("http://bob:pa ss@host") == "'http://host'"
    assert echo(["http://bob:pass@host"]) == "['http://host']"
    assert echo("\x1b[31m") == r"'\x1b[31m'"


def test_a_refusal_is_short_clean_and_keeps_its_hint():
    refusal = Refusal("rule", f"mirror: must be; got {'x' * 10_000} at http://bob:secret@h\x1b[31m. Add --mirror")
    assert len(refusal) < 1000
    assert refusal.startswith("mirror: must be; got xxx")
    assert refusal.endswith(r"at http://h\x1b[31m. Add --mirror")
    assert len(Refusal("rule", "x" * 10**6)) < 3100


@dataclass(frozen=True, repr=False)
class Big(ShortRepr):
    """A value with much in it"""

    name: str
    rows: list[int]
    more: dict[int, str]


def test_a_repr_names_the_fields_and_is_short():
    shown = repr(Big("a", list(range(10**5)), dict.fromkeys(range(1000), "x" * 1000)))
    assert shown.startswith("Big(name='a', rows=[0, 1, 2,")
    assert len(shown) < 500
