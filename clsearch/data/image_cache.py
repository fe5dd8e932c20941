"""The images of a listing: decoded once, in parallel, and kept as one array of uint8 in a cache.

EXIF orientation is not applied and transparency is dropped, as in torchvision.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clsearch.common.errors import ConfigError
from clsearch.common.files import made_once
from clsearch.data.image_folder import Listing, digest_of, problem_of, some_of

Progress = Callable[[int, int], None]
"""(images decoded, of how many)."""

FORMAT = 1  # of the cached arrays; another one decodes anew
CONTENTS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")  # whatever the suffix says


class _Seen(NamedTuple):
    """What a file turned out to be: channels are 0 with more than 8 bits each, `wrong` is why it cannot be read."""

    name: str
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    mode: str = ""
    wrong: str = ""


def _seen(root: Path, name: str, use: Callable[[Any], None] = lambda image: None) -> _Seen:
    """Open an image, by its header, and hand it to `use` where its mode can be used; raises no Exception."""
    from PIL import Image

    path = f"{root}/{name}"
    try:
        with Image.open(path, formats=CONTENTS) as image:
            channels = 0 if image.mode.startswith(("I", "F")) else 1 if image.mode in ("1", "L", "LA", "La") else 3
            seen = _Seen(name, image.size, channels, image.mode)
            if channels:
                use(image)
            return seen
    except Exception as error:  # decoders raise many types
        reason = getattr(error, "strerror", None) or str(error).replace(repr(path), "").strip()
        return _Seen(name, wrong=(reason or type(error).__name__).splitlines()[0][:80])


def header(listing: Listing) -> tuple[int, int, int]:
    """Channels, height and width of the first image, from its header alone. Raises ConfigError where it has none."""
    first = _seen(listing.root, listing.files[0][0].name)
    if problems := _problems([first], None, None):
        raise ConfigError(problems)
    return first.channels, first.size[1], first.size[0]


def _problems(seen: Sequence[_Seen], size: int | None, channels: int | None) -> list[str]:
    """Images that cannot be read or have deep channels; sizes and channels that differ where none was asked for."""
    problems = []
    if wrong := [f"{s.name} ({s.wrong})" for s in seen if s.wrong]:
        problems.append(problem_of("every image must be readable", wrong))
    if deep := [f"mode {s.mode} in {s.name}" for s in seen if not s.wrong and not s.channels]:
        problems.append(problem_of("images must have 8 bits per channel", deep))
    usable = [s for s in seen if s.channels]
    sizes, colours = [f"{s.size[0]}x{s.size[1]}" for s in usable], [("grey", "colour")[s.channels // 3] for s in usable]
    for asked, rule, kinds in (
        (size, "images must have one size, or give --image-size", sizes),
        (channels, "images must be all grey or all colour, or give --image-channels 1 or 3", colours),
    ):
        if asked is None and len(set(kinds)) > 1:
            most = Counter(kinds).most_common()
            got = [f"{count:,} {kind} ({usable[kinds.index(kind)].name})" for kind, count in most]
            problems.append(problem_of(rule, got, most=2))
    return problems


def cache_folder() -> Path:
    """$CLSEARCH_CACHE, else clsearch/ in $XDG_CACHE_HOME, else in ~/.cache."""
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "clsearch")
    return Path(os.environ.get("CLSEARCH_CACHE") or shared).expanduser()


def decoded(listing: Listing, size: int | None, channels: int | None, progress: Progress | None = None) -> np.ndarray:
    """The images of a listing [N, C, H, W] uint8, read-only, in the order of its labels; decoded once, then cached.

    size: images are scaled to cover size x size pixels and cropped at the centre; None: all must have one size.
    channels: 1 or 3, to which images are converted; None: all must be grey or all colour.
    progress: called with the images done and their number, 0 done also while another process decodes them; not at all
    where the cache has them.
    Raises ConfigError for all images that cannot be used, and for a cache that cannot be written.
    """
    root = listing.root.parent if listing.root.name in ("train", "test") else listing.root
    key = digest_of([str(listing.root), listing.key, str(size), str(channels), str(FORMAT)])[:16]
    path = cache_folder() / "images" / f"{re.sub('[^a-zA-Z0-9_-]', '_', root.name)[:60]}-{key}.npy"

    def read(path: Path) -> np.ndarray | None:
        try:
            found = np.asarray(np.lib.format.open_memmap(path, mode="r"))
            _, c, h, w = found.shape
        except Exception:  # absent, cut off or garbled, of which NumPy raises many types
            return None
        fits = found.dtype == np.uint8 and len(found) == len(listing.labels) and c == (channels or c)
        return found if fits and (h, w) == (size or h, size or w) else None

    try:
        return made_once(
            path,
            read,
            lambda target: _decode(listing, size, channels, target, progress),
            lambda: progress and progress(0, len(listing.labels)),
        )
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        rule = "must be a folder that can be written and has room, or set CLSEARCH_CACHE to another"
        got = f"folder:{path.parent} ({getattr(error, 'strerror', error)})"
        raise ConfigError([f"cache: {rule}; got {some_of([got], 1)}"]) from None


def _decode(listing: Listing, size: int | None, channels: int | None, path: Path, progress: Progress | None) -> None:
    """Decode a listing into an array file, in all cores' threads: Pillow frees the interpreter while it decodes."""
    names = [file.name for files in listing.files for file in files]
    first = next((seen for name in names if (seen := _seen(listing.root, name)).channels), _Seen("", (1, 1), 1))
    shape = (channels or first.channels, size or first.size[1], size or first.size[0])
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(names), *shape))
    if hasattr(os, "posix_fallocate"):  # a full disk raises here; a page written where there is no room kills
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    step = min(64, -(-len(names) // (4 * workers)))
    into, stop = np.asarray(rows), threading.Event()

    def chunk(start: int) -> list[_Seen]:
        span = range(start, min(start + step, len(names)))
        return [_seen(listing.root, names[i], partial(_fit, size, into[i])) for i in span if not stop.is_set()]

    with ThreadPoolExecutor(workers) as pool:
        try:
            chunks = [pool.submit(chunk, start) for start in range(0, len(names), step)]
            done = 0
            for finished in as_completed(chunks):
                done += len(finished.result())
                if progress is not None:
                    progress(done, len(names))
        finally:
            stop.set()  # after an interrupt: what is left is not decoded
    if problems := _problems([seen for finished in chunks for seen in finished.result()], size, channels):
        raise ConfigError(problems)
    rows.flush()


def _fit(size: int | None, row: np.ndarray, image: Any) -> None:
    """Decode an opened image into its row [C, H, W]; one of another size, where none was asked for, only decode."""
    from PIL import Image, ImageOps

    fits = size is not None or image.size == (row.shape[2], row.shape[1])
    if size is not None:
        image.draft(image.mode, (2 * size, 2 * size))  # a JPEG is decoded no larger than it is needed
    image.load()
    image.info.pop("transparency", None)  # Pillow warns of what it drops
    pixels = image.convert("L" if len(row) == 1 else "RGB")
    if size is not None:
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)
    if fits:
        row[:] = np.asarray(pixels).reshape(*row.shape[1:], len(row)).transpose(2, 0, 1)
