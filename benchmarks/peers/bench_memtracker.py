"""Peak memory of one training step and the time to find it: cnnlive beside torchinfo and PyTorch's memory tracker.

``python benchmarks/peers/bench_memtracker.py [--nets a,b] [--batch 8]`` measures all of them in one process, on the
same nets of torchvision at the same batch, and prints a Markdown table. What is asked: the peak of the first training
step with Adam, float32, cross-entropy, on a CPU. It needs torch, torchvision and torchinfo beside cnnlive.

- cnnlive: from the name in the zoo, from the lowered net (as in a search, at another batch), from the PyTorch module.
- PyTorch's ``MemTracker`` (torch.distributed._tools.mem_tracker) around the step, on fake CPU tensors.
- The bare step on fake tensors, with nothing that measures: what any tool that runs the step has to pay.
- ``torchinfo.summary`` on meta tensors, the fastest way to call it; it answers with a sum, not a peak.

The bytes of cnnlive and of the tracker are compared, and have to agree to 0.35 %: any dispatch mode, the tracker's
among them, makes autograd add gradients out of place that it otherwise adds in place, so that the tracker itself sees
a little more than a run without it. Where that does not matter at the peak they have to be equal to the byte.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

NETS = ("vgg16", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "squeezenet1_1")
# Nets at whose peak no two gradients meet: nothing for a dispatch mode to change.
EXACT = ("vgg16", "squeezenet1_1", "densenet121", "mobilenet_v2", "efficientnet_b0")
PEERS = ("torch", "torchvision", "torchinfo")
TOLERANCE = 0.0035
MISSING = [name for name in PEERS if find_spec(name) is None]


class Row(NamedTuple):
    """One net: bytes and seconds of each tool."""

    net: str
    exact: int
    tracker: int
    torchinfo: int
    from_lowered: float
    from_name: float
    from_module: float
    tracker_s: float
    fake_s: float
    torchinfo_s: float


def best(call: Callable[[], Any], rounds: int) -> float:
    """Return the least time of a few calls, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _module(name: str) -> Any:
    from torchvision import models  # noqa: PLC0415 - a peer

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **options)


def tracked(name: str, batch: int) -> tuple[int, float]:
    """Return what PyTorch's tracker reports for the first step with Adam, and how long that takes."""
    import torch  # noqa: PLC0415 - a peer
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 - a peer
    from torch.distributed._tools.mem_tracker import MemTracker  # noqa: PLC0415 - a peer

    with FakeTensorMode():
        model = _module(name).train()
        optimizer = torch.optim.Adam(model.parameters())
        images = torch.empty(batch, 3, 224, 224)
        labels = torch.zeros(batch, dtype=torch.int64)
        start = time.perf_counter()
        tracker = MemTracker()
        tracker.track_external(model, optimizer, images, labels)
        with tracker:
            out = model(images)
            loss = torch.nn.functional.cross_entropy(out, labels)
            loss.backward()
            optimizer.step()
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
        seconds = time.perf_counter() - start
    return int(snapshot["Total"]), seconds


def bare(name: str, batch: int) -> Callable[[], None]:
    """Return forward and backward on fake tensors, with nothing that measures."""
    import torch  # noqa: PLC0415 - a peer
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 - a peer

    mode = FakeTensorMode()
    with mode:
        model = _module(name).train()
        images = torch.empty(batch, 3, 224, 224)
        labels = torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        with mode:
            torch.nn.functional.cross_entropy(model(images), labels).backward()

    return step


def summed(name: str, batch: int) -> tuple[int, Callable[[], Any]]:
    """Return torchinfo's total, and a call that finds it on meta tensors."""
    import torch  # noqa: PLC0415 - a peer
    import torchinfo  # noqa: PLC0415 - a peer

    with torch.device("meta"):
        model = _module(name).train()
        images = torch.empty(batch, 3, 224, 224)

    def call() -> Any:
        return torchinfo.summary(model, input_data=images, device="meta", mode="train", verbose=0)

    found = call()
    return int(found.total_input + found.total_output_bytes + found.total_param_bytes), call


