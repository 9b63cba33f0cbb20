"""Peak memory of a fresh process that trains or infers: cnnrs against PyTorch."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

from benches.bench_networks import OPTIMIZER, SEED, Case, Gathering
from benches.common import Outcome, markdown_table
from benches.peers import WorkerError

_NOTE = """MB are 10^6 bytes. `peak` is the most that a fresh process ever had resident: interpreter, library, weights,
optimizer, one ready batch and the steps. `after import` is its peak when the library was imported and nothing else
done. `share` is cnnrs's peak over the smallest peak of a peer."""


def run(gathering: Gathering, cases: Sequence[Case], steps: int) -> Outcome:
    """Measure every case, one process after the other.

    Raises:
        WorkerError: cnnrs itself cannot run it.
    """
    records, lines = [], []
    for case in cases:
        peaks: dict[str, dict[str, int]] = {}
        variants = [("cnnrs", "cnnrs", ""), *((f"torch {name}", "torch", name) for name in gathering.variants)]
        for label, library, variant in variants:
            try:
                peaks[label] = _measure(gathering, case, library, variant, steps)
            except WorkerError as error:
                if library == "cnnrs":
                    raise
                gathering.leave_out(case, label, error)
                continue
            print(f"{case}: {label} {1e-6 * peaks[label]['peak']:.0f} MB", file=sys.stderr)
        ratio = share({label: found["peak"] for label, found in peaks.items()})
        records.append({**asdict(case), "bytes": peaks, "share": ratio})
        for label, found in peaks.items():
            cells = [str(case), label, f"{1e-6 * found['peak']:.0f}", f"{1e-6 * found['imported']:.0f}"]
            lines.append([*cells, f"{ratio:.2f}" if label == "cnnrs" and ratio is not None else ""])
    text = f"{_NOTE}\n\n" + markdown_table(["case", "process", "peak MB", "after import MB", "share"], lines)
    return Outcome(
        {"steps": steps, "optimizer": OPTIMIZER, "rows": records}, text, gathering.libraries, gathering.notes
    )


def share(peaks: dict[str, int]) -> float | None:
    """Peak of cnnrs over the smallest of a peer; None when it ran alone."""
    peers = [peak for label, peak in peaks.items() if label != "cnnrs"]
    return peaks["cnnrs"] / min(peers) if peers else None


def _measure(gathering: Gathering, case: Case, library: str, variant: str, steps: int) -> dict[str, int]:
    """Peak and imported bytes of one fresh process."""
    with gathering.hosts.start(library, gathering.threads) as worker:
        if library not in ("cnnrs", *gathering.libraries):
            gathering.libraries[library] = worker.call("info")
        arguments = {"network": case.network, "mode": case.mode, "batch": case.batch, "variant": variant}
        worker.call("network_open", seed=SEED, optimizer=OPTIMIZER, folder=None, **arguments)
        worker.call("time", name="run", warmup=0, repeats=steps)
        return {"peak": worker.call("memory"), "imported": worker.imported_bytes}
