# ruff: noqa: PLC0415 - torch is imported where it is used
"""What a step of real PyTorch on the CPU allocates, from the events of its allocator.

The profiler reports every block that the CPU allocator hands out or takes back, with its address, its
bytes and the ops that were running. A block that is handed out and taken back within one operator of
the dispatcher is scratch of that operator's kernel; all others are tensors of the program. An operator
counts as one of the dispatcher where it has a kernel of its own for the CPU; those that PyTorch merely
decomposes into others (``conv2d``, ``linear``, ``dropout``) are looked through.

torch is imported inside the functions: this module can be imported without it.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

__all__ = ["Measured", "Trace", "inference", "record", "saved_tensors", "training_step"]

_PHASE = "truth phase: "
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own messages; read when torch is loaded


@dataclass(frozen=True)
class Trace:
    """The blocks of one recorded run, without kernel scratch, in the order of the allocator's events.

    Attributes
    ----------
    base : int
        Bytes alive before the run: those of the tensors it was told of.
    deltas : tuple of int
        Bytes of each event, positive where a block is allocated and negative where it is freed.
    blocks : tuple of int
        The block of each event: numbered by allocation from 0, or negative where the block is of `base`.
    phases, ops : tuple of str
        The phase and the dispatcher-level op of each event; empty text where there is none.
    scratch_peak : int
        The peak of the same run with the scratch of the kernels counted.
    """

    base: int
    deltas: tuple[int, ...]
    blocks: tuple[int, ...]
    phases: tuple[str, ...]
    ops: tuple[str, ...]
    scratch_peak: int

    def running(self) -> list[int]:
        """Return the bytes alive after each event."""
        total = self.base
        return [total := total + delta for delta in self.deltas]

    def peak(self, phase: str | None = None) -> int:
        """Return the largest number of bytes alive at once; within `phase` it counts what stood at its start.

        A phase without events is taken for the last one.
        """
        if phase is not None and phase not in self.phases:
            return self.base + sum(self.deltas)
        total = self.base
        best = total if phase is None else 0
        for delta, of in zip(self.deltas, self.phases, strict=True):
            if of == phase:
                best = max(best, total)
            total += delta
            if phase is None or of == phase:
                best = max(best, total)
        return best

    def at_end_of(self, phase: str) -> int:
        """Return the bytes alive after the last event of `phase`."""
        totals = self.running()
        return next((totals[k] for k in range(len(totals) - 1, -1, -1) if self.phases[k] == phase), self.base)

    def peak_at(self) -> tuple[str, str]:
        """Return the phase and the op that first reach the peak."""
        totals = self.running()
        if not totals or max(totals) <= self.base:
            return "", ""
        k = totals.index(max(totals))
        return self.phases[k], self.ops[k]


@dataclass(frozen=True)
class Measured:
    """Bytes of one measured step; everything alive at once is counted, kernel scratch is not.

    Attributes
    ----------
    peak_bytes : int
        The largest number of bytes alive at once: parameters, buffers, optimizer state, inputs, targets,
        activations, gradients, temporaries.
    forward_peak, backward_peak, optimizer_peak : int
        The same within a phase; 0 where the step has no such phase.
    parameter_bytes, buffer_bytes, optimizer_bytes : int
        Unique storages; the optimizer's state as it stands before the measured step.
    input_bytes : int
        Inputs and targets.
    gradient_bytes : int
        Gradients of the parameters at the end of the step.
    saved_bytes : int
        Unique storages kept for backward, without those of parameters, buffers, inputs and targets.
    forward_end_bytes : int
        Bytes alive at the end of forward and loss, all counted.
    peak_phase, peak_op : str
        Where the peak is first reached: the phase, and the op as the dispatcher names it.
    trace : Trace
        The events themselves.
    """

    peak_bytes: int
    forward_peak: int
    backward_peak: int
    optimizer_peak: int
    parameter_bytes: int
    buffer_bytes: int
    optimizer_bytes: int
    input_bytes: int
    gradient_bytes: int
    saved_bytes: int
    forward_end_bytes: int
    peak_phase: str
    peak_op: str
    trace: Trace


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the tensors of nested containers and of state dictionaries."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Bytes of every storage by the address of its memory."""
    unique = {}
    for t in tensors:
        storage = t.untyped_storage()
        if storage.nbytes():
            unique[storage.data_ptr()] = storage.nbytes()
    return unique


