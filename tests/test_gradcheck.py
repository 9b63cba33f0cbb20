"""Every gradient rule of the graph against central differences in float64, and `cnnrs.testing.gradcheck` itself.

Both sides are evaluated by the reference executor, so that a case fails if and only if a rule is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cnnrs
from cnnrs import _core, models, nn, testing
from cnnrs import functional as F
from cnnrs.testing import GradientError, Tensor, check_graph, gradcheck

SOURCES = Path(__file__).resolve().parent.parent / "src"
Array = npt.NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal float64 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def distinct(*shape: int, seed: int = 0) -> Array:
    """Numbers of both signs in random order, 0.17 apart and none at 0, 3 or 6: no ties and no kinks."""
    size = int(np.prod(shape))
    order = np.random.default_rng([seed, *shape]).permutation(size)
    return ((order - size // 2 + 0.3) * 0.17).reshape(shape)


def positive(*shape: int, seed: int = 0) -> Array:
    """Numbers from 0.5 on."""
    return abs(normal(*shape, seed=seed)) + 0.5


@dataclass
class Case:
    """One op with its operands: floats are differentiated by unless `fixed` says otherwise."""

    op: str
    operands: list[Array]
    attrs: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        return f"{self.op} {self.note or ' '.join(str(operand.shape) for operand in self.operands)}"

    def build(self) -> tuple[_core.Graph, list[int], list[int]]:
        """A graph of the one node: operands and results."""
        graph = _core.Graph()
        kinds = {"f": "float32", "i": "int64"}
        operands = [
            graph.input(operand.shape, kinds[operand.dtype.kind], f"operand{index}", False)
            for index, operand in enumerate(self.operands)
        ]
        return graph, operands, graph.add(self.op, operands, self.attrs, "")

    def wrt(self, ids: list[int]) -> list[Tensor]:
        """What is differentiated by."""
        floats = [index for index, operand in enumerate(self.operands) if operand.dtype.kind == "f"]
        return [Tensor(f"operand {index}", ids[index]) for index in floats if index not in self.fixed]


def conv(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, **more: Any) -> dict[str, Any]:
    """Attributes of a convolution."""
    pair = {name: (v, v) if isinstance(v, int) else v for name, v in {"stride": stride, "dilation": dilation}.items()}
    around = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    return {**pair, "padding": around, "groups": groups, **more}


def pool(kernel: tuple[int, int], stride: Any, padding: Any = 0, **more: Any) -> dict[str, Any]:
    """Attributes of a pooling window."""
    attrs = conv(stride, padding, more.pop("dilation", 1))
    del attrs["groups"]
    return {**attrs, "kernel_size": kernel, "ceil_mode": False, **more}


UNARY: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"slope": 0.1},
    "elu": {"alpha": 1.5},
    "tanh": {},
    "sigmoid": {},
    "silu": {},
    "gelu": {},
    "gelu_tanh": {},
    "hardswish": {},
    "hardsigmoid": {},
    "softplus": {},
    "exp": {},
    "abs": {},
    "clip": {"low": -1.0, "high": 2.0},
    "affine": {"scale": -2.5, "shift": 0.75},
}
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "share", "equal")
BROADCASTS = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 3), (4, 1)), ((), (2, 3)), ((1,), ()), ((1, 3), (1, 1))]
REDUCTIONS = ("sum", "mean", "max", "min", "sum_squares")
AXES = [([0], (3, 4)), ([1], (3, 4)), ([0, 2], (2, 3, 4)), ([0, 1, 2], (2, 2, 3)), ([], (2, 3)), ([1, 2], (2, 1, 3))]
MAPS: list[dict[str, Any]] = [
    {"map": "nearest", "to": 7},
    {"map": "nearest", "to": 2},
    {"map": "linear", "to": 7, "align_corners": False},
    {"map": "linear", "to": 7, "align_corners": True},
    {"map": "linear", "to": 3, "align_corners": False},
    {"map": "linear", "to": 1, "align_corners": True},
    {"map": "adaptive_avg", "to": 3},
    {"map": "adaptive_avg", "to": 7},
    {"map": "pad_edge", "before": 2, "after": 3},
    {"map": "pad_reflect", "before": 3, "after": 2},
]
LABELS = np.array([1, 0, 3, 2], np.int64)
STATISTICS = [normal(3, seed=3), positive(3, seed=4)]

CASES = [
    Case("conv2d", [normal(2, 5, 4, 2), normal(3, 2, 2, 3), normal(3)], conv(1, 1)),
    Case("conv2d", [normal(2, 6, 7, 2), normal(3, 3, 2, 2)], conv((2, 3), ((1, 2), (0, 1)))),
    Case("conv2d", [normal(1, 7, 6, 4), normal(2, 3, 2, 6), normal(6)], conv(1, 1, (3, 2), 2)),
    Case("conv2d", [normal(2, 5, 5, 3), normal(3, 3, 1, 6)], conv(2, 1, groups=3), note="depthwise"),
    Case("conv2d_backward_data", [normal(2, 3, 4, 3), normal(2, 2, 2, 3)], conv(1, 0, input_size=(4, 5))),
    Case("conv2d_backward_data", [normal(1, 3, 2, 4), normal(3, 3, 2, 4)], conv(2, 1, groups=2, input_size=(6, 4))),
    Case("conv2d_backward_data", [normal(1, 2, 2, 3), normal(3, 2, 2, 3)], conv((3, 2), 1, (1, 2), input_size=(5, 4))),
    Case("linear", [normal(3, 4), normal(4, 2)]),
    Case("linear", [normal(3, 4), normal(4, 2), normal(2)]),
    Case("linear", [normal(2, 3, 4), normal(2, 4, 5)]),
    Case("linear", [normal(2, 3, 2, 4), normal(2, 3, 4, 1)]),
    Case("max_pool2d", [distinct(2, 5, 6, 2)], pool((2, 3), (2, 1)), note="overlapping"),
    Case("max_pool2d", [distinct(1, 7, 7, 3)], pool((3, 3), 2, 1, ceil_mode=True), note="ceil"),
    Case("max_pool2d", [distinct(1, 7, 7, 1)], pool((2, 2), 2, ((1, 0), (0, 1)), dilation=2), note="dilated"),
    Case("avg_pool2d", [normal(2, 5, 6, 2)], pool((2, 3), (2, 1), count_include_pad=True), note="overlapping"),
    Case("avg_pool2d", [normal(1, 7, 6, 2)], pool((3, 3), 2, 1, ceil_mode=True, count_include_pad=True), note="ceil"),
    Case("avg_pool2d", [normal(1, 7, 6, 2)], pool((3, 3), 2, 1, count_include_pad=False), note="input only"),
    *(Case(op, [distinct(5, 7)], attrs) for op, attrs in UNARY.items()),
    Case("leaky_relu", [distinct(5, 7)], {"slope": -0.5}, note="negative slope"),
    Case("elu", [distinct(5, 7)], {"alpha": -0.5}, note="negative alpha"),
    Case("log", [positive(3, 4)]),
    Case("sqrt", [positive(3, 4)]),
    *(Case(op, [distinct(*a), np.asarray(distinct(*b, seed=1) + 0.06)]) for op in BINARY for a, b in BROADCASTS),
    *(
        Case(op, [distinct(*shape)], {"axes": axes, "keepdims": keepdims}, note=f"{shape} {axes} {keepdims}")
        for op in REDUCTIONS
        for axes, shape in AXES
        for keepdims in (False, True)
    ),
    *(
        Case("expand", [normal(*shape), normal(2, 3, 4)], {"mean": False}, fixed=(1,))
        for shape in [(), (4,), (3, 1), (1, 1, 1), (2, 3, 4)]
    ),
    Case("reshape", [normal(2, 3, 4)], {"dims": [-1, 6]}),
    Case("reshape", [normal(2, 3, 4)], {"dims": [-2, -4, -1, 1]}),
    Case("transpose", [normal(2, 3, 4, 2)], {"axes": [2, 0, 3, 1]}),
    Case("slice", [normal(5, 6, 3)], {"spans": [(1, 5, 2), (None, None, -2), (-2, None, 1)]}),
    Case("slice", [normal(3, 2)], {"spans": [(2, 2, 1), (None, None, 1)]}, note="nothing"),
    Case("pad", [normal(2, 3, 2)], {"pads": [(1, 0), (0, 2), (0, 0)], "value": 1.5}),
    Case("concat", [normal(2, 3, 2), normal(2, 1, 2), normal(2, 2, 2)], {"axis": 1}),
    Case("concat", [normal(2, 3)], {"axis": 0}),
    *(Case("axis_map", [normal(2, 5, 3)], {"axis": 1, **attrs}, note=str(attrs)) for attrs in MAPS),
    Case("axis_map", [normal(4, 2)], {"axis": 0, **MAPS[2]}, note="outer axis"),
    *(Case("flatten", [normal(2, 3, 2, 2)], {"order": order}, note=order) for order in ("hwc", "chw")),
    *(
        Case(op, [normal(3, 4, 2)], {"axis": axis}, note=f"axis {axis}")
        for op in ("softmax", "log_softmax")
        for axis in range(3)
    ),
    Case(
        "batch_norm_train",
        [normal(4, 2, 3), normal(3), normal(3, seed=1), *STATISTICS],
        {"eps": 1e-5, "momentum": 0.1},
        fixed=(3, 4),
    ),
    Case("batch_norm_infer", [normal(4, 2, 3), normal(3), normal(3, seed=1), *STATISTICS], {"eps": 1e-3}, fixed=(3, 4)),
    *(
        Case("group_norm", [normal(2, 3, 2, 6), normal(6), normal(6, seed=1)], {"groups": groups, "eps": 1e-5}, note=g)
        for groups, g in ((1, "one group"), (3, "three groups"), (6, "a channel each"))
    ),
    *(
        Case("local_response_norm", [normal(2, 3, 7)], {"size": size, "alpha": 0.7, "beta": 0.75, "k": 2.0}, note=n)
        for size, n in ((5, "size 5"), (2, "size 2"), (1, "size 1"), (20, "all channels"))
    ),
    *(
        Case(
            "dropout",
            [normal(3, 2, 4), np.array([7, 3], np.int64)],
            {"p": p, "unit": unit, "stream": 2**40 + 5},
            note=f"{unit} {p}",
        )
        for unit in ("element", "channel", "sample")
        for p in (0.0, 0.4, 1.0)
    ),
    *(
        Case(
            "cross_entropy",
            [normal(4, 5), labels, *weights],
            {"label_smoothing": smoothing, "ignore_index": ignore},
            fixed=(2,),
            note=f"smoothing {smoothing} ignore {ignore} weights {len(weights)}",
        )
        for smoothing in (0.0, 0.15)
        for labels, ignore in ((LABELS, None), (LABELS, 3), (np.where(LABELS == 3, -100, LABELS), -100))
        for weights in ([], [positive(5)])
    ),
]
NO_GRADIENT = {"normalize", "sgd", "rmsprop", "adam", "adagrad", "assign", "blend", "increment"}
"""Ops on bytes, and ops with effects."""
GRADIENTS = {
    "linear_backward_data",
    "linear_backward_weights",
    "conv2d_backward_weights",
    "reshape_like",
    "concat_part",
}
"""Ops of gradients whose names do not end in `_backward`."""
ELSEWHERE = {"unflatten", "upsample", "adaptive_avg_pool2d"}
"""The inverse of flatten, below, and names of axis maps."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule(case: Case) -> None:
    """The gradient by every float operand, through the first result."""
    graph, operands, results = case.build()
    assert check_graph(graph, results[:1], case.operands, case.wrt(operands))


