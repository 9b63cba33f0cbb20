"""Show the published weights of the networks: accuracy, size, licence, and where the verified file lies, if here."""

import argparse

from cnnrs import models
from cnnrs.models import _pretrained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs weights`."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="name of a network; all of them if not given")


def run(args: argparse.Namespace) -> None:
    """Print a line for each."""
    records = models.list_weights(args.model)
    if not records:
        print(f"there are no weights of {args.model} to download")
        return
    print(f"{'model':<10}  {'weights':<13}  {'top-1':>6}  {'top-5':>6}  {'MiB':>6}  {'licence':<12}  file")
    for record in records:
        path, refusals = _pretrained.look(record)
        where = path or ("; ".join(refusals) if refusals else "not here")
        print(
            f"{record.model:<10}  {record.tag:<13}  {record.top1:6.2f}  {record.top5:6.2f}  "
            f"{record.max_bytes / 2**20:6.1f}  {record.licence:<12}  {where}"
        )
    for terms in dict.fromkeys(record.terms for record in records):
        print(f"All of them were {terms}.")
