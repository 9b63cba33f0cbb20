"""What every network of the zoo shares: two halves, a last layer that can be replaced, and its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from cnnrs import _args, graph, nn
from cnnrs._value import Value
from cnnrs.models._registry import near

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Choice = TypeVar("Choice")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageClassifier(nn.Module):
    """A network from images (N, H, W, C) to logits (N, num_classes), in two halves.

    A subclass defines `_features` and `_head` and calls the constructor before it sets its parts.

    Args:
        name: The name it is registered by.
        num_classes: Number of outputs.

    Attributes:
        name: The name it is registered by.
        num_classes: Number of outputs.
        classifier_names: Dotted names of the layers that depend on the classes.
        classes: Names of the classes; empty when unknown.
        preprocessing: What makes batches of pictures; None when unknown.
    """

    input_mean: tuple[float, ...] = IMAGENET_MEAN
    input_std: tuple[float, ...] = IMAGENET_STD
    classifier_names: tuple[str, ...]
    classes: tuple[str, ...] = ()
    preprocessing: Any = None

    def __init__(self, name: str, num_classes: int) -> None:
        """Check the number of classes."""
        super().__init__()
        if not isinstance(name, str):
            message = f"{type(self).__name__}: name must be a str, got {_args.show(name)}"
            raise TypeError(message)
        self.name = name
        self.num_classes = _args.whole(num_classes, "num_classes", name)

    def forward(self, x: Any) -> Any:
        """Record the network; the output is (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Any) -> Any:
        """Compute the last feature maps, before pooling and classifier.

        Args:
            x: Images (N, H, W, C) as in a call, or a symbolic value.

        Returns:
            Feature maps (N, h, w, channels); an array for an array, in one call of a plan that is kept.

        Raises:
            ShapeError: a layer does not fit its input.
            TypeError: a wrong dtype.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import models
            >>> model = models.lenet5()
            >>> maps = model.forward_features(np.zeros((2, 28, 28, 1), np.float32))
            >>> maps.shape, model.forward_head(maps).shape
            ((2, 5, 5, 16), (2, 10))
        """
        return self._half("_features", x)

    def forward_head(self, x: Any) -> Any:
        """Compute the logits from the last feature maps.

        Args:
            x: What `forward_features` returns; floats, as an array, or a symbolic value.

        Returns:
            Logits (N, num_classes); an array for an array, in one call of a plan that is kept.

        Raises:
            ShapeError: a layer does not fit its input.
            TypeError: a wrong dtype, uint8 among them.
        """
        if isinstance(x, np.ndarray) and x.dtype == np.uint8:
            message = f"{self.name}: forward_head takes feature maps of floats, got a uint8 array"
            raise TypeError(message)
        return self._half("_head", x)

    def reset_classifier(self, num_classes: int) -> Self:
        """Replace the classifying layer by a new one with random parameters; returns the model.

        All other parameters stay. A trainer made before refuses the model: its parameters changed.

        Args:
            num_classes: Number of outputs from now on.

        Raises:
            ValueError: the number is out of range.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import models
            >>> model = models.lenet5(weights="MNIST").reset_classifier(3)
            >>> model(np.zeros((2, 28, 28, 1), np.float32)).shape
            (2, 3)
        """
        self.num_classes = _args.whole(num_classes, "num_classes", f"{self.name}.reset_classifier")
        for name in self.classifier_names:
            path, _, last = name.rpartition(".")
            parent = dict(self.named_modules())[path]
            setattr(parent, last, self._classifier(getattr(parent, last).in_features))
        self.classes = ()
        return self

    def _features(self, x: Any) -> Any:
        """Record the feature maps."""
        raise NotImplementedError

    def _head(self, x: Any) -> Any:
        """Record the logits from the feature maps."""
        raise NotImplementedError

    def _classifier(self, in_features: int) -> nn.Linear:
        """Make a classifying layer as the network starts with."""
        return nn.Linear(in_features, self.num_classes)

    def _half(self, method: str, x: Any) -> Any:
        """Record a half of the network, or run it on an array."""
        if isinstance(x, Value) or graph.current() is not None:
            return getattr(self, method)(x)
        halves: dict[str, _Half] = vars(self).setdefault("_halves", {})
        return halves.setdefault(method, _Half(self, method))(x)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without plans."""
        return {name: value for name, value in super().__getstate__().items() if name != "_halves"}


class _Half(nn.Module):
    """A method of a model as a module with plans of its own; its parts are the model's, under their names there.

    Args:
        model: The model.
        method: Name of a method from a symbolic value to another.
    """

    def __init__(self, model: ImageClassifier, method: str) -> None:
        super().__init__()
        self.of = (model, method)

    @property
    def input_mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """The model's."""
        return self.of[0].input_mean

    @property
    def input_std(self) -> tuple[float, ...]:  # type: ignore[override]
        """The model's."""
        return self.of[0].input_std

    def forward(self, x: Any) -> Any:
        """Record the half."""
        model, method = self.of
        return getattr(model, method)(x)

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, nn.Module]]:
        yield prefix, self
        yield from self.of[0]._walk(prefix, seen)


def variant(table: Mapping[str, Choice], name: str, op: str) -> Choice:
    """Return what a table of variants has under a name.

    Args:
        table: The variants of a family.
        name: The name.
        op: Stands before the error text.

    Raises:
        ValueError: the table does not have the name; the text shows near ones.
    """
    if name not in table:
        message = f"{op}: there is no variant {_args.show(name)}; near names: {', '.join(near(name, table))}"
        raise ValueError(message)
    return table[name]


def fill_biases(model: nn.Module, names: tuple[str, ...], value: float) -> None:
    """Let the biases of layers start at a number."""
    layers = dict(model.named_modules())
    for name in names:
        bias: nn.Parameter = layers[name].bias  # type: ignore[attr-defined]
        bias.assign(nn.init.constant(bias.shape, value))


def build(make: Callable[..., Any], name: str, weights: str | None, num_classes: int, arguments: dict[str, Any]) -> Any:
    """Make a model of the zoo and load its published weights, if asked for.

    Args:
        make: The class.
        name: The registered name.
        weights: Tag of the weights, or None.
        num_classes: Number of outputs.
        arguments: Go to the class.

    Raises:
        TypeError: an argument that the class does not take.
        ValueError: an argument out of range, or unknown weights.
    """
    from cnnrs.models import _pretrained

    model = make(name, num_classes=num_classes, **arguments)
    _pretrained.apply(model, name, weights)
    return model