def test_every_differentiable_op_has_a_case() -> None:
    """The names of the closed set of ops are those of the table and of the lists of exceptions."""
    text = (SOURCES / "graph" / "op.rs").read_text() + (SOURCES / "function.rs").read_text()
    names = {name for name in re.findall(r'=> "(\w+)"', text) if not name.endswith("_backward")}
    assert names >= NO_GRADIENT | GRADIENTS | ELSEWHERE
    cases = {case.op for case in CASES} - {"axis_map"}
    assert cases == names - NO_GRADIENT - GRADIENTS - ELSEWHERE


@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_the_inverse_of_flatten_has_a_gradient(order: str) -> None:
    graph, operands, results = Case("flatten", [normal(2, 3, 2, 2)], {"order": order}).build()
    seed = graph.input((2, 12), "float32", "seed", False)
    (gradient,) = graph.gradients(results, [seed], operands)
    assert gradient is not None
    assert graph.nodes()[-1][1] == "unflatten"
    assert check_graph(graph, [gradient], [normal(2, 3, 2, 2), normal(2, 12)], [Tensor("seed", seed)])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_loss_without_a_seed_has_the_gradient_of_seed_one(smoothing: float) -> None:
    attrs = {"label_smoothing": smoothing, "ignore_index": None}
    graph, (logits, _), (loss, *_) = Case("cross_entropy", [normal(4, 5), LABELS], attrs).build()
    one = graph.constant(np.ones((), np.float32))
    gradients = [graph.gradients([loss], [seed], [logits])[0] for seed in (None, one)]
    assert gradients[0] != gradients[1]
    bare, seeded = graph.reference([g for g in gradients if g is not None], [normal(4, 5), LABELS])
    np.testing.assert_array_equal(bare, seeded)


