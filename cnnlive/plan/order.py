"""Execution orders: the least activation peak of any legal order of a network's ops, with proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels.order import minimum_peaks as _minimum_peaks
from cnnlive._kernels.order import model, survey
from cnnlive._types import I32, I64, Result, csr, frozen
from cnnlive.errors import GraphError, OrderError
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered
from cnnlive.plan.inference import InferencePlan, peak_in_order, plan_inference
from cnnlive.plan.order_search import BlockSearch, arrays, give_back
from cnnlive.profiles import Inplace, Profile
from cnnlive.units import format_bytes

__all__ = ["MAX_STATES", "OrderPlan", "minimum_peak", "minimum_peaks", "plan_order", "share_codes"]

MAX_STATES: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OrderPlan(Result):
    """An order of a network's ops and how good it is; made by :func:`plan_order`.

    Attributes
    ----------
    name : str
        The network.
    profile : Profile
        The rules that held.
    network : Lowered
        What was ordered, ops numbered as in `order`: the fused network where the profile fuses.
    order : (n_ops,) int64
        ``order[k]`` is the op that runs at step ``k``; what ``plan_inference(order=...)`` takes.
    peak_bytes : int
        The most bytes of activations alive at one step of this order.
    program_peak_bytes : int
        The same of the program's order.
    lower_bound : int
        No order has a lower peak.
    status : {"optimal", "feasible"}
        ``"feasible"``: states or time ran out first; the order is the best found.
    n_states : int
        Sets of ops that the search kept.
    program : InferencePlan
        The same network in the program's order.
    """

    name: str
    profile: Profile
    network: Lowered
    order: I64
    peak_bytes: int
    program_peak_bytes: int
    lower_bound: int
    status: Literal["optimal", "feasible"]
    n_states: int
    program: InferencePlan

    @property
    def best(self) -> InferencePlan:
        """The network in this order: its timeline, and what is alive at its peak."""
        plain = replace(self.profile, fuse=False, pad_ops=False)  # `network` is fused and padded already
        asked = self.program
        return plan_inference(self.network, batch=asked.batch, dtype=asked.dtype, profile=plain,
                              order=self.order.tolist())  # fmt: skip

    @property
    def optimal(self) -> bool:
        """Whether no order has a lower peak."""
        return self.status == "optimal"

    @property
    def gap(self) -> float:
        """How far the peak may be above the least one, as a share of the bound; 0.0 if optimal."""
        return self.peak_bytes / self.lower_bound - 1.0 if self.lower_bound else 0.0

    @property
    def op_names(self) -> tuple[str, ...]:
        """Names of the ops in execution order."""
        return tuple(self.network.op_names[op] for op in self.order.tolist())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what ``cnnlive order --json`` prints."""
        return {
            "network": self.name,
            "profile": self.profile.name,
            "inplace": self.profile.inplace,
            "fuse": self.profile.fuse,
            "order": list(self.op_names),
            "peak_bytes": self.peak_bytes,
            "program_peak_bytes": self.program_peak_bytes,
            "lower_bound": self.lower_bound,
            "status": self.status,
            "gap": self.gap,
            "n_states": self.n_states,
        }

    def __str__(self) -> str:
        proof = "proven least" if self.optimal else f"no order below {self.lower_bound:,} B"
        return (
            f"{self.name or 'network'}, execution order\n"
            f"  peak     {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B  {proof}\n"
            f"  program  {format_bytes(self.program_peak_bytes):>10}  {self.program_peak_bytes:>16,} B"
        )

    def __repr__(self) -> str:
        return f"<OrderPlan {self.name!r}: {self.peak_bytes:,} B, {self.status}>"


