"""What is published: weights of the zoo's networks, with everything that must be known to use them.

The facts of ImageNet's weights are torchvision's: file names, sizes, accuracies on ImageNet's validation images with
the preprocessing given, parameters and multiply-accumulate operations. Published of a file are its size in MiB, rounded
to three digits, and in its name the first eight hex digits of its SHA-256. So the size in bytes is known to about 1 KiB
only, and the hash is checked as torch.hub does; a whole hash stands here only for files that were at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnnrs import _args
from cnnrs.models._registry import list_models

if TYPE_CHECKING:
    from cnnrs._transfer import RemoteFile

DEFAULT = "DEFAULT"
"""The name of the best weights of every network."""

_FOLDER = "https://download.pytorch.org/models/"
_LICENCE = "BSD-3-Clause"
_TERMS = (
    "trained on ImageNet (ILSVRC 2012), whose terms of access allow the images for non-commercial research and "
    "education only; whether they bind the use of weights trained on them is for the user to judge"
)


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that somebody published for a network of the zoo.

    Attributes:
        model: The network's name in `list_models()`.
        tag: The name of the weights, as `weights=` takes it.
        file: The file's name.
        urls: Where it is published.
        min_bytes: The least size that the file can have.
        max_bytes: The greatest size that the file can have.
        sha256_prefix: How the SHA-256 of the file begins, in hex.
        sha256: All of it, where known.
        licence: The licence of the weights, as SPDX names it.
        terms: What they were trained on, and on what terms.
        resize: Pixels of a picture's shorter side after scaling.
        crop: Pixels of the square cut out of its middle.
        interpolation: How pictures are scaled.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel.
        num_classes: Number of outputs.
        top1: Published share of test images whose first guess is right, in percent.
        top5: The same for one of the first five guesses.
        params: Number of parameters.
        gmacs: Thousand million multiply-accumulate operations for one image of `crop` × `crop` pixels.
        is_default: Whether `weights="DEFAULT"` means these.
    """

    model: str
    tag: str
    file: str
    urls: tuple[str, ...]
    min_bytes: int
    max_bytes: int
    sha256_prefix: str
    sha256: str | None
    licence: str
    terms: str
    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    top1: float
    top5: float
    params: int
    gmacs: float
    is_default: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs."""
        return imagenet_classes()

    @property
    def remote(self) -> RemoteFile:
        """The file as the downloader knows it."""
        from cnnrs._transfer import RemoteFile  # most programs download nothing

        return RemoteFile(self.file, self.urls, self.min_bytes, self.max_bytes, self.sha256 or self.sha256_prefix)


def _imagenet(
    model: str,
    tag: str,
    file: str,
    mib: float,
    resize: int,
    accuracy: tuple[float, float],
    params: int,
    gmacs: float,
    is_default: bool = True,
) -> PublishedWeights:
    """Give one of torchvision's weights for ImageNet."""
    return PublishedWeights(
        model,
        tag,
        file,
        (_FOLDER + file,),
        # half a unit of the last digit each way
        min_bytes=math.ceil((mib - 0.0005) * 2**20),
        max_bytes=math.floor((mib + 0.0005) * 2**20),
        sha256_prefix=Path(file).stem.rpartition("-")[2],
        sha256=None,
        licence=_LICENCE,
        terms=_TERMS,
        resize=resize,
        crop=224,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_classes=1000,
        top1=accuracy[0],
        top5=accuracy[1],
        params=params,
        gmacs=gmacs,
        is_default=is_default,
    )


