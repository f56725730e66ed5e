"""Training memory: forward, loss, backward and optimizer step as PyTorch runs them, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from cnnlive._kernels.backward import spec_bytes, train_step
from cnnlive._types import DTYPES, FLOATING, I64, Columns, Result, Shape, column, frozen
from cnnlive.errors import GraphError, ShapeError, close_names
from cnnlive.graph import Graph, named_by
from cnnlive.lowered import Lowered, check_batch, check_operators, lower
from cnnlive.plan.allocator import CudaAllocator, read_allocator, replay_trace
from cnnlive.plan.optimizers import (
    Optimizer,
    StepTrace,
    read_optimizer,
    state_blocks,
    state_from_construction,
    step_trace,
)
from cnnlive.tape import Leaf, Tape, record
from cnnlive.units import format_bytes

__all__ = ["PRECISIONS", "LiveTensor", "TrainingOp", "TrainingPlan", "plan_training"]

# Type of everything floating, and the type that autocast runs in.
PRECISIONS: Final[Mapping[str, tuple[str | None, str | None]]] = {
    "float32": ("float32", None),
    "float16": ("float16", None),
    "bfloat16": ("bfloat16", None),
    "float64": ("float64", None),
    "autocast": ("float32", "float16"),
    "autocast_float16": ("float32", "float16"),
    "autocast_bfloat16": ("float32", "bfloat16"),
}
_PRECISION_NAMES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "amp": "autocast"}
DEVICES: Final = ("cpu", "cuda")
ZERO_GRAD: Final = ("before_forward", "before_backward", "after_step")
PHASES: Final = ("forward", "backward", "optimizer")


class LiveTensor(NamedTuple):
    """A storage that is alive at the peak.

    ``kind`` is ``"activation"`` (made by forward), ``"temporary"`` (made by backward: gradients of activations
    among them) or ``"gradient"`` (of a parameter); ``op`` the op that made it.
    """

    name: str
    nbytes: int
    kind: str
    op: str


class TrainingOp(NamedTuple):
    """One op of the per-op table.

    ``saved_bytes`` are the storages that the op makes and backward keeps, each at the op that makes it;
    ``gradient_bytes`` those of its parameters; ``forward_bytes`` and ``backward_bytes`` the most that is alive,
    everything counted, while the op runs forward and backward (0: it has no backward).
    """

    name: str
    op: str
    scope: str
    parameter_bytes: int
    saved_bytes: int
    gradient_bytes: int
    forward_bytes: int
    backward_bytes: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingPlan(Result):
    """What one training step costs in memory; made by :func:`plan_training`.

    All amounts are bytes at the level of tensors: an allocator's rounding, workspaces of kernels and the runtime
    itself are not in them.

    Attributes
    ----------
    name : str
        The network.
    batch : int
        Images per forward pass (per micro-batch).
    optimizer : Optimizer
    precision, device, loss, zero_grad : str
    micro_batches : int
    first_step, late_step : bool
        As asked for.
    peak_bytes : int
        Everything alive at once, at the worst instant of the step.
    peak_phase : str
        ``"forward"``, ``"backward"`` or ``"optimizer"``.
    peak_op : str
        Node of the graph that runs then; ``"loss"`` or ``"optimizer.step"``.
    peak_record : str
        The op of PyTorch that runs then.
    composition : dict of str to int
        What the peak consists of at that instant: ``parameters``, ``buffers``, ``inputs`` (targets among them),
        ``optimizer_state``, ``gradients`` made so far, ``activations`` made by forward and still alive,
        ``temporaries``. Adds up to `peak_bytes`.
    parameter_bytes, buffer_bytes, input_bytes, target_bytes, optimizer_bytes : int
        What is there for the whole step. `optimizer_bytes` counts step counters (4 bytes each) too, which PyTorch
        keeps on the host unless the optimizer is fused or capturable.
    gradient_bytes : int
        Gradients of all trained parameters together.
    saved_bytes : int
        Activations that backward keeps, each storage once; parameters, buffers, inputs and targets left out.
    forward_end_bytes : int
        What forward made and is alive when it ends.
    forward_peak, backward_peak, optimizer_peak : int
        Worst instant of each phase.
    timeline : (2 * n_records + 1,) int64
        Most bytes alive while each record runs forward, then backward (last record first), then in the optimizer.
    allocated_bytes, reserved_bytes : int or None
        With ``allocator="cuda"``: what ``torch.cuda.max_memory_allocated()`` and ``max_memory_reserved()`` show,
        over the first two steps.
    fits : bool or None
        With an allocator of limited capacity: whether both steps run.
    """

    name: str
    batch: int
    optimizer: Optimizer
    precision: str
    device: str
    loss: str
    zero_grad: str
    micro_batches: int
    first_step: bool
    late_step: bool
    peak_bytes: int
    peak_phase: str
    peak_op: str
    peak_record: str
    composition: dict[str, int]
    parameter_bytes: int
    buffer_bytes: int
    input_bytes: int
    target_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    saved_bytes: int
    forward_end_bytes: int
    forward_peak: int
    backward_peak: int
    optimizer_peak: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    fits: bool | None
    network: Lowered
    tape: Tape
    _run: _Run
    _floors: tuple[int, int]

    @property
    def static_bytes(self) -> int:
        """Bytes that are there before, during and after the step: parameters, buffers, inputs, optimizer state."""
        return (
            self.parameter_bytes + self.buffer_bytes + self.input_bytes + self.target_bytes
            + self.optimizer_bytes
        )  # fmt: skip

    @property
    def timeline(self) -> I64:
        """Most bytes alive during each record forward, backward, and in the optimizer."""
        run, (before, behind) = self._run, self._floors
        backward = run.backward[::-1]
        steps = [run.forward + before, np.where(backward > 0, backward + behind, 0), np.array([self.optimizer_peak])]
        return frozen(np.concatenate(steps))

    @property
    def steps(self) -> list[tuple[str, str, str]]:
        """Phase, node of the graph and op of PyTorch of each step of `timeline`."""
        names = [(self._node(op), name) for op, name in self.tape.records]
        return [
            *(("forward", *n) for n in names),
            *(("backward", *n) for n in reversed(names)),
            ("optimizer", "optimizer.step", self.optimizer.name),
        ]

    def _node(self, op: int) -> str:
        return "loss" if op < 0 else self.network.op_names[op]

    @property
    def live_at_peak(self) -> list[LiveTensor]:
        """What forward and backward made and is alive at the peak, the largest first."""
        run, tape = self._run, self.tape
        end = run.answer[{"forward": 5, "backward": 11, "optimizer": 0}[self.peak_phase]]
        alive: dict[int, None] = {}
        for e in run.events[:end].tolist():
            if e > 0:
                alive[e - 1] = None
            else:
                del alive[-e - 1]
        found = []
        n = tape.n_records
        for s in alive:
            nbytes, owner = int(run.nbytes[s]), int(run.owner[s])
            op, name = tape.records[owner % n]
            node = self._node(op)
            made = s < len(tape.store_spec)
            tensor = int(tape.store_tensor[s]) if made else -1
            # Before the optimizer runs a stolen gradient may still have been a temporary: the last word counts.
            kind = "activation" if made else ("temporary", "gradient")[int(run.kind[s]) == 2]
            label = self.network.tensor_name(tensor) if tensor >= 0 else f"{node} ({name}{'' if made else ' backward'})"
            if nbytes:
                found.append(LiveTensor(label, nbytes, kind, node))
        return sorted(found, key=lambda t: -t.nbytes)

    @property
    def ops(self) -> list[TrainingOp]:
        """The per-op table, in program order; the loss is its last row."""
        net, tape, run = self.network, self.tape, self._run
        n = net.n_ops + 1
        saved, gradients, parameters, forward, backward = (np.zeros(n, np.int64) for _ in range(5))
        of = np.array([op for op, _ in tape.records], np.int64)
        kept = tape.saved_stores
        np.add.at(saved, of[run.owner[kept]], run.nbytes[kept])
        number = {name: op for op, name in enumerate(net.op_names)}
        for leaf in tape.leaves:
            if leaf.name != "input":
                parameters[number[leaf.op]] += leaf.nbytes
            gradients[number[leaf.op]] += _gradient_bytes(tape, run, leaf)
        before, behind = self._floors
        np.maximum.at(forward, of, run.forward + before)
        np.maximum.at(backward, of, np.where(run.backward > 0, run.backward + behind, 0))
        names = [*zip(net.op_names, net.op_kinds, net.op_scopes, strict=True), ("loss", self.loss, "")]
        columns = zip(*(c.tolist() for c in (parameters, saved, gradients, forward, backward)), strict=True)
        return [TrainingOp(*a, *b) for a, b in zip(names, columns, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "name": self.name, "batch": self.batch, "optimizer": self.optimizer.name,
            "optimizer_options": dict(self.optimizer.options), "implementation": self.optimizer.implementation,
            "precision": self.precision, "device": self.device, "loss": self.loss, "zero_grad": self.zero_grad,
            "micro_batches": self.micro_batches, "first_step": self.first_step, "late_step": self.late_step,
            "peak_bytes": self.peak_bytes,
            "peak_phase": self.peak_phase, "peak_op": self.peak_op, "peak_record": self.peak_record,
            "composition": dict(self.composition), "parameter_bytes": self.parameter_bytes,
            "buffer_bytes": self.buffer_bytes, "input_bytes": self.input_bytes, "target_bytes": self.target_bytes,
            "optimizer_bytes": self.optimizer_bytes, "gradient_bytes": self.gradient_bytes,
            "saved_bytes": self.saved_bytes, "forward_end_bytes": self.forward_end_bytes,
            "forward_peak": self.forward_peak, "backward_peak": self.backward_peak,
            "optimizer_peak": self.optimizer_peak, "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes, "fits": self.fits,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{self.name or 'network'}, training, batch {self.batch}, {self.optimizer.name}, {self.precision}, "
            f"{self.device}",
            f"  peak             {format_bytes(self.peak_bytes):>10}  {self.peak_bytes:>16,} B  in {self.peak_phase}"
            f" at {self.peak_op}",
        ]
        lines += [f"    {name.replace('_', ' '):<15}{format_bytes(nbytes):>10}  {nbytes:>16,} B"
                  for name, nbytes in self.composition.items()]  # fmt: skip
        if self.reserved_bytes is not None and self.allocated_bytes is not None:
            for name, nbytes in (("allocated", self.allocated_bytes), ("reserved", self.reserved_bytes)):
                lines.append(f"  {name:<17}{format_bytes(nbytes):>10}  {nbytes:>16,} B  (CUDA caching allocator)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<TrainingPlan {self.name!r}: {self.peak_bytes:,} B in {self.peak_phase} at {self.peak_op!r}>"


@dataclass(frozen=True, slots=True, eq=False)
class _Run(Columns):
    """One run of a tape: what :func:`cnnlive._kernels.backward.train_step` filled."""

    spec_nbytes: I64
    refs: I64
    nbytes: I64
    kind: I64
    owner: I64
    events: I64
    forward: I64
    backward: I64
    answer: I64
    marks: I64


class _Step(NamedTuple):
    """An optimizer step on the leaves of a tape: nothing in it depends on the batch."""

    trace: StepTrace
    peak: int
    state_bytes: int
    state: I64
    host: I64  # step counters that stay on the host


def plan_training(
    graph: Graph | Lowered,
    *,
    batch: int = 1,
    optimizer: str | Optimizer = "adam",
    precision: str | None = None,
    device: Literal["cpu", "cuda"] = "cuda",
    implementation: str | None = None,
    loss: str | Callable[..., Any] = "cross_entropy",
    aux_weight: float | None = None,
    autocast_loss: bool = False,
    zero_grad: Literal["before_forward", "before_backward", "after_step"] = "before_forward",
    set_to_none: bool = True,
    micro_batches: int = 1,
    frozen_layers: str | Sequence[str] = (),
    input_gradients: bool = False,
    first_step: bool = False,
    late_step: bool = False,
    host_scalars: bool = False,
    allocator: str | CudaAllocator | None = None,
    **optimizer_options: Any,
) -> TrainingPlan:
    """Exact memory of one training step in eager PyTorch.

    The step is ``optimizer.zero_grad(); out = model(x); loss = loss_fn(out, y); loss.backward();
    optimizer.step()``; `out` and the loss stay referenced to its end. Counted is every tensor that is alive at
    once: parameters, buffers, inputs and targets, optimizer state, gradients, activations that Python's frames or
    the backward graph hold, and the temporaries of backward and of the optimizer. Not counted: rounding and
    fragmentation of the allocator (see `allocator`), workspaces inside kernels, the CUDA context.

    Parameters
    ----------
    graph : Graph or Lowered
        A net as it trains: for ``zoo.load`` and ``from_torch`` that is ``train=True`` where the net has auxiliary
        outputs.
    batch : int
        Images per forward pass.
    optimizer : str or Optimizer
        ``"sgd"``, ``"adam"``, ...: see :func:`cnnlive.plan.optimizers.read_optimizer`, which also takes
        `optimizer_options` (``momentum=0.9``, ``weight_decay=1e-4``, ``amsgrad=True``, ...), with PyTorch's names.
    precision : str, optional
        Default: the types that the graph was built with. ``"float32"``, ``"float16"``, ``"bfloat16"``,
        ``"float64"``, or ``"autocast"`` (= ``"autocast_float16"``), ``"autocast_bfloat16"``: mixed precision with
        32-bit parameters and autocast's cache of cast weights.
    device : {"cuda", "cpu"}
        Whose kernels and defaults: dropout's mask, the optimizer's implementation.
    implementation : {"single", "foreach", "fused"}, optional
        Of the optimizer. Default: what PyTorch takes on the device, foreach on CUDA and single on a CPU.
    loss : str or callable
        ``"cross_entropy"`` (also of segmentation maps), ``"mse"``, ``"bce"``, ``"bce_with_logits"``, ``"l1"``,
        ``"smooth_l1"``; ``"output"``: the net's output is the loss. A callable ``loss(graph, outputs)`` adds ops to
        a copy of the graph and returns the tensor that is the loss; `graph` is a Graph then.
    aux_weight : float, optional
        Weight of the losses of further outputs, added to that of the first; 1 needs no product, 0 leaves them out.
    autocast_loss : bool
        The loss is computed inside autocast.
    zero_grad : {"before_forward", "before_backward", "after_step"}
        Where ``optimizer.zero_grad`` stands.
    set_to_none : bool
        Its argument: False keeps the gradients and fills them with zeros.
    micro_batches : int
        Forward and backward passes per step whose gradients accumulate; `batch` images each.
    frozen_layers : str or sequence of str
        Ops (by name, module path or ``*`` pattern) whose parameters are not trained.
    input_gradients : bool
        The network's inputs take gradients.
    first_step : bool
        The first step, in which the optimizer creates its state, in place of a later one.
    late_step : bool
        A step after RAdam has begun to rectify (its sixth or later); other optimizers: no difference.
    host_scalars : bool
        Count the few bytes that real runs hold on the host besides: numbers wrapped as tensors (8 bytes each), and
        the gradient of the loss, which ``loss.backward()`` holds while it runs.
    allocator : None, "cuda" or CudaAllocator
        Replay the first two steps in a model of PyTorch's CUDA caching allocator. Step counters count as if they
        were on the device, 512 B each, as measurements with fake tensors count them.

    Returns
    -------
    TrainingPlan

    Raises
    ------
    GraphError
        For an unknown loss, precision, device or frozen layer, or if nothing takes a gradient.
    AttributeValueError
        For an unknown optimizer or option.
    ShapeError
        If the batch is impossible for the net.

    Notes
    -----
    O(n_ops + n_edges). The tape of a lowered net is recorded once per set of options; a further plan, at any
    batch, costs one pass over it. Source of the rules: PyTorch's autograd engine, see
    :func:`cnnlive._kernels.backward.train_step`.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> plan = plan_training(zoo.load("vgg16"), batch=32, optimizer="adam")
    >>> plan.peak_bytes, plan.peak_phase
    (4540375812, 'backward')
    """
    if callable(loss):
        graph, loss, aux_weight = _with_loss(graph, loss), "output", 0
    net = check_operators(lower(graph), "training")
    batch = check_batch(batch)
    precision, base_dtype, autocast = _precision(precision, net)
    if device not in DEVICES:
        raise GraphError(f"device={device!r}; allowed: {', '.join(map(repr, DEVICES))}")
    if zero_grad not in ZERO_GRAD:
        raise GraphError(f"zero_grad={zero_grad!r}; allowed: {', '.join(map(repr, ZERO_GRAD))}")
    if isinstance(micro_batches, bool) or not isinstance(micro_batches, int) or micro_batches < 1:
        raise GraphError(f"micro_batches={micro_batches!r}; allowed: an integer >= 1")
    rule = read_optimizer(optimizer, device=device, implementation=implementation, **optimizer_options)
    still = _frozen_ops(net, frozen_layers)
    tape = _tape(net, device, base_dtype, autocast, loss, aux_weight, autocast_loss, still, input_gradients,
                 host_scalars)  # fmt: skip
    # Gradients are there already: of an earlier micro-batch, or of an earlier step that did not let them go.
    accumulates = micro_batches > 1 or (not set_to_none and not first_step)
    run = _run(net, tape, batch, accumulates)
    _check_countable(tape, run, batch)
    answer = run.answer.tolist()
    if first_step and late_step:
        raise GraphError("first_step and late_step exclude each other")
    step = _optimizer_step(tape, rule, device, first_step, late_step)
    constructed = state_from_construction(rule)
    state = 0 if first_step and not constructed else step.state_bytes
    parameters, buffers, gradients = tape.parameter_bytes, tape.buffer_bytes, tape.gradient_bytes
    if input_gradients:
        gradients = sum(_gradient_bytes(tape, run, leaf) for leaf in tape.leaves)
    inputs = int(run.spec_nbytes[tape.inputs].sum())
    targets = int(run.spec_nbytes[tape.targets].sum())
    static = parameters + buffers + inputs + targets + state
    there = gradients if accumulates else 0
    before = there or (gradients if zero_grad == "before_backward" and not first_step else 0)
    held = answer[16] + answer[17]
    peaks = (answer[3] + static + before, answer[9] + static + there, static + gradients + held + step.peak)
    phase = max(range(3), key=lambda k: (peaks[k], -k))
    made, temporary, grown = (answer[6:9], answer[12:15], [held, step.peak, gradients - there])[phase]
    where = ((answer[4], answer[10])[phase]) if phase < 2 else -1
    op, name = tape.records[where] if phase < 2 else (-1, rule.name)
    composition = {
        "parameters": parameters,
        "buffers": buffers,
        "inputs": inputs + targets,
        "optimizer_state": state,
        "gradients": grown + (before if phase == 0 else there),
        "activations": made,
        "temporaries": temporary,
    }
    allocated = reserved = fits = None
    if allocator is not None:
        allocated, reserved, fits = _allocate(
            net, tape, batch, rule, device, run, allocator, zero_grad, set_to_none, micro_batches
        )
    return TrainingPlan(
        net.name, batch, rule, precision, device, loss, zero_grad, micro_batches, first_step,
        late_step, peaks[phase], PHASES[phase],
        ("optimizer.step" if phase == 2 else "loss" if op < 0 else net.op_names[op]), name,
        composition, parameters, buffers, inputs, targets, step.state_bytes, gradients,
        int(run.nbytes[tape.saved_stores].sum()), answer[2], *peaks, allocated, reserved, fits, net, tape, run,
        (static + before, static + there),
    )  # fmt: skip


def _gradient_bytes(tape: Tape, run: _Run, leaf: Leaf) -> int:
    """Return what the gradient of a leaf takes; that of an input grows with the batch."""
    if not leaf.trainable:
        return 0
    return int(run.spec_nbytes[tape.value_spec[leaf.value]]) if leaf.name == "input" else leaf.nbytes


def _precision(precision: str | None, net: Lowered) -> tuple[str, str | None, str | None]:
    if precision is None:
        kinds = {DTYPES[code] for code in net.dtypes(None).tolist()} & FLOATING
        return (kinds.pop() if len(kinds) == 1 else "as built", None, None)
    name = _PRECISION_NAMES.get(precision, precision)
    if name not in PRECISIONS:
        raise GraphError(f"precision={precision!r}; allowed: {', '.join(map(repr, PRECISIONS))}")
    return (name, *PRECISIONS[name])


def _with_loss(graph: Graph | Lowered, loss: Callable[..., Any]) -> Graph:
    if not isinstance(graph, Graph):
        raise GraphError("a loss of your own adds ops to the graph, and a lowered net takes none; give the Graph")
    copy = Graph.from_dict(graph.to_dict())
    given = copy.outputs
    result = loss(copy, given)
    outputs = [t for t in given if t.name != result.name]
    copy._nx.graph["outputs"][:] = []
    copy.output(result, *outputs)
    return copy


def _frozen_ops(net: Lowered, layers: str | Sequence[str]) -> tuple[int, ...]:
    if not layers:
        return ()
    patterns = [layers] if isinstance(layers, str) else list(layers)
    number = {name: op for op, name in enumerate(net.op_names)}
    found: set[int] = set()
    for pattern in patterns:
        hits = named_by(pattern, number)
        if not hits:
            raise GraphError(f"frozen_layers: {pattern!r} is no op{close_names(pattern, net.op_names)}")
        found.update(number[name] for name in hits)
    return tuple(sorted(found))


def _tape(net: Lowered, device: str, dtype: str | None, autocast: str | None, loss: str, aux_weight: float | None,
          autocast_loss: bool, frozen_ops: tuple[int, ...], input_gradients: bool,
          host_scalars: bool) -> Tape:  # fmt: skip
    aux = aux_weight if aux_weight in (0, 1) else None
    key = ("tape", device, dtype, autocast, loss, aux, autocast_loss, frozen_ops, input_gradients, host_scalars)
    tape: Tape | None = net._cache.get(key)
    if tape is None:
        tape = net._cache[key] = record(
            net, device=device, dtype=dtype, autocast=autocast, loss=loss, aux_weight=aux,
            autocast_loss=autocast_loss, frozen_ops=frozen_ops, input_gradients=input_gradients,
            host_scalars=host_scalars,
        )  # fmt: skip
    return tape


class Seeds(NamedTuple):
    """The gradients that backward starts with, see :func:`cnnlive._kernels.backward.train_step`."""

    value: I64
    handle: I64
    store: I64
    form: I64
    nbytes: I64
    refs: I64


class TapeRun(NamedTuple):
    """Everything that :func:`cnnlive._kernels.backward.train_step` filled; ``buffer`` is per value, -1 or a handle."""

    spec_nbytes: I64
    refs: I64
    nbytes: I64
    kind: I64
    owner: I64
    events: I64
    forward: I64
    backward: I64
    answer: I64
    marks: I64
    buffer: I64
    handle_store: I64
    handle_refs: I64
    handle_form: I64


def tape_bytes(tape: Tape, dims: I64) -> I64:
    """Return the bytes of each spec of a tape on shapes (n_tensors, 6)."""
    spec = np.empty(len(tape.spec), np.int64)
    spec_bytes(tape.spec, dims, spec)
    return frozen(spec)


def run_tape(tape: Tape, dims: I64, seeds: Seeds | None = None, accumulates: bool = False) -> TapeRun:
    """Run a tape on shapes: an ordinary step, or a piece of one that begins with the gradients it is given.

    Parameters
    ----------
    tape : Tape
    dims : (n_tensors, 6) int64
    seeds : Seeds, optional
        Default: the gradient of the loss.
    accumulates : bool
        The parameters have gradients already.
    """
    spec = tape_bytes(tape, dims)
    if seeds is None:
        seeds = _seeds_of(tape, spec)
    n, more, records = len(tape.store_spec), tape.n_dynamic + len(seeds.store), tape.n_records
    total, values = n + more, len(tape.value_spec)
    refs, nbytes, kind, owner = (np.empty(total, np.int64) for _ in range(4))
    events = np.empty(2 * total, np.int64)
    buffer, uses = np.empty(values, np.int64), np.empty(values, np.int64)
    handle_store, handle_refs, handle_form, slot, temps = (np.empty(more, np.int64) for _ in range(5))
    forward, backward, answer = np.empty(records, np.int64), np.empty(records, np.int64), np.empty(19, np.int64)
    marks = np.empty((records, 3), np.int64)
    train_step(
        spec, tape.store_spec, tape.store_refs, tape.alloc_ptr, tape.alloc_idx, tape.drop_ptr, tape.drop_idx,
        tape.saved_ptr, tape.saved_idx, tape.edge_ptr, tape.edge_value, tape.edge_spec, tape.edge_copies,
        tape.out_ptr, tape.out_value, tape.code_ptr, tape.code, tape.value_spec, tape.leaf_uses, *seeds,
        tape.root_held, int(accumulates), refs, nbytes, kind, owner, events, buffer, uses, handle_store, handle_refs,
        handle_form, slot, temps, forward, backward, marks,
        answer,
    )  # fmt: skip
    return TapeRun(spec, refs, nbytes, kind, owner, events, forward, backward, answer, marks, buffer, handle_store,
                   handle_refs, handle_form)  # fmt: skip


def _seeds_of(tape: Tape, spec: I64) -> Seeds:
    """Return the gradient of the loss; of an inference nothing, which has none."""
    kept: tuple[I64, I64, I64] | None = tape._cache.get("seeds")
    if kept is None:
        root = column([tape.root] if tape.root >= 0 else [])
        kept = tape._cache["seeds"] = (root, _SEED[: len(root)], _SEED_FORM[: len(root)])
    root, one, form = kept
    return Seeds(root, one, one, form, frozen(spec[tape.value_spec[root]]), one)


# The gradient of the loss: one handle, an ordinary tensor that nobody else holds.
_SEED: Final = column([0])
_SEED_FORM: Final = column([3])


def _check_countable(tape: Tape, run: _Run, batch: int) -> None:
    """Refuse a step whose sums may not fit 63 bits: an optimizer keeps several copies, backward makes as much again."""
    spec = run.spec_nbytes.astype(np.float64)
    made = spec[tape.store_spec].sum() + spec[tape.edge_spec[tape.edge_spec >= 0]].sum()
    for what, nbytes, allowed in (("parameters", tape.parameter_bytes, 58), ("tensors of the step", made, 61)):
        if nbytes >= 2.0**allowed:
            raise ShapeError(f"all {what} together at batch {batch} can take {nbytes:.3g} bytes; allowed for training: "
                             f"below 2**{allowed}")  # fmt: skip


def _run(net: Lowered, tape: Tape, batch: int, accumulates: bool) -> _Run:
    return _Run(*run_tape(tape, net.sizes_at(batch).dims, accumulates=accumulates)[:10])


def _optimizer_step(tape: Tape, rule: Optimizer, device: str, first: bool, late: bool = False) -> _Step:
    key = ("step", rule, device, first, late)
    found: _Step | None = tape._cache.get(key)
    if found is None:
        trained = [f for f in tape.leaves if f.trainable and f.name != "input"]
        shapes, items = [f.shape for f in trained], [f.itemsize for f in trained]
        trace = step_trace(rule, shapes, items, device=device, first=first, late=late)
        change = np.where(trace.events > 0, 1, -1) * trace.nbytes[np.abs(trace.events) - 1]
        peak = int(np.cumsum(change).max(initial=0))
        state, host = _state(rule, shapes, items, device)
        peak += int(host.sum()) if first else 0
        found = tape._cache[key] = _Step(trace, peak, int(state.sum() + host.sum()), state, host)
    return found


def _state(rule: Optimizer, shapes: Sequence[Shape], items: Sequence[int], device: str) -> tuple[I64, I64]:
    """Return the bytes of each tensor of an optimizer's state on the device, and of each counter on the host."""
    state = state_blocks(rule, shapes, items, device=device)
    # Counters on the host count where a step touches them one by one: measurements by dispatched ops see no
    # others. Those that are made with the optimizer and advanced by one foreach op are the exception.
    unseen = state_from_construction(rule) and rule.implementation == "foreach"
    if unseen or dict(rule.options).get("capturable"):
        return state, frozen(np.zeros(0, np.int64))
    everywhere = state_blocks(rule, shapes, items, device="cpu")
    n_host = len(everywhere) - len(state)
    return state, frozen(np.full(n_host, int(everywhere.sum() - state.sum()) // max(n_host, 1)))


def step_state_bytes(rule: Optimizer, shapes: Sequence[Shape], items: Sequence[int], device: str) -> int:
    """Return what an optimizer keeps for trained parameters of these shapes: `TrainingPlan.optimizer_bytes`."""
    return int(sum(part.sum() for part in _state(rule, shapes, items, device)))


def _allocate(net: Lowered, tape: Tape, batch: int, rule: Optimizer, device: str, run: _Run,
              allocator: str | CudaAllocator, zero_grad: str, set_to_none: bool,
              micro_batches: int) -> tuple[int, int, bool]:  # fmt: skip
    """Replay the first two steps in the caching allocator."""
    trace = _Trace()
    trace.make(tape.resident)
    trace.make(run.spec_nbytes[np.concatenate([tape.inputs, tape.targets])])
    fresh = _run(net, tape, batch, False)
    onto = _run(net, tape, batch, True) if micro_batches > 1 or not set_to_none else fresh
    gradients: list[int] = []
    for step in range(2):
        if gradients and zero_grad != "before_backward" and set_to_none:
            trace.free(gradients)
            gradients = []
        for _ in range(min(micro_batches, 2)):
            now = onto if gradients and zero_grad != "before_backward" else fresh
            end = int(now.answer[18])
            ids = trace.start(now)
            trace.run(now.events[:end])
            if gradients and zero_grad == "before_backward" and set_to_none:
                trace.free(gradients)
                gradients = []
            trace.run(now.events[end : int(now.answer[0])])
            alive = np.flatnonzero(now.refs[: int(now.answer[1])] > 0)
            mine = alive[now.kind[alive] == 2]
            gradients += (mine[now.nbytes[mine] > 0] + ids).tolist()
            outputs = alive[(now.kind[alive] != 2) & (now.nbytes[alive] > 0)] + ids
        optimizer = _optimizer_step(tape, rule, device, step == 0)
        # Measurements see state that was made with the optimizer when an op returns it, and foreach ops return none.
        made = [optimizer.state] if state_from_construction(rule) and step == 0 else []
        late = rule.implementation == "foreach"
        for nbytes in [optimizer.host] * (step == 0) + made * (not late):
            trace.make(nbytes)
        trace.blocks(optimizer.trace)
        for nbytes in made * late:
            trace.make(nbytes)
        trace.free(outputs.tolist())
    result = replay_trace(*trace.arrays(), read_allocator(allocator))
    return result.allocated_bytes, result.reserved_bytes, result.fits


class _Trace:
    """Events of an allocator, put together from pieces."""

    def __init__(self) -> None:
        self.sizes: list[I64] = []
        self.events: list[I64] = []
        self.n = 0
        self.base = 0

    def make(self, nbytes: I64) -> None:
        self.events.append(np.arange(self.n + 1, self.n + 1 + len(nbytes)))
        self.sizes.append(nbytes)
        self.n += len(nbytes)

    def start(self, run: _Run) -> int:
        """Make room for the storages of a run; return the number of its first."""
        self.base = self.n
        n = int(run.answer[1])
        self.sizes.append(run.nbytes[:n])
        self.n += n
        return self.base

    def run(self, events: I64) -> None:
        self.events.append(events + np.sign(events) * self.base)

    def blocks(self, trace: StepTrace) -> None:
        self.events.append(trace.events + np.sign(trace.events) * self.n)
        self.sizes.append(trace.nbytes)
        self.n += len(trace.nbytes)

    def free(self, ids: Collection[int]) -> None:
        self.events.append(-np.array(list(ids), np.int64) - 1)

    def arrays(self) -> tuple[I64, I64]:
        events = np.ascontiguousarray(np.concatenate(self.events), dtype=np.int64)
        return frozen(events), frozen(np.ascontiguousarray(np.concatenate(self.sizes), dtype=np.int64))
