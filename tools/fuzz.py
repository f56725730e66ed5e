"""Damage sound files and read them: a CnnliveError, or something that plans; never a crash, a hang or a wrong size.

``python tools/fuzz.py json onnx --files 1000`` reads the files that the tests read; another ``--seed`` other ones, and
``--only 17`` shows one of them. ``python tools/fuzz.py onnx --guided 60`` lets atheris look for files for a minute: it
keeps what reaches new lines of the readers. The readers are those of ``tests/fuzz_corpus.py``.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import importlib
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

# What decides over a file.
READING = (
    "cnnlive.io",
    "cnnlive.graph",
    "cnnlive.ops",
    "cnnlive.plan._plain",
    "cnnlive.plan.chain",
    "cnnlive.plan.checkpoint",
    "cnnlive.plan.costs",
    "cnnlive.plan.remat",
    "cnnlive.plan.wraps",
    "cnnlive.buffers",
)


def read_all(corpus: Any, name: str, files: int, seed: int, only: int | None) -> int:
    """Read damaged files; return how many broke the rules."""
    reader = corpus.READERS[name]
    counts: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[tuple[str, str, int | None]] = collections.Counter()
    for k, sound in enumerate(reader.seeds()):
        if corpus.probe(reader, sound) != "planned":
            print(f"{name}: the sound file {k} is refused")
            seen["sound", name, k] += 1
    began, slowest = time.perf_counter(), (0.0, 0)
    with corpus.bounded():
        for i, way, data in corpus.mutants(reader, files, seed):
            if only not in (None, i):
                continue
            at = time.process_time()
            try:
                counts[corpus.probe(reader, data)] += 1
            except (Exception, corpus.TooLong) as error:
                where = traceback.extract_tb(error.__traceback__)
                key = (type(error).__name__, where[-1].filename, where[-1].lineno)
                seen[key] += 1
                if seen[key] == 1:
                    print(f"{name}, file {i} of seed {seed}, {way}: {type(error).__name__}: {str(error)[:500]}")
                    print("".join(traceback.format_list(where[-4:])), end="")
            if only is not None:
                print(data[:8000])
            slowest = max(slowest, (time.process_time() - at, i))
    print(f"{name}: {dict(counts)}, {seen.total()} wrong; {time.perf_counter() - began:.1f} s, the slowest file "
          f"({slowest[1]}) {slowest[0]:.2f} s")  # fmt: skip
    return seen.total()


def search(name: str, seconds: int) -> None:
    """Let atheris look for files; ends the process, with the status 0 if none broke the rules."""
    import atheris  # noqa: PLC0415 - has wheels for few platforms
    import kernels  # noqa: PLC0415 - of the tests

    kernels.all_kernels()  # imported before: numba cannot compile what is instrumented
    with atheris.instrument_imports(include=list(READING)):
        for module in READING:
            importlib.import_module(module)
        corpus = importlib.import_module("fuzz_corpus")
        importlib.import_module("cnnlive.io.onnx")
        importlib.import_module("cnnlive.io.tflite")
    reader = corpus.READERS[name]
    sound = reader.seeds()
    folder = Path(tempfile.mkdtemp(prefix=f"cnnlive-fuzz-{name}-"))
    for k, data in enumerate(sound):
        (folder / f"sound{k}").write_bytes(data)
        corpus.probe(reader, data)  # compiles the kernels

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5 or not data:
            return bytes(atheris.Mutate(data, size))
        way = rng.choice((*corpus.BYTES, *reader.damage))
        return bytes(way(rng, sound if way in reader.damage else [data, rng.choice(sound)])[:size])

    limits = [
        f"-max_total_time={seconds}",
        "-timeout=20",
        "-rss_limit_mb=3000",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(folder), *limits], lambda data: corpus.probe(reader, data), custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help="default: all")
    parser.add_argument("--files", type=int, default=1000, help="damaged files of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of the one file to read and show")
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="per reader, with atheris")
    args = parser.parse_args()
    faulthandler.enable()
    if args.guided and len(args.readers) == 1:
        search(args.readers[0], args.guided)
    corpus = importlib.import_module("fuzz_corpus")
    names = args.readers or list(corpus.READERS)
    if args.guided:
        again = [sys.executable, __file__, "--guided", str(args.guided)]
        return max(subprocess.run([*again, name], check=False).returncode for name in names)
    warnings.simplefilter("error")
    return int(sum(read_all(corpus, name, args.files, args.seed, args.only) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
