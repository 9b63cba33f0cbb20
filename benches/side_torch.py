"""The PyTorch half of every benchmark; runs in a worker process that never imports cnnrs.

A variant is a memory layout, "nchw" (torch's default, contiguous) or "channels_last", for networks with options:
"+fused" takes the fused form of torch's SGD, "+compile" sends the model through `torch.compile`.
"""

import importlib
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benches.networks import NETWORKS
from benches.networks_torch import MAKERS, lenet5, load_parameters, parameter
from benches.shapes import parse_shape

torch: Any = importlib.import_module("torch")  # not in the environment that checks types
Tensor: TypeAlias = Any
Model: TypeAlias = Any


def memory_format(variant: str) -> object:
    """Layout of a variant, as torch names it."""
    return {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[variant.split("+")[0]]


def activations(array: np.ndarray, variant: str) -> Tensor:
    """NHWC array to a tensor in the variant's layout."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(variant))


def relative_error(got: np.ndarray, tensor: Tensor, *, weights: bool = False) -> float:
    """Largest difference of a cnnrs array from torch's tensor, relative to torch's largest value."""
    if tensor.ndim == 4:
        tensor = tensor.permute((2, 3, 1, 0) if weights else (0, 2, 3, 1))
    expected = tensor.numpy()
    if got.shape != expected.shape:
        message = f"cnnrs's result has shape {got.shape}, torch's {expected.shape}"
        raise ValueError(message)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def conv_calls(arrays: dict[str, np.ndarray], shape: str, variant: str) -> dict[str, Callable[[], Tensor]]:
    """The passes of one layer, by name, as torch runs them in eager mode without recording gradients."""
    s = parse_shape(shape)
    stride, padding, dilation = [s.sh, s.sw], [s.ph, s.pw], [s.dh, s.dw]
    x, grad_y = activations(arrays["x"], variant), activations(arrays["grad_y"], variant)
    weight = parameter(arrays["weight"]).contiguous(memory_format=memory_format(variant))
    layer = torch.nn.Conv2d(s.ic, s.oc, (s.kh, s.kw), stride, padding, dilation, s.g, bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    def backward(bias: list[int] | None, mask: list[bool]) -> Tensor:
        return torch.ops.aten.convolution_backward(
            grad_y, x, weight, bias, stride, padding, dilation, False, [0, 0], s.g, mask
        )

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, s.g),
        "inference": lambda: layer(x),
        "backward_data": lambda: backward(None, [True, False, False])[0],
        "backward_weights": lambda: backward([s.oc], [False, True, True])[1:],
    }


def training_step(
    model: Model, x: Tensor, labels: Tensor, optimizer: dict[str, float], variant: str
) -> Callable[[], float]:
    """One training step; like `Trainer.step` it returns the loss as a Python float."""
    _, *options = variant.split("+")
    sgd = torch.optim.SGD(model.parameters(), fused=True if "fused" in options else None, **optimizer)
    forward = torch.compile(model) if "compile" in options else model
    cross_entropy = torch.nn.functional.cross_entropy

    def step() -> float:
        sgd.zero_grad(set_to_none=True)
        loss = cross_entropy(forward(x), labels)
        loss.backward()
        sgd.step()
        return float(loss.item())

    return step


class Side:
    """PyTorch calls by "name/variant"."""

    def __init__(self, threads: int) -> None:
        """Set the size of the pool."""
        torch.set_num_threads(threads)
        self.calls: dict[str, Callable[[], object]] = {}

    def info(self) -> dict[str, object]:
        """Versions and what the library chose on this machine."""
        onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
        return {
            "versions": {
                "torch": torch.__version__,
                "onednn": onednn[1] if onednn else "none",
                "torch_python": platform.python_version(),
                "torch_numpy": np.__version__,
            },
            "settings": {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()},
        }

    def conv_open(self, shape: str, passes: list[str], variants: list[str], folder: str) -> dict[str, float]:
        """Take the arrays that cnnrs stored; relative error of cnnrs's result by pass, the worst over the variants."""
        with np.load(Path(folder) / "conv.npz") as file:
            arrays = dict(file)
        self.calls = {}
        errors = dict.fromkeys(passes, 0.0)
        for variant in variants:
            calls = conv_calls(arrays, shape, variant)
            for name in passes:
                self.calls[f"{name}/{variant}"] = torch.inference_mode()(calls[name])
                result = self.calls[f"{name}/{variant}"]()
                parts = result if isinstance(result, tuple | list) else (result,)
                for part, tensor in enumerate(parts):
                    error = relative_error(arrays[f"{name}.{part}"], tensor, weights=name == "backward_weights")
                    errors[name] = max(errors[name], error)
        return errors

    def lenet_open(
        self, activation: str, pool: str, variants: list[str], optimizer: dict[str, float], steps: int, folder: str
    ) -> dict[str, list[float]]:
        """Take the weights and the batch that cnnrs stored and train `steps` steps; their losses by variant."""
        with np.load(Path(folder) / "lenet.npz") as file:
            arrays = dict(file)
        x, labels = arrays.pop("x"), torch.from_numpy(arrays.pop("labels"))
        self.calls = {}
        losses = {}
        for variant in variants:
            model = lenet5(activation, pool)
            model = load_parameters(model, arrays).to(memory_format=memory_format(variant))
            step = training_step(model, activations(x, variant), labels, optimizer, variant)
            self.calls[f"step/{variant}"] = step
            losses[variant] = [step() for _ in range(steps)]
        return losses

    def epoch_open(self, steps: int) -> None:
        """Add "steps/VARIANT", an epoch's number of steps on the ready batch, after `lenet_open`."""

        def many(step: Callable[[], object]) -> Callable[[], object]:
            return lambda: [step() for _ in range(steps)]

        self.calls |= {name.replace("step/", "steps/"): many(step) for name, step in self.calls.items()}

    def network_open(
        self,
        network: str,
        mode: str,
        batch: int,
        seed: int,
        variant: str,
        optimizer: dict[str, float],
        folder: str | None,
    ) -> dict[str, float | None]:
        """Make "run", one call of a network.

        With a folder it takes the weights and images that cnnrs stored there and gives the error of cnnrs's logits
        relative to the largest one, and the loss of the first training step.
        """
        about = NETWORKS[network]
        model = MAKERS[network]()
        error = loss = None
        if folder is None:
            rng = np.random.default_rng(seed)
            images = rng.standard_normal((batch, *about.image), dtype=np.float32)
            labels = rng.integers(0, about.classes, batch)
        else:
            with np.load(Path(folder) / "network.npz") as file:
                arrays = dict(file)
            images, labels, logits = (arrays.pop(name) for name in ("images", "labels", "logits"))
            load_parameters(model, arrays)
        model = model.to(memory_format=memory_format(variant))
        x = activations(images, variant)
        if folder is not None:
            with torch.inference_mode():
                error = relative_error(logits, model.eval()(x))
        if mode == "train":
            step = training_step(model.train(), x, torch.from_numpy(labels), optimizer, variant)
            loss = step()
            self.calls = {"run": step}
        else:
            forward = torch.compile(model.eval()) if "compile" in variant.split("+") else model.eval()
            self.calls = {"run": torch.inference_mode()(lambda: forward(x))}
            self.calls["run"]()
        return {"error": error, "loss": loss}
