"""The extension's stub says what the extension has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_stub_matches_the_extension(tmp_path: Path) -> None:
    """`stubtest` compares every name, signature and default of `cnnrs._core` with `_core.pyi`."""
    command = [sys.executable, "-m", "mypy.stubtest", "cnnrs._core"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
