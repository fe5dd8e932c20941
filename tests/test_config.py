"""What a configuration refuses, fills in and says about itself."""

import json
import math
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from clsearch.core.config import BENCHMARKS, PARTS, ConfigError, Scenario, TrialConfig, fields_of

INF, NAN = math.inf, math.nan

REFUSED = [
    # algorithm, field, value, rule, value as the text shows it
    ("lwf", "distillation_factor", 0, "greater than 0", "0"),
    ("lwf", "distillation_factor", -1.5, "greater than 0", "-1.5"),
    ("lwf", "distillation_factor", NAN, "finite", "nan"),
    ("lwf", "distillation_factor", INF, "finite", "inf"),
    ("lwf", "distillation_temperature", 0, "greater than 0", "0"),
    ("lwf", "distillation_temperature", -2, "greater than 0", "-2"),
    ("lwf", "distillation_temperature", NAN, "finite", "nan"),
    ("lwf", "distillation_temperature", INF, "finite", "inf"),
    ("lwf", "teachers", "first", "'per_task' or 'last'", "'first'"),
    ("lwf", "train_head", "maybe", "boolean", "'maybe'"),
    ("lwf", "temperature_scaling", "cubed", "'none' or 'squared'", "'cubed'"),
    ("ewc", "penalty_factor", 0, "greater than 0", "0"),
    ("ewc", "penalty_factor", -3, "greater than 0", "-3"),
    ("ewc", "penalty_factor", NAN, "finite", "nan"),
    ("ewc", "penalty_factor", -INF, "finite", "-inf"),
    ("ewc", "penalty_p_norm", 0.99, "greater than or equal to 1", "0.99"),
    ("ewc", "penalty_p_norm", 0, "greater than or equal to 1", "0"),
    ("ewc", "penalty_p_norm", -2, "greater than or equal to 1", "-2"),
    ("ewc", "penalty_p_norm", NAN, "finite", "nan"),
    ("ewc", "penalty_p_norm", INF, "finite", "inf"),
    ("ewc", "average_over_tasks", "perhaps", "boolean", "'perhaps'"),
    ("finetuning", "learning_rate", 0, "greater than 0", "0"),
    ("finetuning", "learning_rate", -0.1, "greater than 0", "-0.1"),
    ("finetuning", "learning_rate", NAN, "finite", "nan"),
    ("finetuning", "learning_rate", INF, "finite", "inf"),
    ("finetuning", "learning_rate", "fast", "number", "'fast'"),
    ("finetuning", "momentum", 1, "less than 1", "1"),
    ("finetuning", "momentum", -0.5, "greater than or equal to 0", "-0.5"),
    ("finetuning", "momentum", NAN, "finite", "nan"),
    ("finetuning", "weight_decay", -0.1, "greater than or equal to 0", "-0.1"),
    ("finetuning", "weight_decay", INF, "finite", "inf"),
    ("finetuning", "batch_size", 0, "greater than or equal to 1", "0"),
    ("finetuning", "batch_size", 2.5, "integer", "2.5"),
    ("finetuning", "batch_size", NAN, "finite", "nan"),
    ("finetuning", "epochs", 0, "greater than or equal to 1", "0"),
    ("finetuning", "epochs", -1, "greater than or equal to 1", "-1"),
    ("finetuning", "epochs", 1.5, "integer", "1.5"),
    ("finetuning", "optimizer", "lion", "'sgd', 'adam' or 'adamw'", "'lion'"),
    ("finetuning", "optimizer_state", "lose", "'reset' or 'keep'", "'lose'"),
    ("finetuning", "tasks", 1, "greater than or equal to 2", "1"),
    ("finetuning", "tasks", 6, "at most 5 tasks", "6"),
    ("finetuning", "hidden", (0,), "every width must be at least 1", "0"),
    ("finetuning", "hidden", (8, -2), "every width must be at least 1", "8 -2"),
    ("finetuning", "hidden", (), "at least 1 item", "()"),
    ("finetuning", "scenario", "instance", "'task', 'domain' or 'class'", "'instance'"),
    ("finetuning", "benchmark", "split-imagenet", "must be", "'split-imagenet'"),
]


