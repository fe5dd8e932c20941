"""Studies of folders of images and of groups of classes."""

import re
import shlex

import pytest

from clsearch import ConfigError
from clsearch.records.ranking import rerun_command
from tests.builders import (
    planned,
    record_of,
    study_of,
    write_images,
)
from tests.refusals import broken
from tests.study.shared import cached

pytestmark = pytest.mark.slow


def test_a_folder_and_its_options_reach_the_configuration(pets):
    args = ["--image-size", "16", "--image-channels", "3", "--random-crop", "2", "--horizontal-flip"]
    config = planned(study_of(), "--benchmark", f"folder:{pets}", *args).config
    assert config.source.classes == tuple("abcdef")
    assert config.source.shape == (3, 16, 16)
    assert (config.random_crop, config.horizontal_flip) == (2, True)


@pytest.mark.slow
def test_the_place_of_a_folder_is_absolute_and_may_begin_at_home(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    assert planned(study_of(), "--benchmark", f"folder:{pets.name}").config.benchmark == f"folder:{pets}"
    monkeypatch.setenv("HOME", str(pets.parent))
    assert planned(study_of(), "--benchmark", f"folder:~/{pets.name}").config.benchmark == f"folder:{pets}"


def test_a_class_with_too_few_images_is_refused(refused, tmp_path, pets):
    (pets / "c" / "002.png").unlink()
    text = refused("--benchmark", f"folder:{pets}")
    assert "error: benchmark: every class needs at least 5 images; got 4 in c\n" in text
    assert not (tmp_path / "out").exists()
    assert cached(tmp_path) == []


def test_more_tasks_than_a_folder_has_pairs_of_classes_are_refused(refused, tmp_path, pets):
    text = refused("--benchmark", f"folder:{pets}", "--tasks", "4")
    assert f"error: tasks: each task needs 2 of the 6 classes of folder:{pets}, so at most 3 tasks; got 4\n" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "option", "kinds"),
    [
        ({"mode": "RGB"}, "images must be all grey or all colour, or give --image-channels 1 or 3", "colour"),
        ({"side": 9}, "images must have one size, or give --image-size", "9x9"),
    ],
)
def test_images_that_differ_are_refused_with_the_option_that_brings_them_together(
    refused, tmp_path, pets, form, option, kinds
):
    write_images(pets, ["g", "h"], **form)
    text = refused("--benchmark", f"folder:{pets}")
    assert re.search(rf"^error: benchmark: {option}; got 24 .* \(a/\d+\.png\), 8 {kinds} \(g/\d+\.png\)$", text, re.M)
    assert not (tmp_path / "out").exists()
    assert cached(tmp_path) == []


def test_a_corrupt_image_is_refused_and_named(refused, tmp_path, pets):
    for path in (pets / "e").iterdir():
        path.write_bytes(b"<html>This image has moved.</html>")
    text = refused("--benchmark", f"folder:{pets}")
    assert re.search(r"^error: benchmark: every image must be readable; got e/\d+\.png \(.*\), e/", text, re.M)
    assert not (tmp_path / "out").exists()
    assert cached(tmp_path) == []


GROUPINGS = [
    # content, rule
    ("0, 1\n", "grouping-two-tasks"),
    ("", "grouping-two-tasks"),
    ("# none\n\n  # yet\n", "grouping-two-tasks"),
    ("0, 1\n2\n3, 4\n", "grouping-two-classes"),
    ("0, 1\n2 3\n4, 5\n", "grouping-two-classes"),
    ("0, 1\n2, 3\n1, 2, 4", "grouping-classes-once"),
    ("0, 1\n2, two\n4, cat", "grouping-known-classes"),
    (b"\xff\xfe0", "grouping-readable"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("content", "rule"), GROUPINGS)
def test_a_grouping_that_cannot_be_is_refused(refused, tmp_path, content, rule):
    file = tmp_path / "groups.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert broken(study_of().plan_for, ["--grouping", str(file)]) == [("grouping", rule)]
    assert "error: grouping: " in refused("--grouping", str(file))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "rule"),
    [
        (["--class-order", "shuffled"], "grouping-alone"),
        (["--classes-per-task", "2", "2", "3"], "grouping-alone"),
        (["--benchmark", "permuted-digits"], "split-only"),
        (["--scenario", "domain"], "domain-equal-counts"),
    ],
)
def test_a_grouping_beside_what_contradicts_it_is_refused(refused, tmp_path, args, rule):
    file = tmp_path / "groups.txt"
    file.write_text("0, 1\n2, 3\n4, 5, 6\n")
    assert planned(study_of(), "--grouping", str(file)).config.tasks == 3
    assert broken(study_of().plan_for, ["--grouping", str(file), *args]) == [("grouping", rule)]
    assert "error: grouping: " in refused("--grouping", str(file), *args)
    assert not (tmp_path / "out").exists()


