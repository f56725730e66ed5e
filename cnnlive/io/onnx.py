"""Reading ONNX files.

Every node becomes an op, or part of the weights, or shape arithmetic that is done at once.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from cnnlive._types import Shape, dtype_name
from cnnlive.errors import (
    CnnliveError,
    DTypeError,
    ReadError,
    ShapeError,
    UnknownOperatorError,
    import_extra,
)
from cnnlive.graph import Graph, Tensor
from cnnlive.io._onnx_fold import FOLDS, Constant, cast_to, fold, from_proto, shape_of, size_of
from cnnlive.io._onnx_ops import RULES, Weights
from cnnlive.io.buffers import file_title
from cnnlive.ops import Weight, operator, weights_of

__all__ = ["MAX_DEPTH", "MAX_INLINED", "MIN_OPSET", "read_onnx"]

MIN_OPSET: Final = 7  # before it, broadcasting followed other rules
MAX_INLINED: Final = 200_000  # nodes that the functions of a file may become
MAX_DEPTH: Final = 100  # of functions that call functions, as onnx's own inliner has it
_DEFAULT_DOMAINS: Final = ("", "ai.onnx")
_GRAPH_ATTRIBUTES: Final = (5, 10)  # AttributeProto.GRAPH, AttributeProto.GRAPHS
# What a damaged file makes of the arithmetic on its numbers.
_MALFORMED: Final = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


def read_onnx(
    source: Any, *, input_shapes: Mapping[str, Sequence[int]] | None = None, name: str | None = None
) -> Graph:
    """Read a CNN from an ONNX file.

    Weights are described by their shapes alone: large ones are never decoded, and data stored outside the
    file is never opened. Initialisers, ``Constant`` and ``ConstantOfShape`` nodes, and everything computed
    from them and from ``Shape`` are folded: into the weights of the op that reads them, into a ``parameter``
    where an op without weights reads them, or into the attributes of a reshape and its like. None of it
    counts as an activation. Weights that several nodes read count once.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        Opset 7 or later, up to the newest that the installed ``onnx`` knows.
    input_shapes : mapping of str to sequence of int, optional
        Shapes by input name; needed where the file leaves a dimension open. An open *first* dimension is
        the batch and is taken as 1, since plans are made for any batch anyway.
    name : str, optional
        For reports; by default the file's name, or the name inside the file.

    Returns
    -------
    Graph
        One op per node that computes, in the file's order; a few nodes need two. Ops carry the nodes' names,
        and those without one the name of their first output.

    Raises
    ------
    MissingExtraError
        If ``onnx`` is not installed.
    ReadError
        If the file is damaged, too old, refers to what it does not define, or leaves a dimension open.
    UnknownOperatorError
        If a node is control flow, or an operator that has no rule here; the message names the node.
    ShapeError, AttributeValueError, GraphError
        If a node cannot work on the shapes it is given.

    Notes
    -----
    O(n_nodes). Three things are approximated without changing a byte count: a dilated mean pool becomes one
    with a kernel of the same extent, factors inside ``Gemm`` are dropped, and ``Celu`` is read as ``elu``.
    What several ops or roles use is tied to the op that holds it first. Where of two running statistics only
    one is held elsewhere, the op has none and a ``parameter`` beside it holds the other.

    Examples
    --------
    >>> from onnx import TensorProto, helper
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    >>> relu = helper.make_node("Relu", ["x"], ["y"])
    >>> g = read_onnx(helper.make_model(helper.make_graph([relu], "tiny", [x], [y])))
    >>> g.nodes(), g.outputs[0].shape
    (['x', 'y'], (1, 3, 32, 32))
    """
    return _read(source, input_shapes=input_shapes, name=name)[0]


def _read(
    source: Any, *, input_shapes: Mapping[str, Sequence[int]] | None = None, name: str | None = None
) -> tuple[Graph, dict[str, Tensor | Constant]]:
    """Read a file; return the graph and what became of every named value."""
    model, file_name = _load(source)
    try:
        reader = _Reader(model, name or file_name)
        reader.read(input_shapes or {})
    except CnnliveError as error:
        if not file_name:
            raise
        raise type(error)(f"{file_name}: {error}") from None
    except _MALFORMED as error:
        raise ReadError(f"{file_name or 'the model'} is damaged: {type(error).__name__}: {error}") from None
    return reader.graph, reader.values


def _load(source: Any) -> tuple[Any, str]:
    """Return a ModelProto and the name of the file it came from."""
    onnx = import_extra("onnx", "onnx", "reading ONNX")
    if isinstance(source, onnx.ModelProto):
        return source, ""
    file_name, where = "", "the bytes given"
    if isinstance(source, str | os.PathLike):
        file_name = file_title(source)
        where = repr(os.fspath(source))
        try:
            with open(source, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            raise ReadError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        raise ReadError(f"cannot read a {type(source).__name__}; allowed: a path, bytes or an onnx.ModelProto")
    if not data:
        raise ReadError(f"{where} cannot be read as ONNX: it is empty")
    try:
        # Not onnx.load: that also opens the files which hold external weight data.
        model = onnx.load_model_from_string(data)
    except Exception as error:  # the error classes of protobuf are its own and differ between its versions
        raise ReadError(f"{where} is damaged or not ONNX: {error}") from None
    return model, file_name


class Node:
    """A node of the file: its name, and its attributes as Python values."""

    def __init__(self, proto: Any, opset: int) -> None:
        self.op_type: str = proto.op_type
        self.opset = opset
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.name: str = proto.name or next((o for o in self.outputs if o), "") or self.op_type
        self.attrs: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.name} ({self.op_type})"

    def decode(self, proto: Any) -> None:
        """Read the attributes."""
        from onnx import helper  # noqa: PLC0415 - optional dependency

        self.attrs = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    def fail(self, words: str) -> NoReturn:
        """Raise a ReadError that names the node."""
        raise ReadError(f"{self}: {words}")

    def text(self, key: str, default: str) -> str:
        """Return a text attribute."""
        value = self.attrs.get(key, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def dtype(self, key: str) -> str:
        """Return a data type attribute, by numpy's name."""
        from onnx import helper  # noqa: PLC0415 - optional dependency

        return str(helper.tensor_dtype_to_np_dtype(self.attrs[key]).name)

    def equal_parts(self, n: int) -> list[int]:
        """Return the sizes of `n` elements cut into as many parts as there are outputs."""
        parts = int(self.attrs.get("num_outputs", len(self.outputs)))
        if parts != len(self.outputs) or not 1 <= parts <= n:
            self.fail(f"cannot cut {n} elements into {parts} parts for {len(self.outputs)} outputs")
        size = -(-n // parts)
        return [min(size, n - size * i) for i in range(parts)]


class _Reader:
    """Walks the nodes of one model and adds their ops to a graph."""

    def __init__(self, model: Any, name: str) -> None:
        if not model.HasField("graph"):
            raise ReadError("the file holds no graph; it is damaged or not an ONNX model")
        self.model = _inlined(model)
        self.proto = self.model.graph
        self.opset = _opset_of(self.model)
        self.graph = Graph(name or self.proto.name)
        self.values: dict[str, Tensor | Constant] = {}
        self.unavailable: dict[str, str] = {}
        self.batch = 1
        self.ops_of_node = 0
        # Who holds which stored bytes.
        self.holder: dict[str, str] = {}
        self.operands: dict[str, Tensor] = {}

    # ------------------------------------------------------------------ the walk

    def read(self, input_shapes: Mapping[str, Sequence[int]]) -> None:
        """Fill the graph."""
        for tensor in self.proto.initializer:
            self.define(tensor.name, from_proto(tensor, tensor.name, trainable=True))
        for sparse in self.proto.sparse_initializer:
            raise ReadError(f"the initialiser {sparse.values.name!r} is sparse; allowed: dense ones")
        self.read_inputs(input_shapes)
        for proto in self.proto.node:
            self.read_node(proto)
        if not self.proto.output:
            raise ReadError("the model has no outputs")
        found = [self.lookup(o.name, f"the output {o.name!r}") for o in self.proto.output]
        tensors = [v for v in found if isinstance(v, Tensor)]
        if not tensors:
            raise ReadError(f"no output depends on an input: {', '.join(o.name for o in self.proto.output)}")
        self.graph.output(*tensors)

    def define(self, name: str, value: Tensor | Constant) -> None:
        """Give a value its name."""
        if name in self.values:
            raise ReadError(f"the value {name!r} is defined twice")
        self.values[name] = value

    def lookup(self, name: str, who: str) -> Tensor | Constant:
        """Return what a name stands for."""
        value = self.values.get(name)
        if value is None:
            reason = self.unavailable.get(name, "which no node before it writes; the file is damaged or out of order")
            raise ReadError(f"{who} reads {name!r}, {reason}")
        return value

    def read_inputs(self, input_shapes: Mapping[str, Sequence[int]]) -> None:
        """Add the inputs of the network; with an initialiser (IR version 3) they are weights instead."""
        inputs = [i for i in self.proto.input if i.name not in self.values]
        names = [i.name for i in inputs]
        for key in input_shapes:
            if key not in names:
                raise ReadError(f"input_shapes names {key!r}, which is not an input; allowed: {', '.join(names)}")
        if not inputs:
            raise ReadError("the model has no inputs")
        for info in inputs:
            shape = _input_shape(info, input_shapes.get(info.name))
            dtype = _activation_dtype(info.type.tensor_type.elem_type, f"the input {info.name!r}")
            if not info.name:
                raise ReadError("an input has no name")
            self.define(info.name, self.graph.input(shape, dtype, name=info.name))
        self.batch = self.graph.inputs[0].shape[0]

    def read_node(self, proto: Any) -> None:
        """Fold a node, or add its ops."""
        node = Node(proto, self.opset)
        if proto.domain not in _DEFAULT_DOMAINS:
            raise UnknownOperatorError(
                f"{node}: the operator is of the domain {proto.domain!r}; allowed: the default domain of ONNX"
            )
        if any(a.type in _GRAPH_ATTRIBUTES for a in proto.attribute):
            raise UnknownOperatorError(
                f"{node}: control flow cannot be planned; which ops run has to be known beforehand"
            )
        try:
            node.decode(proto)
            with np.errstate(all="ignore"):
                outputs = self.outputs_of(node)
        except CnnliveError as error:
            if str(error).startswith(node.name):
                raise
            raise type(error)(f"{node}: {error}") from None
        except _MALFORMED as error:
            raise ReadError(f"{node}: cannot be read: {type(error).__name__}: {error}") from None
        for key, value in zip(node.outputs, outputs, strict=False):
            if key:
                self.define(key, value)
        for key in node.outputs[len(outputs) :]:
            self.unavailable[key] = f"output {node.outputs.index(key)} of {node}, which is not supported"

    def outputs_of(self, node: Node) -> Sequence[Tensor | Constant]:
        """Return what a node writes."""
        args = [self.lookup(i, str(node)) if i else None for i in node.inputs]
        if node.op_type == "Shape" and args and isinstance(args[0], Tensor):
            return [shape_of(node, args[0].shape)]
        if node.op_type == "Size" and args and isinstance(args[0], Tensor):
            return [size_of(node, args[0].shape)]
        if node.op_type == "CastLike" and len(args) == 2 and isinstance(args[0], Constant) and args[1] is not None:
            return [cast_to(args[1].dtype, node.outputs[0], args[0])]
        constants = [a for a in args if not isinstance(a, Tensor)]
        if len(constants) == len(args):
            if node.op_type in FOLDS:
                return fold(node, constants)
            if node.op_type in RULES:
                node.fail("reads constants only and is not among the operators that are folded")
        rule = RULES.get(node.op_type)
        if rule is None:
            raise UnknownOperatorError(
                f"{node}: the operator {node.op_type!r} of ONNX is not supported; allowed: {', '.join(RULES)}"
            )
        self.ops_of_node = 0
        result = rule(self, node, args)
        return [result] if isinstance(result, Tensor) else result

    # ------------------------------------------------------------------ what the rules use

    def emit(
        self, node: Node, op: str, *inputs: Tensor, weights: Weights | None = None, **attrs: Any
    ) -> tuple[Tensor, ...]:
        """Add an op for a node; `weights` says by role which constants the op holds and in what shapes."""
        self.ops_of_node += 1
        name = self.graph._free_name(node.name if self.ops_of_node == 1 else f"{node.name}_{op}")
        groups = weights or {}
        asked = dict(attrs)
        tied, loose = self.share(name, groups, attrs)
        result = self.graph._add(name, op, inputs, attrs, "", tied or None)
        if groups:
            # Also what the op does without, for sharing, has to have its shape.
            full = self.graph.attributes(name) | {k: asked[k] for k, v in attrs.items() if v is False}
            self.check_weights(node, weights_of(operator(op), [t.shape for t in inputs], full), groups)
        for constant in loose:
            self.hold(constant)
        return result

    @staticmethod
    def check_weights(node: Node, held: Sequence[Weight], groups: Weights) -> None:
        """Compare the weights that an op holds by the operator table with those of the file."""
        given = [c for group in groups.values() for c, _ in group]
        for weight, constant in zip([w for w in held if w.role != "counter"], given, strict=True):
            n = math.prod(weight.shape)
            if n != constant.size:
                raise ShapeError(
                    f"{node}: the {weight.name} {constant.storage!r} has shape {constant.shape}; "
                    f"allowed: {n} elements, as in {weight.shape}"
                )

    def share(self, name: str, groups: Weights, attrs: dict[str, Any]) -> tuple[dict[str, str], list[Constant]]:
        """Decide which roles of an op are held elsewhere: by an earlier op, or by the op itself in another role.

        Running statistics of which one is held elsewhere and the other nowhere are not the op's own: they are
        returned as second result.
        """
        tied: dict[str, str] = {}
        loose: list[Constant] = []
        for role, group in groups.items():
            names = [c.storage for c, _ in group]
            new = {n for n in names if n not in self.holder}
            if not new:
                tied[role] = self.holder[names[0]]
            elif len(new) == len(names):
                self.holder.update(dict.fromkeys(names, name))
            else:
                attrs["track_running_stats"] = False
                loose = [c for c, _ in group]
        return tied, loose

    def hold(self, constant: Constant) -> None:
        """Count a stored tensor that no op holds as its own."""
        if constant.storage not in self.holder:
            self.operand(constant)

    def operand(self, value: Tensor | Constant) -> Tensor:
        """Return a tensor for a value: constants become parameters of the network, each once."""
        if isinstance(value, Tensor):
            return value
        shape = value.shape or (1,)
        found = self.operands.get(value.storage)
        if found is None:
            role = "weight" if value.trainable else "buffer"
            tied = {role: self.holder[value.storage]} if value.storage in self.holder else None
            dtype = dtype_name(value.dtype)
            name = self.graph._free_name(value.storage or "constant")
            attrs = {"shape": shape, "dtype": dtype, "trainable": value.trainable}
            found = self.graph._add(name, "parameter", (), attrs, "", tied)[0]
            self.operands[value.storage] = found
            self.holder.setdefault(value.storage, name)
        if found.shape != shape:
            name = self.graph._free_name(f"{found.node}_view")
            found = self.graph._add(name, "reshape", (found,), {"shape": shape})[0]
        return found


def _inlined(model: Any) -> Any:
    """Replace calls of functions that the file defines itself by their bodies."""
    if not model.functions:
        return model
    n = _nodes_inlined(model)
    if n > MAX_INLINED:
        raise ReadError(f"the functions of the file stand for {n:,} nodes or more; allowed: up to {MAX_INLINED:,}")
    try:
        from onnx import inliner  # noqa: PLC0415 - optional dependency

        return inliner.inline_local_functions(model)
    except Exception as error:  # raised from C++; what it derives from differs between versions
        raise ReadError(f"the functions of the file cannot be inlined: {error}") from None


def _nodes_inlined(model: Any) -> int:
    """Count the nodes that a model has with its functions written out, calls too: a few can stand for millions."""

    def key(domain: str, name: str, one: Any) -> tuple[str, str, str]:
        return domain, name, getattr(one, "overload", "")  # of onnx 1.16 and later

    calls = {
        key(f.domain, f.name, f): [key(n.domain, n.op_type, n) for n in _all_nodes(f.node)] for f in model.functions
    }
    size = dict.fromkeys(calls, 1)
    for _ in range(MAX_DEPTH):
        grown = {k: min(1 + sum(size.get(c, 1) for c in inner), MAX_INLINED + 1) for k, inner in calls.items()}
        if grown == size:
            return sum(size.get(key(n.domain, n.op_type, n), 1) for n in _all_nodes(model.graph.node))
        size = grown
    raise ReadError(f"the functions of the file call each other in a cycle, or more than {MAX_DEPTH} deep")


def _all_nodes(nodes: Any) -> list[Any]:
    """Return nodes and those of the graphs that are their attributes."""
    found, left = [], list(nodes)
    while left:
        node = left.pop()
        found.append(node)
        for a in node.attribute:
            for graph in (a.g, *a.graphs):
                left += graph.node
    return found


def _opset_of(model: Any) -> int:
    from onnx import defs  # noqa: PLC0415 - optional dependency

    newest = int(defs.onnx_opset_version())
    versions = [int(o.version) for o in model.opset_import if o.domain in _DEFAULT_DOMAINS]
    if not versions:
        raise ReadError("the file names no opset of the default domain; it is damaged or not an ONNX model")
    opset = max(versions)
    if not MIN_OPSET <= opset <= newest:
        raise ReadError(f"the file uses opset {opset}; allowed: {MIN_OPSET} to {newest}")
    return opset


def _activation_dtype(elem_type: int, who: str) -> str:
    from onnx import helper  # noqa: PLC0415 - optional dependency

    try:
        return dtype_name(str(helper.tensor_dtype_to_np_dtype(elem_type).name))
    except (KeyError, DTypeError):
        raise ReadError(f"{who} has ONNX's element type {elem_type}, which cnnlive has no data type for") from None


def _input_shape(info: Any, given: Sequence[int] | None) -> Shape:
    """Return an input's shape from the file and from what the caller gives."""
    who = f"the input {info.name!r}"
    if not info.type.HasField("tensor_type"):
        raise ReadError(f"{who} is not a tensor")
    tensor_type = info.type.tensor_type
    dims = list(tensor_type.shape.dim) if tensor_type.HasField("shape") else None
    # Some exporters write 0 or -1 where they mean an open dimension.
    fixed = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims or ()]
    words = [str(n) if n else d.dim_param or "?" for n, d in zip(fixed, dims or (), strict=True)]
    hint = f"give it: input_shapes={{{info.name!r}: (...)}}"
    if given is not None:
        try:
            shape = tuple(int(d) for d in given)
        except (TypeError, ValueError):
            raise ReadError(f"input_shapes gives {given!r} for {who}; allowed: a sequence of integers") from None
        if dims is not None and len(shape) != len(dims):
            raise ReadError(
                f"input_shapes gives {shape} for {who}, which has {len(dims)} dimensions, ({', '.join(words)})"
            )
        for i, (n, m) in enumerate(zip(fixed[1:], shape[1:], strict=False), start=1):
            if n not in (None, m):
                raise ReadError(f"input_shapes gives {shape} for {who}, whose dimension {i} is {n}")
    elif dims is None:
        raise ReadError(f"{who} has no shape in the file; {hint}")
    else:
        for i, n in enumerate(fixed[1:], start=1):
            if n is None:
                raise ReadError(f"{who} of shape ({', '.join(words)}) leaves dimension {i}, {words[i]!r}, open; {hint}")
        shape = tuple(n or 1 for n in fixed)
    if not shape or min(shape) < 1:
        raise ReadError(f"{who} has the shape {shape}; allowed: one dimension or more, each at least 1; or {hint}")
    return shape
