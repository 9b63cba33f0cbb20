"""`cnnrs.compile`: one native call for a function of arrays, traced once per shapes, dtypes and structure epoch."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import cnnrs
import tolerance
from cases import real
from cnnrs import functional as F
from cnnrs import graph, models, nn
from cnnrs.nn import _cache

X, WEIGHT, BIAS = real(4, 6), real(6, 3), real(3)


class Counted:
    """A function that counts how often it is traced."""

    def __init__(self) -> None:
        self.traces = 0

    def __call__(self, x: Any, weight: Any, bias: Any) -> Any:
        self.traces += 1
        return F.tanh(F.linear(x, weight, bias))


@pytest.mark.usefixtures("isa")
def test_it_computes_what_the_function_computes() -> None:
    compiled = cnnrs.compile(lambda x, w, b: F.relu(F.linear(x, w, b)))
    tolerance.assert_same_bits(compiled(X, WEIGHT, BIAS), F.relu(F.linear(X, WEIGHT, BIAS)))


@pytest.mark.usefixtures("threads")
def test_operators_and_several_results() -> None:
    @cnnrs.compile
    def both(a: Any, b: Any) -> Any:
        return a + b, F.sigmoid(a)

    total, squashed = both(X, X)
    np.testing.assert_array_equal(total, X + X)
    np.testing.assert_array_equal(squashed, F.sigmoid(X))


def test_scalars_come_as_floats_and_labels_are_integers() -> None:
    loss = cnnrs.compile(F.cross_entropy)
    for dtype in (np.int64, np.uint8, np.int32):
        labels = np.array([0, 2, 1, 5], dtype)
        result = loss(X, labels)
        assert isinstance(result, float)
        assert result == F.cross_entropy(X, labels)
    with pytest.raises(ValueError, match=r"expects classes in \[0, 6\), received 6"):
        loss(X, np.array([0, 2, 1, 6]))


def test_it_is_traced_once_per_sample_shape() -> None:
    function = Counted()
    compiled = cnnrs.compile(function)
    for batch in (4, 1, 7, 0, 4):
        y = compiled(real(batch, 6), WEIGHT, BIAS)
        np.testing.assert_array_equal(y, F.tanh(F.linear(real(batch, 6), WEIGHT, BIAS)))
    assert function.traces == 1
    compiled(real(4, 5), real(5, 3), BIAS)
    assert function.traces == 2
    compiled(X, WEIGHT, BIAS)
    assert function.traces == 2


def test_an_argument_as_long_as_the_batch_by_chance() -> None:
    """Here the weight's axis 0 is the batch size once; the plan still serves other batches rightly."""
    compiled = cnnrs.compile(F.linear)
    for batch in (6, 4, 6, 3, 1):
        x = real(batch, 6)
        np.testing.assert_array_equal(compiled(x, WEIGHT), F.linear(x, WEIGHT))
    square = cnnrs.compile(F.add)
    for batch in (3, 1, 5):
        np.testing.assert_array_equal(square(real(batch, 2), real(batch, 2)), real(batch, 2) * 2)


def test_non_contiguous_and_swapped_arrays() -> None:
    compiled = cnnrs.compile(F.add)
    a, b = real(6, 4).T, X.astype(">f4")
    np.testing.assert_array_equal(compiled(a, b), a + X)


def test_modules_inside_are_read_at_each_call_and_make_plans_stale() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
    compiled = cnnrs.compile(lambda x: F.softmax(model(x)))
    np.testing.assert_array_equal(compiled(X), F.softmax(model(X)))
    model[0].weight.assign(real(6, 3, seed=9))
    np.testing.assert_array_equal(compiled(X), F.softmax(model(X)))
    setattr(model, "0", nn.Linear(6, 5))
    assert compiled(X).shape == (4, 5)
    lenet = models.lenet5()
    np.testing.assert_array_equal(cnnrs.compile(lenet)(real(2, 28, 28, 1)), lenet(real(2, 28, 28, 1)))


