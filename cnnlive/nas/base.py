"""What every search space has: genes, rows of a genotype matrix, metrics, and the settings of a question."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnlive._types import I64, dtype_name
from cnnlive.errors import AttributeValueError, DTypeError, SpaceError, close_names
from cnnlive.lowered import check_batch
from cnnlive.plan.inference import plain_rules
from cnnlive.plan.optimizers import Optimizer, read_optimizer
from cnnlive.plan.training import DEVICES, PRECISIONS
from cnnlive.profiles import Inplace, Profile

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cnnlive.graph import Graph
    from cnnlive.nas.results import Evaluation

__all__ = ["CONVENTIONS", "METRICS", "Gene", "Metric", "SearchSpace", "Setting", "read_metrics", "read_setting"]

#: What `evaluate` can be asked for, and what each counts; all are integers, amounts of memory are bytes.
METRICS: Final[Mapping[str, str]] = {
    "params": "trainable parameters (elements), of the fused network where the profile fuses",
    "macs": "multiply-accumulates at the batch, by the convention",
    "weight_bytes": "parameters and buffers",
    "inference_peak": "most bytes of activations alive at once in program order: InferencePlan.activation_peak_bytes",
    "inference_total": "weights and activations together: InferencePlan.peak_bytes",
    "minimum_peak": "least activation peak over all execution orders",
    "saved": "bytes that backward keeps: TrainingPlan.saved_bytes",
    "training_peak": "peak of a training step: TrainingPlan.peak_bytes; training_peak:sgd names another optimizer",
}
#: How multiply-accumulates are counted.
CONVENTIONS: Final[Mapping[str, str]] = {
    "macs": "products of convolutions, linear layers and matrix products",
    "macs+bias": "and one per output element of a layer with a bias, as NAS-Bench-201 and pycls count",
    "flops": "twice the products: a multiplication and an addition each",
}


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision of a genotype: a name and the values it may take; a genotype holds positions in `values`.

    Examples
    --------
    >>> Gene("kernel", (3, 5, 7)).cardinality
    3
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Refuse a gene without values, and values that occur twice."""
        object.__setattr__(self, "values", tuple(self.values))
        if not self.name or not isinstance(self.name, str):
            raise SpaceError(f"a gene needs a non-empty text as name, not {self.name!r}")
        try:
            different = len(set(self.values)) == len(self.values)
        except TypeError:
            raise SpaceError(f"gene {self.name!r} has values that cannot be hashed (lists: use tuples)") from None
        if not 1 <= len(self.values) <= 32767 or not different:
            raise SpaceError(f"gene {self.name!r} has values {self.values!r}; allowed: 1 to 32,767 different ones")

    @property
    def cardinality(self) -> int:
        """Number of values."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Metric:
    """One column to compute: a name of `METRICS` and, for a training peak, the optimizer it is for."""

    label: str
    name: str
    optimizer: Optimizer | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What numbers are asked for: everything beside the candidate that they depend on. Hashable.

    Attributes
    ----------
    batch : int
    dtype, weight_dtype : str or None
        One floating type for everything, and for weights where that differs; None is as built. Inference only.
    profile : Profile
        Rules of the runtime; inference only.
    precision : str or None
        As in :func:`cnnlive.plan_training`; training only, like what follows.
    device, loss : str
    convention : str
        One of `CONVENTIONS`.
    """

    batch: int
    dtype: str | None
    weight_dtype: str | None
    profile: Profile
    precision: str | None
    device: str
    loss: str
    convention: str


def read_setting(
    *,
    batch: int = 1,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    profile: str | Profile = "ideal",
    fuse: bool | None = None,
    inplace: Inplace | bool | None = None,
    precision: str | None = None,
    device: str = "cuda",
    loss: str = "cross_entropy",
    convention: str = "macs",
) -> Setting:
    """Check the settings of a question.

    Raises
    ------
    ShapeError, DTypeError, UnknownProfileError, GraphError, AttributeValueError
        For a batch, type, profile, precision, device or convention that does not exist; says what is allowed.
    """
    rules = plain_rules(profile, fuse, inplace)
    if isinstance(dtype, Mapping):
        raise DTypeError("dtype is one type for a whole batch or space; types by name are of one graph's plan")
    if precision is not None and precision not in PRECISIONS:
        raise AttributeValueError(f"precision={precision!r}; allowed: {', '.join(map(repr, PRECISIONS))}")
    if device not in DEVICES:
        raise AttributeValueError(f"device={device!r}; allowed: {', '.join(map(repr, DEVICES))}")
    if convention not in CONVENTIONS:
        raise AttributeValueError(f"convention={convention!r}; allowed: {', '.join(map(repr, CONVENTIONS))}")
    return Setting(
        check_batch(batch),
        None if dtype is None else dtype_name(dtype),
        None if weight_dtype is None else dtype_name(weight_dtype),
        rules,
        precision,
        device,
        loss,
        convention,
    )


