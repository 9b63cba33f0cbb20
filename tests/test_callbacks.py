"""Callbacks, history and progress of `Trainer.fit`."""

from __future__ import annotations

import copy
import csv
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import Trainer, nn, optim
from cnnrs._progress import Progress
from cnnrs.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint
from cnnrs.history import History
from tolerance import assert_same_bits


def make_trainer(lr: float = 0.1) -> Trainer:
    """A linear classifier with fixed parameters."""
    cnnrs.manual_seed(3)
    return Trainer(nn.Sequential(nn.Linear(4, 3)), optim.SGD(lr=lr))


def make_data(count: int = 24, seed: int = 0) -> tuple[Any, Any]:
    """Points with labels that a linear classifier can learn."""
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return x, x[:, :3].argmax(axis=1)


class Recorder(Callback):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.calls.append(("fit_begin", trainer.epoch))

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        self.calls.append(("epoch_begin", epoch))

    def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("batch_end", batch, sorted(metrics)))

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("epoch_end", epoch, list(metrics)))

    def on_fit_end(self, trainer: Trainer) -> None:
        self.calls.append(("fit_end", trainer.epoch))


class Scripted(Callback):
    """Replaces the weights after each epoch, so that validation follows a script."""

    def __init__(self, scales: list[float]) -> None:
        self.scales = scales

    def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
        scale = self.scales[trainer.epoch]
        weight = np.zeros((4, 3), np.float32)
        weight[:3] = np.eye(3) * scale
        trainer.model.load_state_dict({"0.weight": weight, "0.bias": np.zeros(3, np.float32)})


def test_order_of_calls() -> None:
    recorder, trainer = Recorder(), make_trainer()
    trainer.fit(make_data(5), make_data(3), epochs=2, batch_size=4, callbacks=[recorder], verbose=False)
    metrics = ["loss", "accuracy", "val_loss", "val_accuracy"]
    epoch = [("batch_end", 1, ["accuracy", "loss"]), ("batch_end", 2, ["accuracy", "loss"])]
    expected: list[Any] = [("fit_begin", 0)]
    for number in (1, 2):
        expected += [("epoch_begin", number), *epoch, ("epoch_end", number, metrics)]
    assert recorder.calls == [*expected, ("fit_end", 2)]


def test_callbacks_must_be_callbacks() -> None:
    with pytest.raises(TypeError, match="callbacks must be objects"):
        make_trainer().fit(make_data(), callbacks=[print], verbose=False)  # type: ignore[list-item]


def test_stop_from_a_batch_ends_the_epoch_there() -> None:
    class StopAtSecondBatch(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            if batch == 2:
                trainer.stop()

    trainer = make_trainer()
    history = trainer.fit(make_data(), epochs=5, batch_size=4, callbacks=[StopAtSecondBatch()], verbose=False)
    assert (history.epochs, trainer.updates) == ([1], 2)
    again = trainer.fit(make_data(), epochs=1, batch_size=4, verbose=False)
    assert (again.epochs, trainer.updates) == ([2], 8)


@pytest.mark.parametrize(("patience", "epochs"), [(0, 3), (1, 3), (2, 4), (5, 6)])
def test_early_stopping_waits(patience: int, epochs: int) -> None:
    """The validation loss falls with the scale: the second epoch is the best one."""
    script = Scripted([1.0, 4.0, 2.0, 1.0, 0.5, 0.25])
    stopping = EarlyStopping(patience=patience)
    history = make_trainer().fit(
        make_data(), make_data(8), epochs=6, batch_size=24, callbacks=[script, stopping], verbose=False
    )
    assert history.epochs == list(range(1, epochs + 1))
    assert (stopping.best_epoch, stopping.best) == (2, history["val_loss"][1])


def test_early_stopping_restores_the_best_parameters() -> None:
    for epochs in (3, 6):  # ended by the number of epochs, and stopped
        trainer = make_trainer()
        stopping = EarlyStopping(patience=2, restore_best=True)
        script = Scripted([1.0, 4.0, 2.0, 1.0, 0.5, 0.25])
        history = trainer.fit(
            make_data(), make_data(8), epochs=epochs, batch_size=24, callbacks=[script, stopping], verbose=False
        )
        assert len(history.epochs) == min(epochs, 4)
        assert trainer.evaluate(make_data(8))["loss"] == history["val_loss"][1]


def test_early_stopping_min_delta_and_mode() -> None:
    stopping = EarlyStopping("val_loss", min_delta=10.0)
    script = Scripted([1.0, 2.0, 3.0])
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 24, "verbose": False}
    assert make_trainer().fit(make_data(), make_data(8), callbacks=[script, stopping], **fit).epochs == [1, 2]
    stopping = EarlyStopping("val_loss", mode="max")
    assert make_trainer().fit(make_data(), make_data(8), callbacks=[script, stopping], **fit).epochs == [1, 2]
    stopping = EarlyStopping("val_accuracy")
    history = make_trainer().fit(make_data(), make_data(8), callbacks=[Scripted([-1.0, 1.0, 1.0]), stopping], **fit)
    assert (stopping.best, stopping.best_epoch, history.epochs) == (1.0, 2, [1, 2, 3])


