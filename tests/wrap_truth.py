# ruff: noqa: PLC0415 - torch is imported where it is used
"""What a step with wrapped modules takes: event by event from the definition, and in real PyTorch.

The first part shares no code with the planner: it holds every storage by a set of names of who holds it. The second
wraps the modules of a net with ``torch.utils.checkpoint`` and measures. torch is imported inside the functions.
"""

from __future__ import annotations

from itertools import pairwise

from cnnlive.ops import operator

RNG_BYTES = 5056
SAVEABLE = {"conv", "linear", "matmul"}


def rows(tape, name):
    ptr, idx = getattr(tape, f"{name}_ptr").tolist(), getattr(tape, f"{name}_idx").tolist()
    return [idx[a:b] for a, b in pairwise(ptr)]


def in_module(net, op, module):
    """Whether an op runs in a module, or is the call of a module that runs nothing else."""
    scope = net.op_scopes[op]
    return net.op_names[op] == module or scope == module or scope.startswith(f"{module}.")


def packs(plan, p):
    """Whether a record packs tensors before it runs, and whether of those it makes: parameters count as well."""
    tape, net = plan.tape, plan.network
    op, name = tape.records[p]
    if tape.edge_ptr[p] == tape.edge_ptr[p + 1] or op < 0:
        return False, False
    entry = operator(net.op_kinds[op])
    kept = tape.saved_idx[tape.saved_ptr[p] : tape.saved_ptr[p + 1]].tolist()
    made = tape.alloc_idx[tape.alloc_ptr[p] : tape.alloc_ptr[p + 1]].tolist()
    table = entry.saved(net.op_attrs[op])
    helper = name in ("_to_copy", "clone", "view", "as_strided", "repeat", "constant_pad_nd", "add", "rsub", "add_")
    after = bool((set(kept) & set(tape.saved_stores.tolist())) & set(made)) or ("output" in table and not helper)
    kept = set(kept) & set(tape.saved_stores.tolist())  # numbers that are wrapped as tensors are not packed
    if entry.name == "local_response_norm":
        return bool(kept), after
    return bool(kept) or (bool(table) and not helper), after


class Events:
    """Totals after each event of a step; zero bytes make no event."""

    def __init__(self, total):
        self.total = total
        self.totals = [total]
        self.holders = {}
        self.marks = {}

    def hold(self, key, who, nbytes):
        if key not in self.holders:
            self.holders[key] = (nbytes, set())
            self.change(nbytes)
        self.holders[key][1].add(who)

    def release(self, key, who):
        if key in self.holders and who in self.holders[key][1]:
            nbytes, names = self.holders[key]
            names.remove(who)
            if not names:
                del self.holders[key]
                self.change(-nbytes)

    def change(self, nbytes):
        if nbytes:
            self.total += nbytes
            self.totals.append(self.total)


