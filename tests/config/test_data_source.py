"""Which source settings name, how a file groups its classes, and how classes are spread over tasks."""

import os
import unicodedata

import pytest

from clsearch.config.data_source import class_counts, find_source, read_groups
from clsearch.config.sections import BENCHMARKS
from clsearch.data.datasets import SOURCES, folder_source
from clsearch.data.image_folder import list_images
from clsearch.methods.registry import configure
from tests.helpers import random_images, write_images
from tests.refusals import broken, refusals


@pytest.fixture
def grouped(tmp_path):
    """Writes a file of groups; gives its path."""

    def write(text):
        path = tmp_path / "groups.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_benchmark_with_a_name_has_the_source_of_that_name(benchmark):
    source = find_source({"benchmark": benchmark, "epochs": 3, "learning_rate": "nonsense that is not its own"})
    assert source is SOURCES[benchmark.partition("-")[2]]


def test_without_a_benchmark_it_is_the_digits():
    assert find_source({}) is SOURCES["digits"]


@pytest.mark.parametrize(
    "settings",
    [
        {"benchmark": "split-imagenet"},
        {"benchmark": "folder:"},
        {"benchmark": ["split-digits"]},
        {"tasks": 1},
        {"image_size": 3},
        {"scenario": "instance"},
        {"random_crop": -1},
        {"benchmark": "folder:/nowhere/at/all", "image_channels": 2},
        {"grouping": 7},
    ],
)
def test_there_is_no_source_where_a_benchmark_breaks_its_own_rule(settings):
    assert find_source(settings) is None


# --- groups ---


@pytest.mark.parametrize(
    "text",
    [
        "cat, dog\nship, truck, frog\n",
        "cat,dog\nship,truck,frog",
        "\n# animals\ncat, dog\n\n   # vehicles, and a mistake\n  ship ,truck ,  frog  \n\n",
        "cat, dog,\n,ship,, truck, frog\r\n",
    ],
)
def test_a_line_is_a_task_and_names_stand_between_commas(text, grouped):
    assert read_groups(grouped(text)) == (("cat", "dog"), ("ship", "truck", "frog"))


def test_a_name_may_hold_spaces_and_any_letter(grouped):
    text = "great white shark, Bär\n# a comment, at the line's beginning\nissue #3, naïve\n"
    assert read_groups(grouped(text)) == (("great white shark", "Bär"), ("issue #3", "naïve"))


def test_groups_are_labels_of_the_classes_that_they_name(grouped):
    source = find_source({"benchmark": "split-cifar10", "grouping": str(grouped("truck, cat\nfrog, airplane, deer\n"))})
    assert source.groups == ((9, 3), (6, 0, 4))
    assert source.classes == SOURCES["cifar10"].classes


@pytest.mark.parametrize("benchmark", ["split-digits", "split-mnist", "split-svhn", "split-cifar100"])
def test_where_classes_have_no_names_their_label_numbers_are_used(benchmark, grouped):
    assert find_source({"benchmark": benchmark, "grouping": grouped("9, 0\n3, 4\n2, 7")}).groups == (
        (9, 0),
        (3, 4),
        (2, 7),
    )


UNUSABLE = [
    ("cat, dog\n", "grouping-two-tasks"),
    ("", "grouping-two-tasks"),
    ("# cat, dog\n\n# frog, ship\n", "grouping-two-tasks"),
    ("cat, dog\n  ship\n", "grouping-two-classes"),
    ("cat dog\nship, frog\n", "grouping-two-classes"),
    ("cat, dog\n , ,\n", "grouping-two-classes"),
    ("cat, dog\nfrog, cat\n", "grouping-classes-once"),
    ("cat, cat\nfrog, dog, frog\n", "grouping-classes-once"),
]


@pytest.mark.parametrize(("text", "rule"), UNUSABLE)
def test_groups_that_cannot_be_used_are_refused(text, rule, grouped):
    path = grouped(text)
    assert broken(read_groups, path) == [("grouping", rule)]
    assert broken(find_source, {"benchmark": "split-cifar10", "grouping": path}) == [("grouping", rule)]


