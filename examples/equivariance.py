"""Translation equivariance: shift a picture, and the interior of its convolution shifts with it, bit for bit.

    python examples/equivariance.py                # needs scikit-learn for the digit
    python examples/equivariance.py --shift 2 -3 --plot maps.png    # needs matplotlib, the extra `viz`

An output pixel is interior if its whole window lies on the picture and on no padding. With kernel size K, stride 1 and
padding P these are the pixels i with i - P >= 0 and i - P + K <= I. Such a pixel is the same sum of the same products
wherever the window lies. Nearer to the edge, a window sees zeros of the padding in place of what was shifted away.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from cnnrs import datasets
from cnnrs import functional as F

Array = npt.NDArray[np.float32]
KERNEL, PADDING = 5, 2


def shift(x: Array, rows: int, columns: int) -> Array:
    """Move pictures (N, H, W, C) down and to the right; noise comes in at the other side."""
    y = np.random.default_rng(1).random(x.shape, np.float32)
    height, width = x.shape[1:3]
    y[:, max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = x[
        :, max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)
    ]
    return y


def interior(size: int, by: int) -> slice:
    """Return the output pixels of an axis whose windows lie on the picture, before and after it moves `by` pixels."""
    return slice(max(PADDING, PADDING - by), size - (KERNEL - 1 - PADDING) - max(by, 0))


def main() -> None:
    """Convolve a digit before and after a shift, and compare the two maps of features bit by bit."""
    parser = argparse.ArgumentParser(description="Shift a picture and look at its convolution.")
    parser.add_argument("--shift", type=int, nargs=2, default=(3, -4), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--plot", metavar="FILE", help="also draw the maps")
    options = parser.parse_args()
    rows, columns = options.shift

    train, _ = datasets.digits()
    x = train.images[:1].astype(np.float32) / 255  # (1, 28, 28, 1)
    weight = np.random.default_rng(0).standard_normal((KERNEL, KERNEL, 1, 8), np.float32)
    before = F.conv2d(x, weight, padding=PADDING)
    after = F.conv2d(shift(x, rows, columns), weight, padding=PADDING)

    expected = shift(before, rows, columns)  # equivariance: convolve and shift = shift and convolve
    same = (after.view(np.uint32) == expected.view(np.uint32)).all(axis=(0, 3))
    high, wide = interior(28, rows), interior(28, columns)
    inside = np.zeros_like(same)
    inside[high.start + rows : high.stop + rows, wide.start + columns : wide.stop + columns] = True
    print(f"a digit moved by {rows} rows and {columns} columns: '#' interior and '=' edge with the same bits in all 8")
    print("channels (the margin of a digit is as black as the padding), '.' other bits")
    for line in np.where(same, np.where(inside, "#", "="), "."):
        print("  " + "".join(line))
    print(f"interior pixels: {inside.sum()}, of them with the same bits: {(same & inside).sum()}")
    assert same[inside].all()

    if options.plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(9, 3))
        for axis, title, picture in zip(axes, ("before", "after", "same bits"), (before, after, same), strict=True):
            axis.imshow(picture if picture.ndim == 2 else picture[0, :, :, 0])
            axis.set_title(title)
        figure.savefig(options.plot)


if __name__ == "__main__":
    main()
