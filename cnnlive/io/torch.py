"""Importing PyTorch modules: the forward is executed once on tensors without data, and every call is written down.

A module tells least about itself, its forward most: what runs, runs. So control flow, loops, functional calls and
modules that are used twice need no rule; what cannot be followed is what looks at data.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import inspect
import io
import logging
import math
import operator as python_operator
import re
import sys
import types
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cnnlive._types import Shape, dtype_name
from cnnlive.errors import (
    AttributeValueError,
    CnnliveError,
    ReadError,
    ShapeError,
    UnknownOperatorError,
    import_extra,
)
from cnnlive.graph import Graph, Tensor
from cnnlive.io import _torch_ops as _ops
from cnnlive.lowered import lower
from cnnlive.ops import operator, weights_of

__all__ = ["from_torch"]

_PRIMES: Final = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061)
_METHODS: Final = ("auto", "run", "fx", "export")


def from_torch(
    module: Any,
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
    *,
    example_inputs: Any = None,
    train: bool | None = False,
    method: str = "auto",
    leaves: Mapping[Any, Any] | None = None,
    name: str | None = None,
) -> Graph:
    """Import a PyTorch module.

    The forward is executed once, on tensors that have shapes and no data (device ``meta``), on a copy of the module
    tree that shares nothing writable with it: no weight or activation is allocated, nothing is computed, and the
    module, its buffers, hooks and training flag stay as they are. Each call of PyTorch's becomes an op of the
    operator table. A parameter or buffer that an op reads is that op's weight; one that is used as an operand
    becomes a ``parameter``. What several ops read counts once.

    Parameters
    ----------
    module : torch.nn.Module, torch.fx.GraphModule, torch.export.ExportedProgram, or callable
        A function without arguments that returns a module is called under ``torch.device("meta")``.
    input_shape : sequence of int, or a sequence of those
        Shape of the input, with the batch; of each input if there are several.
    example_inputs : tensor, sequence, or mapping of str to tensor
        In place of `input_shape`: shapes and types are taken, data is not. A mapping is passed by keyword.
    train : bool or None
        Import the forward as it is trained: with auxiliary heads, for example. Dropout is an op in both. None: each
        module as its own flag says, such as normalisations set to ``eval()`` in a module that is trained.
    method : {"auto", "run", "fx", "export"}
        ``"run"`` executes the module itself; ``"fx"`` traces it symbolically and ``"export"`` exports it first.
        ``"auto"`` runs, and takes the others where that is impossible. ``graph.nx.graph["source"]`` says which way
        it was.
    leaves : mapping, optional
        Operators of modules that are not to be entered, by class or by module path (with ``*`` as a wildcard). A
        value is the name of an operator, whose attributes are taken from the module's attributes of the same names,
        or a function ``(module, input_shapes)`` that returns such a name, or the name and a mapping of attributes,
        or None where the module is to be entered after all.
    name : str, optional
        Name of the graph; default: the module's class.

    Returns
    -------
    Graph
        At the batch of the given shape; planners take another one. A module that runs one op gives it its path as
        name; other ops are named by the path and the operator. ``scope`` is the path of the module whose forward
        ran the op. How long Python's frames and variables hold a tensor is noted where the rule of
        :meth:`cnnlive.Lowered.frames` says otherwise, if the module was run and not traced.

    Raises
    ------
    MissingExtraError
        If ``torch`` is not installed.
    ReadError
        If the forward looks at data, or fails; the message names the module.
    UnknownOperatorError
        If a function has no operator; the message names it, the module, and `leaves` as the way out.
    AttributeValueError
        If an argument is none of the above.
    ShapeError, GraphError
        If an operator's shape is not the one that PyTorch gave: never a guess.

    Notes
    -----
    The forward runs at a batch that is a prime number in place of the given one, so that sizes which follow the
    batch can be told from others; the graph then works at every batch. Some 0.3 ms per op.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from_torch(torch.nn.Conv2d(3, 8, 3), (1, 3, 32, 32)).n_parameters  # doctest: +SKIP
    224
    """
    if method not in _METHODS:
        raise AttributeValueError(f"method={method!r}; allowed: {', '.join(map(repr, _METHODS))}")
    net = _read_module(module)
    if (input_shape is None) == (example_inputs is None) and (
        input_shape is not None or isinstance(net, _torch().nn.Module)
    ):
        raise AttributeValueError("give either input_shape or example_inputs")
    rules = _Leaves(leaves or {})
    if not isinstance(net, _torch().nn.Module):
        return _record(net, input_shape, example_inputs, train, "export", rules, name)
    if method != "auto":
        return _record(net, input_shape, example_inputs, train, method, rules, name)
    try:
        return _record(net, input_shape, example_inputs, train, "run", rules, name)
    except ReadError as error:
        for way in ("fx", "export"):
            with contextlib.suppress(CnnliveError), _silence():
                return _record(net, input_shape, example_inputs, train, way, rules, name)
        raise error from error.__cause__


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep PyTorch from logging and printing what it tried, where the error that counts is another one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


# ---------------------------------------------------------------------------------- reading what is given


@functools.cache
def _torch() -> Any:
    """Return the package torch; without types, which would take mypy through all of it."""
    return import_extra("torch", "torch", "importing a module")


def _read_module(module: Any) -> Any:
    """Return an nn.Module or an ExportedProgram; call a factory."""
    torch = _torch()
    exported = getattr(torch.export, "ExportedProgram", ())
    if not isinstance(module, (torch.nn.Module, exported)) and callable(module):
        try:
            with torch.device("meta"):
                made = module()
        except (RuntimeError, NotImplementedError):  # a constructor that computes with data
            made = module()
        if not isinstance(made, torch.nn.Module):
            raise AttributeValueError(f"{module!r} returned a {type(made).__name__}; allowed: a torch.nn.Module")
        return made
    if not isinstance(module, (torch.nn.Module, exported)):
        raise AttributeValueError(
            f"cannot import a {type(module).__name__}; allowed: a torch.nn.Module, a function without arguments that "
            "returns one, a torch.fx.GraphModule or a torch.export.ExportedProgram"
        )
    return getattr(module, "_orig_mod", module)  # what torch.compile wraps


class _Inputs(NamedTuple):
    """The arguments of the forward: meta tensors at the batch of the recording, and other values as they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Any]
    batch: int  # of the graph
    recorded: int  # of the recording


def _read_inputs(input_shape: Any, example_inputs: Any, dtype: Any, avoid: Iterable[int], keep: bool) -> _Inputs:
    """Make the arguments; `avoid` are sizes of parameters, `keep` records at the given batch."""
    torch = _torch()
    kwargs: dict[str, Any] = {}
    if input_shape is not None:
        several = not all(isinstance(d, int) for d in input_shape)
        shapes = [tuple(s) for s in input_shape] if several else [tuple(input_shape)]
        for s in shapes:
            if not s or not all(isinstance(d, int) and d >= 1 for d in s):
                raise AttributeValueError(f"input_shape={input_shape!r}; allowed: integers >= 1, or a list of such")
        args: tuple[Any, ...] = tuple(torch.empty(s, device="meta", dtype=dtype) for s in shapes)
    elif isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, list | tuple):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    tree = torch.utils._pytree
    leaves, form = tree.tree_flatten((args, kwargs))
    given = [t for t in leaves if isinstance(t, torch.Tensor)]
    if not given or any(t.dim() < 1 for t in given):
        raise AttributeValueError("example_inputs hold no tensor, or one without dimensions; the first is the batch")
    batch = int(given[0].shape[0])
    if any(t.shape[0] != batch for t in given):
        raise AttributeValueError(
            f"the inputs have batches of {', '.join(str(t.shape[0]) for t in given)}; allowed: the same first dimension"
        )
    sizes = {d for t in given for d in t.shape[1:]} | set(avoid)
    recorded = batch if keep else next(p for p in _PRIMES if all(d % p for d in sizes))
    tensors = []
    for i, t in enumerate(leaves):
        if isinstance(t, torch.Tensor):
            leaves[i] = torch.empty((recorded, *t.shape[1:]), device="meta", dtype=t.dtype)
            tensors.append(leaves[i])
    args, kwargs = tree.tree_unflatten(leaves, form)
    return _Inputs(args, kwargs, tensors, batch, recorded)


