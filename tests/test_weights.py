"""Weights on disk: the file format, its layout, damaged files, and writing at once."""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import models, nn, weights
from cnnrs._files import atomic_write


class Tiny(nn.Module):
    """One tensor of each rank that converts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (4, 5))
        self.fc = nn.Linear(6, 7)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


TORCH_SHAPES = {"conv.weight": (3, 2, 4, 5), "conv.bias": (3,), "fc.weight": (7, 6), "fc.bias": (7,)}


def tensors(**changes: Any) -> dict[str, Any]:
    """Tensors that fit `Tiny`, in torch layout."""
    named = {name: real(*shape) for name, shape in TORCH_SHAPES.items()}
    named.update({name.replace("_", "."): array for name, array in changes.items()})
    return named


def encode(header: Any, buffer: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header (bytes as they are, anything else as JSON) and a buffer."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + buffer


def safetensors(named: dict[str, np.ndarray], dtypes: dict[str, str] | None = None, **metadata: str) -> bytes:
    """A valid file, written from the format's description."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    buffer = b""
    codes = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64"}
    for name, array in named.items():
        dtype = (dtypes or {}).get(name) or codes[array.dtype.name]
        offsets = [len(buffer), len(buffer) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        buffer += array.tobytes()
    return encode(header, buffer)


def write(folder: Path, content: bytes, name: str = "m.safetensors") -> Path:
    """A file with that content."""
    path = folder / name
    path.write_bytes(content)
    return path


# Round trips.


def test_layout_is_torchs(tmp_path: Path) -> None:
    model = Tiny()
    named = tensors()
    report = cnnrs.load_weights(model, write(tmp_path, safetensors(named)))
    assert report == weights.LoadReport([], [])
    state = model.state_dict()
    for m, n, c, k in np.ndindex(4, 5, 2, 3):
        assert state["conv.weight"][m, n, c, k] == named["conv.weight"][k, c, m, n]
    np.testing.assert_array_equal(state["fc.weight"], named["fc.weight"].T)
    np.testing.assert_array_equal(state["conv.bias"], named["conv.bias"])


def test_save_writes_what_the_format_asks_for(tmp_path: Path) -> None:
    model, path = Tiny(), tmp_path / "m.safetensors"
    model.save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt", "cnnrs_version": cnnrs.__version__, "model": "Tiny"}
    assert {name: tuple(fields["shape"]) for name, fields in header.items()} == TORCH_SHAPES
    begin, end = header["conv.weight"]["data_offsets"]
    stored = np.frombuffer(content[8 + length + begin : 8 + length + end], "<f4").reshape(3, 2, 4, 5)
    np.testing.assert_array_equal(stored.transpose(2, 3, 1, 0), model.conv.weight.array)


def test_saved_weights_come_back_bit_by_bit(tmp_path: Path) -> None:
    model, other, path = models.lenet5(), models.lenet5(), tmp_path / "m.safetensors"
    model.save(str(path))
    cnnrs.load_weights(other, str(path))
    for name, array in model.state_dict().items():
        assert array.tobytes() == other.state_dict()[name].tobytes()


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    model, path = Tiny(), tmp_path / "m.safetensors"
    model.save(path)
    loaded = library.load_file(path)
    np.testing.assert_array_equal(loaded["conv.weight"].transpose(2, 3, 1, 0), model.conv.weight.array)
    library.save_file({name: np.ascontiguousarray(array) for name, array in tensors().items()}, path)
    cnnrs.load_weights(model, path)
    np.testing.assert_array_equal(model.fc.weight.array, tensors()["fc.weight"].T)


def test_shared_layers_are_saved_under_every_name(tmp_path: Path) -> None:
    layer, path = nn.Linear(4, 4), tmp_path / "m.safetensors"
    nn.Sequential(layer, layer).save(path)
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cnnrs.load_weights(other, path)
    np.testing.assert_array_equal(other[0].state_dict()["weight"], other[1].state_dict()["weight"])


def test_an_empty_model_has_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    nn.ReLU().save(path)
    assert cnnrs.load_weights(nn.ReLU(), path) == ([], [])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_converted(tmp_path: Path, dtype: Any) -> None:
    model, named = Tiny(), {name: array.astype(dtype) for name, array in tensors().items()}
    cnnrs.load_weights(model, write(tmp_path, safetensors(named)))
    np.testing.assert_array_equal(model.fc.bias.array, named["fc.bias"].astype(np.float32))  # type: ignore[union-attr]


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    model = Tiny()
    bits = np.array([0x3F80, 0xBF80, 0x4049, 0, 0x7F7F, 0x0080, 0xC000], np.uint16)
    content = safetensors(tensors(fc_bias=bits), {"fc.bias": "BF16"})
    cnnrs.load_weights(model, write(tmp_path, content))
    expected = np.array([1, -1, 3.140625, 0, 3.3895314e38, 1.1754944e-38, -2], np.float32)
    np.testing.assert_array_equal(model.fc.bias.array, expected)  # type: ignore[union-attr]


# What fits and what does not.


def refused(path: Path, text: str, model: nn.Module | None = None, **arguments: Any) -> None:
    """Loading raises WeightsError with that text and leaves the model as it was."""
    model = model or Tiny()
    before = model.state_dict(copy=True)
    with pytest.raises(cnnrs.WeightsError, match=text) as caught:
        cnnrs.load_weights(model, path, **arguments)
    assert str(caught.value).startswith(f"{path}: ")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_missing_and_unexpected_names(tmp_path: Path) -> None:
    named = tensors(extra=real(2))
    del named["fc.bias"]
    path = write(tmp_path, safetensors(named))
    refused(path, r"missing fc\.bias; unexpected extra$")
    model = Tiny()
    report = cnnrs.load_weights(model, path, strict=False)
    assert report == weights.LoadReport(missing=["fc.bias"], unexpected=["extra"])
    np.testing.assert_array_equal(model.conv.bias.array, named["conv.bias"])  # type: ignore[union-attr]


@pytest.mark.parametrize("strict", [True, False])
def test_wrong_shapes_are_refused_also_when_not_strict(tmp_path: Path, strict: bool) -> None:
    path = write(tmp_path, safetensors(tensors(fc_weight=real(6, 7), conv_weight=real(7, 6))))
    refused(path, r"conv\.weight must have shape.*; fc\.weight must have shape \(6, 7\), got \(7, 6\)", strict=strict)


def test_integers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, safetensors(tensors(fc_bias=np.zeros(7, np.int64))))
    refused(path, r"fc\.bias must be of floats, got I64")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    bias = np.zeros(7, np.float32)
    bias[3] = bad
    path = write(tmp_path, safetensors(tensors(fc_bias=bias)))
    refused(path, r"NaN or infinity in fc\.bias; allow_nonfinite=True takes them")
    model = Tiny()
    cnnrs.load_weights(model, path, allow_nonfinite=True)
    np.testing.assert_array_equal(model.fc.bias.array, bias)  # type: ignore[union-attr]


