"""reshape, transpose, slice, concat and pad against NumPy, and their gradients as exact adjoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cnnrs
import tolerance
from cases import Array, real
from cnnrs import functional as F
from cnnrs import nn

SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=5)


def integers(*shape: int, seed: int = 0) -> Array:
    """Small whole numbers: sums of their products are exact."""
    return np.random.default_rng([seed, *shape]).integers(-4, 5, shape).astype(np.float32)


def check(function: Callable[[Any], Any], reference: Callable[[Array], Array], x: Array) -> None:
    """Values, which keep their bits, and `<f(x), g> = <x, f'(g)>`, which tells the gradient of a movement."""
    expected = np.asarray(reference(x))
    y, pullback = cnnrs.vjp(function, x)
    if expected.shape == ():
        assert y == float(expected)
        return
    tolerance.assert_same_bits(y, np.ascontiguousarray(expected))
    tolerance.assert_same_bits(function(x), y, "array by array")
    grad_y = integers(*y.shape, seed=1)
    grad_x = pullback(grad_y)
    assert grad_x.shape == x.shape
    # The reference, applied to positions, tells where each number came from; -1 is a number that came from nowhere.
    origin = np.asarray(reference(np.arange(1, x.size + 1, dtype=np.float32).reshape(x.shape)), np.int64) - 1
    expected_grad = np.zeros(x.size, np.float64)
    np.add.at(expected_grad, origin[origin >= 0], grad_y[origin >= 0])
    tolerance.assert_within(grad_x, expected_grad.reshape(x.shape), 0.0, "gradient")


@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=SHAPES)
def test_transpose(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Every order of the axes of any shape."""
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    check(lambda v: F.transpose(v, axes), lambda v: v.transpose(axes), integers(*shape))
    negative = tuple(axis - len(shape) for axis in axes)
    tolerance.assert_same_bits(F.transpose(integers(*shape), negative), F.transpose(integers(*shape), axes))


@pytest.mark.parametrize("shape", [(3, 33, 47), (2, 64, 128), (2, 3, 70, 5), (17, 1, 1024)], ids=str)
@pytest.mark.usefixtures("isa")
def test_transpose_in_squares(shape: tuple[int, ...], assert_deterministic: Callable[..., None]) -> None:
    """Sizes of several squares and tasks; without axes their order turns around."""
    x = real(*shape)
    check(F.transpose, lambda v: v.transpose(), integers(*shape))
    assert_deterministic(lambda: F.transpose(x))


