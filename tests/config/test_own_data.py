"""Configurations of groups of classes and of folders of images."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from clsearch.config.trial import derived_defaults
from clsearch.data.datasets import SOURCES
from clsearch.methods.lwf import LWF
from clsearch.methods.registry import configure
from tests.helpers import random_images, write_images
from tests.refusals import broken, refusals


def groups_in(tmp_path, text):
    path = tmp_path / "groups.txt"
    path.write_text(text)
    return path


def test_the_number_of_tasks_follows_a_grouping(tmp_path):
    path = groups_in(tmp_path, "0, 1\n2, 3\n9, 8\n")
    config = configure("lwf", {"epochs": 1, "grouping": path})
    assert (config.tasks, config.scenario) == (3, "task")
    assert config.source.groups == ((0, 1), (2, 3), (9, 8))
    assert config.flat()["grouping"] == str(path)
    assert configure("lwf", json.loads(json.dumps(config.flat()))) == config


def test_rules_of_a_grouping_are_told(tmp_path):
    unequal = groups_in(tmp_path, "0, 1\n2, 3, 4\n")
    given = {"epochs": 1, "grouping": str(unequal)}
    assert broken(configure, "ewc", given | {"scenario": "domain"}) == [("grouping", "domain-equal-counts")]
    assert broken(configure, "ewc", given | {"tasks": 3}) == [("grouping", "counts-match-tasks")]
    assert configure("ewc", given | {"tasks": 2, "scenario": "class"}).tasks == 2
    for others, shown in (
        ({"class_order": "shuffled"}, "class_order"),
        ({"classes_per_task": (2, 3)}, "classes_per_task"),
        ({"classes_per_task": (2, 3), "class_order": "shuffled"}, "classes_per_task, class_order"),
    ):
        (problem,) = refusals(configure, "ewc", given | others)
        assert (problem.field, problem.rule) == ("grouping", "grouping-alone")
        assert f" {shown} must not be given" in problem
    assert configure("ewc", given | {"class_order": "fixed"}).source.groups == ((0, 1), (2, 3, 4))
    for kind in ("permuted", "rotated"):
        assert broken(configure, "ewc", given | {"benchmark": f"{kind}-digits"}) == [("grouping", "split-only")]
    missing = {"epochs": 1, "grouping": tmp_path / "missing"}
    assert broken(configure, "ewc", missing) == [("grouping", "grouping-readable")]


def test_a_grouping_lies_below_the_current_folder_or_at_home(tmp_path, monkeypatch):
    groups_in(tmp_path, "0, 1\n2, 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("groups.txt", "~/groups.txt", Path("groups.txt")):
        config = configure("lwf", {"epochs": 1, "grouping": path})
        assert config.grouping == tmp_path / "groups.txt"


@pytest.fixture
def folder(tmp_path):
    """Seven classes of six colour images, five rows high and nine pixels wide."""
    images = {f"class {i}": random_images(6, (3, 5, 9), seed=i) for i in range(7)}
    write_images(tmp_path / "images", images)
    return tmp_path / "images"


def test_the_number_of_tasks_follows_the_classes_of_a_folder(folder, tmp_path):
    given = {"epochs": 1, "benchmark": f"folder:{folder}"}
    config = configure("lwf", given)
    assert (config.kind, config.scenario, config.tasks) == ("split", "task", 3)
    assert config.source.classes == tuple(f"class {i}" for i in range(7))
    assert config.source.shape == (3, 5, 9)
    assert configure("lwf", given | {"scenario": "class", "classes_per_task": (2, 5)}).tasks == 2
    path = groups_in(tmp_path, "class 6, class 0\nclass 1, class 2\n")
    grouped = configure("lwf", given | {"grouping": path})
    assert grouped.tasks == 2
    assert grouped.source.classes == ("class 6", "class 0", "class 1", "class 2")
    for built in (config, grouped):
        assert configure("lwf", json.loads(json.dumps(built.flat()))) == built
        again = pickle.loads(pickle.dumps(built))
        assert again == built
        assert again.source == built.source


def test_rules_of_a_folder_are_told_by_its_path(folder):
    given = {"epochs": 1, "benchmark": f"folder:{folder}"}
    (problem,) = refusals(configure, "lwf", given | {"tasks": 4})
    assert problem.rule == "two-classes-per-task"
    assert f"2 of the 7 classes of folder:{folder}" in problem
    crop = [("random_crop", "crop-within-image")]
    assert broken(configure, "lwf", given | {"random_crop": 5}) == crop
    assert configure("lwf", given | {"random_crop": 5, "image_size": 6}).random_crop == 5
    assert broken(configure, "lwf", given | {"image_size": 6, "random_crop": 6}) == crop
    assert broken(configure, "lwf", given | {"scenario": "domain"}) == [("tasks", "tasks-divide-classes")]


def test_a_folder_is_given_from_home_or_from_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    for benchmark in ("folder:~/images", "folder:.", "folder:../images", f"folder:{folder}/"):
        assert configure("lwf", {"epochs": 1, "benchmark": benchmark}).benchmark == f"folder:{folder}"
    settings = {"epochs": 1, "benchmark": "folder:~nobody-of-this/x"}
    assert broken(configure, "lwf", settings) == [("benchmark", "home-exists")]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    problems = refusals(configure, "lwf", {"epochs": 1, "benchmark": f"folder:{tmp_path}/none"})
    assert [problem.field for problem in problems] == ["benchmark"]


def test_a_source_that_is_known_is_not_looked_for_again(folder):
    given = {"epochs": 1, "benchmark": f"folder:{folder}"}
    config = configure("lwf", given)
    (folder / "class 0" / "000.png").unlink()
    assert configure("ewc", given, source=config.source).source is config.source
    assert configure("ewc", given).source != config.source


def test_broken_rules_of_images_and_of_training_are_told_together():
    settings = {"warmup": 0.1, "decay": 0.2, "milestones": (0.9, 0.1), "hidden": (), "tasks": 9}
    problems = broken(configure, "lwf", settings | {"random_crop": 9, "image_size": 8, "image_channels": 3})
    assert problems == [
        ("epochs, iterations", "epochs-or-iterations"),
        ("milestones", "step-schedule-only"),
        ("decay", "step-schedule-only"),
        ("milestones", "milestones-increase"),
        ("hidden", "hidden-needed"),
        ("tasks", "two-classes-per-task"),
        ("image_size", "folder-only"),
        ("image_channels", "folder-only"),
        ("random_crop", "crop-within-image"),
    ]


def test_defaults_that_follow_know_the_source_and_not_its_name():
    source = replace(SOURCES["digits"], classes=tuple("abcdefgh"))
    assert derived_defaults({}, source)["tasks"] == 4
    assert derived_defaults({"backbone": "cnn"}, source) == {"scenario": "task", "tasks": 4, "hidden": (128,)}
    assert LWF.derived_defaults({"scenario": "class"}) == {"teachers": "last", "train_head": True}
    assert derived_defaults({}, replace(source, groups=((0, 1), (2, 3), (4, 5))))["tasks"] == 3
    assert derived_defaults({"benchmark": "rotated-digits"}, source)["tasks"] == 10
    for classes, tasks in ((3, 2), (5, 2), (40, 20), (41, 20), (42, 10), (1000, 10)):
        assert derived_defaults({}, replace(source, classes=tuple(map(str, range(classes)))))["tasks"] == tasks
    assert derived_defaults({"classes_per_task": [2] * 4}, source)["tasks"] == 4


def test_training_images_are_augmented_where_either_is_asked_for():
    for settings, augmented in (
        ({}, False),
        ({"random_crop": 0, "horizontal_flip": False}, False),
        ({"random_crop": 1}, True),
        ({"horizontal_flip": True}, True),
    ):
        assert configure("lwf", {"epochs": 1} | settings).augmented is augmented
