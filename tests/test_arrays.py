"""What the functions accept as arrays, what they copy, and what becomes of their results."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import oracle
import tolerance
from cases import Array
from cnnrs import _core, models, nn
from cnnrs import functional as F


class Tagged(np.ndarray):
    """A subclass without behaviour."""


def misaligned(x: Array) -> Array:
    """The same values one byte off any float32 boundary."""
    buffer = np.empty(x.nbytes + 1, np.uint8)
    view = buffer[1:].view(np.float32).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def read_only(x: Array) -> Array:
    """A copy that must not be written."""
    x = x.copy()
    x.flags.writeable = False
    return x


def sliced(x: Array) -> Array:
    """Every other element of a larger array, on all axes."""
    larger = np.full([2 * size for size in x.shape], np.nan, np.float32)
    view = larger[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def broadcast(x: Array) -> Array:
    """One image repeated by a stride of zero."""
    return np.broadcast_to(x[:1], x.shape)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x,
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "sliced": sliced,
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "broadcast": broadcast,
    "misaligned": misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "subclass": lambda x: x.view(Tagged),
}
IN_PLACE = ["contiguous", "read-only", "subclass"]
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "conv2d": lambda x: F.conv2d(x, cases.real(3, 3, 5, 17)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "relu": F.relu,
    "tanh": F.tanh,
    "sigmoid": F.sigmoid,
    "flatten": F.flatten,
}
WRONG: dict[str, Any] = {
    "list": [[[[1.0]]]],
    "none": None,
    "scalar": 1.0,
    "str": "1.0",
    "object": np.ones((1, 4, 4, 5), object),
    "float16": np.ones((1, 4, 4, 5), np.float16),
    "float64": np.ones((1, 4, 4, 5)),
    "longdouble": np.ones((1, 4, 4, 5), np.longdouble),
    "complex64": np.ones((1, 4, 4, 5), np.complex64),
    "int64": np.ones((1, 4, 4, 5), np.int64),
    "uint8": np.ones((1, 4, 4, 5), np.uint8),
    "bool": np.ones((1, 4, 4, 5), np.bool_),
    "structured": np.ones((1, 4, 4, 5), [("value", np.float32)]),
}
FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@FUNCTION
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(layout: str, function: Callable[[Any], Any]) -> None:
    """The result depends on the values only, is a plain array, and the argument is left as it was."""
    x = LAYOUTS[layout](cases.real(3, 6, 7, 5))
    before = x.tobytes()
    plain = np.ascontiguousarray(x.astype(np.float32))
    y = function(x)
    assert type(y) is np.ndarray
    tolerance.assert_same_bits(y, function(plain))
    assert x.tobytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_of_weights(layout: str) -> None:
    """Weights, biases and gradients obey the same rule as activations."""
    x, weight, bias = cases.real(2, 6, 6, 4), cases.real(3, 3, 4, 8), cases.real(1, 1, 1, 8)
    arranged, vector = LAYOUTS[layout](weight), LAYOUTS[layout](bias)[0, 0, 0]
    plain = np.ascontiguousarray(arranged.astype(np.float32))
    y = F.conv2d(x, arranged, vector)
    tolerance.assert_same_bits(y, F.conv2d(x, plain, bias[0, 0, 0]))
    grad_y = LAYOUTS[layout](y)
    plain_grad = np.ascontiguousarray(grad_y.astype(np.float32))
    tolerance.assert_same_bits(
        F.conv2d_backward_data(grad_y, arranged, x.shape), F.conv2d_backward_data(plain_grad, plain, x.shape)
    )
    tolerance.assert_same_bits(F.conv2d_backward_weights(x, grad_y, 3), F.conv2d_backward_weights(x, plain_grad, 3))


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@FUNCTION
def test_wrong_types_are_refused(function: Callable[[Any], Any], wrong: Any) -> None:
    """Nothing is converted silently: the message says how to convert."""
    with pytest.raises(TypeError, match=r"\.astype\(np\.float32\)"):
        function(wrong)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_types_of_other_arguments(wrong: Any) -> None:
    """Weight, bias (where None is legal) and gradients are checked like the input."""
    x, weight = cases.real(1, 4, 4, 5), cases.real(3, 3, 5, 8)
    calls: list[Callable[[], Any]] = [
        lambda: F.conv2d(x, wrong),
        lambda: F.conv2d_backward_data(wrong, weight, x.shape),
        lambda: F.conv2d_backward_weights(x, wrong, 3),
        lambda: F.avg_pool2d_backward(wrong, x.shape, 2),
        lambda: cnnrs.vjp(F.relu, wrong),
        lambda: cnnrs.vjp(F.relu, x)[1](wrong),
    ]
    if wrong is not None:
        calls.append(lambda: F.conv2d(x, weight, wrong))
    for call in calls:
        with pytest.raises(TypeError, match=r"\.astype\(np\.float32\)"):
            call()


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "avg_pool2d", "flatten"])
def test_wrong_rank(name: str, rank: int) -> None:
    """Images have four axes; there is no unbatched form."""
    function = FUNCTIONS[name]
    with pytest.raises(cnnrs.ShapeError, match="4"):
        function(np.ones((5,) * rank, np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_input_is_read_in_place(layout: str) -> None:
    """Contiguous aligned native arrays are never copied, read-only ones included."""
    x = LAYOUTS[layout](cases.real(3, 6, 7, 5))
    F.relu(x)
    in_place = _core.last_input_addresses()[0] == x.ctypes.data
    assert in_place == (layout in IN_PLACE)


def test_part_of_a_batch_is_read_in_place() -> None:
    """A slice along the first axis is contiguous, and its start is aligned to four bytes only."""
    x = cases.real(5, 3, 3, 1)
    for start in range(4):
        part = x[start : start + 1]
        tolerance.assert_same_bits(F.tanh(part), F.tanh(x)[start : start + 1])
        F.tanh(part)
        assert _core.last_input_addresses()[0] == part.ctypes.data


def test_module_reads_its_input_in_place() -> None:
    """A warm call of a whole model makes no copy of the images."""
    model, x = models.lenet5(), cases.real(4, 28, 28, 1)
    for _ in range(2):
        model(x)
        assert x.ctypes.data in _core.last_input_addresses()


def test_memory_map_is_read_in_place(tmp_path: Path) -> None:
    """A file mapped read-only is an array like any other."""
    values = cases.real(2, 5, 5, 3)
    values.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "r", shape=values.shape)
    tolerance.assert_same_bits(F.relu(mapped), F.relu(values))
    F.relu(mapped)
    assert _core.last_input_addresses()[0] == mapped.ctypes.data


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", ">f8"])
def test_modules_convert_floats(dtype: Any) -> None:
    """Floats of any width are taken as they are, converted once."""
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1))
    model = models.lenet5()
    tolerance.assert_same_bits(model(x.astype(dtype)), model(x.astype(np.float32)))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (1.0,)), ((0.25,), (0.5,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_modules_scale_bytes(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """uint8 images become `(x / 255 - mean) / std` with the model's own values, by default 0 and 1."""
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    model = nn.Sequential(nn.Flatten())
    assert (model.input_mean, model.input_std) == ((0.0,), (1.0,))
    model.input_mean, model.input_std = mean, std
    magnitude = (x / 255.0 + np.asarray(mean)) / np.asarray(std)
    bound = oracle.flatten(tolerance.reduction(3, magnitude))
    tolerance.assert_within(model(x), oracle.flatten(oracle.normalize(x, mean, std)), bound)


