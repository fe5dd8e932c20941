"""Each field's own rule, and the table of benchmarks."""

import math
import subprocess
import sys

import pytest

from clsearch.common.errors import ConfigError
from clsearch.config.sections import BENCHMARKS, Kind, at_home
from clsearch.data.datasets import SOURCES
from clsearch.methods.registry import BUILT_IN, configure

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
    ("lwf", "train_head", "maybe", "true or false", "'maybe'"),
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
    ("ewc", "average_over_tasks", "perhaps", "true or false", "'perhaps'"),
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
    ("finetuning", "batch_size", 2.5, "whole number", "2.5"),
    ("finetuning", "batch_size", NAN, "finite", "nan"),
    ("finetuning", "epochs", 0, "greater than or equal to 1", "0"),
    ("finetuning", "epochs", -1, "greater than or equal to 1", "-1"),
    ("finetuning", "epochs", 1.5, "whole number", "1.5"),
    ("finetuning", "optimizer", "lion", "'sgd', 'adam' or 'adamw'", "'lion'"),
    ("finetuning", "optimizer_state", "lose", "'reset' or 'keep'", "'lose'"),
    ("finetuning", "tasks", 1, "greater than or equal to 2", "1"),
    ("finetuning", "hidden", 5, "must be several values", "5"),
    ("finetuning", "hidden", (2.5,), "whole number", "2.5"),
    ("finetuning", "backbone", "vgg", "mlp, cnn, resnet18", "'vgg'"),
    ("finetuning", "schedule", "linear", "'constant', 'cosine' or 'step'", "'linear'"),
    ("finetuning", "warmup", -0.1, "greater than or equal to 0", "-0.1"),
    ("finetuning", "warmup", 1, "less than 1", "1"),
    ("finetuning", "warmup", NAN, "finite", "nan"),
    ("finetuning", "milestones", (), "at least 1 item", "()"),
    ("finetuning", "milestones", 0.5, "must be several values", "0.5"),
    ("finetuning", "milestones", (0.5, NAN), "finite", "nan"),
    ("finetuning", "decay", 0, "greater than 0", "0"),
    ("finetuning", "decay", 1, "less than 1", "1"),
    ("finetuning", "decay", NAN, "finite", "nan"),
    ("finetuning", "random_crop", -1, "greater than or equal to 0", "-1"),
    ("finetuning", "random_crop", 1.5, "whole number", "1.5"),
    ("finetuning", "horizontal_flip", "perhaps", "true or false", "'perhaps'"),
    ("finetuning", "image_size", 3, "greater than or equal to 4", "3"),
    ("finetuning", "image_size", 1025, "less than or equal to 1024", "1025"),
    ("finetuning", "image_channels", 2, "1 or 3", "2"),
    ("finetuning", "grouping", 7, "path", "7"),
    ("finetuning", "benchmark", "folder:", "folder:PATH", "'folder:'"),
    ("finetuning", "benchmark", "folder", "folder:PATH", "'folder'"),
    ("finetuning", "benchmark", "rotated-cifar10", "must be one of", "'rotated-cifar10'"),
    ("finetuning", "scenario", "instance", "'task', 'domain' or 'class'", "'instance'"),
    ("finetuning", "benchmark", "split-imagenet", "must be", "'split-imagenet'"),
    ("lwf", "distance", "cosine", "'cross_entropy', 'kl' or 'mse'", "'cosine'"),
    ("ewc", "fisher", "true", "'empirical', 'sampled', 'exact' or 'batch'", "'true'"),
    ("ewc", "fisher_scale", "trace", "'none', 'per_parameter' or 'unit_trace'", "'trace'"),
    ("ewc", "fisher_samples", 0, "greater than or equal to 1", "0"),
    ("ewc", "fisher_samples", 2.5, "whole number", "2.5"),
    ("ewc", "anchors", "both", "'separate' or 'online'", "'both'"),
    ("ewc", "gamma", -0.1, "greater than or equal to 0", "-0.1"),
    ("ewc", "gamma", 1.1, "less than or equal to 1", "1.1"),
    ("ewc", "gamma", NAN, "finite", "nan"),
    ("finetuning", "class_order", "random", "'fixed' or 'shuffled'", "'random'"),
    ("finetuning", "classes_per_task", 5, "must be several values", "5"),
    ("finetuning", "classes_per_task", "22", "must be several values", "'22'"),
    ("finetuning", "classes_per_task", (2, 2.5), "whole number", "2.5"),
]


@pytest.mark.parametrize(("algorithm", "field", "value", "rule", "shown"), REFUSED)
def test_a_bad_value_is_refused_with_field_rule_and_value(algorithm, field, value, rule, shown):
    with pytest.raises(ConfigError) as caught:
        configure(algorithm, {"epochs": 1, field: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{field}: ")
    assert rule in problem
    assert problem.endswith(f"got {shown}")


OF_A_METHOD = {field: (value, rule) for algorithm, field, value, rule, _ in REFUSED if algorithm != "finetuning"}


@pytest.mark.parametrize("field", OF_A_METHOD)
def test_two_methods_together_refuse_what_each_refuses(field):
    value, rule = OF_A_METHOD[field]
    with pytest.raises(ConfigError) as caught:
        configure("lwf_ewc", {"epochs": 1, field: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{field}: ")
    assert rule in problem


def test_every_source_is_split_and_grey_digits_and_clothes_are_also_permuted_and_rotated():
    every_kind = ["digits", "mnist", "fashion-mnist", "kmnist"]
    names = {"split": list(SOURCES), "permuted": every_kind, "rotated": every_kind}
    assert set(names) == set(Kind)
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
    assert at_home(tmp_path / "x") == tmp_path / "x"
    with pytest.raises(ConfigError, match="data_root: must lie in a home that exists; got '~nobody-of-this-name/x'"):
        configure("finetuning", {"epochs": 1, "data_root": "~nobody-of-this-name/x"})
    assert configure("finetuning", {"epochs": 1, "data_root": "~/x"}).data_root == (tmp_path / "x").resolve()


@pytest.mark.slow
def test_a_partials_name_is_the_same_in_every_process():
    code = (
        "from functools import partial; import math; from clsearch.config.sections import backbone_name; "
        "print(backbone_name(partial(print, math.sin, end=len, sep=2)))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second == "builtins.print(math.sin, end=builtins.len, sep=2)\n"
