"""The container of labelled images, the digits of scikit-learn, and the real MNIST if it is here."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import DataError, ShapeError, datasets
from cnnrs.datasets import Dataset
from cnnrs.datasets.digits import enlarge

NAMES = ("cat", "dog", "eel")


@pytest.fixture
def data() -> Dataset:
    """Five images of 2x3 pixels and 1 channel."""
    images = np.arange(30, dtype=np.uint8).reshape(5, 2, 3, 1)
    return Dataset(images, np.array([0, 1, 2, 1, 0]), NAMES)


def same(left: Dataset, right: Dataset) -> bool:
    """Tell whether two data sets have equal content and types."""
    return (
        left.images.dtype == right.images.dtype
        and np.array_equal(left.images, right.images)
        and np.array_equal(left.labels, right.labels)
        and left.classes == right.classes
    )


def test_length_and_repr(data: Dataset) -> None:
    assert len(data) == 5
    assert repr(data) == "Dataset(images uint8 (5, 2, 3, 1), labels int64 (5,), 3 classes)"
    assert repr(Dataset(data.images, data.labels)).endswith("unnamed classes)")


def test_arrays_are_shared_and_read_only(data: Dataset) -> None:
    images, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([0, 1])
    data = Dataset(images, labels)
    assert np.shares_memory(data.images, images)
    assert np.shares_memory(data.labels, labels)
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 1
    images[0] = 1  # the caller's array stays writable
    with pytest.raises(AttributeError, match="images cannot be set"):
        data.images = images
    with pytest.raises(AttributeError, match="labels cannot be deleted"):
        del data.labels


def test_empty_is_legal() -> None:
    empty = Dataset(np.empty((0, 28, 28, 1), np.uint8), np.empty(0, np.int64), NAMES)
    assert len(empty) == 0
    assert len(empty[:]) == len(empty.take(3)) == len(empty.subset([])) == 0


def test_byte_order_is_made_native() -> None:
    data = Dataset(np.ones((1, 1, 1, 1), ">f4"), np.ones(1, ">i8"))
    assert data.images.dtype.isnative
    assert data.labels.dtype.isnative
    assert data.images.item() == data.labels.item() == 1


IMAGES, LABELS = np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64)
REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "list of images": (
        (IMAGES.tolist(), LABELS),
        TypeError,
        "images: expected a NumPy array of uint8 or float32, got list",
    ),
    "float64": ((IMAGES.astype(float), LABELS), TypeError, "images: expected uint8 or float32, got float64"),
    "float64 advice": ((IMAGES.astype(float), LABELS), TypeError, ".astype(np.float32)"),
    "bool images": ((IMAGES.astype(bool), LABELS), TypeError, "got bool"),
    "objects": ((IMAGES.astype(object), LABELS), TypeError, "got object"),
    "int32 labels": (
        (IMAGES, LABELS.astype(np.int32)),
        TypeError,
        "labels: expected int64, got int32 (use .astype(np.int64))",
    ),
    "float labels": ((IMAGES, LABELS.astype(float)), TypeError, "labels: expected int64, got float64"),
    "None": ((IMAGES, None), TypeError, "labels: expected a NumPy array of int64, got NoneType"),
    "no channels": ((IMAGES[..., 0], LABELS), ShapeError, "images: expected 4 axes (N, H, W, C), got shape (2, 3, 3)"),
    "one-hot": ((IMAGES, np.eye(2, dtype=np.int64)), ShapeError, "labels: expected 1 axis (N,), got shape (2, 2)"),
    "counts differ": ((IMAGES, LABELS[:1]), ShapeError, "labels: expected one for each of the 2 images, got 1"),
    "negative": ((IMAGES, np.array([0, -1])), DataError, "labels: expected each at least 0, got -1 at place 1"),
    "no such class": (
        (IMAGES, np.array([3, 0]), NAMES),
        DataError,
        "expected each in [0, 3), the number of classes, got 3 at place 0",
    ),
    "classes a text": ((IMAGES, LABELS, "ab"), TypeError, "classes: expected a sequence of texts, got str"),
    "classes ints": ((IMAGES, LABELS, ["a", 1]), TypeError, "classes: expected texts, got int at place 1"),
    "classes a number": ((IMAGES, LABELS, 10), TypeError, "classes: expected a sequence of texts, got int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    arguments, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        Dataset(*arguments)
    assert text in str(caught.value)


def test_one_image(data: Dataset) -> None:
    image, label = data[1]
    assert image.shape == (2, 3, 1)
    assert image[0, 0, 0] == 6
    assert label == 1
    assert type(label) is int
    assert data[-1][0][0, 0, 0] == data[np.int64(4)][0][0, 0, 0] == 24
    assert [label for _, label in data] == [0, 1, 2, 1, 0]


def test_slices_are_views(data: Dataset) -> None:
    part = data[1:4:2]
    assert isinstance(part, Dataset)
    assert part.labels.tolist() == [1, 1]
    assert part.classes == NAMES
    assert np.shares_memory(part.images, data.images)
    assert np.shares_memory(data.take(2).images, data.images)
    assert same(data.take(2), data[:2])
    assert same(data.take(99), data)
    assert len(data.take(0)) == 0


@pytest.mark.parametrize("choice", [[3, 0, 3], np.array([3, 0, -2]), (3, 0, 3), np.array([3, 0, 3], np.uint8)])
def test_subset_by_ints(data: Dataset, choice: Any) -> None:
    for part in (data.subset(choice), data[choice]):
        assert part.images[:, 0, 0, 0].tolist() == [18, 0, 18]
        assert part.labels.tolist() == [1, 0, 1]


def test_subset_by_mask(data: Dataset) -> None:
    assert same(data[data.labels == 1], data.subset([1, 3]))
    assert same(data.subset([False, True, False, True, False]), data.subset([1, 3]))


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (5, IndexError),
        (-6, IndexError),
        (1 << 70, IndexError),
        ([0, 5], IndexError),
        ([-6], IndexError),
        (np.array([1 << 63], np.uint64), IndexError),
        ([1 << 70], TypeError),
        ([0.0], TypeError),
        (0.0, TypeError),
        (True, TypeError),
        (None, TypeError),
        ("0", TypeError),
        ([True, False], ShapeError),
        ([[0, 1]], ShapeError),
    ],
)
def test_bad_index(data: Dataset, index: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        data[index]


@pytest.mark.parametrize(("count", "kind"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)])
def test_bad_count(data: Dataset, count: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="count: expected"):
        data.take(count)


@given(start=st.integers(-9, 9), stop=st.integers(-9, 9), step=st.integers(-3, 3).filter(bool))
def test_slice_as_in_numpy(start: int, stop: int, step: int) -> None:
    labels = np.arange(7)
    data = Dataset(np.zeros((7, 1, 1, 1), np.uint8), labels)
    assert data[start:stop:step].labels.tolist() == labels[start:stop:step].tolist()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(data: Dataset, protocol: int) -> None:
    restored = pickle.loads(pickle.dumps(data, protocol))
    assert same(restored, data)
    assert not restored.images.flags.writeable


def test_copies(data: Dataset) -> None:
    deep = copy.deepcopy(data)
    assert same(deep, data)
    assert not np.shares_memory(deep.images, data.images)
    assert np.shares_memory(copy.copy(data).images, data.images)


# digits


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    """The digits of scikit-learn."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return datasets.digits()


