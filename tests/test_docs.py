"""Documentation that runs: the README's Python blocks and the docstring examples of the public modules."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import cnnrs

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def public_modules() -> list[str]:
    """All modules of the package that users may import."""
    found = [module.name for module in pkgutil.walk_packages(cnnrs.__path__, "cnnrs.")]
    return ["cnnrs", *(name for name in found if not any(part.startswith("_") for part in name.split(".")))]


def examples() -> dict[str, doctest.DocTest]:
    """Every docstring with an example, by its dotted name."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in public_modules()]
    return {test.name: test for module in modules for test in finder.find(module) if test.examples}


EXAMPLES = examples()


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("_elsewhere", "restore_threads")
def test_docstring(name: str) -> None:
    """The example prints what it says."""
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(EXAMPLES[name], out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_examples_were_found() -> None:
    """The search for examples reaches functions, layers and models."""
    assert {"cnnrs.functional.conv.conv2d", "cnnrs.nn.conv.Conv2d", "cnnrs.models.lenet.lenet5"} <= set(EXAMPLES)


@pytest.mark.usefixtures("_elsewhere", "restore_threads")
def test_readme() -> None:
    """The README's Python blocks run one after the other, as a reader would type them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks
    if "datasets.mnist(" in text and not os.environ.get("CNNRS_DATA"):
        pytest.skip("the README trains on MNIST; set CNNRS_DATA to the folder that holds it")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block.group(1), "README.md", "exec")
        exec(code, namespace)
