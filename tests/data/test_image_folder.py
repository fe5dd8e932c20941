"""How a folder of images is listed: layouts, the test cut, refusals."""

import os
import pickle
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from clsearch.common.errors import ConfigError
from clsearch.data.image_folder import list_images
from tests.pictures import fill, names, picture, refusal, save

BESIDE = "train/ and test/ must be the only folders (validation data is split from train/)"


def test_images_are_those_of_known_suffixes_at_any_depth_but_not_hidden(tmp_path):
    kept = [
        "1.jpg",
        "2.JPEG",
        "3.PnG",
        "4.ppm",
        "5.bmp",
        "6.pgm",
        "7.tif",
        "8.tiff",
        "9.webp",
        "in/deep/1.jpg",
        "1.gif",
    ]
    for name in ("a", "b"):
        for file in [*kept, ".1.jpg", ".hidden/1.jpg", "in/.hidden/1.jpg", "notes.txt", "png"]:
            (tmp_path / "train" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / name / file).touch()
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / ".cache").mkdir()
    listing = list_images(tmp_path)
    assert listing.classes == ("a", "b")
    assert names(listing) == [f"{c}/{file}" for c in "ab" for file in sorted(kept)]
    assert listing.labels.dtype == np.int64
    assert listing.labels.tolist() == [0] * 11 + [1] * 11


def test_a_listed_file_has_the_size_and_time_of_the_file_behind_a_link(tmp_path):
    fill(tmp_path / "data" / "train")
    os.rename(tmp_path / "data" / "train" / "cats", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "train" / "cats")
    first = list_images(tmp_path / "data").files[0][0]
    status = (tmp_path / "elsewhere" / "00.png").stat()
    assert (first.name, first.size, first.modified) == ("cats/00.png", status.st_size, status.st_mtime_ns)


def test_a_link_to_a_folder_above_lists_nothing_twice(tmp_path):
    fill(tmp_path / "train")
    os.symlink(tmp_path / "train" / "cats", tmp_path / "train" / "cats" / "again")
    assert len(list_images(tmp_path).files[0]) == 5


def test_train_and_test_folders_are_the_parts(tmp_path):
    fill(tmp_path / "train", count=6)
    assert len(names(list_images(tmp_path))) == 12  # where test/ does not exist
    fill(tmp_path / "test", count=1)
    assert list_images(tmp_path).root == tmp_path / "train"
    assert list_images(tmp_path, "test").root == tmp_path / "test"
    assert names(list_images(tmp_path)) == [f"{c}/{i:02}.png" for c in ("cats", "dogs") for i in range(6)]
    assert names(list_images(tmp_path, "test")) == ["cats/00.png", "dogs/00.png"]


def test_files_of_the_test_folder_are_not_looked_at_for_training_data(tmp_path):
    fill(tmp_path / "train")
    for name in ("cats", "dogs"):
        (tmp_path / "test" / name).mkdir(parents=True)
    os.symlink("absent", tmp_path / "test" / "cats" / "1.png")
    assert len(names(list_images(tmp_path))) == 10
    assert refusal(list_images, tmp_path, "test") == [
        "benchmark: every image must be readable; got cats/1.png (No such file or directory)"
    ]


@pytest.mark.parametrize("beside", ["horses", "Test"])
def test_a_class_may_be_called_train(tmp_path, beside):
    fill(tmp_path, ("train", "test", beside))
    assert list_images(tmp_path).classes == tuple(sorted(("train", "test", beside)))
    shutil.rmtree(tmp_path / beside)
    assert list_images(tmp_path).classes == ("test", "train")


def test_a_train_folder_that_holds_images_beside_folders_is_a_class(tmp_path):
    fill(tmp_path, ("horses", "train"))
    fill(tmp_path / "train")
    assert list_images(tmp_path).classes == ("horses", "train")


