"""LeNet-5 training: single steps on a ready batch, and a whole epoch of `fit` over MNIST."""

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict

from benches.common import (
    CheckError,
    Contestant,
    Outcome,
    Session,
    Summary,
    lead,
    markdown_table,
    milliseconds,
    spread,
    times_text,
)
from benches.shapes import load, total_macs

FORMS = {"tanh-avg": {"activation": "tanh", "pool": "avg"}, "relu-max": {"activation": "relu", "pool": "max"}}
OPTIMIZER = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
CHECK_STEPS = 10
TOLERANCE = 1e-3  # on the losses of the first steps from the same weights on the same batch
_LINEAR_MACS = 400 * 120 + 120 * 84 + 84 * 10
FIT = "cnnrs fit"
_SEED = 0

_STEP_NOTE = """A step is forward, cross-entropy, backward, SGD with momentum 0.9 and weight decay 5e-4, and the loss
as a Python float on both sides, on one float32 batch that lies ready. Times are medians in ms [p10-p90] of single
steps. GF/s counts the multiply-adds of convolutions and fully connected layers in all passes but the first layer's data
gradient, 2 flops each. `lead` is the fastest torch variant's median over cnnrs's. `loss error` is the largest relative
difference of the losses of the first steps, from the same weights on the same batch."""
_EPOCH_NOTE = """Times are medians in ms [p10-p90]. `cnnrs fit` is one epoch of `Trainer.fit` over MNIST's uint8 images:
shuffled, batched and normalised, without validation. The others are as many steps on the ready batch as the epoch has,
without any data handling: what an ideal loader would give. `lead` is the fastest torch variant over `cnnrs fit`."""


def step_flops(batch: int) -> float:
    """Flops of one training step: three passes of every layer, less the data gradient of the first."""
    layers = load("lenet5")
    macs = 3 * (total_macs(layers) + _LINEAR_MACS) - layers[0].shape.macs
    return 2.0 * batch * macs


def run(session: Session, forms: Sequence[str], batch: int, *, epoch: bool) -> Outcome:
    """Check and time the forms of LeNet-5.

    Args:
        session: The processes to run it in.
        forms: Some of `FORMS`.
        batch: Images a step.
        epoch: Also time `fit`; without `$CNNRS_DATA` this is left out with a word.

    Raises:
        CheckError: The losses of the two libraries differ from the same start.
    """
    if epoch and "CNNRS_DATA" not in os.environ:
        print("fit: skipped, CNNRS_DATA is not set", file=sys.stderr)
        epoch = False
    peaks = [session.peak()]
    steps: dict[str, dict[str, Summary]] = {}
    epochs: dict[str, dict[str, Summary]] = {}
    errors: dict[str, float | None] = {}
    for form in forms:
        errors[form] = _open(session, form, batch)
        steps[form] = session.rounds.measure(session.contestants("step"))
        _progress(f"{form} step", steps[form])
        if epoch:
            epochs[form] = _measure_epoch(session, form, batch)
            _progress(f"{form} epoch", epochs[form])
        peaks.append(session.peak())
    peak = statistics.median(peaks)
    record = {
        "peak_gflops": peak,
        "peaks_gflops": peaks,
        "batch": batch,
        "optimizer": OPTIMIZER,
        "step_flops": step_flops(batch),
        "steps": {form: _record(times, errors[form]) for form, times in steps.items()},
        "epochs": {form: _record(times, None, FIT) for form, times in epochs.items()},
    }
    parts = [f"Measured FMA peak: {peak:.0f} GFLOP/s [{min(peaks):.0f}-{max(peaks):.0f}]"]
    parts.append(f"## One step, batch {batch}\n\n{_STEP_NOTE}\n\n{_step_table(steps, errors, batch, peak)}")
    if epochs:
        parts.append(f"## One epoch of MNIST, batch {batch}\n\n{_EPOCH_NOTE}\n\n{_epoch_table(epochs)}")
    return Outcome(record, "\n\n".join(parts))


def _open(session: Session, form: str, batch: int) -> float | None:
    """Make the model in both processes from the same weights; error of the first losses (None without torch)."""
    case = FORMS[form] | {"optimizer": OPTIMIZER, "steps": CHECK_STEPS, "folder": session.folder}
    ours: list[float] = session.cnnrs.call("lenet_open", batch=batch, seed=_SEED, **case)
    if session.torch is None:
        return None
    theirs: dict[str, list[float]] = session.torch.call("lenet_open", variants=list(session.variants), **case)
    worst = 0.0
    for variant, losses in theirs.items():
        error = max(abs(a - b) / abs(b) for a, b in zip(ours, losses, strict=True))
        if not error <= TOLERANCE:
            message = f"{form} {variant}: losses differ by {error:.2e}, more than {TOLERANCE:.0e}: {ours} and {losses}"
            raise CheckError(message)
        worst = max(worst, error)
    return worst


def _measure_epoch(session: Session, form: str, batch: int) -> dict[str, Summary]:
    """Seconds of `fit` and of as many steps, by contestant."""
    opened = session.cnnrs.call("epoch_open", batch=batch, seed=_SEED, optimizer=OPTIMIZER, **FORMS[form])
    if session.torch is not None:
        session.torch.call("epoch_open", steps=opened["steps"])
    ours = [Contestant(FIT, session.cnnrs, "fit"), Contestant("cnnrs steps", session.cnnrs, "steps")]
    return session.rounds.measure_once_a_turn([*ours, *session.contestants("steps")[1:]])


def _medians(times: dict[str, Summary]) -> dict[str, float]:
    return {label: summary.median for label, summary in times.items()}


def _record(times: dict[str, Summary], error: float | None, ours: str = "cnnrs") -> dict[str, object]:
    """Plain values for the result file."""
    seconds = {label: asdict(summary) for label, summary in times.items()}
    return {"seconds": seconds, "lead": lead(_medians(times), ours), "error": error}


def _step_table(steps: dict[str, dict[str, Summary]], errors: dict[str, float | None], batch: int, peak: float) -> str:
    """The forms as a Markdown table."""
    labels = list(next(iter(steps.values())))
    head = ["form", *(cell for label in labels for cell in (label, "GF/s")), "% of peak", "lead", "loss error"]
    lines = []
    for form, times in steps.items():
        cells, error = [form], errors[form]
        for label in labels:
            cells += [spread(times[label]), f"{1e-9 * step_flops(batch) / times[label].median:.1f}"]
        share = 1e-9 * step_flops(batch) / times["cnnrs"].median / peak
        ratio = times_text(lead(_medians(times)))
        lines.append([*cells, f"{100 * share:.0f}", ratio, "-" if error is None else f"{error:.1e}"])
    return markdown_table(head, lines)


def _epoch_table(epochs: dict[str, dict[str, Summary]]) -> str:
    """The forms as a Markdown table."""
    labels = list(next(iter(epochs.values())))
    lines = [
        [form, *(spread(times[label]) for label in labels), times_text(lead(_medians(times), FIT))]
        for form, times in epochs.items()
    ]
    return markdown_table(["form", *labels, "lead"], lines)


def _progress(title: str, times: dict[str, Summary]) -> None:
    """One line for the terminal while the run goes on."""
    shown = ", ".join(f"{label} {milliseconds(summary.median)}" for label, summary in times.items())
    print(f"{title}: {shown} ms", file=sys.stderr)
