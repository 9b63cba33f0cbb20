"""Resizing of images against its definition, and against Pillow bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle_image
from cnnrs import ShapeError, _core

INTERPOLATIONS = ("bilinear", "bicubic")
# Pillow resizes four independent channels in this mode; RGBA would be weighted by alpha.
MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def resize(x: NDArray[np.uint8], size: tuple[int, int], interpolation: str = "bilinear") -> NDArray[np.uint8]:
    return _core.resize(x, size, (0, 0, *size), interpolation)


def noise(shape: tuple[int, ...], seed: int = 0, extreme: bool = False) -> NDArray[np.uint8]:
    """Random bytes, or only 0 and 255, where bicubic overshoots."""
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return np.where(x > 127, np.uint8(255), np.uint8(0)) if extreme else x


def smooth(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    _, h, w, c = shape
    y, x, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
    return np.broadcast_to(127.5 + 127.4 * np.sin(y / 9 + k) * np.cos(x / 7 - k), shape).astype(np.uint8)


def with_pillow(x: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize (1, H, W, C) with Pillow; skip where this Pillow works in another order."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    import PIL

    lost_rows, lost_columns = x.shape[1] - size[0], x.shape[2] - size[1]
    if int(PIL.__version__.split(".")[0]) < 13 and lost_rows > max(2 * lost_columns, 0):
        pytest.skip(f"Pillow {PIL.__version__} resizes the rows first here")
    c = x.shape[3]
    picture = image.fromarray(x[0, ..., 0] if c == 1 else x[0])
    if c == 4:
        picture = image.frombytes("CMYK", x.shape[2:0:-1], x.tobytes())
    assert picture.mode == MODES[c]
    filters = {"bilinear": image.Resampling.BILINEAR, "bicubic": image.Resampling.BICUBIC}
    return np.asarray(picture.resize(size[::-1], filters[interpolation])).reshape(1, *size, c)


SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 3)),
    ((7, 9), (1, 1)),
    ((1, 40), (7, 13)),
    ((40, 1), (13, 7)),
    ((2, 3), (33, 41)),
    ((31, 47), (31, 20)),
    ((31, 47), (20, 47)),
    ((64, 64), (64, 64)),
    ((64, 96), (48, 72)),
    ((97, 61), (256, 160)),
    ((375, 500), (256, 341)),
    ((500, 333), (384, 256)),
    ((600, 100), (384, 64)),
    ((1000, 7), (8, 7)),
    ((3, 2000), (3, 11)),
]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("c", MODES)
@pytest.mark.parametrize(("before", "after"), SIZES, ids=str)
def test_equals_pillow(before: tuple[int, int], after: tuple[int, int], c: int, interpolation: str) -> None:
    for x in (noise((1, *before, c)), noise((1, *before, c), extreme=True), smooth((1, *before, c))):
        np.testing.assert_array_equal(resize(x, after, interpolation), with_pillow(x, after, interpolation))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_equals_the_definition(
    interpolation: str, shape: tuple[int, int, int, int], size: tuple[int, int], seed: int, extreme: bool
) -> None:
    x = noise(shape, seed, extreme)
    y = resize(x, size, interpolation)
    assert y.shape == (shape[0], *size, shape[3])
    assert y.dtype == np.uint8
    # A weight is off by 2**-23, a sum by less than 255 * 82 * 2**-23 = 0.003: only what lies that close to a half is
    # rounded the other way. Where the first pass does so, the second carries it on times a weight of at most 1.2.
    difference = np.abs(y - oracle_image.resize(x, size, interpolation))
    assert difference.max(initial=0) <= (1 if interpolation == "bilinear" else 2)
    assert (difference > 0).mean() <= 0.05 if difference.size > 400 else True


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("c", [1, 2, 3, 4, 5, 17])
def test_levels_agree(isa: str, c: int, interpolation: str) -> None:
    x = noise((2, 37, 53, c), extreme=True)
    y = resize(x, (29, 71), interpolation)
    _core.set_isa("portable")
    np.testing.assert_array_equal(y, resize(x, (29, 71), interpolation))


def test_threads_agree(assert_deterministic: Callable[[Callable[[], Any]], None]) -> None:
    x = noise((7, 65, 43, 3))
    assert_deterministic(lambda: resize(x, (31, 97), "bicubic"))
    assert_deterministic(lambda: resize(x, (9, 40), "bicubic"))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(40, 60), (90, 100), (9, 55)])
def test_a_window_is_cut_out_of_the_whole(size: tuple[int, int], interpolation: str) -> None:
    x = noise((2, 61, 47, 3), extreme=True)
    whole = resize(x, size, interpolation)
    for window in [(0, 0, 1, 1), (3, 7, 5, 11), (size[0] - 2, size[1] - 3, 2, 3), (4, 5, 0, 6), (2, 5, 6, 0)]:
        top, left, height, width = window
        part = _core.resize(x, size, window, interpolation)
        np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])


def test_any_layout_of_memory() -> None:
    x = noise((2, 40, 30, 6))
    for view in (x[:, ::2, ::-1, 1:4], x.transpose(0, 2, 1, 3), np.asfortranarray(x)):
        np.testing.assert_array_equal(resize(view, (13, 17)), resize(view.copy(), (13, 17)))
    locked = x.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(resize(locked, (13, 17)), resize(x, (13, 17)))


def test_a_flat_picture_stays_flat() -> None:
    for value in (0, 1, 127, 254, 255):
        x = np.full((1, 23, 31, 3), value, np.uint8)
        for interpolation in INTERPOLATIONS:
            assert (resize(x, (50, 11), interpolation) == value).all()


@pytest.mark.parametrize(
    ("x", "size", "window", "interpolation", "error", "text"),
    [
        (np.zeros((4, 4, 3), np.uint8), (2, 2), (0, 0, 2, 2), "bilinear", ShapeError, "4 dimensions"),
        (np.zeros((1, 0, 4, 3), np.uint8), (2, 2), (0, 0, 2, 2), "bilinear", ShapeError, "height and width from 1"),
        (np.zeros((1, 4, 0, 3), np.uint8), (2, 2), (0, 0, 2, 2), "bilinear", ShapeError, "height and width from 1"),
        (np.zeros((1, 4, 4, 0), np.uint8), (2, 2), (0, 0, 2, 2), "bilinear", ShapeError, "at least 1 channel"),
        (np.zeros((1, (1 << 20) + 1, 1, 1), np.uint8), (2, 2), (0, 0, 2, 2), "bilinear", ShapeError, "to 1048576"),
        (np.zeros((1, 4, 4, 3), np.float32), (2, 2), (0, 0, 2, 2), "bilinear", TypeError, "x expects uint8"),
        ([[0]], (2, 2), (0, 0, 2, 2), "bilinear", TypeError, "x expects a NumPy array"),
        (np.zeros((1, 4, 4, 3), np.uint8), (0, 2), (0, 0, 0, 2), "bilinear", ValueError, "height expects 1 to"),
        (np.zeros((1, 4, 4, 3), np.uint8), (2, 1 << 40), (0, 0, 2, 2), "bilinear", ValueError, "width expects 1 to"),
        (np.zeros((1, 4, 4, 3), np.uint8), (2, 2), (1, 0, 2, 2), "bilinear", ValueError, "window expects a range"),
        (np.zeros((1, 4, 4, 3), np.uint8), (2, 2), (0, 2**63, 2, 2**63), "bilinear", ValueError, "window expects"),
        (np.zeros((1, 4, 4, 3), np.uint8), (2, 2), (0, 0, 2, 2), "lanczos", ValueError, "bilinear or bicubic"),
    ],
)
def test_bad_input(x: Any, size: Any, window: Any, interpolation: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _core.resize(x, size, window, interpolation)


def test_memory_that_cannot_be_had() -> None:
    x = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(MemoryError, match="cannot allocate 3298534883328 bytes"):
        resize(x, (1 << 20, 1 << 20))
    for count in (1, 2):  # the result, what lies between the passes
        _core.clear_cache()
        _core.fail_allocation(count)
        try:
            with pytest.raises(MemoryError):
                resize(noise((1, 300, 300, 3)), (400, 400))
        finally:
            _core.fail_allocation(0)
    assert resize(x, (3, 3)).shape == (1, 3, 3, 3)


def test_the_longest_axes() -> None:
    x = np.full((1, 1, 1 << 20, 1), 9, np.uint8)
    assert resize(x, (1, 3)).ravel().tolist() == [9, 9, 9]
    assert (resize(x[:, :, :2], (1, 1 << 20), "bicubic") == 9).all()
