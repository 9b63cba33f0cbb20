"""float64 references of the losses, from their formulas: values, gradients, and bounds of float32's rounding.

A loss is `sum(terms) / divisor`; the bound of the value follows from the bounds of the terms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tolerance import TINY, TRANSCENDENTAL_ULPS, UNIT, gamma, reduction, softmax

Array = npt.NDArray[np.float64]


class Reference(NamedTuple):
    """Value and gradient of a loss and how far a kernel's results may be from them."""

    value: float
    value_bound: float
    grad: Array
    grad_bound: Array


class CrossEntropy(NamedTuple):
    """A cross-entropy and its counts."""

    loss: Reference
    correct: int
    counted: int


def cross_entropy(
    logits: Any, labels: Any, weight: Any = None, label_smoothing: float = 0.0, ignore_index: int | None = None
) -> CrossEntropy:
    """`sum of t * -log p over classes and counted rows / sum of w[y] over counted rows`.

    `t = (1 - e) * w[y] * onehot + e / K * w`; at least one row counts.
    """
    z, labels = np.asarray(logits, np.float64), np.asarray(labels)
    rows, classes = z.shape
    w = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    e = float(np.float32(label_smoothing))
    counted = np.ones(rows, bool) if ignore_index is None else labels != ignore_index
    y = np.where(counted, labels, 0)
    onehot = np.eye(classes)[y]
    target = ((1.0 - e) * w[y][:, None] * onehot + e / classes * w) * counted[:, None]
    shifted = z - z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    surprise = np.where(target == 0.0, 0.0, log_sum - shifted)
    divisor = float((w[y] * counted).sum())
    p = np.exp(shifted - log_sum)
    total = target.sum(axis=1, keepdims=True)
    grad = (p * total - target) / divisor

    p_bound = softmax(z, p)
    shift = np.abs(shifted)
    log_bound = p_bound.sum(axis=1, keepdims=True) + (gamma(classes + 2) + 2 * TRANSCENDENTAL_ULPS * UNIT)
    terms = np.abs(target) * (log_bound + gamma(classes + 4) * (shift + log_sum))
    value = float((target * surprise).sum() / divisor)
    value_bound = float(terms.sum() / divisor) + 8 * UNIT * abs(value) + TINY
    grad_bound = (total * p_bound + gamma(classes + 6) * (p * total + target)) / divisor + TINY
    correct = int(((z.argmax(axis=1) == labels) & counted).sum())
    return CrossEntropy(Reference(value, value_bound, grad, grad_bound), correct, int(counted.sum()))


def mse(x: Any, target: Any) -> Reference:
    """Mean of squares."""
    d = np.asarray(x, np.float64) - target
    return _mean(d * d, 2 * d, 4 * UNIT * np.abs(d))


def l1(x: Any, target: Any) -> Reference:
    """Mean of distances."""
    d = np.asarray(x, np.float64) - target
    return _mean(np.abs(d), np.sign(d), 0.0 * d)


def huber(x: Any, target: Any, delta: float = 1.0) -> Reference:
    """Mean of parabolas that become lines; a difference at the bound may be taken for either."""
    delta = float(np.float32(delta))
    d = np.asarray(x, np.float64) - target
    size = np.abs(d)
    terms = np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))
    grad = np.clip(d, -delta, delta)
    return _mean(terms, grad, 8 * UNIT * (size + delta))


def binary(x: Any, target: Any, pos_weight: Any = 1.0) -> Reference:
    """Mean of `p * t * log(1 + exp(-x)) + (1 - t) * log(1 + exp(x))`."""
    x, t, p = np.asarray(x, np.float64), np.asarray(target, np.float64), np.asarray(pos_weight, np.float64)
    above, below = np.logaddexp(0.0, x), np.logaddexp(0.0, -x)
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * x))
    grad = (1.0 - t) * sigmoid - p * t * (1.0 - sigmoid)
    weights = p * t + (1.0 - t)
    return _mean(p * t * below + (1.0 - t) * above, grad, 16 * UNIT * weights * (1.0 + np.abs(grad)))


def _mean(terms: Array, grads: Array, grad_error: Array) -> Reference:
    """The mean of non-negative terms, each with a few roundings, and its gradient."""
    count = terms.size
    value_bound = float(reduction(count, np.mean(np.abs(terms))) + 16 * UNIT * np.mean(np.abs(terms)))
    grad_bound = (grad_error + 8 * UNIT * np.abs(grads)) / count + TINY
    return Reference(float(terms.mean()), value_bound, grads / count, grad_bound)
