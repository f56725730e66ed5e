"""Budgets for candidates of a search space: what a search loop calls."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._types import I64
from cnnlive.errors import AttributeValueError, OrderError, SpaceError, UnitError, close_names
from cnnlive.nas.base import METRICS, Metric, SearchSpace, Setting, read_metrics, read_setting
from cnnlive.nas.results import Evaluation
from cnnlive.units import parse_bytes

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cnnlive.plan.optimizers import Optimizer
    from cnnlive.profiles import Inplace, Profile

__all__ = ["Efficiency", "Limit"]

#: Short names of budgets, in the order in which they are checked: what costs least first.
KEYWORDS: Final[Mapping[str, str]] = {
    "params": "params",
    "macs": "macs",
    "weights": "weight_bytes",
    "peak": "inference_peak",
    "total": "inference_total",
    "saved": "saved",
    "training": "training_peak",
    "minimum_peak": "minimum_peak",
}
_COUNTS: Final = ("params", "macs")
_TRAINING: Final = ("saved", "training_peak")
_TYPED: Final = ("weight_bytes", "inference_peak", "inference_total", "minimum_peak")
_TOP: Final = 2**63 - 1

Row = Callable[[Any], Sequence[int]]


class Limit:
    """Budgets that a candidate has to keep, asked of one candidate or of millions.

    Amounts of memory are integers (bytes) or texts such as ``"256KiB"``, counts are integers. A candidate fits if no
    metric exceeds its budget; a metric equal to its budget fits.

    Parameters
    ----------
    space : SearchSpace
    peak, total, weights : int or str, optional
        Budgets of one inference: of the activations alive at once in program order (metric ``inference_peak``), of
        weights and activations together (``inference_total``), of parameters and buffers (``weight_bytes``).
    minimum_peak : int or str, optional
        Of the activations in the best execution order.
    params, macs : int, optional
        Of trainable elements; of multiply-accumulates at `batch`, counted by `convention`.
    training : int, str or mapping of str to these, optional
        Of the peak of a training step with `optimizer`; a mapping has a budget for each optimizer that it names.
    saved : int or str, optional
        Of what backward keeps in a training step.
    batch : int
        Images of an inference.
    dtype, weight_dtype, profile, fuse, inplace
        Rules of inference, as in :func:`cnnlive.plan_inference`.
    train_batch : int, optional
        Images of a training step; by default `batch`.
    precision, device, loss, optimizer
        Rules of training, as in :func:`cnnlive.plan_training`.
    optimizer_options : mapping, optional
        Options of the optimizer, such as ``{"momentum": 0.9}``; they hold for every training budget.
    convention : str
        How multiply-accumulates are counted, see :data:`cnnlive.nas.CONVENTIONS`.
    **more
        Budgets under the full names of metrics, such as ``inference_peak=``.

    Attributes
    ----------
    space : SearchSpace
    names : tuple of str
        The metrics that have a budget, those that cost least first: the columns of :meth:`violation`.
    budgets : dict of str to int
        Metric -> budget, in that order.
    metrics : dict of str to Metric
        The same metrics with the optimizer that each training peak is for.

    Raises
    ------
    AttributeValueError
        Without any budget, for an unknown one, for one that is less than 1, and for settings of inference or training
        that no budget reads.
    UnitError
        For a text that is not an amount of bytes.
    OrderError
        For a budget of the minimum peak under a profile with ``frames``, which are of the program's order.
    ShapeError, DTypeError, UnknownProfileError, GraphError
        For settings that do not exist; as in :func:`cnnlive.nas.base.read_setting`.

    Notes
    -----
    A limit is pickled as its space and its budgets; tables that the space compiles are made again where it arrives.
    Calling a limit is calling :meth:`ok`, so that it can be given to what takes a predicate.

    Examples
    --------
    >>> from cnnlive.nas import Gene, Slot, Space
    >>> def net(g, channels):
    ...     return g.conv2d(g.input((1, 3, 32, 32)), channels, 3, padding=1, bias=False)
    >>> space = Space("toy", [Gene("channels", (16, 32, 64))], [Slot("conv", net, {"channels": "channels"})])
    >>> limit = Limit(space, peak="160KiB", params=1000)
    >>> limit
    Limit(<Space 'toy': 1 genes>, params <= 1,000, inference_peak <= 163,840 B)
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        peak: int | str | None = None,
        minimum_peak: int | str | None = None,
        total: int | str | None = None,
        weights: int | str | None = None,
        params: int | None = None,
        macs: int | None = None,
        training: int | str | Mapping[str, int | str] | None = None,
        saved: int | str | None = None,
        batch: int = 1,
        dtype: str | None = None,
        weight_dtype: str | None = None,
        profile: str | Profile = "ideal",
        fuse: bool | None = None,
        inplace: Inplace | bool | None = None,
        train_batch: int | None = None,
        precision: str | None = None,
        device: str = "cuda",
        loss: str = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        optimizer_options: Mapping[str, Any] | None = None,
        convention: str = "macs",
        **more: Any,
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise AttributeValueError(f"a limit is of a search space, not of {space!r}")
        self.space = space
        given = {
            "params": params, "macs": macs, "weights": weights, "peak": peak, "total": total, "saved": saved,
            "training": training, "minimum_peak": minimum_peak,
        }  # fmt: skip
        found = _read_budgets({k: v for k, v in given.items() if v is not None}, more)
        self.budgets: dict[str, int] = found
        self.names: tuple[str, ...] = tuple(found)
        self._optimizer: dict[str, Any] = {"optimizer": optimizer, "optimizer_options": dict(optimizer_options or {})}
        read = read_metrics(self.names, optimizer, device, **self._optimizer["optimizer_options"])
        self.metrics: dict[str, Metric] = {metric.label: metric for metric in read}
        _refuse_unread(
            found,
            dtype=dtype is not None, weight_dtype=weight_dtype is not None, profile=profile != "ideal",
            fuse=fuse is not None, inplace=inplace is not None, train_batch=train_batch is not None,
            precision=precision is not None, loss=loss != "cross_entropy", optimizer=optimizer != "adam",
            optimizer_options=bool(optimizer_options), convention=convention != "macs",
        )  # fmt: skip
        rules: dict[str, Any] = {
            "dtype": dtype, "weight_dtype": weight_dtype, "profile": profile, "fuse": fuse, "inplace": inplace,
            "precision": precision, "device": device, "loss": loss, "convention": convention,
        }  # fmt: skip
        self._inference: Setting = read_setting(batch=batch, **rules)
        self._training: Setting = read_setting(batch=batch if train_batch is None else train_batch, **rules)
        if "minimum_peak" in found and self._inference.profile.frames:
            name = self._inference.profile.name
            raise OrderError(f"minimum_peak is over all orders, and profile {name!r} counts what frames hold in "
                             "program order; allowed: a profile without frames")  # fmt: skip
        self._prepare()

    def _prepare(self) -> None:
        """Group the metrics into stages of one setting and like cost; nothing is compiled yet."""
        kinds = {label: _stage_of(self.metrics[label].name) for label in self.names}
        stages = [[label for label in self.names if kinds[label] == stage] for stage in range(2)]
        self._least = self.budgets.get("minimum_peak")
        if self._least is not None:
            # No order takes more than the best one needs: who fits in program order is done.
            stages[0] = [label for label in stages[0] if label != "inference_peak"] + ["inference_peak"]
        self._stages = [(tuple(labels), tuple(self.budgets.get(label, _TOP) for label in labels))
                        for labels in stages if labels]  # fmt: skip
        # Functions of single candidates have scratch of their own: each thread has its functions.
        self._own = _Own()

    # ------------------------------------------------------------------------------ what is asked

    def setting_of(self, label: str) -> Setting:
        """Return the settings that a metric is computed with: of inference, or of training.

        Raises
        ------
        AttributeValueError
            For an unknown metric.
        """
        (metric,) = read_metrics(_label(label))
        return self._training if metric.name in _TRAINING else self._inference

    def ok(self, x: ArrayLike) -> bool:
        """Whether one candidate fits; ends at the first budget that is exceeded.

        Parameters
        ----------
        x : (n_genes,) integers
            An array, list or tuple.

        Raises
        ------
        SpaceError
            If it is no genotype of the space.

        Notes
        -----
        The first call compiles what the space needs for single candidates; after that, a few table reads per slot in
        a space of slots. With a budget for the minimum peak, a candidate that keeps it in program order is not ordered.
        """
        first: Sequence[int] | None = None
        own = self._own
        for run, tops in own.stages or self._compile():
            found = run(x)
            for value, top in zip(found, tops, strict=True):
                if value > top:
                    return False
            if first is None:
                first = found
        if self._least is None or (first is not None and first[-1] <= self._least):
            return True
        assert own.least is not None
        return bool(own.least(x)[0] <= self._least)

    def __call__(self, x: ArrayLike) -> bool:
        """Whether one candidate fits: :meth:`ok`."""
        return self.ok(x)

    def mask(
        self,
        X: ArrayLike,  # noqa: N803 - a matrix of genotypes, as everywhere in the field
        *,
        threads: int | None = None,
        executor: Executor | None = None,
    ) -> NDArray[np.bool_]:
        """Which of many candidates fit.

        Parameters
        ----------
        X : (n, n_genes) integers
        threads, executor
            As in the space's `evaluate`.

        Returns
        -------
        (n,) bool

        Raises
        ------
        SpaceError
            Names the first row that is no genotype of the space.

        Notes
        -----
        Training is evaluated for those that fit in inference, the minimum peak for those that do not keep its budget
        in program order anyway.
        """
        x = self.space.check(X)
        keep = np.ones(len(x), bool)
        least = np.empty(0, np.int64)
        for labels, tops in self._stages:
            rows = np.nonzero(keep)[0]
            found = self._evaluate(x[rows], labels, threads, executor)
            keep[rows] = np.logical_and.reduce([found[label] <= top for label, top in zip(labels, tops, strict=True)])
            if self._least is not None and labels[-1] == "inference_peak":
                least = found["inference_peak"]
        if self._least is not None:
            # The first stage saw every row.
            rows = np.nonzero(keep & (least > self._least))[0]
            found = self._evaluate(x[rows], ("minimum_peak",), threads, executor)
            keep[rows] = found["minimum_peak"] <= self._least
        return keep

    def values(
        self,
        X: ArrayLike,  # noqa: N803
        *,
        threads: int | None = None,
        executor: Executor | None = None,
    ) -> Evaluation:
        """Evaluate every metric that has a budget: a column of n integers each, in the order of `names`."""
        x = self.space.check(X)
        found: dict[str, I64] = {}
        for labels in self._groups():
            found.update(self._evaluate(x, labels, threads, executor))
        return Evaluation({label: found[label] for label in self.names})

    def violation(
        self,
        X: ArrayLike,  # noqa: N803
        *,
        threads: int | None = None,
        executor: Executor | None = None,
    ) -> NDArray[np.float64]:
        """By how much many candidates exceed their budgets, relative to these.

        Parameters
        ----------
        X : (n, n_genes) integers
        threads, executor
            As in the space's `evaluate`.

        Returns
        -------
        (n, k) float64
            ``(value - budget) / budget``, a column per entry of `names`. A candidate fits iff its row has nothing
            above zero, exactly: the difference is taken of integers.
        """
        found = self.values(X, threads=threads, executor=executor)
        columns = [(found[label] - top) / float(top) for label, top in self.budgets.items()]
        return np.stack(columns, axis=1)

    def items(self, x: ArrayLike) -> Iterator[tuple[str, float]]:
        """Yield the name and the relative violation of each budget for one candidate, as :meth:`violation` has them.

        Raises
        ------
        SpaceError
            If `x` is no genotype of the space.
        """
        own = self._own
        if not own.groups:
            own.groups = [(labels, self._row(labels)) for labels in self._groups()]
        found: dict[str, int] = {}
        for labels, run in own.groups:
            found.update(zip(labels, run(x), strict=True))
        for label, top in self.budgets.items():
            yield label, (found[label] - top) / float(top)

    def value(self, metric: str, x: ArrayLike) -> int:
        """Evaluate one metric of one candidate, under this limit's settings; the metric needs no budget.

        Raises
        ------
        AttributeValueError
            For an unknown metric.
        SpaceError
            If `x` is no genotype of the space.
        """
        label = _label(metric)
        run = self._own.single.get(label)
        if run is None:
            run = self._own.single[label] = self._row((label,))
        return int(run(x)[0])

    def sample(self, n: int, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n members uniformly from those that fit: the space's `sample`."""
        return self.space.sample(n, limit=self, rng=rng)

    def count(self) -> int:
        """Count the members that fit: the space's `count`."""
        return self.space.count(limit=self)

    # ------------------------------------------------------------------------------ protocols of other tools

    def as_efficiency(self, metric: str) -> Efficiency:
        """Return one metric, under this limit's settings, as an object with ``get_efficiency(candidate)``.

        Parameters
        ----------
        metric : str
            A metric or the short name of its budget; it needs no budget.

        Raises
        ------
        AttributeValueError
            For an unknown metric.
        """
        label = _label(metric)
        self.setting_of(label)
        return Efficiency(self, label)

    def profile(self, sample: Mapping[str, Any]) -> float:
        """Return the largest relative violation of a sample: the protocol of NNI's profilers.

        Parameters
        ----------
        sample : mapping
            Values by names of genes, or a candidate in the space's own notation.

        Returns
        -------
        float
            At most zero iff the candidate fits, so that ``RangeProfilerFilter(limit, max=0)`` keeps what does.
            :meth:`as_efficiency` profiles one metric in its own unit.
        """
        return max(violation for _, violation in self.items(read_candidate(self.space, sample)))

    # ------------------------------------------------------------------------------ inside

    def _groups(self) -> list[tuple[str, ...]]:
        """Return the metrics that one call of the space gives: all of them, or inference and training apart."""
        if self._inference == self._training:
            return [self.names]
        apart: dict[bool, list[str]] = {}
        for label in self.names:
            apart.setdefault(self.metrics[label].name in _TRAINING, []).append(label)
        return [tuple(labels) for labels in apart.values()]

    def _arguments(self, labels: Sequence[str]) -> dict[str, Any]:
        setting = self.setting_of(labels[0])
        return {name: getattr(setting, name) for name in Setting.__slots__} | self._optimizer

    def _evaluate(
        self, x: NDArray[Any], labels: Sequence[str], threads: int | None, executor: Executor | None
    ) -> dict[str, I64]:
        if not len(x):
            return {label: np.empty(0, np.int64) for label in labels}
        return self.space.evaluate(x, labels, threads=threads, executor=executor, **self._arguments(labels))

    def _row(self, labels: tuple[str, ...]) -> Row:
        """Return a function from one genotype to the integers of some metrics of one setting."""
        make = getattr(self.space, "evaluator", None)
        if make is not None:
            run: Row = make(labels, **self._arguments(labels))
            return run
        return partial(_evaluate_row, self.space, labels, self._arguments(labels))

    def _compile(self) -> list[tuple[Row, tuple[int, ...]]]:
        own = self._own
        if self._least is not None:
            own.least = self._row(("minimum_peak",))
        own.stages = [(self._row(labels), tops) for labels, tops in self._stages]
        return own.stages

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{label} <= {top:,}{'' if label in _COUNTS else ' B'}" for label, top in self.budgets.items()
        )
        return f"Limit({self.space!r}, {shown})"


