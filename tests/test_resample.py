"""upsample and adaptive_avg_pool2d against plain loops, on every instruction-set level."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle_movement as oracle
import tolerance
from cases import Array
from cnnrs import functional as F
from cnnrs import nn

SIDE = st.integers(1, 12)
CHANNELS = [*range(1, 18), 33, 64, 70]


def check(function: Callable[[Any], Any], x: Array, rows: Array, columns: Array) -> None:
    """Both passes sum at most a row of their matrix; the gradient is the transposed pair of matrices."""
    terms = int(max((rows != 0).sum(axis=1)) + max((columns != 0).sum(axis=1))) + 2
    y, pullback = cnnrs.vjp(function, x)
    bound = tolerance.reduction(terms, oracle.resample(abs(x), rows, columns))
    tolerance.assert_within(y, oracle.resample(x, rows, columns), bound)
    tolerance.assert_same_bits(function(x), y, "array by array")

    grad_y = cases.real(*y.shape, seed=1)
    terms = int(max((rows != 0).sum(axis=0)) + max((columns != 0).sum(axis=0))) + 2
    bound = tolerance.reduction(terms, oracle.resample(abs(grad_y), rows.T, columns.T))
    tolerance.assert_within(pullback(grad_y), oracle.resample(grad_y, rows.T, columns.T), bound, "gradient")


def check_upsample(x: Array, size: tuple[int, int], mode: str, align_corners: bool) -> None:
    """One matrix per axis, from the formula of the mode."""
    row: Any = oracle.nearest_row if mode == "nearest" else oracle.linear_row
    options = {} if mode == "nearest" else {"align_corners": align_corners}
    matrices = [oracle.matrix(row, x.shape[axis + 1], size[axis], **options) for axis in (0, 1)]
    check(lambda v: F.upsample(v, size, mode=mode, align_corners=align_corners), x, *matrices)


def check_adaptive(x: Array, size: tuple[int, int]) -> None:
    """One matrix per axis."""
    matrices = [oracle.matrix(oracle.adaptive_row, x.shape[axis + 1], size[axis]) for axis in (0, 1)]
    check(lambda v: F.adaptive_avg_pool2d(v, size), x, *matrices)


MODES = pytest.mark.parametrize(
    ("mode", "align_corners"), [("nearest", False), ("bilinear", False), ("bilinear", True)], ids=str
)


@MODES
@pytest.mark.usefixtures("isa")
@given(size=st.tuples(SIDE, SIDE), to=st.tuples(SIDE, SIDE), channels=st.integers(1, 20), batch=st.integers(0, 2))
def test_upsample(
    mode: str, align_corners: bool, size: tuple[int, int], to: tuple[int, int], channels: int, batch: int
) -> None:
    """From any size to any size, larger or smaller, also a single pixel on either side."""
    check_upsample(cases.real(batch, *size, channels), to, mode, align_corners)


@pytest.mark.usefixtures("isa")
@given(size=st.tuples(SIDE, SIDE), to=st.tuples(SIDE, SIDE), channels=st.integers(1, 20), batch=st.integers(0, 2))
def test_adaptive_avg_pool2d(size: tuple[int, int], to: tuple[int, int], channels: int, batch: int) -> None:
    """To fewer pixels, to more, and to as many."""
    check_adaptive(cases.real(batch, *size, channels), to)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.usefixtures("isa")
def test_every_tail_length(channels: int) -> None:
    """Channels around the vector lengths."""
    x = cases.real(2, 5, 6, channels)
    check_upsample(x, (9, 7), "bilinear", False)
    check_upsample(x, (10, 4), "nearest", False)
    check_adaptive(x, (2, 4))


@pytest.mark.usefixtures("isa")
def test_large_maps() -> None:
    """Several tasks, and windows of more rows than are summed in one run."""
    check_upsample(cases.real(2, 33, 40, 48), (66, 80), "bilinear", False)
    check_upsample(cases.real(1, 150, 5, 3), (300, 10), "bilinear", True)
    check_adaptive(cases.real(1, 300, 9, 5), (2, 3))
    check_adaptive(cases.real(2, 14, 14, 256), (7, 7))


@pytest.mark.parametrize(
    ("size", "to", "expected"),
    [
        (5, 3, [0, 1, 3]),  # floor(i * 5 / 3)
        (3, 7, [0, 0, 0, 1, 1, 2, 2]),
        (4, 2, [0, 2]),
    ],
)
def test_nearest_takes_the_pixel_below(size: int, to: int, expected: list[int]) -> None:
    """Worked out by hand."""
    x = np.arange(size, dtype=np.float32).reshape(1, size, 1, 1)
    assert F.upsample(x, (to, 1)).ravel().tolist() == expected


@pytest.mark.parametrize(
    ("align_corners", "to", "expected"),
    [
        (False, 4, [0.0, 0.25, 0.75, 1.0]),  # at -1/4, 1/4, 3/4, 5/4, clamped
        (True, 4, [0.0, 1 / 3, 2 / 3, 1.0]),
        (True, 3, [0.0, 0.5, 1.0]),
        (False, 1, [0.5]),
        (True, 1, [0.0]),
    ],
)
def test_bilinear_positions(align_corners: bool, to: int, expected: list[float]) -> None:
    """Half-pixel centres, or corners on corners."""
    x = np.array([0, 1], np.float32).reshape(1, 1, 2, 1)
    y = F.upsample(x, (1, to), mode="bilinear", align_corners=align_corners).ravel()
    tolerance.assert_within(y, np.array(expected), tolerance.ulps(expected, 1))


def test_adaptive_windows() -> None:
    """Windows overlap where the sizes do not divide, and means of equal numbers are that number."""
    x = np.arange(7, dtype=np.float32).reshape(1, 7, 1, 1)
    assert F.adaptive_avg_pool2d(x, (3, 1)).ravel().tolist() == [1.0, 3.0, 5.0]  # 0..2, 2..4, 4..6
    ones = np.ones((1, 41, 41, 5), np.float32)
    assert (F.adaptive_avg_pool2d(ones, 3) == 1).all()


@pytest.mark.parametrize(
    ("factor", "size"), [(2, (10, 14)), (0.5, (2, 3)), (1.5, (7, 10)), ((1, 3), (5, 21)), ((2.0, 0.3), (10, 2))]
)
def test_scale_factor_rounds_down(factor: Any, size: tuple[int, int]) -> None:
    """floor(size * factor), after which only the sizes count."""
    x = cases.real(2, 5, 7, 3)
    tolerance.assert_same_bits(F.upsample(x, scale_factor=factor), F.upsample(x, size))


@pytest.mark.parametrize(("size", "shape"), [(None, (5, 7)), (3, (3, 3)), ((None, 2), (5, 2)), ((2, None), (2, 7))])
def test_adaptive_output_size(size: Any, shape: tuple[int, int]) -> None:
    """None keeps the size of the axis."""
    x = cases.real(2, 5, 7, 3)
    y = F.adaptive_avg_pool2d(x, size)
    assert y.shape == (2, *shape, 3)
    if size is None:
        tolerance.assert_same_bits(y, x)


@MODES
@pytest.mark.usefixtures("isa")
def test_same_size_is_a_copy(mode: str, align_corners: bool) -> None:
    """The same bits in memory of their own, and a gradient that passes through."""
    x = cases.real(2, 5, 7, 3)
    y, pullback = cnnrs.vjp(lambda v: F.upsample(v, (5, 7), mode=mode, align_corners=align_corners), x)
    tolerance.assert_same_bits(y, x)
    tolerance.assert_same_bits(pullback(y), x)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_reach_their_windows_only(special: float) -> None:
    """A pixel that is not summed does not matter, whatever it holds."""
    x = np.ones((1, 6, 6, 17), np.float32)
    x[0, 2, 3, 16] = special
    near = F.upsample(x, (12, 12))
    between = F.upsample(x, (12, 12), mode="bilinear")
    pooled = F.adaptive_avg_pool2d(x, 3)
    assert [int((~np.isfinite(y)).sum()) for y in (near, between, pooled)] == [4, 16, 1]
    assert (pooled[..., :16] == 1).all()


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(assert_deterministic: Callable[..., None]) -> None:
    """Forward and backward, wide rows and single channels."""
    x, flat = cases.real(3, 21, 30, 33), cases.real(5, 64, 50, 1)

    def run() -> list[Array]:
        results = []
        for values in (x, flat):
            for function in (
                lambda v: F.upsample(v, (50, 41), mode="bilinear"),
                lambda v: F.upsample(v, (50, 41)),
                lambda v: F.adaptive_avg_pool2d(v, (5, 7)),
            ):
                y, pullback = cnnrs.vjp(function, values)
                results += [y, pullback(y)]
        return results

    assert_deterministic(run)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Upsample(size=(9, 4), mode='nearest')": lambda: nn.Upsample((9, 4)),
    "Upsample(scale_factor=(2.0, 2.0), mode='nearest')": lambda: nn.Upsample(scale_factor=2),
    "Upsample(size=(8, 8), mode='bilinear', align_corners=True)": lambda: nn.Upsample(8, None, "bilinear", True),
    "AdaptiveAvgPool2d(output_size=(3, 3))": lambda: nn.AdaptiveAvgPool2d(3),
    "AdaptiveAvgPool2d(output_size=(None, 2))": lambda: nn.AdaptiveAvgPool2d((None, 2)),
}


@pytest.mark.parametrize("text", LAYERS)
def test_layers(text: str) -> None:
    """Layers show their arguments and serve other batch sizes with one trace."""
    layer = LAYERS[text]()
    assert repr(layer) == text
    x = cases.real(5, 5, 7, 3)
    whole = layer(x)
    for batch in (2, 1, 0):
        tolerance.assert_same_bits(layer(x[:batch]), whole[:batch])
    assert len(layer._programs) == 1


def test_layers_are_the_functions() -> None:
    """Each passes its arguments on."""
    x = cases.real(2, 5, 7, 3)
    pairs = [
        (nn.Upsample((9, 4)), F.upsample(x, (9, 4))),
        (nn.Upsample(scale_factor=(2, 1.5)), F.upsample(x, scale_factor=(2, 1.5))),
        (nn.Upsample(8, mode="bilinear"), F.upsample(x, 8, mode="bilinear")),
        (nn.Upsample(8, mode="bilinear", align_corners=True), F.upsample(x, 8, None, "bilinear", True)),
        (nn.AdaptiveAvgPool2d((2, None)), F.adaptive_avg_pool2d(x, (2, None))),
    ]
    for layer, expected in pairs:
        tolerance.assert_same_bits(layer(x), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_that_cannot_be_had_is_a_memory_error(run_python: Callable[..., Any]) -> None:
    """Sizes beyond the machine are refused at once, in Python's way."""
    program = """
import resource, numpy as np
from cnnrs import functional as F
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
x, huge = np.ones((1, 2, 1, 1), np.float32), 2**31 - 1
for call in (
    lambda: F.upsample(x, (huge, 1)),
    lambda: F.upsample(x, (1, huge), mode="bilinear"),
    lambda: F.adaptive_avg_pool2d(x, huge),
    lambda: F.pad(x, ((huge, 0), (0, 0)), "edge"),
    lambda: F.pad(x, huge),
    lambda: F.conv_transpose2d(x, np.ones((1, 1, 1, 1), np.float32), stride=(huge - 1, 1)),
):
    try:
        call()
    except MemoryError as error:
        print("refused", error)
print(F.upsample(x, (4, 1)).ravel().tolist())
"""
    result = run_python(program)
    assert result.returncode == 0, result.stderr
    *refused, last = result.stdout.splitlines()
    assert len(refused) == 6, result.stdout
    assert last == "[1.0, 1.0, 1.0, 1.0]"


