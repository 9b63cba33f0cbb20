"""Checkpoints that torch wrote, without torch: every type, layout, format and wrapper, and what is loaded of them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import models, nn
from cnnrs.weights import read_tensors
from fuzz import torch_files as files

FOLDER = Path(__file__).parent / "data" / "checkpoints"
EXPECTED: dict[str, Any] = dict(np.load(FOLDER / "expected.npz"))
FORMATS = pytest.mark.parametrize("ending", [".pth", "_legacy.pth"], ids=["zip", "stream"])


class Net(nn.Module):
    """The net of `make_checkpoints.py`."""

    classifier_names = ("classifier.2",)

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.flatten = nn.Flatten(order="chw")
        self.classifier = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, num_classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.flatten(self.features(x)))


def expected(group: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix(f"{group}."): array for name, array in EXPECTED.items() if name.startswith(f"{group}.")}


def to_torch(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.transpose({4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


class Everything:
    def __contains__(self, name: object) -> bool:
        return True


def tensors(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a file, in torch's layout."""
    content = (FOLDER / name).read_bytes()
    state = read_tensors(io.BytesIO(content), len(content), Everything())
    return {name: to_torch(array) for name, array in state.items()}


@FORMATS
@pytest.mark.parametrize("group", ["net", "views", "kinds"])
def test_every_tensor_is_read_as_torch_wrote_it(group: str, ending: str) -> None:
    found, wanted = tensors(f"{group}{ending}"), expected(group)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, strict=True)


@FORMATS
@pytest.mark.parametrize("name", ["net", "wrapped", "parameters"])
def test_a_model_gives_torchs_logits(name: str, ending: str) -> None:
    model = Net()
    report = cnnrs.load_weights(model, FOLDER / f"{name}{ending}")
    assert report == ([], [])
    state = model.state_dict()
    assert set(report.loaded) | set(report.kept) == set(state)
    assert report.kept == (["features.1.num_batches_tracked"] if name == "parameters" else [])
    for key, array in expected("net").items():
        if key in report.loaded:
            np.testing.assert_array_equal(to_torch(state[key]), array)
    limit = 1e-5 * np.abs(EXPECTED["logits"]).max()
    np.testing.assert_allclose(model(EXPECTED["x"]), EXPECTED["logits"], atol=limit, rtol=0)


@pytest.mark.parametrize("name", ["net.safetensors", "protocol4.pth"])
def test_other_writers(name: str) -> None:
    model = Net()
    cnnrs.load_weights(model, FOLDER / name)
    for key, array in expected("net").items():
        np.testing.assert_array_equal(to_torch(model.state_dict()[key]), array)


@pytest.mark.parametrize("name", ["half.pth", "half_legacy.pth", "timm.safetensors"])
def test_narrow_floats_are_widened(name: str) -> None:
    model = Net()
    cnnrs.load_weights(model, FOLDER / name)
    step = 2.0**-8 if name.startswith("timm") else 2.0**-11
    for key, array in expected("net").items():
        if array.dtype == np.float32:
            ours = to_torch(model.state_dict()[key])
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, array, rtol=step, atol=2.0**-24)
            assert not np.array_equal(ours, array) or array.size < 6


def test_an_untyped_storage_has_the_type_of_its_tensor() -> None:
    np.testing.assert_array_equal(tensors("untyped.pth")["weight"], np.array([1, 2, 3], np.uint16), strict=True)


def test_the_content_says_the_format(tmp_path: Path) -> None:
    for source in ("net.pth", "net_legacy.pth", "net.safetensors"):
        for suffix in (".pth", ".safetensors", ".bin", ""):
            path = tmp_path / f"weights{suffix}"
            path.write_bytes((FOLDER / source).read_bytes())
            assert cnnrs.load_weights(Net(), path) == ([], [])


def test_a_pickled_module_is_refused_by_name() -> None:
    path = FOLDER / "module.pth"
    text = r"module\.pth: data\.pkl: GLOBAL at offset 2: __main__\.Net is not allowed: only plain data are read$"
    with pytest.raises(cnnrs.WeightsError, match=text):
        cnnrs.load_weights(Net(), path)


