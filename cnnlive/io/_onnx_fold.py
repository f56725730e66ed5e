"""Constants of an ONNX file, and what becomes of nodes that read nothing else.

A constant always knows its shape and type. Its values are looked at only where they are few, which is
what shape arithmetic needs; the values of weights are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnlive._types import Shape
from cnnlive.errors import ReadError

if TYPE_CHECKING:
    from cnnlive.io.onnx import Node

__all__ = ["FOLDS", "MAX_KNOWN", "Constant", "cast_to", "fold", "from_proto", "shape_of", "size_of"]

Array = NDArray[Any]
MAX_KNOWN: Final = 4096  # elements; more than any shape computation has, less than most weights


@dataclass(slots=True, eq=False)
class Constant:
    """A stored tensor or one computed from stored tensors.

    Attributes
    ----------
    storage : str
        Name of the stored bytes; a reshaped or transposed constant keeps it, so that each counts once.
    shape : tuple of int
    dtype : str
        ONNX's own name, which may be one that activations cannot have.
    trainable : bool
        Whether it is a weight of the network rather than a number written into the graph.
    value : array or callable, optional
        The elements, or how to get them; None where they are many or stored outside the file.
    """

    storage: str
    shape: Shape
    dtype: str
    trainable: bool
    value: Array | Callable[[], Array] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def known(self) -> Array | None:
        """Return the elements, or None."""
        if callable(self.value):
            self.value = self.value().reshape(self.shape)
        return self.value

    def scalar(self) -> float | None:
        """Return the only element, or None."""
        if self.size != 1 or self.known() is None:
            return None
        return float(np.asarray(self.known()).reshape(-1)[0])

    def reshaped(self, array: Array, known: bool) -> Constant:
        """Return the same bytes in the shape of `array`."""
        return Constant(self.storage, array.shape, self.dtype, self.trainable, array if known else None)


def from_proto(proto: Any, name: str, trainable: bool) -> Constant:
    """Describe a stored tensor; its elements are decoded only if somebody asks, external data never."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - optional dependency

    shape = tuple(int(d) for d in proto.dims)
    if min(shape, default=0) < 0:
        raise ReadError(f"the stored tensor {name!r} has the shape {shape}; allowed: no negative dimension")
    dtype = "string" if proto.data_type == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(proto.data_type).name
    external = proto.data_location == TensorProto.EXTERNAL or len(proto.external_data) > 0
    few = math.prod(shape) <= MAX_KNOWN and dtype != "string" and "complex" not in dtype
    floating = "float" in dtype
    return Constant(name, shape, dtype, trainable and floating,
                    (lambda: numpy_helper.to_array(proto)) if few and not external else None)  # fmt: skip


def _like(c: Constant) -> Array:
    """Return the constant's elements, or an array of its shape that occupies a single element."""
    known = c.known()
    return known if known is not None else np.broadcast_to(np.zeros((), np.int8), c.shape)


def _values(node: Node, c: Constant | None) -> list[int] | None:
    if c is None:
        return None
    known = c.known()
    if known is None:
        raise ReadError(f"{node}: needs the values of {c.storage!r}, which has {c.size} elements or is stored outside")
    return [int(v) for v in known.reshape(-1)]


def _numbers(node: Node, args: Sequence[Constant | None], i: int, attribute: str) -> list[int] | None:
    """Read integers that older opsets give as an attribute and newer ones as input `i`."""
    if len(args) > i and args[i] is not None:
        return _values(node, args[i])
    given = node.attrs.get(attribute)
    return None if given is None else [int(v) for v in given]


def _known_if(name: str, shape: Shape, dtype: str, trainable: bool, function: Callable[[], Array] | None) -> Constant:
    """Make a constant whose elements are computed only where they are few."""
    if min(shape, default=0) < 0:
        raise ReadError(f"{name!r} has the shape {shape}; allowed: no negative dimension")
    value = None
    if function is not None and math.prod(shape) <= MAX_KNOWN:
        value = np.asarray(function()).reshape(shape)
        dtype = value.dtype.name
    return Constant(name, shape, dtype, trainable, value)


