"""Loading weights into a model: find the tensors, match them, read and check all of them, and only then assign."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cnnrs import _args, _core
from cnnrs._core import WeightsError
from cnnrs.nn._assign import listed
from cnnrs.nn.module import Module
from cnnrs.weights.layout import from_torch, shape_from_torch
from cnnrs.weights.safetensors import read_safetensors
from cnnrs.weights.staging import check_storages, read_storage, view
from cnnrs.weights.state import strip_prefixes
from cnnrs.weights.tensors import FLOATS, Checkpoint, Storage, Tensor, check_file_size

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy.typing as npt

    from cnnrs.nn.parameter import Buffer, Parameter

_COUNTER = "num_batches_tracked"


class _Names(NamedTuple):
    missing: list[str]
    unexpected: list[str]


class LoadReport(_Names):
    """What `load_weights` did: a pair (missing, unexpected) with two more lists.

    Attributes:
        missing: Names that the model has and the file lacks.
        unexpected: Names that the file has and the model lacks.
        loaded: Names that the model took from the file.
        kept: Names that the model kept as they were, for whatever reason.
    """

    loaded: list[str]
    kept: list[str]

    def __new__(
        cls, missing: list[str], unexpected: list[str], loaded: list[str] | None = None, kept: list[str] | None = None
    ) -> LoadReport:
        """Make a report."""
        report = super().__new__(cls, missing, unexpected)
        report.loaded = loaded or []
        report.kept = kept or []
        return report

    def __str__(self) -> str:
        """Say it in a line, counters of batches left out."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        kept = [name for name in self.kept if not name.endswith(_COUNTER)]
        for title, names in (("kept", kept), ("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                parts.append(f"{title} {listed(names)}")
        return "; ".join(parts)


def load_weights(
    model: Module, path: str | os.PathLike[str], strict: bool | str = True, allow_nonfinite: bool = False
) -> LoadReport:
    """Read weights in torch layout from a file into a model: all of them or none.

    The file is a safetensors file or a checkpoint of torch, in the zip format or the older stream format; its content
    says which. Nothing in it is executed: a pickle is read as data, and whatever is not data is refused. In a
    checkpoint, the state dict may stand under "state_dict", "model_state_dict", "model", "net", "network" or "weights"
    beside other data, and all of its names may begin with "module.", "_orig_mod.", "model.", "net." or "network.".

    Args:
        model: A module whose parameters and buffers have the names of the file.
        path: A file with tensors of float32, float16, bfloat16 or float64, counters of integers.
        strict: Refuse missing and unexpected names; False leaves them alone and reports them. "backbone" loads
            everything but the classifier, which the model's `classifier_names` tell, and is strict about the rest.
            A missing `num_batches_tracked` is neither refused nor reported.
        allow_nonfinite: Take NaN and infinity as well.

    Returns:
        The names that the file lacks and the names that the model lacks, as a pair; its attributes `loaded` and `kept`
        list the model's tensors. Print it for a summary.

    Raises:
        WeightsError: the file is damaged or does not fit the model; the text says where. A tensor of a wrong
            shape is refused with `strict=False`, too.
        FileNotFoundError: there is no such file.
        TypeError: `model` is not a module.
        ValueError: `strict` is another word, or "backbone" for a model without `classifier_names`.

    Examples:
        >>> import os, tempfile
        >>> import cnnrs
        >>> from cnnrs import nn
        >>> path = os.path.join(tempfile.mkdtemp(), "linear.safetensors")
        >>> nn.Linear(3, 2).save(path)
        >>> report = cnnrs.load_weights(nn.Linear(3, 2), path)
        >>> report
        LoadReport(missing=[], unexpected=[])
        >>> report.loaded
        ['weight', 'bias']
    """
    if not isinstance(model, Module):
        message = f"load_weights: model must be an nn.Module, got {_args.show(model)}"
        raise TypeError(message)
    classifier = _classifier(model, strict)
    strict = True if classifier else _args.flag(strict, "strict", "load_weights")
    allow_nonfinite = _args.flag(allow_nonfinite, "allow_nonfinite", "load_weights")
    with Path(path).open("rb") as file:
        try:
            return _load(model, file, os.fstat(file.fileno()).st_size, classifier, strict, allow_nonfinite)
        except WeightsError as error:
            message = f"{os.fspath(path)}: {error}"
            raise WeightsError(message) from None


def _classifier(model: Module, strict: bool | str) -> tuple[str, ...]:
    """Return the names of the classifier's modules if they are to be kept."""
    if not isinstance(strict, str):
        return ()
    if strict != "backbone":
        message = f'load_weights: strict must be True, False or "backbone", got {_args.show(strict)}'
        raise ValueError(message)
    names = getattr(model, "classifier_names", None)
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        message = (
            f'load_weights: strict="backbone" needs a model whose classifier_names is a tuple of the names of its '
            f"classifying modules; {type(model).__name__} has none"
        )
        raise ValueError(message)
    return names


def read_checkpoint(file: BinaryIO, size: int) -> Checkpoint:
    """Describe the tensors of a file in any of the formats, by its content.

    Raises:
        WeightsError: the file is damaged or in another format.
    """
    check_file_size(size)
    start = file.read(512)
    file.seek(0)
    # The ninth byte of a safetensors file opens its header; its length may look like anything.
    if start[8:9] != b"{":
        if start[:2] == b"PK":
            from cnnrs.weights.torch_zip import read_zip

            return read_zip(file, size)
        if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
            from cnnrs.weights.torch_legacy import read_legacy

            return read_legacy(file, size)
        if start[257:262] == b"ustar":
            message = "a tar archive: the format torch wrote before 0.1.10 is not read; save it anew with torch"
            raise WeightsError(message)
    return read_safetensors(file, size)


def read_tensors(file: BinaryIO, size: int, wanted: Container[str]) -> dict[str, Any]:
    """Read tensors of a file in cnnrs layout.

    Args:
        file: The file, seekable and at its start.
        size: Its bytes.
        wanted: The names of the tensors to read.

    Returns:
        An array for every wanted name, floats as float32, and None for every other one.

    Raises:
        WeightsError: the file is damaged, whether in tensors that are wanted or in others.
    """
    checkpoint = read_checkpoint(file, size)
    chosen = {name: tensor for name, tensor in checkpoint.tensors.items() if name in wanted}
    staged = _stage(file, checkpoint, chosen)
    return {name: _array(staged, chosen[name]) if name in chosen else None for name in checkpoint.tensors}


def _stage(file: BinaryIO, checkpoint: Checkpoint, chosen: dict[str, Tensor]) -> dict[Storage, Any]:
    """Read the storages of some tensors once, and check the checksums of all."""
    needed = dict.fromkeys(tensor.storage for tensor in chosen.values())
    ordered = sorted(needed, key=lambda storage: storage.begin)
    staged = {storage: read_storage(file, storage) for storage in ordered}
    check_storages(file, (storage for storage in checkpoint.storages if storage not in staged))
    return staged


def _array(staged: dict[Storage, Any], tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor as an array of its own in cnnrs layout; integers stay as they are."""
    array = from_torch(view(staged[tensor.storage], tensor))
    if tensor.dtype in FLOATS:
        return _core.to_float32(array.reshape(-1) if array.ndim == 0 else array).reshape(array.shape)
    return array.copy()


def _load(
    model: Module, file: BinaryIO, size: int, classifier: tuple[str, ...], strict: bool, allow_nonfinite: bool
) -> LoadReport:
    """Do what `load_weights` says, with checked arguments."""
    own = dict(model._named_tensors(remove_duplicate=False))
    checkpoint = read_checkpoint(file, size)
    tensors = strip_prefixes(checkpoint.tensors, own)
    left = {name for name in (*own, *tensors) if _below(name, classifier)}
    chosen = {name: tensors[name] for name in own if name in tensors and name not in left}
    missing = [name for name in own if name not in tensors and name not in left and not name.endswith(_COUNTER)]
    unexpected = [name for name in tensors if name not in own and name not in left]
    problems = [problem for name, tensor in chosen.items() if (problem := _misfit(name, own[name], tensor))]
    if strict and missing:
        problems.append(f"missing {listed(missing)}")
    if strict and unexpected:
        problems.append(f"unexpected {listed(unexpected)}")
    if problems:
        message = f"{type(model).__name__}: weights do not fit the model: {listed(problems, '; ')}"
        raise WeightsError(message)
    staged = _stage(file, checkpoint, chosen)
    if not allow_nonfinite:
        _refuse_nonfinite(staged, chosen)
    for name, tensor in chosen.items():
        array = from_torch(view(staged[tensor.storage], tensor))
        if tensor.dtype in FLOATS:
            own[name]._storage.assign_floats(array)
        else:
            own[name].assign(array.astype("int64"))
    return LoadReport(missing, unexpected, list(chosen), [name for name in own if name not in chosen])


def _below(name: str, modules: tuple[str, ...]) -> bool:
    """Tell whether a name belongs to one of the modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def _misfit(name: str, own: Parameter | Buffer, tensor: Tensor) -> str | None:
    """Return what keeps a tensor from going into the model's."""
    wants_float = own.array.dtype.kind == "f"
    if (tensor.dtype in FLOATS) != wants_float or tensor.dtype in ("U64", "BOOL"):
        return f"{name} must be {'of floats' if wants_float else 'of integers'}, got {tensor.dtype}"
    shape = shape_from_torch(tensor.shape)
    return None if shape == own.shape else f"{name} must have shape {own.shape}, got {shape}"


def _refuse_nonfinite(staged: dict[Storage, Any], chosen: dict[str, Tensor]) -> None:
    names = [
        name
        for name, tensor in chosen.items()
        if tensor.dtype in FLOATS and not _core.all_finite(view(staged[tensor.storage], tensor))
    ]
    if names:
        message = f"NaN or infinity in {listed(names)}; allow_nonfinite=True takes them"
        raise WeightsError(message)
