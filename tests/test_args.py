"""Arguments: what widens to a pair, what is refused, and with which exception."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle
from cnnrs import _args, _core

HUGE = 10**5000  # more digits than Python prints
NOT_WHOLE: list[Any] = [0, -1, 2**31, 2**70, HUGE, 1.0, "3", None, True, b"3", [], (1, 2, 3), (1, 0), (1, "2"), {1, 2}]


@pytest.mark.parametrize("given", [3, np.int64(3), (3, 3), [3, 3], (np.uint8(3), 3)])
def test_pair_widens_ints_and_keeps_pairs(given: Any) -> None:
    assert _args.pair(given, "stride", "conv2d") == (3, 3)


def test_pair_keeps_the_order_of_height_and_width() -> None:
    assert _args.pair((1, 2), "stride", "conv2d") == (1, 2)


@pytest.mark.parametrize("given", NOT_WHOLE, ids=lambda given: _args.show(given)[:20])
def test_pair_refuses_everything_else_with_value_error(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^conv2d: stride must be an int or an \(h, w\) pair"):
        _args.pair(given, "stride", "conv2d")


@pytest.mark.parametrize("given", [*NOT_WHOLE, (1, 1)], ids=lambda given: _args.show(given)[:20])
def test_whole_refuses_everything_else_with_value_error(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^conv2d: groups must be an int from 1 to 2147483647, got"):
        _args.whole(given, "groups", "conv2d")


def test_integer_tells_types_from_values() -> None:
    assert _args.integer(np.int8(7), "top", "predict", 1, 10) == 7
    for wrong in (True, 1.0, "1", None, np.bool_(True), np.float32(1)):
        with pytest.raises(TypeError, match=r"^predict: top must be an int, got"):
            _args.integer(wrong, "top", "predict", 1, 10)
    for wrong in (0, 11, HUGE, -HUGE):
        with pytest.raises(ValueError, match=r"^predict: top must be from 1 to 10, got"):
            _args.integer(wrong, "top", "predict", 1, 10)


def test_flag_takes_bools_only() -> None:
    assert _args.flag(np.bool_(True), "bias", "Conv2d") is True
    for wrong in (1, 0, "no", None):
        with pytest.raises(TypeError, match=r"^Conv2d: bias must be True or False"):
            _args.flag(wrong, "bias", "Conv2d")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3))),
        (np.int32(1), ((1, 1), (1, 1))),
        ("same", "same"),
        ("valid", "valid"),
    ],
)
def test_padding_forms(given: Any, expected: Any) -> None:
    assert _args.padding(given, "conv2d") == expected


@pytest.mark.parametrize(
    "given",
    [
        -1,
        2**40,
        HUGE,
        1.5,
        "SAME",
        "full",
        None,
        True,
        (1,),
        (1, 2, 3),
        (1, -1),
        (1, (0, 1)),
        ((0, 1), 1),
        ((0, 1, 2), (0, 1)),
    ],
    ids=lambda given: _args.show(given)[:20],
)
def test_padding_refuses_everything_else_with_value_error(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^conv2d: padding must be"):
        _args.padding(given, "conv2d")


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_same_padding_gives_the_rounded_up_quotient(size: int, stride: int) -> None:
    for kernel in range(1, 6):
        for dilation in (1, 2, 3):
            before, after = _args.same_padding(size, kernel, stride, dilation)
            assert (before, after) == oracle.same_padding(size, kernel, stride, dilation)
            assert before <= after <= before + 1
            out = cnnrs.conv_output_size(size, kernel, stride, (before, after), dilation)
            assert out == -(-size // stride) == cnnrs.conv_output_size(size, kernel, stride, "same", dilation)


def test_resolve_padding_treats_the_axes_apart() -> None:
    resolved = _args.resolve_padding("same", (7, 8), (3, 2), (2, 1), (1, 1))
    assert resolved == ((1, 1), (0, 1))
    assert _args.resolve_padding("valid", (7, 8), (3, 2), (2, 1), (1, 1)) == ((0, 0), (0, 0))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_conv_output_size_agrees_with_the_formula(ceil_mode: bool) -> None:
    for size in range(1, 10):
        for kernel, stride, before, after, dilation in np.ndindex(4, 3, 3, 3, 2):
            window = (kernel + 1, stride + 1, (before, after), dilation + 1, ceil_mode)
            try:
                expected = oracle.output_size(size, kernel + 1, stride + 1, (before, after), dilation + 1, ceil_mode)
            except ValueError:
                with pytest.raises(cnnrs.ShapeError):
                    cnnrs.conv_output_size(size, *window)
            else:
                assert cnnrs.conv_output_size(size, *window) == expected


def test_conv_output_size_shows_the_arithmetic() -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"3\*\(4 - 1\) \+ 1 = 10 > 1 \+ 6 \+ 2 = 9"):
        cnnrs.conv_output_size(6, 4, padding=(1, 2), dilation=3)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"size": 0}),
        (ValueError, {"size": HUGE}),
        (TypeError, {"size": 8.0}),
        (TypeError, {"size": True}),
        (ValueError, {"kernel_size": 0}),
        (ValueError, {"kernel_size": (3, 3)}),
        (ValueError, {"stride": 2**70}),
        (ValueError, {"dilation": "2"}),
        (ValueError, {"padding": 2**40}),
        (ValueError, {"padding": "SAME"}),
        (ValueError, {"padding": ((1, 1), (1, 1))}),
        (TypeError, {"ceil_mode": 1}),
    ],
)
def test_conv_output_size_refuses(error: type[Exception], arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=rf"^conv_output_size: {next(iter(arguments))} must be"):
        cnnrs.conv_output_size(**{"size": 8, "kernel_size": 3, **arguments})


def test_seed_and_thread_numbers_are_checked() -> None:
    for wrong in (-1, 0, 257, 2**70):
        with pytest.raises(ValueError, match=r"^set_num_threads: n must be from 1 to 256"):
            cnnrs.set_num_threads(wrong)
    with pytest.raises(TypeError, match=r"^set_num_threads: n must be an int"):
        cnnrs.set_num_threads("2")  # type: ignore[arg-type]
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match=r"^manual_seed: seed must be from 0"):
            cnnrs.manual_seed(wrong)
    with pytest.raises(TypeError, match=r"^set_algorithm: name must be a str"):
        cnnrs.set_algorithm(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="winograd9"):
        cnnrs.set_algorithm("winograd9")


def test_the_version_is_the_core_s() -> None:
    assert cnnrs.__version__ == _core.config()["version"]


def test_show_is_short_whatever_it_is_given() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert _args.show(nested) == "a list nested too deeply to show"
    assert _args.show(HUGE) == "an int of 16610 bits"
    assert len(_args.show("a" * 10**6)) == 80
