"""Exact search on a trellis: counting, uniform sampling, the best member and Pareto fronts under budgets.

A *label* is what an end of the network does to the budgets: the sums and peaks that they bound. Ends with equal labels
at the same state are alike and are counted together; one that nothing can complete within the budgets is dropped, and
of one that fits whatever completes it only that is remembered. Counting and drawing carry labels from both ends to
where they are few (:mod:`cnnlive.nas.labels`); the best members come from one pass, from the last slot to the first.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive._kernels.trellis import compose
from cnnlive._types import I64, Shown, column, frozen
from cnnlive.errors import SpaceError
from cnnlive.nas.base import Metric, Setting, read_metrics, read_setting
from cnnlive.nas.fragment import Step
from cnnlive.nas.labels import FAR, Layer, Meeting, Problem, Term, TooManyError, carried, reduce
from cnnlive.nas.results import Best, Front
from cnnlive.nas.trellis import Question, Stage, Trellis, ask, compile_stages

if TYPE_CHECKING:
    from cnnlive.nas.space import Space

__all__ = ["MAX_LABELS", "Search", "Walk"]

#: More labels than this at one boundary are given up, and so is what takes more than `MAX_BYTES` for all boundaries:
#: with tables and copies a count stays below about 4 GB.
MAX_LABELS: Final = 40_000_000
MAX_BYTES: Final = 5 << 29
# Labels with scores that are carried over one layer: they and what numpy makes of them take some gigabytes.
_MOST_SCORED: Final = 30_000_000
_FEW_SCORED: Final = 1_000_000  # worth a try before anything is known
_BEAM: Final = 2000  # labels at one boundary of a first look
_STAIRS: Final = 30_000  # steps of a ceiling at one boundary
_MOST_ARCS: Final = 20_000_000
# Labels of more bytes are kept between two calls by one search of the process only, the last one.
_SMALL_BYTES: Final = 1 << 26


@dataclass(eq=False)
class _Labels:
    """Labels with scores of the nodes of one boundary, and where they come from."""

    node: I64
    values: I64  # (n, width)
    score: NDArray[Any]
    arc: I64
    child: I64


def check_limit(space: Space, limit: Any) -> None:
    """Refuse a limit of another space.

    Raises
    ------
    SpaceError
        If it is one: its numbers would be those of other nets.
    """
    other = getattr(limit, "space", space)
    if other is not space:
        raise SpaceError(f"the limit is of another space, {other!r}")


@dataclass(eq=False)
class _Stairs:
    """For each node the best score by how much of one column it takes: both rise."""

    ptr: I64
    value: I64
    score: NDArray[Any]

    @classmethod
    def of(cls, node: I64, value: I64, score: NDArray[Any], n_nodes: int) -> _Stairs:
        """Leave out what others beat, and round values down until few are left."""
        unit, least = 1, value.min(initial=FAR)
        while True:
            order = np.lexsort((-score, value, node))
            node, value, score = node[order], value[order], score[order]
            # Scores of later nodes lie above those of earlier ones.
            rank = np.unique(score, return_inverse=True)[1].reshape(-1) + node * (len(score) + 1)
            kept = np.append([True], rank[1:] > np.maximum.accumulate(rank)[:-1])[: len(rank)]
            node, value, score = node[kept], value[kept], score[kept]
            if len(node) <= max(_STAIRS, n_nodes):
                return cls(np.searchsorted(node, np.arange(n_nodes + 1)), value, score)
            unit = max(2 * unit, int(value.max() - least) // (1 << 20))
            value = least + (value - least) // unit * unit


@dataclass(eq=False)
class _Ceiling:
    """Bounds on the score of the beginnings of one boundary's nodes: of all, and by what they leave of each column."""

    most: NDArray[Any]
    columns: list[_Stairs]

    def of(self, node: I64, values: I64) -> NDArray[Any]:
        """Return what scores at most in front of labels that rise by node."""
        found = self.most[node]
        none = -np.inf if found.dtype.kind == "f" else -(FAR >> 1)
        for c, stairs in enumerate(self.columns):
            cut = np.searchsorted(node, np.arange(len(stairs.ptr)))
            for u, (a, b) in enumerate(pairwise(cut)):
                first, last = stairs.ptr[u : u + 2]
                at = np.searchsorted(stairs.value[first:last], -values[a:b, c], side="right")
                scores = np.concatenate([np.array([none], found.dtype), stairs.score[first:last]])
                np.minimum(found[a:b], scores[at], out=found[a:b])
        return found


