"""An algorithm of one's own, from its registration to its arithmetic."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import cloudpickle
import pytest
import torch
from pydantic import Field

from clsearch import Hyperparameter, LogRange, Method, Section, register
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import TrialConfig
from clsearch.methods.registry import configure, default_space, digest_source, fields_of, label_of, methods, symbol_of
from clsearch.planning.command_line import parse
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial
from tests.refusals import broken

SCRIPT = Path(__file__).parents[2] / "studies" / "plain_l2.py"
SETTINGS = {"benchmark": "permuted-digits", "tasks": 2, "epochs": 1, "hidden": (8,), "learning_rate": 0.05}


@pytest.fixture
def plain_l2() -> type:
    """The regularizer of the example, registered by its script."""
    return runpy.run_path(str(SCRIPT))["PlainL2"]


def learned(algorithm: str, **settings: object) -> torch.Tensor:
    config = configure(algorithm, SETTINGS | settings)
    params = learn_sequence(build_trial(config, [0, 1])).params
    return torch.cat([value.flatten(1) for name, value in params.items() if not name.startswith("head.")], 1)


def test_its_settings_are_what_all_algorithms_have_and_its_own(plain_l2: type) -> None:
    assert {*fields_of("plain_l2")} - {*fields_of("finetuning")} == {"penalty_factor"}
    assert broken(configure, "plain_l2", SETTINGS | {"fisher": "exact"}) == [("fisher", "setting-of-algorithm")]
    assert broken(configure, "plain_l2", SETTINGS | {"penalty_factor": -1.0}) == [("penalty_factor", "greater-than")]


@pytest.mark.slow
def test_a_factor_of_nearly_nothing_is_finetuning_and_a_larger_one_holds_more(plain_l2: type) -> None:
    first = learned("finetuning", tasks=2, epochs=1)
    after_one = build_trial(configure("finetuning", SETTINGS), [0, 1], sequence=[1])
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
    assert broken(register, name) == [("name", "method-name")]


def test_a_setting_that_is_no_hyperparameter_is_refused() -> None:
    assert broken(register, "mine", settings=["strength"]) == [("settings", "settings-known")]


class Strength(Section):
    """Mine"""

    strength: Annotated[float, Hyperparameter(LogRange(1e-2, 10.0), "high", symbol="s")] = Field(1.0, gt=0)
    shape: Literal["round", "square"] = "round"


def test_a_method_brings_hyperparameters_of_its_own() -> None:
    register(Method("mine", "Mine", section=Strength, build=lambda config: Mine()))
    config = configure("mine", SETTINGS | {"strength": 2.0, "shape": "square"})
    assert isinstance(config, Strength)
    assert (config.strength, config.flat()["shape"]) == (2.0, "square")
    assert config.hyperparameters == ("learning_rate", "momentum", "weight_decay", "warmup", "decay", "strength")
    assert default_space(config) == {"strength": LogRange(1e-2, 10.0)}
    assert (label_of("mine"), symbol_of("strength")) == ("Mine", "s")
    assert build_trial(config, [0, 1]).hyperparameters["strength"].tolist() == [2.0, 2.0]
    assert broken(configure, "mine", SETTINGS | {"strength": -1}) == [("strength", "greater-than")]


def test_a_methods_rules_may_give_plain_lines() -> None:
    def rule(config: TrialConfig) -> list[str]:
        return ["strength: must suit the shape; got 1"]

    register(Method("mine", "Mine", section=Strength, build=lambda config: Mine(), rules=(rule,)))
    assert broken(configure, "mine", SETTINGS) == [("strength", "refused")]


def test_a_section_may_not_have_a_field_that_every_method_has() -> None:
    class Taken(Section):
        """Taken"""

        batch_size: int = 3

    assert broken(register, Method("mine", "Mine", section=Taken)) == [("section", "section-fields-new")]


@pytest.mark.parametrize("algorithm", ["lwf_ewc", "amnesiac_ewc", "mine"])
def test_a_configuration_travels_by_value_and_is_not_validated_again(algorithm: str) -> None:
    register(Method("mine", "Mine", section=Strength, build=lambda config: Mine()))
    config = configure(algorithm, SETTINGS)
    travelled = cloudpickle.loads(cloudpickle.dumps(config))
    assert type(travelled) is type(config)
    assert (travelled, travelled.flat(), travelled.source) == (config, config.flat(), config.source)


OWN_METHOD = """
import subprocess, sys
from typing import Annotated

import cloudpickle

from clsearch import Hyperparameter, LogRange, Method, Section


class Own(Section):
    strength: Annotated[float, Hyperparameter(LogRange(1, 2))] = 1.5


read = (
    "import pickle, sys; from clsearch.methods.registry import accept, configure; "
    "accept({'own': pickle.load(sys.stdin.buffer)}); print(configure('own', {'epochs': 1}).strength)"
)
packed = cloudpickle.dumps(Method("own", "Own", section=Own))
done = subprocess.run([sys.executable, "-c", read], input=packed, capture_output=True, check=True)
print(done.stdout.decode(), end="")
"""


@pytest.mark.slow
def test_a_method_of_a_script_travels_to_workers_with_its_section() -> None:
    done = subprocess.run([sys.executable, "-c", OWN_METHOD], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1.5", done.stderr


def test_built_in_and_registered_methods_are_the_same_kind_of_value() -> None:
    register("mine", lambda config: Mine(), settings=["penalty_factor"])
    assert {type(method) for method in methods().values()} == {Method}


def test_a_section_whose_heading_is_a_sentence_has_options(capsys: pytest.CaptureFixture[str]) -> None:
    class Sentence(Strength):
        """Plain L2: how strongly? (mine)."""

    register(Method("mine", "Mine", section=Sentence, build=lambda config: Mine()))
    settings, space, _ = parse("mine", "", {"epochs": 1}, SearchSpace(), ["--strength", "2", "--shape", "square"])
    assert (settings["strength"], settings["shape"], space) == (2.0, "square", {})
    with pytest.raises(SystemExit):
        parse("mine", "", {"epochs": 1}, SearchSpace(), ["--help"])
    assert "--strength" in capsys.readouterr().out


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
        return digest_source(configure("mine", SETTINGS))

    first = digest(Mine)
    assert first is not None
    assert digest(Mine) == first != digest(Other)
    assert digest_source(configure("lwf", SETTINGS)) is None


@pytest.mark.slow
def test_a_script_with_an_algorithm_of_its_own_answers_for_help_without_torch() -> None:
    words = "import runpy, sys; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
