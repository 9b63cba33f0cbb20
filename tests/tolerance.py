"""Error bounds computed from the length and the magnitude of a calculation; tests contain no tolerance of their own.

The model is the standard one of floating point (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1):
a sum of n rounded products, in any order and with or without fused operations, is off by at most
gamma(n) * sum |a||b| with gamma(n) = n * u / (1 - n * u). Results below the smallest normal number may be flushed to
zero, which adds TINY per operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

UNIT = 2.0**-24
"""Unit roundoff of float32."""
TINY = 2.0**-126
"""Smallest normal float32: what flushing to zero can lose."""
TRANSCENDENTAL_ULPS = 4
"""What exp, log, tanh and sigmoid may be off by, in units in the last place of their result."""


def gamma(length: int) -> float:
    """Relative error of `length` successive float32 roundings."""
    return length * UNIT / (1.0 - length * UNIT)


def reduction(length: int, magnitude: Any) -> Array:
    """Bound for a sum of `length` products and one more addition whose absolute terms sum to `magnitude`."""
    return np.asarray(gamma(length + 2) * np.asarray(magnitude) + (length + 2) * TINY)


def ulps(reference: Any, count: float = TRANSCENDENTAL_ULPS) -> Array:
    """`count` units in the last place of the reference."""
    return np.asarray(count * 2.0 * UNIT * np.abs(reference) + TINY)


def softmax(logits: Any, probabilities: Any) -> Array:
    """Bound for softmax: the rounded shift makes exp off by u * |shift|, the sum and the division add theirs."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        shift = np.abs(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        terms = UNIT * shift + 2.0 * TRANSCENDENTAL_ULPS * UNIT
        # A shift so large that the probability is zero in float64 contributes nothing, whatever its error.
        weighted = np.where(probabilities == 0.0, 0.0, terms * probabilities)
    total = weighted.sum(axis=-1, keepdims=True) + gamma(logits.shape[-1] + 2)
    return np.asarray(weighted + probabilities * total + 2.0 * TINY)


def log_softmax(logits: Any, probabilities: Any) -> Array:
    """Bound for log-softmax: the logarithm moves by the relative error of the sum, the shift and the result round."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.abs(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    sum_error = softmax(logits, probabilities).sum(axis=-1, keepdims=True) + gamma(logits.shape[-1] + 2)
    log_sum = np.log(float(max(logits.shape[-1], 1)))
    return np.asarray(sum_error + ulps(log_sum) + 4.0 * UNIT * (shift + log_sum))


def cross_entropy(logits: Any, labels: Any, probabilities: Any) -> float:
    """Bound for the mean loss: error of the log of the sum, of the label's shift and of the mean over rows."""
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    sum_error = softmax(logits, probabilities).sum(axis=1) + gamma(logits.shape[1] + 2)
    label_shift = np.abs(shifted[rows, labels])
    per_row = sum_error + ulps(log_sum) + 2.0 * UNIT * label_shift + UNIT * (log_sum + label_shift)
    return float(per_row.mean() + reduction(len(labels), np.mean(log_sum + label_shift)))


def assert_within(actual: Any, expected: Any, bound: Any, what: str = "result") -> None:
    """Same shape, float32, the same NaN and infinities in the same places, everything else within the bound."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.dtype == np.float32, f"{what}: dtype {actual.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    special = ~np.isfinite(expected) | ~np.isfinite(actual)
    np.testing.assert_array_equal(actual[special], expected[special].astype(np.float32), what)
    error = np.abs(np.where(special, 0.0, actual) - np.where(special, 0.0, expected))
    excess = error - np.broadcast_to(np.where(np.isfinite(bound), bound, 0.0), error.shape)
    if excess.size and excess.max() > 0.0:
        at = np.unravel_index(int(excess.argmax()), excess.shape)
        limit = np.broadcast_to(bound, error.shape)[at]
        message = (
            f"{what}: {(excess > 0).sum()} of {excess.size} values out of bounds, worst at {tuple(map(int, at))}: "
            f"{actual[at]!r} for {expected[at]!r}, error {error[at]:.3e}, bound {limit:.3e}"
        )
        raise AssertionError(message)


def assert_same_bits(actual: Any, expected: Any, what: str = "result") -> None:
    """Equal shape, dtype and bytes, through lists, tuples and dictionaries."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), f"{what}: names differ"
        actual, expected = list(actual.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(actual) == len(expected), f"{what}: {len(actual)} results, expected {len(expected)}"
        for position, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(one, other, f"{what}[{position}]")
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), f"{what}: shape or dtype differs"
    if actual.tobytes() != expected.tobytes():
        differing = int((actual != expected).sum())
        message = f"{what}: {differing} of {actual.size} values differ in their bits"
        raise AssertionError(message)
