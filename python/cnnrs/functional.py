"""Stateless operations: on NumPy arrays they run at once, on symbolic values they are recorded.

Activations are float32 (N, H, W, C), convolution weights HWIO `(kernel_h, kernel_w, in_channels // groups,
out_channels)`, linear weights `(in_features, out_features)`. Arrays must be float32 (any strides; byte-swapped
is converted), everything else is a `TypeError`; shapes that do not fit are a `ShapeError` with the arithmetic;
numbers out of range are a `ValueError`. Window sizes, strides, dilations and paddings are ints or (h, w) pairs;
padding is also ((top, bottom), (left, right)), "same" (output ceil(I / S)) or "valid" (none).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from cnnrs import _args, _core, graph
from cnnrs._core import ShapeError, UnsupportedError
from cnnrs.graph import Value

if TYPE_CHECKING:
    from cnnrs._args import Padding
    from cnnrs.nn.parameter import Parameter

Array = npt.NDArray[np.float32]
Tensor = TypeVar("Tensor", Array, Value)
Size = int | tuple[int, int]
PaddingLike = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str

__all__ = [
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "conv2d",
    "conv2d_backward_data",
    "conv2d_backward_weights",
    "cross_entropy",
    "flatten",
    "linear",
    "max_pool2d",
    "max_pool2d_backward",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


def _apply(op: str, inputs: list[Any], **attrs: Any) -> list[Any]:
    """Record the op if an input is symbolic, run it otherwise; one list entry per output."""
    if graph.is_symbolic(inputs):
        return graph.record(op, inputs, **attrs)
    arrays = [item if isinstance(item, np.ndarray) else item._storage.view() for item in inputs]
    return _core.eager(op, arrays, attrs)


def _window(
    op: str, size: tuple[int, ...], kernel_size: object, stride: object, padding: object, dilation: object
) -> dict[str, Any]:
    """Return the attributes that every window has, with numbers for "same" on an input of (H, W)."""
    kernel = _args.pair(kernel_size, "kernel_size", op)
    step = _args.pair(stride, "stride", op)
    spread = _args.pair(dilation, "dilation", op)
    around = _args.resolve_padding(_args.padding(padding, op), size, kernel, step, spread)
    return {"kernel_size": kernel, "stride": step, "padding": around, "dilation": spread}


def conv2d(
    x: Tensor,
    weight: Array | Value | Parameter,
    bias: Array | Value | Parameter | None = None,
    stride: Size = 1,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve a batch of images with kernels (cross-correlation, as everywhere in deep learning).

    Y[i,j,k] = sum over m, n, c of X[i*S + m*D - P, j*S + n*D - P, c] * W[m,n,c,k] + b[k]; the output size is
    floor((I - K_eff + P_total) / S) + 1 with K_eff = dilation*(K - 1) + 1 (Dumoulin and Visin, 2016).

    Args:
        x: Images (N, H, W, C).
        weight: Kernels (kernel_h, kernel_w, C // groups, O).
        bias: One number per output channel (O,), or None.
        stride: Pixels between two windows.
        padding: Zeros around the image.
        dilation: Pixels between two taps of a kernel.
        groups: Number of independent parts into which the channels are split; divides C and O.

    Returns:
        Feature maps (N, H_out, W_out, O).

    Raises:
        ShapeError: ranks or channels do not fit, or the kernel exceeds the padded image.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.ones((1, 4, 4, 1), np.float32)
        >>> weight = np.ones((3, 3, 1, 2), np.float32)
        >>> F.conv2d(x, weight, padding="same").shape
        (1, 4, 4, 2)
        >>> float(F.conv2d(x, weight)[0, 0, 0, 0])
        9.0
    """
    op = "conv2d"
    inputs = [_args.check_array(x, op, "x", 4), _args.check_array(weight, op, "weight", 4)]
    if bias is not None:
        inputs.append(_args.check_array(bias, op, "bias", 1))
    groups = _args.whole(groups, "groups", op)
    attrs = _conv_window(op, x.shape[1:3], inputs[1].shape[:2], stride, padding, dilation)
    return cast("Tensor", _apply(op, inputs, **attrs, groups=groups)[0])


def _conv_window(
    op: str, size: tuple[int, ...], kernel: tuple[int, int], stride: object, padding: object, dilation: object
) -> dict[str, Any]:
    """Return the attributes of a convolution whose kernel size is the weight's (the extension checks it)."""
    step = _args.pair(stride, "stride", op)
    spread = _args.pair(dilation, "dilation", op)
    around = _args.resolve_padding(_args.padding(padding, op), size, kernel, step, spread)
    return {"stride": step, "padding": around, "dilation": spread}


