"""CIFAR-10: 60,000 colour pictures of 32x32 pixels in ten classes.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cnnrs import _decode
from cnnrs._core import DataError
from cnnrs._download import cache_folder, fetch, is_offline
from cnnrs.datasets._cifar_batches import parse_batch, planes
from cnnrs.datasets._tar import Member, read_members
from cnnrs.datasets.dataset import Dataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_BATCH = 10_000  # images in each of the five batches for training and the one for the test
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_BATCHES = (*_TRAIN, "test_batch")

_MAX_BYTES = 1 << 29  # of an archive once it is unpacked; the largest known has 190 MB
_MAX_BATCH = 1 << 26
_MAX_IMAGE = 1 << 16
_MAX_MEMBERS = 70_000
_DECODED_AT_ONCE = 256

Half = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Version:
    """One of the published forms.

    Attributes:
        folder: What its archive unpacks to.
        archive: File name of the archive.
        md5: Checksum of the archive as published.
        suffix: What the names of the batches end with.
        parse: Makes images and labels of a batch, given content, name and number of images.
    """

    folder: str
    archive: str
    md5: str
    suffix: str
    parse: Callable[[bytes, str, int], Half]


def cifar10(root: str | os.PathLike[str] | None = None, download: bool = True) -> tuple[Dataset, Dataset]:
    """Load CIFAR-10.

    It is looked for in `root/cifar10`, `root`, `$CNNRS_DATA/cifar10`, `$CNNRS_DATA` and `cifar10` in the cache
    (`$CNNRS_CACHE`, else `$XDG_CACHE_HOME/cnnrs`, else `~/.cache/cnnrs`); the first folder that has it is used, in the
    form that comes first here:

    - `cifar-10-batches-py` or `cifar-10-batches-bin`, the unpacked folders, or the batches of one by themselves;
    - `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, the archives as published;
    - `cifar10-images.tar.xz` (or `.gz`, or plain): folders `train` and `test` with a folder of JPEG images for each
      class, which needs Pillow and takes about ten seconds. Images come in the order of classes and names. Such copies
      are lossy: published accuracies do not hold on them.

    What is missing is downloaded, the python version, into `root/cifar10` if `root` is given, else into the cache,
    unless `CNNRS_OFFLINE=1` is set. A download must match the published MD5; shapes, counts and the range of the labels
    are verified at each load. Pickles are read by an interpreter that executes nothing, and archives are never unpacked
    to the disk.

    Args:
        root: A folder to look in first.
        download: Whether the archive may be downloaded.

    Returns:
        50,000 images for training and 10,000 for the test; uint8 `(N, 32, 32, 3)`; ten classes from "airplane" to
        "truck".

    Raises:
        FileNotFoundError: It is nowhere, and downloading is off; the text lists the folders.
        DataError: A file has the wrong content, or the download has; the text names file and member.
        ConnectionError: The download could not be had.
        ImportError: The images are JPEG and Pillow is not installed.
        OSError: The disk refused a file.
    """
    folders = _search_folders(root)
    found = next((load for folder in folders if (load := _locate(folder))), None)
    if found is not None:
        return found()
    version = VERSIONS[0]
    if not download or is_offline():
        reason = "CNNRS_OFFLINE forbids to download it" if download else "download=False was passed"
        looked = ", ".join(str(folder) for folder in folders)
        advice = f"put it into one of these folders or download it once from {_MIRROR}{version.archive}"
        msg = f"cifar10: {version.archive} not found in {looked}, and {reason} ({advice})"
        raise FileNotFoundError(msg)
    target = (folders[-1] if root is None else folders[0]) / version.archive
    return fetch([_MIRROR + version.archive], target, partial(_check_download, version), max_bytes=_MAX_BYTES)


def _search_folders(root: str | os.PathLike[str] | None) -> list[Path]:
    """Give the folders to look in, in order; the last is the cache."""
    places = [Path(place) for place in (root, os.environ.get("CNNRS_DATA")) if place]
    return [*(folder for place in places for folder in (place / "cifar10", place)), cache_folder() / "cifar10"]


def _locate(folder: Path) -> Callable[[], tuple[Dataset, Dataset]] | None:
    """Give what loads the data set from a folder, or None if it is not there."""
    for version in VERSIONS:
        for place in (folder / version.folder, folder):
            if (place / f"{_BATCHES[0]}{version.suffix}").is_file():
                return partial(_from_folder, version, place)
    for version in VERSIONS:
        if (path := folder / version.archive).is_file():
            return partial(_from_file, path, partial(_from_archive, version))
    for suffix in (".xz", ".gz", ""):
        if (path := folder / f"cifar10-images.tar{suffix}").is_file():
            return partial(_from_file, path, _from_pictures)
    return None


def _from_folder(version: Version, folder: Path) -> tuple[Dataset, Dataset]:
    """Load the unpacked batches."""
    batches = {}
    for name in _BATCHES:
        path = folder / f"{name}{version.suffix}"
        with _regular(path) as file:
            content = file.read(_MAX_BATCH + 1)
        if len(content) > _MAX_BATCH:
            msg = f"{path}: expected at most {_MAX_BATCH} bytes, got more"
            raise DataError(msg)
        batches[name] = version.parse(content, str(path), PER_BATCH)
    return _join(batches)


def _from_file(path: Path, load: Callable[[IO[bytes], str], tuple[Dataset, Dataset]]) -> tuple[Dataset, Dataset]:
    """Load an archive on disk."""
    with _regular(path) as file:
        return load(file, str(path))


def _check_download(version: Version, content: bytes, url: str) -> tuple[Dataset, Dataset]:
    """Load a download, which must be the archive as published."""
    import hashlib  # not wanted by most programs

    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != version.md5:
        msg = f"{url}: MD5: expected {version.md5}, found {digest}"
        raise DataError(msg)
    return _from_archive(version, io.BytesIO(content), url)


def _from_archive(version: Version, file: IO[bytes], name: str) -> tuple[Dataset, Dataset]:
    """Load a published archive: its batches, whatever else is in it."""
    batches: dict[str, Half] = {}
    wanted = {f"{version.folder}/{batch}{version.suffix}": batch for batch in _BATCHES}
    for member in read_members(file, name, max_bytes=_MAX_BYTES, max_member=_MAX_BATCH, max_count=1000):
        if (batch := wanted.get(member.name)) is not None:
            if batch in batches:
                msg = f"{name}: {member.name!r}: expected it once, it is there twice"
                raise DataError(msg)
            batches[batch] = version.parse(member.content, f"{name}: {member.name!r}", PER_BATCH)
    missing = [path for path, batch in wanted.items() if batch not in batches]
    if missing:
        msg = f"{name}: expected a member {missing[0]!r}, there is none"
        raise DataError(msg)
    return _join(batches)


def _parse_binary(content: bytes, name: str, count: int) -> Half:
    """Give images and labels of a binary batch: for each image a label and three planes."""
    if len(content) != count * 3073:
        msg = f"{name}: expected {count * 3073} bytes, {count} images of 3073, got {len(content)}"
        raise DataError(msg)
    rows = np.frombuffer(content, np.uint8).reshape(count, 3073)
    labels = rows[:, 0]
    if labels.max() > 9:
        place = int((labels > 9).argmax())
        msg = f"{name}: label at offset {place * 3073}: expected 0 to 9, found {labels[place]}"
        raise DataError(msg)
    return planes(rows[:, 1:]), labels.astype(np.int64)


def _join(batches: dict[str, Half]) -> tuple[Dataset, Dataset]:
    """Give the two halves."""
    images, labels = (np.concatenate([batches[name][part] for name in _TRAIN]) for part in (0, 1))
    return Dataset(images, labels, CLASSES), Dataset(*batches["test_batch"], CLASSES)


def _from_pictures(file: IO[bytes], name: str) -> tuple[Dataset, Dataset]:
    """Load an archive of JPEG images in folders."""
    _decode.import_pillow(name)  # before anything is unpacked
    counts = {"train": 5 * PER_BATCH, "test": PER_BATCH}
    arrays = {half: np.empty((count, 32, 32, 3), np.uint8) for half, count in counts.items()}
    keys: dict[str, list[tuple[int, str]]] = {half: [] for half in counts}
    members = read_members(file, name, max_bytes=_MAX_BYTES, max_member=_MAX_IMAGE, max_count=_MAX_MEMBERS)
    groups = _grouped(_check_names(members, name), _DECODED_AT_ONCE)
    threads = _decode.thread_count()
    for decoded in _decode.map_ahead(partial(_decode_group, name), groups, threads, 4 * threads):
        for (half, label, file_name), image in decoded:
            place = len(keys[half])
            if place == counts[half]:
                msg = f"{name}: expected {counts[half]} images in {half}, there are more"
                raise DataError(msg)
            arrays[half][place] = image
            keys[half].append((label, file_name))
    halves = []
    for half, count in counts.items():
        if len(keys[half]) != count:
            msg = f"{name}: expected {count} images in {half}, got {len(keys[half])}"
            raise DataError(msg)
        order = sorted(range(count), key=keys[half].__getitem__)
        named = [keys[half][place] for place in order]
        twice = next((left for left, right in pairwise(named) if left == right), None)
        if twice is not None:
            msg = f"{name}: '{half}/{CLASSES[twice[0]]}/{twice[1]}': expected it once, it is there twice"
            raise DataError(msg)
        labels = np.array([label for label, _ in named], np.int64)
        if len(np.unique(labels)) != len(CLASSES):
            msg = f"{name}: expected images of ten classes in {half}, got those of {len(np.unique(labels))}"
            raise DataError(msg)
        in_order = order == list(range(count))
        halves.append(Dataset(arrays[half] if in_order else arrays[half][order], labels, CLASSES))
    train, test = halves
    return train, test


Key = tuple[str, int, str]
"""Half, label and file name of a picture."""


def _check_names(members: Iterable[Member], name: str) -> Iterator[tuple[Key, bytes]]:
    """Yield the pictures of an archive with what their names say."""
    labels = {title: label for label, title in enumerate(CLASSES)}
    for member in members:
        parts = member.name.split("/")[-3:]
        if parts[-1].startswith(".") or not parts[-1].lower().endswith((".jpg", ".jpeg", ".png")):
            continue
        if len(parts) != 3 or parts[0] not in ("train", "test") or parts[1] not in labels:
            msg = f"{name}: {member.name!r}: expected a name like 'train/airplane/0000.jpg'"
            raise DataError(msg)
        yield (parts[0], labels[parts[1]], parts[2]), member.content


def _grouped(items: Iterator[tuple[Key, bytes]], size: int) -> Iterator[list[tuple[Key, bytes]]]:
    """Yield lists of up to `size` items."""
    while group := list(islice(items, size)):
        yield group


def _decode_group(name: str, group: list[tuple[Key, bytes]]) -> list[tuple[Key, NDArray[np.uint8]]]:
    """Decode pictures, which must have 32x32 pixels."""
    decoded = []
    for key, content in group:
        shown = f"{name}: '{key[0]}/{CLASSES[key[1]]}/{key[2]}'"
        image = _decode.read_rgb(io.BytesIO(content), shown, max_pixels=32 * 32)
        if image.shape != (32, 32, 3):
            msg = f"{shown}: expected 32x32 pixels, got {image.shape[0]}x{image.shape[1]}"
            raise DataError(msg)
        decoded.append((key, image))
    return decoded


def _regular(path: Path) -> IO[bytes]:
    """Open a regular file."""
    if not stat.S_ISREG(path.stat().st_mode):
        msg = f"{path}: expected a regular file"
        raise DataError(msg)
    return path.open("rb")


VERSIONS = (
    Version(
        "cifar-10-batches-py", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "", parse_batch
    ),
    Version(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", ".bin", _parse_binary
    ),
)  # fmt: skip
_MIRROR = "https://www.cs.toronto.edu/~kriz/"