def test_a_grouping_says_how_many_tasks_there_are_and_which_classes_of_a_folder_are_used(tmp_path, pets):
    (pets / "d" / "000.png").unlink()  # a class that is not named may be too small
    file = tmp_path / "groups.txt"
    file.write_text("# by hand\n\nf, a\n c , e,b\n")
    config = planned(study_of(tasks=None), "--benchmark", f"folder:{pets}", "--grouping", str(file)).config
    assert config.tasks == 2
    assert config.source.classes == ("f", "a", "c", "e", "b")
    assert config.source.groups == ((0, 1), (2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--grouping", "FILE"],
        ["--image-size", "16", "--image-channels", "3"],
        ["--random-crop", "2", "--horizontal-flip", "--backbone", "cnn", "--schedule", "cosine"],
    ],
    ids=" ".join,
)
def test_the_command_of_a_folder_makes_the_same_plan_again(tmp_path, pets, args):
    (tmp_path / "my groups.txt").write_text("a, b\nc, d\ne, f")
    args = [word.replace("FILE", str(tmp_path / "my groups.txt")) for word in args]
    study = study_of("ewc")
    plan = planned(study, "--benchmark", f"folder:{pets}", *args)
    assert planned(study, *plan.command[2:]) == plan
    words = shlex.split(rerun_command(plan, record_of(plan, 3, [0.5, 0.6, 0.7])))
    again = planned(study, *words[2:])
    assert again.config == plan.trial_config({name: r.low for name, r in plan.space.items()})


def test_a_grouping_of_another_number_of_tasks_is_refused(refused, tmp_path):
    (tmp_path / "groups.txt").write_text("0, 1\n2, 3\n")
    words = ["--grouping", str(tmp_path / "groups.txt"), "--tasks", "3"]
    assert broken(study_of().plan_for, words) == [("grouping", "counts-match-tasks")]
    assert "error: grouping: " in refused(*words)


@pytest.mark.parametrize("missing", [{"benchmark": "folder:gone"}, {"grouping": "gone.txt"}])
def test_a_script_whose_folder_or_grouping_is_gone_is_refused_and_not_broken(missing, capsys):
    study = study_of(**missing)
    with pytest.raises(SystemExit) as ended:
        study.main([])
    assert ended.value.code == 2
    assert "gone" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        study.run()


def test_what_a_script_says_of_its_folder_can_be_taken_back(tmp_path, pets):
    (tmp_path / "groups.txt").write_text("a, b\nc, d\ne, f")
    study = study_of(
        benchmark=f"folder:{pets}",
        grouping=tmp_path / "groups.txt",
        image_size=16,
        image_channels=3,
        random_crop=2,
        horizontal_flip=True,
    )
    assert planned(study).command[2:] == []
    back = ["--benchmark", "split-digits", "--random-crop", "0", "--no-horizontal-flip"]
    plan = planned(study, *back, "--grouping", "None", "--image-size", "None", "--image-channels", "None")
    assert plan.config == study_of(tasks=5).plan.config  # the script's three tasks were those of its grouping
    assert planned(study, *plan.command[2:]) == plan


def test_images_that_change_between_two_plans_make_others(pets):
    study = study_of(benchmark=f"folder:{pets}")
    before = study.plan.config.source
    write_images(pets, ["a"], count=7)
    after = planned(study).config.source
    assert before.identity != after.identity
    assert study_of(benchmark=f"folder:{pets}").plan.config.source == after
