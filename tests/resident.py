"""Programs that measure the memory of a process of their own.

`PRELUDE` defines `resident()`, `restart()` (which gives the resident bytes and begins a new peak there) and `peak()`,
all in bytes, from what the kernel says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def _can_restart() -> bool:
    """Whether a process may begin a new peak of its resident size."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


measured = pytest.mark.skipif(
    sys.platform != "linux" or not _can_restart(), reason="needs /proc/self/status and /proc/self/clear_refs"
)

PRELUDE = """
import gc, json, sys
import numpy as np
import cnnrs
from cnnrs import Trainer, functional as F, models, nn, optim

def field(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))

def resident():
    return field("VmRSS")

def peak():
    return field("VmHWM")

def restart():
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak()

cnnrs.set_num_threads(2)
"""
