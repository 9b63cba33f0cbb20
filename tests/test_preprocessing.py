"""From pictures to batches: as torchvision's presets do it with Pillow, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cnnrs
from cnnrs import DataError, Preprocessing, ShapeError
from test_resize import noise, resize

SMALL = Preprocessing(resize=16, crop=12)


def by_hand(x: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize, pad and crop (H, W, C) with torchvision's formulas, all of the picture at each step."""
    h, w = x.shape[:2]
    short, long = min(h, w), max(h, w)
    longer = int(preprocessing.resize * long / short)
    size = (preprocessing.resize, longer) if h <= w else (longer, preprocessing.resize)
    y = resize(x[np.newaxis], size, preprocessing.interpolation)[0]
    crop = preprocessing.crop
    if crop > size[0] or crop > size[1]:
        left, top = ((crop - side) // 2 if crop > side else 0 for side in size[::-1])
        right, bottom = ((crop - side + 1) // 2 if crop > side else 0 for side in size[::-1])
        y = np.pad(y, ((top, bottom), (left, right), (0, 0)))
    top, left = (round((side - crop) / 2.0) for side in y.shape[:2])
    return np.broadcast_to(y[top : top + crop, left : left + crop], (crop, crop, 3))


@given(
    h=st.integers(1, 90),
    w=st.integers(1, 90),
    c=st.sampled_from([1, 3]),
    side=st.integers(1, 60),
    crop=st.integers(1, 60),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_equals_the_steps_one_by_one(h: int, w: int, c: int, side: int, crop: int, interpolation: str) -> None:
    preprocessing = Preprocessing(side, crop, interpolation)
    x = noise((h, w, c), seed=h)
    y = preprocessing(x)
    assert y.shape == (1, crop, crop, 3)
    assert y.dtype == np.uint8
    np.testing.assert_array_equal(y[0], by_hand(x, preprocessing))


def test_defaults_are_those_of_imagenet() -> None:
    preprocessing = Preprocessing()
    assert (preprocessing.resize, preprocessing.crop, preprocessing.interpolation) == (256, 224, "bilinear")
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.229, 0.224, 0.225)
    assert preprocessing(noise((300, 400, 3))).shape == (1, 224, 224, 3)


def test_forms_of_arrays() -> None:
    gray = noise((2, 20, 30))
    batch = np.repeat(gray[..., np.newaxis], 3, axis=3)
    expected = SMALL(batch)
    assert expected.shape == (2, 12, 12, 3)
    np.testing.assert_array_equal(SMALL(gray[..., np.newaxis]), expected)
    np.testing.assert_array_equal(SMALL(gray[0]), expected[:1])
    np.testing.assert_array_equal(SMALL(gray[0][..., np.newaxis]), expected[:1])
    np.testing.assert_array_equal(SMALL(batch[0]), expected[:1])
    np.testing.assert_array_equal(SMALL([gray[0], batch[1]]), expected)
    np.testing.assert_array_equal(SMALL((batch[0], gray[1][..., np.newaxis])), expected)
    np.testing.assert_array_equal(SMALL(batch[:, ::-1][:, ::-1]), expected)
    assert SMALL([]).shape == SMALL(batch[:0]).shape == (0, 12, 12, 3)


def test_result_is_never_a_view() -> None:
    x = noise((1, 16, 16, 3))
    same = Preprocessing(resize=16, crop=16)
    for preprocessing in (same, SMALL):
        y = preprocessing(x)
        assert not np.shares_memory(x, y)
        y[:] = 0  # writable
    np.testing.assert_array_equal(same(x), x)


def test_number_of_threads_plays_no_part() -> None:
    pictures = [noise((10 + i, 40 - i, 3), i) for i in range(20)]
    expected = np.concatenate([SMALL(picture) for picture in pictures])
    for threads in (1, 2, 5, None):
        np.testing.assert_array_equal(SMALL(pictures, threads=threads), expected)


def test_normalize() -> None:
    batch = SMALL(noise((3, 20, 30, 3)))
    y = SMALL.normalize(batch)
    mean, std = np.array(SMALL.mean), np.array(SMALL.std)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, (batch / 255.0 - mean) / std, rtol=0, atol=4e-7)  # values up to 2.7, rounded once
    one = dataclasses.replace(SMALL, mean=(0.5,), std=(0.25,))
    np.testing.assert_allclose(one.normalize(batch), (batch / 255.0 - 0.5) / 0.25, rtol=0, atol=2e-7)
    assert SMALL.normalize(batch[:0]).shape == (0, 12, 12, 3)


def test_the_network_scales_bytes_alike() -> None:
    net = cnnrs.nn.Identity()
    net.input_mean, net.input_std = SMALL.mean, SMALL.std
    batch = SMALL(noise((2, 20, 30, 3)))
    np.testing.assert_array_equal(net(batch), SMALL.normalize(batch))


def test_is_a_value() -> None:
    assert pickle.loads(pickle.dumps(SMALL)) == copy.deepcopy(SMALL) == SMALL
    assert hash(SMALL) == hash(Preprocessing(np.int64(16), 12, mean=list(SMALL.mean)))  # type: ignore[arg-type]
    assert repr(SMALL).startswith("Preprocessing(resize=16, crop=12, interpolation='bilinear', mean=(0.485,")
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.crop = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"resize": 0}, ValueError, "^Preprocessing: resize must be from 1 to 1048576, got 0"),
        ({"resize": 1 << 70}, ValueError, "resize must be from 1"),
        ({"crop": -1}, ValueError, "crop must be from 1"),
        ({"crop": 2.0}, TypeError, "crop must be an int"),
        ({"resize": True}, TypeError, "resize must be an int"),
        ({"interpolation": "nearest"}, ValueError, 'interpolation must be "bilinear" or "bicubic", got \'nearest\''),
        ({"interpolation": None}, ValueError, "interpolation must be"),
        ({"mean": 0.5}, TypeError, "mean must be a tuple of numbers"),
        ({"mean": ("a", "b", "c")}, TypeError, "mean must be a number"),
        ({"mean": (0.5, 0.5)}, ValueError, "mean must have 3 numbers, or 1 for all channels, got 2"),
        ({"mean": (float("nan"),)}, ValueError, "mean must be finite"),
        ({"std": (0.2, 0.0, 0.2)}, ValueError, "std must be above 0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Preprocessing(**options)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (noise((4, 4, 3)).astype(np.float32), TypeError, "^Preprocessing: x must be uint8, got a float32 array"),
        ([noise((4, 4)), noise((4, 4)).astype(bool)], TypeError, r"x\[1\] must be uint8, got a bool array"),
        (noise((4, 4, 4)), ShapeError, r"x must have shape \(H, W, 3\).*got \(4, 4, 4\)"),
        (noise((4,)), ShapeError, "x must have shape"),
        (noise((1, 1, 4, 4, 3)), ShapeError, "x must have shape"),
        (noise((0, 4, 3)), ShapeError, "x has 0x4 pixels"),
        ([noise((4, 4)), noise((4, 0))], ShapeError, r"x\[1\] has 4x0 pixels"),
        (noise((1, 70000)), ShapeError, "x has 1x70000 pixels.*at most 1048576"),
        ([noise((2, 4, 4, 3))], ShapeError, r"x\[0\] must be one image"),
        ([noise((1, 4, 4, 3))], ShapeError, r"x\[0\] must be one image"),
        (None, TypeError, "x must be a path, a Pillow image or a uint8 array, got None"),
        (3, TypeError, "x must be a path"),
        ([[1, 2]], TypeError, r"x\[0\] must be a path"),
        (b"a.png", TypeError, "x must be a path"),
        (iter([]), TypeError, "x must be a path"),
    ],
)
def test_bad_images(images: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SMALL(images)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="threads must be from 1 to 256"):
        SMALL([], threads=0)
    for wrong, error in [
        (np.zeros((1, 2, 2, 3)), TypeError),
        (np.zeros((2, 2, 3), np.uint8), ShapeError),
        (1, TypeError),
    ]:
        with pytest.raises(error, match=r"Preprocessing\.normalize: batch must"):
            SMALL.normalize(wrong)  # type: ignore[arg-type]


