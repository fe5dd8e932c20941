"""Each field's own rule, and the table of benchmarks."""

import math
import subprocess
import sys

import pytest

from clsearch.config.sections import BENCHMARKS, TaskConstruction, to_local_path
from clsearch.data.datasets import SOURCES
from clsearch.methods.registry import BUILT_IN, configure
from tests.refusals import broken, refusals

INF, NAN = math.inf, math.nan

REFUSED = [
    # algorithm, field, value, rule
    ("lwf", "distillation_factor", 0, "greater-than"),
    ("lwf", "distillation_factor", -1.5, "greater-than"),
    ("lwf", "distillation_factor", NAN, "finite-number"),
    ("lwf", "distillation_factor", INF, "finite-number"),
    ("lwf", "distillation_temperature", 0, "greater-than"),
    ("lwf", "distillation_temperature", -2, "greater-than"),
    ("lwf", "distillation_temperature", NAN, "finite-number"),
    ("lwf", "distillation_temperature", INF, "finite-number"),
    ("lwf", "teachers", "first", "literal-error"),
    ("lwf", "train_head", "maybe", "bool-parsing"),
    ("lwf", "temperature_scaling", "cubed", "literal-error"),
    ("ewc", "penalty_factor", 0, "greater-than"),
    ("ewc", "penalty_factor", -3, "greater-than"),
    ("ewc", "penalty_factor", NAN, "finite-number"),
    ("ewc", "penalty_factor", -INF, "finite-number"),
    ("ewc", "penalty_p_norm", 0.99, "greater-than-equal"),
    ("ewc", "penalty_p_norm", 0, "greater-than-equal"),
    ("ewc", "penalty_p_norm", -2, "greater-than-equal"),
    ("ewc", "penalty_p_norm", NAN, "finite-number"),
    ("ewc", "penalty_p_norm", INF, "finite-number"),
    ("ewc", "average_over_tasks", "perhaps", "bool-parsing"),
    ("finetuning", "learning_rate", 0, "greater-than"),
    ("finetuning", "learning_rate", -0.1, "greater-than"),
    ("finetuning", "learning_rate", NAN, "finite-number"),
    ("finetuning", "learning_rate", INF, "finite-number"),
    ("finetuning", "learning_rate", "fast", "float-parsing"),
    ("finetuning", "momentum", 1, "less-than"),
    ("finetuning", "momentum", -0.5, "greater-than-equal"),
    ("finetuning", "momentum", NAN, "finite-number"),
    ("finetuning", "weight_decay", -0.1, "greater-than-equal"),
    ("finetuning", "weight_decay", INF, "finite-number"),
    ("finetuning", "batch_size", 0, "greater-than-equal"),
    ("finetuning", "batch_size", 2.5, "int-from-float"),
    ("finetuning", "batch_size", NAN, "finite-number"),
    ("finetuning", "epochs", 0, "greater-than-equal"),
    ("finetuning", "epochs", -1, "greater-than-equal"),
    ("finetuning", "epochs", 1.5, "int-from-float"),
    ("finetuning", "optimizer", "lion", "literal-error"),
    ("finetuning", "optimizer_state", "lose", "literal-error"),
    ("finetuning", "tasks", 1, "greater-than-equal"),
    ("finetuning", "hidden", 5, "tuple-type"),
    ("finetuning", "hidden", (2.5,), "int-from-float"),
    ("finetuning", "backbone", "vgg", "backbone-known"),
    ("finetuning", "schedule", "linear", "literal-error"),
    ("finetuning", "warmup", -0.1, "greater-than-equal"),
    ("finetuning", "warmup", 1, "less-than"),
    ("finetuning", "warmup", NAN, "finite-number"),
    ("finetuning", "milestones", (), "too-short"),
    ("finetuning", "milestones", 0.5, "tuple-type"),
    ("finetuning", "milestones", (0.5, NAN), "finite-number"),
    ("finetuning", "decay", 0, "greater-than"),
    ("finetuning", "decay", 1, "less-than"),
    ("finetuning", "decay", NAN, "finite-number"),
    ("finetuning", "random_crop", -1, "greater-than-equal"),
    ("finetuning", "random_crop", 1.5, "int-from-float"),
    ("finetuning", "horizontal_flip", "perhaps", "bool-parsing"),
    ("finetuning", "image_size", 3, "greater-than-equal"),
    ("finetuning", "image_size", 1025, "less-than-equal"),
    ("finetuning", "image_channels", 2, "literal-error"),
    ("finetuning", "grouping", 7, "path-type"),
    ("finetuning", "benchmark", "folder:", "benchmark-known"),
    ("finetuning", "benchmark", "folder", "benchmark-known"),
    ("finetuning", "benchmark", "rotated-cifar10", "benchmark-known"),
    ("finetuning", "scenario", "instance", "enum"),
    ("finetuning", "benchmark", "split-imagenet", "benchmark-known"),
    ("lwf", "distance", "cosine", "literal-error"),
    ("ewc", "fisher", "true", "literal-error"),
    ("ewc", "fisher_scale", "trace", "literal-error"),
    ("ewc", "fisher_samples", 0, "greater-than-equal"),
    ("ewc", "fisher_samples", 2.5, "int-from-float"),
    ("ewc", "anchors", "both", "literal-error"),
    ("ewc", "gamma", -0.1, "greater-than-equal"),
    ("ewc", "gamma", 1.1, "less-than-equal"),
    ("ewc", "gamma", NAN, "finite-number"),
    ("finetuning", "class_order", "random", "literal-error"),
    ("finetuning", "classes_per_task", 5, "tuple-type"),
    ("finetuning", "classes_per_task", "22", "tuple-type"),
    ("finetuning", "classes_per_task", (2, 2.5), "int-from-float"),
]


