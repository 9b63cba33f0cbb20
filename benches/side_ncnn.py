"""The ncnn half: the network as pnnx converted it, all in float32; runs in a worker process.

ncnn takes one image at a time: a batch is as many calls.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benches.runtimes import difference, stored

ncnn: Any = importlib.import_module("ncnn")
_OFF = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_inference",
    "use_vulkan_compute",
)


class Side:
    """One network."""

    def __init__(self, threads: int) -> None:
        """Keep the size of the pool."""
        self._threads = threads
        self._off: list[str] = []
        self.calls: dict[str, Callable[[], object]] = {}

    def info(self) -> dict[str, object]:
        """Version and settings."""
        options = ncnn.Net().opt
        off = [name for name in _OFF if hasattr(options, name)]
        return {"versions": {"ncnn": ncnn.__version__}, "settings": {"num_threads": self._threads, "off": off}}

    def network_open(self, folder: str) -> dict[str, float | None]:
        """Load the network; the error of its logits against cnnrs's.

        Raises:
            RuntimeError: ncnn refuses the files.
        """
        net = ncnn.Net()
        net.opt.num_threads = self._threads
        for name in _OFF:
            if hasattr(net.opt, name):
                setattr(net.opt, name, False)
        for load, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
            if load(str(Path(folder) / f"network.ncnn.{suffix}")) != 0:
                message = f"cannot load network.ncnn.{suffix}"
                raise RuntimeError(message)
        images, logits = stored(folder)
        mats = [ncnn.Mat(image).clone() for image in images]
        source, result = net.input_names()[0], net.output_names()[0]

        def one(mat: Any) -> Any:
            with net.create_extractor() as extractor:
                extractor.input(source, mat)
                return extractor.extract(result)[1]

        self.calls = {"run": lambda: [one(mat) for mat in mats]}
        found = np.stack([np.array(one(mat)).reshape(-1) for mat in mats])
        return {"error": difference(found, logits), "loss": None}
