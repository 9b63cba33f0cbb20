"""LeNet-5: names, shapes, the published number of parameters, and the registry of models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle
from cases import real
from cnnrs import models, nn
from cnnrs.models import lenet

SHAPES = {
    "features.0.weight": (5, 5, 1, 6),
    "features.0.bias": (6,),
    "features.3.weight": (5, 5, 6, 16),
    "features.3.bias": (16,),
    "classifier.1.weight": (400, 120),
    "classifier.1.bias": (120,),
    "classifier.3.weight": (120, 84),
    "classifier.3.bias": (84,),
    "classifier.5.weight": (84, 10),
    "classifier.5.bias": (10,),
}


@pytest.mark.parametrize("form", [{}, {"activation": "relu", "pool": "max"}])
def test_names_shapes_and_parameters(form: dict[str, str]) -> None:
    model = models.lenet5(**form)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == SHAPES
    assert sum(parameter.size for parameter in model.parameters()) == 61_706
    assert (model.input_mean, model.input_std) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_forward_agrees_with_the_reference(activation: str, pool: str) -> None:
    model = models.lenet5(activation=activation, pool=pool)
    x = real(3, 28, 28, 1)
    p = model.state_dict()
    act = getattr(oracle, activation)

    def down(y: Any) -> Any:
        return oracle.max_pool2d(y, 2, stride=2)[0] if pool == "max" else oracle.avg_pool2d(y, 2, stride=2)

    y = down(act(oracle.conv2d(x, p["features.0.weight"], p["features.0.bias"], padding=2)))
    y = down(act(oracle.conv2d(y, p["features.3.weight"], p["features.3.bias"])))
    y = oracle.flatten(y, "chw")
    y = act(oracle.linear(y, p["classifier.1.weight"], p["classifier.1.bias"]))
    y = act(oracle.linear(y, p["classifier.3.weight"], p["classifier.3.bias"]))
    y = oracle.linear(y, p["classifier.5.weight"], p["classifier.5.bias"])
    np.testing.assert_allclose(model(x), y, rtol=1e-4, atol=1e-5)


def test_num_classes() -> None:
    assert models.lenet5(num_classes=26)(real(1, 28, 28, 1)).shape == (1, 26)
    for wrong in (0, -1, 2**31, "10", None, 1.0):
        with pytest.raises(ValueError, match=r"^lenet5: num_classes must be an int"):
            models.lenet5(num_classes=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "choices"), [("activation", '"tanh", "relu"'), ("pool", '"avg", "max"'), ("weights", '"MNIST"')]
)
@pytest.mark.parametrize("wrong", ["gelu", "", 3, True, ["tanh"]], ids=str)
def test_choices_are_named(argument: str, choices: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^lenet5: {argument} must be one of {choices}, got "):
        models.lenet5(**{argument: wrong})


@pytest.mark.parametrize("other", [{"num_classes": 11}, {"activation": "relu"}, {"pool": "max"}])
def test_shipped_weights_fit_one_form_only(other: dict[str, Any]) -> None:
    with pytest.raises(cnnrs.WeightsError, match=r'^lenet5: weights "MNIST" fit num_classes=10'):
        models.lenet5(weights="MNIST", **other)


def test_missing_shipped_weights_are_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lenet.WEIGHTS, "MNIST", "missing.safetensors")
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        models.lenet5(weights="MNIST")


def test_the_registry() -> None:
    assert "lenet5" in models.list_models()
    assert models.list_models() == sorted(models.list_models())
    assert models.get_model("lenet5", num_classes=3)(real(1, 28, 28, 1)).shape == (1, 3)
    with pytest.raises(ValueError, match="there is no model 'lenet'; near names: lenet5"):
        models.get_model("lenet")
    with pytest.raises(ValueError, match="there is no model"):
        models.get_model("x" * 10_000)
    with pytest.raises(TypeError, match="name must be a str"):
        models.get_model(5)  # type: ignore[arg-type]


def test_summary() -> None:
    summary = models.lenet5().summary((28, 28, 1))
    assert (summary.parameters, summary.trainable) == (61_706, 61_706)
    assert summary.macs == 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    convolutions = [row for row in summary.rows if row.op == "conv2d"]
    assert [row.layer for row in convolutions] == ["features.0", "features.3"]
    assert [row.output_shape for row in convolutions] == [(1, 28, 28, 6), (1, 10, 10, 16)]
    assert sum(row.parameters for row in summary.rows) == 61_706
    assert summary.training_bytes is not None
    assert 0 < summary.inference_bytes < summary.training_bytes
    text = str(summary)
    assert text == repr(summary)
    for part in ("features.3", "(N, 10, 10, 16)", "61,706", "batch size 1"):
        assert part in text


def test_summary_memory_grows_with_the_batch() -> None:
    model = models.lenet5()
    one, many = model.summary((28, 28, 1)), model.summary((28, 28, 1), batch_size=64)
    assert one.macs == many.macs
    assert one.inference_bytes < many.inference_bytes


def test_summary_counts_frozen_parameters_apart() -> None:
    model = models.lenet5().freeze("features")
    assert model.summary((28, 28, 1)).trainable == 61_706 - 156 - 2416
    assert nn.Sequential(nn.ReLU()).summary((4, 4, 1)).training_bytes is None


def test_explain_names_every_layer() -> None:
    text = models.lenet5().explain((1, 28, 28, 1))
    for part in ("features.0", "features.3", "classifier.1", "classifier.5", "memory: peak"):
        assert part in text


@pytest.mark.parametrize(
    ("error", "shape"),
    [
        (TypeError, 28),
        (TypeError, ()),
        (ValueError, (28, 28, 0)),
        (ValueError, (28, "28", 1)),
        (cnnrs.ShapeError, (28, 28, 3)),
        (cnnrs.ShapeError, (28, 28)),
    ],
)
def test_summary_checks_the_shape(error: type[Exception], shape: Any) -> None:
    with pytest.raises(error):
        models.lenet5().summary(shape)
