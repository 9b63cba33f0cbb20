"""Files saved here load in torch, and torch's load here, where torch is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from test_checkpoints import Net

torch = pytest.importorskip("torch", reason="torch is not installed")


def torch_net() -> Any:
    """The same net in torch, with torchvision's way of flattening."""

    class TorchNet(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            conv = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
            norm, relu, pool = torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
            self.features = torch.nn.Sequential(conv, norm, relu, pool)
            self.classifier = torch.nn.Sequential(torch.nn.Linear(64, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5))

        def forward(self, x: Any) -> Any:
            return self.classifier(torch.flatten(self.features(x), 1))

    return TorchNet().eval()


def logits(net: Any, x: np.ndarray[Any, Any]) -> Any:
    with torch.no_grad():
        return net.double()(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64))).numpy()


def test_a_saved_file_loads_strictly_and_gives_the_same_logits(tmp_path: Path) -> None:
    reader = pytest.importorskip("safetensors.torch")
    model, path = Net(), tmp_path / "net.safetensors"
    rng = np.random.default_rng(3)
    for norm in (model.features[1],):
        norm.running_mean.assign(rng.normal(size=4).astype(np.float32))
        norm.running_var.assign(rng.uniform(0.5, 2, 4).astype(np.float32))
    model.save(path)
    net = torch_net()
    net.load_state_dict(reader.load_file(path), strict=True)
    x = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    wanted = logits(net, x)
    np.testing.assert_allclose(model(x), wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
    with reader.safe_open(path, framework="pt") if hasattr(reader, "safe_open") else _opened(path) as file:
        assert file.metadata() == {"format": "pt", "cnnrs_version": cnnrs.__version__, "model": "Net"}


def _opened(path: Path) -> Any:
    import safetensors

    return safetensors.safe_open(path, framework="pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_there_and_back_is_bit_exact(tmp_path: Path, zipped: bool) -> None:
    reader = pytest.importorskip("safetensors.torch")
    model, other = Net(), Net()
    model.save(tmp_path / "net.safetensors")
    net = torch_net()
    net.load_state_dict(reader.load_file(tmp_path / "net.safetensors"), strict=True)
    torch.save(net.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    assert cnnrs.load_weights(other, tmp_path / "net.pth") == ([], [])
    for name, array in model.state_dict().items():
        assert array.tobytes() == other.state_dict()[name].tobytes(), name
