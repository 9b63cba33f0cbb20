"""Modules: structure, state, modes, the cache of programs, and calls on arrays."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import functional as F
from cnnrs import graph, models, nn
from cnnrs.nn import _cache, init


class Net(nn.Module):
    """Counts how often its Python code runs."""

    traces = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.scale = nn.Parameter(real(4, 4))
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 1, 1, bias=False))
        self.head = nn.Linear(36, 4)

    def forward(self, x: Any) -> Any:
        type(self).traces += 1
        return F.linear(self.head(F.flatten(self.body(self.conv(x)))), self.scale)


NAMES = ["scale", "conv.weight", "conv.bias", "body.1.weight", "head.weight", "head.bias"]
IMAGES = real(2, 6, 6, 2)


@pytest.fixture
def net() -> Net:
    """A fresh network whose traces count from zero."""
    Net.traces = 0
    return Net()


# Structure.


def test_names_follow_the_attributes(net: Net) -> None:
    assert [name for name, _ in net.named_modules()] == ["", "conv", "body", "body.0", "body.1", "head"]
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [type(module).__name__ for module in net.children()] == ["Conv2d", "Sequential", "Linear"]
    assert [name for name, _ in net.named_parameters("model")] == [f"model.{name}" for name in NAMES]
    assert len(list(net.parameters())) == len(NAMES)


def test_replacing_and_deleting_attributes(net: Net) -> None:
    net.conv = nn.Conv2d(2, 3, 5, padding=2)
    assert [name for name, _ in net.named_parameters()] == NAMES
    del net.head
    assert [name for name, _ in net.named_parameters()] == NAMES[:-2]
    net.conv = None  # type: ignore[assignment]
    assert [name for name, _ in net.named_modules()] == ["", "body", "body.0", "body.1"]


def test_shared_parts_count_once_and_keep_every_name() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = real(3, 4)
    np.testing.assert_array_equal(model(x), layer(F.tanh(layer(x))))


def test_a_module_cannot_contain_itself(net: Net) -> None:
    with pytest.raises(ValueError, match="a part of itself"):
        net.body.append(net)
    with pytest.raises(ValueError, match="a part of itself"):
        net.me = net
    assert not hasattr(net, "me")


def test_subclasses_may_leave_out_the_base_initialiser() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(x)

    assert Bare()(real(1, 2)).shape == (1, 2)


def test_forward_must_be_defined_and_return_values() -> None:
    with pytest.raises(NotImplementedError, match=r"^Module: forward is not defined"):
        nn.Module()(IMAGES)

    class Wrong(nn.Module):
        result: Any = None

        def forward(self, x: Any) -> Any:
            return self.result

    for result in (None, 3, real(2, 2), ()):
        Wrong.result = result
        with pytest.raises(TypeError, match=r"^Wrong: forward must return a symbolic value"):
            Wrong()(IMAGES)


def test_forward_may_return_several_values() -> None:
    class Two(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.relu(x), F.tanh(x)

    a, b = Two()(IMAGES)
    np.testing.assert_array_equal(a, F.relu(IMAGES))
    np.testing.assert_array_equal(b, F.tanh(IMAGES))


def test_layers_may_take_several_values() -> None:
    class Join(nn.Module):
        def forward(self, x: Any, y: Any = None) -> Any:
            return x + y

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join = Join()

        def forward(self, x: Any) -> Any:
            return self.join(x, F.relu(x))

    np.testing.assert_array_equal(Residual()(IMAGES), IMAGES + F.relu(IMAGES))
    with pytest.raises(TypeError, match=r"^Join: takes one array, got 2"):
        Join()(IMAGES, IMAGES)


def test_repr_is_a_tree(net: Net) -> None:
    lines = repr(net).splitlines()
    assert lines[0] == "Net("
    assert lines[1] == "  (conv): Conv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)))"
    assert "    (1): Conv2d(3, 1, kernel_size=(1, 1), stride=(1, 1), bias=False)" in lines
    assert lines[-1] == ")"
    assert repr(nn.MaxPool2d(3, 2, dilation=2)) == "MaxPool2d(kernel_size=(3, 3), stride=(2, 2), dilation=(2, 2))"
    assert repr(nn.Flatten("chw")) == "Flatten(order='chw')"
    assert repr(nn.Parameter(real(2, 3), trainable=False)) == "Parameter(shape=(2, 3), trainable=False)"


# Sequential.


def test_sequential_is_a_sequence() -> None:
    layers = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert list(model) == layers
    assert (model[0], model[-1]) == (layers[0], layers[2])
    assert list(model[1:]) == layers[1:]
    with pytest.raises(IndexError):
        model[3]
    x = real(2, 4)
    before = model(x)
    assert model.append(nn.Softmax()) is model
    np.testing.assert_array_equal(model(x), F.softmax(before))
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("wrong", [F.relu, None, nn.ReLU, "relu"])
def test_sequential_takes_modules_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^Sequential: layer 1 must be an nn\.Module"):
        nn.Sequential(nn.ReLU(), wrong)


def test_an_empty_sequential_is_the_identity() -> None:
    np.testing.assert_array_equal(nn.Sequential()(IMAGES), IMAGES)
    np.testing.assert_array_equal(nn.Identity()(IMAGES), IMAGES)


# Layers.


def test_layers_agree_with_functional() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), dilation=(1, 2), groups=2)
    x = real(2, 7, 8, 4)
    arguments = ((2, 1), ((1, 0), (0, 1)), (1, 2), 2)
    assert conv.bias is not None
    np.testing.assert_array_equal(conv(x), F.conv2d(x, conv.weight.array, conv.bias.array, *arguments))
    same = nn.Conv2d(4, 6, 3, stride=2, padding="same", bias=False)
    np.testing.assert_array_equal(same(x), F.conv2d(x, same.weight.array, stride=2, padding="same"))
    np.testing.assert_array_equal(nn.MaxPool2d(3, 2, 1, 1, True)(x), F.max_pool2d(x, 3, 2, 1, 1, True))
    np.testing.assert_array_equal(nn.AvgPool2d(3, 2, 1, True, False)(x), F.avg_pool2d(x, 3, 2, 1, True, False))
    np.testing.assert_array_equal(nn.MaxPool2d(2)(x), F.max_pool2d(x, 2))
    np.testing.assert_array_equal(nn.Sigmoid()(x), F.sigmoid(x))
    np.testing.assert_array_equal(nn.Flatten("chw")(x), F.flatten(x, "chw"))
    np.testing.assert_array_equal(nn.Flatten()(x), F.flatten(x))


def test_same_padding_is_resolved_for_each_input_size() -> None:
    conv = nn.Conv2d(2, 2, 3, stride=2, padding="same")
    assert conv(real(1, 7, 8, 2)).shape == (1, 4, 4, 2)
    assert conv(real(1, 8, 5, 2)).shape == (1, 4, 3, 2)


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"])
@pytest.mark.parametrize("wrong", [0, -1, 2**31, 2**70, 1.0, "1", None, True], ids=str)
def test_conv2d_checks_its_numbers(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^Conv2d: {name} must be an int"):
        nn.Conv2d(**{"in_channels": 2, "out_channels": 2, "kernel_size": 3, name: wrong})


def test_conv2d_groups_divide_the_channels() -> None:
    for channels in ((4, 6), (6, 4)):
        with pytest.raises(ValueError, match=r"^Conv2d: groups must divide in_channels and out_channels, got groups 3"):
            nn.Conv2d(*channels, 3, groups=3)


def test_other_layers_check_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"^Linear: out_features must be an int"):
        nn.Linear(3, 0)
    with pytest.raises(ValueError, match=r"^AvgPool2d: kernel_size must be an int"):
        nn.AvgPool2d(0)
    with pytest.raises(ValueError, match=r"^Conv2d: padding must be an int"):
        nn.Conv2d(1, 1, 3, padding="SAME")
    with pytest.raises(ValueError, match=r"^flatten: order must be"):
        nn.Flatten("HWC")
    with pytest.raises(TypeError, match=r"^Linear: bias must be True or False"):
        nn.Linear(3, 2, bias=None)  # type: ignore[arg-type]


# Initialisation.


def test_layers_start_as_in_torch() -> None:
    cnnrs.manual_seed(3)
    for layer, fan_in in ((nn.Conv2d(8, 64, 3, groups=2), 36), (nn.Linear(400, 120), 400)):
        bound = 1 / math.sqrt(fan_in)
        weight = layer.weight.array
        assert np.abs(weight).max() <= bound
        assert abs(weight.mean()) < 4 * bound / math.sqrt(3 * weight.size)
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is not None
        assert 0 < np.abs(layer.bias.array).max() <= bound


def test_the_seed_decides() -> None:
    cnnrs.manual_seed(1)
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    cnnrs.manual_seed(1)
    again = nn.Linear(3, 2)
    cnnrs.manual_seed(2)
    other = nn.Linear(3, 2)
    np.testing.assert_array_equal(first.weight.array, again.weight.array)
    assert (first.weight.array != second.weight.array).any()
    assert (first.weight.array != other.weight.array).any()


def test_init_functions() -> None:
    np.testing.assert_array_equal(init.zeros((2, 3)), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(init.constant((2,), 3), np.full(2, 3, np.float32))
    draws = {
        init.uniform((100, 100), -2, 1).tobytes(): (-2.0, 1.0),
        init.kaiming_uniform((3, 3, 16, 100)).tobytes(): (-math.sqrt(6 / 144), math.sqrt(6 / 144)),
        init.xavier_uniform((100, 60), gain=2).tobytes(): (-2 * math.sqrt(6 / 160), 2 * math.sqrt(6 / 160)),
    }
    for content, (low, high) in draws.items():
        array = np.frombuffer(content, np.float32)
        assert low <= array.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < array.max() <= high
    assert init.fans((5, 3, 4, 7)) == (60, 105)
    assert init.fans((4, 7)) == (4, 7)


def test_init_refuses() -> None:
    for shape in ((3,), (2, 3, 4, 5, 6), (0, 3)):
        with pytest.raises(ValueError, match=r"^kaiming_uniform: shape must be"):
            init.kaiming_uniform(shape)
    with pytest.raises(ValueError, match=r"^uniform: low must be at most high"):
        init.uniform((2,), 1, 0)
    with pytest.raises(ValueError, match=r"^constant: value must be finite"):
        init.constant((2,), math.nan)
    with pytest.raises(TypeError, match=r"^zeros: shape must be a tuple"):
        init.zeros(3)  # type: ignore[arg-type]


# Parameters.


def test_parameters_are_live_read_only_and_checked() -> None:
    parameter = nn.Parameter(real(2, 3))
    view = parameter.array
    parameter.assign(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(view, np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 5
    assert (parameter.shape, parameter.ndim, parameter.size) == ((2, 3), 2, 6)
    with pytest.raises(cnnrs.ShapeError, match=r"\(3, 2\)"):
        parameter.assign(real(3, 2))
    for wrong in (np.zeros((2, 3)), [[1.0]], None):
        with pytest.raises(TypeError, match="Parameter: array must be a float32"):
            parameter.assign(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="Parameter: array must be a float32"):
            nn.Parameter(wrong)  # type: ignore[arg-type]


def test_a_parameter_owns_its_content() -> None:
    array = real(2, 3)
    parameter = nn.Parameter(array)
    array[...] = 7
    assert (parameter.array != 7).all()


def test_the_view_outlives_the_parameter() -> None:
    view = nn.Parameter(np.full(1000, 3, np.float32)).array
    gc.collect()
    np.testing.assert_array_equal(view, np.full(1000, 3, np.float32))


# State.


def test_state_dict_is_live_and_copies_on_request(net: Net) -> None:
    live, snapshot = net.state_dict(), net.state_dict(copy=True)
    assert list(live) == NAMES
    net.scale.assign(np.zeros((4, 4), np.float32))
    assert not live["scale"].any()
    assert snapshot["scale"].any()
    assert not live["scale"].flags.writeable
    assert snapshot["scale"].flags.writeable


def test_load_state_dict_round_trip(net: Net) -> None:
    other = Net()
    assert (other(IMAGES) != net(IMAGES)).any()
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(other(IMAGES), net(IMAGES))
    other.load_state_dict({name: array.astype(np.float64) for name, array in net.state_dict().items()})
    np.testing.assert_array_equal(other(IMAGES), net(IMAGES))


def test_load_state_dict_takes_live_views_in_any_order() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = model.state_dict(copy=True)
    live = model.state_dict()
    model.load_state_dict({"0.weight": live["1.weight"], "1.weight": live["0.weight"]})
    np.testing.assert_array_equal(model[0].state_dict()["weight"], before["1.weight"])
    np.testing.assert_array_equal(model[1].state_dict()["weight"], before["0.weight"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scale": None}, "scale must be a float32 array, got NoneType"),
        ({"scale": real(4, 5)}, r"scale must have shape \(4, 4\), got \(4, 5\)"),
        ({"scale": np.zeros((4, 4), np.int64)}, "scale must be a float32 array, got a int64 array"),
        ({"extra": real(1)}, "unexpected extra"),
        ({"head.bias": ...}, "missing head.bias"),
    ],
)
def test_load_state_dict_is_all_or_nothing(net: Net, change: dict[str, Any], text: str) -> None:
    before = net.state_dict(copy=True)
    state = {name: np.zeros_like(array) for name, array in before.items()} | change
    state = {name: array for name, array in state.items() if array is not ...}
    with pytest.raises(cnnrs.WeightsError, match=f"^Net: weights do not fit the model: {text}"):
        net.load_state_dict(state)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_not_strict(net: Net) -> None:
    net.load_state_dict({"scale": np.zeros((4, 4), np.float32), "extra": real(1)}, strict=False)
    assert not net.scale.array.any()
    with pytest.raises(cnnrs.WeightsError, match="scale must have shape"):
        net.load_state_dict({"scale": real(1)}, strict=False)
    with pytest.raises(TypeError, match="state must map names to arrays"):
        net.load_state_dict([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(net: Net, clone: Any) -> None:
    expected = net(IMAGES)
    net.body.freeze()
    other = clone(net)
    assert len(other._programs) == 0
    np.testing.assert_array_equal(other(IMAGES), expected)
    assert [parameter.trainable for parameter in other.parameters()] == [True, True, True, False, True, True]
    other.scale.assign(np.zeros((4, 4), np.float32))
    np.testing.assert_array_equal(net(IMAGES), expected)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_what_is_shared(clone: Any) -> None:
    layer = nn.Linear(4, 4)
    other = clone(nn.Sequential(layer, layer))
    assert other[0] is other[1]
    assert len(list(other.parameters())) == 2


def test_a_model_is_freed_with_its_last_reference() -> None:
    gc.collect()
    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(4, 4))
        model(real(1, 4))
        reference = weakref.ref(model)
        del model
        assert reference() is None
    finally:
        gc.enable()


# Modes.


def test_train_and_eval_reach_every_part(net: Net) -> None:
    assert net.eval() is net
    assert not any(module.training for _, module in net.named_modules())
    net.body.train()
    assert [name for name, module in net.named_modules() if module.training] == ["body", "body.0", "body.1"]
    with pytest.raises(TypeError, match=r"^Net: mode must be True or False"):
        net.train("yes")  # type: ignore[arg-type]


def test_freeze_by_part_and_pattern(net: Net) -> None:
    def frozen() -> list[str]:
        return [name for name, parameter in net.named_parameters() if not parameter.trainable]

    assert net.freeze("conv") is net
    assert frozen() == ["conv.weight", "conv.bias"]
    net.freeze("*.bias")
    assert frozen() == ["conv.weight", "conv.bias", "head.bias"]
    net.unfreeze("conv.*")
    assert frozen() == ["head.bias"]
    net.freeze()
    assert frozen() == NAMES
    net.unfreeze()
    assert frozen() == []
    with pytest.raises(ValueError, match=r"^Net: pattern 'con' fits no parameter"):
        net.freeze("con")
    with pytest.raises(TypeError, match=r"^Net: pattern must be a str"):
        net.freeze(3)  # type: ignore[arg-type]


# Programs.


def test_a_warm_call_runs_no_layer_code(net: Net) -> None:
    first = net(IMAGES)
    np.testing.assert_array_equal(net(IMAGES), first)
    np.testing.assert_array_equal(net(IMAGES[:1]), first[:1])
    assert Net.traces == 1


def test_the_batch_size_may_change_in_both_directions(net: Net) -> None:
    one = net(IMAGES[:1])
    many = net(np.repeat(IMAGES[:1], 9, axis=0))
    assert one.shape == (1, 4)
    np.testing.assert_allclose(many, np.repeat(one, 9, axis=0), rtol=1e-6)
    assert net(IMAGES[:0]).shape == (0, 4)
    assert Net.traces == 1


def test_an_empty_batch_may_come_first(net: Net) -> None:
    assert net(IMAGES[:0]).shape == (0, 4)
    assert net(IMAGES).shape == (2, 4)


def test_new_structure_never_meets_a_stale_plan(net: Net) -> None:
    net(IMAGES)
    net.scale = nn.Parameter(np.zeros((4, 7), np.float32))
    assert net(IMAGES).shape == (2, 7)
    net.body[1].stride = (2, 2)
    net.head = nn.Linear(9, 4)
    assert net(IMAGES).shape == (2, 7)
    assert Net.traces == 3


def test_new_contents_need_no_new_trace(net: Net) -> None:
    net(IMAGES)
    net.scale.assign(np.zeros((4, 4), np.float32))
    assert not net(IMAGES).any()
    assert Net.traces == 1


def test_attributes_set_while_tracing_do_not_make_the_plan_stale() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return F.relu(x)

    model = Counting()
    for _ in range(3):
        model(IMAGES)
    assert model.calls == 1


@pytest.mark.parametrize("change", ["train", "eval", "freeze", "unfreeze"])
def test_modes_bump_the_structure_epoch(net: Net, change: str) -> None:
    before = graph.epoch()
    getattr(net, change)()
    assert graph.epoch() > before


def test_trainable_bumps_the_structure_epoch(net: Net) -> None:
    before = graph.epoch()
    net.scale.trainable = False
    assert graph.epoch() > before


def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    class Traced(nn.Module):
        traces = 0

        def forward(self, x: Any) -> Any:
            type(self).traces += 1
            return F.relu(x)

    model = Traced()
    for width in range(1, _cache.CAPACITY + 1):
        model(real(1, width))
    model(real(1, 1))
    model(real(1, 100))
    assert (Traced.traces, len(model._programs)) == (_cache.CAPACITY + 1, _cache.CAPACITY)
    model(real(1, 1))
    assert Traced.traces == _cache.CAPACITY + 1
    model(real(1, 2))
    assert Traced.traces == _cache.CAPACITY + 2


def test_clear_cache_forgets_programs(net: Net) -> None:
    expected = net(IMAGES)
    cnnrs.clear_cache()
    assert len(net._programs) == 0
    np.testing.assert_array_equal(net(IMAGES), expected)


def test_threads_share_a_model(net: Net) -> None:
    expected = net(IMAGES)
    cnnrs.clear_cache()
    results: list[Any] = [None] * 8
    start = threading.Barrier(8)

    def call(index: int) -> None:
        start.wait()
        results[index] = [net(IMAGES) for _ in range(10)]

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        for output in result:
            np.testing.assert_array_equal(output, expected)


# Calls.


def test_float_inputs_are_converted_once(net: Net) -> None:
    half = IMAGES.astype(np.float16)
    np.testing.assert_array_equal(net(half), net(half.astype(np.float32)))
    np.testing.assert_array_equal(net(IMAGES.astype(np.float64)), net(IMAGES))
    np.testing.assert_array_equal(net(IMAGES.astype(">f4")), net(IMAGES))
    assert Net.traces == 1


def test_uint8_is_scaled_by_mean_and_deviation(net: Net) -> None:
    pixels = np.arange(144, dtype=np.uint8).reshape(2, 6, 6, 2)
    scaled = (pixels / 255).astype(np.float32)
    np.testing.assert_allclose(net(pixels), net(scaled), rtol=1e-4, atol=1e-5)
    net.input_mean, net.input_std = (0.5, 0.25), (2.0, 4.0)
    scaled = ((pixels / 255 - (0.5, 0.25)) / (2.0, 4.0)).astype(np.float32)
    np.testing.assert_allclose(net(pixels), net(scaled), rtol=1e-4, atol=1e-5)
    net.input_mean = (0.1, 0.2, 0.3)
    with pytest.raises(cnnrs.ShapeError, match="mean"):
        net(pixels)


@pytest.mark.parametrize(
    "wrong",
    [
        IMAGES.astype(bool),
        IMAGES.astype(np.int32),
        IMAGES.astype(np.int8),
        IMAGES.astype(np.complex64),
        np.array(["a"]),
        np.array([None]),
        IMAGES.tolist(),
        None,
        3,
    ],
    ids=lambda wrong: str(wrong.dtype) if isinstance(wrong, np.ndarray) else type(wrong).__name__,
)
def test_other_inputs_are_type_errors(net: Net, wrong: Any) -> None:
    for call in (net, net.predict):
        with pytest.raises(TypeError, match=r"^Net: x must be a NumPy array of float32.*\.astype\(np\.float32\)$"):
            call(wrong)


def test_a_scalar_has_no_batch(net: Net) -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"^Net: x must have a batch axis"):
        net(np.zeros((), np.float32))


def test_calls_work_with_frozen_and_training_parts(net: Net) -> None:
    expected = net(IMAGES)
    net.eval().freeze()
    np.testing.assert_array_equal(net(IMAGES), expected)


# Predictions.


def test_predict_sorts_probabilities(net: Net) -> None:
    labels, probabilities = net.predict(IMAGES, top=3)
    assert (labels.shape, labels.dtype) == ((2, 3), np.int64)
    assert (probabilities.shape, probabilities.dtype) == ((2, 3), np.float32)
    expected = F.softmax(net(IMAGES))
    np.testing.assert_array_equal(labels[:, 0], expected.argmax(axis=1))
    np.testing.assert_allclose(probabilities, -np.sort(-expected, axis=1)[:, :3], rtol=1e-6)


def test_predict_gives_equal_classes_in_order() -> None:
    labels, probabilities = nn.Identity().predict(np.zeros((1, 6), np.float32))
    np.testing.assert_array_equal(labels, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(probabilities, np.full((1, 5), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize(("error", "top"), [(ValueError, 5), (ValueError, 0), (ValueError, 2**70), (TypeError, "1")])
def test_predict_checks_top(net: Net, error: type[Exception], top: Any) -> None:
    with pytest.raises(error, match=r"^Net: top must be"):
        net.predict(IMAGES, top=top)


def test_predict_needs_logits() -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"^ReLU: predict needs logits \(N, classes\)"):
        nn.ReLU().predict(IMAGES)


def test_predict_of_an_empty_batch() -> None:
    labels, probabilities = models.lenet5().predict(np.zeros((0, 28, 28, 1), np.uint8), top=2)
    assert labels.shape == probabilities.shape == (0, 2)
