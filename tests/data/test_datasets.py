"""Training and test data of the sources, from files as they lie on disk."""

import itertools
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clsearch.common.errors import ConfigError
from clsearch.data.datasets import (
    SOURCES,
    Data,
    Digits,
    Torchvision,
    digits,
    digits_cut,
    folder_source,
    read_data,
    training_data,
)
from tests.helpers import random_images, write_idx, write_images, write_mnist
from tests.helpers import write_part as write

# --- digits ---


def test_training_and_test_part_of_the_digits_are_disjoint_and_together_everything():
    _, labels = digits()
    train, test = digits_cut(labels)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(range(1797))


def test_twenty_percent_of_each_digit_are_test_data():
    _, train = Digits("train")()
    _, test = Digits("test")()
    held, all_of_them = np.bincount(test), np.bincount(train) + np.bincount(test)
    assert len(all_of_them) == 10
    assert (np.abs(held - 0.2 * all_of_them) <= 0.5).all()


@pytest.mark.slow  # imports scikit-learn
@pytest.mark.parametrize("part", ["train", "test"])
def test_digits_are_scikit_learns_images_with_their_labels(part):
    from sklearn.datasets import load_digits

    inputs, labels = Digits(part)()
    images, targets = load_digits(return_X_y=True)
    rows = digits_cut(targets)[0 if part == "train" else 1]
    assert np.array_equal(inputs, images[rows].reshape(-1, 1, 8, 8))
    assert np.array_equal(labels, targets[rows])
    assert inputs.max() == SOURCES["digits"].maximum


