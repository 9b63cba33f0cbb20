"""`python -m fuzz TARGET`: run a campaign and print its report as one line of JSON."""

from __future__ import annotations

import argparse
import json

from fuzz import checkpoints, idx, pickles, safetensors
from fuzz.campaign import run

TARGETS = {
    "idx": idx.TARGET,
    "safetensors": safetensors.TARGET,
    "pickle": pickles.TARGET,
    "torch_zip": checkpoints.ZIP,
    "torch_stream": checkpoints.STREAM,
}


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    report = run(target, arguments.count, arguments.seed, arguments.first, arguments.seconds)
    print(json.dumps({"target": arguments.target, "seed": arguments.seed, **report._asdict()}))


if __name__ == "__main__":
    main()
