"""First weights of the zoo, as the papers and torchvision have them, and of layers by a function."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import models, nn
from tolerance import assert_same_bits


def check(array: Any, std: float, mean: float = 0.0) -> None:
    """Mean and deviation within 6 standard errors; a normal number in a thousand is beyond 3.29 deviations."""
    assert array.mean() == pytest.approx(mean, abs=6 * std / np.sqrt(array.size))
    assert array.std() == pytest.approx(std, rel=6 / np.sqrt(2 * array.size))


def is_normal(array: Any) -> bool:
    return bool(np.abs(array).max() > 3.2 * array.std())


@pytest.fixture
def _seeded() -> Any:
    cnnrs.manual_seed(3)
    yield
    cnnrs.manual_seed(0)


@pytest.mark.usefixtures("_seeded")
def test_first_weights_of_resnet() -> None:
    state = models.resnet50().state_dict()
    for array in state.values():
        if array.ndim == 4:
            kh, kw, _, out = array.shape
            check(array, np.sqrt(2 / (kh * kw * out)))
            assert is_normal(array)
    bound = 1 / np.sqrt(2048)
    assert 0.99 * bound < np.abs(state["fc.weight"]).max() <= bound
    check(state["fc.weight"], bound / np.sqrt(3))
    assert 0.9 * bound < np.abs(state["fc.bias"]).max() <= bound
    assert all((array == 1).all() for name, array in state.items() if "bn" in name and name.endswith("weight"))


@pytest.mark.usefixtures("_seeded")
def test_first_weights_of_vgg() -> None:
    start = time.perf_counter()
    model = models.vgg16()
    assert time.perf_counter() - start < 20.0  # half a second alone on two cores
    for name, array in model.state_dict().items():
        if name.endswith("bias"):
            assert not array.any()
        elif array.ndim == 4:
            check(array, np.sqrt(2 / (9 * array.shape[3])))
        else:
            check(array[:512], 0.01)
            assert is_normal(array[:512])


@pytest.mark.usefixtures("_seeded")
def test_first_weights_of_alexnet() -> None:
    for name, array in models.alexnet().state_dict().items():
        if name.endswith("weight"):
            bound = 1 / np.sqrt(np.prod(array.shape[:-1]))
            assert 0.99 * bound < np.abs(array).max() <= bound
            check(array, bound / np.sqrt(3))


@pytest.mark.usefixtures("_seeded")
def test_first_weights_of_alexnet_2012() -> None:
    state = models.alexnet_2012().state_dict()
    ones = {"features.4", "features.10", "features.12", "classifier.0", "classifier.3"}
    for name, array in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "bias":
            assert (array == (layer in ones)).all(), name
        else:
            check(array, 0.01)
            assert is_normal(array)


@pytest.mark.usefixtures("_seeded")
def test_first_weights_of_cifar_resnet() -> None:
    state = models.cifar_resnet56().state_dict()
    for array in state.values():
        if array.ndim == 4:
            check(array, np.sqrt(2 / (9 * array.shape[2])))
    check(state["linear.weight"], np.sqrt(2 / 64))
    assert not state["linear.bias"].any()


@pytest.mark.usefixtures("_seeded")
def test_a_new_classifier_starts_as_the_old_one_did() -> None:
    model: Any = models.alexnet_2012(num_classes=1).reset_classifier(900)
    check(model.classifier[6].weight.array, 0.01)
    assert not model.classifier[6].bias.array.any()
    model = models.resnet18(num_classes=1).reset_classifier(900)
    check(model.fc.weight.array, 1 / np.sqrt(3 * 512))


def test_the_same_seed_makes_the_same_model() -> None:
    cnnrs.manual_seed(8)
    first = models.cifar_resnet20().state_dict(copy=True)
    cnnrs.manual_seed(8)
    assert_same_bits(models.cifar_resnet20().state_dict(), first)
    cnnrs.manual_seed(0)


def test_weight_init() -> None:
    layer = nn.Linear(400, 300, weight_init=nn.init.kaiming_normal)
    check(layer.weight.array, np.sqrt(2 / 400))
    assert layer.bias is not None
    assert not layer.bias.array.any()
    conv = nn.Conv2d(8, 16, 3, weight_init=lambda shape: nn.init.kaiming_normal(shape, mode="fan_out"))
    check(conv.weight.array, np.sqrt(2 / (9 * 16)))
    check(nn.init.normal((1000, 100), 3.0, 0.5), 0.5, 3.0)
    assert nn.init.normal((3, 0)).shape == (3, 0)
    with pytest.raises(TypeError, match=r"^Linear: weight_init must be a function"):
        nn.Linear(2, 2, weight_init=0.1)  # type: ignore[arg-type]
    with pytest.raises(cnnrs.ShapeError, match=r"^Linear: weight_init must return an array of shape \(2, 3\)"):
        nn.Linear(2, 3, weight_init=lambda shape: nn.init.zeros(shape[::-1]))
    with pytest.raises(TypeError, match=r"^Conv2d: the result of weight_init"):
        nn.Conv2d(2, 3, 1, weight_init=lambda shape: np.zeros(shape))
    with pytest.raises(ValueError, match="std must be at least 0"):
        nn.init.normal((2, 2), std=-1.0)
    with pytest.raises(ValueError, match='mode must be one of "fan_in", "fan_out"'):
        nn.init.kaiming_normal((2, 2), mode="fan")


def test_normal_numbers_are_the_same_on_every_level_and_for_any_threads(isa: str, threads: int) -> None:
    """Stored values: first, and past the size from which several threads draw."""
    cnnrs.manual_seed(11)
    numbers = nn.init.normal((200_003,))
    cnnrs.manual_seed(0)
    np.testing.assert_array_equal(numbers[:4].view(np.uint32), [1073980413, 3205200979, 3203588243, 1062081415])
    np.testing.assert_array_equal(numbers[-3:].view(np.uint32), [3222873896, 3183499654, 1069734370])
    check(numbers, 1.0)
    assert np.mean(np.abs(numbers) < 1.0) == pytest.approx(0.682689, abs=0.006)
