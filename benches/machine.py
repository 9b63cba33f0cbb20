"""What a result file says of the machine: never a host name, never a path."""

import os
import platform
import re
from pathlib import Path

_FLAGS = re.compile(r"fma|avx|avx2|avx_vnni|avx512\w*|amx_\w+|asimd\w*|sve\w*|bf16|i8mm")
_VARIABLES = (
    "CNNRS_ALGORITHM",
    "CNNRS_ISA",
    "CNNRS_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "ONEDNN_MAX_CPU_ISA",
)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """CPU, caches, memory, system and the environment variables that steer speed."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "family_model_stepping": [cpu.get(key, "") for key in ("cpu family", "model", "stepping")],
        "architecture": platform.machine(),
        "flags": sorted(flag for flag in flags if _FLAGS.fullmatch(flag)),
        "caches": _caches(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def machine_class(machine: dict[str, object], isa: str) -> str:
    """Short name of a kind of machine for file names, like `amd-epyc-avx512-2c`."""
    name = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", str(machine["cpu"]).lower())
    return "-".join([*re.findall(r"[a-z0-9]+", name)[:4], isa, f"{machine['cores']}c"])


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text("utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    """Size by level of the first core's caches, like {"L1 data": "48K"}."""
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text("utf-8").strip() for name in ("level", "type", "size"))
        caches[f"L{level}" + ("" if kind == "Unified" else f" {kind.lower()}")] = size
    return caches
