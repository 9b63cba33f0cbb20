"""Arguments that several subcommands share, and what is made of them."""

import argparse
from math import isfinite
from typing import Any

from cnnrs import datasets, models, set_num_threads
from cnnrs.datasets import Dataset
from cnnrs.models._base import ImageClassifier
from cnnrs.models.cifar_resnet import CifarResNet
from cnnrs.models.lenet import LeNet5
from cnnrs.nn import Module

# (H, W, C) that networks are designed for, by kind, the most particular first
INPUTS: dict[type[Module], tuple[int, int, int]] = {
    LeNet5: (28, 28, 1),
    CifarResNet: (32, 32, 3),
    ImageClassifier: (224, 224, 3),
}
DATA = ("digits", "mnist", "fashion_mnist")


def add_data(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add `--data` and `--root`."""
    needed = default is None
    parser.add_argument("--data", choices=DATA, required=needed, default=default, help="the data set")
    parser.add_argument(
        "--root", metavar="DIR", help="look for the data set here first (default: $CNNRS_DATA, the cache)"
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network itself; files of weights do not hold them, so they are given again to use one."""
    parser.add_argument("--activation", choices=("tanh", "relu"), default="tanh", help="activation (default tanh)")
    parser.add_argument("--pool", choices=("avg", "max"), default="avg", help="pooling (default avg)")


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add `--input`."""
    text = "size of one image (default: what the network was designed for)"
    parser.add_argument("--input", nargs=3, type=count, metavar=("H", "W", "C"), help=text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`."""
    parser.add_argument("--threads", type=count, metavar="N", help="number of threads (default: what doctor shows)")


def load_data(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Load the halves for training and test of the data set that was asked for."""
    if args.data == "digits":
        return datasets.digits()
    load = datasets.mnist if args.data == "mnist" else datasets.fashion_mnist
    return load(root=args.root)


def make_network(args: argparse.Namespace, name: str, **options: Any) -> Module:
    """Make the network that was asked for."""
    return models.get_model(name, activation=args.activation, pool=args.pool, **options)


def input_shape(args: argparse.Namespace, model: Module) -> tuple[int, ...]:
    """Give (H, W, C) of one image: what was asked for, or what the network was designed for.

    Raises:
        ValueError: Neither is known.
    """
    if args.input is not None:
        return tuple(args.input)
    for kind, shape in INPUTS.items():
        if isinstance(model, kind):
            return shape
    msg = f"--input: expected H W C, {args.model} has no size of its own"
    raise ValueError(msg)


def use_threads(args: argparse.Namespace) -> None:
    """Set the number of threads if one was given."""
    if args.threads is not None:
        set_num_threads(args.threads)


def describe_result(result: dict[str, float], images: int) -> str:
    """Give what `Trainer.evaluate` measured as a line."""
    wrong = round((1 - result["accuracy"]) * images)
    return f"test accuracy {result['accuracy']:.4f} ({wrong} of {images} wrong), loss {result['loss']:.4f}"


def count(text: str) -> int:
    """Parse an int of at least 1."""
    value = int(text)
    if value < 1:
        msg = f"expected at least 1, got {value}"
        raise argparse.ArgumentTypeError(msg)
    return value


def rate(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not (isfinite(value) and value > 0):
        msg = f"expected a finite number above 0, got {text}"
        raise argparse.ArgumentTypeError(msg)
    return value
