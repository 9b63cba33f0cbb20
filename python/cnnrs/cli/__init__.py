"""The command line `cnnrs`: train, evaluate and try networks, and ask what runs on this machine.

Each subcommand is one module with `add_arguments(parser)` and `run(args)`. Results go to standard output, progress and
errors to standard error. Exit codes: 0 done, 1 the machine refused (disk, network, memory, a missing package), 2 bad
input, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from cnnrs import __version__
from cnnrs.cli import bench, doctor, evaluate, predict, summary, train, weights

_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "train": (train, "train a network on a data set and test it"),
    "eval": (evaluate, "test the weights of a network on a data set"),
    "predict": (predict, "recognise the digit in an image"),
    "summary": (summary, "show layers, shapes, parameters and memory of a network"),
    "weights": (weights, "show the published weights of the networks and which of them are here"),
    "bench": (bench, "measure how fast a network infers or trains on this machine"),
    "doctor": (doctor, "show what cnnrs found on this machine and what it will use"),
}
# bad input; other OSErrors are the machine's fault
_BAD_INPUT = (
    ValueError,
    NotImplementedError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Give the parser of all subcommands."""
    parser = _Parser(prog="cnnrs", description="Convolutional neural networks on CPUs.")
    parser.add_argument("--version", action="version", version=f"cnnrs {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in _COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code.

    Args:
        argv: The arguments without the program's name; those of the process if None.

    Raises:
        SystemExit: The arguments cannot be parsed (code 2), or help or the version was asked for (code 0).
    """
    args = make_parser().parse_args(argv)
    try:
        _COMMANDS[args.command][0].run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(args.command, "interrupted", 130)
    except BrokenPipeError:
        # the reader of our output has gone; point stdout elsewhere so that the interpreter's last flush is quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _BAD_INPUT as error:
        return _fail(args.command, str(error), 2)
    except (OSError, ImportError, MemoryError) as error:
        return _fail(args.command, str(error), 1)
    return 0


def _fail(command: str, message: str, code: int) -> int:
    """Print one line on standard error and give `code` back."""
    print(f"cnnrs {command}: {' '.join(message.split())}", file=sys.stderr)
    return code