Args = Sequence[Constant | None]
Fold = Callable[["Node", Args], Sequence[Constant]]


def _first(args: Args) -> Constant:
    if not args or args[0] is None:
        raise ReadError("the first input is missing")
    return args[0]


# ---------------------------------------------------------------------------------- same bytes, another shape


def _view(function: Callable[[Node, Args, Array], Array]) -> Fold:
    def run(node: Node, args: Args) -> Sequence[Constant]:
        c = _first(args)
        return [c.reshaped(function(node, args, _like(c)), c.known() is not None)]

    return run


def _reshape(node: Node, args: Args, x: Array) -> Array:
    target = _numbers(node, args, 1, "shape") or []
    if not node.attrs.get("allowzero", 0):
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return x.reshape(target)


def _unsqueeze(node: Node, args: Args, x: Array) -> Array:
    return np.expand_dims(x, tuple(_numbers(node, args, 1, "axes") or ()))


def _squeeze(node: Node, args: Args, x: Array) -> Array:
    axes = _numbers(node, args, 1, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


def _transpose(node: Node, _args: Args, x: Array) -> Array:
    return np.transpose(x, node.attrs.get("perm"))


def _flatten(node: Node, _args: Args, x: Array) -> Array:
    axis = int(node.attrs.get("axis", 1))
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


# ---------------------------------------------------------------------------------- parts and joins


def _slice(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    x = _like(c)
    starts, ends = _numbers(node, args, 1, "starts") or [], _numbers(node, args, 2, "ends") or []
    axes = _numbers(node, args, 3, "axes") or list(range(len(starts)))
    steps = (_values(node, args[4]) if len(args) > 4 else None) or [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, end, step)
    part = x[tuple(cut)]
    return [Constant(node.outputs[0], part.shape, c.dtype, c.trainable, part if c.known() is not None else None)]


def _split(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    axis = int(node.attrs.get("axis", 0))
    sizes = _numbers(node, args, 1, "split") or node.equal_parts(c.shape[axis])
    if sum(sizes) != c.shape[axis]:
        raise ReadError(f"{node}: the parts {sizes} do not add up to the {c.shape[axis]} of dimension {axis}")
    parts = np.split(_like(c), np.cumsum(sizes)[:-1], axis)
    known = c.known() is not None
    return [Constant(o, p.shape, c.dtype, c.trainable, p if known else None)
            for o, p in zip(node.outputs, parts, strict=True)]  # fmt: skip


def _gather(node: Node, args: Args) -> Sequence[Constant]:
    c, index = _first(args), args[1]
    if index is None:
        raise ReadError(f"{node}: the indices are missing")
    axis = int(node.attrs.get("axis", 0)) % max(len(c.shape), 1)
    shape = (*c.shape[:axis], *index.shape, *c.shape[axis + 1 :])
    x, i = c.known(), index.known()
    take = None if x is None or i is None else lambda: np.take(x, i.astype(np.int64), axis)
    return [_known_if(node.outputs[0], shape, c.dtype, c.trainable, take)]


def _concat(node: Node, args: Args) -> Sequence[Constant]:
    parts = [c for c in args if c is not None]
    axis = int(node.attrs["axis"]) % max(len(parts[0].shape), 1)
    first = parts[0].shape
    if any(c.shape[:axis] != first[:axis] or c.shape[axis + 1 :] != first[axis + 1 :] for c in parts):
        raise ReadError(f"{node}: the shapes {[c.shape for c in parts]} differ outside dimension {axis}")
    shape = (*first[:axis], sum(c.shape[axis] for c in parts), *first[axis + 1 :])
    known = [c.known() for c in parts]
    join = None if any(k is None for k in known) else lambda: np.concatenate([k for k in known if k is not None], axis)
    return [_known_if(node.outputs[0], shape, parts[0].dtype, any(c.trainable for c in parts), join)]


def _expand(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    shape = np.broadcast_shapes(c.shape, tuple(_values(node, args[1]) or ()))
    x = c.known()
    spread = None if x is None else lambda: np.broadcast_to(x, shape)
    return [_known_if(node.outputs[0], shape, c.dtype, c.trainable, spread)]


def _tile(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    repeats = _values(node, args[1]) or []
    shape = tuple(n * r for n, r in zip(c.shape, repeats, strict=True))
    x = c.known()
    # Of no elements nothing is repeated: on the way to them there may be more than any memory holds.
    spread = None if x is None else lambda: np.zeros(shape, x.dtype) if 0 in shape else np.tile(x, repeats)
    return [_known_if(node.outputs[0], shape, c.dtype, c.trainable, spread)]


# ---------------------------------------------------------------------------------- arithmetic


def _like_first(node: Node, args: Args) -> Sequence[Constant]:
    """Return new elements in the shape of the first input, such as standardised weights."""
    c = _first(args)
    return [Constant(node.outputs[0], c.shape, c.dtype, c.trainable)]


def _clip(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    low, high = (_bound(node, args, i, key) for i, key in ((1, "min"), (2, "max")))
    x = c.known()
    cut = None if x is None else lambda: np.clip(x, low, high).astype(x.dtype)
    return [_known_if(node.outputs[0], c.shape, c.dtype, c.trainable, cut)]


def _bound(node: Node, args: Args, i: int, key: str) -> Any:
    given = args[i] if len(args) > i else None
    return node.attrs.get(key) if given is None else given.known()


def _elementwise(function: Callable[..., Any], dtype: str = "") -> Fold:
    def run(node: Node, args: Args) -> Sequence[Constant]:
        parts = [c for c in args if c is not None]
        shape = np.broadcast_shapes(*(c.shape for c in parts))
        known = [c.known() for c in parts]
        compute = None if any(k is None for k in known) else lambda: function(*known)
        out = dtype or parts[-1].dtype
        return [_known_if(node.outputs[0], shape, out, any(c.trainable for c in parts), compute)]

    return run


def _div(x: Array, y: Array) -> Array:
    if np.issubdtype(x.dtype, np.integer) and np.issubdtype(y.dtype, np.integer):
        return np.asarray(np.trunc(x / y)).astype(x.dtype)
    return np.asarray(x / y)


def _many(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def run(first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return run


def _reduce(function: Callable[..., Any]) -> Fold:
    def run(node: Node, args: Args) -> Sequence[Constant]:
        c = _first(args)
        axes = _numbers(node, args, 1, "axes")
        rank = len(c.shape)
        if axes == [] and node.attrs.get("noop_with_empty_axes", 0):
            return [c]
        dims = {a % max(rank, 1) for a in axes} if axes else set(range(rank))
        keep = bool(node.attrs.get("keepdims", 1))
        shape = tuple(1 if i in dims else n for i, n in enumerate(c.shape) if keep or i not in dims)
        x = c.known()
        compute = None if x is None else lambda: function(x, axis=tuple(dims), keepdims=keep).astype(x.dtype)
        return [_known_if(node.outputs[0], shape, c.dtype, c.trainable, compute)]

    return run


def cast_to(dtype: str, name: str, c: Constant) -> Constant:
    """Return a constant in another type."""
    x = c.known()
    if x is None or dtype not in np.sctypeDict:
        return Constant(name, c.shape, dtype, c.trainable)
    return Constant(name, c.shape, dtype, c.trainable, x.astype(dtype))


def _cast(node: Node, args: Args) -> Sequence[Constant]:
    return [cast_to(node.dtype("to"), node.outputs[0], _first(args))]


def _quantize(node: Node, args: Args) -> Sequence[Constant]:
    c = _first(args)
    zero = args[2] if len(args) > 2 else None
    return [Constant(node.outputs[0], c.shape, "uint8" if zero is None else zero.dtype, c.trainable)]


def _dequantize(node: Node, args: Args) -> Sequence[Constant]:
    c, scale = _first(args), args[1]
    return [Constant(node.outputs[0], c.shape, "float32" if scale is None else scale.dtype, True)]


def _range(node: Node, args: Args) -> Sequence[Constant]:
    start, stop, step = (np.asarray(0) if c is None else c.known() for c in args)
    if start is None or stop is None or step is None:
        raise ReadError(f"{node}: needs the values of all its inputs")
    n = max(math.ceil((stop.item() - start.item()) / step.item()), 0)
    return [_known_if(node.outputs[0], (n,), start.dtype.name, False,
                      lambda: (start.item() + step.item() * np.arange(n)).astype(start.dtype))]  # fmt: skip


# ---------------------------------------------------------------------------------- sources


def _constant(node: Node, _args: Args) -> Sequence[Constant]:
    name = node.outputs[0]
    for key, value in node.attrs.items():
        if key == "value":
            return [from_proto(value, name, trainable=False)]
        if key in ("value_float", "value_floats"):
            array = np.asarray(value, np.float32)
        elif key in ("value_int", "value_ints"):
            array = np.asarray(value, np.int64)
        else:
            break
        return [Constant(name, array.shape, array.dtype.name, False, array)]
    raise ReadError(f"{node}: allowed: a dense tensor of numbers, not {', '.join(node.attrs) or 'nothing'}")


def _constant_of_shape(node: Node, args: Args) -> Sequence[Constant]:
    shape = tuple(_values(node, _first(args)) or ())
    fill: Any = np.zeros(1, np.float32)
    if "value" in node.attrs:
        known = from_proto(node.attrs["value"], node.outputs[0], trainable=False).known()
        fill = fill if known is None else known
    if fill.size != 1:
        raise ReadError(f"{node}: the value has {fill.size} elements; allowed: 1")
    trainable = "float" in fill.dtype.name
    return [_known_if(node.outputs[0], shape, fill.dtype.name, trainable,
                      lambda: np.broadcast_to(fill.reshape(()), shape))]  # fmt: skip


def shape_of(node: Node, shape: Shape) -> Constant:
    """Return what ``Shape`` gives; all shapes are static once the inputs' are."""
    value = np.asarray(shape[slice(node.attrs.get("start"), node.attrs.get("end"))], np.int64)
    return Constant(node.outputs[0], value.shape, "int64", False, value)


def size_of(node: Node, shape: Shape) -> Constant:
    """Return what ``Size`` gives."""
    return Constant(node.outputs[0], (), "int64", False, np.asarray(math.prod(shape), np.int64))


FOLDS: Final[Mapping[str, Fold]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": lambda node, args: [shape_of(node, _first(args).shape)],
    "Size": lambda node, args: [size_of(node, _first(args).shape)],
    "Identity": _view(lambda _node, _args, x: x),
    "Dropout": _view(lambda _node, _args, x: x),
    "Reshape": _view(_reshape),
    "Unsqueeze": _view(_unsqueeze),
    "Squeeze": _view(_squeeze),
    "Transpose": _view(_transpose),
    "Flatten": _view(_flatten),
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Expand": _expand,
    "Tile": _tile,
    "Cast": _cast,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_div),
    "Mod": _elementwise(np.mod),
    "Pow": _elementwise(lambda x, y: np.power(x, y).astype(x.dtype)),
    "Sum": _elementwise(_many(np.add)),
    "Min": _elementwise(_many(np.minimum)),
    "Max": _elementwise(_many(np.maximum)),
    "Clip": _clip,
    "BatchNormalization": _like_first,
    "InstanceNormalization": _like_first,
    "LayerNormalization": _like_first,
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Round": _elementwise(np.round),
    "Sqrt": _elementwise(np.sqrt),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Reciprocal": _elementwise(np.reciprocal),
    "Equal": _elementwise(np.equal, "bool"),
    "Less": _elementwise(np.less, "bool"),
    "LessOrEqual": _elementwise(np.less_equal, "bool"),
    "Greater": _elementwise(np.greater, "bool"),
    "GreaterOrEqual": _elementwise(np.greater_equal, "bool"),
    "Not": _elementwise(np.logical_not, "bool"),
    "And": _elementwise(np.logical_and, "bool"),
    "Or": _elementwise(np.logical_or, "bool"),
    "Where": _elementwise(np.where),
}  # fmt: skip


def fold(node: Node, args: Args) -> Sequence[Constant]:
    """Compute a node whose inputs are all constants."""
    return FOLDS[node.op_type](node, args)