def test_digits(digits: tuple[Dataset, Dataset]) -> None:
    train, test = digits
    assert train.images.shape == (1437, 28, 28, 1)
    assert test.images.shape == (360, 28, 28, 1)
    for half in digits:
        assert half.images.dtype == np.uint8
        assert half.classes == tuple("0123456789")
        assert set(half.labels.tolist()) == set(range(10))
        assert not half.images[:, :2].any()
        assert not half.images[:, :, -2:].any()
        assert half.images.max() == 255
    assert test.labels[:4].tolist() == [0, 5, 0, 5]  # the images 0, 5, 10, 15 of the original order
    assert train.labels[:8].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_digits_are_the_same_everywhere(digits: tuple[Dataset, Dataset]) -> None:
    content = b"".join(half.images.tobytes() + half.labels.astype("<i8").tobytes() for half in digits)
    assert hashlib.sha256(content).hexdigest() == "4a729e03629256c237c464b6a11c92e1ab497e3357716a35a9ce0d64d35d25f0"


def test_enlarging_is_linear_interpolation() -> None:
    small = np.random.default_rng(0).integers(0, 17, (3, 8, 8), dtype=np.uint8)
    large = enlarge(small)
    zero = Fraction(0)
    for image, row, column in [(0, 0, 0), (0, 1, 1), (1, 5, 12), (1, 23, 23), (2, 11, 22), (2, 12, 0), (2, 7, 7)]:
        total = zero
        places = [Fraction(min(max(place - 1, 0), 21), 3) for place in (row, column)]
        for y in range(8):
            for x in range(8):
                weight = max(zero, 1 - abs(places[0] - y)) * max(zero, 1 - abs(places[1] - x))
                total += weight * int(small[image, y, x])
        assert large[image, row + 2, column + 2, 0] == int(total * 255 / 16 + Fraction(1, 2))
    np.testing.assert_array_equal(large[:, 3:-2:3, 3:-2:3, 0], (small.astype(int) * 255 + 8) // 16)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "cnnrs\[demo\]"'):
        datasets.digits()


# the real files


def folder_with(name: str) -> Path:
    """Give $CNNRS_DATA if it holds the data set, else skip."""
    root = os.environ.get("CNNRS_DATA")
    if not root or not Path(root, name).is_dir():
        pytest.skip(f"CNNRS_DATA names no folder with {name}")
    return Path(root)


def test_real_mnist() -> None:
    folder_with("mnist")
    train, test = datasets.mnist(download=False)  # verifies the published checksums
    assert train.images.shape == (60000, 28, 28, 1)
    assert test.images.shape == (10000, 28, 28, 1)
    assert train.images.dtype == test.images.dtype == np.uint8
    assert train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)


def test_real_mnist_in_the_folder_itself() -> None:
    root = folder_with("mnist")
    _, test = datasets.mnist(root / "mnist", download=False)
    assert len(test) == 10000


def test_real_mnist_is_not_fashion_mnist() -> None:
    root = folder_with("mnist")
    with pytest.raises(DataError, match="found MNIST's file of the same name"):
        datasets.fashion_mnist(root / "mnist", download=False)


def test_real_fashion_mnist() -> None:
    folder_with("fashion_mnist")
    train, test = datasets.fashion_mnist(download=False)
    assert train.images.shape == (60000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[9] == "Ankle boot"
