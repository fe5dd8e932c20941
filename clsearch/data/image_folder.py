"""List a user's own images, one folder per class; `image_cache` reads their contents.

There are two layouts: `<class>/**/*.jpg`, from which 20 % of each class are split off as test data, once, with a fixed
seed; or train/ and test/ with the class folders below each.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np

from clsearch.common.echo import ShortRepr
from clsearch.common.errors import ConfigError, Refusal

Part = Literal["train", "test"]

CUT_SEED = 20260101
"""Seed of the one test split of folders without train/ and test/. Another seed changes every result on them."""

LEAST = 5  # images per class, so that test and validation data have at least one each
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PARTS = ("train", "test")


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Args:
        name: POSIX path below the listing's root.
        size: Size in bytes.
        modified: Time of the last change, in nanoseconds since 1970.
    """

    name: str
    size: int
    modified: int


@dataclass(frozen=True, repr=False)
class Listing(ShortRepr):
    """The image files of one part.

    Args:
        root: The folder that contains the class folders, absolute.
        classes: Names of the classes, in plain string order or in the requested order.
        files: The files of each class, in plain string order of their names.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[ImageFile, ...], ...]

    @property
    def labels(self) -> np.ndarray:
        """Class of each image, [N] int64, in the order of `files` flattened."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), [len(files) for files in self.files])

    @property
    def identity(self) -> str:
        """Digest (16 hex digits) of classes, names and sizes: the same for every copy of the data."""
        return digest_words([*self.classes, *(f"{f.name}\0{f.size}" for files in self.files for f in files)])[:16]

    @property
    def key(self) -> str:
        """Digest (64 hex digits) of identity and modification times: every change of a file changes it."""
        return digest_words([self.identity, *(str(f.modified) for files in self.files for f in files)])


def digest_words(words: Iterable[str]) -> str:
    """Return the SHA-256 digest (64 hex digits) of a sequence of words."""
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()


def compose_accents(name: str) -> str:
    """Return the form in which names are compared: some systems store an accent as part of its letter, some after."""
    return unicodedata.normalize("NFC", name)


def find_problem(rule: str, text: str, got: Sequence[str], most: int = 10) -> Refusal:
    """Refuse a benchmark: id and text of the rule, then at most `most` of the values."""
    return Refusal(rule, f"benchmark: {text}; got {name_some(got, most)}")


def name_some(items: Sequence[str], most: int) -> str:
    """Write at most `most` names on one line that every terminal can print, and the number of the others."""
    shown = ", ".join(item if item.isprintable() else ascii(item) for item in items[:most])
    return shown + (f" and {len(items) - most:,} more" if len(items) > most else "")


def list_images(folder: Path, part: Part = "train", only: Sequence[str] | None = None) -> Listing:
    """List the images of one part of a folder.

    Opens no image; for the training part it looks at no file in test/.

    Args:
        folder: Folder of the images.
        part: train or test.
        only: The classes to list, in this order; None for all in plain string order.

    Raises:
        ConfigError: If a folder, a class or a file cannot be used.
    """
    root, known, cut = _layout(folder.absolute(), part, only)
    by_form = {compose_accents(name): name for name in known}
    if len(by_form) < len(known):
        alike = [name for name in known if by_form[compose_accents(name)] != name]
        raise ConfigError([find_problem("classes-differ", "classes must differ from each other", alike)])
    classes = known if only is None else tuple(by_form.get(compose_accents(name), name) for name in only)
    if unknown := [name for name in classes if name not in known]:
        rule = f"must name classes of folder:{folder}, {name_some(known, 20)}"
        raise ConfigError([Refusal("grouping-known-classes", f"grouping: {rule}; got {name_some(unknown, 10)}")])
    if len(set(classes)) < len(classes):
        raise ConfigError([find_problem("classes-differ", "classes must differ from each other", classes)])
    if odd := [name for name in classes if not name.isprintable()]:
        raise ConfigError([find_problem("classes-printable", "names of classes must be printable text", odd)])
    if len(classes) < 2:
        got = f"{len(classes)} ({classes[0]})" if classes else "0"
        raise ConfigError(
            [find_problem("two-classes-in-folder", "at least 2 classes are needed", [f"{got} in folder:{root}"])]
        )
    refused: list[str] = []
    folders = {compose_accents(name): name for name in _visible(root)[0]}
    files = [_images(root, folders[compose_accents(name)], refused) for name in classes]
    if refused:
        raise ConfigError([find_problem("images-readable", "every image must be readable", refused)])
    least = LEAST if cut or part == "train" else 1
    if few := [f"{len(own)} in {name}" for name, own in zip(classes, files, strict=True) if len(own) < least]:
        raise ConfigError(
            [find_problem("images-per-class", f"every class needs at least {least} image{'s'[: least - 1]}", few)]
        )
    return Listing(root, classes, tuple(tuple(_cut(own, part) if cut else own) for own in files))


