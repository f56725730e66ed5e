"""Sound files of every reader, ways to damage them, and what has to hold of whatever comes out.

A file that was damaged is refused with a CnnliveError, or it is another sound file: then it plans, its sizes are those
of its shapes, and what is written of it is read back as the same.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import math
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import cnnlive
from cnnlive._types import ITEMSIZE
from cnnlive.errors import BudgetError, CnnliveError, ReadError
from cnnlive.io._onnx_fold import FOLDS
from cnnlive.io._onnx_ops import RULES
from cnnlive.io.buffers import read_buffers, write_buffers
from cnnlive.plan.checkpoint import CheckpointPlan
from cnnlive.plan.costs import read_costs
from cnnlive.plan.steps import step_graph
from cnnlive.plan.wraps import WrapPlan, plan_wraps
from cnnlive.verify import VerificationError, check_arena, check_inference
from cnnlive.verify_remat import check_remat

CPU_SECONDS = 4.0  # for one file; a sound one takes some milliseconds
MEMORY = 512 * 2**20  # beyond what the process has when the first file is read
NUMBERS = (
    -(2**63), -(2**62), -(2**31), -2, -1, 0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 1000, 4096, 65_536, 2**24, 2**31 - 1,
    2**31, 2**32, 2**40, 2**53, 2**61, 2**62 - 1, 2**62, 2**63 - 1,
)  # fmt: skip
NAMES = (
    "",
    " ",
    "\n",
    "\r",
    "a\rb",
    'a"b',
    "a,b",
    "a\r\nb",
    "\u2028",
    "\N{GRINNING FACE}",
    "\ud800",
    "\0",
    "@1",
    ".",
    "*",
    "x" * 3000,
)
ODD: tuple[Any, ...] = (
    *NUMBERS, 2**64, 10**30, 10**400, -0.0, 0.5, 1.0, 1e-320, 1e308, math.inf, -math.inf, math.nan, True, False, None,
    [], {}, [[]], [None], {"": None}, [0, 0], [-1, -1], [1] * 7, [2**40] * 3, [1.5], ["x"], *NAMES,
)  # fmt: skip


class TooLong(BaseException):
    """A file took more processor time than is allowed; nothing that reads files catches it."""


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes
    ----------
    name : str
    seeds : callable
        Sound files, as bytes.
    read : callable
        What reads bytes.
    check : callable
        What has to hold of what was read; raises AssertionError, or CnnliveError where a plan is refused.
    damage : tuple of callable
        Ways of damaging the structure: ``(rng, seeds) -> bytes``. Damage of bytes comes in any case.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], Any]
    check: Callable[[Any], None]
    damage: tuple[Callable[[random.Random, list[bytes]], bytes], ...]


# ---------------------------------------------------------------------------------- damage of bytes


def flip(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def put(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 4, 7, 8, 127, 128, 254, 255, rng.randrange(256)))
    return bytes(data)


def word(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    size = rng.choice((2, 4, 4, 4, 8))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(max(len(data) // 4, 1)) * 4
        value = rng.choice((*NUMBERS, at, len(data), len(data) - at, rng.randrange(64)))
        data[at : at + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(data)


def insert(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = rng.choice(seeds)
    at = rng.randrange(len(data) + 1)
    more = rng.randbytes(rng.choice((1, 1, 2, 8))) if rng.random() < 0.7 else bytes([rng.randrange(256)]) * 300
    return data[:at] + more + data[at:]


def delete(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = rng.choice(seeds)
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 16, 200)) :]


def truncate(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = rng.choice(seeds)
    return data[: rng.randrange(len(data))]


def splice(rng: random.Random, seeds: list[bytes]) -> bytes:
    a, b = rng.choice(seeds), rng.choice(seeds)
    if rng.random() < 0.5:
        return a[: rng.randrange(len(a))] + b[rng.randrange(len(b)) :]
    at, source, n = rng.randrange(len(a)), rng.randrange(len(b)), rng.randrange(1, 64)
    return a[:at] + b[source : source + n] + a[at + n :]


BYTES = (flip, put, word, insert, delete, truncate, splice)


def mutants(reader: Reader, n: int, seed: int = 0) -> Iterator[tuple[int, str, bytes]]:
    """Yield `n` damaged files with their number and the way of damage; half are damaged in their structure."""
    seeds = reader.seeds()
    for i in range(n):
        rng = random.Random(f"{reader.name} {seed} {i}")
        way = rng.choice(reader.damage if i % 2 else BYTES)
        yield i, way.__name__, way(rng, seeds)


# ---------------------------------------------------------------------------------- what has to hold


@contextmanager
def bounded() -> Iterator[None]:
    """Stop at more address space than a sound file needs, where the system says how much there is."""
    if not os.path.exists("/proc/self/statm"):
        yield
        return
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _stop(_signal: int, _frame: Any) -> None:
    raise TooLong(f"more than {CPU_SECONDS} s of processor time")


def _check_words(error: CnnliveError) -> None:
    assert len(str(error)) > 8, f"{type(error).__name__} says only {str(error)!r}"


def probe(reader: Reader, data: bytes) -> str:
    """Read a file and check what comes out; return how it went: refused, refused as a plan, or planned."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        try:
            found = reader.read(data)
        except CnnliveError as error:
            _check_words(error)
            return "refused"
        try:
            reader.check(found)
        except CnnliveError as error:
            _check_words(error)
            return "not planned"
        return "planned"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def check_graph(graph: cnnlive.Graph) -> None:
    text = graph.to_json()
    assert cnnlive.read_json(text).to_json() == text, "the graph is not read back as it was written"
    sizes = {}
    for name in graph.nodes():
        for t in graph.tensors_of(name):
            assert min(t.shape) > 0, f"{t.name} has the shape {t.shape}"
            sizes[t.name] = math.prod(t.shape) * ITEMSIZE[t.dtype]
    plan = cnnlive.plan_inference(graph, batch=graph.inputs[0].shape[0] if graph.inputs else 1)
    try:
        check_inference(graph, plan)
    except VerificationError as error:
        raise AssertionError(f"the plan is wrong: {error}") from error
    assert 0 < plan.activation_peak_bytes <= sum(sizes.values()), "the peak is out of its bounds"
    elements = sum(math.prod(o.weight.shape) for o in graph.weights() if not o.shared and o.weight.role != "counter")
    assert elements == graph.n_parameters + graph.n_buffers, "weights are lost"
    assert plan.weight_bytes >= elements, "weights are lost"
    try:
        training = cnnlive.plan_training(graph, optimizer="sgd")
    except CnnliveError:  # a net without a parameter that is trained is one for inference
        return
    assert training.peak_bytes >= elements, "weights are lost"


