"""An algorithm of one's own, from its registration to its arithmetic."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clsearch import ConfigError, register
from clsearch.config.trial import TrialConfig, fields_of
from clsearch.methods.registry import digest_of
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_run

SCRIPT = Path(__file__).parents[2] / "studies" / "plain_l2.py"
SETTINGS = {"benchmark": "permuted-digits", "tasks": 2, "epochs": 1, "hidden": (8,), "learning_rate": 0.05}


@pytest.fixture
def plain_l2() -> type:
    """The regularizer of the example, registered by its script."""
    return runpy.run_path(str(SCRIPT))["PlainL2"]


def learned(algorithm: str, **settings: object) -> torch.Tensor:
    config = TrialConfig.of(algorithm, SETTINGS | settings)
    params = learn_sequence(build_run(config, [0, 1])).params
    return torch.cat([value.flatten(1) for name, value in params.items() if not name.startswith("head.")], 1)


def test_its_settings_are_what_all_algorithms_have_and_its_own(plain_l2: type) -> None:
    assert {*fields_of("plain_l2")} - {*fields_of("finetuning")} == {"penalty_factor"}
    with pytest.raises(ConfigError, match="fisher: not a setting of plain_l2"):
        TrialConfig.of("plain_l2", SETTINGS | {"fisher": "exact"})
    with pytest.raises(ConfigError, match="penalty_factor"):
        TrialConfig.of("plain_l2", SETTINGS | {"penalty_factor": -1.0})


def test_a_factor_of_nearly_nothing_is_finetuning_and_a_larger_one_holds_more(plain_l2: type) -> None:
    first = learned("finetuning", tasks=2, epochs=1)
    after_one = build_run(TrialConfig.of("finetuning", SETTINGS), [0, 1], sequence=[1])
    anchor = learn_sequence(after_one).params
    anchors = torch.cat([value.flatten(1) for name, value in anchor.items() if not name.startswith("head.")], 1)
    torch.testing.assert_close(learned("plain_l2", penalty_factor=1e-12), first)
    moved = [(learned("plain_l2", penalty_factor=factor) - anchors).norm().item() for factor in (1e-12, 1.0, 8.0)]
    assert moved[0] > 1.2 * moved[1] > 1.2 * moved[2]


def test_the_penalty_is_the_sum_of_squares_of_what_changed_by_member(plain_l2: type) -> None:
    old = {"l2/w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "of another": torch.ones(2, 1)}
    student = type("Student", (), {"params": {"w": torch.tensor([[2.0, 2.0], [3.0, 1.0]])}})
    factor = {"penalty_factor": torch.tensor([10.0, 0.5])}
    penalty = plain_l2().prepare(None, None, None, old, factor)
    torch.testing.assert_close(penalty(student, None).penalty, torch.tensor([10.0, 4.5]))
    assert plain_l2().prepare(None, None, None, {}, factor) is None


@pytest.mark.parametrize("name", ["lwf", "joint", "my algorithm", ""])
def test_a_name_that_is_taken_or_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name: must be a new one"):
        register(name)


def test_a_setting_that_is_no_hyperparameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"settings: must be of distillation_factor, .*; got strength"):
        register("mine", settings=["strength"])


def test_a_name_may_be_registered_again() -> None:
    register("mine", settings=["penalty_factor"])
    register("mine", settings=["distillation_factor"])
    assert "penalty_factor" not in fields_of("mine")


class Mine:
    """A regularizer whose source can be read."""

    logs = ()
    trains_head = False


class Other(Mine):
    """Another one."""


def test_a_study_is_named_by_the_source_of_its_own_regularizers() -> None:
    def digest(regularizer: type) -> str | None:
        register("mine", lambda config: regularizer(), settings=["penalty_factor"])
        return digest_of(TrialConfig.of("mine", SETTINGS))

    first = digest(Mine)
    assert first is not None
    assert digest(Mine) == first != digest(Other)
    assert digest_of(TrialConfig.of("lwf", SETTINGS)) is None


def test_a_script_with_an_algorithm_of_its_own_answers_for_help_without_torch() -> None:
    words = "import runpy, sys; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
