"""Logits and every gradient of famous networks equal PyTorch's in float64; the vectors are made by `tests/data`.

Each gradient is compared by its sketch: the L2 norm of the difference of two sketches is that of the difference of the
gradients within 5 percent (one standard deviation, see `zoo_vectors.sketch`), so a bound of 3 times PyTorch's own
float32 error is met or missed as it would be with the gradients themselves, up to 15 percent of the bound.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnrs import Trainer, models, nn, optim
from zoo_vectors import BUCKETS, CASES, draw_batch, draw_parameter, sketch

FILE = Path(__file__).parent / "data" / "zoo_vectors.npz"


@cache
def vectors() -> dict[str, Any]:
    return dict(np.load(FILE))


def with_drawn_parameters(name: str, stored: dict[str, Any]) -> nn.Module:
    """The network as the vectors were made for it, in the mode they were made in and without dropout."""
    model = models.get_model(name)
    layers = dict(model.named_modules())
    biases = stored["biases"]
    for (path, parameter), attempt in zip(model.named_parameters(), stored["attempts"].tolist(), strict=True):
        norm = isinstance(layers[path.rpartition(".")[0]], nn.BatchNorm2d)
        array = draw_parameter(name, path, parameter.shape, norm, attempt)
        if path.endswith("bias"):
            array, biases = biases[: array.size], biases[array.size :]
        parameter.assign(array)
    model.train(CASES[name].training)
    for layer in layers.values():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return model


def test_sketches_estimate_the_norm() -> None:
    """Also of arrays that are mostly zero, or of rank one."""
    rng = np.random.default_rng(0)
    for array in (rng.standard_normal((300, 400)), np.outer(rng.standard_normal(500), rng.standard_normal(100))):
        ratio = np.linalg.norm(sketch("test", "norm", array)) / np.linalg.norm(array)
        assert 0.8 < ratio < 1.2
    one = np.zeros(5000)
    one[77] = -3.0
    assert np.linalg.norm(sketch("test", "one", one)) == 3.0
    assert np.array_equal(sketch("test", "small", one[:BUCKETS]), one[:BUCKETS])


def test_the_file_is_small_and_has_what_is_tested() -> None:
    assert FILE.stat().st_size <= 1_000_000
    assert {key.split("/")[0] for key in vectors()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name: str) -> None:
    """Logits within 1e-4 of their maximum; every gradient's L2 error within 3 times that of PyTorch in float32."""
    stored = {key.partition("/")[2]: value for key, value in vectors().items() if key.startswith(f"{name}/")}
    model = with_drawn_parameters(name, stored)
    assert [path for path, _ in model.named_parameters()] == stored["paths"].tolist()
    images, labels = draw_batch(name)

    loss, gradients = Trainer(model, optim.SGD(0.0)).gradients(images, labels)
    expected = stored["logits"]
    chosen = expected[np.arange(len(labels)), labels]
    assert loss == pytest.approx(np.mean(np.log(np.exp(expected).sum(axis=1)) - chosen), rel=1e-5)

    sketches = np.split(stored["sketches"], stored["ends"][:-1])
    off = {}
    for path, exact, error in zip(stored["paths"].tolist(), sketches, stored["errors"], strict=True):
        off[path] = np.linalg.norm(sketch(name, path, gradients[path]) - exact) / error
    assert max(off.values()) <= 3.0, {path: f"{ratio:.2f}" for path, ratio in off.items() if ratio > 3.0}

    for layer in dict(model.named_modules()).values():
        if isinstance(layer, nn.BatchNorm2d):  # without running values a call takes the batch's, as the step did
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    assert np.abs(model(images) - expected).max() <= 1e-4 * np.abs(expected).max()
