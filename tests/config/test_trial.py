"""What a configuration refuses, fills in and says about itself."""

import functools
import json
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from clsearch.common.errors import ConfigError
from clsearch.config.sections import BENCHMARKS, Scenario
from clsearch.methods.registry import BUILT_IN, configure, fields_of, preset_settings, presets
from tests.config.refusals import refusal
from tests.helpers import in_turn

BETWEEN = [
    # settings, rule and value
    ({"tasks": 6}, "tasks: each task needs 2 of the 10 classes of split-digits, so at most 5 tasks; got 6"),
    ({"hidden": (0,)}, "hidden: every width must be at least 1; got 0"),
    ({"hidden": (8, -2)}, "hidden: every width must be at least 1; got 8 -2"),
    ({"hidden": (8, 0), "backbone": "cnn"}, "hidden: every width must be at least 1; got 8 0"),
    ({"hidden": ()}, "hidden: must have at least one width with mlp; got none"),
    ({"hidden": (), "backbone": "cnn"}, "hidden: must have at least one width with cnn; got none"),
    ({"hidden": (8, 4), "backbone": "resnet18"}, "hidden: acts with mlp and cnn only; got 8 4 with resnet18"),
    (
        {"hidden": (8,), "backbone": json.loads},
        "hidden: acts with mlp and cnn only; got 8 with json.loads",
    ),
    ({"decay": 0.5}, "decay: acts with schedule = step only; got 0.5 with constant"),
    ({"decay": 0.5, "schedule": "cosine"}, "decay: acts with schedule = step only; got 0.5 with cosine"),
    ({"milestones": (0.4,)}, "milestones: acts with schedule = step only; got 0.4 with constant"),
    (
        {"milestones": (0.7, 0.4), "schedule": "step"},
        "milestones: must rise, above 0 and below 1; got 0.7 0.4",
    ),
    (
        {"milestones": (0.4, 0.4), "schedule": "step"},
        "milestones: must rise, above 0 and below 1; got 0.4 0.4",
    ),
    ({"milestones": (0.5, 1.0), "schedule": "step"}, "milestones: must rise, above 0 and below 1; got 0.5 1"),
    ({"milestones": (0.5, 1.5), "schedule": "step"}, "milestones: must rise, above 0 and below 1; got 0.5 1.5"),
    ({"milestones": (0, 0.5), "schedule": "step"}, "milestones: must rise, above 0 and below 1; got 0 0.5"),
    ({"milestones": (-0.5,), "schedule": "step"}, "milestones: must rise, above 0 and below 1; got -0.5"),
    ({"random_crop": 8}, "random_crop: must be less than the images' 8 pixels; got 8"),
    (
        {"random_crop": 28, "benchmark": "rotated-mnist"},
        "random_crop: must be less than the images' 28 pixels; got 28",
    ),
    (
        {"random_crop": 2, "benchmark": "permuted-digits"},
        "random_crop, horizontal_flip: act on images, and permuted pixels are none; got 2, False with permuted-digits",
    ),
    (
        {"horizontal_flip": True, "benchmark": "permuted-mnist"},
        "random_crop, horizontal_flip: act on images, and permuted pixels are none; got 0, True with permuted-mnist",
    ),
    ({"image_size": 32}, "image_size: acts with folder:PATH only; got 32 with split-digits"),
    (
        {"image_channels": 1, "benchmark": "split-cifar10"},
        "image_channels: acts with folder:PATH only; got 1 with split-cifar10",
    ),
    (
        {"classes_per_task": (5, 6)},
        "classes_per_task: each task needs at least 2 classes, and all together at most the 10 of split-digits; "
        "got 5 6",
    ),
    (
        {"classes_per_task": (4, 1, 2)},
        "classes_per_task: each task needs at least 2 classes, and all together at most the 10 of split-digits; "
        "got 4 1 2",
    ),
    (
        {"classes_per_task": (4, -1, 2)},
        "classes_per_task: each task needs at least 2 classes, and all together at most the 10 of split-digits; "
        "got 4 -1 2",
    ),
    (
        {"classes_per_task": (4, 4), "tasks": 3},
        "classes_per_task: must have as many entries as there are tasks, at least two; got 4 4 for 3 tasks",
    ),
    (
        {"classes_per_task": (10,)},
        "classes_per_task: must have as many entries as there are tasks, at least two; got 10 for 2 tasks",
    ),
    (
        {"classes_per_task": ()},
        "classes_per_task: must have as many entries as there are tasks, at least two; got  for 2 tasks",
    ),
    (
        {"classes_per_task": (2, 3), "scenario": "domain"},
        "classes_per_task: domain-incremental tasks must have equal class counts; got 2 3",
    ),
    (
        {"tasks": 3, "scenario": "domain"},
        "tasks: must divide 10, because domain-incremental tasks must have equal class counts; got 3",
    ),
    (
        {"benchmark": "permuted-digits", "classes_per_task": (5, 5)},
        "classes_per_task: acts in split benchmarks only, where tasks differ in classes; got (5, 5) with "
        "permuted-digits",
    ),
    (
        {"benchmark": "permuted-mnist", "class_order": "shuffled"},
        "class_order: acts in split benchmarks only, where tasks differ in classes; got shuffled with permuted-mnist",
    ),
    (
        {"benchmark": "rotated-mnist", "classes_per_task": (5, 5)},
        "classes_per_task: acts in split benchmarks only, where tasks differ in classes; got (5, 5) with rotated-mnist",
    ),
    (
        {"benchmark": "split-cifar100", "tasks": 51},
        "tasks: each task needs 2 of the 100 classes of split-cifar100, so at most 50 tasks; got 51",
    ),
    (
        {"benchmark": "split-emnist-letters", "tasks": 5, "scenario": "domain"},
        "tasks: must divide 26, because domain-incremental tasks must have equal class counts; got 5",
    ),
]


