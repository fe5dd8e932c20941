"""Options of a study and the command line made of them."""

import re
from functools import partial

import pytest
from pydantic import ValidationError

from clsearch.common.errors import ConfigError
from clsearch.config.domains import Choice, LogRange, Range
from clsearch.config.spaces import SearchSpace
from clsearch.config.trial import TrialConfig
from clsearch.methods.registry import BUILT_IN, fields_of, known_fields
from clsearch.planning.command_line import parse
from clsearch.planning.option_groups import describe_bounds
from clsearch.planning.options import Options, Protocol
from clsearch.study import Study
from tests.refusals import broken

SPACE = {"penalty_factor": LogRange(0.1, 1000), "penalty_p_norm": Range(1, 3)}
SETTINGS = {"name": "mine", "tasks": 3, "hidden": (8,), "epochs": 4}


def read(*args, settings=SETTINGS, space=SPACE, algorithm="ewc"):
    return parse(algorithm, "Which?", settings, SearchSpace.of(space), list(args))[:2]


@pytest.fixture(scope="module")
def before():
    """The settings without options."""
    return read()[0]


def test_no_options_give_the_scripts_settings_and_space():
    settings, space = read()
    assert space == SPACE
    assert {name: settings[name] for name in SETTINGS} == SETTINGS


def test_what_the_script_leaves_open_stays_open():
    settings, _ = read()
    assert not {"iterations", "scenario", "data_root", "trials", "tracking_uri", "max_concurrent"} & set(settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--tasks", "2"], "tasks", 2),
        (["--seeds", "5"], "seeds", 5),
        (["--hidden", "32", "16"], "hidden", (32, 16)),
        (["--benchmark", "permuted-digits"], "benchmark", "permuted-digits"),
        (["--scenario", "class"], "scenario", "class"),
        (["--momentum", "0.9"], "momentum", 0.9),
        (["--optimizer", "adam"], "optimizer", "adam"),
        (["--average-over-tasks"], "average_over_tasks", True),
        (["--download"], "download", True),
        (["--name", "other"], "name", "other"),
        (["--trials", "7"], "trials", 7),
        (["--sampler", "random"], "sampler", "random"),
        (["--gpus-per-trial", "0.5"], "gpus_per_trial", 0.5),
        (["--tracking-uri", "sqlite:///x.db"], "tracking_uri", "sqlite:///x.db"),
        (["--benchmark", "folder:my pets"], "benchmark", "folder:my pets"),
        (["--image-size", "32"], "image_size", 32),
        (["--image-channels", "3"], "image_channels", 3),
        (["--random-crop", "4"], "random_crop", 4),
        (["--horizontal-flip"], "horizontal_flip", True),
        (["--warmup", "0.1"], "warmup", 0.1),
        (["--milestones", "0.25", "0.5", "0.75"], "milestones", (0.25, 0.5, 0.75)),
        (["--decay", "0.2"], "decay", 0.2),
    ],
)
def test_an_option_changes_its_setting_and_nothing_else(before, args, name, value):
    settings, space = read(*args)
    assert settings == before | {name: value}
    assert space == SPACE


