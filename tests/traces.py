"""Graphs of models with their gradients."""

from __future__ import annotations

from collections.abc import Callable

from cnnrs import _core, graph, nn
from cnnrs import functional as F
from cnnrs._value import Value


def differentiated(
    model: nn.Module, shape: tuple[int, ...], inside: Callable[[], list[Value]] = list
) -> tuple[_core.Graph, list[int]]:
    """The graph of a sum of squares of the results in training, and results and gradients by input and parameters.

    The gradients by the values that `inside` names, once the model has run, come last.
    """
    with graph.Trace(root=model, training=True) as trace:
        x = trace.input(shape, "float32", "x")
        y = model(x)
        loss = F.sum(y * y)
        wrt = [x, *(Value(trace, value, name) for value, name in trace.parameters())]
        wrt += inside()
        gradients = [gradient.id for gradient in trace.gradients([loss], [None], wrt) if gradient is not None]
    return trace.graph, [y.id, *gradients]