def test_lenet_scales_bytes_as_mnist() -> None:
    """The zoo's constants for MNIST."""
    model = models.lenet5()
    assert (tuple(model.input_mean), tuple(model.input_std)) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint16, np.complex64, np.dtype("U1"), object])
def test_modules_refuse(dtype: Any) -> None:
    """Other types are a mistake in the caller's pipeline."""
    with pytest.raises(TypeError, match=r"dtype|astype"):
        models.lenet5()(np.ones((1, 28, 28, 1)).astype(dtype))


def test_outputs_do_not_alias() -> None:
    """Results share memory neither with arguments nor with each other, and belong to the caller."""
    x, weight = cases.real(2, 6, 6, 3), cases.real(3, 3, 3, 4)
    y = F.conv2d(x, weight)
    pooled, index = F.max_pool2d(x, 2, return_indices=True)
    out, pullback = cnnrs.vjp(F.relu, x)
    grads = F.conv2d_backward_weights(x, y, 3)
    arrays = [
        x,
        weight,
        y,
        pooled,
        index,
        out,
        pullback(out),
        pullback(out),
        *grads,
        F.relu(x),
        F.relu(x),
        F.flatten(x),
    ]
    for position, one in enumerate(arrays):
        assert one.flags.writeable
        for other in arrays[position + 1 :]:
            assert not np.shares_memory(one, other)


HOLDERS: dict[str, Callable[[Array], Any]] = {
    "itself": lambda y: y,
    "slice": lambda y: y[:, 1:, ::2],
    "reshape": lambda y: y.reshape(-1),
    "transpose": lambda y: y.T,
    "element": lambda y: y[0, 0, 0, :1],
    "subclass": lambda y: y.view(Tagged),
    "memoryview": memoryview,
    "bytes view": lambda y: y.view(np.uint8),
    "frombuffer": lambda y: np.frombuffer(y, np.float32),
    "iterator": lambda y: y.flat,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_results_in_use_are_never_overwritten(hold: Callable[[Array], Any]) -> None:
    """Memory of a result is recycled only when its last reference, of whatever kind, is gone."""
    x = cases.real(3, 16, 16, 8)
    held = hold(F.relu(x))
    before = np.array(held).tobytes()
    gc.collect()
    for turn in range(20):
        F.relu(cases.real(3, 16, 16, 8, seed=turn + 1))
    assert np.array(held).tobytes() == before


def test_results_of_a_model_stay() -> None:
    """A list of the logits of many batches, as evaluation loops keep them."""
    model = models.lenet5()
    batches = [cases.real(4, 28, 28, 1, seed=seed) for seed in range(12)]
    kept = [model(batch) for batch in batches]
    copies = [logits.copy() for logits in kept]
    for batch in batches[::-1]:
        model(batch)
    tolerance.assert_same_bits(kept, copies)


def test_dropped_results_leave_no_values() -> None:
    """Recycled memory is written in full: a smaller result after a larger one holds nothing of it."""
    for size in (12, 7, 9, 3, 12):
        x = np.full((1, size, size, 3), size, np.float32)
        assert np.all(F.relu(x) == size)
        assert np.all(F.max_pool2d(x, 3, stride=1, padding=1) == size)


def test_denormals_still_work_afterwards() -> None:
    """Kernels may flush denormals to zero; the caller's floating-point mode is what it was, also after an error."""
    tiny = np.float32(1e-40)

    def check() -> None:
        assert tiny * np.float32(1) == tiny
        assert np.all(np.full(33, tiny) * np.float32(0.5) > 0)

    check()
    x = np.full((2, 9, 9, 17), tiny, np.float32)
    for function in FUNCTIONS.values():
        function(x[..., :5])
        check()
    with pytest.raises(cnnrs.ShapeError):
        F.conv2d(x, cases.real(3, 3, 4, 4))
    check()
    cnnrs.vjp(F.tanh, x)[1](x)
    check()
