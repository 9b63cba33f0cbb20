"""The zoo's names, as torchvision has them, its options, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle
from cases import real
from cnnrs import Trainer, models, nn, optim
from cnnrs.models._base import ImageClassifier
from cnnrs.models.cifar_resnet import CifarBlock
from cnnrs.models.resnet import ResNet
from tolerance import assert_same_bits

NORM = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1, "num_batches_tracked": 0}


def norm(name: str) -> list[str]:
    return [f"{name}.{kind}" for kind in NORM]


def linear(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def resnet_names(depths: tuple[int, ...], convolutions: int) -> list[str]:
    """The state dict of torchvision's ResNets, in order."""
    names = ["conv1.weight", *norm("bn1")]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            path = f"layer{stage}.{block}"
            for index in range(1, convolutions + 1):
                names += [f"{path}.conv{index}.weight", *norm(f"{path}.bn{index}")]
            if block == 0 and (stage > 1 or convolutions == 3):
                names += [f"{path}.downsample.0.weight", *norm(f"{path}.downsample.1")]
    return [*names, *linear("fc")]


def vgg_names(batch_norm: bool) -> list[str]:
    """The state dict of torchvision's VGG-11."""
    places = [0, 4, 8, 11, 15, 18, 22, 25] if batch_norm else [0, 3, 6, 8, 11, 13, 16, 18]
    names = []
    for place in places:
        names += linear(f"features.{place}") + (norm(f"features.{place + 1}") if batch_norm else [])
    return names + [name for place in (0, 3, 6) for name in linear(f"classifier.{place}")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", resnet_names((2, 2, 2, 2), 2)),
        ("resnet50", resnet_names((3, 4, 6, 3), 3)),
        ("resnet101", resnet_names((3, 4, 23, 3), 3)),
        ("vgg11", vgg_names(batch_norm=False)),
        ("vgg11_bn", vgg_names(batch_norm=True)),
    ],
)
def test_names_are_those_of_torchvision_in_their_order(name: str, expected: list[str]) -> None:
    assert list(models.get_model(name).state_dict()) == expected


def test_shapes_are_those_of_torchvision_permuted() -> None:
    weights = {
        "features.0": (11, 11, 3, 64),
        "features.3": (5, 5, 64, 192),
        "features.6": (3, 3, 192, 384),
        "features.8": (3, 3, 384, 256),
        "features.10": (3, 3, 256, 256),
        "classifier.1": (9216, 4096),
        "classifier.4": (4096, 4096),
        "classifier.6": (4096, 1000),
    }
    alexnet = {name: array.shape for name, array in models.alexnet().state_dict().items()}
    assert {f"{layer}.weight": shape for layer, shape in weights.items()}.items() <= alexnet.items()
    assert {f"{layer}.bias": shape[-1:] for layer, shape in weights.items()}.items() <= alexnet.items()
    assert len(alexnet) == 16
    state = {name: array.shape for name, array in models.resnet50().state_dict().items()}
    assert state["conv1.weight"] == (7, 7, 3, 64)
    assert state["layer2.0.conv1.weight"] == (1, 1, 256, 128)
    assert state["layer2.0.conv2.weight"] == (3, 3, 128, 128)
    assert state["layer2.0.conv3.weight"] == (1, 1, 128, 512)
    assert state["layer2.0.downsample.0.weight"] == (1, 1, 256, 512)
    assert state["fc.weight"] == (2048, 1000)


def test_the_stride_sits_in_the_3x3_convolution() -> None:
    block: Any = dict(models.resnet50().named_modules())["layer3.0"]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_names_of_the_cifar_resnets() -> None:
    names = list(models.cifar_resnet20().state_dict())
    assert len(names) == 19 + 19 * 5 + 2
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    assert {"layer1.0.conv1.weight", "layer3.2.bn2.running_var", "linear.weight", "linear.bias"} <= set(names)
    assert not [name for name in names if "shortcut" in name or "downsample" in name]


def test_alexnet_2012_pads_224_to_227() -> None:
    model = models.alexnet_2012(num_classes=3)
    x = real(1, 224, 224, 3)
    assert_same_bits(model(np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))), model(x))
    layers = dict(model.named_modules())
    assert [layers[f"features.{place}"].groups for place in (0, 4, 8, 10, 12)] == [1, 2, 1, 2, 2]
    lrn: Any = layers["features.2"]
    assert (lrn.size, lrn.alpha, lrn.beta, lrn.k) == (5, np.float32(5e-4), 0.75, 2.0)
    with pytest.raises(cnnrs.ShapeError, match=r"classifier\.0"):
        model(real(1, 128, 128, 3))


def test_zero_init_residual_starts_as_the_shortcuts() -> None:
    model: Any = models.resnet50(zero_init_residual=True)
    zeros = {name for name, parameter in model.named_parameters() if not parameter.array.any()}
    assert {
        f"layer{stage}.{block}.bn3.weight"
        for stage, depth in ((1, 3), (2, 4), (3, 6), (4, 3))
        for block in range(depth)
    } <= zeros
    with model.capture("layer1.0", "layer1.2") as maps:
        model(real(1, 32, 32, 3))
    assert_same_bits(maps["layer1.2"], maps["layer1.0"])
    assert models.resnet18().bn1.weight.array.all()