def plan_order(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    dtype: str | Mapping[str, str] | None = None,
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    max_states: int = MAX_STATES,
    time_limit: float | None = None,
) -> OrderPlan:
    """Find an execution order with the least activation peak, and prove it.

    What counts is what :func:`cnnlive.plan_inference` counts, and an order is legal as there: an op runs after those
    whose outputs it reads, and one that overwrites bytes after everybody else who reads them.

    Parameters
    ----------
    graph, batch, dtype, profile, fuse, inplace
        As for :func:`cnnlive.plan_inference`.
    max_states : int
        Sets of ops that a search may keep, at some 150 bytes each; all searches together may visit four times as many.
        Where they run out the plan is ``"feasible"``.
    time_limit : float, optional
        Seconds after which the search stops, with a plan that is ``"feasible"`` unless it is proven by then. It is
        looked at every few milliseconds, so this, too, is when an interrupt (Ctrl-C) ends the search.

    Returns
    -------
    OrderPlan
        The program's order itself where that is optimal. Equal arguments give equal orders, unless time runs out.

    Raises
    ------
    OrderError
        If the profile has ``frames``, which are of the program's order, or a limit is no positive number.
    ShapeError, DTypeError, UnknownProfileError, GraphError
        As :func:`cnnlive.plan_inference` does.

    Notes
    -----
    The problem is NP-hard (Sethi 1975). The bytes alive depend on the set of ops that have run and not on their order,
    so the least peak is a bottleneck path through those sets. Bounds come first (a chain needs no search). Ops that
    some best order runs one after the other become blocks, by the argument behind the segments of Liu (1987): a
    producer that only adds bytes is delayed until somebody wants them, a consumer that only frees them follows at once,
    where neither takes more than the other. The net is parted at blocks comparable with all others. Rules of thumb and
    beams give a peak; then a search visits all sets that can be reached below it, depth first. Whatever leaves no more
    bytes alive than before is run at once, which loses no order, since bytes alive are a submodular function of the
    set. If the search ends, the peak is proven. If it costs too much, a least cut for each block and lower levels give
    a bound, blocks around the peak are put in order anew, and it is tried again with more.

    Examples
    --------
    >>> from cnnlive import Graph
    >>> g = Graph("two branches")
    >>> x = g.input((1, 1, 8, 8))
    >>> a, b = g.conv2d(x, 8, 1), g.conv2d(x, 8, 1)
    >>> y = g.add(g.max_pool2d(a, 8), g.max_pool2d(b, 8))
    >>> plan = plan_order(g)
    >>> plan.peak_bytes, plan.program_peak_bytes, plan.status
    (2336, 4352, 'optimal')
    """
    _check_states(max_states)
    if time_limit is not None and (
        isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not time_limit > 0
    ):
        raise OrderError(f"time_limit={time_limit!r}; allowed: seconds above 0, or None")
    plan = plan_inference(graph, batch=batch, dtype=dtype, profile=profile, fuse=fuse, inplace=inplace)
    if plan.profile.frames:
        raise OrderError(
            f"the Python frames of profile {plan.profile.name!r} are those of the program, and so is its order; "
            "least peaks are those of another profile, such as 'torch_fx'"
        )
    best = best_order(plan.network, plan._lives.share, plan._lives.held, plan._nbytes, plan._scratch,
                      max_states, time_limit)  # fmt: skip
    order, peak = best.order, best.peak
    if plan.profile.reuses:
        # The search knows nothing of dead buffers that are used again: its bound holds, its order may not do.
        peak = peak_in_order(plan, order)
        if peak >= plan.activation_peak_bytes:
            order, peak = plan.order, plan.activation_peak_bytes
    return OrderPlan(plan.name, plan.profile, plan.network, order, peak, plan.activation_peak_bytes,
                     best.bound, "optimal" if peak == best.bound else "feasible", best.n_states, plan)  # fmt: skip


def minimum_peak(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    dtype: str | Mapping[str, str] | None = None,
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    max_states: int = MAX_STATES,
    time_limit: float | None = None,
) -> int:
    """Return the least activation peak of any legal order, in bytes; arguments as for :func:`plan_order`.

    Raises
    ------
    OrderError
        Beside what :func:`plan_order` raises: if the states run out before the proof. That plan has the bounds.
    """
    plan = plan_order(graph, batch=batch, dtype=dtype, profile=profile, fuse=fuse, inplace=inplace,
                      max_states=max_states, time_limit=time_limit)  # fmt: skip
    if not plan.optimal:
        raise OrderError(
            f"{plan.name or 'network'}: {max_states:,} states do not tell the least peak; it is at least "
            f"{plan.lower_bound:,} and at most {plan.peak_bytes:,} bytes"
        )
    return plan.peak_bytes


class BestOrder(NamedTuple):
    """Order, its peak, a lower bound of every order's, and how many sets of ops the search kept."""

    order: I64
    peak: int
    bound: int
    n_states: int