def refusal(algorithm: str, settings: dict) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        TrialConfig.of(algorithm, settings)
    return caught.value


@pytest.mark.parametrize(("algorithm", "field", "value", "rule", "shown"), REFUSED)
def test_a_bad_value_is_refused_with_field_rule_and_value(algorithm, field, value, rule, shown):
    (problem,) = refusal(algorithm, {"epochs": 1, field: value}).problems
    assert problem.startswith(f"{field}: ")
    assert rule in problem
    assert problem.endswith(f"got {shown}")


@pytest.mark.parametrize("value", [0, -5, 0.5])
def test_iterations_are_refused_like_epochs(value):
    assert f"got {value}" in str(refusal("finetuning", {"iterations": value}))


def test_every_problem_is_told_at_once():
    error = refusal("finetuning", {"epochs": 1, "learning_rate": -1, "momentum": 3})
    assert [problem.split(":")[0] for problem in error.problems] == ["learning_rate", "momentum"]
    assert str(error) == "\n".join(error.problems)


def test_an_unknown_benchmark_lists_the_known_ones():
    text = str(refusal("finetuning", {"epochs": 1, "benchmark": "split-imagenet"}))
    assert all(name in text for name in BENCHMARKS)


@pytest.mark.parametrize("algorithm", PARTS)
def test_an_unknown_key_lists_the_known_ones(algorithm):
    text = str(refusal(algorithm, {"epochs": 1, "learning_rte": 0.1}))
    assert text.startswith("learning_rte: ")
    assert all(name in text for name in fields_of(algorithm))


def test_an_unknown_algorithm_lists_the_known_ones():
    text = str(refusal("gem", {"epochs": 1}))
    assert "'gem'" in text
    assert all(name in text for name in PARTS)


@pytest.mark.parametrize(
    ("algorithm", "field", "value"),
    [
        ("finetuning", "penalty_factor", 1.0),
        ("finetuning", "distillation_factor", 1.0),
        ("lwf", "penalty_p_norm", 2.0),
        ("ewc", "distillation_temperature", 2.0),
        ("ewc", "train_head", True),
    ],
)
def test_a_setting_of_another_algorithm_is_refused(algorithm, field, value):
    assert str(refusal(algorithm, {"epochs": 1, field: value})).startswith(
        f"{field}: not a setting of {algorithm}; known are "
    )


@pytest.mark.parametrize(("settings", "shown"), [({}, "None, None"), ({"epochs": 3, "iterations": 4}, "3, 4")])
def test_exactly_one_of_epochs_and_iterations_is_needed(settings, shown):
    text = str(refusal("finetuning", settings))
    assert text.startswith("epochs, iterations: exactly one")
    assert text.endswith(f"got {shown}")


@pytest.mark.parametrize("tasks", [3, 4])
def test_domain_incremental_tasks_with_unequal_class_counts_are_refused(tasks):
    text = str(refusal("finetuning", {"epochs": 1, "tasks": tasks, "scenario": "domain"}))
    assert "equal class counts" in text
    assert text.endswith(f"got {tasks}")


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_unequal_class_counts_are_taken_where_labels_are_global(scenario):
    assert TrialConfig.of("lwf", {"epochs": 1, "tasks": 3, "scenario": scenario}).tasks == 3


def test_permuted_benchmarks_may_have_more_tasks_than_classes():
    assert TrialConfig.of("ewc", {"epochs": 1, "benchmark": "permuted-digits", "tasks": 30}).tasks == 30


