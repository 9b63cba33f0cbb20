"""What users write themselves: Dice and focal loss, squeeze-and-excite; values and gradients against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle_elementwise as oracle
from cases import Array, real
from cnnrs import nn, optim, testing
from cnnrs import functional as F

Wide = oracle.Array


def dice_loss(logits: Any, target: Any) -> Any:
    """One minus the overlap of prediction and target, a mean over images and classes."""
    p = F.sigmoid(logits)
    overlap = F.sum(p * target, axis=(1, 2))
    total = F.sum(p, axis=(1, 2)) + F.sum(target, axis=(1, 2))
    return 1 - F.mean((2 * overlap + 1) / (total + 1))


def dice_reference(logits: Array, target: Array) -> tuple[float, Wide]:
    """The loss and its gradient."""
    z, t = oracle.wide(logits), oracle.wide(target)
    p = oracle.sigmoid(z)
    overlap, total = ((p * t).sum(axis=(1, 2), keepdims=True), (p + t).sum(axis=(1, 2), keepdims=True))
    score = (2 * overlap + 1) / (total + 1)
    slope = (2 * t * (total + 1) - (2 * overlap + 1)) / (total + 1) ** 2
    return float(1 - score.mean()), -slope * p * (1 - p) / score.size


def focal_loss(logits: Any, target: Any, gamma: float = 2.0, alpha: float = 0.25) -> Any:
    """Binary cross-entropy in which easy examples count little; for any gamma, by exp and log."""
    cross_entropy = F.softplus(logits) - logits * target
    p = F.sigmoid(logits)
    missed = p + target - 2 * p * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return F.mean(weight * F.exp(gamma * F.log(missed)) * cross_entropy)


def focal_reference(logits: Array, target: Array, gamma: float = 2.0, alpha: float = 0.25) -> tuple[float, Wide]:
    """The loss and its gradient, with the numbers of a class written by themselves."""
    sign = np.where(target > 0.5, -1.0, 1.0)
    weight = np.where(target > 0.5, alpha, 1 - alpha)
    missed = oracle.sigmoid(sign * logits.astype(np.float64))
    loss = -np.log1p(-missed)
    slope = sign * missed * (1 - missed) * (gamma * missed ** (gamma - 1) * loss + missed**gamma / (1 - missed))
    return float((weight * missed**gamma * loss).mean()), weight * slope / target.size


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Any) -> Any:
        s = F.relu(self.squeeze(F.global_avg_pool2d(x)))
        s = F.hardsigmoid(self.excite(s))
        return x * F.reshape(s, (x.shape[0], 1, 1, x.shape[3]))


def masks(*shape: int) -> Array:
    """Zeros and ones."""
    return (real(*shape, seed=3) > 0.4).astype(np.float32)


LOSSES = pytest.mark.parametrize(
    ("loss", "reference"), [(dice_loss, dice_reference), (focal_loss, focal_reference)], ids=["dice", "focal"]
)


@LOSSES
@pytest.mark.usefixtures("isa", "threads")
def test_losses(loss: Callable[..., Any], reference: Callable[..., Any]) -> None:
    """On arrays op by op and as one graph; the gradient by the logits."""
    for shape in ((2, 9, 8, 3), (1, 1, 1, 1), (3, 30, 31, 1), (4, 5, 6, 17)):
        logits, target = real(*shape) * np.float32(2), masks(*shape)
        value, gradient = reference(logits, target)
        out, pullback = cnnrs.vjp(lambda v, loss=loss, target=target: loss(v, target), logits)
        assert isinstance(out, float)
        assert out == pytest.approx(value, rel=2e-6, abs=1e-7)
        assert float(loss(logits, target)) == pytest.approx(value, rel=2e-6, abs=1e-7)
        np.testing.assert_allclose(pullback(1.0), gradient, rtol=2e-5, atol=1e-6 * np.abs(gradient).max())


@LOSSES
def test_losses_pass_gradcheck(loss: Callable[..., Any], reference: Callable[..., Any]) -> None:
    del reference
    assert testing.gradcheck(lambda v, t=masks(2, 3, 4, 2): loss(v, t), real(2, 3, 4, 2))


@pytest.mark.parametrize("channels", [4, 16, 33])
@pytest.mark.usefixtures("isa", "threads")
def test_squeeze_excite(channels: int) -> None:
    """Output and gradient by the input; another batch size meets the same trace."""
    cnnrs.manual_seed(1)
    module = SqueezeExcite(channels, 8)
    x, grad_y = real(3, 7, 5, channels), real(3, 7, 5, channels, seed=1)
    w1, b1, w2, b2 = (oracle.wide(p) for p in module.state_dict().values())
    x64, g64 = oracle.wide(x), oracle.wide(grad_y)
    hidden = x64.mean(axis=(1, 2)) @ w1 + b1
    before = np.maximum(hidden, 0) @ w2 + b2
    gate = oracle.relu6(before + 3) / 6
    y, pullback = cnnrs.vjp(module, x)
    np.testing.assert_allclose(y, x64 * gate[:, None, None], rtol=1e-5, atol=1e-6)
    grad_before = (g64 * x64).sum(axis=(1, 2)) * (np.abs(before) < 3) / 6
    grad_mean = ((grad_before @ w2.T) * (hidden > 0)) @ w1.T
    expected = g64 * gate[:, None, None] + grad_mean[:, None, None] / (7 * 5)
    np.testing.assert_allclose(pullback(grad_y), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([module(x[:1]), module(x[1:])]), module(x))
    assert testing.gradcheck(module, real(2, 3, 4, channels))


@LOSSES
def test_training_with_a_loss_of_ones_own(loss: Callable[..., Any], reference: Callable[..., Any]) -> None:
    """A callable is the trainer's loss; squeeze-and-excite trains inside of a model."""
    cnnrs.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), SqueezeExcite(8, 4), nn.Conv2d(8, 1, 1))
    trainer = cnnrs.Trainer(model, optim.SGD(lr=0.5, momentum=0.9), loss=loss)
    x = real(8, 12, 12, 1)
    target = (x > 0.3).astype(np.float32)
    first = trainer.step(x, target)
    assert first == pytest.approx(reference(np.zeros_like(x), target)[0], rel=0.5)
    losses = [trainer.step(x, target) for _ in range(60)]
    assert losses[-1] < 0.5 * first
