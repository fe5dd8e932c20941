"""What a configuration becomes before training starts."""

from dataclasses import replace

import pytest
import torch

from clsearch.core.algorithms import Course
from clsearch.core.distillation import Distillation
from clsearch.core.importance import Fisher
from clsearch.core.optimizers import SGD, Adam
from clsearch.core.parameter_change import ParameterChange
from clsearch.core.run import build_run
from tests.helpers import small_config, small_run


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_seeds_and_repeated_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match=r"^seeds: must be at least one, each once; got \["):
        build_run(small_config(), seeds)


DISTILLATION = Distillation(newest_only=False, train_head=False, distance="cross_entropy", squared=False)
PARAMETER_CHANGE = ParameterChange(
    merged=True, average=False, fisher=Fisher("empirical", None, 64), scale="none", online=None
)


@pytest.mark.parametrize(
    ("algorithm", "settings", "regularizers"),
    [
        ("finetuning", {}, ()),
        ("joint", {}, ()),
        ("independent", {}, ()),
        ("lwf", {}, (DISTILLATION,)),
        (
            "lwf",
            {"scenario": "class", "temperature_scaling": "squared"},
            (replace(DISTILLATION, newest_only=True, train_head=True, squared=True),),
        ),
        (
            "lwf",
            {"teachers": "last", "train_head": True},
            (replace(DISTILLATION, newest_only=True, train_head=True),),
        ),
        ("lwf", {"distance": "mse"}, (replace(DISTILLATION, distance="mse"),)),
        ("ewc", {}, (PARAMETER_CHANGE,)),
        ("ewc", {"penalty_p_norm": 2.5}, (replace(PARAMETER_CHANGE, merged=False),)),
        ("ewc", {"average_over_tasks": True}, (replace(PARAMETER_CHANGE, average=True),)),
        (
            "ewc",
            {"fisher": "batch", "fisher_samples": 30, "fisher_scale": "unit_trace", "batch_size": 16},
            (replace(PARAMETER_CHANGE, fisher=Fisher("batch", 30, 16), scale="unit_trace"),),
        ),
        ("ewc", {"anchors": "online"}, (replace(PARAMETER_CHANGE, online=1.0),)),
        ("ewc", {"anchors": "online", "gamma": 0}, (replace(PARAMETER_CHANGE, online=0.0),)),
        ("lwf_ewc", {"distance": "kl"}, (replace(DISTILLATION, distance="kl"), PARAMETER_CHANGE)),
    ],
)
def test_an_algorithm_is_these_regularizers(algorithm, settings, regularizers):
    assert small_run(algorithm, **settings).regularizers == regularizers


@pytest.mark.parametrize(
    ("algorithm", "course"),
    [
        ("finetuning", Course.CONTINUAL),
        ("lwf", Course.CONTINUAL),
        ("ewc", Course.CONTINUAL),
        ("lwf_ewc", Course.CONTINUAL),
        ("joint", Course.JOINT),
        ("independent", Course.INDEPENDENT),
    ],
)
def test_an_algorithm_takes_this_course_through_the_tasks(algorithm, course):
    assert small_run(algorithm).course is course


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"momentum": 0.9, "weight_decay": 0.01}, SGD(0.9, 0.01)),
        ({"optimizer": "adam"}, Adam(0.0, decoupled=False)),
        ({"optimizer": "adamw", "weight_decay": 0.2}, Adam(0.2, decoupled=True)),
    ],
)
def test_an_optimizer_has_the_configured_numbers(settings, optimizer):
    assert small_run(**settings).optimizer == optimizer


def test_hyperparameters_are_one_number_per_member():
    run = small_run("ewc", seeds=(4, 2, 9), learning_rate=0.25, penalty_factor=8, penalty_p_norm=1.5)
    expected = {"learning_rate": 0.25, "penalty_factor": 8.0, "penalty_p_norm": 1.5}
    for name, value in expected.items():
        assert torch.equal(run.hyperparameters[name], torch.full((3,), value))


@pytest.mark.parametrize(
    ("settings", "outputs"),
    [({"tasks": 3}, 10), ({"scenario": "domain", "tasks": 5}, 2), ({"scenario": "class", "tasks": 2}, 10)],
)
def test_the_network_fits_the_benchmark(settings, outputs):
    run = small_run(hidden=(7, 5), **settings)
    params = run.initial_state().params
    assert params["backbone.0.weight"].shape == (1, 64, 7)
    assert params["head.weight"].shape == (1, 5, outputs)


@pytest.mark.parametrize(
    ("algorithm", "logs"), [("finetuning", ()), ("joint", ()), ("lwf", ("kl",)), ("ewc", ()), ("lwf_ewc", ("kl",))]
)
def test_columns_are_losses_what_the_algorithm_logs_and_accuracy(algorithm, logs):
    assert small_run(algorithm).columns == ("loss", "loss_classification", "penalty", *logs, "accuracy")


def test_the_initial_state_has_learned_nothing():
    run = small_run("lwf", seeds=(5, 6), momentum=0.9)
    state = run.initial_state()
    assert (state.fingerprint, state.tasks_learned, state.seconds) == (run.fingerprint, 0, 0.0)
    assert state.accuracy.shape == (2, 4, 3)
    assert state.accuracy.isnan().all()
    assert state.curve.shape == (0, 2, 5)
    assert state.epochs.shape == (0, 2)
    assert state.memory == {}
    assert all((moment == 0).all() for moment in state.moments.values())


def test_a_fingerprint_names_algorithm_settings_and_seeds():
    runs = [
        small_run("lwf", seeds=(0, 1)),
        small_run("lwf", seeds=(1, 0)),
        small_run("lwf", seeds=(0, 1, 2)),
        small_run("lwf", seeds=(0, 1), distillation_factor=1.001),
        small_run("lwf", seeds=(0, 1), hidden=(13,)),
        small_run("lwf", seeds=(0, 1), scenario="class"),
        small_run("finetuning", seeds=(0, 1)),
        small_run("ewc", seeds=(0, 1)),
    ]
    assert len({run.fingerprint for run in runs}) == len(runs)
    assert small_run("lwf", seeds=(0, 1)).fingerprint == runs[0].fingerprint


def test_a_fingerprint_does_not_depend_on_where_the_data_lies(tmp_path):
    assert small_run(data_root=tmp_path).fingerprint == small_run().fingerprint
