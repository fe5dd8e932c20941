"""The examples in docstrings give what they show."""

import doctest
import importlib

import pytest

MODULES = ("clsearch.config.hyperparameters", "clsearch.metrics")


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
