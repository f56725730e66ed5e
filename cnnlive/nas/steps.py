"""The optimizer's step in bulk: its state and its peak as linear forms of the sizes of parameters.

:func:`cnnlive.plan.optimizers.step_trace` runs an optimizer's program on the parameters of one net. Run once on formal
parameters the same program tells what it costs on any: a step that goes through lists depends on how many elements
there are together, and in how many parameters; one that takes a parameter after the other on pairs of neighbours,
since what names hold of one lives until the next rebinds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from cnnlive._types import I64, Columns, Shape, column
from cnnlive.errors import AttributeValueError
from cnnlive.plan.optimizers import (
    Optimizer,
    _case,
    _Code,
    _compiled,
    _Machine,
    _Parameter,
    _parameters,
    state_from_construction,
)

__all__ = ["StepRule", "read_step", "step_of"]

# Their blocks depend on shapes, not only on how many elements there are.
_BY_SHAPE: Final = ("adafactor", "adafactor_timm", "adafactor_bv", "muon")


@dataclass(frozen=True, slots=True, eq=False)
class StepRule(Columns):
    """What a later step of an optimizer costs, for any parameters of one type; made by :func:`read_step`.

    Attributes
    ----------
    optimizer : Optimizer
    device : str
    itemsize : int
        Bytes of an element of a parameter.
    lists : bool
        Whether the step takes all parameters together; otherwise one after the other.
    state : (2,) int64
        Bytes of state per element and per parameter, step counters on the host included.
    rows : (m, 4) int64
        Of a step in lists: bytes per element, per parameter, and once; the peak is the largest of these m sums, 0 if
        there is no parameter. Of a step through one parameter after the other: bytes per element of the parameter
        before, once if there is one, per element of this parameter, and once; the peak is the largest over all
        parameters and rows. 0 at least.
    """

    optimizer: Optimizer
    device: str
    itemsize: int
    lists: bool
    state: I64
    rows: I64

    def state_bytes(self, total: ArrayLike, count: ArrayLike) -> I64:
        """Bytes of state, as `TrainingPlan.optimizer_bytes`, for `count` parameters of `total` bytes together."""
        elements = np.asarray(total, np.int64) // self.itemsize
        found: I64 = elements * self.state[0] + np.asarray(count, np.int64) * self.state[1]
        return found

    def peak(self, total: ArrayLike, count: ArrayLike) -> I64:
        """Most bytes that a step in lists makes, for `count` parameters of `total` bytes together.

        Raises
        ------
        AttributeValueError
            If the step takes one parameter after the other: then `total` does not tell.
        """
        if not self.lists:
            raise AttributeValueError(
                f"a step of {self.optimizer.name} ({self.optimizer.implementation}) takes one parameter after the other"
            )
        elements, n = np.asarray(total, np.int64) // self.itemsize, np.asarray(count, np.int64)
        best = np.zeros(np.broadcast_shapes(elements.shape, n.shape), np.int64)
        for per_element, each, once, _ in self.rows.tolist():
            np.maximum(best, per_element * elements + each * n + once, out=best)
        return np.where(n > 0, best, 0)

    def pair(self, before: ArrayLike, this: ArrayLike) -> I64:
        """Most bytes that are there while one parameter is stepped, of a step through one after the other.

        `before` and `this` are elements of the parameter before (-1: this is the first) and of this one.
        """
        b, n = np.asarray(before, np.int64), np.asarray(this, np.int64)
        best = np.zeros(np.broadcast_shapes(b.shape, n.shape), np.int64)
        for per_before, before_once, per_element, once in () if self.lists else self.rows.tolist():
            held = np.where(b >= 0, per_before * b + before_once, 0)
            np.maximum(best, held + per_element * n + once, out=best)
        return best

    def peak_of(self, elements: Sequence[int]) -> int:
        """Most bytes that a step makes on parameters of so many elements each, in the order of the optimizer."""
        if self.lists:
            return int(self.peak(sum(elements) * self.itemsize, len(elements)))
        return int(self.pair([-1, *elements[:-1]], elements).max(initial=0)) if len(elements) else 0


@lru_cache(maxsize=256)
def read_step(rule: Optimizer, device: str, itemsize: int) -> StepRule:
    """Read off an optimizer's program what a later step costs on any parameters.

    Parameters
    ----------
    rule : Optimizer
    device : {"cpu", "cuda"}
    itemsize : int
        Bytes of an element of a parameter; all have one type.

    Returns
    -------
    StepRule

    Raises
    ------
    AttributeValueError
        If blocks depend on shapes (Adafactor, Muon), or on the order in a way that lists and pairs do not tell
        (Rprop, ASGD, Lion with caution or in chunks, in lists): `step_trace` tells for one net.

    Examples
    --------
    >>> from cnnlive.plan.optimizers import read_optimizer
    >>> rule = read_step(read_optimizer("adam"), "cuda", 4)
    >>> int(rule.state_bytes(4_000, 2)), int(rule.peak(4_000, 2))
    (8008, 4000)
    """
    what = f"{rule.name} ({rule.implementation})"
    if rule.name in _BY_SHAPE:
        raise AttributeValueError(f"what a step of {what} costs depends on shapes; not known in bulk")
    # Two formal parameters, of no element and of one, tell what a kind of block is a linear form of.
    case, (none, one) = _case(rule, [(0,), (1,)], [itemsize, itemsize], device, first=False, late=False)
    program, _, body, _ = _compiled(case)
    scopes = [scope for scope, _ in body]
    chunked = program.grouped == "chunk" and case["chunk_elements"]
    if scopes not in ([], ["each"]) and (set(scopes) != {"list"} or chunked):
        raise AttributeValueError(
            f"a step of {what} goes through lists and single parameters in turn; not known in bulk"
        )
    forms = {kind: (one.sizes[kind] - none.sizes[kind], none.sizes[kind]) for kind in one.sizes}
    lists = scopes != ["each"]
    rows = _of_list([codes[0] for _, codes in body], forms) if lists else _of_each(body[0][1][0], forms, what)
    return StepRule(rule, device, itemsize, lists, column(_state(rule, device, forms)), column(rows, (len(rows), 4)))


def _state(rule: Optimizer, device: str, forms: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    # Counters on the host count too, unless they are made with the optimizer and advanced by one op for all.
    unseen = state_from_construction(rule) and rule.implementation == "foreach"
    where = device if unseen or dict(rule.options).get("capturable") else "cpu"
    case, _ = _case(rule, [], [], where, first=True, late=False)
    blocks = [forms[kind] for sign, _, kind in _compiled(case)[1][0] if sign == "!"]
    return sum(b[0] for b in blocks), sum(b[1] for b in blocks)


def _formal(forms: Mapping[str, tuple[int, int]], place: int, width: int) -> _Parameter:
    """Make a parameter whose blocks are vectors: bytes per element and bytes, at one place among several."""
    sizes: dict[str, Any] = {}
    for kind, (per_element, once) in forms.items():
        sizes[kind] = np.zeros(width, np.int64)
        sizes[kind][place : place + 2] = per_element, once
    return _Parameter(0, 0, 0, sizes)


def _peaks(machine: _Machine, start: int) -> list[tuple[int, ...]]:
    """Return the vectors of what is alive after each allocation from an event on."""
    alive = 0
    found = []
    for k, e in enumerate(machine.events):
        alive = alive + machine.nbytes[abs(e) - 1] * (1 if e > 0 else -1)
        if e > 0 and k >= start:
            found.append(tuple(int(v) for v in np.asarray(alive)))
    return found


def _largest(rows: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Keep the rows that no other one is at least as large as in every place."""
    different = list(dict.fromkeys(rows))
    return [
        a for a in different if not any(b != a and all(x >= y for x, y in zip(b, a, strict=True)) for b in different)
    ]