def check_buffers(buffers: cnnlive.Buffers) -> None:
    text = io.StringIO()
    write_buffers(text, buffers)
    again = read_buffers(io.StringIO(text.getvalue(), newline=""))
    assert again.ids == buffers.ids, "the ids are not read back as they were written"
    for column in ("lower", "upper", "nbytes", "alignment", "fixed"):
        assert getattr(again, column).tolist() == getattr(buffers, column).tolist(), column
    plan = cnnlive.plan_arena(buffers, method="greedy_by_size")
    try:
        check_arena(plan)
    except VerificationError as error:
        raise AssertionError(f"the plan is wrong: {error}") from error


def check_costs(costs: Any) -> None:
    text = json.dumps(costs.to_dict())
    assert json.dumps(read_costs(text).to_dict()) == text, "the times are not read back as they were written"
    for t in costs.times:
        assert 0 <= t.forward_ms < math.inf, t
        assert t.backward_ms is None or 0 <= t.backward_ms < math.inf, t
    plan = cnnlive.plan_training(small_net(), batch=2, optimizer="sgd")
    ahead, back = costs.of(cnnlive.lower(small_net()), plan.tape, 2)
    assert min(ahead.min(), back.min()) >= 0
    step_graph(plan, ahead, back)


def check_checkpoints(plan: Any) -> None:
    text = json.dumps(plan.to_dict())
    assert json.dumps(CheckpointPlan.from_dict(json.loads(text), small_net()).to_dict()) == text


