"""Dropout: the draws, the masks, the modes, the gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle_norm as ref
import tolerance
from cases import Array
from cnnrs import Trainer, _core, graph, nn, optim
from cnnrs import functional as F
from cnnrs.functional.dropout import _stream
from cnnrs.testing import gradcheck

FORMS: dict[str, tuple[Callable[..., Any], type[nn.Module]]] = {
    "element": (F.dropout, nn.Dropout),
    "channel": (F.dropout2d, nn.Dropout2d),
    "sample": (F.drop_path, nn.DropPath),
}
UNITS = pytest.mark.parametrize("unit", FORMS)
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 4, 4, 16), (5, 1, 2, 33), (0, 4, 4, 3), (2, 0, 4, 3), (3, 60, 61, 5)]


def check(unit: str, x: Array, p: float, seed: int) -> None:
    expected = ref.dropout(x, ref.kept(x.shape, p, unit, seed=seed), p)
    tolerance.assert_same_bits(FORMS[unit][0](x, p, seed=seed), expected)


# The draws.


@UNITS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_every_unit_takes_its_own_draw(unit: str, shape: tuple[int, ...]) -> None:
    for p in (0.0, 0.1, 0.5, 1.0):
        check(unit, cases.real(*shape), p, seed=2**63 + 5)


@UNITS
@pytest.mark.usefixtures("isa")
@given(
    shape=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    p=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_shape(unit: str, shape: list[int], p: float, seed: int) -> None:
    check(unit, cases.real(*shape), p, seed)


def test_the_draws_never_change() -> None:
    """Stored values: a run of one version can be repeated by the next."""
    ones = np.ones(24, np.float32)
    assert "".join(str(int(v > 0)) for v in F.dropout(ones, 0.5, seed=0)) == "111001001000100001010101"
    assert "".join(str(int(v > 0)) for v in F.dropout(ones, 0.5, seed=1)) == "111011100110100101100111"
    key = np.array([7, 3], np.int64)
    (y,) = _core.eager("dropout", [ones, key], {"p": 0.25, "unit": "element", "stream": 5 + (9 << 32)})
    assert "".join(str(int(v > 0)) for v in y) == "111000100011111110111111"
    assert _stream("", 0) == 0x08329807B4EB8B1D
    assert _stream("features.3", 1) == 0xCF4C362572A96E12


def test_published_vectors_of_the_generator() -> None:
    """The known answers of Random123 hold for the reference these tests compare with."""
    zeros, ones = np.zeros((1, 4), np.uint64), np.full((1, 4), 2**32 - 1, np.uint64)
    assert ref.philox(zeros, (0, 0)).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    assert ref.philox(ones, (2**32 - 1, 2**32 - 1)).tolist() == [[0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_as_many_zeros_as_asked_for(p: float) -> None:
    """Within five standard deviations of the binomial distribution, for every seed, and the mean stays one."""
    n = 200_000
    deviation = math.sqrt(p * (1 - p) / n)
    for seed in range(5):
        y = F.dropout(np.ones(n, np.float32), p, seed=seed)
        assert abs((y == 0).mean() - p) < 5 * deviation
        assert abs(y.mean(dtype=np.float64) - 1) < 5 * deviation / (1 - p)


def test_seeds_differ() -> None:
    x = np.ones(1000, np.float32)
    masks = [F.dropout(x, 0.5, seed=seed) > 0 for seed in (0, 1, 2, 2**32, 2**63)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 400 < (one == other).sum() < 600


def test_without_a_seed_the_one_of_the_process() -> None:
    x = np.ones(100, np.float32)
    try:
        cnnrs.manual_seed(11)
        tolerance.assert_same_bits(F.dropout(x), F.dropout(x, seed=11))
        tolerance.assert_same_bits(F.dropout(x), F.dropout(x))
    finally:
        cnnrs.manual_seed(0)
    tolerance.assert_same_bits(F.dropout(x), F.dropout(x, seed=0))


@UNITS
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(unit: str, assert_deterministic: Callable[..., None]) -> None:
    x = cases.real(7, 40, 40, 33)
    assert_deterministic(lambda: FORMS[unit][0](x, 0.3, seed=4))


@UNITS
def test_zero_is_the_identity_and_one_is_zero(unit: str) -> None:
    x = cases.real(2, 3, 4, 5)
    x[0, 0, 0] = np.nan, np.inf, -np.inf, 1e-40, -0.0
    assert FORMS[unit][0](x, 0.0, seed=1) is x
    assert FORMS[unit][0](x, 0.7, training=False) is x
    tolerance.assert_same_bits(FORMS[unit][0](x, 1.0, seed=1), np.zeros_like(x))


# Gradients.


@UNITS
@pytest.mark.usefixtures("isa")
def test_the_gradient_has_the_same_mask(unit: str) -> None:
    """Linear: the gradient is the same map, to the bit."""
    x, grad = cases.real(4, 5, 6, 7), cases.real(4, 5, 6, 7, seed=1)
    form = functools.partial(FORMS[unit][0], p=0.4, training=True, seed=9)
    y, pull = cnnrs.vjp(form, x)
    tolerance.assert_same_bits(y, form(x))
    tolerance.assert_same_bits(pull(grad), form(grad))
    left, right = (y.astype(np.float64) * grad).sum(), (pull(grad).astype(np.float64) * x).sum()
    assert abs(left - right) <= 4 * tolerance.UNIT * np.abs(y.astype(np.float64) * grad).sum()


@UNITS
def test_gradcheck(unit: str) -> None:
    assert gradcheck(FORMS[unit][1](0.4), np.random.default_rng(0).normal(size=(3, 2, 2, 4)), training=True)


# Modes.


class Noisy(nn.Module):
    """Logits are dropped features behind a shift, whose gradient tells what was dropped."""

    def __init__(self, p: float = 0.5, uses: int = 1) -> None:
        super().__init__()
        self.shift = nn.Parameter(np.zeros((1, 8), np.float32))
        self.noise = nn.Dropout(p)
        self.uses = uses

    def forward(self, x: Any) -> Any:
        x = x + self.shift
        for _ in range(self.uses):
            x = self.noise(x)
        return x


def train_mask(model: Noisy, trainer: Trainer) -> Any:
    """Which of the features of one image the trainer's next step keeps: those that have a gradient."""
    _, grads = trainer.gradients(np.ones((1, 8), np.float32), np.array([0]))
    return grads["shift"][0] != 0


