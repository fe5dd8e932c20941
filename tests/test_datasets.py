"""Training data of the sources; MNIST from real IDX files."""

import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from clsearch.core.datasets import SOURCES, digits_cut, read_digits, read_torchvision, training_data
from tests.helpers import write_idx, write_mnist


def test_training_and_test_part_of_the_digits_are_disjoint_and_together_everything():
    train, test = digits_cut(load_digits().target)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(range(1797))


def test_twenty_percent_of_each_digit_are_test_data():
    _, train = read_digits("train")
    _, test = read_digits("test")
    held, all_of_them = test.bincount(), train.bincount() + test.bincount()
    assert len(all_of_them) == 10
    assert ((held - 0.2 * all_of_them).abs() <= 0.5).all()


@pytest.mark.parametrize("part", ["train", "test"])
def test_digits_are_scikit_learns_images_with_their_labels(part):
    inputs, labels = read_digits(part)
    images, targets = load_digits(return_X_y=True)
    rows = digits_cut(targets)[0 if part == "train" else 1]
    assert torch.equal(inputs, torch.from_numpy(images[rows].reshape(-1, 8, 8)).to(torch.uint8))
    assert torch.equal(labels, torch.from_numpy(targets[rows]))
    assert inputs.max() == SOURCES["digits"].maximum


def test_the_digits_cut_is_the_same_every_time():
    labels = load_digits().target
    first, second = digits_cut(labels), digits_cut(labels)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    # Published numbers hang on this cut: these are its first test rows.
    assert first[1][:5].tolist() == [2, 5, 8, 14, 18]


def test_an_idx_file_has_the_header_that_mnist_documents(tmp_path):
    write_idx(tmp_path / "images", np.zeros((3, 28, 28)))
    write_idx(tmp_path / "labels", np.zeros(3))
    assert (tmp_path / "images").read_bytes()[:16] == struct.pack(">4i", 2051, 3, 28, 28)
    assert (tmp_path / "labels").read_bytes()[:8] == struct.pack(">2i", 2049, 3)


def test_mnist_training_data_is_read_where_the_test_files_do_not_exist(tmp_path):
    images, labels = write_mnist(tmp_path, "train", per_class=3, seed=1)
    assert not list(tmp_path.rglob("t10k*"))
    inputs, read = training_data("mnist", tmp_path)
    assert torch.equal(inputs, images.flatten(1))
    assert torch.equal(read, labels)
    assert (inputs.dtype, read.dtype) == (torch.uint8, torch.int64)


def test_mnist_test_data_is_read_where_the_training_files_do_not_exist(tmp_path):
    images, labels = write_mnist(tmp_path, "t10k", per_class=2, seed=2)
    inputs, read = read_torchvision("MNIST", "test", tmp_path, download=False)
    assert torch.equal(inputs, images)
    assert torch.equal(read, labels)


def test_missing_files_are_those_that_the_folder_lacks(tmp_path):
    mnist = SOURCES["mnist"]
    both = ["MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"]
    assert mnist.missing_files(None) == both
    assert mnist.missing_files(tmp_path) == both
    write_mnist(tmp_path, "train", per_class=1, seed=0)
    assert mnist.missing_files(tmp_path) == []
    (tmp_path / both[1]).unlink()
    assert mnist.missing_files(tmp_path) == both[1:]


def test_digits_need_no_files():
    assert SOURCES["digits"].missing_files(None) == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_tells_classes_and_shape_of_what_is_read(name, tmp_path):
    write_mnist(tmp_path, "train", per_class=1, seed=0)
    inputs, labels = SOURCES[name].read(tmp_path, False)
    assert inputs.shape[1:] == SOURCES[name].shape
    assert labels.unique().tolist() == list(range(SOURCES[name].classes))


def test_a_source_is_read_once_per_process():
    assert training_data("digits", None)[0] is training_data("digits", None)[0]