@given(data=st.data(), shape=SHAPES)
def test_reshape(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Any other factors of the size, one of them left out."""
    target = list(data.draw(st.permutations(shape)))
    if len(target) > 1 and data.draw(st.booleans()):
        target[:2] = [target[0] * target[1]]
    x = integers(*shape)
    check(lambda v: F.reshape(v, tuple(target)), lambda v: v.reshape(target), x)
    hole = data.draw(st.integers(0, len(target) - 1))
    if x.size:
        target[hole] = -1
        check(lambda v: F.reshape(v, target), lambda v: v.reshape(target), x)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """A NumPy index of ints, slices, dots and new axes that fits a shape."""
    entries: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        bound = st.none() | st.integers(-size - 3, size + 3)
        step = st.none() | st.integers(-4, 4).filter(bool)
        spans = st.builds(slice, bound, bound, step)
        entries.append(draw(spans | st.integers(-size, size - 1) if size else spans))
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), ...)
        if len(entries) <= len(shape):  # the dots may stand before entries for the last axes
            entries = [entry if isinstance(entry, (slice, type(...))) else slice(None) for entry in entries]
    for _ in range(draw(st.integers(0, 2))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    return tuple(entries)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=SHAPES)
def test_slice(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Every index form that NumPy calls basic, on arrays and on symbolic values."""
    index = data.draw(indices(shape))
    x = integers(*shape)
    check(lambda v: F.slice(v, index), lambda v: v[index], x)
    if x[index].shape != ():
        tolerance.assert_same_bits(cnnrs.vjp(lambda v: v[index], x)[0], np.ascontiguousarray(x[index]))


@given(data=st.data(), shape=SHAPES)
def test_slice_by_bounds(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Start, stop and step per axis are the slices made of them."""
    bound, step = st.none() | st.integers(-7, 7), st.none() | st.integers(-3, 3).filter(bool)
    count = data.draw(st.integers(1, len(shape)))
    start, stop, steps = (data.draw(st.tuples(*[kind] * count)) for kind in (bound, bound, step))
    index = tuple(slice(*bounds) for bounds in zip(start, stop, steps, strict=True))
    check(lambda v: F.slice(v, start, stop, steps), lambda v: v[index], integers(*shape))


def test_slice_takes_single_bounds_and_huge_ones() -> None:
    x = integers(6, 3)
    tolerance.assert_same_bits(F.slice(x, 1, 5, 2), np.ascontiguousarray(x[1:5:2]))
    tolerance.assert_same_bits(F.slice(x, np.s_[-(2**80) : 2**80 : 2**70]), np.ascontiguousarray(x[:1]))
    tolerance.assert_same_bits(F.slice(x, np.s_[:: -(2**70)]), np.ascontiguousarray(x[-1:]))
    tolerance.assert_same_bits(F.slice(x, np.int64(2)), np.ascontiguousarray(x[2]))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=SHAPES, sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_concat(data: st.DataObject, shape: tuple[int, ...], sizes: list[int]) -> None:
    """Any number of parts along any axis, each with its gradient; empty parts and the same part twice."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for place, size in enumerate(sizes):
        part = list(shape)
        part[axis] = size
        parts.append(integers(*part, seed=place))
    tolerance.assert_same_bits(F.concat(parts, axis), np.concatenate(parts, axis))
    for place, part in enumerate(parts):
        before, behind = parts[:place], parts[place + 1 :]

        def joined(v: Any, before: list[Array] = before, behind: list[Array] = behind) -> Any:
            return F.concat([*before, v, *behind], axis)

        y, pullback = cnnrs.vjp(joined, part)
        grad_y = integers(*y.shape, seed=9)
        start = sum(sizes[:place])
        chosen = np.moveaxis(np.moveaxis(grad_y, axis, 0)[start : start + sizes[place]], 0, axis)
        tolerance.assert_same_bits(pullback(grad_y), np.ascontiguousarray(chosen))
    y, pullback = cnnrs.vjp(lambda v: F.concat((v, v), axis), parts[0])
    grad_y = integers(*y.shape, seed=9)
    halves = np.split(grad_y, 2, axis)
    tolerance.assert_same_bits(pullback(grad_y), halves[0] + halves[1])


@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=SHAPES, value=st.floats(width=32))
def test_pad_with_a_constant(data: st.DataObject, shape: tuple[int, ...], value: float) -> None:
    """Any border around any axes, any value, and nothing but the inside in the gradient."""
    pads = tuple(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4))) for _ in shape)
    x = integers(*shape)
    tolerance.assert_same_bits(F.pad(x, pads, value=value), np.pad(x, pads, constant_values=np.float32(value)))
    check(lambda v: F.pad(v, pads), lambda v: np.pad(v, pads), x)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6))