class _Own(threading.local):
    """What a thread has compiled for single candidates."""

    def __init__(self) -> None:
        self.stages: list[tuple[Row, tuple[int, ...]]] = []
        self.least: Row | None = None
        self.groups: list[tuple[tuple[str, ...], Row]] = []
        self.single: dict[str, Row] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Efficiency:
    """One metric of one candidate: what once-for-all's finders and NNI's filters ask.

    Attributes
    ----------
    limit : Limit
        Whose space and settings are meant; its budgets are not.
    label : str
        The metric; amounts of memory are bytes.
    """

    limit: Limit
    label: str

    def get_efficiency(self, candidate: Any) -> int:
        """Return the metric of a candidate: in the space's own notation, or values by names of genes.

        Raises
        ------
        SpaceError
            If it is no candidate of the space.
        """
        return self.limit.value(self.label, read_candidate(self.limit.space, candidate))

    predict_efficiency = get_efficiency
    profile = get_efficiency


def read_candidate(space: SearchSpace, candidate: Any) -> I64:
    """Return the genotype of values by names of genes, or of a candidate in the space's own notation.

    Raises
    ------
    SpaceError
        If it is neither.
    """
    if isinstance(candidate, Mapping) and candidate and candidate.keys() <= {gene.name for gene in space.genes}:
        return space.from_values(candidate)
    return space.encode(candidate)


