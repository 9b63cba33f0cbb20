"""cross_entropy against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle
import oracle_loss
import tolerance
from cases import Array
from cnnrs import _core, nn
from cnnrs import functional as F
from cnnrs.testing import gradcheck

SHAPES = [(1, 1), (3, 1), *((4, classes) for classes in range(2, 36)), (64, 10), (7, 1000), (257, 100)]

PLAIN = {"label_smoothing": 0.0, "ignore_index": None}


def labels_for(rows: int, classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels that include the first and the last class."""
    labels = np.random.default_rng(rows * 1009 + classes).integers(0, classes, rows)
    labels[:2] = (0, classes - 1)[: len(labels)]
    return labels


def check_cross_entropy(logits: Array, labels: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """Loss from the public function; loss, count of right rows and gradient from the engine's node."""
    probabilities = oracle.softmax(logits)
    loss, correct, grad = oracle.cross_entropy(logits, labels)
    bound = tolerance.cross_entropy(logits, labels, probabilities)
    public = F.cross_entropy(logits, labels)
    assert isinstance(public, float)
    tolerance.assert_within(np.float32(public), loss, bound, "loss")

    node_loss, node_correct, node_grad, counted = _core.eager("cross_entropy", [logits, labels], PLAIN)
    assert (node_loss, node_correct, counted) == (public, float(correct), len(labels))
    grad_bound = tolerance.softmax(logits, probabilities) / len(labels) + tolerance.ulps(grad)
    tolerance.assert_within(node_grad, grad, grad_bound, "grad")


def check_options(
    logits: Array,
    labels: np.ndarray[Any, np.dtype[np.int64]],
    weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> None:
    """Every result of the engine's node, and the public function, against the oracle."""
    options = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    loss, correct, counted = oracle_loss.cross_entropy(logits, labels, weight, **options)
    operands = [logits, labels] if weight is None else [logits, labels, weight]
    value, right, grad, rows = _core.eager("cross_entropy", operands, options)
    tolerance.assert_within(np.float32(value), loss.value, loss.value_bound, "loss")
    tolerance.assert_within(grad, loss.grad, loss.grad_bound, "grad")
    assert (right, rows) == (correct, counted)
    assert F.cross_entropy(logits, labels, weight, label_smoothing, ignore_index) == value


def weights_for(classes: int) -> Array:
    """Positive weights, some of them equal; the first one 0 where there are at least three."""
    weights = np.abs(cases.real(classes, seed=5)) + np.float32(0.1)
    weights[: classes // 3] = 1.5
    weights[: 1 if classes > 2 else 0] = 0.0
    return weights


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_shape(shape: tuple[int, int], scale: float) -> None:
    """Flat and peaked distributions, all tail lengths."""
    check_cross_entropy(cases.real(*shape) * np.float32(scale), labels_for(*shape))


@pytest.mark.parametrize("classes", [2, 10, 17, 100])
@pytest.mark.usefixtures("isa", "threads")
def test_large_logits(classes: int) -> None:
    """Logits of +-1e4 neither overflow nor lose the differences between them."""
    logits = cases.real(9, classes)
    logits[0] += np.float32(1e4)
    logits[1] -= np.float32(1e4)
    logits[2:5] *= np.float32(1e4)
    logits[5] = 1e4
    logits[6] = -1e4
    logits[7, ::2], logits[7, 1::2] = 1e4, -1e4
    check_cross_entropy(logits, labels_for(9, classes))


@pytest.mark.usefixtures("isa")
def test_ties_count_for_the_first_class() -> None:
    """The argmax of equal logits is the first of them."""
    logits = np.zeros((3, 19), np.float32)
    logits[2, 5] = logits[2, 17] = 1.0
    correct = [
        _core.eager("cross_entropy", [logits, np.array(labels)], PLAIN)[1] for labels in ([0, 1, 5], [1, 18, 17])
    ]
    assert correct == [2.0, 0.0]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, np.uint64])
def test_any_integer_labels(dtype: type) -> None:
    """All integer types of label mean the same."""
    logits, labels = cases.real(6, 10), labels_for(6, 10)
    assert F.cross_entropy(logits, labels.astype(dtype)) == F.cross_entropy(logits, labels)


@pytest.mark.usefixtures("isa")
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 70)), exponent=st.integers(-10, 10))
def test_any_shape(shape: tuple[int, int], exponent: int) -> None:
    """Hypothesis looks for sizes and scales that fail."""
    check_cross_entropy(cases.real(*shape) * np.float32(2.0**exponent), labels_for(*shape))


