"""conv2d and its gradients by direct summation against the oracle, on every instruction-set level.

Transformed tiles are another algorithm with tolerances of its own: `test_winograd.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import cases
import cnnrs
import oracle
import tolerance
from cases import ConvCase
from cnnrs import _core
from cnnrs import functional as F

ALL_CASES = [*cases.EDGE_CASES, *cases.BIG_CASES]
Check = Callable[[ConvCase, bool], None]


@pytest.fixture(autouse=True)
def direct() -> Iterator[None]:
    """Direct summation only."""
    before = _core.get_algorithm()
    cnnrs.set_algorithm("direct")
    yield
    cnnrs.set_algorithm(before)


def assert_result(actual: Any, expected: Any, magnitude: Any, length: int, integer: bool, what: str) -> None:
    """Integer data must be exact; real data must be within the bound of its reduction."""
    bound = 0.0 if integer else tolerance.reduction(length, magnitude)
    tolerance.assert_within(actual, expected, bound, what)


def check_forward(case: ConvCase, integer: bool) -> None:
    """`conv2d` with and without a bias."""
    data = case.data(integer)
    length = data.weight[..., 0].size + 1
    for bias in (None, data.bias):
        actual = F.conv2d(data.x, data.weight, bias, **case.geometry)
        expected = oracle.conv2d(data.x, data.weight, bias, **case.geometry)
        magnitude = oracle.conv2d(abs(data.x), abs(data.weight), None if bias is None else abs(bias), **case.geometry)
        assert_result(actual, expected, magnitude, length, integer, f"{case} y, bias={bias is not None}")


def check_backward_data(case: ConvCase, integer: bool) -> None:
    """`conv2d_backward_data`."""
    data = case.data(integer)
    actual = F.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry)
    expected = oracle.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry)
    magnitude = oracle.conv2d_backward_data(abs(data.grad_y), abs(data.weight), case.input_shape, **case.geometry)
    length = case.kernel[0] * case.kernel[1] * case.out_channels // case.groups
    assert_result(actual, expected, magnitude, length, integer, f"{case} grad_x")


def check_backward_weights(case: ConvCase, integer: bool) -> None:
    """`conv2d_backward_weights`, weight and bias."""
    data = case.data(integer)
    actual = F.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry)
    expected = oracle.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry)
    magnitude = oracle.conv2d_backward_weights(abs(data.x), abs(data.grad_y), case.kernel, **case.geometry)
    length = data.grad_y[..., 0].size
    for position, name in enumerate(("grad_w", "grad_b")):
        assert_result(actual[position], expected[position], magnitude[position], length, integer, f"{case} {name}")


DIRECTIONS = pytest.mark.parametrize(
    "check", [check_forward, check_backward_data, check_backward_weights], ids=["forward", "data", "weights"]
)


@DIRECTIONS
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
@pytest.mark.usefixtures("isa")
def test_case(case: ConvCase, check: Check) -> None:
    """Real data within the computed bound, integer data exactly."""
    check(case, False)
    check(case, True)


@DIRECTIONS
@pytest.mark.parametrize("case", cases.BIG_CASES, ids=str)
@pytest.mark.usefixtures("isa", "threads")
def test_case_with_threads(case: ConvCase, check: Check) -> None:
    """Blocks handed to several threads add up to the exact result."""
    check(case, True)


def sweep(check: Check, geometries: Iterable[ConvCase]) -> int:
    """Check every geometry and report all that fail, not the first only; returns how many were checked."""
    failures: list[str] = []
    count = 0
    for count, case in enumerate(geometries, start=1):
        try:
            check(case, count % 2 == 0)
        except Exception as error:
            failures.append(f"{case}: {type(error).__name__}: {error}")
    message = f"{len(failures)} of {count} geometries failed\n" + "\n".join(failures[:20])
    assert not failures, message
    return count


@DIRECTIONS
@pytest.mark.parametrize("count", [250, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_geometries(isa: str, count: int, check: Check) -> None:
    """Random sizes, strides, padding forms, dilations and groups; every other one on exact integers."""
    checked = sweep(check, cases.geometries(count, seed=count))
    print(f"{check.__name__} on {isa}: {checked} random geometries checked")
    assert checked == count


@pytest.mark.slow
@pytest.mark.usefixtures("isa", "restore_threads")
def test_random_geometries_on_any_number_of_threads() -> None:
    """2,000 random geometries, all directions: the same bits on 1, 2 and 5 threads and in a second run on each."""
    geometries = list(cases.geometries(2000, seed=2000))

    def results() -> list[bytes]:
        digests = []
        for case in geometries:
            data = case.data(integer=False)
            arrays = [
                F.conv2d(data.x, data.weight, data.bias, **case.geometry),
                F.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry),
                *F.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry),
            ]
            digests.append(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest())
        return digests

    expected = results()
    for threads in (1, 2, 5):
        cnnrs.set_num_threads(threads)
        for run in range(2):
            assert results() == expected, f"{threads} threads, run {run}"


@pytest.mark.usefixtures("isa")
@given(case=cases.conv_cases())
def test_any_geometry(case: ConvCase) -> None:
    """Hypothesis looks for a geometry that fails in any direction and shrinks it."""
    for check in (check_forward, check_backward_data, check_backward_weights):
        check(case, True)


@pytest.mark.parametrize("case", [*cases.EDGE_CASES, *cases.geometries(100, seed=7)], ids=str)
@pytest.mark.usefixtures("isa")
def test_directions_are_adjoint(case: ConvCase) -> None:
    """`<conv(x, w), g> = <x, backward_data> = <w, backward_weights>`; exact, as all values are small integers."""
    data = case.data(integer=True)
    y = F.conv2d(data.x, data.weight, **case.geometry)
    grad_x = F.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry)
    grad_w, grad_b = F.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry)
    inner = np.vdot(y.astype(np.float64), data.grad_y)
    assert np.vdot(grad_x.astype(np.float64), data.x) == inner
    assert np.vdot(grad_w.astype(np.float64), data.weight) == inner
    assert np.vdot(grad_b.astype(np.float64), data.bias) == (data.grad_y.astype(np.float64) * data.bias).sum()


@pytest.mark.parametrize("case", [*cases.BIG_CASES, *cases.geometries(20, seed=11)], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(case: ConvCase, assert_deterministic: Callable[..., None]) -> None:
    """All directions give the same bits with 1, 2 and 5 threads and from run to run."""
    data = case.data()
    assert_deterministic(
        lambda: [
            F.conv2d(data.x, data.weight, data.bias, **case.geometry),
            F.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry),
            *F.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry),
        ]
    )


@pytest.mark.parametrize("channels", [(17, 35), (3, 5)], ids=["many", "few"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("isa")
def test_special_values_reach_their_windows_only(special: float, channels: tuple[int, int]) -> None:
    """One NaN or infinity in the input changes the outputs whose window holds it, and no other."""
    case = ConvCase(1, (9, 9), *channels, (3, 3), padding=1)
    data = case.data()
    weight = abs(data.weight) + np.float32(0.125)
    clean = F.conv2d(data.x, weight, **case.geometry)
    data.x[0, 4, 4, channels[0] - 1] = special
    touched = F.conv2d(data.x, weight, **case.geometry)
    window = (0, slice(3, 6), slice(3, 6))
    np.testing.assert_array_equal(touched[window], np.full((3, 3, channels[1]), special, np.float32))
    touched[window] = clean[window]
    tolerance.assert_same_bits(touched, clean)


@pytest.mark.usefixtures("isa")
def test_empty_batch_has_zero_gradients() -> None:
    """An empty batch is legal: empty results, and gradients of weights that are zero, not garbage."""
    x, weight = np.zeros((0, 6, 6, 3), np.float32), cases.real(3, 3, 3, 8)
    y = F.conv2d(x, weight)
    assert y.shape == (0, 4, 4, 8)
    assert F.conv2d_backward_data(y, weight, x.shape).shape == x.shape
    grad_w, grad_b = F.conv2d_backward_weights(x, y, 3)
    tolerance.assert_same_bits([grad_w, grad_b], [np.zeros_like(weight), np.zeros(8, np.float32)])