class Search:
    """A space, compiled for the budgets of a limit.

    Parameters
    ----------
    space : Space
    limit : Limit, optional
        Anything with ``budgets`` (label of a metric -> integer), ``metrics`` (label -> Metric) and
        ``setting_of(label)``.
    extra : sequence of (Metric, Setting)
        What the search is about besides.
    asked : sequence of (Metric, Setting, budget)
        Budgets, besides those of the limit.
    """

    def __init__(
        self,
        space: Space,
        limit: Any = None,
        extra: Sequence[tuple[Metric, Setting]] = (),
        asked: Sequence[tuple[Metric, Setting, int]] = (),
    ) -> None:
        self.space = space
        self.extra = tuple(extra)
        asked = list(asked)
        if limit is not None:
            check_limit(space, limit)
            for label, budget in limit.budgets.items():
                asked.append((limit.metrics[label], limit.setting_of(label), int(budget)))
        self.asked = asked
        question, terms = _terms([*asked, *((m, s, FAR) for m, s in self.extra), (_SCORE, _PLAIN, FAR)])
        self.question = question
        self.terms = terms
        self.stages = compile_stages(space, question)
        self._layers: list[Layer] | None = None
        self._problem: Problem | None = None
        self._met: Meeting | None = None
        self._count: int | None = None

    # ------------------------------------------------------------------ layers

    @property
    def layers(self) -> list[Layer]:
        """The steps between nodes, slot by slot."""
        if self._layers is None:
            self._layers = _layers(self.space, self.stages)
        return self._layers

    @property
    def problem(self) -> Problem:
        """What has to be told apart."""
        if self._problem is None:
            self._problem = reduce(self.question, self.layers, self.terms)
        return self._problem

    # ------------------------------------------------------------------ answers

    _large: ClassVar[weakref.ref[Search] | None] = None

    def _meet(self) -> Meeting:
        if self._met is not None:
            return self._met
        try:
            met = Meeting(self.problem, MAX_LABELS, MAX_BYTES)
        except TooManyError as error:
            raise _too_many(error.args[0]) from None
        self._count = met.total
        if met.nbytes > _SMALL_BYTES:
            other = Search._large() if Search._large is not None else None
            if other is not None:
                other._met = None
            Search._large = weakref.ref(self)
        self._met = met
        return met

    def count(self) -> int:
        """See :meth:`cnnlive.nas.Space.count`."""
        if self._count is None:
            self._count = self._meet().total
        return self._count

    def sample(self, n: int, rng: np.random.Generator) -> I64:
        """See :meth:`cnnlive.nas.Space.sample`."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise SpaceError(f"n={n!r} members to draw; allowed: an integer >= 0")
        space = self.space
        out = np.zeros((int(n), space.n_genes), np.int64)
        if n == 0:
            return out
        steps = self._meet().draw(int(n), rng) if self._count != 0 else None
        if steps is None:
            raise SpaceError(f"no member of space {space.name!r} fits the limit; there is nothing to draw from")
        for i, layer in enumerate(self.layers):
            self._write(out, i, layer.raw[steps[i]])
        return rng.permutation(space.canonical(out))

    def _run(
        self,
        scores: list[NDArray[Any]],
        beam: int | None = None,
        least: float | None = None,
        above: Sequence[_Ceiling] = (),
        most: int = _MOST_SCORED,
    ) -> tuple[list[_Labels], bool]:
        """Return the labels of every boundary, the first one first, and whether none was left out for its number.

        Of equal labels only the best is kept, and what others dominate is dropped, and so is what does not come above
        `least` with what lies in front, which scores no more than `above` says. Scores are of arcs.
        """
        p = self.problem
        end = p.nodes[-1]
        none = np.zeros(0, np.int64)
        labels = _Labels(np.arange(end), np.tile(p.end, (end, 1)), np.zeros(end, scores[0].dtype), none, none)
        done = [labels]
        complete = True
        for i in range(len(p.left) - 1, -1, -1):
            # Every step into a node, followed by every label of that node.
            per_node = np.bincount(labels.node, minlength=p.nodes[i + 1])
            begin = np.concatenate([[0], np.cumsum(per_node)])
            by_node = np.argsort(labels.node, kind="stable")
            times = per_node[p.right[i]]
            if times.sum() > most:
                raise _too_many(int(times.sum()), most)
            arc = np.repeat(np.arange(len(p.right[i])), times)
            offset = np.arange(len(arc)) - np.repeat(np.cumsum(times) - times, times)
            child = by_node[begin[p.right[i][arc]] + offset]
            node = p.left[i][arc]
            score = scores[i][arc] + labels.score[child]
            if least is not None:
                keep = score + above[i].most[node] > least
                arc, child, node, score = arc[keep], child[keep], node[keep], score[keep]
            values = carried(labels.values[child], p.gain[i][arc], p.own[i][arc], p.tail, p.peak)
            low, high = p.tail_range(i)
            keep = (values <= high[node]).all(axis=1)
            if not keep.all():
                arc, child, node, score, values = arc[keep], child[keep], node[keep], score[keep], values[keep]
            values = np.maximum(values, low[node])
            if least is not None and above[i].columns:
                keep = score + above[i].of(node, values) > least
                arc, child, node, score, values = arc[keep], child[keep], node[keep], score[keep], values[keep]
            labels = _grouped(_Labels(node, values, score, arc, child))
            left = _undominated(labels)
            if beam is not None and len(left) > beam:
                reached = labels.score[left] + above[i].of(labels.node[left], labels.values[left])
                left = left[np.sort(np.argsort(-reached, kind="stable")[:beam])]
                complete = False
            labels = _selected(labels, left)
            done.insert(0, labels)
        return done, complete

    def _write(self, out: I64, i: int, raw: I64) -> None:
        """Write the values of the genes of slot i, from the numbers of their combination."""
        stage = self.stages[i]
        for gene, values in zip(stage.genes, np.unravel_index(raw, stage.cards) if stage.genes else (), strict=True):
            out[:, gene] = values

    def best(self, objective: Any) -> Best:
        """See :meth:`cnnlive.nas.Space.best`."""
        found = self._front(self._scores(objective))
        return found[-1] if found else self._best(None, None, {}, "infeasible", None)

    def _best(self, x: I64 | None, score: Any, metrics: dict[str, int], status: str, bound: Any) -> Best:
        budgets = {metric.label: budget for metric, _, budget in self.asked}
        return Best(x, score, metrics, status, bound, self.space.name, tuple(self.space.genes), budgets)

    def pareto(self, objective: Any, metric: str, setting: Mapping[str, Any]) -> Front:
        """See :meth:`cnnlive.nas.Space.pareto`."""
        options = dict(setting)
        asked = {k: options.pop(k) for k in ("optimizer", "optimizer_options") if k in options}
        read = read_setting(**options)
        (wanted,) = read_metrics((metric,), asked.get("optimizer", "adam"), read.device,
                                 **(asked.get("optimizer_options") or {}))  # fmt: skip
        found = Search(self.space, None, ((wanted, read),), self.asked).front(objective)
        return Front(self.space.name, wanted.label, tuple(self.space.genes), tuple(found))

    def front(self, objective: Any) -> list[Best]:
        """Return the members that no other one beats in score and in the metrics asked for besides."""
        return self._front(self._scores(objective))

    def _front(self, scores: list[NDArray[Any]]) -> list[Best]:
        """Return the members that no other one beats in score and in the metrics asked for besides."""
        top = self._most_of_sums(scores)
        scores, member = self._of_arcs(scores)
        if self.extra:
            return self._members(self._run(scores)[0], member)
        above = self._reach(scores)
        rough, complete = self._run(scores, beam=_BEAM, above=above)
        if complete:
            return self._members(rough, member)
        # Some were left out: what is better than the best of the rest, first as if that were few.
        least = rough[0].score.max() if len(rough[0].node) else None
        for last in (False, True):
            try:
                found, _ = self._run(scores, least=least, above=above, most=_MOST_SCORED if last else _FEW_SCORED)
            except SpaceError:
                if last and least is None:
                    raise
            else:
                return self._members(found if len(found[0].node) else rough, member)
            if last:
                break
            above = self._ceilings(scores)
            end = np.tile(self.problem.end, (self.problem.nodes[-1], 1))
            top = min(top, above[-1].of(np.arange(len(end)), end).max().item())
            with contextlib.suppress(SpaceError):
                better, _ = self._run(scores, beam=10 * _BEAM, least=least, above=above)
                if len(better[0].node):
                    rough, least = better, better[0].score.max()
            if least is not None and least >= top:
                return self._members(rough, member)
        best = self._members(rough, member)[-1]
        return [self._best(best.x, best.score, best.metrics, "feasible", top)]

    def _most_of_sums(self, scores: list[NDArray[Any]]) -> float:
        """Return the least budget of a sum that is the score itself; infinite where there is none."""
        place = {name: k for k, name in enumerate(self.question.adds)}
        found = np.inf
        for term in self.terms:
            if not term.peak and not term.group and term.budget - term.once < found:
                same = all(
                    (score == sum(f * (layer.numbers[:, place[a]] // d) for a, f, d in term.adds)).all()
                    for score, layer in zip(scores, self.layers, strict=True)
                )
                found = term.budget - term.once if same else found
        return found

    def _of_arcs(self, scores: list[NDArray[Any]]) -> tuple[list[NDArray[Any]], list[I64]]:
        """Return the best score of the steps that each arc stands for, and which of them has it."""
        p = self.problem
        best, member = [], []
        for score, ptr, steps in zip(scores, p.member_ptr, p.member, strict=True):
            arc = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
            order = np.lexsort((-score[steps], arc))
            first = order[ptr[:-1]]
            member.append(steps[first])
            best.append(score[steps[first]])
        return best, member

    def _reach(self, scores: list[NDArray[Any]]) -> list[_Ceiling]:
        """Return per boundary the largest score of any beginning of each node, budgets apart; scores are of arcs."""
        p = self.problem
        now = np.zeros(1, scores[0].dtype)
        found = [_Ceiling(now, [])]
        for i, score in enumerate(scores):
            low = -np.inf if score.dtype.kind == "f" else -(FAR >> 1)
            out = np.full(p.nodes[i + 1], low, score.dtype)
            np.maximum.at(out, p.right[i], now[p.left[i]] + score)
            now = out
            found.append(_Ceiling(now, []))
        return found

    def _ceilings(self, scores: list[NDArray[Any]]) -> list[_Ceiling]:
        """Return per boundary bounds on the score of beginnings that leave enough of each budget by itself.

        Beginnings are told apart along one column at a time, rounded down to where they are few, without what other
        columns raise it to: that leaves more of the budget than there is.
        """
        p = self.problem
        found = self._reach(scores)
        for c in range(p.width):
            node, value = np.zeros(1, np.int64), p.front[1][c : c + 1]
            score = np.zeros(1, scores[0].dtype)
            found[0].columns.append(_Stairs.of(node, value, score, 1))
            for i, gain in enumerate(scores):
                per_node = np.bincount(node, minlength=p.nodes[i])
                times = per_node[p.left[i]]
                arc = np.repeat(np.arange(len(times)), times)
                begin = np.cumsum(per_node) - per_node
                child = begin[p.left[i][arc]] + np.arange(len(arc)) - np.repeat(np.cumsum(times) - times, times)
                low, high = p.front_range(i + 1)
                to = p.right[i][arc]
                value = value[child] + p.gain[i][arc, c]
                keep = value <= high[to, c]
                value = np.maximum(value, low[to, c])[keep]
                stairs = _Stairs.of(to[keep], value, (gain[arc] + score[child])[keep], p.nodes[i + 1])
                found[i + 1].columns.append(stairs)
                node, value, score = (
                    np.repeat(np.arange(p.nodes[i + 1]), np.diff(stairs.ptr)),
                    stairs.value,
                    stairs.score,
                )
        return found

    def _members(self, done: list[_Labels], member: list[I64]) -> list[Best]:
        """Return the genotypes behind the first boundary's labels, those that others beat left out."""
        first = done[0]
        n = len(first.node)
        if n == 0:
            return []
        out = np.zeros((n, self.space.n_genes), np.int64)
        at = np.arange(n)
        for i, layer in enumerate(self.layers):
            self._write(out, i, layer.raw[member[i][done[i].arc[at]]])
            at = done[i].child[at]
        x = self.space.canonical(out)
        columns: dict[str, I64] = {}
        for metric, setting in [*((m, s) for m, s, _ in self.asked), *self.extra]:
            columns[metric.label] = self.space.answer(x, metric, setting)
        order: list[int] = list(range(n))
        if self.extra:
            value = columns[self.extra[0][0].label]
            order = []
            best: Any = None
            for k in np.lexsort((-first.score, value)).tolist():
                if best is None or first.score[k] > best:
                    order.append(k)
                    best = first.score[k]
        else:
            order = [int(np.argmax(first.score))]
        return [
            self._best(x[k], first.score[k].item(), {name: int(v[k]) for name, v in columns.items()}, "optimal",
                       first.score[k].item())
            for k in order
        ]  # fmt: skip

    def _scores(self, objective: Any) -> list[NDArray[Any]]:
        """Return the score of every step."""
        space = self.space
        if isinstance(objective, str):
            if objective not in ("macs", "params", "weight_bytes"):
                raise SpaceError(f"objective {objective!r}; allowed: 'macs', 'params', 'weight_bytes', or a table of "
                                 "scores that add up")  # fmt: skip
            at = self.question.adds.index(f"score/{objective}")
            return [layer.numbers[:, at] for layer in self.layers]
        if not isinstance(objective, Mapping) or not objective:
            raise SpaceError(f"objective {objective!r}; allowed: the name of a sum, or a mapping of gene to a score "
                             "per value, or of slot to a mapping of option to score")  # fmt: skip
        slots = {slot.name: i for i, slot in enumerate(space.slots)}
        genes = {gene.name: k for k, gene in enumerate(space.genes)}
        by_slot: dict[int, dict[Any, Any]] = {}
        of_gene: dict[int, NDArray[Any]] = {}
        for name, table in objective.items():
            if name in genes:
                values = np.asarray(table)
                if values.shape != (space.genes[genes[name]].cardinality,) or values.dtype.kind not in "iufb":
                    raise SpaceError(f"scores of gene {name!r} are {table!r}; allowed: a number for each of its "
                                     f"{space.genes[genes[name]].cardinality} values")  # fmt: skip
                of_gene[genes[name]] = values
            elif name in slots and isinstance(table, Mapping):
                by_slot[slots[name]] = dict(table)
            else:
                raise SpaceError(f"scores for {name!r}, which is neither a gene nor, with a mapping, a slot of space "
                                 f"{space.name!r}")  # fmt: skip
        kind = np.float64 if any(v.dtype.kind == "f" for v in of_gene.values()) or any(
            isinstance(v, float) for t in by_slot.values() for v in t.values()) else np.int64  # fmt: skip
        return _table_scores(space, self.layers, of_gene, by_slot, kind)


