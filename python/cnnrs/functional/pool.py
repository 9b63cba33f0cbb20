"""Maximum and mean of each window, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.functional._dispatch import Array, PaddingLike, Size, Tensor, apply, window

if TYPE_CHECKING:
    from cnnrs._args import Padding


@overload
def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def max_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Array, npt.NDArray[np.int32]]: ...
@overload
def max_pool2d(
    x: Value,
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Value, Value]: ...
def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Take the maximum of each window.

    Padding counts as minus infinity, NaN propagates, and of equal values the first one counts.

    Args:
        x: Feature maps (N, H, W, C).
        kernel_size: Size of the window.
        stride: Pixels between two windows; the kernel size if None.
        padding: At most kernel_size // 2 on each side.
        dilation: Pixels between two taps of a window.
        ceil_mode: Round the output size up; see `cnnrs.conv_output_size`.
        return_indices: Return also where each maximum stood.

    Returns:
        The maxima (N, H_out, W_out, C), or a pair of them and int32 positions iy*W + ix in the input plane.

    Raises:
        ShapeError: not four dimensions, or the window exceeds the padded input.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        >>> y, index = F.max_pool2d(x, 2, return_indices=True)
        >>> y.ravel().tolist(), index.ravel().tolist()
        ([5.0, 7.0, 13.0, 15.0], [5, 7, 13, 15])
    """
    op = "max_pool2d"
    x = _args.check_array(x, op, "x", 4)
    with_index = _args.flag(return_indices, "return_indices", op)
    y, index = apply(op, [x], **_pool(op, x.shape[1:3], kernel_size, stride, padding, dilation, ceil_mode))
    return (y, index) if with_index else y


def _pool(
    op: str,
    size: tuple[int, ...],
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: object,
) -> dict[str, Any]:
    """Return the attributes of a pooling window."""
    attrs = window(op, size, kernel_size, kernel_size if stride is None else stride, padding, dilation)
    around: Padding = attrs["padding"]
    attrs["padding"] = _args.pooling_padding(around, attrs["kernel_size"], op)
    attrs["ceil_mode"] = _args.flag(ceil_mode, "ceil_mode", op)
    return attrs


def _pool_input(op: str, grad_y: Any, input_shape: object) -> tuple[int, int]:
    """Return (H, W) of the pooled input whose batch and channels must be the gradient's."""
    shape = _args.shape4(input_shape, "input_shape", op)
    if (shape[0], shape[3]) != (grad_y.shape[0], grad_y.shape[3]):
        message = f"{graph.label(op)}: input_shape {shape} must have N and C of grad_y {grad_y.shape}"
        raise ShapeError(message)
    return shape[1:3]


