"""One option of one slot by itself: a piece of a network between placeholders, and what it adds to the whole.

A *boundary* is what one slot hands to the next: tensors, and what both sides have to agree on. Forward, that is how a
tensor lies in memory and who holds it (a state `f`); from behind, whether it is read again and which gradient comes in
(a state `b`). A :class:`Part` measures a piece of network under one setting: from ``f`` and the state behind it to the
state in front of it and a few numbers. Numbers of pieces in a row compose: most add up; a peak is
``max(own + what lies behind, lead + peak of the rest)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive._kernels.liveness import live_ranges, peak_of
from cnnlive._types import I64, ITEMSIZE, Shape, column, frozen
from cnnlive.errors import AttributeValueError, CnnliveError, SpaceError
from cnnlive.graph import Graph, Tensor
from cnnlive.lowered import Lowered, lower
from cnnlive.nas.base import Setting
from cnnlive.nas.steps import StepRule, read_step, step_of
from cnnlive.plan.inference import eager_scratch, held_table, shares_of, stored_bytes
from cnnlive.plan.optimizers import Optimizer
from cnnlive.plan.order import plan_order
from cnnlive.plan.training import Seeds, run_tape, step_state_bytes, tape_bytes
from cnnlive.tape import Carried, Leaf, Piece, PieceTape, record_piece

__all__ = [
    "NONE",
    "START",
    "Boundary",
    "Counts",
    "Fragment",
    "Inference",
    "Measured",
    "Minimum",
    "Part",
    "Step",
    "Training",
    "build_fragment",
    "build_key",
    "build_option",
]

#: What stands for "no such peak".
NONE: Final = -(1 << 62)

# No dead buffer is used again.
_NOTHING_ALIKE: Final = column([])


class Place(NamedTuple):
    """A tensor at a boundary, as the builder of the next slot sees it."""

    shape: Shape
    dtype: str
    is_input: bool


@dataclass(frozen=True, slots=True)
class Boundary:
    """What one slot hands to the next: distinct tensors, and which of them stands at each position."""

    places: tuple[Place, ...]
    at: tuple[int, ...]

    def __str__(self) -> str:
        return ", ".join(str(self.places[k].shape) for k in self.at) or "none"


START: Final = Boundary((), ())


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """The ops of one option between placeholders.

    Attributes
    ----------
    net : Lowered
        Its first ops are the placeholders of the tensors that come in.
    before, behind : Boundary
        What comes in, and what is handed on.
    last : bool
        Whether what it hands on are the network's outputs.
    passed : tuple of int
        Per tensor handed on: the tensor that came in, if it is that one itself; -1: made here.
    label : str
        Slot and option, for errors.
    """

    net: Lowered
    before: Boundary
    behind: Boundary
    last: bool
    passed: tuple[int, ...]
    label: str

    @property
    def n_given(self) -> int:
        """Number of placeholders."""
        return len(self.before.places)


def build_option(g: Graph, slot: Any, tensors: Sequence[Tensor], values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Add an option to a graph.

    Raises
    ------
    SpaceError
        If it cannot be built; names the slot, the option and the shapes that it is given.
    """

    def failed(why: object) -> SpaceError:
        shapes = ", ".join(str(t.shape) for t in tensors) or "none"
        return SpaceError(f"{label(slot, values)} cannot be built for input shapes {shapes}: {why}")

    try:
        out = slot.build(g, *tensors, **values)
    except CnnliveError as error:
        raise failed(error) from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise failed(f"{type(error).__name__}: {error}") from error
    found = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, Sequence) else (out,)
    for t in found:
        if not isinstance(t, Tensor) or t.graph is not g:
            raise failed(f"it returned {t!r}, not tensors of the graph")
    if not found:
        raise failed("it returned no tensor")
    return found


def label(slot: Any, values: Mapping[str, Any]) -> str:
    """Name an option in words."""
    chosen = ", ".join(f"{k}={v!r}" for k, v in values.items())
    return f"slot {slot.name!r}" + (f", option {chosen}," if chosen else "")


