"""Converts a network for the peers that only infer: torch to ONNX, and through pnnx to ncnn; runs in a worker."""

import importlib
import os
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from benches.networks_torch import MAKERS, load_parameters

torch: Any = importlib.import_module("torch")


class Side:
    """torch with cnnrs's weights, written as files."""

    def __init__(self, threads: int) -> None:
        """Set the size of the pool."""
        torch.set_num_threads(threads)
        self.calls: dict[str, Callable[[], object]] = {}

    def network_export(self, network: str, to: str, folder: str) -> None:
        """Write `network.onnx` for the stored batch, or `network.ncnn.param` and `.bin` for one image, all float32."""
        with np.load(Path(folder) / "network.npz") as file:
            arrays = dict(file)
        images = arrays.pop("images")
        del arrays["labels"], arrays["logits"]
        model = load_parameters(MAKERS[network](), arrays).eval()
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            if to == "onnx":
                path = Path(folder) / "network.onnx"
                torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False)
                return
            with chdir(folder):  # pnnx writes beside its input
                os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
                importlib.import_module("pnnx").export(model, "network.pt", (x[:1],), fp16=False)
        for suffix in ("param", "bin"):
            if not (Path(folder) / f"network.ncnn.{suffix}").exists():
                message = f"pnnx wrote no network.ncnn.{suffix}"
                raise RuntimeError(message)