def conv2d_backward_data(
    grad_y: Tensor,
    weight: Array | Value | Parameter,
    input_shape: tuple[int, int, int, int],
    stride: Size = 1,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Compute the gradient of a loss with respect to the input of `conv2d`.

    grad_x[p,q,c] = sum of grad_y[i,j,k] * W[m,n,c,k] over all i, j, k, m, n that read X[p,q,c] in `conv2d`.

    Args:
        grad_y: Gradient with respect to the output, (N, H_out, W_out, O).
        weight: Kernels (kernel_h, kernel_w, C // groups, O).
        input_shape: Shape of the input, (N, H, W, C); several sizes lead to one output size.
        stride: As given to `conv2d`.
        padding: As given to `conv2d`.
        dilation: As given to `conv2d`.
        groups: As given to `conv2d`.

    Returns:
        The gradient (N, H, W, C).

    Raises:
        ShapeError: `grad_y` is not what `conv2d` makes of `input_shape`, or the weight does not fit.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> grad_y = np.ones((1, 2, 2, 1), np.float32)
        >>> weight = np.ones((3, 3, 1, 1), np.float32)
        >>> F.conv2d_backward_data(grad_y, weight, (1, 4, 4, 1))[0, :, :, 0]
        array([[1., 2., 2., 1.],
               [2., 4., 4., 2.],
               [2., 4., 4., 2.],
               [1., 2., 2., 1.]], dtype=float32)
    """
    op = "conv2d_backward_data"
    inputs = [_args.check_array(grad_y, op, "grad_y", 4), _args.check_array(weight, op, "weight", 4)]
    groups = _args.whole(groups, "groups", op)
    shape = _args.shape4(input_shape, "input_shape", op)
    expected = (grad_y.shape[0], inputs[1].shape[2] * groups)
    if (shape[0], shape[3]) != expected:
        message = (
            f"{graph.label(op)}: input_shape {shape} must have N = {expected[0]} as grad_y {grad_y.shape} and "
            f"C = {inputs[1].shape[2]} * {groups} = {expected[1]} as weight {inputs[1].shape} with groups={groups}"
        )
        raise ShapeError(message)
    attrs = _conv_window(op, shape[1:3], inputs[1].shape[:2], stride, padding, dilation)
    return cast("Tensor", _apply(op, inputs, **attrs, groups=groups, input_size=shape[1:3])[0])


def conv2d_backward_weights(
    x: Tensor,
    grad_y: Tensor,
    kernel_size: Size,
    stride: Size = 1,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a loss with respect to the weight and the bias of `conv2d`.

    grad_w[m,n,c,k] = sum over images, i, j of X[i*S + m*D - P, j*S + n*D - P, c] * grad_y[i,j,k];
    grad_b[k] = sum over images, i, j of grad_y[i,j,k].

    Args:
        x: The input of `conv2d`, (N, H, W, C).
        grad_y: Gradient with respect to the output, (N, H_out, W_out, O).
        kernel_size: Size of the kernels.
        stride: As given to `conv2d`.
        padding: As given to `conv2d`.
        dilation: As given to `conv2d`.
        groups: As given to `conv2d`.

    Returns:
        The gradients (kernel_h, kernel_w, C // groups, O) and (O,).

    Raises:
        ShapeError: `grad_y` is not what `conv2d` makes of `x`.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x, grad_y = np.ones((2, 4, 4, 3), np.float32), np.ones((2, 2, 2, 5), np.float32)
        >>> grad_w, grad_b = F.conv2d_backward_weights(x, grad_y, 3)
        >>> grad_w.shape, grad_b.tolist()
        ((3, 3, 3, 5), [8.0, 8.0, 8.0, 8.0, 8.0])
    """
    op = "conv2d_backward_weights"
    inputs = [_args.check_array(x, op, "x", 4), _args.check_array(grad_y, op, "grad_y", 4)]
    groups = _args.whole(groups, "groups", op)
    attrs = _window(op, x.shape[1:3], kernel_size, stride, padding, dilation)
    grad_w = _apply(op, inputs, **attrs, groups=groups)[0]
    return cast("Tensor", grad_w), cast("Tensor", _apply("bias_grad", inputs[1:])[0])


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
    y, index = _apply(op, [x], **_pool(op, x.shape[1:3], kernel_size, stride, padding, dilation, ceil_mode))
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
    attrs = _window(op, size, kernel_size, kernel_size if stride is None else stride, padding, dilation)
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
    return cast("Tensor", _apply(op, [grad_y, index], **attrs, input_size=size)[0])


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
    return cast("Tensor", _apply(op, [x], **attrs)[0])


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
    return cast("Tensor", _apply(op, [grad_y], **attrs, input_size=size)[0])


def linear(x: Tensor, weight: Array | Value | Parameter, bias: Array | Value | Parameter | None = None) -> Tensor:
    """Compute x @ weight + bias.

    Args:
        x: Features (N, I).
        weight: Weights (I, O).
        bias: One number per output (O,), or None.

    Returns:
        Features (N, O).

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.linear(np.ones((1, 3), np.float32), np.ones((3, 2), np.float32)).tolist()
        [[3.0, 3.0]]
    """
    op = "linear"
    inputs = [_args.check_array(x, op, "x", 2), _args.check_array(weight, op, "weight", 2)]
    if bias is not None:
        inputs.append(_args.check_array(bias, op, "bias", 1))
    return cast("Tensor", _apply(op, inputs)[0])


def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0); the derivative at 0 is 0 and NaN stays.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", _apply("relu", [_args.check_array(x, "relu")])[0])


def tanh(x: Tensor) -> Tensor:
    """Compute the hyperbolic tangent.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", _apply("tanh", [_args.check_array(x, "tanh")])[0])


def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x)).

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", _apply("sigmoid", [_args.check_array(x, "sigmoid")])[0])


def add(a: Tensor, b: Tensor) -> Tensor:
    """Compute a + b; symbolic values have the operator `+` for it.

    Args:
        a: Any shape.
        b: The same shape; nothing is broadcast.

    Returns:
        The same shape.

    Raises:
        ShapeError: the shapes differ.
        TypeError: an array is not float32.
    """
    return cast("Tensor", _apply("add", [_args.check_array(a, "add", "a"), _args.check_array(b, "add", "b")])[0])


def flatten(x: Tensor, order: str = "hwc") -> Tensor:
    """Turn feature maps into one row of features per image.

    Args:
        x: Feature maps (N, H, W, C).
        order: "hwc" is NumPy's order; "chw" is torch's, for linear weights that were trained there.

    Returns:
        Features (N, H * W * C).

    Raises:
        ShapeError: not four dimensions.
        TypeError: the array is not float32.
        ValueError: another order.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> F.flatten(x, order="chw").tolist()
        [[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]]
    """
    op = "flatten"
    return cast("Tensor", _apply(op, [_args.check_array(x, op, "x", 4)], order=flatten_order(order))[0])


def flatten_order(order: object) -> str:
    """Return the order of `flatten`, checked."""
    if not isinstance(order, str) or order not in ("hwc", "chw"):
        message = f'{graph.label("flatten")}: order must be "hwc" or "chw", got {_args.show(order)}'
        raise ValueError(message)
    return order


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Compute exp(x) / sum(exp(x)) along the last axis, with the row's maximum subtracted first.

    Args:
        x: Scores (N, K).
        axis: The last axis, the only one there is yet.

    Returns:
        Probabilities (N, K); every row sums to 1.

    Raises:
        ShapeError: not two dimensions.
        TypeError: the array is not float32, or `axis` not an int.
        ValueError: `axis` is not an axis of the array.
        UnsupportedError: an axis that is not the last one.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.softmax(np.zeros((1, 4), np.float32)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    op = "softmax"
    x = _args.check_array(x, op, "x", 2)
    if _args.integer(axis, "axis", op, -2, 1) % 2 != 1:
        message = f"{graph.label(op)}: axis must be the last one (-1), got {axis}"
        raise UnsupportedError(message)
    return cast("Tensor", _apply(op, [x])[0])


@overload
def cross_entropy(
    logits: Array,
    labels: npt.NDArray[Any],
    weight: None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> float: ...
@overload
def cross_entropy(
    logits: Value,
    labels: npt.NDArray[Any] | Value,
    weight: None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Value: ...
def cross_entropy(
    logits: Any,
    labels: Any,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """Compute the mean over the batch of -log(softmax(logits)[label]).

    Args:
        logits: Scores (N, K).
        labels: Integers (N,) from 0 to K - 1.
        weight: Reserved for weights of the classes; must be None.
        label_smoothing: Reserved; must be 0.
        ignore_index: Reserved for a label to leave out; must be None.

    Returns:
        The loss, a float; a 0-d value while tracing.

    Raises:
        ShapeError: the ranks or the counts do not fit.
        TypeError: logits are not float32, or labels not integers.
        ValueError: a label is not in [0, K).
        UnsupportedError: a reserved argument is given.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> loss = F.cross_entropy(np.zeros((2, 10), np.float32), np.array([3, 7]))
        >>> round(loss, 5)
        2.30259
    """
    op = "cross_entropy"
    reserved = {"weight": weight, "label_smoothing": label_smoothing or None, "ignore_index": ignore_index}
    for name, value in reserved.items():
        if value is not None:
            message = f"{graph.label(op)}: {name} is not there yet, got {_args.show(value)}"
            raise UnsupportedError(message)
    return _apply(op, [_args.check_array(logits, op, "logits", 2), _args.check_labels(labels, op)])[0]