# ---------------------------------------------------------------------------------- a copy without data


class Stored:
    """A parameter, a buffer or a plain tensor that the module holds."""

    __slots__ = ("dtype", "frame", "frozen", "key", "name", "owner", "shape", "trainable")

    def __init__(self, name: str, shape: Shape, dtype: str, trainable: bool, frozen: bool) -> None:
        self.name = name
        self.owner = name.rpartition(".")[0]
        self.shape = shape or (1,)
        self.dtype = dtype
        self.trainable = trainable
        self.frozen = frozen
        self.key = id(self)


class _Mirror:
    """A copy of a module tree on the device meta; what is shared stays shared, nothing writable is."""

    def __init__(self, root: Any, recorder: Recorder | None = None, runs: bool = True) -> None:
        torch = _torch()
        self._runs = runs  # and is not exported first
        self._tensor, self._parameter, self._module = torch.Tensor, torch.nn.Parameter, torch.nn.Module
        self._torch = torch
        self.recorder = recorder
        self.of: dict[int, Any] = {}  # by id of the original: modules and tensors
        self._alive: list[Any] = []  # so that no id is given twice
        self._stored: dict[Any, Any] = {}
        self.paths: dict[int, str] = {}
        self.names: dict[str, Any] = {}
        self.root = self._copy(root, "")
        for copy in list(self.of.values()):
            if isinstance(copy, self._module):
                self._rebind(copy)

    def tensor(self, t: Any, name: str) -> Any:
        """Return the copy of a tensor; two over the same bytes stay one."""
        copy = self.of.get(id(t))
        if copy is not None:
            return copy
        self._alive.append(t)
        is_parameter = isinstance(t, self._parameter)
        key: tuple[Any, ...]
        try:
            key = (t.untyped_storage()._cdata, t.storage_offset(), t.numel())
        except (RuntimeError, NotImplementedError, AttributeError):
            key = (id(t),)
        mark = self._stored.get(key)
        copy = self._torch.empty_strided(tuple(t.shape), t.stride(), dtype=t.dtype, device="meta")
        if is_parameter:
            # Nothing is kept for a backward that never comes, even where gradients are on.
            copy = self._parameter(copy, requires_grad=t.requires_grad and not self._runs)
        if mark is None:
            mark = self._stored[key] = Stored(
                name, tuple(t.shape), dtype_name(t.dtype), is_parameter, is_parameter and not t.requires_grad
            )
        copy._cnnlive = mark
        self.of[id(t)] = copy
        return copy

    def _copy(self, module: Any, path: str) -> Any:
        copy = self.of.get(id(module))
        if copy is not None:
            return copy
        if isinstance(module, self._torch.jit.ScriptModule):
            raise ReadError(
                f"{path or 'the module'} ({type(module).__name__}): TorchScript does not show what it runs; use the "
                "module that it was made of"
            )
        self._alive.append(module)
        cls = type(module)
        copy = object.__new__(cls)
        held = dict(module.__dict__)
        self.of[id(module)] = copy
        self.paths[id(copy)] = path
        prefix = f"{path}." if path else ""
        for slot in ("_parameters", "_buffers"):
            held[slot] = {k: None if t is None else self.tensor(t, prefix + k) for k, t in held.get(slot, {}).items()}
        held["_modules"] = {
            k: None if m is None else self._copy(m, prefix + k) for k, m in held.get("_modules", {}).items()
        }
        held["_compiled_call_impl"] = None
        for key in _HOOKS:
            if held.get(key):
                held[key] = type(held[key])(held[key])
        copy.__dict__.update(held)
        if self.recorder is not None:
            copy.__dict__["_call_impl"] = self.recorder.frame_around(copy, path)
        return copy

    def _rebind(self, copy: Any) -> None:
        """Let plain attributes point into the copy: bound methods, and modules and tensors in containers."""
        held = copy.__dict__
        for key, value in held.items():
            if key in _OWN or isinstance(value, _PLAIN):
                continue
            held[key] = self._translate(value, f"{self.paths[id(copy)]}.{key}".strip("."))

    def _translate(self, value: Any, name: str, depth: int = 0) -> Any:
        if isinstance(value, _PLAIN) or depth > 4:
            return value
        if isinstance(value, self._module):
            return self.of.get(id(value)) or self._copy_late(value, name)
        if isinstance(value, self._tensor):
            return self.tensor(value, name)
        if isinstance(value, types.MethodType):
            target = self.of.get(id(value.__self__))
            return value if target is None else types.MethodType(value.__func__, target)
        if isinstance(value, functools.partial):
            args = [self._translate(v, name, depth + 1) for v in value.args]
            keywords = {k: self._translate(v, name, depth + 1) for k, v in value.keywords.items()}
            return functools.partial(self._translate(value.func, name, depth + 1), *args, **keywords)
        if type(value) in (list, tuple):
            return type(value)(self._translate(v, f"{name}.{i}", depth + 1) for i, v in enumerate(value))
        if type(value) in (dict, OrderedDict):
            return type(value)((k, self._translate(v, f"{name}.{k}", depth + 1)) for k, v in value.items())
        return value

    def _copy_late(self, module: Any, name: str) -> Any:
        copy = self._copy(module, name)
        for m in [copy, *copy.modules()]:
            self._rebind(m)
        return copy


_PLAIN: Final = (int, float, str, bool, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType)
_HOOKS: Final = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_non_persistent_buffers_set",
)  # fmt: skip
_OWN: Final = frozenset((*_HOOKS, "_parameters", "_buffers", "_modules", "_call_impl", "_graph"))


# ---------------------------------------------------------------------------------- writing down what runs


class Frame:
    """One call of a module."""

    __slots__ = ("inner", "kind", "n_own", "parent", "path", "start")

    def __init__(self, path: str, kind: str, parent: Frame | None, start: int) -> None:
        self.path = path
        self.kind = kind
        self.parent = parent
        self.start = start  # records before it
        self.n_own = 0
        self.inner = False  # whether modules inside ran ops


class Record:
    """One op as it ran: what it read, and what PyTorch says it gave."""

    __slots__ = ("attrs", "bases", "deaths", "dtypes", "frame", "inputs", "name", "op", "shapes", "start", "weights")

    def __init__(self, op: str, inputs: list[Ref], attrs: dict[str, Any], frame: Frame) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.frame = frame
        self.weights: dict[str, list[Stored]] = {}
        self.shapes: list[Shape | None] = []
        self.dtypes: list[str | None] = []
        self.bases: list[Ref] = []  # of each output: whose bytes it lies in
        self.deaths: dict[int, int] = {}  # of each output with bytes of its own: records made before they were freed
        self.name: str | None = None
        self.start = -1


