"""The 1,797 handwritten digits that come with scikit-learn, enlarged to the size of MNIST's.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository; the copy
    in `sklearn.datasets.load_digits` is the test part, 8x8 pixels with values 0 to 16.
"""

import numpy as np
from numpy.typing import NDArray

from cnnrs._core import DataError
from cnnrs.datasets.dataset import Dataset

_COUNT = 1797
_SCALE = 3
_MARGIN = 2


def digits() -> tuple[Dataset, Dataset]:
    """Load the digits of scikit-learn, which need no download.

    Test are the images 0, 5, 10, ... of the original order, training all others. Pixels are scaled from 0..16 to 0..255
    and enlarged three times with linear interpolation to 24x24, then 2 black pixels are added on each side; see
    `enlarge`.

    Returns:
        1,437 images for training and 360 for the test; uint8 `(N, 28, 28, 1)`, white digit on black; classes "0" to
        "9".

    Raises:
        ImportError: scikit-learn is not installed.
        DataError: scikit-learn's digits are not the ones expected.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]  # optional, and slow to import
    except ModuleNotFoundError as error:
        msg = 'datasets.digits needs scikit-learn: pip install "cnnrs[demo]"'
        raise ImportError(msg) from error
    small, labels = load_digits(return_X_y=True)
    if small.shape != (_COUNT, 64) or small.min() < 0 or small.max() > 16:
        span = f"{small.min():g} to {small.max():g}"
        msg = f"digits: expected {_COUNT} images of 64 values from 0 to 16, found {small.shape} from {span}"
        raise DataError(msg)
    images = enlarge(small.reshape(_COUNT, 8, 8).astype(np.uint8))
    labels = labels.astype(np.int64)
    test = np.arange(_COUNT) % 5 == 0
    classes = tuple("0123456789")
    return Dataset(images[~test], labels[~test], classes), Dataset(images[test], labels[test], classes)


def enlarge(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge 8x8 digits to 28x28 with integer arithmetic only, so that the pixels are the same everywhere.

    The centre of pixel `i` of an axis of 24 lies at `(i - 1) / 3` on the axis of 8: at a third of the way from pixel `i
    // 3` towards the neighbour `i // 3 + (i % 3 - 1)`. Linear interpolation there is `(2 near + neighbour) / 3`, with
    the outermost pixels repeated. For both axes together that is a sum of ninths, rounded once, halves up: `(255 sum +
    72) // 144`.

    Args:
        small: `(N, 8, 8)`, uint8, values 0 to 16.

    Returns:
        `(N, 28, 28, 1)`, uint8, values 0 to 255; the outermost 2 pixels on each side are 0.
    """
    place = np.arange(8 * _SCALE)
    near = place // _SCALE
    neighbour = np.clip(near + place % _SCALE - 1, 0, 7)
    wide = small.astype(np.int32)
    wide = 2 * wide[:, near] + wide[:, neighbour]
    wide = 2 * wide[:, :, near] + wide[:, :, neighbour]
    pixels = ((255 * wide + 72) // 144).astype(np.uint8)
    margin = (_MARGIN, _MARGIN)
    return np.pad(pixels, ((0, 0), margin, margin))[..., np.newaxis]
