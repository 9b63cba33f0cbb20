"""The whole networks that are measured: input, classes, work. Standard library only."""

from dataclasses import dataclass

from benches.shapes import load, total_macs

MODES = ("train", "infer")


@dataclass(frozen=True)
class Network:
    """What both sides must agree on; convolutions are in the network's shape file.

    Attributes:
        image: (H, W, C) of one image.
        classes: Number of outputs.
        linear: (in, out) of each fully connected layer.
        dropout: Whether it has dropout: the losses of two libraries then differ from the first step on.
        options: What the maker in `cnnrs.models` is called with.
    """

    image: tuple[int, int, int]
    classes: int
    linear: tuple[tuple[int, int], ...]
    dropout: bool = False
    options: tuple[tuple[str, str], ...] = ()


_IMAGE = (224, 224, 3)
NETWORKS = {
    "lenet5": Network(
        (28, 28, 1), 10, ((400, 120), (120, 84), (84, 10)), options=(("activation", "relu"), ("pool", "max"))
    ),
    "alexnet": Network(_IMAGE, 1000, ((9216, 4096), (4096, 4096), (4096, 1000)), dropout=True),
    "vgg16": Network(_IMAGE, 1000, ((25088, 4096), (4096, 4096), (4096, 1000)), dropout=True),
    "resnet18": Network(_IMAGE, 1000, ((512, 1000),)),
    "resnet50": Network(_IMAGE, 1000, ((2048, 1000),)),
}


def macs(network: str) -> int:
    """Multiply-adds of convolutions and fully connected layers in one forward pass of one image."""
    return total_macs(load(network)) + sum(rows * columns for rows, columns in NETWORKS[network].linear)


def flops(network: str, mode: str, batch: int) -> float:
    """Flops of one call, 2 per multiply-add of the direct convolution.

    A training step has three passes through every layer, less the data gradient of the first: images need none.
    """
    forward = macs(network)
    if mode == "infer":
        return 2.0 * batch * forward
    return 2.0 * batch * (3 * forward - load(network)[0].shape.macs)
