"""What becomes of a traced graph: its text, the steps that remain after the rewrites, their memory and their bits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import tolerance
from cases import EDGE_CASES, ConvCase, real
from cnnrs import _core, graph, models, nn, optim
from cnnrs import functional as F
from cnnrs._losses import Loss
from cnnrs._programs import Programs, Recipe

FORMS = {"1998": {"activation": "tanh", "pool": "avg"}, "modern": {"activation": "relu", "pool": "max"}}
ACTIVATIONS = {"relu": F.relu, "tanh": F.tanh, "sigmoid": F.sigmoid}
BATCHES = (1, 2, 3, 5, 16, 64, 100)
IMAGE = (28, 28, 1)
FORWARD = [
    ("conv2d", "features.0"),
    ("{pool}_pool2d", "features.2"),
    ("conv2d", "features.3"),
    ("{pool}_pool2d", "features.5"),
    ("flatten", "classifier.0"),
    ("linear", "classifier.1"),
    ("linear", "classifier.3"),
    ("linear", "classifier.5"),
]
"""Steps of LeNet-5 once its activations are fused."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, str]:
    """The two forms of LeNet-5."""
    return FORMS[request.param]


def traced(model: nn.Module, batch: int = 2) -> tuple[_core.Graph, int]:
    """The graph of a model on images and its output."""
    with graph.Trace(root=model) as trace:
        y = model(trace.input((batch, *IMAGE), "float32", "x"))
    return trace.graph, y.id


def results(text: _core.Graph) -> list[int]:
    """The first output of every node."""
    return [outputs[0] for _, _, _, outputs in text.nodes()]


def training(model: nn.Module) -> _core.Program:
    """The program of a trainer's step on uint8 images."""
    recipe = Recipe.of(optim.SGD(0.1))
    images, labels = np.zeros((2, *IMAGE), np.uint8), np.zeros(2, np.int64)
    return Programs(model, Loss("cross_entropy")).step(images, labels, recipe)._program


def steps(program: _core.Program, batch: int = 3) -> list[tuple[str, str]]:
    """The op and the layer of every step, without the packing of weights that a training step repeats."""
    return [
        (step["op"], step["name"]) for step in program.plan(batch)["steps"] if not step["kernel"].startswith("pack_")
    ]


def filled(rows: Iterable[tuple[str, str]], form: dict[str, str]) -> list[tuple[str, str]]:
    """The rows with the words of a form of the network."""
    return [(op.format(**form), name) for op, name in rows]


def inference(form: dict[str, str], count: int = len(FORWARD)) -> list[tuple[str, str]]:
    """The first rows without the poolings that convolutions take on the way: direct ones the largest only."""
    pooled = {"max": {"features.2", "features.5"}, "avg": {"features.2"}}[form["pool"]]
    return [row for row in filled(FORWARD[:count], form) if row[1] not in pooled]


# The text of a graph.


def test_the_text_lists_the_ops_in_order(form: dict[str, str]) -> None:
    traced_graph, _ = traced(models.lenet5(**form))
    lines = str(traced_graph).splitlines()
    activation, pool = f"Unary({form['activation'].title()})", f"{form['pool'].title()}Pool2d"
    stage = ["Conv2d", activation, pool]
    expected = [*stage, *stage, "Flatten", "Linear", activation, "Linear", activation, "Linear"]
    assert [re.findall(r" = (\w+(?:\([A-Z]\w+\))?)", line) for line in lines] == [[op] for op in expected]
    names = [f"features.{i}" for i in range(6)] + [f"classifier.{i}" for i in range(6)]
    assert [line.rpartition("  # ")[2] for line in lines] == names


def test_the_text_shows_shapes_windows_and_operands(form: dict[str, str]) -> None:
    first, *_, last = str(traced(models.lenet5(**form))[0]).splitlines()
    assert first.startswith("%3: float32(2, 28, 28, 6) = Conv2d {")
    assert "kernel: [5, 5]" in first
    assert "pad: [[2, 2], [2, 2]]" in first
    assert "(%0[input x], %1[features.0.weight], %2[features.0.bias])" in first
    assert re.match(r"%\d+: float32\(2, 10\) = Linear", last)


