"""Studies whose backbone has a name, or is a user's own."""

import json
import re
from functools import partial

import pytest
import torch

from clsearch.data.datasets import training_data
from clsearch.execution.sensitivity import check_sensitivity
from clsearch.records.writer import StudyWriter
from tests.builders import (
    planned,
    study_of,
    write_images,
)
from tests.study.shared import DEFAULT, Tiny, cached, following, tiny


def normed(shape):
    return torch.nn.Sequential(torch.nn.BatchNorm2d(shape[0]), torch.nn.Flatten())


def dropped(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Dropout())


def broken(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(63, 8))


@pytest.mark.slow
def test_the_cnn_on_a_script_that_sets_widths_has_its_own():
    assert study_of().plan.config.hidden == (8,)
    assert planned(study_of(), "--backbone", "cnn").config.hidden == (128,)
    assert planned(study_of(), "--backbone", "cnn", "--hidden", "16").config.hidden == (16,)
    assert planned(study_of(), "--backbone", "resnet18").config.hidden == ()


def test_the_backbone_that_a_script_has_anyway_changes_nothing():
    assert planned(study_of(), "--backbone", "mlp").config == study_of().plan.config
    study = study_of(backbone="cnn", hidden=(16,))
    assert planned(study, "--backbone", "cnn").config == study.plan.config


@pytest.mark.slow
@pytest.mark.parametrize("made", [tiny, Tiny, partial(Tiny, width=3)], ids=["function", "class", "partial"])
def test_a_factory_reaches_every_configuration_as_itself(tmp_path, made):
    study = study_of(backbone=made, hidden=None, results=tmp_path, references=("finetuning", "joint"))
    for plan in (study.plan, planned(study), planned(study, "--seeds", "2", "--tasks", "5")):
        values = {name: r.low for name, r in plan.space.items()}
        assert plan.config.backbone is made
        assert plan.trial_config(values).backbone is made
        assert plan.trial_config(values, "joint").backbone is made
    assert planned(study, "--seeds", "2").command[2:] == ["--seeds", "2"]


def test_a_factory_is_recorded_by_its_name(tmp_path):
    plan = study_of(backbone=tiny, hidden=None, results=tmp_path).plan
    assert plan.config.flat()["backbone"] == f"{tiny.__module__}.tiny"
    StudyWriter(plan).begin()
    content = json.loads((plan.folder / "study.json").read_text())
    assert content["config"]["backbone"] == f"{tiny.__module__}.tiny"
    assert content["config"]["hidden"] == []


@pytest.mark.slow
def test_a_factory_may_be_left_for_a_backbone_that_has_a_name():
    study = study_of(backbone=tiny, hidden=None)
    for name, hidden in (("mlp", (256, 256)), ("cnn", (128,)), ("resnet18", ())):
        plan = planned(study, "--backbone", name)
        assert (plan.config.backbone, plan.config.hidden) == (name, hidden)
        assert plan.command[2:] == ["--backbone", name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (normed, "must have no buffers: .*; got 0.running_mean, 0.running_var, 0.num_batches_tracked"),
        (dropped, "must give the same features in every call.*; got numbers drawn from torch's global generator"),
        (broken, r"must map images \[2, 1, 8, 8\] to finite features .*; got RuntimeError: "),
        (lambda shape: None, "its factory must return a torch.nn.Module; got NoneType"),
    ],
)
def test_a_module_that_cannot_be_trained_here_is_refused_before_any_data_is_read(refused, tmp_path, made, problem):
    text = refused(backbone=made, hidden=None)
    assert re.search(rf"^error: backbone: {problem}", text, re.MULTILINE)
    assert not (tmp_path / "out").exists()


def test_images_that_a_backbone_cannot_take_are_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "specks", side=3)
    text = refused("--benchmark", f"folder:{folder}", "--backbone", "cnn")
    assert re.search(r"^error: backbone: .* got ValueError: cnn: images must be at least 4x4; got 3x3$", text, re.M)
    assert cached(tmp_path) == []


@pytest.mark.slow
def test_a_space_of_a_factory_follows_its_parameters():
    plan = following(backbone=tiny, hidden=None, fisher_scale="per_parameter").plan
    assert plan.space["penalty_factor"] == DEFAULT["penalty_factor"].scaled(6 * (9 + 1))
    check_sensitivity(plan, training_data(plan.config.source, None))
