"""Stateless operations: on NumPy arrays they run at once, on symbolic values they are recorded.

Activations are float32 (N, H, W, C), convolution weights HWIO `(kernel_h, kernel_w, in_channels // groups,
out_channels)`, linear weights `(in_features, out_features)`. Arrays must be float32 (any strides; byte-swapped
is converted), everything else is a `TypeError`; shapes that do not fit are a `ShapeError` with the arithmetic;
numbers out of range are a `ValueError`. Window sizes, strides, dilations and paddings are ints or (h, w) pairs;
padding is also ((top, bottom), (left, right)), "same" (output ceil(I / S)) or "valid" (none).
"""

from cnnrs.functional._dispatch import Array as Array
from cnnrs.functional._dispatch import Operand as Operand
from cnnrs.functional._dispatch import PaddingLike as PaddingLike
from cnnrs.functional._dispatch import Size as Size
from cnnrs.functional._dispatch import Tensor as Tensor
from cnnrs.functional.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    prelu,
    relu,
    relu6,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from cnnrs.functional.activation import gelu_form as gelu_form
from cnnrs.functional.arithmetic import (
    abs,
    add,
    clip,
    div,
    exp,
    log,
    matmul,
    maximum,
    minimum,
    mul,
    neg,
    sqrt,
    square,
    sub,
)
from cnnrs.functional.conv import conv2d, conv2d_backward_data, conv2d_backward_weights
from cnnrs.functional.features import flatten, linear
from cnnrs.functional.features import flatten_order as flatten_order
from cnnrs.functional.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    softmax,
)
from cnnrs.functional.pool import avg_pool2d, avg_pool2d_backward, global_avg_pool2d, max_pool2d, max_pool2d_backward
from cnnrs.functional.reduction import max, mean, min, sum

__all__ = [
    "abs",
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "binary_cross_entropy_with_logits",
    "clip",
    "conv2d",
    "conv2d_backward_data",
    "conv2d_backward_weights",
    "cross_entropy",
    "div",
    "elu",
    "exp",
    "flatten",
    "gelu",
    "global_avg_pool2d",
    "hardsigmoid",
    "hardswish",
    "huber_loss",
    "l1_loss",
    "leaky_relu",
    "linear",
    "log",
    "matmul",
    "max",
    "max_pool2d",
    "max_pool2d_backward",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mse_loss",
    "mul",
    "neg",
    "prelu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "sub",
    "sum",
    "tanh",
]