def test_of_many_known_classes_the_first_twenty_are_named(grouped):
    (problem,) = refusals(find_source, {"benchmark": "split-cifar100", "grouping": grouped("0, 100\n1, 2\n")})
    assert f" {', '.join(map(str, range(20)))}, ...; got 100" in problem


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    (tmp_path / "bytes").write_bytes(b"cat, \xff\xfe\nfrog, dog")
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "bytes", "not text")):
        (problem,) = refusals(read_groups, path)
        assert problem.rule == "grouping-readable"
        assert problem.endswith(f"; got {path} ({reason})")


# --- folders ---


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    write_images(folder, {name: random_images(6, (3, 5, 4), seed) for seed, name in enumerate(("cat", "dog", "eel"))})
    write_images(folder, {name: random_images(6, (3, 5, 4), seed) for seed, name in enumerate(("fox", "gnu"))})
    return folder


def test_a_folder_is_the_source_of_its_images(pets):
    source = find_source({"benchmark": f"folder:{pets}"})
    assert source == folder_source(pets, None, None, None)
    assert (source.name, source.classes, source.groups) == ("folder", ("cat", "dog", "eel", "fox", "gnu"), None)


def test_size_and_channels_reach_a_folders_source(pets):
    source = find_source({"benchmark": f"folder:{pets}", "image_size": 6, "image_channels": 1})
    assert source == folder_source(pets, None, 6, 1)
    assert source.shape == (1, 6, 6)


def test_a_relative_folder_is_one_below_the_current_one(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    assert find_source({"benchmark": "folder:pets"}) == find_source({"benchmark": f"folder:{pets}"})


def test_a_folders_groups_name_the_classes_that_are_used_and_their_order(pets, grouped):
    source = find_source({"benchmark": f"folder:{pets}", "grouping": grouped("gnu, cat\nfox, dog\n")})
    assert source.classes == ("gnu", "cat", "fox", "dog")
    assert source.groups == ((0, 1), (2, 3))


def test_images_of_a_class_that_no_group_names_are_not_looked_at(pets, grouped):
    for file in (pets / "eel").iterdir():
        file.write_bytes(b"no image")
    os.rename(pets / "eel" / "000.png", pets / "eel" / "only.png")
    path = grouped("gnu, cat\nfox, dog\n")
    before = find_source({"benchmark": f"folder:{pets}", "grouping": path})
    (pets / "eel" / "only.png").unlink()
    assert find_source({"benchmark": f"folder:{pets}", "grouping": path}) == before


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, pets, grouped):
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):
        (problem,) = refusals(find_source, {"benchmark": f"folder:{tmp_path}/{folder}"})
        assert problem.field == "benchmark"
    (problem,) = refusals(find_source, {"benchmark": f"folder:{pets}", "grouping": grouped("gnu, wolf\nfox, dog\n")})
    assert problem.field == "grouping"
    assert "wolf" in problem.partition("; got")[2]


def test_groups_are_read_before_images_are_looked_for(grouped):
    settings = {"benchmark": "folder:/nowhere/at/all", "grouping": grouped("cat\ndog\n")}
    assert broken(find_source, settings) == [("grouping", "grouping-two-classes")]


def test_a_class_may_go_by_its_number_but_not_by_both(tmp_path):
    path = tmp_path / "groups"
    path.write_text("cat, 5\n0, ship\n")
    source = find_source({"benchmark": "split-cifar10", "grouping": path})
    assert source is not None
    assert source.groups == ((3, 5), (0, 8))
    path.write_text("cat, dog\n3, ship\n")
    settings = {"benchmark": "split-cifar10", "grouping": path}
    assert broken(find_source, settings) == [("grouping", "grouping-classes-once")]


def test_a_file_may_begin_with_the_mark_that_windows_writes(tmp_path):
    path = tmp_path / "groups"
    path.write_bytes(b"\xef\xbb\xbfcat, dog\ntruck, ship\n")
    assert read_groups(path) == (("cat", "dog"), ("truck", "ship"))