def max_pool2d_backward(
    grad_y: Tensor,
    index: npt.NDArray[np.int32] | Value,
    input_shape: tuple[int, int, int, int],
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Compute the gradient of a loss with respect to the input of `max_pool2d`.

    Each number of `grad_y` is added where its maximum stood; a position that its window does not cover gets nothing.

    Args:
        grad_y: Gradient with respect to the output, (N, H_out, W_out, C).
        index: Positions returned by `max_pool2d(..., return_indices=True)`, int32, shape of `grad_y`.
        input_shape: Shape of the input, (N, H, W, C).
        kernel_size: As given to `max_pool2d`.
        stride: As given to `max_pool2d`.
        padding: As given to `max_pool2d`.
        dilation: As given to `max_pool2d`.
        ceil_mode: As given to `max_pool2d`.

    Returns:
        The gradient (N, H, W, C).

    Raises:
        ShapeError: `grad_y` or `index` is not what `max_pool2d` makes of `input_shape`.
        TypeError: `grad_y` is not float32 or `index` not int32.
        ValueError: a number is out of range, also in `index`.
    """
    op = "max_pool2d_backward"
    grad_y = _args.check_array(grad_y, op, "grad_y", 4)
    if not isinstance(index, Value) and not (isinstance(index, np.ndarray) and index.dtype.char == "i"):
        got = f"a {index.dtype} array" if isinstance(index, np.ndarray) else _args.show(index)
        message = f"{graph.label(op)}: index must be the int32 array that max_pool2d returns, got {got}"
        raise TypeError(message)
    size = _pool_input(op, grad_y, input_shape)
    attrs = _pool(op, size, kernel_size, stride, padding, dilation, ceil_mode)
    if isinstance(index, np.ndarray) and index.size and not -1 <= index.min() <= index.max() < size[0] * size[1]:
        message = (
            f"{graph.label(op)}: index must be from -1 (a window without input) to {size[0]}*{size[1]} - 1, "
            f"got {index.min()} to {index.max()}"
        )
        raise ValueError(message)
    return cast("Tensor", apply(op, [grad_y, index], **attrs, input_size=size)[0])


def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Take the mean of each window.

    The sum is divided by the number of window positions inside of the padded input, or inside of the input if
    `count_include_pad` is false.

    Args:
        x: Feature maps (N, H, W, C).
        kernel_size: Size of the window.
        stride: Pixels between two windows; the kernel size if None.
        padding: Zeros around the input, at most kernel_size // 2 on each side.
        ceil_mode: Round the output size up; see `cnnrs.conv_output_size`.
        count_include_pad: Whether padding counts in the divisor.

    Returns:
        The means (N, H_out, W_out, C).

    Raises:
        ShapeError: not four dimensions, or the window exceeds the padded input.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        >>> F.avg_pool2d(x, 2).ravel().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    op = "avg_pool2d"
    x = _args.check_array(x, op, "x", 4)
    attrs = _avg_pool(op, x.shape[1:3], kernel_size, stride, padding, ceil_mode, count_include_pad)
    return cast("Tensor", apply(op, [x], **attrs)[0])


def _avg_pool(
    op: str,
    size: tuple[int, ...],
    kernel_size: object,
    stride: object,
    padding: object,
    ceil_mode: object,
    count_include_pad: object,
) -> dict[str, Any]:
    """Return the attributes of an averaging window, which has no dilation."""
    attrs = _pool(op, size, kernel_size, stride, padding, 1, ceil_mode)
    del attrs["dilation"]
    attrs["count_include_pad"] = _args.flag(count_include_pad, "count_include_pad", op)
    return attrs


def avg_pool2d_backward(
    grad_y: Tensor,
    input_shape: tuple[int, int, int, int],
    kernel_size: Size,
    stride: Size | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Compute the gradient of a loss with respect to the input of `avg_pool2d`.

    Each number of `grad_y`, divided by its window's divisor, is added to every input of the window.

    Args:
        grad_y: Gradient with respect to the output, (N, H_out, W_out, C).
        input_shape: Shape of the input, (N, H, W, C).
        kernel_size: As given to `avg_pool2d`.
        stride: As given to `avg_pool2d`.
        padding: As given to `avg_pool2d`.
        ceil_mode: As given to `avg_pool2d`.
        count_include_pad: As given to `avg_pool2d`.

    Returns:
        The gradient (N, H, W, C).

    Raises:
        ShapeError: `grad_y` is not what `avg_pool2d` makes of `input_shape`.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> grad_y = np.ones((1, 1, 1, 1), np.float32)
        >>> F.avg_pool2d_backward(grad_y, (1, 2, 2, 1), 2).ravel().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    op = "avg_pool2d_backward"
    grad_y = _args.check_array(grad_y, op, "grad_y", 4)
    size = _pool_input(op, grad_y, input_shape)
    attrs = _avg_pool(op, size, kernel_size, stride, padding, ceil_mode, count_include_pad)
    return cast("Tensor", apply(op, [grad_y], **attrs, input_size=size)[0])


def global_avg_pool2d(x: Tensor) -> Tensor:
    """Take the mean of each channel of each image.

    Args:
        x: Feature maps (N, H, W, C).

    Returns:
        The means (N, C); NaN for maps without pixels.

    Raises:
        ShapeError: not four dimensions.
        TypeError: the array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.global_avg_pool2d(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)).tolist()
        [[3.0, 4.0]]
    """
    op = "global_avg_pool2d"
    return cast("Tensor", apply("mean", [_args.check_array(x, op, "x", 4)], axes=[1, 2], keepdims=False)[0])
