"""Maximum and average pooling and their gradients against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

import cases
import oracle
import tolerance
from cases import Array, PoolCase
from cnnrs import functional as F

MAX_CASES = [*cases.POOL_CASES, *cases.DILATED_POOL_CASES]


def check_max(case: PoolCase, x: Array, grad_y: Array) -> None:
    """Values and positions are exact; the gradient sums one term per window that chose the element."""
    y, index = F.max_pool2d(x, case.kernel, dilation=case.dilation, return_indices=True, **case.geometry)
    expected, positions = oracle.max_pool2d(x, case.kernel, dilation=case.dilation, **case.geometry)
    tolerance.assert_within(y, expected, 0.0, f"{case} y")
    assert index.dtype == np.int32
    np.testing.assert_array_equal(index, positions, f"{case} index")
    plain = F.max_pool2d(x, case.kernel, dilation=case.dilation, **case.geometry)
    tolerance.assert_same_bits(plain, y, "the result without indices")

    grad_x = F.max_pool2d_backward(
        grad_y, index, case.input_shape, case.kernel, dilation=case.dilation, **case.geometry
    )
    magnitude = oracle.max_pool2d_backward(abs(grad_y), positions, case.input_shape)
    bound = tolerance.reduction(case.kernel[0] * case.kernel[1], magnitude)
    wanted = oracle.max_pool2d_backward(grad_y, positions, case.input_shape)
    tolerance.assert_within(grad_x, wanted, bound, f"{case} grad_x")


def check_average(case: PoolCase, x: Array, grad_y: Array) -> None:
    """Both divisors, forward and backward."""
    taps = case.kernel[0] * case.kernel[1]
    for include_pad in (True, False):
        extra = {"count_include_pad": include_pad, **case.geometry}
        y = F.avg_pool2d(x, case.kernel, **extra)
        bound = tolerance.reduction(taps, oracle.avg_pool2d(abs(x), case.kernel, **extra))
        tolerance.assert_within(y, oracle.avg_pool2d(x, case.kernel, **extra), bound, f"{case} y {include_pad}")

        grad_x = F.avg_pool2d_backward(grad_y, case.input_shape, case.kernel, **extra)
        expected = oracle.avg_pool2d_backward(grad_y, case.input_shape, case.kernel, **extra)
        magnitude = oracle.avg_pool2d_backward(abs(grad_y), case.input_shape, case.kernel, **extra)
        bound = tolerance.reduction(taps, magnitude)
        tolerance.assert_within(grad_x, expected, bound, f"{case} grad_x {include_pad}")


@pytest.mark.parametrize("integer", [False, True], ids=["real", "ties"])
@pytest.mark.parametrize("case", MAX_CASES, ids=str)
@pytest.mark.usefixtures("isa")
def test_max_pool(case: PoolCase, integer: bool) -> None:
    """Real data, and integers that tie often."""
    check_max(case, *case.data(integer))


@pytest.mark.parametrize("case", cases.POOL_CASES, ids=str)
@pytest.mark.usefixtures("isa")
def test_avg_pool(case: PoolCase) -> None:
    """Real data within the bound of a sum over the window."""
    check_average(case, *case.data())


@pytest.mark.parametrize("count", [250, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_geometries(isa: str, count: int) -> None:
    """Random sizes, strides, padding forms and ceil modes."""
    checked = 0
    for case in cases.pool_geometries(count, seed=count):
        check_max(case, *case.data(integer=checked % 2 == 0))
        check_average(case, *case.data())
        checked += 1
    print(f"pooling on {isa}: {checked} random geometries checked")
    assert checked == count


@pytest.mark.usefixtures("isa")
@given(case=cases.pool_cases())
def test_any_geometry(case: PoolCase) -> None:
    """Hypothesis looks for a geometry that fails and shrinks it."""
    check_max(case, *case.data(integer=True))
    check_average(case, *case.data())


@pytest.mark.parametrize("channels", [1, 5, 16, 33])
@pytest.mark.usefixtures("isa")
def test_nan_wins_the_maximum(channels: int) -> None:
    """Every window that holds a NaN gives NaN, its index points at one, and its gradient goes there."""
    x = cases.real(2, 8, 9, channels)
    x[:, 3, 4] = np.nan
    x[0, 0, 0, ::2] = -np.nan
    y, index = F.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)
    expected, positions = oracle.max_pool2d(x, 3, stride=1, padding=1)
    tolerance.assert_within(y, expected, 0.0)
    np.testing.assert_array_equal(index, positions)
    grad_x = F.max_pool2d_backward(np.ones_like(y), index, x.shape, 3, stride=1, padding=1)
    assert np.all(grad_x[:, 3, 4] == 9.0)


@pytest.mark.parametrize("channels", [1, 5, 16, 33])
@pytest.mark.usefixtures("isa")
def test_minus_infinity_is_a_value(channels: int) -> None:
    """A window of -inf selects its first element inside the input, never the padding."""
    x = np.full((1, 5, 6, channels), -np.inf, np.float32)
    y, index = F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    assert np.all(y == -np.inf)
    np.testing.assert_array_equal(index, oracle.max_pool2d(x, 3, stride=2, padding=1)[1])


@pytest.mark.usefixtures("isa")
def test_window_of_padding_alone() -> None:
    """With dilation all taps can lie in the padding: the maximum is -inf and nothing receives its gradient."""
    case = cases.ONLY_PADDING_POOL_CASE
    x, grad_y = case.data()
    y, index = F.max_pool2d(x, case.kernel, dilation=case.dilation, return_indices=True, **case.geometry)
    assert np.all(y == -np.inf)
    grad_x = F.max_pool2d_backward(
        grad_y, index, case.input_shape, case.kernel, dilation=case.dilation, **case.geometry
    )
    assert not grad_x.any()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("isa")
def test_average_of_special_values(special: float) -> None:
    """NaN and infinities spread to the windows that hold them only."""
    x = cases.real(1, 6, 6, 17)
    x[0, 2, 3, 16] = special
    y = F.avg_pool2d(x, 2)
    expected = oracle.avg_pool2d(x, 2)
    tolerance.assert_within(y, expected, tolerance.reduction(4, oracle.avg_pool2d(abs(x), 2)))
    assert np.isfinite(y).sum() == y.size - 1


@pytest.mark.parametrize("case", [c for c in MAX_CASES if c.batch * c.channels > 30], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(case: PoolCase, assert_deterministic: Callable[..., None]) -> None:
    """All four functions give the same bits with 1, 2 and 5 threads and from run to run."""
    x, grad_y = case.data()
    maximum = {"dilation": case.dilation, **case.geometry}

    def run() -> list[Array]:
        y, index = F.max_pool2d(x, case.kernel, return_indices=True, **maximum)
        grad_x = F.max_pool2d_backward(grad_y, index, case.input_shape, case.kernel, **maximum)
        results = [y, index, grad_x]
        if case.dilation == (1, 1):
            results.append(F.avg_pool2d(x, case.kernel, **case.geometry))
            results.append(F.avg_pool2d_backward(grad_y, case.input_shape, case.kernel, **case.geometry))
        return results

    assert_deterministic(run)