def _too_many(n: int, most: int | None = None) -> SpaceError:
    allowed = f"{most:,}" if most else f"{MAX_LABELS:,}, and {MAX_BYTES >> 20:,} MiB of them in all"
    return SpaceError(f"the budgets leave {n:,} or more different sums and peaks to tell apart at one boundary; "
                      f"allowed: {allowed}. Fewer budgets, or one peak in place of a sum, can be answered")  # fmt: skip


# ------------------------------------------------------------------ budgets as terms

_PLAIN: Final = read_setting()
_SCORE: Final = Metric("score", "score")


def _terms(asked: Sequence[tuple[Metric, Setting, int]]) -> tuple[Question, list[Term]]:
    """Return one question for metrics of several settings, and the sums and peaks that their budgets bound."""
    groups: dict[Setting, list[tuple[Metric, int]]] = {}
    parts: list[Any] = []
    adds: list[str] = []
    peaks: list[str] = []
    tail: list[int] = []
    terms: list[Term] = []
    for metric, setting, budget in asked:
        if metric is not _SCORE:
            groups.setdefault(setting, []).append((metric, budget))
    for g, (setting, members) in enumerate([*groups.items(), (_PLAIN, [])]):
        scored = g == len(groups)
        metrics = [m for m, _ in members] or list(read_metrics(("params", "macs")))
        asking = ask(metrics, setting)
        prefix = "score/" if scored else f"{g}/"
        parts += asking.parts
        tail += [t + len(adds) if t >= 0 else -1 for t in asking.tail.tolist()]
        adds += [prefix + name for name in asking.adds]
        peaks += [prefix + name for name in asking.peaks]
        for metric, budget in members:
            group = prefix + metric.label if budget == FAR else ""
            terms += [_prefixed(t, prefix, group) for t in _terms_of(metric, asking, budget)]
    return Question((), tuple(parts), tuple(adds), tuple(peaks), column(tail)), terms


