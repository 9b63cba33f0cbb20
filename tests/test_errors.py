"""Every rule of the contract about bad input: the exact type of the exception and what its text names."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import tolerance
from cases import Array
from cnnrs import Trainer, models, nn, optim
from cnnrs import functional as F

Call = Callable[..., Any]
X, WEIGHT = cases.real(2, 8, 9, 4), cases.real(3, 3, 4, 6)
HUGE = [2**31, 2**40, 2**63, 2**64, 2**70]


def raises(expected: type[Exception], call: Callable[[], Any], *parts: object) -> None:
    """Exactly this type, and a text that holds every part and has no full stop."""
    with pytest.raises(expected) as caught:
        call()
    assert caught.type is expected, f"{caught.type.__name__}: {caught.value}"
    text = str(caught.value)
    for part in parts:
        assert str(part) in text, f"{part!r} is not in {text!r}"
    assert text
    assert not text.endswith("."), text


CONV: dict[str, Call] = {
    "conv2d": lambda **k: F.conv2d(X, WEIGHT, **k),
    "backward_data": lambda **k: F.conv2d_backward_data(cases.real(2, 6, 7, 6), WEIGHT, X.shape, **k),
    "backward_weights": lambda **k: F.conv2d_backward_weights(X, cases.real(2, 6, 7, 6), 3, **k),
    "Conv2d": lambda **k: nn.Conv2d(4, 6, 3, **k),
}
POOL: dict[str, Call] = {
    "max_pool2d": lambda **k: F.max_pool2d(X, **{"kernel_size": 3, **k}),
    "avg_pool2d": lambda **k: F.avg_pool2d(X, **{"kernel_size": 3, **k}),
    "MaxPool2d": lambda **k: nn.MaxPool2d(**{"kernel_size": 3, **k}),
    "AvgPool2d": lambda **k: nn.AvgPool2d(**{"kernel_size": 3, **k}),
}
CONV_ARGUMENTS = {"stride": 1, "dilation": 1, "groups": 1, "padding": 0}
POOL_ARGUMENTS = {"kernel_size": 1, "stride": 1, "padding": 0}
LAYERS: dict[str, tuple[Call, dict[str, int]]] = {
    "Conv2d": (nn.Conv2d, {"in_channels": 4, "out_channels": 4, "kernel_size": 3}),
    "Linear": (nn.Linear, {"in_features": 4, "out_features": 4}),
    "conv_output_size": (partial(cnnrs.conv_output_size, 9), {"kernel_size": 3, "stride": 1, "dilation": 1}),
}
NUMBERS: list[tuple[Call, str, int]] = [
    *((CONV[call], name, least) for call in CONV for name, least in CONV_ARGUMENTS.items()),
    *((POOL[call], name, least) for call in POOL for name, least in POOL_ARGUMENTS.items()),
    (POOL["max_pool2d"], "dilation", 1),
    *((partial(build, **legal), name, 1) for build, legal in LAYERS.values() for name in legal),
    (models.lenet5, "num_classes", 1),
    (partial(cnnrs.conv_output_size, 9, 3), "padding", 0),
]


@pytest.mark.parametrize(("call", "name", "least"), NUMBERS)
def test_numbers_out_of_range(call: Call, name: str, least: int) -> None:
    """Too small, negative, or beyond 2^31 - 1: always ValueError with the argument's name and the number."""
    for value in (least - 1, -7, -(2**70), *HUGE):
        raises(ValueError, lambda value=value: call(**{name: value}), name, value)


@pytest.mark.parametrize(("call", "name", "least"), NUMBERS)
def test_numbers_of_the_wrong_type(call: Call, name: str, least: int) -> None:
    """Floats, bytes, bools and objects are not ints; the contract makes anything else a ValueError."""
    for value in (1.5, 2.0, b"1", True, least + 1j, object()):
        raises(ValueError, lambda value=value: call(**{name: value}), name)


@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
def test_pairs(name: str) -> None:
    """A pair has two members; each obeys the rule of its argument."""
    for value in ((1, 2, 3), (1,), (), (1, -1), (1, 2**70), (1, 1.5), (True, 1)):
        raises(ValueError, lambda value=value: F.conv2d(X, WEIGHT, **{name: value}), name)


