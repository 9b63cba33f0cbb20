"""MNIST and Fashion-MNIST: 70,000 gray pictures of 28x28 pixels each, in the same four idx files.

MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits". Fashion-MNIST: H. Xiao, K.
    Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    arXiv:1708.07747.
"""

import io
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnrs._core import DataError
from cnnrs._download import cache_folder, fetch, is_offline
from cnnrs.datasets.dataset import Dataset
from cnnrs.datasets.idx import parse_idx, read_content, unpack


@dataclass(frozen=True)
class Part:
    """One of the four files.

    Attributes:
        name: File name without `.gz`.
        shape: Shape of the uint8 array in it.
        size: Bytes of the uncompressed file.
        md5: Checksum of the uncompressed file, where one is published.
        original_md5: Checksum of the compressed file as published, where that is all there is.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    md5: str | None = None
    original_md5: str | None = None


@dataclass(frozen=True)
class Source:
    """One data set: folder, class names, mirrors, files (images and labels for training, the same for the test)."""

    name: str
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    parts: tuple[Part, Part, Part, Part]


MNIST = Source(
    "mnist",
    tuple("0123456789"),
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        Part("train-images-idx3-ubyte", (60000, 28, 28), 47040016, md5="6bbc9ace898e44ae57da46a324031adb"),
        Part("train-labels-idx1-ubyte", (60000,), 60008, md5="a25bea736e30d166cdddb491f175f624"),
        Part("t10k-images-idx3-ubyte", (10000, 28, 28), 7840016, md5="2646ac647ad5339dbf082846283269ea"),
        Part("t10k-labels-idx1-ubyte", (10000,), 10008, md5="27ae3e4e09519cfbb04c329615203637"),
    ),
)
FASHION_MNIST = Source(
    "fashion_mnist",
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    (
        Part("train-images-idx3-ubyte", (60000, 28, 28), 47040016, original_md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Part("train-labels-idx1-ubyte", (60000,), 60008, original_md5="25c81989df183df01b3e8a0aad5dffbe"),
        Part("t10k-images-idx3-ubyte", (10000, 28, 28), 7840016, original_md5="bef4ecab320f06d8554ea6380940ec79"),
        Part("t10k-labels-idx1-ubyte", (10000,), 10008, original_md5="bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)
SOURCES = (MNIST, FASHION_MNIST)

# gzip adds 5 bytes to every 16 KiB that it cannot shrink, and a header
_GZIP_SLACK = 1 << 16


def mnist(root: str | os.PathLike[str] | None = None, download: bool = True) -> tuple[Dataset, Dataset]:
    """Load MNIST, the handwritten digits.

    Each file is looked for, with and without `.gz`, in `root/mnist`, `root`, `$CNNRS_DATA/mnist` and the cache
    (`$CNNRS_CACHE`, else `$XDG_CACHE_HOME/cnnrs`, else `~/.cache/cnnrs`). What is missing is downloaded into
    `root/mnist` if `root` is given, else into the cache, unless `CNNRS_OFFLINE=1` is set. The uncompressed content of
    every file is verified by size, header and MD5 at each load, wherever it came from.

    Only a download writes to the cache. One that is read-only, or whose place cannot be made, still gives the files
    that are in it; where one is missing, the OSError that names the folder comes before anything is downloaded.

    Args:
        root: A folder to look in first.
        download: Whether missing files may be downloaded.

    Returns:
        60,000 images for training and 10,000 for the test; uint8 `(N, 28, 28, 1)`, white digit on black; classes "0" to
        "9".

    Raises:
        FileNotFoundError: A file is missing and downloading is off; the text lists the folders.
        DataError: A file has the wrong content, or no mirror gave the right one.
        ConnectionError: No mirror could be reached.
        OSError: The disk refused a file.
    """
    return _load(MNIST, root, download)


def fashion_mnist(root: str | os.PathLike[str] | None = None, download: bool = True) -> tuple[Dataset, Dataset]:
    """Load Fashion-MNIST, gray pictures of clothes.

    The files are looked for as `mnist` does, in folders named `fashion_mnist`. Published are the MD5s of the compressed
    files: a download must match them. For a file that is already here, which may be plain or compressed anew, the size,
    the header and the range of the labels are verified, and that it is not MNIST's file of the same name.

    Args:
        root: A folder to look in first.
        download: Whether missing files may be downloaded.

    Returns:
        60,000 images for training and 10,000 for the test; uint8 `(N, 28, 28, 1)`; ten classes from "T-shirt/top" to
        "Ankle boot".

    Raises:
        FileNotFoundError: A file is missing and downloading is off; the text lists the folders.
        DataError: A file has the wrong content, or no mirror gave the right one.
        ConnectionError: No mirror could be reached.
        OSError: The disk refused a file.
    """
    return _load(FASHION_MNIST, root, download)


def search_folders(source: Source, root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Give the folders where the files of `source` are looked for, in order."""
    folders = [] if root is None else [Path(root, source.name), Path(root)]
    if data := os.environ.get("CNNRS_DATA"):
        folders.append(Path(data, source.name))
    return [*folders, cache_folder() / source.name]


