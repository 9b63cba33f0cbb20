"""Argument handling and errors of `cnnrs.functional`; the numbers are tested op by op elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import _args, nn
from cnnrs import functional as F

X = real(2, 6, 6, 4)
WEIGHT = real(3, 3, 4, 8)
LABELS = np.array([1, 0])
CALLS: dict[str, Callable[[Any], Any]] = {
    "conv2d x": lambda a: F.conv2d(a, WEIGHT),
    "conv2d weight": lambda a: F.conv2d(X, a),
    "conv2d bias": lambda a: F.conv2d(X, WEIGHT, a),
    "conv2d_backward_data grad_y": lambda a: F.conv2d_backward_data(a, WEIGHT, (2, 6, 6, 4)),
    "conv2d_backward_data weight": lambda a: F.conv2d_backward_data(real(2, 4, 4, 8), a, (2, 6, 6, 4)),
    "conv2d_backward_weights x": lambda a: F.conv2d_backward_weights(a, real(2, 4, 4, 8), 3),
    "conv2d_backward_weights grad_y": lambda a: F.conv2d_backward_weights(X, a, 3),
    "max_pool2d x": lambda a: F.max_pool2d(a, 2),
    "max_pool2d_backward grad_y": lambda a: F.max_pool2d_backward(a, np.zeros((2, 3, 3, 4), np.int32), (2, 6, 6, 4), 2),
    "avg_pool2d x": lambda a: F.avg_pool2d(a, 2),
    "avg_pool2d_backward grad_y": lambda a: F.avg_pool2d_backward(a, (2, 6, 6, 4), 2),
    "linear x": lambda a: F.linear(a, real(4, 3)),
    "linear weight": lambda a: F.linear(real(2, 4), a),
    "linear bias": lambda a: F.linear(real(2, 4), real(4, 3), a),
    "relu x": F.relu,
    "tanh x": F.tanh,
    "sigmoid x": F.sigmoid,
    "add a": lambda a: F.add(a, X),
    "add b": lambda b: F.add(X, b),
    "flatten x": F.flatten,
    "softmax x": F.softmax,
    "log_softmax x": F.log_softmax,
    "conv_transpose2d x": lambda a: F.conv_transpose2d(a, real(3, 3, 8, 4)),
    "conv_transpose2d weight": lambda a: F.conv_transpose2d(X, a),
    "conv_transpose2d bias": lambda a: F.conv_transpose2d(X, real(3, 3, 8, 4), a),
    "adaptive_avg_pool2d x": lambda a: F.adaptive_avg_pool2d(a, 2),
    "upsample x": lambda a: F.upsample(a, 2),
    "reshape x": lambda a: F.reshape(a, -1),
    "transpose x": F.transpose,
    "slice x": lambda a: F.slice(a, 0),
    "pad x": lambda a: F.pad(a, ((1, 1), (0, 0), (0, 0))),
    "cross_entropy logits": lambda a: F.cross_entropy(a, LABELS),
}
NOT_FLOAT32: list[Any] = [
    [[1.0]],
    object(),
    3,
    1.5,
    "x",
    np.float32(1),
    np.zeros((2, 2)),
    np.zeros((2, 2), np.float16),
    np.zeros((2, 2), np.int32),
    np.zeros((2, 2), np.uint8),
    np.zeros((2, 2), bool),
    np.zeros((2, 2), np.complex64),
    np.array(["a"]),
    np.array([None]),
    np.zeros(2, [("r", np.float32)]),
]
ANY_RANK = {
    *("relu x", "tanh x", "sigmoid x", "add a", "add b", "softmax x", "log_softmax x"),
    *("reshape x", "transpose x", "slice x", "pad x"),
}


def describe(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", NOT_FLOAT32, ids=describe)
def test_anything_but_float32_is_a_type_error_that_shows_the_way(call: str, wrong: Any) -> None:
    op, name = call.split()
    if op == "add" and isinstance(wrong, (int, float, np.float32)):
        assert CALLS[call](wrong).dtype == np.float32  # a number stands for an array of it
        return
    with pytest.raises(TypeError, match=rf"^{op}: {name} must be a float32 .*\.astype\(np\.float32\)$"):
        CALLS[call](wrong)


@pytest.mark.parametrize("call", [call for call in CALLS if not call.endswith("bias")])
def test_none_is_a_type_error(call: str) -> None:
    with pytest.raises(TypeError, match=r"got None; convert with \.astype\(np\.float32\)$"):
        CALLS[call](None)


@pytest.mark.parametrize("call", [call for call in CALLS if call not in ANY_RANK])
def test_a_wrong_rank_is_a_shape_error(call: str) -> None:
    op, name = call.split()
    with pytest.raises(cnnrs.ShapeError, match=rf"^{op}: {name} must have \d dimensions.*, got shape \(2, 2, 2\)$"):
        CALLS[call](np.zeros((2, 2, 2), np.float32))


def test_no_unbatched_form() -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"must have 4 dimensions \(N, H, W, C\), got shape \(6, 6, 4\)"):
        F.conv2d(X[0], WEIGHT, padding="same")


def test_byte_swapped_arrays_are_converted() -> None:
    swapped = X.astype(">f4" if X.dtype.byteorder in "=<" else "<f4")
    np.testing.assert_array_equal(F.conv2d(swapped, WEIGHT), F.conv2d(X, WEIGHT))


def test_parameters_stand_for_their_arrays() -> None:
    np.testing.assert_array_equal(
        F.conv2d(X, nn.Parameter(WEIGHT), nn.Parameter(real(8))), F.conv2d(X, WEIGHT, real(8))
    )


WRONG_NUMBERS = [0, -1, 2**31, 2**70, 1.0, "1", True, (1, 2, 3), (1, 0)]


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=_args.show)
@pytest.mark.parametrize("name", ["stride", "dilation", "groups"])
def test_numbers_of_convolution(name: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {name: wrong}
    with pytest.raises(ValueError, match=f"^conv2d: {name} must be an int"):
        F.conv2d(X, WEIGHT, **arguments)
    with pytest.raises(ValueError, match=f"^conv2d_backward_data: {name} must be an int"):
        F.conv2d_backward_data(real(2, 4, 4, 8), WEIGHT, (2, 6, 6, 4), **arguments)
    with pytest.raises(ValueError, match=f"^conv2d_backward_weights: {name} must be an int"):
        F.conv2d_backward_weights(X, real(2, 4, 4, 8), 3, **arguments)


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=_args.show)
def test_numbers_of_pooling(wrong: Any) -> None:
    for pool in (F.max_pool2d, F.avg_pool2d):
        with pytest.raises(ValueError, match="pool2d: kernel_size must be an int"):
            pool(X, wrong)  # type: ignore[operator]
        with pytest.raises(ValueError, match="pool2d: stride must be an int"):
            pool(X, 2, stride=wrong)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"^max_pool2d: dilation must be an int"):
        F.max_pool2d(X, 2, dilation=wrong)


@pytest.mark.parametrize("padding", [2, (0, 2), ((0, 0), (2, 0))])
def test_pooling_pads_at_most_half_of_the_kernel(padding: Any) -> None:
    message = "padding must be at most kernel_size // 2 on each side"
    with pytest.raises(ValueError, match=f"^max_pool2d: {message}"):
        F.max_pool2d(X, 3, padding=padding)
    with pytest.raises(ValueError, match=f"^avg_pool2d: {message}"):
        F.avg_pool2d(X, 3, padding=padding)
    with pytest.raises(ValueError, match=f"^MaxPool2d: {message}"):
        nn.MaxPool2d(3, padding=padding)


@pytest.mark.parametrize("padding", ["valid", 0])
def test_a_window_larger_than_the_padded_input_is_a_shape_error(padding: Any) -> None:
    for call in (
        lambda: F.conv2d(X, real(7, 3, 4, 8), padding=padding),
        lambda: F.max_pool2d(X, 7, padding=padding),
        lambda: F.avg_pool2d(X, 7, padding=padding),
    ):
        with pytest.raises(cnnrs.ShapeError, match="7"):
            call()


def test_an_input_without_pixels_is_a_shape_error_also_for_same() -> None:
    with pytest.raises(cnnrs.ShapeError, match="conv2d"):
        F.conv2d(np.zeros((1, 0, 6, 4), np.float32), WEIGHT)
    with pytest.raises(cnnrs.ShapeError, match="conv2d"):
        F.conv2d(np.zeros((1, 0, 6, 4), np.float32), real(5, 5, 4, 8), stride=7, padding=0)


def test_the_channels_stand_in_the_message() -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"^conv2d: weight expects 4 input channels, input has 3"):
        F.conv2d(real(1, 6, 6, 3), WEIGHT)


@pytest.mark.parametrize(
    ("error", "shape"),
    [
        (cnnrs.ShapeError, (2, 6, 6)),
        (cnnrs.ShapeError, (3, 6, 6, 4)),
        (cnnrs.ShapeError, (2, 6, 6, 5)),
        (cnnrs.ShapeError, (2, 9, 6, 4)),
        (ValueError, (2, -6, 6, 4)),
        (ValueError, (2, 2**70, 6, 4)),
        (TypeError, (2, 6.0, 6, 4)),
        (TypeError, 6),
    ],
)
def test_input_shape_of_the_backward_functions(error: type[Exception], shape: Any) -> None:
    with pytest.raises(error, match=r"^conv2d_backward_data: "):
        F.conv2d_backward_data(real(2, 4, 4, 8), WEIGHT, shape)
    with pytest.raises(error, match=r"^avg_pool2d_backward: "):
        F.avg_pool2d_backward(real(2, 3, 3, 4), shape, 2)
    with pytest.raises(error, match=r"^max_pool2d_backward: "):
        F.max_pool2d_backward(real(2, 3, 3, 4), np.zeros((2, 3, 3, 4), np.int32), shape, 2)


@pytest.mark.parametrize("index", [np.zeros((2, 3, 3, 4), np.int64), np.zeros((2, 3, 3, 4), np.float32), None, [[0]]])
def test_the_index_of_max_pooling_is_int32(index: Any) -> None:
    with pytest.raises(TypeError, match=r"^max_pool2d_backward: index must be the int32 array"):
        F.max_pool2d_backward(real(2, 3, 3, 4), index, (2, 6, 6, 4), 2)


@pytest.mark.parametrize("stray", [-2, 36, 2**31 - 1])
def test_an_index_outside_of_the_plane_is_a_value_error(stray: int) -> None:
    index = np.zeros((2, 3, 3, 4), np.int32)
    index[1, 2, 2, 3] = stray
    with pytest.raises(ValueError, match=r"^max_pool2d_backward: index must be from -1 .* to 6\*6 - 1, got "):
        F.max_pool2d_backward(real(2, 3, 3, 4), index, (2, 6, 6, 4), 2)


def test_flags_are_bools() -> None:
    for arguments in ({"ceil_mode": 1}, {"return_indices": "yes"}):
        with pytest.raises(TypeError, match=f"^max_pool2d: {next(iter(arguments))} must be True or False"):
            F.max_pool2d(X, 2, **arguments)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^avg_pool2d: count_include_pad must be True or False"):
        F.avg_pool2d(X, 2, count_include_pad=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["HWC", "", None, 3, "nchw"])
def test_flatten_order(order: Any) -> None:
    with pytest.raises(ValueError, match=r'^flatten: order must be "hwc" or "chw"'):
        F.flatten(X, order)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.dtype(">i8")])
def test_labels_of_any_integer_type(dtype: Any) -> None:
    assert F.cross_entropy(real(2, 3), LABELS.astype(dtype)) == F.cross_entropy(real(2, 3), LABELS)


@pytest.mark.parametrize(
    ("error", "labels"),
    [
        (TypeError, [0, 1]),
        (TypeError, np.array([0.0, 1.0])),
        (TypeError, np.array([False, True])),
        (TypeError, None),
        (ValueError, np.array([0, 3])),
        (ValueError, np.array([-1, 0])),
        (ValueError, np.array([0, 2**64 - 1], np.uint64)),
        (cnnrs.ShapeError, np.array([0, 1, 2])),
        (cnnrs.ShapeError, np.array([[0], [1]])),
    ],
)
def test_wrong_labels(error: type[Exception], labels: Any) -> None:
    with pytest.raises(error, match="label"):
        F.cross_entropy(real(2, 3), labels)


@pytest.mark.parametrize("function", [F.relu, F.tanh, F.sigmoid])
def test_an_empty_batch_is_legal(function: Callable[[Any], Any]) -> None:
    assert function(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_empty_batches_through_windows() -> None:
    x = np.zeros((0, 6, 6, 4), np.float32)
    assert F.conv2d(x, WEIGHT, padding="same").shape == (0, 6, 6, 8)
    y, index = F.max_pool2d(x, 2, return_indices=True)
    assert y.shape == index.shape == (0, 3, 3, 4)
    grad_w, grad_b = F.conv2d_backward_weights(x, np.zeros((0, 4, 4, 8), np.float32), 3)
    assert grad_w.shape == (3, 3, 4, 8)
    assert not grad_w.any()
    assert not grad_b.any()
