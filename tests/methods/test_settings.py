"""Settings that a method of the user's own declares: typed, validated, in the help, searchable."""

import re

import pytest
import torch

from clsearch import Choice, IntRange, LogRange, PenaltyOutput, Range, Setting, Study, register
from clsearch.methods.registry import configure, fields_of
from clsearch.training.trial_setup import build_trial
from tests.refusals import broken

SETTINGS = {
    "strength": Setting(float, 0.5, "Weight of the pull.", gt=0, scale="log"),
    "window": Setting(int, 3, "Number of anchors.", ge=1),
    "mode": Setting(("near", "far"), "near"),
    "centred": Setting(bool, False),
}


class Pull:
    """strength * |θ - θ*|^2, with the mode's sign, read from the configuration."""

    logs = ()
    trains_head = False

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def prepare(self, network, benchmark, task, memory, hyperparameters):
        old = {name.removeprefix("pull/"): value for name, value in memory.items() if name.startswith("pull/")}

        def penalty(student, batch):
            moved = [(student.params[name] - value).flatten(1).square().sum(1) for name, value in old.items()]
            return PenaltyOutput(torch.stack(moved).sum(0))

        return penalty if old else None

    def remember(self, network, benchmark, task, params, memory):
        return memory | {f"pull/{name}": value.clone() for name, value in params.items()}


@pytest.fixture(autouse=True)
def _mine():
    register("mine", lambda config: Pull(config.mode), settings=SETTINGS)


def test_settings_are_fields_with_defaults_types_and_bounds():
    config = configure("mine", {"epochs": 1})
    assert (config.strength, config.window, config.mode, config.centred) == (0.5, 3, "near", False)
    assert {*SETTINGS} <= {*fields_of("mine")}
    wrong = {"strength": 0, "window": 2.5, "mode": "middle", "centred": "perhaps"}
    found = dict(broken(configure, "mine", {"epochs": 1} | wrong))
    assert {*found} == {*wrong}
    assert found["strength"] == "greater-than"
    assert found["mode"] == "literal-error"


def test_settings_are_options_with_help(capsys):
    study = Study(algorithm="mine", epochs=1, space={})
    assert study.plan_for(["--window", "5", "--centred", "--mode", "far"]).config.flat()["mode"] == "far"
    with pytest.raises(SystemExit):
        study.plan_for(["--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "--strength FLOAT [FLOAT ...] Weight of the pull. (above 0) (default: 0.5)" in text
    assert "--mode {near,far} [...]" in text


def test_settings_are_searched_each_in_its_way():
    plan = Study(algorithm="mine", epochs=1, space={}).plan_for(
        ["--strength", "0.01", "10", "--window", "1", "4", "--mode", "near", "far", "--centred", "true", "false"]
    )
    assert plan.space == {
        "strength": LogRange(0.01, 10),
        "window": IntRange(1, 4),
        "mode": Choice("near", "far"),
        "centred": Choice(True, False),
    }
    config = plan.trial_config({"strength": 2.0, "window": 4, "mode": "far", "centred": True})
    assert (config.strength, config.window, config.mode, config.centred) == (2.0, 4, "far", True)


def test_a_setting_with_a_range_is_searched_by_default():
    ranged = {"strength": Setting(float, 1.0, range=LogRange(0.1, 10), symbol="s"), "window": Setting(int, 1)}
    register("mine", settings=ranged)
    assert Study(algorithm="mine", epochs=1).plan.space == {"strength": LogRange(0.1, 10)}


def test_a_study_of_it_may_fix_and_condition_its_settings():
    space = [{"mode": Choice("near", "far"), "window": 2}, {"strength": Range(0.1, 1)}]
    plan = Study(algorithm="mine", epochs=1, space=space).plan
    assert plan.config.flat()["window"] == 2
    assert list(plan.space) == ["mode", "strength"]


def test_a_trial_is_built_from_them():
    trial = build_trial(configure("mine", {"epochs": 1, "mode": "far"}), [0, 1])
    assert trial.regularizers[0].mode == "far"


def test_settings_of_built_in_methods_stand_beside_own_ones():
    register("mine", settings={"penalty_factor": None, "strength": Setting(float, 1.0)})
    assert {"penalty_factor", "strength"} <= {*fields_of("mine")}


def test_a_name_near_a_setting_is_suggested():
    with pytest.raises(ValueError, match=r"did you mean strength\?"):
        Study(algorithm="mine", epochs=1, strenght=2)  # type: ignore[call-arg]