_V1, _V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
# network, tag, file, MiB, resize, top-1 and top-5, parameters, GMACs
WEIGHTS: tuple[PublishedWeights, ...] = (
    _imagenet("alexnet", _V1, "alexnet-owt-7be5be79.pth", 233.087, 256, (56.522, 79.066), 61_100_840, 0.714),
    _imagenet("vgg11", _V1, "vgg11-8a719046.pth", 506.84, 256, (69.02, 88.628), 132_863_336, 7.609),
    _imagenet("vgg11_bn", _V1, "vgg11_bn-6002323d.pth", 506.881, 256, (70.37, 89.81), 132_868_840, 7.609),
    _imagenet("vgg13", _V1, "vgg13-19584684.pth", 507.545, 256, (69.928, 89.246), 133_047_848, 11.308),
    _imagenet("vgg13_bn", _V1, "vgg13_bn-abd245e5.pth", 507.59, 256, (71.586, 90.374), 133_053_736, 11.308),
    _imagenet("vgg16", _V1, "vgg16-397923af.pth", 527.796, 256, (71.592, 90.382), 138_357_544, 15.47),
    _imagenet("vgg16_bn", _V1, "vgg16_bn-6c64b313.pth", 527.866, 256, (73.36, 91.516), 138_365_992, 15.47),
    _imagenet("vgg19", _V1, "vgg19-dcbb9e9d.pth", 548.051, 256, (72.376, 90.876), 143_667_240, 19.632),
    _imagenet("vgg19_bn", _V1, "vgg19_bn-c79401a0.pth", 548.143, 256, (74.218, 91.842), 143_678_248, 19.632),
    _imagenet("resnet18", _V1, "resnet18-f37072fd.pth", 44.661, 256, (69.758, 89.078), 11_689_512, 1.814),
    _imagenet("resnet34", _V1, "resnet34-b627a593.pth", 83.275, 256, (73.314, 91.42), 21_797_672, 3.664),
    _imagenet(
        "resnet50", _V1, "resnet50-0676ba61.pth", 97.781, 256, (76.13, 92.862), 25_557_032, 4.089, is_default=False
    ),
    _imagenet("resnet50", _V2, "resnet50-11ad3fa6.pth", 97.79, 232, (80.858, 95.434), 25_557_032, 4.089),
    _imagenet(
        "resnet101", _V1, "resnet101-63fe2227.pth", 170.511, 256, (77.374, 93.546), 44_549_160, 7.801, is_default=False
    ),
    _imagenet("resnet101", _V2, "resnet101-cd907fc2.pth", 170.53, 232, (81.886, 95.78), 44_549_160, 7.801),
    _imagenet(
        "resnet152", _V1, "resnet152-394f9c45.pth", 230.434, 256, (78.312, 94.046), 60_192_808, 11.514, is_default=False
    ),
    _imagenet("resnet152", _V2, "resnet152-f82ba261.pth", 230.474, 232, (82.284, 96.002), 60_192_808, 11.514),
)


def list_weights(name: str | None = None) -> list[PublishedWeights]:
    """Return what is known of the published weights, of one network or of all.

    Nothing is downloaded. `models.get_model(record.model, weights=record.tag)` makes the network with these weights.

    Args:
        name: One of `list_models()`, or None for all.

    Returns:
        A record for each, the best weights of a network last.

    Raises:
        ValueError: unknown name.
        TypeError: `name` is neither a str nor None.

    Examples:
        >>> from cnnrs import models
        >>> [(record.tag, record.top1) for record in models.list_weights("resnet50")]
        [('IMAGENET1K_V1', 76.13), ('IMAGENET1K_V2', 80.858)]
        >>> models.list_weights("resnet50")[-1].licence
        'BSD-3-Clause'
    """
    if name is None:
        return list(WEIGHTS)
    if not isinstance(name, str):
        message = f"list_weights: name must be a str or None, got {_args.show(name)}"
        raise TypeError(message)
    records = [record for record in WEIGHTS if record.model == name]
    if not records and name not in list_models():
        from difflib import get_close_matches

        published = sorted({record.model for record in WEIGHTS})
        near = get_close_matches(name[:100], {*published, *list_models()}, cutoff=0.4) or published
        message = f"list_weights: there is no model {_args.show(name)}; near names: {', '.join(near)}"
        raise ValueError(message)
    return records


def find(model: str, tag: object) -> PublishedWeights:
    """Return the weights of a network by tag; "DEFAULT" is another name of the best.

    Raises:
        ValueError: there are none of this tag; the text lists those that are.
        TypeError: `tag` is not a str.
    """
    records = [record for record in WEIGHTS if record.model == model]
    tags = [record.tag for record in records]
    words = " or ".join([*(f'"{tag}"' for tag in tags), *([f'"{DEFAULT}"'] if tags else []), "None"])
    if not isinstance(tag, str):
        message = f"{model}: weights must be {words}, got {_args.show(tag)}"
        raise TypeError(message)
    for record in records:
        if tag == record.tag or (tag == DEFAULT and record.is_default):
            return record
    known = f"weights must be {words}" if tags else "there are no published weights; weights must be None"
    message = f"{model}: {known}, got {_args.show(tag)}"
    raise ValueError(message)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return short English names of ImageNet's 1,000 classes in the order of the outputs, as torchvision has them.

    The order is that of the WordNet identifiers of ILSVRC 2012's classes. The file holds one name a line and is read
    at the first call.
    """
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
