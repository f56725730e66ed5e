"""Rematerialisation of any training graph: what to keep and what to recompute under a budget of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._kernels import remat as _k
from cnnlive._types import I64, Columns, Result, column, csr, frozen
from cnnlive.errors import BudgetError, RematError
from cnnlive.plan._budgets import budgets_of, check_points, knee_of
from cnnlive.plan._plain import INTEGERS, TEXTS, array_of, checked, shown
from cnnlive.units import format_bytes

__all__ = ["Frontier", "RematPlan", "RematProblem", "plan_remat", "remat_frontier"]

_LIMIT: Final = 2**60
_ANY: Final = 2**62  # no limit
_FEW: Final = 400  # tries of a repair
_SLICE: Final = 20_000  # tries of a kernel between two looks at the clock
_STOPS: Final = 20  # plans noted on the way to the least budget
_LARGE: Final = 1_000  # nodes
_HUGE: Final = 3_000
_KICK: Final = 4_000  # moves of annealing after a kick
_BLOCKS: Final = 20_000  # tries of descents from plans of blocks, of huge problems

# Annealing: temperature from and to, as shares of the plain cost, and price of a byte too many from and to
_WARM: Final = (1e-2, 1e-4, 2.0, 5.0)
_HOT: Final = (3e-2, 1e-4, 0.5, 10.0)
_COLD: Final = (1e-4, 1e-6, 0.3, 5.0)
_MILD: Final = (1e-2, 1e-4, 0.5, 10.0)
_TOWARDS: Final = (1e-2, 1e-4, 5.0, 50.0)

Effort: TypeAlias = Literal["default", "best"]
Progress: TypeAlias = Callable[[float, str], object]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RematProblem(Columns):
    """A training step as plain arrays: what each node costs, writes and reads; made by :meth:`of`.

    Nodes are numbered in the order in which they run. Those up to and including `loss` are forward and may run again;
    the others are backward and run once. Costs are integers of any unit; amounts of memory are integers of any unit,
    called bytes here.

    Attributes
    ----------
    name : str
    names : tuple of str
        One for each node; errors and reports use them.
    loss : int
        The last forward node.
    fixed_bytes : int
        What is there all the time: parameters, their gradients, the optimizer's state.
    cost, scratch : (n,) int64
        What a run of the node costs, and the bytes that it takes only while it runs.
    may_rerun : (n,) int64
        1 where the node may be recomputed.
    out_ptr : (n + 1,) int64
        Values ``out_ptr[i] .. out_ptr[i + 1] - 1`` are written by node ``i``.
    nbytes : (n_values,) int64
        Bytes of each value; of one that shares bytes, those of what it shares them with.
    in_ptr, in_idx : (n + 1,), (n_reads,) int64
        CSR list of the values that each node reads.
    share : (n_values,) int64
        The value whose bytes a view or an overwriting value shares, or -1.
    overwrites : (n_values,) int64
        1 where the value it shares bytes with is gone once this one is written.
    outlives : (n_values,) int64
        1 where the value is held to the end of the step, as gradients of parameters are.
    held : (n_values,) int64
        The reader before whose end the value cannot be freed, because a caller's frame holds it; -1 for none.
    """

    name: str
    names: tuple[str, ...]
    loss: int
    fixed_bytes: int
    cost: I64
    scratch: I64
    may_rerun: I64
    out_ptr: I64
    nbytes: I64
    in_ptr: I64
    in_idx: I64
    share: I64
    overwrites: I64
    outlives: I64
    held: I64
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        cost: ArrayLike,
        nbytes: Sequence[int] | Sequence[Sequence[int]] | I64,
        edges: Iterable[Sequence[int]],
        loss: int,
        *,
        scratch: ArrayLike | None = None,
        fixed_bytes: int = 0,
        backward: ArrayLike | None = None,
        may_rerun: ArrayLike | None = None,
        views: Mapping[int | tuple[int, int], int | tuple[int, int]] | None = None,
        overwrites: Mapping[int | tuple[int, int], int | tuple[int, int]] | None = None,
        outlives: Iterable[int | tuple[int, int]] = (),
        held: Mapping[int | tuple[int, int], int] | None = None,
        names: Sequence[str] | None = None,
        name: str = "",
    ) -> RematProblem:
        """Check plain arrays and make a problem of them.

        Parameters
        ----------
        cost : (n,) integers
            Of each node, in the order in which the nodes run.
        nbytes : (n,) integers, or for each node a list of them
            Bytes of each node's output, or of its outputs.
        edges : pairs or triples of integers
            ``(producer, consumer)``, or ``(producer, output, consumer)`` where nodes have several outputs.
        loss : int
            The last forward node.
        scratch : (n,) integers, optional
            Bytes that a node takes only while it runs.
        fixed_bytes : int, optional
            Bytes that are there all the time.
        backward : (n,) booleans, optional
            Which nodes are backward: those after `loss`. Given only to be checked.
        may_rerun : (n,) booleans, optional
            False for a node that may not be recomputed: a random op, one that updates statistics. Default: forward
            nodes may. Backward nodes never may.
        views : mapping, optional
            Output to the output whose bytes it shows, each ``node`` or ``(node, output)``. All outputs of a node or
            none are views. Recomputing what is shown runs its views again.
        overwrites : mapping, optional
            Output to the output whose bytes it takes over: in-place ops. The overwritten value is gone, with its
            views; recomputing one of its readers recomputes it, beside what took its place.
        outlives : outputs, optional
            What is held to the end, such as gradients of parameters.
        held : mapping, optional
            Output to a node that reads it, before whose end it cannot be freed: what a caller's frame holds.
        names : (n,) str, optional
        name : str, optional

        Returns
        -------
        RematProblem

        Raises
        ------
        RematError
            If something is not well formed; the message names the node, the value and what is allowed.

        Examples
        --------
        >>> problem = RematProblem.of(
        ...     cost=[4, 1, 1, 2, 8], nbytes=[100, 100, 4, 100, 100],
        ...     edges=[(0, 1), (1, 2), (1, 3), (2, 3), (0, 4), (3, 4)], loss=2, name="conv, relu, loss",
        ... )
        >>> problem
        <RematProblem 'conv, relu, loss': 5 nodes, 3 of them forward>
        >>> problem.peak_bytes
        304
        """  # fmt: skip
        run = _integers(cost, "cost", None)
        n = len(run)
        labels = tuple(map(str, range(n) if names is None else names))
        if len(labels) != n:
            raise RematError(f"names has {len(labels)} entries and cost {n}; allowed: one for each node")
        if len(set(labels)) != n:
            seen: set[str] = set()
            twice = next(x for x in labels if x in seen or seen.add(x))  # type: ignore[func-returns-value]
            raise RematError(f"two nodes are called {twice!r}")
        if isinstance(loss, bool) or not isinstance(loss, int | np.integer) or not 0 <= loss < n:
            raise RematError(f"loss is {loss!r}; allowed: a node, 0 to {n - 1}")
        extra = _integers(np.zeros(n, np.int64) if scratch is None else scratch, "scratch", n)
        rows: list[list[Any]] = [list(x) if isinstance(x, Sequence | np.ndarray) else [x] for x in nbytes]
        if len(rows) != n:
            raise RematError(f"nbytes has {len(rows)} entries and cost {n}; allowed: one for each node")
        out_ptr, flat = csr(rows) if all(type(b) is int for r in rows for b in r) else _rows(rows, labels)
        sizes = flat.copy()
        _check_amounts(labels, np.repeat(np.arange(n), np.diff(out_ptr)), run, extra, sizes, fixed_bytes)
        is_backward = np.arange(n) > loss
        if backward is not None:
            given = _flags(backward, "backward", n)
            wrong = np.flatnonzero(given != is_backward)
            if len(wrong):
                i = int(wrong[0])
                raise RematError(f"node {labels[i]} is {'backward' if given[i] else 'forward'} and runs "
                                 f"{'after' if is_backward[i] else 'before'} the loss {labels[loss]}")  # fmt: skip
        again = ~is_backward if may_rerun is None else _flags(may_rerun, "may_rerun", n) & ~is_backward
        share, over, last = (np.full(len(sizes), x, np.int64) for x in (-1, 0, 0))

        def value(at: Any, what: str) -> int:
            i, k = (at, 0) if not isinstance(at, tuple | list) else (at[0], at[1])
            if isinstance(i, bool) or not isinstance(i, int | np.integer) or not 0 <= i < n:
                raise RematError(f"{what} names node {i!r}; allowed: 0 to {n - 1}")
            if not 0 <= k < len(rows[i]):
                raise RematError(f"{what} names output {k!r} of node {labels[i]}, which has {len(rows[i])}")
            return int(out_ptr[i] + k)

        reads: list[dict[int, None]] = [{} for _ in range(n)]
        for edge in edges:
            if len(edge) not in (2, 3):
                raise RematError(f"edge {tuple(edge)!r}; allowed: (producer, consumer) or (producer, output, consumer)")
            v, c = value(edge[0] if len(edge) == 2 else tuple(edge[:2]), "an edge"), edge[-1]
            value((c, 0) if rows[c if 0 <= c < n else 0] else (edge[0], 0), "an edge") if 0 <= c < n else value(
                c, "an edge"
            )
            if c <= edge[0]:
                raise RematError(f"node {labels[c]} reads node {labels[edge[0]]}, which runs "
                                 f"{'later' if c < edge[0] else 'at the same time'}; allowed: nodes in the order in "
                                 "which they run")  # fmt: skip
            reads[c][v] = None
        for pairs, flag, what in ((views, 0, "views"), (overwrites, 1, "overwrites")):
            for a, b in (pairs or {}).items():
                v, base = value(a, what), value(b, what)
                if share[v] >= 0:
                    raise RematError(f"an output of node {labels[_owner(out_ptr, v)]} shares bytes twice")
                share[v], over[v] = base, flag
        for at in outlives:
            last[value(at, "outlives")] = 1
        until = np.full(len(sizes), -1, np.int64)
        for at, i in (held or {}).items():
            v = value(at, "held")
            if not 0 <= i < n or v not in reads[i]:
                raise RematError(f"held: node {labels[i] if 0 <= i < n else i} holds an output of node "
                                 f"{labels[_owner(out_ptr, v)]}; allowed: a node that reads it")  # fmt: skip
            until[v] = i
        in_ptr, in_idx = csr([list(r) for r in reads])
        owner = np.repeat(np.arange(n), np.diff(out_ptr))
        _check_sharing(labels, owner, out_ptr, reads, share, over, last, sizes, extra)
        return cls(name, labels, int(loss), int(fixed_bytes), column(run), column(extra), column(again), out_ptr,
                   column(sizes), in_ptr, in_idx, column(share), column(over), column(last), column(until))  # fmt: skip

    def resized(
        self,
        *,
        nbytes: ArrayLike | None = None,
        cost: ArrayLike | None = None,
        scratch: ArrayLike | None = None,
        fixed_bytes: int | None = None,
        name: str | None = None,
    ) -> RematProblem:
        """Return the same step with other bytes and costs, as another batch has them.

        What is found out about the graph once is used again: for 400 nodes this and what planning prepares take a third
        of the time that a new problem takes.

        Parameters
        ----------
        nbytes : (n_values,) integers, optional
            Of each value, in the order of :attr:`nbytes`; those of what shares bytes are not looked at.
        cost, scratch : (n,) integers, optional
        fixed_bytes : int, optional
        name : str, optional
            Default: everything as it is.

        Returns
        -------
        RematProblem

        Raises
        ------
        RematError
            If an amount is outside what is allowed.

        Examples
        --------
        >>> step = RematProblem.of([4, 1, 8], [100, 4, 100], [(0, 1), (0, 2), (1, 2)], loss=1)
        >>> twice = step.resized(nbytes=[200, 8, 200], cost=[8, 2, 16])
        >>> step.peak_bytes, twice.peak_bytes
        (204, 408)
        """
        run = self.cost if cost is None else _integers(cost, "cost", None)
        extra = self.scratch if scratch is None else _integers(scratch, "scratch", self.n)
        sizes = self.nbytes if nbytes is None else _integers(nbytes, "nbytes", None)
        for what, values, n in (("cost", run, self.n), ("nbytes", sizes, len(self.nbytes))):
            if len(values) != n:
                raise RematError(f"{what} has {len(values)} entries; allowed: {n}, as the problem has now")
        s = _structure(self)
        sizes = sizes[s.origin]
        fixed = self.fixed_bytes if fixed_bytes is None else fixed_bytes
        _check_amounts(self.names, s.value_node, run, extra, sizes, fixed)
        for i in np.flatnonzero(extra[s.view_nodes] > 0)[:1].tolist():
            raise RematError(f"node {self.names[s.view_nodes[i]]} has a view; allowed: of a node without scratch whose "
                             "outputs are all views")  # fmt: skip
        return RematProblem(
            self.name if name is None else name, self.names, self.loss, int(fixed), column(run), column(extra),
            self.may_rerun, self.out_ptr, column(sizes), self.in_ptr, self.in_idx, self.share, self.overwrites,
            self.outlives, self.held, {"structure": s},
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.names)

    @property
    def plain_cost(self) -> int:
        """Cost of the step without recomputation."""
        return int(self.cost.sum())

    @property
    def peak_bytes(self) -> int:
        """Most bytes of the step without recomputation, fixed ones included."""
        return _Evaluator(self).peak_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; :meth:`from_dict` reads it."""
        plain: dict[str, Any] = {"name": self.name, "names": list(self.names), "loss": self.loss,
                                 "fixed_bytes": self.fixed_bytes}  # fmt: skip
        return plain | {key: getattr(self, key).tolist() for key in _COLUMNS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RematProblem:
        """Make a problem from what :meth:`to_dict` returned; checked as by :meth:`of`.

        Raises
        ------
        RematError
            If something is missing or not well formed.
        """
        checked(data, "a problem", _FORMS)
        checked({"name": "", "held": [], **data}, "a problem", {"name": str, "held": INTEGERS})
        ptr, inputs = (np.asarray(data[key], np.int64) for key in ("out_ptr", "in_ptr"))
        n = len(data["names"])
        for what, p, size in (("out_ptr", ptr, len(data["nbytes"])), ("in_ptr", inputs, len(data["in_idx"]))):
            if len(p) != n + 1 or p[0] != 0 or p[-1] != size or (np.diff(p) < 0).any():
                raise RematError(f"{what} does not run from 0 up to {size} in {n + 1} entries")
        where = [(i, k) for i in range(n) for k in range(int(ptr[i + 1] - ptr[i]))]
        for what in ("share", "overwrites", "outlives"):
            if len(data[what]) != len(where):
                raise RematError(f"{what} has {len(data[what])} entries; allowed: {len(where)}, one for each value")
        strange = [
            v for least, what in ((0, "in_idx"), (-1, "share")) for v in data[what] if not least <= v < len(where)
        ]
        if strange:
            raise RematError(f"a problem's data names value {strange[0]}; allowed: 0 to {len(where) - 1}")
        edges = [(*where[v], i) for i in range(n) for v in data["in_idx"][inputs[i] : inputs[i + 1]]]
        over, share = data["overwrites"], data["share"]
        views, taken = (
            dict[Any, Any]((where[v], where[b]) for v, b in enumerate(share) if b >= 0 and over[v] == kind)
            for kind in (0, 1)
        )
        return cls.of(data["cost"], [data["nbytes"][ptr[i] : ptr[i + 1]] for i in range(n)], edges, data["loss"],
                      scratch=data["scratch"], fixed_bytes=data["fixed_bytes"],
                      may_rerun=np.asarray(data["may_rerun"], bool), views=views, overwrites=taken,
                      outlives=[w for w, keep in zip(where, data["outlives"], strict=True) if keep],
                      held={w: i for w, i in zip(where, data.get("held", ()), strict=False) if i >= 0},
                      names=data["names"], name=data.get("name", ""))  # fmt: skip

    def __repr__(self) -> str:
        return f"<RematProblem {self.name!r}: {self.n:,} nodes, {self.loss + 1:,} of them forward>"


_COLUMNS: Final = ("cost", "scratch", "may_rerun", "out_ptr", "nbytes", "in_ptr", "in_idx", "share", "overwrites",
                   "outlives", "held")  # fmt: skip
_FORMS: Final[Mapping[str, Any]] = MappingProxyType(
    {"names": TEXTS, "loss": int, "fixed_bytes": int, **dict.fromkeys(_COLUMNS[:-1], INTEGERS)}
)


def _integers(values: ArrayLike, what: str, n: int | None) -> I64:
    array = array_of(values, what, "iu", "integers")
    if array.ndim != 1:
        raise RematError(f"{what} is {shown(values)}; allowed: a list of integers")
    if n is not None and len(array) != n:
        raise RematError(f"{what} has {len(array)} entries and cost {n}; allowed: one for each node")
    return array.astype(np.int64)


def _check_amounts(names: Sequence[str], owner: I64, cost: I64, scratch: I64, nbytes: I64, fixed: Any) -> None:
    for what, values, who in (("cost", cost, None), ("scratch", scratch, None), ("nbytes", nbytes, owner)):
        if values.size and (values.min() < 0 or values.max() >= _LIMIT):
            k = int(np.flatnonzero((values < 0) | (values >= _LIMIT))[0])
            raise RematError(f"{what} of node {names[k if who is None else who[k]]} is {values[k]}; allowed: 0 or "
                             "more, below 2**60")  # fmt: skip
    if isinstance(fixed, bool) or not isinstance(fixed, int | np.integer) or fixed < 0:
        raise RematError(f"fixed_bytes is {fixed!r}; allowed: an integer of 0 or more")
    # a value may be held once and made a second time, and each node may run in every step
    together = 2 * float(nbytes.sum()) + float(scratch.sum()) + float(fixed)
    if together >= _LIMIT or float(cost.sum()) * len(cost) >= _LIMIT:
        raise RematError("bytes together, or costs together times the number of nodes, reach 2**60; allowed: less")


def _flags(values: ArrayLike, what: str, n: int) -> Any:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind != "b":
        raise RematError(f"{what} is {array.shape} of {array.dtype}; allowed: {n} booleans")
    return array


def _rows(rows: Sequence[Sequence[Any]], labels: Sequence[str]) -> tuple[I64, I64]:
    for i, row in enumerate(rows):
        for b in row:
            if isinstance(b, bool) or not isinstance(b, int | np.integer):
                raise RematError(f"nbytes of node {labels[i]} has {b!r}; allowed: integers")
    return csr(rows)


def _owner(out_ptr: I64, v: int) -> int:
    return int(np.searchsorted(out_ptr, v, side="right")) - 1


def _check_sharing(labels: Sequence[str], owner: I64, out_ptr: I64, reads: Sequence[Mapping[int, None]], share: I64,
                   over: I64, last: I64, sizes: I64, scratch: I64) -> None:  # fmt: skip
    """Check views and overwritten values; give values that share bytes the size of what they share."""
    root = np.arange(len(share))
    gone: dict[int, int] = {}  # root of an overwritten value to the node that overwrites it
    for v in np.flatnonzero(share >= 0).tolist():
        i, base = int(owner[v]), int(share[v])
        what = "overwrites" if over[v] else "shows"
        if base not in reads[i]:
            raise RematError(f"node {labels[i]} {what} an output of node {labels[owner[base]]}, which it does not read")
        r = int(root[base])
        sizes[v] = sizes[r]
        if over[v]:
            if r in gone:
                raise RematError(f"nodes {labels[gone[r]]} and {labels[i]} overwrite the same value")
            gone[r] = i
        else:
            root[v] = r
            outs = share[out_ptr[i] : out_ptr[i + 1]]
            if (outs < 0).any() or over[out_ptr[i] : out_ptr[i + 1]].any() or scratch[i]:
                raise RematError(f"node {labels[i]} has a view; allowed: of a node without scratch whose outputs are "
                                 "all views")  # fmt: skip
            if len({int(root[u]) for u in reads[i]}) > 1:
                raise RematError(
                    f"node {labels[i]} has a view; allowed: of a node that reads no other bytes than those"
                )
    for v in np.flatnonzero(last).tolist():
        if int(root[v]) in gone:
            raise RematError(f"an output of node {labels[owner[v]]} outlives the step and is overwritten by node "
                             f"{labels[gone[int(root[v])]]}")  # fmt: skip
    for i, row in enumerate(reads):
        for v in row:
            o = gone.get(int(root[v]), len(reads))
            if o < i:
                raise RematError(f"node {labels[i]} reads an output of node {labels[owner[v]]}, which node {labels[o]} "
                                 "has overwritten")  # fmt: skip


class _Structure(NamedTuple):
    """What does not depend on bytes and costs: views folded into their readers, lives cut into gaps."""

    in_ptr: I64
    in_idx: I64
    takes: I64
    value_node: I64
    gap_ptr: I64
    gap_value: I64
    gap_begin: I64
    gap_end: I64
    user_ptr: I64
    user_idx: I64
    start: I64  # states with everything kept
    open: I64  # gaps whose state may change, if the value has any bytes
    views_of: tuple[tuple[int, ...], ...]  # for each node the view nodes that it reads through, in order
    gap_views: tuple[tuple[int, ...], ...]  # for each gap the view nodes that run again at its end
    through: tuple[int, ...]  # nodes that read through views
    shown: tuple[int, ...]  # gaps at whose end views run again
    may_rerun: I64
    root: I64
    origin: I64  # the value that each takes its number of bytes from
    own: I64  # 1 where a value is no view
    view_nodes: I64
    kept_until: I64  # the step through which each value is held


class _Model(NamedTuple):
    """A problem as the kernels see it."""

    n: int
    in_ptr: I64
    in_idx: I64
    out_ptr: I64
    takes: I64
    nbytes: I64
    scratch: I64
    value_node: I64
    again: I64
    gap_ptr: I64
    gap_value: I64
    gap_begin: I64
    gap_end: I64
    gap_cost: I64
    user_ptr: I64
    user_idx: I64
    start: I64  # states with everything kept
    free: I64  # gaps whose state may change
    views_of: tuple[tuple[int, ...], ...]  # for each node the view nodes that it reads through, in order
    gap_views: tuple[tuple[int, ...], ...]  # for each gap the view nodes that run again at its end
    may_rerun: I64
    root: I64
    kept_until: I64  # the step through which each value is held


def _structure(problem: RematProblem) -> _Structure:
    known: _Structure | None = problem._cache.get("structure")
    if known is None:
        known = problem._cache["structure"] = _new_structure(problem)
    return known


def _new_structure(problem: RematProblem) -> _Structure:
    n, n_values = problem.n, len(problem.nbytes)
    out_ptr, share, over = problem.out_ptr.tolist(), problem.share.tolist(), problem.overwrites.tolist()
    owner = [i for i in range(n) for _ in range(out_ptr[i + 1] - out_ptr[i])]
    root, origin = list(range(n_values)), list(range(n_values))
    chain: list[tuple[int, ...]] = [()] * n_values  # view nodes from the root to the value
    takes = [-1] * n_values
    for v in range(n_values):
        if share[v] < 0:
            continue
        origin[v] = origin[share[v]]
        if not over[v]:
            root[v] = root[share[v]]
            chain[v] = (*chain[share[v]], owner[v])
        else:
            takes[v] = root[share[v]]
    is_view = [bool(out_ptr[i] < out_ptr[i + 1] and chain[out_ptr[i]]) for i in range(n)]
    taken = set(takes)
    edges, idx = problem.in_ptr.tolist(), problem.in_idx.tolist()
    reads = [list(dict.fromkeys(root[v] for v in idx[edges[i] : edges[i + 1]])) for i in range(n)]
    views_of = [tuple(sorted({w for v in idx[edges[i] : edges[i + 1]] for w in chain[v]})) for i in range(n)]
    # an op can run again if what it reads can be had: kept, or made again where it was overwritten
    may = problem.may_rerun.tolist()
    for i in range(n):
        if is_view[i]:
            may[i] = 0
        elif may[i]:
            may[i] = int(all(v not in taken or may[owner[v]] for v in reads[i]))
    uses: list[list[int]] = [[] for _ in range(n_values)]
    late: list[list[tuple[int, int]]] = [[] for _ in range(n_values)]  # (reader, view node) of a root
    for i in range(n):
        for v in reads[i]:
            uses[v].append(i)
        for v in idx[edges[i] : edges[i + 1]]:
            late[root[v]] += [(i, w) for w in chain[v]]
    users = [[i for i in u if may[i]] for u in uses]
    outlives = {root[v] for v in np.flatnonzero(problem.outlives).tolist()}
    until = [-1] * n_values  # views are held with what they show
    for v, i in enumerate(problem.held.tolist()):
        until[root[v]] = max(until[root[v]], i)
    gap_ptr, gap_views = [0], list[tuple[int, ...]]()
    value, begin, end, start, free = (list[int]() for _ in range(5))
    for v in range(n_values):
        stops = [owner[v], *uses[v], n if v in outlives else n + 1]
        restorable = may[owner[v]] and not chain[v]
        for k in range(len(stops) - 1):
            a, b = stops[k], stops[k + 1]
            again = tuple(sorted({w for i, w in late[v] if w < b <= i})) if b < n and late[v] else ()
            open_ = restorable and b > until[v] and (b - a > 1 if b < n else b > n and bool(users[v]))
            if b > n and v in taken:
                start.append(2)
                open_ = False
            else:
                start.append(0)
            if open_:
                free.append(len(value))
            value.append(v)
            begin.append(a)
            end.append(b)
            gap_views.append(again)
        gap_ptr.append(len(value))
    in_ptr, in_idx = csr(reads)
    user_ptr, user_idx = csr(users)
    return _Structure(
        in_ptr, in_idx, column(takes), column(owner), column(gap_ptr), column(value), column(begin), column(end),
        user_ptr, user_idx, column(start), column(free), tuple(views_of), tuple(gap_views),
        tuple(i for i, x in enumerate(views_of) if x), tuple(g for g, x in enumerate(gap_views) if x), column(may),
        column(root), column(origin), column([not x for x in chain]), column([i for i, x in enumerate(is_view) if x]),
        column(until),
    )  # fmt: skip


def _model(problem: RematProblem) -> _Model:
    known: _Model | None = problem._cache.get("model")
    if known is None:
        known = problem._cache["model"] = _new_model(problem, _structure(problem))
    return known


def _new_model(problem: RematProblem, s: _Structure) -> _Model:
    nbytes, cost = problem.nbytes * s.own, problem.cost
    again, charge = cost.copy(), np.zeros(len(s.gap_value), np.int64)
    for at, rows, total in ((s.through, s.views_of, again), (s.shown, s.gap_views, charge)):
        for i in at:
            total[i] += sum(cost[w] for w in rows[i])
    # what has no bytes is held for nothing
    free = s.open[nbytes[s.gap_value[s.open]] > 0]
    return _Model(
        problem.n, s.in_ptr, s.in_idx, problem.out_ptr, s.takes, column(nbytes), problem.scratch, s.value_node,
        column(again), s.gap_ptr, s.gap_value, s.gap_begin, s.gap_end, column(charge), s.user_ptr, s.user_idx, s.start,
        column(free), s.views_of, s.gap_views, s.may_rerun, s.root, s.kept_until,
    )  # fmt: skip


def _bounds(problem: RematProblem) -> _Bounds:
    known: _Bounds | None = problem._cache.get("bounds")
    if known is None:
        known = problem._cache["bounds"] = _Bounds(problem, _model(problem))
    return known


class _Evaluator:
    """The bytes and the cost of a schedule, kept up to date while states of gaps change."""

    __slots__ = ("_change", "_evaluate", "model", "problem", "ready", "work")

    def __init__(self, problem: RematProblem, model: _Model | None = None) -> None:
        self.problem = problem
        self.model = m = _model(problem) if model is None else model
        n, n_values, n_gaps = m.n, len(m.nbytes), len(m.gap_value)
        size = 1 << max(n - 1, 1).bit_length()
        most = int(np.minimum(m.may_rerun.sum() * n // 2, 64 * n + 4096))
        width = max(n, n_gaps)
        self.work = {
            "state": np.empty(n_gaps, np.int64), "first": np.empty(2 * n_gaps, np.int64),
            "hold": np.empty((2 * n_gaps, 2), np.int64), "closure": np.empty((n, 2), np.int64),
            "pool": np.empty(3 * most + 4 * n, np.int64), "heads": np.empty(n, np.int64),
            "links": np.empty((most + n, 2), np.int64), "local": np.empty(n, np.int64),
            "tree": np.empty((2, 2 * size), np.int64), "want": np.empty(n_values, np.int64),
            "last": np.empty(n_values, np.int64), "mark": np.empty(n, np.int64), "stack": np.empty(n, np.int64),
            "queue": np.empty((3, width), np.int64), "flag": np.empty((3, width), np.int64),
            "best": np.empty(n_gaps, np.int64), "target": np.empty(n_gaps, np.int64),
            "lowest": np.empty(n_gaps, np.int64), "order": m.free.copy(), "guess": np.empty(5 * n_gaps, np.int64),
            "totals": np.empty(16, np.int64),
            "journal": np.empty((2 * most + 64 * (n_values + n) + 8 * n_gaps + 64, 4), np.int64),
        }  # fmt: skip
        self._evaluate, self._change = self.args(_k.evaluate), self.args(_k.change)
        self.reset(m.start)

    def args(self, kernel: Any) -> list[Any]:
        """Return the arrays that a kernel takes, by the names of its parameters."""
        code = getattr(kernel, "py_func", kernel).__code__
        names = code.co_varnames[: code.co_argcount]
        known = self.work
        return [
            known[x] if x in known else getattr(self.model, x) for x in names if x in known or hasattr(self.model, x)
        ]

    def reset(self, state: I64) -> bool:
        """Evaluate a schedule from nothing; False where it recomputes more than there is room for."""
        self.work["state"][:] = state
        self.ready = bool(_k.evaluate(self.problem.plain_cost, *self._evaluate))
        return self.ready

    def go(self, state: I64) -> bool:
        """Evaluate a schedule, from the one before if that is at hand."""
        self.work["target"][:] = state
        return (self.ready and bool(_k.change(*self._change))) or self.reset(state)

    @property
    def peak_bytes(self) -> int:
        return int(self.work["tree"][0, 1]) + self.problem.fixed_bytes

    @property
    def cost(self) -> int:
        return int(self.work["totals"][0])

    @property
    def timeline(self) -> I64:
        """Most bytes in each step, fixed ones included."""
        tree = self.work["tree"]
        size = tree.shape[1] // 2
        at = np.arange(size, size + self.model.n)
        total = tree[0, at].copy()
        while (at := at >> 1).any():
            total += tree[1, at]
        return frozen(total + self.problem.fixed_bytes)


class _Bounds:
    """Bounds of the cost under any budget, and of the budget: what no schedule of the fixed order can beat."""

    __slots__ = ("base", "fixed", "gaps", "pieces", "plain", "scale", "total")

    def __init__(self, problem: RematProblem, m: _Model) -> None:
        n, nbytes, owner = m.n, m.nbytes.tolist(), m.value_node.tolist()
        ptr, ends, begins = m.gap_ptr.tolist(), m.gap_end.tolist(), m.gap_begin.tolist()
        in_ptr, in_idx, out_ptr = m.in_ptr.tolist(), m.in_idx.tolist(), m.out_ptr.tolist()
        takes, may, again, until = m.takes.tolist(), m.may_rerun.tolist(), m.again.tolist(), m.kept_until.tolist()
        reads = [in_idx[in_ptr[i] : in_ptr[i + 1]] for i in range(n)]
        written = [sum(nbytes[out_ptr[i] : out_ptr[i + 1]]) for i in range(n)]
        n_users = np.diff(m.user_ptr).tolist()
        taken = {v: owner[w] for w, v in enumerate(takes) if v >= 0}
        last_read = [ends[ptr[v + 1] - 2] if ptr[v + 1] - ptr[v] > 1 else owner[v] for v in range(len(nbytes))]
        for v in range(len(nbytes)):
            if ends[ptr[v + 1] - 1] == n:
                last_read[v] = n
        # A node's cost is shared among its outputs by their bytes, and what has to run before it, because its output
        # was overwritten, among the nodes that read that: never counted twice.
        full: list[float] = [0.0] * n

        def share(v: int) -> float:
            return float(full[owner[v]] * nbytes[v] / max(written[owner[v]], 1) / max(n_users[v], 1))

        for i in range(n):
            full[i] = float(again[i])
            for v in reads[i]:
                if taken.get(v) == i and may[i]:
                    full[i] += share(v)
        base = problem.scratch.astype(np.int64).copy()
        pieces: list[
            tuple[float, float, float, int, int, int]
        ] = []  # bytes, cost, cost of the cheapest option, first step, end, gap
        change, loose = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
        for i in range(n):
            base[i] += sum(nbytes[v] for v in reads[i])
            base[i] += sum(nbytes[v] for v in range(out_ptr[i], out_ptr[i + 1]) if takes[v] < 0)
        for v, size in enumerate(nbytes):
            o = owner[v]
            for g in range(ptr[v], ptr[v + 1]):
                a, b = begins[g] + 1, ends[g]
                if b > n or a >= b or not size:
                    continue
                if not may[o] or b == n or b <= until[v]:
                    change[a] += size
                    change[b] -= size
                    continue
                loose[a] += size
                loose[b] -= size
                cost = full[o] * size / written[o]
                # parents that no step reads any more are either held, at the cost of their bytes, or made again
                dead = [(taken.get(u, last_read[u] + 1), u) for u in reads[o]
                        if taken.get(u) != o and may[owner[u]] and nbytes[u]]  # fmt: skip
                stops = sorted({a, b, *(s for s, _ in dead if a < s < b)})
                for lo, hi in pairwise(stops):
                    # Options: each dead parent held, or made again for its share. Fractional shares of the cheapest
                    # hull of them bound all: what costs less per byte than it is added to becomes one with it.
                    part = size / written[o]
                    parts = [
                        (nbytes[u] / n_users[u] * part, share(u) * part) for s, u in dead if s <= lo and u not in taken
                    ]
                    gone = sum(share(u) for s, u in dead if s <= lo and u in taken) * part
                    left, price = size - sum(held for held, _ in parts), cost + gone
                    for held, more in sorted(parts, key=lambda x: x[1] / x[0]):
                        if left <= 0 or more / held <= price / left:
                            left, price = left + held, price + more
                        else:
                            pieces.append((held, more, more, lo, hi, -1))
                    pieces.append((left, price, cost + gone, lo, hi, g))
        base += np.cumsum(change)[:n]
        pieces.sort(key=lambda x: (x[1] / x[0], x[3]))
        top = max((x[1] for x in pieces), default=1.0) * max(len(pieces), 1)
        self.scale = 1 << max(0, min(20, 60 - max(1, int(top)).bit_length()))
        # what leaving out saves is rounded up, what it costs down
        sizes = column([int(np.ceil(x[0])) for x in pieces])
        costs, least = (column([int(x[k] * self.scale * (1 - 1e-12)) for x in pieces]) for k in (1, 2))
        begin, stop = (column([x[k] for x in pieces]) for k in (3, 4))
        self.pieces = (sizes, costs, least, begin, stop)
        self.gaps = [x[5] for x in pieces]
        self.base, self.total = column(base), column(base + np.cumsum(loose)[:n])
        self.fixed, self.plain = problem.fixed_bytes, problem.plain_cost

    @property
    def least_bytes(self) -> int:
        """No schedule has a lower peak."""
        return int(self.base.max()) + self.fixed

    def __call__(self, budgets: Sequence[int]) -> list[int]:
        """Return bounds of the whole cost; -1 where no schedule meets the budget."""
        found, _ = self._at(budgets)
        return [-1 if x < 0 else self.plain - int(-x // self.scale) for x in found.tolist()]

    def _at(self, budgets: Sequence[int]) -> tuple[I64, I64]:
        found, step = np.empty((2, len(budgets)), np.int64)
        _k.bounds(self.base, self.total, *self.pieces, column([b - self.fixed for b in budgets]), found, step)
        return found, step

    def dropped(self, budget: int) -> list[int]:
        """Return the gaps that the knapsack of the tightest step leaves out."""
        _, (p,) = self._at([budget])
        need = int(self.total[p]) + self.fixed - budget
        sizes, _, _, begins, ends = self.pieces
        found = []
        for k in np.flatnonzero((begins <= p) & (p < ends)).tolist():
            if need <= 0:
                break
            need -= int(sizes[k])
            if self.gaps[k] >= 0:
                found.append(self.gaps[k])
        return found


class _Effort(NamedTuple):
    """How much is tried: by counts, so that equal arguments give equal plans on every machine."""

    descent: int  # tries of each descent
    starts: int  # greedy plans with some chance in them
    anneal: int  # moves of each annealing from where everything is kept
    kicks: int  # tries of descents and short annealings from kicked plans, all together
    least: int  # moves of annealing towards the least peak


_EFFORTS: Final[Mapping[str, _Effort]] = {
    "default": _Effort(20_000, 4, 0, 12_000, 20_000),
    "best": _Effort(1_000_000, 24, 80_000, 350_000, 80_000),
}
_FRONTIER_EFFORTS: Final[Mapping[str, _Effort]] = {
    "default": _Effort(160, 0, 0, 0, 0),
    "best": _Effort(3_500, 1, 7_000, 2_500, 20_000),
}


class _Search:
    """A search on one problem: the evaluator, the bounds, and the clock."""

    def __init__(self, problem: RematProblem, seed: int, time_limit: float | None) -> None:
        self.problem = problem
        self.e = _Evaluator(problem)
        self.bounds = _bounds(problem)
        self.keep = self.e.model.start.copy()
        self.keep_peak, self.keep_cost = self.e.peak_bytes, self.e.cost
        # after its last read a value is made again where recomputation needs it, unless a move says otherwise
        self.keep[self.e.model.free[self.e.model.gap_end[self.e.model.free] > problem.n]] = 2
        self.rng = np.random.default_rng(seed)
        self.e.work["totals"][13] = 1 + int(self.rng.integers(1, 2**30))
        m = self.e.model
        v = m.gap_value[m.free]
        # what costs most per byte to make again comes first
        self.dear = m.free[np.argsort(-m.again[m.value_node[v]] / m.nbytes[v], kind="stable")]
        self.quick = False  # whether repairs try less
        self.path: list[tuple[int, I64, int]] = []  # cost, states, peak
        self.end = None if time_limit is None else time.monotonic() + time_limit
        self._args = {name: self.e.args(getattr(_k, name)) for name in ("descend", "anneal", "repair", "shuffle")}

    @property
    def late(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    @property
    def state(self) -> I64:
        return self.e.work["state"].copy()

    def descend(self, budget: int, tries: int) -> int:
        """Improve the plan in place; return the tries made."""
        if self.quick:
            self.e.work["order"][:] = self.dear
        else:
            _k.shuffle(*self._args["shuffle"])
        made = 0
        m = len(self.e.model.free)
        # keeping, alone or in exchange, gains most
        for kinds in (1,) if self.quick else (1, 2):
            at = idle = 0
            while idle < m and made < tries and not self.late:
                now = min(_SLICE, tries - made)
                at, idle, left = _k.descend(kinds, at, idle, now, budget - self.problem.fixed_bytes,
                                            *self._args["descend"])  # fmt: skip
                made += now - left
        return made

    def anneal(self, budget: int, moves: int, how: tuple[float, float, float, float], kinds: int = 5) -> bool:
        """Anneal from the plan as it is; the best within budget becomes the plan. False if there is none."""
        totals, room = self.e.work["totals"], budget - self.problem.fixed_bytes
        totals[14], totals[15] = -1, _ANY
        done = 0
        while done < moves and not self.late and len(self.e.model.free):
            until = min(done + _SLICE, moves)
            _k.anneal(kinds, done, until, moves, room, *how, max(self.problem.plain_cost, 1),
                      *self._args["anneal"])  # fmt: skip
            done = until
        return bool(totals[14] >= 0 and self.e.go(self.e.work["best"].copy()))

    def repair(self, budget: int, noise: int = 0, tries: int = _ANY, again: bool = False, stop: int = 0) -> bool:
        """Bring the plan within budget, greedily; it keeps the least peak reached where that fails.

        `again`: what changes cost is remembered from the last time. `stop`: a peak on the way there that is enough.
        """
        room, enough = budget - self.problem.fixed_bytes, max(budget, stop)
        if not again:
            self.e.work["guess"].fill(-1)
        while self.e.peak_bytes > enough and tries > 0 and not self.late:
            now = min(_SLICE, tries)
            left = _k.repair(int(not self.quick), noise, now, enough - self.problem.fixed_bytes, room,
                             *self._args["repair"])  # fmt: skip
            tries -= now - left
            if left == 0:
                break
        return self.e.peak_bytes <= enough

    def start(self, budget: int, noise: int = 0, far: int | None = None, tries: int = _ANY) -> bool:
        """Make a first plan: what the tightest step's knapsack leaves out, repaired if that is not `far` too much.

        On large problems an eighth of what has to go is far by itself: a repair from there takes seconds, and its plans
        are poor.
        """
        if far is None:
            far = _ANY if self.problem.n <= _LARGE else (self.keep_peak - budget) // 8
        state = self.keep.copy()
        state[self.bounds.dropped(budget)] = 1
        if not self.e.go(state) or self.e.peak_bytes - budget > far:
            return False
        return self.repair(budget, noise, tries)

    def first(self, budget: int) -> bool:
        """Make a first plan, or False: the best of the knapsack's, the blocks' and that of keeping all, repaired."""
        self.quick = True
        best: tuple[int, I64] | None = None
        if self.blocks(budget, 2_000):
            best = self.e.cost, self.state
        # greedy repairs of huge problems take many seconds, and their plans are no better
        for k in range(2 if best is None or self.problem.n <= _HUGE else 0):
            if self.late and best is not None:
                break
            if self.start(budget) if k else self.e.go(self.keep) and self.repair(budget):
                self.descend(budget, 2_000)
                if best is None or self.e.cost < best[0]:
                    best = self.e.cost, self.state
        self.quick = False
        if best is None:
            return self.start(budget) or (self.e.go(self.keep) and self.repair(budget))
        return self.e.go(best[1])

    def blocks(self, budget: int, tries: int, repairs: int = _ANY) -> bool:
        """Make a plan of that of the chain of blocks between cut vertices, repaired and improved."""
        from cnnlive.plan.blocks import start_states  # noqa: PLC0415 - blocks are made of what is here

        if not self.e.go(start_states(self.problem, budget)) or not self.repair(budget, tries=repairs):
            return False
        self.descend(budget, tries)
        return True

    def least(self, effort: _Effort, enough: int = 0) -> tuple[int, I64]:
        """Find a plan with a low peak: the minimum feasible budget, as far as it is known.

        The plans on the way there are noted in `path`. Quick searches try less once they are below `enough`.
        """
        goal, quick = self.bounds.least_bytes, self.quick
        best, state = _ANY, self.keep

        def better(most: int = _ANY) -> None:
            nonlocal best, state
            if self.e.ready and self.e.peak_bytes < best and self.e.cost <= most:
                best, state = self.e.peak_bytes, self.state

        huge = self.problem.n > _HUGE
        if huge:  # where greedy repairs from far take minutes
            self.blocks(goal, 0, _FEW)
            better()
        for self.quick in (True,) if quick or huge else (True, False):
            self.e.go(self.keep)
            self.e.work["guess"].fill(-1)
            for k in range(1, 1 if huge else _STOPS + 1):
                stop = self.keep_peak - (self.keep_peak - goal) * k // _STOPS
                if not self.repair(goal, again=True, stop=stop):
                    break
                self.path.append((self.e.cost, self.state, self.e.peak_bytes))
            better()
            if best > goal and not self.late:
                self.start(goal, tries=_FEW if quick or huge else _ANY)
                better()
        self.quick = quick
        # Blocks take as long as some points of a frontier, and their plans may cost many times the step: quick searches
        # try them where there is much to gain, and take what does not double the step.
        much, most, tries = (max(goal + goal // 10, enough), 2 * self.keep_cost, _FEW) if quick else (goal, _ANY, _ANY)
        if best > much and not huge and not self.late:
            self.blocks(goal, 0, tries)
            better(most)
        for k in range(0 if quick else effort.starts):
            if best > goal and not self.late:
                self.quick = k % 2 == 0
                self.start(goal, 100)
                better()
        self.quick = quick
        self.e.go(state)
        if best > goal and effort.least and not self.late:
            if not self.anneal(goal, effort.least, _TOWARDS) and (
                int(self.e.work["totals"][15]) + self.problem.fixed_bytes < best
            ):
                self.e.go(self.e.work["lowest"].copy())
                self.repair(goal)
            better()
        self.e.go(state)
        return best, state

    def improve(self, budget: int, bound: int, effort: _Effort, tell: Progress | None = None) -> None:
        """Improve a plan within budget: descent, annealing from everything kept, then kicks from the best plan."""
        e = self.e
        self.descend(budget, effort.descent)
        best, state = e.cost, self.state
        whole, plain = effort.starts * 20_000 + 3 * effort.anneal + effort.kicks, max(self.problem.plain_cost, 1)
        done = 0

        def said(what: str) -> None:
            if tell is not None:
                tell(min(done / max(whole, 1), 1.0), f"{what}, {100 * (best / plain - 1):.2f} %")

        for k in range(effort.starts if self.problem.n <= _HUGE else 0):
            # other plans of the same kind: the knapsack's and the plain one in turn, repaired with some chance
            if best > bound and not self.late:
                said("greedy plans")
                ready = self.start(budget, 100) if k % 2 else e.go(self.keep) and self.repair(budget, 100)
                if ready:
                    self.descend(budget, min(20_000, effort.descent))
                    if e.cost < best:
                        best, state = e.cost, self.state
            done += 20_000
        # late and lent values make more plans, and more of them poor: annealed with and without
        for schedule, kinds in ((_WARM, 3), (_MILD, 5), (_HOT, 3)) if effort.anneal else ():
            if best > bound and not self.late:
                said("annealing")
                e.go(self.keep)
                if self.anneal(budget, effort.anneal, schedule, kinds):
                    self.descend(budget, effort.descent)
                    if e.cost < best:
                        best, state = e.cost, self.state
            done += effort.anneal
        free = self.e.model.free
        tries = 0
        while tries < effort.kicks and best > bound and not self.late and len(free):
            said("kicks")
            kicked = state.copy()
            centre = int(self.rng.integers(len(free)))
            for at in (centre + self.rng.integers(-15, 16, int(self.rng.integers(2, 9)))).tolist():
                if 0 <= at < len(free):
                    kicked[free[at]] = 0 if kicked[free[at]] else 1
            tries += _KICK
            done += _KICK
            if not e.go(kicked) or not self.anneal(budget, _KICK, _COLD) or e.cost > 1.01 * best:
                continue
            made = self.descend(budget, effort.descent)
            tries += made
            done += made
            if e.cost <= best:
                best, state = e.cost, self.state
        e.go(state)

    def plan(self, budget: int, bound: int, effort: str, found: tuple[int, I64, int] | None = None) -> RematPlan:
        """Return the plan as it is, or the one `found`."""
        cost, state, peak = found or (self.e.cost, self.state, self.e.peak_bytes)
        return RematPlan(self.problem, budget, frozen(state), peak, cost, max(bound, 0),
                         "optimal" if cost == bound else "feasible", effort)  # fmt: skip


def plan_remat(
    problem: RematProblem,
    *,
    budget: int,
    effort: Effort = "default",
    exact: bool = False,
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> RematPlan:
    """Find what to keep and what to recompute so that a step fits a budget, at the least cost.

    The order of the nodes is as given. Before a node runs, whatever it needs and is not held is recomputed; between
    two of its uses a value is held, or dropped and held again once it is recomputed, or recomputed in each step that
    needs it; or it is held until it is needed for the first time only, or not held until it is needed again.

    Parameters
    ----------
    problem : RematProblem
    budget : int
        Bytes that may be alive at once, fixed ones included.
    effort : {"default", "best"}
        How long to search: about 0.3 s or 4 s for a graph of 400 nodes.
    exact : bool
        Whether OR-Tools then proves the plan the cheapest or finds a better one, as far as it can in `time_limit` or
        60 seconds: :func:`cnnlive.plan.remat_exact.prove_remat`. For graphs of up to about 150 nodes.
    seed : int
        Equal arguments give equal plans, unless the time runs out.
    time_limit : float, optional
        Seconds. The best plan until then is returned.
    progress : callable, optional
        Called now and then with the share done (0 to 1) and what is going on. An interrupt from the keyboard, or what
        this raises, ends the search within a fraction of a second and is passed on.

    Returns
    -------
    RematPlan
        Never above `budget`. ``"optimal"`` where its cost is the lower bound.

    Raises
    ------
    BudgetError
        If no plan was found. It names the least budget that a plan was found for, and the proven bound.
    MissingExtraError
        If `exact` is asked for and OR-Tools is not installed.
    RematError
        If an argument is outside what is allowed.

    Notes
    -----
    A lower bound comes first: in each step, a knapsack of the values that are alive only for later steps; one left out
    costs at least its own node again, and with it those parents that no step reads any more, or else their bytes. What
    the tightest step's knapsack leaves out is the first plan; it is repaired greedily, improved by changing one gap or
    exchanging two, and at best effort by annealing and by kicks. The evaluator is exact and incremental.

    Examples
    --------
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> chain.peak_bytes
    61
    >>> plan = plan_remat(chain, budget=42)
    >>> plan.peak_bytes <= 42, plan.cost, plan.lower_bound, len(plan.recomputed)
    (True, 14, 14, 2)
    """  # fmt: skip
    _check(budget, effort, time_limit)
    search = _Search(problem, seed, time_limit)
    how = _EFFORTS[effort]
    if search.keep_peak <= budget:
        return search.plan(budget, search.keep_cost, effort)
    (bound,) = search.bounds([budget])
    if bound < 0 or not (search.first(budget) or search.anneal(budget, max(how.anneal, how.least), _WARM, 3)):
        # from nothing: which budget is the least must not depend on the one that was asked for
        anew = _Search(problem, seed, None if search.end is None else max(search.end - time.monotonic(), 1e-3))
        least, state = anew.least(how)
        if least > budget:
            _refuse(problem, budget, least, search.bounds.least_bytes, bound < 0)
        search.e.go(state)
    search.improve(budget, bound, how, progress)
    plan = search.plan(budget, bound, effort)
    if exact and not plan.optimal and not search.late:
        plan = _proven(plan, seed, 60.0 if search.end is None else search.end - time.monotonic(), progress)
    if progress is not None:
        progress(1.0, plan.status)
    return plan


def _proven(plan: RematPlan, seed: int, seconds: float, progress: Progress | None) -> RematPlan:
    """Return the plan as CP-SAT proves or improves it."""
    from cnnlive.plan.remat_exact import prove_remat  # noqa: PLC0415 - loaded where it is asked for

    plain = max(plan.problem.plain_cost, 1)

    def tell(cost: int, bound: int) -> None:
        if progress is not None:
            progress(0.99, f"proof, {100 * (cost / plain - 1):.2f} %, at least {100 * (bound / plain - 1):.2f} %")

    return prove_remat(plan, time_limit=seconds, seed=seed, progress=tell)


def remat_frontier(
    problem: RematProblem,
    *,
    points: int = 20,
    budgets: Sequence[int] | None = None,
    effort: Effort = "default",
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Frontier:
    """Plan for many budgets at once, from the least that a plan is found for to where nothing is recomputed.

    Parameters
    ----------
    problem : RematProblem
    points : int
        Number of budgets, evenly spaced; 2 or more.
    budgets : sequence of int, optional
        Budgets instead. Those below the least feasible one are left out.
    effort : {"default", "best"}
        About 0.1 s or 5 s for 20 points of a graph of 400 nodes.
    seed, time_limit, progress
        As for :func:`plan_remat`. When the time runs out, points get what the cheapest plan below them gives.

    Returns
    -------
    Frontier
        A larger budget never costs more.

    Raises
    ------
    BudgetError
        If `budgets` are given and no plan was found for any.
    RematError
        If an argument is outside what is allowed.

    Examples
    --------
    >>> chain = RematProblem.of(
    ...     cost=[1] * 12, nbytes=[10] * 6 + [1] * 6, loss=5, name="chain",
    ...     edges=[(i, i + 1) for i in range(11)] + [(i, 10 - i) for i in range(5)],
    ... )
    >>> frontier = remat_frontier(chain, points=4)
    >>> [(plan.peak_bytes, plan.cost) for plan in frontier.plans]
    [(21, 22), (32, 15), (41, 14), (61, 12)]
    """  # fmt: skip
    _check(0, effort, time_limit)
    check_points(points)
    for b in budgets or ():
        _check(b, effort, time_limit)
    return _frontier(problem, points, budgets, effort, seed, time_limit, progress)


def affordable(problem: RematProblem, budget: int, max_overhead: float, seed: int = 0) -> bool:
    """Say whether a plan of at most this overhead is found for a budget, with the search of one point of a frontier."""
    bound, plain = _bounds(problem)([budget])[0], problem.plain_cost
    if bound < 0 or (plain and bound / plain - 1 > max_overhead):
        return False
    try:
        return _frontier(problem, 1, [budget], "default", seed, enough=budget).plans[0].overhead <= max_overhead
    except BudgetError:
        return False


def _frontier(
    problem: RematProblem, points: int, budgets: Sequence[int] | None, effort: Effort, seed: int,
    time_limit: float | None = None, progress: Progress | None = None, enough: int = 0,
) -> Frontier:  # fmt: skip
    """Plan for many budgets; nobody asks for a least budget below `enough`."""
    search = _Search(problem, seed, time_limit)
    how, quick = _FRONTIER_EFFORTS[effort], _FRONTIER_EFFORTS["default"]
    search.quick = effort == "default"
    e = search.e
    if progress is not None:
        progress(0.0, "least budget")
    least, lowest = search.least(how, enough)
    asked = budgets_of(points, budgets, least, search.keep_peak)
    if not asked:
        _refuse(problem, max(budgets or (0,)), least, search.bounds.least_bytes, False)
    bound = search.bounds(asked)
    found: list[tuple[int, I64, int]] = [(e.cost, lowest, e.peak_bytes)] * len(asked)  # cost, states, peak

    def better(k: int) -> None:
        if e.cost < found[k][0]:
            found[k] = (e.cost, search.state, e.peak_bytes)

    state, near, search.quick, huge = search.keep, True, True, problem.n > _HUGE
    moves = 1_500 - 5 * problem.n  # small graphs leave time for them
    for k in reversed(range(len(asked))):
        if asked[k] >= search.keep_peak:
            found[k] = (search.keep_cost, search.keep, search.keep_peak)
            continue
        # the cheaper of the knapsack's plan, where that is near the budget, and that of the next larger one, repaired
        if near:
            near = search.start(asked[k], far=(search.keep_peak - asked[k]) // 8)
            if near:
                better(k)
        if huge:  # repairs take seconds each, and their plans are no better than those of blocks
            if asked[k] > least and search.blocks(asked[k], 0):
                search.descend(asked[k], _BLOCKS * search.keep_cost // max(e.cost, 1))
                better(k)
        elif e.go(state) and search.repair(asked[k], again=True):
            better(k)
        other = min((x for x in search.path if x[2] <= asked[k]), default=found[k], key=lambda x: x[0])
        for start in (found[k], other) if other[0] < found[k][0] else (found[k],):
            if found[k][0] > bound[k]:
                if e.cost != start[0] or e.peak_bytes != start[2]:
                    e.go(start[1])
                wide = start[0] - bound[k] > search.keep_cost // 20
                search.descend(asked[k], 3 * quick.descent if wide else quick.descent)
                better(k)
        if moves > 0 and found[k][0] - bound[k] > search.keep_cost // 100 and not search.late:
            e.go(found[k][1])
            if search.anneal(asked[k], moves, _MILD, 3):
                search.descend(asked[k], quick.descent)
                better(k)
        state = found[k][1]
    # Many values that only go together, as in a DenseNet, are beyond single changes: there begin with blocks.
    loose = [k for k in range(len(asked)) if found[k][0] - bound[k] > search.keep_cost // 60]
    if 2 * len(loose) >= len(asked) and not huge:
        for at in sorted({loose[len(loose) * q // 8] for q in (1, 4, 7)}, reverse=True):
            if not search.late and search.blocks(asked[at], 3 * quick.descent):
                better(at)
            for k in reversed(range(at)):
                if not e.go(found[k + 1][1]) or not search.repair(asked[k], again=True):
                    break
                search.descend(asked[k], quick.descent)
                better(k)
    search.quick = effort == "default"
    for done, k in enumerate(reversed(range(len(asked)))):
        if search.quick or found[k][0] <= bound[k] or search.late:
            continue
        if progress is not None:
            progress(done / len(asked), f"budget {done + 1} of {len(asked)}")
        if not huge and k + 1 < len(asked) and e.go(found[k + 1][1]) and search.repair(asked[k]):
            search.descend(asked[k], how.descent)
            better(k)
        e.go(found[k][1])
        search.improve(asked[k], bound[k], how)
        better(k)
    for k in range(1, len(asked)):
        if found[k - 1][0] <= found[k][0] or (not search.quick and found[k][0] > bound[k] and not search.late):
            e.go(found[k - 1][1])
            search.descend(asked[k], how.descent)
            better(k)
            found[k] = min(found[k], found[k - 1], key=lambda x: x[0])
    plans = [search.plan(b, low, effort, x) for b, low, x in zip(asked, bound, found, strict=True)]
    if progress is not None:
        progress(1.0, f"{len(plans)} plans")
    return Frontier(problem, tuple(plans), least, search.bounds.least_bytes, search.keep_peak)


def _check(budget: Any, effort: Any, time_limit: Any) -> None:
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or not 0 <= budget < _ANY:
        raise RematError(f"budget is {budget!r}; allowed: an integer of 0 or more, below 2**62")
    if effort not in _EFFORTS:
        raise RematError(f"effort is {effort!r}; allowed: {', '.join(_EFFORTS)}")
    if time_limit is not None and not time_limit > 0:
        raise RematError(f"time_limit is {time_limit!r}; allowed: seconds above 0, or None")


def _refuse(problem: RematProblem, budget: int, least: int, proven: int, never: bool) -> None:
    what = problem.name or "this problem"
    why = "no plan exists" if never else "no plan was found"
    raise BudgetError(
        f"{what}: {why} for a budget of {budget:,} bytes; the least budget that one was found for is {least:,}, and "
        f"below {proven:,} there is none",
        least,
    )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RematPlan(Result):
    """What to keep and what to recompute; made by :func:`plan_remat`.

    Attributes
    ----------
    problem : RematProblem
    budget : int
        Bytes that were allowed.
    states : (n_gaps,) int64
        For each value and each gap between two of its uses: 0 held, 1 dropped and held again once its node runs again,
        for it or for another output, 2 made again in each step that needs it, 3 held until recomputation reads it, then
        as 1, 4 made again where it is first needed and held from where it is needed next. See :attr:`gaps`.
    peak_bytes : int
        Most bytes alive at once, fixed ones included.
    cost : int
        Of the whole step with what is recomputed.
    lower_bound : int
        No schedule in this order that meets the budget costs less; where :func:`cnnlive.plan.remat_exact.prove_remat`
        has proven it, none that runs a node at most once before each step.
    status : {"optimal", "feasible"}
        ``"feasible"``: nothing proves the plan the cheapest.
    effort : str
    """

    problem: RematProblem
    budget: int
    states: I64
    peak_bytes: int
    cost: int
    lower_bound: int
    status: Literal["optimal", "feasible"]
    effort: str

    @property
    def overhead(self) -> float:
        """Cost of what is recomputed, as a share of the plain step."""
        return self.cost / self.problem.plain_cost - 1.0 if self.problem.plain_cost else 0.0

    @property
    def gap(self) -> float:
        """How much the plan may cost above the cheapest, as a share of the plain step."""
        return (self.cost - self.lower_bound) / self.problem.plain_cost if self.problem.plain_cost else 0.0

    @property
    def optimal(self) -> bool:
        """Whether no plan costs less."""
        return self.status == "optimal"

    @property
    def timeline(self) -> I64:
        """(n,) int64: most bytes alive in the step of each node, what is recomputed before it included."""
        return self._evaluated().timeline

    @property
    def gaps(self) -> list[tuple[int, int, int]]:
        """Value, the node that begins and the one that ends each gap, as `states` has them.

        The end is ``n`` for a value that outlives the step, and ``n + 1`` where no node reads it any more.
        """
        m = _model(self.problem)
        return list(zip(m.gap_value.tolist(), m.gap_begin.tolist(), m.gap_end.tolist(), strict=True))

    @property
    def recomputed(self) -> dict[str, int]:
        """How often each node runs again, by its name; nodes that do not are left out."""
        count: dict[int, int] = {}
        for kind, i in self.schedule:
            if kind == "run":
                count[i] = count.get(i, 0) + 1
        return {self.problem.names[i]: count[i] - 1 for i in sorted(count) if count[i] > 1}

    @property
    def node_states(self) -> tuple[str, ...]:
        """For each node ``"keep"``, ``"drop"`` (recomputed once) or ``"transient"`` (more often)."""
        again = self.recomputed
        return tuple(("keep", "drop", "transient")[min(again.get(x, 0), 2)] for x in self.problem.names)

    @property
    def schedule(self) -> list[tuple[str, int]]:
        """``("run", node)`` and ``("free", value)``, in order; :func:`cnnlive.verify_remat.check_remat` replays it."""
        e = self._evaluated()
        return _schedule(self.problem, e.model, e.work)

    def _evaluated(self) -> _Evaluator:
        e = _Evaluator(self.problem)
        e.reset(self.states)
        return e

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "name": self.problem.name, "budget": self.budget, "peak_bytes": self.peak_bytes, "cost": self.cost,
            "plain_cost": self.problem.plain_cost, "overhead": self.overhead, "lower_bound": self.lower_bound,
            "gap": self.gap, "status": self.status, "effort": self.effort, "states": self.states.tolist(),
            "recomputed": self.recomputed,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.problem.name or 'problem'}, recomputation within {format_bytes(self.budget)}\n"
            f"  peak      {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B\n"
            f"  overhead  {100 * self.overhead:>9.2f}%  {len(self.recomputed):>16,} nodes run again\n"
            f"  gap       {100 * self.gap:>9.2f}%  {self.status:>16}"
        )

    def __repr__(self) -> str:
        return f"<RematPlan {self.problem.name!r}: {self.peak_bytes:,} B, +{100 * self.overhead:.2f} %, {self.status}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Frontier(Result):
    """Plans by budget; made by :func:`remat_frontier`.

    Attributes
    ----------
    problem : RematProblem
    plans : tuple of RematPlan
        Budgets ascend and costs never do.
    least_bytes : int
        Least budget that a plan was found for.
    least_bound : int
        Below this budget there is proven to be no plan.
    keep_bytes : int
        Peak where nothing is recomputed.
    """

    problem: RematProblem
    plans: tuple[RematPlan, ...]
    least_bytes: int
    least_bound: int
    keep_bytes: int

    @property
    def knee(self) -> RematPlan:
        """The plan farthest below the line from the first to the last, both axes scaled to 1."""
        return self.plans[knee_of([p.budget for p in self.plans], [p.cost for p in self.plans])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "name": self.problem.name, "least_bytes": self.least_bytes, "least_bound": self.least_bound,
            "keep_bytes": self.keep_bytes, "knee": self.plans.index(self.knee),
            "plans": [p.to_dict() for p in self.plans],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.problem.name or 'problem'}, recomputation by budget", "      budget    overhead      gap"]
        for p in self.plans:
            knee = "  knee" if p is self.knee else ""
            lines.append(f"  {format_bytes(p.budget):>10}  {100 * p.overhead:>9.2f}%  {100 * p.gap:>6.2f}%{knee}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<Frontier {self.problem.name!r}: {len(self.plans)} plans, {self.least_bytes:,} to {self.keep_bytes:,} B>"
        )


def _schedule(problem: RematProblem, m: _Model, work: Mapping[str, I64]) -> list[tuple[str, int]]:
    """Write out what an evaluated schedule does."""
    n = m.n
    closure, pool, hold, state = (work[x].tolist() for x in ("closure", "pool", "hold", "state"))
    in_ptr, in_idx, out_ptr, takes = m.in_ptr.tolist(), m.in_idx.tolist(), m.out_ptr.tolist(), m.takes.tolist()
    gap_ptr, ends = m.gap_ptr.tolist(), m.gap_end.tolist()
    root = m.root.tolist()
    found: list[tuple[str, int]] = []

    def held(v: int, p: int) -> bool:
        """Whether a value is held after step `p`."""
        g = gap_ptr[v]
        while ends[g] <= p:
            g += 1
        return any(a <= p < b for a, b in (hold[g], hold[g + len(ends)]))

    inside: set[int] = set()  # values held when the step begins
    for p in range(n):
        nodes = [*pool[closure[p][0] : closure[p][0] + closure[p][1]], p]
        last = {v: i for i, c in enumerate(nodes) for v in in_idx[in_ptr[c] : in_ptr[c + 1]]}
        there = set(inside)
        for i, c in enumerate(nodes):
            again = set(m.views_of[c]) if c != p else set()
            if c == p:
                for v in in_idx[in_ptr[p] : in_ptr[p + 1]]:
                    g = next(g for g in range(gap_ptr[v], gap_ptr[v + 1]) if ends[g] == p)
                    if state[g]:
                        again.update(m.gap_views[g])
            found += [("run", w) for w in sorted(again)]
            found.append(("run", c))
            for v in range(out_ptr[c], out_ptr[c + 1]):
                if takes[v] >= 0:
                    there.discard(takes[v])
                if root[v] != v:
                    continue
                if v not in there:
                    there.add(v)
                    if not held(v, p) and last.get(v, -1) <= i:
                        there.discard(v)
                        found.append(("free", v))
            for v in in_idx[in_ptr[c] : in_ptr[c + 1]]:
                if last[v] == i and v in there and not held(v, p):
                    there.discard(v)
                    found.append(("free", v))
        inside = there
    return found