def _held(function: Any) -> Iterator[Any]:
    """Yield the tensors that a loss holds: closure, globals it names, defaults, bound arguments, a module's buffers."""
    import torch

    if isinstance(function, functools.partial):
        yield from _tensors([*function.args, function.keywords])
        yield from _held(function.func)
        return
    if isinstance(function, torch.nn.Module):
        yield from function.buffers()
        return
    yield from _tensors(function.__defaults__ if hasattr(function, "__defaults__") else None)
    yield from _tensors(getattr(function, "__kwdefaults__", None))
    for cell in getattr(function, "__closure__", None) or ():
        yield from _tensors(cell.cell_contents)
    if hasattr(function, "__code__"):
        yield from _tensors([function.__globals__.get(name) for name in function.__code__.co_names])


@functools.cache
def _own_kernel(name: str) -> bool:
    """Whether the dispatcher hands the operator to a kernel instead of decomposing it."""
    import torch

    if "::" not in name:
        return False
    keys = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    schemas = torch._C._jit_get_schemas_for_operator(name)
    overloads = [f"{s.name}.{s.overload_name}" if s.overload_name else s.name for s in schemas]
    known = [o for o in overloads if torch._C._dispatch_has_kernel(o)]  # some exist for TorchScript only
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(o, key) for o in known for key in keys)


def record(run: Callable[[], Any], *, alive: Iterable[Any] = (), scalars: bool = True) -> tuple[Any, Trace]:
    """Run a function under the profiler; return what it returned and the trace of its blocks.

    Parameters
    ----------
    run : callable
        Called once, without arguments. What it returns stays alive through the recording.
    alive : iterable of tensors
        Tensors that exist before; their storages are the base of the trace, and a later release of one
        is part of it.
    scalars : bool
        Whether to count Python numbers that are wrapped in tensors of up to 8 bytes outside of any op, for the
        time of one op; no dispatch mode sees them.
    """
    import torch
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    standing = _storages(alive)
    base = sum(standing.values())
    collecting, threads = gc.isenabled(), torch.get_num_threads()
    gc.disable()
    torch.set_num_threads(1)  # allocations of other threads are reported without their op
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = run()
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()

    # (time, order in the tree, bytes, address, number of the op or 0, its name, phase)
    found: list[tuple[int, int, int, int, int, str, str]] = []
    n_ops = 0
    stack = [(e, 0, "", "") for e in reversed(profiler.profiler.kineto_results.experimental_event_tree())]
    while stack:
        event, op, op_name, phase = stack.pop()
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            if fields.device == torch.device("cpu"):
                found.append((event.start_time_ns, len(found), fields.alloc_size, fields.ptr, op, op_name, phase))
            continue
        if event.name.startswith(_PHASE):
            phase = event.name[len(_PHASE) :]
        elif op == 0 and event.tag == _EventType.TorchOp and _own_kernel(event.name):
            n_ops += 1
            op, op_name = n_ops, event.name
        stack.extend((child, op, op_name, phase) for child in reversed(event.children))
    found.sort(key=lambda row: row[:2])

    owner = {address: -1 - k for k, address in enumerate(standing)}
    block_of: list[int | None] = []
    scratch: set[int] = set()
    made_in: list[int] = []
    for _, _, nbytes, address, op, _, _ in found:
        if nbytes > 0:
            owner[address] = len(made_in)
            if op == 0 and nbytes <= 8 and not scalars:
                scratch.add(len(made_in))
            made_in.append(op)
            block_of.append(owner[address])
        else:
            block = owner.pop(address, None)
            if block is not None and block >= 0 and op != 0 and made_in[block] == op:
                scratch.add(block)
            block_of.append(block)

    total = with_scratch = base
    rows: list[tuple[int, int, str, str]] = []
    for (_, _, nbytes, _, _, op_name, phase), block in zip(found, block_of, strict=True):
        if block is None:  # older than the recording and not of the base
            continue
        total += nbytes
        with_scratch = max(with_scratch, total)
        if block not in scratch:
            rows.append((nbytes, block, phase, op_name))
    number: dict[int, int] = {}
    for _, block, _, _ in rows:
        if block >= 0:
            number.setdefault(block, len(number))
    trace = Trace(
        base,
        tuple(row[0] for row in rows),
        tuple(number.get(row[1], row[1]) for row in rows),
        tuple(row[2] for row in rows),
        tuple(row[3] for row in rows),
        with_scratch,
    )
    return result, trace


def saved_tensors(
    module: Any, inputs: Any, loss_fn: Callable[[Any], Any], *, ignore: Iterable[Any] = ()
) -> dict[int, int]:
    """Bytes of each storage that forward and loss keep for backward, by address; those of `ignore` left out."""
    import torch

    inputs = _as_tuple(inputs)
    known = _storages([*module.parameters(), *module.buffers(), *_tensors(inputs), *ignore])
    kept = []  # keeps the addresses from being used again

    def pack(t: Any) -> Any:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = loss_fn(module(*inputs))
    saved = {address: nbytes for address, nbytes in _storages(kept).items() if address not in known}
    del loss
    return saved


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)


