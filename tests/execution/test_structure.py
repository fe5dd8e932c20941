"""Which configurations train together, and which apart."""

from __future__ import annotations

import pytest
import torch

from clsearch import Setting, register
from clsearch.execution.structure import Suggestion, group_by_structure, pickle_by_content
from clsearch.methods.registry import configure


def groups_of(algorithm: str, *settings: dict[str, object]) -> list[str]:
    """The labels of each group, as a word; the first configuration is `a`."""
    suggested = {
        label: Suggestion(own, configure(algorithm, {"epochs": 1} | own))
        for label, own in zip("abcdef", settings, strict=False)
    }
    return ["".join(group) for group in group_by_structure(suggested)]


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ([{"penalty_factor": 1.0}, {"penalty_factor": 2.0, "learning_rate": 0.5}], ["ab"]),
        ([{"momentum": 0.5}, {"momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.2}], ["ab", "c"]),
        ([{}, {"optimizer": "adam"}, {"weight_decay": 0.1}, {"optimizer": "adam", "weight_decay": 0.1}], ["ac", "bd"]),
        ([{"hidden": (8,)}, {"hidden": (9,)}, {"hidden": (8,), "penalty_p_norm": 1.5}], ["ac", "b"]),
        ([{"epochs": 1}, {"epochs": 2}, {"batch_size": 16}, {"fisher": "exact"}], ["a", "b", "c", "d"]),
        ([{"anchors": "online", "gamma": 0.5}, {"anchors": "online"}, {}], ["ab", "c"]),
        ([{"warmup": 0.1}, {"warmup": 0.2}, {}], ["ab", "c"]),
    ],
)
def test_configurations_that_differ_in_numbers_alone_are_a_group(settings, groups):
    assert groups_of("ewc", *settings) == groups


class Weighed:
    """A regularizer of the user's own."""

    logs = ()
    trains_head = False

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = torch.tensor(weight)


SETTINGS = {"alpha": Setting(float, 0.5, gt=0), "window": Setting(int, 3), "mode": Setting(("a", "b"), "a")}


def test_what_an_own_method_is_built_with_is_structure_and_what_it_reads_later_is_not():
    several = [{"alpha": 1.0}, {"alpha": 2.0, "window": 4}, {"alpha": 1.0, "mode": "b"}]
    register("weighed", lambda config: Weighed(), settings=SETTINGS)
    assert groups_of("weighed", *several) == ["ab", "c"]
    register("weighed", lambda config: Weighed(config.alpha), settings=SETTINGS)
    assert groups_of("weighed", *several) == ["a", "b", "c"]
    assert groups_of("weighed", *several[:1], {"alpha": 1.0, "learning_rate": 0.5}) == ["ab"]
    register("weighed", lambda config: 1 / 0, settings=SETTINGS)
    assert groups_of("weighed", *several) == ["a", "b", "c"]  # each fails in its worker


def test_tensors_are_compared_by_what_they_hold_and_not_by_where_they_lie():
    held = [torch.rand(3) for _ in range(20)]  # so that copies lie elsewhere
    for value in (torch.tensor(0.5), torch.tensor([True, False]), torch.ones(2, 3, dtype=torch.bfloat16), *held):
        assert pickle_by_content([value]) == pickle_by_content([value.clone()])
    assert pickle_by_content(torch.zeros(2)) != pickle_by_content(torch.zeros(1, 2))
    assert pickle_by_content(torch.tensor(1.0)) != pickle_by_content(torch.tensor(2.0))
