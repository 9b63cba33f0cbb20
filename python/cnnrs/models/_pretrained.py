"""Published weights, by the registered name of a model and a tag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cnnrs import _args

if TYPE_CHECKING:
    from cnnrs import nn


def apply(model: nn.Module, name: str, weights: str | None) -> None:
    """Load the weights of a tag into a model.

    Args:
        model: What the function of that name made.
        name: The registered name.
        weights: The tag; None leaves the model as it is.

    Raises:
        ValueError: there are no weights of that tag.
        FileNotFoundError: the shipped file is not installed.
    """
    if weights is None:
        return
    from cnnrs.models.lenet import WEIGHTS
    from cnnrs.weights import load_weights

    files = WEIGHTS if name == "lenet5" else {}
    if not isinstance(weights, str) or weights not in files:
        known = ", ".join(f'"{tag}"' for tag in files) or "None"
        message = f"{name}: weights must be one of {known}, got {_args.show(weights)}"
        raise ValueError(message)
    load_weights(model, Path(__file__).with_name(files[weights]))
