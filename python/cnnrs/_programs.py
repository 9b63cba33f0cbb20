"""The graphs a trainer runs, built when first needed and kept per sample shape and dtype.

A step is one program: forward, loss, backward and update. All programs are dropped when the structure of any
module changed (`cnnrs.graph.epoch()`); momentum buffers are kept by parameter name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import _core, graph
from cnnrs._args import check_array
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter

__all__ = ["Programs"]

_MOST_PROGRAMS = 32
_TRACED_BATCH = 2


class _Guard:
    """The lock under which programs and momentum are made; a warm call does not take it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def renew(self) -> None:
        """Make the lock fresh in a forked child, where its holder may not exist."""
        self.lock = threading.RLock()


_guard = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.renew)


class Call:
    """A program together with the arrays its trace met."""

    __slots__ = ("_program", "_trace")

    def __init__(self, trace: graph.Trace, outputs: Sequence[int], name: str, plans: _core.PlanCache) -> None:
        self._program = _core.Program(trace.graph, outputs, name, plans)
        self._trace = trace

    def __call__(self, *arrays: NDArray[Any]) -> list[Any]:
        """Run on arrays in the order of the inputs."""
        return self._program.run(self._trace.feed(arrays))


class Programs:
    """Programs of one model, its trainable parameters and their momentum.

    Args:
        model: The model; it must keep its parameter names and shapes from now on.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self.epoch = -1
        self.names: list[str] = []
        self.trainable: dict[str, Parameter] = {}
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._momentum: dict[str, _core.Parameter] = {}
        self._cache: dict[tuple[Any, ...], Call] = {}
        self.plans = _core.PlanCache()
        self.sync()

    def sync(self) -> None:
        """Notice a change of structure: drop the programs and look at the parameters again.

        Raises:
            ValueError: The model gained or lost parameters, or has one of another shape.
        """
        epoch = graph.epoch()
        if epoch == self.epoch:
            return
        with _guard.lock:
            parameters = dict(self.model.named_parameters())
            shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
            _check_unchanged(self._shapes, shapes)
            self.names = list(parameters)
            self.trainable = {name: parameter for name, parameter in parameters.items() if parameter.trainable}
            self._cache.clear()
            self.epoch = epoch

    def step(self, x: NDArray[Any], nesterov: bool) -> Call:
        """Return the program (images, labels, hyper) -> [loss, correct] that also updates the parameters."""
        key = ("step", nesterov, x.shape[1:], x.dtype)
        return self._cache.get(key) or self._keep(key, lambda: self._build_step(x, nesterov))

    def gradients(self, x: NDArray[Any]) -> Call:
        """Return the program (images, labels) -> [loss, a gradient for each of `trainable`]."""
        key = ("gradients", x.shape[1:], x.dtype)
        return self._cache.get(key) or self._keep(key, lambda: self._build_gradients(x))

    def apply(self, nesterov: bool) -> Call:
        """Return the program (hyper, a gradient for each of `trainable`) -> [] that updates the parameters."""
        key = ("apply", nesterov)
        return self._cache.get(key) or self._keep(key, lambda: self._build_apply(nesterov))

    def evaluate(self, x: NDArray[Any]) -> Call:
        """Return the program (images, labels) -> [loss, correct] in evaluation mode."""
        key = ("evaluate", x.shape[1:], x.dtype)
        return self._cache.get(key) or self._keep(key, lambda: self._build_evaluate(x))

    def written(self) -> _core.Parameter:
        """Return a buffer that every update writes and nothing else does: its version tells whether one did."""
        return self._momentum_of(next(iter(self.trainable)))

    def require_trainable(self) -> None:
        """Refuse to train where there is nothing to train.

        Raises:
            ValueError: Every parameter is frozen, or there is none.
        """
        if not self.trainable:
            msg = f"model: expected a trainable parameter, all {len(self.names)} are frozen"
            raise ValueError(msg)

    def check_gradients(self, grads: Mapping[str, Any]) -> list[NDArray[np.float32]]:
        """Return the gradients a caller gave in the order of `trainable`.

        Raises:
            TypeError: Not a mapping, or a gradient that is not a float32 array.
            ShapeError: A gradient of another shape than its parameter.
            ValueError: A name too many or too few, or every parameter frozen.
        """
        if not isinstance(grads, Mapping):
            msg = f"grads: expected a dictionary of arrays by parameter name, got {type(grads).__name__}"
            raise TypeError(msg)
        self.require_trainable()
        for name in grads:
            if name not in self.trainable:
                problem = "is frozen" if name in self.names else "is not in the model"
                msg = f"grads: expected gradients of the trainable parameters, got one for {name!r}, which {problem}"
                raise ValueError(msg)
        arrays = []
        for name, parameter in self.trainable.items():
            if name not in grads:
                msg = f"grads: expected a gradient for every trainable parameter, got none for {name!r}"
                raise ValueError(msg)
            arrays.append(check_array(grads[name], "grads", name))
            if arrays[-1].shape != parameter.shape:
                msg = f"grads: {name} must have the shape of its parameter, {parameter.shape}, got {arrays[-1].shape}"
                raise _core.ShapeError(msg)
        return arrays

    def _momentum_of(self, name: str) -> _core.Parameter:
        if name not in self._momentum:
            self._momentum[name] = _core.Parameter(np.zeros(self.trainable[name].shape, np.float32))
        return self._momentum[name]

    def _keep(self, key: tuple[Any, ...], build: Callable[[], Call]) -> Call:
        with _guard.lock:
            program = build()
            while len(self._cache) >= _MOST_PROGRAMS:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = program
            return program

    def _build_step(self, x: NDArray[Any], nesterov: bool) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            loss, correct = self._trace_loss(trace, x)
            gradients = self._trace_gradients(trace, loss)
            hyper = trace.input((len(self.trainable), 4), "float32", "hyper", batched=False).id
            self._trace_update(trace, hyper, gradients, nesterov)
        return Call(trace, [loss, correct], "step", self.plans)

    def _build_gradients(self, x: NDArray[Any]) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            loss, _ = self._trace_loss(trace, x)
            gradients = self._trace_gradients(trace, loss)
        return Call(trace, [loss, *gradients], "gradients", self.plans)

    def _build_apply(self, nesterov: bool) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            hyper = trace.input((len(self.trainable), 4), "float32", "hyper", batched=False).id
            gradients = [
                trace.input(parameter.shape, "float32", f"gradient of {name}", batched=False).id
                for name, parameter in self.trainable.items()
            ]
            self._trace_update(trace, hyper, gradients, nesterov)
        return Call(trace, [], "apply", self.plans)

    def _build_evaluate(self, x: NDArray[Any]) -> Call:
        with graph.Trace(root=self.model, training=False) as trace:
            loss, correct = self._trace_loss(trace, x)
        return Call(trace, [loss, correct], "evaluate", self.plans)

    def _trace_loss(self, trace: graph.Trace, x: NDArray[Any]) -> tuple[int, int]:
        """Record the forward pass and the loss; images and labels become inputs 0 and 1."""
        images = trace.input((_TRACED_BATCH, *x.shape[1:]), str(x.dtype), "x")
        labels = trace.input((_TRACED_BATCH,), "int64", "labels")
        logits = self.model.trace_logits(images)
        if not isinstance(logits, graph.Value):
            name, got = type(self.model).__name__, type(logits).__name__
            msg = f"{name}: forward must return logits (N, classes) to train, got {got}"
            raise TypeError(msg)
        loss, correct, _ = trace.graph.add("cross_entropy", [logits.id, labels.id], {}, "")
        return loss, correct

    def _trace_gradients(self, trace: graph.Trace, loss: int) -> list[int]:
        """Record the backward pass; a parameter the loss does not depend on has a gradient of zeros."""
        values = [trace.parameter(parameter, name).id for name, parameter in self.trainable.items()]
        found = trace.graph.gradients([loss], [None], values)
        return [
            trace.graph.constant(np.zeros(parameter.shape, np.float32)) if gradient is None else gradient
            for gradient, parameter in zip(found, self.trainable.values(), strict=True)
        ]

    def _trace_update(self, trace: graph.Trace, hyper: int, gradients: list[int], nesterov: bool) -> None:
        inputs = [hyper]
        for (name, parameter), gradient in zip(self.trainable.items(), gradients, strict=True):
            momentum = trace.graph.parameter(self._momentum_of(name), f"momentum of {name}")
            inputs += [trace.parameter(parameter, name).id, gradient, momentum]
        trace.graph.add("sgd", inputs, {"nesterov": nesterov}, "")


def _check_unchanged(before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]]) -> None:
    if now == before:
        return
    gained = [name for name in now if name not in before]
    lost = [name for name in before if name not in now]
    other = [f"{name} {before[name]} -> {now[name]}" for name in now if name in before and now[name] != before[name]]
    changes = [("gained", gained), ("lost", lost), ("has with another shape", other)]
    text = "; ".join(f"{verb} {', '.join(names)}" for verb, names in changes if names)
    msg = f"model: the parameters are not those the trainer was made with, the model {text} (make a new Trainer)"
    raise ValueError(msg)
