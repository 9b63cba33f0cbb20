"""The ONNX Runtime half: `network.onnx` on the CPU provider in float32; runs in a worker process."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.runtimes import difference, stored

onnxruntime: Any = importlib.import_module("onnxruntime")


class Side:
    """One session."""

    def __init__(self, threads: int) -> None:
        """Keep the size of the pool."""
        self._threads = threads
        self.calls: dict[str, Callable[[], object]] = {}

    def info(self) -> dict[str, object]:
        """Version and settings."""
        return {
            "versions": {"onnxruntime": onnxruntime.__version__},
            "settings": {"intra_op_num_threads": self._threads, "graph_optimization": "all"},
        }

    def network_open(self, folder: str) -> dict[str, float | None]:
        """Load the network; the error of its logits against cnnrs's."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        path = str(Path(folder) / "network.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        images, logits = stored(folder)
        feed = {session.get_inputs()[0].name: images}
        self.calls = {"run": lambda: session.run(None, feed)}
        return {"error": difference(session.run(None, feed)[0], logits), "loss": None}