def test_paddings() -> None:
    """Four-sided padding and the named forms."""
    for value in (((1, 1), (1,)), ((1, -1), (0, 0)), ((0, 0), (0, 2**40)), "full", "SAME "):
        raises(ValueError, lambda value=value: F.conv2d(X, WEIGHT, padding=value), "padding")


def test_numpy_integers_are_ints() -> None:
    """Sizes that come out of NumPy are ints like any other."""
    y = F.conv2d(X, WEIGHT, stride=np.int64(2), padding=(np.uint8(1), np.int32(0)), dilation=np.int16(1))
    tolerance.assert_same_bits(y, F.conv2d(X, WEIGHT, stride=2, padding=(1, 0)))


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(("kernel", "padding"), [(2, 2), (3, 2), (1, 1), ((4, 2), (2, 2)), (3, ((0, 2), (0, 0)))])
def test_pool_padding_beyond_half_the_kernel(name: str, kernel: Any, padding: Any) -> None:
    """Otherwise whole windows of padding would appear."""
    raises(ValueError, lambda: POOL[name](kernel_size=kernel, padding=padding), "padding", name)


@pytest.mark.parametrize(
    ("call", "extent", "padded"),
    [
        (lambda: F.conv2d(X, cases.real(9, 3, 4, 6)), 9, 8),
        (lambda: F.conv2d(X, cases.real(3, 12, 4, 6), padding=1), 12, 11),
        (lambda: F.conv2d(X, WEIGHT, dilation=5), 11, 8),
        (lambda: F.max_pool2d(X, (3, 11)), 11, 9),
        (lambda: F.max_pool2d(X, 3, dilation=4, padding=0), 9, 8),
        (lambda: F.avg_pool2d(X, 10, ceil_mode=True), 10, 8),
        (lambda: F.max_pool2d(np.zeros((1, 0, 5, 2), np.float32), 2), 2, 0),
        (lambda: cnnrs.conv_output_size(5, 4, dilation=3, padding=2), 10, 9),
    ],
)
def test_kernel_larger_than_the_padded_input(call: Callable[[], Any], extent: int, padded: int) -> None:
    """The message shows the arithmetic."""
    raises(cnnrs.ShapeError, call, extent, padded)


def test_conv_output_size() -> None:
    """One axis of the same arithmetic, all padding forms."""
    assert cnnrs.conv_output_size(28, 5) == 24
    assert cnnrs.conv_output_size(28, 5, padding=2) == 28
    assert cnnrs.conv_output_size(7, 3, stride=2, padding=1) == 4
    assert cnnrs.conv_output_size(9, 3, dilation=3) == 3
    assert cnnrs.conv_output_size(9, 3, 2, "same") == 5
    assert cnnrs.conv_output_size(9, 3, 2, "valid") == 4
    assert cnnrs.conv_output_size(5, 2, 2, ceil_mode=True) == 3
    assert cnnrs.conv_output_size(3, 1, 3, ceil_mode=True) == 1


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: F.conv2d(X, cases.real(3, 3, 5, 6)), ("conv2d", "weight", 5, 4)),
        (lambda: F.conv2d(X, WEIGHT, groups=4), ("conv2d", "groups", 4)),
        (lambda: F.conv2d(X, cases.real(3, 3, 2, 5), groups=2), ("conv2d", "groups", 5, 2)),
        (lambda: F.conv2d(X, WEIGHT, cases.real(7)), ("conv2d", "bias", 7, 6)),
        (lambda: F.conv2d(X, cases.real(3, 4, 6)), ("conv2d", "weight", "(3, 4, 6)")),
        (lambda: F.conv2d_backward_data(cases.real(2, 6, 7, 5), WEIGHT, X.shape), ("grad_y", 5, 6)),
        (lambda: F.conv2d_backward_data(cases.real(2, 5, 7, 6), WEIGHT, X.shape), ("grad_y", 5)),
        (lambda: F.conv2d_backward_weights(X, cases.real(2, 7, 7, 6), 3), ("grad_y", 7)),
        (lambda: F.conv2d_backward_weights(X, cases.real(3, 6, 7, 6), 3), ("grad_y", 3, 2)),
        (lambda: F.linear(cases.real(2, 5), cases.real(4, 3)), ("linear", 5, 4)),
        (lambda: F.linear(cases.real(2, 5), cases.real(5, 3), cases.real(4)), ("linear", "bias", 4, 3)),
        (lambda: F.linear(X, cases.real(4, 3)), ("linear", "(2, 8, 9, 4)")),
        (lambda: F.avg_pool2d_backward(cases.real(2, 5, 4, 4), X.shape, 2), ("grad_y", "(2, 5, 4, 4)")),
        (lambda: cnnrs.vjp(F.relu, X)[1](cases.real(2, 8, 9, 5)), ("(2, 8, 9, 5)", "(2, 8, 9, 4)")),
    ],
)
def test_shapes_that_do_not_fit(call: Callable[[], Any], parts: tuple[object, ...]) -> None:
    """ShapeError with the function, the argument, and both numbers."""
    raises(cnnrs.ShapeError, call, *parts)


