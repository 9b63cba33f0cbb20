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
from cnnrs.functional.conv import (
    conv1d,
    conv2d,
    conv2d_backward_data,
    conv2d_backward_weights,
    conv_transpose2d,
)
from cnnrs.functional.conv import conv1d_padding as conv1d_padding
from cnnrs.functional.conv import output_padding_pair as output_padding_pair
from cnnrs.functional.dropout import drop_path, dropout, dropout2d
from cnnrs.functional.features import flatten, linear
from cnnrs.functional.features import flatten_order as flatten_order
from cnnrs.functional.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
)
from cnnrs.functional.movement import concat, pad, reshape, slice, transpose
from cnnrs.functional.norm import batch_norm, group_norm, layer_norm, local_response_norm
from cnnrs.functional.pool import avg_pool2d, avg_pool2d_backward, global_avg_pool2d, max_pool2d, max_pool2d_backward
from cnnrs.functional.reduction import max, mean, min, sum
from cnnrs.functional.resample import adaptive_avg_pool2d, upsample
from cnnrs.functional.resample import adaptive_size as adaptive_size
from cnnrs.functional.resample import upsample_mode as upsample_mode
from cnnrs.functional.resample import upsample_size as upsample_size
from cnnrs.functional.softmax import log_softmax, softmax

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "clip",
    "concat",
    "conv1d",
    "conv2d",
    "conv2d_backward_data",
    "conv2d_backward_weights",
    "conv_transpose2d",
    "cross_entropy",
    "div",
    "drop_path",
    "dropout",
    "dropout2d",
    "elu",
    "exp",
    "flatten",
    "gelu",
    "global_avg_pool2d",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "huber_loss",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
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
    "pad",
    "prelu",
    "relu",
    "relu6",
    "reshape",
    "sigmoid",
    "silu",
    "slice",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "sub",
    "sum",
    "tanh",
    "transpose",
    "upsample",
]
