"""Stateless operations: on NumPy arrays they run at once, on symbolic values they are recorded.

Activations are float32 (N, H, W, C), convolution weights HWIO `(kernel_h, kernel_w, in_channels // groups,
out_channels)`, linear weights `(in_features, out_features)`. Arrays must be float32 (any strides; byte-swapped
is converted), everything else is a `TypeError`; shapes that do not fit are a `ShapeError` with the arithmetic;
numbers out of range are a `ValueError`. Window sizes, strides, dilations and paddings are ints or (h, w) pairs;
padding is also ((top, bottom), (left, right)), "same" (output ceil(I / S)) or "valid" (none).
"""

from cnnrs.functional._dispatch import Array as Array
from cnnrs.functional._dispatch import PaddingLike as PaddingLike
from cnnrs.functional._dispatch import Size as Size
from cnnrs.functional._dispatch import Tensor as Tensor
from cnnrs.functional.conv import conv2d, conv2d_backward_data, conv2d_backward_weights
from cnnrs.functional.dropout import drop_path, dropout, dropout2d
from cnnrs.functional.elementwise import add, relu, sigmoid, tanh
from cnnrs.functional.features import flatten, linear
from cnnrs.functional.features import flatten_order as flatten_order
from cnnrs.functional.loss import cross_entropy, softmax
from cnnrs.functional.norm import batch_norm, group_norm, layer_norm, local_response_norm
from cnnrs.functional.pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward

__all__ = [
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "conv2d",
    "conv2d_backward_data",
    "conv2d_backward_weights",
    "cross_entropy",
    "drop_path",
    "dropout",
    "dropout2d",
    "flatten",
    "group_norm",
    "layer_norm",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "max_pool2d_backward",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
