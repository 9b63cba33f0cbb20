"""Test the weights of a network on the test half of a data set."""

import argparse
from time import perf_counter

import cnnrs
from cnnrs import Trainer, optim
from cnnrs.cli import _options as options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs eval`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("weights", nargs="?", metavar="WEIGHTS", help="file of weights, as train --output writes it")
    which.add_argument("--pretrained", action="store_true", help="use the weights that come with the package")
    parser.add_argument("--model", default="lenet5", metavar="MODEL", help="name of the network (default lenet5)")
    options.add_network(parser)
    options.add_data(parser, default="digits")
    options.add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Load, test, print."""
    options.use_threads(args)
    if args.pretrained:
        model = options.make_network(args, args.model, weights="MNIST")
    else:
        model = options.make_network(args, args.model)
        cnnrs.load_weights(model, args.weights)
    _, test = options.load_data(args)
    started = perf_counter()
    result = Trainer(model, optim.SGD(lr=0.0)).evaluate(test)
    seconds = perf_counter() - started
    print(options.describe_result(result, len(test)))
    print(f"{len(test)} images of {args.data} in {seconds:.2f} s")