def _of_list(codes: Sequence[_Code], forms: Mapping[str, tuple[int, int]]) -> list[tuple[int, ...]]:
    machine = _Machine()
    every = _formal(forms, 0, 4)
    for code in codes:
        for instruction in code:
            if instruction[0] != "*":
                machine.run((instruction,), (every,))
                continue
            # One tensor for the whole list: what stands per parameter elsewhere is there once.
            single = {kind: np.array([0, 0, v[1], 0]) for kind, v in every.sizes.items()}  # type: ignore[index]
            machine.run((instruction,), (_Parameter(0, 0, 0, single),))  # type: ignore[arg-type]
    return _largest(_peaks(machine, 0))


def _of_each(code: _Code, forms: Mapping[str, tuple[int, int]], what: str) -> list[tuple[int, ...]]:
    machine = _Machine()
    starts = []
    for place in (0, 2, 4):
        starts.append(len(machine.events))
        machine.run(code, (_formal(forms, place, 6),))
    second = _peaks(machine, starts[1])[: -len(_peaks(machine, starts[2])) or None]
    third = _peaks(machine, starts[2])
    if [r[:4] for r in second] != [r[2:] for r in third] or any(any(r[:2]) for r in third):
        raise AttributeValueError(f"a step of {what} holds more than the parameter before; not known in bulk")
    return _largest([r[:4] for r in second])


def step_of(
    rule: Optimizer,
    device: str,
    itemsize: int,
    shapes: Sequence[Shape],
    held: Mapping[str, Sequence[int]] | None = None,
) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Run a later step that takes one parameter after the other on a few of them, and say what it holds then.

    So the steps of several pieces of a net compose: what one leaves is what the next starts with.

    Parameters
    ----------
    rule : Optimizer
    device : {"cpu", "cuda"}
    itemsize : int
    shapes : sequence of shapes
        Of the parameters, in the order of the optimizer.
    held : mapping of str to sequence of int, optional
        Bytes of the blocks that each name holds before the first.

    Returns
    -------
    peak : int
        Most bytes alive, those of `held` counted.
    held : dict of str to tuple of int
        Bytes of the blocks that each name holds after the last.

    Raises
    ------
    AttributeValueError
        If the step goes through lists; what :func:`cnnlive.plan.optimizers.step_trace` raises.
    """
    case, parameters = (
        _case(rule, [], [], device, first=False, late=False)[0],
        _parameters(rule, shapes, [itemsize] * len(shapes)),
    )
    _, _, body, _ = _compiled(case)
    if [scope for scope, _ in body] not in ([], ["each"]):
        raise AttributeValueError(f"a step of {rule.name} ({rule.implementation}) goes through lists")
    machine = _Machine()
    for name, blocks in (held or {}).items():
        machine.held[name] = [machine.allocate(nbytes) for nbytes in blocks]
    for _, codes in body:
        for p in parameters:
            machine.run(codes[p.cls], (p,))
    nbytes = np.array(machine.nbytes, np.int64)
    events = np.array(machine.events, np.int64)
    peak = int(np.cumsum(np.sign(events) * nbytes[np.abs(events) - 1]).max(initial=0)) if len(events) else 0
    left = {name: tuple(machine.nbytes[b - 1] for b in blocks) for name, blocks in machine.held.items() if blocks}
    return peak, left