@pytest.mark.parametrize(("algorithm", "field", "value", "rule"), REFUSED)
def test_a_bad_value_is_refused(algorithm, field, value, rule):
    assert broken(configure, algorithm, {"epochs": 1, field: value}) == [(field, rule)]


OF_A_METHOD = {field: (value, rule) for algorithm, field, value, rule in REFUSED if algorithm != "finetuning"}


@pytest.mark.parametrize("field", OF_A_METHOD)
def test_two_methods_together_refuse_what_each_refuses(field):
    value, rule = OF_A_METHOD[field]
    assert broken(configure, "lwf_ewc", {"epochs": 1, field: value}) == [(field, rule)]


OF_PYDANTIC = {
    # rule -> field, value, words; other rules are worded in tests/test_refusals.py
    "greater-than": ("learning_rate", 0, "must be greater than 0"),
    "greater-than-equal": ("tasks", 1, "must be greater than or equal to 2"),
    "less-than": ("momentum", 1, "must be less than 1"),
    "less-than-equal": ("image_size", 1025, "must be less than or equal to 1024"),
    "finite-number": ("learning_rate", NAN, "must be a finite number"),
    "float-parsing": ("learning_rate", "fast", "must be a number"),
    "int-parsing": ("batch_size", "few", "must be a whole number"),
    "int-from-float": ("batch_size", 2.5, "must be a whole number"),
    "bool-parsing": ("horizontal_flip", "perhaps", "must be true or false"),
    "tuple-type": ("hidden", 5, "must be several values, a tuple or list"),
    "literal-error": ("optimizer", "lion", "must be 'sgd', 'adam' or 'adamw'"),
    "enum": ("scenario", "instance", "must be 'task', 'domain' or 'class'"),
}


@pytest.mark.parametrize("rule", OF_PYDANTIC)
def test_rules_that_pydantic_checks_are_told_in_plain_words(rule):
    field, value, words = OF_PYDANTIC[rule]
    (problem,) = refusals(configure, "finetuning", {"epochs": 1, field: value})
    assert problem.rule == rule
    assert problem == f"{field}: {words}; got {value!r}"


def test_every_source_is_split_and_grey_digits_and_clothes_are_also_permuted_and_rotated():
    every_kind = ["digits", "mnist", "fashion-mnist", "kmnist"]
    names = {"split": list(SOURCES), "permuted": every_kind, "rotated": every_kind}
    assert set(names) == set(TaskConstruction)
    assert sorted(BENCHMARKS) == sorted(f"{kind}-{source}" for kind, sources in names.items() for source in sources)
    for name, (kind, source) in BENCHMARKS.items():
        assert name == f"{kind}-{source}"
        config = configure("finetuning", {"epochs": 1, "benchmark": name})
        assert config.kind == kind
        assert config.source is SOURCES[source]
        assert config.source.name == source


def test_every_field_is_described_and_belongs_to_one_part():
    names = [
        name for part in {part for own in BUILT_IN.values() for part in own.sections} for name in part.model_fields
    ]
    assert len(set(names)) == len(names)
    for part in {part for own in BUILT_IN.values() for part in own.sections}:
        assert all(field.description for field in part.model_fields.values())


def test_a_home_that_does_not_exist_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert to_local_path(tmp_path / "x") == tmp_path / "x"
    settings = {"epochs": 1, "data_root": "~nobody-of-this-name/x"}
    assert broken(configure, "finetuning", settings) == [("data_root", "home-exists")]
    assert configure("finetuning", {"epochs": 1, "data_root": "~/x"}).data_root == (tmp_path / "x").resolve()


@pytest.mark.slow
def test_a_partials_name_is_the_same_in_every_process():
    code = (
        "from functools import partial; import math; from clsearch.config.plain_values import backbone_name; "
        "print(backbone_name(partial(print, math.sin, end=len, sep=2)))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second == "builtins.print(math.sin, end=builtins.len, sep=2)\n"
