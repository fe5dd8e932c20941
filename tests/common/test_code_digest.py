"""The digest of a user's code: what changes it, and what does not."""

import importlib
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from clsearch.common.code_digest import digest_code

HELPERS = """
import math

OFFSET = 7

def shift(x):
    return x + OFFSET + deeper(x)

def deeper(x):
    return math.sqrt(x)

def unused(x):
    return x
"""

MINE = '''
import functools

import own_helpers
from own_helpers import shift

FACTOR = 2.0
WEIGHTS = {"a": 1, "b": (2, 3)}
NAMES = {"one", "two", "three"}

def scale(x, power=1, *, root=2):
    """Scale."""
    return x ** power * FACTOR * WEIGHTS["a"] / root * len(NAMES)

def outer(x):
    # a comment
    return scale(x) + shift(x) + own_helpers.shift(x)

def loud(call):
    @functools.wraps(call)
    def wrapped(*args):
        return 5 * call(*args)
    return wrapped

def made(constant):
    def inner(x):
        return x + constant
    return inner

CLOSED = made(11)
PARTIAL = functools.partial(scale, 1, power=13)
SQUARE = lambda x: x ** 17

class Base:
    def common(self):
        return 19

class Mine(Base):
    """A regularizer."""

    logs = ()
    level = 23

    def __init__(self, strength=29.0):
        self.strength = strength
        self.inner = {"deep": [31, self]}

    @property
    def doubled(self):
        return 37 * self.strength

    @staticmethod
    def fixed():
        return 41

    @functools.lru_cache
    def cached(self):
        return 43

    @loud
    def prepare(self, x):
        def penalty(y):
            return outer(y) + CLOSED(y) + PARTIAL() + SQUARE(y)
        return penalty

    def lazily(self):
        import own_helpers as late
        return late.shift(47)

build = lambda config: Mine(53)
'''


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Digests the builder of a script and what it builds, as if the script were run anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(mine=MINE, helpers=HELPERS):
        for name, source in {"own_helpers": helpers, "own_method": mine}.items():
            (tmp_path / f"{name}.py").write_text(source)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module("own_method")
        return digest_code([module.build, module.build(None)])

    yield run
    for name in ("own_helpers", "own_method"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2.0", "FACTOR = 2.5"),
        ('"a": 1', '"a": 4'),
        ("(2, 3)", "(2, 4)"),
        ('"three"', '"four"'),
        ("power=1,", "power=2,"),
        ("root=2)", "root=3)"),
        ("return x ** power", "return x * power"),
        ("scale(x) + shift(x)", "scale(x) - shift(x)"),
        ("5 * call", "6 * call"),
        ("return x + constant", "return x - constant"),
        ("made(11)", "made(12)"),
        ("scale, 1, power=13", "scale, 2, power=13"),
        ("scale, 1, power=13", "scale, 1, power=14"),
        ("x ** 17", "x ** 18"),
        ("return 19", "return 20"),
        ("level = 23", "level = 24"),
        ("strength=29.0", "strength=30.0"),
        ("[31, self]", "[32, self]"),
        ("return 37", "return 38"),
        ("return 41", "return 42"),
        ("return 43", "return 44"),
        ("CLOSED(y) + PARTIAL()", "CLOSED(y) - PARTIAL()"),
        ("late.shift(47)", "late.shift(48)"),
        ("Mine(53)", "Mine(54)"),
        ("    @loud\n", ""),
        ("class Mine(Base)", "class Mine"),
    ],
)
def test_every_part_of_the_code_and_every_value_counts(digest, old, new):
    assert old in MINE
    assert digest(MINE.replace(old, new)) != digest()


@pytest.mark.parametrize(
    ("old", "new"), [("OFFSET = 7", "OFFSET = 8"), ("math.sqrt", "math.exp"), ("+ deeper", "- deeper")]
)
def test_a_helper_in_another_module_of_the_user_counts(digest, old, new):
    assert digest(helpers=HELPERS.replace(old, new)) != digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another comment\n\n"),
        ('"""A regularizer."""', '"""A regularizer, told at length.\n\n    Twice.\n    """'),
        ('"""Scale."""', '"""Scales."""'),
        ('{"a": 1, "b": (2, 3)}', '{\n    "a": 1,\n    "b": (2, 3),\n}'),
        ('{"a": 1, "b": (2, 3)}', '{"b": (2, 3), "a": 1}'),
        ("\nclass Base", "\ndef other():\n    return 1\n\nclass Base"),
        ("import functools\n", "import functools\nimport json\n"),
    ],
)
def test_what_changes_nothing_does_not_count(digest, old, new):
    assert old in MINE
    assert digest(MINE.replace(old, new, 1)) == digest()


def test_a_function_that_is_not_reached_does_not_count(digest):
    assert digest(helpers=HELPERS.replace("    return x\n", "    return 2 * x\n")) == digest()


SCRIPT = "import sys\nfrom clsearch.common.code_digest import digest_code\n" + MINE
SCRIPT += "\nprint(digest_code([build, build(None)]))\n"


@pytest.mark.slow
def test_another_process_in_another_place_gives_the_same_digest(tmp_path):
    found = set()
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "own_helpers.py").write_text(HELPERS)
        (folder / f"script{seed}.py").write_text(SCRIPT)
        environment = os.environ | {"PYTHONHASHSEED": seed}
        words = [sys.executable, str(folder / f"script{seed}.py")]
        found.add(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


@pytest.mark.slow
def test_code_without_a_file_counts_by_its_instructions():
    """As of `python -c`, whose source Python does not keep before 3.13."""

    def run(value):
        words = [sys.executable, "-c", SCRIPT.replace("import own_helpers\n", "").replace("Mine(53)", value)]
        words[2] = words[2].replace("from own_helpers import shift\n", "shift = abs\n")
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert run("Mine(53)") == run("Mine(53)") != run("Mine(54)")


def test_arrays_and_tensors_count_by_their_content():
    values = [np.arange(6.0), np.arange(6), np.arange(6.0).reshape(2, 3), torch.arange(6.0), torch.arange(6)]
    values += [torch.arange(6.0).reshape(2, 3), torch.tensor(3.0, dtype=torch.bfloat16), torch.empty(0), np.float32(3)]
    values += [torch.nn.Linear(2, 3, dtype=torch.float64)]
    assert len({digest_code([value]) for value in values}) == len(values)
    assert digest_code([torch.arange(6.0)]) == digest_code([torch.arange(7.0)[:6]])
    assert digest_code([np.arange(6.0)]) == digest_code([np.arange(12.0)[::2] / 2])


def test_objects_that_cannot_be_taken_apart_count_by_their_type():
    class Holder:
        def __init__(self, held):
            self.held = held

    values = [Holder(open(os.devnull)), Holder(sys.stdout), Holder(i for i in "ab")]  # noqa: SIM115
    assert all(digest_code([value]) == digest_code([value]) for value in values)
    values[0].held.close()


def test_arguments_of_a_partial_of_a_library_count():
    digests = {digest_code([made]) for made in (partial(torch.nn.Linear, 2), partial(torch.nn.Linear, 3))}
    assert len(digests) == 2


def test_objects_that_hold_each_other_in_sets_have_a_digest():
    class Node:
        def __init__(self):
            self.others = set()

    first, second = Node(), Node()
    first.others.add(second)
    second.others.add(first)
    assert digest_code([first]) == digest_code([first])
