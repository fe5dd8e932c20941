"""The examples in docstrings give what they show."""

import doctest
import importlib

import pytest
import torch

from clsearch.methods import registry

MODULES = (
    "clsearch.config.domains",
    "clsearch.config.space_parts",
    "clsearch.methods.base",
    "clsearch.methods.registry",
    "clsearch.metrics",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name, monkeypatch):
    monkeypatch.setattr(registry, "CUSTOM_METHODS", {})
    found = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert found.attempted
    assert not found.failed