def test_float64_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    path = write(tmp_path, safetensors(tensors(fc_bias=np.full(7, 1e300))))
    refused(path, r"NaN or infinity in fc\.bias")


def test_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, safetensors(tensors()))
    with pytest.raises(TypeError, match=r"^load_weights: model must be an nn\.Module"):
        cnnrs.load_weights({}, path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^load_weights: strict must be True or False"):
        cnnrs.load_weights(Tiny(), path, strict=1)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        cnnrs.load_weights(Tiny(), tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        cnnrs.load_weights(Tiny(), tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        cnnrs.load_weights(Tiny(), tmp_path)


# Files of others, and damaged ones.


def entry(**changes: Any) -> dict[str, Any]:
    """The header of a valid tensor of two numbers, with changes; `...` takes a field out."""
    fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return {"t": {name: value for name, value in fields.items() if value is not ...}}


EIGHT = bytes(8)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a safetensors file: it has 0 bytes"),
    "short": (b"\0" * 9, "it has 9 bytes"),
    "header beyond the file": (encode({}, length=1000), "header length 1000 must be from 2 to 2"),
    "header of 2^64 - 1": (encode({}, length=2**64 - 1), "header length 18446744073709551615"),
    "no header": (encode({}, length=0), "header length 0"),
    "not an object": (encode([1, 2]), "the header must be a JSON object"),
    "leading space": (encode(b" {}"), "the header must be a JSON object"),
    "not JSON": (encode(b"{nonsense}"), "not valid JSON"),
    "cut JSON": (encode(b'{"t": '), "not valid JSON"),
    "two objects": (encode(b"{}{}"), "not valid JSON"),
    "not UTF-8": (encode(b'{"\xff": 1}'), "not valid JSON"),
    "a number of 5000 digits": (encode(b'{"t": ' + b"1" * 5000 + b"}"), "header"),
    "nested": (encode(b'{"t": ' + b"[" * 200_000), "nested too deeply"),
    "repeated name": (encode(b'{"t": 1, "t": 2}'), "the name 't' stands twice"),
    "repeated field": (encode(b'{"t": {"dtype": "F32", "dtype": "F32"}}'), "the name 'dtype' stands twice"),
    "metadata": (encode({"__metadata__": {"a": 1}}), "__metadata__ must map names to texts"),
    "metadata list": (encode({"__metadata__": []}), "__metadata__ must map names to texts"),
    "tensor is a list": (encode({"t": []}), "must have exactly dtype, shape and data_offsets"),
    "field missing": (encode(entry(shape=...), EIGHT), "must have exactly dtype, shape and data_offsets"),
    "field too many": (encode(entry(more=1), EIGHT), "must have exactly dtype, shape and data_offsets"),
    "unknown dtype": (encode(entry(dtype="F8_E4M3"), EIGHT), "dtype must be one of"),
    "dtype is a list": (encode(entry(dtype=["F32"]), EIGHT), "dtype must be one of"),
    "shape is a number": (encode(entry(shape=2), EIGHT), "shape must be a list of at most 8 sizes"),
    "negative size": (encode(entry(shape=[-1, -2]), EIGHT), "shape must be a list"),
    "float size": (encode(entry(shape=[2.0]), EIGHT), "shape must be a list"),
    "bool size": (encode(entry(shape=[True, 2]), EIGHT), "shape must be a list"),
    "huge size": (encode(entry(shape=[2**64]), EIGHT), "shape must be a list"),
    "product that wraps to 8 bytes": (encode(entry(shape=[2**62 + 1, 2]), EIGHT), "takes 36893488147419103240 bytes"),
    "a zero hides a product beyond 63 bits": (
        encode(entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])),
        r"'t': F32 \[0, \d+, \d+\] must have less than 2\*\*60 elements",
    ),
    "a zero hides what float32 cannot hold": (
        encode(entry(dtype="F16", shape=[2**62 - 2, 0], data_offsets=[0, 0])),
        r"'t': F16 \[\d+, 0\] must have less than 2\*\*60 elements",
    ),
    "too many tensors": (
        encode({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}),
        "at most 20000 tensors are read, got 20001",
    ),
    "nine dimensions": (encode(entry(shape=[2] + [1] * 8), EIGHT), "at most 8 sizes"),
    "offsets reversed": (encode(entry(data_offsets=[8, 0]), EIGHT), r"data_offsets must be \[begin, end\]"),
    "three offsets": (encode(entry(data_offsets=[0, 4, 8]), EIGHT), r"data_offsets must be \[begin, end\]"),
    "negative offset": (encode(entry(data_offsets=[-8, 0]), EIGHT), r"data_offsets must be \[begin, end\]"),
    "offsets of another size": (encode(entry(data_offsets=[0, 4]), EIGHT), "takes 8 bytes"),
    "a hole before": (encode(entry(data_offsets=[4, 12]), bytes(12)), "must begin at offset 0, got 4"),
    "overlap": (
        encode(entry() | {"u": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        "'u': data must begin at offset 8, got 4",
    ),
    "cut data": (encode(entry(), bytes(7)), "the tensors take 8 bytes, the file has 7 behind the header"),
    "more data": (encode(entry(), bytes(9)), "the tensors take 8 bytes, the file has 9"),
    "long name": (encode({"n" * 1025: entry()["t"]}, EIGHT), "a name has at most 1024 bytes"),
    "surrogate name": (encode({"\ud800": entry()["t"]}, EIGHT), "unexpected"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    content, text = DAMAGED[damage]
    refused(write(tmp_path, content), text)


EXPANDING = """
import sys
import cnnrs
from cnnrs import nn

peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
model, path, count = nn.Linear(3, 2), sys.argv[1], int(sys.argv[2])
model.save(path)
cnnrs.load_weights(model, path)
text = b'{"t":[' + b"[]," * count + b"[]]}"
with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
size = len(text)
del text
before = peak()
try:
    cnnrs.load_weights(model, path)
except cnnrs.WeightsError as error:
    print(size, peak() - before, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("count", "text", "most"),
    [
        (10_000_000, "must be from 2 to 8388608 in a file of 30000018 bytes", 1 << 20),
        (2_000_000, "at most 300000 commas, colons and brackets are read", 16 << 20),
        (149_000, "'t': must have exactly dtype, shape and data_offsets", 32 << 20),
    ],
    ids=["refused before it is read", "refused before it is parsed", "as many as are parsed"],
)
def test_a_header_that_expands(
    tmp_path: Path, count: int, text: str, most: int, run_python: Callable[..., Any]
) -> None:
    """Empty lists take three bytes of a file and more than sixty of memory."""
    result = run_python(EXPANDING, str(tmp_path / "m.safetensors"), str(count))
    assert result.returncode == 0, result.stderr
    size, grown, error = result.stdout.split(maxsplit=2)
    assert text in error
    assert int(size) > 400_000
    assert int(grown) <= most


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    content = safetensors({"weight": real(2, 3), "bias": real(2)})
    model = nn.Linear(3, 2)
    cnnrs.load_weights(model, write(tmp_path, content))
    for length in range(len(content)):
        refused(write(tmp_path, content[:length]), "safetensors", model)


def test_flipped_bits_give_weights_errors_only(tmp_path: Path) -> None:
    content = safetensors({"weight": real(2, 3), "bias": real(2)})
    model, loaded = nn.Linear(3, 2), 0
    for position in range(len(content)):
        for bit in (0, 3, 6, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            try:
                cnnrs.load_weights(model, write(tmp_path, bytes(damaged)))
            except cnnrs.WeightsError:
                continue
            loaded += 1
    assert loaded  # a flipped bit of a number is another number


def test_a_tensor_that_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    unwanted = np.full(1000, np.nan, np.float32)
    path = write(tmp_path, safetensors({"unwanted": unwanted, **tensors()}))
    assert cnnrs.load_weights(Tiny(), path, strict=False).unexpected == ["unwanted"]


def test_empty_tensors_take_no_place(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "c": {"dtype": "BOOL", "shape": [0], "data_offsets": [4, 4]},
    }
    path = write(tmp_path, encode(header, bytes(4)))
    assert sorted(cnnrs.load_weights(nn.ReLU(), path, strict=False).unexpected) == ["a", "b", "c"]


# Writing at once.


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path, b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_write_replaces_the_content_and_keeps_the_mode(tmp_path: Path) -> None:
    path = write(tmp_path, b"old, and longer than the new one")
    path.chmod(0o640)
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_new_file_gets_the_usual_mode(tmp_path: Path) -> None:
    plain = write(tmp_path, b"", "plain")
    with atomic_write(tmp_path / "new") as file:
        file.write(b"x")
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_devices_are_kept(tmp_path: Path) -> None:
    path, link = write(tmp_path, b"old"), tmp_path / "link"
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    with atomic_write("/dev/null") as file:
        file.write(b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_missing_folder_is_a_file_not_found_error(tmp_path: Path) -> None:
    path = tmp_path / "none" / "m.safetensors"
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors"):
        Tiny().save(path)
    with pytest.raises(IsADirectoryError):
        Tiny().save(tmp_path)
    assert list(tmp_path.iterdir()) == []
