"""Gradients of compositions: `vjp`, the trainer's gradients of LeNet-5, and the update made from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import oracle
import reference_net as ref
import tolerance
from cases import Array
from cnnrs import Trainer, models, nn, optim
from cnnrs import functional as F
from reference_net import Bounded, Layer

Labels = np.ndarray[Any, np.dtype[np.int64]]


def dyadic(*shape: int, fraction_bits: int, density: float = 1.0, seed: int = 0) -> Array:
    """Values of -1, 0 and 1 times `2**-fraction_bits`; sums of their products are exact."""
    generator = np.random.default_rng([seed, *shape])
    signs = generator.integers(-1, 2, shape) * (generator.random(shape) < density)
    return (signs * 2.0**-fraction_bits).astype(np.float32)


def smooth_stack() -> tuple[Array, list[Layer]]:
    """Strided "same" convolution, average pooling with padding, channel-first flatten, linear."""
    geometry = {"stride": 2, "padding": "same"}
    return cases.real(2, 9, 8, 3), [
        ref.Conv2d(cases.real(3, 3, 3, 17) / 5, cases.real(17), geometry),
        ref.tanh(),
        ref.AvgPool2d(3, {"stride": 2, "padding": 1, "count_include_pad": False}),
        ref.Flatten("chw"),
        ref.Linear(cases.real(17 * 3 * 2, 11) / 8, cases.real(11)),
        ref.sigmoid(),
    ]


def grouped_stack() -> tuple[Array, list[Layer]]:
    """Grouped dilated convolution, pointwise convolution, NumPy-order flatten."""
    return cases.real(3, 8, 7, 6), [
        ref.Conv2d(cases.real(3, 2, 3, 8) / 4, cases.real(8), {"padding": (2, 1), "dilation": (2, 1), "groups": 2}),
        ref.sigmoid(),
        ref.Conv2d(cases.real(1, 1, 8, 5) / 3, cases.real(5)),
        ref.tanh(),
        ref.Flatten(),
        ref.Linear(cases.real(8 * 8 * 5, 4) / 16, cases.real(4)),
    ]


def kinked_stack() -> tuple[Array, list[Layer]]:
    """Relu and overlapping maximum pooling on exact values, so that kinks and ties are decided without rounding."""
    x = np.random.default_rng(5).integers(-3, 4, (2, 11, 10, 3)).astype(np.float32)
    return x, [
        ref.Conv2d(dyadic(3, 3, 3, 9, fraction_bits=2), dyadic(9, fraction_bits=2), {"padding": 1}, fraction_bits=2),
        ref.Relu(),
        ref.MaxPool2d(3, {"stride": 2, "padding": 1}),
        ref.Conv2d(dyadic(2, 2, 9, 7, fraction_bits=2), dyadic(7, fraction_bits=2), fraction_bits=4),
        ref.Relu(),
        ref.MaxPool2d(2, {"stride": 1, "ceil_mode": True}),
        ref.Flatten(),
        ref.Linear(cases.real(4 * 3 * 7, 6), cases.real(6)),
    ]


STACKS = pytest.mark.parametrize("stack", [smooth_stack, grouped_stack, kinked_stack])


def engine_layer(value: Any, layer: Layer) -> Any:
    """The public function that computes a reference layer."""
    match layer:
        case ref.Linear():
            return F.linear(value, layer.weight[0, 0], layer.bias)
        case ref.Conv2d():
            return F.conv2d(value, layer.weight, layer.bias, **layer.geometry)
        case ref.AvgPool2d():
            return F.avg_pool2d(value, layer.kernel, **layer.geometry)
        case ref.MaxPool2d():
            return F.max_pool2d(value, layer.kernel, **layer.geometry)
        case ref.Relu():
            return F.relu(value)
        case ref.Smooth():
            return F.tanh(value) if layer.function is oracle.tanh else F.sigmoid(value)
        case ref.Flatten():
            return F.flatten(value, order=layer.order)
    message = f"no public function for {layer}"
    raise TypeError(message)


@STACKS
@pytest.mark.usefixtures("isa", "threads")
def test_vjp_of_compositions(stack: Callable[[], tuple[Array, list[Layer]]]) -> None:
    """Output and gradient of the input within the bound that the reference carries along."""
    x, layers = stack()
    out, pullback = cnnrs.vjp(lambda value: functools.reduce(engine_layer, layers, value), x)
    expected = ref.forward(layers, Bounded.exact(x))
    tolerance.assert_within(out, expected.value, expected.error, "out")
    seed = cases.real(*out.shape, seed=1)
    grad = ref.backward(layers, Bounded.exact(seed))
    tolerance.assert_within(pullback(seed), grad.value, grad.error, "grad_x")
    tolerance.assert_same_bits(pullback(seed), pullback(seed), "a second pullback")


@pytest.mark.parametrize("stack", [smooth_stack, grouped_stack])
def test_vjp_against_finite_differences(stack: Callable[[], tuple[Array, list[Layer]]]) -> None:
    """Central differences of the float64 composition along a direction; halving the step estimates their error."""
    x, layers = stack()
    out, pullback = cnnrs.vjp(lambda value: functools.reduce(engine_layer, layers, value), x)
    seed, direction = cases.real(*out.shape, seed=1), cases.real(*x.shape, seed=2).astype(np.float64)

    def along(step: float) -> float:
        return float((ref.forward(layers, Bounded.exact(x + step * direction)).value * seed).sum())

    coarse, fine = ((along(step) - along(-step)) / (2 * step) for step in (2e-4, 1e-4))
    along(0.0)  # what the layers saved belongs to x again
    rounding = (ref.backward(layers, Bounded.exact(seed)).error * abs(direction)).sum()
    assert abs((pullback(seed) * direction).sum() - fine) <= rounding + abs(coarse - fine)


LENET_SHAPES = {
    "features.0": (5, 5, 1, 6),
    "features.3": (5, 5, 6, 16),
    "classifier.1": (400, 120),
    "classifier.3": (120, 84),
    "classifier.5": (84, 10),
}
LENET_FRACTION_BITS = dict(zip(LENET_SHAPES, (2, 5, 9, 12, 15), strict=True))
"""Bits behind the point of each layer's output when inputs are integers and weights are dyadic."""