Ref = tuple[Record, int]


class _Bytes:
    """A storage: whose output it is, a weak reference, and which ops in place wrote where."""

    __slots__ = ("base", "ref", "writers")

    def __init__(self, base: Ref, ref: Any) -> None:
        self.base = base
        self.ref = ref
        self.writers: list[tuple[Record, int, Shape, tuple[int, ...], int]] = []


def _apart(
    one: tuple[Shape, tuple[int, ...], int], other: tuple[Shape, tuple[int, ...], int], strides: tuple[int, ...]
) -> bool:
    """Whether two views with the same strides share no element: they are apart along some dimension."""
    if one[1] != other[1]:
        return False
    a, b = one[2], other[2]
    for d in sorted(range(len(strides)), key=lambda d: -strides[d]):
        if strides[d] == 0:
            return False
        i, a = divmod(a, strides[d])
        j, b = divmod(b, strides[d])
        if i + one[0][d] <= j or j + other[0][d] <= i:
            return True
    return False


class Recorder:
    """Writes down every call of PyTorch's as ops; tensors carry what they are as the attribute ``_cnnlive``.

    It holds no tensor: when a storage dies, the number of ops run by then is noted.
    """

    def __init__(self, leaves: _Leaves, inputs: _Inputs) -> None:
        torch = _torch()
        self.torch = torch
        self.records: list[Record] = []
        self.parameters: list[Record] = []
        self.read: set[int] = set()  # keys of what the ops of the graph own or read
        self.leaves = leaves
        self.batch, self.recorded = inputs.batch, inputs.recorded
        self.frame = self.root = Frame("", "", None, 0)
        self._entered: list[tuple[Any, Frame]] = []
        self.exporting = False
        self.training = False
        self._still = False  # what runs makes no gradients, within a module that trains
        self._apart = False  # below the dispatcher, where PyTorch itself turns gradients off
        self._moving: set[int] = set()  # keys of weights that some op reads otherwise
        self._autocast = torch._C._is_any_autocast_enabled()  # the caller's: autocast is the planner's
        self.leaf_modules: dict[str, tuple[Any, Any]] = {}
        self.failed: Frame | None = None
        self._rule_of: dict[Any, _ops.Rule] = {}
        self._inside: list[str] = []  # functions whose Python body is running
        self._watch: dict[int, Any] = {}
        self._parameter_of: dict[int, Record] = {}
        self.mirror: _Mirror | None = None
        self.n_inputs = len(inputs.tensors)
        for i, t in enumerate(inputs.tensors):
            record = Record(
                "input", [], {"shape": (self.batch, *t.shape[1:]), "dtype": dtype_name(t.dtype)}, self.frame
            )
            record.name = "input" if i == 0 else f"input_{i}"
            self.records.append(record)
            self.give(record, (t,))

    # -------------------------------------------------------------- module calls

    def frame_around(self, module: Any, path: str) -> Callable[..., Any]:
        """Return what a copied module is called by: as PyTorch does, inside a frame of its own."""
        call = functools.partial(type(module)._call_impl, module)
        kind = type(module).__name__

        def inner(*args: Any, **kwargs: Any) -> Any:
            parent = self.frame
            self.frame = frame = Frame(path, kind, parent, len(self.records))
            try:
                handler = self.leaves.handler(module, path)
                if handler is not None and self.exporting:
                    found = self._leaf_exported(module, path, handler, args, kwargs)
                    if found is not None:
                        return found
                elif handler is not None:
                    with self.torch._C.DisableTorchFunction():
                        found = self.leaf(module, frame, handler, args, kwargs)
                    if found is not None:
                        return found
                return call(*args, **kwargs)
            except Exception:
                if self.failed is None:
                    self.failed = frame
                raise
            finally:
                if frame.n_own or frame.inner:
                    parent.inner = True
                self.frame = parent

        return inner

    def leaf(self, module: Any, frame: Frame, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Write a module down as one op; None where its handler wants it entered."""
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, self.torch.Tensor)]
        inputs = [self.ref(t) for t in tensors]
        shapes = tuple(tuple(t.shape) for t in tensors)
        op, attrs, values, outs = self._leaf_shapes(module, frame.path, handler, shapes)
        if op is None:
            return None
        entry = operator(op)
        record = Record(op, inputs, attrs, frame)
        roles: dict[str, list[Stored]] = {}
        held = [p._cnnlive for p in module.parameters()]
        buffers = [b._cnnlive for b in module.buffers() if b.is_floating_point()]
        for w in weights_of(entry, shapes, values):
            pool = buffers if w.role == "buffer" else held if w.role in ("weight", "bias") else []
            if pool:
                roles.setdefault(w.role, []).append(pool.pop(0))
        record.weights = roles
        self._still = self.training and self._is_still()
        if not self._still:
            self._moving.update(stored.key for group in roles.values() for stored in group)
        self._append(record)
        if entry.alias == "view" or attrs.get("inplace"):
            # The same bytes under a name of its own: who keeps the tensor from before does not read this op.
            results = [tensors[0].view_as(tensors[0])] if len(outs) == 1 else []
        if not (entry.alias == "view" or attrs.get("inplace")) or not results:
            results = [self.torch.empty(s, device="meta", dtype=tensors[0].dtype) for s in outs]
        self.give(record, results, checked=False)
        return results[0] if len(results) == 1 else tuple(results)

    def _leaf_shapes(self, module: Any, path: str, handler: Any, shapes: tuple[Shape, ...]) -> Any:
        """Return operator, attributes as given and as read, and output shapes of a leaf."""
        op, attrs = self.leaves.describe(handler, module, path, shapes)
        if op is None:
            return None, attrs, {}, ()
        entry = operator(op)
        values = Graph._read_attributes(path, entry, attrs)
        try:
            values = entry.rule.resolve(shapes, values)
            if entry.check is not None:
                entry.check(shapes, values)
            return op, attrs, values, entry.rule.infer(shapes, values)
        except CnnliveError as error:
            raise type(error)(f"{path} ({op}): {error} [input shapes: {', '.join(map(str, shapes))}]") from None

    def _leaf_exported(
        self, module: Any, path: str, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Let a leaf be one call of an operator while its surroundings are exported."""
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, self.torch.Tensor)]
        shapes = tuple(tuple(int(d) for d in t.shape) for t in tensors)
        if self.leaves.describe(handler, module, path, shapes)[0] is None:
            return None
        self.leaf_modules[path] = (module, handler)
        outs = self.torch.ops.cnnlive.leaf(tensors, path)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def leaf_shapes(self, path: str, tensors: Sequence[Any]) -> tuple[Shape, ...]:
        """Return the shapes of what a leaf gives."""
        module, handler = self.leaf_modules[path]
        shapes = tuple(tuple(int(d) for d in t.shape) for t in tensors)
        outs: tuple[Shape, ...] = self._leaf_shapes(module, path, handler, shapes)[-1]
        return outs

    def leaf_call(self, call: _ops.Call, tensors: Sequence[Any], path: str) -> None:
        """Write down a leaf that went through an export."""
        module, handler = self.leaf_modules[path]
        outer = self.frame
        inside = outer.path == path  # what was exported says where it ran
        if not inside:
            self.frame = Frame(path, type(module).__name__, outer, len(self.records))
            outer.inner = True
        try:
            found = self.leaf(module, self.frame, handler, tuple(tensors), {})
        finally:
            self.frame = outer
        call.out = list(found) if isinstance(found, tuple) else [found]

    def enter(self, stack: Sequence[tuple[Any, str, str]]) -> None:
        """Be inside these calls of modules (a key, path and class each), leaving and entering what that needs."""
        common = 0
        for (key, _frame), wanted in zip(self._entered, stack, strict=False):
            if key != wanted[0]:
                break
            common += 1
        while len(self._entered) > common:
            _, frame = self._entered.pop()
            assert frame.parent is not None
            frame.parent.inner |= bool(frame.n_own or frame.inner)
            self.frame = frame.parent
        for key, path, kind in stack[common:]:
            self.frame = Frame(path, kind, self.frame, len(self.records))
            self._entered.append((key, self.frame))

    # -------------------------------------------------------------- tensors

    def foreign(self, t: Any) -> Any:
        """Return the copy without data of a tensor that the module holds on some device."""
        assert self.mirror is not None
        name = f"{self.frame.path}.tensor" if self.frame.path else "tensor"
        return self.mirror.tensor(t, name)

    def ref(self, t: Any) -> Ref:
        """Return what a tensor is in the graph; one that the module holds becomes a ``parameter``."""
        mark = getattr(t, "_cnnlive", None)
        if type(mark) is tuple:
            watched = self._watch.get(t.untyped_storage()._cdata)
            if watched is not None and watched.writers:
                return self._rewritten(t, mark, watched)
            return mark
        if mark is None:
            if not t.is_meta:
                return self.ref(self.foreign(t))
            raise ReadError(
                f"{self.where()}: a tensor of shape {tuple(t.shape)} was made by code that PyTorch does not show "
                "(TorchScript or an extension); map the module to an operator with leaves="
            )
        if not self._still:
            self._moving.add(mark.key)
        record = self._parameter_of.get(mark.key)
        if record is None:
            frame: Frame | None = self.frame
            while frame is not None and frame.path != mark.owner:
                frame = frame.parent
            at = self.frame if frame is None else frame
            attrs = {"shape": mark.shape, "dtype": mark.dtype, "trainable": mark.trainable}
            record = self._parameter_of[mark.key] = Record("parameter", [], attrs, at)
            record.start = len(self.records) if frame is None else max(frame.start, self.n_inputs)
            record.name = mark.name
            record.weights = {"weight" if mark.trainable else "buffer": [mark]}
            record.shapes, record.dtypes = [None], [None]
            self.parameters.append(record)
        return record, 0

    def _rewritten(self, t: Any, mark: Ref, watched: _Bytes) -> Ref:
        """Return what a tensor is after ops wrote into its bytes through other views."""
        mine = (tuple(t.shape), t.stride(), t.storage_offset())
        for record, i, *theirs in reversed(watched.writers[getattr(t, "_cnnlive_at", 0) :]):
            if tuple(theirs) == mine:
                t._cnnlive, t._cnnlive_at = (record, i), len(watched.writers)
                return record, i
            if _apart(mine, tuple(theirs), mine[1]):  # type: ignore[arg-type]
                continue
            before: Shape = theirs[0]  # type: ignore[assignment]
            shape = []
            for d, size in enumerate(t.shape):
                follows = self.batchy(size, d)
                if follows and (d > 0 or not before or before[0] != size):
                    raise UnknownOperatorError(
                        f"{self.where()}: part of the batch is overwritten in place; map the module to an operator "
                        "with leaves="
                    )
                shape.append(0 if follows else size)
            view = Record("as_strided", [(record, i)], {"shape": tuple(shape)}, self.frame)
            self._append(view)
            self.give(view, (t,))
            return view, 0
        return mark

    def where(self) -> str:
        """Name the module that is running."""
        return f"{self.frame.path or 'the module'} ({self.frame.kind})" if self.frame.kind else "the module"

    def emit(
        self,
        op: str,
        inputs: Sequence[Any],
        attrs: dict[str, Any],
        outs: Any = None,
        weights: dict[str, list[Any]] | None = None,
    ) -> Ref:
        """Write an op down; `outs` are the tensors it made, None for a step between that has none."""
        refs = [i if type(i) is tuple else self.ref(i) for i in inputs]
        if self._still and op != "detach":
            refs = [self._cut(r) for r in refs]
        record = Record(op, refs, attrs, self.frame)
        if weights:
            record.weights = {r: [t._cnnlive for t in ts] for r, ts in weights.items() if ts}
            if not self._still:
                self._moving.update(stored.key for group in record.weights.values() for stored in group)
        self._append(record)
        if outs is None:
            record.shapes.append(None)
            record.dtypes.append(None)
        else:
            self.give(record, outs if isinstance(outs, tuple | list) else (outs,))
        return record, 0

    def _append(self, record: Record) -> None:
        self.frame.n_own += 1
        self.records.append(record)

    def give(self, record: Record, outs: Sequence[Any], checked: bool = True) -> None:
        """Mark tensors as an op's outputs, and watch the bytes that are new."""
        for i, t in enumerate(outs):
            t._cnnlive = (record, i)
            record.shapes.append(tuple(t.shape) if checked else None)
            record.dtypes.append(str(t.dtype)[6:] if checked else None)
            storage = t.untyped_storage()
            key = storage._cdata
            watched = self._watch.get(key)
            if watched is None:
                watched = _Bytes((record, i), weakref.ref(storage, functools.partial(self._died, record, i, key)))
                self._watch[key] = watched
            record.bases.append(watched.base)
            if record.attrs.get("inplace"):
                watched.writers.append((record, i, tuple(t.shape), t.stride(), t.storage_offset()))
            if watched.writers:
                t._cnnlive_at = len(watched.writers)

    def _died(self, record: Record, output: int, key: int, _storage: Any) -> None:
        record.deaths[output] = len(self.records)
        self._watch.pop(key, None)

    def scaled(self, shape: Shape) -> Shape:
        """Return a recorded shape at the graph's batch."""
        p = self.recorded
        if p == self.batch:
            return shape
        return tuple([d if d % p else d // p * self.batch for d in shape])

    def batchy(self, size: int, position: int = 0) -> bool:
        """Whether a recorded size follows the batch."""
        if self.recorded == self.batch:
            return position == 0 and size == self.batch
        return size % self.recorded == 0

    def per_image(self, size: int) -> int:
        """Return how often a size that follows the batch does so."""
        return size // self.recorded

    # -------------------------------------------------------------- calls of functions

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Any) -> Any:
        """Run a function and write it down."""
        rule = self._rule_of.get(func)
        if rule is None:
            rule = self._rule_of[func] = _ops.rule_of(func)
        kind, name, handler = rule
        if kind == _ops.PASS:
            return self._requires_grad(args[0]) if name == "requires_grad" else func(*args, **kwargs)
        if kind == _ops.ANSWER:
            return handler
        args, kwargs = self._local(args), self._local_kwargs(kwargs) if kwargs else kwargs
        if kind == _ops.DATA:
            if not self._any_meta(args):
                return func(*args, **kwargs)
            raise ReadError(
                f"{self.where()}: {name} reads values of a tensor, and a module is imported without data; map this "
                "module to an operator with leaves=, or branch on sizes instead"
            )
        if kind == _ops.ENTER and name not in self._inside:
            self._inside.append(name)
            try:
                with mode:
                    return handler(*args, **kwargs)
            finally:
                self._inside.pop()
        # A function that comes again from its own body asks a helper whether it is overridden.
        if kind in (_ops.UNKNOWN, _ops.ENTER):
            return self._taken_apart(func, name, args, kwargs)
        if kind == _ops.FACTORY:
            kwargs = {**kwargs, "device": "meta"}
        elif kind == _ops.MOVE:
            if name in ("cpu", "cuda"):
                return args[0]
            args = tuple("meta" if isinstance(a, str | self.torch.device) else a for a in args)
            kwargs = {**kwargs, "device": "meta"} if kwargs.get("device") is not None else kwargs
        try:
            if name == "batch_norm" and args:
                # Without data PyTorch takes it apart in Python: most of the time of an import.
                out = self.torch.empty_like(args[0])
            elif name == "scaled_dot_product_attention" and len(args) > 2 and args[0].shape[-1] == args[2].shape[-1]:
                # Fused, as it runs on devices, the result lies in memory as the queries do.
                out = self.torch.empty_like(args[0])
            else:
                out = func(*args, **kwargs)
        except NotImplementedError as error:
            reason = str(error).partition("\n")[0]
            raise ReadError(
                f"{self.where()}: {name} does not run without data ({reason}); map this module to an operator with "
                "leaves="
            ) from error
        return self.write(name, handler, out, args, kwargs)

    def write(self, name: str, handler: Any, out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Write down a call that ran; return what it gave."""
        inplace = (name[-1] == "_" and (name[:2] != "__")) or (name[:3] == "__i" and name not in _NOT_INPLACE)
        if inplace and args and (mark := getattr(args[0], "_cnnlive", None)) is not None and type(mark) is Stored:
            return out  # a buffer is updated where it lies
        if not self._apart:
            self._still = self.training and self._is_still()
        call = _ops.Call(self, name.rstrip("_") if inplace else name, out, inplace)
        if kwargs:
            kwargs = {_FIRST.get(k, k): v for k, v in kwargs.items() if k != "out" or v is not None}
        try:
            handler(call, *args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # from inside: not the way it was called
            raise UnknownOperatorError(
                f"{self.where()}: {name} is called in a way that no operator describes ({error}); map the module to an "
                "operator with leaves="
            ) from error
        if self._still:
            self._detach(call.out)
        return call.out

    def _is_still(self) -> bool:
        """Whether what runs in training makes no gradients; refuse what changes types or what backward keeps."""
        torch = self.torch
        if torch._C._is_any_autocast_enabled() and not self._autocast:
            raise UnknownOperatorError(
                f"{self.where()}: autocast is entered inside the forward; take it out, or disable it, and give "
                "precision='autocast' to the planner"
            )
        frame = None if torch.is_grad_enabled() else sys._getframe(2)
        checkpointed = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        custom = False
        while frame is not None and not checkpointed:  # forwards of autograd's functions run without gradients too
            code = frame.f_code
            checkpointed = _is_checkpoint(code)
            custom |= code.co_name == "apply" and code.co_filename == torch.autograd.function.__file__
            frame = frame.f_back
        if checkpointed:
            raise UnknownOperatorError(f"{self.where()}: {_CHECKPOINTED}")
        return not (custom or torch.is_grad_enabled())

    def _cut(self, ref: Ref) -> Ref:
        """Cut what runs without gradients off from what it reads."""
        if ref[0].op in ("input", "detach"):
            return ref
        found = self.emit("detach", [ref], {})
        self.frame.n_own -= 1
        return found

    def _detach(self, out: Any) -> None:
        """Cut what ran without gradients off from what reads it."""
        for t in out if isinstance(out, tuple | list) else (out,):
            if type(getattr(t, "_cnnlive", None)) is tuple and t.is_floating_point():
                self.emit("detach", [t], {}, t)
                self.frame.n_own -= 1  # the module ran one op still

    def idle(self, stored: Stored) -> bool:
        """Whether a parameter takes no gradient: frozen, or read without gradients alone."""
        return stored.frozen or (self.training and stored.key not in self._moving)

    def _requires_grad(self, t: Any) -> bool:
        """Whether a tensor requires a gradient where the module trains, as its forward may ask."""
        mark = getattr(t, "_cnnlive", None)
        if type(mark) is Stored:
            return mark.trainable and not mark.frozen
        waiting = [mark[0]] if mark is not None and self.training and t.is_floating_point() else []
        seen: set[int] = set()
        while waiting:
            record = waiting.pop()
            if record.op == "detach" or id(record) in seen:
                continue
            seen.add(id(record))
            if any(s.trainable and not s.frozen for group in record.weights.values() for s in group):
                return True
            waiting.extend(r for r, _ in record.inputs)
        return False

    def stored(self, t: Any) -> bool:
        """Whether a tensor is held by the module, and no operand so far."""
        return type(getattr(t, "_cnnlive", None)) is Stored

    def owned(self, t: Any) -> bool:
        """Whether a tensor is a parameter of the module, and no operand so far."""
        mark = getattr(t, "_cnnlive", None)
        return type(mark) is Stored and mark.trainable

    def finish(self, ref: Ref, out: Any) -> None:
        """Let the output of a step be a tensor after all."""
        record, _ = ref
        record.shapes.clear()
        record.dtypes.clear()
        record.bases.clear()
        self.give(record, (out,))

    def _any_meta(self, values: Any) -> bool:
        return any(isinstance(v, self.torch.Tensor) and v.is_meta for v in values)

    def _local(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Replace tensors that the module holds outside its parameters and buffers by copies without data."""
        tensor = self.torch.Tensor
        for v in values:
            if (isinstance(v, tensor) and not v.is_meta) or type(v) in (list, tuple):
                break
        else:
            return values
        return tuple([
            (v if v.is_meta else self.foreign(v)) if isinstance(v, tensor)
            else type(v)(self._local(tuple(v))) if type(v) in (list, tuple) else v
            for v in values
        ])  # fmt: skip

    def _local_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(kwargs, self._local(tuple(kwargs.values())), strict=True))

    def _taken_apart(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that has no rule, and write down what PyTorch's dispatcher runs for it."""
        n = len(self.records)
        apart = self._apart
        if not apart:
            self._still = self.training and self._is_still()
        self._apart = True
        try:
            with _dispatch_mode(self, name):
                out = func(*args, **kwargs)
        except NotImplementedError as error:
            raise UnknownOperatorError(f"{self.where()}: {name} does not run without data ({error})") from error
        finally:
            self._apart = apart
        for t in self.torch.utils._pytree.tree_leaves(out):
            if isinstance(t, self.torch.Tensor) and getattr(t, "_cnnlive", None) is None and t.is_meta:
                self._found_again(t, name, n)
        return out

    def _found_again(self, t: Any, name: str, since: int) -> None:
        """Mark a result that is another object than the dispatcher showed, by the bytes that it lies in."""
        raise UnknownOperatorError(
            f"{self.where()}: {name} has no operator; map the module to one with leaves={{...}}, or register one"
        )


_CHECKPOINTED: Final = (
    "activation checkpointing (or another hook on saved tensors) decides what backward keeps, and is not simulated; "
    "turn it off, or import with train=False to plan inference"
)


def _is_checkpoint(code: types.CodeType) -> bool:
    return code.co_filename.replace("\\", "/").endswith("/torch/utils/checkpoint.py")


_NOT_INPLACE: Final = ("__iter__", "__invert__", "__int__", "__index__")
_FIRST: Final = {"input": "x", "self": "x"}


@functools.cache
def _modes() -> tuple[type, type]:
    """Return the two interception classes; they derive from PyTorch's, which is imported only now."""
    overrides = importlib.import_module("torch.overrides")
    dispatch = importlib.import_module("torch.utils._python_dispatch")
    tree_leaves = _torch().utils._pytree.tree_leaves
    tensor = _torch().Tensor
    functions: Any = overrides.TorchFunctionMode
    kernels: Any = dispatch.TorchDispatchMode

    class Calls(functions):  # type: ignore[misc]
        def __init__(self, recorder: Recorder) -> None:
            super().__init__()
            self.recorder = recorder

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.recorder.call(func, args, kwargs or {}, self)

    class Kernels(kernels):  # type: ignore[misc]
        def __init__(self, recorder: Recorder, outer: str) -> None:
            super().__init__()
            self.recorder, self.outer = recorder, outer

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            kind, name, handler = _ops.rule_of(func)
            if kind == _ops.DATA:
                raise ReadError(
                    f"{self.recorder.where()}: {self.outer} reads values of a tensor ({name}), and a module is "
                    "imported without data; map this module to an operator with leaves="
                )
            if kind == _ops.UNKNOWN:
                with self:
                    out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out
            out = func(*args, **kwargs)
            if kind in (_ops.OP, _ops.FACTORY, _ops.MOVE):
                return self.recorder.write(name, handler, out, args, kwargs)
            if kind != _ops.PASS and any(isinstance(t, tensor) for t in tree_leaves(out)):
                inner = "" if name == self.outer else f" (its step {name})"
                raise UnknownOperatorError(
                    f"{self.recorder.where()}: the function {self.outer}{inner} has no operator; map the module to one "
                    "with leaves={class or path: operator}, or register an operator (cnnlive.ops.register)"
                )
            return out

    return Calls, Kernels


def _dispatch_mode(recorder: Recorder, outer: str) -> Any:
    return _modes()[1](recorder, outer)


# ---------------------------------------------------------------------------------- leaves


class _Leaves:
    """Which modules are operators as a whole."""

    def __init__(self, given: Mapping[Any, Any]) -> None:
        self.given = given
        self.by_class = {k: v for k, v in given.items() if isinstance(k, type)}
        self.by_path = {k: v for k, v in given.items() if isinstance(k, str)}
        for key, value in given.items():
            if not isinstance(key, str | type) or not (isinstance(value, str) or callable(value)):
                raise AttributeValueError(
                    f"leaves={{{key!r}: {value!r}}}; allowed: a module class or path, and the name of an operator or a "
                    "function (module, input_shapes)"
                )

    def handler(self, module: Any, path: str) -> Any:
        """Return what describes a module, or None if it is to be entered."""
        cls = type(module)
        if self.given:
            for key, value in self.by_path.items():
                if key == path or fnmatch.fnmatchcase(path, key):
                    return value
            for base in cls.__mro__:
                if base in self.by_class:
                    return self.by_class[base]
        if cls.__name__ in _STOCHASTIC_DEPTH and f"{cls.__module__}.{cls.__name__}" in _STOCHASTIC_DEPTH.values():
            return _stochastic_depth
        return None

    @staticmethod
    def describe(handler: Any, module: Any, path: str, shapes: tuple[Shape, ...]) -> tuple[str | None, dict[str, Any]]:
        """Return operator and attributes of a leaf; no operator where it is to be entered."""
        found = handler if isinstance(handler, str) else handler(module, shapes)
        if found is None:
            return None, {}
        if isinstance(found, str):
            entry = operator(found)
            missing = object()
            attrs = {k: getattr(module, k, missing) for k in entry.attributes}
            # A module says that it has a bias by holding one.
            if _torch().is_tensor(attrs.get("bias")) or ("bias" in attrs and attrs["bias"] is None):
                attrs["bias"] = attrs["bias"] is not None
            return found, {k: v for k, v in attrs.items() if v is not missing}
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and isinstance(found[1], Mapping):
            return found[0], dict(found[1])
        raise AttributeValueError(
            f"{path} ({type(module).__name__}): its entry in leaves returned {found!r}; allowed: the name of an "
            "operator, a pair of name and attributes, or None"
        )


_STOCHASTIC_DEPTH: Final = {
    "StochasticDepth": "torchvision.ops.stochastic_depth.StochasticDepth",
    "DropPath": "timm.layers.drop.DropPath",
}


def _stochastic_depth(module: Any, _shapes: Any) -> tuple[str, dict[str, Any]]:
    """Describe the dropping of residual branches, whose code branches on the training flag."""
    p = getattr(module, "p", None)
    if p is None:
        p = getattr(module, "drop_prob", None)
    return "stochastic_depth", {"p": p or 0.0, "mode": getattr(module, "mode", "row")}


# ---------------------------------------------------------------------------------- from the record to the graph


def _record(
    net: Any, input_shape: Any, example_inputs: Any, train: bool | None, method: str, leaves: _Leaves, name: str | None
) -> Graph:
    """Import by one method; the operator that stands for leaves in an export knows whose they are meanwhile."""
    try:
        return _import(net, input_shape, example_inputs, train, method, leaves, name)
    finally:
        _EXPORTING.clear()


def _import(
    net: Any, input_shape: Any, example_inputs: Any, train: bool | None, method: str, leaves: _Leaves, name: str | None
) -> Graph:
    """Run a module under the recorder and build the graph."""
    torch = _torch()
    module = net if isinstance(net, torch.nn.Module) else None
    if module is None:
        example_inputs, input_shape, keep = _inputs_of_export(net, input_shape, example_inputs)
        title = net.graph_module.__class__.__name__
        net = net.module(check_guards=False) if _takes(net.module, "check_guards") else net.module()
    else:
        keep, title = False, type(net).__name__
    named = [*net.named_parameters(), *net.named_buffers()]
    lazy = [name for name, t in named if torch.nn.parameter.is_lazy(t)]
    if lazy:
        raise ReadError(f"{', '.join(lazy)}: lazy, without a shape so far; call the module once on an input before")
    tensors = [t for _, t in named]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    sizes = {d for t in tensors for d in t.shape}
    inputs = _read_inputs(input_shape, example_inputs, dtype, sizes, keep)
    recorder = Recorder(leaves, inputs)
    mirror = recorder.mirror = _Mirror(net, recorder, runs=method != "export" or module is None)
    root = mirror.root
    if module is not None:
        if train is not None:
            root.train(train)
        recorder.training = root.training
    try:
        if method == "fx":
            root = _traced(root, recorder)
        elif method == "export" and module is not None:
            _EXPORTING.append(recorder)
            root = _exported(root, recorder, inputs)
            recorder.frame = recorder.root
            mirror = recorder.mirror = _Mirror(root, recorder)
            root = mirror.root
        with torch.inference_mode(), torch.set_grad_enabled(recorder.training), _modes()[0](recorder):
            if isinstance(root, torch.fx.GraphModule):
                outputs = _interpret(root, recorder, inputs)
            else:
                outputs = root(*inputs.args, **inputs.kwargs)
    except CnnliveError:
        raise
    except Exception as error:
        at = recorder.failed or recorder.root
        where = f"{at.path or 'the module'} ({at.kind or title})"
        trace = error.__traceback__
        while recorder.training and trace is not None:
            if _is_checkpoint(trace.tb_frame.f_code):
                raise UnknownOperatorError(f"{where}: {_CHECKPOINTED}") from error
            trace = trace.tb_next
        raise ReadError(f"{where}: the forward fails: {type(error).__name__}: {error}") from error
    outs = []
    for t in torch.utils._pytree.tree_leaves(outputs):
        if isinstance(t, torch.Tensor):
            ref = recorder.ref(t)
            if ref not in outs:
                outs.append(ref)
    if isinstance(outputs, Mapping):
        # Names that the module itself gives to what comes out.
        for key, t in outputs.items():
            if isinstance(key, str) and isinstance(t, torch.Tensor):
                made_by = recorder.ref(t)[0]
                if made_by.name is None and not made_by.frame.path:
                    made_by.name = key
    # How long a traced module's frames hold tensors was not seen.
    seen = method == "run" or isinstance(module, torch.fx.GraphModule)
    graph = _build(recorder, outs, name if name is not None else title, seen)
    _add_idle(graph, recorder)
    _order(graph, net)
    graph._nx.graph["source"] = f"torch {torch.__version__}, {method}"
    return graph


def _takes(function: Any, argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def _inputs_of_export(program: Any, input_shape: Any, example_inputs: Any) -> tuple[Any, Any, bool]:
    """Return the inputs of an exported program, and whether its batch is fixed."""
    torch = _torch()
    users = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    values = [v for v in values if isinstance(v, torch.Tensor)]
    keep = not values or isinstance(values[0].shape[0], int)
    if input_shape is None and example_inputs is None:
        shapes = [tuple(d if isinstance(d, int) else 1 for d in v.shape) for v in values]
        example_inputs = tuple(
            torch.empty(s, device="meta", dtype=v.dtype) for s, v in zip(shapes, values, strict=True)
        )
    elif keep and input_shape is not None:
        given = [input_shape] if all(isinstance(d, int) for d in input_shape) else list(input_shape)
        fixed = [tuple(v.shape) for v in values]
        if [tuple(s) for s in given] != fixed:
            raise AttributeValueError(
                f"input_shape={input_shape!r}; the program is exported for {', '.join(map(str, fixed))} alone"
            )
    return example_inputs, input_shape, keep


def _augmented(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


def _traced(root: Any, recorder: Recorder) -> Any:
    """Trace a module symbolically; its leaves stay calls."""
    fx = importlib.import_module("torch.fx")

    proxies: Any = fx.Proxy
    tracers: Any = fx.Tracer

    class Proxy(proxies):  # type: ignore[misc]
        """Keeps ``x += y`` in place; torch.fx on its own makes it ``x = x + y``."""

    for name in ("iadd", "isub", "imul", "itruediv"):
        setattr(Proxy, f"__{name}__", _augmented(getattr(python_operator, name)))

    class Tracer(tracers):  # type: ignore[misc]
        def proxy(self, node: Any) -> Any:
            return Proxy(node, self)

        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            return recorder.leaves.handler(m, module_qualified_name) is not None or super().is_leaf_module(
                m, module_qualified_name
            )

    tracer = Tracer()
    try:
        graph = tracer.trace(root)
    except Exception as error:
        raise ReadError(f"torch.fx cannot trace the module: {type(error).__name__}: {error}") from error
    return fx.GraphModule(tracer.root, graph)


def _exported(root: Any, recorder: Recorder, inputs: _Inputs) -> Any:
    """Export a module at the batch of the recording."""
    torch = _torch()
    _leaf_operator()
    recorder.exporting = True
    try:
        program = torch.export.export(root, inputs.args, inputs.kwargs or None, strict=False)
        return program.module()
    except CnnliveError:
        raise
    except Exception as error:
        raise ReadError(f"torch.export cannot export the module: {type(error).__name__}: {error}") from error
    finally:
        recorder.exporting = False


_EXPORTING: Final[list[Recorder]] = []  # whose modules the operator cnnlive::leaf stands for


@functools.cache
def _leaf_operator() -> Any:
    """Define the operator by which a leaf module goes through an export."""
    torch = _torch()
    library = torch.library.Library("cnnlive", "FRAGMENT")
    library.define("leaf(Tensor[] tensors, str path) -> Tensor[]")

    def leaf(tensors: Any, path: str) -> Any:
        return [torch.empty_like(tensors[0], dtype=tensors[0].dtype).new_empty(s)
                for s in _EXPORTING[-1].leaf_shapes(path, tensors)]  # fmt: skip

    for key in ("CPU", "Meta"):
        library.impl("leaf", leaf, key)
    return library


def _interpret(root: Any, recorder: Recorder, inputs: _Inputs) -> Any:
    """Run a traced graph node by node; each node says which modules it ran in."""
    fx = importlib.import_module("torch.fx")
    number = re.compile(r"@\d+")

    interpreters: Any = fx.Interpreter

    class Steps(interpreters):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            stack = []
            for key, (path, kind) in (n.meta.get("nn_module_stack") or {}).items():
                plain = number.sub("", path)
                if plain and not (n.op == "call_module" and plain == n.target):
                    stack.append((key, plain, kind if isinstance(kind, str) else kind.__name__))
            recorder.enter(stack)
            return super().run_node(n)

    names = [n.target for n in root.graph.nodes if n.op == "placeholder"]
    args = [*inputs.args, *(inputs.kwargs[k] for k in names[len(inputs.args) :] if k in inputs.kwargs)]
    try:
        return Steps(root).run(*args)
    finally:
        recorder.enter([])


def _build(recorder: Recorder, outs: list[Ref], name: str, frames: bool) -> Graph:
    """Turn the record into a graph at the user's batch; every shape is compared with PyTorch's."""
    graph = Graph(name)
    index = {id(r): i for i, r in enumerate(recorder.records)}  # as they ran
    if not frames:
        _drop_indices(recorder, outs)
    _join_shuffles(recorder, outs)
    made: dict[int, tuple[Tensor, ...]] = {}
    owner: dict[int, str] = {}
    waiting = sorted(recorder.parameters, key=lambda r: r.start)
    waiting.reverse()
    for record in recorder.records:
        while waiting and waiting[-1].start <= index[id(record)]:
            _add(graph, recorder, waiting.pop(), made, owner)
        _add(graph, recorder, record, made, owner)
    while waiting:
        _add(graph, recorder, waiting.pop(), made, owner)
    recorder.read = {*owner, *recorder._parameter_of}
    tensors = [made[id(r)][o] for r, o in outs]
    if not tensors:
        raise ReadError("the forward returned no tensor")
    marked = [(t.node, t.output) for t in tensors]
    if [(t.node, t.output) for t in graph.outputs] != marked:
        graph.output(*tensors)
    if frames:
        _hold(graph, recorder, made, index)
    return graph


def _add_idle(graph: Graph, recorder: Recorder) -> None:
    """Add what modules hold that the forward does not run, such as auxiliary heads in inference: it is stored too."""
    assert recorder.mirror is not None
    marks = [getattr(copy, "_cnnlive", None) for copy in recorder.mirror.of.values()]
    stored = [mark for mark in marks if type(mark) is Stored]
    running = {s.owner for s in stored if s.key in recorder.read}
    for s in {s.key: s for s in stored}.values():
        if s.key not in recorder.read and s.owner not in running and s.owner not in graph and s.name:
            attrs = {"shape": s.shape, "dtype": s.dtype, "trainable": s.trainable}
            graph._add(graph._free_name(s.name), "parameter", (), attrs, s.owner, **_frozen(("weight",) * s.frozen))


def _order(graph: Graph, net: Any) -> None:
    """Note in which order the module lists its parameters, where that is not the order of the program."""
    weighted = [owned.op for owned in graph.weights()]
    own = [path for path, _ in net.named_parameters(recurse=False)]
    graph.order_parameters(*own, *[path for path, _ in net.named_modules() if path])
    rank = {name: i for i, name in enumerate(graph.parameter_order)}
    if sorted(weighted, key=rank.__getitem__) == weighted:
        graph.order_parameters()


def _drop_indices(recorder: Recorder, outs: list[Ref]) -> None:
    """Let pools that give indices because they were exported give none where nobody reads them."""
    read = {(id(r), o) for record in recorder.records for r, o in record.inputs} | {(id(r), o) for r, o in outs}
    for record in recorder.records:
        if record.attrs.get("return_indices") and (id(record), 1) not in read:
            record.attrs["return_indices"] = False


def _join_shuffles(recorder: Recorder, outs: list[Ref]) -> None:
    """Write a channel shuffle that is spelt out (split, swap, copy, join) as the one op that it is."""
    records = recorder.records
    if not any(r.op == "transpose" for r in records):
        return
    uses = Counter(id(r) for record in records for r, _ in record.inputs)
    uses.update(id(r) for r, _ in outs)
    gone: set[int] = set()
    for i in range(len(records) - 3):
        a, b, c, d = records[i : i + 4]
        if (a.op, b.op, c.op) != ("reshape", "transpose", "contiguous") or d.op not in ("reshape", "flatten"):
            continue
        source, output = a.inputs[0]
        before, split, after = source.shapes[output], a.shapes[0], d.shapes[0]
        if before is None or split is None or after != before or len(split) != len(before) + 1:
            continue
        swapped = {b.attrs["dim0"], b.attrs["dim1"]}
        chained = b.inputs[0][0] is a and c.inputs[0][0] is b and d.inputs[0][0] is c
        alone = uses[id(a)] == uses[id(b)] == uses[id(c)] == 1
        if not chained or not alone or swapped != {1, 2} or split[1] * split[2] != before[1]:
            continue
        d.op, d.inputs, d.attrs, d.deaths = "channel_shuffle", a.inputs, {"groups": split[1]}, c.deaths
        d.bases = [(d, 0)]
        d.frame.n_own -= 3
        gone |= {id(a), id(b), id(c)}
        for record in records:
            record.bases = [(d, 0) if base[0] is c else base for base in record.bases]
    if gone:
        recorder.records = [r for r in records if id(r) not in gone]


def _hold(graph: Graph, recorder: Recorder, made: Mapping[int, tuple[Tensor, ...]], index: Mapping[int, int]) -> None:
    """Note how long Python really held each tensor, where that is not what the rule of module calls says."""
    net = lower(graph)
    position = {n: i for i, n in enumerate(net.op_names)}
    frames = net.frames().tolist()
    first = net.out_ptr.tolist()
    producer = net.producer.tolist()
    # Where the k-th recorded op, or the last one kept before it, stands in the graph.
    place = [0] * (max(index.values()) + 1)
    for record in recorder.records:
        place[index[id(record)]] = position[made[id(record)][0].node]
    for k in range(1, len(place)):
        place[k] = max(place[k], place[k - 1])
    groups: dict[tuple[int, int], list[int]] = {}
    for record in recorder.records:
        tensors = made[id(record)]
        for t, (base, output) in zip(tensors, record.bases, strict=False):
            if base.op != "input" and id(base) in made:
                owner = made[id(base)][output]
                key = (position[owner.node], owner.output)
                groups.setdefault(key, []).append(first[position[t.node]] + t.output)
    deaths = {
        (position[made[id(r)][0].node], o): place[n - 1]
        for r in recorder.records if id(r) in made for o, n in r.deaths.items()
    }  # fmt: skip
    outputs = {first[position[t.node]] + t.output for t in graph.outputs}
    names = net.op_names
    for (op, output), members in groups.items():
        if any(m in outputs for m in members):
            continue
        died = deaths.get((op, output), len(names) - 1)
        for m in members:
            if frames[m] > died > producer[m]:
                graph.hold(Tensor(graph, names[producer[m]], m - first[producer[m]]), names[died])
        ruled = max(min(frames[m], died) for m in members)
        if died > ruled:
            graph.hold(Tensor(graph, names[op], output), names[died])


def _add(
    graph: Graph, recorder: Recorder, record: Record, made: dict[int, tuple[Tensor, ...]], owner: dict[int, str]
) -> None:
    """Add one recorded op."""
    frame = record.frame
    base, scope = record.name, frame.path
    if base is None:
        if frame.n_own == 1 and not frame.inner and frame.path and frame.parent is not None:
            base, scope = frame.path, frame.parent.path
        else:
            own = next((s for group in record.weights.values() for s in group), None)
            if (
                own is not None
                and own.owner != frame.path
                and own.owner.startswith(f"{frame.path}." if frame.path else "")
            ):
                base = own.owner
            else:
                base = f"{frame.path}.{record.op}" if frame.path else record.op
    name = graph._free_name(base)
    tied: dict[str, str] = {}
    frozen: list[str] = []
    for role, group in record.weights.items():
        first = owner.get(group[0].key)
        if first is not None:
            tied[role] = first
        for stored in group:
            owner.setdefault(stored.key, name)
        if role in ("weight", "bias") and all(recorder.idle(s) for s in group):
            frozen.append(role)
    if "buffer" in tied and record.op.startswith("batch_norm"):
        tied["counter"] = tied["buffer"]
    inputs = [made[id(r)][o] for r, o in record.inputs]
    tensors = graph._add(name, record.op, inputs, record.attrs, scope, tied or None, **_frozen(tuple(frozen)))
    made[id(record)] = tensors
    if record.weights:
        _check_weights(graph, recorder, record, name, inputs)
    for t, shape, dtype in zip(tensors, record.shapes, record.dtypes, strict=False):
        if shape is None:
            continue
        expected = recorder.scaled(shape) or (1,)
        if t.shape != expected or t.dtype != dtype:
            raise ShapeError(
                f"{name} ({record.op}): the operator gives {t.shape} {t.dtype}, PyTorch {expected} {dtype}; "
                "map the module to another operator with leaves="
            )


def _check_weights(graph: Graph, recorder: Recorder, record: Record, name: str, inputs: Sequence[Tensor]) -> None:
    """Compare what the module holds with what the operator counts."""
    counted: Counter[str] = Counter()
    for w in weights_of(operator(record.op), [t.shape for t in inputs] or [()], graph.attributes(name)):
        counted[w.role] += math.prod(w.shape)
    for role, group in record.weights.items():
        held = sum(math.prod(s.shape) for s in group)
        if counted[role] != held:
            raise ShapeError(
                f"{name} ({record.op}): the operator counts {counted[role]:,} elements as {role}, and the module holds "
                f"{held:,} ({', '.join(s.name for s in group)}); map the module to another operator with leaves="
            )


def _frozen(roles: tuple[str, ...]) -> dict[str, Any]:
    return {"frozen": roles} if roles else {}
