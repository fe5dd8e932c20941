"""What a configuration refuses, fills in and says about itself."""

import functools
import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from clsearch.common.errors import ConfigError
from clsearch.config.sections import BENCHMARKS, Scenario
from clsearch.methods.registry import BUILT_IN, configure, fields_of, preset_settings, presets
from tests.helpers import in_turn
from tests.refusals import broken, refusals

BETWEEN = [
    # settings, field and rule
    ({"tasks": 6}, "tasks", "two-classes-per-task"),
    ({"hidden": (0,)}, "hidden", "hidden-positive"),
    ({"hidden": (8, -2)}, "hidden", "hidden-positive"),
    ({"hidden": (8, 0), "backbone": "cnn"}, "hidden", "hidden-positive"),
    ({"hidden": ()}, "hidden", "hidden-needed"),
    ({"hidden": (), "backbone": "cnn"}, "hidden", "hidden-needed"),
    ({"hidden": (8, 4), "backbone": "resnet18"}, "hidden", "hidden-acts"),
    ({"hidden": (8,), "backbone": json.loads}, "hidden", "hidden-acts"),
    ({"decay": 0.5}, "decay", "step-schedule-only"),
    ({"decay": 0.5, "schedule": "cosine"}, "decay", "step-schedule-only"),
    ({"milestones": (0.4,)}, "milestones", "step-schedule-only"),
    ({"milestones": (0.7, 0.4), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"milestones": (0.4, 0.4), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"milestones": (0.5, 1.0), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"milestones": (0.5, 1.5), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"milestones": (0, 0.5), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"milestones": (-0.5,), "schedule": "step"}, "milestones", "milestones-increase"),
    ({"random_crop": 8}, "random_crop", "crop-within-image"),
    ({"random_crop": 28, "benchmark": "rotated-mnist"}, "random_crop", "crop-within-image"),
    ({"random_crop": 2, "benchmark": "permuted-digits"}, "random_crop, horizontal_flip", "augmentation-needs-images"),
    (
        {"horizontal_flip": True, "benchmark": "permuted-mnist"},
        "random_crop, horizontal_flip",
        "augmentation-needs-images",
    ),
    ({"image_size": 32}, "image_size", "folder-only"),
    ({"image_channels": 1, "benchmark": "split-cifar10"}, "image_channels", "folder-only"),
    ({"classes_per_task": (5, 6)}, "classes_per_task", "counts-within-classes"),
    ({"classes_per_task": (4, 1, 2)}, "classes_per_task", "counts-within-classes"),
    ({"classes_per_task": (4, -1, 2)}, "classes_per_task", "counts-within-classes"),
    ({"classes_per_task": (4, 4), "tasks": 3}, "classes_per_task", "counts-match-tasks"),
    ({"classes_per_task": (10,)}, "classes_per_task", "counts-match-tasks"),
    ({"classes_per_task": ()}, "classes_per_task", "counts-match-tasks"),
    ({"classes_per_task": (2, 3), "scenario": "domain"}, "classes_per_task", "domain-equal-counts"),
    ({"tasks": 3, "scenario": "domain"}, "tasks", "tasks-divide-classes"),
    ({"benchmark": "permuted-digits", "classes_per_task": (5, 5)}, "classes_per_task", "split-only"),
    ({"benchmark": "permuted-mnist", "class_order": "shuffled"}, "class_order", "split-only"),
    ({"benchmark": "rotated-mnist", "classes_per_task": (5, 5)}, "classes_per_task", "split-only"),
    ({"benchmark": "split-cifar100", "tasks": 51}, "tasks", "two-classes-per-task"),
    ({"benchmark": "split-emnist-letters", "tasks": 5, "scenario": "domain"}, "tasks", "tasks-divide-classes"),
]


# The rules do not know the algorithm, so each is asked with one.
@pytest.mark.parametrize(
    ("algorithm", "settings", "field", "rule"), [(algorithm, *row) for algorithm, row in in_turn(BUILT_IN, BETWEEN)]
)
def test_a_rule_between_fields_is_told(algorithm, settings, field, rule):
    assert broken(configure, algorithm, {"epochs": 1} | settings) == [(field, rule)]


@pytest.mark.parametrize("algorithm", ["ewc", "lwf_ewc"])
@pytest.mark.parametrize("gamma", [0, 0.5])
def test_gamma_is_refused_where_nothing_decays(algorithm, gamma):
    assert broken(configure, algorithm, {"epochs": 1, "gamma": gamma}) == [("gamma", "online-only")]
    config = configure(algorithm, {"epochs": 1, "gamma": gamma, "anchors": "online"})
    assert config.gamma == gamma
    assert configure(algorithm, {"epochs": 1, "gamma": 1}).gamma == 1