def test_stochastic_depth_grows_from_block_to_block() -> None:
    model = models.resnet18(drop_path=0.4)
    rates = [layer.p for _, layer in model.named_modules() if isinstance(layer, nn.DropPath)]
    np.testing.assert_allclose(rates, np.arange(1, 9) * 0.05)
    x = real(4, 32, 32, 3)
    assert list(model.state_dict()) == list(models.resnet18().state_dict())
    other = models.resnet18()
    other.load_state_dict(model.state_dict())
    assert_same_bits(model(x), other(x))  # evaluation drops nothing
    labels = np.arange(4)
    losses = {Trainer(model, optim.SGD(0.1), seed=seed).gradients(x, labels)[0] for seed in range(4)}
    assert len(losses) > 1


def test_dropout_of_the_classifiers() -> None:
    for name in ("alexnet", "alexnet_2012", "vgg11"):
        model = models.get_model(name, num_classes=2, dropout=0.25)
        assert [layer.p for _, layer in model.named_modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_shortcut_of_option_a(stride: int) -> None:
    """Every second pixel; of 2k more channels, k zeros in front and k behind."""
    block = CifarBlock(4, 4 * stride, stride, shortcut=True)
    plain = CifarBlock(4, 4 * stride, stride, shortcut=False)
    for layer in (block, plain):
        for _, parameter in layer.named_parameters():
            parameter.assign(np.zeros(parameter.shape, np.float32))
    x = real(2, 8, 8, 4)
    expected = np.maximum(x, 0)[:, ::stride, ::stride]
    missing = 4 * (stride - 1)
    expected = np.pad(expected, ((0, 0), (0, 0), (0, 0), (missing // 2, missing // 2)))
    assert_same_bits(block(x), expected)
    assert not plain(x).any()


def test_a_cifar_resnet_agrees_with_the_reference() -> None:
    model: Any = models.cifar_resnet20()
    p = model.state_dict()
    x = real(1, 32, 32, 3)

    def conv_bn(y: Any, path: str, index: int, stride: int = 1) -> Any:
        y = oracle.conv2d(y, p[f"{path}conv{index}.weight"], None, stride=stride, padding=1)
        return y / np.sqrt(1 + 1e-5)  # as running values start

    y = oracle.relu(conv_bn(x, "", 1))
    for stage in (1, 2, 3):
        for block in range(3):
            path, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            z = conv_bn(oracle.relu(conv_bn(y, path, 1, stride)), path, 2)
            missing = (z.shape[3] - y.shape[3]) // 2
            y = np.pad(y[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (missing, missing)))
            y = oracle.relu(z + y)
    y = oracle.linear(y.mean(axis=(1, 2)), p["linear.weight"], p["linear.bias"])
    np.testing.assert_allclose(model(x), y, rtol=1e-3, atol=1e-4 * np.abs(y).max())
    assert sum(q.size for q in models.cifar_resnet20(shortcut=False).parameters()) == 269_722


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (ValueError, r"^resnet18: num_classes must be an int", lambda: models.resnet18(0)),
        (ValueError, r"^vgg16_bn: num_classes", lambda: models.vgg16_bn(num_classes="10")),  # type: ignore[arg-type]
        (ValueError, r"^resnet18: drop_path", lambda: models.resnet18(drop_path=1.5)),
        (TypeError, r"^resnet18: zero_init_residual", lambda: models.resnet18(zero_init_residual="yes")),
        (TypeError, r"^cifar_resnet20: shortcut", lambda: models.cifar_resnet20(shortcut=None)),
        (TypeError, r"unexpected keyword argument 'width'", lambda: models.resnet18(width=2)),
        (TypeError, r"unexpected keyword argument 'width'", lambda: models.get_model("resnet18", width=2)),
        (ValueError, r"there is no model 'resnet51'; near names: .*resnet50", lambda: models.get_model("resnet51")),
        (ValueError, r"^ResNet: there is no variant 'resnet'; near names: ", lambda: ResNet("resnet")),
        (TypeError, r"^ResNet: name must be a str", lambda: ResNet(None)),  # type: ignore[arg-type]
        (ValueError, r"^lenet5\.reset_classifier: num_classes", lambda: models.lenet5().reset_classifier(0)),
        (
            TypeError,
            r"^lenet5: forward_head takes",
            lambda: models.lenet5().forward_head(np.zeros((1, 5, 5, 16), "u1")),
        ),
        (ValueError, r"weights must be", lambda: models.cifar_resnet20(weights="NO_SUCH_TAG")),
    ],
)
def test_wrong_arguments(error: type[Exception], match: str, make: Any) -> None:
    with pytest.raises(error, match=match):
        make()


def test_get_model_passes_everything_on() -> None:
    model: Any = models.get_model("resnet18", num_classes=4, drop_path=0.1)
    assert model.fc.out_features == 4
    assert isinstance(model, ImageClassifier)
    assert model.name == "resnet18"
