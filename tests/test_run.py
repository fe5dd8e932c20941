"""What a configuration becomes before training starts."""

import pytest
import torch

from clsearch.core.optimizers import SGD, Adam
from clsearch.core.regularizers import Distillation, ParameterChange
from clsearch.core.run import build_run
from tests.helpers import small_config, small_run


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_seeds_and_repeated_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match=r"^seeds: must be at least one, each once; got \["):
        build_run(small_config(), seeds)


@pytest.mark.parametrize(
    ("algorithm", "settings", "regularizers"),
    [
        ("finetuning", {}, ()),
        ("lwf", {}, (Distillation(newest_only=False, train_head=False, squared=False),)),
        (
            "lwf",
            {"scenario": "class", "temperature_scaling": "squared"},
            (Distillation(newest_only=True, train_head=True, squared=True),),
        ),
        (
            "lwf",
            {"teachers": "last", "train_head": True},
            (Distillation(newest_only=True, train_head=True, squared=False),),
        ),
        ("ewc", {}, (ParameterChange(merged=True, average=False),)),
        ("ewc", {"penalty_p_norm": 2.5}, (ParameterChange(merged=False, average=False),)),
        ("ewc", {"average_over_tasks": True}, (ParameterChange(merged=True, average=True),)),
    ],
)
def test_an_algorithm_is_these_regularizers(algorithm, settings, regularizers):
    assert small_run(algorithm, **settings).regularizers == regularizers


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


@pytest.mark.parametrize(("algorithm", "logs"), [("finetuning", ()), ("lwf", ("kl",)), ("ewc", ())])
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