def build_key(build: Callable[..., Any]) -> Any:
    """Return what makes two builder functions the same: partials of one function with equal arguments are."""
    if not isinstance(build, partial):
        return build
    key = (build_key(build.func), build.args, tuple(sorted(build.keywords.items())))
    try:
        hash(key)
    except TypeError:  # arguments that cannot be compared this way: the same only as itself
        return build
    return key


_SCOPE: Final = "slot"


def build_fragment(slot: Any, values: Mapping[str, Any], before: Boundary, last: bool, first: bool) -> Fragment:
    """Build an option between placeholders for what it is given.

    Raises
    ------
    SpaceError
        If the option cannot be built for these shapes, adds an input to the network although it is not the first
        slot, or hands on a stored parameter.
    """
    g = Graph(slot.name)
    given = [g.input(p.shape, p.dtype, name=f"given.{k}") for k, p in enumerate(before.places)]
    with g.scope(_SCOPE):
        out = build_option(g, slot, [given[k] for k in before.at], values)
    what = label(slot, values)
    for name in g.nodes()[len(given) :]:
        if g.op_of(name) == "input" and not first:
            raise SpaceError(f"{what} adds an input of the network; allowed in the first slot only")
    distinct = {(t.node, t.output): t for t in out}
    number = {key: k for k, key in enumerate(distinct)}
    was_given = {(t.node, t.output): k for k, t in enumerate(given)}
    places = []
    for key, t in distinct.items():
        op = g.op_of(t.node)
        if op == "parameter":
            raise SpaceError(f"{what} hands on a stored parameter, {t.node!r}")
        is_input = before.places[was_given[key]].is_input if key in was_given else op == "input"
        places.append(Place(t.shape, t.dtype, is_input))
    g.output(*distinct.values())
    try:
        net = lower(g)
    except CnnliveError as error:
        raise SpaceError(f"{what} cannot be built for input shapes {before}: {error}") from error
    behind = Boundary(tuple(places), tuple(number[t.node, t.output] for t in out))
    passed = tuple(was_given.get(key, -1) for key in distinct)
    return Fragment(net, before, behind, last, passed, what)


class Measured(NamedTuple):
    """What a part finds of a fragment: the state in front of it, and its numbers."""

    b: tuple[Any, ...]
    numbers: tuple[int, ...]


