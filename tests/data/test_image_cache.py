"""Decoding a folder's images once, from real files of many formats."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clsearch.data import image_cache
from clsearch.data.image_cache import cache_folder, decode_images, read_header
from clsearch.data.image_folder import list_images
from tests.pictures import fill, names, picture, refusal, save


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLSEARCH_CACHE", str(folder))
    return folder / "images"


# Decoding


def channels_first(image):
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def test_lossless_images_are_decoded_exactly_in_the_order_of_the_labels(tmp_path):
    listing = list_images(fill(tmp_path, ("a", "b", "c"), 30, width=7, height=5))
    inputs = decode_images(listing, None, None)
    assert (inputs.shape, inputs.dtype) == ((72, 3, 5, 7), np.uint8)
    for row, name in zip(inputs, names(listing), strict=True):
        assert np.array_equal(row, channels_first(picture(width=7, height=5, seed=seed_of(name))))
    assert read_header(listing) == (3, 5, 7)


def seed_of(name):
    return 100 * "abc".index(name[0]) + int(name[2:4])


def test_scaled_images_cover_the_square_and_are_cropped_at_the_centre(tmp_path):
    fill(tmp_path, ("a",), width=31, height=17)
    fill(tmp_path, ("b",), width=9, height=40)
    listing = list_images(tmp_path)
    inputs = decode_images(listing, 8, 3)
    for row, name in zip(inputs, names(listing), strict=True):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(row, channels_first(ImageOps.fit(image, (8, 8), Image.Resampling.BILINEAR)))


def test_a_square_of_the_asked_size_is_not_touched(tmp_path):
    listing = list_images(fill(tmp_path, width=8, height=8))
    assert np.array_equal(decode_images(listing, 8, None), decode_images(listing, None, None))


def test_large_jpegs_are_scaled_as_if_decoded_in_full(tmp_path):
    y, x = np.mgrid[:200, :260]
    for c, i in np.ndindex(2, 5):
        wave = np.stack([np.sin(x / (20 + i)), np.cos(y / (15 + c)), np.sin((x + y) / 30)], axis=-1)
        save(tmp_path / "ab"[c] / f"{i}.jpg", Image.fromarray(np.uint8(127 + 120 * wave)))
    listing = list_images(tmp_path)
    for row, name in zip(decode_images(listing, 20, None), names(listing), strict=True):
        with Image.open(tmp_path / name) as image:
            full = channels_first(ImageOps.fit(image, (20, 20), Image.Resampling.BILINEAR))
        assert np.abs(row.astype(int) - full.astype(int)).max() <= 8


FORMS = {
    "grey": (lambda: picture("L"), 1),
    "grey and alpha": (lambda: picture("LA"), 1),
    "black and white": (lambda: picture("L").convert("1"), 1),
    "colour": (lambda: picture("RGB"), 3),
    "colour and alpha": (lambda: picture("RGBA"), 3),
    "palette": (lambda: picture("RGB").quantize(16), 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_image_becomes_grey_or_colour(tmp_path, form):
    make, channels = FORMS[form]
    for name, i in ((c, i) for c in "ab" for i in range(5)):
        save(tmp_path / name / f"{i}.png", make())
    listing = list_images(tmp_path)
    assert read_header(listing)[0] == channels
    for asked in (None, 1, 3):
        expected = channels_first(make().convert("L" if (asked or channels) == 1 else "RGB"))
        assert np.array_equal(decode_images(listing, None, asked)[0], expected)


def test_a_transparent_palette_is_converted_without_a_warning(tmp_path):
    fill(tmp_path)
    image = picture().quantize(16)
    image.save(tmp_path / "cats" / "00.png", transparency=bytes(range(16)))
    image.save(tmp_path / "dogs" / "00.png", transparency=bytes(range(16)))
    decode_images(list_images(tmp_path), None, 3)
    decode_images(list_images(tmp_path, "test"), None, 3)


def test_cmyk_jpegs_are_colour(tmp_path):
    fill(tmp_path, suffix="jpg", mode="RGB")
    picture("RGB").convert("CMYK").save(tmp_path / "cats" / names(list_images(tmp_path))[0][5:])
    assert read_header(list_images(tmp_path))[0] == 3
    assert decode_images(list_images(tmp_path), None, None).shape == (8, 3, 10, 12)


def test_images_that_are_not_alike_are_refused_with_what_to_give(tmp_path):
    fill(tmp_path / "train", ("a",), 6, width=10, height=9)
    fill(tmp_path / "train", ("b",), 5, width=4, height=3, mode="L")
    save(tmp_path / "train" / "b" / "odd.png", picture(width=99, height=9))
    listing = list_images(tmp_path)
    size = "benchmark: images must have one size, or give --image-size; got 6 10x9 (a/00.png), 5 4x3 (b/00.png)"
    channels = (
        "benchmark: images must be all grey or all colour, or give --image-channels 1 or 3; "
        "got 7 colour (a/00.png), 5 grey (b/00.png)"
    )
    assert refusal(decode_images, listing, None, None) == [size + " and 1 more", channels]
    assert refusal(decode_images, listing, 8, None) == [channels]
    assert refusal(decode_images, listing, None, 3) == [size + " and 1 more"]
    assert decode_images(listing, 8, 3).shape == (12, 3, 8, 8)


def test_all_unreadable_images_are_named_with_the_reason(tmp_path, cache):
    fill(tmp_path / "train", count=20, width=60, height=60)
    for i in range(12):
        (tmp_path / "train" / "dogs" / f"{i:02}.png").write_bytes(b"no image")
    cut_off = tmp_path / "train" / "cats" / "00.png"
    cut_off.write_bytes(cut_off.read_bytes()[:5000])
    listing = list_images(tmp_path)
    (tmp_path / "train" / "cats" / "01.png").unlink()
    first, *others = refusal(decode_images, listing, None, None)
    assert others == []
    assert first.startswith("benchmark: every image must be readable; got cats/00.png (")
    assert "truncated" in first
    assert "cats/01.png (No such file or directory), dogs/00.png (cannot identify image file), dogs/01.png" in first
    assert first.endswith("dogs/07.png (cannot identify image file) and 4 more")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_images_of_more_than_eight_bits_are_refused_with_file_and_mode(tmp_path):
    fill(tmp_path / "train", mode="L")
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500)
    deep.save(tmp_path / "train" / "cats" / "00.png")
    listing = list_images(tmp_path)
    with Image.open(tmp_path / "train" / "cats" / "00.png") as image:
        mode = image.mode  # I;16, or I in older versions of Pillow
    problem = [f"benchmark: images must have 8 bits per channel; got mode {mode} in cats/00.png"]
    assert read_header(listing) == (1, 10, 12)
    assert refusal(decode_images, listing, None, None) == problem
    assert refusal(decode_images, listing, 8, 3) == problem


def test_broken_images_are_all_named_wherever_they_lie_in_the_order(tmp_path):
    fill(tmp_path / "train")
    for name in ("cats/00", "cats/01", "dogs/03"):
        (tmp_path / "train" / f"{name}.png").write_bytes(b"no image")
    listing = list_images(tmp_path)
    assert read_header(listing) == (3, 10, 12)
    assert refusal(decode_images, listing, None, None) == [
        "benchmark: every image must be readable; got cats/00.png (cannot identify image file), "
        "cats/01.png (cannot identify image file), dogs/03.png (cannot identify image file)"
    ]


def test_where_no_image_can_be_read_all_are_named(tmp_path):
    for name, i in ((c, i) for c in "ab" for i in range(3)):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name / f"{i}.png").write_bytes(b"no image")
        (tmp_path / "train" / name / f"{i + 5}.png").touch()
    assert refusal(decode_images, list_images(tmp_path), None, None)[0].endswith(" and 2 more")


def test_progress_is_told_in_the_calling_thread_and_reaches_the_total(tmp_path):
    calls, threads = [], set()

    def progress(done, total):
        calls.append((done, total))
        threads.add(threading.get_ident())

    listing = list_images(fill(tmp_path, count=50, width=4, height=4))
    decode_images(listing, None, None, progress)
    assert calls[-1] == (80, 80)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert len(calls) > 1
    assert threads == {threading.get_ident()}
    calls.clear()
    decode_images(listing, None, None, progress)
    assert calls == []


# Cache


def test_the_cache_lies_where_the_environment_says(cache, tmp_path, monkeypatch):
    assert cache_folder() == cache.parent
    monkeypatch.delenv("CLSEARCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/clsearch")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clsearch"


def arrays(cache):
    return sorted(path.name for path in cache.glob("*.npy"))


def test_the_array_is_a_view_of_the_cache_that_cannot_be_written(tmp_path, cache):
    inputs = decode_images(list_images(fill(tmp_path / "my pets" / "train").parent), None, None)
    assert type(inputs) is np.ndarray
    assert not inputs.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        inputs[0] = 0
    [name] = arrays(cache)
    assert name.startswith("my_pets-")
    assert np.array_equal(np.load(cache / name), inputs)


def test_images_are_not_opened_again_until_a_file_changes(tmp_path):
    listing = list_images(fill(tmp_path))
    before = decode_images(listing, None, None).copy()
    path = tmp_path / names(listing)[0]
    status = path.stat()
    other = picture(seed=77)
    other.save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert np.array_equal(decode_images(list_images(tmp_path), None, None), before)
    other.save(path)
    os.utime(path, ns=(5, 5))
    after = decode_images(list_images(tmp_path), None, None)
    assert np.array_equal(after[0], channels_first(other))
    assert np.array_equal(after[1:], before[1:])


def test_each_size_and_number_of_channels_has_its_own_file(tmp_path, cache, monkeypatch):
    listing = list_images(fill(tmp_path))
    for size, channels in ((None, None), (8, None), (9, None), (8, 1), (8, 3), (8, 3)):
        decode_images(listing, size, channels)
    assert len(arrays(cache)) == 5
    monkeypatch.setattr(image_cache, "FORMAT", image_cache.FORMAT + 1)
    decode_images(listing, 8, 3)
    assert len(arrays(cache)) == 6


DAMAGE = {
    "cut off": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "garbled": lambda path: path.write_bytes(b"\x93NUMPY garbled"),
    "another shape": lambda path: np.save(path, np.zeros((8, 3, 9, 8), np.uint8)),
    "another length": lambda path: np.save(path, np.zeros((7, 3, 8, 8), np.uint8)),
    "flat": lambda path: np.save(path, np.zeros(8, np.uint8)),
    "another type": lambda path: np.save(path, np.zeros((8, 3, 8, 8), np.float32)),
    "objects": lambda path: np.save(path, np.full((8, 3, 8, 8), None), allow_pickle=True),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_decoded_anew(tmp_path, cache, damage):
    listing = list_images(fill(tmp_path))
    before = decode_images(listing, 8, 3).copy()
    [name] = arrays(cache)
    DAMAGE[damage](cache / name)
    assert np.array_equal(decode_images(listing, 8, 3), before)
    assert np.array_equal(np.load(cache / name), before)


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "file"))
    [problem] = refusal(decode_images, list_images(fill(tmp_path / "data")), None, None)
    assert problem.startswith("cache: ")
    assert "set CLSEARCH_CACHE" in problem
    assert problem.endswith(f"got folder:{tmp_path}/file/images (Not a directory)")


LOAD = """
import sys
from pathlib import Path
from clsearch.common.errors import ConfigError
from clsearch.data.image_cache import decode_images
from clsearch.data.image_folder import list_images

