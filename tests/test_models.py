"""Every model of the zoo: names and numbers as published, forward and gradient, re-heading, files, descriptions."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, models, nn, optim
from tolerance import assert_same_bits


class Facts(NamedTuple):
    """Parameters and multiply-accumulates (convolution and linear) for images of a size, as published."""

    parameters: int
    macs: float  # billions, as torchvision's table rounds them; whole numbers are exact
    size: int
    small: int  # the size that the tests use
    channels: int = 3
    classes: int = 1000


FACTS = {
    "alexnet": Facts(61_100_840, 0.714, 224, 64),
    "alexnet_2012": Facts(60_965_224, 0.724, 227, 227),
    "cifar_resnet20": Facts(269_722, 0.041, 32, 32, classes=10),
    "cifar_resnet32": Facts(464_154, 0.069, 32, 32, classes=10),
    "cifar_resnet44": Facts(658_586, 0.097, 32, 32, classes=10),
    "cifar_resnet56": Facts(853_018, 0.125, 32, 32, classes=10),
    "cifar_resnet110": Facts(1_727_962, 0.253, 32, 32, classes=10),
    "lenet5": Facts(61_706, 0.000, 28, 28, channels=1, classes=10),
    "resnet18": Facts(11_689_512, 1.814, 224, 64),
    "resnet34": Facts(21_797_672, 3.664, 224, 64),
    "resnet50": Facts(25_557_032, 4.089, 224, 64),
    "resnet101": Facts(44_549_160, 7.801, 224, 64),
    "resnet152": Facts(60_192_808, 11.514, 224, 64),
    "vgg11": Facts(132_863_336, 7.609, 224, 32),
    "vgg11_bn": Facts(132_868_840, 7.609, 224, 32),
    "vgg13": Facts(133_047_848, 11.308, 224, 32),
    "vgg13_bn": Facts(133_053_736, 11.308, 224, 32),
    "vgg16": Facts(138_357_544, 15.47, 224, 32),
    "vgg16_bn": Facts(138_365_992, 15.47, 224, 32),
    "vgg19": Facts(143_667_240, 19.632, 224, 32),
    "vgg19_bn": Facts(143_678_248, 19.632, 224, 32),
}
LARGE = {name for name, facts in FACTS.items() if facts.parameters > 60_500_000}
"""Whose files and copies take seconds."""

NAMES = list(FACTS)
TRAINED = [pytest.param(name, id=name, marks=[pytest.mark.slow] * (name in LARGE - {"vgg11_bn"})) for name in FACTS]
FILED = [pytest.param(name, id=name, marks=[pytest.mark.slow] * (name in LARGE)) for name in FACTS]


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    """Let a model of half a gigabyte go before the next one is made."""
    yield
    cnnrs.clear_cache()
    gc.collect()


def images(name: str, batch: int = 2) -> Any:
    facts = FACTS[name]
    return real(batch, facts.small, facts.small, facts.channels)


def test_every_registered_model_is_tested() -> None:
    assert models.list_models() == sorted(FACTS)
    assert set(FACTS) <= set(models.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_forward_halves_and_a_new_classifier(name: str) -> None:
    """One model for several questions: to draw its parameters is the slowest of them."""
    facts = FACTS[name]
    model: Any = models.get_model(name)
    x = images(name)

    # Numbers as published.
    assert sum(parameter.size for parameter in model.parameters()) == facts.parameters
    summary = model.summary((facts.size, facts.size, facts.channels))
    assert summary.parameters == sum(row.parameters for row in summary.rows) == facts.parameters
    assert round(summary.macs / 1e9, 3) == facts.macs
    assert model.num_classes == facts.classes
    assert model.name == name
    assert model.input_mean == ((0.1307,) if name == "lenet5" else (0.485, 0.456, 0.406))
    assert model.input_std == ((0.3081,) if name == "lenet5" else (0.229, 0.224, 0.225))

    # Forward, in whole and in halves.
    logits = model(x)
    assert logits.shape == (2, facts.classes)
    assert np.isfinite(logits).all()
    maps = model.forward_features(x)
    assert maps.ndim == 4
    assert_same_bits(model.forward_head(maps), logits)

    # What will run.
    text = model.explain(x.shape)
    for layer, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert layer in text

    # Another classifier; everything else stays.
    before = dict(model.named_parameters())
    maps = model.forward_features(x)
    assert model.reset_classifier(7) is model
    assert model.num_classes == 7
    assert model.classes == ()
    after = dict(model.named_parameters())
    changed = {path for path in after if after[path] is not before[path]}
    assert changed == {f"{layer}.{kind}" for layer in model.classifier_names for kind in ("weight", "bias")}
    assert list(after) == list(before)
    assert model(x).shape == (2, 7)
    assert_same_bits(model.forward_features(x), maps)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model, x = models.get_model(name), images(name)
    loss, gradients = Trainer(model, optim.SGD(0.1)).gradients(x, np.array([1, 2]))
    assert np.isfinite(loss)
    assert list(gradients) == [path for path, _ in model.named_parameters()]
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert gradient.any() or path.startswith("features"), path  # batch normalization takes a bias's away


@pytest.mark.parametrize("name", FILED)
def test_files_pickles_and_copies(name: str, tmp_path: Path) -> None:
    model, x = models.get_model(name, num_classes=5), images(name, 1)
    expected = model(x)
    model.forward_features(x)  # type: ignore[operator]
    path = tmp_path / "model.safetensors"
    model.save(path)
    other = models.get_model(name, num_classes=5)
    cnnrs.load_weights(other, path)
    assert_same_bits(other(x), expected)
    assert_same_bits(other.state_dict(), model.state_dict())
    path.unlink()
    del other
    assert_same_bits(copy.deepcopy(model)(x), expected)
    restored = pickle.loads(pickle.dumps(model))
    assert_same_bits(restored(x), expected)
    assert_same_bits(restored.forward_features(x), model.forward_features(x))  # type: ignore[operator]
