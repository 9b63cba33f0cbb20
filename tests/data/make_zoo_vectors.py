"""Writes `zoo_vectors.npz`: logits and sketched gradients of famous networks, computed by torch in float64.

Run with torch 2.13 and NumPy: `PYTHONPATH=tests python tests/data/make_zoo_vectors.py [NAME ...]`; with names only
those networks are made anew. The networks are written here in plain torch, from the papers and torchvision's names,
and know nothing of cnnrs. Parameters and images are drawn as the test draws them, so only results are stored: for every
parameter the sketch of its gradient and the L2 error of the gradient that torch itself computes in float32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from zoo_vectors import CASES, CLASSES, draw_batch, draw_parameter, sketch

FILE = Path(__file__).with_name("zoo_vectors.npz")
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
TO_CNNRS = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


REACH = 0.05
"""How far a bias is moved at most, in multiples of the size of what it is added to."""
LEAST_GAP = 2.5e-7
"""How near the two largest numbers under a pooling window may be, likewise and per root of the terms of a number."""
LEAST_MARGIN = 4.0
"""How far numbers must be from a kink, in multiples of the root mean square error that float32 has there."""


class Kinks:
    """Keeps a network away from the points where its gradient jumps.

    A number next to zero in front of a ReLU, or two nearly equal ones under a maximum, have a gradient that depends on
    rounding: where a comparison comes out differently the gradient changes by more than by all rounding together, in
    either library and by chance. So, in float64 and layer by layer, biases are moved to the middle of the largest gap
    that the numbers of their channel leave, and the weights in front of a pooling are drawn anew until no two maxima
    are near each other.
    """

    def __init__(self) -> None:
        self.name = ""
        self.paths: dict[int, str] = {}
        self.attempts: dict[str, int] = {}
        self.moving = False
        self.watching = False
        self.sites: list[tuple[torch.Tensor, float]] = []  # numbers in float64, distance from a kink
        self.margins: list[float] = []

    def layer(
        self,
        x: torch.Tensor,
        linear: nn.Module,
        norm: nn.Module | None = None,
        pool: tuple[int, int, int] | None = None,
        shortcut: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A convolution or linear layer, what follows it, and a pooling of (size, stride, padding)."""
        while True:
            y = linear(x)
            y = y if norm is None else norm(y)
            y = y if shortcut is None else y + shortcut
            bias = (linear if norm is None else norm).bias
            if self.moving:
                y = y + self.moved(y, bias).reshape(1, -1, *[1] * (y.ndim - 2))
                gap = 2 * float(y.abs().min()) if pool is None else gap_under(F.relu(y), *pool)
                if pool is not None and gap < LEAST_GAP * linear.weight[0].numel() ** 0.5 * float(y.std()):
                    self.draw_again(linear.weight)
                    continue
                self.sites.append((y, min(float(y.abs().min()), gap / 2)))
            elif self.watching:
                exact, distance = self.sites[len(self.margins)]
                error = y.double() - exact
                self.margins.append(distance / float(error.square().mean().sqrt()))
            y = F.relu(y)
            return y if pool is None else F.max_pool2d(y, *pool)

    def draw_again(self, weight: torch.Tensor) -> None:
        """Draw a weight once more."""
        path = self.paths[id(weight)]
        self.attempts[path] = self.attempts.get(path, 0) + 1
        shape = tuple(weight.shape[axis] for axis in TO_CNNRS[weight.ndim])
        array = draw_parameter(self.name, path, shape, attempt=self.attempts[path])
        weight.data = torch.from_numpy(array.transpose(TO_TORCH[array.ndim]).copy()).double()

    def moved(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Move the bias, which stays a number of float32; returns by how much."""
        reach = REACH * float(x.std())
        channels = x.transpose(0, 1).flatten(1).numpy()
        shifts = np.zeros(len(channels))
        for channel, numbers in enumerate(channels):
            near = np.sort(numbers[np.abs(numbers) < 2 * reach])
            ends = np.concatenate([[-2 * reach], near, [2 * reach]])
            middles = np.clip((ends[1:] + ends[:-1]) / 2, -reach, reach)
            distance = np.minimum(ends[1:] - middles, middles - ends[:-1])
            shifts[channel] = -middles[np.argmax(distance)]
        before = bias.data.clone()
        bias.data = (before + torch.from_numpy(shifts)).float().double()
        return bias.data - before


def gap_under(x: torch.Tensor, size: int, stride: int, padding: int) -> float:
    """The smallest difference between the two largest rectified numbers under a window that has a positive one."""
    windows = F.unfold(x.flatten(0, 1)[:, None], size, padding=padding, stride=stride)
    best = windows.topk(2, dim=1).values
    return float((best[:, 0] - best[:, 1])[best[:, 0] > 0].min())


KINKS = Kinks()


class Flattened(nn.Module):
    """Feature maps, averaged to a size, and a classifier on them."""

    def __init__(self, features: nn.Sequential, size: int, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.size = size
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(chain(self.features, x), self.size).flatten(1)
        return chain(self.classifier, x)


def chain(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Call layers one after the other."""
    weighted = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Linear)]
    for begin, end in zip(weighted, [*weighted[1:], len(layers)], strict=True):
        group = list(layers[begin:end])
        norm = next((layer for layer in group if isinstance(layer, nn.BatchNorm2d)), None)
        pool = next(((layer.kernel_size, layer.stride, 0) for layer in group if isinstance(layer, nn.MaxPool2d)), None)
        rectified = any(isinstance(layer, nn.ReLU) for layer in group)
        x = KINKS.layer(x, group[0], norm, pool) if rectified else group[0](x)
    return x