calls = 0

def progress(done, total):
    global calls
    if not done:
        print("waiting", flush=True)
        return
    calls += 1
    if calls == 1 and {hold}:
        print("decoding", flush=True)
        sys.stdin.readline()

{prepare}
listing = list_images(Path(sys.argv[1]))
print("listed", flush=True)
try:
    inputs = decode_images(listing, 8, 3, progress)
    print(int(inputs.astype(int).sum()), calls)
except ConfigError as error:
    print(error)
"""


def start(folder, hold=False, prepare=""):
    """A process that loads a folder; with `hold` it waits in the middle of decoding for a line."""
    words = [sys.executable, "-c", LOAD.format(hold=hold, prepare=prepare), str(folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_of_two_processes_at_once_one_decodes_and_both_have_the_array(tmp_path, cache):
    fill(tmp_path / "data", count=40)
    with start(tmp_path / "data", hold=True) as first:
        assert [first.stdout.readline() for _ in range(2)] == ["listed\n", "decoding\n"]
        with start(tmp_path / "data") as second:
            assert [second.stdout.readline() for _ in range(2)] == ["listed\n", "waiting\n"]
            total, calls = first.communicate("go on\n")[0].split()
            assert second.communicate()[0] == f"{total} 0\n"
    assert int(calls) > 1
    assert int(decode_images(list_images(tmp_path / "data"), 8, 3).astype(int).sum()) == int(total)
    assert len(list(cache.iterdir())) == 2  # the array and its lock


@pytest.mark.slow
def test_a_process_killed_while_decoding_leaves_nothing_in_the_way(tmp_path, cache):
    fill(tmp_path / "data", count=40)
    with start(tmp_path / "data", hold=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["listed\n", "decoding\n"]
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert {path.suffix for path in cache.iterdir()} == {".tmp", ".lock"}
    listing = list_images(tmp_path / "data")
    with Image.open(tmp_path / "data" / names(listing)[-1]) as image:
        expected = channels_first(ImageOps.fit(image, (8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(decode_images(listing, 8, 3)[-1], expected)
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".lock"}


@pytest.mark.slow
def test_a_disk_without_room_is_refused_and_keeps_nothing(tmp_path, cache):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    fill(tmp_path / "data")
    with start(tmp_path / "data", prepare=limit) as process:
        _, problem = process.communicate()[0].splitlines()
    assert problem.startswith("cache: ")
    assert problem.endswith("(File too large)")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_room_for_the_array_is_taken_before_it_is_written(tmp_path, cache):
    room = []

    def progress(done, total):
        [status] = [path.stat() for path in cache.glob(".*.tmp")]
        room.append((512 * status.st_blocks, status.st_size))

    decode_images(list_images(fill(tmp_path, count=50)), 64, 3, progress)
    assert room[0][0] >= room[0][1] > 80 * 3 * 64 * 64


@pytest.mark.slow
def test_an_interrupt_stops_decoding_and_leaves_nothing_behind(tmp_path, cache, monkeypatch):
    opened, here, told = [], threading.local(), threading.Event()
    fit = image_cache._fit

    def counted(*args):
        here.images = getattr(here, "images", 0) + 1
        if here.images > 64:
            told.wait()  # so that the interrupt comes after the first chunk, however busy the machine is
        opened.append(args)
        fit(*args)

    def progress(done, total):
        told.set()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(image_cache, "_fit", counted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})  # chunks of 64
    listing = list_images(fill(tmp_path, count=400, width=4, height=4))
    with pytest.raises(KeyboardInterrupt):
        decode_images(listing, 8, 3, progress)
    assert len(opened) < 640
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
    assert decode_images(listing, 8, 3).shape == (640, 3, 8, 8)


def test_folders_that_differ_in_their_place_alone_have_a_cache_each(tmp_path):
    """As unpacked archives do, where all files have the same time, and as train/ and test/ may."""
    folders = [tmp_path / "v1" / "photos", tmp_path / "v2" / "photos"]
    for grey, folder in zip((10, 200), folders, strict=True):
        for name in ("cats", "dogs"):
            for i in range(5):
                save(folder / name / f"{i}.bmp", Image.new("L", (8, 8), grey))
                os.utime(folder / name / f"{i}.bmp", ns=(5, 5))
    first, second = (decode_images(list_images(folder), None, None) for folder in folders)
    assert list_images(folders[0]).key == list_images(folders[1]).key
    assert set(first.flat) == {10}
    assert set(second.flat) == {200}
