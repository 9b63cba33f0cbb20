"""ResNet (He et al., 2016), version 1.5: in a bottleneck the stride sits in the 3x3 convolution."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from cnnrs import _args, nn
from cnnrs.models._base import ImageClassifier, build, variant
from cnnrs.models._registry import register

conv = partial(nn.Conv2d, bias=False, weight_init=partial(nn.init.kaiming_normal, mode="fan_out"))


class _Block(nn.Module):
    """A residual block: relu(shortcut + branch); the last layer of its branch is the normalization `last`."""

    expansion: ClassVar[int]
    last: ClassVar[str]

    def _add(self, x: Any, y: Any) -> Any:
        """Record what follows the branch y of x."""
        if self.drop_path is not None:
            y = self.drop_path(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    def _finish(self, in_channels: int, out_channels: int, stride: int, drop_path: float) -> None:
        """Make the parts that follow the branch."""
        self.relu = nn.ReLU()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels)
            )
        self.drop_path = nn.DropPath(drop_path) if drop_path else None


class BasicBlock(_Block):
    """Two 3x3 convolutions, of ResNet-18 and ResNet-34.

    Args:
        in_channels: Channels of the input.
        channels: Channels inside and of the output.
        stride: Stride of the first convolution.
        drop_path: Probability that a training step leaves the branch out for an image.
    """

    expansion = 1
    last = "bn2"

    def __init__(self, in_channels: int, channels: int, stride: int, drop_path: float) -> None:
        """Draw the parameters."""
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self._finish(in_channels, channels, stride, drop_path)

    def forward(self, x: Any) -> Any:
        """Record the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self._add(x, self.bn2(self.conv2(y)))


class Bottleneck(_Block):
    """1x1, 3x3 and 1x1 convolutions, of ResNet-50 and deeper.

    The paper has the stride in the first 1x1 convolution; here, as in torchvision and nearly all published weights
    ("v1.5"), it is in the 3x3 one.

    Args:
        in_channels: Channels of the input.
        channels: Channels inside; the output has four times as many.
        stride: Stride of the 3x3 convolution.
        drop_path: Probability that a training step leaves the branch out for an image.
    """

    expansion = 4
    last = "bn3"

    def __init__(self, in_channels: int, channels: int, stride: int, drop_path: float) -> None:
        """Draw the parameters."""
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride=stride, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self._finish(in_channels, out_channels, stride, drop_path)

    def forward(self, x: Any) -> Any:
        """Record the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self._add(x, self.bn3(self.conv3(y)))


VARIANTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
"""Block, and blocks in each of the four stages."""


class ResNet(ImageClassifier):
    """A 7x7 convolution, four stages of residual blocks, one linear layer; see `resnet50`. Names are torchvision's.

    Convolutions start normal for their fan_out (He et al., 2015), the linear layer as torch's.

    Args:
        name: The name it is registered by.
        num_classes: Number of outputs.
        zero_init_residual: Let the last normalization of every branch start at zero, so that every block starts as its
            shortcut (Goyal et al., 2017).
        drop_path: Probability that a training step leaves the last block's branch out for an image; it grows from
            block to block in equal steps from zero (stochastic depth, Huang et al., 2016).
    """

    classifier_names = ("fc",)

    def __init__(
        self, name: str = "resnet50", num_classes: int = 1000, zero_init_residual: bool = False, drop_path: float = 0.0
    ) -> None:
        """Draw the parameters."""
        super().__init__(name, num_classes)
        zero_init_residual = _args.flag(zero_init_residual, "zero_init_residual", name)
        drop_path = _args.number(drop_path, "drop_path", name, 0.0, 1.0)
        block, depths = variant(VARIANTS, name, "ResNet")
        self.conv1 = conv(3, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        in_channels, count = 64, 0
        for stage, depth in enumerate(depths):
            layer = nn.Sequential()
            for index in range(depth):
                count += 1
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(block(in_channels, 64 << stage, stride, drop_path * count / sum(depths)))
                in_channels = block.expansion * (64 << stage)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = self._classifier(in_channels)
        if zero_init_residual:
            for _, module in self.named_modules():
                if isinstance(module, _Block):
                    scale: nn.Parameter = getattr(module, module.last).weight
                    scale.assign(nn.init.zeros(scale.shape))

    def _features(self, x: Any) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def _head(self, x: Any) -> Any:
        return self.fc(self.avgpool(x))


def _make(name: str, num_classes: int, weights: str | None, options: dict[str, Any]) -> ResNet:
    model: ResNet = build(ResNet, name, weights, num_classes, options)
    return model


@register
def resnet18(num_classes: int = 1000, weights: str | None = None, **options: Any) -> ResNet:
    """Make ResNet-18: 11,689,512 parameters, 1.81 GMACs at 224x224; arguments as for `resnet50`.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import models
        >>> model = models.resnet18(num_classes=10)
        >>> model(np.zeros((1, 64, 64, 3), np.float32)).shape
        (1, 10)
    """
    return _make("resnet18", num_classes, weights, options)


@register
def resnet34(num_classes: int = 1000, weights: str | None = None, **options: Any) -> ResNet:
    """Make ResNet-34: 21,797,672 parameters, 3.66 GMACs at 224x224; arguments as for `resnet50`."""
    return _make("resnet34", num_classes, weights, options)


@register
def resnet50(num_classes: int = 1000, weights: str | None = None, **options: Any) -> ResNet:
    """Make ResNet-50: 25,557,032 parameters, 4.09 GMACs at 224x224.

    "Deep residual learning for image recognition" (He et al., 2016), version 1.5: where a bottleneck halves the image,
    its 3x3 convolution does it, not the first 1x1 one as in the paper. Images of any size fit, from 1x1 on.

    Args:
        num_classes: Number of outputs.
        weights: Tag of published weights, or None for random parameters, drawn as described at `ResNet`.
        **options: `zero_init_residual` and `drop_path`, see `ResNet`.

    Raises:
        TypeError: an option of another type, or one that there is not.
        ValueError: a number out of range, or unknown weights.
    """
    return _make("resnet50", num_classes, weights, options)


@register
def resnet101(num_classes: int = 1000, weights: str | None = None, **options: Any) -> ResNet:
    """Make ResNet-101: 44,549,160 parameters, 7.80 GMACs at 224x224; arguments as for `resnet50`."""
    return _make("resnet101", num_classes, weights, options)


@register
def resnet152(num_classes: int = 1000, weights: str | None = None, **options: Any) -> ResNet:
    """Make ResNet-152: 60,192,808 parameters, 11.51 GMACs at 224x224; arguments as for `resnet50`."""
    return _make("resnet152", num_classes, weights, options)