def best_order(
    net: Lowered,
    share: I64,
    held: I64,
    nbytes: I64,
    scratch: I64,
    max_states: int = MAX_STATES,
    time_limit: float | None = None,
) -> BestOrder:
    """Find the best order of a lowered net whose tensors share and keep bytes as ``live_ranges`` is told.

    Parameters
    ----------
    share, held, nbytes, scratch
        As for ``liveness.live_ranges`` and ``peak_of``.
    max_states, time_limit
        As for :func:`plan_order`.

    Returns
    -------
    BestOrder
        The program's order where that is as good as what was found.
    """
    inputs = (net.in_ptr, net.in_idx, net.out_ptr, share, held, nbytes, scratch, net.before_ptr, net.before_idx)
    # The kernels are compiled for arrays that may be written: those of `minimum_peaks`.
    return _best_order([a.copy() for a in inputs], max_states, time_limit)


def _best_order(graph: Sequence[I64], max_states: int, time_limit: float | None = None) -> BestOrder:
    """Do what :func:`best_order` does, for the columns of a graph in the order in which the kernel takes them."""
    until = None if time_limit is None else perf_counter() + time_limit
    n_ops, n_tensors, n_edges, n_before = len(graph[3]), len(graph[5]), len(graph[1]), len(graph[8])
    work = arrays(_model_sizes(n_ops, n_tensors, n_edges, n_before), "model")
    program = np.arange(n_ops)
    n, alive, start = model(n_ops, False, *[*graph, program, *[work[name] for name in (*_SCRATCH, *_MODEL, "birth")]])
    bound, peak = survey(n, alive, start, *[work[name] for name in (*_MODEL, "birth", "successor", *_SURVEYED)])
    first = np.flatnonzero(work["place"][:n_ops] < 0)
    if start > alive and first[-1] >= len(first):
        # A network input that nobody reads goes after its own step, which is best run early.
        program = np.concatenate([first, work["op_of"][:n]])
    if peak == bound:
        give_back("model", work)
        return BestOrder(frozen(program), int(peak), int(bound), 0)
    search = BlockSearch(work, n, n_tensors, n_edges + n_before, int(alive), max(int(start), int(bound)), max_states,
                         until)  # fmt: skip
    search.run()
    if search.peak < peak:
        program, peak = np.concatenate([first, work["op_of"][search.ops()]]), search.peak
    give_back("model", work)
    return BestOrder(frozen(program), int(peak), search.bound, search.n_states)


# Names of the kernels' arrays, in the order in which they take them.
_SCRATCH = ("group", "place", "maker", "cursor", "readers", "reader", "carried", "op_of")
_MODEL = ("pred_ptr", "pred_idx", "latest", "use_ptr", "use_idx", "takes", "user_ptr", "user_idx", "size", "fresh",
          "stays", "extra")  # fmt: skip
_SURVEYED = ("level", "need", "part")
_SMALL = ("before", "own_ptr", "others", "freed", "may")
_FIRST_STATES = 4096
# Inputs that an op of each code of `share` needs.
_NEEDS = (0, 1, 1, 2, 1, 1)


def _model_sizes(n_ops: int, n_tensors: int, n_edges: int, n_before: int) -> dict[str, int]:
    """Entries of each array that a model needs, the largest first where one is of tensors and another of ops."""
    per_tensor = dict.fromkeys(("group", "maker", "cursor", "user_ptr", "size", "birth"), n_tensors + 1)
    per_op = dict.fromkeys(
        (
            "place",
            "readers",
            "reader",
            "carried",
            "op_of",
            "pred_ptr",
            "latest",
            "use_ptr",
            "fresh",
            "stays",
            "extra",
            "successor",
            *_SURVEYED,
        ),
        n_ops + 1,
    )
    per_edge = {"pred_idx": n_edges + n_before, "use_idx": n_edges, "takes": n_edges, "user_idx": n_edges + n_tensors}
    return per_tensor | per_op | per_edge


def _states(capacity: int) -> tuple[list[I64], int]:
    """Make what a search keeps its states in, and the mask of the table."""
    entries = 1 << (2 * capacity - 1).bit_length()
    return [
        *np.empty((11, capacity), np.int64),
        np.full(entries, -1, np.int64),
        np.empty((124, 3), np.int64),
    ], entries - 1