# Pillow


@pytest.fixture
def image() -> Any:
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def test_paths_and_pictures(image: Any, tmp_path: Path) -> None:
    arrays = [noise((20 + i, 33, 3), i) for i in range(5)]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for array, path in zip(arrays, paths, strict=True):
        image.fromarray(array).save(path)
    expected = SMALL(arrays)
    np.testing.assert_array_equal(SMALL(paths), expected)
    np.testing.assert_array_equal(SMALL([str(path) for path in paths]), expected)
    np.testing.assert_array_equal(SMALL([image.fromarray(array) for array in arrays]), expected)
    np.testing.assert_array_equal(SMALL([paths[0], arrays[1], image.fromarray(arrays[2])]), expected[:3])
    np.testing.assert_array_equal(SMALL(paths[0]), expected[:1])
    np.testing.assert_array_equal(SMALL(str(paths[0])), expected[:1])
    with image.open(paths[0]) as picture:
        np.testing.assert_array_equal(SMALL(picture), expected[:1])


def test_colours_become_rgb(image: Any, tmp_path: Path) -> None:
    rgb = noise((16, 16, 3))
    keep = Preprocessing(16, 16)
    picture = image.fromarray(rgb)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "1"):
        converted = picture.convert(mode)
        np.testing.assert_array_equal(keep(converted)[0], np.asarray(converted.convert("RGB")), err_msg=mode)
    half_clear = image.merge("RGBA", [*picture.split(), image.new("L", (16, 16), 100)])
    np.testing.assert_array_equal(keep(half_clear)[0], rgb)  # transparency is dropped
    half_clear.save(tmp_path / "clear.png")
    np.testing.assert_array_equal(keep(tmp_path / "clear.png")[0], rgb)