# ---------------------------------------------------------------------------------- JSON


def small_net() -> cnnlive.Graph:
    g = cnnlive.Graph("small")
    x = g.input((2, 3, 8, 8), name="x")
    with g.scope("stem"):
        x = g.relu(g.batch_norm2d(g.conv2d(x, 4, 3, padding=1, name="conv"), name="norm"), inplace=True, name="act")
    y = g.conv2d(x, 4, 1, name="side")
    x = g.add(x, y, name="sum")
    g.output(g.linear(g.flatten(g.global_avg_pool2d(x, name="pool"), name="flat"), 5, name="fc"))
    return g


def wide_net() -> cnnlive.Graph:
    """Return a net with an op of many kinds, each with all of its attributes."""
    g = cnnlive.Graph("wide")
    x = g.input((1, 4, 8, 8), name="x")
    a = g.conv_transpose2d(x, 4, 2, stride=2, name="up")
    a = g.max_pool2d(a, 2, name="pool")
    b, c = g.split(a, 2, name="halves")
    d = g.concat([b, c], name="both")
    e = g.pad(d, (1, 1, 0, 0), name="pad")
    f = g.slice(e, 3, 1, 9, name="cut") if hasattr(g, "slice") else e
    f = g.interpolate(f, scale_factor=2.0, name="big")
    f = g.pixel_shuffle(f, 2, name="shuffle")
    f = g.permute(f, (0, 2, 3, 1), name="turn")
    f = g.reshape(f, (1, 32, 32), name="flat")
    f = g.mean(f, 2, name="mean")
    h = g.unsqueeze(f, 1, name="one")
    h = g.expand(h, (-1, 3, -1), name="more")
    h = g.layer_norm(h, (32,), name="norm")
    first = g.linear(h, 32, name="first")
    g.output(g.op("linear", first, name="again", tied="first", out_features=32), d)
    g.freeze("up")
    g.hold(a, until="norm")
    g.order_parameters("norm", "up")
    return g


def json_seeds() -> list[bytes]:
    return [g.to_json().encode() for g in (small_net(), wide_net())]


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Return every entry of nested data as what holds it and its key."""
    found, left = [], [data]
    while left:
        holder = left.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                left.append(holder[key])
    return found


def edit_json(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = json.loads(rng.choice([s for s in seeds if s[:1] in b"[{"]))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(data)
        if not places:
            break
        numbers = [(h, k) for h, k in places if type(h[k]) in (int, float)]
        holder, key = rng.choice(numbers if numbers and rng.random() < 0.5 else places)
        match rng.randrange(8):
            case 0 if rng.random() < 0.5:
                del holder[key]
            case 1:
                other, there = rng.choice(places)
                holder[key] = copy.deepcopy(other[there])
            case 2 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
            case 2:
                holder[rng.choice(NAMES)] = holder.pop(key)
            case 3 | 4 | 5 if isinstance(holder[key], int):
                holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, 2 * holder[key], 1, 2**61))
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD))
    return json.dumps(data).encode()


def repeat_json(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Repeat a line of a file: a key that stands twice, or a row."""
    lines = rng.choice(seeds).split(b"\n")
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[:at], lines[at].rstrip(b",") + b",", *lines[at:]])


