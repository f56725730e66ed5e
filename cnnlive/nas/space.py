"""Search spaces as a chain of slots: builder functions that genes choose, compiled into a trellis of summaries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import I64, frozen
from cnnlive.errors import SpaceError, close_names
from cnnlive.graph import Graph, Tensor
from cnnlive.nas._chunks import run_chunks
from cnnlive.nas.base import Metric, SearchSpace, Setting, read_metrics, read_setting
from cnnlive.nas.fragment import Fragment, build_option
from cnnlive.nas.results import Best, Evaluation, Front
from cnnlive.nas.search import Search, Walk, check_limit
from cnnlive.nas.trellis import Trellis, compile_trellis

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cnnlive.plan.optimizers import Optimizer

__all__ = ["Slot", "Space"]


@dataclass(frozen=True)
class Slot:
    """One place in a skeleton, filled by an option that genes choose.

    Attributes
    ----------
    name : str
        Module path of the ops that are put here, without a dot; in eager PyTorch a slot is the call of one module.
    build : callable
        ``build(g, *tensors, **values)``: adds the ops of an option to a Graph and returns the tensor or tensors that
        the next slot is given. `tensors` is what the slot before returned; the first slot is given none, adds the
        network's input, and the last one returns the network's outputs. Ordinary builder code: what it does depends
        on its arguments alone. A ``functools.partial`` carries what is fixed.
    genes : mapping of str to str
        Keyword of `build` -> name of the gene whose value it is given. A gene may serve several slots.
    when : mapping of str to tuple
        Gene -> its values at which the slot is there (all of several genes have to agree); otherwise it hands on what
        it is given. For depth genes.

    Examples
    --------
    >>> Slot("block2", lambda g, x, kernel: g.conv2d(x, 8, kernel, padding="same"), {"kernel": "k2"}, {"depth": (2, 3)})
    Slot(name='block2', genes={'kernel': 'k2'}, when={'depth': (2, 3)})
    """

    name: str
    build: Callable[..., Tensor | Sequence[Tensor]] = field(repr=False)
    genes: Mapping[str, str] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


class Space(SearchSpace):
    """A search space: slots in a row, filled by options that genes choose.

    Parameters
    ----------
    name : str
    genes : sequence of Gene
    slots : sequence of Slot
        What is built, in this order.

    Raises
    ------
    SpaceError
        For slots of the same name, and genes that no slot reads or nobody has named.
    """

    def __init__(self, name: str, genes: Sequence[Any], slots: Sequence[Slot]) -> None:
        super().__init__(name, tuple(genes))
        self.slots = tuple(slots)
        self._read_slots()
        self._start()

    def _start(self) -> None:
        self.fragments: dict[Any, Fragment] = {}
        self._trellises: dict[Any, Trellis] = {}
        self._searches: dict[Any, Search] = {}
        self._lock = threading.RLock()

    def _read_slots(self) -> None:
        if not self.slots:
            raise SpaceError(f"space {self.name!r} has no slots")
        names = [slot.name for slot in self.slots]
        for slot in self.slots:
            if not slot.name or "." in slot.name or names.count(slot.name) > 1:
                raise SpaceError(
                    f"space {self.name!r}: slots need names of their own, without a dot, not {slot.name!r}"
                )
            for gene in (*slot.genes.values(), *slot.when):
                if gene not in self._position:
                    raise SpaceError(f"slot {slot.name!r} reads gene {gene!r}, which space {self.name!r} does not have")
            for gene, values in slot.when.items():
                known = self.genes[self._position[gene]].values
                for value in values:
                    if value not in known:
                        raise SpaceError(f"slot {slot.name!r} is there when {gene!r} is {value!r}, and that gene has "
                                         f"no such value; allowed: {known}")  # fmt: skip
        read = {gene for slot in self.slots for gene in (*slot.genes.values(), *slot.when)}
        for gene in self._position:
            if gene not in read:
                raise SpaceError(f"no slot of space {self.name!r} reads gene {gene!r}")

    def is_on(self, slot: Slot, x: Sequence[int]) -> bool:
        """Whether a slot is there in a candidate."""
        return all(
            self.genes[self._position[g]].values[x[self._position[g]]] in values for g, values in slot.when.items()
        )

    def graph(self, x: ArrayLike) -> Graph:
        """Build the whole network of one candidate.

        Raises
        ------
        SpaceError
            If an option cannot be built for the shapes it is given; names the slot, the option and the shapes.
        """
        row = self.row(x)
        g = Graph(self.name)
        tensors: tuple[Tensor, ...] = ()
        for slot in self.slots:
            if self.is_on(slot, row):
                values = {k: self.genes[self._position[n]].values[row[self._position[n]]]
                          for k, n in slot.genes.items()}  # fmt: skip
                with g.scope(slot.name):
                    tensors = build_option(g, slot, tensors, values)
        g.output(*tensors)
        return g

    def canonical(self, X: ArrayLike) -> I64:  # noqa: N803
        """Return genotypes with 0 at genes that no slot reads because it is switched off.

        A gene is active if a slot that is there reads it, or if it decides whether a slot is there.
        """
        x = self.check(X).astype(np.int64)
        active = np.zeros(x.shape, bool)
        for slot in self.slots:
            on = np.ones(len(x), bool)
            for gene, values in slot.when.items():
                column = self._position[gene]
                active[:, column] = True
                known = self.genes[column].values
                on &= np.isin(x[:, column], [known.index(v) for v in values])
            for gene in slot.genes.values():
                active[:, self._position[gene]] |= on
        return np.where(active, x, 0)

    def columns_of(self, slot: Slot) -> tuple[int, ...]:
        """Columns of a genotype that decide what a slot holds."""
        return tuple(dict.fromkeys(self._position[g] for g in (*slot.when, *slot.genes.values())))

    def column_of(self, gene: str) -> int:
        """Column of a gene in a genotype.

        Raises
        ------
        SpaceError
            If there is no such gene.
        """
        if gene not in self._position:
            raise SpaceError(f"space {self.name!r} has no gene {gene!r}{close_names(gene, self._position)}")
        return self._position[gene]

    def answer(self, x: I64, metric: Metric, setting: Setting) -> I64:
        """Evaluate one metric under a setting that has been read."""
        with self._lock:
            found = self._compiled((metric,), setting)
        numbers = found.tables.numbers(np.ascontiguousarray(x, np.int16))
        assert numbers is not None
        return found.question.answer(numbers)[found.question.metrics[0].label]

    def _compiled(self, wanted: tuple[Metric, ...], asked: Setting, progress: bool | None = None) -> Trellis:
        key = (frozenset((m.name, m.optimizer) for m in wanted), asked)
        found = self._trellises.get(key)
        if found is None:
            found = compile_trellis(self, wanted, asked, progress)
            while len(self._trellises) >= _KEPT:
                del self._trellises[next(iter(self._trellises))]
            self._trellises[key] = found
        return found

    def compile(
        self,
        metrics: str | Sequence[str] = ("params", "macs", "inference_peak"),
        *,
        optimizer: str | Optimizer = "adam",
        optimizer_options: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        **setting: Any,
    ) -> Trellis:
        """Build and measure every option for every state that it can meet, once; `evaluate` does it when needed.

        Parameters
        ----------
        metrics, optimizer, optimizer_options, **setting
            As for :meth:`evaluate`.
        progress : bool, optional
            Show how far it is, on standard error. Default: on a terminal.

        Raises
        ------
        SpaceError
            If an option cannot be built for a shape that it can meet (names slot, option and shape), or a space does
            not come apart: slots that hand on two views of one tensor, or a tensor that fusion may join or not.

        Notes
        -----
        One small graph per option and shape that comes in, equal ones once; a few milliseconds each. Graphs are kept
        for further questions.
        """
        return self._trellis(metrics, optimizer, optimizer_options, setting, progress)[0]

    def _trellis(
        self, metrics: str | Sequence[str], optimizer: str | Optimizer, options: Mapping[str, Any] | None,
        setting: Mapping[str, Any], progress: bool | None = None,
    ) -> tuple[Trellis, tuple[Metric, ...]]:  # fmt: skip
        asked = read_setting(**setting)
        wanted = read_metrics(metrics, optimizer, asked.device, **(options or {}))
        with self._lock:
            return self._compiled(wanted, asked, progress), wanted

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
            Genotypes; an (n, n_genes) int16 array that is C-contiguous is read as it is. No rows: empty columns.
        metrics : str or sequence of str
            Of :data:`cnnlive.nas.METRICS`; ``"training_peak:sgd"`` for another optimizer than `optimizer`.
        optimizer : str or Optimizer
        threads : int, optional
            Default: every core that this process may use.
        executor : concurrent.futures.Executor, optional
            Takes chunks of rows instead of threads; tables are sent along.
        optimizer_options : mapping, optional
            The optimizer's own, as for :func:`cnnlive.plan_training`.
        **setting
            See :func:`cnnlive.nas.base.read_setting`: batch, dtype, weight_dtype, profile, fuse, inplace, precision,
            device, loss, convention.

        Returns
        -------
        Evaluation
            A dict of a column per metric, (n,) int64: what the planners give for :meth:`graph` of each row.

        Raises
        ------
        SpaceError
            For genotypes that are none of this space (names the first row and gene); what :meth:`compile` raises.

        Notes
        -----
        O(n · genes) table reads, after one compilation per setting.
        """
        trellis, wanted = self._trellis(metrics, optimizer, optimizer_options, setting)
        x = self._rows(X)
        tables = trellis.tables
        if executor is None:
            numbers = np.empty((tables.n_numbers, len(x)), np.int64)
            rows = frozen(x.view())
            fine = run_chunks(len(x), lambda a, b: (tables.walk, (rows, a, b, numbers, a)), threads=threads, unit=_UNIT)
            good = all(fine)
        else:
            apart = run_chunks(len(x), lambda a, b: (tables.numbers, (x[a:b],)), threads=threads, executor=executor,
                               unit=_UNIT)  # fmt: skip
            found = [part for part in apart if part is not None]
            good = len(found) == len(apart)
            numbers = np.concatenate([np.empty((tables.n_numbers, 0), np.int64), *found], axis=1)
        if not good:
            self.check(X)  # says which row
        answered = trellis.question.answer(numbers)
        return Evaluation({m.label: answered[_same(trellis.question.metrics, m)] for m in wanted})

    def _rows(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return genotypes in a type that the kernels read; their values are checked there."""
        x = np.asarray(X)
        if x.ndim == 2 and x.shape[1] == self.n_genes and len(x) and x.dtype.kind in "iu" and x.dtype != np.uint64:
            return np.ascontiguousarray(x)
        return np.ascontiguousarray(self.check(X), np.int16)

    def evaluator(
        self,
        metrics: str | Sequence[str],
        *,
        optimizer: str | Optimizer = "adam",
        optimizer_options: Mapping[str, Any] | None = None,
        **setting: Any,
    ) -> Callable[[ArrayLike], tuple[int, ...]]:
        """Return a function from one genotype to its metrics, in the order asked for, as integers.

        The fast way to one candidate at a time: a microsecond or two. The function is not for several threads at once;
        each takes its own. It raises SpaceError for what is no genotype.
        """
        trellis, wanted = self._trellis(metrics, optimizer, optimizer_options, setting)
        one, n_genes = trellis.walker(), self.n_genes
        question = trellis.question
        names = (*question.adds, *question.peaks)
        plain = [names.index(m.name) if m.name in names else -1 for m in wanted]

        def evaluate(x: ArrayLike) -> tuple[int, ...]:
            row = x if type(x) is np.ndarray else np.asarray(x)
            if row.dtype != np.int64 or row.ndim != 1 or not row.flags.c_contiguous:
                # The walk checks values; of another type or shape than this the check of rows has the word.
                signed = row.ndim == 1 and row.dtype.kind == "i"
                row = np.ascontiguousarray(row, np.int64) if signed else np.array(self.row(x), np.int64)
            if row.shape[0] != n_genes:
                self.row(x)
            try:
                numbers = one(row)
            except SpaceError:
                self.row(x)  # says which gene
                raise
            if direct is not None:
                return tuple(numbers[direct].tolist())
            answered = question.answer(numbers[:, None])
            return tuple(int(answered[_same(question.metrics, m)][0]) for m in wanted)

        direct = np.array(plain) if min(plain) >= 0 else None
        return evaluate

    # ------------------------------------------------------------------ search, see cnnlive.nas.search

    def count(self, limit: Any = None) -> int:
        """Count the members that fit a limit, or all; an exact integer of any size.

        Parameters
        ----------
        limit : cnnlive.nas.Limit, optional

        Raises
        ------
        SpaceError
            If the sums that have to be told apart are too many to keep (see :class:`cnnlive.nas.search.Search`).
        """
        return self._search(limit).count()

    def sample(self, n: int, limit: Any = None, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n members uniformly from those that fit, without rejection.

        Raises
        ------
        SpaceError
            If no member fits; as :meth:`count`.

        Notes
        -----
        Chances are ratios of exact counts, rounded to 53 bits. After the count, which is kept with the space unless its
        labels take more than 64 MB, each slot's steps are made once more; see :mod:`cnnlive.nas.labels`.
        """
        return self._search(limit).sample(n, np.random.default_rng(rng))

    def best(self, objective: Any = "macs", limit: Any = None) -> Best:
        """Find the member with the largest score that fits a limit, with proof.

        Parameters
        ----------
        objective : str or mapping
            ``"macs"``, ``"params"`` or ``"weight_bytes"``; or a table of scores that add up: gene -> a score per value
            (counted where the gene is active), or slot -> mapping from an option, the values of the slot's genes in
            order (None: switched off), to its score. Integers or floats; to be maximised.
        limit : cnnlive.nas.Limit, optional

        Returns
        -------
        Best
            Genotype, score and metrics. ``x`` is None if no member fits.
        """
        return self._search(limit).best(objective)

    def pareto(
        self, objective: Any = "macs", metric: str = "inference_peak", limit: Any = None, **setting: Any
    ) -> Front:
        """Find every trade-off between the largest score and the smallest metric: the exact Pareto front.

        Parameters
        ----------
        objective
            As for :meth:`best`.
        metric : str
            To be minimised; a metric that `compile` knows.
        limit : cnnlive.nas.Limit, optional
        **setting
            As for :meth:`evaluate`.

        Returns
        -------
        Front
            Members by rising metric and score; one member per point.
        """
        return Search(self, limit).pareto(objective, metric, setting)

    def walk(
        self,
        x: ArrayLike,
        metrics: str | Sequence[str] = ("params", "macs", "inference_peak"),
        *,
        optimizer: str | Optimizer = "adam",
        optimizer_options: Mapping[str, Any] | None = None,
        **setting: Any,
    ) -> Walk:
        """Evaluate one candidate so that changes of it are cheap; see :meth:`mutate`."""
        trellis, wanted = self._trellis(metrics, optimizer, optimizer_options, setting)
        return Walk.start(self, trellis, wanted, self.row(x))

    def mutate(self, x: Walk | ArrayLike, changes: Mapping[str, Any], **asked: Any) -> Walk:
        """Change genes of a candidate and evaluate it again.

        Parameters
        ----------
        x : Walk or (n_genes,) integers
            What :meth:`walk` or this method returned, which stays as it is; or a genotype, which is evaluated first.
        changes : mapping of str to value
            Genes and their new values.
        **asked
            As for :meth:`walk`; with a genotype only.

        Returns
        -------
        Walk
            With ``.x`` and ``.metrics``.

        Raises
        ------
        SpaceError
            For an unknown gene or value.

        Notes
        -----
        O(states · log slots) for each slot that reads a changed gene: pairs of slots are composed in a tree, of which a
        change renews one path. Trees share what is equal.
        """
        walk = x if isinstance(x, Walk) else self.walk(x, **asked)
        return walk.changed(changes)

    def _search(self, limit: Any) -> Search:
        key = None
        if limit is not None:
            check_limit(self, limit)
            key = tuple((limit.metrics[k], v, limit.setting_of(k)) for k, v in sorted(limit.budgets.items()))
        with self._lock:
            found = self._searches.get(key)
            if found is None:
                if len(self._searches) >= 4:
                    self._searches.clear()
                found = self._searches[key] = Search(self, limit)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave locks and what can be made again behind."""
        return {k: v for k, v in self.__dict__.items() if k not in ("fragments", "_trellises", "_searches", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


_KEPT = 16
_UNIT = 16  # nodes of a flat graph that take about as long as one walk


def _same(metrics: Sequence[Metric], wanted: Metric) -> str:
    """Label under which another question asked the same."""
    return next(m.label for m in metrics if (m.name, m.optimizer) == (wanted.name, wanted.optimizer))
