"""Graphs of models with their gradients, and what training leaves of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from cases import Array
from cnnrs import Trainer, _core, graph, nn, optim
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


def trained(model: nn.Module, batches: Iterable[tuple[Array, Array]]) -> Array:
    """The losses of a step of SGD on each batch, and then every number that the model holds."""
    trainer = Trainer(model, optim.SGD(0.05, momentum=0.9), seed=1)
    losses = [trainer.step(x, labels) for x, labels in batches]
    return np.concatenate([losses, *(np.ravel(array) for array in model.state_dict().values())])
