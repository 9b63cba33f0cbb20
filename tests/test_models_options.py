"""The zoo's names as torchvision has them, first weights as the papers have them, options, and feature extractors."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle
from cases import real
from cnnrs import Trainer, models, nn, optim
from cnnrs import functional as F
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


# First weights.


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


# Options.


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


# Halves.


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


# Feature extractors.


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


# First weights of layers.


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
