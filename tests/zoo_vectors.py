"""What `tests/data/make_zoo_vectors.py` and `test_zoo_vectors.py` share: networks, numbers drawn, and sketches.

NumPy only: the script runs where cnnrs is not installed, the test where torch is not.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BATCH = 4
CLASSES = 1000
BUCKETS = 200
CHUNK = 1 << 20


class Case(NamedTuple):
    """A network and the size of its images; `training` says whether statistics come from the batch."""

    size: int
    training: bool


CASES = {
    "alexnet": Case(224, False),
    "vgg16_bn": Case(64, True),
    "resnet18": Case(224, True),
    "resnet50": Case(224, True),
}
"""Dropout is off everywhere."""


def generator(*words: str) -> np.random.Generator:
    """A generator for a purpose; PCG64 and its normal numbers are the same in every NumPy from 1.17 on."""
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(words).encode())))


def draw_parameter(
    model: str, name: str, shape: tuple[int, ...], norm: bool = False, attempt: int = 0
) -> npt.NDArray[np.float32]:
    """A parameter in cnnrs layout (HWIO, (in, out)), scaled so that activations keep their size.

    `norm` says that it belongs to a batch normalization, `attempt` how often it was drawn before.
    """
    numbers = generator(model, name, str(attempt)).standard_normal(shape, np.float32)
    if len(shape) > 1:
        return numbers * np.float32(math.sqrt(2.0 / math.prod(shape[:-1])))
    return numbers * np.float32(0.1) + np.float32(norm and name.endswith(".weight"))


def draw_batch(model: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images (N, H, W, 3) and labels."""
    size = CASES[model].size
    images = generator(model, "images").standard_normal((BATCH, size, size, 3), np.float32)
    return images, generator(model, "labels").integers(0, CLASSES, BATCH)


def sketch(model: str, name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A CountSketch: every element gets a random sign and goes into a random one of the buckets.

    Linear in the array, and the expected square of its L2 norm is that of the array. The variance of that square is
    below 2 / BUCKETS of its square, so the norm of a sketch is off by 5 percent (one standard deviation), whatever
    the array. An array that fits into the buckets is kept as it is.
    """
    flat = array.ravel()
    if flat.size <= BUCKETS:
        return flat.astype(np.float64)
    random = generator(model, name, "sketch")
    sums = np.zeros(BUCKETS)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK].astype(np.float64)
        places = random.integers(0, 2 * BUCKETS, part.size, np.uint16)
        sums += np.bincount(places >> 1, np.where(places & 1, -part, part), BUCKETS)
    return sums
