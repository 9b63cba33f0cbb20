"""Small networks in float64 that know how far float32 may be off.

Every value travels with a bound of its error. Each layer adds the worst case of its own roundings to what arrives.
The errors of the many terms of a convolution are independent and of either sign, so what arrives is combined as the
root of the sum of squares (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019); adding
worst cases through five layers would give bounds larger than the values. Backward works the same way, so a gradient
comes with its computed tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

import oracle
import tolerance

Array = oracle.Array


@dataclass(frozen=True)
class Bounded:
    """A float64 value and a bound of the error of its float32 counterpart."""

    value: Array
    error: Array

    @classmethod
    def exact(cls, value: Any) -> Bounded:
        """A value float32 holds without error."""
        value = np.asarray(value, np.float64)
        return cls(value, np.zeros_like(value))

    @property
    def magnitude(self) -> Array:
        """The largest the float32 value can be."""
        return np.abs(self.value) + self.error


def through_pool(function: Callable[[Array], Array], x: Bounded, length: int) -> Bounded:
    """A map with few, non-negative coefficients: the same map bounds its errors."""
    return Bounded(function(x.value), function(x.error) + tolerance.reduction(length, function(x.magnitude)))


class Layer(Protocol):
    """Remembers what backward needs; `backward` returns the input's gradient and keeps those of parameters."""

    def forward(self, x: Bounded) -> Bounded:
        """Output with its error."""
        ...

    def backward(self, grad: Bounded) -> Bounded:
        """Gradient of the input with its error."""
        ...


@dataclass
class Conv2d:
    """Convolution; `gradients` holds weight and bias after backward."""

    weight: Any
    bias: Any
    geometry: dict[str, Any] = field(default_factory=dict)
    fraction_bits: int | None = None
    """If given, the data must make every partial sum a multiple of `2**-fraction_bits` that float32 holds exactly."""
    gradients: dict[str, Bounded] = field(default_factory=dict)

    def forward(self, x: Bounded) -> Bounded:
        """The bias counts as one more term of the reduction."""
        self.x = x
        length = self.weight[..., 0].size + 1
        y = oracle.conv2d(x.value, self.weight, self.bias, **self.geometry)
        magnitude = oracle.conv2d(x.magnitude, abs(self.weight), abs(self.bias), **self.geometry)
        if self.fraction_bits is not None:
            require_exact(x, magnitude, self.fraction_bits)
            return Bounded.exact(y)
        error = np.sqrt(oracle.conv2d(x.error**2, self.weight**2, **self.geometry))
        return Bounded(y, error + tolerance.reduction(length, magnitude))

    def backward(self, grad: Bounded) -> Bounded:
        """Both operands of the weights' gradient carry errors."""
        x, kernel = self.x, self.weight.shape[:2]
        value = oracle.conv2d_backward_weights(x.value, grad.value, kernel, **self.geometry)
        magnitude = oracle.conv2d_backward_weights(x.magnitude, grad.magnitude, kernel, **self.geometry)
        from_x = oracle.conv2d_backward_weights(x.error**2, grad.magnitude**2, kernel, **self.geometry)
        from_grad = oracle.conv2d_backward_weights(x.magnitude**2, grad.error**2, kernel, **self.geometry)
        squares = (from_x[0] + from_grad[0], from_grad[1])
        length = grad.value[..., 0].size
        self.gradients = {
            name: Bounded(value[i], np.sqrt(squares[i]) + tolerance.reduction(length, magnitude[i]))
            for i, name in enumerate(("weight", "bias"))
        }

        def to_input(g: Array, weight: Array) -> Array:
            return oracle.conv2d_backward_data(g, weight, x.value.shape, **self.geometry)

        error = np.sqrt(to_input(grad.error**2, self.weight**2))
        rounding = tolerance.reduction(self.weight[:, :, 0].size, to_input(grad.magnitude, abs(self.weight)))
        return Bounded(to_input(grad.value, self.weight), error + rounding)


class Linear(Conv2d):
    """A linear layer is a 1x1 convolution of 1x1 planes; `weight` is (in, out)."""

    def __init__(self, weight: Any, bias: Any, fraction_bits: int | None = None) -> None:
        """Keep the weight as a 1x1 kernel."""
        super().__init__(weight[None, None], bias, fraction_bits=fraction_bits)

    def forward(self, x: Bounded) -> Bounded:
        """Rows become 1x1 planes and back."""
        y = super().forward(Bounded(x.value[:, None, None], x.error[:, None, None]))
        return Bounded(y.value[:, 0, 0], y.error[:, 0, 0])

    def backward(self, grad: Bounded) -> Bounded:
        """The weight's gradient loses the two kernel axes."""
        grad_x = super().backward(Bounded(grad.value[:, None, None], grad.error[:, None, None]))
        weight = self.gradients["weight"]
        self.gradients["weight"] = Bounded(weight.value[0, 0], weight.error[0, 0])
        return Bounded(grad_x.value[:, 0, 0], grad_x.error[:, 0, 0])


@dataclass
class AvgPool2d:
    """Average pooling."""

    kernel: int
    geometry: dict[str, Any] = field(default_factory=dict)

    def forward(self, x: Bounded) -> Bounded:
        """Averages."""
        self.shape = x.value.shape

        def pool(v: Array) -> Array:
            return oracle.avg_pool2d(v, self.kernel, **self.geometry)

        return through_pool(pool, x, self.kernel**2)

    def backward(self, grad: Bounded) -> Bounded:
        """Likewise."""

        def spread(g: Array) -> Array:
            return oracle.avg_pool2d_backward(g, self.shape, self.kernel, **self.geometry)

        return through_pool(spread, grad, self.kernel**2)


