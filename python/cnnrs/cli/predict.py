"""Recognise the handwritten digit in an image with LeNet-5, or what a picture shows with another network.

Other networks (--model) take a picture through the preprocessing of their published weights, or through that of
ImageNet's networks, --resize and --crop, for a file of weights that says none.

For LeNet-5 the image becomes what MNIST looks like, a white digit on black, 28x28 gray pixels: it is made gray,
inverted if the mean of its outermost pixels is above 127, and, unless it is 28x28 already, cropped to the digit, scaled
so that the longer side is 20 pixels, and placed with its centre of mass in the middle.
"""

import argparse
import os
import warnings
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

import cnnrs
from cnnrs._core import DataError
from cnnrs.cli import _options as options

SIDE = 28
_INNER = 20
_INK = 64  # of 255, after stretching: a darker pixel is background
_MOST_PIXELS = 50_000_000
_NPY_MAGIC = b"\x93NUMPY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs predict`."""
    parser.add_argument(
        "image", metavar="IMAGE", help="picture (PNG, JPEG, ...: needs Pillow) or .npy array, (H, W[, 1 or 3])"
    )
    parser.add_argument("--model", default="lenet5", metavar="NAME", help="name of the network (default lenet5)")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="file of weights (default: the published ones; MNIST's come with the package)",
    )
    parser.add_argument("--resize", type=options.count, metavar="N", help="shorter side of a picture (default 256)")
    parser.add_argument("--crop", type=options.count, metavar="N", help="sides of what the network sees (default 224)")
    parser.add_argument("--top", type=options.count, default=3, metavar="N", help="how many labels to show (default 3)")
    options.add_network(parser)


def run(args: argparse.Namespace) -> None:
    """Read, recognise, print."""
    if args.model != "lenet5":
        _run_on_picture(args)
        return
    if args.resize is not None or args.crop is not None:
        msg = "--resize and --crop: expected another --model, LeNet-5 takes digits of 28x28 pixels"
        raise ValueError(msg)
    image = fit_digit(read_image(args.image))
    if args.weights is None:
        model = options.make_network(args, "lenet5", weights="MNIST")
    else:
        model = options.make_network(args, "lenet5")
        cnnrs.load_weights(model, args.weights)
    labels, probabilities = model.predict(image[np.newaxis, ..., np.newaxis], top=min(args.top, 10))
    for label, probability in zip(labels[0], probabilities[0], strict=True):
        print(f"{label}  {probability:.4f}")


def _run_on_picture(args: argparse.Namespace) -> None:
    """Recognise what a picture shows."""
    if args.weights is None:
        model = cnnrs.models.get_model(args.model, weights="DEFAULT")
    else:
        model = cnnrs.models.get_model(args.model)
        cnnrs.load_weights(model, args.weights)
    given = {name: value for name, value in (("resize", args.resize), ("crop", args.crop)) if value is not None}
    known = model.preprocessing or cnnrs.Preprocessing(mean=model.input_mean, std=model.input_std)
    model.preprocessing = replace(known, **given)
    labels, probabilities = model.predict(args.image, top=args.top)
    for label, probability in zip(labels[0], probabilities[0], strict=True):
        print(f"{model.classes[label] if model.classes else label}  {probability:.4f}")


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture, or an array that `numpy.save` wrote, as gray.

    Colours are mixed as `(299 R + 587 G + 114 B) / 1000`; transparent parts of a picture count as white.

    Args:
        path: The file; which kind it is is told by its content.

    Returns:
        `(H, W)`, uint8.

    Raises:
        ImportError: The file is no .npy array and Pillow is not installed.
        DataError: The file is neither a picture nor an array of uint8, or of floats from 0 to 1, of a fitting shape.
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        is_array = file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    return _read_array(str(path)) if is_array else _read_picture(str(path))


