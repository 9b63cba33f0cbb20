"""Draws a result file: `python -m benches.plot RESULT.json [--output FILE.png]`; needs matplotlib.

Whole networks: how many times cnnrs is faster than each peer, per case. Convolution layers: share of the measured peak
per layer and pass.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bars:
    """Groups of bars: one group a label, one bar in it for each series; None where there is no value."""

    title: str
    axis: str
    groups: list[str]
    series: dict[str, list[float | None]]
    line: float


def bars(content: dict[str, Any]) -> Bars:
    """What is drawn of a result file.

    Raises:
        ValueError: the file is of a benchmark that has no plot.
    """
    kind = content.get("benchmark")
    if kind == "networks":
        return _speed_ups(content)
    if kind == "conv":
        return _shares(content)
    message = f"expected a result of networks or conv, got one of {kind}"
    raise ValueError(message)


def _speed_ups(content: dict[str, Any]) -> Bars:
    """Each peer's median over that of cnnrs."""
    rows = content["rows"]
    labels = dict.fromkeys(label for row in rows for label in row["contestants"] if label != "cnnrs")

    def ratio(row: dict[str, Any], label: str) -> float | None:
        found = row["contestants"]
        if label not in found:
            return None
        return float(found[label]["seconds"]["median"] / found["cnnrs"]["seconds"]["median"])

    groups = [f"{row['network']}\n{row['mode']} b{row['batch']}" for row in rows]
    series = {label: [ratio(row, label) for row in rows] for label in labels}
    return Bars(content["case"], "peer's time / cnnrs's time", groups, series, 1.0)


def _shares(content: dict[str, Any]) -> Bars:
    """Rate of cnnrs over the measured peak, per layer, one series a pass."""
    rows, peak = content["rows"], content["peak_gflops"]
    names = {row["shape"]: row["layer"] or row["shape"] for row in rows}
    rates = {(row["shape"], row["pass"]): row["contestants"]["cnnrs"]["gflops"] / peak for row in rows}
    passes = dict.fromkeys(row["pass"] for row in rows)
    series = {name: [rates.get((shape, name)) for shape in names] for name in passes}
    return Bars(content["case"], "share of the measured FMA peak", list(names.values()), series, 1.0)


def draw(content: Bars, path: Path) -> None:
    """Draw into a file; its suffix names the format.

    Raises:
        ImportError: there is no matplotlib.
    """
    figures: Any = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(max(6.0, 1.2 * len(content.groups)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(content.series))
    for number, (label, values) in enumerate(content.series.items()):
        places = [group + (number + 0.5) * width - 0.4 for group, value in enumerate(values) if value is not None]
        axes.bar(places, [value for value in values if value is not None], width, label=label)
    axes.axhline(content.line, color="black", linewidth=0.8)
    axes.set_xticks(
        range(len(content.groups)), content.groups, fontsize=8, rotation=45 if len(content.groups) > 8 else 0
    )
    axes.set_ylabel(content.axis)
    axes.set_title(content.title, fontsize=10)
    if content.series:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one result file; 1 if it cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m benches.plot", description=__doc__)
    parser.add_argument("result", type=Path, help="JSON file in benches/results")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: the result's name with .png")
    options = parser.parse_args(arguments)
    target = options.output or options.result.with_suffix(".png")
    try:
        draw(bars(json.loads(options.result.read_text("utf-8"))), target)
    except ImportError as error:
        print(f"benches: the plot needs matplotlib: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError) as error:
        print(f"benches: cannot draw {options.result.name}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {target.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
