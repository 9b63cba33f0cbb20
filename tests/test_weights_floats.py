"""Floats of every format and layout become float32 as NumPy makes them, straight into a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnrs
from cnnrs import _core

FORMATS = ("<f2", "<f4", "<f8", "<u2")
SIZES = st.sampled_from((0, 1, 2, 3, 7, 15, 16, 17, 33, 65, 130))


def oracle(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as float32; uint16 is the upper half of one."""
    if array.dtype.kind == "u":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


@st.composite
def strided(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Random numbers in a random layout: axes exchanged, turned round, with gaps, at odd addresses."""
    rank = draw(st.integers(0, 4))
    shape = [draw(SIZES) if axis < 2 else draw(st.sampled_from((0, 1, 2, 3, 5))) for axis in range(rank)]
    steps = [draw(st.sampled_from((1, 1, 2, -1, 3))) for _ in shape]
    dtype = np.dtype(draw(st.sampled_from(FORMATS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    full = [size * abs(step) for size, step in zip(shape, steps, strict=True)]
    count = int(np.prod(full, dtype=np.int64))
    raw = np.empty(count * dtype.itemsize + 1, np.uint8)
    skewed = draw(st.integers(0, 1))
    array = raw[skewed : skewed + count * dtype.itemsize].view(dtype).reshape(full)
    numbers = rng.normal(size=full) * 10.0 ** rng.integers(-9, 5, full)
    if dtype.kind == "u":
        array[...] = numbers.astype(np.float32).view(np.uint32) >> 16
    else:
        array[...] = np.clip(numbers, -6e4, 6e4)
    view = array[(..., *(slice(None, None, step) for step in steps))]
    return view.transpose(draw(st.permutations(range(rank))))


@given(strided())
def test_any_layout_is_copied(array: np.ndarray[Any, Any]) -> None:
    wanted = oracle(array)
    parameter = _core.Parameter(np.full(array.shape, 7, np.float32))
    version = parameter.version
    parameter.assign_floats(array)
    np.testing.assert_array_equal(parameter.view(), wanted, strict=True)
    assert parameter.version == version + 1
    if array.ndim:
        np.testing.assert_array_equal(_core.to_float32(array), wanted, strict=True)
    assert _core.all_finite(array)


@given(strided(), st.sampled_from((np.nan, np.inf, -np.inf)), st.integers(0, 10**6))
def test_one_number_that_is_not_finite_is_found(array: np.ndarray[Any, Any], bad: float, at: int) -> None:
    if array.size == 0:
        return
    place = np.unravel_index(at % array.size, array.shape)
    array[place] = np.float32(bad).view(np.uint32) >> 16 if array.dtype.kind == "u" else bad
    assert not _core.all_finite(array)


def test_every_half_is_the_same_float() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    ours = _core.to_float32(bits.view(np.float16))
    np.testing.assert_array_equal(ours, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(ours), bits >= 2**15)
    brain = _core.to_float32(bits)
    np.testing.assert_array_equal(brain.view(np.uint32), bits.astype(np.uint32) << 16)


def test_a_double_beyond_float32_is_not_finite() -> None:
    most = np.finfo(np.float32).max
    assert _core.all_finite(np.array([most, -most], np.float64))
    assert not _core.all_finite(np.array([0, 3.5e38]))


def test_results_are_the_same_for_any_number_of_threads(threads: int) -> None:
    array = np.random.default_rng(0).normal(size=(64, 32, 3, 3)).astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(_core.to_float32(array), array)


def test_what_is_not_of_floats_is_refused() -> None:
    parameter = _core.Parameter(np.zeros((2, 3), np.float32))
    for array in (np.zeros((2, 3), np.int32), np.zeros((2, 3), ">f4"), np.zeros((2, 3), complex)):
        with pytest.raises(TypeError, match="array expects native floats, received"):
            parameter.assign_floats(array)
    with pytest.raises(TypeError):
        parameter.assign_floats([1.0])  # type: ignore[arg-type]
    with pytest.raises(cnnrs.ShapeError, match=r"array expects shape \(2, 3\), received \(3, 2\)"):
        parameter.assign_floats(np.zeros((3, 2), np.float32))
    counter = _core.Parameter(np.zeros(2, np.int64))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="array expects int64, received floats"):
        counter.assign_floats(np.zeros(2, np.float32))