CHOOSING = [
    (["--protocol", "first_k"], "protocol", "first_k"),
    (["--first-k", "4"], "first_k", 4),
    (["--report-benchmark", "split-mnist"], "report_benchmark", "split-mnist"),
    (["--learning-rates", "0.1", "0.3"], "learning_rates", (0.1, 0.3)),
    (
        ["--objectives", "average_forgetting", "accuracy/task_01"],
        "objectives",
        ("average_forgetting", "accuracy/task_01"),
    ),
    (["--no-final"], "final", False),
    (["--report-seeds", "7"], "report_seeds", 7),
    (["--first-report-seed", "50"], "first_report_seed", 50),
    (["--sampler", "qmc"], "sampler", "qmc"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "name", "value"), CHOOSING, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_options_of_the_selection_change_their_setting_and_nothing_else(before, args, name, value):
    settings, space = read(*args)
    assert settings == before | {name: value}
    assert space == SPACE


def test_continual_takes_nothing_over_that_tells_a_sampler_what_to_do():
    script = SETTINGS | {"trials": 9, "sampler": "random", "sampler_seed": 4, "grid_points": 3}
    script |= {"objectives": ("average_accuracy", "average_forgetting")}
    settings, _ = read("--protocol", "continual", settings=script)
    assert not {"trials", "sampler", "sampler_seed", "grid_points", "objectives"} & set(settings)
    settings, _ = read("--protocol", "continual", "--sampler", "random", settings=script)
    assert settings["sampler"] == "random"  # given by the user, to be refused


TIED_BY = [
    (["--grouping", "groups.txt"], {"tasks": 3}, ["--tasks", "2"]),
    (["--classes-per-task", "4", "3"], {"tasks": 3}, ["--tasks", "2"]),
    (["--backbone", "cnn"], {"hidden": (8,)}, ["--hidden", "9"]),
    (["--schedule", "cosine"], {"schedule": "step", "milestones": (0.2,), "decay": 0.5}, ["--decay", "0.3"]),
    (["--protocol", "two_phase"], {"protocol": Protocol.FIRST_K, "first_k": 4}, ["--first-k", "2"]),
    (
        ["--protocol", "first_k"],
        {"protocol": Protocol.TWO_PHASE, "report_benchmark": "split-mnist"},
        ["--report-benchmark", "x"],
    ),
    (
        ["--protocol", "first_k"],
        {"protocol": Protocol.CONTINUAL, "learning_rates": (0.1,)},
        ["--learning-rates", "0.2"],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("args", "script", "given"), TIED_BY)
def test_what_a_script_set_for_its_own_value_of_another_option_goes_with_it(args, script, given):
    option = args[0].removeprefix("--").replace("-", "_")
    tied = [name for name in script if name != option]
    assert all(name in read(settings=SETTINGS | script)[0] for name in tied)
    settings, _ = read(*args, settings=SETTINGS | script)
    assert not {*tied} & {*settings}
    settings, _ = read(*args, *given, settings=SETTINGS | script)
    assert given[0].removeprefix("--").replace("-", "_") in settings


def test_giving_the_scripts_own_value_again_changes_nothing():
    script = SETTINGS | {"backbone": "cnn", "hidden": (8,), "schedule": "step", "milestones": (0.2,)}
    again, _ = read("--backbone", "cnn", "--schedule", "step", settings=script)
    assert again == read(settings=script)[0]


def test_one_value_fixes_a_searched_hyperparameter():
    settings, space = read("--penalty-p-norm", "1.5")
    assert settings["penalty_p_norm"] == 1.5
    assert space == {"penalty_factor": SPACE["penalty_factor"]}


def test_two_values_are_a_new_range_of_the_scripts_scale():
    _, space = read("--penalty-p-norm", "1.2", "2.5", "--penalty-factor", "2", "3")
    assert space == {"penalty_factor": LogRange(2, 3), "penalty_p_norm": Range(1.2, 2.5)}


def test_the_script_may_choose_another_scale_than_the_field():
    _, space = read("--penalty-factor", "2", "3", space={"penalty_factor": Range(1, 4)})
    assert space == {"penalty_factor": Range(2, 3)}


def test_two_values_search_what_the_script_fixed_on_the_fields_scale():
    settings, space = read("--learning-rate", "0.01", "1")
    assert space == SPACE | {"learning_rate": LogRange(0.01, 1)}
    assert "learning_rate" not in settings


def test_all_searched_hyperparameters_may_be_fixed():
    settings, space = read("--penalty-factor", "3", "--penalty-p-norm", "1")
    assert space == {}
    assert (settings["penalty_factor"], settings["penalty_p_norm"]) == (3, 1)


def test_three_numbers_are_a_choice():
    assert read("--penalty-factor", "1", "2", "3")[1]["penalty_factor"] == Choice(1.0, 2.0, 3.0)


def test_an_option_without_a_value_is_refused():
    assert broken(read, "--penalty-factor") == [("penalty_factor", "value-given")]


def test_iterations_replace_the_scripts_epochs():
    settings, _ = read("--iterations", "50")
    assert settings["iterations"] == 50
    assert "epochs" not in settings


def test_epochs_replace_the_scripts_iterations():
    settings, _ = read("--epochs", "2", settings={"iterations": 50})
    assert settings["epochs"] == 2
    assert "iterations" not in settings


def test_both_lengths_together_reach_the_rule_that_refuses_them():
    settings, _ = read("--iterations", "50", "--epochs", "2")
    assert (settings["iterations"], settings["epochs"]) == (50, 2)


# The backbone


def tiny(shape):
    """Stands for a function of a user's; it is never called here."""
    raise AssertionError(shape)


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--backbone", "cnn"], ["--backbone=cnn"]])
def test_another_backbone_does_not_take_the_widths_that_were_for_the_scripts_own(args):
    before, _ = read()
    settings, _ = read(*args)
    assert settings == {name: value for name, value in before.items() if name != "hidden"} | {"backbone": "cnn"}


def test_widths_given_beside_another_backbone_are_its_own():
    settings, _ = read("--backbone", "cnn", "--hidden", "32", "16")
    assert (settings["backbone"], settings["hidden"]) == ("cnn", (32, 16))


@pytest.mark.slow
def test_the_scripts_own_backbone_named_again_keeps_its_widths():
    assert read("--backbone", "mlp")[0]["hidden"] == (8,)
    script = SETTINGS | {"backbone": "cnn"}
    assert read("--backbone", "cnn", settings=script) == read(settings=script)


@pytest.mark.slow
@pytest.mark.parametrize("made", [tiny, partial(tiny), lambda shape: tiny(shape)], ids=["def", "partial", "lambda"])
def test_a_scripts_function_stays_the_backbone_until_another_is_named(made):
    script = {"epochs": 4, "backbone": made}
    assert read(settings=script)[0]["backbone"] is made
    assert read("--tasks", "2", settings=script)[0]["backbone"] is made
    assert read("--backbone", "resnet18", settings=script)[0]["backbone"] == "resnet18"
    assert read("--backbone", "mlp", settings=script)[0]["backbone"] == "mlp"


def test_help_shows_the_names_of_open_lists_and_where_a_scripts_function_is_defined(capsys):
    with pytest.raises(SystemExit):
        read("--help", settings={"epochs": 4, "backbone": tiny})
    text = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    assert "--backbone{mlp,cnn,resnet18}" in text
    assert f"(default:{__name__}.tiny)" in text
    assert re.search(r"--benchmark\{split-digits,permuted-digits,.*,split-cifar100,folder:PATH\}", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["stray"],
        ["--seeds", "many"],
        ["--device", "guess"],
        ["--image-channels", "2"],
    ],
)
def test_what_is_no_option_or_no_value_of_its_type_exits_2_and_is_named(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(*args)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert args[-1] in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [
        ("--bogus", ""),
        ("--distillation-factor", ""),
        ("--lr", "learning_rate or learning_rates"),
        ("--momentm", "momentum"),
        ("--no-momentm", ""),
        ("--gama", "gamma"),
    ],
)
def test_what_is_no_option_is_refused_with_the_nearest(flag, suggestion):
    with pytest.raises(ConfigError) as refused:
        read(flag, "1")
    (problem,) = refused.value.problems
    assert (problem.field, problem.rule) == (flag.lstrip("-").replace("-", "_"), "option-known")
    assert (f"(did you mean {suggestion}?)" in problem) == bool(suggestion)


@pytest.mark.parametrize(
    ("args", "rule"),
    [(["--schedule", "linear"], "literal-error"), (["--milestones", "half"], "float-parsing")],
)
def test_a_wrong_value_of_what_can_be_searched_is_refused_by_its_field(args, rule):
    study = Study(algorithm="ewc", **SETTINGS)
    assert (args[0].lstrip("-"), rule) in broken(study.plan_for, args)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_help_names_every_field_of_the_algorithm_and_none_of_another(algorithm, capsys):
    with pytest.raises(SystemExit) as stopped:
        read("--help", algorithm=algorithm, settings={"epochs": 4}, space={})
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"--([a-z][a-z-]*)", text))
    own = {name.replace("_", "-") for name in (*fields_of(algorithm), *Options.model_fields)}
    others = {name.replace("_", "-") for other in BUILT_IN for name in fields_of(other)} - own
    assert own <= shown
    assert not others & shown
    assert "Which?" in text


