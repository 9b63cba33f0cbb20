"""Result files: one JSON with every figure and one Markdown for reading, named by date, case and machine class."""

import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benches.machine import machine_class

FOLDER = Path(__file__).parent / "results"
_PATH_OPTIONS = ("--cnnrs-python", "--torch-python", "--peer-python", "--output")


@dataclass
class Report:
    """One run of one benchmark, ready to be stored.

    `record` is what the JSON holds besides machine, versions and command; `text` is the body of the Markdown file and
    what the terminal shows. `load` is the load average of the last minute before and after; `notes` say what was left
    out and why.
    """

    benchmark: str
    case: str
    command: str
    machine: dict[str, object]
    libraries: dict[str, dict[str, object]]
    record: dict[str, object]
    text: str
    load: tuple[float, float]
    notes: Sequence[str] = ()
    date: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    @property
    def stem(self) -> str:
        """File name without its suffix, like `2026-01-31-conv-resnet18-b8-t2-amd-epyc-avx512-2c`."""
        settings = self.libraries["cnnrs"]["settings"]
        assert isinstance(settings, dict)
        return f"{self.date:%Y-%m-%d}-{self.case}-{machine_class(self.machine, str(settings['isa_used']))}"

    def head(self) -> str:
        """What a reader must know before the figures, as a Markdown list."""
        versions: dict[str, object] = {}
        for library in self.libraries.values():
            found = library["versions"]
            assert isinstance(found, dict)
            versions |= found
        flags, caches = self.machine["flags"], self.machine["caches"]
        assert isinstance(flags, list)
        assert isinstance(caches, dict)
        lines = [
            f"Command: `{self.command}`",
            f"Date: {self.date:%Y-%m-%d %H:%M} UTC",
            f"Machine: {self.machine['cpu']}, {self.machine['cores']} cores, "
            + ", ".join(f"{name} {size}" for name, size in caches.items()),
            f"Flags: {' '.join(flags)}",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
        lines += [f"Settings of {name}: {json.dumps(library['settings'])}" for name, library in self.libraries.items()]
        lines.append(f"Load average before and after: {self.load[0]:.2f}, {self.load[1]:.2f}")
        if self.machine["environment"]:
            lines.append(f"Environment: {json.dumps(self.machine['environment'])}")
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(f"- {line}" for line in lines)

    def save(self, folder: Path) -> list[Path]:
        """Write both files; a number is added to the name rather than a former result overwritten."""
        folder.mkdir(parents=True, exist_ok=True)
        stem, number = self.stem, 1
        while (folder / f"{stem}.json").exists():
            number += 1
            stem = f"{self.stem}-{number}"
        content = {
            "format": 1,
            "benchmark": self.benchmark,
            "case": self.case,
            "date": self.date.isoformat(timespec="seconds"),
            "command": self.command,
            "machine": self.machine,
            "libraries": self.libraries,
            "load_average": list(self.load),
            "notes": list(self.notes),
            **self.record,
        }
        paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
        paths[0].write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        paths[1].write_text(f"# {self.case}\n\n{self.head()}\n\n{self.text}\n", "utf-8")
        return paths


def public_command(arguments: Sequence[str]) -> str:
    """The command of this run, with the options that hold paths left out: they differ on every host."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        option = argument.partition("=")[0]
        if skip:
            skip = False
        elif option in _PATH_OPTIONS:
            skip = "=" not in argument
        else:
            kept.append(argument)
    return shlex.join(["python", "-m", "benches.run", *kept])