def alexnet() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, CLASSES),
    )
    return Flattened(features, 6, classifier)


def vgg16_bn() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for entry in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if entry:
            layers += [nn.Conv2d(channels, entry, 3, 1, 1), nn.BatchNorm2d(entry), nn.ReLU()]
            channels = entry
        else:
            layers.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        nn.Linear(25088, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, CLASSES),
    )
    return Flattened(nn.Sequential(*layers), 7, classifier)


class Residual(nn.Module):
    """A block whose convolutions are given as (channels, kernel, stride)."""

    def __init__(self, channels: int, convolutions: list[tuple[int, int, int]]) -> None:
        super().__init__()
        before, stride = channels, 1
        for index, (after, kernel, step) in enumerate(convolutions, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{index}", nn.BatchNorm2d(after))
            before, stride = after, stride * step
        self.count = len(convolutions)
        if stride > 1 or before != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels, before, 1, stride, bias=False), nn.BatchNorm2d(before))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index in range(1, self.count + 1):
            shortcut = None
            if index == self.count:
                shortcut = self.downsample(x) if hasattr(self, "downsample") else x
            y = KINKS.layer(y, getattr(self, f"conv{index}"), getattr(self, f"bn{index}"), shortcut=shortcut)
        return y


class ResNet(nn.Module):
    """Stages of blocks of two (basic) or three (bottleneck) convolutions."""

    def __init__(self, depths: list[int], bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(depths):
            inner, blocks = 64 * 2**stage, []
            for index in range(depth):
                step = 2 if stage and not index else 1
                wide = [(inner, 1, 1), (inner, 3, step), (4 * inner, 1, 1)]
                blocks.append(Residual(channels, wide if bottleneck else [(inner, 3, step), (inner, 3, 1)]))
                channels = 4 * inner if bottleneck else inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = KINKS.layer(x, self.conv1, self.bn1, (3, 2, 1))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": alexnet,
    "vgg16_bn": vgg16_bn,
    "resnet18": lambda: ResNet([2, 2, 2, 2], bottleneck=False),
    "resnet50": lambda: ResNet([3, 4, 6, 3], bottleneck=True),
}


