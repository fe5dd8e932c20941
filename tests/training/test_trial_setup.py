"""What a configuration becomes before training starts."""

import math
import os
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

from clsearch.common.errors import ConfigError
from clsearch.methods.base import TrainingScheme
from clsearch.methods.ewc import ElasticWeightConsolidation
from clsearch.methods.lwf import LearningWithoutForgetting
from clsearch.methods.penalties.fisher import Fisher
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.optimizers import SGD, Adam
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import build_trial
from tests.helpers import assert_bit_equal, random_images, same_params, small_config, small_run, write_images


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_seeds_and_repeated_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match=r"^seeds: must name at least one, each once; got \["):
        build_trial(small_config(), seeds)


DISTILLATION = LearningWithoutForgetting(newest_only=False, train_head=False, distance="cross_entropy", squared=False)
PARAMETER_CHANGE = ElasticWeightConsolidation(
    merged=True, average=False, fisher=Fisher("empirical", None, 128), scale="none", online=None
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
    ("algorithm", "scheme"),
    [
        ("finetuning", TrainingScheme.CONTINUAL),
        ("lwf", TrainingScheme.CONTINUAL),
        ("ewc", TrainingScheme.CONTINUAL),
        ("lwf_ewc", TrainingScheme.CONTINUAL),
        ("joint", TrainingScheme.JOINT),
        ("independent", TrainingScheme.INDEPENDENT),
    ],
)
def test_an_algorithm_has_this_training_scheme(algorithm, scheme):
    assert small_run(algorithm).scheme is scheme


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
    columns = ("loss", "loss_classification", "penalty", *logs, "accuracy")
    assert small_run(algorithm).columns == columns
    # And the learning rate, where it changes.
    for settings in ({"schedule": "cosine"}, {"schedule": "step"}, {"warmup": 0.1}):
        run = small_run(algorithm, **settings)
        assert run.columns == (*columns, "learning_rate")
        assert run.initial_state().curve.shape == (0, 1, len(columns) + 1)


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


def test_a_fingerprint_names_how_images_are_shown_and_what_they_pass_through():
    runs = [
        small_run(),
        *(small_run(benchmark=f"{kind}-digits", scenario="task", tasks=3) for kind in ("permuted", "rotated")),
        small_run(random_crop=1),
        small_run(horizontal_flip=True),
        small_run(schedule="cosine"),
        small_run(schedule="step"),
        small_run(schedule="step", milestones=(0.5,)),
        small_run(warmup=0.1),
        small_run(backbone="cnn"),
        small_run(backbone=linear, hidden=None),
        small_run(backbone=shallow, hidden=None),
        *(small_run(backbone=partial(linear, width=width), hidden=None) for width in (4, 6)),
    ]
    assert len({run.fingerprint for run in runs}) == len(runs)
    assert small_run(backbone=partial(linear, width=6), hidden=None).fingerprint == runs[-1].fingerprint


def test_a_fingerprint_does_not_depend_on_where_the_data_lies(tmp_path):
    assert small_run(data_root=tmp_path).fingerprint == small_run().fingerprint


def linear(shape, width=5):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), width))


def shallow(shape):
    return torch.nn.Sequential(*linear(shape), torch.nn.ReLU())


@pytest.mark.parametrize(
    ("settings", "features"),
    [({"backbone": "cnn", "hidden": (5,)}, 5), ({"backbone": linear, "hidden": None}, 5), ({"hidden": (3,)}, 3)],
)
@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_the_head_fits_the_backbone_and_the_benchmark(settings, features, scenario):
    run = small_run(scenario=scenario, **{"tasks": 2} | settings)
    params = run.initial_state().params
    assert params["head.weight"].shape == (1, features, 5 if scenario == "domain" else 10)
    inputs, _ = run.benchmark.tasks[0].train.take(torch.tensor([[0, 3, 7]]))
    assert run.network.features(params, inputs).shape == (1, 3, features)


def test_a_backbone_that_cannot_be_used_is_refused_before_anything_is_trained():
    def with_batch_norm(shape):
        return torch.nn.Sequential(*linear(shape), torch.nn.BatchNorm1d(5))

    with pytest.raises(ConfigError, match=r"^backbone: must have no buffers"):
        small_run(backbone=with_batch_norm, hidden=None)


