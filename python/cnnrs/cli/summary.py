"""Show layers, output shapes, parameters, multiply-accumulates and memory of a network."""

import argparse

from cnnrs import models
from cnnrs.cli import _options as options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs summary`."""
    parser.add_argument("model", metavar="MODEL", help="name of the network, such as resnet18")
    options.add_input(parser)


def run(args: argparse.Namespace) -> None:
    """Make the network and print its summary."""
    model = models.get_model(args.model)
    print(model.summary(options.input_shape(args, model)))