def minimum_peaks(
    graph_ptr: I64,
    in_ptr: I64,
    in_idx: I32,
    nbytes: I64,
    share: I32,
    held: I32,
    scratch: I64,
    *,
    max_states: int = MAX_STATES,
) -> tuple[I64, I64]:
    """Least activation peak, over all legal orders, of each of many graphs in flat arrays.

    Every op of such a graph writes one tensor, so ops and tensors have the same number: that of their node.

    Parameters
    ----------
    graph_ptr : (n_graphs + 1,) int64
        Nodes of graph ``g``: ``graph_ptr[g] .. graph_ptr[g + 1]``, in program order.
    in_ptr, in_idx : (n_nodes + 1,) int64, (n_edges,) int32
        Nodes that a node reads, in the order of the op's inputs, numbered within their graph.
    nbytes, scratch : (n_nodes,) int64, bytes
        Of the node's tensor, and of what its op allocates and drops.
    share : (n_nodes,) int32
        0: writes bytes of its own. 1: is a view of input 0. 2, 3: may write into input 0, input 0 or else 1, if those
        bytes have the size of its own and nobody wants them afterwards. 4: overwrites input 0. 5: is asked to, but
        writes bytes of its own all the same. Before an op of 4 or 5 all ops run that read those bytes earlier in the
        program; see :func:`share_codes`.
    held : (n_nodes,) int32
        1: never counted (a stored parameter). 2: lives from the first step (a network input). 4: lives to the end (an
        output). And their sums.
    max_states : int
        Sets of ops that the search of one graph may keep. The few graphs for which 4,096 do not reach are planned once
        more, one by one, as :func:`plan_order` does.

    Returns
    -------
    peaks, bounds : (n_graphs,) int64
        Bytes of the best order found, and a lower bound of every order's; equal where the least peak is proven. A graph
        without nodes has 0.

    Raises
    ------
    GraphError
        If the arrays do not describe graphs; names the first node that is wrong.

    Notes
    -----
    Runs without the GIL and shares nothing between calls. Inputs have to be C-contiguous; pointers need not begin
    with 0. Scratch is O(largest graph), or O(max_states) where a graph asks for it.
    """
    _check_states(max_states)
    columns = (nbytes, share, held, scratch)
    _check_columns(graph_ptr, in_ptr, in_idx, columns)
    counts = np.diff(graph_ptr)
    n_graphs, n_nodes = len(counts), len(nbytes)
    peaks, bounds = np.zeros(n_graphs, np.int64), np.zeros(n_graphs, np.int64)
    if not n_nodes:
        return peaks, bounds
    starts = graph_ptr - graph_ptr[0]
    n, n_edges = int(counts.max()), int(np.diff(in_ptr[starts]).max())
    # an overwriter may have to follow every earlier op
    per_graph = np.add.reduceat((share >= 4).astype(np.int64), starts[:-1][counts > 0])
    n_before = int(per_graph.max()) * n
    sizes = {"needs": len(_NEEDS), "node_ptr": n + 1, "edges": n_edges, "modes": n, "holds": n, "own_bytes": n,
             "own_scratch": n, "root": n, "reads": n + 1, "before_ptr": n + 1, "before_idx": n_before}  # fmt: skip
    work = arrays(sizes | _model_sizes(n, n, n_edges, n_before), "batch")
    work["needs"][:] = _NEEDS
    work["node_ptr"][:] = np.arange(n + 1)
    limit = min(max_states, _FIRST_STATES)
    states, mask = _states(limit)
    work |= arrays({"before": 63, "own_ptr": 63, "others": n_edges, "freed": n_edges, "may": n_edges}, "small")
    names = (*sizes, *_SCRATCH, *_MODEL, "birth", "successor", *_SURVEYED, *_SMALL)
    rest = [*[work[name] for name in names], *states, np.empty(n, np.int64), peaks, bounds]
    inputs = [_read_only(a) for a in (graph_ptr, in_ptr, in_idx, *columns)]
    arguments: list[Any] = [*inputs, limit, mask, *rest]
    wrong = int(_minimum_peaks(*arguments))
    if wrong >= 0:
        raise GraphError(_what_is_wrong(wrong, starts, *inputs[1:]))
    for g in np.flatnonzero(peaks != bounds).tolist() if max_states > limit else ():
        best = _best_order(_columns_of(slice(starts[g], starts[g + 1]), *inputs[1:]), max_states)
        peaks[g], bounds[g] = min(peaks[g], best.peak), max(bounds[g], best.bound)
    return peaks, bounds


