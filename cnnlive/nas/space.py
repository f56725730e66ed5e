"""Search spaces as a chain of slots: builder functions that genes choose, compiled into a trellis of summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import I64
from cnnlive.errors import CnnliveError, SpaceError
from cnnlive.graph import Graph, Tensor
from cnnlive.nas.base import SearchSpace

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

    def _read_slots(self) -> None:
        if not self.slots:
            raise SpaceError(f"space {self.name!r} has no slots")
        names = [slot.name for slot in self.slots]
        for slot in self.slots:
            if not slot.name or "." in slot.name or names.count(slot.name) > 1:
                raise SpaceError(f"space {self.name!r}: slots need names of their own, without a dot, not {slot.name!r}")
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

    # evaluate, count, sample, best, pareto, walk, mutate: the trellis, see below


def build_option(g: Graph, slot: Slot, tensors: Sequence[Tensor], values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Add an option to a graph; an error names the slot, the option and the shapes."""

    def failed(why: object) -> SpaceError:
        chosen = ", ".join(f"{k}={v!r}" for k, v in values.items()) or "its only option"
        shapes = ", ".join(str(t.shape) for t in tensors) or "none"
        return SpaceError(f"slot {slot.name!r}, {chosen}, cannot be built for input shapes {shapes}: {why}")

    try:
        out = slot.build(g, *tensors, **values)
    except CnnliveError as error:
        raise failed(error) from error
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise failed(f"{type(error).__name__}: {error}") from error
    found = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Sequence) else (out,)
    for t in found:
        if not isinstance(t, Tensor) or t.graph is not g:
            raise failed(f"it returned {t!r}, not tensors of the graph")
    if not found:
        raise failed("it returned no tensor")
    return found


