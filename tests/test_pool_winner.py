"""What a program keeps of the winners of maximum pooling: a byte each where its own gradient alone reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cases
import oracle
import tolerance
from cases import Array, PoolCase
from cnnrs import _core, graph
from cnnrs import functional as F

WIDE = [
    PoolCase(1, (17, 19), 3, (15, 17), (1, 1)),
    PoolCase(1, (20, 23), 18, (15, 17), (2, 3), padding=(7, 8), ceil_mode=True),
    PoolCase(1, (2, 257), 2, (1, 255), (1, 1)),
]
"""Windows of 255 taps."""
WIDER = [
    PoolCase(1, (17, 18), 3, (16, 16), (1, 1)),
    PoolCase(1, (3, 258), 2, (1, 256), (1, 1), padding=(0, 3)),
    PoolCase(2, (33, 33), 2, (17, 17), (4, 4), dilation=(2, 1)),
]
"""Windows of more."""
BYTES = [*cases.POOL_CASES, *cases.DILATED_POOL_CASES, cases.ONLY_PADDING_POOL_CASE, *WIDE]


def pooling(case: PoolCase) -> dict[str, Any]:
    """The arguments of a pooling."""
    return {"kernel_size": case.kernel, "dilation": case.dilation, **case.geometry}


def program(fn: Callable[..., Any], *arrays: Array) -> tuple[list[Any], list[str]]:
    """What a traced function gives, and the pooling kernels of its plan."""
    with graph.Trace() as trace:
        symbols = [trace.input(x.shape, "float32", "x", batched=False) for x in arrays]
        result = fn(*symbols)
        outputs = [trace.operand(output).id for output in (result if isinstance(result, tuple) else (result,))]
    traced = _core.Program(trace.graph, outputs)
    names = [step["kernel"].rpartition("_")[0] for step in traced.plan(arrays[0].shape[0])["steps"]]
    return traced.run(list(arrays)), [name for name in names if name.startswith("max_pool")]


def gradient(case: PoolCase, x: Array, grad_y: Array) -> tuple[Array, list[str]]:
    """The gradient of a pooling within the program that pools, and its kernels."""

    def fn(x: Any, grad_y: Any) -> Any:
        _, index = F.max_pool2d(x, **pooling(case), return_indices=True)
        return F.max_pool2d_backward(grad_y, index, case.input_shape, **pooling(case))

    (grad_x,), kernels = program(fn, x, grad_y)
    return grad_x, kernels


def check(case: PoolCase, x: Array, grad_y: Array, noted: str) -> None:
    """The bits are those of the two calls, and where the oracle's sums are exact, the oracle's."""
    grad_x, kernels = gradient(case, x, grad_y)
    if x.size and grad_y.size:
        assert kernels == [f"max_pool_{noted}", f"max_pool_{noted}_backward"]
    _, index = F.max_pool2d(x, **pooling(case), return_indices=True)
    tolerance.assert_same_bits(
        grad_x, F.max_pool2d_backward(grad_y, index, case.input_shape, **pooling(case)), str(case)
    )
    _, positions = oracle.max_pool2d(x, case.kernel, dilation=case.dilation, **case.geometry)
    wanted = oracle.max_pool2d_backward(grad_y, positions, case.input_shape)
    magnitude = oracle.max_pool2d_backward(abs(grad_y), positions, case.input_shape)
    tolerance.assert_within(grad_x, wanted, tolerance.reduction(case.kernel[0] * case.kernel[1], magnitude), str(case))


@pytest.mark.parametrize("integer", [False, True], ids=["real", "ties"])
@pytest.mark.parametrize(("case", "noted"), [*((c, "tap") for c in BYTES), *((c, "index") for c in WIDER)], ids=str)
@pytest.mark.usefixtures("isa")
def test_gradient_within_a_program(case: PoolCase, noted: str, integer: bool) -> None:
    """Real data, and integers that tie often; up to 255 taps a byte is kept, from 256 on a position."""
    check(case, *case.data(integer), noted)


@pytest.mark.parametrize("case", [*WIDE, *WIDER, *cases.DILATED_POOL_CASES], ids=str)
@pytest.mark.usefixtures("isa")
def test_the_first_nan_and_the_last_tap(case: PoolCase) -> None:
    """NaN here and there, and values that grow, so that the last tap wins."""
    x, grad_y = case.data()
    rising = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    holes = np.where(np.arange(x.size).reshape(x.shape) % 5 == 0, np.float32(np.nan), x)
    noted = "tap" if case.kernel[0] * case.kernel[1] <= 255 else "index"
    check(case, rising, grad_y, noted)
    check(case, holes, grad_y, noted)


@pytest.mark.usefixtures("isa")
def test_an_index_that_others_read_stays_a_position() -> None:
    """The caller, or a gradient of another window, sees the positions that are promised."""
    x, grad_y = cases.real(2, 6, 6, 5), cases.real(2, 3, 3, 5)
    y, index = F.max_pool2d(x, 2, return_indices=True)
    own = F.max_pool2d_backward(grad_y, index, x.shape, 2)

    def returned(x: Any, grad_y: Any) -> Any:
        y, index = F.max_pool2d(x, 2, return_indices=True)
        return y, index, F.max_pool2d_backward(grad_y, index, x.shape, 2)

    results, kernels = program(returned, x, grad_y)
    assert kernels == ["max_pool_index", "max_pool_index_backward"]
    assert results[1].dtype == np.int32
    for result, expected in zip(results, (y, index, own), strict=True):
        tolerance.assert_same_bits(result, expected)

    def elsewhere(x: Any, grad_y: Any) -> Any:
        _, index = F.max_pool2d(x, 2, return_indices=True)
        first = F.max_pool2d_backward(grad_y, index, x.shape, 2)
        return first, F.max_pool2d_backward(grad_y, index, (2, 7, 7, 5), 3, stride=2)

    results, kernels = program(elsewhere, x, grad_y)
    assert kernels == ["max_pool_index", *["max_pool_index_backward"] * 2]
    other = F.max_pool2d_backward(grad_y, index, (2, 7, 7, 5), 3, stride=2)
    for result, expected in zip(results, (own, other), strict=True):
        tolerance.assert_same_bits(result, expected)


def test_a_program_needs_a_byte_for_each_winner() -> None:
    """Between the pooling and its gradient nothing else is kept."""
    with graph.Trace() as trace:
        x = trace.input((4, 64, 64, 16), "float32", "x", batched=False)
        grad_y = trace.input((4, 32, 32, 16), "float32", "grad_y", batched=False)
        y, index = F.max_pool2d(x, 2, return_indices=True)
        grad_x = F.max_pool2d_backward(grad_y, index, x.shape, 2)
    needed = _core.Program(trace.graph, [y.id, grad_x.id]).plan(4)["arena_bytes"]
    results = 4 * 32 * 32 * 16
    assert results <= needed < 2 * results