@pytest.mark.parametrize("op", ["relu", "gelu", "exp"])
def test_gradients_of_gradients_are_refused(op: str) -> None:
    graph, (x,), results = Case(op, [distinct(2, 3)]).build()
    seed = graph.input((2, 3), "float32", "seed", False)
    (gradient,) = graph.gradients(results, [seed], [x])
    assert gradient is not None
    with pytest.raises(cnnrs.UnsupportedError, match=f"{op}_backward: gradients of gradients"):
        graph.gradients([gradient], [seed], [x])


def test_gradients_are_summed_over_uses_and_paths() -> None:
    """A value that is used by itself, broadcast against itself, and through two branches."""
    graph = _core.Graph()
    x = graph.input((3, 3), "float32", "x", False)
    (row,) = graph.add("sum", [x], {"axes": [0], "keepdims": False}, "")
    (square,) = graph.add("mul", [x, x], {}, "")
    (mixed,) = graph.add("div", [square, row], {}, "")
    (y,) = graph.add("add", [mixed, x], {}, "")
    assert check_graph(graph, [y, row], [distinct(3, 3)], [Tensor("x", x)])


# The public function.


class Wrong(nn.Module):
    """A layer whose gradient cannot be right: the derivative at a tie is shared, differences see the larger side."""

    def forward(self, x: Any) -> Any:
        return F.max_pool2d(x, 2)


