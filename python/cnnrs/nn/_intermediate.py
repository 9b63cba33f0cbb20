"""Every intermediate value of a module's call; see `Module.trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnrs import _args
from cnnrs.graph import Trace
from cnnrs.nn._cache import output_values

if TYPE_CHECKING:
    import numpy.typing as npt

    from cnnrs.nn.module import Module


class Intermediate(NamedTuple):
    """A row of `Module.trace`."""

    layer: str
    op: str
    array: npt.NDArray[Any]


def intermediates(module: Module, x: npt.NDArray[Any]) -> list[Intermediate]:
    """Compute the rows with the reference executor."""
    x = _args.check_images(x, type(module).__name__)
    with Trace(root=module) as trace:
        y = module.trace_logits(trace.input(x.shape, "uint8" if x.dtype.char == "B" else "float32", "x"))
        output_values(module, y)
    rows = [(layer, op, value) for layer, op, _, outputs in trace.graph.nodes() for value in outputs]
    arrays = trace.graph.reference([value for _, _, value in rows], trace.feed([x]))
    return [
        Intermediate(layer, op, array.astype(np.float32) if array.dtype == np.float64 else array)
        for (layer, op, _), array in zip(rows, arrays, strict=True)
    ]