# The rules do not know the algorithm, so each is asked with one.
@pytest.mark.parametrize(
    ("algorithm", "settings", "problem"), [(algorithm, *rule) for algorithm, rule in in_turn(BUILT_IN, BETWEEN)]
)
def test_a_rule_between_fields_is_told_with_field_rule_and_value(algorithm, settings, problem):
    assert refusal(algorithm, {"epochs": 1} | settings).problems == [problem]


@pytest.mark.parametrize("algorithm", ["ewc", "lwf_ewc"])
@pytest.mark.parametrize("gamma", [0, 0.5])
def test_gamma_is_refused_where_nothing_decays(algorithm, gamma):
    problem = f"gamma: acts with anchors = online only; got {gamma:g} with separate"
    assert refusal(algorithm, {"epochs": 1, "gamma": gamma}).problems == [problem]
    config = configure(algorithm, {"epochs": 1, "gamma": gamma, "anchors": "online"})
    assert config.gamma == gamma
    assert configure(algorithm, {"epochs": 1, "gamma": 1}).gamma == 1


@pytest.mark.parametrize("algorithm", ["lwf", "lwf_ewc"])
def test_squared_errors_take_no_squared_temperature(algorithm):
    settings = {"epochs": 1, "distance": "mse", "temperature_scaling": "squared"}
    problem = "temperature_scaling: must be none if distance is mse, which has no temperature; got squared"
    assert refusal(algorithm, settings).problems == [problem]
    for distance in ("cross_entropy", "kl"):
        configure(algorithm, settings | {"distance": distance})


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits"])
def test_independent_networks_are_refused_where_nobody_tells_the_task(benchmark):
    settings = {"epochs": 1, "benchmark": benchmark, "tasks": 2}
    (problem,) = refusal("independent", settings | {"scenario": "class"}).problems
    assert problem.startswith("scenario: must be task or domain for independent networks")
    assert problem.endswith("got class")
    for scenario in ("task", "domain"):
        configure("independent", settings | {"scenario": scenario})
    configure("joint", settings | {"scenario": "class"})


def test_every_broken_rule_between_fields_is_told_at_once():
    error = refusal(
        "lwf_ewc",
        {
            "optimizer": "adam",
            "momentum": 0.5,
            "hidden": (0,),
            "classes_per_task": (2, 3),
            "scenario": "domain",
            "distance": "mse",
            "temperature_scaling": "squared",
            "gamma": 0.5,
            "penalty_factor": 1e39,
        },
    )
    assert [problem.split(":")[0] for problem in error.problems] == [
        "epochs, iterations",
        "momentum",
        "penalty_factor",
        "hidden",
        "classes_per_task",
        "temperature_scaling",
        "gamma",
    ]
    assert str(error) == "\n".join(error.problems)


def test_both_settings_that_act_in_split_benchmarks_only_are_told():
    settings = {"epochs": 1, "benchmark": "permuted-digits", "classes_per_task": (5, 5), "class_order": "shuffled"}
    fields = [problem.split(":")[0] for problem in refusal("finetuning", settings).problems]
    assert fields == ["classes_per_task", "class_order"]


@pytest.mark.parametrize(
    ("counts", "scenario"),
    [((2, 3, 5), "task"), ((2, 2), "class"), ((2, 2), "domain"), ((5, 5), "domain"), ([3, 3, 3], "domain")],
)
def test_the_number_of_tasks_follows_the_classes_per_task(counts, scenario):
    config = configure("lwf", {"epochs": 1, "classes_per_task": counts, "scenario": scenario})
    assert config.tasks == len(counts)
    assert config.classes_per_task == tuple(counts)
    assert configure("lwf", json.loads(json.dumps(config.flat()))) == config


