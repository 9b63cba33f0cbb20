"""Normalization layers: modes, running values written by a trainer's call, and networks that train with them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import oracle_norm as ref
from cases import Array
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F
from cnnrs.testing import gradcheck
from tolerance import assert_same_bits, assert_within

Labels = np.ndarray[Any, np.dtype[np.int64]]


def data(count: int, seed: int = 0) -> tuple[Array, Labels]:
    """Images with one bright band per class."""
    labels = np.arange(count) % 3
    images = cases.real(count, 6, 6, 2, seed=seed) * 3
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 2
    return images, labels


def network(p: float = 0.2) -> nn.Sequential:
    """Convolution, normalization, ReLU, dropout, head."""
    cnnrs.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Flatten(),
        nn.Linear(288, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


class Alone(nn.Module):
    """One normalization of the images, used so many times, and a mean per channel as logits."""

    def __init__(self, layer: nn.Module, uses: int = 1) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(np.ones((1, 1, 1, 2), np.float32))
        self.uses = uses

    def forward(self, x: Any) -> Any:
        for _ in range(self.uses):
            x = self.layer(x) * self.scale
        return F.global_avg_pool2d(F.square(x + 1))


IMAGES, LABELS = cases.real(5, 6, 6, 2) * 2 + 3, np.arange(5) % 2


def buffers(layer: nn.Module) -> list[Any]:
    """A snapshot of running mean, running variance and counter."""
    state = layer.state_dict(copy=True)
    return [state[name] for name in ("running_mean", "running_var", "num_batches_tracked")]


def trainer_of(model: nn.Module, lr: float = 0.0, **rest: Any) -> Trainer:
    return Trainer(model, optim.SGD(lr=lr, momentum=0.9), **rest)


# Modes.


def test_a_call_uses_the_running_values_and_changes_nothing() -> None:
    layer = nn.BatchNorm2d(2, eps=0.1)
    state = {"weight": [2, 3], "bias": [1, -1], "running_mean": [3, 0.5], "running_var": [4, 0.25]}
    layer.load_state_dict({name: np.array(value, np.float32) for name, value in state.items()})
    before = buffers(layer)
    mean, var = before[0].astype(np.float64), before[1].astype(np.float64)
    expected = ref.batch_norm(IMAGES, [2, 3], [1, -1], eps=0.1, given=(mean, var))
    assert_within(layer(IMAGES), *expected.forward())
    cnnrs.vjp(layer, IMAGES)[1](IMAGES)
    model = Alone(layer)
    trainer_of(model).evaluate((IMAGES, LABELS))
    trainer_of(model).predict(IMAGES)
    model.predict(IMAGES, top=1)
    assert_same_bits(buffers(layer), before)


@pytest.mark.parametrize("call", ["step", "gradients"])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
@pytest.mark.usefixtures("isa")
def test_training_writes_the_running_values(call: str, momentum: float) -> None:
    """Over batches of several sizes, through one program."""
    layer = nn.BatchNorm2d(2, momentum=momentum)
    trainer = trainer_of(Alone(layer))
    for count, size in enumerate((5, 2, 9, 1, 5), start=1):
        images = cases.real(size, 6, 6, 2, seed=count) * count + 3
        old_mean, old_var, _ = buffers(layer)
        getattr(trainer, call)(images, np.arange(size) % 2)
        expected = ref.batch_norm(images, 1.0, 0.0).running(old_mean, old_var, momentum)
        mean, var, counter = buffers(layer)
        assert_within(mean, *expected[0], "running_mean")
        assert_within(var, *expected[1], "running_var")
        assert counter == count
    assert len(trainer._programs._cache) == 1


def test_apply_leaves_the_running_values_alone() -> None:
    model = Alone(nn.BatchNorm2d(2))
    trainer = trainer_of(model, lr=0.1)
    _, grads = trainer.gradients(IMAGES, LABELS)
    before = buffers(model.layer)
    trainer.apply(grads)
    assert_same_bits(buffers(model.layer), before)


def test_step_is_gradients_and_apply() -> None:
    images, labels = data(12)
    one, other = trainer_of(network(), lr=0.1, seed=3), trainer_of(network(), lr=0.1, seed=3)
    for _ in range(4):
        loss, grads = other.gradients(images, labels)
        other.apply(grads)
        assert one.step(images, labels) == loss
    assert_same_bits(one.model.state_dict(), other.model.state_dict())


def test_a_layer_used_twice_follows_in_order_of_use() -> None:
    layer = nn.BatchNorm2d(2)
    trainer = trainer_of(Alone(layer, uses=2))
    trainer.step(IMAGES, LABELS)
    first = ref.batch_norm(IMAGES, 1.0, 0.0)
    once = [value for value, _ in first.running(np.zeros(2), np.ones(2), 0.1)]
    hidden = first.forward()[0]
    twice = ref.batch_norm(hidden, 1.0, 0.0).running(*once, 0.1)
    mean, var, counter = buffers(layer)
    np.testing.assert_allclose(mean, twice[0][0], atol=1e-6)
    np.testing.assert_allclose(var, twice[1][0], rtol=1e-6)
    assert counter == 2


@pytest.mark.parametrize("how", ["eval", "freeze", "freeze a part"])
def test_parts_that_do_not_train_use_their_running_values(how: str) -> None:
    model = Alone(nn.BatchNorm2d(2))
    model.layer.load_state_dict({**model.layer.state_dict(), "running_mean": np.full(2, 3, np.float32)})
    if how == "eval":
        model.layer.eval()
    elif how == "freeze":
        model.layer.freeze()
    else:
        model.freeze("layer")
    before = buffers(model.layer)
    loss = float(F.cross_entropy(model(IMAGES), LABELS))
    trainer = trainer_of(model, lr=0.1)
    assert trainer.step(IMAGES, LABELS) == pytest.approx(loss, rel=1e-6)
    assert_same_bits(buffers(model.layer), before)
    moved = "layer.weight" in trainer.gradients(IMAGES, LABELS)[1]
    assert moved == (how == "eval")
    model.train().unfreeze()
    trainer.step(IMAGES, LABELS)
    assert buffers(model.layer)[2] == 1


def test_half_frozen_still_trains() -> None:
    model = Alone(nn.BatchNorm2d(2))
    model.freeze("*.weight")
    trainer_of(model).step(IMAGES, LABELS)
    assert buffers(model.layer)[2] == 1


def test_freezing_reaches_a_layer_without_parameters() -> None:
    model = Alone(nn.BatchNorm2d(2, affine=False))
    assert [name for name, _ in model.named_parameters()] == ["scale"]
    trainer_of(model).step(IMAGES, LABELS)
    assert buffers(model.layer)[2] == 1
    model.layer.freeze()
    trainer_of(model).step(IMAGES, LABELS)
    assert buffers(model.layer)[2] == 1


def test_without_running_values_every_use_takes_the_batchs() -> None:
    layer = nn.BatchNorm2d(2, track_running_stats=False)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert_same_bits(layer(IMAGES), F.batch_norm(IMAGES, None, None, training=True))
    trainer_of(Alone(layer)).step(IMAGES, LABELS)
    with pytest.raises(ValueError, match="one value per channel"):
        layer(IMAGES[:1, :1, :1])


def test_functional_form_writes_buffers_in_a_step_only() -> None:
    class Own(Alone):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.mean, self.var = nn.Buffer(np.zeros(2, np.float32)), nn.Buffer(np.ones(2, np.float32))

        def forward(self, x: Any) -> Any:
            return super().forward(F.batch_norm(x, self.mean, self.var, training=True))

    model, layer = Own(), nn.BatchNorm2d(2)
    model(IMAGES)
    assert not model.mean.array.any()
    trainer_of(model).step(IMAGES, LABELS)
    trainer_of(Alone(layer)).step(IMAGES, LABELS)
    assert_same_bits([model.mean.array, model.var.array], buffers(layer)[:2])


# Atomicity.


def test_one_value_per_channel_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    trainer = trainer_of(model, lr=0.1)
    trainer.step(cases.real(3, 4), np.arange(3))
    before = model.state_dict(copy=True)
    for call in (trainer.step, trainer.gradients):
        with pytest.raises(ValueError, match=r"^0: batch_norm_train: x .* one value per channel"):
            call(cases.real(1, 4), np.arange(1))
    assert_same_bits(model.state_dict(), before)
    assert trainer.updates == 1
    assert trainer.evaluate((cases.real(1, 4), np.arange(1)))["loss"] > 0
    trainer.step(cases.real(2, 4), np.arange(2))
    assert model.summary((4,)).training_bytes is None
    assert model.summary((4,), batch_size=2).training_bytes is not None


def test_a_bad_label_changes_nothing() -> None:
    model = network()
    trainer = trainer_of(model, lr=0.1)
    images, labels = data(6)
    trainer.step(images, labels)
    before = model.state_dict(copy=True)
    for call in (trainer.step, trainer.gradients):
        with pytest.raises(ValueError, match="label"):
            call(images, labels + 3)
    assert_same_bits(model.state_dict(), before)


@pytest.mark.parametrize("seconds", [0.03, 0.045, 0.06])
def test_a_signal_never_splits_weights_from_running_values(seconds: float) -> None:
    """Wherever it hits, weights, running values and counters are those after `updates` whole steps."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def forever() -> None:
        while True:
            trainer.step(images, labels)

    images, labels = data(600)
    trainer, replay = trainer_of(network(), lr=0.01, seed=1), trainer_of(network(), lr=0.01, seed=1)
    for one in (trainer, replay):
        one.step(images, labels)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(KeyboardInterrupt):
            forever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert trainer.updates > 1
    assert trainer.model.state_dict()["1.num_batches_tracked"] == trainer.updates
    while replay.updates < trainer.updates:
        replay.step(images, labels)
    assert_same_bits(trainer.model.state_dict(), replay.model.state_dict())


