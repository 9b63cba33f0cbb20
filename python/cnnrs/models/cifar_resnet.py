"""The ResNets for CIFAR-10 (He et al., 2016, section 4.2), with shortcuts without parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

from cnnrs import _args, nn
from cnnrs import functional as F  # noqa: N812 - the name of the field
from cnnrs.models._base import ImageClassifier, build, variant
from cnnrs.models._registry import register

VARIANTS = {f"cifar_resnet{6 * blocks + 2}": blocks for blocks in (3, 5, 7, 9, 18)}
"""Blocks in each of the three stages."""

conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False, weight_init=nn.init.kaiming_normal)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut of option A: every second pixel, and zeros for the channels that it lacks.

    Args:
        in_channels: Channels of the input.
        channels: Channels inside and of the output.
        stride: Stride of the first convolution.
        shortcut: Whether the input is added.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: bool) -> None:
        """Draw the parameters."""
        super().__init__()
        self.conv1 = conv(in_channels, channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stride, self.shortcut = stride, shortcut
        self.missing = channels - in_channels

    def forward(self, x: Any) -> Any:
        """Record the block."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.shortcut:
            if self.stride > 1:
                x = x[:, :: self.stride, :: self.stride]
            if self.missing:
                before = self.missing // 2
                x = F.pad(x, ((0, 0), (0, 0), (0, 0), (before, self.missing - before)))
            y = y + x
        return self.relu(y)


class CifarResNet(ImageClassifier):
    """A 3x3 convolution, three stages of blocks with 16, 32 and 64 channels, one linear layer; see `cifar_resnet20`.

    Weights start normal for their fan_in (He et al., 2015), biases at zero.

    Args:
        name: The name it is registered by.
        num_classes: Number of outputs.
        shortcut: False leaves out every shortcut: the plain network of the paper, with the same parameters.
    """

    classifier_names = ("linear",)

    def __init__(self, name: str = "cifar_resnet20", num_classes: int = 10, shortcut: bool = True) -> None:
        """Draw the parameters."""
        super().__init__(name, num_classes)
        shortcut = _args.flag(shortcut, "shortcut", name)
        blocks = variant(VARIANTS, name, "CifarResNet")
        self.conv1 = conv(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        in_channels = 16
        for stage, channels in enumerate((16, 32, 64)):
            layer = nn.Sequential()
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(CifarBlock(in_channels, channels, stride, shortcut))
                in_channels = channels
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.GlobalAvgPool2d()
        self.linear = self._classifier(in_channels)

    def _features(self, x: Any) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 4):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def _head(self, x: Any) -> Any:
        return self.linear(self.avgpool(x))

    def _classifier(self, in_features: int) -> nn.Linear:
        return nn.Linear(in_features, self.num_classes, weight_init=nn.init.kaiming_normal)


def _make(name: str, num_classes: int, weights: str | None, options: dict[str, Any]) -> CifarResNet:
    model: CifarResNet = build(CifarResNet, name, weights, num_classes, options)
    return model


@register
def cifar_resnet20(num_classes: int = 10, weights: str | None = None, **options: Any) -> CifarResNet:
    """Make the ResNet with 20 layers for images (N, 32, 32, 3): 269,722 parameters, 0.04 GMACs.

    "Deep residual learning for image recognition" (He et al., 2016), section 4.2, with shortcuts of option A: where a
    stage halves the image, the shortcut takes every second pixel and gets zeros for the channels that it lacks, half
    of them in front and half behind.

    Args:
        num_classes: Number of outputs.
        weights: Tag of published weights, or None for random parameters, drawn as described at `CifarResNet`.
        **options: `shortcut`, see `CifarResNet`.

    Raises:
        TypeError: an option of another type, or one that there is not.
        ValueError: a number out of range, or unknown weights.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import models
        >>> models.cifar_resnet20()(np.zeros((1, 32, 32, 3), np.uint8)).shape
        (1, 10)
    """
    return _make("cifar_resnet20", num_classes, weights, options)


@register
def cifar_resnet32(num_classes: int = 10, weights: str | None = None, **options: Any) -> CifarResNet:
    """Make the ResNet with 32 layers: 464,154 parameters; arguments as for `cifar_resnet20`."""
    return _make("cifar_resnet32", num_classes, weights, options)


@register
def cifar_resnet44(num_classes: int = 10, weights: str | None = None, **options: Any) -> CifarResNet:
    """Make the ResNet with 44 layers: 658,586 parameters; arguments as for `cifar_resnet20`."""
    return _make("cifar_resnet44", num_classes, weights, options)


@register
def cifar_resnet56(num_classes: int = 10, weights: str | None = None, **options: Any) -> CifarResNet:
    """Make the ResNet with 56 layers: 853,018 parameters; arguments as for `cifar_resnet20`."""
    return _make("cifar_resnet56", num_classes, weights, options)


@register
def cifar_resnet110(num_classes: int = 10, weights: str | None = None, **options: Any) -> CifarResNet:
    """Make the ResNet with 110 layers: 1,727,962 parameters; arguments as for `cifar_resnet20`."""
    return _make("cifar_resnet110", num_classes, weights, options)
