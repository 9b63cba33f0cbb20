"""Cold start: from the start of a process to LeNet-5 with a given accuracy on MNIST's test images."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benches.common import Hosts, Outcome, markdown_table
from benches.peers import ROOT, WorkerError

EPOCHS = 3
PHASES = ("import", "load", "train and test")

_NOTE = """Seconds from the start of a fresh Python process to its end: it imports cnnrs, loads MNIST from its files,
trains LeNet-5 (ReLU, max-pooling, batch 64, Nesterov momentum 0.9, weight decay 5e-4, one cycle of the learning rate
over {epochs} epochs with its peak at 0.05), tests after each epoch and stops when the accuracy is reached."""


def run(hosts: Hosts, threads: int, seeds: Sequence[int], goal: float, epochs: int) -> Outcome:
    """Start one process a seed, one after the other.

    Raises:
        ValueError: `$CNNRS_DATA` is not set.
        WorkerError: the program fails.
    """
    if "CNNRS_DATA" not in os.environ:
        message = "coldstart needs CNNRS_DATA, the folder that holds mnist/"
        raise ValueError(message)
    runs = []
    for seed in seeds:
        runs.append({"seed": seed, **once(hosts.cnnrs, threads, seed, goal, epochs)})
        print(f"seed {seed}: {runs[-1]['total']:.2f} s, {runs[-1]['accuracies']}", file=sys.stderr)
    notes = [
        f"seed {found['seed']}: {max(found['accuracies']):.4f} at best, the goal of {goal} was not reached"
        for found in runs
        if max(found["accuracies"]) < goal
    ]
    return Outcome({"goal": goal, "runs": runs}, describe(runs, goal, epochs), notes=notes)


def once(python: str, threads: int, seed: int, goal: float, epochs: int) -> dict[str, Any]:
    """One process: what it says of itself, and the seconds it took from outside.

    Raises:
        WorkerError: it cannot be started or fails.
    """
    command = [python, "-m", "benches.coldstart_cnnrs", str(threads), str(seed), str(goal), str(epochs)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
        )
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"cnnrs: the program of the cold start failed: {error}"
        raise WorkerError(message) from error
    total = time.perf_counter() - start
    return {"total": total, **json.loads(done.stdout)}


def describe(runs: Sequence[dict[str, Any]], goal: float, epochs: int) -> str:
    """Median over the runs that reached the goal, and a table of all."""
    reached = [found["total"] for found in runs if max(found["accuracies"]) >= goal]
    first = f"{len(reached)} of {len(runs)} runs reached {goal:.2%} on the test images"
    if reached:
        first += f": median {statistics.median(reached):.2f} s [{min(reached):.2f}-{max(reached):.2f}]"
    lines = []
    for found in runs:
        phases = [f"{found['seconds'][name]:.2f}" for name in PHASES]
        best = f"{max(found['accuracies']):.4f}"
        lines.append([str(found["seed"]), f"{found['total']:.2f}", *phases, str(len(found["accuracies"])), best])
    head = ["seed", "total s", *PHASES, "epochs", "accuracy"]
    return f"{first}\n\n{_NOTE.format(epochs=epochs)}\n\n{markdown_table(head, lines)}"
