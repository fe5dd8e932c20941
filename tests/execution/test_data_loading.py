"""A study's data, read once before the search: real files, a mirror on loopback, images that Pillow wrote."""

import gzip
import hashlib
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from clsearch.common.errors import ConfigError
from clsearch.data.datasets import SOURCES, read_data
from clsearch.execution.data_loading import load
from clsearch.execution.sealed_data import fetch_test
from tests.builders import closed_port, plan_of, write_images
from tests.helpers import write_mnist

RAW = "MNIST/raw"
IMAGES, LABELS = f"{RAW}/train-images-idx3-ubyte", f"{RAW}/train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLSEARCH_CACHE", str(folder))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def mnist_plan(tmp_path, root, **settings):
    return plan_of(tmp_path / "out", benchmark="split-mnist", data_root=root, **settings)


def folder_plan(tmp_path, folder, **settings):
    return plan_of(tmp_path / "out", benchmark=f"folder:{folder}", **settings)


def refusal(plan):
    """The one problem for which a plan's data cannot be loaded."""
    with pytest.raises(ConfigError) as refused:
        load(plan)
    (problem,) = refused.value.problems
    assert "\n" not in problem
    return problem


# Data sets that have a name


def test_the_digits_are_those_of_their_source_and_nothing_is_said(tmp_path, capsys):
    data, expected = load(plan_of(tmp_path)), read_data(SOURCES["digits"], None)
    assert data.source == SOURCES["digits"]
    assert data.inputs.shape == (len(data.labels), 64)
    assert np.array_equal(data.inputs, expected.inputs)
    assert np.array_equal(data.labels, expected.labels)
    assert capsys.readouterr() == ("", "")


def test_files_are_read_as_they_were_written_and_nothing_is_said(tmp_path, root, capsys):
    images, labels = write_mnist(root, "train", per_class=5, seed=0)
    data = load(mnist_plan(tmp_path, root))
    assert np.array_equal(data.inputs, images.flatten(1).numpy())
    assert np.array_equal(data.labels, labels.numpy())
    assert (data.inputs.dtype, data.labels.dtype) == (np.uint8, np.int64)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("kept", [0, 3, 4, 8, 15, 17, -1])
def test_a_file_that_ends_too_early_is_refused_with_the_rule_and_the_folder(tmp_path, root, name, kept):
    write_mnist(root, "train", per_class=5, seed=0)
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[:kept])
    problem = refusal(mnist_plan(tmp_path, root))
    assert problem.startswith("data_root: the files of split-mnist must be whole; got: ")
    assert str(root) in problem


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_file_that_holds_something_else_is_refused(tmp_path, root, name):
    write_mnist(root, "train", per_class=5, seed=0)
    (root / name).write_bytes(b"<html>This mirror has moved.</html>")
    problem = refusal(mnist_plan(tmp_path, root))
    assert (problem.field, problem.rule) == ("data_root", "data-files-whole")


@pytest.mark.parametrize("labels_per_class", [4, 6])
def test_labels_of_other_images_are_refused(tmp_path, root, labels_per_class):
    write_mnist(root, "train", per_class=labels_per_class, seed=0)
    labels = (root / LABELS).read_bytes()
    write_mnist(root, "train", per_class=5, seed=0)
    (root / LABELS).write_bytes(labels)
    problem = refusal(mnist_plan(tmp_path, root))
    assert (problem.field, problem.rule) == ("data_root", "data-files-whole")


# Downloads


@contextmanager
def mirror(files):
    """A loopback server of files by name; gives its address and the names that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.rpartition("/")[2])
            content = files.get(asked[-1])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def published(monkeypatch, folder):
    """Lets torchvision expect the files below a folder as MNIST's; gives them by the names of their archives."""
    files = {f"{path.name}.gz": gzip.compress(path.read_bytes(), mtime=0) for path in (folder / RAW).iterdir()}
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    return files


