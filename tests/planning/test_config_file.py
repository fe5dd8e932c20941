"""Options in a YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clsearch import Refusal, Study
from clsearch.common.formatting import relative_path
from clsearch.config.domains import Choice, IntRange, LogRange, Range
from clsearch.config.space_parts import When
from clsearch.planning.config_file import format_plan
from clsearch.records.study_file import description
from tests.builders import STUDIES, study_of
from tests.helpers import in_turn
from tests.refusals import refusals


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.yaml"


def refusal(study, *args: str) -> Refusal:
    (problem,) = refusals(study.plan_for, list(args))
    return problem


def test_a_files_options_are_a_command_lines(file: Path) -> None:
    file.write_text("epochs: 7\nbatch-size: 16\nhidden: [32, 16]\nhorizontal_flip: false\nfinal: false\n")
    plan = study_of().plan_for(["--config", str(file)])
    other = study_of().plan_for(["--epochs", "7", "--batch-size", "16", "--hidden", "32", "16", "--no-final"])
    assert description(plan) == description(other)


def test_options_beside_a_file_win_and_a_later_file_wins_over_an_earlier(file: Path, tmp_path: Path) -> None:
    file.write_text("epochs: 7\nseeds: 2\n")
    second = tmp_path / "second.yaml"
    second.write_text("seeds: 4\n")
    plan = study_of().plan_for([f"--config={file}", "--epochs", "9", "--config", str(second)])
    assert (plan.config.epochs, plan.options.seeds) == (9, 4)


def test_of_epochs_and_iterations_the_command_lines_is_meant(file: Path) -> None:
    file.write_text("iterations: 100\n")
    assert study_of().plan_for(["--config", str(file)]).config.iterations == 100
    plan = study_of().plan_for(["--config", str(file), "--epochs", "3"])
    assert (plan.config.epochs, plan.config.iterations) == (3, None)


def test_a_list_of_two_is_a_range_and_a_number_is_fixed(file: Path) -> None:
    file.write_text("distillation_factor: [0.5, 20]\ndistillation_temperature: 3\n")
    plan = study_of().plan_for(["--config", str(file)])
    assert plan.space == {"distillation_factor": LogRange(0.5, 20)}
    assert plan.config.distillation_temperature == 3


def test_the_best_of_a_study_is_a_file(file: Path) -> None:
    file.write_text("distillation_factor: 0.30000000000000004\ndistillation_temperature: 2.0\n")
    plan = study_of().plan_for(["--config", str(file)])
    assert (plan.config.distillation_factor, plan.space, plan.trials) == (0.1 + 0.2, {}, 1)


def test_null_undoes_what_a_script_sets(file: Path) -> None:
    file.write_text("tasks: null\n")
    assert study_of(tasks=3).plan_for(["--config", str(file)]).config.tasks == 5


def test_the_recorded_command_needs_no_file(file: Path) -> None:
    file.write_text("epochs: 7\n")
    command = study_of().plan_for(["--config", str(file)]).command
    assert "--config" not in command
    assert command[command.index("--epochs") + 1] == "7"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("epoch: 7", "option-known"),
        ("- epochs", "config-options"),
        ("", "config-options"),
        ("epochs: {a: 1}", "domain-keys"),
        ("epochs: [", "config-yaml"),
    ],
)
def test_what_is_no_file_of_options_is_refused(file: Path, content: str, rule: str) -> None:
    file.write_text(content)
    problem = refusal(study_of(), "--config", str(file))
    assert (problem.field, problem.rule) == ("config", rule)


@pytest.mark.parametrize(
    ("content", "rule", "value"),
    [
        ("trials: abc", "int-parsing", "'abc'"),
        ("seeds: [1, 2]", "config-one-value", "[1, 2]"),
        ("final: perhaps", "bool-parsing", "'perhaps'"),
        ("hidden: [a]", "int-parsing", "['a']"),
        ("distillation_factor: [a, 2]", "range-of-numbers", "['a', 2]"),
        ("optimizer: sdg", "literal-error", "'sdg'"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_option_and_the_file(
    file: Path, content: str, rule: str, value: str
) -> None:
    file.write_text(content)
    problem = refusal(study_of("lwf"), "--config", str(file))
    assert (problem.field, problem.rule) == ("config", rule)
    assert problem.startswith(f"config: {content.partition(':')[0]} in {relative_path(file)} must be ")
    assert problem.endswith(f"; got {value}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["hidden: 8", "distillation_factor: 1e-3", "trials: null", "distillation_factor: [1e-3, 2]"]
)
def test_one_value_stands_for_several_and_numbers_may_be_written_as_people_do(file: Path, content: str) -> None:
    file.write_text(content)
    assert study_of().plan_for(["--config", str(file)])


def test_what_is_not_set_is_printed_as_comments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study_of(trials=None).main(["--print-config"])
    printed = capsys.readouterr().out
    assert "\n# Not set:\n# trials: 32\n" in printed
    assert "\n# data_root:\n" in printed
    assert not any(line.startswith("# distillation") for line in printed.splitlines())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(study_of(), "--config", str(tmp_path / "none.yaml"))
    assert refusal(study_of(), "--config").rule == "config-named"


def test_a_value_against_its_rule_is_refused_as_on_the_command_line(file: Path) -> None:
    file.write_text("batch_size: 0\n")
    assert refusal(study_of(), "--config", str(file)) == refusal(study_of(), "--batch-size", "0")


ARGS = [
    [],
    ["--iterations", "50"],
    ["--sampler", "grid", "--grid-points", "3"],
    ["--protocol", "first_k", "--tasks", "5"],
    ["--schedule", "step", "--milestones", "0.5", "--warmup", "0.1"],
    ["--no-final", "--horizontal-flip", "--backbone", "cnn", "--references"],
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "args"), in_turn(["lwf", "ewc", "lwf_ewc", "finetuning"], ARGS))
def test_what_is_printed_is_read_back_as_the_same_study(file: Path, algorithm: str, args: list[str]) -> None:
    study = study_of(algorithm)
    plan = study.plan_for(args)
    file.write_text(format_plan(plan, study.settings))
    again = study.plan_for(["--config", str(file)])
    left = ("command",)
    assert {k: v for k, v in description(again).items() if k not in left} == {
        k: v for k, v in description(plan).items() if k not in left
    }


def test_continual_is_read_back(file: Path) -> None:
    study = study_of("ewc", space=None, protocol="continual")
    file.write_text(format_plan(study.plan, study.settings))
    assert study.plan_for(["--config", str(file)]).space == study.plan.space


@pytest.mark.slow
@pytest.mark.parametrize("script", STUDIES, ids=lambda path: path.stem)
def test_every_script_prints_its_options(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    study = runpy.run_path(str(script))["study"]
    with pytest.raises(SystemExit) as ended:
        study.main(["--print-config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["name"] == script.stem
    assert printed["epochs"] == study.plan.config.epochs


def test_a_space_with_conditions_is_printed_and_read_back_as_the_same_study(tmp_path):
    space = [
        {"optimizer": Choice("sgd", "adam"), "epochs": IntRange(1, 4), "hidden": Choice((32,), (64, 64))},
        When("optimizer", "sgd", {"momentum": Range(0, 0.9), "learning_rate": LogRange(0.01, 1)}),
        When("optimizer", "adam", {"learning_rate": LogRange(1e-4, 1e-2), "weight_decay": 1e-4}),
    ]
    study = Study(algorithm="lwf", space=space, name="conditions")
    (tmp_path / "printed.yml").write_text(format_plan(study.plan, study.settings))
    plan = study.plan_for(["--config", str(tmp_path / "printed.yml")])
    assert plan.space == study.plan.space
    assert format_plan(plan, study.settings) == format_plan(study.plan, study.settings)


def test_a_setting_holds_for_the_trials_to_which_its_condition_does_not_apply(tmp_path):
    space = [{"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"epochs": IntRange(1, 4)})]
    study = Study(algorithm="lwf", space=space, epochs=7, name="conditions")
    (tmp_path / "printed.yml").write_text(format_plan(study.plan, study.settings))
    for plan in (study.plan, study.plan_for([]), study.plan_for(["--config", str(tmp_path / "printed.yml")])):
        assert plan.trial_config({"optimizer": "adam"}).epochs == 7
        assert plan.trial_config({"optimizer": "sgd", "epochs": 2}).epochs == 2
        assert description(plan)["config"]["epochs"] == 7
        assert plan.space == study.plan.space
    other = study.plan_for(["--epochs", "5"])
    assert list(other.space) == ["optimizer"]
    assert other.trial_config({"optimizer": "sgd"}).epochs == 5
