"""Functions of one number against float64, on every instruction-set level: values, gradients, bits, fusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cases
import cnnrs
import oracle_elementwise as oracle
import tolerance
from cases import Array, real
from cnnrs import _core, graph, nn
from cnnrs import functional as F

Call = Callable[[Any], Any]
FUNCTIONS: dict[str, tuple[Call, oracle.Unary]] = {
    **{name: (getattr(F, name), reference) for name, reference in oracle.UNARY.items() if name != "gelu_tanh"},
    "gelu_tanh": (lambda x: F.gelu(x, "tanh"), oracle.UNARY["gelu_tanh"]),
    "leaky_relu": (F.leaky_relu, oracle.leaky_relu(0.01)),
    "leaky_relu -0.5": (lambda x: F.leaky_relu(x, -0.5), oracle.leaky_relu(-0.5)),
    "elu": (F.elu, oracle.elu(1.0)),
    "elu 2.5": (lambda x: F.elu(x, 2.5), oracle.elu(2.5)),
    "elu -0.5": (lambda x: F.elu(x, -0.5), oracle.elu(-0.5)),
    "clip": (lambda x: F.clip(x, -0.75, 2), oracle.clip(-0.75, 2.0)),
    "clip low": (lambda x: F.clip(x, low=-1), oracle.clip(-1.0, np.inf)),
    "clip high": (lambda x: F.clip(x, high=0.5), oracle.clip(-np.inf, 0.5)),
    "clip crossed": (lambda x: F.clip(x, 2, -2), oracle.clip(2.0, -2.0)),
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)
SIZES = [*range(1, 36), 63, 64, 65, 1000, 100_003]
MAGNITUDES = np.concatenate([np.logspace(-40, 38.5, 3001), np.linspace(0, 110, 4001), [3.4028234e38, np.inf]])
RANGE = np.concatenate([MAGNITUDES, -MAGNITUDES, [np.nan, 0.0, -0.0]]).astype(np.float32)
"""From the denormals to the largest float32 and beyond, both signs."""


def check(name: str, x: Array) -> None:
    """The value is within the bound that the function states; NaN and infinities are where they must be."""
    function, reference = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        tolerance.assert_within(function(x), reference.value(oracle.wide(x)), reference.bound(x), name)


@EVERY
@pytest.mark.usefixtures("isa")
def test_every_tail_length(name: str) -> None:
    """Sizes around the vector lengths, values around zero and in the saturated range."""
    for size in SIZES:
        check(name, real(size) * np.float32(4))


@EVERY
@pytest.mark.usefixtures("isa")
def test_full_range(name: str) -> None:
    """Every magnitude, both signs, and the special values."""
    check(name, RANGE.reshape(1, 1, -1))


@EVERY
@pytest.mark.usefixtures("isa")
@given(x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), elements=st.floats(width=32)))
def test_any_array(name: str, x: Array) -> None:
    """Hypothesis' arrays: no axes, empty axes, NaN, infinities, denormals."""
    function, reference = FUNCTIONS[name]
    if x.ndim == 0:
        value = function(x)
        assert isinstance(value, float)
        function = lambda x: np.float32(value)  # noqa: E731
    with np.errstate(all="ignore"):
        tolerance.assert_within(function(x), reference.value(oracle.wide(x)), reference.bound(x), name)


@EVERY
@pytest.mark.usefixtures("isa")
def test_strides_do_not_matter(name: str) -> None:
    """Transposed, reversed, every other element, byte-swapped."""
    function, x = FUNCTIONS[name][0], real(6, 7, 9, 10)
    for view in (x.T, x[:, ::-1], x[..., ::2], x[1:2, 3:5, :, 4:], x.astype(">f4")):
        tolerance.assert_same_bits(function(view), function(np.ascontiguousarray(view, np.float32)))