@pytest.mark.parametrize("shape", [(1, 0, 3, 2), (1, 3, 0, 2)])
def test_no_pixels_is_a_shape_error(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    with pytest.raises(cnnrs.ShapeError, match="upsample: x expects at least one element along the axis"):
        F.upsample(x, 2)
    with pytest.raises(cnnrs.ShapeError, match="adaptive_avg_pool2d: x expects at least one element along the axis"):
        F.adaptive_avg_pool2d(x, None)


@pytest.mark.parametrize(
    ("error", "arguments", "text"),
    [
        (ValueError, {}, "exactly one of size and scale_factor must be given, got size None and scale_factor None"),
        (ValueError, {"size": 2, "scale_factor": 2}, "exactly one of size and scale_factor"),
        (ValueError, {"size": 0}, r"size must be an int or an \(h, w\) pair of ints from 1"),
        (ValueError, {"size": 2.0}, "size must be an int"),
        (ValueError, {"scale_factor": 0}, "scale_factor must be a number above 0"),
        (ValueError, {"scale_factor": float("nan")}, "scale_factor must be a number above 0"),
        (ValueError, {"scale_factor": 10**400}, "scale_factor must be a number above 0"),
        (ValueError, {"scale_factor": (1, 2, 3)}, "scale_factor must be a number above 0"),
        (ValueError, {"scale_factor": "2"}, "scale_factor must be a number above 0"),
        (ValueError, {"size": 2, "mode": "cubic"}, 'mode must be "nearest" or "bilinear"'),
        (ValueError, {"size": 2, "align_corners": True}, 'align_corners must be False for mode "nearest"'),
        (TypeError, {"size": 2, "mode": "bilinear", "align_corners": 1}, "align_corners must be True or False"),
    ],
)
def test_arguments_of_upsample(error: type[Exception], arguments: dict[str, Any], text: str) -> None:
    """The function and the layer refuse the same."""
    with pytest.raises(error, match=f"^upsample: {text}"):
        F.upsample(cases.real(1, 3, 3, 1), **arguments)
    with pytest.raises(error, match=f"^Upsample: {text}"):
        nn.Upsample(**arguments)


@pytest.mark.parametrize("factor", [0.1, 1e12, (1, 1e-9)])
def test_a_result_without_pixels_or_with_too_many(factor: Any) -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"^upsample: the result must have from 1 to 2147483647 pixels"):
        F.upsample(cases.real(1, 3, 3, 1), scale_factor=factor)


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", (1, 2, 3), (0, None), 2**40])
def test_arguments_of_adaptive_avg_pool2d(size: Any) -> None:
    """The function and the layer refuse the same."""
    with pytest.raises(ValueError, match=r"^adaptive_avg_pool2d: output_size must be"):
        F.adaptive_avg_pool2d(cases.real(1, 3, 3, 1), size)
    with pytest.raises(ValueError, match=r"^AdaptiveAvgPool2d: output_size must be"):
        nn.AdaptiveAvgPool2d(size)
