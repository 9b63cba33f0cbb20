"""The parts of a module: other modules, parameters and buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cnnrs import graph
from cnnrs.nn.parameter import Buffer, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnrs.nn.module import Module


class Tree:
    """What a module is as a tree; `nn.Module` is the one class of this kind.

    Parameters, buffers and submodules are the attributes of those types, in the order they were first set.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; plans that were traced before become stale."""
        if isinstance(value, Tree) and any(module is self for _, module in value.named_modules()):
            message = f"{type(self).__name__}: {name} would make the module a part of itself"
            raise ValueError(message)
        parts = (Tree, Parameter, Buffer)
        structural = isinstance(value, parts) or isinstance(vars(self).get(name), parts)
        object.__setattr__(self, name, value)
        if structural or graph.current() is None:  # a forward that counts its calls must not make its plan stale
            graph.bump_epoch()

    def __delattr__(self, name: str) -> None:
        """Delete an attribute; plans that were traced before become stale."""
        object.__delattr__(self, name)
        graph.bump_epoch()

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the cached plans."""
        return {name: value for name, value in vars(self).items() if name != "_programs"}

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the direct parts."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tree):
                yield name, cast("Module", value)

    def children(self) -> Iterator[Module]:
        """Yield the direct parts."""
        for _, module in self.named_children():
            yield module

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of the module itself (named as the prefix, "") and of all parts.

        Args:
            prefix: Stands before the names.
            remove_duplicate: Yield a shared module once, under its first name.
        """
        return self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, cast("Module", self)
        for name, child in self.named_children():
            yield from child._walk(f"{prefix}.{name}" if prefix else name, seen)

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) in the order of the attributes.

        Args:
            prefix: Stands before the names.
            remove_duplicate: Yield a shared parameter once, under its first name.
        """
        for name, value in self._named_tensors(prefix, remove_duplicate):
            if isinstance(value, Parameter):
                yield name, value

    def named_buffers(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Buffer]]:
        """Yield (dotted name, buffer) in the order of the attributes.

        Args:
            prefix: Stands before the names.
            remove_duplicate: Yield a shared buffer once, under its first name.
        """
        for name, value in self._named_tensors(prefix, remove_duplicate):
            if isinstance(value, Buffer):
                yield name, value

    def _named_tensors(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter | Buffer]]:
        """Yield parameters and buffers, those of one module in the order of its attributes."""
        seen: set[int] = set()
        for path, module in self.named_modules(prefix, remove_duplicate):
            for name, value in list(vars(module).items()):
                if isinstance(value, (Parameter, Buffer)) and not (remove_duplicate and id(value) in seen):
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter
