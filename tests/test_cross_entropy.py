"""cross_entropy against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import oracle
import tolerance
from cases import Array
from cnnrs import _core
from cnnrs import functional as F

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
