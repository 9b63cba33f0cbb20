"""Command line of the benchmarks: `python -m benches.run conv|lenet ...`, see `benches/README.md`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benches import bench_conv, bench_lenet
from benches.common import CheckError, Outcome, Rounds, Session
from benches.machine import describe, usable_cores
from benches.peers import Worker, WorkerError
from benches.results import FOLDER, Report, public_command
from benches.shapes import Layer, load, networks, parse_shape

LAYOUTS = ("nchw", "channels_last")


def positive(text: str) -> int:
    """An int of at least 1 for argparse."""
    value = int(text)
    if value < 1:
        message = f"must be at least 1, got {value}"
        raise argparse.ArgumentTypeError(message)
    return value


def add_common(parser: argparse.ArgumentParser, variants: Sequence[str]) -> None:
    """Options of every benchmark; `variants` are the forms in which torch can run it."""
    add = parser.add_argument
    add("--threads", type=positive, default=usable_cores(), help="threads of each library (default: the usable cores)")
    add("--rounds", type=positive, default=5, help="turns of each contestant (default: 5)")
    add("--turn", type=float, default=0.2, help="seconds of a turn (default: 0.2)")
    add("--pause", type=float, default=0.2, help="seconds between turns, for pools to fall asleep (default: 0.2)")
    torch_help = "variants of torch (default: nchw channels_last); nothing after it: cnnrs alone, unchecked"
    add("--torch", nargs="*", choices=variants, default=["nchw", "channels_last"], help=torch_help)
    add("--cnnrs-python", default=sys.executable, metavar="PATH", help="interpreter that has cnnrs (default: this one)")
    add("--torch-python", default=sys.executable, metavar="PATH", help="interpreter that has torch (default: this one)")
    add("--output", type=Path, default=FOLDER, metavar="FOLDER", help="where results go (default: benches/results)")
    add("--no-save", action="store_true", help="write no result files")


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
    add_common(conv, LAYOUTS)

    lenet = commands.add_parser("lenet", allow_abbrev=False, help="LeNet-5 training")
    lenet.add_argument("--forms", nargs="+", choices=list(bench_lenet.FORMS), default=list(bench_lenet.FORMS))
    lenet.add_argument("--batch", type=positive, default=64, help="images a step (default: 64)")
    lenet.add_argument("--no-epoch", action="store_true", help="steps only, no epoch over MNIST")
    extras = ("", "+fused", "+compile", "+fused+compile")
    add_common(lenet, [layout + extra for layout in LAYOUTS for extra in extras])
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


def measure(options: argparse.Namespace, session: Session) -> tuple[str, Outcome]:
    """Run the chosen benchmark; its case name and what it found."""
    if options.benchmark == "conv":
        case, layers, starts = conv_layers(options)
        return case, bench_conv.run(session, layers, options.passes, network=starts)
    outcome = bench_lenet.run(session, options.forms, options.batch, epoch=not options.no_epoch)
    return f"lenet-b{options.batch}-t{options.threads}", outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark, print its tables and store its results; 1 if the libraries disagree or one cannot be had."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = command_line().parse_args(given)
    try:
        with ExitStack() as stack:
            cnnrs = stack.enter_context(Worker("cnnrs", options.cnnrs_python, options.threads))
            libraries = {"cnnrs": cnnrs.call("info")}
            if libraries["cnnrs"]["settings"]["debug_build"] and not options.no_save:
                message = "cnnrs is a debug build: its times mean nothing, build it with --release or pass --no-save"
                raise ValueError(message)
            torch = None
            if options.torch:
                torch = stack.enter_context(Worker("torch", options.torch_python, options.threads))
                libraries["torch"] = torch.call("info")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benches-"))
            rounds = Rounds(options.rounds, options.turn, options.pause)
            case, outcome = measure(options, Session(cnnrs, torch, tuple(options.torch), rounds, folder))
    except (CheckError, ValueError, WorkerError) as error:
        print(f"benches: {error}", file=sys.stderr)
        return 1
    settings = {"threads": options.threads, "rounds": options.rounds, "turn": options.turn, "pause": options.pause}
    record = {"settings": settings, **outcome.record}
    report = Report(options.benchmark, case, public_command(given), describe(), libraries, record, outcome.text)
    print(f"{report.head()}\n\n{outcome.text}")
    if not options.no_save:
        for path in report.save(options.output):
            print(f"wrote {path.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