def test_layer_is_named() -> None:
    """Inside a model the message starts with the layer's path in the state dict."""
    model = models.lenet5()
    raises(cnnrs.ShapeError, lambda: model(cases.real(1, 28, 28, 3)), "features.0", 3, 1)
    raises(cnnrs.ShapeError, lambda: model(cases.real(1, 32, 32, 1)), "classifier.1", 576, 400)
    raises(cnnrs.ShapeError, lambda: model(cases.real(1, 3, 3, 1)), "features.3")
    raises(cnnrs.ShapeError, lambda: model(cases.real(28, 28, 1)), "(28, 28, 1)")


class Branching(nn.Module):
    """Uses the symbolic value in a way that only an array could answer."""

    def __init__(self, misuse: Callable[[Any], Any]) -> None:
        """Keep what to do with the value."""
        super().__init__()
        self.inner = nn.ReLU()
        self.misuse = misuse

    def forward(self, x: Any) -> Any:
        """Misuse, then go on."""
        y = self.inner(x)
        self.misuse(y)
        return y


@pytest.mark.parametrize("misuse", [bool, float, list, np.asarray, lambda v: v.any() if v > 0 else v])
def test_symbolic_values_are_not_arrays(misuse: Callable[[Any], Any]) -> None:
    """`if`, `float`, iteration and NumPy on a value that has no numbers yet."""
    with pytest.raises(TypeError):
        Branching(misuse)(X)


def test_symbolic_misuse_names_the_layer() -> None:
    """The text says where the value comes from."""
    raises(TypeError, lambda: Branching(bool)(X), "inner")


@pytest.mark.parametrize("labels", [[0, 10], [-1, 0], [0, 2**40], [-(2**63), 0]])
def test_labels_out_of_range(labels: list[int]) -> None:
    """Checked before anything runs, on the function and on the trainer."""
    wrong = next(label for label in labels if label)
    raises(ValueError, lambda: F.cross_entropy(cases.real(2, 10), np.array(labels)), wrong, 10)
    unchanged(lambda trainer: raises(ValueError, lambda: trainer.step(images(2), np.array(labels)), wrong, 10))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.bool_, object, np.dtype("U1")])
def test_labels_of_the_wrong_type(dtype: Any) -> None:
    """A float is not a class."""
    labels = np.array([0, 1]).astype(dtype)
    raises(TypeError, lambda: F.cross_entropy(cases.real(2, 10), labels), "labels")
    unchanged(lambda trainer: raises(TypeError, lambda: trainer.step(images(2), labels), ".astype("))


def test_number_of_labels() -> None:
    """One label per row."""
    for labels in (np.zeros(3, int), np.zeros(0, int), np.zeros((2, 1), int), np.array(1)):
        raises(cnnrs.ShapeError, lambda labels=labels: F.cross_entropy(cases.real(2, 10), labels), "labels")
        unchanged(lambda t, labels=labels: raises(cnnrs.ShapeError, lambda: t.step(images(2), labels), 2))


def test_steps_on_other_bad_input() -> None:
    """Empty batch, wrong shape, wrong dtype: nothing is written."""
    none = np.zeros(0, np.int64)
    unchanged(lambda trainer: raises(ValueError, lambda: trainer.step(images(0), none)))
    unchanged(lambda trainer: raises(cnnrs.ShapeError, lambda: trainer.step(X, np.zeros(2, np.int64)), "features.0"))
    wrong = images(2).astype(np.complex64)
    unchanged(lambda trainer: raises(TypeError, lambda: trainer.step(wrong, np.zeros(2, np.int64))))


