"""The shape language of the benchmarks, and the networks' shape files against published sizes."""

import pytest
from benches.networks import NETWORKS, macs
from benches.shapes import load, networks, parse_line, parse_shape

# Published totals count the fully connected layers, shape files do not hold them.
LINEAR = {name: network.linear for name, network in NETWORKS.items()}
# 1e9 multiply-adds of convolutions and fully connected layers per image, to three decimals, as torchvision states them.
PUBLISHED_GMACS = {"alexnet": 0.714, "vgg16": 15.470, "resnet18": 1.814, "resnet50": 4.089}
# Number of convolution layers and of their weights, biases not counted.
CONVOLUTIONS = {
    "lenet5": (2, 2_550),
    "alexnet": (5, 2_468_544),
    "vgg16": (13, 14_710_464),
    "resnet18": (20, 11_166_912),
    "resnet50": (53, 23_454_912),
}


def test_there_is_a_file_for_every_network() -> None:
    assert networks() == sorted(LINEAR)


@pytest.mark.parametrize("network", sorted(PUBLISHED_GMACS))
def test_macs_agree_with_the_published_totals(network: str) -> None:
    assert round(macs(network) / 1e9, 3) == PUBLISHED_GMACS[network]


def test_lenet5_macs() -> None:
    assert macs("lenet5") == 28 * 28 * 25 * 6 + 10 * 10 * 25 * 6 * 16 + 48_000 + 10_080 + 840


@pytest.mark.parametrize("network", sorted(CONVOLUTIONS))
def test_layer_and_weight_counts(network: str) -> None:
    layers = load(network)
    weights = sum(
        line.repeats * line.shape.kh * line.shape.kw * line.shape.ic // line.shape.g * line.shape.oc for line in layers
    )
    assert (sum(line.repeats for line in layers), weights) == CONVOLUTIONS[network]


@pytest.mark.parametrize("network", sorted(LINEAR))
def test_lines_are_distinct_named_and_round_trip(network: str) -> None:
    layers = load(network)
    assert len({line.shape for line in layers}) == len(layers)
    assert len({line.name for line in layers}) == len(layers)
    for line in layers:
        assert line.name
        assert line.shape.n == 1
        assert parse_shape(str(line.shape)) == line.shape


def test_fields_and_defaults() -> None:
    shape = parse_shape("n8ih56ic64oc128kh3sh2ph1")
    assert (shape.n, shape.iw, shape.kw, shape.sw, shape.pw, shape.dh, shape.dw, shape.g) == (8, 56, 3, 2, 1, 1, 1, 1)
    assert (shape.oh, shape.ow) == (28, 28)
    assert shape.macs == 8 * 28 * 28 * 128 * 64 * 9
    assert str(shape) == "n8ih56iw56ic64oc128kh3kw3sh2ph1"
    assert shape.with_batch(1).macs * 8 == shape.macs


def test_asymmetric_dilated_and_grouped() -> None:
    shape = parse_shape("ih9iw7ic6oc4kh3kw2sh1sw2ph2pw0dh2dw3g2")
    assert (shape.oh, shape.ow) == (9, 2)
    assert shape.macs == 9 * 2 * 4 * 3 * 3 * 2
    assert parse_shape(str(shape)) == shape


@pytest.mark.parametrize(
    ("line", "repeats", "name"),
    [
        ("ih8ic3oc4kh3", 1, ""),
        ("ih8ic3oc4kh3 *5", 5, ""),
        ("ih8ic3oc4kh3 conv1", 1, "conv1"),
        ("  ih8ic3oc4kh3   *2 layer1.0.conv1  # three words", 2, "layer1.0.conv1"),
    ],
)
def test_lines(line: str, repeats: int, name: str) -> None:
    layer = parse_line(line)
    assert layer is not None
    assert (layer.repeats, layer.name) == (repeats, name)
    assert layer.shape == parse_shape("ih8ic3oc4kh3")


@pytest.mark.parametrize("line", ["", "   ", "# only a comment"])
def test_lines_without_a_layer(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ih8 ic3oc4kh3", "ic, oc, kh missing"),
        ("ih8ic3oc4", "kh missing"),
        ("ih8ic3oc4kh3kh3", "kh is given twice"),
        ("ih8ic3oc4kh3zz1", "unknown name 'zz'"),
        ("IH8IC3OC4KH3", "shape must be names and numbers"),
        ("ih8ic3oc4kh", "shape must be names and numbers"),
        ("ih8ic3oc4kh3ph-1", "shape must be names and numbers"),
        ("ih8ic0oc4kh3", "ic must be at least 1, got 0"),
        ("ih8ic3oc4kh3sh0", "sh must be at least 1, got 0"),
        ("ih8ic3oc4kh3g2", "g 2 must divide ic 3 and oc 4"),
        ("ih2ic3oc4kh3", r"kernel exceeds the padded input, output would be \(0, 0\)"),
        ("ih8ic3oc4kh3 *0", r"repeats must be \* and a number of at least 1, got '\*0'"),
        ("ih8ic3oc4kh3 *two", "repeats must be"),
        ("ih8ic3oc4kh3 *2 a b", r"a line must be SHAPE \[\*REPEATS\] \[NAME\]"),
    ],
)
def test_bad_lines_say_why(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_line(line)


def test_unknown_network_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"network must be one of alexnet, .*, got 'resnet99'"):
        load("resnet99")