def test_a_call_and_evaluation_drop_nothing() -> None:
    model, x = Noisy(), cases.real(3, 8)
    tolerance.assert_same_bits(model(x), x)
    trainer = Trainer(model, optim.SGD(lr=0.0))
    tolerance.assert_same_bits(trainer.predict(x), x)
    tolerance.assert_same_bits(cnnrs.vjp(model, x)[0], x)
    loss = float(F.cross_entropy(x, np.zeros(3, np.int64)))
    assert trainer.evaluate((x, np.zeros(3, np.int64)))["loss"] == pytest.approx(loss, rel=1e-6)
    assert trainer.step(x, np.zeros(3, np.int64)) != pytest.approx(loss, rel=1e-3)
    tolerance.assert_same_bits(model(x), x)


def test_parts_in_evaluation_mode_drop_nothing() -> None:
    model = Noisy()
    model.noise.eval()
    assert train_mask(model, Trainer(model, optim.SGD(lr=0.0))).all()
    model.train()
    assert not train_mask(model, Trainer(model, optim.SGD(lr=0.0))).all()


@pytest.mark.parametrize("updates", [0, 1, 5])
def test_the_key_is_the_seed_the_update_the_path_and_the_use(updates: int) -> None:
    model = Noisy()
    trainer = Trainer(model, optim.SGD(lr=0.0), seed=2**64 - 3)
    for _ in range(updates):
        trainer.step(np.ones((2, 8), np.float32), np.array([0, 1]))
    draws = {"seed": 2**64 - 3, "step": updates}
    expected = ref.kept((1, 8), 0.5, number=ref.stream("noise", 0), **draws)
    np.testing.assert_array_equal(train_mask(model, trainer), expected[0])
    np.testing.assert_array_equal(train_mask(model, trainer), expected[0])

    twice = Noisy(uses=2)
    trainer = Trainer(twice, optim.SGD(lr=0.0), seed=2**64 - 3)
    for _ in range(updates):
        trainer.step(np.ones((2, 8), np.float32), np.array([0, 1]))
    both = expected & ref.kept((1, 8), 0.5, number=ref.stream("noise", 1), **draws)
    np.testing.assert_array_equal(train_mask(twice, trainer), both[0])