def images(count: int) -> Array:
    """MNIST-shaped random images."""
    return cases.real(count, 28, 28, 1)


def unchanged(attempt: Callable[[Trainer], None]) -> None:
    """Run the attempt on a new trainer: its parameters keep their bits, and it still takes a good step."""
    model = models.lenet5()
    before = model.state_dict(copy=True)
    trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1))
    attempt(trainer)
    tolerance.assert_same_bits(model.state_dict(), before)
    assert np.isfinite(trainer.step(images(2), np.array([0, 9])))


@pytest.mark.parametrize("lr", [-0.1, np.nan, np.inf, -np.inf])
def test_learning_rate(lr: float) -> None:
    """Finite and not negative."""
    raises(ValueError, lambda: optim.SGD(lr=lr), "lr", lr)


def test_trainer_notices_new_parameters() -> None:
    """A model that gained a parameter after the trainer was made has no buffer for it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9))
    trainer.step(images(2), np.array([0, 1]))
    model.extra = nn.Linear(10, 10)
    raises(ValueError, lambda: trainer.step(images(2), np.array([0, 1])), "extra")


def test_names() -> None:
    """Unknown names list what is near."""
    raises(ValueError, lambda: models.get_model("lenet6"), "lenet6", "lenet5")
    raises(ValueError, lambda: cnnrs.set_algorithm("fastest"), "fastest", "auto", "direct")
    raises(ValueError, lambda: models.lenet5(activation="swish"), "activation", "swish", "tanh", "relu")
    raises(ValueError, lambda: models.lenet5(pool="min"), "pool", "min", "avg", "max")
    raises(ValueError, lambda: F.flatten(X, order="whc"), "order", "whc", "hwc", "chw")
    raises(ValueError, lambda: Trainer(models.lenet5(), optim.SGD(lr=0.1), loss="hinge"), "loss", "hinge")


def test_state_dicts_that_do_not_fit() -> None:
    """Missing, unexpected and misshapen entries are WeightsError by name, and nothing is loaded."""
    model = models.lenet5()
    before = model.state_dict(copy=True)
    other = {name: value + np.float32(1) for name, value in before.items()}
    name = "classifier.5.weight"
    missing = {key: value for key, value in other.items() if key != name}
    for bad, part in ((missing, name), ({**other, "surplus": other[name]}, "surplus"), ({**other, name: X}, name)):
        raises(cnnrs.WeightsError, lambda bad=bad: model.load_state_dict(bad), part)
        tolerance.assert_same_bits(model.state_dict(), before)


def test_files(tmp_path: Path) -> None:
    """A missing file is FileNotFoundError, one that holds no weights WeightsError, a folder an OSError."""
    model = models.lenet5()
    absent, garbage = tmp_path / "absent.safetensors", tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 1000)
    raises(FileNotFoundError, lambda: cnnrs.load_weights(model, absent), absent)
    raises(cnnrs.WeightsError, lambda: cnnrs.load_weights(model, garbage), garbage)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        cnnrs.load_weights(model, tmp_path)


MEMORY = """
import numpy as np, cnnrs
from cnnrs import functional as F
one, pixel = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
for padding in (2**20, 2**30, 2**31 - 1):
    try:
        F.conv2d(one, pixel, padding=padding)
    except MemoryError as error:
        print(error)
assert F.conv2d(one, pixel).item() == 1
"""


def test_memory_that_cannot_be_had(run_python: Callable[..., Any]) -> None:
    """Terabytes, and more than an address can count: MemoryError that names the bytes, and the process goes on."""
    result = run_python(MEMORY)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all("bytes" in line for line in lines)
    assert str(4 * (2 * 2**20 + 1) ** 2) in lines[0].replace(",", "").replace("_", "")


def test_exception_types() -> None:
    """The hierarchy of the contract."""
    for error in (cnnrs.ShapeError, cnnrs.WeightsError, cnnrs.DataError):
        assert issubclass(error, ValueError)
    assert issubclass(cnnrs.UnsupportedError, NotImplementedError)
