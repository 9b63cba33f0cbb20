"""`Module.predict` on pictures: through the model's preprocessing, and the same labels as by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import Preprocessing, ShapeError, nn
from cnnrs import functional as F
from test_resize import noise


class Net(nn.Module):
    """Five classes from pictures of 12x12."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 5)
        self.preprocessing = Preprocessing(resize=16, crop=12)
        self.input_mean, self.input_std = self.preprocessing.mean, self.preprocessing.std
        self.classes = ("ant", "bee", "cat", "dog", "eel")

    def forward(self, x: Any) -> Any:
        return self.head(F.global_avg_pool2d(F.relu(self.conv(x))))


@pytest.fixture
def net() -> Net:
    cnnrs.manual_seed(0)
    return Net()


PICTURES = [noise((20 + i, 30 - i % 20, 3), i) for i in range(70)]  # more than go through at once


def same(left: Any, right: Any) -> None:
    assert left[0].dtype == np.int64
    assert left[1].dtype == np.float32
    np.testing.assert_array_equal(left[0], right[0])
    np.testing.assert_allclose(left[1], right[1], rtol=1e-5)


def test_lists_of_arrays(net: Net) -> None:
    batch = net.preprocessing(PICTURES)  # type: ignore[misc]
    expected = net.predict(batch, top=3)
    assert expected[0].shape == (70, 3)
    same(net.predict(PICTURES, top=3), expected)
    same(net.predict(tuple(PICTURES[:2]), top=3), (expected[0][:2], expected[1][:2]))
    same(net.predict(PICTURES[:1], top=3), (expected[0][:1], expected[1][:1]))


def test_arrays_of_another_size(net: Net) -> None:
    batch = noise((40, 33, 21, 3))
    expected = net.predict(net.preprocessing(batch))  # type: ignore[misc]
    same(net.predict(batch), expected)
    same(net.predict(batch[0]), (expected[0][:1], expected[1][:1]))
    gray = net.predict(batch[0, ..., 0])
    same(gray, net.predict(np.repeat(batch[:1, ..., :1], 3, axis=3)))


def test_arrays_that_fit_go_through_as_they_are(net: Net) -> None:
    batch = noise((4, 12, 12, 3))
    expected = net.predict(batch)
    floats = net.predict(net.preprocessing.normalize(batch))  # type: ignore[union-attr]
    same(floats, expected)
    wide = np.random.default_rng(0).standard_normal((2, 15, 9, 3)).astype(np.float32)
    assert net.predict(wide)[0].shape == (2, 5)  # floats are taken as they are, whatever their size
    net.preprocessing = None
    same(net.predict(batch), expected)
    assert net.predict(noise((2, 15, 9, 3)))[0].shape == (2, 5)


def test_scaling_is_that_of_the_preprocessing(net: Net) -> None:
    expected = net.predict(PICTURES[:3])
    net.input_mean, net.input_std = (0.0,), (1.0,)
    same(net.predict(PICTURES[:3]), expected)
    net.preprocessing = Preprocessing(16, 12, mean=(0.0,), std=(1.0,))
    assert not np.allclose(net.predict(PICTURES[:3])[1], expected[1])


def test_no_pictures(net: Net) -> None:
    labels, probabilities = net.predict([], top=2)
    assert labels.shape == probabilities.shape == (0, 2)
    assert labels.dtype == np.int64


def test_names(net: Net) -> None:
    labels, _ = net.predict(PICTURES[:1], top=2)
    assert [net.classes[label] for label in labels[0]] == [net.classes[labels[0, 0]], net.classes[labels[0, 1]]]
    assert nn.Module.classes == ()
    assert nn.Module.preprocessing is None


def test_attributes_stay_with_the_model(net: Net) -> None:
    restored = pickle.loads(pickle.dumps(net))
    assert restored.preprocessing == net.preprocessing
    assert restored.classes == net.classes
    same(restored.predict(PICTURES[:2]), net.predict(PICTURES[:2]))


@pytest.mark.parametrize("images", ["a.png", Path("a.png"), PICTURES[:2], ["a.png"], (PICTURES[0],)], ids=str)
def test_a_model_without_preprocessing_says_what_to_set(net: Net, images: Any) -> None:
    net.preprocessing = None
    with pytest.raises(TypeError, match=r"^Net: pictures, paths and lists need .*set model\.preprocessing = cnnrs"):
        net.predict(images)


@pytest.mark.parametrize("images", [None, 3, [], [[1.0, 2.0]], ({},)])
def test_what_is_no_image_at_all(net: Net, images: Any) -> None:
    net.preprocessing = None
    with pytest.raises(TypeError, match=r"^Net: x must be a NumPy array"):
        net.predict(images)


def test_bad_attributes_and_arguments(net: Net) -> None:
    with pytest.raises(ValueError, match="top must be at most the number of classes, 5, got 6"):
        net.predict(PICTURES, top=6)
    with pytest.raises(TypeError, match=r"^Preprocessing: x\[1\] must be uint8"):
        net.predict([PICTURES[0], np.zeros((4, 4))])
    with pytest.raises(ShapeError, match=r"x\[0\] must have shape"):
        net.predict(noise((4, 4, 4)))
    with pytest.raises(TypeError, match=r"x\[70\] must be a path"):
        net.predict([*PICTURES, None])
    net.preprocessing = "imagenet"  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"^Net: preprocessing must be a cnnrs\.Preprocessing or None, got 'imagenet'"):
        net.predict(PICTURES)


def test_pictures_and_paths(net: Net, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(paths, PICTURES, strict=False):
        image.fromarray(array).save(path)
    expected = net.predict(PICTURES[:3])
    same(net.predict(paths), expected)
    same(net.predict([image.fromarray(PICTURES[0]), paths[1], PICTURES[2]]), expected)
    first = (expected[0][:1], expected[1][:1])
    for one in (paths[0], str(paths[0]), image.fromarray(PICTURES[0])):
        same(net.predict(one), first)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        net.predict(tmp_path / "none.png")
    net.preprocessing = None
    with pytest.raises(TypeError, match=r"set model\.preprocessing"):
        net.predict(image.fromarray(PICTURES[0]))
