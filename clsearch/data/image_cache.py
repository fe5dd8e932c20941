"""Decode the images of a listing once, in parallel, and cache them as one array of uint8.

Ignores EXIF orientation and drops transparency, as torchvision does.
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

from clsearch.common.checked_files import append_digest, check_appended_digest
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import create_once
from clsearch.data.image_folder import Listing, digest_words, find_problem, name_some

Progress = Callable[[int, int], None]
"""(images decoded, number of images)."""

FORMAT = 2  # version of the cached arrays; another version decodes the images again
CONTENTS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")  # decided by the content, not by the suffix


class _Seen(NamedTuple):
    """Properties of one image file.

    Args:
        name: Path below the listing's root.
        size: Width and height in pixels.
        channels: 1 or 3; 0 for more than 8 bits per channel.
        mode: Pillow's mode.
        wrong: Why the file cannot be read; empty if it can.
    """

    name: str
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    mode: str = ""
    wrong: str = ""


def _seen(root: Path, name: str, use: Callable[[Any], None] = lambda image: None) -> _Seen:
    """Open an image by its header, and pass it to `use` if its mode is supported; raises no Exception."""
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


def read_header(listing: Listing) -> tuple[int, int, int]:
    """Read channels, height and width of the first usable image from its header alone.

    Images before it that cannot be used are refused with all others when they are decoded.

    Raises:
        ConfigError: If no image is usable.
    """
    seen: list[_Seen] = []
    for file in (file for files in listing.files for file in files):
        seen.append(_seen(listing.root, file.name))
        if seen[-1].channels:
            break
    first = seen[-1]
    if not first.channels:
        raise ConfigError(_problems(seen, None, None))
    return first.channels, first.size[1], first.size[0]


def _problems(seen: Sequence[_Seen], size: int | None, channels: int | None) -> list[Refusal]:
    """List the images that are unreadable or too deep, and the sizes and channels that differ if none is given."""
    problems = []
    if wrong := [f"{s.name} ({s.wrong})" for s in seen if s.wrong]:
        problems.append(find_problem("images-readable", "every image must be readable", wrong))
    if deep := [f"mode {s.mode} in {s.name}" for s in seen if not s.wrong and not s.channels]:
        problems.append(find_problem("images-8-bit", "images must have 8 bits per channel", deep))
    usable = [s for s in seen if s.channels]
    sizes, colours = [f"{s.size[0]}x{s.size[1]}" for s in usable], [("grey", "colour")[s.channels // 3] for s in usable]
    for asked, rule, text, kinds in (
        (size, "images-one-size", "images must have one size, or give --image-size", sizes),
        (
            channels,
            "images-one-colour",
            "images must be all grey or all colour, or give --image-channels 1 or 3",
            colours,
        ),
    ):
        if asked is None and len(set(kinds)) > 1:
            most = Counter(kinds).most_common()
            got = [f"{count:,} {kind} ({usable[kinds.index(kind)].name})" for kind, count in most]
            problems.append(find_problem(rule, text, got, most=2))
    return problems


def cache_folder() -> Path:
    """Return $CLSEARCH_CACHE, else clsearch/ in $XDG_CACHE_HOME, else clsearch/ in ~/.cache."""
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "clsearch")
    return Path(os.environ.get("CLSEARCH_CACHE") or shared).expanduser()


def decode_images(
    listing: Listing, size: int | None, channels: int | None, progress: Progress | None = None
) -> np.ndarray:
    """Return the images of a listing; decodes them once and caches them.

    Args:
        listing: The images.
        size: Images are scaled to cover size x size pixels and cropped at the centre; None: all must have one size.
        channels: 1 or 3, to which images are converted; None: all must be grey or all colour.
        progress: Called with (images decoded, number of images); with 0 images while another process decodes them, and
            not called if the cache has them.

    Returns:
        [N, C, H, W] uint8, read-only, in the order of the listing's labels.

    Raises:
        ConfigError: For all images that cannot be used, or for a cache that cannot be written.
    """
    root = listing.root.parent if listing.root.name in ("train", "test") else listing.root
    key = digest_words([str(listing.root), listing.key, str(size), str(channels), str(FORMAT)])[:16]
    path = cache_folder() / "images" / f"{re.sub('[^a-zA-Z0-9_-]', '_', root.name)[:60]}-{key}.npy"

    def read(path: Path) -> np.ndarray | None:
        try:
            check_appended_digest(path)
            images = np.asarray(np.lib.format.open_memmap(path, mode="r"))
            _, c, h, w = images.shape
        except Exception:  # missing or damaged: NumPy raises many types
            return None
        fits = images.dtype == np.uint8 and len(images) == len(listing.labels) and c == (channels or c)
        return images if fits and (h, w) == (size or h, size or w) else None

    try:
        return create_once(
            path,
            read,
            lambda target: _decode(listing, size, channels, target, progress),
            lambda: progress and progress(0, len(listing.labels)),
        )
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        rule = "must be a writable folder with free space, or set CLSEARCH_CACHE to another"
        got = f"folder:{path.parent} ({getattr(error, 'strerror', error)})"
        raise ConfigError([Refusal("cache-writable", f"cache: {rule}; got {name_some([got], 1)}")]) from None


def _decode(listing: Listing, size: int | None, channels: int | None, path: Path, progress: Progress | None) -> None:
    """Decode a listing into an array file, on all cores: Pillow releases the interpreter lock while it decodes."""
    names = [file.name for files in listing.files for file in files]
    first = next((seen for name in names if (seen := _seen(listing.root, name)).channels), _Seen("", (1, 1), 1))
    shape = (channels or first.channels, size or first.size[1], size or first.size[0])
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(names), *shape))
    if hasattr(os, "posix_fallocate"):  # a full disk raises here; writing to a page without space kills the process
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
            stop.set()  # after an interrupt, the remaining images are not decoded
    if problems := _problems([seen for finished in chunks for seen in finished.result()], size, channels):
        raise ConfigError(problems)
    rows.flush()
    append_digest(path)


def _fit(size: int | None, row: np.ndarray, image: Any) -> None:
    """Decode an opened image into its row [C, H, W]; an image of a wrong size is decoded but not stored."""
    from PIL import Image, ImageOps

    fits = size is not None or image.size == (row.shape[2], row.shape[1])
    if size is not None:
        image.draft(image.mode, (2 * size, 2 * size))  # decodes a JPEG no larger than necessary
    image.load()
    image.info.pop("transparency", None)  # otherwise Pillow warns that it drops it
    pixels = image.convert("L" if len(row) == 1 else "RGB")
    if size is not None:
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)
    if fits:
        row[:] = np.asarray(pixels).reshape(*row.shape[1:], len(row)).transpose(2, 0, 1)