@pytest.mark.parametrize(
    ("settings", "scenario", "tasks", "teachers", "train_head"),
    [
        ({}, "task", 5, "per_task", False),
        ({"benchmark": "split-mnist"}, "task", 5, "per_task", False),
        ({"benchmark": "permuted-digits"}, "domain", 10, "per_task", True),
        ({"scenario": "domain"}, "domain", 5, "per_task", True),
        ({"scenario": "class"}, "class", 5, "last", True),
        ({"scenario": Scenario.CLASS}, "class", 5, "last", True),
        ({"benchmark": "permuted-mnist", "scenario": "task"}, "task", 10, "per_task", False),
        (
            {"scenario": "class", "teachers": "per_task", "train_head": False, "tasks": 2},
            "class",
            2,
            "per_task",
            False,
        ),
        ({"teachers": "last", "train_head": True}, "task", 5, "last", True),
    ],
)
def test_defaults_follow_benchmark_and_scenario(settings, scenario, tasks, teachers, train_head):
    config = TrialConfig.of("lwf", {"epochs": 1} | settings)
    assert (config.scenario, config.tasks) == (scenario, tasks)
    assert (config.teachers, config.train_head) == (teachers, train_head)


def test_none_means_unless_given():
    nones = dict.fromkeys(fields_of("lwf")) | {"epochs": 1}
    assert TrialConfig.of("lwf", nones) == TrialConfig.of("lwf", {"epochs": 1})


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("finetuning", {"epochs": 1, "hidden": (8, 4), "data_root": "/data"}),
        ("lwf", {"iterations": 7, "scenario": "class", "distillation_temperature": 3}),
        (
            "ewc",
            {"epochs": 2, "benchmark": "permuted-mnist", "penalty_p_norm": 1.5, "average_over_tasks": True},
        ),
    ],
)
def test_flat_survives_json_and_rebuilds_the_configuration(algorithm, settings):
    config = TrialConfig.of(algorithm, settings)
    again = TrialConfig.of(algorithm, json.loads(json.dumps(config.flat(), allow_nan=False)))
    assert again == config
    assert again.flat() == config.flat()


@pytest.mark.parametrize("algorithm", PARTS)
def test_flat_has_exactly_the_settings_that_act(algorithm):
    assert set(TrialConfig.of(algorithm, {"epochs": 1}).flat()) == set(fields_of(algorithm))


def test_a_configuration_is_frozen():
    config = TrialConfig.of("finetuning", {"epochs": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 2
    assert config.epochs == 1


def test_importing_the_configuration_does_not_import_torch():
    code = "import sys; import clsearch.core.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pickled_error_is_the_same_error():
    error = pickle.loads(pickle.dumps(ConfigError(["a: must be b; got c", "d: e"])))
    assert str(error) == "a: must be b; got c\nd: e"
    assert error.problems == ["a: must be b; got c", "d: e"]


@pytest.mark.parametrize("value", [1e39, 1e-50])
def test_a_number_outside_single_precision_is_refused(value):
    with pytest.raises(ConfigError, match="learning_rate: must lie in single precision"):
        TrialConfig.of("finetuning", {"epochs": 1, "learning_rate": value})


def test_momentum_is_refused_where_it_would_do_nothing():
    with pytest.raises(ConfigError, match=r"momentum: acts with sgd only; got 0\.9 with adam"):
        TrialConfig.of("finetuning", {"epochs": 1, "optimizer": "adam", "momentum": 0.9})


@pytest.mark.parametrize("name", ["algorithm", "benchmark"])
def test_a_list_for_a_name_is_refused_like_any_other_value(name):
    settings = {"epochs": 1} | ({"benchmark": ["x"]} if name == "benchmark" else {})
    with pytest.raises(ConfigError, match=f"{name}: must be"):
        TrialConfig.of(["x"] if name == "algorithm" else "lwf", settings)


def test_the_data_root_is_made_absolute_because_workers_run_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = TrialConfig.of("lwf", {"epochs": 1, "data_root": "data"})
    assert config.flat()["data_root"] == str(tmp_path / "data")