@pytest.mark.parametrize("algorithm", ["lwf", "lwf_ewc"])
def test_squared_errors_take_no_squared_temperature(algorithm):
    settings = {"epochs": 1, "distance": "mse", "temperature_scaling": "squared"}
    assert broken(configure, algorithm, settings) == [("temperature_scaling", "mse-has-no-temperature")]
    for distance in ("cross_entropy", "kl"):
        configure(algorithm, settings | {"distance": distance})


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits"])
def test_independent_networks_are_refused_where_nobody_tells_the_task(benchmark):
    settings = {"epochs": 1, "benchmark": benchmark, "tasks": 2}
    problems = broken(configure, "independent", settings | {"scenario": "class"})
    assert problems == [("scenario", "independent-needs-task-identity")]
    for scenario in ("task", "domain"):
        configure("independent", settings | {"scenario": scenario})
    configure("joint", settings | {"scenario": "class"})


def test_every_broken_rule_between_fields_is_told_at_once():
    problems = broken(
        configure,
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
    assert problems == [
        ("epochs, iterations", "epochs-or-iterations"),
        ("momentum", "sgd-only"),
        ("penalty_factor", "single-precision"),
        ("hidden", "hidden-positive"),
        ("classes_per_task", "domain-equal-counts"),
        ("temperature_scaling", "mse-has-no-temperature"),
        ("gamma", "online-only"),
    ]


def test_both_settings_that_act_in_split_benchmarks_only_are_told():
    settings = {"epochs": 1, "benchmark": "permuted-digits", "classes_per_task": (5, 5), "class_order": "shuffled"}
    problems = broken(configure, "finetuning", settings)
    assert problems == [("classes_per_task", "split-only"), ("class_order", "split-only")]


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


@pytest.mark.parametrize(
    ("value", "rule"), [(0, "greater-than-equal"), (-5, "greater-than-equal"), (0.5, "int-from-float")]
)
def test_iterations_are_refused_like_epochs(value, rule):
    assert broken(configure, "finetuning", {"iterations": value}) == [("iterations", rule)]


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        configure("finetuning", {"epochs": 1, "learning_rate": -1, "momentum": 3})
    assert [problem.field for problem in caught.value.problems] == ["learning_rate", "momentum"]
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_an_unknown_benchmark_lists_the_known_ones():
    (problem,) = refusals(configure, "finetuning", {"epochs": 1, "benchmark": "split-imagenet"})
    assert all(name in problem for name in BENCHMARKS)


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_an_unknown_key_lists_the_known_ones(algorithm):
    (problem,) = refusals(configure, algorithm, {"epochs": 1, "learning_rte": 0.1})
    assert (problem.field, problem.rule) == ("learning_rte", "setting-of-algorithm")
    assert all(name in problem for name in fields_of(algorithm))


def test_an_unknown_algorithm_lists_the_known_ones():
    (problem,) = refusals(configure, "gem", {"epochs": 1})
    assert problem.rule == "algorithm-known"
    assert all(name in problem for name in BUILT_IN)


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
    assert broken(configure, algorithm, {"epochs": 1, field: value}) == [(field, "setting-of-algorithm")]


@pytest.mark.parametrize("settings", [{}, {"epochs": 3, "iterations": 4}])
def test_exactly_one_of_epochs_and_iterations_is_needed(settings):
    assert broken(configure, "finetuning", settings) == [("epochs, iterations", "epochs-or-iterations")]


@pytest.mark.parametrize("tasks", [3, 4])
def test_domain_incremental_tasks_with_unequal_class_counts_are_refused(tasks):
    problems = broken(configure, "finetuning", {"epochs": 1, "tasks": tasks, "scenario": "domain"})
    assert problems == [("tasks", "tasks-divide-classes")]


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


@pytest.mark.parametrize("value", [1e39, 1e-50])
def test_a_number_outside_single_precision_is_refused(value):
    problems = broken(configure, "finetuning", {"epochs": 1, "learning_rate": value})
    assert problems == [("learning_rate", "single-precision")]


def test_momentum_is_refused_where_it_would_do_nothing():
    problems = broken(configure, "finetuning", {"epochs": 1, "optimizer": "adam", "momentum": 0.9})
    assert problems == [("momentum", "sgd-only")]


def test_a_list_for_a_name_is_refused_like_any_other_value():
    assert broken(configure, ["x"], {"epochs": 1}) == [("algorithm", "algorithm-known")]
    assert broken(configure, "lwf", {"epochs": 1, "benchmark": ["x"]}) == [("benchmark", "string-type")]


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


@pytest.mark.parametrize("value", ["resnet50", "json.loads", 3, 2.5, ["mlp"], ("cnn", "mlp"), {"a": 1}])
def test_what_is_neither_a_backbones_name_nor_callable_is_refused(value):
    assert broken(configure, "lwf", {"epochs": 1, "backbone": value}) == [("backbone", "backbone-known")]
