"""Train a network on a data set, test it once after the last epoch, and show some of its answers."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cnnrs
from cnnrs import Trainer, optim
from cnnrs.cli import _options as options
from cnnrs.cli._pictures import choose_ramp, draw_row
from cnnrs.datasets import Dataset
from cnnrs.nn import Module

_SHOWN = 8


@dataclass(frozen=True)
class Recipe:
    """Defaults of one training by stochastic gradient descent with one cycle of the learning rate.

    Attributes:
        epochs: Passes over the training images.
        max_lr: Peak of the cycle.
        weight_decay: L2 term in the gradient.
    """

    epochs: int
    max_lr: float
    weight_decay: float


BATCH_SIZE = 64
MOMENTUM = 0.9
# (data set, activation) -> recipe
RECIPES = {
    ("digits", "tanh"): Recipe(epochs=60, max_lr=0.1, weight_decay=5e-4),
    ("digits", "relu"): Recipe(epochs=60, max_lr=0.03, weight_decay=5e-4),
    ("mnist", "tanh"): Recipe(epochs=10, max_lr=0.1, weight_decay=5e-4),
    ("mnist", "relu"): Recipe(epochs=10, max_lr=0.05, weight_decay=5e-4),
    ("fashion_mnist", "tanh"): Recipe(epochs=10, max_lr=0.1, weight_decay=5e-4),
    ("fashion_mnist", "relu"): Recipe(epochs=10, max_lr=0.03, weight_decay=5e-4),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs train`."""
    parser.add_argument("model", metavar="MODEL", help="name of the network, lenet5")
    options.add_data(parser, default="digits")
    options.add_network(parser)
    parser.add_argument("--epochs", type=options.count, metavar="N", help="passes over the data (default by data set)")
    parser.add_argument(
        "--batch-size", type=options.count, default=BATCH_SIZE, metavar="N", help="images a step (default 64)"
    )
    parser.add_argument("--lr", type=options.rate, metavar="X", help="peak of the learning rate (default by data set)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and order of images (default 0)")
    parser.add_argument("--output", metavar="PATH", help="save the weights here (safetensors)")
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    options.add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Train, test, show, save."""
    if args.output is not None and not Path(args.output).absolute().parent.is_dir():
        msg = f"--output: expected a path in an existing folder, got {args.output}"
        raise FileNotFoundError(msg)
    options.use_threads(args)
    recipe = RECIPES[args.data, args.activation]
    epochs = args.epochs or recipe.epochs
    max_lr = args.lr or recipe.max_lr
    cnnrs.manual_seed(args.seed)
    model = options.make_network(args, args.model)
    train, test = options.load_data(args)
    optimizer = optim.SGD(lr=optim.OneCycle(max_lr), momentum=MOMENTUM, nesterov=True, weight_decay=recipe.weight_decay)
    trainer = Trainer(model, optimizer, loss="cross_entropy", seed=args.seed)
    if not args.quiet:
        print(
            f"{args.model} ({args.activation}, {args.pool} pooling) on {args.data}: {len(train)} + {len(test)} images"
        )
        steps = f"{epochs} epochs, batches of {args.batch_size}, peak learning rate {max_lr:g}"
        print(f"{steps}, seed {args.seed}, {cnnrs.get_num_threads()} threads", flush=True)
    started = perf_counter()
    trainer.fit(train, epochs=epochs, batch_size=args.batch_size, verbose=not args.quiet)
    seconds = perf_counter() - started
    result = trainer.evaluate(test)
    if args.output is not None:
        model.save(args.output)
    if not args.quiet:
        show_answers(model, test)
    print(options.describe_result(result, len(test)))
    print(f"trained in {seconds:.1f} s" + (f", weights in {args.output}" if args.output is not None else ""))


def show_answers(model: Module, test: Dataset) -> None:
    """Print the first test images with the labels the network gives them."""
    some = test.take(_SHOWN)
    labels, _ = model.predict(some.images, top=1)
    captions = []
    for place, label in enumerate(labels[:, 0]):
        found, right = test.classes[label], test.classes[some.labels[place]]
        captions.append(found if found == right else f"{found} (it is {right})")
    print(draw_row(list(some.images), captions, choose_ramp(sys.stdout)))
