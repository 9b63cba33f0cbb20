"""Train LeNet-5 with `Trainer` and callbacks, and look at what the best epoch makes of the test images.

    python examples/train_lenet.py                 # 1,797 digits that come with scikit-learn; seconds
    python examples/train_lenet.py --data mnist    # 70,000 images; downloads 11 MB, or finds them in $CNNRS_DATA
    python examples/train_lenet.py --epochs 30 --output lenet.safetensors

Shows the two forms of the network, a learning-rate cycle, weight decay for some parameters only, early stopping, a
callback of one's own, and weights in a file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from time import perf_counter

import numpy as np

import cnnrs
from cnnrs import Trainer, callbacks, datasets, models, optim


class Stopwatch(callbacks.Callback):
    """Prints how long each epoch took; a callback overrides the moments it wants to see."""

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Take the time."""
        self.start = perf_counter()

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print the time and the metrics of the epoch."""
        seconds = perf_counter() - self.start
        print(f"epoch {epoch}: {seconds:.2f} s  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def main() -> None:
    """Train, test, and save if asked to."""
    parser = argparse.ArgumentParser(description="Train LeNet-5.")
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument(
        "--form", choices=("1998", "modern"), default="modern", help="tanh and averages, or relu and max"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output", help="file for the weights, .safetensors")
    options = parser.parse_args()

    # One image in ten is held out to choose the epoch; the test images stay unseen until the end.
    images, test = datasets.mnist() if options.data == "mnist" else datasets.digits()
    held_out = np.arange(len(images)) % 10 == 0
    train, validation = images.subset(~held_out), images.subset(held_out)

    cnnrs.manual_seed(0)
    model = models.lenet5(activation="relu", pool="max") if options.form == "modern" else models.lenet5()
    print(model.summary((28, 28, 1), batch_size=64))

    optimizer = optim.SGD(
        lr=optim.OneCycle(0.03 if options.form == "modern" else 0.1),
        momentum=0.9,
        weight_decay=5e-4,
        groups=[{"params": "*.bias", "weight_decay": 0.0}],
    )
    trainer = Trainer(model, optimizer, seed=0)
    stopping = callbacks.EarlyStopping("val_accuracy", patience=10, restore_best=True)
    trainer.fit(train, validation, options.epochs, batch_size=64, callbacks=[Stopwatch(), stopping], verbose=False)

    measured = trainer.evaluate(test)
    print(f"best epoch {stopping.best_epoch}: test loss {measured['loss']:.4f}, accuracy {measured['accuracy']:.2%}")

    labels, probabilities = model.predict(test.images[:5], top=2)
    for truth, (best, second), (p, q) in zip(test.labels, labels, probabilities, strict=False):
        print(f"a {truth}: taken for {best} ({p:.1%}), then {second} ({q:.1%})")
    if options.output:
        model.save(options.output)
        print(f"weights are in {options.output}")


if __name__ == "__main__":
    main()
