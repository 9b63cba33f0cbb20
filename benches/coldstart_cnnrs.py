"""The program that `bench_coldstart` times: load MNIST, train LeNet-5, test after each epoch, stop at the goal.

`python -m benches.coldstart_cnnrs THREADS SEED GOAL EPOCHS`; prints one JSON object.
"""

import json
import sys
import time
from collections.abc import Mapping

BATCH = 64
MAX_LR = 0.05
WEIGHT_DECAY = 5e-4


def main() -> None:
    """Train until the test accuracy is reached or the cycle of the learning rate ends."""
    marks = [time.perf_counter()]
    import cnnrs
    from cnnrs import Trainer, datasets, models, optim
    from cnnrs.callbacks import Callback

    threads, seed, goal, epochs = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    cnnrs.set_num_threads(threads)
    marks.append(time.perf_counter())
    train, test = datasets.mnist()
    marks.append(time.perf_counter())
    cnnrs.manual_seed(seed)
    model = models.lenet5(activation="relu", pool="max")
    optimizer = optim.SGD(lr=optim.OneCycle(MAX_LR), momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(model, optimizer, seed=seed)
    accuracies: list[float] = []

    class Goal(Callback):
        """Tests after each epoch and stops when the goal is reached."""

        def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
            accuracies.append(trainer.evaluate(test)["accuracy"])
            if accuracies[-1] >= goal:
                trainer.stop()

    trainer.fit(train, epochs=epochs, batch_size=BATCH, verbose=False, callbacks=[Goal()])
    marks.append(time.perf_counter())
    names = ("import", "load", "train and test")
    phases = {name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)}
    print(json.dumps({"seconds": phases, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