def folder_run(folder, **settings):
    return small_run(benchmark=f"folder:{folder}", tasks=None, **settings)


@pytest.fixture
def pets(tmp_path):
    """Gives a folder of four classes, the same wherever it is made."""

    def make(name):
        for part in ("train", "test"):
            images = {each: random_images(6, (1, 4, 4), seed) for seed, each in enumerate("abcd")}
            write_images(tmp_path / name / part, images)
        return tmp_path / name

    return make


def test_a_folders_fingerprint_does_not_depend_on_where_or_when_it_was_copied(pets, image_cache):
    first, second = pets("here"), pets("there")
    os.utime(second / "train" / "a" / "000.png", ns=(1, 1))
    assert folder_run(first).fingerprint == folder_run(second).fingerprint
    assert folder_run(first).config != folder_run(second).config


def added(folder):
    shutil.copy(folder / "a" / "000.png", folder / "a" / "new.png")


def removed(folder):
    (folder / "a" / "000.png").unlink()


def renamed(folder):
    (folder / "a" / "000.png").rename(folder / "a" / "other.png")


def of_another_size(folder):
    with (folder / "a" / "000.png").open("ab") as file:
        file.write(b"more")


def with_another_class(folder):
    for part in ("train", "test"):
        (folder.parent / part / "a").rename(folder.parent / part / "e")


@pytest.mark.parametrize("change", [added, removed, renamed, of_another_size, with_another_class])
def test_a_folders_fingerprint_changes_with_its_images(change, pets, image_cache):
    folder = pets("here")
    before = folder_run(folder).fingerprint
    assert folder_run(folder).fingerprint == before
    change(folder / "train")
    assert folder_run(folder).fingerprint != before


@pytest.mark.parametrize("change", [added, removed, renamed, of_another_size])
def test_a_folders_fingerprint_does_not_look_at_test_images(change, pets, image_cache):
    folder = pets("here")
    before = folder_run(folder).fingerprint
    change(folder / "test")
    assert folder_run(folder).fingerprint == before


def test_a_fingerprint_names_the_size_and_channels_that_images_are_brought_to(pets, image_cache):
    folder = pets("here")
    runs = [folder_run(folder, **settings) for settings in ({}, {"image_size": 5}, {"image_channels": 3})]
    assert len({run.fingerprint for run in runs}) == 3


