"""Finding the state dict in what people put into checkpoints, and the names in what they put around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnrs._core import WeightsError
from cnnrs.nn._assign import listed
from cnnrs.weights.tensors import MOST_TENSORS, Tensor, check_name
from cnnrs.weights.torch_pickle import TensorRef

if TYPE_CHECKING:
    from collections.abc import Container

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_MOST_WRAPPERS = 3


def state_of(root: Any) -> dict[str, Tensor]:
    """Return the tensors of the state dict in a checkpoint, by name.

    It is the checkpoint itself, or what stands under one of `WRAPPERS`, the first that holds tensors. Other things
    beside it and numbers in it are left alone.

    Raises:
        WeightsError: there is none; the text says what there is.
    """
    found = _search(root, _MOST_WRAPPERS)
    if found is None:
        message = f"no state dict: {_description(root)}"
        raise WeightsError(message)
    if len(found) > MOST_TENSORS:
        message = f"at most {MOST_TENSORS} tensors are read, got {len(found)}"
        raise WeightsError(message)
    for name in found:
        check_name(name)
    return found


def _search(value: Any, depth: int) -> dict[str, Tensor] | None:
    """Return the tensors of a dict or of a wrapper in it."""
    if not isinstance(value, dict):
        return None
    for wrapper in WRAPPERS if depth else ():
        found = _search(value.get(wrapper), depth - 1)
        if found:
            return found
    return {
        name: item.tensor for name, item in value.items() if isinstance(name, str) and isinstance(item, TensorRef)
    } or (None if value else {})


def _description(root: Any) -> str:
    if isinstance(root, dict):
        keys = [key for key in list(root)[:21] if isinstance(key, str)]
        return f"a dict with {listed(keys)}, but no tensors in it or under {', '.join(WRAPPERS)}"
    return f"the file holds a {type(root).__name__}"


def strip_prefixes(tensors: dict[str, Tensor], known: Container[str]) -> dict[str, Tensor]:
    """Take prefixes of wrappers from the names as long as all of them have the same one and the model has not.

    Args:
        tensors: By the names of the file.
        known: The names of the model.
    """
    while tensors and not any(name in known for name in tensors):
        prefix = next((item for item in PREFIXES if all(name.startswith(item) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
