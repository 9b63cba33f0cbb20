"""Fuzzing of the readers that take files from anywhere: idx, safetensors, pickles, torch's checkpoints.

    cd tests && python -m fuzz idx --count 1000000 --seed 1

A case is a file in memory, made from a valid one by mutations that know its format. The reader must either give arrays
that an independent reading of the file confirms, or raise its own error. Anything else, also a case that takes too
long or memory that grows, ends the campaign with the case's number and bytes. A case depends on the seed and its number
only, so that `--first N --count 1` repeats it.
"""

from fuzz.campaign import CaseError, Report, Target, run

__all__ = ["CaseError", "Report", "Target", "run"]
