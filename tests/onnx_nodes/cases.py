"""The cases of the installed `onnx` package, what we make of each, and the list of those that pass."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_nodes import arithmetic, movement, norms, windows
from onnx_nodes.windows import UnsupportedCaseError

TABLE = {**windows.TABLE, **norms.TABLE, **arithmetic.TABLE, **movement.TABLE}
LIST = Path(__file__).parent.parent / "data" / "onnx_nodes.txt"
INTEGERS = ("Reshape", "Slice", "Squeeze", "Unsqueeze", "Expand", "Split", "Pad", "Resize")  # operands beside x
LABELLED = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")


@dataclass(frozen=True)
class Case:
    """One node with its operands and expected results."""

    name: str
    op: str
    attributes: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float

    def refusal(self) -> str:
        """Why the case is outside of what cnnrs is, or nothing."""
        first = self.inputs[0]
        if not isinstance(first, np.ndarray):
            return "not a tensor"
        floats = [x for x in self.inputs if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        if first.dtype != np.float32 or any(x.dtype != np.float32 for x in floats):
            return f"{first.dtype}, not float32"
        return ""

    def run(self) -> None:
        """Compute the results and compare them.

        Raises:
            UnsupportedCaseError: cnnrs does not have it.
            AssertionError: other results.
        """
        results = TABLE[self.op](self.attributes, self.inputs)
        assert len(results) >= len(self.outputs), f"{self.name}: {len(results)} results"
        for actual, expected in zip(results, self.outputs, strict=False):
            assert np.shape(actual) == np.shape(expected), f"{self.name}: shape {np.shape(actual)}"
            np.testing.assert_allclose(actual, expected, rtol=self.rtol, atol=self.atol, err_msg=self.name)

    def verdict(self) -> str:
        """Nothing if it passes, the reason otherwise."""
        reason = self.refusal()
        if reason:
            return reason
        try:
            self.run()
        except UnsupportedCaseError as missing:
            return str(missing)
        return ""


def load() -> tuple[str, list[Case]]:
    """The package's version and its single-node cases of the operators in `TABLE`."""
    import onnx
    from onnx import helper, numpy_helper
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, while it computes what it expects
        found = load_model_tests(kind="node")
    cases = []
    for case in found:
        nodes = list(case.model.graph.node)
        if len(nodes) != 1 or nodes[0].op_type not in TABLE or nodes[0].domain:
            continue
        node = nodes[0]
        values = (helper.get_attribute_value(attribute) for attribute in node.attribute)
        attributes = {
            attribute.name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
            for attribute, value in zip(node.attribute, values, strict=True)
        }
        attributes.setdefault("outputs", len(node.output))
        inputs, outputs = case.data_sets[0]
        given = iter(inputs)
        operands = [next(given) if name else None for name in node.input]
        cases.append(Case(case.name, node.op_type, attributes, operands, list(outputs), case.rtol, case.atol))
    return onnx.__version__, cases


def read_list() -> tuple[str, dict[str, str]]:
    """The version of `onnx` that the list was made with, and the reason of every case, "" for a pass."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    version = lines[0].removeprefix("# onnx ")
    verdicts = {}
    for line in lines[1:]:
        if line and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            verdicts[name] = reason
    return version, verdicts


def write_list(version: str, verdicts: dict[str, str]) -> None:
    """Write the list: first what passes, then the rest with the reasons."""
    passed = sorted(name for name, reason in verdicts.items() if not reason)
    rest = sorted((reason, name) for name, reason in verdicts.items() if reason)
    lines = [
        f"# onnx {version}",
        f"# {len(passed)} single-node cases that pass",
        *passed,
        f"# {len(rest)} others, with the reason",
        *(f"{name}: {reason}" for reason, name in rest),
    ]
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    present, all_cases = load()
    write_list(present, {case.name: case.verdict() for case in all_cases})
