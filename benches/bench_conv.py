"""Convolution layers of a network, one by one: each pass of cnnrs against the same pass of PyTorch."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benches.common import CheckError, Outcome, Session, Summary, lead, markdown_table, milliseconds, spread, times_text
from benches.shapes import Layer

PASSES = ("forward", "inference", "backward_data", "backward_weights")
DEFAULT_PASSES = ("forward", "backward_data", "backward_weights")
TOLERANCE = 1e-4  # a sanity check of what is compared; the tests hold cnnrs to far less

_NOTE = """Times are medians in ms [p10-p90] of single calls. GF/s counts the direct convolution's flops, 2 per
multiply-add, so an algorithm that needs fewer may exceed the peak. `lead` is the fastest torch variant's median over
cnnrs's. `error` is the largest difference from torch relative to torch's largest value. Totals count every layer as
often as the network has it; the first layer has no data gradient there, as images need none."""


@dataclass(frozen=True)
class Row:
    """One layer in one pass."""

    layer: Layer
    name: str
    error: float | None
    times: dict[str, Summary]

    def rate(self, label: str) -> float:
        """Median GFLOP/s of one contestant."""
        return 2e-9 * self.layer.shape.macs / self.times[label].median

    def record(self) -> dict[str, object]:
        """Plain values for the result file."""
        return {
            "layer": self.layer.name,
            "shape": str(self.layer.shape),
            "repeats": self.layer.repeats,
            "pass": self.name,
            "macs": self.layer.shape.macs,
            "error": self.error,
            "contestants": {
                label: {"seconds": asdict(times), "gflops": self.rate(label)} for label, times in self.times.items()
            },
            "lead": lead({label: times.median for label, times in self.times.items()}),
        }


def run(session: Session, layers: Sequence[Layer], passes: Sequence[str], *, network: bool) -> Outcome:
    """Check and time every layer.

    Args:
        session: The processes to run it in.
        layers: Layers with their batch.
        passes: Some of `PASSES`.
        network: The layers are a network's, whose first needs no data gradient.

    Raises:
        CheckError: A result of cnnrs differs from torch's.
    """
    rows: list[Row] = []
    peaks = [session.peak()]
    for place, layer in enumerate(layers):
        wanted = [name for name in passes if not (network and place == 0 and name == "backward_data")]
        errors = _open(session, layer, wanted)
        for name in wanted:
            row = Row(layer, name, errors.get(name), session.rounds.measure(session.contestants(name)))
            shown = ", ".join(f"{label} {milliseconds(times.median)}" for label, times in row.times.items())
            print(f"{layer.shape} {name}: {shown} ms", file=sys.stderr)
            rows.append(row)
        peaks.append(session.peak())
    peak = statistics.median(peaks)
    totals = {name: _total([row for row in rows if row.name == name]) for name in passes}
    record = {
        "peak_gflops": peak,
        "peaks_gflops": peaks,
        "rows": [row.record() for row in rows],
        "totals": {name: total for name, total in totals.items() if total},
    }
    parts = [f"Measured FMA peak: {peak:.0f} GFLOP/s [{min(peaks):.0f}-{max(peaks):.0f}]", _NOTE]
    for name in passes:
        chosen = [row for row in rows if row.name == name]
        if chosen:
            parts.append(f"## {name}\n\n{_table(chosen, totals[name], peak)}")
    return Outcome(record, "\n\n".join(parts))


def _open(session: Session, layer: Layer, passes: Sequence[str]) -> dict[str, float]:
    """Make the layer in both processes, on the same arrays; relative error by pass (empty without torch)."""
    case = {"shape": str(layer.shape), "passes": list(passes), "folder": session.folder}
    session.cnnrs.call("conv_open", seed=0, **case)
    if session.torch is None:
        return {}
    errors: dict[str, float] = session.torch.call("conv_open", variants=list(session.variants), **case)
    for name, error in errors.items():
        if not error <= TOLERANCE:
            message = f"{layer.shape} {name}: relative error {error:.2e} exceeds {TOLERANCE:.0e}"
            raise CheckError(message)
    return errors


def _total(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds by contestant of one pass through all the layers, repeats included."""
    labels = rows[0].times if rows else ()
    return {label: sum(row.layer.repeats * row.times[label].median for row in rows) for label in labels}


def _table(rows: Sequence[Row], total: dict[str, float], peak: float) -> str:
    """One pass as a Markdown table with a line for the network."""
    labels = list(rows[0].times)
    head = [
        "shape",
        "layer",
        "count",
        *(cell for label in labels for cell in (label, "GF/s")),
        "% of peak",
        "lead",
        "error",
    ]
    lines = []
    for row in rows:
        cells = [str(row.layer.shape), row.layer.name, str(row.layer.repeats)]
        for label in labels:
            cells += [spread(row.times[label]), f"{row.rate(label):.0f}"]
        ratio = lead({label: times.median for label, times in row.times.items()})
        error = "-" if row.error is None else f"{row.error:.1e}"
        lines.append([*cells, f"{100 * row.rate('cnnrs') / peak:.0f}", times_text(ratio), error])
    flops = sum(2e-9 * row.layer.repeats * row.layer.shape.macs for row in rows)
    cells = ["total", "", str(sum(row.layer.repeats for row in rows))]
    for label in labels:
        cells += [milliseconds(total[label]), f"{flops / total[label]:.0f}"]
    lines.append([*cells, f"{100 * flops / total['cnnrs'] / peak:.0f}", times_text(lead(total)), ""])
    return markdown_table(head, lines)