def _prefixed(term: Term, prefix: str, group: str) -> Term:
    adds = tuple((prefix + name, factor, divisor) for name, factor, divisor in term.adds)
    return Term(adds, prefix + term.peak if term.peak else "", term.budget, term.once, group)


def _terms_of(metric: Metric, question: Question, budget: int) -> list[Term]:
    """Return the sums and peaks whose largest is a metric."""
    if metric.name == "inference_total":
        return [Term((("weight_bytes", 1, 1),), "inference_peak", budget)]
    if metric.name in ("inference_peak", "minimum_peak"):
        return [Term((), metric.name, budget)]
    if metric.name != "training_peak":
        return [Term(((metric.name, 1, 1),), "", budget)]
    step = next(p for p in question.parts if isinstance(p, Step) and p.optimizer == metric.optimizer)
    static = (("static", 1, 1), (step.adds[0], 1, 1))
    found = [Term(static, peak, budget) for peak in ("forward", "loss", "backward")]
    behind = (*static, ("behind", 1, 1))
    if step.rule is None:
        return [*found, Term(behind, step.peaks[0][0], budget)]
    found.append(Term(behind, "", budget))
    for per_element, each, once, _ in step.rule.rows.tolist():
        adds = [*behind]
        if per_element:
            adds.append(("gradients", per_element, step.rule.itemsize))
        if each:
            adds.append(("leaves", each, 1))
        found.append(Term(tuple(adds), "", budget, once))
    return found


