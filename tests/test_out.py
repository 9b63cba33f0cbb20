"""`model(x, out=array)`: the result is written in place, and nothing is written to what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
import tolerance
from cases import real
from cnnrs import _core, graph, models, nn
from cnnrs import functional as F


class Two(nn.Module):
    """Two results, one of them a scalar."""

    def forward(self, x: Any) -> Any:
        return F.relu(x), F.sum(x)


def filled(shape: tuple[int, ...]) -> Any:
    """An array that shows what was not written."""
    return np.full(shape, 7.0, np.float32)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("batch", [1, 3, 64, 0])
def test_the_result_is_written_in_place(batch: int) -> None:
    model, x = models.lenet5(), real(batch, 28, 28, 1)
    expected, out = model(x), filled((batch, 10))
    address = out.ctypes.data
    assert model(x, out=out) is out
    assert out.ctypes.data == address
    tolerance.assert_same_bits(out, expected)


@pytest.mark.parametrize(("side", "channels"), [(40, (3, 8)), (128, (32, 32))])
@pytest.mark.usefixtures("isa")
def test_large_results_need_no_memory_of_their_own(side: int, channels: tuple[int, int]) -> None:
    """A part of a larger array: only it is written, whatever its alignment; 4 MiB go past the caches."""
    model = nn.Conv2d(*channels, 3, padding=1)
    x, shape = real(2, side, side, channels[0]), (2, side, side, channels[1])
    count = 2 * side * side * channels[1]
    memory = filled((count + 64,))
    for start in (0, 1, 13, 16, 32):
        memory[...] = 7.0
        out = memory[start : start + count].reshape(shape)
        model(x, out=out)
        tolerance.assert_same_bits(out, model(x))
        assert (memory[:start] == 7).all()
        assert (memory[start + count :] == 7).all()


def test_views_results_and_inputs_of_every_kind() -> None:
    model, out = models.lenet5(), filled((4, 10))
    for x in (real(4, 28, 28, 1).astype(np.float64), np.zeros((4, 28, 28, 1), np.uint8), real(4, 28, 28, 2)[..., 1:]):
        tolerance.assert_same_bits(model(x, out=out), model(x))
    identity = nn.Identity()
    x = real(3, 5)
    tolerance.assert_same_bits(identity(x, out=filled((3, 5))), x)


def test_the_same_array_takes_every_result_of_a_loop() -> None:
    model, out = models.lenet5(), filled((2, 10))
    for seed in range(5):
        x = real(2, 28, 28, 1, seed=seed)
        tolerance.assert_same_bits(model(x, out=out), model(x))


def test_several_results_and_scalars() -> None:
    x, out = real(3, 4), (filled((3, 4)), filled(()))
    found = Two()(x, out=out)
    assert found[0] is out[0]
    assert found[1] is out[1]
    np.testing.assert_array_equal(out[0], np.maximum(x, 0))
    np.testing.assert_allclose(out[1], x.sum(), rtol=1e-5)


def test_together_with_captures() -> None:
    model, x, out = models.lenet5(), real(2, 28, 28, 1), filled((2, 10))
    with model.capture("features.0", "classifier.5") as found:
        model(x, out=out)
    tolerance.assert_same_bits(out, model(x))
    tolerance.assert_same_bits(found["classifier.5"], out)
    assert not np.may_share_memory(found["classifier.5"], out)
    assert out.flags.writeable


def sliced(array: Any) -> Any:
    """Every second column of a larger array."""
    return np.repeat(array, 2, axis=1)[:, ::2]


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def misaligned(array: Any) -> Any:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    return memory[1:].view(np.float32).reshape(array.shape)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda out: out[:1], cnnrs.ShapeError, r"out expects the result's shape \(2, 10\), received \(1, 10\)"),
        (lambda out: out.reshape(10, 2), cnnrs.ShapeError, r"out expects the result's shape \(2, 10\)"),
        (lambda out: out.ravel(), cnnrs.ShapeError, "out expects the result's shape"),
        (lambda out: out.astype(np.float64), TypeError, "out expects float32, received float64"),
        (lambda out: out.astype(np.int32), TypeError, "out expects float32, received int32"),
        (lambda out: out.astype(">f4"), ValueError, "out expects an aligned array of native byte order"),
        (misaligned, ValueError, "out expects an aligned array"),
        (read_only, ValueError, "out expects a writable array"),
        (sliced, ValueError, "out expects a C-contiguous array"),
        (np.asfortranarray, ValueError, "out expects a C-contiguous array"),
        (lambda out: out.tolist(), TypeError, "out expects a NumPy array, received list"),
        (lambda out: (out,), TypeError, "out expects a NumPy array, received tuple"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_written(change: Callable[[Any], Any], error: Any, match: str) -> None:
    model, x = models.lenet5(), real(2, 28, 28, 1)
    out = change(filled((2, 10)))
    before = np.array(out)
    with pytest.raises(error, match=match):
        model(x, out=out)
    np.testing.assert_array_equal(np.array(out), before)
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize("out", [filled((3, 4)), (filled((3, 4)),), None, [1, 2, 3]])
def test_several_results_need_as_many_arrays(out: Any) -> None:
    if out is None:
        assert len(Two()(real(3, 4), out=out)) == 2
        return
    with pytest.raises(ValueError, match="out must be a tuple of 2 arrays, as many as forward returns, got"):
        Two()(real(3, 4), out=out)


def test_memory_of_the_input_is_refused() -> None:
    model = nn.Identity()
    memory = real(6, 4)
    for x, out in (
        (memory, memory),
        (memory[:3], memory[2:5]),
        (memory[2:5], memory[:3]),
        (memory.T[:, :4].T, memory[:4]),
        (memory.view(np.uint8).reshape(6, 16)[:3, :4], memory[:3]),
    ):
        with pytest.raises(ValueError, match="out must not share memory with x"):
            model(x, out=out)
    model(memory[:3], out=memory[3:])
    np.testing.assert_array_equal(memory[3:], memory[:3])


def test_memory_of_parameters_and_of_other_results_is_refused() -> None:
    layer = nn.Linear(3, 4)
    stored = layer.weight.array
    hidden = np.frombuffer((np.ctypeslib.ctypes.c_float * 12).from_address(stored.ctypes.data), np.float32)
    with pytest.raises(ValueError, match="out shares memory with weight"):
        layer(real(3, 3), out=hidden.reshape(3, 4))
    with pytest.raises(ValueError, match="out expects a writable array"):
        layer(real(3, 3), out=stored)
    memory = filled((6, 4))
    with pytest.raises(ValueError, match="out shares memory with another out"):
        nn.Sequential(Pair())(real(3, 4), out=(memory[:3], memory[2:5]))


class Pair(nn.Module):
    """Two results of one shape."""

    def forward(self, x: Any) -> Any:
        return F.relu(x), F.tanh(x)


def test_symbolic_values_take_no_out() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.inner(x, out=filled((2, 3)))

    with pytest.raises(TypeError, match=r"^ReLU: out takes the result of a call with an array"):
        Outer()(real(2, 3))


def test_an_error_in_the_input_comes_first_and_leaves_out_alone() -> None:
    model, out = models.lenet5(), filled((2, 10))
    with pytest.raises(cnnrs.ShapeError, match=r"^features\.0: conv2d"):
        model(real(2, 28, 28, 3), out=out)
    assert (out == 7).all()


def test_a_program_takes_arrays_for_its_first_outputs() -> None:
    with graph.Trace() as trace:
        x = trace.input((2, 3), "float32", "x")
        y, z = F.relu(x), F.tanh(x)
    program = _core.Program(trace.graph, [y.id, z.id, y.id])
    data, out = real(5, 3), filled((5, 3))
    first, second, third = program.run([data], [out])
    assert first is out
    np.testing.assert_array_equal(third, out)
    np.testing.assert_array_equal(second, F.tanh(data))
    with pytest.raises(RuntimeError, match="3 results, received memory for 4"):
        program.run([data], [filled((5, 3)) for _ in range(4)])
