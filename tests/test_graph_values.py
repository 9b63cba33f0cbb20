"""Symbolic values: what they refuse, what becomes a constant, and vector-Jacobian products."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import functional as F
from cnnrs import graph, models, nn


class Inside(nn.Module):
    """Runs a Python function on the output of its first layer."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.act = Applied(function)

    def forward(self, x: Any) -> Any:
        return self.act(self.conv(x))


class Applied(nn.Module):
    """A layer that is a Python function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


IMAGES = real(2, 6, 6, 1)
NEEDS_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "bool()": lambda v: v or None,
    "float()": float,
    "int()": int,
    "len()": len,
    "iteration": list,
    "np.asarray()": np.asarray,
    "np.exp": np.exp,
    "np.power": lambda v: np.ones(3, np.float32) ** v,
}


@pytest.mark.parametrize("what", NEEDS_NUMBERS)
def test_numbers_are_refused_with_the_layer_and_the_way_out(what: str) -> None:
    model = Inside(NEEDS_NUMBERS[what])
    with pytest.raises(TypeError) as caught:
        model(IMAGES)
    text = str(caught.value)
    assert text.startswith(f"act: {what}")
    assert "made by conv: conv2d" in text
    assert "cnnrs.functional" in text


def test_values_show_shape_and_dtype() -> None:
    seen: list[Any] = []
    Inside(lambda v: seen.append((v.shape, v.ndim, v.dtype)) or F.relu(v))(IMAGES)
    assert seen == [((2, 4, 4, 2), 4, np.dtype(np.float32))]


def test_plus_adds_values_arrays_and_parameters() -> None:
    constant = real(2, 4, 4, 2, seed=5)
    parameter = nn.Parameter(constant)
    model = Inside(lambda v: v)
    plain = model(IMAGES)
    for function, expected in (
        (lambda v: v + v, plain + plain),
        (lambda v: v + constant, plain + constant),
        (lambda v: constant + v, plain + constant),
        (lambda v: v + parameter, plain + constant),
        (lambda v: parameter + v, plain + constant),
    ):
        model.act = Applied(function)
        np.testing.assert_array_equal(model(IMAGES), expected)


@pytest.mark.parametrize("other", ["a", None, [1.0]])
def test_plus_refuses_everything_else(other: Any) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Inside(lambda v: v + other)(IMAGES)


def test_adding_float64_while_tracing_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^act: add: b must be a float32 .*\.astype\(np\.float32\)"):
        Inside(lambda v: v + np.zeros((2, 4, 4, 2)))(IMAGES)


def test_a_value_kept_from_another_trace_is_refused() -> None:
    kept: list[Any] = []
    model = Inside(lambda v: kept.append(v) or F.relu(v))
    model(IMAGES)
    with pytest.raises(TypeError, match="kept from another trace"):
        Inside(lambda v: v + kept[0])(IMAGES)
    with pytest.raises(TypeError, match="kept from another trace"):
        F.relu(kept[0])


def test_tracing_is_local_to_the_thread() -> None:
    results: list[Any] = []
    with graph.Trace():
        thread = threading.Thread(target=lambda: results.append((graph.current(), F.relu(real(2, 2)))))
        thread.start()
        thread.join()
        assert graph.current() is not None
    assert results[0][0] is None
    assert isinstance(results[0][1], np.ndarray)
    assert graph.current() is None


def test_the_trace_is_closed_after_an_error() -> None:
    with pytest.raises(cnnrs.ShapeError):
        nn.Linear(3, 2)(real(2, 4))
    assert graph.current() is None


def test_errors_name_the_layer() -> None:
    model = models.lenet5()
    with pytest.raises(cnnrs.ShapeError, match=r"^features\.0: conv2d: weight expects 1 input channels, input has 3"):
        model(real(1, 28, 28, 3))
    with pytest.raises(cnnrs.ShapeError, match=r"^classifier\.1: linear: weight expects 400"):
        model(real(1, 32, 32, 1))
    with pytest.raises(cnnrs.ShapeError, match=r"^features\.3: conv2d: "):
        model(real(1, 4, 4, 1))


def test_errors_found_in_python_name_the_layer_too() -> None:
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Conv2d(1, 1, 1)))
    with pytest.raises(cnnrs.ShapeError, match=r"^0\.1: conv2d: x must have 4 dimensions"):
        model(IMAGES)


def test_modules_called_in_a_function_are_named_from_themselves() -> None:
    model = models.lenet5()
    with pytest.raises(cnnrs.ShapeError, match=r"^features\.0: conv2d"):
        cnnrs.vjp(lambda x: F.relu(model(x)), real(1, 28, 28, 3))


# Vector-Jacobian products.


def test_vjp_of_a_linear_layer_is_its_transpose() -> None:
    x, weight = real(3, 4), real(4, 2)
    out, pull = cnnrs.vjp(lambda v: F.linear(v, weight), x)
    grad_out = real(3, 2, seed=1)
    np.testing.assert_allclose(out, x @ weight, rtol=1e-5)
    np.testing.assert_allclose(pull(grad_out), grad_out @ weight.T, rtol=1e-5, atol=1e-6)


def test_vjp_of_a_module_agrees_with_the_backward_functions() -> None:
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    x, grad_out = real(2, 7, 7, 3), real(2, 4, 4, 4)
    out, pull = cnnrs.vjp(conv, x)
    np.testing.assert_array_equal(out, conv(x))
    expected = F.conv2d_backward_data(grad_out, conv.weight.array, x.shape, stride=2, padding=1)
    np.testing.assert_array_equal(pull(grad_out), expected)


def test_vjp_sums_over_the_paths() -> None:
    x = real(2, 3)
    _, pull = cnnrs.vjp(lambda v: v + v, x)
    np.testing.assert_array_equal(pull(np.ones((2, 3), np.float32)), np.full((2, 3), 2, np.float32))


def test_vjp_of_a_loss_takes_labels_and_a_number() -> None:
    logits, labels = real(3, 5), np.array([0, 4, 2], np.uint8)
    loss, pull = cnnrs.vjp(lambda v: F.cross_entropy(v, labels), logits)
    assert isinstance(loss, float)
    assert loss == F.cross_entropy(logits, labels)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = (probabilities - np.eye(5)[labels]) / 3
    np.testing.assert_allclose(pull(1.0), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pull(np.float32(2)), 2 * expected, rtol=1e-5, atol=1e-7)


def test_vjp_without_a_path_is_zero() -> None:
    parameter = nn.Parameter(real(2, 3))
    out, pull = cnnrs.vjp(lambda _: F.relu(parameter), real(2, 3))
    np.testing.assert_array_equal(out, np.maximum(parameter.array, 0))
    np.testing.assert_array_equal(pull(real(2, 3)), np.zeros((2, 3), np.float32))


def test_vjp_of_the_identity() -> None:
    x, grad_out = real(2, 3), real(2, 3, seed=1)
    out, pull = cnnrs.vjp(nn.Identity(), x)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_array_equal(pull(grad_out), grad_out)


def test_vjp_of_an_empty_batch() -> None:
    out, pull = cnnrs.vjp(models.lenet5(), np.zeros((0, 28, 28, 1), np.float32))
    assert out.shape == (0, 10)
    assert pull(np.zeros((0, 10), np.float32)).shape == (0, 28, 28, 1)


def test_vjp_does_not_see_later_changes_of_x() -> None:
    x = real(2, 3)
    before = x.copy()
    _, pull = cnnrs.vjp(F.tanh, x)
    x[...] = 100
    np.testing.assert_allclose(pull(np.ones((2, 3), np.float32)), 1 - np.tanh(before) ** 2, rtol=1e-4, atol=1e-6)


def test_vjp_leaves_the_model_alone() -> None:
    model = models.lenet5()
    before = model.state_dict(copy=True)
    _, pull = cnnrs.vjp(model, real(1, 28, 28, 1))
    pull(np.ones((1, 10), np.float32))
    assert model.training
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("error", "fn", "x"),
    [
        (TypeError, "relu", real(2, 3)),
        (TypeError, F.relu, np.zeros((2, 3))),
        (TypeError, F.relu, [[1.0]]),
        (TypeError, lambda _: None, real(2, 3)),
        (TypeError, lambda _: real(2, 3), real(2, 3)),
        (cnnrs.UnsupportedError, lambda v: (v, v), real(2, 3)),
        (cnnrs.UnsupportedError, lambda v: cnnrs.vjp(F.relu, v)[0], real(2, 3)),
    ],
)
def test_vjp_refuses(error: type[Exception], fn: Any, x: Any) -> None:
    with pytest.raises(error, match=r"^vjp: "):
        cnnrs.vjp(fn, x)


def test_vjp_checks_the_gradient_given() -> None:
    _, pull = cnnrs.vjp(F.relu, real(2, 3))
    with pytest.raises(cnnrs.ShapeError, match=r"^vjp: grad_out must have the output's shape \(2, 3\), got \(3, 2\)"):
        pull(real(3, 2))
    for wrong in (np.ones((2, 3)), 1.0, None, [[1.0]]):
        with pytest.raises(TypeError, match=r"^vjp: grad_out must be a float32"):
            pull(wrong)  # type: ignore[arg-type]