def test_a_fingerprint_names_the_groups_and_not_the_file_that_they_were_read_from(tmp_path):
    fingerprints = []
    for name, text in (
        ("a", "1, 2\n3, 4"),
        ("b", "# the same\n1,2\n\n3,4\n"),
        ("c", "2, 1\n3, 4"),
        ("d", "3, 4\n1, 2"),
    ):
        (tmp_path / name).write_text(text)
        fingerprints.append(small_run(grouping=tmp_path / name, tasks=None).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert len({*fingerprints, small_run(classes_per_task=(2, 2), tasks=None).fingerprint}) == 4


# --- some of the tasks ---


@pytest.mark.parametrize("sequence", [(0, 1), (4,), (2, 1), (3, 3)])
def test_a_task_that_is_not_there_is_refused(sequence):
    with pytest.raises(ValueError, match=r"^sequence: must increase, within 1 to 3; got "):
        small_run(sequence=sequence)


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("sequence", [(1, 2), (2, 3), (3,)])
def test_a_run_of_some_tasks_begins_where_a_run_of_all_does(sequence, scenario):
    some, whole = (small_run("lwf", (0, 4), s, scenario=scenario) for s in (sequence, None))
    state = some.initial_state()
    assert same_params(state.params, whole.initial_state().params)
    assert state.params["head.weight"].shape == (2, 12, 10)
    T = len(sequence)
    assert state.accuracy.shape == (2, T + 1, T)
    assert (some.columns, some.seeds, some.config) == (whole.columns, whole.seeds, whole.config)


def test_a_fingerprint_names_the_tasks_that_are_learned():
    sequences = [(1,), (1, 2), (1, 3), (2, 3), (3,), (1, 2, 3)]
    fingerprints = [small_run(sequence=sequence).fingerprint for sequence in sequences]
    assert len(set(fingerprints)) == len(sequences)
    assert fingerprints[-1] == small_run().fingerprint
    assert fingerprints[1] != small_run(classes_per_task=(4, 3), tasks=2).fingerprint  # the same data, other tasks


# --- other numbers ---

LWF_AND_EWC = ("distillation_factor", "distillation_temperature", "penalty_factor", "penalty_p_norm")


def test_other_numbers_are_those_named_for_every_member_and_nothing_else():
    run = small_run("lwf_ewc", (0, 1, 2), learning_rate=0.3, penalty_factor=7.0)
    before = {name: value.clone() for name, value in run.hyperparameters.items()}
    other = run.with_hyperparameters({"penalty_factor": 0.25, "distillation_temperature": 3})
    shared = ("learning_rate", "momentum", "weight_decay", "warmup", "decay", "gamma")
    assert other.hyperparameters.keys() == {*shared, *LWF_AND_EWC}
    for name, value in (before | {"penalty_factor": 0.25, "distillation_temperature": 3.0}).items():
        expected = value if isinstance(value, torch.Tensor) else torch.full((3,), value)
        assert torch.equal(other.hyperparameters[name], expected)
        assert other.hyperparameters[name].dtype == torch.float32
    assert replace(other, hyperparameters=run.hyperparameters) == run
    assert all(torch.equal(run.hyperparameters[name], value) for name, value in before.items())
    assert replace(run.with_hyperparameters({}), hyperparameters=run.hyperparameters) == run


OTHER_NUMBERS = [
    ("finetuning", {"learning_rate": 0.35}, {}),
    ("finetuning", {"learning_rate": 0.02}, {"optimizer": "adam", "schedule": "cosine", "warmup": 0.2}),
    ("joint", {"learning_rate": 0.35}, {"schedule": "step"}),
    ("lwf", {"distillation_factor": 4.5, "distillation_temperature": 0.7}, {}),
    ("lwf", {"distillation_factor": 0.3}, {"scenario": "class", "temperature_scaling": "squared"}),
    ("lwf", {"distillation_factor": 0.1}, {"distance": "mse"}),
    ("ewc", {"penalty_factor": 20.0}, {"fisher": "sampled", "fisher_samples": 20}),
    ("ewc", {"penalty_factor": 3.0, "penalty_p_norm": 1.2}, {"penalty_p_norm": 2.5}),
    ("ewc", {"penalty_factor": 3.0}, {"anchors": "online", "average_over_tasks": True}),
    ("lwf_ewc", {"learning_rate": 0.2, "distillation_factor": 3.0, "penalty_factor": 4.0}, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "numbers", "settings"), OTHER_NUMBERS)
def test_a_run_with_other_numbers_learns_as_one_that_was_configured_so(algorithm, numbers, settings):
    run, configured = small_run(algorithm, (0, 1), **settings), small_run(algorithm, (0, 1), **settings | numbers)
    learned = learn_sequence(run.with_hyperparameters(numbers))
    assert_bit_equal(learned, learn_sequence(configured), but=("fingerprint",))
    assert not same_params(learned.params, learn_sequence(run).params)


def test_states_of_a_run_are_states_of_it_with_other_numbers():
    run = small_run("ewc", (0, 1))
    other = run.with_hyperparameters({"penalty_factor": 9.0})
    assert other.fingerprint == run.fingerprint
    first = learn_task(run, run.initial_state())
    after = learn_sequence(other, TrialState.unpacked(first.packed(), other.fingerprint, other.device))
    assert torch.equal(after.accuracy[:, :2], learn_sequence(run).accuracy[:, :2])
    assert not same_params(after.params, learn_sequence(run).params)


def test_an_exponent_of_2_cannot_change_within_a_run_because_penalties_were_merged_for_it():
    run = small_run("ewc", penalty_p_norm=2)
    with pytest.raises(ValueError, match=r"^penalty_p_norm: must stay 2 in a trial that was built with it; got 1.5$"):
        run.with_hyperparameters({"penalty_p_norm": 1.5})
    assert run.with_hyperparameters({"penalty_p_norm": 2.0}).hyperparameters["penalty_p_norm"].eq(2).all()


@pytest.mark.slow
def test_another_name_than_a_number_of_the_configuration_is_refused():
    with pytest.raises(ValueError, match=r"^epochs: must be one of learning_rate, .*, which a trial can change$"):
        small_run("ewc").with_hyperparameters({"epochs": 3})