def test_arrays_and_parameters_that_it_closes_over() -> None:
    """An array is a constant of the trace, a parameter is not; labels are captured by reference."""
    constant, parameter, labels = real(6), nn.Parameter(real(6)), np.array([0, 1, 2, 3])
    compiled = cnnrs.compile(lambda x: F.cross_entropy(x + constant + parameter, labels))
    before = compiled(X)
    expected = F.cross_entropy(X + constant + parameter.array, labels)
    assert before == pytest.approx(expected, rel=1e-6)
    constant[...] = 0
    assert compiled(X) == before
    parameter.assign(np.zeros(6, np.float32))
    assert compiled(X) == pytest.approx(F.cross_entropy(X + real(6), labels), rel=1e-6)


def test_it_is_traced_into_what_calls_it() -> None:
    inner = cnnrs.compile(F.tanh)
    model = nn.Sequential(nn.Linear(6, 3))
    outer = cnnrs.compile(lambda x: inner(model(x)))
    np.testing.assert_array_equal(outer(X), F.tanh(model(X)))
    _, pull = cnnrs.vjp(inner, X)
    np.testing.assert_allclose(pull(np.ones_like(X)), 1 - np.tanh(X) ** 2, rtol=1e-4, atol=1e-6)


def test_the_cache_is_capped_and_can_be_cleared() -> None:
    function = Counted()
    compiled = cnnrs.compile(function)
    for size in range(1, _cache.CAPACITY + 2):
        compiled(real(2, size), real(size, 1), BIAS[:1])
    assert len(compiled._programs) == _cache.CAPACITY
    compiled(real(2, 1), real(1, 1), BIAS[:1])  # the oldest one is gone
    assert function.traces == _cache.CAPACITY + 2
    cnnrs.clear_cache()
    assert len(compiled._programs) == 0
    compiled(X, WEIGHT, BIAS)
    assert len(compiled._programs) == 1


def test_a_warm_call_runs_no_python_of_the_function() -> None:
    function = Counted()
    compiled = cnnrs.compile(function)
    threads = [threading.Thread(target=compiled, args=(X, WEIGHT, BIAS)) for _ in range(4)]
    compiled(X, WEIGHT, BIAS)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert function.traces == 1


def test_it_keeps_the_name_and_the_documentation() -> None:
    @cnnrs.compile
    def named(x: Any) -> Any:
        """Say what it does."""
        return F.relu(x)

    assert (named.__name__, named.__doc__) == ("named", "Say what it does.")
    assert "named" in repr(named)
    assert named.__wrapped__ is not named


def test_an_error_while_tracing_leaves_nothing_behind() -> None:
    compiled = cnnrs.compile(F.linear)
    with pytest.raises(cnnrs.ShapeError, match="weight expects 5 input features"):
        compiled(X, real(5, 2))
    assert len(compiled._programs) == 0
    assert graph.current() is None


@pytest.mark.parametrize(
    ("error", "match", "fn", "arguments"),
    [
        (TypeError, r"relu: argument 0 must be a float32 NumPy array .*\.astype\(np\.float32\)", F.relu, [[[1.0]]]),
        (TypeError, "relu: argument 0 must be .*a float64 array", F.relu, [np.zeros((2, 2))]),
        (TypeError, "add: argument 1 must be", F.add, [X, None]),
        (TypeError, "a compiled function must return a symbolic value", lambda _: None, [X]),
        (TypeError, "a compiled function must return a symbolic value", lambda _: (), [X]),
        (TypeError, "a compiled function must return a symbolic value", lambda x: {"y": x}, [X]),
        (TypeError, "missing 1 required positional argument", F.add, [X]),
    ],
)
def test_it_refuses(error: type[Exception], match: str, fn: Any, arguments: list[Any]) -> None:
    with pytest.raises(error, match=match):
        cnnrs.compile(fn)(*arguments)


def test_only_functions_can_be_compiled() -> None:
    with pytest.raises(TypeError, match=r"^compile: fn must be a function or a module, got 3"):
        cnnrs.compile(3)  # type: ignore[arg-type]
