"""Copying a state into a module, all of it or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnrs import _args
from cnnrs._core import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnrs.nn.module import Module


def assign_all(module: Module, state: Mapping[str, Any], strict: bool) -> tuple[list[str], list[str]]:
    """Copy arrays in cnnrs layout into a module, all or none; return the names missing and unexpected.

    Raises:
        WeightsError: as `Module.load_state_dict`.
        TypeError: `state` is not a mapping.
    """
    if not (hasattr(state, "keys") and hasattr(state, "__getitem__")):
        message = f"{type(module).__name__}: state must map names to arrays, got {_args.show(state)}"
        raise TypeError(message)
    tensors = dict(module._named_tensors(remove_duplicate=False))
    missing = [name for name in tensors if name not in state and name.rpartition(".")[2] != "num_batches_tracked"]
    unexpected = [name for name in state if name not in tensors]
    problems, arrays = [], {}
    for name, tensor in tensors.items():
        if name in state:
            array, dtype = state[name], tensor.array.dtype
            if not isinstance(array, np.ndarray) or not _converts(array.dtype, dtype):
                got = f"a {array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
                problems.append(f"{name} must be {'a float32' if dtype.kind == 'f' else 'an int64'} array, got {got}")
            elif array.shape != tensor.shape:
                problems.append(f"{name} must have shape {tensor.shape}, got {array.shape}")
            else:
                # A read-only array may be a live view of a tensor that is overwritten before its turn.
                arrays[name] = array.astype(dtype, copy=not array.flags.writeable)
    if strict and missing:
        problems.append(f"missing {listed(missing)}")
    if strict and unexpected:
        problems.append(f"unexpected {listed(unexpected)}")
    if problems:
        message = f"{type(module).__name__}: weights do not fit the model: {listed(problems, '; ')}"
        raise WeightsError(message)
    for name, array in arrays.items():
        tensors[name].assign(array)
    return missing, unexpected


def _converts(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether a state may hold the one dtype for a tensor of the other."""
    return given.char in "fde" if wanted.kind == "f" else given.kind in "iu" and np.can_cast(given, wanted)


def listed(texts: list[str], separator: str = ", ") -> str:
    """Return names or problems for an error text: printable, cut after twenty."""
    shown = [text[:300] if text.isprintable() else ascii(text[:300]) for text in map(str, texts[:20])]
    return separator.join(shown) + (f" and {len(texts) - 20} more" if len(texts) > 20 else "")
