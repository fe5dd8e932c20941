"""A user's own images, one folder per class, as their folder lists them; see `image_cache` for what is in them.

Two layouts: `<class>/**/*.jpg`, where 20 % of each class are test data, cut once by a fixed seed; or train/ and test/
with the classes below each.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np

from clsearch.common.errors import ConfigError

Part = Literal["train", "test"]

CUT_SEED = 20260101
"""Seed of the one test cut of folders without train/ and test/; changing it changes every number got with them."""

LEAST = 5  # images of a class, so that test and validation data get at least one each
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PARTS = ("train", "test")


@dataclass(frozen=True)
class ImageFile:
    """name: posix path below the listing's root; size: bytes; modified: nanoseconds since 1970."""

    name: str
    size: int
    modified: int


@dataclass(frozen=True)
class Listing:
    """The images of one part, as their folder names them.

    root: the folder that holds the class folders, absolute.
    classes: their names, in plain string order or in the order asked for.
    files: of each class, in plain string order of their names.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[ImageFile, ...], ...]

    @property
    def labels(self) -> np.ndarray:
        """The class of each image [N] int64, in the order of `files` flattened."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), [len(files) for files in self.files])

    @property
    def identity(self) -> str:
        """Digest (16 hex digits) of classes, names and sizes: the data, wherever and whenever it was copied."""
        return digest_of([*self.classes, *(f"{f.name}\0{f.size}" for files in self.files for f in files)])[:16]

    @property
    def key(self) -> str:
        """Digest (64 hex digits) of identity and times: another one after every change of a file."""
        return digest_of([self.identity, *(str(f.modified) for files in self.files for f in files)])


def digest_of(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()


def problem_of(rule: str, got: Sequence[str], most: int = 10) -> str:
    return f"benchmark: {rule}; got {some_of(got, most)}"


def some_of(items: Sequence[str], most: int) -> str:
    """The first of some names, in one line that every terminal takes, and how many more there are."""
    shown = ", ".join(item if item.isprintable() else ascii(item) for item in items[:most])
    return shown + (f" and {len(items) - most:,} more" if len(items) > most else "")


def listed(folder: Path, part: Part = "train", only: Sequence[str] | None = None) -> Listing:
    """The images of one part of a folder, of all classes or of `only` those named, in their order.

    No image is opened, and for training data no file of test/ is looked at. Raises ConfigError for a folder, a class or
    a file that cannot be used.
    """
    root, known, cut = _layout(folder.absolute(), part, only)
    classes = known if only is None else tuple(only)
    if unknown := [name for name in classes if name not in known]:
        rule = f"must name classes of folder:{folder}, {some_of(known, 20)}"
        raise ConfigError([f"grouping: {rule}; got {some_of(unknown, 10)}"])
    if len(set(classes)) < len(classes):
        raise ConfigError([problem_of("classes must differ from each other", classes)])
    if odd := [name for name in classes if not name.isprintable()]:
        raise ConfigError([problem_of("names of classes must be printable text", odd)])
    if len(classes) < 2:
        got = f"{len(classes)} ({classes[0]})" if classes else "0"
        raise ConfigError([problem_of("at least 2 classes are needed", [f"{got} in folder:{root}"])])
    refused: list[str] = []
    files = [_images(root, name, refused) for name in classes]
    if refused:
        raise ConfigError([problem_of("every image must be readable", refused)])
    least = LEAST if cut or part == "train" else 1
    if few := [f"{len(found)} in {name}" for name, found in zip(classes, files, strict=True) if len(found) < least]:
        raise ConfigError([problem_of(f"every class needs at least {least} image{'s'[: least - 1]}", few)])
    return Listing(root, classes, tuple(tuple(_cut(found, part) if cut else found) for found in files))


def _layout(folder: Path, part: Part, only: Sequence[str] | None) -> tuple[Path, tuple[str, ...], bool]:
    """Root of a part, the classes there, and whether its test data must be cut from it.

    A train/ that holds folders is training data, so test/ may lie beside it and nothing else: another reading would
    take test images for a class.
    """
    names, images = _visible(folder)
    if spelled := [
        name for name in names if name.lower() in PARTS and name not in PARTS and _visible(folder / name)[0]
    ]:
        raise ConfigError([problem_of("parts must be named train and test", spelled)])
    known, loose = _visible(folder / "train") if "train" in names else ((), 0)
    held = _visible(folder / "test")[0] if "test" in names else ()
    if not known or (loose and not held):
        if images and not names:
            rule = "images must lie in one folder per class, such as cats/1.jpg"
            raise ConfigError([problem_of(rule, [f"{images:,} directly in folder:{folder}"])])
        if held and "train" not in names:
            raise ConfigError([problem_of("training data must lie in train/ beside test/", [f"no train/ in {folder}"])])
        return folder, names, True
    if beside := [name for name in names if name not in PARTS]:
        rule = "beside train/ with its class folders only test/ may lie (validation data is cut from train/)"
        raise ConfigError([problem_of(rule, [f"{' and '.join(beside)} in folder:{folder}"])])
    if loose:
        raise ConfigError([problem_of("images must lie in class folders", [f"{loose:,} directly in {folder}/train"])])
    if "test" in names:
        wanted = known if only is None else only
        differing = [f"no {name}" for name in wanted if name in known and name not in held]
        differing += [f"{name} in test/ only" for name in held if only is None and name not in known]
        if differing:
            raise ConfigError([problem_of("class folders of test/ must be those of train/", differing)])
    elif part == "test":
        raise ConfigError([problem_of("test data must lie in test/ beside train/", [f"no test/ in folder:{folder}"])])
    return folder / part, known, False


def _visible(folder: Path) -> tuple[tuple[str, ...], int]:
    """Names of a folder's directories, sorted, and how many of its other entries are named as images."""
    try:
        with os.scandir(folder) as entries:
            visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        rules = {FileNotFoundError: "the folder must exist", NotADirectoryError: "must be a folder"}
        rule = rules.get(type(error), f"the folder must be readable ({error.strerror})")
        raise ConfigError([problem_of(rule, [f"folder:{folder}"])]) from None
    images = sum(name.lower().endswith(SUFFIXES) for name, is_folder in visible if not is_folder)
    return tuple(sorted(name for name, is_folder in visible if is_folder)), images


def _images(root: Path, name: str, refused: list[str]) -> list[ImageFile]:
    """The images of a class, at any depth, sorted; what the system does not show is added to `refused`."""
    found: list[ImageFile] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(name, frozenset())]
    while waiting:
        inside, above = waiting.pop()
        path = inside
        try:
            status = os.stat(root / inside)
            if (place := (status.st_dev, status.st_ino)) in above:
                continue  # a link to a folder that it lies in
            for entry in list(os.scandir(root / inside)):
                path = f"{inside}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((path, above | {place}))
                elif entry.name.lower().endswith(SUFFIXES) and stat.S_ISREG((status := entry.stat()).st_mode):
                    found.append(ImageFile(path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            refused.append(f"{path} ({error.strerror})")
    return sorted(found, key=attrgetter("name"))


def _cut(files: list[ImageFile], part: Part) -> list[ImageFile]:
    """One part of a class's files: 20 % are test data, so at least one. A file's rank depends on its name."""
    ranked = sorted(files, key=lambda file: digest_of([f"{CUT_SEED}/{file.name}"]))
    test = round(0.2 * len(files))
    return sorted(ranked[:test] if part == "test" else ranked[test:], key=attrgetter("name"))