@dataclass
class MaxPool2d:
    """Maximum pooling; the chosen positions must not depend on rounding, so the input has to be exact."""

    kernel: int
    geometry: dict[str, Any] = field(default_factory=dict)

    def forward(self, x: Bounded) -> Bounded:
        """Selects: no rounding."""
        require_exact(x)
        self.shape = x.value.shape
        y, self.index = oracle.max_pool2d(x.value, self.kernel, **self.geometry)
        return Bounded.exact(y)

    def backward(self, grad: Bounded) -> Bounded:
        """Adds up where windows overlap."""

        def scatter(g: Array) -> Array:
            return oracle.max_pool2d_backward(g, self.index, self.shape)

        return through_pool(scatter, grad, self.kernel**2)


class Relu:
    """relu with slope 0 at 0; the sign must not depend on rounding."""

    def forward(self, x: Bounded) -> Bounded:
        """Exact on exact values; otherwise every value must be clear of the kink."""
        self.mask = x.value > 0
        exact = x.error == 0.0
        if not np.all(exact | (np.abs(x.value) > x.error)):
            message = "a value of the test's data is so close to zero that rounding decides its sign"
            raise ValueError(message)
        return Bounded(oracle.relu(x.value), np.where(self.mask, x.error, 0.0))

    def backward(self, grad: Bounded) -> Bounded:
        """Passes or stops."""
        return Bounded(np.where(self.mask, grad.value, 0.0), np.where(self.mask, grad.error, 0.0))


class Smooth:
    """An activation whose slope is a polynomial of its output and at most one."""

    def __init__(
        self,
        function: Callable[[Any], Array],
        slope: Callable[[Array], Array],
        steepest: float,
        curvature: float,
    ) -> None:
        """`steepest` bounds the slope, `curvature` bounds how fast the slope changes with the output."""
        self.function, self.slope, self.steepest, self.curvature = function, slope, steepest, curvature

    def forward(self, x: Bounded) -> Bounded:
        """The input's error shrinks by the steepest slope."""
        y = self.function(x.value)
        self.y = Bounded(y, self.steepest * x.error + tolerance.ulps(np.abs(y) + self.steepest * x.error))
        return self.y

    def backward(self, grad: Bounded) -> Bounded:
        """The slope is computed from the rounded output."""
        slope = self.slope(self.y.value)
        slope_error = self.curvature * self.y.error + tolerance.gamma(4)
        error = grad.error * (slope + slope_error) + grad.magnitude * slope_error
        return Bounded(grad.value * slope, error + tolerance.ulps(grad.magnitude * slope, 1))


def tanh() -> Smooth:
    """`1 - y^2`."""
    return Smooth(oracle.tanh, lambda y: 1.0 - y**2, steepest=1.0, curvature=2.0)


def sigmoid() -> Smooth:
    """`y (1 - y)`."""
    return Smooth(oracle.sigmoid, lambda y: y * (1.0 - y), steepest=0.25, curvature=1.0)


@dataclass
class Flatten:
    """Moves values, in either order."""

    order: str = "hwc"

    def forward(self, x: Bounded) -> Bounded:
        """Value and error move alike."""
        self.shape = x.value.shape
        return Bounded(oracle.flatten(x.value, self.order), oracle.flatten(x.error, self.order))

    def backward(self, grad: Bounded) -> Bounded:
        """And back."""
        value, error = (oracle.unflatten(v, self.shape, self.order) for v in (grad.value, grad.error))
        return Bounded(value, error)


def require_exact(x: Bounded, magnitude: Any = 0.0, fraction_bits: int = 0) -> None:
    """Refuse data whose float32 results are not known to the last bit."""
    units = np.asarray(magnitude) * 2.0**fraction_bits
    if x.error.any() or (units != np.round(units)).any() or units.max(initial=0.0) >= 2.0**24:
        message = f"the test needs data that float32 computes exactly, largest sum is {units.max():.0f} units"
        raise ValueError(message)


def forward(layers: Sequence[Layer], x: Bounded) -> Bounded:
    """All layers in order."""
    for layer in layers:
        x = layer.forward(x)
    return x


def backward(layers: Sequence[Layer], grad: Bounded) -> Bounded:
    """All layers in reverse."""
    for layer in reversed(layers):
        grad = layer.backward(grad)
    return grad


def cross_entropy(logits: Bounded, labels: Any) -> tuple[Bounded, Bounded]:
    """Mean loss and its gradient; the loss has slope at most one in the largest error of its row."""
    probabilities = oracle.softmax(logits.value)
    loss, _, grad = oracle.cross_entropy(logits.value, labels)
    row_error = logits.error.max(axis=1, keepdims=True)
    loss_error = tolerance.cross_entropy(logits.value, labels, probabilities) + 2.0 * row_error.mean()
    # d p_i = p_i (dz_i - sum_j p_j dz_j): a relative error of at most twice the row's largest, to first order;
    # expm1 makes the bound hold to all orders.
    moved = probabilities * np.expm1(2.0 * row_error)
    grad_error = (tolerance.softmax(logits.value, probabilities + moved) + moved) / len(labels)
    return Bounded(np.asarray(loss), np.asarray(loss_error)), Bounded(grad, grad_error + tolerance.ulps(grad))