# Networks.


def twenty_steps() -> list[Any]:
    """Losses and everything that is kept after them, over batches of changing size."""
    trainer = trainer_of(network(), lr=0.05, seed=5)
    losses = [trainer.step(*data(16 + step % 3, seed=step)) for step in range(20)]
    return [np.array(losses), trainer.model.state_dict(copy=True), trainer.model(data(4)[0])]


@pytest.mark.usefixtures("isa")
def test_training_is_deterministic(assert_deterministic: Callable[..., None]) -> None:
    assert_deterministic(twenty_steps)
    losses, state, _ = twenty_steps()
    assert losses[-5:].mean() < 0.5 * losses[:3].mean()
    assert state["1.num_batches_tracked"] == state["6.num_batches_tracked"] == 20


def test_evaluation_after_training_uses_the_running_values() -> None:
    model = network()
    trainer = trainer_of(model, lr=0.05)
    trainer.fit(data(60), epochs=5, batch_size=12, verbose=False)
    images, labels = data(30, seed=9)
    state = model.state_dict()

    def normalize(x: Array, name: str) -> Any:
        tensors = [state[f"{name}.{tensor}"] for tensor in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *tensors)

    hidden = F.relu(normalize(F.conv2d(images, state["0.weight"], padding=1), "1"))
    hidden = F.relu(normalize(F.linear(F.flatten(hidden), state["5.weight"], state["5.bias"]), "6"))
    logits = F.linear(hidden, state["8.weight"], state["8.bias"])
    np.testing.assert_allclose(model(images), logits, rtol=1e-5, atol=1e-5)
    assert trainer.evaluate((images, labels))["accuracy"] > 0.9
    alone = np.concatenate([model(image[None]) for image in images])
    np.testing.assert_allclose(alone, model(images), rtol=1e-5, atol=1e-5)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (2, 3, 2, 3)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d of sequences": (lambda: nn.BatchNorm1d(3, affine=False), (2, 4, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (2, 3, 2, 6)),
    "LayerNorm": (lambda: nn.LayerNorm((2, 4)), (3, 2, 4)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, alpha=0.5), (2, 2, 2, 5)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name: str, training: bool) -> None:
    make, shape = LAYERS[name]
    layer = make()
    for parameter in layer.parameters():
        parameter.assign(1 + cases.real(*parameter.shape) / 4)
    assert gradcheck(layer, np.random.default_rng(1).normal(size=shape), training=training)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_in_evaluation_mode(name: str) -> None:
    """Running values are constants: the layer is affine in x, so its vector-Jacobian products are differences."""
    make, shape = LAYERS[name]
    layer, x, step = make(), cases.real(*shape), cases.real(*shape, seed=1)
    _, pull = cnnrs.vjp(layer, x)
    grad = cases.real(*shape, seed=2)
    got = (pull(grad).astype(np.float64) * step).sum()
    if name.startswith("Batch"):
        difference = ((layer(x + step).astype(np.float64) - layer(x)) * grad).sum()
        assert got == pytest.approx(difference, rel=1e-4, abs=1e-4)
    else:
        assert np.isfinite(got)


