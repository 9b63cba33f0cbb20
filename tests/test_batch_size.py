"""A number computed from the batch size of a trace never reaches another batch: such traces serve one size only."""

from __future__ import annotations

import copy
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, _core, graph, models, nn, optim
from cnnrs import functional as F
from cnnrs._batch_size import BatchSize

Array = npt.NDArray[np.float32]
BATCHES = (4, 1, 7, 4, 2)


class Applied(nn.Module):
    """A layer that is a function; counts its traces."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.traces: list[int] = []

    def forward(self, x: Any) -> Any:
        self.traces.append(0)
        return self.function(x)


COMPUTED: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "a factor": (
        lambda x: F.sum(x, axis=0) * (1.0 / x.shape[0]),
        lambda x: x.sum(0) / len(x),
    ),
    "a divisor": (lambda x: F.sum(x, axis=0) / x.shape[0], lambda x: x.sum(0) / len(x)),
    "a NumPy scalar": (
        lambda x: x * np.float32(2) * np.sqrt(np.float32(1.0) * x.shape[0]),
        lambda x: x * 2 * np.sqrt(np.float32(len(x))),
    ),
    "a constant of that length": (
        lambda x: x + np.arange(x.shape[0], dtype=np.float32)[:, None],
        lambda x: x + np.arange(len(x), dtype=np.float32)[:, None],
    ),
    "a loop": (lambda x: sum((x for _ in range(x.shape[0])), start=x), lambda x: x * (1 + len(x))),
    "a condition": (lambda x: x + x if x.shape[0] > 3 else x, lambda x: x + x if len(x) > 3 else x),
    "a table": (
        lambda x: x * {1: 1.0, 2: 0.5, 4: 3.0, 7: 9.0}[x.shape[0]],
        lambda x: x * {1: 1, 2: 0.5, 4: 3, 7: 9}[len(x)],
    ),
    "all elements": (lambda x: F.sum(x) / math.prod(x.shape), lambda x: np.float32(x.mean())),
    "a float": (lambda x: x * float(x.shape[0]), lambda x: x * len(x)),
    "a size of reshape that is computed": (
        lambda x: F.sum(F.reshape(x, (x.shape[0] * x.shape[1],)), axis=0),
        lambda x: x.sum(),
    ),
    "a size of reshape that is a number": (
        lambda x: F.reshape(x, (int(x.shape[0]), -1)) + 1,
        lambda x: x + 1,
    ),
    "the end of a slice": (lambda x: x[: x.shape[0] // 2 + 1], lambda x: x[: len(x) // 2 + 1]),
    "an int": (lambda x: x * int(x.shape[0]), lambda x: x * len(x)),
}


@pytest.mark.parametrize("what", COMPUTED)
def test_what_is_computed_from_the_batch_size_is_right_for_every_batch(what: str) -> None:
    """Modules and compiled functions trace anew for each batch size, and keep each."""
    function, expected = COMPUTED[what]
    model = Applied(function)
    compiled = cnnrs.compile(function)
    for batch in BATCHES:
        x = real(batch, 3)
        for run in (model, compiled):
            np.testing.assert_allclose(run(x), expected(x), rtol=1e-5, atol=1e-6, err_msg=f"batch {batch}")
    assert len(model.traces) == len(set(BATCHES))
    assert len(model._programs) == len(compiled._programs) == len(set(BATCHES))


def test_captures_of_such_a_module() -> None:
    model = nn.Sequential(Applied(lambda x: x * (1.0 / x.shape[0])), nn.Tanh())
    for batch in BATCHES:
        x = real(batch, 3)
        with model.capture("0") as found:
            model(x)
        np.testing.assert_allclose(found["0"], x / batch, rtol=1e-6)


def test_an_empty_batch_is_traced_as_such() -> None:
    model = Applied(lambda x: x + float(x.shape[0]))
    assert model(real(0, 3)).shape == (0, 3)
    np.testing.assert_array_equal(model(real(1, 3)), real(1, 3) + 1)
    division = Applied(lambda x: x * (1 / x.shape[0]))
    with pytest.raises(ZeroDivisionError):
        division(real(0, 3))


def test_a_constant_as_long_as_the_batch_does_not_fit_another() -> None:
    """Nothing is computed with the size; the graph itself does not fit."""
    constant = real(4, 3, seed=1)
    model = Applied(lambda x: x + constant)
    np.testing.assert_array_equal(model(real(4, 3)), real(4, 3) + constant)
    with pytest.raises(cnnrs.ShapeError):
        model(real(5, 3))
    np.testing.assert_array_equal(model(real(1, 3)), real(1, 3) + constant)
    np.testing.assert_array_equal(model(real(4, 3)), real(4, 3) + constant)


GENERAL: dict[str, Callable[[Any], Any]] = {
    "layers": models.lenet5(),
    "flatten": lambda x: F.linear(F.flatten(x), real(784, 3)),
    "reductions": lambda x: F.mean(F.max(x, axis=(1, 2)), axis=0),
    "broadcasting": lambda x: x * real(28, 1, 1) + real(1),
    "reshape": lambda x: F.reshape(F.reshape(x, (x.shape[0], 4, -1)), (x.shape[0], 196, x.shape[3] * 4)),
    "reshape with another's size": lambda x: F.reshape(x, (F.relu(x).shape[0], -1)),
    "reshape with a size of the middle": lambda x: F.reshape(y := F.transpose(x, (1, 2, 0, 3)), (-1, y.shape[2])),
    "conv1d": lambda x: F.conv1d(F.reshape(x, (x.shape[0], 28, 28)), real(3, 28, 2)),
    "indexing": lambda x: x[:, 3:, ::2] + x[:, 3:, 1::2],
    "softmax and concat": lambda x: F.concat([F.softmax(x, axis=1), x], axis=3),
    "comparing the size with itself": lambda x: x if x.shape == F.relu(x).shape else None,
    "comparing other sizes": lambda x: F.relu(x) if x.shape[1] == 28 else x,
    "showing it": lambda x: F.relu(x) if f"{x.shape} {x!r} {x.shape[0]:>3}" else x,
    "the rank": lambda x: F.relu(x) if len(x.shape) == x.ndim == 4 else x,
}


@pytest.mark.parametrize("what", GENERAL)
def test_other_traces_serve_every_batch(what: str) -> None:
    """One trace; plans for other batches are made by the extension."""
    images = [real(batch, 28, 28, 1) for batch in (3, 1, 5)]
    expected = [Applied(GENERAL[what])(x) for x in images]
    model = Applied(GENERAL[what])
    compiled = cnnrs.compile(GENERAL[what])
    for x, y in zip(images, expected, strict=True):
        np.testing.assert_array_equal(model(x), y)
        np.testing.assert_array_equal(compiled(x), y)
    assert len(model.traces) == 1
    assert len(model._programs) == len(compiled._programs) == 1


def test_sizes_that_follow_the_batch_are_found_on_every_axis() -> None:
    with graph.Trace() as trace:
        x = trace.input((8, 5, 3), "float32", "x")
        weight = trace.input((8, 5), "float32", "weight", batched=False)

        def follow(value: Any) -> list[bool]:
            return [isinstance(size, BatchSize) for size in value.shape]

        def node(op: str, *inputs: Any, **attrs: Any) -> Any:
            return graph.record(op, list(inputs), **attrs)[0]

        assert follow(x) == [True, False, False]
        assert follow(weight) == [False, False]
        assert follow(node("transpose", x, axes=[1, 2, 0])) == [False, False, True]
        assert follow(node("reshape", x, dims=[-1, 3])) == [True, False]
        assert follow(node("reshape", x, dims=[5, -1])) == [False, True]
        assert follow(node("sum", x, axes=[0], keepdims=True)) == [False, False, False]
        assert follow(node("sum", x, axes=[1], keepdims=False)) == [True, False]
        first = node("slice", x, spans=[(None, 4, 1), (None, None, 1), (None, None, 1)])
        assert first.shape[0] == 4
        assert follow(first) == [True, False, False]
        assert follow(node("concat", x, x, axis=0)) == [True, False, False]
        assert follow(node("concat", x, x, axis=1)) == [True, False, False]
        assert not trace.graph.batch_specific
        assert trace.batch_specific  # `first.shape[0] == 4` has read a size


def test_the_same_size_of_two_values_is_equal_without_being_read() -> None:
    with graph.Trace() as trace:
        x = trace.input((8, 8), "float32", "x")
        y = trace.input((8, 8), "float32", "y")
        assert x.shape[0] == y.shape[0]
        assert (x.shape[0] != y.shape[0]) is False
        assert x.shape == y.shape
        assert not trace.batch_specific
        assert x.shape[0] == x.shape[1]  # by chance
        assert trace.batch_specific


READS: list[Callable[[Any], Any]] = [
    int,
    float,
    complex,
    bool,
    hash,
    abs,
    round,
    math.floor,
    math.ceil,
    math.trunc,
    math.sqrt,
    operator.index,
    operator.neg,
    operator.pos,
    operator.invert,
    range,
    np.zeros,
    np.asarray,
    np.sqrt,
    lambda n: n == 6,
    lambda n: n != 6,
    lambda n: n < 7,
    lambda n: n > 5,
    lambda n: n >= 6,
    lambda n: n + 1,
    lambda n: 1 - n,
    lambda n: 2 * n,
    lambda n: 1.0 / n,
    lambda n: n // 4,
    lambda n: 20 % n,
    lambda n: divmod(n, 4),
    lambda n: 2**n,
    lambda n: n << 1,
    lambda n: n >> 1,
    lambda n: n & 3,
    lambda n: n | 1,
    lambda n: 1 ^ n,
    lambda n: round(n, -1),
    lambda n: [0] * n,
    lambda n: "abcdefgh"[n],
    lambda n: np.ones(3, np.float32) * n,
    lambda n: np.float32(2) * n,
    lambda n: {6: "six"}[n],
    lambda n: n in (1, 6),
    lambda n: n.bit_length(),
    lambda n: sum([n, n]),
    lambda n: max(n, 3) + 0,
    lambda n: copy.deepcopy(n),
]


@pytest.mark.parametrize("index", range(len(READS)))
def test_every_read_gives_the_number_and_marks_the_trace(index: int) -> None:
    read = READS[index]
    with graph.Trace() as trace:
        (size,) = trace.input((6,), "float32", "x").shape
        assert not trace.batch_specific
        found, expected = read(size), read(6)
    np.testing.assert_array_equal(found, expected)
    assert type(found) is type(expected)
    assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)
    assert trace.batch_specific


def test_showing_it_reads_nothing() -> None:
    with graph.Trace() as trace:
        x = trace.input((6, 2), "float32", "x")
        assert (repr(x.shape), f"{x.shape[0]:3d}", str(x.shape[0])) == ("(6, 2)", "  6", "6")
        assert isinstance(x.shape[0], numbers.Integral)
    assert not trace.batch_specific


def test_a_trace_of_a_training_step_is_general() -> None:
    """Forward, loss and gradients of a model: the gradients are followed for other batch sizes, too."""
    with graph.Trace(root=(model := models.lenet5()), training=True) as trace:
        x, labels = trace.input((2, 28, 28, 1), "float32", "x"), trace.input((2,), "int64", "labels")
        loss = F.cross_entropy(model(x), labels)
        wrt = [trace.parameter(parameter) for parameter in model.parameters()]
        gradients = trace.gradients([loss], [None], [x, *wrt])
    assert not trace.batch_specific
    assert [isinstance(g.shape[0], BatchSize) for g in gradients if g is not None] == [True] + [False] * len(wrt)


def squares(logits: Any, target: Any) -> Any:
    """The sum of squared errors by sample, computed with the batch size as a number."""
    return F.sum((logits - target) * (logits - target)) * (1.0 / logits.shape[0])


@pytest.mark.parametrize("where", ["loss", "model"])
def test_training_with_the_batch_size_as_a_number(where: str) -> None:
    """Steps, gradients and measures of a loss or a model that computes with it are those of each batch."""
    cnnrs.manual_seed(0)
    scaled = Applied(lambda x: x * float(x.shape[0])) if where == "model" else nn.Identity()
    model = nn.Sequential(nn.Linear(3, 2), scaled)
    trainer = Trainer(model, optim.SGD(lr=0.0), loss=squares if where == "loss" else "mse_loss")
    for batch in (4, 1, 3, 4, 1):
        x, y = real(batch, 3), real(batch, 2, seed=1)
        error = model(x).astype(np.float64) - y
        mean = (error**2).sum() / batch if where == "loss" else (error**2).mean()
        loss, gradients = trainer.gradients(x, y)
        by_logits = 2 * error / (batch if where == "loss" else 2 * batch)
        expected = by_logits.sum(0) * (batch if where == "model" else 1)
        np.testing.assert_allclose(loss, mean, rtol=1e-5)
        np.testing.assert_allclose(gradients["0.bias"], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(trainer.step(x, y), mean, rtol=1e-5)
        np.testing.assert_allclose(trainer.evaluate((x, y))["loss"], mean, rtol=1e-5)


def test_training_of_every_kind_of_layer_is_general() -> None:
    """No layer of the package computes with the batch size: one program serves every batch."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 6),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.LocalResponseNorm(3),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.LayerNorm(6 * 7 * 7),
        nn.Dropout(0.5),
        nn.Linear(6 * 7 * 7, 5),
    )
    trainer = Trainer(model, optim.Adam(lr=0.01), clip_norm=1.0)
    for batch in (3, 2, 7, 1):
        trainer.step(real(batch, 28, 28, 1), np.zeros(batch, np.int64))
        trainer.evaluate((real(batch, 28, 28, 1), np.zeros(batch, np.int64)))
    assert len(trainer._programs._cache) == 2


def test_gradients_that_depend_on_the_batch_size_are_found() -> None:
    """Traced with one sample, the sum over the copies of a row is no sum."""
    for batch, specific in ((1, True), (2, False)):
        with graph.Trace() as trace:
            x, row = trace.input((batch, 3), "float32", "x"), trace.input((1, 3), "float32", "row", batched=False)
            seed = trace.input((batch, 3), "float32", "seed")
            trace.gradients([x + row], [seed], [row])
        assert trace.batch_specific is specific


def test_a_failed_gradient_gives_the_other_sizes_up() -> None:
    g = _core.Graph()
    x, seed = g.input((2, 3), "float32", "x"), g.input((2, 3), "float32", "seed")
    (y,) = g.add("relu", [x], {}, "")
    (first,) = g.gradients([y], [seed], [x])
    assert first is not None
    assert g.batch_sizes(first) == [[1, 65521], None]
    with pytest.raises(cnnrs.UnsupportedError):
        g.gradients([first], [seed], [x, seed])
    assert g.batch_specific
    assert g.batch_sizes(x) is None