def test_functional_dropout_follows_the_layer_that_calls_it() -> None:
    class Own(Noisy):
        def forward(self, x: Any) -> Any:
            return F.dropout(x + self.shift, 0.5)

    model = Own()
    trainer = Trainer(model, optim.SGD(lr=0.0), seed=3)
    expected = ref.kept((1, 8), 0.5, seed=3, number=ref.stream("", 0))
    np.testing.assert_array_equal(train_mask(model, trainer), expected[0])
    model.eval()
    assert train_mask(model, trainer).all()
    tolerance.assert_same_bits(model(np.ones((1, 8), np.float32)), np.ones((1, 8), np.float32))


def test_a_step_drops_what_its_gradients_dropped() -> None:
    x, y = cases.real(16, 8), np.arange(16) % 8
    one, other = Noisy(), Noisy()
    stepped, applied = (Trainer(model, optim.SGD(lr=0.1, momentum=0.9), seed=1) for model in (one, other))
    for _ in range(5):
        loss, grads = applied.gradients(x, y)
        applied.apply(grads)
        assert stepped.step(x, y) == loss
    tolerance.assert_same_bits(one.state_dict(), other.state_dict())


@UNITS
def test_training_repeats_on_any_number_of_threads(unit: str, assert_deterministic: Callable[..., None]) -> None:
    x, y = cases.real(24, 6, 6, 8), np.arange(24) % 3

    def train() -> Any:
        cnnrs.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), FORMS[unit][1](0.3), nn.Flatten(), nn.Linear(256, 3))
        trainer = Trainer(model, optim.SGD(lr=0.05), seed=7)
        return [np.array([trainer.step(x, y) for _ in range(4)]), model.state_dict(copy=True)]

    assert_deterministic(train)


def test_a_program_with_draws_needs_a_key() -> None:
    with graph.Trace(training=True) as trace:
        x = trace.input((2, 3), "float32", "x")
        F.dropout(x, 0.5)
    with pytest.raises(TypeError, match="needs a key"):
        trace.feed([np.zeros((2, 3), np.float32)])


# What is refused.


@UNITS
@pytest.mark.parametrize(
    ("p", "error"), [(-0.1, ValueError), (1.1, ValueError), (np.nan, ValueError), ("x", TypeError), (True, TypeError)]
)
def test_probability(unit: str, p: Any, error: type[Exception]) -> None:
    function, layer = FORMS[unit]
    with pytest.raises(error, match=rf"^{function.__name__}: p must be"):
        function(cases.real(1, 2, 2, 1), p)
    with pytest.raises(error, match=rf"^{layer.__name__}: p must be"):
        layer(p)


def test_other_arguments() -> None:
    x = cases.real(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"^dropout: seed must be from 0"):
        F.dropout(x, seed=-1)
    with pytest.raises(TypeError, match=r"^dropout: seed must be an int"):
        F.dropout(x, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^drop_path: training must be True or False"):
        F.drop_path(x, training=1)  # type: ignore[arg-type]
    with pytest.raises(cnnrs.ShapeError, match=r"^dropout2d: x must have 4 dimensions"):
        F.dropout2d(x[0])
    with pytest.raises(cnnrs.ShapeError, match=r"^dropout: x must have at least one axis"):
        F.dropout(np.zeros((), np.float32))
    with pytest.raises(TypeError, match=r"^dropout: x must be a float32 .*\.astype\(np\.float32\)$"):
        F.dropout(np.zeros(3))


def test_repr() -> None:
    assert repr(nn.Dropout(0.1)) == "Dropout(p=0.1)"
    assert repr(nn.DropPath(1)) == "DropPath(p=1)"
