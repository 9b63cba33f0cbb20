"""Whole networks: training step and inference, cnnrs against everybody who can, each in a process of its own."""

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benches.common import (
    CheckError,
    Contestant,
    Hosts,
    Outcome,
    Rounds,
    Session,
    Summary,
    lead,
    markdown_table,
    milliseconds,
    plain_reason,
    quartiles,
    times_text,
)
from benches.networks import NETWORKS, flops
from benches.peers import Worker, WorkerError

RUNTIMES = ("onnxruntime", "openvino", "ncnn")
EXPORTS = {"onnxruntime": "onnx", "openvino": "onnx", "ncnn": "ncnn"}
OPTIMIZER = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
TOLERANCE = 1e-3  # of logits to the largest, and of the first loss: a sanity check of what is compared
SEED = 0

_NOTE = """Times are medians in ms [first quartile-third quartile] of single calls; the JSON has the least and the 10th
and 90th percentile too. GF/s counts the multiply-adds of convolutions and fully connected layers, 2 flops each, of the
direct convolution, so an algorithm that needs fewer may exceed the peak. `ratio` is the fastest peer's median over
cnnrs's. `error` is the largest difference of a peer's logits from cnnrs's relative to the largest, from the same
weights on the same images, over all peers."""


@dataclass(frozen=True)
class Case:
    """One network at one batch in one mode, "train" or "infer"."""

    network: str
    mode: str
    batch: int

    def __str__(self) -> str:
        return f"{self.network} {self.mode} b{self.batch}"


@dataclass(frozen=True)
class Row:
    """What one case gave."""

    case: Case
    errors: dict[str, float]
    times: dict[str, Summary]

    @property
    def medians(self) -> dict[str, float]:
        """Seconds by contestant."""
        return {label: times.median for label, times in self.times.items()}

    @property
    def best_peer(self) -> str | None:
        """Label of the fastest peer; None when cnnrs ran alone."""
        peers = {label: median for label, median in self.medians.items() if label != "cnnrs"}
        return min(peers, key=lambda label: peers[label]) if peers else None

    @property
    def gflops(self) -> float:
        """Median rate of cnnrs in GFLOP/s."""
        return 1e-9 * flops(self.case.network, self.case.mode, self.case.batch) / self.medians["cnnrs"]

    def record(self) -> dict[str, object]:
        """Plain values for the result file."""
        work = flops(self.case.network, self.case.mode, self.case.batch)
        return {
            **asdict(self.case),
            "flops": work,
            "errors": self.errors,
            "contestants": {
                label: {"seconds": asdict(times), "gflops": 1e-9 * work / times.median}
                for label, times in self.times.items()
            },
            "best_peer": self.best_peer,
            "ratio": lead(self.medians),
        }


@dataclass
class Gathering:
    """What comes together over the cases: facts about the libraries, and notes on what was left out."""

    hosts: Hosts
    threads: int
    variants: Sequence[str]
    runtimes: Sequence[str]
    libraries: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, case: Case, label: str, error: BaseException | str) -> None:
        """Note, in the result and at once on the terminal, what did not run."""
        self.notes.append(f"{case}: {label} left out: {plain_reason(error)}")
        print(self.notes[-1], file=sys.stderr)

    def start(self, stack: ExitStack, library: str) -> Worker:
        """A process that ends with the case."""
        worker = stack.enter_context(self.hosts.start(library, self.threads))
        if library not in ("cnnrs", "export", *self.libraries):
            self.libraries[library] = worker.call("info")
        return worker

    def peers(self, case: Case) -> Iterator[tuple[str, str, str]]:
        """(label, library, variant) of everybody who is asked to take part in a case."""
        for variant in self.variants:
            yield f"torch {variant}", "torch", variant
        if case.mode == "infer":
            for library in self.runtimes:
                yield library, library, ""


def run(session: Session, gathering: Gathering, cases: Sequence[Case]) -> Outcome:
    """Check and time every case.

    Raises:
        CheckError: a result of cnnrs differs from torch's.
    """
    peaks, streams, rows = [session.peak()], [session.stream()], []
    for case in cases:
        row = measure(session, gathering, case)
        shown = ", ".join(f"{label} {milliseconds(median)}" for label, median in row.medians.items())
        print(f"{case}: {shown} ms", file=sys.stderr)
        rows.append(row)
        peaks.append(session.peak())
    streams.append(session.stream())
    peak = statistics.median(peaks)
    stream = {key: max(rates[key] for rates in streams) for key in streams[0]}
    record = {
        "peak_gflops": peak,
        "peaks_gflops": peaks,
        "stream_gbs": stream,
        "optimizer": OPTIMIZER,
        "rows": [row.record() for row in rows],
    }
    rates = f"Measured FMA peak: {peak:.0f} GFLOP/s [{min(peaks):.0f}-{max(peaks):.0f}]; "
    rates += f"memory: {stream['read']:.1f} GB/s read, {stream['copy']:.1f} GB/s copied"
    parts = [rates, _NOTE]
    for mode, title in (("train", "Training step"), ("infer", "Inference")):
        chosen = [row for row in rows if row.case.mode == mode]
        if chosen:
            parts.append(f"## {title}\n\n{table(chosen, peak)}")
    return Outcome(record, "\n\n".join(parts), gathering.libraries, gathering.notes)