def simulate(plan, regions, *, keep_rng=True):
    """Return the totals of forward and of backward, and the most in each record forward, then backward.

    Regions are (module, names of saved ops, random).
    """
    tape, net, run = plan.tape, plan.network, plan._run
    n, n_stores = tape.n_records, len(tape.store_spec)
    alloc, drop, saved, read = (rows(tape, name) for name in ("alloc", "drop", "saved", "read"))
    size = run.nbytes.tolist()
    before, behind = plan._floors
    of = {}  # record to region
    mine = []
    for k, (module, names, random) in enumerate(regions):
        ours = [p for p, (op, _) in enumerate(tape.records) if op >= 0 and in_module(net, op, module)]
        assert ours == list(range(ours[0], ours[-1] + 1))
        assert not set(ours) & set(of)
        of.update(dict.fromkeys(ours, k))
        made = {s for p in ours for s in alloc[p]}
        given = sorted({s for p in ours for s in read[p]} - made)
        keeps = set()
        for name in names:
            # of the records of an op, that of its last output
            keeps.add(max(p for p in ours if net.op_names[tape.records[p][0]] == name and alloc[p]))
        packing = [p for p in ours if packs(plan, p)[0]]
        mine.append((ours, given, keeps, packing, RNG_BYTES if random and keep_rng and plan.device == "cpu" else 0))
    saving = [set(row) for row in saved]
    numbers = {s for row in saved for s in row} - set(tape.saved_stores.tolist())
    e = Events(before)
    most = []
    for p in range(n):
        k = of.get(p, -1)
        since = len(e.totals) - 1
        if k >= 0 and p == mine[k][0][0]:
            for s in mine[k][1]:
                e.hold(s, ("frame", k), size[s])
            if mine[k][4]:
                e.hold(("state", k), ("frame", k), mine[k][4])
        for s in alloc[p]:
            e.hold(s, "python", size[s])
        most.append(max(e.totals[since:]))
        for s in saved[p]:
            if k < 0 or s in numbers:
                e.hold(s, ("node", p), size[s])
        if k >= 0 and p in mine[k][2]:
            for s in alloc[p]:
                e.hold(s, ("saved", k), size[s])
        for s in drop[p]:
            e.release(s, "python")
    extra = tape.store_refs - 1
    for row in saved:
        for s in row:
            extra[s] -= 1
    assert not extra.any(), "an output that is in no loss keeps something"
    forward = e.totals
    # -------------------------------------------------------------- backward
    e.total += behind - before
    e.totals = [e.total]
    events = run.events[: int(run.answer[0])].tolist()
    marks = run.marks.tolist()
    active = {p for p in range(n) if marks[p][2]}
    ran = set()

    def play(a, b):
        for event in events[a:b]:
            s = abs(event) - 1
            if s < n_stores:
                continue
            if event > 0:
                e.hold(("back", s), "engine", size[s])
            else:
                e.release(("back", s), "engine")

    def rerun(k):
        ours, _, keeps, packing, state = mine[k]
        last = packing[-1]
        where = {}  # storage to the one that stands for it now
        if state:
            e.hold(("fork", k), "python", state)
        for p in range(ours[0], last + 1):
            if p < last or packs(plan, p)[1]:
                for s in alloc[p]:
                    where[s] = s if p in keeps else ("again", s)
                    e.hold(where[s], ("python", k), size[s])
                    e.release(s, ("saved", k))
            for s in saving[p]:
                if s in where:
                    e.hold(where[s], ("graph", k), size[s])
                    if s not in numbers:
                        e.hold(where[s], ("unpacked by", p), size[s])
            if p < last:
                for s in drop[p]:
                    if s in where:
                        e.release(where[s], ("python", k))
        for x in where.values():
            e.release(x, ("python", k))
            e.release(x, ("graph", k))
        if state:
            e.release(("fork", k), "python")
        return where

    now = {}
    start = int(run.answer[18])
    for p in range(n - 1, -1, -1):
        if p not in active:
            most.append(0)
            continue
        begin, release, end = marks[p]
        play(start, begin)
        k = of.get(p, -1)
        since = len(e.totals) - 1
        if k >= 0 and k not in ran and p in mine[k][3]:
            ran.add(k)
            now |= rerun(k)
        # the allocations of sums come last before what was saved is let go
        sums = sum(
            int(run.spec_nbytes[tape.edge_spec[i]] != run.spec_nbytes[tape.value_spec[tape.edge_value[i]]])
            for i in range(int(tape.edge_ptr[p]), int(tape.edge_ptr[p + 1]))
        )
        made = [i for i in range(begin, release) if events[i] > n_stores]
        middle = made[len(made) - sums] if sums else release
        if not sums:  # what came in dies after the derivative has returned
            middle = (made[-1] + 1) if made else begin
        play(begin, middle)
        for s in saved[p] if k >= 0 else ():
            e.release(now.get(s, s), ("unpacked by", p))
        play(middle, release)
        for s in saved[p]:
            e.release(s, ("node", p))
        if k >= 0 and mine[k][3] and p == mine[k][3][0]:
            for s in mine[k][1]:
                e.release(s, ("frame", k))
            for q in mine[k][2]:
                for s in alloc[q]:
                    e.release(s, ("saved", k))
            e.release(("state", k), ("frame", k))
        play(release, end)
        start = end
        most.append(max(e.totals[since:]))
    return forward, e.totals, most


def maxima(totals):
    """Return the totals at which an allocation is followed by a release, or by nothing."""
    found = []
    rising = False
    for a, b in pairwise(totals):
        if b < a and rising:
            found.append(a)
        rising = b > a
    return [*found, totals[-1]] if rising else found


# ---------------------------------------------------------------------------------------------- real PyTorch
_PACK = "truth pack"
SAVED_OPS = ("convolution", "addmm", "mm", "bmm", "baddbmm")


