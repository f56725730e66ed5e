"""TensorFlow Lite Micro for the tests: the real interpreter in a process of its own, and its planner, written down."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys

# Measured in a process of its own: figures are printed by native code, and an operator it refuses may end the process.
SCRIPT = """
import os, sys
from tflite_micro import runtime
for path in sys.argv[1:]:
    os.write(2, f"== {path}\\n".encode())
    try:
        runtime.Interpreter.from_file(path, arena_size=1 << 24).print_allocations()
    except Exception as error:
        os.write(2, f"failed: {error}\\n".encode())
"""


@functools.cache
def reason():
    """Say why there is no interpreter, or nothing if there is one."""
    if importlib.util.find_spec("tflite_micro") is None:
        return "tflite-micro is not installed (it has wheels for CPython 3.10 to 3.14 on x86-64 Linux)"
    done = subprocess.run([sys.executable, "-c", "from tflite_micro import runtime"], capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    return "" if done.returncode == 0 else f"tflite-micro cannot be imported: {done.stderr.strip().splitlines()[-1]}"


def heads(paths):
    """Return the bytes of the arena's head and of the whole arena for each file, or the interpreter's complaint."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, paths)], capture_output=True, text=True, timeout=600,
                          check=False)  # fmt: skip
    found = {}
    for part in done.stderr.split("== ")[1:]:
        path, _, text = part.partition("\n")
        head = re.search(r"Arena allocation head (\d+) bytes", text)
        total = re.search(r"Arena allocation total (\d+) bytes", text)
        found[path] = (int(head[1]), int(total[1])) if head and total else text.strip()
    return [found.get(str(p), f"no figures; the process ended with {done.returncode}") for p in paths]


def place(rows, alignment=16):
    """Return offsets: buffers by size, largest first, of equal ones the last; each at the lowest gap that holds it.

    `rows` are ``(bytes, first use, last use)``, both inclusive.
    """
    sizes = [-(-nbytes // alignment) * alignment for nbytes, _, _ in rows]
    offsets = [None] * len(rows)
    for i in sorted(range(len(rows)), key=lambda i: (-sizes[i], -i)):
        beside = sorted(
            (offsets[j], sizes[j])
            for j in range(len(rows))
            if offsets[j] is not None and rows[j][1] <= rows[i][2] and rows[i][1] <= rows[j][2]
        )
        at = 0
        for offset, nbytes in beside:
            if offset - at >= sizes[i]:
                break
            at = max(at, offset + nbytes)
        offsets[i] = at
    return offsets


def head(rows, alignment=16):
    """Return the height of the arena: sizes count rounded up, as the planner is told them."""
    ends = [o - (-row[0] // alignment) * alignment for o, row in zip(place(rows, alignment), rows, strict=True)]
    return max(ends, default=0)