def _layout(folder: Path, part: Part, only: Sequence[str] | None) -> tuple[Path, tuple[str, ...], bool]:
    """Return the root of a part, its classes, and True if the test data must be split off.

    A train/ that contains folders is training data, so test/ is the only other folder allowed: otherwise test images
    would count as a class.
    """
    names, images = _visible(folder)
    if spelled := [
        name for name in names if name.lower() in PARTS and name not in PARTS and _visible(folder / name)[0]
    ]:
        raise ConfigError([find_problem("parts-spelled", "parts must be named train and test", spelled)])
    known, loose = _visible(folder / "train") if "train" in names else ((), 0)
    tested = _visible(folder / "test")[0] if "test" in names else ()
    if not known or (loose and not tested):
        if images and not names:
            rule = "images must be in one folder per class, such as cats/1.jpg"
            raise ConfigError([find_problem("images-in-classes", rule, [f"{images:,} directly in folder:{folder}"])])
        if tested and "train" not in names:
            raise ConfigError(
                [
                    find_problem(
                        "train-beside-test",
                        "training data must be in train/, next to test/",
                        [f"no train/ in {folder}"],
                    )
                ]
            )
        return folder, names, True
    if others := [name for name in names if name not in PARTS]:
        rule = "train/ and test/ must be the only folders (validation data is split from train/)"
        raise ConfigError([find_problem("parts-alone", rule, [f"{' and '.join(others)} in folder:{folder}"])])
    if loose:
        raise ConfigError(
            [
                find_problem(
                    "images-in-classes", "images must be in class folders", [f"{loose:,} directly in {folder}/train"]
                )
            ]
        )
    if "test" in names:
        ours, theirs = ({compose_accents(name) for name in names} for names in (known, tested))
        wanted = [compose_accents(name) for name in (known if only is None else only)]
        differing = [f"no {name}" for name in wanted if name in ours and name not in theirs]
        differing += [f"{name} in test/ only" for name in tested if only is None and compose_accents(name) not in ours]
        if differing:
            raise ConfigError(
                [find_problem("test-classes-of-train", "class folders of test/ must be those of train/", differing)]
            )
    elif part == "test":
        raise ConfigError(
            [
                find_problem(
                    "test-beside-train", "test data must be in test/, next to train/", [f"no test/ in folder:{folder}"]
                )
            ]
        )
    return folder / part, known, False


def _visible(folder: Path) -> tuple[tuple[str, ...], int]:
    """Return the sorted names of a folder's directories, and the number of its image files; skips hidden entries."""
    try:
        with os.scandir(folder) as entries:
            visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        rules = {
            FileNotFoundError: ("folder-exists", "the folder must exist"),
            NotADirectoryError: ("folder-is-folder", "must be a folder"),
        }
        rule, text = rules.get(type(error), ("folder-readable", f"the folder must be readable ({error.strerror})"))
        raise ConfigError([find_problem(rule, text, [f"folder:{folder}"])]) from None
    images = sum(name.lower().endswith(SUFFIXES) for name, is_folder in visible if not is_folder)
    return tuple(sorted(name for name, is_folder in visible if is_folder)), images


def _images(root: Path, name: str, refused: list[str]) -> list[ImageFile]:
    """List the images of a class at any depth, sorted; appends unreadable paths to `refused`."""
    images: list[ImageFile] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(name, frozenset())]
    while waiting:
        inside, above = waiting.pop()
        path = inside
        try:
            status = os.stat(root / inside)
            if (inode := (status.st_dev, status.st_ino)) in above:
                continue  # a link to a folder that contains it
            for entry in list(os.scandir(root / inside)):
                path = f"{inside}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((path, above | {inode}))
                elif entry.name.lower().endswith(SUFFIXES) and stat.S_ISREG((status := entry.stat()).st_mode):
                    images.append(ImageFile(path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            refused.append(f"{path} ({error.strerror})")
    return sorted(images, key=attrgetter("name"))


def _cut(files: list[ImageFile], part: Part) -> list[ImageFile]:
    """Return one part of a class's files: 20 % (at least one) are test data, ranked by file name alone."""
    ranked = sorted(files, key=lambda file: digest_words([f"{CUT_SEED}/{file.name}"]))
    test = round(0.2 * len(files))
    return sorted(ranked[:test] if part == "test" else ranked[test:], key=attrgetter("name"))
