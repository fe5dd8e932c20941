"""Test data, seen as each task shows it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clsearch.common.errors import ConfigError
from clsearch.data.datasets import SOURCES, Digits
from clsearch.methods.registry import configure
from clsearch.tasks import test_data as held_out
from clsearch.tasks.benchmark import build_benchmark, classes_of
from clsearch.tasks.test_data import read_test, sealed_reader, sealed_samples
from clsearch.tasks.transforms import PixelOrder, Rotation
from tests.helpers import CPU, beyond, random_images, same_samples, write_idx, write_images, write_mnist, write_part
from tests.helpers import everything as everything_of

SEEDS = (3, 4)


def tasks_and_tests(sequence=None, **settings):
    config = configure("finetuning", {"epochs": 1} | settings)
    benchmark = build_benchmark(config, SEEDS, CPU, sequence=sequence)
    return list(zip(benchmark.tasks, sealed_samples(config, benchmark, read_test(config)), strict=True))


def everything(samples):
    (batch,) = samples.in_order(100_000)
    assert batch.valid is None
    return samples.take(batch.positions)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("benchmark", ["split-mnist", "permuted-mnist", "rotated-mnist"])
def test_mnist_test_samples_are_the_t10k_files_mapped_as_the_task_maps(tmp_path, benchmark, scenario):
    write_mnist(tmp_path, "train", per_class=10, seed=0)
    images, labels = write_mnist(tmp_path, "t10k", per_class=3, seed=1)
    pairs = tasks_and_tests(benchmark=benchmark, scenario=scenario, tasks=2, data_root=tmp_path)
    for index, (task, samples) in enumerate(pairs):
        split = benchmark == "split-mnist"
        members = range(5 * index, 5 * index + 5) if split else range(10)
        # Added to a class of the source: minus the task's first class, nothing, or a block per task.
        offset = -members[0] if scenario == "domain" else 0 if split else 10 * index
        own = torch.isin(labels, torch.tensor(members))
        inputs, outputs = everything(samples)
        for m in range(len(SEEDS)):
            assert torch.equal(outputs[m], labels[own] + offset)
            pixels = images[own].flatten(1) / 255
            if isinstance(task.train.view, PixelOrder):
                pixels = pixels[:, task.train.view.order[m]]
            elif task.train.view is not None:
                pixels = Rotation(task.train.view.grid[m : m + 1])(pixels[None])[0]
            torch.testing.assert_close(inputs[m], pixels, rtol=0, atol=1e-6 if "rotated" in benchmark else 0)
        assert set(outputs.unique().tolist()) == set(task.classes)
        assert (task.train.view is None) == (split or index == 0)


def test_the_pixel_permutation_of_a_later_task_is_not_the_first_tasks():
    (_, first), (_, second) = tasks_and_tests(benchmark="permuted-digits", tasks=2)
    a, b = everything(first)[0], everything(second)[0]
    assert not torch.equal(a, b)
    assert torch.equal(a.sort(-1).values, b.sort(-1).values)


def test_all_digits_held_out_come_up_once_for_every_member():
    inputs, labels = map(torch.from_numpy, Digits("test")())
    found = torch.cat([everything(samples)[0] for _, samples in tasks_and_tests()], 1)
    for m in range(len(SEEDS)):
        assert sorted(map(tuple, found[m].tolist())) == sorted(map(tuple, (inputs.flatten(1) / 16).tolist()))
    assert found.shape[1] == len(labels)


@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "task", "classes_per_task": (2, 3, 4)},
        {"scenario": "class", "classes_per_task": (2, 3, 5)},
        {"scenario": "domain"},
    ],
)
def test_each_member_is_tested_on_its_own_classes_where_their_order_is_shuffled(settings):
    images, labels = map(torch.from_numpy, Digits("test")())
    settings = {"class_order": "shuffled", **settings}
    config = configure("finetuning", {"epochs": 1} | settings)
    sizes = []
    for task, samples in tasks_and_tests(**settings):
        for m, seed in enumerate(SEEDS):
            own = classes_of(config, task.index, seed)
            rows = [row for row, label in enumerate(labels.tolist()) if label in own]
            inputs, outputs = everything_of(samples, m)
            assert torch.equal(inputs, images[rows].flatten(1) / 16)
            assert outputs.tolist() == [task.classes[own.index(label)] for label in labels[rows].tolist()]
            assert samples.sizes[m] == len(rows)
        sizes.append(samples.sizes)
    assert len({size for pair in sizes for size in pair}) > 2  # members and tasks differ in size


def test_no_test_sample_is_training_or_validation_data():
    images, _ = Digits("test")()
    held = {tuple(image.ravel().tolist()) for image in images}
    config = configure("finetuning", {"epochs": 1, "class_order": "shuffled"})
    used = {
        tuple((16 * x).int().tolist())
        for task in build_benchmark(config, SEEDS, CPU).tasks
        for part in (task.train, task.validation)
        for x in everything_of(part, 0)[0]
    }
    assert len(used) > 1400
    assert len(held & used) == 0


# --- some of the tasks ---

UNEQUAL = {"class_order": "shuffled", "classes_per_task": (2, 3, 2, 3)}


@pytest.mark.parametrize("sequence", [(1, 2), (3, 4), (1, 3)])
@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "task", **UNEQUAL},
        {"scenario": "class", **UNEQUAL},
        {"scenario": "domain", "tasks": 5},
        {"benchmark": "permuted-digits", "tasks": 4},
        {"benchmark": "rotated-digits", "tasks": 4, "scenario": "class"},
    ],
)
def test_test_samples_of_a_sequence_are_those_of_its_tasks_among_all(settings, sequence):
    whole, some = tasks_and_tests(**settings), tasks_and_tests(sequence, **settings)
    assert len(some) == len(sequence)
    for origin, (_, samples) in zip(sequence, some, strict=True):
        assert same_samples(samples, whole[origin - 1][1])
    first = some[0][1]
    assert not any(
        same_samples(first, samples) for number, (_, samples) in enumerate(whole, 1) if number != sequence[0]
    )


def test_classes_of_tasks_beyond_a_sequence_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(held_out, "classes_of", beyond(2, held_out.classes_of))
    (_, first), (_, second) = tasks_and_tests((1, 2), **UNEQUAL)
    _, labels = Digits("test")()
    config = configure("finetuning", {"epochs": 1} | UNEQUAL)
    for index, samples in enumerate((first, second), start=1):
        for m, seed in enumerate(SEEDS):
            found = labels[samples.rows[m, : samples.sizes[m]]]
            assert set(found.tolist()) == set(classes_of(config, index, seed))
    with pytest.raises(AssertionError, match="task 3 was looked at"):
        tasks_and_tests((1, 2, 3), **UNEQUAL)


# --- the sources' test parts ---


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].test_files])
def test_the_test_files_of_a_source_are_all_that_its_test_part_needs(name, tmp_path, monkeypatch):
    images, labels = write_part(name, tmp_path, "test", monkeypatch)
    config = configure("finetuning", {"epochs": 1, "benchmark": f"split-{name}", "data_root": tmp_path})
    written = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert sorted(config.source.test_files) == written
    assert config.source.missing_files(tmp_path, "test") == []
    test = read_test(config)
    assert test.source is config.source
    assert np.array_equal(test.inputs, images.reshape(len(images), -1))
    assert np.array_equal(test.labels, labels)
    for file in config.source.test_files:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).unlink()
        assert config.source.missing_files(tmp_path, "test") == [file]
        with pytest.raises((OSError, RuntimeError)):
            read_test(config)
        (tmp_path / file).write_bytes(content)


def test_test_images_and_labels_that_differ_in_number_are_refused(tmp_path):
    write_mnist(tmp_path, "t10k", per_class=2, seed=0)
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.zeros(7))
    config = configure("finetuning", {"epochs": 1, "benchmark": "split-mnist", "data_root": tmp_path})
    with pytest.raises(ValueError, match=r"^20 test images and 7 labels$"):
        read_test(config)


# --- folders of images ---


def folder_of(*places, shapes=((3, 5, 4), (3, 5, 4))):
    """Images of four classes below each place, all different. Returns image -> class of each place."""
    known = []
    for seed, (place, shape) in enumerate(zip(places, shapes, strict=False)):
        images = {name: random_images(10, shape, seed=10 * seed + i) for i, name in enumerate("dcba")}
        write_images(place, images)
        known.append({image.tobytes(): name for name, own in images.items() for image in own})
    return known


def images_of(samples, m):
    """[n] the images of a member as bytes, and their labels."""
    inputs, labels = everything_of(samples, m)
    return [image.astype("uint8").tobytes() for image in (255 * inputs).round().numpy()], labels.tolist()


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_training_validation_and_test_images_of_a_folder_are_disjoint_and_together_all(
    scenario, order, tmp_path, image_cache
):
    (known,) = folder_of(tmp_path)
    settings = {"benchmark": f"folder:{tmp_path}", "scenario": scenario, "class_order": order}
    config = configure("finetuning", {"epochs": 1} | settings)
    pairs = tasks_and_tests(**settings)
    for m, seed in enumerate(SEEDS):
        found = []
        for task, samples in pairs:
            names = [config.source.classes[c] for c in classes_of(config, task.index, seed)]
            for part, of_each in ((task.train, 7), (task.validation, 1), (samples, 2)):
                images, labels = images_of(part, m)
                assert [known[image] for image in images] == [names[task.classes.index(label)] for label in labels]
                assert len(images) == 2 * of_each
                found += images
        assert sorted(found) == sorted(known)


def test_test_images_are_those_of_test_where_a_folder_has_one(tmp_path, image_cache):
    train, test = folder_of(tmp_path / "train", tmp_path / "test")
    for task, samples in tasks_and_tests(benchmark=f"folder:{tmp_path}"):
        for m in range(len(SEEDS)):
            used = [image for part in (task.train, task.validation) for image in images_of(part, m)[0]]
            held, labels = images_of(samples, m)
            assert set(used) <= set(train)
            assert len(set(used)) == len(used) == 20
            assert ["abcd".index(test[image]) for image in held] == labels
            assert len(set(held)) == 20


def test_test_images_have_the_size_and_the_channels_of_training_images_that_were_asked_for(tmp_path, image_cache):
    folder_of(tmp_path / "train", tmp_path / "test", shapes=((3, 5, 4), (1, 9, 7)))
    pairs = tasks_and_tests(benchmark=f"folder:{tmp_path}", image_size=4, image_channels=1)
    for _, samples in pairs:
        assert everything_of(samples, 0)[0].shape == (20, 16)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 5, 4), (3, 5, 5)])
def test_test_images_of_another_shape_are_refused(shape, tmp_path, image_cache):
    folder_of(tmp_path / "train", tmp_path / "test", shapes=((3, 5, 4), shape))
    with pytest.raises(ConfigError) as caught:
        tasks_and_tests(benchmark=f"folder:{tmp_path}")
    got = " x ".join(map(str, shape))
    assert caught.value.problems == [
        f"benchmark: test images must have the shape of training images, 3 x 5 x 4; got {got}"
    ]


def test_a_grouping_decides_the_test_images_of_each_task(tmp_path, image_cache):
    _, test = folder_of(tmp_path / "train", tmp_path / "test")
    (tmp_path / "groups.txt").write_text("d, a\nc, b\n")
    pairs = tasks_and_tests(
        benchmark=f"folder:{tmp_path}", grouping=tmp_path / "groups.txt", scenario="class", data_root=tmp_path
    )
    for names, (_, samples) in zip(("da", "cb"), pairs, strict=True):
        images, labels = images_of(samples, 0)
        assert {test[image] for image in images} == set(names)
        assert ["dacb".index(test[image]) for image in images] == labels
        assert len(images) == 20


def test_a_reader_that_nobody_knows_is_an_error():
    config = configure("finetuning", {"epochs": 1})
    strange = replace(config.source, read=lambda root, download, progress: None)
    with pytest.raises(TypeError, match="must be read by one of the known readers"):
        sealed_reader(configure("finetuning", {"epochs": 1}, source=strange))


def test_the_reader_of_test_data_is_that_of_the_training_data_for_the_other_part(tmp_path, image_cache):
    folder_of(tmp_path)
    for benchmark in ("split-digits", "rotated-mnist", "split-svhn", f"folder:{tmp_path}"):
        config = configure("finetuning", {"epochs": 1, "benchmark": benchmark})
        train, test = config.source.read, sealed_reader(config)
        assert (train.part, test.part) == ("train", "test")
        assert replace(test, part="train", **({"key": train.key} if hasattr(train, "key") else {})) == train
