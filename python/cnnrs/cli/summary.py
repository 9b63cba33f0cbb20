"""Show layers, output shapes, parameters, multiply-accumulates and memory of a network."""

import argparse

from cnnrs import models
from cnnrs.cli import _options as options

# (H, W, C) that a network is made for
INPUTS = {"lenet5": (28, 28, 1)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs summary`."""
    parser.add_argument("model", metavar="MODEL", help="name of the network, lenet5")
    parser.add_argument("--input", nargs=3, type=options.count, metavar=("H", "W", "C"), help="size of one image")


def run(args: argparse.Namespace) -> None:
    """Make the network and print its summary."""
    model = models.get_model(args.model)
    shape = INPUTS.get(args.model) if args.input is None else tuple(args.input)
    if shape is None:
        msg = f"--input: expected H W C, {args.model} has no size of its own"
        raise ValueError(msg)
    print(model.summary(shape))