def test_the_cut_parts_are_disjoint_and_together_everything(tmp_path):
    for c, count in (("a", 5), ("b", 7), ("c", 8), ("d", 23)):
        fill(tmp_path, (c,), count)
    train, test = list_images(tmp_path), list_images(tmp_path, "test")
    assert not set(names(train)) & set(names(test))
    assert set(names(train)) | set(names(test)) == {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert [len(files) for files in test.files] == [1, 1, 2, 5]
    assert train.classes == test.classes == ("a", "b", "c", "d")
    assert all(list(files) == sorted(files, key=lambda file: file.name) for files in train.files + test.files)
    assert train.key != test.key


def test_the_cut_depends_on_names_alone_and_stays_as_it_is(tmp_path):
    fill(tmp_path / "one", count=20)
    fill(tmp_path / "other", count=20, mode="L")
    cut = names(list_images(tmp_path / "one", "test"))
    assert cut == names(list_images(tmp_path / "other", "test"))
    # Numbers that users publish hang on this cut.
    for name in ("cats", "dogs"):
        ranked = sorted(
            (f"{name}/{i:02}.png" for i in range(20)), key=lambda n: sha256(f"20260101/{n}".encode()).digest()
        )
        assert [n for n in cut if n.startswith(name)] == sorted(ranked[:4])


def test_a_file_more_moves_at_most_one_other(tmp_path):
    fill(tmp_path, count=40)
    before = set(names(list_images(tmp_path, "test")))
    for i in range(20):
        save(tmp_path / "cats" / f"more{i}.png", picture(seed=i))
        after = set(names(list_images(tmp_path, "test")))
        assert len({name for name in before ^ after if name != f"cats/more{i}.png"}) <= 1
        before = after


def test_only_some_classes_in_the_order_asked_for(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    (tmp_path / "empty").mkdir()
    listing = list_images(tmp_path, only=["c", "a"])
    assert listing.classes == ("c", "a")
    assert [name[0] for name in names(listing)] == ["c"] * 4 + ["a"] * 4
    fill(tmp_path / "split" / "train", ("a", "b", "c"))
    fill(tmp_path / "split" / "test", ("a", "c", "d"), 1)
    assert names(list_images(tmp_path / "split", "test", ["c", "a"])) == ["c/00.png", "a/00.png"]
    assert refusal(list_images, tmp_path / "split", "train", ["a", "b"]) == [
        "benchmark: class folders of test/ must be those of train/; got no b"
    ]


@pytest.mark.parametrize(
    ("only", "problem"),
    [
        (["a", "x", "y"], "grouping: must name classes of folder:FOLDER, a, b, c; got x, y"),
        (["a", "b", "a"], "benchmark: classes must differ from each other; got a, b, a"),
        (["a"], "benchmark: at least 2 classes are needed; got 1 (a) in folder:FOLDER"),
    ],
)
def test_only_refuses_unknown_repeated_and_too_few_classes(tmp_path, only, problem):
    fill(tmp_path, ("a", "b", "c"))
    assert refusal(list_images, tmp_path, "train", only) == [problem.replace("FOLDER", str(tmp_path))]


def test_twenty_known_classes_are_shown_and_the_others_counted(tmp_path):
    for i in range(25):
        (tmp_path / f"c{i:02}").mkdir()
    shown = ", ".join(f"c{i:02}" for i in range(20))
    assert refusal(list_images, tmp_path, "train", ["x"]) == [
        f"grouping: must name classes of folder:{tmp_path}, {shown} and 5 more; got x"
    ]


def folder_with(tmp_path, *folders):
    for name in folders:
        fill((tmp_path / name).parent, (Path(name).name,))


REFUSED = {
    "the folder must exist; got folder:FOLDER/absent": lambda f: f / "absent",
    "must be a folder; got folder:FOLDER/file": lambda f: (f / "file").touch() or f / "file",
    "the folder must be readable (Too many levels of symbolic links); got folder:FOLDER/loop": lambda f: (
        os.symlink("loop", f / "loop") or f / "loop"
    ),
    "at least 2 classes are needed; got 0 in folder:FOLDER": lambda f: f,
    "at least 2 classes are needed; got 1 (cats) in folder:FOLDER": lambda f: folder_with(f, "cats") or f,
    "images must be in one folder per class, such as cats/1.jpg; got 5 directly in folder:FOLDER/cats": lambda f: (
        folder_with(f, "cats") or f / "cats"
    ),
    "test data must be in test/, next to train/; got no test/ in folder:FOLDER": lambda f: (
        folder_with(f, "train/a", "train/b") or f
    ),
    "class folders of test/ must be those of train/; got no b, c in test/ only": lambda f: (
        folder_with(f, "train/a", "train/b", "test/a", "test/c") or f
    ),
    f"{BESIDE}; got val in folder:FOLDER": lambda f: folder_with(f, "train/a", "train/b", "val/a", "val/b") or f,
}


@pytest.mark.parametrize("problem", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, problem):
    folder = tmp_path / "data"
    folder.mkdir()
    expected = f"benchmark: {problem}".replace("FOLDER", str(folder))
    assert refusal(list_images, REFUSED[problem](folder), "test") == [expected]


def test_a_folder_without_permission_is_refused(tmp_path):
    fill(tmp_path / "data")
    (tmp_path / "data").chmod(0)
    if root := os.geteuid() == 0:
        os.seteuid(65534)  # root may read everything
    try:
        problem = refusal(list_images, tmp_path / "data")
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "data").chmod(0o700)
    assert problem == [f"benchmark: the folder must be readable (Permission denied); got folder:{tmp_path}/data"]


def test_classes_with_too_few_images_are_named_all_at_once(tmp_path):
    fill(tmp_path, ("a", "b"))
    fill(tmp_path, ("cats",), 3)
    (tmp_path / "dogs").mkdir()
    assert refusal(list_images, tmp_path) == [
        "benchmark: every class needs at least 5 images; got 3 in cats, 0 in dogs"
    ]
    for i in range(12):
        (tmp_path / f"e{i:02}").mkdir()
    assert refusal(list_images, tmp_path)[0].endswith(", 0 in e06, 0 in e07 and 4 more")


def test_a_train_folder_needs_five_images_of_a_class_and_a_test_folder_one(tmp_path):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "test", ("cats",), 1)
    (tmp_path / "test" / "dogs").mkdir()
    train = "benchmark: every class needs at least 5 images; got 4 in cats, 4 in dogs"
    assert refusal(list_images, tmp_path) == [train]
    assert refusal(list_images, tmp_path, "test") == ["benchmark: every class needs at least 1 image; got 0 in dogs"]


