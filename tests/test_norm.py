"""Normalization against the oracle, forward and backward, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle_norm as ref
import tolerance
from cases import Array
from cnnrs import _core, graph, nn
from cnnrs import functional as F

Shape = tuple[int, ...]

SHAPES: list[Shape] = [
    (4, 4, 4, 4),
    (2, 1, 1, 1),
    *((2, 3, 5, channels) for channels in range(1, 18)),
    (3, 4, 5, 33),
    (2, 7, 7, 64),
    (2, 3, 3, 100),
    (16, 5),
    (3, 2),
    (7, 200),
    (2, 9, 6),
    (2, 3, 4, 5, 6),
    (2, 40, 40, 16),
    (64, 1030),
]
GROUPED: list[tuple[Shape, int]] = [
    ((4, 4, 4, 4), 2),
    ((1, 1, 1, 1), 1),
    ((2, 5, 3, 12), 3),
    ((2, 5, 3, 12), 12),
    ((2, 5, 3, 17), 1),
    ((3, 4, 4, 96), 32),
    ((2, 12), 4),
    ((5, 300), 1),
    ((900, 24), 1),
    ((700, 24), 3),
    ((2, 20_000), 1),
    ((1, 40_000), 2),
    ((1, 64, 64, 20), 5),
    ((2, 3, 2, 2, 6), 2),
    ((1, 30_000, 3), 1),
]


def parameters(*shape: int) -> tuple[Array, Array]:
    """A weight around one, with a negative number, and a bias."""
    weight = 1 + cases.real(*shape, seed=2) / 4
    weight.reshape(-1)[0] *= -1
    return weight, cases.real(*shape, seed=3)


def gradient(function: Callable[[Any], Any], at: Array, grad: Array) -> Array:
    """The gradient by the operand that the function takes; nothing else is computed."""
    with graph.Trace() as trace:
        operand = trace.input(at.shape, "float32", "operand", batched=False)
        y = function(operand)
        seed = trace.input(grad.shape, "float32", "seed", batched=False)
        (result,) = trace.gradients([y], [seed], [operand])
        assert result is not None
    found: Array = _core.Program(trace.graph, [result.id]).run(trace.feed([at, grad]))[0]
    return found


def check_all(function: Callable[..., Any], x: Array, weight: Array, bias: Array, norm: ref.Norm) -> None:
    """Result and the gradients of x, weight and bias."""
    y = function(x, weight, bias)
    tolerance.assert_within(y, *norm.forward(), "y")
    grad = cases.real(*x.shape, seed=4)
    lead = tuple(range(x.ndim - weight.ndim))
    for name, got, (value, error) in zip(
        ("grad_x", "grad_weight", "grad_bias"),
        (
            gradient(lambda v: function(v, weight, bias), x, grad),
            gradient(lambda v: function(x, v, bias), weight, grad),
            gradient(lambda v: function(x, weight, v), bias, grad),
        ),
        norm.backward(grad, lead),
        strict=True,
    ):
        tolerance.assert_within(got, value, error, name)


def batch_train(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def check_batch(x: Array) -> None:
    weight, bias = parameters(x.shape[-1])
    check_all(batch_train, x, weight, bias, ref.batch_norm(x, weight, bias))


# Batch normalization.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_batch_norm_in_training(shape: Shape) -> None:
    check_batch(cases.real(*shape) * 2 + 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_batch_norm_with_given_statistics(shape: Shape) -> None:
    x = cases.real(*shape)
    weight, bias = parameters(shape[-1])
    mean, var = cases.real(shape[-1], seed=5), cases.real(shape[-1], seed=6) ** 2
    norm = ref.batch_norm(x, weight, bias, given=(mean, var))
    tolerance.assert_within(F.batch_norm(x, mean, var, weight, bias), *norm.forward())
    plain = ref.batch_norm(x, 1.0, 0.0, given=(mean, var))
    tolerance.assert_within(F.batch_norm(x, mean, var), *plain.forward())


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_running_values(shape: Shape, momentum: float) -> None:
    x = cases.real(*shape) * 3 - 2
    weight, bias = parameters(shape[-1])
    old = cases.real(shape[-1], seed=5), cases.real(shape[-1], seed=6) ** 2
    attrs = {"eps": 1e-5, "momentum": momentum}
    y, mean, rstd, *new = _core.eager("batch_norm_train", [x, weight, bias, *old], attrs)
    norm = ref.batch_norm(x, weight, bias)
    tolerance.assert_within(mean, norm.mean.reshape(-1), norm.mean_error.reshape(-1), "mean")
    tolerance.assert_within(rstd, norm.rstd.reshape(-1), norm.rstd.reshape(-1) * norm.rstd_error, "rstd")
    for got, (value, error), name in zip(
        new, norm.running(*old, momentum), ("running_mean", "running_var"), strict=True
    ):
        tolerance.assert_within(got, value, error, name)
    tolerance.assert_same_bits(batch_train(x, weight, bias), y)
    if momentum == 0.0:
        tolerance.assert_same_bits(new, list(old))


def test_running_arrays_are_not_written() -> None:
    x, mean, var = cases.real(4, 3), np.zeros(3, np.float32), np.ones(3, np.float32)
    tolerance.assert_same_bits(F.batch_norm(x, mean, var, training=True), batch_train(x, None, None))
    assert not mean.any()
    assert (var == 1).all()


@pytest.mark.parametrize("offset", [1e4, -3e5])
@pytest.mark.parametrize("shape", [(64, 9, 9, 5), (8, 30, 30, 64), (300, 1100)], ids=str)
@pytest.mark.usefixtures("isa")
def test_a_large_offset_costs_only_the_digits_of_the_input(shape: Shape, offset: float) -> None:
    """Standard deviation 1 on top of 1e4: the variance keeps its digits, the mean is off by its own rounding only."""
    x = cases.real(*shape) + np.float32(offset)
    norm = ref.batch_norm(x, 1.0, 0.0, eps=0.0)
    assert norm.rstd_error < 2e-5
    y = F.batch_norm(x, None, None, training=True, eps=0.0)
    tolerance.assert_within(y, *norm.forward())
    assert np.abs(y.std(axis=tuple(range(x.ndim - 1))) - 1).max() < 1e-3
    grad = cases.real(*shape, seed=4)
    got = gradient(lambda v: F.batch_norm(v, None, None, training=True, eps=0.0), x, grad)
    tolerance.assert_within(got, *norm.backward(grad, tuple(range(x.ndim - 1)))[0], "grad_x")


@pytest.mark.usefixtures("isa")
def test_a_first_row_far_from_the_rest_does_not_spoil_the_variance() -> None:
    x = cases.real(5000, 7) + np.float32(1e4)
    x[:1] = 0.0
    norm = ref.batch_norm(x, 1.0, 0.0, eps=0.0)
    tolerance.assert_within(F.batch_norm(x, None, None, training=True, eps=0.0), *norm.forward())


@pytest.mark.usefixtures("isa")
def test_torch_facts() -> None:
    """By hand: [[1, 2], [3, 6]]: means 2 and 4, biased variances 1 and 4, unbiased ones 2 and 8."""
    x = np.array([[1, 2], [3, 6]], np.float32)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    y, mean, rstd, new_mean, new_var = _core.eager(
        "batch_norm_train", [x, ones, zeros, zeros, ones], {"eps": 0.0, "momentum": 0.1}
    )
    assert y.tolist() == [[-1, -1], [1, 1]]
    assert mean.tolist() == [2, 4]
    assert rstd.tolist() == [1, 0.5]
    np.testing.assert_allclose(new_mean, [0.2, 0.4], rtol=1e-7)
    np.testing.assert_allclose(new_var, [0.9 + 0.2, 0.9 + 0.8], rtol=1e-7)


@pytest.mark.usefixtures("isa")
def test_a_channel_of_equal_numbers() -> None:
    """Variance exactly zero: the result is the bias, the gradient finite."""
    x = np.full((5, 6, 7, 3), 0.1, np.float32)
    weight, bias = parameters(3)
    tolerance.assert_same_bits(batch_train(x, weight, bias), np.broadcast_to(bias, x.shape).copy())
    assert np.isfinite(gradient(lambda v: batch_train(v, weight, bias), x, cases.real(*x.shape))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.usefixtures("isa")
def test_nan_stays_in_its_channel(bad: float) -> None:
    x = cases.real(4, 5, 5, 19)
    clean = batch_train(x, None, None)
    x[1, 2, 3, 7] = bad
    y = batch_train(x, None, None)
    assert np.isnan(y[..., 7]).all()
    others = np.arange(19) != 7
    tolerance.assert_same_bits(y[..., others], clean[..., others])


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 1, 3)], ids=str)
def test_one_value_per_channel_is_refused_in_training(shape: Shape) -> None:
    with pytest.raises(ValueError, match="one value per channel"):
        F.batch_norm(cases.real(*shape), None, None, training=True)
    assert np.isfinite(F.batch_norm(cases.real(*shape), *[np.ones(shape[-1], np.float32)] * 2)).all()


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (0, 3)], ids=str)
def test_empty_batches(shape: Shape) -> None:
    """Empty results, gradients of zero, running values that stay."""
    x = np.zeros(shape, np.float32)
    weight, bias = parameters(3)
    functions: list[Callable[..., Any]] = [
        batch_train,
        lambda v, w, b: F.batch_norm(v, bias, weight**2, w, b),
        lambda v, w, b: F.group_norm(v, 3, w, b),
        lambda v, w, b: F.layer_norm(v, 3, w, b),
    ]
    for function in functions:
        assert function(x, weight, bias).shape == shape
        assert not gradient(lambda w, f=function: f(x, w, w), weight, x).any()
    assert F.local_response_norm(x, 3).shape == shape
    old = [np.ones(3, np.float32), np.full(3, 2, np.float32)]
    results = _core.eager("batch_norm_train", [x, weight, bias, *old], {"eps": 1e-5, "momentum": 0.5})
    tolerance.assert_same_bits(results[3:], old)


@pytest.mark.usefixtures("isa")
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    channels=st.integers(1, 40),
    scale=st.integers(-6, 6),
    offset=st.integers(-3, 3),
)
def test_batch_norm_of_any_shape(shape: list[int], channels: int, scale: int, offset: int) -> None:
    if np.prod(shape) > 1:
        check_batch(cases.real(*shape, channels) * np.float32(2.0**scale) + np.float32(offset))


# Group and layer normalization.


@pytest.mark.parametrize(("shape", "groups"), GROUPED, ids=str)
@pytest.mark.usefixtures("isa")
def test_group_norm(shape: Shape, groups: int) -> None:
    x = cases.real(*shape) + np.float32(2)
    weight, bias = parameters(shape[-1])
    norm = ref.group_norm(x, groups, weight, bias)
    check_all(lambda v, w, b: F.group_norm(v, groups, w, b), x, weight, bias, norm)


@pytest.mark.parametrize(
    ("shape", "normalized"),
    [
        ((3, 7), (7,)),
        ((2, 5, 6, 10), (10,)),
        ((2, 5, 6, 10), (6, 10)),
        ((3, 5, 6, 10), (5, 6, 10)),
        ((40, 30, 96), (96,)),
        ((2, 24, 25, 32), (24, 25, 32)),
        ((4, 3, 1), (1,)),
    ],
    ids=str,
)
@pytest.mark.usefixtures("isa")
def test_layer_norm(shape: Shape, normalized: Shape) -> None:
    x = cases.real(*shape) - np.float32(1)
    weight, bias = parameters(*normalized)
    norm = ref.layer_norm(x, normalized, weight, bias)
    check_all(lambda v, w, b: F.layer_norm(v, normalized, w, b), x, weight, bias, norm)


@pytest.mark.usefixtures("isa")
@given(
    batch=st.integers(1, 5),
    pixels=st.integers(1, 9),
    groups=st.integers(1, 5),
    per=st.integers(1, 21),
    flat=st.booleans(),
)
def test_group_norm_of_any_shape(batch: int, pixels: int, groups: int, per: int, flat: bool) -> None:
    x = cases.real(*((batch, groups * per) if flat else (batch, pixels, 2, groups * per)))
    weight, bias = parameters(groups * per)
    norm = ref.group_norm(x, groups, weight, bias)
    check_all(lambda v, w, b: F.group_norm(v, groups, w, b), x, weight, bias, norm)


@pytest.mark.parametrize("shape", [(3, 400), (2, 18_000), (2, 20, 20, 8)], ids=str)
@pytest.mark.usefixtures("isa")
def test_a_large_offset_of_groups(shape: Shape) -> None:
    x = cases.real(*shape) + np.float32(1e4)
    norm = ref.group_norm(x, 2, 1.0, 0.0)
    tolerance.assert_within(F.group_norm(x, 2), *norm.forward())


# Local response normalization.

WINDOWS = [(1, {}), (5, {}), (2, {"alpha": 0.5}), (4, {"alpha": 1.0, "beta": 0.5}), (3, {"alpha": 0.3, "beta": 1.0})]
WINDOWS += [
    (5, {"alpha": 5e-4, "k": 2.0}),
    (6, {"alpha": 0.7, "beta": 0.4, "k": 3.0}),
    (40, {"alpha": 2.0, "beta": -0.6}),
]


@pytest.mark.parametrize(("size", "numbers"), WINDOWS, ids=str)
@pytest.mark.usefixtures("isa")
def test_local_response_norm(size: int, numbers: dict[str, float]) -> None:
    for shape in ((2, 3, 4, 7), (1, 2, 2, 96), (3, 1), (2, 17), (2, 3, 16)):
        x, grad = 3 * cases.real(*shape), cases.real(*shape, seed=1)
        y, grad_x = ref.local_response_norm(x, grad, size, **numbers)
        tolerance.assert_within(F.local_response_norm(x, size, **numbers), *y, "y")
        got = gradient(lambda v: F.local_response_norm(v, size, **numbers), x, grad)
        tolerance.assert_within(got, *grad_x, "grad_x")


# All of them.

CALLS: dict[str, tuple[Callable[[Any], Any], Shape]] = {
    "batch_norm": (lambda v: batch_train(v, *parameters(24)), (6, 11, 10, 24)),
    "batch_norm, few channels": (lambda v: batch_train(v, *parameters(3)), (8, 50, 50, 3)),
    "batch_norm, rows": (lambda v: batch_train(v, *parameters(1100)), (130, 1100)),
    "group_norm": (lambda v: F.group_norm(v, 4, *parameters(24)), (2, 31, 30, 24)),
    "layer_norm": (lambda v: F.layer_norm(v, 48, *parameters(48)), (900, 48)),
    "layer_norm, long rows": (lambda v: F.layer_norm(v, 50_000, *parameters(50_000)), (2, 50_000)),
    "local_response_norm": (lambda v: F.local_response_norm(v, 5), (3, 20, 20, 64)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(call: str, assert_deterministic: Callable[..., None]) -> None:
    function, shape = CALLS[call]
    x, grad = cases.real(*shape), cases.real(*shape, seed=1)
    y, pull = cnnrs.vjp(function, x)
    assert_deterministic(lambda: [function(x), pull(grad)])
    tolerance.assert_same_bits(function(x), y)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm, few channels", "group_norm", "layer_norm"])
def test_weight_gradients_do_not_depend_on_threads(name: str, assert_deterministic: Callable[..., None]) -> None:
    shape = CALLS[name][1]
    x, grad, weight = cases.real(*shape), cases.real(*shape, seed=1), parameters(shape[-1])[0]
    functions: dict[str, Callable[[Any], Any]] = {
        "batch_norm": lambda v: batch_train(x, v, v),
        "group_norm": lambda v: F.group_norm(x, 4, v, v),
        "layer_norm": lambda v: F.layer_norm(x, shape[-1], v, v),
    }
    function = functions[name.split(",")[0]]
    assert_deterministic(lambda: gradient(function, weight, grad))


@pytest.mark.parametrize("call", CALLS)
def test_gradients_against_finite_differences_of_the_oracle(call: str) -> None:
    """Along a direction, central differences in double precision; halving the step tells their error."""
    shape = (*(min(size, 4) for size in CALLS[call][1][:-1]), 12)
    x, grad, direction = (cases.real(*shape, seed=seed).astype(np.float64) for seed in range(3))
    weight, bias = parameters(12)

    def oracle(at: Any) -> Any:
        if call.startswith("batch"):
            return ref.batch_norm(at, weight, bias).forward()[0]
        if call.startswith("group"):
            return ref.group_norm(at, 4, weight, bias).forward()[0]
        if call.startswith("layer"):
            return ref.layer_norm(at, (12,), weight, bias).forward()[0]
        return ref.local_response_norm(at, grad, 5, alpha=0.4)[0][0]

    def engine(at: Any) -> Any:
        if call.startswith("batch"):
            return batch_train(at, weight, bias)
        if call.startswith("group"):
            return F.group_norm(at, 4, weight, bias)
        if call.startswith("layer"):
            return F.layer_norm(at, 12, weight, bias)
        return F.local_response_norm(at, 5, alpha=0.4)

    def slope(step: float) -> float:
        return float(((oracle(x + step * direction) - oracle(x - step * direction)) * grad).sum() / (2 * step))

    coarse, fine = slope(2e-4), slope(1e-4)
    got = gradient(engine, x.astype(np.float32), grad.astype(np.float32))
    rounding = tolerance.gamma(4 * ref.RUN) * np.abs(got * direction).sum()
    assert abs((got * direction).sum() - fine) <= abs(coarse - fine) + rounding + 1e-9


def test_strided_and_byte_swapped_operands() -> None:
    x = cases.real(3, 10, 8, 12)
    view = x[:, ::2, ::-1, 1::2]
    for function in (
        lambda v: batch_train(v, None, None),
        lambda v: F.group_norm(v, 3),
        lambda v: F.layer_norm(v, (8, 6)),
        lambda v: F.local_response_norm(v, 3),
    ):
        tolerance.assert_same_bits(function(view), function(np.ascontiguousarray(view)))
        tolerance.assert_same_bits(function(view.astype(">f4")), function(np.ascontiguousarray(view)))


def test_parameters_stand_for_their_arrays() -> None:
    x, (weight, bias) = cases.real(2, 3, 4, 6), parameters(6)
    tensors = nn.Parameter(weight), nn.Parameter(bias)
    tolerance.assert_same_bits(F.group_norm(x, 2, *tensors), F.group_norm(x, 2, weight, bias))
    tolerance.assert_same_bits(F.layer_norm(x, 6, *tensors), F.layer_norm(x, 6, weight, bias))
    mean = nn.Buffer(bias), nn.Buffer(weight**2)
    tolerance.assert_same_bits(F.batch_norm(x, *mean, *tensors), F.batch_norm(x, bias, weight**2, weight, bias))


X = cases.real(2, 4, 4, 6)
FIVE, SIX = np.ones(5, np.float32), np.ones(6, np.float32)
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.batch_norm(SIX, SIX, SIX), cnnrs.ShapeError, r"^batch_norm: x must have at least two dimensions"),
    (
        lambda: F.batch_norm(X, FIVE, SIX),
        cnnrs.ShapeError,
        r"^batch_norm: running_mean must have shape \(6,\), got \(5,\)",
    ),
    (lambda: F.batch_norm(X, SIX, FIVE), cnnrs.ShapeError, r"^batch_norm: running_var must have"),
    (lambda: F.batch_norm(X, SIX, SIX, FIVE), cnnrs.ShapeError, r"^batch_norm: weight must have"),
    (lambda: F.batch_norm(X, SIX, SIX, SIX, FIVE), cnnrs.ShapeError, r"^batch_norm: bias must have"),
    (lambda: F.batch_norm(X, None, SIX), TypeError, r"^batch_norm: running_mean must be a float32"),
    (
        lambda: F.batch_norm(X, SIX, SIX, momentum=1.5),
        ValueError,
        r"^batch_norm: momentum must be from 0 to 1, got 1.5",
    ),
    (lambda: F.batch_norm(X, SIX, SIX, eps=-1), ValueError, r"^batch_norm: eps must be at least 0, got -1"),
    (lambda: F.batch_norm(X, SIX, SIX, eps="x"), TypeError, r"^batch_norm: eps must be a number"),  # type: ignore[arg-type]
    (lambda: F.batch_norm(X, SIX, SIX, training=1), TypeError, r"^batch_norm: training must be True or False"),  # type: ignore[arg-type]
    (lambda: F.group_norm(X, 4), cnnrs.ShapeError, r"^group_norm: num_groups=4 must divide the 6 channels"),
    (lambda: F.group_norm(X, 0), ValueError, r"^group_norm: num_groups must be an int from 1"),
    (lambda: F.group_norm(X, 2, FIVE), cnnrs.ShapeError, r"^group_norm: weight must have"),
    (lambda: F.layer_norm(X, 5), cnnrs.ShapeError, r"^layer_norm: x must have shape \(N, ..., 5\), got \(2, 4, 4, 6\)"),
    (lambda: F.layer_norm(X, X.shape), cnnrs.ShapeError, r"^layer_norm: x must have shape"),
    (lambda: F.layer_norm(X, ()), ValueError, r"^layer_norm: normalized_shape must have at least one size"),
    (lambda: F.layer_norm(X, (4, 6), SIX), cnnrs.ShapeError, r"^layer_norm: weight must have shape \(4, 6\)"),
    (lambda: F.local_response_norm(X, 0), ValueError, r"^local_response_norm: size must be an int from 1"),
    (lambda: F.local_response_norm(X, 3, alpha=-1), ValueError, r"^local_response_norm: alpha must be at least 0"),
    (lambda: F.local_response_norm(X, 3, beta=np.nan), ValueError, r"^local_response_norm: beta must be finite"),
    (lambda: F.local_response_norm(SIX, 3), cnnrs.ShapeError, r"^local_response_norm: x must have at least two"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED)
def test_refused(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), [[1.0]], None, np.zeros((2, 3), np.int32)])
def test_other_types_are_refused(wrong: Any) -> None:
    for name, call in {
        "batch_norm": lambda: F.batch_norm(wrong, SIX, SIX),
        "group_norm": lambda: F.group_norm(wrong, 2),
        "layer_norm": lambda: F.layer_norm(wrong, 3),
        "local_response_norm": lambda: F.local_response_norm(wrong, 3),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name}: x must be a float32 .*\.astype\(np\.float32\)$"):
            call()