def measure(name: str, batch: int = 8, rounds: int = 7) -> Row:
    """Put the question to all tools.

    Raises
    ------
    AssertionError
        If the bytes of cnnlive differ between its own ways, or from the tracker's by more than is explained.
    """
    import torch  # noqa: PLC0415 - a peer

    import cnnlive  # noqa: PLC0415 - after the skip

    options: dict[str, Any] = {"batch": batch, "optimizer": "adam", "device": "cpu", "first_step": True,
                               "host_scalars": True}  # fmt: skip
    with torch.device("meta"):
        module = _module(name)
    net = cnnlive.lower(cnnlive.zoo.load(name, train=True))

    def from_name() -> int:
        return cnnlive.plan_training(cnnlive.zoo.load(name, train=True), **options).peak_bytes

    def from_module() -> int:
        graph = cnnlive.from_torch(module, (1, 3, 224, 224), train=True)
        return cnnlive.plan_training(graph, **options).peak_bytes

    exact = cnnlive.plan_training(net, **options).peak_bytes
    assert exact == from_name() == from_module(), name
    (reported, tracker_s), (again, second_s) = tracked(name, batch), tracked(name, batch)
    assert reported == again, name
    allowed = 0 if name in EXACT else TOLERANCE * exact
    assert abs(reported - exact) <= allowed, f"{name}: cnnlive {exact:,} B, tracker {reported:,} B"
    step = bare(name, batch)
    step()
    total, call = summed(name, batch)
    return Row(
        name,
        exact,
        reported,
        total,
        best(lambda: cnnlive.plan_training(net, **options), 50 * rounds),
        best(from_name, rounds),
        best(from_module, rounds),
        min(tracker_s, second_s),
        best(step, 3),
        best(call, 3),
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.0f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def report(rows: list[Row], batch: int) -> str:
    """Return the tables, with machine and versions."""
    packages = ("torch", "torchvision", "torchinfo", "numba", "numpy", "networkx")
    lines = [
        f"One process, {platform.machine()} {platform.system()}, CPython {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in packages)
        + f"; batch {batch}, Adam, float32, first step, CPU rules.",
        "",
        "| bytes | cnnlive | MemTracker | difference | torchinfo | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        more, sums = r.tracker - r.exact, r.torchinfo / r.exact - 1
        lines.append(
            f"| {r.net} | {r.exact:,} | {r.tracker:,} | {more:+,} B ({100 * more / r.exact:+.2f} %) "
            f"| {r.torchinfo:,} | {100 * sums:+.0f} % |"
        )
    lines += [
        "",
        "| time | cnnlive, lowered | from zoo name | from the module | fake step alone | MemTracker | torchinfo |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        times = (r.from_lowered, r.from_name, r.from_module, r.fake_s, r.tracker_s, r.torchinfo_s)
        lines.append(f"| {r.net} | " + " | ".join(map(_time, times)) + " |")
    lines += ["", "| times faster | lowered, than MemTracker | from name | from module | lowered, than torchinfo |",
              "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for r in rows:
        ratios = (r.tracker_s / r.from_lowered, r.tracker_s / r.from_name, r.tracker_s / r.from_module,
                  r.torchinfo_s / r.from_lowered)  # fmt: skip
        lines.append(f"| {r.net} | " + " | ".join(f"{x:,.0f}x" for x in ratios) + " |")
    return "\n".join(lines)


def test_the_tracker_sees_the_same_bytes_and_takes_longer():
    import pytest  # noqa: PLC0415 - the rest runs without

    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    row = measure("squeezenet1_1", rounds=3)
    assert row.tracker_s > row.from_lowered


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    if MISSING:
        sys.exit(f"this compares with {', '.join(PEERS)}, and these are not installed: {', '.join(MISSING)}")
    import cnnlive  # noqa: PLC0415 - after the skip

    cnnlive.warm_up()
    tracked("squeezenet1_1", 1)  # the first use imports and compiles much of PyTorch
    rows = []
    for name in arguments.nets.split(","):
        rows.append(measure(name, arguments.batch))
        print(f"{name}: done", file=sys.stderr)
    print(report(rows, arguments.batch))


if __name__ == "__main__":
    main()