def fit_digit(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a gray image into the form of MNIST's; the module's text says how.

    Args:
        gray: `(H, W)`, uint8.

    Returns:
        `(28, 28)`, uint8.

    Raises:
        DataError: The image is of one colour only, so that there is no digit in it.
    """
    border = np.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])
    if border.mean() > 127:
        gray, border = 255 - gray, 255 - border
    if gray.shape == (SIDE, SIDE):
        return gray
    background = int(np.median(border))
    ink = np.maximum(gray.astype(np.int64) - background, 0)
    if not ink.any():
        msg = f"image: expected a digit, got {gray.shape[0]}x{gray.shape[1]} pixels no brighter than the border"
        raise DataError(msg)
    ink = ink * 255 // ink.max()
    rows, columns = ((ink >= _INK).any(axis=axis).nonzero()[0] for axis in (1, 0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longer = max(digit.shape)
    height, width = (max(_INNER * size // longer, 1) for size in digit.shape)
    small = _resize(digit, height, width)
    top, left = _corner(small, 0), _corner(small, 1)
    result = np.zeros((SIDE, SIDE), np.uint8)
    result[top : top + height, left : left + width] = small
    return result


def _read_array(name: str) -> NDArray[np.uint8]:
    """Read a .npy file as gray; what its header claims is checked before memory is taken."""
    with Path(name).open("rb") as file:
        try:
            version = npy_format.read_magic(file)
            read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, by_columns, dtype = read_header(file)
        except OSError:
            raise
        except Exception as error:  # NumPy's reader of headers raises nearly anything for a damaged one
            msg = f"{name}: expected the header of a .npy array: {error}"
            raise DataError(msg) from error
        if len(shape) not in {2, 3} or shape[2:] not in {(), (1,), (3,)} or min(shape) < 1:
            msg = f"{name}: expected an array of shape (H, W), (H, W, 1) or (H, W, 3), got {shape}"
            raise DataError(msg)
        _check_size(name, shape)
        if dtype != np.uint8 and dtype.kind != "f":
            msg = f"{name}: expected uint8, or floats from 0 to 1, got {dtype}"
            raise DataError(msg)
        content = file.read(prod(shape) * dtype.itemsize + 1)
    if len(content) != prod(shape) * dtype.itemsize:
        found = f"{len(content)} (truncated)" if len(content) < prod(shape) * dtype.itemsize else "more"
        msg = f"{name}: expected {prod(shape) * dtype.itemsize} bytes for {shape} of {dtype}, got {found}"
        raise DataError(msg)
    image = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
    return _mix(_as_bytes(name, image))


def _as_bytes(name: str, image: NDArray[Any]) -> NDArray[np.uint8]:
    """Give uint8 from uint8, or from floats from 0 to 1."""
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):
        msg = f"{name}: expected floats from 0 to 1, got {low:g} to {high:g}"
        raise DataError(msg)
    return np.asarray(np.rint(image * 255), np.uint8)


def _mix(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give gray `(H, W)` from `(H, W)`, `(H, W, 1)` or RGB."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image.reshape(image.shape[:2])
    wide = image.astype(np.int32)
    gray: NDArray[Any] = (299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2] + 500) // 1000
    return np.asarray(gray, np.uint8)


def _read_picture(name: str) -> NDArray[np.uint8]:
    """Read a picture with Pillow as gray."""
    try:
        from PIL import Image, ImageOps  # optional
    except ModuleNotFoundError as error:
        msg = f'{name}: reading pictures needs Pillow: pip install "cnnrs[image]"'
        raise ImportError(msg) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(name) as picture:
                _check_size(name, (picture.height, picture.width))
                if picture.mode[0] in "IF":  # Pillow would clip these at 255
                    msg = f"{name}: expected 8 bits a channel, got a picture of mode {picture.mode}"
                    raise DataError(msg)
                upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        msg = f"{name}: expected a picture or a .npy array: {error}"
        raise DataError(msg) from error
    white = Image.new("RGBA", upright.size, "white")
    return _mix(np.asarray(Image.alpha_composite(white, upright).convert("RGB")))


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    """Raise DataError for an image that is too large to be a digit."""
    if shape[0] * shape[1] > _MOST_PIXELS:
        msg = f"{name}: expected at most {_MOST_PIXELS} pixels, got {shape[0]}x{shape[1]}"
        raise DataError(msg)


def _resize(image: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Scale by averaging over the area that each new pixel covers, with integers, rounded halves up."""
    rows, columns = _overlaps(image.shape[0], height), _overlaps(image.shape[1], width)
    area = image.shape[0] * image.shape[1]
    sums: NDArray[np.int64] = rows @ image @ columns.T
    return np.asarray((sums + area // 2) // area, np.int64)


def _overlaps(size: int, new_size: int) -> NDArray[np.int64]:
    """Give `(new_size, size)`: how much of each old pixel each new one covers, in units of `1 / new_size`."""
    new = np.arange(new_size)[:, np.newaxis] * size
    old = np.arange(size) * new_size
    overlaps: NDArray[np.int64] = np.minimum(new + size, old + new_size) - np.maximum(new, old)
    overlaps[overlaps < 0] = 0
    return overlaps


def _corner(image: NDArray[np.int64], axis: int) -> int:
    """Give where an axis starts in 28 pixels so that the centre of mass is in the middle and nothing is cut off."""
    size: int = image.shape[axis]
    weights = image.sum(axis=1 - axis)
    centre = int(((2 * np.arange(size) + 1) * weights).sum() // (2 * weights.sum()))
    return min(max(SIDE // 2 - centre, 0), SIDE - size)
