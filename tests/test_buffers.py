"""Buffers of modules: their place in the structure, the state, files, copies; never among the parameters."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import cnnrs
from cases import real
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F
from tolerance import assert_same_bits

TENSORS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


class Net(nn.Module):
    """A convolution, its normalization, a table of its own, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.table = nn.Buffer(real(4, seed=5))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(F.global_avg_pool2d(F.relu(self.bn(self.conv(x))) + self.table))


NAMES = ["table", "conv.weight", *(f"bn.{name}" for name in TENSORS), "head.weight", "head.bias"]
BUFFERS = ["table", *(f"bn.{name}" for name in TENSORS[2:])]
X, Y = real(6, 7, 7, 2), np.arange(6) % 3


def trained() -> Net:
    """A network whose buffers have moved."""
    cnnrs.manual_seed(4)
    net = Net()
    trainer = Trainer(net, optim.SGD(lr=0.1))
    for _ in range(3):
        trainer.step(X, Y)
    return net


# Structure.


def test_buffers_are_no_parameters() -> None:
    net = Net()
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert [name for name, _ in net.named_parameters()] == [name for name in NAMES if name not in BUFFERS]
    assert [name for name, _ in net.named_buffers("model")] == [f"model.{name}" for name in BUFFERS]
    assert list(net.state_dict()) == NAMES
    summary = net.summary((7, 7, 2), batch_size=2)
    assert summary.parameters == summary.trainable == 3 * 3 * 2 * 4 + 2 * 4 + 4 * 3 + 3


def test_what_is_shared_counts_once_and_keeps_every_name() -> None:
    layer = nn.BatchNorm1d(4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert [name for name, _ in model.named_buffers()] == [f"0.{name}" for name in TENSORS[2:]]
    assert list(model.state_dict()) == [f"{index}.{name}" for index in (0, 2) for name in TENSORS]


def test_a_new_buffer_makes_plans_stale() -> None:
    net = Net()
    before = net(X)
    net.table = nn.Buffer(np.zeros(4, np.float32))
    assert (net(X) != before).any()
    del net.table
    assert [name for name, _ in net.named_buffers()] == BUFFERS[1:]


def test_new_contents_need_no_new_plan() -> None:
    net = Net()
    before = net(X)
    net.bn.running_mean.assign(np.full(4, 2, np.float32))  # type: ignore[union-attr]
    assert (net(X) != before).any()


def test_a_buffer_is_typed_and_checked() -> None:
    for array in (real(2, 3), np.array(5), np.zeros(0, np.int64), real(3).astype(">f4")):
        buffer = nn.Buffer(array)
        np.testing.assert_array_equal(buffer.array, array)
        assert (buffer.shape, buffer.ndim, buffer.size) == (array.shape, array.ndim, array.size)
        assert buffer.dtype == array.dtype.newbyteorder("=")
        assert not buffer.array.flags.writeable
    for wrong in (np.zeros(2), np.zeros(2, np.int32), [1.0], None, np.zeros(2, np.uint64)):
        with pytest.raises(TypeError, match=r"^Buffer: array must be a float32 or int64 NumPy array"):
            nn.Buffer(wrong)  # type: ignore[arg-type]
    counter = nn.Buffer(np.array(5))
    view = counter.array
    counter.assign(np.array(7))
    assert view == 7
    with pytest.raises(TypeError, match=r"^Buffer: array must be a int64 NumPy array, got a float32 array"):
        counter.assign(np.float32([1])[0:1])
    with pytest.raises(cnnrs.ShapeError):
        counter.assign(np.array([1]))
    assert repr(counter) == "Buffer(shape=(), dtype=int64)"


# State.


def test_the_state_has_torchs_names_and_types() -> None:
    layer = nn.BatchNorm2d(3)
    state = layer.state_dict()
    assert list(state) == TENSORS
    assert [array.shape for array in state.values()] == [(3,), (3,), (3,), (3,), ()]
    assert [array.dtype for array in state.values()] == [np.float32] * 4 + [np.int64]
    for name, start in zip(TENSORS, (1, 0, 0, 1, 0), strict=True):
        assert (state[name] == start).all()


def test_the_state_is_live_and_copies_on_request() -> None:
    net = Net()
    live, snapshot = net.state_dict(), net.state_dict(copy=True)
    Trainer(net, optim.SGD(lr=0.1)).step(X, Y)
    assert live["bn.num_batches_tracked"] == 1
    assert snapshot["bn.num_batches_tracked"] == 0
    assert (live["bn.running_mean"] != snapshot["bn.running_mean"]).any()
    assert not live["bn.running_var"].flags.writeable
    assert snapshot["bn.running_var"].flags.writeable


def test_load_state_dict_takes_buffers() -> None:
    source, target = trained(), Net()
    target.load_state_dict(source.state_dict())
    assert_same_bits(target.state_dict(), source.state_dict())
    assert_same_bits(target(X), source(X))
    target = Net()
    target.load_state_dict(
        {k: v.astype(np.int16 if v.ndim == 0 else np.float64) for k, v in source.state_dict().items()}
    )
    assert_same_bits(target.state_dict(), source.state_dict())


def test_a_missing_counter_is_no_error() -> None:
    source, target = trained(), Net()
    target.load_state_dict({k: v for k, v in source.state_dict().items() if "num_batches" not in k})
    assert target.state_dict()["bn.num_batches_tracked"] == 0
    assert_same_bits(target(X), source(X))
    with pytest.raises(cnnrs.WeightsError, match=r"missing bn\.running_var$"):
        target.load_state_dict({k: v for k, v in source.state_dict().items() if k != "bn.running_var"})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("bn.num_batches_tracked", np.float32(3), "bn.num_batches_tracked must be an int64 array, got float32"),
        ("bn.num_batches_tracked", np.zeros((), np.uint64), "must be an int64 array, got a uint64 array"),
        ("bn.num_batches_tracked", np.zeros(1, np.int64), r"must have shape \(\), got \(1,\)"),
        ("bn.running_mean", np.zeros(4, np.int64), "bn.running_mean must be a float32 array, got a int64 array"),
        ("bn.running_var", real(5), r"bn.running_var must have shape \(4,\), got \(5,\)"),
    ],
)
def test_load_state_dict_is_all_or_nothing(name: str, value: Any, text: str) -> None:
    net = Net()
    before = net.state_dict(copy=True)
    state = {key: array + array.dtype.type(1) for key, array in before.items()} | {name: value}
    with pytest.raises(cnnrs.WeightsError, match=text):
        net.load_state_dict(state)
    assert_same_bits(net.state_dict(), before)


