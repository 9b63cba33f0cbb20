"""Writes `checkpoints/`: small files that torch wrote, with what they hold, so that the tests need no torch.

Run with torch 2.13, safetensors and NumPy: `python tests/data/make_checkpoints.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parent / "checkpoints"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Net(nn.Module):
    """Convolution, batch normalization, pooling and two linear layers, with names as torchvision gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Linear(4 * 4 * 4, 6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def trained() -> Net:
    """A net whose parameters and statistics are all different."""
    torch.manual_seed(7)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        x, labels = torch.randn(16, 3, 8, 8) * 2 + 0.5, torch.randint(0, 5, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net.eval()


def both(name: str, content: Any) -> None:
    """Write a checkpoint in both formats."""
    torch.save(content, FOLDER / f"{name}.pth")
    torch.save(content, FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)


def views() -> dict[str, torch.Tensor]:
    """Tensors that share storages, are not contiguous, or are empty."""
    base = torch.arange(60.0)
    return {
        "whole": base,
        "part": base[7:19],
        "transposed": base[:24].reshape(4, 6).t(),
        "strided": base[3:60:7],
        "image": base.reshape(3, 4, 5).permute(2, 0, 1),
        "channels_last": torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.arange(3.0)[:, None].expand(3, 4),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "tied": base,
    }


def kinds() -> dict[str, torch.Tensor]:
    """A tensor of every type that is read."""
    numbers = torch.tensor([[1.5, -2.25, 0.0], [0.1, 1e-7, 6e4]], dtype=torch.float64)
    named = {str(dtype).removeprefix("torch."): numbers.to(dtype) for dtype in DTYPES}
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        named[str(dtype).removeprefix("torch.")] = torch.tensor([1, 0, 100]).to(dtype)
    return named


def optimizer_state(net: Net) -> dict[str, Any]:
    """What people save beside the weights."""
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    net(torch.ones(2, 3, 8, 8)).sum().backward()
    adam.step()
    return adam.state_dict()


def expected(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Floats as float32, others as they are."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
        for name, tensor in state.items()
    }


def main() -> None:
    """Write everything."""
    FOLDER.mkdir(exist_ok=True)
    net = trained()
    state = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    x = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    with torch.no_grad():
        logits = net.double()(x.double())
    net.float()
    both("net", net.state_dict())
    both("half", {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    both("views", views())
    both("kinds", kinds())
    both(
        "wrapped",
        {
            "epoch": 3,
            "arch": "net",
            "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
            "best_prec1": torch.tensor(91.5),
            "optimizer": optimizer_state(net),
            "history": {"loss": [1.5, np.float64(0.25)], "shape": torch.Size([2, 3]), "seen": {1, 2}, "none": None},
            "mean": np.arange(3, dtype=np.float32),
        },
    )
    both(
        "parameters",
        {"model": {f"_orig_mod.{name}": nn.Parameter(state[name]) for name in state if "num_b" not in name}},
    )
    torch.save(torch.tensor([1, 2, 3], dtype=torch.uint16), FOLDER / "untyped.pth")
    torch.save({"weight": torch.tensor([1, 2, 3], dtype=torch.uint16)}, FOLDER / "untyped.pth")
    torch.save(state, FOLDER / "protocol4.pth", pickle_protocol=4)
    torch.save(net, FOLDER / "module.pth")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, FOLDER / "net.safetensors")
    timm = {name: tensor.bfloat16() for name, tensor in state.items() if "num_batches" not in name}
    save_file(timm, FOLDER / "timm.safetensors", metadata={"format": "pt", "architecture": "net"})
    arrays = {f"net.{name}": array for name, array in expected(state).items()}
    arrays |= {f"views.{name}": array for name, array in expected(views()).items()}
    arrays |= {f"kinds.{name}": array for name, array in expected(kinds()).items()}
    arrays |= {"x": x.permute(0, 2, 3, 1).contiguous().numpy(), "logits": logits.numpy()}
    np.savez_compressed(FOLDER / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
