"""What a trainer keeps of each parameter between updates: the optimizer's states, and averages of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cnnrs import _core, graph
from cnnrs.nn.parameter import Buffer, Parameter
from cnnrs.optim.optimizer import Optimizer

__all__ = ["Averages", "States", "exchanged"]

_NEW = 1
"""Version of a stored tensor that was filled and not written since."""


class States:
    """The optimizer's states by parameter name; an optimizer of another kind starts with fresh ones.

    Every update writes all states of the parameters that it updates, and nothing else writes them: their versions
    count the updates.
    """

    def __init__(self) -> None:
        self._op = ""
        self._stored: dict[str, dict[str, _core.Parameter]] = {}

    def follow(self, optimizer: Optimizer) -> bool:
        """Forget the states of an optimizer of another kind; return whether there were any."""
        if optimizer._op == self._op:
            return False
        forgot = bool(self._stored)
        self._op, self._stored = optimizer._op, {}
        return forgot

    def of(self, name: str, shape: tuple[int, ...], states: Mapping[str, float]) -> list[_core.Parameter]:
        """Return the states of a parameter, made where there are none yet.

        Args:
            name: Name of the parameter.
            shape: Its shape.
            states: Names of the states, and what they start at.
        """
        stored = self._stored.setdefault(name, {})
        for state, start in states.items():
            if state not in stored:
                stored[state] = _core.Parameter(np.full(shape, start, np.float32))
        return [stored[state] for state in states]

    def updates(self, name: str) -> int:
        """Return how many updates a parameter has had."""
        stored = self._stored.get(name)
        return max(state.version for state in stored.values()) - _NEW if stored else 0


class Averages:
    """Averages of stored tensors over the updates, made when first needed."""

    def __init__(self) -> None:
        self._stored: dict[int, tuple[graph.Storage, _core.Parameter]] = {}

    def __len__(self) -> int:
        """Return the number of averages."""
        return len(self._stored)

    def keep(self, tensors: Iterable[graph.Storage]) -> None:
        """Forget the averages of all other tensors."""
        kept = {id(tensor) for tensor in tensors}
        self._stored = {key: known for key, known in self._stored.items() if key in kept}

    def of(self, tensor: graph.Storage) -> _core.Parameter:
        """Return the average of a tensor."""
        known = self._stored.get(id(tensor))
        if known is None or known[0] is not tensor:
            known = self._stored[id(tensor)] = tensor, _core.Parameter(tensor._storage.view().copy())
        return known[1]

    def array(self, tensor: graph.Storage) -> NDArray[np.float32]:
        """Return a snapshot of a tensor's average; of the tensor itself before the first update."""
        average = self.of(tensor)
        return (average if average.version > _NEW else tensor._storage).view().copy()

    def weight(self, tensors: Iterable[graph.Storage], decay: float) -> NDArray[np.float32]:
        """Return the weight of the new values in the next update: all of it in the first."""
        fresh = all(self.of(tensor).version == _NEW for tensor in tensors)
        return np.array(1.0 if fresh else 1.0 - decay, np.float32)


@contextmanager
def exchanged(tensors: Sequence[Parameter | Buffer], arrays: Sequence[NDArray[np.float32]]) -> Iterator[None]:
    """Let tensors hold other contents inside a `with` block, and their own again after it, come what may."""
    own = [tensor.array.copy() for tensor in tensors]
    try:
        _assign(tensors, arrays)
        yield
    finally:
        try:
            _assign(tensors, own)
        except BaseException:
            _assign(tensors, own)  # Ctrl-C in between: finish, then let it through
            raise


def _assign(tensors: Sequence[Parameter | Buffer], arrays: Sequence[NDArray[np.float32]]) -> None:
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.assign(array)