# --- classes of each task ---


def counts_of(**settings):
    return class_counts(configure("finetuning", {"epochs": 1} | settings))


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, [2, 2, 2, 2, 2]),
        ({"tasks": 3}, [4, 3, 3]),
        ({"tasks": 4}, [3, 3, 2, 2]),
        ({"benchmark": "split-emnist-letters", "tasks": 3}, [9, 9, 8]),
        ({"benchmark": "split-cifar100"}, [10] * 10),
        ({"tasks": 2, "scenario": "domain"}, [5, 5]),
        ({"tasks": 3, "scenario": "class", "class_order": "shuffled"}, [4, 3, 3]),
        ({"classes_per_task": (2, 5, 3)}, [2, 5, 3]),
        ({"classes_per_task": (3, 2)}, [3, 2]),
        ({"benchmark": "permuted-digits", "tasks": 3}, [10, 10, 10]),
        ({"benchmark": "rotated-mnist", "tasks": 2, "scenario": "class"}, [10, 10]),
    ],
)
def test_classes_are_spread_as_evenly_as_can_be_unless_told_otherwise(settings, counts):
    assert counts_of(**settings) == counts


def test_a_grouping_says_how_many_classes_each_task_has(grouped, pets):
    assert counts_of(grouping=grouped("9, 0, 3\n1, 2\n5, 4, 7, 8\n")) == [3, 2, 4]
    assert counts_of(benchmark=f"folder:{pets}", grouping=grouped("gnu, cat\nfox, dog, eel\n")) == [2, 3]
    assert counts_of(benchmark=f"folder:{pets}", tasks=2) == [3, 2]


def fill(folder, count, *classes):
    """A folder per class, of `count` images."""
    write_images(folder, {name: random_images(count, (1, 4, 4), seed=0) for name in classes})


def test_classes_match_a_grouping_however_accents_are_stored(tmp_path, grouped):
    """macOS stores an accent after its letter (NFD); an editor writes both as one character (NFC)."""
    for names in (("e\u0301te\u0301", "hiver"), ("ao\u0302ut", "mai")):
        for name in names:
            fill(tmp_path / "train", 5, *[name])
            fill(tmp_path / "test", 1, *[unicodedata.normalize("NFC", name)])
    file = grouped("\u00e9t\u00e9, hiver\na\u00f4ut, mai\n")
    source = find_source({"benchmark": f"folder:{tmp_path}", "grouping": file})
    assert [unicodedata.normalize("NFC", name) for name in source.classes] == ["été", "hiver", "aôut", "mai"]
    assert list_images(tmp_path, "test", source.classes).labels.tolist() == [0, 1, 2, 3]
    assert list_images(tmp_path, "train", source.classes).labels.tolist() == [c for c in range(4) for _ in range(5)]


def test_two_class_folders_that_look_the_same_are_refused(tmp_path):
    fill(tmp_path, 5, *["e\u0301", "\u00e9", "b"])
    assert [problem.rule for problem in refusals(list_images, tmp_path)] == ["classes-differ"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('"a,b", c', ("a,b", "c")),
        ('c,"a,b"', ("c", "a,b")),
        ('"the ""best""", c', ('the "best"', "c")),
        ('5" disk, c', ('5" disk', "c")),
        ("'a', c,", ("'a'", "c")),
    ],
)
def test_a_name_with_a_comma_or_a_quote_is_quoted_as_in_csv(grouped, line, names):
    assert read_groups(grouped(f"{line}\nx, y\n"))[0] == names


def test_a_class_with_a_comma_can_be_grouped(tmp_path, grouped):
    fill(tmp_path / "images", 5, *["a,b", "c", "d", "e"])
    source = find_source({"benchmark": f"folder:{tmp_path}/images", "grouping": grouped('"a,b", c\nd, e\n')})
    assert source.classes == ("a,b", "c", "d", "e")