def read_metrics(
    metrics: str | Sequence[str], optimizer: str | Optimizer = "adam", device: str = "cuda", **options: Any
) -> tuple[Metric, ...]:
    """Check names of metrics; ``"training_peak"`` is for `optimizer`, ``"training_peak:sgd"`` for the one it names.

    `options` are the optimizer's own and hold for every training peak.

    Raises
    ------
    AttributeValueError
        For an unknown metric or optimizer, or a metric that is named twice.
    """
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    found: dict[str, Metric] = {}
    for label in names:
        name, _, of = str(label).partition(":")
        if name not in METRICS or (of and name != "training_peak"):
            raise AttributeValueError(f"unknown metric {label!r}{close_names(label, METRICS)}; allowed: "
                                      f"{', '.join(METRICS)} (training_peak:NAME for an optimizer)")  # fmt: skip
        if label in found:
            raise AttributeValueError(f"metric {label!r} is named twice")
        rule = read_optimizer(of or optimizer, device=device, **options) if name == "training_peak" else None
        found[label] = Metric(label, name, rule)
    return tuple(found.values())


@dataclass(eq=False)
class SearchSpace(abc.ABC):
    """A set of CNNs that integer genotypes name; the interface of every space.

    A genotype is a row of ``len(genes)`` integers, each a position in its gene's values; many are an (n, n_genes)
    matrix X. Genes that decide nothing in a candidate (of a block that is switched off) are *inactive*: the
    canonical genotype has 0 there, and a member of the space is a canonical genotype.

    Attributes
    ----------
    name : str
    genes : tuple of Gene
    """

    name: str
    genes: tuple[Gene, ...]
    _position: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse genes of the same name."""
        self.genes = tuple(self.genes)
        self._position = {gene.name: i for i, gene in enumerate(self.genes)}
        if len(self._position) != len(self.genes):
            raise SpaceError(f"space {self.name!r} has genes of the same name")

    @property
    def n_genes(self) -> int:
        """Length of a genotype."""
        return len(self.genes)

    @property
    def cardinalities(self) -> I64:
        """(n_genes,) number of values of each gene."""
        return np.array([gene.cardinality for gene in self.genes], np.int64)

    def check(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 - a matrix of genotypes, as everywhere in the field
        """Return genotypes as an (n, n_genes) integer matrix, checked; one row is a matrix of one.

        Raises
        ------
        SpaceError
            If the shape, the type or a value is impossible; names the first offending row and gene.
        """
        x = np.asarray(X)
        if x.ndim == 1 and x.shape[0] == self.n_genes and (x.size or not self.n_genes):
            x = x[None, :]
        if not self.n_genes and x.ndim == 2 and not x.size:
            return np.zeros((len(x), 0), np.int16)
        if x.size == 0 and x.ndim <= 2 and (x.ndim < 2 or x.shape[1] in (0, self.n_genes)):
            return np.zeros((0, self.n_genes), np.int16)
        if x.ndim != 2 or x.shape[1] != self.n_genes:
            raise SpaceError(f"genotypes of space {self.name!r} have shape {x.shape}; allowed: (n, {self.n_genes})")
        if x.dtype.kind not in "iu":
            raise SpaceError(f"genotypes of space {self.name!r} are of type {x.dtype}; allowed: integers")
        top = self.cardinalities
        low, high = x.min(axis=0), x.max(axis=0)
        if ((low < 0) | (high.astype(np.uint64) >= top.astype(np.uint64))).any():
            bad = (x < 0) | (x >= top if x.dtype.kind == "i" else x.astype(np.uint64) >= top.astype(np.uint64))
            row, column = (int(k[0]) for k in np.nonzero(bad))
            gene = self.genes[column]
            raise SpaceError(f"row {row} of the genotypes has {x[row, column]} at gene {gene.name!r} (column "
                             f"{column}); allowed: 0 to {gene.cardinality - 1}, for {_shown(gene.values)}")  # fmt: skip
        return x

    def row(self, x: ArrayLike) -> tuple[int, ...]:
        """Return one checked genotype as integers.

        Raises
        ------
        SpaceError
            If it is not one genotype of this space.
        """
        found = self.check(x)
        if len(found) != 1:
            raise SpaceError(f"{len(found)} genotypes where one is expected")
        return tuple(int(v) for v in found[0])

    def values(self, x: ArrayLike) -> dict[str, Any]:
        """Return what a genotype says: the value of each gene by name."""
        return {gene.name: gene.values[v] for gene, v in zip(self.genes, self.row(x), strict=True)}

    def from_values(self, values: Mapping[str, Any]) -> I64:
        """Return the genotype with these values of its genes; genes that are left out have their first value.

        Raises
        ------
        SpaceError
            For an unknown gene or value; says what is allowed.
        """
        x = np.zeros(self.n_genes, np.int64)
        for name, value in values.items():
            if name not in self._position:
                raise SpaceError(f"space {self.name!r} has no gene {name!r}{close_names(name, self._position)}")
            gene = self.genes[self._position[name]]
            if value not in gene.values:
                raise SpaceError(f"gene {name!r} has no value {value!r}; allowed: {_shown(gene.values)}")
            x[self._position[name]] = gene.values.index(value)
        return x

    def random(self, n: int, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n canonical genotypes, each gene uniformly and by itself (members with inactive genes more often).

        `sample` draws members uniformly.
        """
        rng = np.random.default_rng(rng)
        drawn: I64 = self.canonical(rng.integers(0, self.cardinalities, (n, self.n_genes), dtype=np.int64))
        return drawn

    def canonical(self, X: ArrayLike) -> I64:  # noqa: N803
        """Return genotypes with 0 where a gene decides nothing; two rows are the same net iff these are equal."""
        return self.check(X).astype(np.int64)

    def encode(self, native: Any) -> I64:
        """Return the genotype of a candidate in the space's own notation; here a mapping of gene to value."""
        row: I64 = self.canonical(self.from_values(native))[0]
        return row

    def decode(self, x: ArrayLike) -> Any:
        """Return a genotype in the space's own notation; here a mapping of gene to value."""
        return self.values(self.canonical(x)[0])

    @abc.abstractmethod
    def graph(self, x: ArrayLike) -> Graph:
        """Build the whole network of one candidate: what planners give for it equals what `evaluate` gives."""

    @abc.abstractmethod
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
        """Evaluate many candidates: a column of n integers per metric, see `METRICS`; settings see `read_setting`."""

    @abc.abstractmethod
    def count(self, limit: Any = None) -> int:
        """Count the members that fit a limit, or all; an exact integer of any size."""

    @abc.abstractmethod
    def sample(self, n: int, limit: Any = None, *, rng: np.random.Generator | int | None = None) -> I64:
        """Draw n members uniformly from those that fit."""

    def members(self, chunk: int = 65536) -> Iterator[I64]:
        """Yield every member, in chunks of rows in ascending order.

        Raises
        ------
        SpaceError
            If there are more than 2**31: a loop over them would not end.
        """
        cards = self.cardinalities
        total = int(np.prod(cards.astype(object))) if len(cards) else 1
        if total > 1 << 31:
            raise SpaceError(f"space {self.name!r} has up to {total:,} members, too many to list")
        for start in range(0, total, chunk):
            index = np.arange(start, min(start + chunk, total), dtype=np.int64)
            raw = np.empty((len(index), self.n_genes), np.int64)
            rest = index.copy()
            for g in range(self.n_genes - 1, -1, -1):
                rest, raw[:, g] = np.divmod(rest, cards[g])
            yield raw[(self.canonical(raw) == raw).all(axis=1)]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.n_genes} genes>"


def _shown(values: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, values[:12]))
    return shown + (f", ... ({len(values)} values)" if len(values) > 12 else "")
