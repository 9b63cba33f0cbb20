"""Command line of the benchmarks: `python -m benches.run BENCHMARK ...`, see `benches/README.md`.

BENCHMARK is one of conv, lenet, networks, scaling, memory, coldstart.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benches import bench_coldstart, bench_conv, bench_lenet, bench_memory, bench_networks, bench_scaling
from benches.bench_networks import Case, Gathering
from benches.common import CheckError, Hosts, Outcome, Rounds, Session
from benches.machine import describe, usable_cores
from benches.networks import MODES, NETWORKS
from benches.peers import WorkerError
from benches.results import FOLDER, Report, public_command
from benches.shapes import Layer, load, networks, parse_shape

LAYOUTS = ("nchw", "channels_last")
VARIANTS = [layout + extra for layout in LAYOUTS for extra in ("", "+fused", "+compile", "+fused+compile")]


def positive(text: str) -> int:
    """An int of at least 1 for argparse."""
    value = int(text)
    if value < 1:
        message = f"must be at least 1, got {value}"
        raise argparse.ArgumentTypeError(message)
    return value


def several(kind: Callable[[str], Any], choices: Sequence[str] = ()) -> Callable[[str], list[Any]]:
    """A parser for argparse of values between commas, such as `resnet18,resnet50` or `1,8,32`."""

    def parse(text: str) -> list[Any]:
        words = [word for word in text.split(",") if word]
        wrong = [word for word in words if choices and word not in choices]
        if wrong or not words:
            message = f"expected one or several of {', '.join(choices) or 'its values'} between commas, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return list(dict.fromkeys(kind(word) for word in words))

    parse.__name__ = "list"  # argparse shows it when a value is wrong
    return parse


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark."""
    add = parser.add_argument
    add("--cnnrs-python", default=sys.executable, metavar="PATH", help="interpreter that has cnnrs (default: this one)")
    add("--output", type=Path, default=FOLDER, metavar="FOLDER", help="where results go (default: benches/results)")
    add("--no-save", action="store_true", help="write no result files")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option for one number of threads."""
    text = "threads of each library (default: the usable cores)"
    parser.add_argument("--threads", type=positive, default=usable_cores(), help=text)


def add_rounds(parser: argparse.ArgumentParser, count: int = 5, turn: float = 0.2, pause: float = 0.2) -> None:
    """How often and how gently to measure."""
    add = parser.add_argument
    add("--rounds", type=positive, default=count, help=f"turns of each contestant (default: {count})")
    add("--turn", type=float, default=turn, help=f"seconds of a turn (default: {turn})")
    add(
        "--pause", type=float, default=pause, help=f"seconds between turns, for pools to fall asleep (default: {pause})"
    )


def add_torch(parser: argparse.ArgumentParser, variants: Sequence[str], default: Sequence[str] = LAYOUTS) -> None:
    """Options of the peer; `variants` are the forms in which torch can run the benchmark."""
    add = parser.add_argument
    torch_help = f"variants of torch (default: {' '.join(default)}); nothing after it: cnnrs alone, unchecked"
    add("--torch", nargs="*", choices=variants, default=list(default), help=torch_help)
    add("--torch-python", default=sys.executable, metavar="PATH", help="interpreter that has torch (default: this one)")


def add_cases(parser: argparse.ArgumentParser, network: str, mode: str, batch: str) -> None:
    """Which networks, modes and batches; the defaults as they would be given."""
    add = parser.add_argument
    names, default = sorted(NETWORKS), " (default: {})"
    add("--networks", type=several(str, names), default=network, help=", ".join(names) + default.format(network))
    add("--mode", type=several(str, MODES), default=mode, help=", ".join(MODES) + default.format(mode))
    add("--batch", type=several(positive), default=batch, help="images a call" + default.format(batch))


def command_line() -> argparse.ArgumentParser:
    """The parser of all options."""
    parser = argparse.ArgumentParser(prog="python -m benches.run", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="benchmark", required=True)

    conv = commands.add_parser("conv", allow_abbrev=False, help="convolution layers, pass by pass")
    what = conv.add_mutually_exclusive_group(required=True)
    what.add_argument("--network", choices=networks())
    what.add_argument("--shape", nargs="+", help="shape strings such as n8ih56ic64oc64kh3ph1")
    conv.add_argument("--batch", type=positive, help="batch (default: 1 for a network, else the n of each shape)")
    conv.add_argument("--layers", nargs="+", metavar="TEXT", help="only layers with one of these texts in their name")
    conv.add_argument("--passes", nargs="+", choices=bench_conv.PASSES, default=list(bench_conv.DEFAULT_PASSES))
    for add in (add_threads, add_rounds, add_common):
        add(conv)
    add_torch(conv, LAYOUTS)

    lenet = commands.add_parser("lenet", allow_abbrev=False, help="LeNet-5 training")
    lenet.add_argument("--forms", nargs="+", choices=list(bench_lenet.FORMS), default=list(bench_lenet.FORMS))
    lenet.add_argument("--batch", type=positive, default=64, help="images a step (default: 64)")
    lenet.add_argument("--no-epoch", action="store_true", help="steps only, no epoch over MNIST")
    for add in (add_threads, add_rounds, add_common):
        add(lenet)
    add_torch(lenet, VARIANTS)

    whole = commands.add_parser("networks", allow_abbrev=False, help="whole networks, training and inference")
    add_cases(whole, "lenet5,alexnet,vgg16,resnet18,resnet50", "infer", "1")
    for add in (add_threads, add_common):
        add(whole)
    add_rounds(whole, count=10, turn=1.0, pause=0.5)
    add_torch(whole, VARIANTS, (*LAYOUTS, "channels_last+compile"))
    runtimes = bench_networks.RUNTIMES
    text = f"peers that only infer (default: {' '.join(runtimes)}); nothing after it: none"
    whole.add_argument("--runtimes", nargs="*", choices=runtimes, default=list(runtimes), help=text)
    text = "interpreter that has them (default: that of torch)"
    whole.add_argument("--peer-python", metavar="PATH", help=text)

    scaling = commands.add_parser("scaling", allow_abbrev=False, help="cnnrs on several numbers of threads")
    add_cases(scaling, "resnet18", "train", "16")
    counts = sorted({1, usable_cores()})
    text = f"numbers of threads (default: {','.join(map(str, counts))})"
    scaling.add_argument("--threads", type=several(positive), default=counts, help=text)
    add_rounds(scaling, count=10, turn=1.0, pause=0.5)
    add_common(scaling)

    memory = commands.add_parser("memory", allow_abbrev=False, help="peak memory of a fresh process")
    add_cases(memory, "resnet50", "train", "16")
    memory.add_argument("--steps", type=positive, default=5, help="calls after the first (default: 5)")
    for add in (add_threads, add_common):
        add(memory)
    add_torch(memory, VARIANTS)

    cold = commands.add_parser("coldstart", allow_abbrev=False, help="from nothing to a trained LeNet-5")
    cold.add_argument("--seeds", type=several(int), default="0,1,2,3,4", help="one run each (default: 0,1,2,3,4)")
    cold.add_argument("--goal", type=float, default=0.99, help="accuracy on the test images (default: 0.99)")
    cold.add_argument("--epochs", type=positive, default=bench_coldstart.EPOCHS, help="length of the recipe's cycle")
    for add in (add_threads, add_common):
        add(cold)
    return parser


def conv_layers(options: argparse.Namespace) -> tuple[str, list[Layer], bool]:
    """Case name, layers with their batch, and whether they begin with a network's first.

    Raises:
        ValueError: a shape string is wrong, or no layer has the wanted name.
    """
    if options.shape:
        layers, name = [Layer(parse_shape(text)) for text in options.shape], "shapes"
    else:
        layers, name = load(options.network), options.network
        options.batch = options.batch or 1
    first = layers[0]
    if options.layers:
        layers = [layer for layer in layers if any(text in layer.name for text in options.layers)]
        name += "-part"
    if not layers:
        message = f"layers: no layer of {options.network or 'the given shapes'} has one of {options.layers} in its name"
        raise ValueError(message)
    starts = bool(options.network) and layers[0] is first
    if options.batch:
        layers = [Layer(layer.shape.with_batch(options.batch), layer.repeats, layer.name) for layer in layers]
        name += f"-b{options.batch}"
    return f"conv-{name}-t{options.threads}", layers, starts


def cases(options: argparse.Namespace) -> tuple[str, list[Case]]:
    """Name for the result file and cases of a benchmark of whole networks."""
    chosen = [
        Case(network, mode, batch) for mode in options.mode for network in options.networks for batch in options.batch
    ]
    names = "-".join(options.networks) if len(options.networks) < 3 else f"{len(options.networks)}-networks"
    batches = "-".join(f"b{batch}" for batch in options.batch)
    return f"{names}-{'-'.join(options.mode)}-{batches}", chosen


def measure(options: argparse.Namespace, session: Session, hosts: Hosts) -> tuple[str, Outcome]:
    """Run the chosen benchmark; its case name and what it found."""
    kind, threads = options.benchmark, options.threads
    if kind == "conv":
        name, layers, starts = conv_layers(options)
        return name, bench_conv.run(session, layers, options.passes, network=starts)
    if kind == "lenet":
        outcome = bench_lenet.run(session, options.forms, options.batch, epoch=not options.no_epoch)
        return f"lenet-b{options.batch}-t{threads}", outcome
    if kind == "coldstart":
        return f"coldstart-t{threads}", bench_coldstart.run(hosts, threads, options.seeds, options.goal, options.epochs)
    name, chosen = cases(options)
    if kind == "scaling":
        counts = "-".join(f"t{count}" for count in threads)
        return f"scaling-{name}-{counts}", bench_scaling.run(session, hosts, chosen, threads)
    gathering = Gathering(hosts, threads, options.torch, getattr(options, "runtimes", ()))
    if kind == "memory":
        return f"memory-{name}-t{threads}", bench_memory.run(gathering, chosen, options.steps)
    return f"networks-{name}-t{threads}", bench_networks.run(session, gathering, chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark, print its tables and store its results; 1 if the libraries disagree or one cannot be had."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = command_line().parse_args(given)
    before = os.getloadavg()[0]
    torch_python = getattr(options, "torch_python", sys.executable)
    hosts = Hosts(options.cnnrs_python, torch_python, getattr(options, "peer_python", None) or torch_python)
    threads = options.threads if isinstance(options.threads, int) else max(options.threads)
    has_rounds = "rounds" in options
    rounds = Rounds(options.rounds, options.turn, options.pause) if has_rounds else Rounds(1, 0.2, 0.2)
    try:
        with ExitStack() as stack:
            cnnrs = stack.enter_context(hosts.start("cnnrs", threads))
            libraries = {"cnnrs": cnnrs.call("info")}
            if libraries["cnnrs"]["settings"]["debug_build"] and not options.no_save:
                message = "cnnrs is a debug build: its times mean nothing, build it with --release or pass --no-save"
                raise ValueError(message)
            torch, variants = None, ()
            if options.benchmark in ("conv", "lenet") and options.torch:
                torch, variants = stack.enter_context(hosts.start("torch", threads)), tuple(options.torch)
                libraries["torch"] = torch.call("info")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benches-"))
            case, outcome = measure(options, Session(cnnrs, torch, variants, rounds, folder), hosts)
    except (CheckError, ValueError, WorkerError) as error:
        print(f"benches: {error}", file=sys.stderr)
        return 1
    names = ("threads", "rounds", "turn", "pause", "steps", "seeds", "goal", "epochs")
    settings = {name: getattr(options, name) for name in names if name in options}
    report = Report(
        benchmark=options.benchmark,
        case=case,
        command=public_command(given),
        machine=describe(),
        libraries=libraries | outcome.libraries,
        record={"settings": settings, **outcome.record},
        text=outcome.text,
        load=(before, os.getloadavg()[0]),
        notes=outcome.notes,
    )
    print(f"{report.head()}\n\n{outcome.text}")
    if not options.no_save:
        for path in report.save(options.output):
            print(f"wrote {path.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