def _evaluate_row(space: SearchSpace, labels: tuple[str, ...], how: dict[str, Any], x: ArrayLike) -> tuple[int, ...]:
    rows = space.check(x)
    if len(rows) != 1:
        raise SpaceError(f"{len(rows)} genotypes where one is expected")
    found = space.evaluate(rows, labels, **how)
    return tuple(int(found[label][0]) for label in labels)


def _stage_of(name: str) -> int:
    """Return when a metric is computed: inference, then training, then what searches orders."""
    return 2 if name == "minimum_peak" else int(name in _TRAINING)


def _label(name: str) -> str:
    return KEYWORDS.get(name, name)


def _read_budgets(given: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, int]:
    """Read budgets by metric, ordered as they are checked."""
    found: dict[str, int] = {}
    for name, amount in {**given, **{k: v for k, v in more.items() if v is not None}}.items():
        label = _label(name)
        if label not in METRICS and label.partition(":")[0] != "training_peak":
            known = dict.fromkeys([*KEYWORDS, *METRICS])
            raise AttributeValueError(f"no budget is called {name!r}{close_names(name, known)}; "
                                      f"allowed: {', '.join(known)}")  # fmt: skip
        parts = {label: amount}
        if isinstance(amount, Mapping):
            if label != "training_peak":
                raise AttributeValueError(f"{name}={amount!r}; a budget for each optimizer is for training alone")
            parts = {f"{label}:{of}": part for of, part in amount.items()}
        for key, part in parts.items():
            if key in found:
                raise AttributeValueError(f"{name!r}: metric {key!r} has two budgets")
            found[key] = _read_amount(name, label, part)
    if not found:
        raise AttributeValueError(f"a limit without a budget holds for everything; allowed: {', '.join(KEYWORDS)}")
    order = list(KEYWORDS.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[0].partition(":")[0])))