@pytest.mark.parametrize("algorithm", BUILT_IN)
@pytest.mark.parametrize("preset", presets())
def test_a_preset_is_settings_that_its_algorithms_take(preset, algorithm):
    settings = preset_settings(algorithm, preset)
    assert settings.keys() <= {*fields_of(algorithm)}
    for scenario in ("task", "domain", *(["class"] if algorithm != "independent" else [])):
        config = configure(algorithm, {"epochs": 1, "scenario": scenario} | settings)
        assert all(getattr(config, name) == value for name, value in settings.items())


def test_every_setting_of_a_preset_acts_in_some_algorithm_and_none_is_unknown():
    known = {name for algorithm in BUILT_IN for name in fields_of(algorithm)}
    for preset in presets():
        settings = [preset_settings(algorithm, preset) for algorithm in BUILT_IN]
        assert any(settings)
        assert {name for own in settings for name in own} <= known
    assert preset_settings("lwf", None) == preset_settings("lwf", "unheard of") == preset_settings("gem", None) == {}


def test_the_first_clarena_is_as_the_methods_say():
    lwf = configure("lwf", {"epochs": 1, "scenario": "class"} | preset_settings("lwf", "clarena-first"))
    assert (lwf.teachers, lwf.train_head) == ("per_task", False)
    ewc = configure("ewc", {"epochs": 1} | preset_settings("ewc", "clarena-first"))
    assert (ewc.fisher, ewc.fisher_scale, ewc.average_over_tasks) == ("batch", "per_parameter", True)
    assert (ewc.anchors, ewc.gamma, ewc.fisher_samples) == ("separate", 1.0, None)


def test_defaults_are_as_published():
    config = configure("lwf_ewc", {"epochs": 1})
    assert (config.distance, config.temperature_scaling, config.class_order) == ("cross_entropy", "none", "fixed")
    assert (config.fisher, config.fisher_scale, config.fisher_samples) == ("empirical", "none", None)
    assert (config.anchors, config.gamma, config.average_over_tasks) == ("separate", 1.0, False)
    assert (config.classes_per_task, config.optimizer_state) == (None, "reset")


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


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_an_unknown_key_lists_the_known_ones(algorithm):
    text = str(refusal(algorithm, {"epochs": 1, "learning_rte": 0.1}))
    assert text.startswith("learning_rte: ")
    assert all(name in text for name in fields_of(algorithm))


def test_an_unknown_algorithm_lists_the_known_ones():
    text = str(refusal("gem", {"epochs": 1}))
    assert "'gem'" in text
    assert all(name in text for name in BUILT_IN)


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
    assert configure("lwf", {"epochs": 1, "tasks": 3, "scenario": scenario}).tasks == 3


def test_permuted_benchmarks_may_have_more_tasks_than_classes():
    assert configure("ewc", {"epochs": 1, "benchmark": "permuted-digits", "tasks": 30}).tasks == 30


@pytest.mark.parametrize(
    ("settings", "scenario", "tasks", "teachers", "train_head"),
    [
        ({}, "task", 5, "per_task", False),
        ({"benchmark": "split-mnist"}, "task", 5, "per_task", False),
        ({"benchmark": "permuted-digits"}, "domain", 10, "per_task", True),
        ({"benchmark": "rotated-kmnist"}, "domain", 10, "per_task", True),
        ({"benchmark": "split-emnist-letters"}, "task", 13, "per_task", False),
        ({"benchmark": "split-cifar100", "scenario": "class"}, "class", 10, "last", True),
        ({"benchmark": "split-svhn", "classes_per_task": (4, 3, 3)}, "task", 3, "per_task", False),
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
    config = configure("lwf", {"epochs": 1} | settings)
    assert (config.scenario, config.tasks) == (scenario, tasks)
    assert (config.teachers, config.train_head) == (teachers, train_head)


def test_none_means_unless_given():
    nones = dict.fromkeys(fields_of("lwf")) | {"epochs": 1}
    assert configure("lwf", nones) == configure("lwf", {"epochs": 1})


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("finetuning", {"epochs": 1, "hidden": (8, 4), "data_root": "/data"}),
        ("lwf", {"iterations": 7, "scenario": "class", "distillation_temperature": 3}),
        ("joint", {"epochs": 1, "backbone": "cnn", "random_crop": 2, "horizontal_flip": True}),
        ("ewc", {"epochs": 1, "backbone": "resnet18", "benchmark": "split-cifar100", "schedule": "cosine"}),
        ("lwf", {"epochs": 1, "schedule": "step", "milestones": [0.1, 0.2], "decay": 0.5, "warmup": 0.05}),
        (
            "ewc",
            {"epochs": 2, "benchmark": "permuted-mnist", "penalty_p_norm": 1.5, "average_over_tasks": True},
        ),
    ],
)
def test_flat_survives_json_and_rebuilds_the_configuration(algorithm, settings):
    config = configure(algorithm, settings)
    again = configure(algorithm, json.loads(json.dumps(config.flat(), allow_nan=False)))
    assert again == config
    assert again.flat() == config.flat()


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_flat_has_exactly_the_settings_that_act(algorithm):
    assert set(configure(algorithm, {"epochs": 1}).flat()) == set(fields_of(algorithm))


