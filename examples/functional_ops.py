"""Convolution on plain arrays: output sizes, both gradients and the identity that ties them, and an edge detector.

    python examples/functional_ops.py              # needs scikit-learn for the digit
    python examples/functional_ops.py --digit 7

Nothing here has parameters or state: `cnnrs.functional` takes and gives NumPy arrays.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

import cnnrs
from cnnrs import datasets
from cnnrs import functional as F

RAMP = " .:-=+*#%@"


def output_sizes() -> None:
    """Compare the formula floor((size + padding - extent) / stride) + 1 with the arrays that come out."""
    x, weight = np.ones((1, 28, 28, 1), np.float32), np.ones((3, 3, 1, 4), np.float32)
    print("output size of a 3x3 convolution on 28x28")
    for stride, padding, dilation in ((1, 0, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 0, 4)):
        extent = dilation * (3 - 1) + 1
        by_hand = (28 + 2 * padding - extent) // stride + 1
        y = F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
        assert y.shape == (1, by_hand, by_hand, 4)
        assert by_hand == cnnrs.conv_output_size(28, 3, stride, padding, dilation)
        print(f"  stride {stride}, padding {padding}, dilation {dilation}: {by_hand:2}   y is {y.shape}")


def gradients() -> None:
    """Compute both gradients of <conv2d(x, w), g>, which is linear in x and in w, and compare three inner products."""
    rng = np.random.default_rng(0)
    # Small integers: every sum is exact in float32, so the three numbers are equal to the last bit.
    x, weight, g = (rng.integers(-3, 4, s).astype(np.float32) for s in ((2, 9, 9, 3), (3, 3, 3, 5), (2, 5, 5, 5)))
    y = F.conv2d(x, weight, stride=2, padding=1)
    grad_x = F.conv2d_backward_data(g, weight, x.shape, stride=2, padding=1)
    grad_w, grad_b = F.conv2d_backward_weights(x, g, 3, stride=2, padding=1)
    products = np.vdot(y, g), np.vdot(x, grad_x), np.vdot(weight, grad_w)
    print("\ngradients: x", grad_x.shape, "weight", grad_w.shape, "bias", grad_b.shape)
    print(
        "  <conv(x), g> = {:.0f}, <x, backward_data(g)> = {:.0f}, <w, backward_weights(g)> = {:.0f}".format(*products)
    )
    assert products[0] == products[1] == products[2]


def edges(digit: int) -> None:
    """Convolve a digit with the two Sobel kernels and print where its brightness changes."""
    images, _ = datasets.digits()
    x = images.images[images.labels == digit][:1].astype(np.float32) / 255
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
    weight = np.stack([across, across.T], axis=-1)[:, :, np.newaxis, :]  # (3, 3, 1 input channel, 2 output channels)
    y = F.conv2d(x, weight, padding="same")  # (1, 28, 28, 2): change to the right, change downwards
    strength = np.hypot(y[..., 0], y[..., 1])[0]
    print(f"\na {digit} and its edges")
    for left, right in zip(draw(x[0, :, :, 0]), draw(strength), strict=True):
        print(left, "|", right)


def draw(picture: npt.NDArray[np.float32]) -> list[str]:
    """Return a gray picture as lines of text; every second row, as characters are about twice as high as wide."""
    levels = (picture[::2] / picture.max() * (len(RAMP) - 1)).round().astype(int)
    return ["".join(RAMP[level] for level in row) for row in levels]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Convolution on plain arrays.")
    parser.add_argument("--digit", type=int, choices=range(10), default=3)
    options = parser.parse_args()
    output_sizes()
    gradients()
    edges(options.digit)
