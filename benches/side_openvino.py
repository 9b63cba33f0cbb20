"""The OpenVINO half: `network.onnx` compiled for the CPU with its precision pinned to f32; runs in a worker process."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.runtimes import difference, stored

openvino: Any = importlib.import_module("openvino")


class Side:
    """One infer request."""

    def __init__(self, threads: int) -> None:
        """Keep the size of the pool."""
        self._config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._images: Any = None
        self.calls: dict[str, Callable[[], object]] = {}

    def info(self) -> dict[str, object]:
        """Version and settings."""
        return {"versions": {"openvino": openvino.__version__.split("-")[0]}, "settings": self._config}

    def network_open(self, folder: str) -> dict[str, float | None]:
        """Load the network; the error of its logits against cnnrs's.

        Raises:
            RuntimeError: the device did not take float32.
        """
        compiled = openvino.Core().compile_model(str(Path(folder) / "network.onnx"), "CPU", self._config)
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if precision not in ("f32", "float"):
            message = f"asked for f32, the device took {precision}"
            raise RuntimeError(message)
        images, logits = stored(folder)
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
        self._images = images  # the tensor borrows their memory
        self.calls = {"run": request.infer}
        request.infer()
        return {"error": difference(request.get_output_tensor().data, logits), "loss": None}