def test_pad_with_own_elements(mode: str, data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Mirrored and repeated borders, and the gradient that sums over the copies."""
    most = [size - 1 if mode == "reflect" else 9 for size in shape]
    pads = [(0, 0)] + [data.draw(st.tuples(st.integers(0, m), st.integers(0, m))) for m in most[1:]]
    reference: Callable[[Array], Array] = lambda v: np.pad(v, pads, mode)  # type: ignore[call-overload]  # noqa: E731
    check(lambda v: F.pad(v, tuple(pads), mode), reference, integers(*shape))


@pytest.mark.parametrize(
    ("padding", "pads"),
    [(2, ((2, 2), (2, 2))), ((1, 3), ((1, 1), (3, 3))), (((1, 0), (0, 2)), ((1, 0), (0, 2))), (0, ((0, 0), (0, 0)))],
)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_of_feature_maps(padding: Any, pads: Any, mode: str) -> None:
    """Ints, (h, w) and pairs pad H and W of (N, H, W, C)."""
    x = integers(2, 5, 6, 3)
    expected = np.pad(x, ((0, 0), *pads, (0, 0)), mode)  # type: ignore[call-overload]
    tolerance.assert_same_bits(F.pad(x, padding, mode), expected)


@pytest.mark.usefixtures("isa", "threads")
def test_large_movements() -> None:
    """Rows that are cut into parts, and several tasks."""
    x = integers(3, 50, 70, 33)
    check(lambda v: F.pad(v, ((3, 0), (0, 2))), lambda v: np.pad(v, ((0, 0), (3, 0), (0, 2), (0, 0))), x)
    check(lambda v: v[:, ::-2, 3:, ::3], lambda v: v[:, ::-2, 3:, ::3], x)
    check(lambda v: v[:, :, 1:-1], lambda v: v[:, :, 1:-1], x)
    long = integers(100_003)
    check(lambda v: v[::-1], lambda v: v[::-1], long)
    check(lambda v: F.pad(v, ((9, 20_000),)), lambda v: np.pad(v, ((9, 20_000),)), long)


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(assert_deterministic: Callable[..., None]) -> None:
    """Maps of the tensor's own elements sum in a fixed order."""
    x, grad_y = real(3, 40, 37, 19), real(3, 60, 45, 19)

    def run() -> list[Array]:
        y, pullback = cnnrs.vjp(lambda v: F.pad(v, ((11, 9), (4, 4)), "reflect"), x)
        return [y, pullback(grad_y), F.concat([x, x[..., :5]]), F.slice(x, np.s_[:, ::-3])]

    assert_deterministic(run)


@pytest.mark.parametrize("view", [lambda a: a[::2], lambda a: a.T, lambda a: a[:, ::-1], lambda a: a.astype(">f4")])
def test_views_are_read_as_they_are(view: Callable[[Array], Array]) -> None:
    """Strided, transposed, backward and byte-swapped arrays."""
    x = view(integers(6, 4))
    native = np.ascontiguousarray(x, np.float32)
    tolerance.assert_same_bits(F.transpose(x), np.ascontiguousarray(native.T))
    tolerance.assert_same_bits(F.reshape(x, (-1,)), native.reshape(-1))
    tolerance.assert_same_bits(F.slice(x, np.s_[1:, ::2]), np.ascontiguousarray(native[1:, ::2]))
    tolerance.assert_same_bits(F.concat([x, x], 0), np.concatenate([native, native]))
    tolerance.assert_same_bits(F.pad(x, ((0, 0), (1, 2)), "edge"), np.pad(native, ((0, 0), (1, 2)), "edge"))


def test_results_are_copies() -> None:
    """A result never shares memory with its operand, also where nothing has to move."""
    x = integers(2, 3)
    for y in (
        F.reshape(x, (3, 2)),
        F.transpose(x, (0, 1)),
        F.slice(x, ...),
        F.concat([x]),
        F.pad(x, ((0, 0), (0, 0))),
    ):
        y[...] = 99
    tolerance.assert_same_bits(x, integers(2, 3))


class Moves(nn.Module):
    """A forward that a function of one value defines."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


FORWARDS: dict[str, Callable[[Any], Any]] = {
    "reshape to the batch": lambda v: v.reshape(v.shape[0], -1),
    "reshape with sizes": lambda v: v.reshape((v.shape[0], 8, 3)),
    "reshape to rows": lambda v: v.reshape(-1, 4),
    "transpose": lambda v: v.transpose(0, 3, 1, 2),
    "transpose a tuple": lambda v: v.transpose((1, 0, 3, 2)),
    "turn around": lambda v: v.transpose(),
    "single channel": lambda v: v[..., 1],
    "new axis": lambda v: v[:, None, 0],
    "last image": lambda v: v[-1],
    "backwards": lambda v: v[::-1, 1:, ::-1],
}


@pytest.mark.parametrize("name", FORWARDS)
def test_one_trace_serves_every_batch_size(name: str) -> None:
    """Traced once, the same forward runs on other batch sizes, also on an empty batch."""
    function = FORWARDS[name]
    model = Moves(function)
    for batch in (2, 1, 5, 0):
        x = integers(batch, 2, 3, 4)
        if batch == 0 and name in ("last image", "reshape to the batch"):
            expected = np.zeros((0, 24), np.float32) if name != "last image" else None
        else:
            expected = np.ascontiguousarray(function(x))
        if expected is None:
            with pytest.raises(cnnrs.ShapeError):
                model(x)
        else:
            tolerance.assert_same_bits(model(x), expected, f"batch {batch}")
    assert len(model._programs) == 1


def test_padding_and_concatenation_of_any_batch_size() -> None:
    """The same for functions that NumPy spells differently."""
    model = Moves(lambda v: F.concat([F.pad(v, 1), F.pad(v, 1, "edge"), F.pad(v, 1, "reflect")]))
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    for batch in (2, 1, 5, 0):
        x = integers(batch, 2, 3, 4)
        borders = [np.pad(x, around, mode) for mode in ("constant", "edge", "reflect")]  # type: ignore[call-overload]
        tolerance.assert_same_bits(model(x), np.concatenate(borders, -1))


def test_values_of_which_only_the_shape_is_wanted_are_not_computed() -> None:
    """The gradient of a slice, of a reshape and of a join needs the shape of what was moved, not its numbers."""
    weight = real(8, 8)
    for function in (
        lambda v: F.matmul(v, weight)[:, ::2],
        lambda v: F.matmul(v, weight).reshape(-1),
        lambda v: F.concat([F.matmul(v, weight), F.matmul(v, weight)]),
    ):
        with cnnrs.graph.Trace() as trace:
            x = trace.input((4, 8), "float32", "x", False)
            y = function(x)
            seed = trace.input(y.shape, "float32", "seed", False)
            (gradient,) = trace.gradients([y], [seed], [x])
            assert gradient is not None
            steps = cnnrs._core.Program(trace.graph, [gradient.id]).plan(4)["steps"]
        assert "linear" not in [step["op"] for step in steps]


def test_what_stays_in_place_costs_nothing() -> None:
    """Shapes, whole slices and axes of one element are other names for the same memory."""
    with cnnrs.graph.Trace() as trace:
        x = trace.input((4, 1, 8, 1), "float32", "x", False)
        y = F.relu(F.upsample(F.relu(x).transpose(0, 3, 2, 1)[:, :].reshape(4, 8, 1, 1), size=(8, 1)))
        y = F.relu(F.pad(F.concat([y]), ((0, 0), (0, 0), (0, 0), (0, 0))))
        steps = cnnrs._core.Program(trace.graph, [y.id]).plan(4)["steps"]
    assert [step["op"] for step in steps] == ["relu"] * 3


@pytest.mark.parametrize(
    ("error", "call", "text"),
    [
        (cnnrs.ShapeError, lambda x: F.reshape(x, (5, 5)), r"^reshape: shape \(5, 5\) does not hold the 24 elements"),
        (cnnrs.ShapeError, lambda x: F.reshape(x, (-1, 5)), r"^reshape: shape \(-1, 5\) does not hold the 24"),
        (ValueError, lambda x: F.reshape(x, (-1, -1)), r"^reshape: shape must have at most one -1"),
        (ValueError, lambda x: F.reshape(x, (-2, 12)), r"^reshape: shape must be from -1"),
        (TypeError, lambda x: F.reshape(x, (2.0, 12)), r"^reshape: shape must be an int, got 2\.0"),
        (TypeError, lambda x: F.reshape(x, "ab"), r"^reshape: shape must be an int"),
        (cnnrs.ShapeError, lambda x: F.transpose(x, (0, 1)), r"^transpose: axes must name each axis of x \(2, 3, 4\)"),
        (cnnrs.ShapeError, lambda x: F.transpose(x, (0, 1, 1)), r"^transpose: axes must name each axis"),
        (TypeError, lambda x: F.transpose(x, 1), r"^transpose: axes must be a tuple"),
        (TypeError, lambda x: F.transpose(x, (0, 1, 2.0)), r"^transpose: axes must be an int"),
        (cnnrs.ShapeError, lambda x: F.slice(x, 2), r"^slice: index must be from -2 to 1 for axis 0"),
        (cnnrs.ShapeError, lambda x: F.slice(x, (0, 0, 0, 0)), r"^slice: index must have at most 3 entries"),
        (cnnrs.ShapeError, lambda x: F.slice(x, (0,) * 4, (1,) * 4), r"at most 3 entries for x \(2, 3, 4\)"),
        (ValueError, lambda x: F.slice(x, np.s_[::0]), r"^slice: step must be any int but 0"),
        (ValueError, lambda x: F.slice(x, (..., ...)), r"^slice: index must have at most one \.\.\."),
        (TypeError, lambda x: F.slice(x, 1.0), r"^slice: index must be made of ints"),
        (TypeError, lambda x: F.slice(x, np.s_["a":]), r"^slice: index must be made of ints"),
        (cnnrs.UnsupportedError, lambda x: F.slice(x, [0, 1]), r"^slice: index by arrays"),
        (cnnrs.UnsupportedError, lambda x: F.slice(x, x > 0), r"^slice: index by arrays"),
        (cnnrs.UnsupportedError, lambda x: F.slice(x, True), r"^slice: index by arrays"),
        (cnnrs.ShapeError, lambda _: F.concat([]), r"^concat: arrays must be at least one array"),
        (cnnrs.ShapeError, lambda x: F.concat([x, x[:, :2]]), r"^concat: arrays expect equal shapes but for axis 2"),
        (TypeError, lambda x: F.concat(x), r"^concat: arrays must be a list or tuple"),
        (TypeError, lambda x: F.concat([x, 1]), r"^concat: arrays\[1\] must be a float32"),
        (ValueError, lambda x: F.concat([x], 3), r"^concat: axis must be from -3 to 2"),
        (cnnrs.ShapeError, lambda x: F.pad(x, 1), r"^pad: x must have 4 dimensions"),
        (cnnrs.ShapeError, lambda x: F.pad(x, ((1, 1), (1, 1))), r"^pad: padding must have a pair for each axis"),
        (ValueError, lambda x: F.pad(x, ((1, 1), (1, -1), (0, 0))), r"^pad: padding must be an int from 0"),
        (ValueError, lambda x: F.pad(x, ((1, 1), (1,), (0, 0))), r"^pad: padding must have pairs"),
        (ValueError, lambda x: F.pad(x[None], "same"), r"^pad: padding must be numbers"),
        (ValueError, lambda x: F.pad(x[None], 1, "wrap"), r'^pad: mode must be "constant", "reflect" or "edge"'),
        (ValueError, lambda x: F.pad(x[None], 1, "edge", 1.0), r'^pad: value must be 0 for mode "edge"'),
        (TypeError, lambda x: F.pad(x[None], 1, value="0"), r"^pad: value must be a number"),
        (cnnrs.ShapeError, lambda x: F.pad(x[None], 3, "reflect"), r"^pad: padding by reflection expects less than"),
        (cnnrs.UnsupportedError, lambda x: F.pad(x, ((1, 0), (0, 0), (0, 0)), "edge"), r"along the batch"),
    ],
)  # fmt: skip
def test_errors(error: type[Exception], call: Callable[[Array], Any], text: str) -> None:
    """Typed, with the name of the argument and what was received."""
    with pytest.raises(error, match=text):
        call(integers(2, 3, 4))
