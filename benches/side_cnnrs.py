"""The cnnrs half of every benchmark; runs in a worker process."""

import platform
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import cnnrs
from benches.networks import NETWORKS
from benches.shapes import parse_shape
from benches.stream import measure as measure_stream
from cnnrs import Trainer, datasets, models, nn, optim
from cnnrs import functional as F  # noqa: N812


class Side:
    """Public cnnrs calls on NumPy arrays, by name."""

    def __init__(self, threads: int) -> None:
        """Set the size of the pool."""
        cnnrs.set_num_threads(threads)
        self._threads = threads
        self.calls: dict[str, Callable[[], object]] = {}

    def info(self) -> dict[str, object]:
        """Versions and what the library chose on this machine."""
        config = cnnrs._core.config()
        return {
            "versions": {
                "cnnrs": cnnrs.__version__,
                "cnnrs_python": platform.python_version(),
                "cnnrs_numpy": np.__version__,
            },
            "settings": {key: config[key] for key in ("isa_found", "isa_used", "threads", "algorithm", "debug_build")},
        }

    def peak(self, seconds: float) -> float:
        """Register-only FMA rate of this moment, GFLOP/s."""
        return float(cnnrs._core.fma_peak(self._threads, seconds))

    def stream(self) -> dict[str, float]:
        """Rates of memory at this moment, GB/s."""
        return measure_stream(self._threads)

    def conv_open(self, shape: str, passes: list[str], seed: int, folder: str) -> None:
        """Make the layer's arrays and calls, and store arrays and results for the other side's check."""
        s = parse_shape(shape)
        rng = np.random.default_rng(seed)

        def uniform(*size: int) -> np.ndarray:
            return rng.random(size, dtype=np.float32) * np.float32(2) - np.float32(1)

        x, grad_y = uniform(s.n, s.ih, s.iw, s.ic), uniform(s.n, s.oh, s.ow, s.oc)
        weight = uniform(s.kh, s.kw, s.ic // s.g, s.oc) * np.float32(0.05)
        window: dict[str, Any] = {
            "stride": (s.sh, s.sw),
            "padding": (s.ph, s.pw),
            "dilation": (s.dh, s.dw),
            "groups": s.g,
        }
        layer = nn.Conv2d(s.ic, s.oc, (s.kh, s.kw), bias=False, **window)
        layer.load_state_dict({"weight": weight})
        calls: dict[str, Callable[[], object]] = {
            "forward": lambda: F.conv2d(x, weight, **window),
            "inference": lambda: layer(x),
            "backward_data": lambda: F.conv2d_backward_data(grad_y, weight, x.shape, **window),
            "backward_weights": lambda: F.conv2d_backward_weights(x, grad_y, (s.kh, s.kw), **window),
        }
        self.calls = {name: calls[name] for name in passes}
        stored: dict[str, Any] = {"x": x, "weight": weight, "grad_y": grad_y}
        for name, call in self.calls.items():
            result = call()
            for part, array in enumerate(result if isinstance(result, tuple) else (result,)):
                stored[f"{name}.{part}"] = array
        np.savez(Path(folder) / "conv.npz", **stored)

    def lenet_open(
        self, activation: str, pool: str, batch: int, optimizer: dict[str, Any], steps: int, seed: int, folder: str
    ) -> list[float]:
        """Make LeNet-5 and a ready batch, store both, and train `steps` steps; their losses."""
        cnnrs.manual_seed(seed)
        model = models.lenet5(activation=activation, pool=pool)
        rng = np.random.default_rng(seed)
        x, labels = rng.standard_normal((batch, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, batch)
        stored: dict[str, Any] = {"x": x, "labels": labels, **model.state_dict(copy=True)}
        np.savez(Path(folder) / "lenet.npz", **stored)
        trainer = Trainer(model, optim.SGD(**optimizer))
        self.calls = {"step": lambda: trainer.step(x, labels)}
        return [trainer.step(x, labels) for _ in range(steps)]

    def epoch_open(
        self, activation: str, pool: str, batch: int, optimizer: dict[str, Any], seed: int
    ) -> dict[str, int]:
        """Add "fit", one epoch over MNIST, and "steps", as many steps on the ready batch, after `lenet_open`."""
        train, _ = datasets.mnist()
        steps = -(-len(train) // batch)
        cnnrs.manual_seed(seed)
        trainer = Trainer(models.lenet5(activation=activation, pool=pool), optim.SGD(**optimizer))
        step = self.calls["step"]

        def fit() -> None:
            trainer.fit(train, epochs=1, batch_size=batch, verbose=False)

        def run_steps() -> None:
            for _ in range(steps):
                step()

        self.calls |= {"fit": fit, "steps": run_steps}
        return {"images": len(train), "steps": steps}

    def network_open(
        self,
        network: str,
        mode: str,
        batch: int,
        seed: int,
        variant: str,
        optimizer: dict[str, Any],
        folder: str | None,
    ) -> dict[str, Any]:
        """Make "run", one call of a network; `variant` is for peers.

        With a folder it stores weights, images and logits there for the others. The answer holds the loss of the first
        training step and a digest of the bits of the first result.
        """
        about = NETWORKS[network]
        cnnrs.manual_seed(seed)
        options: dict[str, Any] = dict(about.options)
        model = models.get_model(network, **options)
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((batch, *about.image), dtype=np.float32)
        labels = rng.integers(0, about.classes, batch)
        if folder is not None:
            stored: dict[str, Any] = {"images": images, "labels": labels, "logits": model(images)}
            np.savez(Path(folder) / "network.npz", **stored | model.state_dict(copy=True))
        if mode == "infer":
            self.calls = {"run": lambda: model(images)}
            return {"loss": None, "digest": sha256(model(images).tobytes()).hexdigest()}
        trainer = Trainer(model, optim.SGD(**optimizer))
        self.calls = {"run": lambda: trainer.step(images, labels)}
        loss = trainer.step(images, labels)
        return {"loss": loss, "digest": loss.hex()}