def _columns_of(nodes: slice, in_ptr: I64, in_idx: I32, nbytes: I64, share: I32, held: I32, scratch: I64) -> list[I64]:
    """Return a flat graph's columns as the kernel of single ones takes them."""
    ptr = in_ptr[nodes.start : nodes.stop + 1] - in_ptr[0]
    reads = [in_idx[a:b].tolist() for a, b in pairwise(ptr.tolist())]
    codes = share[nodes].tolist()
    root = list(range(len(codes)))
    before: list[list[int]] = [[] for _ in codes]
    for k, code in enumerate(codes):
        if code == 1:
            root[k] = root[reads[k][0]]
        elif code >= 4:
            target = root[reads[k][0]]
            before[k] = [r for r in range(k) if codes[r] != 1 and any(root[x] == target for x in reads[r])]
    modes = np.array([0, 1, 2, 3, 1, 0])[codes]
    graph = (ptr - ptr[0], in_idx[ptr[0] : ptr[-1]], np.arange(len(codes) + 1), modes, held[nodes], nbytes[nodes],
             scratch[nodes], *csr(before))  # fmt: skip
    return [np.array(column, np.int64) for column in graph]


def share_codes(alias: I64, inplace: Inplace) -> I32:
    """Return the codes that :func:`minimum_peaks` takes as `share`, for aliases of lowered ops under a way in place.

    Parameters
    ----------
    alias : (n,) int64
        As ``Lowered.alias``.
    inplace : {"graph", "dead", "never"}
    """
    dead = inplace == "dead"
    # by alias code: own bytes, view, asked in place, may overwrite input 0, may overwrite either
    codes = np.array([0, 1, 5 if inplace == "never" else 4, 2 if dead else 0, 3 if dead else 0], np.int32)
    return codes[alias]


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only look at an array that the caller may go on writing to."""
    view = array[:]
    view.setflags(write=False)
    return view


def _check_states(max_states: int) -> None:
    if type(max_states) is not int or max_states < 1:
        raise OrderError(f"max_states={max_states!r}; allowed: a positive integer")


def _check_columns(graph_ptr: I64, in_ptr: I64, in_idx: I32, columns: tuple[NDArray[Any], ...]) -> None:
    """Check that the arrays of :func:`minimum_peaks` are as long as each other tells, and of their types."""
    arrays: tuple[NDArray[Any], ...] = (graph_ptr, in_ptr, in_idx, *columns)
    names = ("graph_ptr", "in_ptr", "in_idx", "nbytes", "share", "held", "scratch")
    for name, array in zip(names, arrays, strict=True):
        dtype = np.dtype(np.int32 if name in ("in_idx", "share", "held") else np.int64)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
            raise GraphError(f"{name} is no contiguous array of one dimension and type {dtype.name}")
    if not len(graph_ptr) or (np.diff(graph_ptr) < 0).any():
        raise GraphError("graph_ptr does not rise, or is empty")
    n_nodes = int(graph_ptr[-1] - graph_ptr[0])
    for name, array in zip(names[3:], columns, strict=True):
        if len(array) != n_nodes:
            raise GraphError(f"{name} has {len(array)} entries for {n_nodes} nodes")
    if len(in_ptr) != n_nodes + 1 or in_ptr[-1] - in_ptr[0] != len(in_idx):
        raise GraphError(
            f"in_ptr has {len(in_ptr)} entries for {n_nodes} nodes, or does not span the {len(in_idx)} edges"
        )


def _what_is_wrong(
    node: int, starts: I64, in_ptr: I64, in_idx: I32, nbytes: I64, share: I32, held: I32, scratch: I64
) -> str:
    """Word what is wrong with a node that the kernel refused."""
    graph = int(np.searchsorted(starts, node, side="right")) - 1
    k = node - int(starts[graph])
    who = f"node {k} of graph {graph}"
    n_reads = int(in_ptr[node + 1] - in_ptr[node])
    reads = in_idx[in_ptr[node] - in_ptr[0] : in_ptr[node + 1] - in_ptr[0]]
    if n_reads < 0 or (reads < 0).any() or (reads >= k).any():
        return f"{who} reads {reads.tolist()}; allowed: nodes 0 to {k - 1}, as many as in_ptr says"
    if not 0 <= share[node] <= 5 or not 0 <= held[node] <= 7:
        return f"{who} has share {share[node]} and held {held[node]}; allowed: 0 to 5 and 0 to 7"
    if n_reads < _NEEDS[share[node]]:
        return f"{who} has share {share[node]} and {n_reads} inputs; needed: {_NEEDS[share[node]]}"
    if held[node] & 2 and n_reads:
        return f"{who} lives from the first step and reads {reads.tolist()}; a network input reads nothing"
    return f"{who} has {nbytes[node]} bytes and {scratch[node]} of scratch; allowed: 0 to 2**61 in a graph together"
