"""What loading takes of memory: the file once, whatever its format, and little for what is not needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resident import PRELUDE, measured

HERE: dict[str, str | None] = {"PYTHONPATH": str(Path(__file__).parent)}

WRITING = """
from fuzz import torch_files as files

class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(256, 256, 3)
        self.fc = nn.Linear(4096, OUT)
    def forward(self, x):
        return x

def tensors(model):
    rng = np.random.default_rng(0)
    for name, array in model.state_dict().items():
        shape = tuple(array.shape[axis] for axis in {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim)))
        yield name, rng.random(shape, np.float32).astype(DTYPE)

def checkpoint(model, path):
    made, named = [], {}
    for name, array in tensors(model):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        named[name] = files.View(len(made), array.shape, strides, 0)
        made.append((CODE, array.tobytes()))
    if path.endswith("zip"):
        content = files.Content(made + [("F32", bytes(EXTRA))], named)
        data = files.archive(files.members(content))
    else:
        data = files.stream(files.Content(made, named))
    open(path, "wb").write(data)
"""

LOADING = """
import os
model = Big()
path = sys.argv[1]
cnnrs.load_weights(nn.ReLU(), os.path.join(os.path.dirname(path), "small.safetensors"), strict=False)
before = restart()
kept = resident()
cnnrs.load_weights(model, path)
print(json.dumps({"size": os.path.getsize(path), "rise": peak() - before, "left": resident() - kept}))
"""


@measured
@pytest.mark.parametrize(
    ("name", "code", "out", "extra"),
    [
        ("m.safetensors", "F32", 9216, 0),
        ("m.zip", "F32", 2048, 0),
        ("m.zip", "F32", 2048, 64 << 20),
        ("m.zip", "F16", 4096, 0),
        ("m.stream", "F32", 2048, 0),
    ],
    ids=["safetensors", "zip", "zip with other storages", "zip of halves", "stream"],
)
def test_loading_takes_at_most_the_file(
    tmp_path: Path, name: str, code: str, out: int, extra: int, run_python: Callable[..., Any]
) -> None:
    settings = f"DTYPE, CODE, OUT, EXTRA = 'f{4 if code == 'F32' else 2}', {code!r}, {out}, {extra}\n"
    path = tmp_path / name
    write = "Big().save(sys.argv[1])" if name.endswith("safetensors") else "checkpoint(Big(), sys.argv[1])"
    small = "nn.Linear(2, 2).save(sys.argv[1].rpartition('/')[0] + '/small.safetensors')\n"
    written = run_python(PRELUDE + settings + WRITING + small + write, str(path), env=HERE)
    assert written.returncode == 0, written.stderr
    loaded = run_python(PRELUDE + settings + WRITING + LOADING, str(path), env=HERE)
    assert loaded.returncode == 0, loaded.stderr
    figures = json.loads(loaded.stdout)
    assert figures["size"] >= (145 << 20 if out == 9216 else 30 << 20)
    assert figures["rise"] <= 1.2 * (figures["size"] - extra)
    assert figures["left"] <= 8 << 20