# ------------------------------------------------------------------ nodes


def _layers(space: Space, stages: Sequence[Stage]) -> list[Layer]:
    """Return the steps between nodes, those that no beginning reaches left out."""
    uses: dict[int, list[int]] = {}
    for i, stage in enumerate(stages):
        for gene in stage.genes:
            uses.setdefault(gene, []).append(i)
    layers: list[Layer] = []
    nodes = np.zeros((1, 2), np.int64)  # state, state from behind, then value and activity of every open gene
    open_genes: list[int] = []
    for i, (slot, stage) in enumerate(zip(space.slots, stages, strict=True)):
        n_raw = stage.next.shape[1]
        values = np.array(np.unravel_index(np.arange(n_raw), stage.cards)) if stage.genes else np.zeros((0, n_raw), int)
        on = np.ones(n_raw, bool)
        for name, allowed in slot.when.items():
            position = space.column_of(name)
            known = space.genes[position].values
            on &= np.isin(values[stage.genes.index(position)], [known.index(v) for v in allowed])
        decides = {space.column_of(g) for g in slot.when}
        read = {space.column_of(g) for g in slot.genes.values()}
        left = np.repeat(np.arange(len(nodes)), n_raw)
        raw = np.tile(np.arange(n_raw), len(nodes))
        fits = np.ones(len(left), bool)
        for k, gene in enumerate(open_genes):
            if gene in stage.genes:
                fits &= nodes[left, 2 + 2 * k] == values[stage.genes.index(gene), raw]
        left, raw = left[fits], raw[fits]
        if len(left) > _MOST_ARCS:
            raise _too_many(len(left), _MOST_ARCS)
        after_open: list[int] = []
        opened: list[I64] = []
        fits = np.ones(len(left), bool)
        for gene in dict.fromkeys((*open_genes, *stage.genes)):
            if gene in stage.genes:
                value = values[stage.genes.index(gene), raw]
                active = (on[raw] if gene in read else np.zeros(len(raw), bool)) | (gene in decides)
                if gene in open_genes:
                    active |= nodes[left, 3 + 2 * open_genes.index(gene)] == 1
            else:
                k = open_genes.index(gene)
                value, active = nodes[left, 2 + 2 * k], nodes[left, 3 + 2 * k] == 1
            if uses[gene][-1] > i:
                after_open.append(gene)
                opened += [value, active.astype(np.int64)]
            else:
                fits &= active | (value == 0)  # a gene that decides nothing is 0
        state = nodes[left, 0]
        n_behind = stage.front.shape[2]
        follows = stage.next[state, raw]
        # The state behind, as seen from behind, is any that leads to the one in front.
        met = stage.front[state, raw] == nodes[left, 1][:, None]
        pair, behind = np.nonzero(met & fits[:, None])
        right_key = np.stack([follows[pair], behind, *(o[pair] for o in opened)], axis=1)
        nodes_after, right = np.unique(right_key, axis=0, return_inverse=True)
        numbers = stage.numbers[state[pair], raw[pair], behind]
        layers.append(Layer(left[pair], right.reshape(-1), raw[pair], numbers, len(nodes), len(nodes_after)))
        nodes, open_genes = nodes_after, after_open
        assert n_behind == met.shape[1]
    return layers


