"""Gray pictures as text, for the terminal."""

import shutil
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cnnrs._core import ShapeError

BLOCKS = " ░▒▓█"
ASCII = " .:-=+*#%@"
_GAP = 2


def choose_ramp(stream: TextIO) -> str:
    """Give the characters from dark to bright that the encoding of `stream` can carry."""
    try:
        BLOCKS.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return BLOCKS


def draw(image: NDArray[np.uint8], ramp: str) -> list[str]:
    """Give one picture as lines of text; a character covers two rows, as it is about twice as high as wide.

    Args:
        image: `(H, W)` or `(H, W, 1)`, uint8.
        ramp: The characters from dark to bright.

    Returns:
        `ceil(H / 2)` lines of `W` characters.

    Raises:
        ShapeError: The image is not of one of these shapes.
    """
    gray = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if gray.ndim != 2:
        msg = f"image: expected (H, W) or (H, W, 1), got {image.shape}"
        raise ShapeError(msg)
    pairs = np.pad(gray, ((0, gray.shape[0] % 2), (0, 0))).astype(np.int32)
    level = (pairs[::2] + pairs[1::2]) * len(ramp) // (2 * 256)
    return ["".join(ramp[value] for value in row) for row in level]


def draw_row(images: Sequence[NDArray[Any]], captions: Sequence[str], ramp: str, width: int | None = None) -> str:
    """Give several pictures of one size side by side with a caption under each, wrapped to the terminal.

    Args:
        images: `(H, W)` or `(H, W, 1)` each, uint8, of the same size.
        captions: One line for each, cut to the width of the picture.
        ramp: The characters from dark to bright.
        width: Columns to use; those of the terminal if None.

    Returns:
        Lines joined by line feeds, without trailing blanks.
    """
    if not len(images):
        return ""
    columns = shutil.get_terminal_size().columns if width is None else width
    size = images[0].shape[1]
    fit = max((columns + _GAP) // (size + _GAP), 1)
    lines: list[str] = []
    for start in range(0, len(images), fit):
        drawn = [draw(image, ramp) for image in images[start : start + fit]]
        drawn = [[*rows, caption[:size].center(size)] for rows, caption in zip(drawn, captions[start:], strict=False)]
        lines += [(" " * _GAP).join(parts).rstrip() for parts in zip(*drawn, strict=True)]
    return "\n".join(lines)