def training_step(
    module: Any,
    inputs: Any,
    loss_fn: Callable[[Any], Any],
    *,
    targets: Sequence[Any] | None = None,
    optimizer: Any = None,
    steps: int = 2,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    scalars: bool = True,
) -> Measured:
    """Measure the last of `steps` training steps on the CPU.

    A step is ``zero_grad(set_to_none=True); out = module(*inputs); loss = loss_fn(out); loss.backward();
    optimizer.step()``; ``out`` and ``loss`` stay referenced to its end.

    Parameters
    ----------
    module : torch.nn.Module
        Its mode is left as it is.
    inputs : tensor, or tuple of tensors
    loss_fn : callable
        From the output to a scalar.
    targets : sequence of tensors, optional
        What `loss_fn` compares with; by default the tensors that it holds (closure, globals, defaults, partial).
    optimizer : torch.optim.Optimizer, or callable from the parameters to one, optional
        Without it the step ends with backward.
    steps : int
        1 measures the first step, which creates the optimizer's state; 2 or more the steady state.
    forward_context : callable
        Makes the context that forward and loss run in, such as autocast.
    scalars : bool
        As for `record`.
    """
    import torch

    inputs = _as_tuple(inputs)
    held = list(_held(loss_fn)) if targets is None else list(targets)
    parameters = list(module.parameters())
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(parameters)

    def clear() -> None:
        for p in parameters:
            p.grad = None
        for t in inputs:
            if isinstance(t, torch.Tensor):
                t.grad = None

    def step() -> Any:
        mark = torch.profiler.record_function
        with mark(_PHASE + "forward"):
            clear()
            with forward_context():
                out = module(*inputs)
                loss = loss_fn(out)
        with mark(_PHASE + "backward"):
            loss.backward()
        if optimizer is not None:
            with mark(_PHASE + "optimizer"):
                optimizer.step()
        return out, loss

    with forward_context():
        saved = saved_tensors(module, inputs, loss_fn, ignore=held)
        loss_fn(module(*inputs)).backward()  # warm: what first runs cache is not of the step
    for _ in range(steps - 1):
        step()
    clear()
    state = list(_tensors(list(optimizer.state.values()))) if optimizer is not None else []
    buffers = list(module.buffers())
    given = [*_tensors(inputs), *held]
    kept, trace = record(step, alive=[*parameters, *buffers, *given, *state], scalars=scalars)
    gradients = [p.grad for p in parameters if p.grad is not None]
    measured = Measured(
        peak_bytes=trace.peak(),
        forward_peak=trace.peak("forward"),
        backward_peak=trace.peak("backward"),
        optimizer_peak=trace.peak("optimizer") if optimizer is not None else 0,
        parameter_bytes=sum(_storages(parameters).values()),
        buffer_bytes=sum(_storages(buffers).values()),
        optimizer_bytes=sum(_storages(state).values()),
        input_bytes=sum(_storages(given).values()),
        gradient_bytes=sum(_storages(gradients).values()),
        saved_bytes=sum(saved.values()),
        forward_end_bytes=trace.at_end_of("forward"),
        peak_phase=trace.peak_at()[0],
        peak_op=trace.peak_at()[1],
        trace=trace,
    )
    del kept
    clear()
    return measured


def inference(module: Any, inputs: Any, *, scalars: bool = True) -> Measured:
    """Measure one forward pass on the CPU under ``no_grad``; the output stays referenced to its end."""
    import torch

    inputs = _as_tuple(inputs)

    def run() -> Any:
        with torch.no_grad(), torch.profiler.record_function(_PHASE + "forward"):
            return module(*inputs)

    run()
    parameters = list(module.parameters())
    buffers = list(module.buffers())
    given = list(_tensors(inputs))
    kept, trace = record(run, alive=[*parameters, *buffers, *given], scalars=scalars)
    measured = Measured(
        peak_bytes=trace.peak(),
        forward_peak=trace.peak("forward"),
        backward_peak=0,
        optimizer_peak=0,
        parameter_bytes=sum(_storages(parameters).values()),
        buffer_bytes=sum(_storages(buffers).values()),
        optimizer_bytes=0,
        input_bytes=sum(_storages(given).values()),
        gradient_bytes=0,
        saved_bytes=0,
        forward_end_bytes=trace.at_end_of("forward"),
        peak_phase=trace.peak_at()[0],
        peak_op=trace.peak_at()[1],
        trace=trace,
    )
    del kept
    return measured
