# ruff: noqa: PLC0415 - a tool is imported when it is asked
"""What a search asks: the peak of one inference of many candidates, here members of NAS-Bench-Macro.

Every way starts from genotypes, eight integers each, and has to make whatever it needs of them: that is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.peers import nets, networkx_liveness, tools, truth

__all__ = ["MANY", "measure"]

MANY = 1000
FEW = 5  # of what runs modules


def _net(x: Any) -> nets.Net:
    layers = [int(kind) for kind in x]
    return nets.Net("".join(map(str, layers)), lambda: nets.Macro(layers), (3, 32, 32))


def _each(ask: Callable[[Any], int]) -> Callable[[Any], list[int]]:
    return lambda many: [ask(x) for x in many]


def _asked(tool: str) -> Callable[[Any], list[int]]:
    asker = next(t for t in tools.TOOLS if t.name == tool).askers["inference"]
    return _each(lambda x: asker(_net(x))())


def _by_hand(x: Any) -> int:
    dag, weights = networkx_liveness.macro_dag(x)
    return weights + networkx_liveness.peak(dag, ["image"])


def measure(rounds: int = 3) -> dict[str, Any]:
    """Return candidates per second of each way, and how far its answers are from what real runs of a few allocate."""
    import cnnlive
    from cnnlive.nas import Limit, spaces

    start = time.perf_counter()
    space = spaces.nasbench_macro()
    candidates = space.random(MANY, rng=0)
    setting: dict[str, Any] = {"profile": "torch"}
    space.evaluate(candidates[:1], ("inference_total",), **setting)
    prepared = time.perf_counter() - start
    limit = Limit(space, total="8MiB", **setting)

    def planned(x: Any) -> int:
        return cnnlive.plan_inference(space.graph(x), **setting).peak_bytes

    def real(x: Any) -> int:
        net = _net(x)
        return truth.inference(net.make(), net.shape)

    fits = _each(limit.ok)
    ways: tuple[tuple[str, int, Callable[[Any], Any]], ...] = (
        ("cnnlive, a space, all at once", MANY, lambda many: space.evaluate(many, ("inference_total",), **setting)
         ["inference_total"].tolist()),
        ("cnnlive, a space, one by one: does it fit", MANY, fits),
        ("cnnlive, each candidate's graph planned", MANY // 10, _each(planned)),
        ("cnnlive, each candidate's module imported", FEW, _asked("cnnlive, from the module")),
        ("networkx, written for this space", MANY, _each(_by_hand)),
        ("MemTracker", FEW, _asked("MemTracker")),
        ("torchinfo", FEW, _asked("torchinfo")),
        ("torchsummary", FEW, _asked("torchsummary")),
        ("fvcore", FEW, _asked("fvcore")),
    )  # fmt: skip
    real(candidates[0])
    start = time.perf_counter()
    true = [real(x) for x in candidates[:FEW]]
    rows = {"a real run, measured": {"per_second": FEW / (time.perf_counter() - start), "worst": 0.0}}
    for name, n, call in ways:
        call(candidates[:1])
        times = []
        for _ in range(rounds if n > FEW else 1):
            start = time.perf_counter()
            found = call(candidates[:n])
            times.append(time.perf_counter() - start)
        if call is fits:
            assert found[:FEW] == [exact <= limit.budgets["inference_total"] for exact in true]
            errors = [0.0]
        else:
            errors = [value / exact - 1 for value, exact in zip(found, true, strict=False)]
        rows[name] = {"per_second": n / median(times), "worst": max(errors, key=abs)}
    return {"space": space.name, "prepared": prepared, "rows": rows}
