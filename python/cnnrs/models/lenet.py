"""LeNet-5 (LeCun et al., 1998)."""

from __future__ import annotations

from typing import Any

from cnnrs import _args, nn
from cnnrs._core import WeightsError
from cnnrs.models import _pretrained
from cnnrs.models._base import ImageClassifier
from cnnrs.models._registry import register

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
POOLS: dict[str, type[nn.AvgPool2d | nn.MaxPool2d]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
WEIGHTS = {"MNIST": "lenet5_mnist.safetensors"}


class LeNet5(ImageClassifier):
    """LeNet-5 on images (N, 28, 28, 1); see `lenet5`."""

    classifier_names = ("classifier.5",)
    input_mean = (0.1307,)
    input_std = (0.3081,)

    def __init__(self, num_classes: int = 10, activation: str = "tanh", pool: str = "avg") -> None:
        """Draw the parameters."""
        super().__init__("lenet5", num_classes)
        act = ACTIVATIONS[_choice(activation, "activation", ACTIVATIONS)]
        down = POOLS[_choice(pool, "pool", POOLS)]
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), act(), down(2), nn.Conv2d(6, 16, 5), act(), down(2)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(order="chw"), nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), self._classifier(84)
        )

    def _features(self, x: Any) -> Any:
        return self.features(x)

    def _head(self, x: Any) -> Any:
        return self.classifier(x)


@register
def lenet5(num_classes: int = 10, activation: str = "tanh", pool: str = "avg", weights: str | None = None) -> LeNet5:
    """Make LeNet-5 for images (N, 28, 28, 1): two convolutions, three linear layers, 61,706 parameters.

    Args:
        num_classes: Number of outputs.
        activation: "tanh", as published, or "relu".
        pool: "avg", as published without its weights, or "max".
        weights: None for random parameters, "MNIST" for the ones shipped with the package, which fit
            10 classes, tanh and avg.

    Raises:
        ValueError: an unknown choice, or a number out of range.
        WeightsError: the shipped weights belong to another form.
        FileNotFoundError: the shipped weights are not installed.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import models
        >>> models.lenet5()(np.zeros((2, 28, 28, 1), np.float32)).shape
        (2, 10)
    """
    if weights is not None:
        _choice(weights, "weights", WEIGHTS)
    model = LeNet5(num_classes, activation, pool)
    if weights is not None and (num_classes, activation, pool) != (10, "tanh", "avg"):
        message = (
            f'lenet5: weights "{weights}" fit num_classes=10, activation="tanh", pool="avg", got '
            f'num_classes={num_classes}, activation="{activation}", pool="{pool}"'
        )
        raise WeightsError(message)
    _pretrained.apply(model, "lenet5", weights)
    return model


def _choice(value: object, name: str, choices: dict[str, Any]) -> str:
    """Return one of the choices."""
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(f'"{choice}"' for choice in choices)
        message = f"lenet5: {name} must be one of {words}, got {_args.show(value)}"
        raise ValueError(message)
    return value
