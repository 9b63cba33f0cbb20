"""Activation layers, without parameters."""

from __future__ import annotations

from typing import Any

from cnnrs import functional
from cnnrs.nn.module import Module


class ReLU(Module):
    """max(x, 0), any shape; the derivative at 0 is 0."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.relu(x)


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