def test_layers_agree_with_functional() -> None:
    x = cases.real(2, 4, 4, 6)
    group, layer, local = nn.GroupNorm(3, 6), nn.LayerNorm((4, 6), bias=False), nn.LocalResponseNorm(3, 0.1, 0.5, 2.0)
    assert_same_bits(group(x), F.group_norm(x, 3))
    assert_same_bits(layer(x), F.layer_norm(x, (4, 6)))
    assert_same_bits(local(x), F.local_response_norm(x, 3, 0.1, 0.5, 2.0))
    assert list(layer.state_dict()) == ["weight"]
    assert list(nn.GroupNorm(3, 6, affine=False).state_dict()) == []
    assert list(nn.LayerNorm(6, elementwise_affine=False).state_dict()) == []
    assert [layer(cases.real(batch, 4, 4, 6)).shape[0] for batch in (1, 5, 0)] == [1, 5, 0]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.BatchNorm2d(0), ValueError, r"^BatchNorm2d: num_features must be an int from 1"),
        (lambda: nn.BatchNorm1d(3, eps=-1), ValueError, r"^BatchNorm1d: eps must be at least 0"),
        (lambda: nn.BatchNorm2d(3, momentum=2), ValueError, r"^BatchNorm2d: momentum must be from 0 to 1"),
        (lambda: nn.BatchNorm2d(3, momentum=None), cnnrs.UnsupportedError, r"^BatchNorm2d: momentum=None"),  # type: ignore[arg-type]
        (lambda: nn.BatchNorm2d(3, affine=1), TypeError, r"^BatchNorm2d: affine must be True or False"),  # type: ignore[arg-type]
        (lambda: nn.GroupNorm(4, 6), ValueError, r"^GroupNorm: num_groups must divide num_channels"),
        (lambda: nn.LayerNorm(()), ValueError, r"^LayerNorm: normalized_shape must have at least one size"),
        (lambda: nn.LayerNorm((3, 0)), ValueError, r"^LayerNorm: normalized_shape must be an int from 1"),
        (lambda: nn.LocalResponseNorm(0), ValueError, r"^LocalResponseNorm: size must be an int from 1"),
        (
            lambda: nn.BatchNorm2d(3)(cases.real(2, 4, 4, 5)),
            cnnrs.ShapeError,
            r"x must be \(N, H, W, 3\), got \(2, 4, 4, 5\)",
        ),
        (lambda: nn.BatchNorm2d(3)(cases.real(2, 3)), cnnrs.ShapeError, r"x must be \(N, H, W, 3\), got \(2, 3\)"),
        (
            lambda: nn.BatchNorm1d(3)(cases.real(2, 4)),
            cnnrs.ShapeError,
            r"x must be \(N, 3\) or \(N, L, 3\), got \(2, 4\)",
        ),
        (lambda: nn.GroupNorm(1, 3)(cases.real(2, 4)), cnnrs.ShapeError, r"x must be \(N, ..., 3\), got \(2, 4\)"),
        (lambda: nn.LayerNorm(3)(cases.real(2, 4)), cnnrs.ShapeError, r"x must have shape \(N, ..., 3\), got \(2, 4\)"),
    ],
)
def test_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_the_layer_is_named() -> None:
    with pytest.raises(cnnrs.ShapeError, match=r"^1: batch_norm: x must be \(N, H, W, 5\), got \(2, 2, 2, 4\)"):
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(5))(cases.real(2, 4, 4, 2))


def test_repr() -> None:
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3, eps=1e-05, momentum=0.1)"
    layer = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    assert repr(layer) == "BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)"
    assert repr(nn.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05)"
    assert repr(nn.LayerNorm(4)) == "LayerNorm((4,), eps=1e-05)"
    assert repr(nn.LocalResponseNorm(5)) == "LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=1)"