@pytest.mark.slow  # imports scikit-learn
def test_digits_are_scikit_learns_where_its_file_is_elsewhere(monkeypatch):
    found = digits()
    monkeypatch.setattr("clsearch.data.datasets.importlib.util.find_spec", lambda name: None)
    for ours, theirs in zip(found, digits(), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_importing_what_trains_loads_nothing_that_takes_long():
    """Each worker would load it before its first step, and each study before its first trial."""
    code = (
        "import sys; from clsearch.methods.registry import configure; "
        "from clsearch.training.loop import learn_sequence; "
        "from clsearch.training.trial_setup import build_trial; from clsearch.execution import ray_session, run_study; "
        "from ray.tune import Callback, tune; "
        "learn_sequence(build_trial(configure('lwf_ewc', {'iterations': 1, 'hidden': [4]}), [0, 1]))\n"
        "with ray_session.no_callback_telemetry(): assert tune.air_usage.tag_callbacks([Callback()]) is False\n"
        "print({'sympy', 'sklearn', 'scipy', 'mlflow', 'matplotlib', 'plotly'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_digits_cut_is_the_same_every_time():
    _, labels = digits()
    first, second = digits_cut(labels), digits_cut(labels)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    # Published numbers hang on this cut: these are its first test rows.
    assert first[1][:5].tolist() == [2, 5, 8, 14, 18]


def test_digits_need_no_files():
    assert SOURCES["digits"].missing_files(None) == SOURCES["digits"].missing_files(None, "test") == []


# --- torchvision's data sets ---


def test_an_idx_file_has_the_header_that_mnist_documents(tmp_path):
    write_idx(tmp_path / "images", np.zeros((3, 28, 28)))
    write_idx(tmp_path / "labels", np.zeros(3))
    assert (tmp_path / "images").read_bytes()[:16] == struct.pack(">4i", 2051, 3, 28, 28)
    assert (tmp_path / "labels").read_bytes()[:8] == struct.pack(">2i", 2049, 3)


READ = [name for name in SOURCES if name != "digits"]


def reader_of(name: str, part: str) -> Torchvision:
    train = SOURCES[name].read
    assert isinstance(train, Torchvision)
    assert train.part == "train"
    return Torchvision(train.name, part)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", READ)
def test_each_part_is_read_where_no_file_of_the_other_exists(name, part, tmp_path, monkeypatch):
    images, labels = write(name, tmp_path, part, monkeypatch)
    inputs, found = reader_of(name, part)(tmp_path)
    assert np.array_equal(inputs, images)
    assert np.array_equal(found, labels)
    assert (inputs.dtype, found.dtype) == (np.uint8, np.int64)
    other = "test" if part == "train" else "train"
    with pytest.raises((OSError, RuntimeError)):
        reader_of(name, other)(tmp_path)
    # And where both exist, each is read from its own.
    other_images, other_labels = write(name, tmp_path, other, monkeypatch)
    assert np.array_equal(reader_of(name, part)(tmp_path)[0], images)
    inputs, found = reader_of(name, other)(tmp_path)
    assert np.array_equal(inputs, other_images)
    assert np.array_equal(found, other_labels)


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_tells_classes_and_shape_of_what_is_read(name, tmp_path, monkeypatch):
    source = SOURCES[name]
    if source.files:
        images, _ = write(name, tmp_path, "train", monkeypatch)
    data = read_data(source, tmp_path)
    assert data.source is source
    inputs, labels = source.read(tmp_path, False, None)
    assert inputs.shape[1:] == source.shape
    assert np.array_equal(data.inputs, inputs.reshape(len(inputs), -1))
    assert np.array_equal(data.labels, labels)
    assert sorted(set(labels.tolist())) == list(range(len(source.classes)))
    assert len(set(source.classes)) == len(source.classes)
    assert source.groups is None
    if source.files:
        # Flat pixels are the image's: channel by channel, row by row.
        channels, height, width = source.shape
        pixel = (channels - 1) * height * width + 3 * width + 20
        assert np.array_equal(data.inputs[:, pixel], images[:, -1, 3, 20])


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", READ)
def test_missing_files_are_those_of_a_part_that_the_folder_lacks(name, part, tmp_path, monkeypatch):
    source = SOURCES[name]
    files = source.files if part == "train" else source.test_files
    assert source.missing_files(None, part) == source.missing_files(tmp_path, part) == list(files)
    write(name, tmp_path, part, monkeypatch)
    # They are all the files that the part has, so nothing is asked for that it could do without.
    assert sorted(files) == sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert source.missing_files(tmp_path, part) == []
    read = reader_of(name, part)
    read(tmp_path)
    for file in files:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).unlink()
        assert source.missing_files(tmp_path, part) == [file]
        with pytest.raises((OSError, RuntimeError)):
            read(tmp_path)
        (tmp_path / file).mkdir()  # a folder is no file
        assert source.missing_files(tmp_path, part) == [file]
        (tmp_path / file).rmdir()
        (tmp_path / file).write_bytes(content)


@pytest.mark.parametrize("name", READ)
def test_files_are_missing_of_the_training_part_unless_told_otherwise(name, tmp_path, monkeypatch):
    source = SOURCES[name]
    write(name, tmp_path, "test", monkeypatch)
    assert source.missing_files(tmp_path, "test") == []
    own = [file for file in source.files if file not in source.test_files]
    assert source.missing_files(tmp_path) == source.missing_files(tmp_path, "train") == own != []
    write(name, tmp_path, "train", monkeypatch)
    assert source.missing_files(tmp_path) == []


@pytest.mark.parametrize("part", ["train", "test"])
def test_whether_files_are_there_is_seen_without_opening_them(part, tmp_path, monkeypatch):
    """A named pipe is no file, and opening one would wait for ever; a file of nonsense is one."""
    source = SOURCES["mnist"]
    files = source.files if part == "train" else source.test_files
    write("mnist", tmp_path, part, monkeypatch)
    (tmp_path / files[0]).unlink()
    os.mkfifo(tmp_path / files[0])
    (tmp_path / files[1]).write_bytes(b"")
    assert source.missing_files(tmp_path, part) == [files[0]]


CHECKED = [(name, file) for name in ("cifar10", "cifar100", "svhn") for file in SOURCES[name].files]


@pytest.mark.parametrize(("name", "file"), CHECKED)
def test_a_file_in_which_one_bit_is_wrong_is_refused(name, file, tmp_path, monkeypatch):
    write(name, tmp_path, "train", monkeypatch)
    content = bytearray((tmp_path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(RuntimeError, match="corrupted"):
        SOURCES[name].read(tmp_path, False, None)


def test_a_letter_that_lies_transposed_in_its_file_comes_out_upright(tmp_path):
    drawn = np.zeros((28, 28), dtype=np.uint8)
    drawn[4:25, 8] = 255  # an L: down its left side,
    drawn[24, 8:19] = 255  # then along the bottom to the right
    stored = np.zeros_like(drawn)
    for i in range(28):
        for j in range(28):
            stored[j, i] = drawn[i, j]
    folder = tmp_path / "EMNIST" / "raw"
    write_idx(folder / "emnist-letters-train-images-idx3-ubyte", stored[None])
    write_idx(folder / "emnist-letters-train-labels-idx1-ubyte", np.array([12]))  # the twelfth letter
    inputs, labels = SOURCES["emnist-letters"].read(tmp_path, False, None)
    assert np.array_equal(inputs[0, 0], drawn)
    assert SOURCES["emnist-letters"].classes[labels[0]] == "l"


def test_letters_and_cifars_classes_have_the_names_of_their_makers():
    from torchvision import datasets as torchvisions

    assert list(SOURCES["emnist-letters"].classes) == torchvisions.EMNIST.classes_split_dict["letters"][1:]
    cifar = "airplane automobile bird cat deer dog frog horse ship truck"
    assert SOURCES["cifar10"].classes == tuple(cifar.split())


def test_the_house_number_zero_is_stored_as_ten_and_read_as_zero(tmp_path, monkeypatch):
    from scipy.io import loadmat

    write("svhn", tmp_path, "train", monkeypatch)
    stored = loadmat(tmp_path / "train_32x32.mat")["y"]
    assert stored.shape == (20, 1)
    assert sorted(set(stored.flatten().tolist())) == list(range(1, 11))
    _, found = SOURCES["svhn"].read(tmp_path, False, None)
    assert np.array_equal(found[stored[:, 0] == 10], [0, 0])


def test_a_source_is_read_once_per_process(tmp_path, monkeypatch):
    write("mnist", tmp_path, "train", monkeypatch)
    for name, root in (("digits", None), ("mnist", tmp_path)):
        first = training_data(SOURCES[name], root)
        assert isinstance(first, Data)
        assert training_data(SOURCES[name], root) is first
        # Workers get sources pickled.
        assert training_data(pickle.loads(pickle.dumps(SOURCES[name])), root) is first


# --- folders of images ---

GREY, COLOUR = (1, 5, 4), (3, 5, 4)


def pets(shape=COLOUR, each=10):
    return {name: random_images(each + k, shape, seed=k) for k, name in enumerate(("cats", "dogs", "eels"))}


def label_of(images):
    """Image -> class, as all of them differ."""
    return {image.tobytes(): name for name, own in images.items() for image in own}


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_a_folder_is_a_source_of_its_classes_and_its_images_shape(shape, tmp_path, image_cache):
    images = pets(shape)
    write_images(tmp_path, images)
    source = folder_source(tmp_path, None, None, None)
    assert (source.classes, source.shape) == (("cats", "dogs", "eels"), shape)
    assert (source.maximum, source.groups) == (255, None)
    assert source.missing_files(None) == source.missing_files(None, "test") == []
    data = read_data(source, None)
    assert data.inputs.shape == (len(data.labels), np.prod(shape))
    assert (data.inputs.dtype, data.labels.dtype) == (np.uint8, np.int64)
    known = label_of(images)
    assert [known[row.tobytes()] for row in data.inputs] == [source.classes[label] for label in data.labels]
    # 80 % of each class, the rest being test data.
    assert np.bincount(data.labels).tolist() == [8, 9, 10]
    assert len({row.tobytes() for row in data.inputs}) == 27


def test_all_of_train_is_training_data_where_test_lies_beside_it(tmp_path, image_cache):
    images = pets()
    write_images(tmp_path / "train", images)
    write_images(tmp_path / "test", pets(each=2))
    data = read_data(folder_source(tmp_path, None, None, None), None)
    assert np.array_equal(data.inputs, np.concatenate(list(images.values())).reshape(33, -1))
    assert data.labels.tolist() == [0] * 10 + [1] * 11 + [2] * 12


def test_classes_asked_for_are_labelled_in_that_order(tmp_path, image_cache):
    images = pets()
    write_images(tmp_path / "train", images)
    source = folder_source(tmp_path, ("eels", "cats"), None, None)
    assert source.classes == ("eels", "cats")
    data = read_data(source, None)
    assert np.array_equal(data.inputs, np.concatenate([images["eels"], images["cats"]]).reshape(22, -1))
    assert data.labels.tolist() == [0] * 12 + [1] * 10


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [(None, None, (3, 5, 4)), (7, None, (3, 7, 7)), (None, 1, (1, 5, 4)), (4, 1, (1, 4, 4)), (6, 3, (3, 6, 6))],
)
def test_the_shape_is_known_before_images_are_read_and_is_what_they_get(size, channels, shape, tmp_path, image_cache):
    write_images(tmp_path, pets())
    source = folder_source(tmp_path, None, size, channels)
    assert source.shape == shape
    inputs, _ = source.read(None, False, None)
    assert inputs.shape == (27, *shape)
    assert read_data(source, None).inputs.shape == (27, np.prod(shape))


def replaced(folder: Path) -> None:
    write_images(folder, {"cats": random_images(1, COLOUR, seed=99)})


def touched(folder: Path) -> None:
    os.utime(folder / "cats" / "000.png", ns=(1, 1))


def added(folder: Path) -> None:
    (folder / "dogs" / "new.png").write_bytes((folder / "dogs" / "000.png").read_bytes())


def removed(folder: Path) -> None:
    (folder / "eels" / "000.png").unlink()


@pytest.mark.parametrize("change", [replaced, touched, added, removed])
def test_images_that_changed_since_the_study_began_are_refused(change, tmp_path, image_cache):
    folder = tmp_path / "train"
    write_images(folder, pets())
    source = folder_source(tmp_path, None, None, None)
    read_data(source, None)  # also where they are in the cache already
    change(folder)
    with pytest.raises(ConfigError) as caught:
        read_data(source, None)
    assert caught.value.problems == [f"benchmark: the images must not change while a study runs; got folder:{tmp_path}"]
    # A study that begins now reads them as they are now.
    assert len(read_data(folder_source(tmp_path, None, None, None), None).inputs) in (32, 33, 34)


def test_what_images_are_does_not_depend_on_where_they_lie(tmp_path, image_cache):
    first, second = tmp_path / "here", tmp_path / "there" / "deeper"
    write_images(first, pets())
    write_images(second, pets())
    identities = [folder_source(folder, None, None, None).identity for folder in (first, second)]
    assert identities[0] == identities[1] != ""
    added(second)
    assert folder_source(second, None, None, None).identity != identities[0]
    assert folder_source(first, ("cats", "dogs"), None, None).identity != identities[0]


def test_progress_counts_the_images_that_are_decoded_and_none_that_the_cache_has(tmp_path, image_cache):
    write_images(tmp_path / "train", pets())
    source, told = folder_source(tmp_path, None, None, None), []
    read_data(source, None, progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (33, 33)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(told))
    told.clear()
    read_data(source, None, progress=lambda *numbers: told.append(numbers))
    assert told == []


def test_images_and_labels_that_differ_in_number_are_refused(tmp_path):
    write_mnist(tmp_path, "train", per_class=2, seed=0)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(7))
    with pytest.raises(ValueError, match="20 images and 7 labels"):
        read_data(SOURCES["mnist"], tmp_path)


def test_a_source_with_files_says_what_it_needs_where_it_has_no_folder():
    with pytest.raises(FileNotFoundError, match="data_root: MNIST needs the folder of its files; got none"):
        read_data(SOURCES["mnist"], None)
