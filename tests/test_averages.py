"""Clipping of gradients and averages of weights, inside of the native step."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import cnnrs
from bounded import Bounded
from cases import real
from cnnrs import Trainer, nn, optim
from cnnrs.callbacks import Callback
from tolerance import UNIT, assert_same_bits, assert_within

Arrays = dict[str, Any]
LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 1])


def make_model(seed: int = 1) -> nn.Module:
    """Convolution, batch normalization and a head for (N, 6, 6, 2)."""
    cnnrs.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def make_trainer(**rest: Any) -> Trainer:
    return Trainer(make_model(), optim.SGD(0.1, momentum=0.9), **rest)


def batch(seed: int = 0) -> tuple[Any, Any]:
    return real(8, 6, 6, 2, seed=seed), LABELS


def state(trainer: Trainer) -> Arrays:
    return dict(trainer.model.state_dict(copy=True))


# Clipping.


def norm_of(grads: Arrays) -> float:
    return float(np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values())))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3])
def test_the_norm_inside_the_step_is_that_of_the_helper(max_norm: float) -> None:
    """The step, `apply`, and clipping by hand give the same bits; the factor follows the formula."""
    inside, applied, by_hand = make_trainer(clip_norm=max_norm), make_trainer(clip_norm=max_norm), make_trainer()
    for seed in range(3):
        x, y = batch(seed)
        loss, grads = applied.gradients(x, y)
        clipped, norm = optim.clip_grad_norm(grads, max_norm)
        assert norm == pytest.approx(norm_of(grads), rel=1e-6)
        factor = min(1.0, max_norm / (norm_of(grads) + 1e-6))
        for name, grad in grads.items():
            assert_within(clipped[name], factor * grad.astype(np.float64), 64 * UNIT * np.abs(grad) * factor, name)
        assert norm_of(clipped) <= max_norm * (1 + 64 * UNIT) or factor == 1.0
        applied.apply(grads)
        by_hand.gradients(x, y)
        by_hand.apply(clipped)
        assert inside.step(x, y) == loss
        assert_same_bits(state(inside), state(applied))
        assert_same_bits(state(inside), state(by_hand))


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    free, bound = make_trainer(), make_trainer(clip_norm=1e6, clip_value=1e6)
    for seed in range(3):
        assert free.step(*batch(seed)) == bound.step(*batch(seed))
    assert_same_bits(state(free), state(bound))


@pytest.mark.usefixtures("isa")
def test_values_are_clipped_before_the_norm_is_taken() -> None:
    inside, by_hand = make_trainer(clip_norm=0.2, clip_value=0.01), make_trainer()
    for seed in range(3):
        x, y = batch(seed)
        loss, grads = by_hand.gradients(x, y)
        assert max(np.abs(grad).max() for grad in grads.values()) > 0.01
        within = {name: np.clip(grad, np.float32(-0.01), np.float32(0.01)) for name, grad in grads.items()}
        by_hand.apply(optim.clip_grad_norm(within, 0.2)[0])
        assert inside.step(x, y) == loss
        assert_same_bits(state(inside), state(by_hand))


def test_bounds_may_change_between_steps() -> None:
    changing, steps = make_trainer(), [(None, None), (0.3, None), (0.1, None), (None, 0.01), (0.2, 0.02), (None, None)]
    reference = make_trainer()
    for seed, (norm, value) in enumerate(steps):
        changing.clip_norm, changing.clip_value = norm, value
        x, y = batch(seed)
        loss, grads = reference.gradients(x, y)
        if value is not None:
            grads = {name: np.clip(grad, np.float32(-value), np.float32(value)) for name, grad in grads.items()}
        reference.apply(grads if norm is None else optim.clip_grad_norm(grads, norm)[0])
        assert changing.step(x, y) == loss
        assert_same_bits(state(changing), state(reference))
    for name in ("clip_norm", "clip_value"):
        for wrong, error in ((-1.0, ValueError), (0, ValueError), (np.nan, ValueError), ("1", TypeError)):
            with pytest.raises(error, match=f"Trainer: {name} must be"):
                setattr(changing, name, wrong)
        assert getattr(changing, name) is None


def test_the_norm_is_that_of_the_trainable_parameters() -> None:
    frozen, expected = make_trainer(clip_norm=0.1), make_trainer()
    for trainer in (frozen, expected):
        trainer.model.freeze("5")
    x, y = batch()
    grads = expected.gradients(x, y)[1]
    assert list(grads) == ["0.weight", "1.weight", "1.bias"]
    expected.apply(optim.clip_grad_norm(grads, 0.1)[0])
    frozen.step(x, y)
    assert_same_bits(state(frozen), state(expected))


def test_undefined_gradients_are_not_hidden() -> None:
    grads = {"a": np.array([1.0, np.nan], np.float32), "b": np.ones(2, np.float32)}
    clipped, norm = optim.clip_grad_norm(grads, 1.0)
    assert np.isnan(norm)
    assert all(np.isnan(grad).all() for grad in clipped.values())
    assert optim.clip_grad_norm({}, 1.0) == ({}, 0.0)
    zeros, norm = optim.clip_grad_norm({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)}, 1.0)
    assert norm == 0.0
    assert not zeros["a"].any()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([], 1.0), TypeError, "grads: expected a dictionary of arrays"),
        (({"a": np.ones(2)}, 1.0), TypeError, "a must be a float32"),
        (({"a": np.ones(2, np.float32)}, 0.0), ValueError, "max_norm must be finite and > 0"),
        (({"a": np.ones(2, np.float32)}, "1"), TypeError, "max_norm must be a number"),
    ],
)
def test_the_helper_refuses(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        optim.clip_grad_norm(*arguments)


# Averages.


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_averages_of_parameters_and_running_statistics(decay: float) -> None:
    """The first update makes them the values; then they follow, in double precision within its bounds."""
    trainer = make_trainer(ema_decay=decay)
    averages: dict[str, Bounded] = {}
    for seed in range(5):
        trainer.step(*batch(seed))
        for name, value in state(trainer).items():
            old, new = averages.get(name), Bounded.exact(value)
            averages[name] = new if old is None or value.dtype == np.int64 else decay * old + (1.0 - decay) * new
        found = trainer.ema_state_dict()
        assert list(found) == list(state(trainer))
        for name, average in averages.items():
            if name.endswith("num_batches_tracked"):
                assert found[name] == seed + 1
            else:
                assert_within(found[name], average.value, average.bound, name)
                assert seed or np.array_equal(found[name], average.value)


def test_step_is_gradients_and_apply_with_averages() -> None:
    one, other = make_trainer(ema_decay=0.7), make_trainer(ema_decay=0.7)
    for seed in range(3):
        one.step(*batch(seed))
        other.apply(other.gradients(*batch(seed))[1])
    assert_same_bits(one.ema_state_dict(), other.ema_state_dict())
    assert_same_bits(state(one), state(other))


def test_averages_change_nothing_else() -> None:
    one, other = make_trainer(ema_decay=0.9), make_trainer()
    for seed in range(3):
        assert one.step(*batch(seed)) == other.step(*batch(seed))
    assert_same_bits(state(one), state(other))


def test_before_the_first_update_the_averages_are_the_values() -> None:
    trainer = make_trainer(ema_decay=0.9)
    assert_same_bits(trainer.ema_state_dict(), state(trainer))
    other = make_model(seed=7)
    trainer.model.load_state_dict(other.state_dict())
    assert_same_bits(trainer.ema_state_dict(), dict(other.state_dict()))
    with trainer.averaged():
        assert_same_bits(state(trainer), dict(other.state_dict()))


def test_averaged_puts_the_averages_in_and_the_weights_back(tmp_path: Any) -> None:
    trainer = make_trainer(ema_decay=0.8)
    for seed in range(4):
        trainer.step(*batch(seed))
    weights, averages, data = state(trainer), trainer.ema_state_dict(), batch(9)
    before = trainer.evaluate(data)
    with trainer.averaged():
        inside = trainer.evaluate(data)
        assert_same_bits(state(trainer), averages)
        trainer.model.save(tmp_path / "averages.safetensors")
        trainer.gradients(*data)  # writes running statistics, which the block takes back
    assert_same_bits(state(trainer) | {"1.num_batches_tracked": weights["1.num_batches_tracked"]}, weights)
    assert trainer.evaluate(data) == before != inside
    model = make_model(seed=5)
    cnnrs.load_weights(model, tmp_path / "averages.safetensors")
    assert Trainer(model, optim.SGD(0.0)).evaluate(data) == inside
    model.load_state_dict(averages)
    assert Trainer(model, optim.SGD(0.0)).evaluate(data) == inside


def test_an_exception_gives_the_weights_back() -> None:
    trainer = make_trainer(ema_decay=0.8)
    for seed in range(3):
        trainer.step(*batch(seed))
    weights, averages = state(trainer), trainer.ema_state_dict()
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), trainer.averaged():
            raise error
        assert_same_bits(state(trainer), weights)
    assert_same_bits(trainer.ema_state_dict(), averages)
    trainer.step(*batch(3))
    assert trainer.updates == 4


def test_an_interrupt_while_the_weights_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it hits, all of them are back when it comes through."""
    trainer = make_trainer(ema_decay=0.8)
    for seed in range(3):
        trainer.step(*batch(seed))
    weights = state(trainer)
    assign, left = nn.Parameter.assign, [0]

    def interrupted(self: nn.Parameter, array: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        assign(self, array)

    monkeypatch.setattr(nn.Parameter, "assign", interrupted)
    for when in range(1, 11):
        left[0] = when
        with pytest.raises(KeyboardInterrupt), trainer.averaged():
            pass
        assert_same_bits(state(trainer), weights)
        trainer._require_weights("")


def test_no_update_while_the_averages_are_in() -> None:
    trainer = make_trainer(ema_decay=0.8)
    x, y = batch()
    trainer.step(x, y)
    grads = trainer.gradients(x, y)[1]
    with trainer.averaged():
        for call in (
            lambda: trainer.step(x, y),
            lambda: trainer.apply(grads),
            lambda: trainer.fit((x, y), verbose=False),
            lambda: trainer.averaged().__enter__(),
        ):
            with pytest.raises(ValueError, match="the model holds the averages"):
                call()
        trainer.predict(x)
    assert trainer.updates == 1


def test_without_a_decay_there_are_no_averages() -> None:
    trainer = make_trainer()
    for call in (trainer.ema_state_dict, lambda: trainer.averaged().__enter__()):
        with pytest.raises(ValueError, match="keeps no averages, expected ema_decay to be a number"):
            call()
    for wrong, error in ((1.0, ValueError), (-0.1, ValueError), ("0.9", TypeError)):
        with pytest.raises(error, match="Trainer: ema_decay must be"):
            trainer.ema_decay = wrong


def test_the_decay_may_change_between_steps() -> None:
    """Without one the averages go; with one again they start at the next update."""
    trainer = make_trainer(ema_decay=0.9)
    trainer.step(*batch(0))
    average = trainer.ema_state_dict()["5.weight"].astype(np.float64)
    trainer.ema_decay = 0.5
    trainer.step(*batch(1))
    average = 0.5 * average + 0.5 * state(trainer)["5.weight"]
    assert np.allclose(trainer.ema_state_dict()["5.weight"], average, rtol=1e-6, atol=1e-7)
    trainer.ema_decay = None
    trainer.step(*batch(2))
    trainer.ema_decay = 0.9
    trainer.step(*batch(3))
    assert_same_bits(trainer.ema_state_dict(), state(trainer))


def test_frozen_and_shared_parameters_have_averages() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(3, 3)
            self.idle = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.second(self.first(self.idle(x)))

    cnnrs.manual_seed(0)
    trainer = Trainer(Twice(), optim.SGD(0.5), ema_decay=0.5)
    trainer.model.freeze("idle")
    x, y = real(3, 3), np.array([0, 1, 2])
    trainer.step(x, y)
    first = trainer.ema_state_dict()
    trainer.step(x, y)
    second, now = trainer.ema_state_dict(), state(trainer)
    versions = [parameter._storage.version for parameter in trainer.model.parameters()]
    assert versions == [3, 3, 1, 1]  # a frozen parameter is read, not written: its packed form stays good
    assert_same_bits(second["first.weight"], second["second.weight"])
    assert_same_bits(second["idle.weight"], now["idle.weight"])
    middle = 0.5 * first["first.weight"].astype(np.float64) + 0.5 * now["first.weight"]
    assert_within(second["first.weight"], middle, 4 * UNIT * np.abs(middle))
    with trainer.averaged():
        assert_same_bits(state(trainer), second)
    assert_same_bits(state(trainer), now)


@pytest.mark.parametrize("seconds", [0.02, 0.04])
def test_a_signal_never_splits_a_step(seconds: float) -> None:
    """Weights, states and averages are those after `updates` whole steps, with everything switched on."""

    class Replay(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            if trainer.updates == interrupted.updates:
                trainer.stop()

    class Alarm(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            if trainer.updates == 3:
                signal.setitimer(signal.ITIMER_REAL, seconds)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    data = real(1000, 6, 6, 2), np.arange(1000) % 3
    options = {"clip_norm": 0.5, "ema_decay": 0.9}
    optimizer = optim.Adam(1e-3, amsgrad=True)
    interrupted, replayed = (Trainer(make_model(), copy.deepcopy(optimizer), **options) for _ in range(2))
    for trainer in (interrupted, replayed):
        trainer.step(*batch())
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.fit(data, epochs=10**6, batch_size=250, callbacks=[Alarm()], verbose=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    replayed.fit(data, epochs=10**6, batch_size=250, callbacks=[Replay()], verbose=False)
    assert_same_bits(state(interrupted), state(replayed))
    assert_same_bits(interrupted.ema_state_dict(), replayed.ema_state_dict())
    assert interrupted._programs.counts() == replayed._programs.counts() == [interrupted.updates] * 5


def test_bits_do_not_depend_on_threads(assert_deterministic: Callable[[Callable[[], Any]], None]) -> None:
    def train() -> Arrays:
        trainer = Trainer(make_model(), optim.RMSProp(0.01), clip_norm=0.5, clip_value=0.1, ema_decay=0.9)
        trainer.fit((real(100, 6, 6, 2), np.arange(100) % 3), epochs=2, batch_size=32, verbose=False)
        return trainer.ema_state_dict() | {f"weights of {name}": value for name, value in state(trainer).items()}

    assert_deterministic(train)
