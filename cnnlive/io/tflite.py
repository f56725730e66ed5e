"""Reading TFLite files.

A file states the shape and type of every tensor, so sizes are exact whatever the operator: where the operator table
gives another shape, or has no such operator, the op is ``opaque`` and its sizes are the file's.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cnnlive._types import FLOATING, ITEMSIZE, Shape
from cnnlive.errors import CnnliveError, ReadError, import_extra
from cnnlive.graph import Graph, Tensor
from cnnlive.io._tflite_ops import RULES, Built, NotInTable, laid_out, scratch_of
from cnnlive.io.buffers import file_title
from cnnlive.ops import MAX_RANK, operator

__all__ = ["SCHEMA_VERSION", "read_tflite"]

SCHEMA_VERSION: Final = 3
_IDENTIFIER: Final = b"TFL3"
_CONTROL_FLOW: Final = (
    "IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE", "DELEGATE",
)  # fmt: skip
# What the schema calls TensorType, as a type of as many bytes: complex numbers of 8 bytes and unsigned integers have
# no name of their own here, a resource is the number of a variable.
_TYPES: Final[Mapping[int, str]] = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 8: "int64", 9: "int8",
    10: "float64", 12: "int64", 13: "int32", 15: "int32", 16: "int16", 18: "bfloat16",
}  # fmt: skip
_FOUR_BITS: Final = 17
_MALFORMED: Final = (
    ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, RuntimeError, TypeError,
    ValueError, struct.error,
)  # fmt: skip


def read_tflite(source: Any, *, subgraph: int = 0, name: str | None = None) -> Graph:
    """Read a network from a TFLite file.

    Activations of 4 and 5 dimensions are laid out with the channels second, as everywhere in cnnlive; the bytes are
    as many. Ops stand in the file's order, which is the order that TFLite runs them in, and carry the name of the
    first tensor that they write. An activation function that is fused into an op is part of it, as in the file.

    Weights are never decoded: a file that is given by its path is mapped, not loaded. Weights of the activations' own
    type belong to the op that reads them; quantised ones are a ``parameter`` beside it, of the type that the file
    stores (8-bit weights, 32-bit biases), which the op shares. Constants that only say a shape, an axis or a padding
    become attributes. State (variable tensors) is stored beside the weights, as a buffer.

    Parameters
    ----------
    source : path or bytes
        A file of schema version 3, which all are since 2017.
    subgraph : int
        Which of the file's subgraphs is the network.
    name : str, optional
        For reports; by default the file's name.

    Returns
    -------
    Graph
        One op per operator of the file. An operator that the table does not know, or knows with another result, is
        ``opaque``: its ``kind`` is the file's name for it, its sizes are the file's, it counts no
        multiply-accumulates.

    Raises
    ------
    MissingExtraError
        If the schema package is not installed.
    ReadError
        If the file is damaged, of another kind or version, has control flow, or an activation without a fixed size.

    Notes
    -----
    O(n_operators + n_tensors). The batch is what all inputs have as their first dimension if that is 1, or if all are
    images; else inputs get a first dimension of 1. So a plan at ``graph.inputs[0].shape[0]`` has the file's sizes.
    What TensorFlow Lite Micro's planner is told beside the graph is kept with each op: see ``docs/tflite.md``.

    Examples
    --------
    >>> read_tflite(b"no such thing")
    Traceback (most recent call last):
    ...
    cnnlive.errors.ReadError: the bytes given: not a TFLite file: 'TFL3' is missing at byte 4
    """
    schema = _schema()
    data, file_name, where = _opened(source)
    try:
        if bytes(data[4:8]) != _IDENTIFIER:
            raise ReadError(f"not a TFLite file: {_IDENTIFIER.decode()!r} is missing at byte 4")
        return _Reader(schema, data, name or file_name).read(subgraph)
    except CnnliveError as error:
        raise ReadError(f"{where}: {error}") from None
    except _MALFORMED as error:
        raise ReadError(f"{where}: damaged: {type(error).__name__}: {error}") from None


def _schema() -> Any:
    return import_extra("tflite", "tflite", "reading TFLite")


def _opened(source: Any) -> tuple[Any, str, str]:
    """Return a file's bytes, its name, and what to call it in messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return source if isinstance(source, bytes) else bytes(source), "", "the bytes given"
    if not isinstance(source, str | os.PathLike):
        raise ReadError(f"cannot read a {type(source).__name__}; allowed: a path or bytes")
    path = os.fspath(source)
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ReadError(f"{path!r} cannot be read as TFLite: it is empty")
            name = file_title(path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), name, name
    except (OSError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


@dataclass(frozen=True, slots=True)
class Info:
    """What the file says of a tensor."""

    index: int
    name: str
    shape: Shape
    dtype: str
    nbytes: int
    variable: bool
    buffer: int
    stored: int  # bytes of data in the file; 0 for activations
    sparse: bool
    four_bits: bool

    @property
    def constant(self) -> bool:
        """Whether the file holds the tensor's data."""
        return self.stored > 0


class Value:
    """What an operator reads: an activation of the graph, or something stored."""

    __slots__ = ("_data", "info", "lead", "shape", "tensor")

    def __init__(self, info: Info, shape: Shape, tensor: Tensor | None, data: Any = None) -> None:
        self.info = info
        self.shape = shape  # as the graph lays it out
        self.lead = len(shape) - len(info.shape)  # dimensions of 1 that the graph has in front
        self.tensor = tensor
        self._data = data

    @property
    def packed(self) -> bool:
        """Whether the bytes stored are not one element after the other."""
        return self.info.sparse or self.info.four_bits

    def numbers(self) -> list[int] | None:
        """Return the integers of a constant, or None if it is none."""
        if self.tensor is not None or self.packed or self.info.dtype not in ("int32", "int64"):
            return None
        if not self.info.constant:
            return None if self.info.nbytes else []
        found: list[int] = np.frombuffer(self._data, np.dtype(self.info.dtype).newbyteorder("<")).tolist()
        return found

    def widen(self, rank: int) -> None:
        """Lay a constant out as one of `rank` dimensions, which broadcasts as in the file."""
        if not self.packed and rank <= MAX_RANK:
            self.shape = laid_out((1,) * (rank - len(self.info.shape)) + self.info.shape) or (1,)


class Op:
    """An operator of the file."""

    __slots__ = ("args", "kind", "name", "options", "outs", "shapes")

    def __init__(self, kind: str, name: str, args: Sequence[Value | None], outs: Sequence[Info], options: Any) -> None:
        self.kind = kind
        self.name = name
        self.args = args
        self.outs = outs
        self.options = options
        self.shapes: list[Shape] = []

    def option(self, name: str, default: Any = 0) -> Any:
        """Return a field of the operator's options."""
        found = getattr(self.options, name, None)
        return default if found is None else found()


class _Reader:
    """Reads one subgraph of a file into a graph."""

    def __init__(self, schema: Any, data: Any, name: str) -> None:
        self.schema = schema
        self.data = data
        self.left = 4 * len(data) + 1024  # entries of lists that a sound file can have
        self.model = schema.Model.GetRootAs(data, 0)
        if self.model.Version() != SCHEMA_VERSION:
            raise ReadError(f"the file has schema version {self.model.Version()}; allowed: {SCHEMA_VERSION}")
        self.graph = Graph(name)
        self.values: dict[int, Tensor] = {}
        self.infos: list[Info] = []
        self.batch = 1
        self.inputs: set[int] = set()
        self.holders: dict[tuple[str, int], str] = {}  # who holds stored bytes first
        self.operands: dict[tuple[str, int, Shape], Tensor] = {}
        self.kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
        self.tables = {v: k for k, v in vars(schema.BuiltinOptions).items() if not k.startswith("_")}

    # ------------------------------------------------------------------ the file

    def count(self, n: int, what: str) -> int:
        """Check the length of a list against what the file can hold."""
        self.left -= n
        if n < 0 or 4 * n > len(self.data) or self.left < 0:
            raise ReadError(f"damaged: {n} {what} in a file of {len(self.data)} bytes")
        return n

    def ints(self, table: Any, field: str, what: str) -> list[int]:
        """Return a list of integers of a table."""
        n = self.count(getattr(table, f"{field}Length")(), what)
        return [int(i) for i in getattr(table, f"{field}AsNumpy")()] if n else []

    def info(self, index: int, tensor: Any) -> Info:
        """Read what the file says of a tensor."""
        name = (tensor.Name() or b"").decode("utf-8", "replace") or f"tensor_{index}"
        who = f"tensor {index}, {name!r},"
        shape = tuple(self.ints(tensor, "Shape", f"dimensions of {who}"))
        if any(d < 0 for d in shape):
            raise ReadError(f"{who} has the shape {shape}; allowed: sizes of 0 or more")
        code, buffer = tensor.Type(), tensor.Buffer()
        stored = self.stored(buffer, who)
        four_bits, sparse = code == _FOUR_BITS, tensor.Sparsity() is not None
        dtype = "int8" if four_bits else _TYPES.get(code, "")
        elements = math.prod(shape)
        if elements >= 2**62:
            raise ReadError(f"{who} has the shape {shape}; allowed: less than 2**62 elements")
        nbytes = -(-elements // 2) if four_bits else elements * ITEMSIZE.get(dtype, 0)
        if stored and dtype and not sparse and stored != nbytes:
            raise ReadError(f"damaged: {who} of shape {shape} and type {dtype} has {stored} bytes of data")
        return Info(index, name, shape, dtype, nbytes, bool(tensor.IsVariable()), buffer, stored, sparse, four_bits)

    def stored(self, buffer: int, who: str) -> int:
        """Return how many bytes a buffer has in the file."""
        if not 0 <= buffer < self.n_buffers:
            raise ReadError(f"damaged: {who} has the buffer {buffer}; allowed: 0 to {self.n_buffers - 1}")
        row = self.model.Buffers(buffer)
        if row is None:
            return 0
        outside = getattr(row, "Offset", int)(), getattr(row, "Size", int)()  # in files above 2 GB, behind the tables
        if outside[0] > 1:
            if sum(outside) > len(self.data):
                raise ReadError(f"damaged: {who} has data up to byte {sum(outside)} of {len(self.data)}")
            return int(outside[1])
        n = int(row.DataLength())
        if n and len(row.DataAsNumpy()) != n:
            raise ReadError(f"damaged: {who} has {n} bytes of data beyond the end of the file")
        return n

    def bytes_of(self, info: Info) -> Any:
        """Return the data of a constant, not copied."""
        row = self.model.Buffers(info.buffer)
        offset = getattr(row, "Offset", int)()
        return self.data[offset : offset + row.Size()] if offset > 1 else row.DataAsNumpy()

    def code(self, index: int) -> str:
        """Return what the file calls the operators of one of its codes."""
        row = self.model.OperatorCodes(index)
        code = max(row.BuiltinCode(), row.DeprecatedBuiltinCode())
        kind = self.kinds.get(code, f"BUILTIN_{code}")
        custom = (row.CustomCode() or b"").decode("utf-8", "replace") if kind == "CUSTOM" else ""
        return str(custom or kind)

    def kind(self, operator_: Any) -> str:
        """Return what the file calls an operator."""
        index: int = operator_.OpcodeIndex()
        if not 0 <= index < len(self.codes):
            raise ReadError(f"damaged: an operator has the code {index}; allowed: 0 to {len(self.codes) - 1}")
        return self.codes[index]

    def options(self, operator_: Any) -> Any:
        """Return the table of an operator's options, or None."""
        name, found = self.tables.get(operator_.BuiltinOptionsType(), ""), operator_.BuiltinOptions()
        if found is None or name not in vars(self.schema):
            return None
        options = getattr(self.schema, name)()
        options.Init(found.Bytes, found.Pos)
        return options

    # ------------------------------------------------------------------ the walk

    def read(self, subgraph: int) -> Graph:
        """Fill the graph."""
        model = self.model
        self.n_buffers = self.count(model.BuffersLength(), "buffers")
        self.codes = [self.code(i) for i in range(self.count(model.OperatorCodesLength(), "operator codes"))]
        n = self.count(model.SubgraphsLength(), "subgraphs")
        if isinstance(subgraph, bool) or not isinstance(subgraph, int) or not 0 <= subgraph < n:
            raise ReadError(f"the file has no subgraph {subgraph!r}; allowed: 0 to {n - 1}")
        part = model.Subgraphs(subgraph)
        self.infos = [self.info(i, part.Tensors(i)) for i in range(self.count(part.TensorsLength(), "tensors"))]
        inputs = [i for i in dict.fromkeys(self.ints(part, "Inputs", "inputs")) if not self.at(i).constant]
        outputs = self.ints(part, "Outputs", "outputs")
        if not inputs:
            raise ReadError("the network has no inputs")
        self.batch = self.batch_of([self.infos[i].shape for i in inputs])
        self.inputs = set(inputs)
        for i in inputs:
            info = self.activation(i, "the input")
            self.values[i] = self.add(info.name, "input", (), {"shape": self.shape(info), "dtype": info.dtype})[0]
            self.note(self.values[i].node, [i])
        for k in range(self.count(part.OperatorsLength(), "operators")):
            self.read_operator(part.Operators(k))
        kept = [self.lookup(i, "the output") for i in outputs if not self.at(i).constant]
        if not kept:
            raise ReadError("no output depends on an input")
        self.graph.output(*kept)
        self.note_idle(inputs[0], [] if subgraph else [model.Subgraphs(k) for k in range(1, n)])
        return self.graph

    @staticmethod
    def batch_of(shapes: Sequence[Shape]) -> int:
        """Return the batch that all inputs have, or 1."""
        firsts = {s[0] if len(s) > 3 else 1 for s in shapes}
        return firsts.pop() if len(firsts) == 1 and all(len(s) > 3 for s in shapes) else 1

    def shape(self, info: Info) -> Shape:
        """Return a tensor's shape as the graph has it: channels second, the batch first."""
        shape = laid_out(info.shape)
        batch = self.batch
        if not shape or (shape[0] != batch and batch == 1 and (len(shape) < 4 or info.index in self.inputs)):
            shape = (1, *info.shape)
        if len(shape) > MAX_RANK:
            shape = (shape[0], math.prod(shape[1:]))
        return shape

    def at(self, index: int) -> Info:
        """Return what the file says of a tensor by its number."""
        if not 0 <= index < len(self.infos):
            raise ReadError(f"damaged: there is no tensor {index}; allowed: 0 to {len(self.infos) - 1}")
        return self.infos[index]

    def activation(self, index: int, who: str) -> Info:
        """Return what the file says of a tensor that is computed."""
        info = self.at(index)
        if not info.dtype or info.four_bits:
            raise ReadError(f"{who} {info.name!r} has a type without a fixed size of whole bytes, or of 16 bytes")
        if not info.nbytes:
            raise ReadError(f"{who} {info.name!r} has the shape {info.shape}, which has no elements")
        return info

    def lookup(self, index: int, who: str) -> Tensor:
        """Return the tensor of the graph behind one of the file."""
        found = self.values.get(index)
        if found is None:
            raise ReadError(
                f"{who} reads tensor {index}, {self.at(index).name!r}, which no operator before it writes; "
                "the file is damaged or out of order"
            )
        return found

    def value(self, index: int, who: str) -> Value | None:
        """Return what an operator reads; -1 says that it does without."""
        if index == -1:
            return None
        info = self.at(index)
        if info.constant or info.variable or (not info.nbytes and index not in self.values):
            shape = laid_out(info.shape) or (1,)
            shape = shape if len(shape) <= MAX_RANK else (math.prod(shape),)
            if info.sparse or info.four_bits:
                shape = (info.stored,)
            return Value(info, shape, None, self.bytes_of(info) if info.constant else None)
        return Value(info, self.shape(info), self.lookup(index, who))

    def read_operator(self, row: Any) -> None:
        """Add one operator of the file."""
        kind = self.kind(row)
        indices = self.ints(row, "Outputs", f"outputs of {kind}")
        outs = [self.activation(i, f"{kind}: the output") for i in indices]
        name = outs[0].name if outs else kind
        if kind in _CONTROL_FLOW:
            raise ReadError(f"{name} ({kind}): control flow cannot be planned: which ops run has to be known before")
        if not outs:
            raise ReadError(f"{kind} writes no tensor; allowed: operators whose results can be seen")
        for info in outs:
            if info.constant or info.variable or info.index in self.values or indices.count(info.index) > 1:
                raise ReadError(f"damaged: {kind} writes {info.name!r}, which is stored or written already")
        args = [self.value(i, f"{name} ({kind})") for i in self.ints(row, "Inputs", f"inputs of {kind}")]
        op = Op(kind, name, args, outs, self.options(row))
        op.shapes = [self.shape(info) for info in outs]
        tensors = self.emit(op)
        self.values.update(zip(indices, tensors, strict=True))
        try:
            scratch = scratch_of(op)
        except (NotInTable, LookupError):
            scratch = []
        self.note(tensors[0].node, indices, scratch)

    # ------------------------------------------------------------------ the graph

    def add(self, name: str, op: str, inputs: Sequence[Tensor], attrs: Mapping[str, Any],
            tied: Mapping[str, str] | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        """Add a node under a name that is free."""
        return self.graph._add(self.graph._free_name(name), op, inputs, attrs, "", tied)

    def note(self, node: str, tensors: Sequence[int], scratch: Sequence[int] = ()) -> None:
        """Keep what TensorFlow Lite Micro's planner is told of an op."""
        told = self.graph._nx.nodes[node]["tflm"] = {"tensors": list(tensors)}
        if scratch:
            told["scratch"] = list(scratch)

    def note_idle(self, node: int, others: Sequence[Any]) -> None:
        """Keep which tensors no op writes or reads, also in other subgraphs, which TensorFlow Lite Micro places too."""
        infos = [i for i in self.infos if i.index not in self.values]
        n = len(self.infos)
        for part in others:
            count = self.count(part.TensorsLength(), "tensors")
            infos += [self.info(n + i, part.Tensors(i)) for i in range(count)]
            n += count
        idle = [[i.index, i.nbytes] for i in infos if i.nbytes and not i.constant and not i.variable]
        if idle:
            self.graph._nx.nodes[self.values[node].node]["tflm"]["idle"] = idle

    def emit(self, op: Op) -> tuple[Tensor, ...]:
        """Add an operator as the op of the table that it is, or else as an opaque one."""
        rule = RULES.get(op.kind)
        if rule is not None:
            try:
                built = rule(op)
                if self.fits(op, built):
                    return self.build(op, built)
            except (NotInTable, CnnliveError, ArithmeticError, LookupError, TypeError, ValueError):
                pass  # the file's sizes are exact without the table
        inputs = [self.operand(v) for v in op.args if v is not None and (v.tensor is not None or v.info.nbytes)]
        dtypes = [info.dtype for info in op.outs]
        return self.add(op.name, "opaque", inputs, {"kind": op.kind, "shapes": op.shapes, "dtype": dtypes})

    def fits(self, op: Op, built: Built) -> bool:
        """Say whether the table gives an op the sizes and types that the file states."""
        entry = operator(built.op)
        shapes = [v.shape if v.tensor is None else v.tensor.shape for v in built.inputs]
        values = entry.rule.resolve(shapes, Graph._read_attributes(op.name, entry, built.attrs))
        if entry.check is not None:
            entry.check(shapes, values)
        found = entry.rule.infer(shapes, values)
        if len(found) != len(op.outs) or any(len(s) > MAX_RANK for s in found):
            return False
        if any(math.prod(s) != math.prod(t) or s[0] != t[0] for s, t in zip(found, op.shapes, strict=True)):
            return False
        typed: Any = [v.info for v in built.inputs]
        types = Graph._infer_dtypes(entry, typed, values, len(found))
        return list(types) == [info.dtype for info in op.outs]

    def build(self, op: Op, built: Built) -> tuple[Tensor, ...]:
        """Add an op of the table and decide who holds its weights."""
        inputs = [self.operand(v) for v in built.inputs]
        name = self.graph._free_name(op.name)
        own = op.outs[0].dtype
        tied: dict[str, str] = {}
        new: list[tuple[str, int]] = []
        for role, value in built.held.items():
            key = self.key(value)
            if key not in self.holders and (value.info.dtype != own or own not in FLOATING or key in new):
                self.operand(value, trainable=True)
            if key in self.holders:
                tied[role] = self.holders[key]
            else:
                new.append(key)
        tensors = self.graph._add(name, built.op, inputs, built.attrs, "", tied or None)
        self.holders.update(dict.fromkeys(new, name))
        return tensors

    @staticmethod
    def key(value: Value) -> tuple[str, int]:
        """Return what tells stored bytes apart: state by its tensor, constants by their buffer."""
        return ("state", value.info.index) if value.info.variable else ("buffer", value.info.buffer)

    def operand(self, value: Value, trainable: bool | None = None) -> Tensor:
        """Return a tensor for a value: what is stored becomes a parameter, whose bytes count once."""
        if value.tensor is not None:
            return value.tensor
        info, key = value.info, self.key(value)
        shape = value.shape if math.prod(value.shape) else (1,)
        found = self.operands.get((*key, shape))
        if found is None:
            if not info.dtype:
                raise ReadError(f"{info.name!r} is read as a constant and has a type without a fixed size")
            if trainable is None:
                trainable = not info.variable and info.dtype not in ("int32", "int64", "bool")
            holder = self.holders.get(key)
            role = "weight" if trainable else "buffer"
            attrs = {"shape": shape, "dtype": info.dtype, "trainable": trainable}
            found = self.add(info.name, "parameter", (), attrs, {role: holder} if holder else None)[0]
            self.operands[(*key, shape)] = found
            self.holders.setdefault(key, found.node)
        return found
