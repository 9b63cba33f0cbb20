"""`cnnrs bench`: what it measures, counts and prints. No time is held to a bound."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import models, nn
from cnnrs.cli import _options as options
from cnnrs.cli import bench, main
from cnnrs.models import _registry

LENET_MACS = 117_600 + 240_000 + 48_000 + 10_080 + 840
NAMES = ["network", "machine", "median", "spread", "images/s", "GFLOP/s", "plan's bytes", "peak bytes"]


def lines(text: str) -> dict[str, str]:
    """The values of the printed lines by name."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("mode", bench.MODES)
def test_bench_prints_every_figure(mode: str, capsys: pytest.CaptureFixture[str], restore_threads: None) -> None:
    assert main(["bench", "lenet5", "--batch", "3", "--mode", mode, "--repeats", "4", "--threads", "1"]) == 0
    found = lines(capsys.readouterr().out)
    assert list(found)[:7] == NAMES[:7]
    assert found["network"] == f"lenet5, {mode}, batch 3, 61,706 parameters, float32"
    assert found["machine"].startswith(f"{cnnrs._core.config()['isa_used']}, 1 threads, ")
    median = re.fullmatch(r"(\S+) ms of 4 calls", found["median"])
    spread = re.fullmatch(r"(\S+) to (\S+) ms \(quartiles\), (\S+) to (\S+) ms \(all\)", found["spread"])
    assert median
    assert spread
    first, third, least, most = map(float, spread.groups())
    assert 0 < least <= first <= float(median[1]) <= third <= most
    assert float(found["images/s"]) == pytest.approx(3e3 / float(median[1]), rel=1e-2)
    facts = models.lenet5().summary((28, 28, 1), 3)
    planned = facts.training_bytes if mode == "train" else facts.inference_bytes
    assert int(found["plan's bytes"].replace(",", "")) == planned
    if "peak bytes" in found:
        assert int(found["peak bytes"].split()[0].replace(",", "")) > facts.inference_bytes


def test_every_call_is_one_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[tuple[int, ...], np.ndarray]] = []

    class Recorder:
        def __init__(self, *_: Any) -> None:
            pass

        def step(self, x: np.ndarray, labels: np.ndarray) -> float:
            seen.append((x.shape, labels))
            return 0.0

    monkeypatch.setattr(bench, "Trainer", Recorder)
    monkeypatch.setattr(bench, "_SECONDS", 0.001)
    command = ["bench", "cifar_resnet20", "--mode", "train", "--batch", "5", "--repeats", "7"]
    assert main(command) == 0
    assert len(seen) >= 8
    assert {shape for shape, _ in seen} == {(5, 32, 32, 3)}
    assert seen[0][1].shape == (5,)
    assert all(0 <= labels.min() <= labels.max() < 10 for _, labels in seen)
    capsys.readouterr()


def test_input_reaches_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--input", "64", "48", "3"]
    assert main(["bench", "resnet18", "--repeats", "1", *size]) == 0
    planned = models.resnet18().summary((64, 48, 3), 1).inference_bytes
    assert lines(capsys.readouterr().out)["plan's bytes"] == f"{planned:,}"


def test_flops() -> None:
    facts = models.lenet5().summary((28, 28, 1), 8)
    assert bench.count_flops(facts, "infer") == 2 * 8 * LENET_MACS
    assert bench.count_flops(facts, "train") == 2 * 8 * (3 * LENET_MACS - 117_600)


def test_order() -> None:
    assert bench.order([5.0, 1.0, 4.0, 2.0, 3.0]) == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert bench.order([2.0, 1.0]).median == 1.5
    assert bench.order([7.0]) == (7.0,) * 5


def test_measure_counts_calls() -> None:
    calls: list[int] = []
    times = bench.measure(lambda: calls.append(1), 6)
    assert len(calls) >= 7
    assert 0 <= times.least <= times.median <= times.most


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet5", (28, 28, 1)),
        ("cifar_resnet20", (32, 32, 3)),
        ("resnet18", (224, 224, 3)),
        ("vgg11", (224, 224, 3)),
        ("alexnet", (224, 224, 3)),
        ("alexnet_2012", (224, 224, 3)),
    ],
)
def test_every_network_has_a_size(name: str, shape: tuple[int, ...]) -> None:
    assert options.input_shape(Namespace(input=None, model=name), models.get_model(name)) == shape


@pytest.mark.parametrize("command", ["bench", "summary"])
def test_a_network_without_a_size_needs_one(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny(weights: str | None) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    monkeypatch.setitem(_registry._MODELS, "tiny", tiny)
    assert main([command, "tiny"]) == 2
    assert capsys.readouterr().err == f"cnnrs {command}: --input: expected H W C, tiny has no size of its own\n"
    assert main([command, "tiny", "--input", "2", "2", "3"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonet"], "there is no model 'nonet'"),
        (["resnet18", "--input", "32", "32", "4"], "channels"),
    ],
)
def test_bad_input(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("cnnrs bench: ")
    assert errors.count("\n") == 1
    assert text in errors


def test_training_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--input", "32", "32", "3"]
    assert main(["bench", "resnet18", "--mode", "train", "--batch", "1", "--repeats", "1", *size]) == 2
    assert "resnet18 cannot train on 1 images of (32, 32, 3)" in capsys.readouterr().err


def test_a_peak_that_moves_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rates = [100.0, 70.0]
    monkeypatch.setattr(bench, "_peak", lambda: rates.pop())
    assert main(["bench", "lenet5", "--repeats", "1"]) == 0
    captured = capsys.readouterr()
    assert "the peak moved by more than 20 %" in captured.err
    assert "% of the 100 measured" in captured.out


@pytest.mark.parametrize("option", [("--batch", "0"), ("--repeats", "0"), ("--mode", "both"), ("--threads", "0")])
def test_bad_options(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "lenet5", *option])
    assert option[0] in capsys.readouterr().err