def test_early_stopping_takes_nan_as_no_improvement() -> None:
    stopping = EarlyStopping("loss", patience=2)
    trainer = make_trainer()
    for epoch, value in enumerate([float("nan"), 1.0, float("nan"), 0.5]):
        stopping.on_epoch_end(trainer, epoch, {"loss": value})
    assert (stopping.best, stopping.best_epoch) == (0.5, 3)


@pytest.mark.parametrize("kind", [EarlyStopping, lambda: ModelCheckpoint("unused", save_best_only=True)])
def test_monitor_that_is_not_measured(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"'val_loss' is not measured, there are loss, accuracy; .* validation"):
        make_trainer().fit(make_data(), callbacks=[kind()], verbose=False)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"patience": -1}, ValueError, "patience must be from 0"),
        ({"patience": 1.5}, TypeError, "patience must be an int"),
        ({"min_delta": -0.5}, ValueError, "min_delta must be finite and >= 0"),
        ({"mode": "best"}, ValueError, "mode must be 'auto', 'min' or 'max', got 'best'"),
        ({"monitor": 3}, TypeError, "monitor must be the name"),
    ],
)
def test_early_stopping_refuses(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        EarlyStopping(**arguments)


def read_rows(path: Path) -> list[list[str]]:
    """All rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_csv_logger_writes_each_epoch_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    seen = []

    class Look(Callback):
        def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
            seen.append(len(read_rows(path)))

    trainer = make_trainer()
    history = trainer.fit(make_data(), epochs=3, callbacks=[CSVLogger(path), Look()], verbose=False)
    assert seen == [2, 3, 4]
    rows = read_rows(path)
    assert rows[0] == ["epoch", "loss", "accuracy"]
    for row, epoch, loss, accuracy in zip(rows[1:], *history.values(), strict=True):
        assert (int(row[0]), float(row[1]), float(row[2])) == (epoch, loss, accuracy)


def test_csv_logger_starts_anew_or_appends(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    trainer = make_trainer()
    for logger, numbers in ((CSVLogger(path), "12"), (CSVLogger(path), "34"), (CSVLogger(path, append=True), "3456")):
        trainer.fit(make_data(), epochs=2, callbacks=[logger], verbose=False)
        assert [row[0] for row in read_rows(path)] == ["epoch", *numbers]
    with pytest.raises(ValueError, match=r"expected the columns epoch, .*val_loss.* got epoch, loss, accuracy"):
        trainer.fit(make_data(), make_data(), callbacks=[CSVLogger(path, append=True)], verbose=False)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    trainer = make_trainer()
    with pytest.raises(FileNotFoundError):
        trainer.fit(make_data(), callbacks=[CSVLogger(tmp_path / "missing" / "log.csv")], verbose=False)
    assert trainer.updates == 0
    with pytest.raises(FileNotFoundError):
        trainer.fit(make_data(), callbacks=[ModelCheckpoint(tmp_path / "missing" / "m.safetensors")], verbose=False)


def test_model_checkpoint_names_files_after_epoch_and_metrics(tmp_path: Path) -> None:
    trainer = make_trainer()
    checkpoint = ModelCheckpoint(tmp_path / "m-{epoch:02d}-{loss:.3f}.safetensors")
    history = trainer.fit(make_data(), epochs=2, callbacks=[checkpoint], verbose=False)
    pairs = zip(history.epochs, history["loss"], strict=True)
    expected = [f"m-{epoch:02d}-{loss:.3f}.safetensors" for epoch, loss in pairs]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    assert checkpoint.last_path == str(tmp_path / expected[-1])
    other = make_trainer().model
    cnnrs.load_weights(other, checkpoint.last_path)
    assert_same_bits(other.state_dict(), trainer.model.state_dict())


def test_model_checkpoint_keeps_the_best_only(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.safetensors", save_best_only=True)
    script = Scripted([1.0, 4.0, 2.0, 8.0, 1.0])
    trainer = make_trainer()
    for epochs in (3, 2):
        trainer.fit(
            make_data(), make_data(8), epochs=epochs, batch_size=24, callbacks=[script, checkpoint], verbose=False
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.safetensors", "2.safetensors", "4.safetensors"]


@pytest.mark.parametrize("path", ["{val_loss}.safetensors", "{}.safetensors", "{epoch", "{epoch:q}", "{loss.x}"])
def test_model_checkpoint_path_that_cannot_be_filled_in(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its fields may be epoch, loss, accuracy"):
        make_trainer().fit(make_data(), callbacks=[ModelCheckpoint(tmp_path / path)], verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_history_is_a_dictionary_of_lists() -> None:
    history = History()
    history.append(1, {"loss": 0.5})
    history.append(2, {"loss": 0.25, "val_loss": 1.0})
    history.append(3, {"loss": 0.125})
    assert history == {"epoch": [1, 2, 3], "loss": [0.5, 0.25, 0.125], "val_loss": [None, 1.0, None]}
    assert history.epochs == [1, 2, 3]
    assert json.loads(json.dumps(history)) == history
    for other in (pickle.loads(pickle.dumps(history)), copy.deepcopy(history)):
        assert type(other) is History
        assert other == history
        other["loss"].append(0.0)
        assert other != history
    assert repr(history) == "History(3 epochs, last: epoch=3, loss=0.125, val_loss=None)"
    assert repr(History()) == "History(no epochs)"


def test_callbacks_pickle_and_copy(tmp_path: Path) -> None:
    callbacks = [
        EarlyStopping("loss", patience=1, restore_best=True),
        CSVLogger(tmp_path / "log.csv"),
        ModelCheckpoint(tmp_path / "m.safetensors", "loss", save_best_only=True),
    ]
    make_trainer().fit(make_data(), callbacks=callbacks, verbose=False)
    for callback in callbacks:
        for other in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
            assert type(other) is type(callback)
            assert getattr(other, "best", None) == getattr(callback, "best", None)
            assert getattr(other, "path", None) == getattr(callback, "path", None)


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer()
    trainer.fit(make_data(), make_data(8), epochs=2)
    trainer.fit(make_data())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", "epoch 3/3"]
    assert "val_accuracy" in lines[0]
    assert "val_accuracy" not in lines[2]
    assert "\r" not in err


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer().fit(make_data(), epochs=2, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(7, None, stream)
    progress.begin_epoch(3, 40)
    for done in range(1, 41):
        progress._next_draw = 0.0 if done in (10, 20) else float("inf")
        progress.update(done, 0.5)
    progress.end_epoch({"loss": 0.5})
    progress.close()
    pieces = stream.getvalue().split("\r")
    assert [piece.split(" loss")[0] for piece in pieces[1:3]] == [
        "epoch 3/7 [======                  ] 10/40",
        "epoch 3/7 [============            ] 20/40",
    ]
    assert pieces[3].startswith("epoch 3/7: loss 0.5000 (")
    assert stream.getvalue().count("\n") == 1
    progress.begin_epoch(4, None)
    progress._next_draw = 0.0
    progress.update(5, 0.25)
    progress.close()
    assert "\repoch 4/7 5 batches loss 0.2500 0 s" in stream.getvalue()
    assert stream.getvalue().endswith("\n")
