"""The innermost loops of the register tiles, as they were compiled: accumulators stay in registers, nothing is called.

The extension has no symbols once it is stripped, so the loops are found by what they do: `MR` × 2 multiply-adds on `MR`
broadcast numbers.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from cnnrs import _core

LINE = re.compile(r"^\s*([0-9a-f]+):\s+(.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)")
# Beyond so many bytes it is no loop of a tile.
LONGEST = 1024


def innermost_loops() -> list[list[str]]:
    """The instructions of every short loop that has no loop inside."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("objdump is not installed: nothing to disassemble with")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"the tiles looked for are those of x86-64, this is {platform.machine()}")
    command = [objdump, "-d", "--no-show-raw-insn", _core.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places: dict[int, int] = {}
    code: list[str] = []
    for line in listing.splitlines():
        if found := LINE.match(line):
            places[int(found[1], 16)] = len(code)
            code.append(found[2].strip())
    loops = []
    for address, index in places.items():
        found = JUMP.match(code[index])
        if found and 0 <= address - (target := int(found[1], 16)) < LONGEST and target in places:
            loops.append((places[target], index))
    loops.sort(key=lambda loop: (loop[1], -loop[0]))
    innermost: list[tuple[int, int]] = []
    for first, last in loops:
        # In order of their ends, and the shorter first: what is inside came before.
        if not innermost or innermost[-1][0] < first:
            innermost.append((first, last))
    return [code[first : last + 1] for first, last in innermost]


def tiles(loops: list[list[str]], rows: int, register: str) -> list[list[str]]:
    """The loops of `rows` × 2 vectors in registers of this kind; those with masks are borders."""

    def count(loop: list[str], name: str, operand: str = "") -> int:
        return sum(line.startswith(name) and register in line and operand in line for line in loop)

    full = [loop for loop in loops if count(loop, "vfmadd") == 2 * rows and count(loop, "vbroadcastss") == rows]
    # What only lies between a jump and its target, such as the ends of tiles, jumps away and broadcasts registers, too.
    full = [
        loop
        for loop in full
        if count(loop, "vbroadcastss", "(") == rows or not any(line.startswith("jmp") for line in loop)
    ]
    return [loop for loop in full if not any("{%k" in line or line.startswith("vblend") for line in loop)]


# General registers: 15 beside the stack's. Twelve rows have twelve pointers; with the weights, the index, its end and
# what is asked for ahead that is more than there are, so a few pointers are read again, which takes no slot of an FMA.
@pytest.mark.parametrize(("rows", "register", "reloads"), [(12, "%zmm", 6), (6, "%ymm", 0)])
def test_the_loops_of_the_full_tiles_keep_to_registers(rows: int, register: str, reloads: int) -> None:
    """No call, no vector from or to the stack, no store to it, and no more than some pointers read from there."""
    found = tiles(innermost_loops(), rows, register)
    # At least the product through pointers and the weight gradient.
    assert len(found) >= 2
    for loop in found:
        stack = [line for line in loop if "(%rsp" in line]
        text = "\n".join(loop)
        assert not [line for line in loop if line.startswith("call")], text
        assert not [line for line in stack if line.startswith("v")], text
        assert not [line for line in stack if re.search(r",\s*-?(0x)?[0-9a-f]*\(%rsp", line)], text
        assert len(stack) <= reloads, text