def reference_lenet(parameters: dict[str, Array], smooth: bool) -> dict[str, Layer]:
    """LeNet-5 by the names of the contract; the ReLU/max form computes its forward pass exactly."""

    def arguments(name: str) -> dict[str, Any]:
        bits = None if smooth else LENET_FRACTION_BITS[name]
        return {"weight": parameters[f"{name}.weight"], "bias": parameters[f"{name}.bias"], "fraction_bits": bits}

    activation: Callable[[], Layer] = ref.tanh if smooth else ref.Relu
    pool: Callable[[int], Layer] = ref.AvgPool2d if smooth else ref.MaxPool2d
    return {
        "features.0": ref.Conv2d(**arguments("features.0"), geometry={"padding": 2}),
        "features.1": activation(),
        "features.2": pool(2),
        "features.3": ref.Conv2d(**arguments("features.3")),
        "features.4": activation(),
        "features.5": pool(2),
        "classifier.0": ref.Flatten("chw"),
        "classifier.1": ref.Linear(**arguments("classifier.1")),
        "classifier.2": activation(),
        "classifier.3": ref.Linear(**arguments("classifier.3")),
        "classifier.4": activation(),
        "classifier.5": ref.Linear(**arguments("classifier.5")),
    }


def lenet_batch(batch: int) -> tuple[Array, Labels]:
    """Small integers as images, so that both forms can use them, and labels of all classes."""
    generator = np.random.default_rng(batch)
    images = generator.integers(0, 3, (batch, 28, 28, 1)).astype(np.float32)
    return images, np.arange(batch) % 10


def lenet(smooth: bool) -> tuple[nn.Module, dict[str, Array]]:
    """The model and a copy of its parameters; the ReLU/max form gets dyadic ones."""
    cnnrs.manual_seed(3)
    if smooth:
        model = models.lenet5()
    else:
        model = models.lenet5(activation="relu", pool="max")
        bits = np.diff([0, *LENET_FRACTION_BITS.values()])
        parameters: dict[str, Array] = {}
        for (name, shape), fraction, total in zip(
            LENET_SHAPES.items(), bits, LENET_FRACTION_BITS.values(), strict=True
        ):
            parameters[f"{name}.weight"] = dyadic(*shape, fraction_bits=int(fraction), density=0.3)
            parameters[f"{name}.bias"] = dyadic(shape[-1], fraction_bits=total, seed=1)
        model.load_state_dict(parameters)
    return model, model.state_dict(copy=True)


@pytest.mark.parametrize("batch", [1, 13])
@pytest.mark.parametrize("smooth", [True, False], ids=["tanh-avg", "relu-max"])
@pytest.mark.usefixtures("isa")
def test_lenet_gradients(smooth: bool, batch: int) -> None:
    """Logits, loss and the gradient of every parameter, each within the bound the reference computes."""
    model, parameters = lenet(smooth)
    images, labels = lenet_batch(batch)
    reference = reference_lenet(parameters, smooth)
    logits = ref.forward(list(reference.values()), Bounded.exact(images))
    tolerance.assert_within(model(images), logits.value, logits.error, "logits")

    expected_loss, grad_logits = ref.cross_entropy(logits, labels)
    ref.backward(list(reference.values()), grad_logits)
    loss, gradients = Trainer(model, optim.SGD(lr=0.1)).gradients(images, labels)
    tolerance.assert_within(np.float32(loss), expected_loss.value, expected_loss.error, "loss")
    assert list(gradients) == list(parameters)
    for name, gradient in gradients.items():
        layer, kind = name.rsplit(".", 1)
        parametric = reference[layer]
        assert isinstance(parametric, ref.Conv2d)
        expected = parametric.gradients[kind]
        tolerance.assert_within(gradient, expected.value, expected.error, name)
        assert gradient.any(), f"{name}: the test's gradient vanishes"


@pytest.mark.parametrize(
    "hyper",
    [
        {"lr": 0.1},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.1, "weight_decay": 5e-4},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        {"lr": 0.1, "momentum": 0.5, "decoupled_weight_decay": 0.02},
    ],
    ids=str,
)
@pytest.mark.usefixtures("isa")
def test_sgd(hyper: dict[str, Any]) -> None:
    """Three updates from given gradients follow torch's formulas."""
    model, weights = lenet(smooth=True)
    trainer = Trainer(model, optim.SGD(**hyper))
    state = {name: (value, np.zeros_like(value)) for name, value in weights.items()}
    absolute = {name: (abs(value), np.zeros_like(value)) for name, value in weights.items()}
    # With a negative rate every term of the absolute trajectory adds up: the magnitude all roundings are relative to.
    upward = {**hyper, "lr": -hyper["lr"]}
    for step in range(1, 4):
        gradients = {name: cases.real(*value.shape, seed=step) for name, value in weights.items()}
        trainer.apply(gradients)
        for name, value in model.state_dict().items():
            state[name] = oracle.sgd(state[name][0], gradients[name], state[name][1], **hyper)
            absolute[name] = oracle.sgd(absolute[name][0], abs(gradients[name]), absolute[name][1], **upward)
            bound = tolerance.reduction(12 * step, absolute[name][0])
            tolerance.assert_within(value, state[name][0], bound, f"{name} after step {step}")
