"""Translation equivariance: where a window sees the same pixels, the result has the same bits, wherever it lies.

An output pixel is *interior* if its whole window lies on the input, on no padding: along an axis of size I, output
pixels i with i*S - P >= 0 and i*S - P + K_eff <= I, where K_eff = D*(K - 1) + 1. Shifting the input by a*S pixels then
shifts interior results by a pixels: those whose window lies on the input before and after the shift. The bits are those
of direct summation; by transformed tiles the last ones depend on where a tile lies.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
from cases import Array, ConvCase, real
from cnnrs import functional as F
from tolerance import assert_same_bits

Span = tuple[int, int]


def interior(size: int, kernel: int, stride: int, pad: int, dilation: int, out: int, shift: int) -> Span:
    """First and end of the output pixels whose windows lie on the input both as they are and `shift` pixels on."""
    extent = dilation * (kernel - 1) + 1
    inside = [
        i
        for i in range(out)
        if all((i + s) * stride - pad >= 0 and (i + s) * stride - pad + extent <= size for s in (0, shift))
        and 0 <= i + shift < out
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def shifted(x: Array, rows: int, columns: int) -> Array:
    """The same picture, so many pixels further down and to the right; other noise comes in at the edges."""
    y = real(*x.shape, seed=99)
    height, width = x.shape[1:3]
    rows, columns = max(-height, min(rows, height)), max(-width, min(columns, width))
    target = y[:, max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)]
    target[...] = x[:, max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)]
    return y


def check(case: ConvCase, shift: Span) -> int:
    """Convolve a picture before and after a shift by `shift` output pixels; return how many pixels were compared."""
    data, window = case.data(), case.window

    def run(x: Array) -> Array:
        return F.conv2d(x, data.weight, data.bias, **case.geometry, algorithm="direct")

    moved = shifted(data.x, shift[0] * case.stride[0], shift[1] * case.stride[1])
    before, after = run(data.x), run(moved)
    spans = [
        interior(
            case.size[axis], case.kernel[axis], case.stride[axis], window.padding[axis][0], case.dilation[axis],
            window.out[axis], shift[axis],
        )
        for axis in range(2)
    ]  # fmt: skip
    (top, bottom), (left, right) = spans
    here = before[:, top:bottom, left:right]
    there = after[:, top + shift[0] : bottom + shift[0], left + shift[1] : right + shift[1]]
    assert_same_bits(np.ascontiguousarray(there), np.ascontiguousarray(here), str(case))
    return here.size


@given(case=cases.conv_cases(), shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
@pytest.mark.usefixtures("isa")
def test_any_convolution(case: ConvCase, shift: Span) -> None:
    """Any kernel, stride, dilation, padding, groups and channels."""
    check(case, shift)


@pytest.mark.parametrize(("channels", "out_channels"), [(1, 1), (1, 6), (3, 8), (6, 16), (16, 5), (16, 17), (64, 40)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.usefixtures("isa", "threads")
def test_every_shift_of_a_picture(channels: int, out_channels: int, kernel: int) -> None:
    """Shifts by all small distances: tiles, bands and folded vectors begin at other pixels each time."""
    compared = 0
    for rows, columns in [(0, 1), (1, 0), (0, -3), (2, 5), (-4, 7), (5, -1)]:
        case = ConvCase(1, (21, 24), channels, out_channels, (kernel, kernel), padding=kernel // 2)
        compared += check(case, (rows, columns))
    assert compared > 6 * 10 * 10 * out_channels


@pytest.mark.usefixtures("isa")
def test_pooling_and_activations_shift_as_well() -> None:
    """So a stack of layers without padding is equivariant: by the product of its strides."""
    weight, second = real(3, 3, 2, 7), real(3, 3, 7, 5)

    def stack(x: Array) -> Array:
        return F.tanh(F.conv2d(F.max_pool2d(F.relu(F.conv2d(x, weight)), 2), second))

    x = real(2, 40, 40, 2)
    before, after = stack(x), stack(shifted(x, 6, -4))
    assert before.shape[1:3] == (17, 17)
    assert_same_bits(np.ascontiguousarray(after[:, 3:, :-2]), np.ascontiguousarray(before[:, :-3, 2:]))


def test_the_edge_is_not_equivariant() -> None:
    """What the padding touches differs: the interior begins where it should, not earlier."""
    x, weight = real(1, 12, 12, 3), real(5, 5, 3, 4)
    before, after = F.conv2d(x, weight, padding=2), F.conv2d(shifted(x, 1, 0), weight, padding=2)
    assert interior(12, 5, 1, 2, 1, 12, 1) == (2, 9)
    assert_same_bits(np.ascontiguousarray(after[:, 3:10, 2:10]), np.ascontiguousarray(before[:, 2:9, 2:10]))
    for row in (1, 9):
        assert not np.array_equal(after[:, row + 1, 2:10], before[:, row, 2:10])