def _table_scores(
    space: Space,
    layers: Sequence[Layer],
    of_gene: Mapping[int, NDArray[Any]],
    by_slot: Mapping[int, Mapping[Any, Any]],
    kind: Any,
) -> list[NDArray[Any]]:
    """Return scores per step: of genes at the first slot where they are active, of a slot's option at the slot."""
    found = []
    for i, (slot, layer) in enumerate(zip(space.slots, layers, strict=True)):
        columns = space.columns_of(slot)
        score = np.zeros(len(layer.raw), kind)
        cards = [space.genes[c].cardinality for c in columns]
        values = dict(zip(columns, np.unravel_index(layer.raw, cards), strict=True)) if columns else {}
        on = np.ones(len(layer.raw), bool)
        for name, allowed in slot.when.items():
            known = space.genes[space.column_of(name)].values
            on &= np.isin(values[space.column_of(name)], [known.index(v) for v in allowed])
        for gene, table in of_gene.items():
            if gene not in columns:
                continue
            others = [j for j, s in enumerate(space.slots) if gene in space.columns_of(s)]
            deciding = any(space.column_of(g) == gene for s in space.slots for g in s.when)
            if deciding:
                score += table[values[gene]] * (others[0] == i)
            elif len(others) == 1:
                score += np.where(on, table[values[gene]], 0)
            elif any(space.slots[j].when for j in others):
                raise SpaceError(f"gene {space.genes[gene].name!r} serves several slots that may be switched off; give "
                                 "scores per slot and option")  # fmt: skip
            else:
                score += table[values[gene]] * (others[0] == i)
        if i in by_slot:
            read = [space.column_of(g) for g in slot.genes.values()]
            chosen = [tuple(space.genes[c].values[values[c][k]] for c in read) if on[k] else None
                     for k in range(len(layer.raw))]  # fmt: skip
            given = {(k if k is None or isinstance(k, tuple) else (k,)): v for k, v in by_slot[i].items()}
            for option in chosen:
                if option is not None and option not in given:
                    raise SpaceError(f"no score for option {option!r} of slot {slot.name!r}")
            score += np.array([given.get(option, 0) for option in chosen], kind)
        found.append(score)
    return found


