"""Put the same questions about the same nets to every tool, in one process and in fresh ones.

``python -m benchmarks.peers`` in an environment that has them all; ``make peers`` sets one up. Times are medians of
several calls after one that warms up; errors are against what real runs allocate. Results go to
``.benchmarks/peers.json``, tables to standard output or, with ``--write``, into README.md and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from benchmarks.peers import tables

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".benchmarks" / "peers.json"
PACKAGES = ("cnnlive", "torch", "torchinfo", "torchsummary", "fvcore", "ptflops", "thop", "networkx", "numba", "numpy")
COLD_NET = "resnet50"
NAMED = "cnnlive, from a name"
EMPTY = f"{NAMED}, {tables.NOT_COMPILED}"
WARM = ("cnnlive, lowered", "networkx, graph built")  # nothing that a fresh process has


def timed(call: Callable[[], Any], budget: float = 0.5, most: int = 15) -> tuple[Any, float]:
    """Return the answer and the median time of calls, in seconds, after one that is not counted.

    At least three calls, two where one takes over a second, one where it takes over four; more within the budget of
    seconds. Where the first takes over ten, it is the only one.
    """
    start = time.perf_counter()
    answer = call()
    if (first := time.perf_counter() - start) > 10:
        return answer, first
    start = time.perf_counter()
    answer = call()
    times = [time.perf_counter() - start]
    loops = max(1, int(2e-3 / times[0]))
    if loops > 1:
        times.clear()  # too short to time alone
    least = 3 - sum(took > limit for took in times for limit in (1, 4))
    while len(times) < least or (len(times) < most and time.perf_counter() - start < budget):
        begin = time.perf_counter()
        for _ in range(loops):
            call()
        times.append((time.perf_counter() - begin) / loops)
    return answer, median(times)


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Name the machine by the model of its processor and its number of cores."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def fails(error: Exception) -> str:
    """Word a failure in one short line."""
    text = " ".join(str(error).split()).replace("|", "/")  # in a table
    return textwrap.shorten(f"{type(error).__name__}: {text}", 160, placeholder=" ...")


def truths(chosen: Sequence[Any]) -> dict[str, Any]:
    """Measure what is true of each net, and how long a real run takes that says so."""
    from benchmarks.peers import tools, truth  # noqa: PLC0415 - needs torch

    found = {}
    for net in chosen:
        say(f"{net.name}: real runs")
        module = net.make()
        counts = truth.counts(module, net.shape)
        start = time.perf_counter()
        inference = truth.inference(module, net.shape)
        between = time.perf_counter()
        training = truth.training(module, net.shape, tools.BATCH, net.maps)
        seconds = {"inference": between - start, "training": time.perf_counter() - between}
        found[net.name] = {"training": training, "inference": inference, "counts": list(counts), "seconds": seconds}
    return found


def answers(chosen: Sequence[Any]) -> list[dict[str, Any]]:
    """Ask all tools about the nets."""
    from benchmarks.peers import tools  # noqa: PLC0415 - as above

    rows = []
    for net in chosen:
        say(f"{net.name}: tools")
        for tool in tools.TOOLS:
            for question, ask in tool.askers.items():
                row: dict[str, Any] = {"tool": tool.name, "question": question, "net": net.name}
                try:
                    value, row["seconds"] = timed(ask(net))
                    row["value"] = list(value) if isinstance(value, tuple) else value
                except Exception as error:  # what a tool makes of a net is the result
                    row["fails"] = fails(error)
                rows.append(row)
    return rows


def beyond() -> list[dict[str, Any]]:
    """Ask about nets that cnnlive does not read: the first question that a tool answers at all."""
    from benchmarks.peers import nets, tools  # noqa: PLC0415 - needs torch

    rows = []
    for net in nets.BEYOND:
        for tool in tools.TOOLS:
            if tool.package == "networkx" or (tool.package == "cnnlive" and "module" not in tool.name):
                continue  # they start from what cnnlive reads
            question, ask = next(iter(tool.askers.items()))
            row: dict[str, Any] = {"tool": tool.name, "question": question, "net": net.name, "fails": None}
            try:
                ask(net)()
            except Exception as error:  # as above
                row["fails"] = fails(error)
            rows.append(row)
    return rows


def ask_cold(name: str) -> None:
    """In a fresh process: ask one tool its first question."""
    if name.startswith("networkx"):  # who has it alone knows the sizes, and works out nothing of a module
        from benchmarks.peers.networkx_liveness import macro_dag, peak  # noqa: PLC0415 - what is timed

        dag, weights = macro_dag([1] * 8)
        print(weights + peak(dag, ["image"]))
        return
    from benchmarks.peers import tools  # noqa: PLC0415 - as above

    if name.startswith(NAMED):
        net: Any = SimpleNamespace(name=COLD_NET, options=(), real=False)
    else:
        net = importlib.import_module("benchmarks.peers.nets").NETS[COLD_NET]
    tool = next(t for t in tools.TOOLS if name.startswith(t.name))
    print(next(iter(tool.askers.values()))(net)())


def cold(names: Sequence[str], rounds: int = 3) -> list[dict[str, Any]]:
    """Time fresh processes, from their start to the first answer about a ResNet-50, imports and the net included."""
    from benchmarks.peers import tools  # noqa: PLC0415 - after the check that all is installed

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        for name in (EMPTY, *(name for name in names if name not in WARM)):
            say(f"fresh process: {name}")
            tool = next(t for t in tools.TOOLS if name.startswith(t.name))
            row: dict[str, Any] = {"tool": name, "question": next(iter(tool.askers))}
            times = []
            while len(times) < (1 if name == EMPTY else rounds):
                start = time.perf_counter()
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", "--cold", name]
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    row["fails"] = (done.stderr.strip().splitlines() or ["?"])[-1][:160]
                    break
                times.append(time.perf_counter() - start)
            if times:
                row["seconds"] = median(times)
            rows.append(row)
    return rows


def missing() -> list[str]:
    """Return the packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def run(chosen: Sequence[Any]) -> dict[str, Any]:
    """Measure everything."""
    import cnnlive  # noqa: PLC0415 - after the check that all is installed
    from benchmarks.peers import search, tools  # noqa: PLC0415 - as above

    begin = time.perf_counter()
    say("kernels of cnnlive")
    cnnlive.warm_up()
    return {
        "machine": machine(),
        "versions": {"CPython": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "batch": tools.BATCH,
        "questions": tools.QUESTIONS,
        "tools": {tool.name: tool.words for tool in tools.TOOLS},
        "nets": {net.name: list(net.shape) for net in chosen},
        "truth": truths(chosen),
        "answers": answers(chosen),
        "search": search.measure(),
        "beyond": beyond(),
        "cold": cold([tool.name for tool in tools.TOOLS]),
        "cold_net": COLD_NET,
        "seconds": time.perf_counter() - begin,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the results, print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", help="names, with commas; default: all")
    parser.add_argument("--write", action="store_true", help="write the tables into README.md and docs/benchmarks.md")
    parser.add_argument("--from-results", action="store_true", help="do not measure: tables of the last results")
    parser.add_argument("--cold", metavar="TOOL", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if given.cold:
        ask_cold(given.cold)
        return
    if given.from_results:
        if not RESULTS.exists():
            sys.exit(f"there are no results at {RESULTS}; measure first, without --from-results")
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        if absent := missing():
            sys.exit(f"not installed: {', '.join(absent)}; `make peers` sets up an environment that has them")
        from benchmarks.peers import nets  # noqa: PLC0415 - needs torch

        names = given.nets.split(",") if given.nets else list(nets.NETS)
        if unknown := [name for name in names if name not in nets.NETS]:
            sys.exit(f"unknown nets: {', '.join(unknown)}; allowed: {', '.join(nets.NETS)}")
        results = run([nets.NETS[name] for name in names])
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        say(f"results: {RESULTS.relative_to(ROOT)}, in {results['seconds']:.0f} s")
    if not given.write:
        print(tables.short(results))
        print()
        print(tables.full(results))
        return
    for file, text in (("README.md", tables.short(results)), ("docs/benchmarks.md", tables.full(results))):
        written = tables.write(ROOT / file, text)
        say(f"{file}: {'written' if written else 'has no lines <!-- peers --> and <!-- /peers -->'}")


if __name__ == "__main__":
    main()
