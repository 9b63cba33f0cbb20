"""A loss of one's own: the Dice loss, written with operators, trains a small network to find the strokes of digits.

    python examples/dice_loss.py                   # needs scikit-learn for the digits
    python examples/dice_loss.py --epochs 5

A loss is any function of the model's output and the target. It is traced once and runs inside of the training step.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import cnnrs
from cnnrs import Trainer, datasets, nn, optim
from cnnrs import functional as F


def dice_loss(logits: Any, target: Any) -> Any:
    """Compute one minus the overlap of prediction and target, the mean over images and classes.

    Args:
        logits: Scores (N, H, W, K).
        target: Zeros and ones of the same shape.
    """
    p = F.sigmoid(logits)
    overlap = F.sum(p * target, axis=(1, 2))
    total = F.sum(p, axis=(1, 2)) + F.sum(target, axis=(1, 2))
    return 1 - F.mean((2 * overlap + 1) / (total + 1))


def main(epochs: int) -> None:
    """Train on noisy digits whose strokes are known, and print how well the strokes are found."""
    cnnrs.manual_seed(0)
    digits, _ = datasets.digits()
    clean = digits.images.astype(np.float32) / 255
    target = (clean > 0.5).astype(np.float32)
    noisy = clean + np.random.default_rng(0).normal(0, 0.5, clean.shape).astype(np.float32)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding="same"),
        nn.SiLU(),
        nn.Conv2d(16, 16, 5, padding="same"),
        nn.SiLU(),
        nn.Conv2d(16, 1, 1),
    )
    trainer = Trainer(model, optim.SGD(lr=0.5, momentum=0.9), loss=dice_loss)
    order = np.random.default_rng(1)
    for epoch in range(epochs):
        batches = np.array_split(order.permutation(len(noisy) - 200), 40)
        loss = np.mean([trainer.step(noisy[batch], target[batch]) for batch in batches])
        found, wanted = model(noisy[-200:]) > 0, target[-200:] > 0.5
        overlap = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
        print(f"epoch {epoch + 1}: loss {loss:.3f}, overlap on 200 other digits {overlap:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The Dice loss on noisy digits.")
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
