"""`Module.capture` (hooks are plan outputs) and `Module.trace` (every value from the reference executor)."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import cnnrs
import tolerance
from cases import real
from cnnrs import functional as F
from cnnrs import models, nn


class Block(nn.Module):
    """A convolution that can be used twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return F.tanh(self.conv(x))


class Net(nn.Module):
    """A shared block, a part with two results, and a part that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3)
        self.block = Block(3)
        self.again = self.block
        self.pool = nn.MaxPool2d(2)
        self.split = Split()
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(27, 4)

    def forward(self, x: Any) -> Any:
        y = self.block(self.block(self.stem(x)))
        y, _ = self.split(self.pool(y))
        return self.head(F.flatten(y))


class Split(nn.Module):
    """Two results."""

    def forward(self, x: Any) -> Any:
        return F.relu(x), F.sigmoid(x)


@pytest.fixture
def net() -> Net:
    """The network with fixed parameters."""
    cnnrs.manual_seed(0)
    return Net()


X = real(2, 8, 8, 1)


@pytest.mark.usefixtures("isa")
def test_captured_outputs_are_those_of_the_parts(net: Net) -> None:
    """Layer by layer, each part on the captured output of the one before; nothing changes in the result."""
    plain = net(X)
    with net.capture("stem", "block", "pool", "split", "head", "") as found:
        y = net(X)
    tolerance.assert_same_bits(y, plain)
    tolerance.assert_same_bits(found["stem"], net.stem(X))
    first, second = found["block"]
    tolerance.assert_same_bits(first, net.block(found["stem"]))
    tolerance.assert_same_bits(second, net.block(first))
    tolerance.assert_same_bits(found["pool"], net.pool(second))
    tolerance.assert_same_bits(list(found["split"]), list(net.split(found["pool"])))
    tolerance.assert_same_bits(found["head"], plain)
    tolerance.assert_same_bits(found[""], plain)
    assert list(found) == ["stem", "block", "pool", "split", "head", ""]


def test_a_shared_part_has_a_list_under_each_of_its_names(net: Net) -> None:
    with net.capture("block", "again.conv") as found:
        net(X)
    assert [array.shape for array in found["block"]] == [(2, 6, 6, 3)] * 2
    for before, after in zip(found["again.conv"], found["block"], strict=True):
        np.testing.assert_allclose(after, np.tanh(before), rtol=1e-5)


def test_patterns_take_the_parts_that_are_called(net: Net) -> None:
    with net.capture("*") as found:
        net(X)
    assert list(found) == ["stem", "block", "block.conv", "again", "again.conv", "pool", "split", "head"]
    model = models.lenet5()
    with model.capture("features.[03]", "classifier.5") as found:
        model(real(1, 28, 28, 1))
    assert {name: array.shape for name, array in found.items()} == {
        "features.0": (1, 28, 28, 6),
        "features.3": (1, 10, 10, 16),
        "classifier.5": (1, 10),
    }


def test_the_last_call_inside_the_block_counts(net: Net) -> None:
    with net.capture("stem") as found:
        assert found == {}
        net(X)
        first = found["stem"]
        net(X[:1])
    assert found["stem"].shape == (1, 6, 6, 3)
    net(X)
    assert found["stem"].shape == (1, 6, 6, 3)
    np.testing.assert_array_equal(first, net.stem(X))


def test_arrays_are_read_only_and_stay(net: Net) -> None:
    with net.capture("stem", "split") as found:
        net(X)
        before = found["stem"].copy()
        kept = found["stem"]
        net(X + 1)
    for array in (kept, *found["split"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    np.testing.assert_array_equal(kept, before)


def test_the_result_itself_stays_writable(net: Net) -> None:
    with net.capture("head") as found:
        y = net(X)
    y[...] = 0
    assert found["head"].any()


def test_captures_nest(net: Net) -> None:
    with net.capture("stem") as outer:
        with net.capture("head", "stem") as inner:
            y = net(X)
        assert list(outer) == ["stem"]
        np.testing.assert_array_equal(inner["stem"], outer["stem"])
        net(X[:1])
    np.testing.assert_array_equal(inner["head"], y)
    assert (len(outer["stem"]), len(inner["stem"])) == (1, 2)


def test_captures_are_a_part_of_the_plan_key(net: Net) -> None:
    """One plan per set of names, kept and found again."""
    net(X)
    assert len(net._programs) == 1
    for _ in range(2):
        with net.capture("stem"):
            net(X)
            net(X[:1])
        with net.capture("pool", "head"):
            net(X)
    net(X)
    assert len(net._programs) == 3


def test_predict_and_bytes_are_captured_too(net: Net) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with net.capture("head") as found:
        net.predict(images, top=2)
    np.testing.assert_array_equal(found["head"], net(images))


def test_other_threads_and_other_modules_are_not_captured(net: Net) -> None:
    other = copy.deepcopy(net)
    with net.capture("stem") as found:
        other(X)
        thread = threading.Thread(target=net, args=(X,))
        thread.start()
        thread.join()
        net.stem(X)
        cnnrs.vjp(net, X)
        assert found == {}


def test_a_change_of_structure_inside_the_block(net: Net) -> None:
    with net.capture("head") as found:
        net(X)
        net.head = nn.Linear(27, 7)
        net(X)
    assert found["head"].shape == (2, 7)


def test_an_error_inside_leaves_the_last_arrays_and_closes(net: Net) -> None:
    def fail() -> None:
        with net.capture("stem") as found:
            net(X)
            try:
                net(real(2, 3, 3, 1))
            finally:
                assert found["stem"].shape == (2, 6, 6, 3)

    with pytest.raises(cnnrs.ShapeError):
        fail()
    net(X)
    assert len(net._programs) == 2


def test_a_model_with_open_captures_can_be_pickled(net: Net) -> None:
    with net.capture("stem"):
        net(X)
        again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(X), net(X))


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (("sten",), ValueError, r"'sten' fits no part of the model; near names: 'stem'"),
        (("block.con",), ValueError, r"near names: 'block.conv'"),
        (("zzz",), ValueError, r"'zzz' fits no part of the model; near names: 'stem', 'block'"),
        (("stem", "x*"), ValueError, r"'x\*' fits no part"),
        ((), ValueError, "expected the name of at least one part, got none"),
        ((3,), TypeError, "the name of a part must be a str, got 3"),
    ],
)
def test_names_are_checked_at_once(net: Net, names: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=rf"^Net\.capture: .*{match}"):
        net.capture(*names)


def test_a_part_that_is_named_and_not_called_is_refused(net: Net) -> None:
    for _ in range(2):
        with net.capture("stem", "unused") as found, pytest.raises(ValueError, match="forward does not call 'unused'"):
            net(X)
        assert found == {}
    with net.capture("un*", "stem") as found:
        net(X)
    assert list(found) == ["stem"]


def test_a_part_that_returns_something_else_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"y": x}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd()

        def forward(self, x: Any) -> Any:
            return self.odd(x)["y"]

    model = Outer()
    with model.capture("odd"), pytest.raises(TypeError, match=r"^Outer\.capture: odd returns dict"):
        model(X)


# Every value.


def test_trace_lists_every_value_of_the_unfused_graph() -> None:
    model = models.lenet5(activation="relu", pool="max")
    x = real(2, 28, 28, 1)
    rows = model.trace(x)
    stage = ["conv2d", "relu", "max_pool2d", "max_pool2d"]
    assert [op for _, op, _ in rows] == [*stage, *stage, "flatten", "linear", "relu", "linear", "relu", "linear"]
    assert [layer for layer, _, _ in rows[:4]] == ["features.0", "features.1", "features.2", "features.2"]
    assert {array.dtype.name for _, _, array in rows} == {"float32", "int64"}
    logits = rows[-1].array
    assert (rows[-1].layer, logits.shape) == ("classifier.5", (2, 10))
    np.testing.assert_allclose(model(x), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.maximum(rows[0].array, 0), rows[1].array)


def test_trace_agrees_with_captures(net: Net) -> None:
    with net.capture("*") as found:
        net(X)
    by_layer: dict[str, list[Any]] = {}
    for layer, _, array in net.trace(X):
        by_layer.setdefault(layer, []).append(array)
    for name in ("stem", "head"):
        np.testing.assert_allclose(found[name], by_layer[name][-1], rtol=1e-4, atol=1e-5)
    for captured, traced in zip(found["block"], by_layer["block"], strict=True):
        np.testing.assert_allclose(captured, traced, rtol=1e-4, atol=1e-5)


def test_trace_scales_bytes_and_changes_nothing(net: Net) -> None:
    images = np.full((1, 8, 8, 1), 51, np.uint8)
    net.input_mean, net.input_std = (0.1,), (0.5,)
    before = net.state_dict(copy=True)
    rows = net.trace(images)
    assert rows[0][:2] == ("", "normalize")
    np.testing.assert_allclose(rows[0].array, 0.2, rtol=1e-6)
    tolerance.assert_same_bits(net.state_dict(copy=True), before)
    np.testing.assert_allclose(rows[-1].array, net(images), rtol=1e-4, atol=1e-5)


def test_trace_refuses_what_a_call_refuses(net: Net) -> None:
    with pytest.raises(TypeError, match="x must be a NumPy array"):
        net.trace([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(cnnrs.ShapeError, match=r"^stem: conv2d"):
        net.trace(real(1, 8, 8, 3))