def _read_amount(name: str, label: str, amount: Any) -> int:
    counted = label in _COUNTS
    words = "an integer" if counted else "an integer or a text such as '256KiB'"
    try:
        if isinstance(amount, bool) or (counted and isinstance(amount, str)):
            raise TypeError
        number = parse_bytes(amount) if isinstance(amount, str) else operator.index(amount)
    except UnitError as error:
        raise UnitError(f"{name}: {error}") from None
    except TypeError:
        kind = AttributeValueError if counted else UnitError
        raise kind(f"{name}={amount!r} is no budget; allowed: {words}") from None
    if not 1 <= number <= _TOP:
        raise AttributeValueError(f"{name}={amount!r}; a budget is {words}, from 1 to 2**63 - 1")
    return number


def _refuse_unread(budgets: Mapping[str, int], **given: bool) -> None:
    """Refuse settings that no budget reads: whoever gave them meant another question."""
    names = {label.partition(":")[0] for label in budgets}
    infers, trains = not names.isdisjoint(_TYPED), not names.isdisjoint(_TRAINING)
    of_inference, of_training = (infers, "inference and weights"), (trains, "training")
    readers = {
        "dtype": (infers, "inference and weights (training: precision=)"),
        "weight_dtype": (infers, "inference and weights (training: precision=)"),
        "profile": of_inference, "fuse": of_inference, "inplace": of_inference,
        "train_batch": of_training, "loss": of_training,
        "precision": (trains, "training (inference: dtype=)"),
        "optimizer": ("training_peak" in budgets, "a budget training= that names no optimizer"),
        "optimizer_options": ("training_peak" in names, "the peak of training"),
        "convention": ("macs" in names, "macs"),
    }  # fmt: skip
    for name, asked in given.items():
        read, of = readers[name]
        if asked and not read:
            raise AttributeValueError(f"{name}= is of {of}; this limit has budgets for {', '.join(budgets)} only")
