"""Show what cnnrs found on this machine, what it will use and why, and where it looks for data."""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cnnrs import __version__, _core, models
from cnnrs._download import cache_folder, is_offline
from cnnrs.datasets.mnist import SOURCES, locate, search_folders
from cnnrs.models._pretrained import search_folders as weights_folders

VARIABLES = (
    "CNNRS_ISA",
    "CNNRS_NUM_THREADS",
    "CNNRS_ALGORITHM",
    "CNNRS_VERBOSE",
    "CNNRS_DATA",
    "CNNRS_CACHE",
    "CNNRS_OFFLINE",
)
_EXTRAS = (("demo", "sklearn", "scikit-learn"), ("image", "PIL", "Pillow"))

Line = tuple[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cnnrs doctor`: none."""


def run(args: argparse.Namespace) -> None:
    """Print all sections, one line for each fact."""
    sections = {"package": _package, "processor": _processor, "memory": _memory, "data": _data, "variables": _variables}
    for title, lines in sections.items():
        print(title)
        for name, value in lines():
            print(f"  {name:<20}  {value}")


def _package() -> Iterator[Line]:
    """Versions, the wheel's tag, what optional packages there are."""
    yield "cnnrs", f"{__version__} in {Path(_core.__file__ or '?').parent}"
    yield "wheel", _wheel_tag()
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}) at {sys.executable}"
    yield "numpy", np.__version__
    yield "platform", platform.platform()
    for extra, module, name in _EXTRAS:
        yield name, "installed" if find_spec(module) else f'not installed (pip install "cnnrs[{extra}]")'


def _processor() -> Iterator[Line]:
    """Everything the extension says about instruction sets, threads and algorithms."""
    yield "isa levels", ", ".join(_core.isa_levels())
    for key, value in _core.config().items():
        if key != "version":
            yield key.replace("_", " "), "none" if value is None else value


def _memory() -> Iterator[Line]:
    """Memory of the machine."""
    facts = _meminfo()
    for name, key in (("total", "MemTotal"), ("available", "MemAvailable")):
        yield name, f"{facts[key] / 2**20:.1f} GiB" if key in facts else "not known"


def _data() -> Iterator[Line]:
    """Where data sets and weights are looked for and which of their files are there."""
    yield "cache", cache_folder()
    yield "download", "forbidden by CNNRS_OFFLINE" if is_offline() else "allowed"
    yield "digits", "with scikit-learn" if find_spec("sklearn") else "not here (they come with scikit-learn)"
    for source in SOURCES:
        folders = search_folders(source)
        found = [path for part in source.parts if (path := locate(part, folders))]
        where = ", ".join(sorted({str(path.parent) for path in found}))
        looked = ", ".join(str(folder) for folder in folders)
        count = f"{len(found)} of {len(source.parts)} files"
        yield source.name, f"{count} in {where}" if found else f"{count}, looked in {looked}"
    records, folders = models.list_weights(), weights_folders()
    here = sum(any((folder / record.file).is_file() for folder in folders) for record in records)
    yield "weights", f"{here} of {len(records)} files, looked in {', '.join(map(str, folders))}"


def _variables() -> Iterator[Line]:
    """The environment variables that the package reads."""
    for name in VARIABLES:
        yield name, os.environ.get(name, "not set")


def _wheel_tag() -> str:
    """Give the tags of the installed wheel."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import

    try:
        text = distribution("cnnrs").read_text("WHEEL") or ""
    except PackageNotFoundError:
        return "not installed from a wheel"
    tags = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
    return ", ".join(tags) or "not known"


def _meminfo() -> dict[str, int]:
    """Give the KiB figures of /proc/meminfo, or nothing where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: int(rest.split()[0]) for name, rest in pairs if rest.split() and rest.split()[0].isdigit()}