def measure(session: Session, gathering: Gathering, case: Case) -> Row:
    """Start everybody, check and time one case.

    Raises:
        CheckError: a result of cnnrs differs from torch's.
        WorkerError: cnnrs itself cannot run it.
    """
    with ExitStack() as stack:
        arguments = {
            "network": case.network,
            "mode": case.mode,
            "batch": case.batch,
            "seed": SEED,
            "optimizer": OPTIMIZER,
            "folder": session.folder,
        }
        ours = gathering.start(stack, "cnnrs")
        opened = ours.call("network_open", variant="", **arguments)
        contestants, errors, exported = [Contestant("cnnrs", ours, "run")], {}, {}
        for label, library, variant in gathering.peers(case):
            try:
                if library == "torch":
                    worker = gathering.start(stack, library)
                    found = worker.call("network_open", variant=variant, **arguments)
                else:
                    kind = EXPORTS[library]
                    if kind not in exported:
                        exported[kind] = export(gathering, case, kind, session.folder)
                    if exported[kind]:
                        raise WorkerError(exported[kind])
                    worker = gathering.start(stack, library)
                    found = worker.call("network_open", folder=session.folder)
                check(case, label, opened, found)
            except WorkerError as error:
                gathering.leave_out(case, label, error)
                continue
            except CheckError as error:
                if library == "torch":
                    raise
                gathering.leave_out(case, label, error)
                continue
            errors[label] = found["error"]
            contestants.append(Contestant(label, worker, "run"))
        for path in Path(session.folder).glob("network*"):
            path.unlink()
        return Row(case, errors, time_survivors(session.rounds, gathering, case, contestants))


def time_survivors(
    rounds: Rounds, gathering: Gathering, case: Case, contestants: list[Contestant]
) -> dict[str, Summary]:
    """Time the contestants; a peer that fails is left out, and the others are timed anew.

    Raises:
        WorkerError: cnnrs itself fails.
    """
    while True:
        try:
            return rounds.measure(contestants)
        except WorkerError as error:
            failed = [one for one in contestants[1:] if one.worker is error.worker]
            if not failed:
                raise
            gathering.leave_out(case, failed[0].label, error)
            contestants = [one for one in contestants if one not in failed]


def export(gathering: Gathering, case: Case, kind: str, folder: str) -> str:
    """Convert the stored network for the runtimes; the reason if that fails, else an empty string."""
    try:
        with gathering.hosts.start("export", gathering.threads) as worker:
            worker.call("network_export", network=case.network, to=kind, folder=folder)
    except WorkerError as error:
        return str(error)
    return ""


def check(case: Case, label: str, ours: dict[str, float | None], theirs: dict[str, float | None]) -> None:
    """Hold a peer's logits and first loss to cnnrs's.

    Raises:
        CheckError: they differ by more than `TOLERANCE`.
    """
    error = theirs["error"]
    if error is None or not error <= TOLERANCE:
        message = f"{case} {label}: logits differ by {error:.2e} of the largest, more than {TOLERANCE:.0e}"
        raise CheckError(message)
    a, b = ours["loss"], theirs["loss"]
    if a is None or b is None or NETWORKS[case.network].dropout:
        return
    if not abs(a - b) <= TOLERANCE * abs(b):
        message = f"{case} {label}: the first loss is {b}, cnnrs's {a}"
        raise CheckError(message)


def table(rows: Sequence[Row], peak: float) -> str:
    """The cases of one mode as a Markdown table."""
    labels = list(dict.fromkeys(label for row in rows for label in row.times))
    head = ["network", "batch", *labels, "GF/s", "% of peak", "best peer", "ratio", "error"]
    lines = []
    for row in rows:
        cells = [row.case.network, str(row.case.batch)]
        cells += [quartiles(row.times[label]) if label in row.times else "-" for label in labels]
        error = f"{max(row.errors.values()):.1e}" if row.errors else "-"
        share = f"{100 * row.gflops / peak:.0f}"
        lines.append([*cells, f"{row.gflops:.0f}", share, row.best_peer or "-", times_text(lead(row.medians)), error])
    return markdown_table(head, lines)