def forward(name: str, model: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Logits, without dropout."""
    model.to(dtype).train(CASES[name].training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    images, _ = draw_batch(name)
    return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(dtype))


def gradients(name: str, model: nn.Module, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Logits, and gradients of the cross-entropy in cnnrs layout."""
    model.zero_grad()
    logits = forward(name, model, dtype)
    F.cross_entropy(logits, torch.from_numpy(draw_batch(name)[1])).backward()
    found = {
        path: parameter.grad.numpy().transpose(TO_CNNRS[parameter.ndim]).copy()
        for path, parameter in model.named_parameters()
    }
    return logits.detach().numpy(), found


def drawn(name: str) -> nn.Module:
    """The network with the parameters that the test draws."""
    model = NETWORKS[name]()
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for path, parameter in model.named_parameters():
        shape = tuple(parameter.shape[axis] for axis in TO_CNNRS[parameter.ndim])
        array = draw_parameter(name, path, shape, path.rpartition(".")[0] in norms)
        parameter.data = torch.from_numpy(array.transpose(TO_TORCH[array.ndim]).copy())
    return model


def away_from_kinks(name: str) -> nn.Module:
    """The network with biases moved and weights drawn again; `KINKS.attempts` says which."""
    model = drawn(name)
    KINKS.__init__()
    KINKS.name = name
    KINKS.paths = {id(parameter): path for path, parameter in model.named_parameters()}
    with torch.no_grad():
        KINKS.moving = True
        forward(name, model, torch.float64)
        KINKS.moving, KINKS.watching = False, True
        forward(name, model, torch.float32)
        KINKS.watching = False
    KINKS.sites = []
    worst = int(np.argmin(KINKS.margins))
    print(f"{name}: margins from {KINKS.margins[worst]:.1f} times the error of float32 on, at", end=" ")
    print(f"layer {worst} of {len(KINKS.margins)}; drawn again: {KINKS.attempts}", flush=True)
    if min(KINKS.margins) < LEAST_MARGIN:
        message = f"{name}: too near a kink"
        raise RuntimeError(message)
    return model


def make(name: str) -> dict[str, Any]:
    """Everything stored about one network."""
    model = away_from_kinks(name)
    single_logits, single = gradients(name, model, torch.float32)
    logits, exact = gradients(name, model, torch.float64)
    biases = [
        parameter.detach().float().numpy() for path, parameter in model.named_parameters() if path.endswith("bias")
    ]
    paths = list(exact)
    errors = [np.linalg.norm((single[path] - exact[path]).ravel()) for path in paths]
    sizes = [np.linalg.norm(exact[path].ravel()) for path in paths]
    sketches = [sketch(name, path, exact[path]) for path in paths]
    relative = np.array(errors) / np.array(sizes)
    off = np.abs(single_logits - logits).max() / np.abs(logits).max()
    print(f"{name}: logits up to {np.abs(logits).max():.3g}, float32 off by {off:.1e};", end=" ")
    print(f"gradients off by {relative.min():.1e} to {relative.max():.1e}, median {np.median(relative):.1e}")
    return {
        "attempts": np.array([KINKS.attempts.get(path, 0) for path in paths], np.int16),
        "biases": np.concatenate(biases),
        "logits": logits,
        "paths": np.array(paths),
        "sketches": np.concatenate(sketches),
        "ends": np.cumsum([len(item) for item in sketches]),
        "errors": np.array(errors),
        "norms": np.array(sizes),
    }


def main() -> None:
    chosen = sys.argv[1:] or list(NETWORKS)
    stored = dict(np.load(FILE)) if FILE.exists() else {}
    stored = {key: value for key, value in stored.items() if key.split("/")[0] not in chosen}
    for name in chosen:
        begin = time.perf_counter()
        stored |= {f"{name}/{key}": value for key, value in make(name).items()}
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    np.savez_compressed(FILE, **stored)
    print(f"{FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
