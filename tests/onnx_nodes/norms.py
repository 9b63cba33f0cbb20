"""ONNX operators that normalize, and those that make losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnrs import functional as F
from onnx_nodes.windows import Arrays, Attributes, UnsupportedCaseError, first, last


def batch_norm(a: Attributes, inputs: Arrays) -> Arrays:
    """BatchNormalization; in training the running variance is ONNX's, which takes the biased one."""
    x, weight, bias, mean, var = inputs
    training, eps = bool(a.get("training_mode", 0)), a.get("epsilon", 1e-5)
    maps = last(x)
    y = first(F.batch_norm(maps, mean, var, weight, bias, training=training, eps=eps))
    if not training:
        return [y]
    keep = a.get("momentum", 0.9)
    axes = tuple(range(maps.ndim - 1))
    now = F.mean(maps, axis=axes)
    spread = F.mean(F.square(F.sub(maps, now)), axis=axes)
    blend = [F.add(F.mul(old, keep), F.mul(new, 1.0 - keep)) for old, new in ((mean, now), (var, spread))]
    return [y, *blend]


def group_norm(a: Attributes, inputs: Arrays) -> Arrays:
    """GroupNormalization."""
    x, weight, bias = inputs
    return [first(F.group_norm(last(x), a["num_groups"], weight, bias, eps=a.get("epsilon", 1e-5)))]


def instance_norm(a: Attributes, inputs: Arrays) -> Arrays:
    """InstanceNormalization: a group per channel."""
    x, weight, bias = inputs
    return [first(F.group_norm(last(x), x.shape[1], weight, bias, eps=a.get("epsilon", 1e-5)))]


def layer_norm(a: Attributes, inputs: Arrays) -> Arrays:
    """LayerNormalization with its statistics."""
    x, weight = inputs[:2]
    bias = inputs[2] if len(inputs) > 2 else None
    axis, eps = a.get("axis", -1) % x.ndim, a.get("epsilon", 1e-5)
    rows = F.reshape(x, (1, *x.shape)) if axis == 0 else x
    y = F.layer_norm(rows, x.shape[axis:], weight, bias, eps=eps).reshape(x.shape)
    axes = tuple(range(axis, x.ndim))
    mean = F.mean(x, axis=axes, keepdims=True)
    var = F.mean(F.square(F.sub(x, mean)), axis=axes, keepdims=True)
    return [y, np.asarray(mean), np.asarray(F.div(np.ones_like(var), F.sqrt(F.add(var, eps))))]


def lrn(a: Attributes, inputs: Arrays) -> Arrays:
    """LRN."""
    y = F.local_response_norm(
        last(inputs[0]), a["size"], alpha=a.get("alpha", 1e-4), beta=a.get("beta", 0.75), k=a.get("bias", 1.0)
    )
    return [first(y)]


def softmax(a: Attributes, inputs: Arrays) -> Arrays:
    """Softmax."""
    return [F.softmax(inputs[0], axis=a.get("axis", -1))]


def log_softmax(a: Attributes, inputs: Arrays) -> Arrays:
    """LogSoftmax."""
    return [F.log_softmax(inputs[0], axis=a.get("axis", -1))]


def dropout(a: Attributes, inputs: Arrays) -> Arrays:
    """Dropout that keeps everything; the draws of another generator cannot be repeated."""
    x = inputs[0]
    ratio = inputs[1] if len(inputs) > 1 else a.get("ratio", 0.5)
    ratio = 0.5 if ratio is None else float(ratio)
    training = len(inputs) > 2 and bool(inputs[2])
    if training and ratio > 0:
        message = "draws of another generator"
        raise UnsupportedCaseError(message)
    return [F.dropout(x, p=ratio, training=training), np.ones(x.shape, bool)]


def _rows(x: Any) -> Any:
    """(N, C, ...) to (N·..., C)."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(-1, x.shape[1])


def _picked(scores: Any, labels: Any, weight: Any, ignore: int | None, reduction: str, shape: Any) -> Any:
    """The negative score of each row's label, times the class's weight; rows to ignore are zero."""
    classes = scores.shape[1]
    kept = np.ones(len(labels), bool) if ignore is None else labels != ignore
    chosen = np.zeros(scores.shape, np.float32)
    chosen[np.flatnonzero(kept), labels[kept]] = 1.0
    shares = np.ones(classes, np.float32) if weight is None else weight
    marks = F.mul(chosen, shares)
    losses = F.neg(F.sum(F.mul(scores, marks), axis=1))
    if reduction == "none":
        return losses.reshape(shape)
    total = F.sum(losses)
    return np.float32(total if reduction == "sum" else total / F.sum(marks))


def cross_entropy(a: Attributes, inputs: Arrays) -> Arrays:
    """SoftmaxCrossEntropyLoss: the mean by `cross_entropy`, the others from `log_softmax`."""
    scores, labels = _rows(inputs[0]), inputs[1].reshape(-1)
    weight = inputs[2] if len(inputs) > 2 else None
    ignore, reduction = a.get("ignore_index"), a.get("reduction", b"mean").decode()
    log_prob = F.log_softmax(inputs[0], axis=1)
    if reduction == "mean":
        loss: Any = np.float32(F.cross_entropy(scores, labels, weight, ignore_index=ignore))
    else:
        loss = _picked(F.log_softmax(scores), labels, weight, ignore, reduction, inputs[1].shape)
    return [loss, log_prob]


def negative_log_likelihood(a: Attributes, inputs: Arrays) -> Arrays:
    """NegativeLogLikelihoodLoss by arithmetic and sums."""
    weight = inputs[2] if len(inputs) > 2 else None
    reduction = a.get("reduction", b"mean").decode()
    labels = inputs[1].reshape(-1)
    return [_picked(_rows(inputs[0]), labels, weight, a.get("ignore_index"), reduction, inputs[1].shape)]


TABLE = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LRN": lrn,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "Dropout": dropout,
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
}