def test_backbone_keeps_the_classifier() -> None:
    model = Net(num_classes=3)
    before = model.state_dict(copy=True)
    with pytest.raises(cnnrs.WeightsError, match=r"classifier\.2\.weight must have shape \(6, 3\), got \(6, 5\)"):
        cnnrs.load_weights(model, FOLDER / "net.pth")
    report = cnnrs.load_weights(model, FOLDER / "net.pth", strict="backbone")
    assert report == ([], [])
    assert report.kept == ["classifier.2.weight", "classifier.2.bias"]
    assert str(report) == "8 tensors loaded; kept classifier.2.weight, classifier.2.bias"
    state = model.state_dict()
    for key in report.kept:
        np.testing.assert_array_equal(state[key], before[key])
    for key in report.loaded:
        np.testing.assert_array_equal(to_torch(state[key]), expected("net")[key])


def test_backbone_is_strict_about_the_rest(tmp_path: Path) -> None:
    class Wider(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    with pytest.raises(cnnrs.WeightsError, match=r"missing extra\.weight, extra\.bias$"):
        cnnrs.load_weights(Wider(), FOLDER / "net.pth", strict="backbone")
    path = tmp_path / "wider.safetensors"
    Wider().save(path)
    with pytest.raises(cnnrs.WeightsError, match=r"unexpected extra\.weight, extra\.bias$"):
        cnnrs.load_weights(Net(), path, strict="backbone")


def test_backbone_needs_to_know_the_classifier() -> None:
    with pytest.raises(ValueError, match=r'strict="backbone" needs a model whose classifier_names .* Linear has none$'):
        cnnrs.load_weights(nn.Linear(2, 2), FOLDER / "net.pth", strict="backbone")
    with pytest.raises(ValueError, match=r'strict must be True, False or "backbone", got \'back\'$'):
        cnnrs.load_weights(Net(), FOLDER / "net.pth", strict="back")


def test_a_prefix_that_the_model_has_is_kept() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

        def forward(self, x: Any) -> Any:
            return self.module(x)

    assert cnnrs.load_weights(Wrapped(), FOLDER / "wrapped.pth") == ([], [])


def test_the_report_of_what_does_not_fit() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
            self.head = nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.features(x)

    with pytest.raises(cnnrs.WeightsError) as caught:
        cnnrs.load_weights(Other(), FOLDER / "net.pth")
    text = str(caught.value)
    assert (
        "Other: weights do not fit the model: features.0.weight must have shape (3, 3, 3, 8), got (3, 3, 3, 4)" in text
    )
    assert "missing head.weight, head.bias" in text
    assert "unexpected features.1.weight, features.1.bias, features.1.running_mean" in text


def test_nothing_of_a_dict_without_tensors() -> None:
    pickled = b"\x80\x02}(" + files.text("epoch") + files.integer(3) + files.text("lr") + files.integer(1) + b"u."
    content = files.archive([files.Member(b"a/data.pkl", pickled)])
    with pytest.raises(cnnrs.WeightsError, match="no state dict: a dict with epoch, lr, but no tensors in it or under"):
        read_tensors(io.BytesIO(content), len(content), Everything())


# The published checkpoints.


@pytest.mark.parametrize(("name", "count"), [("resnet20-12fca82f.th", 97), ("resnet32-d509ac18.th", 157)])
def test_published_checkpoints_are_read(name: str, count: int) -> None:
    folder = os.environ.get("CNNRS_TEST_WEIGHTS")
    if folder is None:
        pytest.skip("CNNRS_TEST_WEIGHTS is not set")
    content = (Path(folder) / name).read_bytes()
    state = read_tensors(io.BytesIO(content), len(content), Everything())
    assert len(state) == count
    assert all(np.isfinite(array).all() for array in state.values())
    assert state["module.conv1.weight"].shape == (3, 3, 3, 16)
    report = cnnrs.load_weights(models.get_model(f"cifar_{name[:8]}"), Path(folder) / name)
    assert report == ([], [])
    assert str(report) == f"{count} tensors loaded"


# What fuzzing found.


def test_the_stride_of_a_single_position_may_be_anything() -> None:
    numbers = np.arange(6, dtype=np.float32)
    view = files.View(0, (1, 3, 1, 2), (2**62 - 2, 2, 2**62, 1), 0)
    made = files.Content([("F32", numbers.tobytes())], {"a": view})
    for content in (files.archive(files.members(made)), files.stream(made)):
        found = read_tensors(io.BytesIO(content), len(content), Everything())["a"]
        np.testing.assert_array_equal(to_torch(found), numbers.reshape(1, 3, 1, 2))