def test_missing_files_are_downloaded_of_the_training_part_alone(tmp_path, root, monkeypatch):
    images, labels = write_mnist(tmp_path / "origin", "train", per_class=5, seed=0)
    write_mnist(tmp_path / "origin", "t10k", per_class=2, seed=1)
    with mirror(published(monkeypatch, tmp_path / "origin")) as (address, asked):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        data = load(mnist_plan(tmp_path, root, download=True))
    assert {*asked} == {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"}
    assert np.array_equal(data.inputs, images.flatten(1).numpy())
    assert np.array_equal(data.labels, labels.numpy())


def test_files_that_are_there_are_not_downloaded_again(tmp_path, root, monkeypatch):
    write_mnist(root, "train", per_class=5, seed=0)
    with mirror({}) as (address, asked):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        assert len(load(mnist_plan(tmp_path, root, download=True)).labels) == 50
    assert asked == []


def test_a_download_that_reaches_nothing_is_refused(tmp_path, root, monkeypatch):
    with closed_port() as port:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        problem = refusal(mnist_plan(tmp_path, root, download=True))
    assert problem.startswith("download: the files of mnist must be reachable; got: ")
    assert "train-images-idx3-ubyte.gz" in problem
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_download_of_other_files_is_refused_and_leaves_none(tmp_path, root, monkeypatch):
    write_mnist(tmp_path / "origin", "train", per_class=5, seed=0)
    files = published(monkeypatch, tmp_path / "origin")
    with mirror(dict.fromkeys(files, b"<html>This mirror has moved.</html>")) as (address, _):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        plan = mnist_plan(tmp_path, root, download=True)
        assert refusal(plan).startswith("download: the files of mnist must be reachable; got: ")
    assert plan.config.source.missing_files(root) == [IMAGES, LABELS]


# The benchmark that two_phase reports on


def two_phase(tmp_path, root, **settings):
    return plan_of(tmp_path / "out", protocol="two_phase", report_benchmark="split-mnist", data_root=root, **settings)


def test_the_search_is_given_its_own_data_and_not_those_that_are_reported_on(tmp_path, root, capsys):
    write_mnist(root, "train", per_class=5, seed=0)
    data, expected = load(two_phase(tmp_path, root)), read_data(SOURCES["digits"], None)
    assert data.source == SOURCES["digits"]
    assert np.array_equal(data.inputs, expected.inputs)
    assert capsys.readouterr() == ("", "")


def test_data_that_are_reported_on_must_be_whole_before_the_search(tmp_path, root):
    write_mnist(root, "train", per_class=5, seed=0)
    (root / IMAGES).write_bytes((root / IMAGES).read_bytes()[:-1])
    problem = refusal(two_phase(tmp_path, root))
    assert (problem.field, problem.rule) == ("data_root", "data-files-whole")
    assert load(two_phase(tmp_path, root, final=False)).source == SOURCES["digits"]


@pytest.mark.parametrize(("fetch", "planned", "prefix"), [(load, two_phase, "train"), (fetch_test, mnist_plan, "t10k")])
def test_each_part_is_downloaded_apart_once_and_only_where_a_final_evaluation_needs_it(
    tmp_path, root, monkeypatch, fetch, planned, prefix
):
    """Of the benchmark that is reported on, training data before the search; test data by `fetch_test` alone."""
    for part in ("train", "t10k"):
        write_mnist(tmp_path / "origin", part, per_class=5, seed=0)
    with mirror(published(monkeypatch, tmp_path / "origin")) as (address, asked):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        fetch(planned(tmp_path, root, download=True, final=False))
        assert asked == []
        fetch(planned(tmp_path, root, download=True))
        assert {*asked} == {f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"}
        asked.clear()
        fetch(planned(tmp_path, root, download=True))
        assert asked == []  # they are there now


def test_a_download_of_test_files_that_reaches_nothing_is_refused(tmp_path, root, monkeypatch):
    with closed_port() as port:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        with pytest.raises(ConfigError, match=r"^download: the files of mnist must be reachable; got: "):
            fetch_test(mnist_plan(tmp_path, root, download=True))


# Images of one's own


def test_images_are_decoded_once_and_then_read_from_the_cache_in_silence(tmp_path, cache, capsys):
    folder = write_images(tmp_path / "pets", count=10)
    first = load(folder_plan(tmp_path, folder))
    assert capsys.readouterr() == ("", "decoding 48 images\n")  # 2 of each class are test data
    assert len(list(cache.rglob("*.npy"))) == 1
    second = load(folder_plan(tmp_path, folder))
    assert capsys.readouterr() == ("", "")
    assert second.source == first.source
    assert np.array_equal(second.inputs, first.inputs)
    assert np.array_equal(second.labels, first.labels)


def test_loaded_images_are_the_files_of_the_training_part(tmp_path):
    folder = write_images(tmp_path / "pets" / "train", count=6, mode="RGB")
    write_images(tmp_path / "pets" / "test", count=2, mode="RGB", seed=1)
    data = load(folder_plan(tmp_path, folder.parent))
    files = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    assert np.array_equal(data.inputs.reshape(36, 3, 8, 8), np.stack(files).transpose(0, 3, 1, 2))
    assert data.labels.tolist() == np.repeat(range(6), 6).tolist()
    assert data.source.classes == tuple("abcdef")


def test_on_a_terminal_a_bar_is_shown_in_place_of_the_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    load(folder_plan(tmp_path, write_images(tmp_path / "pets")))
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoding images" in err
    assert "24/24" in err
    assert "decoding 24 images" not in err


def test_a_corrupt_image_is_named_and_nothing_is_cached(tmp_path, cache):
    folder = write_images(tmp_path / "pets", count=10)
    (folder / "b" / "003.png").write_bytes((folder / "b" / "003.png").read_bytes()[:60])
    plan = folder_plan(tmp_path, folder)
    problem = refusal(plan)
    assert problem.startswith("benchmark: every image must be readable; got b/003.png (")
    assert list(cache.rglob("*.npy")) == []


def test_all_that_is_wrong_with_images_is_told_at_once(tmp_path):
    folder = write_images(tmp_path / "pets", count=5)
    write_images(folder, ["g"], count=5, mode="RGB")
    write_images(folder, ["h"], count=5, side=9)
    with pytest.raises(ConfigError) as refused:
        load(folder_plan(tmp_path, folder))
    sizes, channels = refused.value.problems
    assert sizes.startswith("benchmark: images must have one size, or give --image-size; got 28 8x8 (")
    assert channels.startswith("benchmark: images must be all grey or all colour, or give --image-channels 1 or 3; got")
    data = load(folder_plan(tmp_path, folder, image_size=8, image_channels=3))
    assert data.inputs.shape == (32, 3 * 8 * 8)


def test_images_that_change_after_the_plan_was_made_are_refused(tmp_path):
    folder = write_images(tmp_path / "pets")
    plan = folder_plan(tmp_path, folder)
    write_images(folder, ["c"], count=6)
    assert refusal(plan) == f"benchmark: the images must not change while a study runs; got folder:{folder}"


def test_a_folder_that_is_gone_is_refused(tmp_path):
    folder = write_images(tmp_path / "pets")
    plan = folder_plan(tmp_path, folder)
    shutil.rmtree(folder)
    assert refusal(plan) == f"benchmark: the folder must exist; got folder:{folder}"


def test_a_cache_that_cannot_be_written_is_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "file"))
    problem = refusal(folder_plan(tmp_path, write_images(tmp_path / "pets")))
    assert problem.startswith("cache: must be a writable folder with free space, or set CLSEARCH_CACHE")
    assert str(tmp_path / "file") in problem
