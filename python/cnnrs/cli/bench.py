"""Measure how fast a network infers or trains on this machine."""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

import cnnrs
from cnnrs import Trainer, _core, models, optim
from cnnrs.cli import _options as options
from cnnrs.explain import Summary
from cnnrs.nn import Module

MODES = ("infer", "train")
REPEATS = 20
_SECONDS = 0.1  # untimed, in front of the first repeat, and of each measurement of the peak


class Times(NamedTuple):
    """Order statistics of the repeats, in seconds; quartiles by nearest rank."""

    least: float
    first_quartile: float
    median: float
    third_quartile: float
    most: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs bench`."""
    parser.add_argument("model", metavar="MODEL", help="name of the network, such as resnet18")
    parser.add_argument("--batch", type=options.count, default=1, metavar="N", help="images a call (default 1)")
    parser.add_argument("--mode", choices=MODES, default="infer", help="a call or a training step (default infer)")
    options.add_input(parser)
    parser.add_argument(
        "--repeats", type=options.count, default=REPEATS, metavar="N", help=f"calls to measure (default {REPEATS})"
    )
    options.add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Make the network with fresh weights, measure it on noise and print what was found."""
    options.use_threads(args)
    cnnrs.manual_seed(0)
    model = models.get_model(args.model)
    shape = options.input_shape(args, model)
    facts = model.summary(shape, args.batch)
    if args.mode == "train" and facts.training_bytes is None:
        msg = f"--batch: {args.model} cannot train on {args.batch} images of {shape}"
        raise ValueError(msg)
    peaks = [_peak()]
    times = measure(make_call(model, args.mode, args.batch, shape, facts), args.repeats)
    peaks.append(_peak())
    for name, text in report(args, facts, times, max(peaks)):
        print(f"{name:<16}  {text}")
    if min(peaks) < 0.8 * max(peaks):
        print("the machine is busy or changes its clock: the peak moved by more than 20 %", file=sys.stderr)


def make_call(model: Module, mode: str, batch: int, shape: Sequence[int], facts: Summary) -> Callable[[], object]:
    """One call of the network, or one step of stochastic gradient descent with momentum."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *shape), dtype=np.float32)
    if mode == "infer":
        return lambda: model(x)
    labels = rng.integers(0, facts.rows[-1].output_shape[1], batch)
    trainer = Trainer(model, optim.SGD(lr=1e-3, momentum=0.9))
    return lambda: trainer.step(x, labels)


def measure(call: Callable[[], object], repeats: int) -> Times:
    """Call at least once and for a tenth of a second untimed, then `repeats` times."""
    end = perf_counter() + _SECONDS
    call()
    while perf_counter() < end:
        call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return order(times)


def order(times: Sequence[float]) -> Times:
    """Give the order statistics of some seconds."""
    ordered = sorted(times)
    first, third = (ordered[round(part * (len(ordered) - 1))] for part in (0.25, 0.75))
    return Times(ordered[0], first, statistics.median(ordered), third, ordered[-1])


def count_flops(facts: Summary, mode: str) -> float:
    """Flops of one call, 2 per multiply-accumulate of convolutions and linear layers as they are written.

    A training step has three passes through each of them but the first: images need no gradient.
    """
    macs = facts.macs
    if mode == "train":
        macs = 3 * macs - next((row.macs for row in facts.rows if row.macs), 0)
    return 2.0 * facts.batch_size * macs


def report(args: argparse.Namespace, facts: Summary, times: Times, peak: float) -> list[tuple[str, str]]:
    """Names and values, one line each."""
    config = _core.config()
    rate = 1e-9 * count_flops(facts, args.mode) / times.median
    needs = facts.training_bytes if args.mode == "train" else facts.inference_bytes
    low, first, median, third, high = (f"{1e3 * seconds:.4g}" for seconds in times)
    lines = [
        ("network", f"{args.model}, {args.mode}, batch {args.batch}, {facts.parameters:,} parameters, float32"),
        ("machine", f"{config['isa_used']}, {config['threads']} threads, algorithm {config['algorithm']}"),
        ("median", f"{median} ms of {args.repeats} calls"),
        ("spread", f"{first} to {third} ms (quartiles), {low} to {high} ms (all)"),
        ("images/s", f"{args.batch / times.median:.1f}"),
        ("GFLOP/s", f"{rate:.1f}, {rate / peak:.0%} of the {peak:.0f} measured in registers"),
        ("plan's bytes", f"{needs or 0:,}"),
    ]
    resident = _peak_resident()
    return lines if resident is None else [*lines, ("peak bytes", f"{resident:,} of the whole process")]


def _peak() -> float:
    """Measure the rate of multiply-adds in registers, GFLOP/s."""
    return _core.fma_peak(cnnrs.get_num_threads(), _SECONDS)


def _peak_resident() -> int | None:
    """Give the most bytes that this process ever had resident; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), None)