def test_the_text_is_that_of_the_nodes_and_stays(form: dict[str, str]) -> None:
    """Planning and running rewrite a copy."""
    model = models.lenet5(**form)
    traced_graph, y = traced(model)
    before = str(traced_graph)
    assert len(before.splitlines()) == len(traced_graph.nodes())
    _core.Program(traced_graph, [y]).run([real(3, *IMAGE)])
    assert str(traced_graph) == before == str(traced(model)[0])


# The steps of a plan.


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_activations_are_fused_in_inference(form: dict[str, str], batch: int) -> None:
    traced_graph, y = traced(models.lenet5(**form))
    assert steps(_core.Program(traced_graph, [y]), batch) == inference(form)


@pytest.mark.usefixtures("isa")
def test_activations_are_fused_in_training_too(form: dict[str, str]) -> None:
    found = steps(training(models.lenet5(**form)))
    ops = [op for op, _ in found]
    assert found[: len(FORWARD) + 1] == [("normalize", ""), *filled(FORWARD, form)]
    assert form["activation"] not in ops
    assert ops.count(f"{form['activation']}_backward") == 4


@pytest.mark.usefixtures("isa")
def test_an_activation_that_is_read_elsewhere_is_not_fused() -> None:
    """The value before the activation is needed: as an output, or by another node."""
    model = models.lenet5(activation="tanh")
    traced_graph, y = traced(model)
    conv = results(traced_graph)[0]
    assert [name for op, name in steps(_core.Program(traced_graph, [y, conv])) if op == "tanh"] == ["features.1"]
    with graph.Trace() as trace:
        z = F.linear(trace.input((2, 3), "float32", "x"), real(3, 4))
        out = F.relu(z) + z
    assert [op for op, _ in steps(_core.Program(trace.graph, [out.id]))] == ["linear", "relu", "add"]


def test_an_activation_after_an_activation_stays() -> None:
    with graph.Trace() as trace:
        y = F.tanh(F.relu(F.linear(trace.input((2, 3), "float32", "x"), real(3, 4))))
    assert [op for op, _ in steps(_core.Program(trace.graph, [y.id]))] == ["linear", "tanh"]


@pytest.mark.usefixtures("isa")
def test_what_no_output_needs_is_dropped(form: dict[str, str]) -> None:
    """An output in the middle ends the plan there, and the weights behind it are not packed."""
    traced_graph, y = traced(models.lenet5(**form))
    middle = _core.Program(traced_graph, [results(traced_graph)[5]])
    assert steps(middle) == inference(form, 4)
    assert 0 < middle.plan(3)["packed_bytes"] < _core.Program(traced_graph, [y]).plan(3)["packed_bytes"]


def test_a_branch_appears_only_where_its_output_is_asked_for() -> None:
    with graph.Trace() as trace:
        x = trace.input((2, 8, 8, 3), "float32", "x")
        stem = F.relu(F.conv2d(x, real(3, 3, 3, 4)))
        one = F.max_pool2d(stem, 2)
        other = F.tanh(F.avg_pool2d(stem, 3))
        F.linear(F.flatten(other), real(16, 5))  # never an output
    branches = {
        (one.id,): ["conv2d", "max_pool2d"],
        (other.id,): ["conv2d", "avg_pool2d", "tanh"],
        (one.id, other.id): ["conv2d", "max_pool2d", "avg_pool2d", "tanh"],
    }
    for outputs, expected in branches.items():
        assert [op for op, _ in steps(_core.Program(trace.graph, outputs))] == expected


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("frozen", [None, "features", "classifier", "*.bias"])
def test_the_update_is_one_step_and_the_last(form: dict[str, str], frozen: str | None) -> None:
    """Nothing is written before everything is computed, however few parameters train."""
    model = models.lenet5(**form)
    if frozen:
        model.freeze(frozen)
    for batch in (1, 64):
        ops = [op for op, _ in steps(training(model), batch)]
        assert ops.count("sgd") == 1
        assert ops[-1] == "sgd"


def test_frozen_layers_have_no_gradients() -> None:
    ops = {op for op, _ in steps(training(models.lenet5().freeze("features")))}
    assert not {"conv2d_backward_data", "conv2d_backward_weights", "avg_pool2d_backward"} & ops
    assert {"linear_backward_data", "linear_backward_weights"} <= ops


