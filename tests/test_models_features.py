"""Halves of the networks of the zoo, and feature extractors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, models, nn, optim
from cnnrs import functional as F
from tolerance import assert_same_bits


def test_halves_of_uint8_images_and_of_symbols() -> None:
    model = models.cifar_resnet20()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert_same_bits(model.forward_head(model.forward_features(pixels)), model(pixels))

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model

        def forward(self, x: Any) -> Any:
            return F.global_avg_pool2d(self.backbone.forward_features(x))

    maps = model.forward_features(real(2, 32, 32, 3))
    np.testing.assert_allclose(Detector()(real(2, 32, 32, 3)), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_halves_keep_their_plans_and_follow_the_model() -> None:
    model = models.cifar_resnet20()
    x = real(1, 32, 32, 3)
    before = model.forward_features(x)
    halves = vars(model)["_halves"]
    assert set(halves) == {"_features"}
    assert len(halves["_features"]._programs) == 1
    model.conv1.weight.assign(model.conv1.weight.array * np.float32(2))
    model.layer1 = nn.Identity()
    assert not np.array_equal(model.forward_features(x), before)
    with pytest.raises(cnnrs.ShapeError, match=r"^conv1: "):
        model.forward_features(real(1, 32, 32, 4))


def test_extractors_return_what_captures_do() -> None:
    model = models.resnet18()
    x = real(2, 64, 64, 3)
    extractor = models.create_feature_extractor(model, ["layer3", "layer1.0.conv2", "layer4"])
    found = extractor(x)
    with model.capture("layer3", "layer1.0.conv2", "layer4") as expected:
        model(x)
    assert list(found) == ["layer3", "layer1.0.conv2", "layer4"]
    assert_same_bits(found, dict(expected))
    assert found["layer3"].flags.writeable
    assert len(extractor._programs) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert_same_bits(extractor(pixels)["layer4"], model.forward_features(pixels))
    renamed = models.create_feature_extractor(model, {"layer2": "low", "": "logits"})
    assert_same_bits(renamed(x)["logits"], model(x))
    assert "layer2 as low" in repr(renamed)


def test_extractors_stop_behind_the_last_part() -> None:
    """Images whose size only the head refuses fit; the head takes no part in the plan."""
    model = models.alexnet_2012()
    extractor = models.create_feature_extractor(model, ["features.0", "features.4"])
    found = extractor(real(1, 64, 64, 3))
    assert {name: array.shape for name, array in found.items()} == {
        "features.0": (1, 14, 14, 96),
        "features.4": (1, 6, 6, 256),
    }
    text = extractor.explain((1, 64, 64, 3))
    assert "features.4" in text
    assert "features.8" not in text


def test_extractors_inside_other_modules_train() -> None:
    """A composite module, and a loss between features (both parts of one plan)."""
    model = models.cifar_resnet20()

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = models.create_feature_extractor(model, ["layer2", "layer3"])
            self.head = nn.Linear(96, 5)

        def forward(self, x: Any) -> Any:
            maps = self.backbone(x)
            return self.head(F.concat([F.global_avg_pool2d(maps["layer2"]), F.global_avg_pool2d(maps["layer3"])]))

    net = Pyramid()
    x, labels = real(4, 32, 32, 3), np.arange(4)
    trainer = Trainer(net, optim.SGD(0.05))
    _, gradients = trainer.gradients(x, labels)
    assert gradients["backbone.model.layer3.2.conv2.weight"].any()
    assert not gradients["backbone.model.linear.weight"].any()
    losses = [trainer.step(x, labels) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert net(x).shape == (4, 5)

    student = nn.Conv2d(3, 64, 3, stride=4, padding=1)
    teacher = models.create_feature_extractor(model.freeze(), ["layer3"])

    def distance(logits: Any, target: Any) -> Any:
        return F.mse_loss(logits, teacher(target)["layer3"])

    trainer = Trainer(student, optim.Adam(1e-2), loss=distance)
    losses = [trainer.step(x, x) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_part_that_is_called_again_gives_its_first_result() -> None:
    model = models.cifar_resnet20()
    found = models.create_feature_extractor(model, ["layer1.0.relu", "layer1.0"])(real(1, 32, 32, 3))
    assert not np.array_equal(found["layer1.0.relu"], found["layer1.0"])
    twice = nn.Sequential(model.layer1, model.layer1)
    assert list(models.create_feature_extractor(twice, ["1"])(real(1, 8, 8, 16))) == ["1"]

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = models.create_feature_extractor(model, ["layer3"])

        def forward(self, x: Any) -> Any:
            return self.features(x)["layer3"] - self.features(F.mul(x, 2.0))["layer3"]

    x = real(1, 32, 32, 3)
    single = models.create_feature_extractor(model, ["layer3"])
    np.testing.assert_allclose(Twins()(x), single(x)["layer3"] - single(x * 2)["layer3"], rtol=1e-3, atol=1e-4)


class Skips(nn.Module):
    """Never calls one of its parts, and catches every error of another."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.ReLU()
        self.unused = nn.ReLU()

    def forward(self, x: Any) -> Any:
        try:
            return self.used(x)
        except Exception:
            return x


def test_wrong_parts() -> None:
    model = models.resnet18()
    make = models.create_feature_extractor
    with pytest.raises(ValueError, match=r"^create_feature_extractor: 'layer5' fits no part.*near names: .*'layer4'"):
        make(model, ["layer5"])
    with pytest.raises(ValueError, match="fits no part"):
        make(model, ["layer*"])
    with pytest.raises(ValueError, match="at least one"):
        make(model, [])
    with pytest.raises(ValueError, match="stands twice"):
        make(model, {"layer1": "a", "layer2": "a"})
    for wrong in ("layer1", 5, None):
        with pytest.raises(TypeError, match="return_nodes must be names"):
            make(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a str"):
        make(model, [3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="must be a str"):
        make(model, {"layer1": 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
        make("resnet18", ["layer1"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="forward does not call 'unused'"):
        make(Skips(), ["used", "unused"])(real(1, 2, 2, 1))
    assert (make(Skips(), ["used"])(-np.ones((1, 2, 2, 1), np.float32))["used"] == 0).all()
    with pytest.raises(TypeError, match="must return logits"):
        Trainer(make(model, ["layer4"]), optim.SGD(0.1)).step(real(2, 64, 64, 3), np.array([0, 1]))
