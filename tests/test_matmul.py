"""Products of matrices, single and stacked, on arrays, symbols and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnrs
import tolerance
from cases import Array, real
from cnnrs import _core, graph, nn
from cnnrs import functional as F

SHAPES: list[tuple[tuple[int, ...], int, int, int]] = [
    ((), 5, 7, 9),
    ((), 1, 1, 1),
    ((3,), 4, 4, 4),
    ((3, 3), 3, 3, 3),
    ((2, 5), 6, 17, 33),
    ((4,), 1, 20, 1),
    ((0,), 3, 4, 5),
    ((2, 0), 3, 4, 5),
    ((3,), 0, 4, 5),
    ((2,), 700, 3, 5),  # the weight gradient in parts
    ((16,), 50, 64, 50),
]


def gradients(a: Array, b: Array, grad_y: Array) -> tuple[Array, Array]:
    """In float64."""
    a64, b64, g64 = (x.astype(np.float64) for x in (a, b, grad_y))
    return g64 @ np.swapaxes(b64, -1, -2), np.swapaxes(a64, -1, -2) @ g64


def check(lead: tuple[int, ...], n: int, i: int, o: int) -> None:
    """The product and both gradients."""
    a, b, grad_y = real(*lead, n, i), real(*lead, i, o, seed=1), real(*lead, n, o, seed=2)
    what = f"{lead} {n}x{i}x{o}"
    y, pull_a = cnnrs.vjp(lambda v: F.matmul(v, b), a)
    expected, magnitude = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
    tolerance.assert_within(y, expected, tolerance.reduction(i, magnitude), what)
    tolerance.assert_within(F.matmul(a, b), expected, tolerance.reduction(i, magnitude), what)
    _, pull_b = cnnrs.vjp(lambda v: F.matmul(a, v), b)
    grads, magnitudes = gradients(a, b, grad_y), gradients(np.abs(a), np.abs(b), np.abs(grad_y))
    tolerance.assert_within(pull_a(grad_y), grads[0], tolerance.reduction(o, magnitudes[0]), f"grad_a {what}")
    tolerance.assert_within(pull_b(grad_y), grads[1], tolerance.reduction(n, magnitudes[1]), f"grad_b {what}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa", "threads")
def test_products_and_gradients(shape: tuple[tuple[int, ...], int, int, int]) -> None:
    check(*shape)


@pytest.mark.usefixtures("isa")
@given(
    lead=st.lists(st.integers(1, 4), max_size=3),
    n=st.integers(1, 20),
    i=st.integers(1, 40),
    o=st.integers(1, 40),
)
def test_any_shape(lead: list[int], n: int, i: int, o: int) -> None:
    check(tuple(lead), n, i, o)


@pytest.mark.usefixtures("isa")
def test_stacked_products_are_the_single_ones(assert_deterministic: Callable[..., None]) -> None:
    """Bit for bit, on any number of threads."""
    a, b, grad_y = real(6, 40, 33), real(6, 33, 70, seed=1), real(6, 40, 70, seed=2)
    assert_deterministic(lambda: F.matmul(a, b))
    y, pull_a = cnnrs.vjp(lambda v: F.matmul(v, b), a)
    _, pull_b = cnnrs.vjp(lambda v: F.matmul(a, v), b)
    assert_deterministic(lambda: [pull_a(grad_y), pull_b(grad_y)])
    for k in range(6):
        one, pull = cnnrs.vjp(lambda v, k=k: F.matmul(v, b[k]), a[k])
        _, pull_one = cnnrs.vjp(lambda v, k=k: F.matmul(a[k], v), b[k])
        tolerance.assert_same_bits(y[k], one)
        tolerance.assert_same_bits(pull_a(grad_y)[k], pull(grad_y[k]))
        tolerance.assert_same_bits(pull_b(grad_y)[k], pull_one(grad_y[k]))


@pytest.mark.usefixtures("isa")
def test_parameters_are_packed_once_per_version() -> None:
    """On either side; a new value is seen, and the plan packs outside the run."""
    a, b = nn.Parameter(real(3, 4, 5)), nn.Parameter(real(3, 5, 6, seed=1))
    x = real(3, 2, 4, seed=2)
    with graph.Trace() as trace:
        value = trace.input(x.shape, "float32", "x")
        y = F.matmul(F.matmul(value, a), b)
    program = _core.Program(trace.graph, [y.id])
    assert [step["kernel"].startswith("pack") for step in program.plan(3)["steps"]] == [False, False]
    for seed in (1, 7):
        b.assign(real(3, 5, 6, seed=seed))
        (got,) = program.run([x])
        np.testing.assert_allclose(got, x @ a.array @ b.array, rtol=1e-4, atol=1e-5)
    with graph.Trace() as trace:
        value = trace.input((3, 6, 2), "float32", "x", batched=False)
        y = F.matmul(F.matmul(a, b), value)
    (got,) = _core.Program(trace.graph, [y.id]).run([real(3, 6, 2)])
    np.testing.assert_allclose(got, a.array @ b.array @ real(3, 6, 2), rtol=1e-4, atol=1e-4)


def test_training_through_a_stacked_product() -> None:
    """A parameter of rank 3 gets its gradient."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(real(4, 6, 5))

        def forward(self, x: Any) -> Any:
            return F.sum(F.matmul(F.transpose(x, (1, 0, 2)), self.weight), axis=0)

    x, labels = real(3, 4, 6, seed=1), np.array([0, 3, 2])
    model = Mixer()
    loss, grads = cnnrs.Trainer(model, cnnrs.optim.SGD(lr=0.1)).gradients(x, labels)
    stacked = x.astype(np.float64).transpose(1, 0, 2)
    logits = (stacked @ model.weight.array).sum(axis=0)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    assert loss == pytest.approx(float(-np.log(share[range(3), labels]).mean()), rel=1e-5)
    expected = np.swapaxes(stacked, 1, 2) @ ((share - np.eye(5)[labels]) / 3)
    np.testing.assert_allclose(grads["weight"], expected, rtol=1e-4, atol=1e-6)


def test_another_batch_size_meets_the_same_trace() -> None:
    """Leading axes and rows may depend on the batch."""

    class Gram(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.matmul(x, F.transpose(x, (0, 2, 1)))

    model = Gram()
    for batch in (1, 5, 2):
        x = real(batch, 3, 4)
        np.testing.assert_allclose(model(x), x @ x.transpose(0, 2, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ((3,), (3, 4), r"matmul: a must have at least 2 dimensions, got shape \(3,\)"),
        ((2, 3), (3,), r"matmul: b must have at least 2 dimensions, got shape \(3,\)"),
        ((2, 3), (4, 5), r"matmul: b must have 3 rows, as many as a \(2, 3\) has columns, .* got shape \(4, 5\)"),
        ((2, 0), (0, 5), "sizes of at least 1"),
        ((7, 2, 3), (3, 4), r"b must have the leading axes \(7,\) of a \(7, 2, 3\), .* leading axes are not broadcast"),
        ((7, 2, 3), (1, 3, 4), "leading axes are not broadcast"),
    ],
)
def test_shapes_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...], text: str) -> None:
    with pytest.raises(cnnrs.ShapeError, match=text):
        F.matmul(real(*a), real(*b))


def test_types() -> None:
    for call in (lambda: F.matmul(real(2, 2), 3.0), lambda: F.matmul([[1.0]], real(1, 1))):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^matmul: [ab] must be a float32 NumPy array"):
            call()