def test_files_hold_every_bit(tmp_path: Path) -> None:
    source, target = trained(), Net()
    source.save(tmp_path / "net.safetensors")
    assert cnnrs.load_weights(target, tmp_path / "net.safetensors") == ([], [])
    assert_same_bits(target.state_dict(), source.state_dict())
    read = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert set(read) == set(NAMES)
    assert read["bn.num_batches_tracked"].dtype == np.int64
    assert read["bn.num_batches_tracked"] == 3


def test_files_without_counters_load(tmp_path: Path) -> None:
    """Checkpoints of old versions of torch have none."""
    source, target = trained(), Net()
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    state["conv.weight"] = state["conv.weight"].transpose(3, 2, 0, 1).copy()
    state["head.weight"] = state["head.weight"].T.copy()
    safetensors.numpy.save_file({k: v.copy() for k, v in state.items()}, tmp_path / "old.safetensors")
    assert cnnrs.load_weights(target, tmp_path / "old.safetensors") == ([], [])
    assert_same_bits(target(X), source(X))
    state.pop("bn.running_mean")
    safetensors.numpy.save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(cnnrs.WeightsError, match=r"missing bn\.running_mean"):
        cnnrs.load_weights(target, tmp_path / "less.safetensors")
    assert cnnrs.load_weights(target, tmp_path / "less.safetensors", strict=False).missing == ["bn.running_mean"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(clone: Any) -> None:
    net = trained()
    net.bn.freeze()
    other = clone(net)
    assert_same_bits(other.state_dict(), net.state_dict())
    assert [buffer.frozen for _, buffer in other.named_buffers()] == [False, True, True, True]
    before = net.state_dict(copy=True)
    Trainer(other.unfreeze(), optim.SGD(lr=0.1)).step(X, Y)
    assert other.state_dict()["bn.num_batches_tracked"] == 4
    assert_same_bits(net.state_dict(), before)


def test_freeze_reaches_buffers_by_name() -> None:
    net = Net()

    def frozen() -> list[str]:
        return [name for name, buffer in net.named_buffers() if buffer.frozen]

    net.freeze("bn")
    assert frozen() == BUFFERS[1:]
    net.unfreeze().freeze("*.running_mean")
    assert frozen() == ["bn.running_mean"]
    net.freeze()
    assert frozen() == BUFFERS
