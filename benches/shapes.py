"""Convolution layers as data: the shape language of the logs, and the networks in `benches/shapes/`.

A shape is one word of names and numbers, `n1ih56iw56ic64oc64kh3kw3sh1ph1`:

| name | meaning | default |
|---|---|---|
| n | batch | 1 |
| ih, iw | input height, width | ih has none, iw = ih |
| ic, oc | input, output channels | none |
| kh, kw | kernel height, width | kh has none, kw = kh |
| sh, sw | stride | sh = 1, sw = sh |
| ph, pw | padding on each side | ph = 0, pw = ph |
| dh, dw | dilation, 1 means none | dh = 1, dw = dh |
| g | groups | 1 |

A line of a shape file is `SHAPE [*REPEATS] [NAME]`; `#` starts a comment.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

SHAPES = Path(__file__).parent / "shapes"

_WORD = re.compile(r"([a-z]+)(\d+)")
_KEYS = ("n", "ih", "iw", "ic", "oc", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "g")
_REQUIRED = ("ih", "ic", "oc", "kh")
_FOLLOWS = {"iw": "ih", "kw": "kh", "sw": "sh", "pw": "ph", "dw": "dh"}
_DEFAULTS = {"n": 1, "sh": 1, "ph": 0, "dh": 1, "g": 1}


@dataclass(frozen=True)
class ConvShape:
    """Geometry of one convolution; the fields are named as in the shape language."""

    n: int
    ih: int
    iw: int
    ic: int
    oc: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    g: int

    def __post_init__(self) -> None:
        """Refuse a geometry without output.

        Raises:
            ValueError: a number but the padding is 0, groups do not divide the channels, or the kernel exceeds the
                padded input.
        """
        for key in _KEYS:
            if key not in ("ph", "pw") and getattr(self, key) < 1:
                message = f"{key} must be at least 1, got {getattr(self, key)}"
                raise ValueError(message)
        if self.ic % self.g or self.oc % self.g:
            message = f"g {self.g} must divide ic {self.ic} and oc {self.oc}"
            raise ValueError(message)
        if self.oh < 1 or self.ow < 1:
            message = f"kernel exceeds the padded input, output would be ({self.oh}, {self.ow})"
            raise ValueError(message)

    def __str__(self) -> str:
        """The shape string; what equals its default and is rarely set (sw, pw, dilation, groups) is left out."""
        text = f"n{self.n}ih{self.ih}iw{self.iw}ic{self.ic}oc{self.oc}kh{self.kh}kw{self.kw}sh{self.sh}"
        text += f"sw{self.sw}" if self.sw != self.sh else ""
        text += f"ph{self.ph}"
        text += f"pw{self.pw}" if self.pw != self.ph else ""
        if (self.dh, self.dw) != (1, 1):
            text += f"dh{self.dh}dw{self.dw}"
        return text + (f"g{self.g}" if self.g != 1 else "")

    @property
    def oh(self) -> int:
        """Output height, floor((I - K_eff + P_total) / S) + 1."""
        return (self.ih - self.dh * (self.kh - 1) - 1 + 2 * self.ph) // self.sh + 1

    @property
    def ow(self) -> int:
        """Output width, by the same formula."""
        return (self.iw - self.dw * (self.kw - 1) - 1 + 2 * self.pw) // self.sw + 1

    @property
    def macs(self) -> int:
        """Multiply-adds of the direct convolution; each of the three passes needs as many."""
        return self.n * self.oh * self.ow * self.oc * (self.ic // self.g) * self.kh * self.kw

    def with_batch(self, batch: int) -> "ConvShape":
        """The same layer on another batch."""
        return dataclasses.replace(self, n=batch)


@dataclass(frozen=True)
class Layer:
    """One line of a shape file: a shape, how often the network has it, and the name of its first layer."""

    shape: ConvShape
    repeats: int = 1
    name: str = ""


def parse_shape(text: str) -> ConvShape:
    """Read one shape word.

    Raises:
        ValueError: not a shape: a name is unknown, twice or missing, or the geometry has no output.
    """
    pairs = _WORD.findall(text)
    if not pairs or "".join(key + number for key, number in pairs) != text:
        message = f"shape must be names and numbers like n1ih56ic64oc64kh3, got {text!r}"
        raise ValueError(message)
    values: dict[str, int] = {}
    for key, number in pairs:
        if key not in _KEYS:
            message = f"shape {text!r}: unknown name {key!r}, expected one of {', '.join(_KEYS)}"
            raise ValueError(message)
        if key in values:
            message = f"shape {text!r}: {key} is given twice"
            raise ValueError(message)
        values[key] = int(number)
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        message = f"shape {text!r}: {', '.join(missing)} missing"
        raise ValueError(message)
    values = _DEFAULTS | values
    for key, source in _FOLLOWS.items():
        values.setdefault(key, values[source])
    try:
        return ConvShape(**values)
    except ValueError as error:
        message = f"shape {text!r}: {error}"
        raise ValueError(message) from error


def parse_line(line: str) -> Layer | None:
    """Read one line of a shape file; None for an empty line or a comment.

    Raises:
        ValueError: not of the form `SHAPE [*REPEATS] [NAME]`.
    """
    words = line.partition("#")[0].split()
    if not words:
        return None
    shape, repeats, rest = parse_shape(words[0]), 1, words[1:]
    if rest and rest[0].startswith("*"):
        if not rest[0][1:].isdecimal() or int(rest[0][1:]) < 1:
            message = f"repeats must be * and a number of at least 1, got {rest[0]!r}"
            raise ValueError(message)
        repeats, rest = int(rest[0][1:]), rest[1:]
    if len(rest) > 1:
        message = f"a line must be SHAPE [*REPEATS] [NAME], got {line.strip()!r}"
        raise ValueError(message)
    return Layer(shape, repeats, rest[0] if rest else "")


def networks() -> list[str]:
    """Names of the networks with a shape file."""
    return sorted(path.stem for path in SHAPES.glob("*.txt"))


def load(network: str) -> list[Layer]:
    """Layers of a network in the order of its file, at batch 1.

    Raises:
        ValueError: no such network, or a bad line (file and line number are named).
    """
    if network not in networks():
        message = f"network must be one of {', '.join(networks())}, got {network!r}"
        raise ValueError(message)
    layers = []
    for number, line in enumerate((SHAPES / f"{network}.txt").read_text("utf-8").splitlines(), 1):
        try:
            layer = parse_line(line)
        except ValueError as error:
            message = f"{network}.txt line {number}: {error}"
            raise ValueError(message) from error
        if layer is not None:
            layers.append(layer)
    return layers


def total_macs(layers: list[Layer]) -> int:
    """Multiply-adds of one forward pass through all the layers, repeats included."""
    return sum(layer.repeats * layer.shape.macs for layer in layers)
