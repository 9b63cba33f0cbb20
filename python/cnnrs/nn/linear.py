"""Fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cnnrs import _args, functional
from cnnrs.nn import init
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter


class Linear(Module):
    """Linear map of features (N, in_features) to (N, out_features); see `functional.linear`.

    `weight` has shape (in_features, out_features), `bias` (out_features,). Both start as in torch: uniform on
    +-1 / sqrt(in_features).

    Args:
        in_features: Features of the input.
        out_features: Features of the output.
        bias: Whether a number is added per output.
        weight_init: A function such as `nn.init.kaiming_normal` that makes the first weights of their shape; the
            biases then start at zero.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.Linear(3, 2)(np.zeros((5, 3), np.float32)).shape
        (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: Callable[[Any], init.Array] | None = None,
    ) -> None:
        """Draw the parameters."""
        super().__init__()
        self.in_features = _args.whole(in_features, "in_features", "Linear")
        self.out_features = _args.whole(out_features, "out_features", "Linear")
        self.weight = Parameter(init.drawn((self.in_features, self.out_features), weight_init, "Linear"))
        bound = 0.0 if weight_init is not None else 1 / math.sqrt(self.in_features)
        with_bias = _args.flag(bias, "bias", "Linear")
        self.bias = Parameter(init.bias((self.out_features,), bound)) if with_bias else None

    def forward(self, x: Any) -> Any:
        """Record the product."""
        return functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return text if self.bias is not None else f"{text}, bias=False"