def nest_json(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = rng.choice(seeds)
    at = [i for i, c in enumerate(data) if c in b"0123456789"]
    place, depth = rng.choice(at), rng.choice((10, 1000, 100_000))
    return data[:place] + b"[" * depth + b"]" * depth + data[place + 1 :]


def read_json(data: bytes) -> cnnlive.Graph:
    return cnnlive.read_json(read_text(data))


def read_text(data: bytes) -> str:
    """Return the text of a file, as a reader decodes it."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ReadError(f"no UTF-8 text: {error.reason}") from None


# ---------------------------------------------------------------------------------- CSV


def buffers_seeds() -> list[bytes]:
    rng = np.random.default_rng(5)
    found = []
    for n, alignment in ((1, 1), (6, 1), (12, 16)):
        lower = rng.integers(0, 10, n)
        b = cnnlive.Buffers.of(lower, lower + rng.integers(1, 9, n), rng.integers(0, 99, n), alignment=alignment)
        for made in (b, cnnlive.plan_arena(b, method="greedy_by_size")):
            text = io.StringIO()
            write_buffers(text, made)
            found.append(text.getvalue().encode())
    return [*found, b'lower,id, upper,size\r\n1,"a,""b""",2,3\r\n\r\n0,"c\n",5,7\r\n']


def edit_cells(rng: random.Random, seeds: list[bytes]) -> bytes:
    rows = [line.split(b",") for line in rng.choice([s for s in seeds if s[:1] not in b"[{"]).split(b"\n")]
    odd = [
        str(v) for v in (*NUMBERS, 10**30, 10**4000, 0.5, "1e3", "nan", "inf", "-0", "+1", "1_0", "0x1", "٣", *NAMES)
    ]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows)
        match rng.randrange(6):
            case 0:
                del row[rng.randrange(len(row))]
            case 1:
                row.insert(rng.randrange(len(row) + 1), rng.choice(odd).encode("utf-8", "surrogatepass"))
            case 2:
                rows.append(list(row))
            case 3:
                row[rng.randrange(len(row))] = rng.choice(rng.choice(rows))
            case _:
                row[rng.randrange(len(row))] = rng.choice(odd).encode("utf-8", "surrogatepass")
        row[:] = row or [b""]
    return b"\n".join(b",".join(row) for row in rows)


def read_buffers_csv(data: bytes) -> cnnlive.Buffers:
    return read_buffers(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""))


def costs_seeds() -> list[bytes]:
    rows = [("stem.conv", 0.5, 1.25), ("stem.norm", 0.125, 0.5), ("stem.act", 0.25, 0.25), ("side", 3e-3, 0.01),
            ("sum", 0.1, 0.0), ("pool", 0.0625, 0.125), ("fc", 1, 2)]  # fmt: skip
    csv = "op,forward_ms,backward_ms\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    only = "op, forward_us\n\n" + "".join(f'"{a}",{b}\n' for a, b, _ in rows)
    model = read_costs(csv, batch=2, fill="roofline:9e12,7e11")
    forms: tuple[Any, ...] = (
        model.to_dict(),
        {a: b for a, b, _ in rows},
        [list(r) for r in rows],
        {"ops": {a: {"forward_us": b, "backward_ns": c} for a, b, c in rows}, "backward_factor": 2},
    )
    return [csv.encode(), only.encode(), *(json.dumps(f, indent=1).encode() for f in forms)]


def read_costs_text(data: bytes) -> Any:
    return read_costs(io.StringIO(read_text(data), newline=""))


