"""Which files below a folder are pictures, and of which class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnrs import _decode
from cnnrs._core import DataError


def list_pictures(root: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.int64]]:
    """Give classes, paths and labels of the pictures below a folder; see `ImageFolder`.

    Raises:
        DataError: There is no class, or a class without pictures.
        OSError: A folder is missing or cannot be read.
    """
    with os.scandir(root) as entries:
        classes = tuple(sorted(entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry)))
    if not classes:
        msg = f"{root}: expected a folder for each class, there is none"
        raise DataError(msg)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / name
        found = sorted(_pictures_below(folder), key=lambda path: Path(path).parts)
        if not found:
            msg = f"{folder}: expected pictures ({', '.join(_decode.SUFFIXES)}), there are none"
            raise DataError(msg)
        paths += found
        labels += [label] * len(found)
    array = np.array(labels, np.int64)
    array.flags.writeable = False
    return classes, tuple(paths), array


def _pictures_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the pictures below a folder, in any order; links may lead in a circle."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                if entry.name[0] == ".":
                    continue
                if _is_folder(entry):
                    waiting.append(entry.path)
                elif entry.name.lower().endswith(_decode.SUFFIXES) and _may_be_picture(entry):
                    yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell folders and links to folders; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _may_be_picture(entry: os.DirEntry[str]) -> bool:
    """Tell files, and links that lead nowhere, from pipes and devices, which could be waited for forever."""
    path = Path(entry.path)
    return path.is_file() or (entry.is_symlink() and not path.exists())
