"""AlexNet: as published (Krizhevsky, Sutskever, Hinton, 2012), and in one tower (Krizhevsky, 2014)."""

from __future__ import annotations

from functools import partial
from typing import Any

from cnnrs import functional as F  # noqa: N812 - the name of the field
from cnnrs import nn
from cnnrs.models._base import ImageClassifier, build, fill_biases
from cnnrs.models._registry import register

small_normal = partial(nn.init.normal, std=0.01)


class AlexNet(ImageClassifier):
    """The network in one tower; see `alexnet`. Names are torchvision's.

    Args:
        name: The name it is registered by.
        num_classes: Number of outputs.
        dropout: Probability of a zero in front of the hidden linear layers.
    """

    classifier_names = ("classifier.6",)

    def __init__(self, name: str = "alexnet", num_classes: int = 1000, dropout: float = 0.5) -> None:
        """Draw the parameters as torch's layers do."""
        super().__init__(name, num_classes)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.flatten = nn.Flatten(order="chw")
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU()),
            self._classifier(4096),
        )

    def _features(self, x: Any) -> Any:
        return self.features(x)

    def _head(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.avgpool(x)))


class AlexNet2012(ImageClassifier):
    """The network as published; see `alexnet_2012`.

    Args:
        name: The name it is registered by.
        num_classes: Number of outputs.
        dropout: Probability of a zero behind the hidden linear layers.
    """

    classifier_names = ("classifier.6",)

    def __init__(self, name: str = "alexnet_2012", num_classes: int = 1000, dropout: float = 0.5) -> None:
        """Draw the parameters from N(0, 0.01); biases start at 0 or 1 as in section 5 of the paper."""
        super().__init__(name, num_classes)
        conv = partial(nn.Conv2d, weight_init=small_normal)
        linear = partial(nn.Linear, weight_init=small_normal)
        norm = partial(nn.LocalResponseNorm, 5, alpha=5e-4, beta=0.75, k=2.0)
        self.features = nn.Sequential(
            *(conv(3, 96, 11, stride=4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
            *(conv(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2)),
            *(conv(256, 384, 3, padding=1), nn.ReLU()),
            *(conv(384, 384, 3, padding=1, groups=2), nn.ReLU()),
            *(conv(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.flatten = nn.Flatten(order="chw")
        self.classifier = nn.Sequential(
            *(linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(dropout)),
            *(linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
            self._classifier(4096),
        )
        fill_biases(self, ("features.4", "features.10", "features.12", "classifier.0", "classifier.3"), 1.0)

    def _features(self, x: Any) -> Any:
        if x.shape[1:3] == (224, 224):
            x = F.pad(x, ((1, 2), (1, 2)))
        return self.features(x)

    def _head(self, x: Any) -> Any:
        return self.classifier(self.flatten(x))

    def _classifier(self, in_features: int) -> nn.Linear:
        return nn.Linear(in_features, self.num_classes, weight_init=small_normal)


@register
def alexnet(num_classes: int = 1000, weights: str | None = None, **options: Any) -> AlexNet:
    """Make AlexNet in one tower of 64-192-384-256-256 channels: 61,100,840 parameters, 0.71 GMACs at 224x224.

    "One weird trick for parallelizing convolutional neural networks" (Krizhevsky, 2014); the form of torchvision, with
    its names. Images of any size from 63x63 on fit: feature maps are averaged to 6x6.

    Args:
        num_classes: Number of outputs.
        weights: Tag of published weights, or None for random parameters, drawn as torch's layers do.
        **options: `dropout`, see `AlexNet`.

    Raises:
        ValueError: a number out of range, or unknown weights.
    """
    model: AlexNet = build(AlexNet, "alexnet", weights, num_classes, options)
    return model


@register
def alexnet_2012(num_classes: int = 1000, weights: str | None = None, **options: Any) -> AlexNet2012:
    """Make AlexNet as published: 60,965,224 parameters.

    "ImageNet classification with deep convolutional neural networks" (Krizhevsky, Sutskever, Hinton, 2012): the second,
    fourth and fifth convolution in two groups, local response normalization (k 2, size 5, beta 0.75, and the paper's
    alpha 1e-4 per channel, which is 5e-4 divided by the size here), overlapping 3x3 pooling with stride 2. Images are
    227x227; 224x224, the size that the paper names, get a border of zeros (1 before, 2 behind) to that size.

    Args:
        num_classes: Number of outputs.
        weights: Tag of published weights, or None for random parameters: N(0, 0.01), biases 1 in the second, fourth
            and fifth convolution and the hidden linear layers, 0 in the others.
        **options: `dropout`, see `AlexNet2012`.

    Raises:
        ValueError: a number out of range, or unknown weights.
    """
    model: AlexNet2012 = build(AlexNet2012, "alexnet_2012", weights, num_classes, options)
    return model