def checkpoint_seeds() -> list[bytes]:
    keep = cnnlive.plan_training(small_net(), batch=2, optimizer="sgd").peak_bytes
    plans = [cnnlive.plan_checkpoints(small_net(), batch=2, budget=b, optimizer="sgd") for b in (keep, keep * 9 // 10)]
    return [json.dumps(p.to_dict(), indent=1).encode() for p in plans]


def plain_data(data: bytes) -> Any:
    """Return what a JSON file holds: the readers below take that."""
    try:
        return json.loads(read_text(data))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"no JSON: {error}") from None


def read_checkpoints(data: bytes) -> Any:
    return CheckpointPlan.from_dict(plain_data(data), small_net())


# ---------------------------------------------------------------------------------- recomputation


@functools.cache
def problem_seeds() -> list[bytes]:
    """Return a step's problem, and a small one with views, overwritten values, scratch and what a frame holds."""
    plan = cnnlive.plan_checkpoints(small_net(), batch=2, budget="1GiB", optimizer="sgd")
    small = cnnlive.RematProblem.of(
        cost=[4, 0, 1, 2, 1, 3, 5, 8], nbytes=[[100, 7], [100], [100], [50], [4], [50], [100], [100]], loss=4,
        edges=[(0, 0, 1), (1, 0, 2), (2, 0, 3), (0, 1, 3), (3, 0, 4), (3, 0, 5), (4, 0, 5), (5, 0, 6), (2, 0, 6),
               (6, 0, 7)],
        views={1: 0}, overwrites={2: 1}, scratch=[9, 0, 0, 3, 0, 0, 7, 0], fixed_bytes=1000, outlives=[7],
        held={(0, 1): 3}, may_rerun=[True, True, True, False, True, False, False, False], name="small",
    )  # fmt: skip
    return [json.dumps(p.to_dict()).encode() for p in (plan.step.problem, small)]


def read_problem(data: bytes) -> Any:
    return cnnlive.RematProblem.from_dict(plain_data(data))


def check_problem(problem: Any) -> None:
    text = json.dumps(problem.to_dict())
    assert json.dumps(cnnlive.RematProblem.from_dict(json.loads(text)).to_dict()) == text
    assert 0 <= problem.peak_bytes < 2**61
    plan = cnnlive.plan_remat(problem, budget=problem.peak_bytes)
    assert plan.cost == problem.plain_cost, "what fits as it is runs nothing again"
    plans = [plan]
    with contextlib.suppress(BudgetError):
        plans.append(cnnlive.plan_remat(problem, budget=problem.peak_bytes * 9 // 10))
    for plan in plans:
        try:
            check_remat(plan)
        except CnnliveError as error:
            raise AssertionError(f"the plan is wrong: {error}") from error


def chain_seeds() -> list[bytes]:
    plain = {"forward_cost": [1, 2.5, 1], "backward_cost": [2, 2, 2], "activation_bytes": [8, 8, 4, 0],
             "saved_bytes": [16, 12, 0]}  # fmt: skip
    more = {
        **plain, "input_cost": [0, 1, 0.5], "forward_temp": 3, "backward_temp": [1, -2, 0],
        "gradient_bytes": [0, 8, 4, 0], "options": [[[1, 8, 4]], [], [[0.5, 2, 0], [1.5, 0, 1]]],
        "ids": ["conv1", "conv2", "loss"], "name": "three",
    }  # fmt: skip
    return [json.dumps(c).encode() for c in (plain, more)]


def read_chain(data: bytes) -> Any:
    plain = plain_data(data)
    known = ("forward_cost", "backward_cost", "activation_bytes", "saved_bytes", "input_cost", "forward_temp",
             "backward_temp", "options", "gradient_bytes", "ids", "name")  # fmt: skip
    if not isinstance(plain, dict) or not set(known[:4]) <= set(plain) <= set(known):
        raise ReadError("no arguments of a chain")
    return cnnlive.Chain.of(**plain)


def check_chain(chain: Any) -> None:
    found = cnnlive.chain_frontier(chain)
    peaks = found.peak_bytes.tolist()
    assert peaks == sorted(peaks), "peaks do not rise"
    assert 0 <= peaks[0] <= peaks[-1] <= chain.keep_all_bytes < 2**62
    assert 0 <= found.overhead.min() <= found.overhead.max() < math.inf
    assert found.plan(peaks[-1]).peak_bytes == peaks[-1]


@functools.cache
def wrap_seeds() -> list[bytes]:
    plan = cnnlive.plan_checkpoints(small_net(), batch=2, budget="1GiB", optimizer="sgd")
    found = [plan_wraps(plan.step, plan.peak_bytes * 9 // 10, kind=kind) for kind in ("modules", "policy")]
    return [json.dumps(p.to_dict()).encode() for p in found]


def check_wraps(plan: Any) -> None:
    text = json.dumps(plan.to_dict())
    assert json.dumps(WrapPlan.from_dict(json.loads(text)).to_dict()) == text
    assert isinstance(repr(plan) + str(plan), str)


READERS: dict[str, Reader] = {}
for _reader in (
    Reader("json", json_seeds, read_json, check_graph, (edit_json, edit_json, edit_json, repeat_json, nest_json)),
    Reader("buffers", buffers_seeds, read_buffers_csv, check_buffers, (edit_cells,)),
    Reader("costs", costs_seeds, read_costs_text, check_costs, (edit_cells, edit_json, repeat_json, nest_json)),
    Reader("checkpoints", checkpoint_seeds, read_checkpoints, check_checkpoints, (edit_json,)),
    Reader("problems", problem_seeds, read_problem, check_problem, (edit_json,)),
    Reader("chains", chain_seeds, read_chain, check_chain, (edit_json,)),
    Reader("wraps", wrap_seeds, lambda data: WrapPlan.from_dict(plain_data(data)), check_wraps, (edit_json,)),
):
    READERS[_reader.name] = _reader


# ---------------------------------------------------------------------------------- ONNX


def onnx_seeds() -> list[bytes]:
    import onnx  # noqa: PLC0415 - only where onnx is installed
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    def node(op: str, inputs: str, outputs: str = "y", **attrs: Any) -> Any:
        return helper.make_node(op, inputs.split(), outputs.split(), **attrs)

    def stored(name: str, *shape: int, dtype: Any = np.float32) -> Any:
        return numpy_helper.from_array(np.ones(shape, dtype), name)

    def ints(name: str, *numbers: int) -> Any:
        return numpy_helper.from_array(np.asarray(numbers, np.int64), name)

    def scalar(name: str, number: int) -> Any:
        return numpy_helper.from_array(np.asarray(number, np.int64), name)

    def model(nodes: list[Any], shape: list[Any], constants: list[Any], outputs: str = "y", opset: int = 18,
              functions: Any = ()) -> bytes:  # fmt: skip
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        made = helper.make_graph(nodes, "net", [x], [onnx.ValueInfoProto(name=o) for o in outputs.split()], constants)
        opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("own", 1)] if functions else [])
        proto = helper.make_model(made, opset_imports=opsets, ir_version=8, functions=functions)
        return bytes(proto.SerializeToString())

    classifier = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], group=1),
        node("BatchNormalization", "a s s2 m v", "c", epsilon=1e-5),
        node("Relu", "c", "d"),
        node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Shape", "e", "f", start=0),
        node("Gather", "f zero", "n", axis=0),
        node("Unsqueeze", "n axis", "n1"),
        node("Concat", "n1 minus", "t", axis=0),
        node("Reshape", "e t", "g"),
        node("Gemm", "g k", "h", transB=0),
        node("Split", "h", "i j", axis=1, num_outputs=2),
        node("Add", "i j"),
    ]
    vectors = [stored(n, 8) for n in ("b", "s", "s2", "m", "v")]
    numbers = [scalar("zero", 0), ints("axis", 0), ints("minus", -1)]
    moves = [
        node("Resize", "x nil nil sizes", "a", mode="nearest"),
        node("Pad", "a pads", "b", mode="reflect"),
        node("Slice", "b starts ends axes steps", "c"),
        node("Transpose", "c", "d", perm=[0, 2, 3, 1]),
        node("Gather", "d index", "e", axis=1),
        node("ReduceMean", "e one", "f", keepdims=0),
        node("Expand", "f wide", "g"),
        node("Tile", "g times", "h"),
        node("Squeeze", "h first", "i"),
        node("Cast", "i", "j", to=TensorProto.FLOAT16),
        node("Softmax", "j", "k", axis=-1),
        node("Clip", "k low high"),
    ]
    moved = [
        numpy_helper.from_array(np.zeros(0, np.float32), "nil"), ints("sizes", 1, 4, 12, 12),
        ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), ints("starts", 0, 13), ints("ends", 99, 1), ints("axes", 2, 3),
        ints("steps", 1, -2), ints("index", 0, 2, 4), ints("one", 1), ints("wide", 2, 1, 1), ints("times", 1, 1, 3, 1),
        ints("first", 0), numpy_helper.from_array(np.float16(0), "low"), numpy_helper.from_array(np.float16(6), "high"),
    ]  # fmt: skip
    moves[6] = node("Unsqueeze", "f first", "g")
    folded = [
        node("Constant", "", "n", value=numpy_helper.from_array(np.arange(4, dtype=np.int64))),
        node("ConstantOfShape", "n2", "z", value=numpy_helper.from_array(np.full(1, 2, np.float32))),
        node("Range", "zero four one", "r"),
        node("Add", "r n", "r2"),
        node("Mul", "r2 n", "r3"),
        node("ReduceSum", "r3 axis", "total", keepdims=1),
        node("Div", "total two", "half"),
        node("Where", "yes half total", "chosen"),
        node("Max", "chosen one1", "c2"),
        node("Tile", "w reps", "w2"),
        node("Transpose", "w2", "w3", perm=[1, 0, 2, 3]),
        node("Slice", "w3 s0 s8 s1", "w4"),
        node("Conv", "x w4", "a"),
        node("Mul", "a z", "b"),
        node("ConvTranspose", "b up", "u", strides=[2, 2], output_padding=[1, 1]),
        node("GlobalAveragePool", "u", "p"),
        node("Flatten", "p", "q", axis=1),
        node("MatMul", "q mat", "y"),
    ]
    held = [
        ints("n2", 1, 8, 1, 1), scalar("zero", 0), scalar("four", 4), scalar("one", 1), ints("axis", 0),
        ints("two", 2), numpy_helper.from_array(np.ones(1, bool), "yes"), ints("one1", 1), stored("w", 4, 4, 1, 1),
        ints("reps", 1, 2, 1, 1), ints("s0", 0), ints("s8", 8), ints("s1", 0), stored("up", 8, 2, 3, 3),
        stored("mat", 2, 3),
    ]  # fmt: skip
    body = [node("Relu", "in", "mid"), node("Add", "mid in", "out")]
    own = helper.make_function("own", "Block", ["in"], ["out"], body, [helper.make_opsetid("", 18)])
    called = [node("Block", "x", "a", domain="own"), node("Block", "a", "b", domain="own"),
              node("LeakyRelu", "b", "y", alpha=0.1)]  # fmt: skip
    return [
        model(classifier, [2, 4, 6, 6], [stored("w", 8, 4, 3, 3), *vectors, *numbers, stored("k", 72, 6)]),
        model(moves, ["n", 4, 6, 6], moved),
        model(folded, [1, 4, 5, 5], held, "y p"),
        model(called, [1, 2, 4, 4], [], functions=[own]),
    ]