# ------------------------------------------------------------------ labels


def _grouped(labels: _Labels) -> _Labels:
    """Return the different labels, of equal ones that with the best score."""
    keys = [*labels.values.T, labels.node]
    order = np.lexsort((-labels.score, *keys))
    new = np.zeros(len(order), bool)
    new[:1] = True
    for key in keys:
        ordered = key[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    return _selected(labels, order[new])


def _undominated(labels: _Labels) -> I64:
    """Return the labels that no other one of the same node beats: at least its score for no more of anything."""
    n = len(labels.node)
    score = labels.score
    varying = [c for c in labels.values.T if n and (c != c[0]).any()]
    if n == 0:
        return np.arange(0)
    order = np.lexsort((*varying[1:], *([-score] if len(varying) != 1 else []), *varying[:1], labels.node))
    if len(varying) == 0:
        order = np.lexsort((-score, labels.node))
        kept = np.append(True, labels.node[order][1:] != labels.node[order][:-1])
        return np.sort(order[kept])
    if len(varying) == 1:
        order = np.lexsort((-score, varying[0], labels.node))
        ranked, group = score[order], labels.node[order]
        # Along one column a label is kept where its score is above all before it.
        start = np.append(True, group[1:] != group[:-1])
        shift = np.cumsum(start)
        scaled = ranked.astype(np.float64)
        span = float(scaled.max() - scaled.min()) + 1.0
        if span * len(start) < 2.0**50 and score.dtype.kind == "i":
            lifted = (ranked - ranked.min()) + shift * int(span)
            best = np.maximum.accumulate(lifted)
            kept = np.append(True, lifted[1:] > best[:-1])
            return np.sort(order[kept])
        kept = np.zeros(n, bool)
        for piece in np.split(np.arange(n), np.flatnonzero(start)[1:]):
            best = np.maximum.accumulate(ranked[piece])
            kept[piece] = np.append(True, ranked[piece][1:] > best[:-1])
        return np.sort(order[kept])
    if n > _SKYLINE:
        return np.arange(n)
    order = np.lexsort((-score, labels.node))
    values = np.stack(varying, axis=1)
    kept_rows: list[int] = []
    for piece in np.split(order, np.flatnonzero(np.diff(labels.node[order])) + 1):
        front = np.zeros((0, values.shape[1]), np.int64)
        for k in piece.tolist():  # by falling score: what is kept before has at least as much
            if not (front <= values[k]).all(axis=1).any():
                front = np.concatenate([front, values[k][None]])
                kept_rows.append(k)
    return np.sort(np.array(kept_rows, np.int64))


_SKYLINE: Final = 20_000


def _selected(labels: _Labels, rows: I64) -> _Labels:
    """Return some labels."""
    return _Labels(labels.node[rows], labels.values[rows], labels.score[rows], labels.arc[rows], labels.child[rows])


# ------------------------------------------------------------------ one candidate that changes


@dataclass(frozen=True, eq=False)
class _Piece:
    """A run of slots of one candidate: for every state in front and state from behind, what they come to."""

    next: I64
    front: I64
    numbers: I64


class Walk(Shown):
    """One candidate, evaluated so that a change of it is cheap; see :meth:`cnnlive.nas.Space.mutate`.

    Attributes
    ----------
    space : Space
    x : tuple of int
        Genotype.
    """

    __slots__ = ("_tree", "_trellis", "_wanted", "space", "x")

    def __init__(
        self,
        space: Space,
        trellis: Trellis,
        wanted: tuple[Metric, ...],
        x: tuple[int, ...],
        tree: tuple[tuple[_Piece, ...], ...],
    ) -> None:
        self.space, self.x = space, x
        self._trellis, self._wanted, self._tree = trellis, wanted, tree

    @property
    def metrics(self) -> dict[str, int]:
        """The metrics that were asked for, by name."""
        question = self._trellis.question
        top = self._tree[-1][0].numbers[0, 0]
        n_adds = len(question.adds)
        numbers = np.concatenate([top[:n_adds], top[n_adds::2]])
        answered = question.answer(numbers[:, None])
        known = {(m.name, m.optimizer): int(answered[m.label][0]) for m in question.metrics}
        return {m.label: known[m.name, m.optimizer] for m in self._wanted}

    @classmethod
    def start(cls, space: Space, trellis: Trellis, wanted: tuple[Metric, ...], x: tuple[int, ...]) -> Walk:
        """Evaluate a candidate."""
        row = [_leaf(stage, x) for stage in trellis.stages]
        tree = [tuple(row)]
        while len(row) > 1:
            row = [_composed(row[k : k + 2], trellis.question) for k in range(0, len(row), 2)]
            tree.append(tuple(row))
        return cls(space, trellis, wanted, x, tuple(tree))

    def changed(self, changes: Mapping[str, Any]) -> Walk:
        """Return the candidate with some genes changed."""
        x = list(self.x)
        touched: set[int] = set()
        for name, value in changes.items():
            gene = self.space.column_of(name)
            values = self.space.genes[gene].values
            if value not in values:
                raise SpaceError(f"gene {name!r} has no value {value!r}; allowed: {values}")
            x[gene] = values.index(value)
            touched |= {i for i, stage in enumerate(self._trellis.stages) if gene in stage.genes}
        new = tuple(x)
        tree = [list(row) for row in self._tree] if touched else []
        if not touched:
            return Walk(self.space, self._trellis, self._wanted, new, self._tree)
        for i in touched:
            tree[0][i] = _leaf(self._trellis.stages[i], new)
        for level, row in enumerate(tree[1:], 1):
            touched = {i // 2 for i in touched}
            for i in touched:
                row[i] = _composed(tree[level - 1][2 * i : 2 * i + 2], self._trellis.question)
        return Walk(self.space, self._trellis, self._wanted, new, tuple(map(tuple, tree)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v:,}" for k, v in self.metrics.items())
        return f"<Walk {self.space.name!r}: {shown}>"


def _leaf(stage: Stage, x: Sequence[int]) -> _Piece:
    raw = 0
    for gene, card in zip(stage.genes, stage.cards, strict=True):
        raw = raw * card + x[gene]
    return _Piece(column(stage.next[:, raw]), column(stage.front[:, raw]), column(stage.numbers[:, raw]))


def _composed(pieces: Sequence[_Piece], question: Question) -> _Piece:
    """Compose two runs of slots; one by itself stays as it is."""
    if len(pieces) == 1:
        return pieces[0]
    a, b = pieces
    states, behind = len(a.next), b.front.shape[1]
    after, front = np.empty(states, np.int64), np.empty((states, behind), np.int64)
    numbers = np.empty((states, behind, a.numbers.shape[2]), np.int64)
    compose(a.next, a.front, a.numbers, b.next, b.front, b.numbers, question.tail, after, front, numbers)
    return _Piece(frozen(after), frozen(front), frozen(numbers))