def test_help_shows_the_scripts_defaults(capsys):
    with pytest.raises(SystemExit):
        read("--help", settings=SETTINGS | {"seeds": 17})
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert re.search(r"--seeds INT Number of seeds [^(]*\(at least 1\) \(default: 17\)", text)
    assert re.search(r"--penalty-factor FLOAT \[FLOAT \.\.\.\] Weight .*?\(default: 0\.1 1000", text)


def test_a_setting_is_an_option_of_the_study_or_of_the_trial_and_never_of_both():
    assert not set(Options.model_fields) & set(TrialConfig.model_fields)


@pytest.mark.parametrize("model", [Options, TrialConfig])
def test_every_field_says_what_it_is(model):
    assert [n for n, f in model.model_fields.items() if not f.description and n != "algorithm"] == []


REFUSED = [
    ("trials", 0, "greater-than-equal"),
    ("trials", -3, "greater-than-equal"),
    ("seeds", 0, "greater-than-equal"),
    ("first_seed", -1, "greater-than-equal"),
    ("sampler_seed", -1, "greater-than-equal"),
    ("grid_points", 1, "greater-than-equal"),
    ("cpus_per_trial", 0, "greater-than-equal"),
    ("gpus_per_trial", -0.5, "greater-than-equal"),
    ("gpus_per_trial", float("nan"), "finite-number"),
    ("max_concurrent", 0, "greater-than-equal"),
    ("sampler", "guess", "sampler-known"),
    ("pruner", "guess", "pruner-known"),
    ("hours", 0, "hours-positive"),
    ("hours", "-90min", "hours-form"),
    ("hours", "soon", "hours-form"),
    ("patience", 0, "greater-than-equal"),
    ("protocol", "first", "enum"),
    ("first_k", 1, "greater-than-equal"),
    ("report_seeds", 0, "greater-than-equal"),
    ("first_report_seed", -1, "greater-than-equal"),
    ("objectives", (), "too-short"),
    ("objectives", ("average_accuracy", "average_accuracy"), "names-once"),
    ("learning_rates", (), "too-short"),
    ("learning_rates", (0.1, 0.0), "rates-positive"),
    ("learning_rates", (0.1, 0.1), "names-once"),
    ("device", "tpu", "literal-error"),
    ("name", "../evil", "study-name"),
    ("name", "a/b", "study-name"),
    ("name", "", "not-empty"),
    ("name", "..", "study-name"),
    ("name", ".hidden", "study-name"),
    ("name", "a b", "study-name"),
    ("name", "a\n", "no-control-characters"),
    ("mirror", "", "not-empty"),
    ("mirror", " ", "not-empty"),
    ("results", "", "not-empty"),
    ("tracking_uri", "", "not-empty"),
    ("ray_address", "", "not-empty"),
    ("results", "a\x1b[31m", "no-control-characters"),
    ("results", "a\udcff", "no-control-characters"),
    ("results", "s3://bucket/a", "path-local"),
    ("results", "a" * 300, "path-possible"),
    ("results", "/a" * 3000, "path-possible"),
    ("seeds", 2**63, "whole-number-64-bits"),
    ("sampler_seed", 2**100, "whole-number-64-bits"),
    ("cohort", 10_001, "less-than-equal"),
]


@pytest.mark.parametrize(("name", "value", "rule"), REFUSED)
def test_options_refuse_what_breaks_their_rules(name, value, rule):
    assert {*broken(Options.of, {name: value})} == {(name, rule)}


def test_options_refuse_an_unknown_name():
    assert broken(Options.of, {"trial": 3}) == [("trial", "extra-forbidden")]


def test_options_cannot_be_changed():
    with pytest.raises(ValidationError):
        Options().trials = 3


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("seeds", "at least 1"),
        ("momentum", "at least 0, below 1"),
        ("distillation_factor", "above 0"),
        ("image_size", "at least 4, at most 1024"),
        ("name", ""),
    ],
)
def test_a_range_is_told_in_words(name, allowed):
    field = (known_fields() | Options.model_fields)[name]
    assert describe_bounds(field) == allowed


def test_help_has_the_ranges(capsys):
    with pytest.raises(SystemExit):
        read("--help", settings={"epochs": 4})
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "Samples per training step. (at least 1) (default: 32)" in shown
