"""The graphs a trainer runs, built when first needed and kept per shape and dtype of images and targets.

A step is one program: forward, loss, backward, clipping, update and averages. All programs are dropped when the
structure of any module changed (`cnnrs.graph.epoch()`); what the optimizer remembers is kept by parameter name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnrs import _core, graph
from cnnrs._args import check_array
from cnnrs._losses import Loss
from cnnrs._states import Averages, States
from cnnrs._value import Value
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Buffer, Parameter
from cnnrs.optim.clipping import scaled_to_norm, within_value
from cnnrs.optim.optimizer import Optimizer

__all__ = ["Programs", "Recipe"]

_MOST_PROGRAMS = 32


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

    __slots__ = ("_program", "_trace", "batch_specific")

    def __init__(self, trace: graph.Trace, outputs: Sequence[int], name: str, plans: _core.PlanCache) -> None:
        self._program = _core.Program(trace.graph, outputs, name, plans)
        self._trace = trace
        self.batch_specific = trace.batch_specific

    def __call__(self, *arrays: NDArray[Any], key: NDArray[np.int64] | None = None) -> list[Any]:
        """Run on arrays in the order of the inputs; `key` is (seed, step) for the draws of dropout."""
        return self._program.run(self._trace.feed(arrays, key))


class Recipe(NamedTuple):
    """What an update does; its numbers are inputs of the program, in this order.

    Attributes:
        optimizer: Attributes of the update.
        states: Names of the states of a parameter, and what they start at.
        columns: Numbers in a row of the table of hyperparameters, the first input.
        clip_value: Whether gradients are brought into an interval; its bound is the next input.
        clip_norm: Whether they are scaled to a norm; that is the next input.
        average: Whether averages are kept; the weight of the new values is the next input.
    """

    optimizer: tuple[tuple[str, Any], ...]
    states: tuple[tuple[str, float], ...]
    columns: int
    clip_value: bool
    clip_norm: bool
    average: bool

    @classmethod
    def of(cls, optimizer: Optimizer) -> Recipe:
        """Return the recipe of an optimizer and nothing else."""
        attributes, states = tuple(optimizer._attributes.items()), tuple(optimizer._states.items())
        return cls(attributes, states, optimizer._columns, False, False, False)

    def including(self, clip_value: object, clip_norm: object, ema_decay: object) -> Recipe:
        """Return the recipe with what is not None."""
        if clip_value is clip_norm is ema_decay is None:
            return self
        return self._replace(
            clip_value=clip_value is not None, clip_norm=clip_norm is not None, average=ema_decay is not None
        )


class Programs:
    """Programs of one model and loss, its trainable parameters and what is kept of them between updates.

    Args:
        model: The model; it must keep its parameter names and shapes from now on.
        loss: The loss.
    """

    def __init__(self, model: Module, loss: Loss) -> None:
        self.model = model
        self.loss = loss
        self.epoch = -1
        self.names: list[str] = []
        self.trainable: dict[str, Parameter] = {}
        self.averaged: list[Parameter | Buffer] = []
        """The tensors that averages are kept of: every parameter, frozen or not, and every buffer of floats."""
        self.states = States()
        self.averages = Averages()
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
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
            buffers = [buffer for _, buffer in self.model.named_buffers() if buffer.dtype == np.float32]
            self.averaged = [*parameters.values(), *buffers]
            self.averages.keep(self.averaged)
            self._cache.clear()
            self.epoch = epoch

    def follow(self, optimizer: Optimizer) -> None:
        """Notice an optimizer of another kind: drop what the former one remembered, and the programs that use it."""
        if self.states.follow(optimizer):
            self._cache.clear()

    def average_weight(self, ema_decay: float | None) -> list[NDArray[np.float32]]:
        """Return the weight of the new values in the next update's averages; none, and no averages, without decay."""
        if ema_decay is not None:
            return [self.averages.weight(self.averaged, ema_decay)]
        if self.averages:
            self.averages = Averages()
            self._cache.clear()
        return []

    def step(self, x: NDArray[Any], y: NDArray[Any], recipe: Recipe) -> Call:
        """Return the program (images, targets, numbers of the recipe) -> measures that also makes the update."""
        return self._find(("step", *_signature(x, y), recipe), len(x), lambda: self._build_step(x, y, recipe))

    def gradients(self, x: NDArray[Any], y: NDArray[Any]) -> Call:
        """Return the program (images, targets) -> [loss, a gradient for each of `trainable`]."""
        return self._find(("gradients", *_signature(x, y)), len(x), lambda: self._build_gradients(x, y))

    def apply(self, recipe: Recipe) -> Call:
        """Return the program (a gradient for each of `trainable`, numbers of the recipe) -> [] that updates."""
        return self._find(("apply", recipe), 0, lambda: self._build_apply(recipe))

    def evaluate(self, x: NDArray[Any], y: NDArray[Any]) -> Call:
        """Return the program (images, targets) -> measures in evaluation mode."""
        return self._find(("evaluate", *_signature(x, y)), len(x), lambda: self._build_evaluate(x, y))

    def written(self, recipe: Recipe) -> _core.Parameter:
        """Return a tensor that every update writes and nothing else does: its version tells whether one did."""
        name, parameter = next(iter(self.trainable.items()))
        return self.states.of(name, parameter.shape, dict(recipe.states))[0]

    def counts(self) -> list[int]:
        """Return how many updates each of `trainable` has had."""
        return [self.states.updates(name) for name in self.trainable]

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

    def _find(self, key: tuple[Any, ...], batch: int, build: Callable[[], Call]) -> Call:
        """Return the program for a key, built now if need be; one that is good for one batch size only has its own."""
        known = self._cache.get(key) or self._cache.get((*key, batch))
        if known is not None:
            return known
        with _guard.lock:
            program = build()
            while len(self._cache) >= _MOST_PROGRAMS:
                del self._cache[next(iter(self._cache))]
            self._cache[(*key, batch) if program.batch_specific else key] = program
            return program

    def _build_step(self, x: NDArray[Any], y: NDArray[Any], recipe: Recipe) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            measures = self._trace_loss(trace, x, y)
            gradients = self._trace_gradients(trace, measures[0])
            self._trace_update(trace, gradients, recipe)
            trace.write_buffers()
            self._trace_averages(trace, recipe)
        return Call(trace, measures, "step", self.plans)

    def _build_gradients(self, x: NDArray[Any], y: NDArray[Any]) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            loss, *_ = self._trace_loss(trace, x, y)
            gradients = self._trace_gradients(trace, loss)
            trace.write_buffers()
        return Call(trace, [loss, *(gradient.id for gradient in gradients)], "gradients", self.plans)

    def _build_apply(self, recipe: Recipe) -> Call:
        with graph.Trace(root=self.model, training=True) as trace:
            gradients = [
                trace.input(parameter.shape, "float32", f"gradient of {name}", batched=False)
                for name, parameter in self.trainable.items()
            ]
            self._trace_update(trace, gradients, recipe)
            self._trace_averages(trace, recipe)
        return Call(trace, [], "apply", self.plans)

    def _build_evaluate(self, x: NDArray[Any], y: NDArray[Any]) -> Call:
        with graph.Trace(root=self.model, training=False) as trace:
            measures = self._trace_loss(trace, x, y)
        return Call(trace, measures, "evaluate", self.plans)

    def _trace_loss(self, trace: graph.Trace, x: NDArray[Any], y: NDArray[Any]) -> list[int]:
        """Record the forward pass and the loss; images and targets become inputs 0 and 1."""
        images = trace.input(x.shape, str(x.dtype), "x")
        name = "labels" if y.dtype.kind == "i" else "target"
        target = trace.input(y.shape, str(y.dtype), name)
        logits = self.model.trace_logits(images)
        if not isinstance(logits, Value):
            model, got = type(self.model).__name__, type(logits).__name__
            msg = f"{model}: forward must return logits (N, classes) to train, got {got}"
            raise TypeError(msg)
        return self.loss.trace(logits, target)

    def _trace_gradients(self, trace: graph.Trace, loss: int) -> list[Value]:
        """Record the backward pass; a parameter the loss does not depend on has a gradient of zeros."""
        values = [trace.parameter(parameter, name).id for name, parameter in self.trainable.items()]
        found = trace.graph.gradients([loss], [None], values)
        return [
            trace.constant(np.zeros(parameter.shape, np.float32))
            if gradient is None
            else Value(trace, gradient, "a gradient")
            for gradient, parameter in zip(found, self.trainable.values(), strict=True)
        ]

    def _trace_update(self, trace: graph.Trace, gradients: list[Value], recipe: Recipe) -> None:
        """Record clipping and the update."""
        table = trace.input((len(self.trainable), recipe.columns), "float32", "hyper", batched=False)
        if recipe.clip_value:
            gradients = within_value(gradients, trace.input((), "float32", "clip_value", batched=False))
        if recipe.clip_norm:
            gradients, _ = scaled_to_norm(gradients, trace.input((), "float32", "clip_norm", batched=False))
        inputs = [table.id]
        for (name, parameter), gradient in zip(self.trainable.items(), gradients, strict=True):
            inputs += [trace.parameter(parameter, name).id, gradient.id]
            states = self.states.of(name, parameter.shape, dict(recipe.states))
            for stored, (state, _) in zip(states, recipe.states, strict=True):
                inputs.append(trace.graph.parameter(stored, f"{state} of {name}"))
        trace.graph.add("update", inputs, dict(recipe.optimizer), "")

    def _trace_averages(self, trace: graph.Trace, recipe: Recipe) -> None:
        """Record the averages, of what the update and the batch wrote: effects run in the order of their nodes."""
        if recipe.average:
            weight = trace.input((), "float32", "average", batched=False)
            for tensor in self.averaged:
                average = trace.graph.parameter(self.averages.of(tensor), "average")
                trace.graph.add("blend", [average, trace.parameter(tensor).id, weight.id], {}, "")


def _signature(x: NDArray[Any], y: NDArray[Any]) -> tuple[Any, ...]:
    """Shapes and dtypes that a program is built for, without the batch size."""
    return x.shape[1:], x.dtype, y.shape[1:], y.dtype


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
