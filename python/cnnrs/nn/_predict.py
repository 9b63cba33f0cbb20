"""Labels and probabilities of images; see `Module.predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnrs import _args, _decode
from cnnrs.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy.typing as npt

    from cnnrs.nn.module import Module

_PICTURES_AT_ONCE = 32


def predict(module: Module, images: Any, top: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the best labels and their probabilities."""
    name = type(module).__name__
    top = _args.integer(top, "top", name, 1, _args.LIMIT)
    preprocessing = _required(module, images)
    if preprocessing is None:
        images = _args.check_images(images, name)
        return _best(module._compiled(images, "softmax").run((images,), module), top, name)
    pictures = _sequence(images)
    parts = []
    for start in range(0, max(len(pictures), 1), _PICTURES_AT_ONCE):
        batch: npt.NDArray[Any] = preprocessing(pictures[start : start + _PICTURES_AT_ONCE])
        if _numbers(module) != (_three(preprocessing.mean), _three(preprocessing.std)):
            batch = preprocessing.normalize(batch)
        parts.append(_best(module._compiled(batch, "softmax").run((batch,), module), top, name))
    labels, probabilities = zip(*parts, strict=True)
    return np.concatenate(labels), np.concatenate(probabilities)


def _required(module: Module, images: Any) -> Preprocessing | None:
    """Return the preprocessing that images need, None for arrays that are a batch already.

    Raises:
        TypeError: They need one and the model has none.
    """
    name, preprocessing = type(module).__name__, module.preprocessing
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        message = f"{name}: preprocessing must be a cnnrs.Preprocessing or None, got {_args.show(preprocessing)}"
        raise TypeError(message)
    if isinstance(images, np.ndarray):
        if preprocessing is None or images.dtype != np.uint8:
            return None
        side = preprocessing.crop
        return None if images.ndim == 4 and images.shape[1:3] == (side, side) else preprocessing
    if preprocessing is None and _hold_pictures(images):
        message = (
            f"{name}: pictures, paths and lists need a model with preprocessing: set "
            "model.preprocessing = cnnrs.Preprocessing(resize=..., crop=..., mean=..., std=...) as it was trained"
        )
        raise TypeError(message)
    return preprocessing


def _hold_pictures(images: Any) -> bool:
    """Tell a picture, or a list of pictures and arrays, from what is no image at all."""
    item = images[0] if isinstance(images, (list, tuple)) and images else images
    return isinstance(item, (str, os.PathLike, np.ndarray)) or _decode.is_picture(item)


def _sequence(images: Any) -> Sequence[Any] | npt.NDArray[Any]:
    """Return pictures as something that has a length and slices."""
    several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    return images if several else [images]


def _numbers(module: Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what the model scales bytes with."""
    return _three(module.input_mean), _three(module.input_std)


def _three(values: Sequence[float]) -> tuple[float, ...]:
    """Return one number per channel."""
    numbers = tuple(float(value) for value in values)
    return numbers * 3 if len(numbers) == 1 else numbers


def _best(
    probabilities: npt.NDArray[np.float32], top: int, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the labels of the highest probabilities, and these."""
    if top > probabilities.shape[1]:
        message = f"{name}: top must be at most the number of classes, {probabilities.shape[1]}, got {top}"
        raise ValueError(message)
    labels = np.argsort(-probabilities, axis=1, kind="stable")[:, :top].astype(np.int64)
    return labels, np.take_along_axis(probabilities, labels, axis=1)
