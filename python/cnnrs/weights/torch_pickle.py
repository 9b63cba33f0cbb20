"""What torch's names stand for in its pickles: descriptions of tensors, plain data, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cnnrs import _args
from cnnrs._core import WeightsError
from cnnrs._pickle import Built, Table
from cnnrs._pickle_numpy import NUMPY
from cnnrs.weights.tensors import (
    DTYPES,
    ITEM_SIZES,
    MOST_DIMENSIONS,
    MOST_NAME_BYTES,
    Storage,
    Tensor,
    elements,
    last_element,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_DTYPE_NAMES = {
    "float64": "F64",
    "double": "F64",
    "float32": "F32",
    "float": "F32",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


class StorageType(NamedTuple):
    """A `torch.FloatStorage` and the like; no dtype for an untyped one, whose elements are bytes."""

    dtype: str | None


class DType(NamedTuple):
    """A `torch.float32` and the like."""

    dtype: str


class StorageRef(Built):
    """A storage that a persistent id names: elements of a type, or bytes."""

    def __init__(self, dtype: str | None, count: int, storage: Storage) -> None:
        """Describe it."""
        self.dtype = dtype
        self.count = count
        self.storage = storage


class TensorRef(Built):
    """A tensor; attributes given to it are dropped."""

    def __init__(self, tensor: Tensor) -> None:
        """Describe it."""
        self.tensor = tensor

    def set_state(self, state: Any) -> None:
        """Drop attributes."""


class StorageBook:
    """Resolves persistent ids, once for every storage.

    Args:
        locate: Returns the storage of a key that has so many bytes, or raises WeightsError.
        size: The bytes of the file, which no tensor exceeds.
    """

    def __init__(self, locate: Callable[[str, int], Storage], size: int) -> None:
        self.locate = locate
        self.size = size
        self.known: dict[str, StorageRef] = {}

    def persistent(self, identifier: Any) -> StorageRef:
        """Return the storage of ("storage", type, key, location, elements) and perhaps None for a view."""
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            message = "a persistent id must be ('storage', type, key, location, elements)"
            raise WeightsError(message)
        _, kind, key, _, count = identifier[:5]
        if identifier[5:] not in ((), (None,)):
            message = "storages that are views of others, as torch wrote them before 0.4, are not read"
            raise WeightsError(message)
        if not isinstance(kind, StorageType):
            message = f"the type of a storage must be one of torch's, got a {type(kind).__name__}"
            raise WeightsError(message)
        if not isinstance(key, str) or len(key) > MOST_NAME_BYTES or type(count) is not int or count < 0:
            message = "the key of a storage must be a text and its elements a number"
            raise WeightsError(message)
        known = self.known.get(key)
        if known is None:
            bytes_needed = count * (1 if kind.dtype is None else ITEM_SIZES[kind.dtype])
            if bytes_needed > self.size:
                message = f"storage {_args.show(key)}: {_args.show(count)} elements in a file of {self.size} bytes"
                raise WeightsError(message)
            known = self.known[key] = StorageRef(kind.dtype, count, self.locate(key, bytes_needed))
        elif (known.dtype, known.count) != (kind.dtype, count):
            message = f"storage {_args.show(key)} is said to be of another type or size than before"
            raise WeightsError(message)
        return known

    def _rebuild(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None) -> TensorRef:
        """Describe a tensor that must lie in its storage."""
        if not isinstance(storage, StorageRef):
            message = f"a tensor needs a storage, got a {type(storage).__name__}"
            raise WeightsError(message)
        dtype = dtype or storage.dtype
        if dtype is None or storage.dtype not in (None, dtype):
            message = "the type of a tensor is not that of its storage"
            raise WeightsError(message)
        if not _sizes(shape) or not _sizes(strides) or not _sizes((offset,)) or len(shape) != len(strides):
            message = f"size and stride must be tuples of at most {MOST_DIMENSIONS} numbers, the offset a number"
            raise WeightsError(message)
        label, held = storage.storage.label, storage.storage.size // ITEM_SIZES[dtype]
        if last_element(shape, strides, offset) >= held or (0 in shape and offset > held):
            message = (
                f"size {_args.show(shape)}, stride {_args.show(strides)} and offset {offset} leave storage {label} "
                f"of {held} elements"
            )
            raise WeightsError(message)
        if elements([max(size, 1) for size in shape]) * ITEM_SIZES[dtype] > max(self.size, 1 << 20):
            message = f"a tensor of size {_args.show(shape)} in a file of {self.size} bytes"
            raise WeightsError(message)
        return TensorRef(Tensor(dtype, shape, strides, offset, storage.storage))

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> TensorRef:
        """Stand for `_rebuild_tensor` and `_rebuild_tensor_v2`."""
        if len(others) not in (0, 2, 3):
            message = f"4, 6 or 7 arguments are needed, got {4 + len(others)}"
            raise WeightsError(message)
        return self._rebuild(storage, offset, shape, strides, None)

    def typed_tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, more: Any = None
    ) -> TensorRef:
        """Stand for `_rebuild_tensor_v3`."""
        if not isinstance(dtype, DType):
            message = f"the type of a tensor must be one of torch's, got a {type(dtype).__name__}"
            raise WeightsError(message)
        return self._rebuild(storage, offset, shape, strides, dtype.dtype)

    def table(self) -> dict[tuple[str, str], Any]:
        """Return what the names stand for in a pickle with these storages."""
        return _PLAIN | {
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self.typed_tensor,
        }


def _sizes(values: Any) -> bool:
    """Tell whether a value is a tuple of few numbers below 2**63."""
    return (
        isinstance(values, tuple)
        and len(values) <= MOST_DIMENSIONS
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _parameter(data: Any = None, requires_grad: Any = True, *others: Any) -> TensorRef:
    """Stand for `torch.nn.Parameter`, `_rebuild_parameter` and `_rebuild_parameter_with_state`."""
    if not isinstance(data, TensorRef) or len(others) > 2:
        message = f"a parameter needs a tensor, got a {type(data).__name__}"
        raise WeightsError(message)
    return data


def _table(items: Any = ()) -> Table:
    """Stand for `collections.OrderedDict` and `Counter`."""
    if isinstance(items, dict):
        return Table(items)
    if items != ():
        message = f"a dict is made of a dict, got a {type(items).__name__}"
        raise WeightsError(message)
    return Table()


def _default_table(factory: Any = None) -> Table:
    """Stand for `collections.defaultdict`; nothing is ever missing here."""
    return Table()


def _size(items: Any = ()) -> tuple[int, ...]:
    """Stand for `torch.Size`."""
    if not _sizes(items):
        message = "a size is a tuple of numbers"
        raise WeightsError(message)
    checked: tuple[int, ...] = items
    return checked


def _device(kind: Any, index: Any = 0) -> str:
    """Stand for `torch.device`."""
    if not isinstance(kind, str) or type(index) is not int:
        message = "a device is a text and a number"
        raise WeightsError(message)
    return kind


def _no_set(items: Any = ()) -> tuple[Any, ...]:
    """Stand for `set` in protocols that write it as a list; the elements stay as they are."""
    if not isinstance(items, list):
        message = f"a set is made of a list, got a {type(items).__name__}"
        raise WeightsError(message)
    return tuple(items)


_PLAIN: dict[tuple[str, str], Any] = {
    **NUMPY,
    ("collections", "OrderedDict"): _table,
    ("collections", "Counter"): _table,
    ("collections", "defaultdict"): _default_table,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("torch", "UntypedStorage"): StorageType(None),
}
for _builtins in ("builtins", "__builtin__"):
    _PLAIN |= {(_builtins, "set"): _no_set, (_builtins, "dict"): _table, (_builtins, "list"): "list"}
for _name, _code in _STORAGES.items():
    _PLAIN |= {("torch", _name): StorageType(_code), ("torch.cuda", _name): StorageType(_code)}
for _name, _code in _DTYPE_NAMES.items():
    _PLAIN["torch", _name] = DType(_code)
assert set(_DTYPE_NAMES.values()) == set(DTYPES)