def locate(part: Part, folders: list[Path]) -> Path | None:
    """Give the first file of this name in `folders`, compressed or plain, or None."""
    candidates = (folder / name for folder in folders for name in (f"{part.name}.gz", part.name))
    return next((path for path in candidates if path.is_file()), None)


def _load(source: Source, root: str | os.PathLike[str] | None, download: bool) -> tuple[Dataset, Dataset]:
    """Give the two halves of a data set."""
    folders = search_folders(source, root)
    arrays = []
    for part in source.parts:
        path = locate(part, folders)
        arrays.append(_check_file(part, path) if path else _fetch(source, part, folders, root is not None, download))
    train, test = (
        Dataset(images[..., np.newaxis], labels.astype(np.int64), source.classes)
        for images, labels in (arrays[:2], arrays[2:])
    )
    return train, test


def _fetch(source: Source, part: Part, folders: list[Path], into_root: bool, download: bool) -> NDArray[np.uint8]:
    """Download one file into the root (the first of `folders`) or the cache (the last), and give its array."""
    if not download or is_offline():
        reason = "CNNRS_OFFLINE forbids to download it" if download else "download=False was passed"
        looked = ", ".join(str(folder) for folder in folders)
        advice = f"put it into one of these folders or download it once from {source.mirrors[0]}{part.name}.gz"
        msg = f"{source.name}: {part.name}.gz not found in {looked}, and {reason} ({advice})"
        raise FileNotFoundError(msg)
    return fetch(
        [f"{mirror}{part.name}.gz" for mirror in source.mirrors],
        (folders[0] if into_root else folders[-1]) / f"{part.name}.gz",
        partial(_check_download, part),
        max_bytes=part.size + _GZIP_SLACK,
    )


def _check_file(part: Part, path: Path) -> NDArray[np.uint8]:
    """Give the verified array of a file on disk."""
    return _check(part, read_content(path, max_bytes=part.size), str(path))


def _check_download(part: Part, content: bytes, url: str) -> NDArray[np.uint8]:
    """Give the verified array of a download, which must be the file as published."""
    if part.original_md5 is not None:
        _compare(url, "MD5 of the compressed file", part.original_md5, _md5(content))
    return _check(part, unpack(io.BytesIO(content), url, max_bytes=part.size), url)


def _check(part: Part, content: bytearray, name: str) -> NDArray[np.uint8]:
    """Give the array of the uncompressed bytes after all that can be verified of them was."""
    array = parse_idx(content, name)
    _compare(name, "type", "uint8", array.dtype.name)
    _compare(name, "shape", part.shape, array.shape)
    digest = _md5(content)
    if part.md5 is not None:
        _compare(name, "MD5 of the uncompressed content", part.md5, digest)
    elif any(digest == other.md5 for other in MNIST.parts):
        msg = f"{name}: expected the file of Fashion-MNIST, found MNIST's file of the same name"
        raise DataError(msg)
    if array.ndim == 1 and array.max() > 9:
        place = int((array > 9).argmax())
        msg = f"{name}: label at offset {8 + place}: expected 0 to 9, found {array[place]}"
        raise DataError(msg)
    return array


def _compare(name: str, field: str, expected: object, found: object) -> None:
    """Raise DataError unless the two are equal."""
    if expected != found:
        msg = f"{name}: {field}: expected {expected}, found {found}"
        raise DataError(msg)


def _md5(content: bytes | bytearray) -> str:
    """Give the MD5 in hex; it guards against damage and mix-ups."""
    import hashlib  # not wanted by most programs

    return hashlib.md5(content, usedforsecurity=False).hexdigest()
