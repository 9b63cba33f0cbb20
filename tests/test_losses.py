"""mse_loss, l1_loss, huber_loss and binary_cross_entropy_with_logits against the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle_loss
from cases import Array
from cnnrs import functional as F
from cnnrs import nn
from cnnrs.testing import gradcheck
from oracle_loss import Reference
from tolerance import assert_same_bits, assert_within

Loss = tuple[Callable[..., Any], Callable[..., Reference], dict[str, Any]]
POSITIVE = np.array([0.25, 1.0, 3.0, 0.0, 2.0, 1.5, 0.5], np.float32)
LOSSES: dict[str, Loss] = {
    "mse": (F.mse_loss, oracle_loss.mse, {}),
    "l1": (F.l1_loss, oracle_loss.l1, {}),
    "huber": (F.huber_loss, oracle_loss.huber, {}),
    "huber 0.3": (F.huber_loss, oracle_loss.huber, {"delta": 0.3}),
    "huber 10": (F.huber_loss, oracle_loss.huber, {"delta": 10}),
    "binary": (F.binary_cross_entropy_with_logits, oracle_loss.binary, {}),
    "binary number": (F.binary_cross_entropy_with_logits, oracle_loss.binary, {"pos_weight": 2.5}),
    "binary array": (F.binary_cross_entropy_with_logits, oracle_loss.binary, {"pos_weight": POSITIVE}),
}
SHAPES = [(1,), (7,), (1, 1), (5, 7), (3, 4, 5, 7), (17, 7), (40, 31, 7)]


def operands(name: str, shape: tuple[int, ...], scale: float = 2.0) -> tuple[Array, Array]:
    """Predictions and targets, some of them equal; probabilities with zeros and ones for the binary loss."""
    x, target = cases.real(*shape) * np.float32(scale), cases.real(*shape, seed=1)
    flat = target.reshape(-1)
    if name.startswith("binary"):
        target = np.clip(np.abs(target) - np.float32(0.2), 0.0, 1.0).astype(np.float32)
        x.reshape(-1)[::5] = 0.0
    else:
        flat[::5] = x.reshape(-1)[::5]
    return x, target


def check(name: str, x: Array, target: Array) -> None:
    """Value from arrays and from a trace, and the gradient."""
    loss, reference, arguments = LOSSES[name]
    if "pos_weight" in arguments and x.shape[-1] != 7:
        arguments = {"pos_weight": POSITIVE[:1]}
    expected = reference(x, target, **arguments)
    value = loss(x, target, **arguments)
    assert isinstance(value, float)
    assert_within(np.float32(value), expected.value, expected.value_bound, "value")
    traced, pull = cnnrs.vjp(lambda symbol: loss(symbol, target, **arguments), x)
    assert_within(np.float32(traced), expected.value, expected.value_bound, "traced value")
    assert_within(pull(np.ones((), np.float32)), expected.grad, expected.grad_bound, "gradient")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str, shape: tuple[int, ...]) -> None:
    check(name, *operands(name, shape))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", LOSSES)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    exponent=st.integers(-6, 5),
)
def test_any_shape(name: str, shape: tuple[int, ...], exponent: int) -> None:
    check(name, *operands(name, shape, 2.0**exponent))


@pytest.mark.parametrize("name", LOSSES)
def test_bits_do_not_depend_on_threads(name: str, assert_deterministic: Callable[..., None]) -> None:
    loss, _, arguments = LOSSES[name]
    x, target = operands(name, (300, 25, 7))

    def both() -> list[Any]:
        value, pull = cnnrs.vjp(lambda symbol: loss(symbol, target, **arguments), x)
        return [value, pull(np.ones((), np.float32))]

    assert_deterministic(both)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_both_operands(name: str) -> None:
    """Central differences in float64, away from kinks; a target is a value like any other."""
    loss, _, arguments = LOSSES[name]
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(3, 7)), rng.uniform(0.1, 0.9, (3, 7))
    assert gradcheck(lambda a, b: loss(a, b, **arguments), (x, target))


@pytest.mark.usefixtures("isa")
def test_confident_logits_lose_nothing() -> None:
    """Right and sure: a tiny loss with its relative precision. Wrong and sure: the logit itself. No overflow."""
    for x, t in ((30.0, 1.0), (-30.0, 0.0)):
        value = F.binary_cross_entropy_with_logits(np.array([x], np.float32), np.array([t], np.float32))
        assert value == pytest.approx(np.exp(-30.0), rel=1e-5)
    for x, t in ((1e30, 0.0), (-1e30, 1.0)):
        value = F.binary_cross_entropy_with_logits(np.array([x], np.float32), np.array([t], np.float32))
        assert value == np.float32(1e30)


@pytest.mark.parametrize("name", LOSSES)
def test_layouts_parameters_and_single_numbers(name: str) -> None:
    loss, reference, arguments = LOSSES[name]
    x, target = operands(name, (6, 4, 7))
    expected = loss(x, target, **arguments)
    assert loss(np.asfortranarray(x), target[::-1][::-1], **arguments) == expected
    assert loss(x.astype(">f4"), target.astype(">f4"), **arguments) == expected
    assert loss(nn.Parameter(x), target, **arguments) == expected
    single = np.array(0.5, np.float32), np.array(0.25, np.float32)
    number = {key: value if np.ndim(value) == 0 else 3.0 for key, value in arguments.items()}
    assert loss(*single, **number) == pytest.approx(reference(*single, **number).value, rel=1e-6)
    assert loss(nn.Parameter(single[0]), single[1], **number) == loss(*single, **number)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_nan_and_nan_is_not_hidden(name: str) -> None:
    loss, _, arguments = LOSSES[name]
    empty = np.zeros((0, 7), np.float32)
    assert np.isnan(loss(empty, empty, **arguments))
    x, target = operands(name, (3, 7))
    x[1, 2] = np.nan
    assert np.isnan(loss(x, target, **arguments))


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: F.mse_loss(cases.real(3, 1), cases.real(3)),
        cnnrs.ShapeError,
        r"target must have the shape of x, \(3, 1\)",
    ),
    (lambda: F.l1_loss(cases.real(3, 4), cases.real(1, 4)), cnnrs.ShapeError, "l1_loss: target must have the shape"),
    (lambda: F.mse_loss(cases.real(3), np.ones(3)), TypeError, "mse_loss: target must be a float32 NumPy array"),
    (lambda: F.mse_loss([1.0], cases.real(1)), TypeError, "mse_loss: x must be a float32"),  # type: ignore[arg-type]
    (lambda: F.huber_loss(cases.real(3), cases.real(3), 0.0), ValueError, "huber_loss: delta must be > 0, got 0.0"),
    (lambda: F.huber_loss(cases.real(3), cases.real(3), np.inf), ValueError, "delta must be finite"),
    (lambda: F.huber_loss(cases.real(3), cases.real(3), "1"), TypeError, "delta must be a number"),  # type: ignore[arg-type]
    (
        lambda: F.binary_cross_entropy_with_logits(cases.real(3), np.array([1, 0, 1])),
        TypeError,
        "target must be a float32 NumPy array",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(cases.real(3, 4), cases.real(3, 4), pos_weight=cases.real(2, 3, 4)),
        cnnrs.ShapeError,
        r"pos_weight must broadcast to the shape of x, \(3, 4\), got shape \(2, 3, 4\)",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(cases.real(3, 4), cases.real(3, 4), pos_weight=cases.real(3)),
        cnnrs.ShapeError,
        "mul",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED)
def test_bad_operands_are_refused(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_loss_of_a_reader() -> None:
    """Dice and focal loss, composed of arithmetic: values of their formulas, and gradients."""

    def dice(x: Any, target: Any) -> Any:
        p = F.sigmoid(x)
        return 1.0 - (2.0 * F.sum(p * target) + 1.0) / (F.sum(p) + F.sum(target) + 1.0)

    def focal(x: Any, target: Any) -> Any:
        p = F.sigmoid(x)
        missed = target * (1.0 - p) + (1.0 - target) * p
        surprise = target * F.softplus(-x) + (1.0 - target) * F.softplus(x)
        return F.mean(missed * missed * surprise)

    x, target = cases.real(4, 6, 6, 3), (cases.real(4, 6, 6, 3, seed=1) > 0).astype(np.float32)
    p = 1.0 / (1.0 + np.exp(-x.astype(np.float64)))
    expected = 1.0 - (2.0 * (p * target).sum() + 1.0) / (p.sum() + target.sum() + 1.0)
    assert cnnrs.vjp(lambda symbol: dice(symbol, target), x)[0] == pytest.approx(expected, rel=1e-5)
    for loss in (dice, focal):
        assert gradcheck(lambda symbol, loss=loss: loss(symbol, target), x)
    assert_same_bits(*(cnnrs.vjp(lambda symbol: focal(symbol, target), x)[0] for _ in range(2)))
