"""The programs under `examples/` run as a reader would start them, with settings that take seconds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RUNS = {
    "train_lenet.py": (("--epochs", "2", "--output", "weights.safetensors"), r"test loss \d\.\d+, accuracy \d+\.\d\d%"),
    "functional_ops.py": (("--digit", "7"), r"(?s)stride 2, padding 1, dilation 1: 14 .*\na 7 and its edges\n"),
    "custom_module.py": (("--epochs", "1"), r"(?s)epoch 1: mean loss .*\ntest accuracy \d+\.\d\d%\n"),
    "dice_loss.py": (("--epochs", "1"), r"epoch 1: loss 0\.\d+, overlap on 200 other digits 0\.[5-9]\d*\n"),
    "finetune_folder.py": (
        ("shapes", "--demo", "--model", "cifar_resnet20", "--size", "32", "--epochs", "2"),
        r"(?s)120 pictures of circle, square, triangle; skipped: none\neverything learned: validation accuracy \d",
    ),
    "why_resnet.py": (
        ("--data", "digits", "--depth", "20", "--steps", "5", "--batch", "8"),
        r"(?s)with shortcuts: mean loss .* of the last \d.*plain: .*ratio \d",
    ),
    "transfer_cifar.py": (
        ("--pictures", "200", "--epochs", "1", "--steps", "20", "--seeds", "1"),
        r"(?s)the first five classes: \d+\.\d\d%\nseed 0: transfer \d+\.\d\d%, from scratch \d+\.\d\d%\n",
    ),
    "equivariance.py": (("--shift", "2", "-3"), r"interior pixels: 462, of them with the same bits: 462\n"),
}
LEAVES = {"finetune_folder.py": {"shapes", "finetuned.safetensors"}}
"""What the programs leave behind where they were started."""


def test_every_example_is_run() -> None:
    assert sorted(RUNS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", RUNS)
def test_an_example_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert f"    python examples/{name}" in (ast.get_docstring(ast.parse(text)) or "")
    assert text.count("\n") <= 90


@pytest.mark.skipif(find_spec("sklearn") is None, reason="the examples use the digits of scikit-learn")
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    arguments, expected = RUNS[name]
    if name == "transfer_cifar.py" and not Path(os.environ.get("CNNRS_DATA", ""), "cifar10-images.tar.xz").is_file():
        pytest.skip("CNNRS_DATA names no folder with cifar10-images.tar.xz")
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert re.search(expected, result.stdout), result.stdout
    left = LEAVES.get(name, {word for word in arguments if word.endswith(".safetensors")})
    assert {path.name for path in tmp_path.iterdir()} == left
