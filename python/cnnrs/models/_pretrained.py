"""Published weights: found on this machine or downloaded, verified, loaded.

A file is verified at every load, wherever it lies: existence proves nothing, and the hash of ResNet-50's 100 MB takes
about 0.1 s. Only the package's own cache is ever written to.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from cnnrs._core import DataError, WeightsError
from cnnrs._download import cache_folder, is_offline
from cnnrs.models._manifest import find

if TYPE_CHECKING:
    from cnnrs.models._base import ImageClassifier
    from cnnrs.models._manifest import PublishedWeights

_FOLDER = "weights"


def apply(model: ImageClassifier, name: str, weights: str | None) -> None:
    """Load published weights into a model of the zoo, and tell it how its pictures are prepared and classes named.

    With another number of outputs than the published one everything but the classifier is loaded, and the classes stay
    unnamed.

    Args:
        model: A network as its function made it.
        name: Its registered name.
        weights: A tag of `list_weights(name)`, "DEFAULT", or None for nothing; for LeNet-5 a tag of the files that are
            shipped with the package.

    Raises:
        ValueError: unknown tag; the text lists those that there are.
        TypeError: `weights` is neither a str nor None.
        WeightsError: the file has the wrong content, or does not fit the model.
        FileNotFoundError: the file is not here, and `CNNRS_OFFLINE` forbids to download it.
        ConnectionError: it cannot be downloaded.
        OSError: the disk refused it.
    """
    if weights is None:
        return
    from cnnrs.models.lenet import WEIGHTS
    from cnnrs.preprocessing import Preprocessing
    from cnnrs.weights import load_weights

    if name == "lenet5" and weights in WEIGHTS:
        load_weights(model, Path(__file__).with_name(WEIGHTS[weights]))
        return
    record = find(name, weights)
    is_whole = model.num_classes == record.num_classes
    path = obtain(record)
    load_weights(model, path, strict=True if is_whole else "backbone")
    model.preprocessing = Preprocessing(
        resize=record.resize,
        crop=record.crop,
        interpolation=record.interpolation,
        mean=record.mean,
        std=record.std,
    )
    model.classes = record.classes if is_whole else ()


def obtain(record: PublishedWeights) -> Path:
    """Give the verified file of published weights: one that is here, else one that is downloaded into the cache.

    Raises:
        WeightsError: what is here or came is something else.
        FileNotFoundError: it is not here, and `CNNRS_OFFLINE` forbids to download it.
        ConnectionError: it cannot be downloaded; the text says where to put it by hand.
        OSError: the disk refused it.
    """
    from cnnrs._transfer import download

    path, refusals = look(record)
    if path is not None:
        return path
    what = f'weights "{record.tag}" of {record.model}'
    if is_offline():
        advice = f"download {record.urls[0]} once and put it into one of these folders"
        if refusals:
            message = f"{what}: {'; '.join(refusals)}, and CNNRS_OFFLINE forbids to download it ({advice})"
            raise WeightsError(message)
        looked = ", ".join(str(folder) for folder in search_folders())
        message = f"{what}: {record.file} not found in {looked}, and CNNRS_OFFLINE forbids to download it ({advice})"
        raise FileNotFoundError(message)
    for refusal in refusals:
        warnings.warn(f"{what}: not used, {refusal}", RuntimeWarning, stacklevel=5)
    try:
        return download(record.remote, cache_folder() / _FOLDER)
    except DataError as error:
        message = f"{what}: {error}"
        raise WeightsError(message) from error


def look(record: PublishedWeights) -> tuple[Path | None, list[str]]:
    """Look for the file of published weights on this machine.

    Returns:
        The first file that is the right one, and what is wrong with those before it.

    Raises:
        OSError: a file cannot be read, unchanged.
    """
    from cnnrs._transfer import check_file

    refusals = []
    for path in (folder / record.file for folder in search_folders()):
        if path.is_file():
            try:
                check_file(path, record.remote)
            except DataError as error:
                refusals.append(str(error))
            else:
                return path, refusals
    return None, refusals


def search_folders() -> list[Path]:
    """Give the folders where weights are looked for: the user's, the cache, the one where torch.hub keeps its own."""
    data = os.environ.get("CNNRS_DATA")
    own = [Path(data, _FOLDER), Path(data)] if data else []
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")
    torch = os.environ.get("TORCH_HOME") or Path(cache, "torch")
    return [*own, cache_folder() / _FOLDER, Path(torch, "hub", "checkpoints").expanduser()]
