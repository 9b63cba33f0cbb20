"""A model cut open: the outputs of its parts instead of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnrs import _args, nn
from cnnrs._value import Value
from cnnrs.nn._capture import resolve

if TYPE_CHECKING:
    from cnnrs.graph import Trace


def create_feature_extractor(model: nn.Module, return_nodes: Sequence[str] | Mapping[str, str]) -> FeatureExtractor:
    """Make a module that returns the outputs of parts of a model, by name.

    Args:
        model: The model; it is not copied, so that both have the same parameters.
        return_nodes: Dotted names of its parts, or a dictionary from such names to the names in the result.

    Returns:
        A module. Called on an array it gives a dictionary of arrays, computed in one call of a plan that is kept; on a
        symbolic value, in the `forward` of another module or in a loss, a dictionary of symbolic values. What comes
        after the last of the parts is not computed, so that images of another size than the head needs fit as well.

    Raises:
        ValueError: no name, one that is not a part's (the text shows near ones), or two equal names in the result.
        TypeError: not a module, or a name that is not a str.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import models
        >>> model = models.cifar_resnet20()
        >>> extractor = models.create_feature_extractor(model, ["layer2", "layer3"])
        >>> maps = extractor(np.zeros((1, 32, 32, 3), np.float32))
        >>> {name: array.shape for name, array in maps.items()}
        {'layer2': (1, 16, 16, 32), 'layer3': (1, 8, 8, 64)}
    """
    return FeatureExtractor(model, return_nodes)


class FeatureExtractor(nn.Module):
    """The outputs of parts of a model; made by `create_feature_extractor`.

    Parameters have the names of the model behind "model.". A part that is called more than once gives what its first
    call returned.

    Args:
        model: The model.
        return_nodes: Dotted names of its parts, or a dictionary from such names to the names in the result.
    """

    def __init__(self, model: nn.Module, return_nodes: Sequence[str] | Mapping[str, str]) -> None:
        """Check the names."""
        super().__init__()
        op = "create_feature_extractor"
        if not isinstance(model, nn.Module):
            message = f"{op}: model must be an nn.Module, got {_args.show(model)}"
            raise TypeError(message)
        if isinstance(return_nodes, str) or not isinstance(return_nodes, (Mapping, Sequence)):
            message = (
                f"{op}: return_nodes must be names of parts, or a dictionary of them, got {_args.show(return_nodes)}"
            )
            raise TypeError(message)
        resolve(model, list(return_nodes), op, shell=False)
        results = list(return_nodes.values()) if isinstance(return_nodes, Mapping) else list(return_nodes)
        for name in results:
            if not isinstance(name, str):
                message = f"{op}: a name in the result must be a str, got {_args.show(name)}"
                raise TypeError(message)
            if results.count(name) > 1:
                message = f"{op}: the name {name!r} stands twice"
                raise ValueError(message)
        self.return_nodes = dict(zip(return_nodes, results, strict=True))
        self.model = model

    @property
    def input_mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """The model's."""
        return self.model.input_mean

    @property
    def input_std(self) -> tuple[float, ...]:  # type: ignore[override]
        """The model's."""
        return self.model.input_std

    def __call__(self, x: Any, *others: Any, out: Any = None) -> Any:
        """Run on a batch of images, or record; see `nn.Module`. Where `out` is given it is a tuple of arrays."""
        result = super().__call__(x, *others, out=out)
        return dict(zip(self.return_nodes.values(), result, strict=True)) if isinstance(result, tuple) else result

    def trace_logits(self, x: Value) -> Any:
        """Record the module on the input of a trace; returns the values as a tuple."""
        return tuple(super().trace_logits(x).values())

    def forward(self, x: Any) -> dict[str, Any]:
        """Record the model as far as its parts are asked for."""
        trace: Trace = x.trace
        parts = dict(self.model.named_modules(remove_duplicate=False))
        calls = {name: trace.watch(parts[name]) for name in self.return_nodes}
        before = {name: len(results) for name, results in calls.items()}
        with trace.until(lambda: all(len(results) > before[name] for name, results in calls.items())):
            self.model(x)
        values = {}
        for name, result in self.return_nodes.items():
            if len(calls[name]) == before[name]:
                message = f"{type(self.model).__name__}: forward does not call {name!r}"
                raise ValueError(message)
            values[result] = calls[name][before[name]]
            if not isinstance(values[result], Value):
                message = f"{name}: a part must return a symbolic value, got {type(values[result]).__name__}"
                raise TypeError(message)
        return values

    def extra_repr(self) -> str:
        """Return the names."""
        return ", ".join(
            name if name == result else f"{name} as {result}" for name, result in self.return_nodes.items()
        )
