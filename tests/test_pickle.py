"""The pickle reader: what pickle writes comes back, and what would run is refused with opcode, offset and name."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from cnnrs import DataError, WeightsError, _pickle
from cnnrs._pickle_numpy import NUMPY

TABLE: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): lambda items=(): _pickle.Table(items)}
PLAIN = [
    None,
    True,
    1,
    -5,
    2**40,
    -(2**100),
    1.5,
    float("inf"),
    "a",
    "\u00e9\ud800\U0001f600",
    "x" * 300,
    "it's \\ \n",
    [1, 2, [3]],
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {"a": 1, 2: [3], None: ()},
    [],
    {},
    (),
    list(range(3000)),
    {str(number): number for number in range(2000)},
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_plain_data_come_back(value: Any, protocol: int) -> None:
    result = _pickle.load(pickle.dumps(value, protocol), {})
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("value", [b"", b"x" * 300, {1, "a"}, frozenset({b"b"}), bytearray(b"ab")], ids=repr)
def test_bytes_and_sets_come_back(value: Any) -> None:
    assert _pickle.load(pickle.dumps(value, 5), {}) == value


def test_what_is_shared_stays_shared() -> None:
    shared = [1]
    first, second = _pickle.load(pickle.dumps([shared, shared]), {})
    assert first is second


def test_an_ordered_dict_is_a_table() -> None:
    made: Any = OrderedDict(b=1, a=2)
    made.version = 3
    result = _pickle.load(pickle.dumps(made, 2), TABLE)
    assert type(result) is _pickle.Table
    assert list(result.items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("state", ["N", "}", "(}}t", "(N}t", "(NNt"])
def test_attributes_of_a_table_are_dropped(state: str) -> None:
    assert _pickle.load(f"\x80\x02ccollections\nOrderedDict\n)R{state}b.".encode("latin1"), TABLE) == {}


@pytest.mark.parametrize("state", ["\x89", "K\x01", "]", "(]}t", "(}K\x01t", "(}}}t", ")"])
def test_attributes_that_are_no_dict_are_refused(state: str) -> None:
    """As pickle refuses them."""
    content = f"\x80\x02ccollections\nOrderedDict\n)R{state}b.".encode("latin1")
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)
    with pytest.raises(WeightsError, match="not the state of a Table: attributes are no dict"):
        _pickle.load(content, TABLE)


def test_texts_of_python_2() -> None:
    content = b"\x80\x02(U\x02\xe9aT\x01\0\0\0bS'c\\x64\\n'\nt."
    assert _pickle.load(content, {}, encoding=None) == (b"\xe9a", b"b", b"cd\n")
    assert _pickle.load(content, {}, encoding="latin-1") == ("\u00e9a", "b", "cd\n")
    with pytest.raises(WeightsError, match=r"^pickle: SHORT_BINSTRING at offset 3: a text that is not utf-8$"):
        _pickle.load(content, {})


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">u2"),
        np.zeros((0, 2), np.uint8),
        np.ones(3, bool),
        np.array(2.5, np.float16),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back(array: Any, protocol: int) -> None:
    result = _pickle.load(pickle.dumps(array, protocol), NUMPY).array
    np.testing.assert_array_equal(result, array, strict=True)
    assert not result.flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy_are_numbers(protocol: int) -> None:
    assert _pickle.load(pickle.dumps([np.float64(1.5), np.int32(4)], protocol), NUMPY) == [1.5, 4]


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(2, "i4,f4"), np.array(["a"]), np.zeros(1, "M8[s]")])
def test_arrays_of_other_types_are_refused(array: Any) -> None:
    with pytest.raises(WeightsError, match=r"only types of numbers are read|is not allowed"):
        _pickle.load(pickle.dumps(array), NUMPY)


def test_an_array_has_the_bytes_its_shape_needs() -> None:
    content = pickle.dumps(np.arange(4, dtype=np.int32), 4)
    damaged = content.replace(b"K\x04\x85", b"K\x05\x85")
    assert damaged != content
    with pytest.raises(WeightsError, match=r"BUILD at offset \d+: .* takes 20 bytes, got 16"):
        _pickle.load(damaged, NUMPY)


class Trap:
    def __reduce__(self) -> Any:
        return eval, ("1/0",)


def test_a_call_is_refused_by_name() -> None:
    with pytest.raises(WeightsError, match=r"^pickle: STACK_GLOBAL at offset 29: builtins\.eval is not allowed"):
        _pickle.load(pickle.dumps(Trap(), 4), TABLE)


def test_the_caller_chooses_the_error_and_its_beginning() -> None:
    with pytest.raises(DataError, match=r"^data_batch_1: GLOBAL at offset 2: __builtin__\.eval is not allowed"):
        _pickle.load(pickle.dumps(Trap(), 2), TABLE, error=DataError, where="data_batch_1")


def test_pickles_in_a_row() -> None:
    content = pickle.dumps([1], 2) + pickle.dumps("b", 4)
    value, end = _pickle.load_at(content, 0, {})
    assert (value, content[end:]) == ([1], pickle.dumps("b", 4))
    assert _pickle.load_at(content, end, {}) == ("b", len(content))
    with pytest.raises(WeightsError, match=f"{len(content) - end} bytes follow the end of the pickle at offset {end}$"):
        _pickle.load(content, {})


def test_every_cut_is_refused_or_asks_for_more() -> None:
    content = pickle.dumps({"a": [1, 2.5, "text"], "b": b"x" * 300, 3: 2**70}, 4)
    for length in range(len(content)):
        with pytest.raises(WeightsError):
            _pickle.load(content[:length], {})
        with pytest.raises(_pickle.NeedMoreError):
            _pickle.load_at(content[:length], 0, {}, partial=True)


def test_persistent_ids_need_a_handler() -> None:
    content = b"\x80\x02K\x07Q."
    with pytest.raises(WeightsError, match="BINPERSID at offset 4: persistent ids are not allowed here"):
        _pickle.load(content, {})
    assert _pickle.load(content, {}, lambda identifier: [identifier]) == [7]


@pytest.mark.parametrize("error", [TypeError, ValueError, OverflowError, WeightsError])
def test_what_a_function_cannot_use_is_refused(error: type[Exception]) -> None:
    def picky(*arguments: Any) -> Any:
        message = "not so"
        raise error(message)

    with pytest.raises(WeightsError, match=r"^pickle: REDUCE at offset 8: a\.b.*not so$"):
        _pickle.load(b"\x80\x02ca\nb\n)R.", {("a", "b"): picky})


def test_what_the_values_may_take_is_bounded() -> None:
    content = pickle.dumps(b"x" * 100_000)
    assert len(_pickle.load(content, {}, most_memory=200_000)) == 100_000
    with pytest.raises(WeightsError, match="the values take too much memory"):
        _pickle.load(content, {}, most_memory=50_000)


# What fuzzing found: pickles that Python's own reader takes apart in another way, or with much memory.


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x80\x05\x95\x06\x08\0\0\0\0\0\0\x8c\x02\xc3\xa9\x94.", "FRAME .* a frame of 2054 bytes, 6 left"),
        (b"\x80\x05\x95\x0a\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.", "FRAME .* inside of the frame that ends at"),
        (b"\x80\x04\x95\x03\0\0\0\0\0\0\0X\x02\0\0\0ab.", "BINUNICODE .* 4 bytes wanted, the frame ends at offset 14"),
        (b"\x80\x04\x95\x04\0\0\0\0\0\0\0ca\nb\n.", "GLOBAL .* 2 bytes wanted, the frame ends at offset 15"),
        (b"\x80\x02L01\n.", "LONG .* not a number of at most 39 digits, the first of them not 0"),
        (b"\x80\x02}(K\1NK\1Nu.", "SETITEMS .* the key 1 stands twice"),
        (b"\x80\x02Nr\xfe\xff\xff\x7f.", "LONG_BINPUT .* place 2147483646 of at most 1000000"),
    ],
    ids=[
        "long frame",
        "frame in a frame",
        "text across frames",
        "line across frames",
        "octal",
        "key twice",
        "place in the memo",
    ],
)
def test_what_readers_disagree_about_is_refused(content: bytes, text: str) -> None:
    with pytest.raises(WeightsError, match=text):
        _pickle.load(content, {})