@EVERY
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(name: str, assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads, and wherever an element stands in the array."""
    function, x = FUNCTIONS[name][0], np.abs(real(3, 61, 67, 33)) if name in ("log", "sqrt") else real(3, 61, 67, 33)
    y, pullback = cnnrs.vjp(function, x)
    assert_deterministic(lambda: [function(x), pullback(y)])
    part = np.ascontiguousarray(x[1:2, 7:8, 11:12, 13:])
    tolerance.assert_same_bits(function(part), y[1:2, 7:8, 11:12, 13:])


@EVERY
@pytest.mark.usefixtures("isa")
def test_gradient(name: str) -> None:
    """`vjp` gives f'(x) * g, also from shapes without axes."""
    function, reference = FUNCTIONS[name]
    x = real(2, 5, 7, 9) * np.float32(3)
    x = np.abs(x) + np.float32(0.01) if name in ("log", "sqrt") else x
    grad_y = real(*x.shape, seed=1)
    _, pullback = cnnrs.vjp(function, x)
    with np.errstate(all="ignore"):
        slope, bound = reference.slope(oracle.wide(x)), reference.slope_bound(x)
    expected = slope * grad_y
    rounding = tolerance.UNIT * np.abs(expected) + np.abs(grad_y) * bound + tolerance.TINY
    tolerance.assert_within(pullback(grad_y), expected, rounding, name)
    y, pullback = cnnrs.vjp(function, np.array(x[0, 0, 0, 0]))
    assert isinstance(y, float)
    tolerance.assert_within(np.float32(pullback(1.0)), slope[0, 0, 0, 0], bound[0, 0, 0, 0], name)


@EVERY
def test_slopes_of_the_oracle(name: str) -> None:
    """The formulas above agree with central differences of the values."""
    reference = FUNCTIONS[name][1]
    x = np.random.default_rng(0).uniform(0.05, 5.5, 200)
    x = x if name in ("log", "sqrt") else np.concatenate([x, -x])
    step = 1e-6
    numeric = (reference.value(x + step) - reference.value(x - step)) / (2 * step)
    smooth = np.abs(np.abs(x) - 3.0) > 2 * step
    np.testing.assert_allclose(reference.slope(x)[smooth], numeric[smooth], rtol=1e-6, atol=1e-8)


KINKS: list[tuple[str, list[float], list[float]]] = [
    ("relu", [0.0, -0.0, 1e-30], [0.0, 0.0, 1.0]),
    ("relu6", [0.0, 1e-30, 6.0], [0.0, 1.0, 0.0]),
    ("leaky_relu", [0.0, -0.0, 1e-30], [0.01, 0.01, 1.0]),
    ("elu 2.5", [0.0, 1e-30], [2.5, 1.0]),
    ("hardswish", [-3.0, 3.0, -1e30, 1e30], [0.0, 1.0, 0.0, 1.0]),
    ("hardsigmoid", [-3.0, 0.0, 3.0], [0.0, 1 / 6, 0.0]),
    ("abs", [0.0, -0.0, -1e-30], [0.0, 0.0, -1.0]),
    ("clip", [-0.75, 2.0, -0.76, 2.01], [1.0, 1.0, 0.0, 0.0]),
    ("silu", [np.inf, -np.inf], [1.0, 0.0]),
    ("gelu", [np.inf, -np.inf], [1.0, 0.0]),
    ("gelu_tanh", [np.inf, -np.inf], [1.0, 0.0]),
    ("softplus", [np.inf, -np.inf], [1.0, 0.0]),
]


@pytest.mark.parametrize(("name", "x", "slopes"), KINKS)
@pytest.mark.usefixtures("isa")
def test_slopes_at_kinks_and_in_the_limits(name: str, x: list[float], slopes: list[float]) -> None:
    _, pullback = cnnrs.vjp(FUNCTIONS[name][0], np.array(x, np.float32))
    tolerance.assert_within(pullback(np.ones(len(x), np.float32)), slopes, tolerance.ulps(slopes, 1))


@pytest.mark.usefixtures("isa")
def test_functions_stay_in_range() -> None:
    """No rounding leaves the range of a saturating function; tanh is odd to the bit."""
    x = np.linspace(-20, 20, 100_001, dtype=np.float32)
    y, s, h = F.tanh(x), F.sigmoid(x), F.hardsigmoid(x)
    assert (y.min(), y.max(), s.max(), h.min(), h.max()) == (-1.0, 1.0, 1.0, 0.0, 1.0)
    assert s.min() >= 0.0
    tolerance.assert_same_bits(F.tanh(-x), -y)
    assert F.softplus(x).min() > 0.0
    assert F.elu(x).min() >= -1.0
    assert (F.hardswish(x[x >= 3]) == x[x >= 3]).all()


@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.usefixtures("isa", "threads")
def test_prelu(channels: int) -> None:
    """One slope for all and one per channel; gradients of both operands."""
    x, grad_y = real(3, 4, 5, channels), real(3, 4, 5, channels, seed=1)
    for slopes in {1, channels}:
        weight = real(slopes, seed=2)
        tolerance.assert_within(F.prelu(x, weight), np.where(x > 0, x, weight * x), tolerance.ulps(weight * x, 1))
        _, pullback = cnnrs.vjp(lambda value, weight=weight: F.prelu(value, weight), x)
        expected = np.where(x > 0, 1.0, weight.astype(np.float64)) * grad_y
        tolerance.assert_within(pullback(grad_y), expected, tolerance.ulps(expected, 1))
        _, pullback = cnnrs.vjp(lambda value: F.prelu(x, value), weight)
        terms = np.where(x > 0, 0.0, x.astype(np.float64)) * grad_y
        expected = oracle.unbroadcast(terms, (slopes,))
        bound = tolerance.reduction(x.size, oracle.unbroadcast(np.abs(terms), (slopes,)))
        tolerance.assert_within(pullback(grad_y), expected, bound)


LAYERS: dict[str, tuple[nn.Module, Call]] = {
    "ReLU()": (nn.ReLU(), F.relu),
    "ReLU6()": (nn.ReLU6(), F.relu6),
    "LeakyReLU(negative_slope=0.2)": (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    "PReLU(num_parameters=1)": (nn.PReLU(), lambda x: F.leaky_relu(x, 0.25)),
    "PReLU(num_parameters=6)": (nn.PReLU(6, init=-0.5), lambda x: F.leaky_relu(x, -0.5)),
    "ELU(alpha=0.5)": (nn.ELU(0.5), lambda x: F.elu(x, 0.5)),
    "SiLU()": (nn.SiLU(), F.silu),
    "GELU(approximate='none')": (nn.GELU(), F.gelu),
    "GELU(approximate='tanh')": (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh")),
    "Hardswish()": (nn.Hardswish(), F.hardswish),
    "Hardsigmoid()": (nn.Hardsigmoid(), F.hardsigmoid),
    "Softplus()": (nn.Softplus(), F.softplus),
    "Tanh()": (nn.Tanh(), F.tanh),
    "Sigmoid()": (nn.Sigmoid(), F.sigmoid),
    "GlobalAvgPool2d()": (nn.GlobalAvgPool2d(), F.global_avg_pool2d),
}


@pytest.mark.parametrize("text", LAYERS)
def test_layers(text: str) -> None:
    """A layer is its function, and says what it is."""
    layer, function = LAYERS[text]
    x = real(2, 3, 4, 6)
    assert repr(layer) == text
    np.testing.assert_array_equal(layer(x), function(x))


def test_prelu_learns_its_slopes() -> None:
    layer = nn.PReLU(3, init=0.1)
    assert list(layer.state_dict()) == ["weight"]
    assert layer.state_dict()["weight"].tolist() == [np.float32(0.1)] * 3
    model = nn.Sequential(nn.Linear(4, 3), layer)
    trainer = cnnrs.Trainer(model, cnnrs.optim.SGD(lr=0.1))
    _, gradients = trainer.gradients(real(5, 4), np.array([0, 1, 2, 0, 1]))
    assert gradients["1.weight"].shape == (3,)
    assert gradients["1.weight"].any()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.leaky_relu(real(2), "a"), TypeError, "leaky_relu: negative_slope must be a number, got 'a'"),
        (lambda: F.leaky_relu(real(2), np.inf), ValueError, "leaky_relu: negative_slope must be finite"),
        (lambda: F.leaky_relu(real(2), 1e300), ValueError, "negative_slope must be within the range of float32"),
        (lambda: F.leaky_relu(real(2), 10**400), ValueError, "negative_slope must be within the range of float32"),
        (lambda: F.elu(real(2), True), TypeError, "elu: alpha must be a number, got True"),
        (lambda: F.gelu(real(2), "erf"), ValueError, 'gelu: approximate must be "none" or "tanh", got \'erf\''),
        (lambda: F.clip(real(2), np.nan), ValueError, "clip: low and high must not be NaN"),
        (lambda: F.clip(real(2), "0"), TypeError, "clip: low must be a number"),
        (lambda: F.prelu(real(2, 3), real(2)), cnnrs.ShapeError, r"prelu: weight must have shape \(1,\) or \(C,\)"),
        (lambda: F.prelu(real(2, 3), real(1, 3)), cnnrs.ShapeError, "prelu: weight must have 1 dimension"),
        (lambda: F.prelu(real(2, 3), [0.1]), TypeError, "prelu: weight must be a float32 NumPy array"),
        (lambda: nn.PReLU(0), ValueError, "PReLU: num_parameters must be an int from 1"),
        (lambda: nn.PReLU(1, "x"), TypeError, "PReLU: init must be a number"),
        (lambda: nn.LeakyReLU(np.nan), ValueError, "LeakyReLU: negative_slope must be finite"),
        (lambda: nn.ELU(None), TypeError, "ELU: alpha must be a number, got None"),
        (lambda: nn.GELU("fast"), ValueError, "GELU: approximate must be"),
    ],
)
def test_arguments(call: Call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()  # type: ignore[call-arg]


# Fusion: what stands behind a convolution, a linear layer or a stacked product happens in its epilogue.

CONVS = [
    cases.ConvCase(2, (7, 9), 3, 5, (3, 3), padding=1),
    cases.ConvCase(2, (8, 8), 16, 33, (3, 3), padding=1),
    cases.ConvCase(1, (6, 6), 8, 64, (1, 1)),
    cases.ConvCase(2, (7, 7), 12, 12, (3, 3), padding=1, groups=12),
    cases.ConvCase(2, (9, 8), 6, 9, (3, 3), stride=(2, 1), groups=3),
]


def fused_and_not(record: Callable[[graph.Trace], Any], function: Call) -> tuple[Any, Any, Any]:
    """One step, two steps, and the value between the two."""
    with graph.Trace() as trace:
        between, inputs = record(trace)
        y = function(between)
    one, two = _core.Program(trace.graph, [y.id]), _core.Program(trace.graph, [y.id, between.id])
    ops = [[s["op"] for s in p.plan(2)["steps"] if not s["kernel"].startswith("pack_")] for p in (one, two)]
    assert [len(ops[0]), len(ops[1])] == [1, 2]
    return (*one.run(inputs), *two.run(inputs))


@EVERY
@pytest.mark.usefixtures("isa")
def test_fused_activation_is_the_same_function(name: str) -> None:
    """Whatever the layer, the epilogue is within the function's bound of the value between, as the single step is."""
    if name in ("square",):
        pytest.skip("a function of two operands, which are the same")
    function, reference = FUNCTIONS[name]

    def conv(case: cases.ConvCase) -> Callable[[graph.Trace], Any]:
        data = case.data()

        def record(trace: graph.Trace) -> Any:
            x = trace.input(case.input_shape, "float32", "x")
            return F.conv2d(x, data.weight, data.bias, **case.geometry), [data.x]

        return record

    def linear(trace: graph.Trace) -> Any:
        x = trace.input((2, 7), "float32", "x")
        return F.linear(x, real(7, 19), real(19)), [real(2, 7)]

    def stacked(trace: graph.Trace) -> Any:
        x = trace.input((2, 3, 5, 7), "float32", "x")
        return F.matmul(x, real(2, 3, 7, 11)), [real(2, 3, 5, 7)]

    for record in (*map(conv, CONVS), linear, stacked):
        fused, unfused, between = fused_and_not(record, function)
        with np.errstate(all="ignore"):
            expected, bound = reference.value(oracle.wide(between)), reference.bound(between)
        tolerance.assert_within(fused, expected, bound, f"fused {name}")
        tolerance.assert_within(unfused, expected, bound, f"unfused {name}")