def test_modules_functions_and_several_arguments() -> None:
    images = normal(1, 6, 6, 2)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    assert gradcheck(model, images)
    assert gradcheck(model, images.astype(np.float32), parameters=False)
    assert gradcheck(lambda a, b: (F.tanh(a) + b, F.sigmoid(b)), (normal(2, 3), normal(2, 3, seed=1)))
    assert gradcheck(lambda x, labels: F.cross_entropy(model(x), labels), (images, np.array([3], np.int32)))


def test_training_mode() -> None:
    """Statistics of the batch, and the same draws of dropout at every point."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout2d(0.5),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, 3),
    )
    before = model.state_dict(copy=True)
    for training in (True, False):
        assert gradcheck(model, normal(3, 6, 6, 2), training=training)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert gradcheck(F.dropout, distinct(3, 4), training=True, seed=3)


def test_layers_that_normalize() -> None:
    images = normal(2, 3, 3, 4)
    for layer in (nn.GroupNorm(2, 4), nn.LayerNorm((3, 3, 4)), nn.LocalResponseNorm(3), nn.BatchNorm2d(4)):
        assert gradcheck(layer, images)
        assert gradcheck(layer, images, training=True)


def test_buffers_are_no_parameters() -> None:
    """There is no gradient by running statistics, so that none is asked for."""
    layer = nn.BatchNorm1d(3)
    assert layer.running_mean is not None
    layer.running_mean.assign(np.array([0.5, -1.0, 2.0], np.float32))
    assert gradcheck(layer, normal(4, 3))


@pytest.mark.parametrize("form", [{}, {"activation": "relu", "pool": "max"}], ids=["tanh-avg", "relu-max"])
def test_lenet(form: dict[str, Any]) -> None:
    """Large tensors are checked in samples and along directions."""
    assert gradcheck(models.lenet5(**form), normal(1, 28, 28, 1), parameters=not form)


def test_a_wrong_gradient_is_named() -> None:
    x = np.array([3.0, 3.0, 1.0, 2.0]).reshape(1, 2, 2, 1)
    with pytest.raises(GradientError, match=r"the gradient by x at \(0, 0, 0, 0\) is [-0-9.e]+, but") as caught:
        gradcheck(Wrong(), x)
    assert caught.value.index == (0, 0, 0, 0)
    assert caught.value.tensor == "x"
    assert caught.value.analytic == pytest.approx(2 * caught.value.numeric)
    assert isinstance(caught.value, AssertionError)


def test_a_wrong_gradient_by_a_parameter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that forgets a parameter: its gradient counts as zero."""
    graph_gradients = _core.Graph.gradients

    class Forgetful:
        def __init__(self, graph: _core.Graph) -> None:
            self.graph = graph

        def __getattr__(self, name: str) -> Any:
            return getattr(self.graph, name)

        def gradients(self, outputs: Any, seeds: Any, wrt: Any) -> list[int | None]:
            *others, last = graph_gradients(self.graph, outputs, seeds, wrt)
            assert last is not None
            return [*others, None]

    check = testing.check_graph
    monkeypatch.setattr(testing, "check_graph", lambda graph, *rest: check(Forgetful(graph), *rest))  # type: ignore[arg-type]
    with pytest.raises(GradientError, match=r"by 1\.bias at \(0,\) is 0, but central differences give"):
        gradcheck(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), normal(1, 2, 2, 1))


