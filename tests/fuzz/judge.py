"""Another reading of accepted checkpoints, with Python's `zipfile` and `pickle` and NumPy alone."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np

TYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "BF16", "Long": "<i8", "Int": "<i4"}
TYPES |= {"Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")


class Storage(NamedTuple):
    """A typed storage whose bytes may come later."""

    dtype: str
    key: str
    count: int


class Tensor:
    """A tensor before its storage is read."""

    def __init__(self, storage: Storage, offset: int, shape: Any, strides: Any, *others: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state: Any) -> None:
        """Attributes are of no interest."""

    def array(self, data: bytes) -> np.ndarray[Any, Any]:
        """Take the elements from the storage's bytes."""
        if self.storage.dtype == "BF16":
            flat: Any = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            flat = np.frombuffer(data, self.storage.dtype)
        if flat.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                flat = flat.astype(np.float32)
        assert len(flat) == self.storage.count
        places = np.full(self.shape, self.offset, np.int64)
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            steps = np.arange(size, dtype=np.int64) * (stride if size > 1 else 0)
            places += steps.reshape([-1 if other == axis else 1 for other in range(len(self.shape))])
        order = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}.get(len(self.shape), tuple(range(len(self.shape))))
        taken: np.ndarray[Any, Any] = (flat[places] if places.size else np.empty(self.shape, flat.dtype)).transpose(
            order
        )
        return taken


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda") and name.endswith("Storage"):
            return TYPES[name.removesuffix("Storage")]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): Counter,
            ("collections", "defaultdict"): defaultdict,
            ("torch._utils", "_rebuild_tensor"): Tensor,
            ("torch._utils", "_rebuild_tensor_v2"): Tensor,
        }
        return known[module, name]

    def persistent_load(self, identifier: Any) -> Any:
        _, dtype, key, _, count = identifier[:5]
        return self.storages.setdefault(key, Storage(dtype, key, count))


def tensors(root: Any, depth: int = 3) -> dict[str, Tensor]:
    """The state dict in a checkpoint."""
    if not isinstance(root, dict):
        return {}
    for wrapper in WRAPPERS if depth else ():
        found = tensors(root.get(wrapper), depth - 1)
        if found:
            return found
    return {name: item for name, item in root.items() if isinstance(name, str) and isinstance(item, Tensor)}


def read(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a checkpoint, by name, in this package's layout, floats as float32."""
    stored: dict[str, bytes] = {}
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            stored = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        root = _Unpickler(io.BytesIO(stored["data.pkl"])).load()
        stored = {name.removeprefix("data/"): data for name, data in stored.items() if name.startswith("data/")}
    else:
        file = io.BytesIO(content)
        for _ in range(3):
            pickle.load(file)
        unpickler = _Unpickler(file)
        root = unpickler.load()
        for key in pickle.load(file):
            count, dtype = int.from_bytes(file.read(8), "little"), unpickler.storages[key].dtype
            stored[key] = file.read(count * (2 if dtype == "BF16" else np.dtype(dtype).itemsize))
        assert file.read() == b""
    return {name: tensor.array(stored[tensor.storage.key]) for name, tensor in tensors(root).items()}
