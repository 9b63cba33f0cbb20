"""ONNX operators that move elements, and resizing."""

from __future__ import annotations

import itertools

import numpy as np

from cnnrs import functional as F
from onnx_nodes.windows import Arrays, Attributes, UnsupportedCaseError, first, last


def reshape(a: Attributes, inputs: Arrays) -> Arrays:
    """Reshape; a 0 copies the operand's size unless `allowzero` is set."""
    x, shape = inputs[0], [int(size) for size in inputs[1]]
    if not a.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return [F.reshape(x, tuple(shape))]


def flatten(a: Attributes, inputs: Arrays) -> Arrays:
    """Flatten into a matrix at an axis."""
    x, axis = inputs[0], a.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return [F.reshape(x, (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))))]


def transpose(a: Attributes, inputs: Arrays) -> Arrays:
    """Transpose."""
    axes = a.get("perm")
    return [F.transpose(inputs[0], None if axes is None else tuple(axes))]


def concat(a: Attributes, inputs: Arrays) -> Arrays:
    """Concat."""
    return [F.concat(inputs, axis=a["axis"])]


def slice_(_: Attributes, inputs: Arrays) -> Arrays:
    """Slice."""
    x, starts, stops, axes, steps = (*inputs, None, None)[:5]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    key = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        # An end below the first element of a backward walk has no negative index in Python.
        end = None if step < 0 and stop < -x.shape[axis] else int(stop)
        key[int(axis)] = slice(int(start), end, int(step))
    return [F.slice(x, tuple(key))]


def squeeze(_: Attributes, inputs: Arrays) -> Arrays:
    """Squeeze."""
    x = inputs[0]
    axes = {int(axis) % x.ndim for axis in inputs[1]}
    return [F.reshape(x, tuple(size for axis, size in enumerate(x.shape) if axis not in axes))]


def unsqueeze(_: Attributes, inputs: Arrays) -> Arrays:
    """Unsqueeze."""
    x = inputs[0]
    axes = {int(axis) % (x.ndim + len(inputs[1])) for axis in inputs[1]}
    sizes = iter(x.shape)
    return [F.reshape(x, tuple(1 if axis in axes else next(sizes) for axis in range(x.ndim + len(axes))))]


def expand(_: Attributes, inputs: Arrays) -> Arrays:
    """Expand by a product with ones."""
    return [F.mul(inputs[0], np.ones([int(size) for size in inputs[1]], np.float32))]


def split(a: Attributes, inputs: Arrays) -> Arrays:
    """Split."""
    x, axis = inputs[0], a.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 else None
    if sizes is None:
        count = a["num_outputs"] if "num_outputs" in a else a["outputs"]
        size = -(-x.shape[axis] // count)
        sizes = [max(0, min(size, x.shape[axis] - size * part)) for part in range(count)]
    bounds = np.cumsum([0, *sizes])
    whole = [slice(None)] * x.ndim
    parts = []
    for start, stop in itertools.pairwise(bounds):
        whole[axis] = slice(int(start), int(stop))
        parts.append(F.slice(x, tuple(whole)))
    return parts


def pad(a: Attributes, inputs: Arrays) -> Arrays:
    """Pad by a constant, the edge or reflection; negative amounts are cut off by a slice."""
    x, amounts = inputs[0], [int(amount) for amount in inputs[1]]
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    axes = range(x.ndim) if len(inputs) < 4 else [int(axis) % x.ndim for axis in inputs[3]]
    mode = a.get("mode", b"constant").decode()
    if mode == "wrap":
        message = "padding by wrapping around"
        raise UnsupportedCaseError(message)
    around = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        around[axis] = (amounts[place], amounts[place + len(amounts) // 2])
    key = tuple(slice(-min(before, 0), min(after, 0) or None) for before, after in around)
    grown = tuple((max(before, 0), max(after, 0)) for before, after in around)
    if len(grown) == 2 and x.ndim == 4:
        message = "ambiguous padding"
        raise UnsupportedCaseError(message)
    return [F.pad(F.slice(x, key), grown, mode=mode, value=value)]


def resize(a: Attributes, inputs: Arrays) -> Arrays:
    """Resize of H and W where it is one of the two interpolations of `upsample`."""
    x = inputs[0]
    scales, sizes = (*inputs, None, None, None)[2:4]
    mode = a.get("mode", b"nearest").decode()
    where = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = a.get("nearest_mode", b"round_prefer_floor").decode()
    policy = a.get("keep_aspect_ratio_policy", b"stretch").decode()
    if mode == "cubic" or a.get("antialias", 0):
        message = "cubic or antialiased resizing"
        raise UnsupportedCaseError(message)
    if where == "tf_crop_and_resize":
        message = "cropping while resizing"
        raise UnsupportedCaseError(message)
    axes = [int(axis) % x.ndim for axis in a.get("axes", range(x.ndim))]
    new = list(x.shape)
    if sizes is not None and len(sizes):
        wanted = {axis: int(size) for axis, size in zip(axes, sizes, strict=True)}
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            ratio = pick(size / x.shape[axis] for axis, size in wanted.items())
            wanted = {axis: int(ratio * x.shape[axis] + 0.5) for axis in wanted}
        ratios = {axis: size / x.shape[axis] for axis, size in wanted.items()}
    else:
        ratios = {axis: float(scale) for axis, scale in zip(axes, scales, strict=True)}
        wanted = {axis: int(np.floor(x.shape[axis] * ratio)) for axis, ratio in ratios.items()}
    for axis, size in wanted.items():
        new[axis] = size
    if new[:2] != list(x.shape[:2]):
        message = "resizing of other axes than H and W"
        raise UnsupportedCaseError(message)
    exact = all(abs(size - x.shape[axis] * ratios[axis]) < 1e-4 for axis, size in wanted.items())
    if mode == "linear":
        if not exact:
            message = "a scale that the sizes do not have"
            raise UnsupportedCaseError(message)
        if where == "pytorch_half_pixel" and 1 in new[2:]:
            message = "another position for a single element"
            raise UnsupportedCaseError(message)
        y = F.upsample(last(x), size=tuple(new[2:]), mode="bilinear", align_corners=where == "align_corners")
        return [first(y)]
    whole = all(new[axis] % x.shape[axis] == 0 for axis in (2, 3))
    half = whole and where.endswith("half_pixel") and rounding.startswith("round")
    if not half and (where, rounding) != ("asymmetric", "floor"):
        message = "nearest neighbours by another rounding than the floor of i·from/to"
        raise UnsupportedCaseError(message)
    return [first(F.upsample(last(x), size=tuple(new[2:]), mode="nearest"))]


TABLE = {
    "Identity": lambda _, inputs: [F.reshape(inputs[0], inputs[0].shape)],
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Concat": concat,
    "Slice": slice_,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Split": split,
    "Pad": pad,
    "Resize": resize,
}
