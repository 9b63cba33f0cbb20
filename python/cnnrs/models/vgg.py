"""VGG: stacks of 3x3 convolutions (Simonyan and Zisserman, 2015), without and with batch normalization."""

from __future__ import annotations

from functools import partial
from typing import Any

from cnnrs import nn
from cnnrs.models._base import ImageClassifier, build, variant
from cnnrs.models._registry import register

CHANNELS = (64, 128, 256, 512, 512)
VARIANTS: dict[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in front of each of the five poolings: configurations A, B, D and E of the paper."""

kaiming = partial(nn.init.kaiming_normal, mode="fan_out")
small_normal = partial(nn.init.normal, std=0.01)


class VGG(ImageClassifier):
    """Five stages of convolutions and a pooling, three linear layers; see `vgg16`. Names are torchvision's.

    Convolutions start normal for their fan_out (He et al., 2015), linear layers at N(0, 0.01), biases at 0.

    Args:
        name: The name it is registered by; a name in `_bn` has batch normalization behind every convolution.
        num_classes: Number of outputs.
        dropout: Probability of a zero behind the hidden linear layers.
    """

    classifier_names = ("classifier.6",)

    def __init__(self, name: str = "vgg16", num_classes: int = 1000, dropout: float = 0.5) -> None:
        """Draw the parameters."""
        super().__init__(name, num_classes)
        plain = name.removesuffix("_bn")
        self.features = _features(variant(VARIANTS, plain, "VGG"), batch_norm=name != plain)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.flatten = nn.Flatten(order="chw")
        linear = partial(nn.Linear, weight_init=small_normal)
        self.classifier = nn.Sequential(
            *(linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)),
            *(linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
            self._classifier(4096),
        )

    def _features(self, x: Any) -> Any:
        return self.features(x)

    def _head(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(x)))

    def _classifier(self, in_features: int) -> nn.Linear:
        return nn.Linear(in_features, self.num_classes, weight_init=small_normal)


def _features(repeats: tuple[int, ...], batch_norm: bool) -> nn.Sequential:
    """Make the convolutions."""
    layers = nn.Sequential()
    in_channels = 3
    for channels, repeat in zip(CHANNELS, repeats, strict=True):
        for _ in range(repeat):
            layers.append(nn.Conv2d(in_channels, channels, 3, padding=1, weight_init=kaiming))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return layers


def _make(name: str, num_classes: int, weights: str | None, options: dict[str, Any]) -> VGG:
    model: VGG = build(VGG, name, weights, num_classes, options)
    return model


@register
def vgg11(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-11: 132,863,336 parameters, 7.61 GMACs at 224x224; arguments as for `vgg16`."""
    return _make("vgg11", num_classes, weights, options)


@register
def vgg11_bn(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-11 with batch normalization: 132,868,840 parameters; arguments as for `vgg16`."""
    return _make("vgg11_bn", num_classes, weights, options)


@register
def vgg13(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-13: 133,047,848 parameters, 11.31 GMACs at 224x224; arguments as for `vgg16`."""
    return _make("vgg13", num_classes, weights, options)


@register
def vgg13_bn(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-13 with batch normalization: 133,053,736 parameters; arguments as for `vgg16`."""
    return _make("vgg13_bn", num_classes, weights, options)


@register
def vgg16(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-16: 138,357,544 parameters, 15.47 GMACs at 224x224.

    "Very deep convolutional networks for large-scale image recognition" (Simonyan and Zisserman, 2015), with
    torchvision's names. Images of any size from 32x32 on fit: feature maps are averaged to 7x7.

    Args:
        num_classes: Number of outputs.
        weights: Tag of published weights, or None for random parameters, drawn as described at `VGG`.
        **options: `dropout`, see `VGG`.

    Raises:
        ValueError: a number out of range, or unknown weights.
    """
    return _make("vgg16", num_classes, weights, options)


@register
def vgg16_bn(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-16 with batch normalization: 138,365,992 parameters; arguments as for `vgg16`."""
    return _make("vgg16_bn", num_classes, weights, options)


@register
def vgg19(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-19: 143,667,240 parameters, 19.63 GMACs at 224x224; arguments as for `vgg16`."""
    return _make("vgg19", num_classes, weights, options)


@register
def vgg19_bn(num_classes: int = 1000, weights: str | None = None, **options: Any) -> VGG:
    """Make VGG-19 with batch normalization: 143,678,248 parameters; arguments as for `vgg16`."""
    return _make("vgg19_bn", num_classes, weights, options)
