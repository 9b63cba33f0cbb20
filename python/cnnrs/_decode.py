"""Pictures as uint8 RGB arrays, one by one or on several threads ahead of their use.

Pillow is imported when the first picture is read, and only then.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from cnnrs import _core
from cnnrs._core import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

MAX_PIXELS = 100_000_000
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none of them starts another program
_MOST_THREADS = 16

# The filters of warnings belong to the whole process: one thread at a time changes them, while it reads a header.
_header = threading.Lock()


def import_pillow(wanted_by: str) -> Any:
    """Return `PIL.Image`.

    Raises:
        ImportError: Pillow is not installed; the text names the extra.
    """
    try:
        from PIL import Image  # optional
    except ModuleNotFoundError as error:
        msg = f'{wanted_by}: reading pictures needs Pillow: pip install "cnnrs[image]"'
        raise ImportError(msg) from error
    return Image


def is_picture(value: object) -> bool:
    """Tell whether a value is an image of Pillow's, without importing Pillow."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def read_rgb(
    source: str | os.PathLike[str] | BinaryIO, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read a picture; see `rgb_of` for what becomes of its colours.

    The number of pixels that its header claims is checked before anything is decoded.

    Args:
        source: A path, or a seekable binary file.
        name: What to call it in errors; the path if None.
        max_pixels: Most pixels that are decoded.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ImportError: Pillow is not installed.
        DataError: No picture, a damaged or truncated one, one of too many pixels, or one of 32 bits a channel.
        OSError: The file cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            return read_rgb(file, os.fspath(source) if name is None else name, max_pixels)
    label = "picture" if name is None else name
    image = import_pillow(label)
    try:
        with _header, warnings.catch_warnings():
            warnings.simplefilter("ignore", image.DecompressionBombWarning)  # the cap below is the caller's own
            picture = image.open(source, formats=_FORMATS)
        with picture:
            if picture.width * picture.height > max_pixels:
                msg = f"{label}: expected at most {max_pixels} pixels, got {picture.width}x{picture.height}"
                raise DataError(msg)
            return rgb_of(picture, label)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        msg = f"{label}: expected a picture: {error}"
        raise DataError(msg) from error


def rgb_of(picture: Any, name: str = "picture") -> NDArray[np.uint8]:
    """Return a picture of Pillow's as RGB.

    Gray is repeated, palettes are looked up, CMYK and other colour spaces are converted as Pillow does it, and what
    says how transparent a pixel is is dropped. Of 16 bits the upper 8 are taken. The orientation in EXIF plays no part.

    Args:
        picture: A `PIL.Image.Image`.
        name: What to call it in errors.

    Returns:
        (H, W, 3), uint8.

    Raises:
        DataError: The picture has 32 bits a channel, so that nothing says what is white.
    """
    if picture.mode.startswith("I;16"):
        gray = np.asarray(picture)
        high = (gray >> np.uint16(8)).astype(np.uint8)
        return np.repeat(high[..., np.newaxis], 3, axis=2)
    if picture.mode[0] in "IF":
        msg = f"{name}: expected 8 or 16 bits a channel, got a picture of mode {picture.mode}"
        raise DataError(msg)
    array: NDArray[np.uint8] = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return array


def thread_count(threads: int | None = None) -> int:
    """Return how many threads decode: as many as compute, at most 16, unless a number is given."""
    return min(_core.get_num_threads(), _MOST_THREADS) if threads is None else threads


def map_ahead(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int | None = None) -> Iterator[R]:
    """Apply a function on threads and yield the results in order, as many ahead of their use as `ahead` says.

    The threads exist while the results are gone through. However that ends, by an exception, by Ctrl-C or because the
    caller closes the iterator, what was not begun is dropped and the threads are gone afterwards.

    Args:
        function: Called once per item, on any thread.
        items: The arguments, taken on the calling thread.
        threads: Number of threads; with one, the calling thread does it all, and nothing ahead.
        ahead: Most results and calls under way; twice the threads if None.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # not wanted by most programs

    most = 2 * threads if ahead is None else ahead
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cnnrs-decode")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