def test_classes_whose_names_no_terminal_takes_are_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "two\nlines").mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    assert refusal(list_images, tmp_path) == [
        "benchmark: names of classes must be printable text; got 'two\\nlines', '\\udcff'"
    ]


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert (type(error), error.problems, str(error)) == (ConfigError, ["one", "two"], "one\ntwo")


def test_the_identity_depends_on_the_data_and_not_on_place_or_time(tmp_path):
    one, other = fill(tmp_path / "one"), tmp_path / "deep" / "other"
    shutil.copytree(one, other)
    os.utime(other / "cats" / "00.png", ns=(5, 5))
    assert list_images(one).identity == list_images(other).identity
    assert len(list_images(one).identity) == 16
    assert list_images(one).identity != list_images(one, only=["dogs", "cats"]).identity


@pytest.mark.parametrize("change", ["name", "size", "time"])
def test_the_key_changes_with_every_file(tmp_path, change):
    listing = list_images(fill(tmp_path))
    path = tmp_path / names(listing)[-1]
    if change == "name":
        path.rename(path.with_suffix(".bmp"))
    elif change == "size":
        modified = path.stat().st_mtime_ns
        path.write_bytes(path.read_bytes() + b"x")
        os.utime(path, ns=(modified, modified))
    else:
        os.utime(path, ns=(5, 5))
    assert list_images(tmp_path).key != listing.key
    assert (list_images(tmp_path).identity == listing.identity) == (change == "time")


@pytest.mark.slow
def test_the_module_is_imported_without_pillow_or_torch():
    heavy = "{'PIL', 'filelock', 'torch', 'ray', 'rich'}"
    code = f"import sys, clsearch.data.image_folder; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("beside", ["unlabelled", "val", "extra"])
def test_nothing_but_a_test_folder_lies_beside_a_train_folder_of_classes(tmp_path, beside):
    for part in ("train", "test"):
        fill(tmp_path / part)
    fill(tmp_path / beside)
    assert refusal(list_images, tmp_path) == [f"benchmark: {BESIDE}; got {beside} in folder:{tmp_path}"]


def test_a_stray_image_in_the_train_folder_does_not_make_classes_of_the_parts(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part)
    save(tmp_path / "train" / "thumb.png", picture())
    assert refusal(list_images, tmp_path) == [
        f"benchmark: images must be in class folders; got 1 directly in {tmp_path}/train"
    ]


def test_parts_are_spelled_as_they_must_be(tmp_path):
    for part in ("Train", "TEST"):
        fill(tmp_path / part)
    assert refusal(list_images, tmp_path) == ["benchmark: parts must be named train and test; got TEST, Train"]


def test_a_test_folder_of_classes_needs_a_train_folder(tmp_path):
    fill(tmp_path / "test")
    fill(tmp_path / "training")
    (problem,) = refusal(list_images, tmp_path)
    assert problem.startswith("benchmark: training data must be in train/, next to test/")
