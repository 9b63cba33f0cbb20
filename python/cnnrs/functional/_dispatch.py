"""What all operations share: arrays are computed with at once, symbolic values recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from cnnrs import _args, _core, graph
from cnnrs._value import Value

if TYPE_CHECKING:
    from cnnrs.nn.parameter import Parameter

Array = npt.NDArray[np.float32]
Tensor = TypeVar("Tensor", Array, Value)
AnyTensor: TypeAlias = "Array | Value | Parameter"
Operand: TypeAlias = "AnyTensor | float"
Size = int | tuple[int, int]
PaddingLike = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str


def apply(op: str, inputs: list[Any], **attrs: Any) -> list[Any]:
    """Record the op if an input is symbolic, run it otherwise; one list entry per output."""
    if graph.is_symbolic(inputs):
        return graph.record(op, inputs, **attrs)
    arrays = [item if isinstance(item, np.ndarray) else item._storage.view() for item in inputs]
    return _core.eager(op, arrays, attrs)


def window(
    op: str, size: tuple[int, ...], kernel_size: object, stride: object, padding: object, dilation: object
) -> dict[str, Any]:
    """Return the attributes that every window has, with numbers for "same" on an input of (H, W)."""
    kernel = _args.pair(kernel_size, "kernel_size", op)
    step = _args.pair(stride, "stride", op)
    spread = _args.pair(dilation, "dilation", op)
    around = _args.resolve_padding(_args.padding(padding, op), size, kernel, step, spread)
    return {"kernel_size": kernel, "stride": step, "padding": around, "dilation": spread}