def wrap(module, net, regions):
    """Wrap modules of a net: regions of (module, names of saved ops, random)."""
    import torch
    from torch.utils import _pytree
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    saves = {getattr(torch.ops.aten, name).default for name in SAVED_OPS}
    for path, names, random in regions:
        part = module.get_submodule(path)
        options = {}
        if names:
            flags = [net.op_names[op] in names for op in range(net.n_ops)
                     if in_module(net, op, path) and operator(net.op_kinds[op]).macs in SAVEABLE]  # fmt: skip

            def contexts(flags=flags):
                turns = iter(flags)

                def policy(_context, function, *_args, **_kwargs):
                    must = function in saves and next(turns)
                    return CheckpointPolicy.MUST_SAVE if must else CheckpointPolicy.PREFER_RECOMPUTE

                return create_selective_checkpoint_contexts(policy)

            options["context_fn"] = contexts

        def forward(*args, run=part.forward, random=random, options=options):
            # a list that the caller appends to later would be another one when the region runs again
            given, spec = _pytree.tree_flatten(args)
            return checkpoint(lambda *given: run(*_pytree.tree_unflatten(given, spec)), *given, use_reentrant=False,
                              preserve_rng_state=random, **options)  # fmt: skip

        part.forward = forward
    return module


def measure(module, inputs, loss_fn, *, targets, optimizer=None, context=None):
    """Return the totals after each event of a step, by phase.

    As ``torch_truth.training_step`` counts, but for blocks that an op makes and lets go: such a block is scratch of a
    kernel unless autograd packed something while it was alive. What an op has made when packing ends recomputation,
    and the clone that an op in place packs, are tensors.
    """
    import gc
    from contextlib import nullcontext
    from unittest import mock

    import torch
    import torch_truth
    from torch._C._profiler import _EventType, _RecordFunctionFast
    from torch.profiler import ProfilerActivity, profile
    from torch.utils import checkpoint as module_of

    def marking(cls):
        def init(self, *args):
            cls.__init__(self, *args)
            with _RecordFunctionFast(_PACK):
                pass

        return type(cls.__name__, (cls,), {"__init__": init})

    context = context or nullcontext
    parameters = list(module.parameters())
    optimizer = optimizer(parameters) if optimizer is not None else None

    def step():
        mark = torch.profiler.record_function
        with mark("phase forward"):
            for p in parameters:
                p.grad = None
            with context():
                out = module(*inputs)
            loss = loss_fn(out)
        with mark("phase backward"):
            loss.backward()
        if optimizer is not None:
            with mark("phase optimizer"):
                optimizer.step()
        return out, loss

    step()
    for p in parameters:
        p.grad = None
    state = list(torch_truth._tensors(list(optimizer.state.values()))) if optimizer is not None else []
    standing = torch_truth._storages([*parameters, *module.buffers(), *inputs, *targets, *state])
    names = ("_Holder", "_Handle", "_StopRecomputationError")
    gc.disable()
    try:
        with (
            mock.patch.multiple(module_of, **{name: marking(getattr(module_of, name)) for name in names}),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
        ):
            kept = step()
    finally:
        gc.enable()
    found, packs, n_ops = [], [], 0
    stack = [(e, 0, "", "") for e in reversed(profiler.profiler.kineto_results.experimental_event_tree())]
    while stack:
        event, op, name, phase = stack.pop()
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            found.append((event.start_time_ns, len(found), fields.alloc_size, fields.ptr, op, name, phase))
            continue
        if event.name.startswith("phase "):
            phase = event.name[6:]
        elif event.name == _PACK:
            packs.append(event.start_time_ns)
        elif op == 0 and event.tag == _EventType.TorchOp and torch_truth._own_kernel(event.name):
            n_ops += 1
            op, name = n_ops, event.name
        stack.extend((child, op, name, phase) for child in reversed(event.children))
    found.sort(key=lambda row: row[:2])
    packs.sort()
    made, scratch, blocks = {}, set(), []
    for k, (time, _, nbytes, address, op, _, _) in enumerate(found):
        if nbytes > 0:
            made[address] = (k, time, op)
            blocks.append(k)
            continue
        block, born, its = made.pop(address, (None if address not in standing else -1, 0, 0))
        blocks.append(block)
        packed = any(born < t < time for t in packs) if its and its == op else True
        if not packed:
            scratch.add(block)
    total = sum(standing.values())
    totals = {"forward": [total], "backward": [], "optimizer": []}
    rows = [(nbytes, block, op, phase) for (_, _, nbytes, _, op, _, phase), block in zip(found, blocks, strict=True)
            if block is not None and block not in scratch and phase]  # fmt: skip
    # a number that is wrapped as a tensor for one op is seen in no dispatch
    numbers = {a[1] for a, b in pairwise(rows) if a[0] == 8 and b[0] == -8 and a[1] == b[1]}
    for nbytes, block, _, phase in rows:
        if block in numbers:
            continue
        if not totals[phase]:
            totals[phase].append(total)
        total += nbytes
        totals[phase].append(total)
    del kept
    totals["optimizer"] = totals["optimizer"] or [total]
    return totals
