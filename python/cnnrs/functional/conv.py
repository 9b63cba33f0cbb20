"""Convolution in one and two dimensions, its gradients, and its transpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.functional._dispatch import Array, PaddingLike, Size, Tensor, apply, window
from cnnrs.functional.arithmetic import add
from cnnrs.functional.movement import pad, reshape

if TYPE_CHECKING:
    from cnnrs.nn.parameter import Parameter

ALGORITHMS = ("auto", "direct")


def conv2d(
    x: Tensor,
    weight: Array | Value | Parameter,
    bias: Array | Value | Parameter | None = None,
    stride: Size = 1,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    groups: int = 1,
    algorithm: str = "auto",
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
        algorithm: "auto", or "direct" for direct summation only, whatever `cnnrs.set_algorithm` permits; gradients
            follow.

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
    algorithm = _args.choice(algorithm, "algorithm", op, ALGORITHMS)
    attrs = _conv_window(op, x.shape[1:3], inputs[1].shape[:2], stride, padding, dilation)
    return cast("Tensor", apply(op, inputs, **attrs, groups=groups, algorithm=algorithm)[0])


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
    algorithm: str = "auto",
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
        algorithm: As given to `conv2d`.

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
    algorithm = _args.choice(algorithm, "algorithm", op, ALGORITHMS)
    shape = _args.shape4(input_shape, "input_shape", op)
    expected = (grad_y.shape[0], inputs[1].shape[2] * groups)
    if (shape[0], shape[3]) != expected:
        message = (
            f"{graph.label(op)}: input_shape {shape} must have N = {expected[0]} as grad_y {grad_y.shape} and "
            f"C = {inputs[1].shape[2]} * {groups} = {expected[1]} as weight {inputs[1].shape} with groups={groups}"
        )
        raise ShapeError(message)
    attrs = _conv_window(op, shape[1:3], inputs[1].shape[:2], stride, padding, dilation)
    return cast("Tensor", apply(op, inputs, **attrs, groups=groups, algorithm=algorithm, input_size=shape[1:3])[0])


def conv2d_backward_weights(
    x: Tensor,
    grad_y: Tensor,
    kernel_size: Size,
    stride: Size = 1,
    padding: PaddingLike = 0,
    dilation: Size = 1,
    groups: int = 1,
    algorithm: str = "auto",
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
        algorithm: As given to `conv2d`.

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
    algorithm = _args.choice(algorithm, "algorithm", op, ALGORITHMS)
    attrs = window(op, x.shape[1:3], kernel_size, stride, padding, dilation)
    grad_w = apply(op, inputs, **attrs, groups=groups, algorithm=algorithm)[0]
    return cast("Tensor", grad_w), cast("Tensor", apply("sum", inputs[1:], axes=[0, 1, 2], keepdims=False)[0])


def conv_transpose2d(
    x: Tensor,
    weight: Array | Value | Parameter,
    bias: Array | Value | Parameter | None = None,
    stride: Size = 1,
    padding: PaddingLike = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Tensor:
    """Compute the transpose of `conv2d`: what its gradient with respect to the input is.

    Y[i*S + m*D - P, j*S + n*D - P, c] sums X[i,j,k] * W[m,n,c,k] over all i, j, k, m, n, plus b[c]; the output size
    is (I - 1)*S - P_total + K_eff + output_padding with K_eff = dilation*(K - 1) + 1.

    Args:
        x: Feature maps (N, H, W, C).
        weight: Kernels (kernel_h, kernel_w, O // groups, C), as `conv2d` from O to C channels has them.
        bias: One number per output channel (O,), or None.
        stride: Pixels between the windows that two neighbouring pixels spread into.
        padding: Pixels taken away around the result; "same" makes it I * S.
        output_padding: Pixels added behind; each below `stride` or `dilation`. 0 with "same".
        dilation: Pixels between two taps of a kernel.
        groups: Number of independent parts into which the channels are split; divides C and O.
        algorithm: "auto", or "direct" for direct summation only, whatever `cnnrs.set_algorithm` permits; gradients
            follow.

    Returns:
        Feature maps (N, H_out, W_out, O).

    Raises:
        ShapeError: ranks or channels do not fit, no pixel, or a result without one.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x, weight = np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 3, 1), np.float32)
        >>> F.conv_transpose2d(x, weight, stride=2).shape
        (1, 4, 4, 3)
    """
    op = "conv_transpose2d"
    inputs = [_args.check_array(x, op, "x", 4), _args.check_array(weight, op, "weight", 4)]
    groups = _args.whole(groups, "groups", op)
    algorithm = _args.choice(algorithm, "algorithm", op, ALGORITHMS)
    if x.shape[3] != inputs[1].shape[3] or x.shape[3] % groups:
        message = (
            f"{graph.label(op)}: weight {inputs[1].shape} must have as many input channels (its last axis) as x "
            f"{x.shape}, and groups {groups} must divide them"
        )
        raise ShapeError(message)
    kernel = inputs[1].shape[:2]
    attrs = _conv_window(op, x.shape[1:3], kernel, stride, "valid", dilation)
    step, spread = attrs["stride"], attrs["dilation"]
    extra = output_padding_pair(output_padding, step, spread, op)
    given = _args.padding(padding, op)
    if given == "same" and any(extra):
        message = f'{graph.label(op)}: output_padding must be 0 for padding "same", got {_args.show(output_padding)}'
        raise ValueError(message)
    axes = [
        _transposed_axis(op, name, x.shape[axis + 1], kernel[axis], step[axis], spread[axis], around, extra[axis])
        for axis, (name, around) in enumerate(zip(("height", "width"), _by_axis(given), strict=True))
    ]
    (height, top, bottom, below), (width, left, right, beside) = axes
    attrs["padding"] = ((top, bottom), (left, right))
    (y,) = apply(
        "conv2d_backward_data", inputs, **attrs, groups=groups, algorithm=algorithm, input_size=(height, width)
    )
    if below or beside:
        y = pad(y, ((0, below), (0, beside)))
    return cast("Tensor", y if bias is None else _biased(op, y, bias))


def output_padding_pair(value: object, stride: tuple[int, int], dilation: tuple[int, int], op: str) -> tuple[int, int]:
    """Return `output_padding` as a pair.

    Raises:
        ValueError: neither an int nor a pair of them, or not below stride or dilation.
    """
    extra = _args.pair(value, "output_padding", op, 0)
    if any(more >= max(step, spread) for more, step, spread in zip(extra, stride, dilation, strict=True)):
        message = (
            f"{graph.label(op)}: output_padding must be below stride or dilation, "
            f"got output_padding {extra} for stride {stride} and dilation {dilation}"
        )
        raise ValueError(message)
    return extra


def _by_axis(given: _args.Padding | str) -> tuple[Any, Any]:
    """Return the padding of each axis, a pair or "same"."""
    if given == "valid":
        return (0, 0), (0, 0)
    return (given, given) if isinstance(given, str) else given


def _transposed_axis(
    op: str, name: str, size: int, kernel: int, stride: int, dilation: int, around: Any, extra: int
) -> tuple[int, int, int, int]:
    """Return the size of the convolution's input, its padding, and how many zeros follow, for one axis."""
    extent = dilation * (kernel - 1) + 1
    before, after = (max(extent - stride, 0) // 2, -(-max(extent - stride, 0) // 2)) if around == "same" else around
    out = size * stride if around == "same" else (size - 1) * stride - before - after + extent + extra
    if size < 1 or not 1 <= out <= _args.LIMIT:
        message = (
            f"{graph.label(op)}: {name} {size} gives (size - 1)*stride - padding + K_eff + output_padding = "
            f"({size} - 1)*{stride} - {before + after} + {extent} + {extra} = {out} pixels; both must be at least 1"
        )
        raise ShapeError(message)
    if around == "same":
        return out, before, after, 0
    # Pixels behind are padding not taken away; beyond the last window they are zeros, of which those less than a
    # stride away belong to the convolution.
    behind = max(extra - after, 0)
    zeros = min(behind, out) if behind >= stride else 0
    return out - zeros, min(before, (size - 1) * stride + extent), max(after - extra, 0), zeros


def _biased(op: str, y: Any, bias: Any) -> Any:
    bias = _args.check_array(bias, op, "bias", 1)
    if bias.shape[0] != y.shape[-1]:
        message = f"{graph.label(op)}: bias must have shape ({y.shape[-1]},), got {bias.shape}"
        raise ShapeError(message)
    return add(y, bias)


def conv1d(
    x: Tensor,
    weight: Array | Value | Parameter,
    bias: Array | Value | Parameter | None = None,
    stride: int = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve a batch of sequences with kernels: `conv2d` with a height of one.

    Args:
        x: Sequences (N, L, C).
        weight: Kernels (kernel, C // groups, O).
        bias: One number per output channel (O,), or None.
        stride: Steps between two windows.
        padding: Zeros on both sides, a pair (before, after), "same" (output ceil(L / S)) or "valid" (none).
        dilation: Steps between two taps of a kernel.
        groups: Number of independent parts into which the channels are split; divides C and O.

    Returns:
        Sequences (N, L_out, O).

    Raises:
        ShapeError: ranks or channels do not fit, or the kernel exceeds the padded sequence.
        TypeError: an array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
        >>> F.conv1d(x, np.ones((3, 1, 1), np.float32)).ravel().tolist()
        [3.0, 6.0, 9.0]
    """
    op = "conv1d"
    x = _args.check_array(x, op, "x", 3)
    weight = _args.check_array(weight, op, "weight", 3)
    if bias is not None:
        bias = _args.check_array(bias, op, "bias", 1)
    step, spread = _args.whole(stride, "stride", op), _args.whole(dilation, "dilation", op)
    groups, around = _args.whole(groups, "groups", op), conv1d_padding(padding, op)
    if x.shape[2] != weight.shape[1] * groups:
        message = (
            f"{graph.label(op)}: weight {weight.shape} with groups={groups} expects "
            f"{weight.shape[1]} * {groups} = {weight.shape[1] * groups} channels, x {x.shape} has {x.shape[2]}"
        )
        raise ShapeError(message)
    image = reshape(x, (x.shape[0], 1, *x.shape[1:]))
    kernels: Any = reshape(cast("Array", weight), (1, *weight.shape))
    y: Tensor = conv2d(image, kernels, bias, (1, step), around, (1, spread), groups)
    return reshape(y, (y.shape[0], *y.shape[2:]))


def conv1d_padding(value: object, op: str) -> _args.Padding | str:
    """Return the padding of one axis as that of an image of height one."""
    if isinstance(value, str):
        return _args.padding(value, op)
    along = value if isinstance(value, (tuple, list)) else (value, value)
    if len(along) != 2 or any(isinstance(item, (tuple, list)) for item in along):
        message = (
            f'{graph.label(op)}: padding must be an int, (before, after), "same" or "valid", got {_args.show(value)}'
        )
        raise ValueError(message)
    before, after = (_args.whole(item, "padding", op, 0) for item in along)
    return (0, 0), (before, after)