def test_no_gradient_is_computed_for_the_images(form: dict[str, str]) -> None:
    found = steps(training(models.lenet5(**form)))
    assert [name for op, name in found if op == "conv2d_backward_data"] == ["features.3"]


# Memory and bits.


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_memory_grows_with_the_batch(form: dict[str, str], mode: str) -> None:
    model = models.lenet5(**form)
    traced_graph, y = traced(model)
    program = _core.Program(traced_graph, [y]) if mode == "inference" else training(model)
    plans = [program.plan(batch) for batch in BATCHES]
    for key in ("arena_bytes", "peak_bytes"):
        sizes = [plan[key] for plan in plans]
        assert sizes == sorted(set(sizes)), key
    assert all(plan["arena_bytes"] <= plan["peak_bytes"] for plan in plans)
    assert len({(plan["packed_bytes"], plan["parameter_bytes"]) for plan in plans}) == 1


@pytest.mark.usefixtures("isa")
def test_the_batch_size_does_not_show_in_the_bits(form: dict[str, str]) -> None:
    """Every image's logits are the same alone, among three and among 64."""
    traced_graph, y = traced(models.lenet5(**form))
    program = _core.Program(traced_graph, [y])
    x = real(64, *IMAGE)
    (expected,) = program.run([x])
    for batch in (1, 3):
        parts = [program.run([x[start : start + batch]])[0] for start in range(0, len(x), batch)]
        tolerance.assert_same_bits(np.concatenate(parts), expected, f"batch {batch}")


@pytest.mark.usefixtures("isa")
def test_a_network_with_every_value_as_output_gives_the_same_bits() -> None:
    """The relu form: fused and unfused, all layers."""
    traced_graph, y = traced(models.lenet5(**FORMS["modern"]))
    every = results(traced_graph)
    x = real(3, *IMAGE)
    unfused = _core.Program(traced_graph, every)
    assert [op for op, _ in steps(unfused)].count("relu") == 4
    (fused,) = _core.Program(traced_graph, [y]).run([x])
    values = dict(zip(every, unfused.run([x]), strict=True))
    tolerance.assert_same_bits(fused, values[y])
    for _, op, inputs, outputs in traced_graph.nodes():
        if op == "relu":
            tolerance.assert_same_bits(values[outputs[0]], np.maximum(values[inputs[0]], np.float32(0)))


def fused_and_not(case: ConvCase, activation: str) -> tuple[Any, Any, Any]:
    """A convolution with an activation: in one step, in two, and the value between the two."""
    data = case.data()
    with graph.Trace() as trace:
        x = trace.input(case.input_shape, "float32", "x")
        between = F.conv2d(x, data.weight, data.bias, **case.geometry)
        y = ACTIVATIONS[activation](between)
    one, two = _core.Program(trace.graph, [y.id]), _core.Program(trace.graph, [y.id, between.id])
    # A depthwise convolution with several results per channel repeats the channels first.
    ops = [list(dict.fromkeys(op for op, _ in steps(p, case.batch))) for p in (one, two)]
    assert ops == [["conv2d"], ["conv2d", activation]]
    return (*one.run([data.x]), *two.run([data.x]))


@pytest.mark.usefixtures("isa")
def test_relu_in_the_epilogue_gives_the_same_bits() -> None:
    for case in EDGE_CASES:
        fused, unfused, between = fused_and_not(case, "relu")
        tolerance.assert_same_bits(fused, unfused, str(case))
        tolerance.assert_same_bits(fused, np.maximum(between, np.float32(0)), str(case))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_transcendental_epilogue_is_within_its_bound(activation: str) -> None:
    """Both ways are as near to the true function of the value between as the function promises."""
    for case in EDGE_CASES:
        fused, unfused, between = fused_and_not(case, activation)
        exact = between.astype(np.float64)
        exact = np.tanh(exact) if activation == "tanh" else 1 / (1 + np.exp(-exact))
        for y, what in ((fused, "fused"), (unfused, "unfused")):
            tolerance.assert_within(y, exact, tolerance.ulps(exact), f"{what} {case}")
