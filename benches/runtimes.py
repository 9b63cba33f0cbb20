"""What the halves of the inference-only peers share."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np


def stored(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """The images as contiguous NCHW, and cnnrs's logits."""
    with np.load(Path(folder) / "network.npz") as file:
        return np.ascontiguousarray(file["images"].transpose(0, 3, 1, 2)), file["logits"]


def difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != expected.shape:
        message = f"logits have shape {logits.shape}, cnnrs's {expected.shape}"
        raise ValueError(message)
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


class Runtime(Protocol):
    """One library's half: `info`, and `network_open`, which makes the call "run"."""

    calls: dict[str, Callable[[], object]]

    def info(self) -> dict[str, object]:
        """Versions and settings."""

    def network_open(self, folder: str) -> dict[str, float | None]:
        """Load the converted network; the error of its logits against cnnrs's."""