@pytest.mark.parametrize("shape", [(64, 10), (257, 100), (3, 5000), (2000, 33)], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(shape: tuple[int, int], assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads and from run to run."""
    logits, labels = cases.real(*shape), labels_for(*shape)
    assert_deterministic(lambda: _core.eager("cross_entropy", [logits, labels], PLAIN))


# Class weights, smoothing, a label to ignore.

OPTIONS = [
    (weighted, smoothing, ignore)
    for weighted in (False, True)
    for smoothing in (0.0, 0.1, 1.0)
    for ignore in (None, -100, 1)
]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("weighted", "smoothing", "ignore"), OPTIONS)
@pytest.mark.parametrize("shape", [(6, 2), (5, 7), (9, 16), (8, 33), (64, 10), (7, 1000)], ids=str)
def test_options(shape: tuple[int, int], weighted: bool, smoothing: float, ignore: int | None) -> None:
    """All tail lengths; the ignored label is one outside of the classes, or one of them."""
    logits, labels = cases.real(*shape) * np.float32(3.0), labels_for(*shape)
    if ignore == -100:
        labels[1::3] = ignore
    check_options(logits, labels, weights_for(shape[1]) if weighted else None, smoothing, ignore)


@pytest.mark.usefixtures("isa")
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 70)),
    exponent=st.integers(-10, 10),
    smoothing=st.floats(0.0, 1.0, width=32),
    weighted=st.booleans(),
    ignored=st.integers(0, 11),
)
def test_any_options(shape: tuple[int, int], exponent: int, smoothing: float, weighted: bool, ignored: int) -> None:
    """Hypothesis looks for sizes, scales and options that fail; at least one row counts."""
    logits, labels = cases.real(*shape) * np.float32(2.0**exponent), labels_for(*shape)
    labels[1 : 1 + ignored] = -7
    weight = np.abs(cases.real(shape[1], seed=5)) + np.float32(0.5) if weighted else None
    check_options(logits, labels, weight, smoothing, -7 if ignored else None)


@pytest.mark.parametrize("shape", [(64, 10), (257, 100), (3, 5000)], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_of_options_do_not_depend_on_threads(
    shape: tuple[int, int], assert_deterministic: Callable[..., None]
) -> None:
    """Same bits with 1, 2 and 5 threads and from run to run."""
    operands = [cases.real(*shape), labels_for(*shape), weights_for(shape[1])]
    options = {"label_smoothing": 0.2, "ignore_index": 1}
    assert_deterministic(lambda: _core.eager("cross_entropy", operands, options))


@pytest.mark.usefixtures("isa")
def test_nothing_but_ignored_rows_is_nan_without_a_gradient() -> None:
    logits, labels = cases.real(4, 5), np.full(4, -1)
    loss, correct, grad, counted = _core.eager(
        "cross_entropy", [logits, labels], {"label_smoothing": 0.1, "ignore_index": -1}
    )
    assert np.isnan(loss)
    assert (correct, counted) == (0.0, 0.0)
    assert not grad.any()
    assert np.isnan(F.cross_entropy(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)))


@pytest.mark.usefixtures("isa")
def test_an_ignored_row_may_hold_anything() -> None:
    logits, labels = cases.real(4, 20), labels_for(4, 20)
    expected = F.cross_entropy(logits[[0, 2, 3]], labels[[0, 2, 3]], label_smoothing=0.1)
    logits[1], labels[1] = np.nan, -1
    assert F.cross_entropy(logits, labels, label_smoothing=0.1, ignore_index=-1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("isa")
def test_impossible_classes() -> None:
    """A logit of -inf costs nothing without smoothing, and everything with it."""
    logits = np.array([[0.0, -np.inf, 1.0]], np.float32)
    assert F.cross_entropy(logits, np.array([2])) == pytest.approx(np.log1p(np.exp(-1.0)), rel=1e-6)
    assert F.cross_entropy(logits, np.array([2]), label_smoothing=0.1) == np.inf


def test_strided_and_byte_swapped_operands() -> None:
    logits, labels, weight = cases.real(5, 8), labels_for(5, 8), weights_for(8)
    wide, long = np.zeros((5, 16), np.float32), np.zeros(15, np.int64)
    wide[:, ::2], long[::3] = logits, labels
    expected = F.cross_entropy(logits, labels, weight)
    assert F.cross_entropy(wide[:, ::2], long[::3], np.stack([weight, weight], 1)[:, 1]) == expected
    assert F.cross_entropy(logits.astype(">f4"), labels.astype(">i8"), weight.astype(">f4")) == expected


@pytest.mark.parametrize(("weighted", "smoothing", "ignore"), OPTIONS)
def test_gradients(weighted: bool, smoothing: float, ignore: int | None) -> None:
    """Central differences in float64."""
    labels, weight = np.array([0, 1, 4, 2, 1]), weights_for(5) if weighted else None
    assert gradcheck(
        lambda x, y: F.cross_entropy(x, y, weight, smoothing, ignore), (cases.real(5, 5) * np.float32(2), labels)
    )


def test_class_weights_have_no_gradient() -> None:
    weight = nn.Parameter(weights_for(5))
    x, labels = cases.real(5, 5), np.array([0, 1, 4, 2, 1])
    assert F.cross_entropy(x, labels, weight) == F.cross_entropy(x, labels, weight.array)  # type: ignore[call-overload]
    with pytest.raises(cnnrs.UnsupportedError, match="cross_entropy: class weights have no gradient"):
        gradcheck(lambda w: F.cross_entropy(x, labels, w), weight.array)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weight": np.ones(4, np.float32)}, cnnrs.ShapeError, r"weight expects shape \(3,\), one number per class"),
    ({"weight": np.ones((1, 3), np.float32)}, cnnrs.ShapeError, "weight must have 1 dimensions"),
    ({"weight": np.ones(3)}, TypeError, "weight must be a float32 NumPy array"),
    ({"weight": [1.0, 1.0, 1.0]}, TypeError, "weight must be a float32 NumPy array"),
    ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must be in \[0, 1\], got -0.1"),
    ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\]"),
    ({"label_smoothing": np.nan}, ValueError, "label_smoothing must be finite"),
    ({"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number"),
    ({"ignore_index": 0.5}, TypeError, "ignore_index must be an int"),
    ({"ignore_index": 2**64}, ValueError, "ignore_index must be from"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), REFUSED)
def test_bad_options_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        F.cross_entropy(cases.real(2, 3), np.array([0, 2]), **arguments)


def test_only_the_ignored_label_may_lie_outside() -> None:
    logits = cases.real(3, 4)
    for bad in (-2, 4, -(2**63), 2**63 - 1):
        message = rf"labels expects classes in \[0, 4\) or ignore_index -1, received {bad} at row 2"
        with pytest.raises(ValueError, match=message):
            F.cross_entropy(logits, np.array([-1, 0, bad]), ignore_index=-1)
    with pytest.raises(ValueError, match=r"labels expects classes in \[0, 4\), received -1 at row 0"):
        F.cross_entropy(logits, np.array([-1, 0, 1]))