class Part:
    """One kind of question about a fragment, under one setting.

    Attributes
    ----------
    adds : tuple of str
        Names of the numbers that add up, first among `Measured.numbers`.
    peaks : tuple of (str, str)
        Name of each peak, and the number of the pieces behind that lies on top of it ("": none). In
        `Measured.numbers` each takes two places: its own bytes, and its lead.
    """

    adds: tuple[str, ...] = ()
    peaks: tuple[tuple[str, str], ...] = ()
    start: tuple[Any, ...] = ()
    end: tuple[Any, ...] = ()

    def forward(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the state behind a fragment."""
        return ()

    def final(self, fragment: Fragment) -> tuple[Any, ...]:
        """Return the state behind the last fragment, as seen from behind."""
        return ()

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Measure a fragment between the state in front of it and the state behind it."""
        raise NotImplementedError


class _Chain(NamedTuple):
    """How far fusion has come at the op that made a tensor at a boundary."""

    stage: int  # 0: it joins nothing; 1: a convolution or linear layer; 2: and a normalisation
    biased: bool  # the base has a bias


_NO_CHAIN: Final = _Chain(0, False)


def _reader(net: Lowered, tensor: int) -> int:
    """Return the first op that reads a tensor."""
    return int(np.searchsorted(net.in_ptr, np.flatnonzero(net.in_idx == tensor)[0], side="right")) - 1


def _begun(fragment: Fragment, chains: Sequence[_Chain], handed: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """Return the placeholders whose chain the fragment goes on with.

    Raises
    ------
    SpaceError
        If the tensor is also handed on, but never read again: whether it joins is not known here.
    """
    net, found = fragment.net, []
    for k, chain in enumerate(chains):
        if not chain.stage or net.reads[k] != 1:
            continue
        reader = _reader(net, k)
        if net.fold[reader] <= chain.stage or net.in_ptr[reader + 1] - net.in_ptr[reader] != 1:
            continue
        again = [handed[j] for j, was in enumerate(fragment.passed) if was == k]
        if again and not any(again):
            raise SpaceError(f"{fragment.label} hands a tensor on that nobody reads, and {net.op_names[reader]} would "
                             "join the op that made it if it were not handed on")  # fmt: skip
        if not again:
            found.append((k, chain.stage))
    return tuple(found)


def _chains(fragment: Fragment, net: Lowered, before: Sequence[_Chain]) -> tuple[_Chain, ...]:
    """Return how far fusion has come at the tensors that a fragment hands on; `net` is its fused net."""
    found = []
    plain = fragment.net
    for k, t in enumerate(net.outputs.tolist()):
        was = fragment.passed[k]
        if was >= 0:
            found.append(before[was])
            continue
        base = int(net.producer[t])
        stage = int(plain.fold[plain.producer[plain.outputs[k]]])
        if base < fragment.n_given:  # what is made here vanished into what was given
            found.append(_Chain(stage, before[base].biased or stage == 2) if stage < 3 else _NO_CHAIN)
        elif net.fold[base] == 1 and stage < 3:
            found.append(_Chain(stage, bool(net.weight_rule[base, 2])))
        else:
            found.append(_NO_CHAIN)
    return tuple(found)


@dataclass(frozen=True)
class Counts(Part):
    """Parameters, multiply-accumulates and bytes of weights: sums.

    State forward, where fusion joins ops: how far it has come at each tensor; from behind: whether it is read again.
    """

    setting: Setting
    adds: tuple[str, ...] = ("params", "macs", "weight_bytes")

    def forward(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return how far fusion has come at what the fragment hands on."""
        if not self.setting.profile.fuse:
            return ()
        handed = (True,) * len(fragment.passed)
        return _chains(fragment, fragment.net.fused(_begun(fragment, f, handed)), f)

    def final(self, fragment: Fragment) -> tuple[Any, ...]:
        """Say that outputs of the network live to the end."""
        return (True,) * len(fragment.behind.places) if self.setting.profile.fuse else ()

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Count a fragment."""
        net, setting = fragment.net, self.setting
        stored = setting.dtype if setting.weight_dtype is None else setting.weight_dtype
        extra = bias_macs = 0
        whole = net
        if setting.profile.fuse:
            begun = _begun(fragment, f, b)
            whole = net.fused(begun)
            # The bias that a normalisation gives to a base without one, of which an earlier slot knows nothing.
            for k, _ in begun:
                reader = _reader(net, k)
                if net.fold[reader] == 2 and not f[k].biased:
                    extra += int(net.sizes.dims[k, 1])
                    bias_macs += int(net.sizes_at(setting.batch).numel[k])
        parameters, statistics, counters = stored_bytes(whole, stored)
        parameters += extra * int(whole.weight_itemsizes(stored)[:1].max(initial=0))
        weights = parameters + statistics + (counters if setting.profile.batch_counters else 0)
        macs = convention_macs(whole, setting) + (bias_macs if setting.convention == "macs+bias" else 0)
        front = read_again(fragment, whole, b) if setting.profile.fuse else ()
        return Measured(front, (whole.n_parameters + extra, macs, weights))


def read_again(fragment: Fragment, net: Lowered, b: Sequence[bool]) -> tuple[bool, ...]:
    """Return whether a fragment, or what lies behind it, reads each tensor that comes in."""
    n = fragment.n_given
    read = (net.reads[:n] > 0).tolist()
    for t, again in zip(net.outputs.tolist(), b, strict=True):
        if t < n:
            read[t] |= again
    return tuple(map(bool, read))


def convention_macs(net: Lowered, setting: Setting) -> int:
    """Count multiply-accumulates at the batch by the convention of a setting."""
    macs = net.macs(setting.batch)
    if setting.convention == "flops":
        return 2 * macs
    if setting.convention == "macs+bias":
        with_bias = (net.macs_rule > 0) & (net.macs_rule < 3) & (net.weight_rule[:, 2] > 0)
        macs += int(net.sizes_at(setting.batch).numel[net.out_ptr[:-1][with_bias]].sum())
    return macs


class _Lies(NamedTuple):
    """How a tensor at a boundary lies in memory, in inference."""

    nbytes: int  # of the buffer behind it
    kept: bool  # the caller holds it: a network input that stays
    part: bool  # it is a view of a part of its buffer
    chain: _Chain


@dataclass(frozen=True)
class Inference(Part):
    """Activation peak in program order; a number ``inference_peak``.

    State from behind: whether each tensor is read again. Where the caller keeps the network's input its bytes are
    the lead of the first slot and count nowhere else.
    """

    setting: Setting
    peaks: tuple[tuple[str, str], ...] = (("inference_peak", ""),)

    def _net(self, fragment: Fragment, f: tuple[Any, ...], b: Sequence[bool]) -> Lowered:
        if not self.setting.profile.fuse:
            return fragment.net
        return fragment.net.fused(_begun(fragment, [lies.chain for lies in f], b))

    def forward(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return how what the fragment hands on lies in memory."""
        net = self._net(fragment, f, (True,) * len(fragment.passed))
        chains = [_NO_CHAIN] * len(fragment.passed)
        if self.setting.profile.fuse:
            chains = list(_chains(fragment, net, [lies.chain for lies in f]))
        nbytes, buffer, _, _ = self._lives(fragment, net, f, (True,) * len(fragment.behind.places))
        lies: list[_Lies] = []
        outs = net.outputs.tolist()
        roots = buffer[outs].tolist()
        if len(set(roots)) < len(roots):
            names = ", ".join(net.tensor_name(t) for t in outs)
            raise SpaceError(f"{fragment.label} hands on different tensors that share bytes ({names}); hand one on")
        for k, (t, root) in enumerate(zip(outs, roots, strict=True)):
            was = fragment.passed[k]
            if was >= 0:
                lies.append(f[was])
                continue
            origin = f[root] if root < fragment.n_given else None
            kept = origin.kept if origin else bool(net.kind[root] == 1 and self.setting.profile.keeps_inputs)
            size = origin.nbytes if origin else int(nbytes[root])
            item = int(net.itemsizes(self.setting.dtype)[t])
            whole = int(net.sizes_at(self.setting.batch).numel[t]) * item
            lies.append(_Lies(size, kept, size != whole, chains[k]))
        return tuple(lies)

    def final(self, fragment: Fragment) -> tuple[Any, ...]:
        """Say that outputs of the network live to the end."""
        return (True,) * len(fragment.behind.places)

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Measure the peak while the fragment runs."""
        net = self._net(fragment, f, b)
        n = fragment.n_given
        self._check(fragment, f)
        nbytes, _, born, dead = self._lives(fragment, net, f, b)
        rules = self.setting.profile
        sizes = net.sizes_at(self.setting.batch)
        scratch = eager_scratch(net, sizes) if rules.pool_indices else net.scratch
        timeline = np.empty(net.n_ops, np.int64)
        peak_of(column(np.arange(net.n_ops)), nbytes, born, dead, scratch, timeline)
        own = int(timeline[n:].max(initial=0))
        stays = (net.kind == 1) & (net.producer >= n) if rules.keeps_inputs else np.zeros(net.n_tensors, bool)
        return Measured(read_again(fragment, net, b), (own, int(nbytes[stays].sum())))

    def _check(self, fragment: Fragment, f: tuple[Any, ...]) -> None:
        """Refuse what does not come apart at the boundary."""
        if self.setting.profile.inplace == "dead" and any(lies.part for lies in f):
            raise SpaceError(f"{fragment.label} is given a view of a part of a tensor, which inplace='dead' may "
                             f"overwrite or not; hand the whole tensor on")  # fmt: skip

    def _lives(
        self, fragment: Fragment, net: Lowered, f: tuple[Any, ...], read_again: tuple[bool, ...]
    ) -> tuple[I64, I64, I64, I64]:
        rules = self.setting.profile
        nbytes = net.sizes_at(self.setting.batch).numel * net.itemsizes(self.setting.dtype)
        share, _ = shares_of(net, rules)
        held = held_table(rules)[net.kind]
        for k, lies in enumerate(f):
            nbytes[k] = 0 if lies.kept else lies.nbytes
            held[k] = 6 if lies.kept else 0
        for t, again in zip(net.outputs.tolist(), read_again, strict=True):
            held[t] |= 4 * again
        n_tensors = net.n_tensors
        buffer, uses, born, dead, inside, freed = (np.zeros(n_tensors, np.int64) for _ in range(6))
        in_ptr, in_idx, reads = net.held_reads() if rules.frames else (net.in_ptr, net.in_idx, net.reads)
        live_ranges(column(np.arange(net.n_ops)), in_ptr, in_idx, net.out_ptr, share, reads, frozen(held),
                    frozen(nbytes), rules.inplace == "dead", _NOTHING_ALIKE, buffer, uses, born, dead, inside,
                    freed)  # fmt: skip
        return nbytes, frozen(buffer), frozen(born), frozen(dead)


class _Store(NamedTuple):
    """A storage at a boundary, in training."""

    nbytes: int
    held: bool  # backward nodes of earlier slots hold it
    packed: bool  # earlier ops keep it, also where the loss does not lead


class _Gradient(NamedTuple):
    """The gradient that comes in for a tensor at a boundary."""

    handle: int
    store: int
    form: int
    nbytes: int
    shared: int  # holders of its storage beside the handles of the boundary
    elsewhere: bool  # it is the gradient of a parameter at the same time, counted there


@dataclass(frozen=True)
class Training(Part):
    """A training step up to the optimizer.

    Numbers: ``static`` (parameters, buffers, inputs, targets), ``gradients``, ``behind`` (gradients and what else
    stays once backward has passed), ``leaves`` (trained parameters), ``saved``; peaks ``forward``, ``loss`` (under
    autocast, whose casts of weights are gone by then) and ``backward``.

    State forward: what autograd knows of each tensor, and its storage; from behind: whether it is read again, and the
    gradient that comes in.
    """

    setting: Setting
    dtype: str | None
    autocast: str | None
    adds: tuple[str, ...] = ("static", "gradients", "behind", "leaves", "saved")
    peaks: tuple[tuple[str, str], ...] = (("forward", ""), ("loss", ""), ("backward", "behind"))
    _tapes: dict[Any, PieceTape] = field(default_factory=dict, repr=False, compare=False)
    _leaves: dict[int, tuple[Leaf, ...]] = field(default_factory=dict, repr=False, compare=False)

    def _tape(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> PieceTape:
        outs = fragment.net.outputs.tolist()
        tensors, stores = f or ((), ())
        handed = tuple(t for t, (again, _) in zip(outs, b, strict=True) if again)
        wanted = tuple(t for t, (_, gradient) in zip(outs, b, strict=True) if gradient is not None)
        piece = Piece(tensors, tuple(s.nbytes for s in stores), tuple(s.held for s in stores), handed, wanted,
                      fragment.last)  # fmt: skip
        key = (id(fragment), piece)
        found = self._tapes.get(key)
        if found is None:
            try:
                found = record_piece(fragment.net, piece, device=self.setting.device, dtype=self.dtype,
                                     autocast=self.autocast, loss=self.setting.loss)  # fmt: skip
            except CnnliveError as error:
                raise SpaceError(f"{fragment.label}: {error}") from error
            self._tapes[key] = found
            self._leaves[id(fragment)] = found.tape.leaves
        return found

    def leaves_of(self, fragment: Fragment) -> tuple[Leaf, ...]:
        """Return the parameters of a fragment that has been measured."""
        return self._leaves[id(fragment)]

    def forward(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what autograd knows of what the fragment hands on."""
        if fragment.last:
            return ()
        hypothetical = ((True, True),) * len(fragment.behind.places)
        piece = self._tape(fragment, f, hypothetical)
        stores = f[1] if f else ()
        nbytes = tape_bytes(piece.tape, fragment.net.sizes_at(self.setting.batch).dims)[piece.tape.store_spec]
        number: dict[int, int] = {}
        tensors: list[Carried] = []
        for t in fragment.net.outputs.tolist():
            known = piece.carried[t]
            s = piece.stores[t]
            at = number.setdefault(s, len(number)) if s >= 0 else -1
            tensors.append(Carried(known.dtype, known.grad, known.layout, known.view, at))
        held = []
        for s in number:
            before = stores[s] if s < len(stores) else _Store(0, False, False)
            held.append(_Store(int(nbytes[s]), before.held or s in piece.held, before.packed or s in piece.packed))
        return tuple(tensors), tuple(held)

    def final(self, fragment: Fragment) -> tuple[Any, ...]:
        """Say that outputs are read by the loss, which is part of the last fragment."""
        return ((True, None),) * len(fragment.behind.places)

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Run a fragment forward and backward."""
        piece = self._tape(fragment, f, b)
        tape, net, n = piece.tape, fragment.net, fragment.n_given
        tensors, stores = f or ((), ())
        outs = net.outputs.tolist()
        if fragment.last and any(0 <= piece.stores[t] < len(stores) for t in outs):
            raise SpaceError(f"{fragment.label} hands an output of the network on that an earlier slot made; training "
                             "needs them made by the last slot")  # fmt: skip
        run = run_tape(tape, net.sizes_at(self.setting.batch).dims, None if fragment.last else _seeds(piece, outs, b))
        answer = run.answer.tolist()
        n_stores = len(tape.store_spec)
        handed = np.zeros(n_stores, bool)
        handed[[s for s in (piece.stores[t] for t in outs) if s >= 0]] = not fragment.last
        nbytes = run.nbytes[:n_stores]
        alive = tape.store_refs - np.bincount(tape.drop_idx, minlength=n_stores) > 0
        kept = int(nbytes[alive & ~handed].sum())
        cast = np.zeros(n_stores, bool)
        cast[list(piece.cast_stores)] = True
        casts = int(nbytes[cast & ~alive & ~handed].sum())
        # What is left at the end: below, of what came in, earlier slots' nodes hold; gradients are handed forward.
        given_alive = sum(int(nbytes[s]) for s in range(len(stores)) if run.refs[s] > 0)
        left = answer[16] + answer[17] - given_alive if fragment.last else 0
        loss = NONE
        ahead = answer[3]
        if fragment.last and self.autocast is not None:
            ahead = int(run.forward[: piece.n_forward].max(initial=0))
            loss = int(run.forward[piece.n_forward :].max(initial=0))
        front, incoming = _gradients(run, piece.values[:n])
        if fragment.last:
            left -= incoming
        elif answer[16] + answer[17] != given_alive + incoming:
            raise SpaceError(f"{fragment.label} leaves {answer[16] + answer[17] - given_alive - incoming} bytes behind "
                             "once backward has passed; it cannot be measured by itself")  # fmt: skip
        if answer[15] != tape.gradient_bytes:
            raise SpaceError(f"{fragment.label}: its gradients take {answer[15]} bytes, not {tape.gradient_bytes}")
        packed = {k for k, s in enumerate(stores) if s.packed}
        saved = sum(int(nbytes[s]) for s in tape.saved_stores.tolist() if s not in packed)
        static = tape.parameter_bytes + tape.buffer_bytes
        static += int(run.spec_nbytes[tape.inputs].sum()) + int(run.spec_nbytes[tape.targets].sum())
        leaves = sum(leaf.trainable and leaf.name != "input" for leaf in tape.leaves)
        reads = net.reads[:n] > 0
        again = [bool(reads[k]) for k in range(n)]
        for k, was in enumerate(fragment.passed):
            if was >= 0:
                again[was] |= b[k][0]
        for k, (known, gradient) in enumerate(zip(tensors, front, strict=True)):
            if known.grad and again[k] and gradient is None:
                raise SpaceError(f"{fragment.label} is given a tensor of shape {fragment.before.places[k].shape} that "
                                 "gets no gradient from it and what follows")  # fmt: skip
        numbers = (
            static, answer[15], answer[15] + left, leaves, saved,
            ahead, kept + casts, loss, kept, answer[9], kept,
        )  # fmt: skip
        return Measured(tuple(zip(again, front, strict=True)), numbers)


def _seeds(piece: PieceTape, outs: Sequence[int], b: tuple[Any, ...]) -> Seeds:
    """Return the gradients that come in, for the kernel."""
    value, handle = [], []
    handles: dict[int, tuple[int, int]] = {}
    stores: dict[int, tuple[int, int]] = {}
    for t, (_, gradient) in zip(outs, b, strict=True):
        if gradient is not None:
            value.append(piece.values[t])
            handle.append(gradient.handle)
            handles[gradient.handle] = (gradient.store, gradient.form)
            counted = 0 if gradient.elsewhere else gradient.nbytes
            stores[gradient.store] = (counted, gradient.shared)
    assert list(handles) == list(range(len(handles)))
    assert list(stores) == list(range(len(stores)))
    return Seeds(
        column(value), column(handle), column([s for s, _ in handles.values()]),
        column([form for _, form in handles.values()]), column([nbytes for nbytes, _ in stores.values()]),
        column([refs for _, refs in stores.values()]),
    )  # fmt: skip


def _gradients(run: Any, values: Sequence[int]) -> tuple[list[_Gradient | None], int]:
    """Return the gradient that waits for each tensor that came in, and the bytes of their storages."""
    number: dict[int, int] = {}
    store_number: dict[int, int] = {}
    found: list[_Gradient | None] = []
    at = [int(run.buffer[v]) for v in values]
    holders: dict[int, int] = {}
    for h in dict.fromkeys(h for h in at if h >= 0):
        holders[int(run.handle_store[h])] = holders.get(int(run.handle_store[h]), 0) + 1
    for h in at:
        if h < 0:
            found.append(None)
            continue
        s = int(run.handle_store[h])
        found.append(
            _Gradient(
                number.setdefault(h, len(number)), store_number.setdefault(s, len(store_number)),
                int(run.handle_form[h]), int(run.nbytes[s]), int(run.refs[s]) - holders[s], bool(run.kind[s] == 2),
            )
        )  # fmt: skip
    counted = sum(int(run.nbytes[s]) for s in store_number if run.kind[s] != 2)
    return found, counted


@dataclass(frozen=True)
class Minimum(Inference):
    """Least activation peak over all execution orders; a number ``minimum_peak``.

    Boundaries are cut points: one tensor, that everything before leads to and everything behind comes from. So the
    least peak of the whole is the largest of the pieces' least peaks.
    """

    peaks: tuple[tuple[str, str], ...] = (("minimum_peak", ""),)

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Find the least peak of a fragment."""
        rules, n = self.setting.profile, fragment.n_given
        net = self._net(fragment, f, b)
        self._check(fragment, f)
        _cuts(fragment, net)
        if any(lies.kept or lies.part for lies in f):
            raise SpaceError(f"{fragment.label}: the least peak over all orders is not known where slots hand the "
                             "network's input on, or a part of a tensor")  # fmt: skip
        stays = (net.kind == 1) & rules.keeps_inputs & (n == 0)
        nbytes = net.sizes_at(self.setting.batch).numel * net.itemsizes(self.setting.dtype)
        # A placeholder is no input that the caller keeps: it goes after its last reader.
        plan = plan_order(net, batch=self.setting.batch, dtype=self.setting.dtype,
                          profile=replace(rules, fuse=False, keeps_inputs=rules.keeps_inputs and n == 0))  # fmt: skip
        if not plan.optimal:
            raise SpaceError(f"{fragment.label}: the least peak over all orders is between {plan.lower_bound:,} and "
                             f"{plan.peak_bytes:,} bytes, not proven in {plan.n_states:,} states")  # fmt: skip
        return Measured((True,) * n, (plan.peak_bytes, int(nbytes[stays].sum())))


def _cuts(fragment: Fragment, net: Lowered) -> None:
    """Refuse a fragment in which an op hangs loose: it could run before or behind the fragment."""
    n = fragment.n_given
    if n > 1 or len(net.outputs) > 1:
        raise SpaceError(f"{fragment.label} stands between {n} and {len(net.outputs)} tensors; the least peak over all "
                         "orders is known in slots that take and give one")  # fmt: skip
    from_given = np.zeros(net.n_ops, bool)
    to_end = np.zeros(net.n_ops, bool)
    to_end[net.producer[net.outputs]] = True
    rows = [net.producer[net.in_idx[net.in_ptr[op] : net.in_ptr[op + 1]]] for op in range(net.n_ops)]
    for op in range(net.n_ops):
        from_given[op] = op < n or bool(from_given[rows[op]].any())
    for op in range(net.n_ops - 1, -1, -1):
        if to_end[op]:
            to_end[rows[op]] = True
    loose = ~to_end | (~from_given & (n > 0))
    loose[net.kind[net.out_ptr[:-1]] == 2] = False
    if loose.any():
        op = int(np.flatnonzero(loose)[0])
        raise SpaceError(f"{fragment.label}: {net.op_names[op]} does not lie between what comes in and what is handed "
                         "on; the least peak over all orders is not known")  # fmt: skip


@dataclass(frozen=True)
class Step(Part):
    """A step of an optimizer that is not the first.

    Numbers: ``state``; of one that takes a parameter after the other also the peak ``step``. State forward, of the
    latter: what the names of PyTorch's loop hold when the slot's first parameter comes.
    """

    training: Training
    optimizer: Optimizer
    number: int
    rule: StepRule | None = field(init=False)
    adds: tuple[str, ...] = field(init=False)
    peaks: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Read the optimizer's program."""
        setting = self.training.setting
        item = 4 if self.training.dtype is None else ITEMSIZE[self.training.dtype]
        rule: StepRule | None
        try:
            rule = read_step(self.optimizer, setting.device, item)
        except AttributeValueError:
            step_of(self.optimizer, setting.device, item, [])  # raises where it does not compose
            rule = None
        rule = rule if rule is not None and rule.lists else None
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "adds", (f"state {self.number}",))
        object.__setattr__(self, "peaks", () if rule is not None else ((f"step {self.number}", ""),))

    def forward(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what the loop holds behind the fragment's last parameter."""
        if self.rule is not None:
            return ()
        return self._run(fragment, f)[1]

    def _run(self, fragment: Fragment, f: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
        shapes, item = self._leaves(fragment)
        peak, held = step_of(self.optimizer, self.training.setting.device, item, shapes, dict(f))
        return peak, tuple(sorted(held.items()))

    def _leaves(self, fragment: Fragment) -> tuple[list[Shape], int]:
        leaves = [leaf for leaf in self.training.leaves_of(fragment) if leaf.trainable and leaf.name != "input"]
        items = {leaf.itemsize for leaf in leaves}
        expected = 4 if self.training.dtype is None else ITEMSIZE[self.training.dtype]
        if items - {expected}:
            raise SpaceError(f"{fragment.label} has parameters of {min(items - {expected})} bytes an element; give the "
                             "precision to train in")  # fmt: skip
        return [leaf.shape for leaf in leaves], expected

    def measure(self, fragment: Fragment, f: tuple[Any, ...], b: tuple[Any, ...]) -> Measured:
        """Step on a fragment's parameters."""
        shapes, item = self._leaves(fragment)
        state = step_state_bytes(self.optimizer, shapes, [item] * len(shapes), self.training.setting.device)
        if self.rule is not None:
            return Measured((), (state,))
        return Measured((), (state, self._run(fragment, f)[0], 0))
