"""A network of one's own with a shortcut, a training loop by hand, and a map of the pixels that matter.

    python examples/custom_module.py               # needs scikit-learn for the digits; seconds
    python examples/custom_module.py --epochs 10

The loop uses `trainer.gradients` and `trainer.apply` to clip the gradients in between; `trainer.step` does both in one
call. The map is |d score / d pixel| for the class the network chose, from `cnnrs.vjp`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

import cnnrs
from cnnrs import Trainer, datasets, nn, optim
from cnnrs import functional as F

RAMP = " .:-=+*#%@"


class Net(nn.Module):
    """Two convolutions around a shortcut; uint8 images are scaled with the mean and deviation below."""

    input_mean = (0.1307,)
    input_std = (0.3081,)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2, padding="same")
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(7 * 7 * width, 10)

    def forward(self, x: Any) -> Any:
        """Take images (N, 28, 28, 1) to logits (N, 10)."""
        y = F.relu(self.stem(x))
        y = F.max_pool2d(F.relu(y + self.block(y)), 2)
        return self.head(F.flatten(y))


def train(model: Net, data: datasets.Dataset, epochs: int, limit: float = 1.0) -> None:
    """Train batch by batch, with the gradients scaled down to a norm of at most `limit`."""
    trainer = Trainer(model, optim.SGD(lr=0.03, momentum=0.9))
    rng = np.random.default_rng(0)
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in np.array_split(rng.permutation(len(data)), len(data) // 64):
            loss, grads = trainer.gradients(data.images[batch], data.labels[batch])
            norm = np.sqrt(sum(np.vdot(grad, grad) for grad in grads.values()))
            scale = np.float32(limit / max(norm, limit))
            trainer.apply({name: scale * grad for name, grad in grads.items()})
            losses.append(loss)
        print(f"epoch {epoch}: mean loss {np.mean(losses):.4f}")


def draw(picture: npt.NDArray[np.float32]) -> list[str]:
    """Return a picture as lines of text; every second row, as characters are about twice as high as wide."""
    levels = (picture[::2] / max(picture.max(), 1e-9) * (len(RAMP) - 1)).round().astype(int)
    return ["".join(RAMP[level] for level in row) for row in levels]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A network of one's own.")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    cnnrs.manual_seed(0)
    net, (digits, test) = Net(), datasets.digits()
    train(net, digits, options.epochs)
    print(f"test accuracy {np.mean(net.predict(test.images, top=1)[0][:, 0] == test.labels):.2%}")

    x = ((test.images[:1] / 255 - net.input_mean) / net.input_std).astype(np.float32)
    logits, pull = cnnrs.vjp(net, x)
    saliency = np.abs(pull(np.eye(10, dtype=np.float32)[logits.argmax(axis=1)]))
    print(f"\na {test.labels[0]}, taken for {logits.argmax()}, and what the score depends on")
    for left, right in zip(draw(test.images[0, :, :, 0]), draw(saliency[0, :, :, 0]), strict=True):
        print(left, "|", right)
