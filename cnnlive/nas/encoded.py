"""Search spaces whose candidates a compiled encoder writes straight into flat arrays, without a graph object each.

For spaces that no chain of slots describes: cells that are arbitrary graphs. A space of at most a few million members
remembers what it has evaluated, so its members can also be counted, sampled and searched under a limit, exactly.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._kernels.encoders import fuse
from cnnlive._types import I32, I64, frozen
from cnnlive.errors import CnnliveError, OrderError, SpaceError, close_names
from cnnlive.graph import Graph
from cnnlive.nas._chunks import run_chunks
from cnnlive.nas.base import METRICS, Gene, Metric, SearchSpace, Setting, read_metrics, read_setting
from cnnlive.nas.results import Best, Evaluation, Front
from cnnlive.plan.inference import plain_rules

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cnnlive.nas.palette import Palette
    from cnnlive.plan.optimizers import Optimizer

__all__ = ["EncodedSpace", "Encoder", "Nodes"]

#: Spaces of more members are not gone through one by one.
MOST_MEMBERS: Final = 1 << 22
# Nodes that are encoded and evaluated at a time: they stay in a core's caches.
_NODES: Final = 1 << 16
# Metrics of training, which knows no fusion.
_TRAINING: Final = ("saved", "training_peak")
# Sums over ops, and peaks over what is alive; rows from which on it pays to know that.
SUMS: Final = ("params", "macs", "weight_bytes")
PEAKS: Final = ("inference_peak", "minimum_peak")
_FEW: Final = 2048
# Spaces that are evaluated whole as soon as single candidates are asked for.
_WHOLE: Final = 1 << 16
# Values that a space remembers: 256 MiB of them.
_REMEMBERED: Final = 1 << 25

_GRAPH: Final = re.compile(r"(?:graph (\d+)[:,] )?(.*)", re.DOTALL)

Row = Callable[[Any], tuple[int, ...]]
_Part = Callable[[Sequence[str]], dict[str, I64]]


class Nodes(NamedTuple):
    """Many graphs as flat arrays; each op has one output, the last of a graph is the network's.

    Attributes
    ----------
    graph_ptr : (n_graphs + 1,) int64
        Nodes of each graph, in program order.
    kind : (n_nodes,) int32
        Kind in the palette.
    in_ptr, in_idx : (n_nodes + 1,) int64, (n_edges,) int32
        CSR list of the nodes that each reads, numbered within the graph.
    free : (n_nodes, 2) int32
        Values of ``FREE[0]`` and ``FREE[1]``.
    until : (n_nodes,) int32
        Node of the graph through which eager Python's frames hold the output; smaller: through its last reader.
    """

    graph_ptr: I64
    kind: I32
    in_ptr: I64
    in_idx: I32
    free: I32
    until: I32


def _room(graphs: int, nodes: int, edges: int) -> Nodes:
    """Allocate arrays that hold at most so much."""
    return Nodes(
        np.empty(graphs + 1, np.int64), np.empty(nodes, np.int32), np.empty(nodes + 1, np.int64),
        np.empty(edges, np.int32), np.empty((nodes, 2), np.int32), np.empty(nodes, np.int32),
    )  # fmt: skip


def _filled(room: Nodes, n: int) -> Nodes:
    """Return the parts of arrays that n graphs fill, read-only."""
    last = int(room.graph_ptr[n])
    parts = Nodes(room.graph_ptr[: n + 1], room.kind[:last], room.in_ptr[: last + 1],
                  room.in_idx[: int(room.in_ptr[last])], room.free[:last], room.until[:last])  # fmt: skip
    for part in parts:
        part.setflags(write=False)
    return parts


@dataclass(frozen=True, eq=False)
class Encoder:
    """A kernel that writes the graphs of packed genotypes one after the other, and how much room they need.

    Attributes
    ----------
    kernel : callable
        ``kernel(rows, *constants, scratch, graph_ptr, kind, in_ptr, in_idx, free, until)``, see
        :mod:`cnnlive._kernels.encoders`; of a module's top level, so that it can be pickled.
    constants : tuple of arrays
        Read-only.
    nodes, edges : int
        The most that one graph has.
    width : int
        Columns of the (8, width) scratch.
    """

    kernel: Callable[..., None]
    constants: tuple[NDArray[Any], ...]
    nodes: int
    edges: int
    width: int = 8

    def __post_init__(self) -> None:
        """Make the constants read-only, also those of a pickled copy: a kernel is compiled for one kind of each."""
        for array in self.constants:
            array.setflags(write=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoder, (self.kernel, self.constants, self.nodes, self.edges, self.width)

    def room(self, n: int) -> tuple[I64, Nodes]:
        """Allocate scratch and arrays for n graphs."""
        return np.empty((8, max(self.width, 8)), np.int64), _room(n, n * self.nodes, n * self.edges)

    def fill(self, rows: I64, scratch: I64, room: Nodes) -> Nodes:
        """Encode into arrays that are long enough; return those parts of them that were filled, read-only."""
        self.kernel(frozen(np.ascontiguousarray(rows, np.int64)), *self.constants, scratch, *room)
        return _filled(room, len(rows))

    def __call__(self, rows: I64) -> Nodes:
        """Encode packed genotypes."""
        return self.fill(rows, *self.room(len(rows)))


def number_kinds(palette: Palette, kinds: Sequence[tuple[str, Mapping[str, Any]]]) -> I64:
    """Add kinds to a palette; return their numbers as a kernel reads them."""
    return frozen(np.array([palette.add(op, **attributes) for op, attributes in kinds], np.int64))


class EncodedSpace(SearchSpace):
    """A search space with an encoder.

    Parameters
    ----------
    name : str
    genes : sequence of Gene
    palette : Palette
        The kinds of ops that the encoder numbers.
    encoder : Encoder
        Writes the graphs of canonical genotypes, one per row.
    build : callable
        ``build(row)`` returns the Graph of one canonical genotype, a tuple of integers: the same ops in the same order
        as the encoder's. A function of a module's top level, or a ``functools.partial`` of one.

    Notes
    -----
    Every combination of genes is a member, unless a subclass says otherwise. Two rows are the same net iff their
    canonical genotypes are equal; different ones may still compute the same function.
    """

    def __init__(
        self,
        name: str,
        genes: Sequence[Gene],
        palette: Palette,
        encoder: Encoder,
        build: Callable[[tuple[int, ...]], Graph],
    ) -> None:
        super().__init__(name, tuple(genes))
        self.palette = palette
        self.encoder = encoder
        self._biased = with_bias(palette)
        self.build = build
        self._tops = tuple(gene.cardinality for gene in self.genes)
        self._known: dict[tuple[Setting, str, Optimizer | None], I64] = {}
        self._listed: I64 | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known": {}, "_listed": None}

    # ------------------------------------------------------------------------------ what a subclass may replace

    def pack(self, X: ArrayLike) -> I64:  # noqa: N803 - a matrix of genotypes, as everywhere in the field
        """Return genotypes as the encoder reads them, (n, ...) int64; checked and canonical."""
        return self.canonical(X)

    def unpack(self, packed: I64) -> I64:
        """Return the genotypes of packed ones."""
        return packed

    def n_members(self) -> int:
        """Count the members."""
        return math.prod(gene.cardinality for gene in self.genes)

    def _list(self) -> I64:
        """Return every member, packed, in ascending order."""
        return np.concatenate(list(super().members()))

    def _positions(self, packed: I64) -> I64:
        """Return where packed genotypes stand in the list of members, -1 for what is not a member."""
        found = np.zeros(len(packed), np.int64)
        for column, gene in enumerate(self.genes):
            found = found * gene.cardinality + packed[:, column]
        return found

    def _compute(
        self, packed: I64, metrics: Sequence[str], options: Mapping[str, Any], threads: int | None,
        executor: Executor | None,
    ) -> dict[str, I64]:  # fmt: skip
        """Evaluate packed genotypes; nothing is looked up or remembered."""
        return self.run(self.encoder, packed, metrics, options, threads, executor)

    def _divide(
        self, packed: I64, metrics: Sequence[str], options: Mapping[str, Any], threads: int | None,
        executor: Executor | None, sums: _Part, peaks: _Part,
    ) -> dict[str, I64]:  # fmt: skip
        """Evaluate a benchmark's cells: counts by `sums`, activation peaks by `peaks`, the rest net by net.

        Both go through fewer nets than there are rows; few rows are evaluated as they are.
        """
        if len(packed) < _FEW:
            return EncodedSpace._compute(self, packed, metrics, options, threads, executor)
        total = "inference_total" in metrics
        count = [m for m in SUMS if m in metrics or (total and m == "weight_bytes")]
        peak = [m for m in PEAKS if m in metrics or (total and m == "inference_peak")]
        found = sums(count) if count else {}
        found |= peaks(peak) if peak else {}
        if total:
            found["inference_total"] = found["weight_bytes"] + found["inference_peak"]
        rest = [m for m in metrics if m not in found]
        if rest:
            found |= EncodedSpace._compute(self, packed, rest, options, threads, executor)
        return {m: found[m] for m in metrics}

    # ------------------------------------------------------------------------------ evaluation

    def run(
        self, encoder: Encoder, packed: I64, metrics: Sequence[str], options: Mapping[str, Any],
        threads: int | None, executor: Executor | None,
    ) -> dict[str, I64]:  # fmt: skip
        """Encode packed genotypes and evaluate the graphs, in chunks on threads or through an executor."""

        def task(begin: int, end: int) -> tuple[Callable[..., list[I64]], tuple[Any, ...]]:
            return _evaluate, (self, encoder, packed[begin:end], tuple(metrics), dict(options))

        parts = run_chunks(len(packed), task, threads=threads, executor=executor, unit=encoder.nodes)
        if not parts:
            return {label: np.empty(0, np.int64) for label in metrics}
        return {label: np.concatenate([part[i] for part in parts]) for i, label in enumerate(metrics)}

    def evaluate(
        self,
        X: ArrayLike,  # noqa: N803
        metrics: str | Sequence[str] = ("params", "macs", "inference_peak"),
        *,
        optimizer: str | Optimizer = "adam",
        threads: int | None = None,
        executor: Executor | None = None,
        optimizer_options: Mapping[str, Any] | None = None,
        **setting: Any,
    ) -> Evaluation:
        """Evaluate many candidates.

        Parameters
        ----------
        X : (n, n_genes) integers
        metrics : str or sequence of str
            See :data:`cnnlive.nas.METRICS`.
        optimizer, optimizer_options
            Of training peaks that name no optimizer; options hold for all.
        threads : int, optional
            Default: every core that this process may use.
        executor : concurrent.futures.Executor, optional
            Takes the chunks instead of threads.
        **setting
            As in :func:`cnnlive.nas.base.read_setting`.

        Returns
        -------
        Evaluation
            A dict of a column per metric, (n,) int64, equal to what the planners give for `graph` of each row.

        Raises
        ------
        SpaceError
            Names the first row that is no genotype of the space.

        Notes
        -----
        A space of at most 2**22 members remembers the values of members; those are looked up the next time.
        """
        options = dict(optimizer_options or {})
        asked = read_metrics(metrics, optimizer, setting.get("device", "cuda"), **options)
        rules = read_setting(**setting)
        if rules.profile.frames and any(m.name == "minimum_peak" for m in asked):
            raise OrderError(f"minimum_peak: the Python frames of profile {rules.profile.name!r} are those of the "
                             "program's order; allowed: a profile without frames")  # fmt: skip
        packed = self.pack(X)
        more = {"optimizer": optimizer, "optimizer_options": options, **setting}
        if not asked or not len(packed):
            return Evaluation({metric.label: np.zeros(len(packed), np.int64) for metric in asked})
        if self.n_members() > MOST_MEMBERS:
            return Evaluation(self._compute(packed, [m.label for m in asked], more, threads, executor))
        place = self._positions(packed)
        found = {m.label: np.where(place >= 0, self._column(rules, m)[place], -1) for m in asked}
        lacking = [label for label, column in found.items() if (column < 0).any()]
        if lacking:
            rows = np.flatnonzero(np.logical_or.reduce([found[label] < 0 for label in lacking]))
            new = self._compute(packed[rows], lacking, more, threads, executor)
            member = place[rows] >= 0
            for metric in asked:
                if metric.label in new:
                    found[metric.label][rows] = new[metric.label]
                    self._column(rules, metric)[place[rows[member]]] = new[metric.label][member]
        return Evaluation(found)

    def _column(self, rules: Setting, metric: Metric) -> I64:
        """Return what is remembered of a metric, by the number of the member; -1 is not known."""
        key = (rules, metric.name, metric.optimizer)
        column = self._known.get(key)
        if column is None:
            if len(self._known) * self.n_members() >= _REMEMBERED:
                self._known.clear()
            column = self._known.setdefault(key, np.full(self.n_members(), -1, np.int64))
        return column

    def evaluator(self, metrics: str | Sequence[str], **options: Any) -> Row:
        """Return a function from one genotype to its metrics, in their order; `options` as of :meth:`evaluate`.

        Notes
        -----
        What is remembered is looked up. A space of at most 2**16 members is evaluated whole at the first call.
        """
        labels = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        columns: list[I64] = []
        if self.n_members() <= MOST_MEMBERS:
            extra = {k: v for k, v in options.items() if k not in ("optimizer", "optimizer_options")}
            asked = read_metrics(labels, options.get("optimizer", "adam"), extra.get("device", "cuda"),
                                 **(options.get("optimizer_options") or {}))  # fmt: skip
            columns = [self._column(read_setting(**extra), metric) for metric in asked]

        def run(x: Any) -> tuple[int, ...]:
            place = self._place(x) if columns else -1
            if place >= 0:
                found = tuple([int(column[place]) for column in columns])
                if min(found, default=0) >= 0:
                    return found
                if self.n_members() <= _WHOLE:
                    self.evaluate(self.unpack(self._members("evaluate")), labels, **options)
            rows = self.evaluate(np.asarray(self.row(x)), labels, threads=1, **options)
            return tuple([int(rows[label][0]) for label in labels])

        return run

    def _place(self, x: Any) -> int:
        """Return where one genotype stands in the list of members, -1 if it does not or is none."""
        row = x.tolist() if isinstance(x, np.ndarray) else x
        place = 0
        try:
            for value, top in zip(row, self._tops, strict=True):
                v = operator.index(value)
                if not 0 <= v < top:
                    return -1
                place = place * top + v
        except (TypeError, ValueError):
            return -1
        return place

    def forget(self) -> None:
        """Drop the remembered values."""
        self._known.clear()

    def graph(self, x: ArrayLike) -> Graph:
        """Build the whole network of one candidate, with names and module paths.

        Raises
        ------
        SpaceError
            If `x` is not one genotype of the space.
        """
        self.row(x)
        return self.build(tuple(self.canonical(x)[0].tolist()))

    def nodes(self, X: ArrayLike) -> Nodes:  # noqa: N803
        """Return the graphs of candidates as flat arrays of the space's palette."""
        return self.encoder(self.pack(X))

    # ------------------------------------------------------------------------------ members

    def _members(self, what: str) -> I64:
        if self._listed is None:
            total = self.n_members()
            if total > MOST_MEMBERS:
                raise SpaceError(f"space {self.name!r} cannot be enumerated: {_amount(total)} members, which {what} "
                                 f"would have to go through; allowed: at most {MOST_MEMBERS:,}")  # fmt: skip
            self._listed = frozen(np.ascontiguousarray(self._list()))
        return self._listed

    def members(self, chunk: int = 65536) -> Iterator[I64]:
        """Yield every member, in chunks of rows in ascending order.

        Raises
        ------
        SpaceError
            If there are more than 2**22.
        """
        listed = self._members("members()")
        for start in range(0, len(listed), chunk):
            yield self.unpack(listed[start : start + chunk])

    def _fitting(self, limit: Any, what: str) -> I64:
        """Return the positions of the members that fit."""
        listed = self._members(what)
        if limit is None:
            return np.arange(len(listed))
        if not callable(getattr(limit, "mask", None)):
            raise SpaceError(f"limit={limit!r}; allowed: a cnnlive.nas.Limit, or another object with mask(X)")
        other = getattr(limit, "space", self)
        if other is not self:
            raise SpaceError(f"the limit is of another space, {other!r}")
        masks = [np.asarray(limit.mask(rows), bool) for rows in self.members(1 << 19)]
        return np.flatnonzero(np.concatenate(masks))

    def count(self, limit: Any = None) -> int:
        """Count the members that fit a limit, or all; an exact integer.

        Raises
        ------
        SpaceError
            With a limit, if there are more than 2**22 members.
        """
        return self.n_members() if limit is None else len(self._fitting(limit, "count"))

    def sample(self, n: int, limit: Any = None, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n members uniformly and independently from those that fit.

        Raises
        ------
        SpaceError
            If none fits; with a limit, if there are more than 2**22 members.
        """
        rng = np.random.default_rng(rng)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise SpaceError(f"n={n!r} members to draw; allowed: an integer >= 0")
        if limit is None and self.n_members() > MOST_MEMBERS:
            return rng.integers(0, self.cardinalities, (int(n), self.n_genes), dtype=np.int64)
        fitting = self._fitting(limit, "sample")
        if n and not len(fitting):
            raise SpaceError(f"no member of space {self.name!r} fits {limit!r}")
        chosen = fitting[rng.integers(0, max(len(fitting), 1), int(n))]
        return self.unpack(self._members("sample")[chosen])

    def best(self, objective: str | Mapping[str, Sequence[float]] = "macs", limit: Any = None) -> Best:
        """Find the member with the largest score that fits a limit, with proof: by going through all.

        Parameters
        ----------
        objective : str or mapping of str to sequence of numbers
            A metric (of a batch of 1), or gene -> a score for each of its values; scores add up, genes left out count
            nothing. To be maximised.
        limit : cnnlive.nas.Limit, optional

        Returns
        -------
        Best
            Genotype, score, and the metrics that `limit` bounds; of equal scores the first in ascending order. ``x`` is
            None if no member fits.

        Raises
        ------
        SpaceError
            For an objective that does not exist, and if there are more than 2**22 members.
        """
        fitting = self._fitting(limit, "best")
        packed = self._members("best")[fitting]
        scores = self._scores(objective, packed)
        if not len(fitting):
            return self._best(None, None, {}, "infeasible", limit)
        first = int(np.argmax(scores))
        row = self.unpack(packed[first : first + 1])
        metrics: dict[str, int] = {}
        if callable(getattr(limit, "values", None)):
            metrics = {label: int(column[0]) for label, column in limit.values(row).items()}
        score = scores[first].item()
        return self._best(row[0], score, metrics, "optimal", limit)

    def _best(self, x: I64 | None, score: Any, metrics: dict[str, int], status: str, limit: Any) -> Best:
        budgets = getattr(limit, "budgets", {})
        return Best(x, score, metrics, status, score, self.name, tuple(self.genes), dict(budgets))

    def pareto(
        self,
        objective: str | Mapping[str, Sequence[float]] = "macs",
        metric: str = "inference_peak",
        limit: Any = None,
        **setting: Any,
    ) -> Front:
        """Find every trade-off between the largest score and the smallest metric: the exact Pareto front.

        Parameters
        ----------
        objective
            As for :meth:`best`.
        metric : str
            To be minimised.
        limit : cnnlive.nas.Limit, optional
        **setting
            Of the metric, as for :meth:`evaluate`.

        Returns
        -------
        Front
            Members by rising metric and score; one member per point, the first in ascending order.

        Raises
        ------
        SpaceError
            As :meth:`best`.
        """
        x, columns = self.front((metric,), limit, objective=objective, **setting)
        scores = columns["score"].tolist()
        found = [
            self._best(row, score, {metric: value}, "optimal", limit)
            for row, score, value in zip(x, scores, columns[metric].tolist(), strict=True)
        ]
        return Front(self.name, metric, tuple(self.genes), tuple(found))

    def front(
        self,
        metrics: str | Sequence[str],
        limit: Any = None,
        *,
        objective: str | Mapping[str, Sequence[float]] | None = None,
        **setting: Any,
    ) -> tuple[I64, Evaluation]:
        """Return the members that fit and that no other that fits is better than, in any number of metrics.

        Parameters
        ----------
        metrics : str or sequence of str
            Amounts to be small.
        limit : cnnlive.nas.Limit, optional
        objective : str or mapping, optional
            A score to be large, as for :meth:`best`; its column is called ``score``.
        **setting
            Of the metrics, as for :meth:`evaluate`.

        Returns
        -------
        X, columns
            (n, n_genes) int64 in ascending order of the metrics, and their values. Of members with equal values the
            first one stands for all.

        Raises
        ------
        SpaceError
            As :meth:`best`.
        """
        fitting = self._fitting(limit, "front")
        packed = self._members("front")[fitting]
        columns: dict[str, NDArray[Any]] = dict(self.evaluate(self.unpack(packed), metrics, **setting))
        signed = list(columns.values())
        if objective is not None:
            columns["score"] = self._scores(objective, packed)
            signed.append(-columns["score"])
        front = non_dominated(np.stack(signed, axis=1))
        return self.unpack(packed[front]), Evaluation({label: column[front] for label, column in columns.items()})

    def _scores(self, objective: str | Mapping[str, Sequence[float]], packed: I64) -> NDArray[Any]:
        rows = self.unpack(packed)
        if isinstance(objective, str):
            if objective.partition(":")[0] not in METRICS:
                raise SpaceError(f"unknown metric {objective!r} as objective{close_names(objective, METRICS)}; "
                                 f"allowed: {', '.join(METRICS)}, or scores by gene")  # fmt: skip
            return self.evaluate(rows, objective)[objective]
        if not isinstance(objective, Mapping):
            raise SpaceError(f"objective={objective!r}; allowed: a metric, or a mapping of gene to scores")
        total: NDArray[Any] = np.zeros(len(rows), np.int64)
        for name, scores in objective.items():
            if name not in self._position:
                raise SpaceError(f"space {self.name!r} has no gene {name!r}{close_names(name, self._position)}")
            column = self._position[name]
            table = np.asarray(scores)
            if table.shape != (self.genes[column].cardinality,) or table.dtype.kind not in "iuf":
                raise SpaceError(f"the scores of gene {name!r} are {scores!r}; allowed: a number for each of its "
                                 f"{self.genes[column].cardinality} values")  # fmt: skip
            total = total + table[rows[:, column]]
        return total


def non_dominated(values: NDArray[Any]) -> I64:
    """Return the rows that no other row is better than, where small is better; one row of equal ones, sorted.

    Parameters
    ----------
    values : (n, k)

    Notes
    -----
    O(n log n + m f k), for m different rows and f of them returned.
    """
    distinct, first = np.unique(values, axis=0, return_index=True)
    found = []
    if values.shape[1] == 2:
        best = np.minimum.accumulate(distinct[:, 1])
        found = [0, *(1 + np.flatnonzero(distinct[1:, 1] < best[:-1])).tolist()][: len(distinct)]
    rest = np.arange(len(distinct) if values.shape[1] != 2 else 0)
    while len(rest):
        # In lexicographic order nothing later dominates the first.
        found.append(int(rest[0]))
        rest = rest[(distinct[rest] < distinct[rest[0]]).any(axis=1)]
    chosen: I64 = first[np.array(found, np.int64)]
    return chosen


def _amount(total: int) -> str:
    return f"{total:,}" if total < 10**15 else f"about 10**{math.floor(math.log10(total))}"


def _evaluate(
    space: EncodedSpace, encoder: Encoder, packed: I64, metrics: tuple[str, ...], options: dict[str, Any]
) -> list[I64]:
    """Encode and evaluate a chunk, as many graphs at a time as stay in a core's caches."""
    from cnnlive.nas.batch import Batch, evaluate_batch  # noqa: PLC0415 - compiles what spaces alone do not need

    step = max(1, min(_NODES // encoder.nodes, len(packed)))
    scratch, room = encoder.room(step)
    found = [np.empty(len(packed), np.int64) for _ in metrics]
    rules = plain_rules(options.get("profile", "ideal"), options.get("fuse"), options.get("inplace"))
    trained = [m for m in metrics if m.partition(":")[0] in _TRAINING]
    others = [m for m in metrics if m not in trained]
    # Fusion is of inference alone, and done here: the batch is told of a runtime that does not fuse.
    questions = [(others, True), (trained, False)] if rules.fuse else [(list(metrics), False)]
    plain = {"profile": replace(rules, fuse=False), "fuse": None, "inplace": None}
    for start in range(0, len(packed), step):
        rows = packed[start : start + step]
        nodes = encoder.fill(rows, scratch, room)
        columns: dict[str, I64] = {}
        try:
            for labels, fusing in questions:
                graphs = _fused(space.palette, space._biased, nodes) if fusing else nodes
                batch = Batch.from_nodes(space.palette, *graphs, check=False)
                try:
                    columns |= evaluate_batch(batch, metrics=labels, threads=1, **options | plain) if labels else {}
                except SpaceError:
                    if not trained:
                        raise
                    # What flat nodes are not trained with: one graph at a time then.
                    nets = [space.build(tuple(row)) for row in space.unpack(rows).tolist()]
                    columns |= evaluate_batch(nets, metrics=labels, threads=1, **options | plain)
        except CnnliveError as error:
            number, words = _GRAPH.match(str(error)).groups()  # type: ignore[union-attr]
            row = space.unpack(rows[int(number) : int(number) + 1])[0].tolist() if number else ""
            raise type(error)(f"genotype {row}: {words}" if number else words) from error
        for column, label in zip(found, metrics, strict=True):
            column[start : start + step] = columns[label]
    return found


def _fused(palette: Palette, biased: I64, nodes: Nodes) -> Nodes:
    """Return the graphs in which convolution, normalisation and activation are one op."""
    largest = int(np.diff(nodes.graph_ptr).max(initial=0))
    biased = frozen(biased)  # a pickled copy can be written to
    n = len(nodes.graph_ptr) - 1
    room = _room(n, len(nodes.kind), len(nodes.in_idx))
    fuse(*nodes, palette.kinds.fold, biased, np.empty((5, largest), np.int64), *room)
    return _filled(room, n)


def with_bias(palette: Palette) -> I64:
    """Add, for each kind that a normalisation may be folded into, one with a bias; return which that is, by kind."""
    kinds = palette.kinds
    found = np.arange(2 * kinds.n_kinds, dtype=np.int64)
    for k in range(kinds.n_kinds):
        if kinds.fold[k] == 1 and not kinds.bias[k]:
            what = palette._kinds[k]
            found[k] = palette.add(what.op, **dict(what.attributes) | {"bias": True})
    return frozen(found)
