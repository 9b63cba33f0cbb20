"""The references against brute-force loops, adjoint identities and finite differences, without the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cases
import oracle

Array = oracle.Array


def numeric_gradient(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """Central differences, one element at a time."""
    grad = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shifted = at.copy()
        shifted[index] = at[index] + step
        above = function(shifted)
        shifted[index] = at[index] - step
        grad[index] = (above - function(shifted)) / (2 * step)
    return grad


def brute_force_conv2d(case: cases.ConvCase, data: cases.ConvData) -> Array:
    """The formula as seven nested loops that skip taps outside the input."""
    win, per_group = case.window, case.out_channels // case.groups
    y = np.zeros((case.batch, *win.out, case.out_channels))
    for n, i, j, k in np.ndindex(y.shape):
        total = float(data.bias[k])
        for m, q, c in np.ndindex(data.weight.shape[:3]):
            row = i * win.stride[0] + m * win.dilation[0] - win.padding[0][0]
            column = j * win.stride[1] + q * win.dilation[1] - win.padding[1][0]
            if 0 <= row < case.size[0] and 0 <= column < case.size[1]:
                channel = k // per_group * data.weight.shape[2] + c
                total += float(data.x[n, row, column, channel]) * float(data.weight[m, q, c, k])
        y[n, i, j, k] = total
    return y


def brute_force_pool(case: cases.PoolCase, x: Array, include_pad: bool) -> tuple[Array, Array, Array]:
    """Maximum, its position and the average of every window, by loops over positions."""
    win = case.window
    best, index, mean = np.zeros(case.output_shape), np.zeros(case.output_shape), np.zeros(case.output_shape)
    for n, i, j, c in np.ndindex(case.output_shape):
        inside, divisor = [], 0
        for m, q in itertools.product(range(win.kernel[0]), range(win.kernel[1])):
            row = i * win.stride[0] + m * win.dilation[0] - win.padding[0][0]
            column = j * win.stride[1] + q * win.dilation[1] - win.padding[1][0]
            padded = row < case.size[0] + win.padding[0][1] and column < case.size[1] + win.padding[1][1]
            real = 0 <= row < case.size[0] and 0 <= column < case.size[1]
            divisor += padded if include_pad else real
            if real:
                inside.append((x[n, row, column, c], -(row * case.size[1] + column)))
        best[n, i, j, c], negative = max(inside)
        index[n, i, j, c] = -negative
        mean[n, i, j, c] = sum(value for value, _ in inside) / divisor
    return best, index, mean


@pytest.mark.parametrize("case", [c for c in cases.EDGE_CASES if c.channels * c.out_channels < 80], ids=str)
def test_conv2d_is_the_formula(case: cases.ConvCase) -> None:
    """Vectorised taps equal the nested loops; small integers make both exact."""
    data = case.data(integer=True)
    y = oracle.conv2d(data.x, data.weight, data.bias, **case.geometry)
    np.testing.assert_array_equal(y, brute_force_conv2d(case, data))


@pytest.mark.parametrize("case", [*cases.EDGE_CASES, *cases.geometries(100, seed=1)], ids=str)
def test_conv2d_gradients_are_adjoint(case: cases.ConvCase) -> None:
    """`<conv(x, w), g> = <x, backward_data(g, w)> = <w, backward_weights(x, g)>`, exact in small integers."""
    data = case.data(integer=True)
    inner = (oracle.conv2d(data.x, data.weight, **case.geometry) * data.grad_y).sum()
    grad_x = oracle.conv2d_backward_data(data.grad_y, data.weight, case.input_shape, **case.geometry)
    grad_w, grad_b = oracle.conv2d_backward_weights(data.x, data.grad_y, case.kernel, **case.geometry)
    assert (grad_x * data.x).sum() == inner
    assert (grad_w * data.weight).sum() == inner
    assert (grad_b * data.bias).sum() == (data.grad_y * data.bias).sum()


def test_conv2d_agrees_with_scipy() -> None:
    """A second opinion on axes and orientation."""
    signal = pytest.importorskip("scipy.signal")
    x, weight = cases.real(1, 9, 8, 3), cases.real(3, 4, 3, 2)
    y = oracle.conv2d(x, weight)
    for k in range(2):
        planes = [signal.correlate2d(x[0, :, :, c].astype(float), weight[:, :, c, k], "valid") for c in range(3)]
        np.testing.assert_allclose(y[0, :, :, k], sum(planes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("case", [c for c in cases.POOL_CASES if c.batch * c.channels < 40], ids=str)
def test_pooling_is_the_formula(case: cases.PoolCase, include_pad: bool) -> None:
    """Maximum, first position among ties and average equal the loops."""
    x = case.data(integer=True)[0].astype(np.float64)
    best, index, mean = brute_force_pool(case, x, include_pad)
    y, position = oracle.max_pool2d(x, case.kernel, dilation=case.dilation, **case.geometry)
    np.testing.assert_array_equal(y, best)
    np.testing.assert_array_equal(position, index)
    average = oracle.avg_pool2d(x, case.kernel, count_include_pad=include_pad, **case.geometry)
    np.testing.assert_allclose(average, mean, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("case", [*cases.POOL_CASES, *cases.pool_geometries(100, seed=2)], ids=str)
def test_pooling_gradients_are_adjoint(case: cases.PoolCase) -> None:
    """Average pooling is linear; maximum pooling is linear once its positions are fixed."""
    x, grad_y = (values.astype(np.float64) for values in case.data(integer=True))
    y, index = oracle.max_pool2d(x, case.kernel, **case.geometry)
    assert (oracle.max_pool2d_backward(grad_y, index, case.input_shape) * x).sum() == (grad_y * y).sum()
    for include_pad in (True, False):
        extra: dict[str, Any] = {"count_include_pad": include_pad, **case.geometry}
        forward = (oracle.avg_pool2d(x, case.kernel, **extra) * grad_y).sum()
        backward = (oracle.avg_pool2d_backward(grad_y, case.input_shape, case.kernel, **extra) * x).sum()
        np.testing.assert_allclose(forward, backward, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((7, 3, 1, (0, 0)), 5),
        ((7, 3, 2, (1, 1)), 4),
        ((8, 3, 2, (1, 1)), 4),
        ((8, 3, 2, (0, 1)), 4),
        ((9, 3, 1, (0, 0), 3), 3),
        ((5, 2, 2, (0, 0), 1, True), 3),
        ((5, 2, 3, (1, 1), 1, True), 2),  # ceil gives 3, but that window would start past the input
        ((3, 1, 3, (0, 0), 1, True), 1),
        ((4, 2, 4, (1, 1), 1, True), 2),
    ],
)
def test_output_size(arguments: tuple[Any, ...], expected: int) -> None:
    """Values worked out by hand."""
    assert oracle.output_size(*arguments) == expected


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 7, 8])
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    """The output is `ceil(I / S)` and the odd pixel comes after."""
    before, after = oracle.same_padding(size, kernel, stride, 1)
    assert oracle.output_size(size, kernel, stride, (before, after)) == -(-size // stride)
    assert 0 <= after - before <= 1


def test_softmax_and_cross_entropy() -> None:
    """Rows sum to one, the loss is -log p, and its gradient is the numeric one."""
    logits, labels = cases.real(4, 7).astype(np.float64) * 3, np.array([0, 6, 3, 3])
    probabilities = oracle.softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-14)
    loss, correct, grad = oracle.cross_entropy(logits, labels)
    np.testing.assert_allclose(loss, -np.log(probabilities[np.arange(4), labels]).mean(), rtol=1e-12)
    assert correct == (probabilities.argmax(axis=1) == labels).sum()
    numeric = numeric_gradient(lambda z: oracle.cross_entropy(z, labels)[0], logits)
    np.testing.assert_allclose(grad, numeric, atol=1e-9)


def test_sgd_by_hand() -> None:
    """Two steps with numbers small enough to check with a pencil."""
    weight, buffer = oracle.sgd([1.0], [0.5], [0.0], lr=0.1, momentum=0.5, weight_decay=0.5)
    assert (weight[0], buffer[0]) == (pytest.approx(0.9), pytest.approx(1.0))
    weight, buffer = oracle.sgd(weight, [0.55], buffer, lr=0.1, momentum=0.5, weight_decay=0.5)
    assert (weight[0], buffer[0]) == (pytest.approx(0.75), pytest.approx(1.5))
    weight, _ = oracle.sgd([1.0], [0.5], [0.0], lr=0.1, momentum=0.5, nesterov=True)
    assert weight[0] == pytest.approx(1 - 0.1 * (0.5 + 0.25))
    weight, _ = oracle.sgd([1.0], [0.5], [0.0], lr=0.1, decoupled_weight_decay=0.2)
    assert weight[0] == pytest.approx(1 - 0.02 - 0.05)


def test_elementwise() -> None:
    """Identities between the activations, and both orders of flatten."""
    x = np.linspace(-9, 9, 37)
    np.testing.assert_allclose(oracle.sigmoid(x), (1 + oracle.tanh(x / 2)) / 2, rtol=1e-11)
    np.testing.assert_array_equal(oracle.relu([-1.0, 0.0, 2.0, np.nan]), [0.0, 0.0, 2.0, np.nan])
    planes = np.arange(12.0).reshape(1, 2, 3, 2)
    assert oracle.flatten(planes, "chw")[0, :6].tolist() == [0, 2, 4, 6, 8, 10]
    for order in ("hwc", "chw"):
        np.testing.assert_array_equal(oracle.unflatten(oracle.flatten(planes, order), planes.shape, order), planes)
