"""The node cases of the `onnx` package: every case on the list passes, every other one has a reason there.

`PYTHONPATH=tests python -m onnx_nodes.cases` writes the list anew.
"""

from __future__ import annotations

from typing import Any

import pytest

from onnx_nodes import cases

pytest.importorskip("onnx", reason="the onnx package is not installed; `pip install onnx` brings the judge")

LISTED_VERSION, LISTED = cases.read_list()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The cases of the installed package, if it is the version that was listed."""
    version, loaded = cases.load()
    if version != LISTED_VERSION:
        pytest.skip(f"the list is for onnx {LISTED_VERSION}, installed is {version}")
    return {case.name: case for case in loaded}


def test_the_list_is_complete(found: dict[str, Any]) -> None:
    """No case of our operators is missing, and none is listed that does not exist."""
    assert sorted(found) == sorted(LISTED)


@pytest.mark.parametrize("name", [name for name, reason in LISTED.items() if not reason])
def test_case(name: str, found: dict[str, Any]) -> None:
    """The results are within the tolerance that the package states."""
    found[name].run()


@pytest.mark.parametrize("name", [name for name, reason in LISTED.items() if reason])
def test_reason(name: str, found: dict[str, Any]) -> None:
    """What is not supported says so."""
    assert found[name].verdict() == LISTED[name]


def test_every_flat_float_case_passes() -> None:
    """Of the float32 cases only those are left out that need another operation or more than two dimensions."""
    legal = ("float", "int", "uint", "bfloat", "bool", "not a tensor", "3 spatial dimensions")
    other = {reason for reason in LISTED.values() if reason and not reason.startswith(legal)}
    assert other == {
        "cropping while resizing",
        "cubic or antialiased resizing",
        "a scale that the sizes do not have",
        "another position for a single element",
        "draws of another generator",
        "nearest neighbours by another rounding than the floor of i·from/to",
    }
