"""Modules made of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, overload

from cnnrs import _args
from cnnrs.nn.module import Module

if TYPE_CHECKING:
    from collections.abc import Iterator


class Identity(Module):
    """Gives back what it gets; stands where a layer may be left out."""

    def forward(self, x: Any) -> Any:
        """Return the value."""
        return x


class Sequential(Module):
    """Modules that are called one after the other; their names are "0", "1", ....

    Args:
        *layers: The modules in order.

    Raises:
        TypeError: a layer is not a module.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> model(np.zeros((2, 8, 8, 1), np.float32)).shape
        (2, 10)
        >>> [name for name, _ in model.named_parameters()]
        ['0.weight', '0.bias', '3.weight', '3.bias']
    """

    def __init__(self, *layers: Module) -> None:
        """Append the layers."""
        super().__init__()
        for layer in layers:
            self.append(layer)

    def append(self, layer: Module) -> Self:
        """Put a module behind the last one; returns the sequence.

        Args:
            layer: The module.

        Raises:
            TypeError: not a module.
        """
        if not isinstance(layer, Module):
            message = f"Sequential: layer {len(self)} must be an nn.Module, got {_args.show(layer)}"
            raise TypeError(message)
        setattr(self, str(len(self)), layer)
        return self

    def forward(self, x: Any) -> Any:
        """Call the modules in order."""
        for layer in self.children():
            x = layer(x)
        return x

    def __len__(self) -> int:
        """Return the number of modules."""
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        """Yield the modules in order."""
        return self.children()

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        """Return one module, or a new sequence of a slice that shares its modules."""
        layers = list(self.children())
        return Sequential(*layers[index]) if isinstance(index, slice) else layers[index]