def test_a_large_tensor_is_checked_along_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is wrong at one element of many, which the sample of elements misses."""
    monkeypatch.setattr(testing, "_ELEMENTS", 1)
    x = normal(1, 12, 12, 1)
    x[0, 6:8, 6:8, 0] = 9.0
    with pytest.raises(GradientError, match="along a random direction") as caught:
        gradcheck(Wrong(), x)
    assert caught.value.index is None


def test_it_leaves_stored_parameters_alone() -> None:
    model = models.lenet5()
    before = {name: (p.array.copy(), p._storage.version) for name, p in model.named_parameters()}
    gradcheck(nn.Sequential(model.classifier[1]), normal(1, 400), parameters=True)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.array, before[name][0])
        assert parameter._storage.version == before[name][1]


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "fn must be a module or a function", {"fn": "relu"}),
        (TypeError, "x must be a float32 or float64 NumPy array", {"x": [1.0]}),
        (TypeError, r"x\[1\] must be a float32 or float64", {"x": (normal(2, 3), normal(2, 3) > 0)}),
        (TypeError, "x must be a float32 or float64", {"x": normal(2, 3).astype(np.float16)}),
        (TypeError, "fn must return a symbolic value", {"fn": lambda _: None}),
        (TypeError, "fn must return a symbolic value", {"fn": lambda _: ()}),
        (TypeError, "training must be True or False", {"training": 1}),
        (ValueError, "eps must be a finite number above 0", {"eps": 0.0}),
        (ValueError, "rtol must be a finite number above 0", {"rtol": float("nan")}),
        (ValueError, "seed must be from 0", {"seed": -1}),
    ],
)
def test_it_refuses(error: type[Exception], match: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=f"^gradcheck: {match}"):
        gradcheck(**{"fn": F.tanh, "x": normal(2, 3), **arguments})
