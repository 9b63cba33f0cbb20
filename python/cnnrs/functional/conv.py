"""Convolution and its gradients with respect to the input, the weight and the bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs.functional._dispatch import Array, PaddingLike, Size, Tensor, apply, window
from cnnrs.graph import Value

if TYPE_CHECKING:
    from cnnrs.nn.parameter import Parameter


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
    return cast("Tensor", apply(op, inputs, **attrs, groups=groups)[0])


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
    return cast("Tensor", apply(op, inputs, **attrs, groups=groups, input_size=shape[1:3])[0])


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
    attrs = window(op, x.shape[1:3], kernel_size, stride, padding, dilation)
    grad_w = apply(op, inputs, **attrs, groups=groups)[0]
    return cast("Tensor", grad_w), cast("Tensor", apply("sum", inputs[1:], axes=[0, 1, 2], keepdims=False)[0])
