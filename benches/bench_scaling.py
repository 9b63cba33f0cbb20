"""Thread scaling: cnnrs against itself on other numbers of threads, in turns, with the same bits."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

from benches.bench_networks import OPTIMIZER, SEED, Case
from benches.common import CheckError, Contestant, Hosts, Outcome, Session, Summary, markdown_table, quartiles
from benches.networks import flops

_NOTE = """Times are medians in ms [first quartile-third quartile] of single calls, each number of threads in a process
of its own. `speed-up` is the median on the first number of threads over that on the last. The results have the same
bits."""


def run(session: Session, hosts: Hosts, cases: Sequence[Case], threads: Sequence[int]) -> Outcome:
    """Time every case on every number of threads.

    Raises:
        CheckError: the bits of a result depend on the number of threads.
    """
    rows = []
    for case in cases:
        times = _measure(session, hosts, case, threads)
        print(f"{case}: " + ", ".join(f"{label} {quartiles(value)}" for label, value in times.items()), file=sys.stderr)
        rows.append((case, times))
    counts = [str(count) for count in threads]
    head = ["network", "mode", "batch", *(f"{count} threads" for count in counts), "GF/s", "speed-up"]
    lines, records = [], []
    for case, times in rows:
        ratio = times[counts[0]].median / times[counts[-1]].median
        rate = 1e-9 * flops(case.network, case.mode, case.batch) / times[counts[-1]].median
        cells = [case.network, case.mode, str(case.batch), *(quartiles(times[count]) for count in counts)]
        lines.append([*cells, f"{rate:.0f}", f"{ratio:.2f}x"])
        seconds = {count: asdict(summary) for count, summary in times.items()}
        records.append({**asdict(case), "seconds": seconds, "speed_up": ratio})
    return Outcome({"thread_counts": list(threads), "rows": records}, f"{_NOTE}\n\n{markdown_table(head, lines)}")


def _measure(session: Session, hosts: Hosts, case: Case, threads: Sequence[int]) -> dict[str, Summary]:
    """Times by number of threads."""
    contestants, digests = [], {}
    with ExitStack() as stack:
        for count in threads:
            worker = stack.enter_context(hosts.start("cnnrs", count))
            arguments = {"network": case.network, "mode": case.mode, "batch": case.batch, "variant": ""}
            opened = worker.call("network_open", seed=SEED, optimizer=OPTIMIZER, folder=None, **arguments)
            digests[count] = opened["digest"]
            contestants.append(Contestant(str(count), worker, "run"))
        if len(set(digests.values())) > 1:
            message = f"{case}: the first result's bits depend on the number of threads: {digests}"
            raise CheckError(message)
        return session.rounds.measure(contestants)