def test_sixteen_bits(image: Any, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 1 << 16, (16, 16), dtype=np.uint16)
    image.fromarray(deep).save(tmp_path / "deep.png")
    with image.open(tmp_path / "deep.png") as picture:
        if not picture.mode.startswith("I;16"):
            pytest.skip("this Pillow reads 16 bits as 32")
    y = Preprocessing(16, 16)(tmp_path / "deep.png")
    np.testing.assert_array_equal(y[0], np.repeat((deep >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2))


def test_thirty_two_bits_are_refused(image: Any, tmp_path: Path) -> None:
    for mode in ("F", "I"):
        with pytest.raises(DataError, match=f"expected 8 or 16 bits a channel, got a picture of mode {mode}"):
            SMALL(image.new(mode, (4, 4)))
    image.new("F", (4, 4)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f\.tiff: expected 8 or 16 bits"):
        SMALL(tmp_path / "f.tiff")


def test_orientation_plays_no_part(image: Any, tmp_path: Path) -> None:
    picture = image.fromarray(noise((20, 40, 3)))
    exif = image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(SMALL(tmp_path / "turned.png"), SMALL(picture))


def damaged(image: Any, folder: Path) -> dict[str, Path]:
    """Files that are no pictures, by what is wrong with them."""
    image.fromarray(noise((64, 64, 3))).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    files = {
        "empty.jpg": b"",
        "text.jpg": b"this is no picture",
        "cut.jpg": whole[: len(whole) // 2],
        "header.jpg": whole[:20],
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


def test_damaged_files_are_named(image: Any, tmp_path: Path) -> None:
    for name, path in damaged(image, tmp_path).items():
        with pytest.raises(DataError, match=f"{name}: expected a picture"):
            SMALL(path)
        with pytest.raises(DataError, match=f"{name}: expected a picture"):
            SMALL([tmp_path / "whole.jpg", path])


def test_files_that_cannot_be_read(image: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        SMALL(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        SMALL(tmp_path)
    image.new("L", (70000, 1)).save(tmp_path / "long.png")
    with pytest.raises(DataError, match=r"long\.png: Preprocessing: x has 1x70000 pixels"):
        SMALL(tmp_path / "long.png")


def test_bombs_are_refused_by_their_header(image: Any, tmp_path: Path) -> None:
    image.new("1", (11000, 10000)).save(tmp_path / "bomb.png")  # 110 million pixels in 14 kB
    with pytest.raises(DataError, match=r"bomb\.png: expected at most 100000000 pixels, got 11000x10000"):
        SMALL(tmp_path / "bomb.png")
    image.new("1", (20000, 10000)).save(tmp_path / "large.png")  # Pillow itself refuses
    with pytest.raises(DataError, match=r"large\.png: expected a picture: .*decompression bomb"):
        SMALL(tmp_path / "large.png")


def test_a_picture_below_the_limit_brings_no_warning(image: Any, tmp_path: Path) -> None:
    image.new("1", (9500, 10000)).save(tmp_path / "most.png")  # Pillow warns above 89 million
    assert SMALL(tmp_path / "most.png").shape == (1, 12, 12, 3)  # warnings are errors here


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "cnnrs\[image\]"'):
        SMALL(tmp_path / "a.png")
    assert SMALL(noise((9, 9, 3))).shape == (1, 12, 12, 3)


def test_pillow_and_threads_are_not_imported_with_the_package(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    program = (
        "import sys, cnnrs, numpy\n"
        "cnnrs.Preprocessing()(numpy.zeros((9, 9), numpy.uint8))\n"
        "print([name for name in ('PIL', 'concurrent.futures', 'lzma', 'tarfile') if name in sys.modules])"
    )
    done = run_python(program)
    assert done.stdout.strip() == "[]", done.stderr
