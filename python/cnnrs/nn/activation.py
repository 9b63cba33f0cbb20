"""Activation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnrs import _args, functional
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter


class ReLU(Module):
    """max(x, 0), any shape; the derivative at 0 is 0."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6), any shape; the derivative at 0 and at 6 is 0."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.relu6(x)


class LeakyReLU(Module):
    """x where x > 0 and negative_slope * x elsewhere, any shape.

    Args:
        negative_slope: Slope of the negative side.

    Raises:
        TypeError: the slope is not a number.
        ValueError: the slope is not finite.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        """Keep the slope."""
        super().__init__()
        _args.real(negative_slope, "negative_slope", "LeakyReLU")
        self.negative_slope = float(negative_slope)

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where x > 0 and weight * x elsewhere, channels last; see `functional.prelu`.

    `weight` holds the slopes, one for all (1,) or one per channel (C,), which training learns.

    Args:
        num_parameters: 1, or the number of channels.
        init: The first slope.

    Raises:
        TypeError: `init` is not a number.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.PReLU(2)(np.array([[-4, -8]], np.float32)).tolist()
        [[-1.0, -2.0]]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        """Fill the slopes."""
        super().__init__()
        count = _args.whole(num_parameters, "num_parameters", "PReLU")
        self.num_parameters = count
        self.weight = Parameter(np.full(count, _args.real(init, "init", "PReLU"), np.float32))

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.prelu(x, self.weight)

    def extra_repr(self) -> str:
        """Return the number of slopes."""
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where x > 0 and alpha * (exp(x) - 1) elsewhere, any shape.

    Args:
        alpha: The negative side tends to -alpha.

    Raises:
        TypeError: alpha is not a number.
        ValueError: alpha is not finite.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        """Keep alpha."""
        super().__init__()
        _args.real(alpha, "alpha", "ELU")
        self.alpha = float(alpha)

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.elu(x, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha."""
        return f"alpha={self.alpha}"


class SiLU(Module):
    """x * sigmoid(x), any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.silu(x)


class GELU(Module):
    """x * P(X <= x) for a standard normal X, any shape; see `functional.gelu`.

    Args:
        approximate: "none" or "tanh".

    Raises:
        ValueError: another way of approximation.
    """

    def __init__(self, approximate: str = "none") -> None:
        """Keep the way of approximation."""
        super().__init__()
        self.approximate = functional.gelu_form(approximate, "GELU")

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        """Return the way of approximation."""
        return f"approximate={self.approximate!r}"


class Hardswish(Module):
    """x * relu6(x + 3) / 6, any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.hardswish(x)


class Hardsigmoid(Module):
    """relu6(x + 3) / 6, any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.hardsigmoid(x)


class Softplus(Module):
    """log(1 + exp(x)), any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.softplus(x)


class Tanh(Module):
    """Hyperbolic tangent, any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.sigmoid(x)
