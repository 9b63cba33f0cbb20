"""The texts of `Module.summary` and `Module.explain`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from cnnrs import _args, _core, functional
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.graph import Trace
from cnnrs.nn._cache import output_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnrs.nn.module import Module

_NAMES = {"conv2d_backward_data": "conv_transpose2d"}  # an op of the graph that a forward pass has under another name


class Row(NamedTuple):
    """One node of a summary; `output_shape` has the batch on axis 0."""

    layer: str
    op: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


class Summary(NamedTuple):
    """A printable description of a model for one sample shape.

    Attributes:
        model: Name of the class.
        rows: One per op in order; a layer's parameters stand in its first row.
        parameters: Number of parameters, shared ones once.
        trainable: How many of them train.
        macs: Multiply-accumulates of convolution and linear layers per sample.
        batch_size: The batch of the two numbers below.
        inference_bytes: Peak bytes of a call beside the caller's arrays, as the system counts them: parameters, packed
            weights, intermediate results, scratch of the threads as they are set now, and the result.
        training_bytes: The same of a training step with cross-entropy, without the optimizer's state; None if the
            output is not (N, classes), nothing trains, or batch normalization gets one value per channel.
    """

    model: str
    rows: list[Row]
    parameters: int
    trainable: int
    macs: int
    batch_size: int
    inference_bytes: int
    training_bytes: int | None

    def __str__(self) -> str:
        """Return the table."""
        header = ("layer", "op", "output", "parameters", "MACs")
        lines = [
            (
                row.layer or "-",
                row.op,
                f"({', '.join(['N', *map(str, row.output_shape[1:])])})" if row.output_shape else "()",
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.macs:,}" if row.macs else "",
            )
            for row in self.rows
        ]
        training = "-" if self.training_bytes is None else _bytes(self.training_bytes)
        memory = f"inference {_bytes(self.inference_bytes)}, training {training}"
        return "\n".join(
            [
                self.model,
                *_table([header, *lines], right=(3, 4)),
                f"parameters: {self.parameters:,} ({self.trainable:,} trainable)",
                f"MACs per sample (convolution and linear): {self.macs:,}",
                f"peak memory at batch size {self.batch_size}: {memory}",
            ]
        )

    def __repr__(self) -> str:
        """Return the table, so that a prompt shows it."""
        return str(self)


def summarize(model: Module, input_shape: Sequence[int], batch_size: int = 1) -> Summary:
    """Make the summary of a model; see `Module.summary`."""
    sample = _shape(input_shape, "input_shape", "summary")
    batch = _args.whole(batch_size, "batch_size", "summary")
    own: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        layer = name.rpartition(".")[0]
        own[layer] = own.get(layer, 0) + parameter.size
    sizes = [(parameter.size, parameter.trainable) for parameter in model.parameters()]
    with Trace(root=model) as trace:
        y = model.trace_logits(trace.input((batch, *sample), "float32", "x"))
        outputs = [value.id for value in output_values(model, y)]
        rows = []
        for layer, op, inputs, results in trace.graph.nodes():
            shape = trace.graph.info(results[0])[0]
            rows.append(Row(layer, _NAMES.get(op, op), shape, own.pop(layer, 0), _macs(trace, op, inputs, shape)))
    program = _core.Program(trace.graph, outputs, "summary")
    return Summary(
        model=type(model).__name__,
        rows=rows,
        parameters=sum(size for size, _ in sizes),
        trainable=sum(size for size, trainable in sizes if trainable),
        macs=sum(row.macs for row in rows),
        batch_size=batch,
        inference_bytes=_peak(program, batch),
        training_bytes=_training_bytes(model, sample, batch),
    )


def _macs(trace: Trace, op: str, inputs: list[int], output: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of one sample.

    Every output number reads all but the weight's last axis; of a transposed convolution, every input number meets it.
    """
    if op not in ("conv2d", "linear", "conv2d_backward_data"):
        return 0
    numbers = trace.graph.info(inputs[0])[0] if op == "conv2d_backward_data" else output
    weight = trace.graph.info(inputs[1])[0]
    return math.prod(numbers[1:]) * math.prod(weight[:-1])


def _training_bytes(model: Module, sample: tuple[int, ...], batch: int) -> int | None:
    """Return the peak of a training step without the optimizer's state, None if there is no such step."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.trainable]
    with Trace(root=model, training=True) as trace:
        try:
            logits = model.trace_logits(trace.input((batch, *sample), "float32", "x"))
        except ShapeError:
            raise
        except ValueError:  # a batch that training refuses: one value per channel
            return None
        if not trainable or not isinstance(logits, Value) or logits.ndim != 2:
            return None
        labels = trace.input((batch,), "int64", "labels")
        loss = functional.cross_entropy(logits, labels).id
        wrt = [trace.parameter(parameter, name).id for name, parameter in trainable]
        gradients = trace.graph.gradients([loss], [None], wrt)
    outputs = [loss, *(gradient for gradient in gradients if gradient is not None)]
    return _peak(_core.Program(trace.graph, outputs, "summary"), batch)


def _peak(program: _core.Program, batch: int) -> int:
    """Return what a run needs beside the caller's arrays, with the parameters."""
    plan = program.plan(batch)
    peak: int = plan["peak_bytes"] + plan["parameter_bytes"]
    return peak


def explain_call(model: Module, batch_shape: Sequence[int]) -> str:
    """Describe what a call runs; see `Module.explain`."""
    batch, *sample = _shape(batch_shape, "batch_shape", "explain")
    with Trace(root=model) as trace:
        y = model.trace_logits(trace.input((batch, *sample), "float32", "x"))
    outputs = [value.id for value in output_values(model, y)]
    plan = _core.Program(trace.graph, outputs, type(model).__name__).plan(batch)
    lines: list[tuple[str, ...]] = [("step", "layer", "op", "shape", "kernel", "bytes", "refused")]
    for number, step in enumerate(plan["steps"]):
        refused = "; ".join(item if isinstance(item, str) else ": ".join(map(str, item)) for item in step["refused"])
        text = (step["name"] or "-", step["op"], str(step["shape"]), step["kernel"], f"{step['bytes']:,}", refused)
        lines.append((str(number), *text))
    names = ("peak", "arena", "scratch", "output", "packed", "parameter")
    sizes = [f"{name} {_bytes(plan[f'{name}_bytes'])}" for name in names]
    return "\n".join([*_table(lines, right=(0, 5)), f"memory: {', '.join(sizes)}"])


def _shape(value: object, name: str, op: str) -> tuple[int, ...]:
    """Return a shape given by the caller, of at least one size."""
    if not isinstance(value, (tuple, list)) or not value:
        message = f"{op}: {name} must be a tuple of ints, got {_args.show(value)}"
        raise TypeError(message)
    return tuple(_args.whole(item, name, op) for item in value)


def _table(lines: list[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Return lines of aligned columns, the first one underlined."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [padded[0], "-" * max(map(len, padded)), *padded[1:]]


def _bytes(count: int) -> str:
    """Return a number of bytes for people."""
    return (
        f"{count:,} bytes"
        if count < 2**10
        else f"{count / 2**10:,.1f} KiB"
        if count < 2**20
        else (f"{count / 2**20:,.1f} MiB")
    )