def test_a_configuration_is_frozen():
    config = configure("finetuning", {"epochs": 1})
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 2
    assert config.epochs == 1


@pytest.mark.slow
def test_importing_the_configuration_does_not_import_torch():
    code = "import sys; import clsearch.config.trial; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pickled_error_is_the_same_error():
    error = pickle.loads(pickle.dumps(ConfigError(["a: must be b; got c", "d: e"])))
    assert str(error) == "a: must be b; got c\nd: e"
    assert error.problems == ["a: must be b; got c", "d: e"]


@pytest.mark.parametrize("value", [1e39, 1e-50])
def test_a_number_outside_single_precision_is_refused(value):
    with pytest.raises(ConfigError, match="learning_rate: must lie in single precision"):
        configure("finetuning", {"epochs": 1, "learning_rate": value})


def test_momentum_is_refused_where_it_would_do_nothing():
    with pytest.raises(ConfigError, match=r"momentum: acts with sgd only; got 0\.9 with adam"):
        configure("finetuning", {"epochs": 1, "optimizer": "adam", "momentum": 0.9})


@pytest.mark.parametrize("name", ["algorithm", "benchmark"])
def test_a_list_for_a_name_is_refused_like_any_other_value(name):
    settings = {"epochs": 1} | ({"benchmark": ["x"]} if name == "benchmark" else {})
    with pytest.raises(ConfigError, match=f"{name}: must be"):
        configure(["x"] if name == "algorithm" else "lwf", settings)


def test_the_data_root_is_made_absolute_because_workers_run_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = configure("lwf", {"epochs": 1, "data_root": "data"})
    assert config.flat()["data_root"] == str(tmp_path / "data")


# --- backbones ---


@pytest.mark.parametrize(
    ("backbone", "hidden"), [(None, (256, 256)), ("mlp", (256, 256)), ("cnn", (128,)), ("resnet18", ()), (print, ())]
)
def test_the_widths_follow_the_backbone(backbone, hidden):
    config = configure("ewc", {"epochs": 1, "backbone": backbone})
    assert config.hidden == hidden
    assert config.backbone == (backbone or "mlp")


class Made:
    """A factory that is an instance, and one that is a method."""

    def __call__(self, shape):
        return None

    def by_method(self, shape):
        return None


def by_function(shape, width=3):
    return None


FACTORIES = [
    (by_function, "tests.config.test_trial.by_function"),
    (Made, "tests.config.test_trial.Made"),
    (Made(), "tests.config.test_trial.Made"),
    (Made().by_method, "tests.config.test_trial.Made.by_method"),
    (functools.partial(by_function, width=5), "tests.config.test_trial.by_function(width=5)"),
    (
        functools.partial(functools.partial(by_function, width=5), width=7),
        "tests.config.test_trial.by_function(width=7)",
    ),
    (functools.partial(Made().by_method), "tests.config.test_trial.Made.by_method()"),
    (lambda shape: None, "tests.config.test_trial.<lambda>"),
    (json.loads, "json.loads"),
    (len, "builtins.len"),
]


@pytest.mark.parametrize(
    ("algorithm", "factory", "name"), [(algorithm, *factory) for algorithm, factory in in_turn(BUILT_IN, FACTORIES)]
)
def test_a_factory_is_a_backbone_and_is_written_as_where_it_is_defined(algorithm, factory, name):
    config = configure(algorithm, {"epochs": 1, "backbone": factory})
    assert config.backbone is factory
    assert config.hidden == ()
    flat = json.loads(json.dumps(config.flat(), allow_nan=False))
    assert flat["backbone"] == name
    assert flat["hidden"] == []


@pytest.mark.parametrize("value", ["resnet50", "json.loads", "", 3, 2.5, ["mlp"], ("cnn", "mlp"), {"a": 1}])
def test_what_is_neither_a_backbones_name_nor_callable_is_refused(value):
    assert refusal("lwf", {"epochs": 1, "backbone": value}).problems == [
        f"backbone: must be one of mlp, cnn, resnet18, or in Python a function that makes a new module; got {value!r}"
    ]