def _messages(proto: Any) -> list[Any]:
    """Return a message and all messages inside it."""
    found, left = [], [proto]
    while left:
        one = left.pop()
        found.append(one)
        for field, value in one.ListFields():
            if field.message_type is not None:
                left += list(value) if _repeated(field) else [value]
    return found


def _repeated(field: Any) -> bool:
    return bool(getattr(field, "is_repeated", None) if hasattr(field, "is_repeated") else field.label == 3)


def edit_onnx(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Change fields of a model: numbers, names, operators, order, attributes."""
    import onnx  # noqa: PLC0415 - only where onnx is installed

    proto = onnx.load_model_from_string(rng.choice(seeds))
    texts = [*NAMES[:9], "y", "x", "zero", "axis", "w"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        messages = _messages(proto)
        one = rng.choice([m for m in messages if type(m).__name__ in _AIMED] or messages)
        fields = [f for f in one.DESCRIPTOR.fields if f.message_type is None and f.enum_type is None]
        nodes = proto.graph.node
        match rng.randrange(7):
            case 0 if nodes:
                mine = rng.choice(list(nodes))
                mine.op_type = rng.choice(_operators())
            case 1 if nodes:
                held = list(nodes)
                rng.choice((held.reverse, lambda: held.pop(rng.randrange(len(held))), lambda: held.append(held[0])))()  # noqa: B023
                del nodes[:]
                nodes.extend([copy.deepcopy(n) for n in held])
            case 2 if nodes:
                mine, names = rng.choice(list(nodes)), [n for other in nodes for n in (*other.input, *other.output)]
                if mine.input:
                    mine.input[rng.randrange(len(mine.input))] = rng.choice(names)
            case 3:
                like = [m for m in messages if type(m) is type(one)]
                one.CopyFrom(copy.deepcopy(rng.choice(like)))
            case _ if fields:
                _set(rng, one, rng.choice([f for f, _ in one.ListFields() if f in fields] or fields), texts)
    return bytes(proto.SerializeToString())


_AIMED = ("NodeProto", "AttributeProto", "TensorProto", "Dimension", "ValueInfoProto", "Tensor")


def _operators() -> list[str]:
    return [*sorted({*FOLDS, *RULES}), "If", "NoSuchOp"]


def _set(rng: random.Random, one: Any, field: Any, texts: list[str]) -> None:
    """Give a field of a message another value of its kind, or add or take one where it is a list."""
    kinds = {field.CPPTYPE_STRING: lambda: rng.choice(texts) if field.type != field.TYPE_BYTES else rng.randbytes(9),
             field.CPPTYPE_FLOAT: lambda: rng.choice((0.0, -1.0, 1e30, math.inf, math.nan)),
             field.CPPTYPE_DOUBLE: lambda: rng.choice((0.0, -1.0, 1e300, math.inf, math.nan))}  # fmt: skip
    value = kinds.get(field.cpp_type, lambda: rng.choice(NUMBERS))
    try:
        if not _repeated(field):
            setattr(one, field.name, value())
            return
        held = getattr(one, field.name)
        match rng.randrange(4):
            case 0 if held:
                del held[rng.randrange(len(held))]
            case 1:
                held.append(value())
            case _ if held:
                held[rng.randrange(len(held))] = value()
    except (ValueError, UnicodeEncodeError):  # a number or a text that the field cannot hold
        pass


# ---------------------------------------------------------------------------------- TFLite


def tflite_seeds() -> list[bytes]:
    import tflite_models as models  # noqa: PLC0415 - only where tflite is installed

    found = []
    for make in (models.residual, models.decoder, models.mirrored, models.recurrent):
        net = models.Net()
        make(net)
        found.append(net.write())
    quantised = models.Net("int8")
    models.streaming(quantised)
    return [*found, quantised.write()]


def edit_tflite(rng: random.Random, _seeds: list[bytes]) -> bytes:
    """Change rows of a net before it is written: shapes, types, buffers, operators, what they read, their options."""
    import tflite_models as models  # noqa: PLC0415 - only where tflite is installed

    net = models.Net(rng.choice(("float32", "int8")), 3)
    rng.choice((models.residual, models.inception, models.separable, models.pyramid, models.decoder, models.mirrored))(
        net
    )
    numbers = [n for n in NUMBERS if -(2**31) <= n < 2**31]
    for _ in range(rng.choice((1, 1, 2, 3))):
        t = rng.choice(net.tensors)
        k = rng.randrange(len(net.ops))
        code, inputs, outputs, options, values = net.ops[k]
        shape = list(t["shape"])
        match rng.randrange(10):
            case 0 | 1 if shape:
                shape[rng.randrange(len(shape))] = rng.choice(numbers)
            case 2:
                shape = rng.choice(([], [1] * 7, [*shape, 1], shape[::-1], shape[1:], [2**16] * 4))
            case 3:
                t["dtype"] = rng.choice(list(models.TYPES))
            case 4:
                t["buffer"] = rng.randrange(len(net.buffers))
            case 5:
                at = rng.randrange(len(net.buffers))
                net.buffers[at] = rng.choice(
                    (b"", b"\0" * 16, rng.randbytes(4), net.buffers[at] * 2, b"\xff" * len(net.buffers[at]))
                )
            case 6:
                code = net.code(rng.choice(list(models.CODES)))
            case 7 if inputs:
                inputs[rng.randrange(len(inputs))] = rng.choice(
                    (-1, -2, len(net.tensors), rng.randrange(len(net.tensors)))
                )
            case 8:
                outputs[0] = rng.randrange(len(net.tensors))
            case 9 if values:
                key = rng.choice(list(values))
                values = {
                    **values,
                    key: rng.choice((0, 1))
                    if isinstance(values[key], bool) or key == "KeepDims"
                    else rng.choice((0, 1, 2, 3, 127)),
                }
        t["shape"] = tuple(shape)
        net.ops[k] = (code, inputs, outputs, options, values)
    return net.write()


for _reader in (
    Reader("onnx", onnx_seeds, cnnlive.read_onnx, check_graph, (edit_onnx,)),
    Reader("tflite", tflite_seeds, cnnlive.read_tflite, check_graph, (edit_tflite, word, word)),
):
    READERS[_reader.name] = _reader
