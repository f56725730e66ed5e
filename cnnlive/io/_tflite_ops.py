"""What each TFLite operator becomes: one small function per operator, in one table.

A function that does not know the operator in the form at hand raises :class:`NotInTable`; the reader then takes the
file's word for the shapes. What the reference kernels of TensorFlow Lite Micro ask for beside tensors stands below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

from cnnlive._types import ITEMSIZE, Shape

if TYPE_CHECKING:
    from cnnlive.io.tflite import Op, Value

__all__ = ["RULES", "Built", "NotInTable", "laid_out", "scratch_of"]

# Tensors of 4 and 5 dimensions have the channels last in a file and second in a graph; the bytes are as many.
_ORDER: Final[Mapping[int, tuple[int, ...]]] = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
_T = TypeVar("_T")
_SAME: Final = 0  # Padding.SAME of the schema


class NotInTable(Exception):  # noqa: N818 - not an error: another way is taken
    """The operator table has no entry for the operator in this form."""


@dataclass(frozen=True, slots=True)
class Built:
    """An op of the table: its inputs, its attributes, and by role the constants that it holds."""

    op: str
    inputs: Sequence[Value]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    held: Mapping[str, Value] = field(default_factory=dict)


Rule: TypeAlias = Callable[["Op"], Built]


def laid_out(values: Sequence[_T]) -> tuple[_T, ...]:
    """Put one entry per dimension from the file's order into the graph's."""
    order = _ORDER.get(len(values))
    return tuple(values) if order is None else tuple(values[i] for i in order)


def _give_up() -> NoReturn:
    raise NotInTable


def _x(op: Op, i: int = 0) -> Value:
    """Return input `i`, which has to be there."""
    value = op.args[i] if i < len(op.args) else None
    if value is None:
        _give_up()
    return value


def _activation(op: Op, i: int = 0) -> Value:
    """Return input `i`, which has to be computed and laid out as the file says."""
    value = _x(op, i)
    if value.tensor is None or value.tensor.shape != value.shape:
        _give_up()
    return value


def _maybe(op: Op, i: int) -> Value | None:
    return op.args[i] if i < len(op.args) else None


def _numbers(op: Op, i: int) -> list[int]:
    """Return the integers that constant input `i` holds."""
    found = _x(op, i).numbers()
    return _give_up() if found is None else found


def _axis(x: Value, axis: int) -> int:
    """Return the graph's dimension for one of the file's."""
    rank = len(x.info.shape)
    if not -rank <= axis < rank:
        _give_up()
    return laid_out(range(rank)).index(axis % rank) + x.lead


def _axes(x: Value, axes: Sequence[int]) -> list[int]:
    return sorted({_axis(x, a) for a in axes})


def _padding(op: Op) -> str:
    return "same_upper" if op.option("Padding") == _SAME else "valid"


def _strides(op: Op) -> tuple[int, int]:
    return op.option("StrideH"), op.option("StrideW")


# ---------------------------------------------------------------------------------- convolutions and matrices


def _weighted(op: Op, name: str, x: Value, i: int, outputs: int, attrs: dict[str, Any]) -> Built:
    """Build an op with the weight `i` and maybe a bias behind it, stored or computed."""
    weight, bias = _x(op, i), _maybe(op, i + 1 if op.kind != "TRANSPOSE_CONV" else 3)
    if weight.packed or (bias is not None and (bias.packed or math.prod(bias.info.shape) != outputs)):
        _give_up()
    attrs["bias"] = bias is not None
    if weight.tensor is None and (bias is None or bias.tensor is None):
        return Built(name, [x], attrs, {"weight": weight} | ({} if bias is None else {"bias": bias}))
    return Built(name, [x, weight] + ([] if bias is None else [bias]), attrs)


def _image(op: Op, i: int, rank: int) -> Value:
    x = _x(op, i)
    # A constant may be convolved too: only its shape matters.
    if len(x.shape) != rank or (x.tensor is not None and x.tensor.shape != x.shape):
        _give_up()
    return x


def _conv2d(op: Op) -> Built:
    x, w = _image(op, 0, 4), _x(op, 1).info.shape
    if len(w) != 4 or not w[3] or x.shape[1] % w[3]:
        _give_up()
    return _weighted(op, "conv2d", x, 1, w[0], {
        "out_channels": w[0], "kernel_size": w[1:3], "stride": _strides(op), "padding": _padding(op),
        "dilation": (op.option("DilationHFactor", 1), op.option("DilationWFactor", 1)), "groups": x.shape[1] // w[3],
    })  # fmt: skip


def _depthwise(op: Op) -> Built:
    x, w = _image(op, 0, 4), _x(op, 1).info.shape
    if len(w) != 4 or w[0] != 1:
        _give_up()
    return _weighted(op, "conv2d", x, 1, w[3], {
        "out_channels": w[3], "kernel_size": w[1:3], "stride": _strides(op), "padding": _padding(op),
        "dilation": (op.option("DilationHFactor", 1), op.option("DilationWFactor", 1)), "groups": x.shape[1],
    })  # fmt: skip


def _conv3d(op: Op) -> Built:
    x, w = _image(op, 0, 5), _x(op, 1).info.shape
    if len(w) != 5 or not w[3] or x.shape[1] % w[3]:
        _give_up()
    return _weighted(op, "conv3d", x, 1, w[4], {
        "out_channels": w[4], "kernel_size": w[:3], "stride": (op.option("StrideD"), *_strides(op)),
        "padding": _padding(op), "dilation": tuple(op.option(f"Dilation{d}Factor", 1) for d in "DHW"),
        "groups": x.shape[1] // w[3],
    })  # fmt: skip


def _transpose_conv(op: Op) -> Built:
    x, w = _image(op, 2, 4), _x(op, 1).info.shape
    if len(w) != 4 or w[3] != x.shape[1] or len(op.outs[0].shape) != 4:
        _give_up()
    stride, pads = _strides(op), []
    for n, k, s, target in zip(x.shape[2:], w[1:3], stride, op.outs[0].shape[1:3], strict=True):
        total = s * (n - 1) + k - target
        pads.append((total // 2, total - total // 2) if total >= 0 else (0, total))
    return _weighted(op, "conv_transpose2d", x, 1, w[0],
                     {"out_channels": w[0], "kernel_size": w[1:3], "stride": stride, "padding": pads})  # fmt: skip


def _fully_connected(op: Op) -> Built:
    x, w = _x(op), _x(op, 1).info.shape
    if len(w) != 2:
        _give_up()
    shape = x.shape if x.tensor is None else x.tensor.shape
    if shape[-1] == w[1]:
        return _weighted(op, "linear", x, 1, w[0], {"out_features": w[0]})
    if len(shape) in (3, 4, 5) and math.prod(shape[1:]) == w[1]:  # over the whole image, without a reshape before
        return _weighted(op, f"conv{len(shape) - 2}d", x, 1, w[0],
                         {"out_channels": w[0], "kernel_size": shape[2:]})  # fmt: skip
    return _give_up()


def _batch_matmul(op: Op) -> Built:
    if op.option("AdjX") or op.option("AdjY") or len(op.outs[0].shape) in _ORDER:
        _give_up()
    return Built("matmul", [_x(op), _x(op, 1)])


# ---------------------------------------------------------------------------------- pools and activations


def _pool(name: str, **more: Any) -> Rule:
    def rule(op: Op) -> Built:
        x = _image(op, 0, 4)
        window = {"kernel_size": (op.option("FilterHeight"), op.option("FilterWidth")), "stride": _strides(op)}
        return Built(name, [x], {**window, "padding": _padding(op), **more})

    return rule


def _unary(name: str, **attrs: Any) -> Rule:
    return lambda op: Built(name, [_x(op)], attrs)


def _leaky_relu(op: Op) -> Built:
    return Built("leaky_relu", [_x(op)], {"negative_slope": op.option("Alpha")})


def _prelu(op: Op) -> Built:
    x, slope = _activation(op), _x(op, 1)
    n = math.prod(slope.info.shape)
    if slope.tensor is not None or slope.packed or n != x.shape[1] or slope.info.shape[-1] != n:
        _give_up()
    return Built("prelu", [x], {"num_parameters": n}, {"weight": slope})


def _softmax(name: str) -> Rule:
    def rule(op: Op) -> Built:
        x = _x(op)
        return Built(name, [x], {"dim": _axis(x, -1)})

    return rule


def _cast(op: Op) -> Built:
    return Built("cast", [_x(op)], {"dtype": op.outs[0].dtype})


# ---------------------------------------------------------------------------------- arithmetic


def _binary(name: str, **attrs: Any) -> Rule:
    def rule(op: Op) -> Built:
        a, b = _x(op), _x(op, 1)
        rank = max(len(a.info.shape), len(b.info.shape))
        for one in (a, b):
            if one.tensor is None:
                one.widen(rank)
        return Built(name, [a, b], attrs)

    return rule


def _add_n(op: Op) -> Built:
    return Built("add_n", [_x(op, i) for i in range(len(op.args))])


def _reduce(name: str) -> Rule:
    def rule(op: Op) -> Built:
        x = _activation(op)
        axes = _axes(x, _numbers(op, 1))
        return Built(name, [x], {"dim": axes, "keepdim": bool(op.option("KeepDims"))}) if axes else _give_up()

    return rule


def _argmax(op: Op) -> Built:
    x = _activation(op)
    (axis,) = _numbers(op, 1)
    return Built("argmax", [x], {"dim": (_axis(x, axis),)})


# ---------------------------------------------------------------------------------- moving data


def _concat(op: Op) -> Built:
    values = [_x(op, i) for i in range(len(op.args))]
    return Built("concat", values, {"dim": _axis(values[0], op.option("Axis"))})


def _reshape(op: Op) -> Built:
    x, target = _x(op), op.shapes[0]
    shape = x.shape if x.tensor is None else x.tensor.shape
    # The first dimension is what the batch leaves, so that the graph holds at any batch.
    return Built("reshape", [x], {"shape": target if target[0] == shape[0] else (-1, *target[1:])})


def _pad(op: Op) -> Built:
    x, values = _activation(op), _numbers(op, 1)
    if len(values) != 2 * len(x.info.shape) or op.option("Mode"):  # Mode 1 mirrors the edge itself too
        _give_up()
    rows = laid_out([values[i : i + 2] for i in range(0, len(values), 2)])
    pads = [p for row in reversed(rows) for p in row]
    while len(pads) > 2 and pads[-2:] == [0, 0]:
        del pads[-2:]
    return Built("pad", [x], {"pad": pads, "mode": "reflect" if op.kind == "MIRROR_PAD" else "constant"})


def _transpose(op: Op) -> Built:
    x, perm = _activation(op), _numbers(op, 1)
    rank = len(x.info.shape)
    if sorted(perm) != list(range(rank)):
        _give_up()
    place = laid_out(range(rank))
    dims = [place.index(perm[axis]) for axis in place]
    return Built("permute", [x], {"dims": [*range(x.lead), *(d + x.lead for d in dims)]})


def _split(op: Op) -> Built:
    if op.kind == "SPLIT":
        x, (axis,) = _activation(op, 1), _numbers(op, 0)
    else:
        x, (axis,) = _activation(op), _numbers(op, 2)
    dim = _axis(x, axis)
    return Built("split", [x], {"dim": dim, "sizes": [s[dim] for s in op.shapes]})


def _slice(op: Op) -> Built:
    x, begin, size = _activation(op), _numbers(op, 1), _numbers(op, 2)
    rank = len(x.info.shape)
    if len(begin) != rank or len(size) != rank:
        _give_up()
    ends = [n if s == -1 else b + s for b, s, n in zip(begin, size, x.info.shape, strict=True)]
    return _ranges(x, begin, ends, [1] * rank)


def _strided_slice(op: Op) -> Built:
    x = _activation(op)
    begin, end, stride = (_numbers(op, i) for i in (1, 2, 3))
    masks = [op.option(f"{m}Mask") for m in ("Begin", "End", "ShrinkAxis")]
    if op.option("EllipsisMask") or op.option("NewAxisMask") or not len(begin) == len(end) == len(stride):
        _give_up()
    if len(begin) > len(x.info.shape) or 0 in stride:
        _give_up()
    starts: list[int | None] = []
    stops: list[int | None] = []
    for i, n in enumerate(x.info.shape[: len(begin)]):
        if masks[2] >> i & 1:  # one entry, and the dimension goes
            first = begin[i] % n if -n <= begin[i] < n else _give_up()
            starts.append(first)
            stops.append(first + 1)
            stride[i] = 1
        else:
            starts.append(None if masks[0] >> i & 1 else begin[i])
            stops.append(None if masks[1] >> i & 1 else end[i])
    return _ranges(x, starts, stops, stride)


def _ranges(x: Value, starts: Sequence[int | None], stops: Sequence[int | None], steps: Sequence[int]) -> Built:
    dims = [_axis(x, i) for i in range(len(starts))]
    return Built("slice", [x], {"dim": dims, "start": list(starts), "stop": list(stops), "step": list(steps)})


def _resize(mode: str) -> Rule:
    def rule(op: Op) -> Built:
        return Built("interpolate", [_image(op, 0, 4)], {"size": op.outs[0].shape[1:3], "mode": mode})

    return rule


def _gather(op: Op) -> Built:
    x, index = _x(op), _x(op, 1)
    if op.option("BatchDims") or len(x.info.shape) in _ORDER or index.lead:
        _give_up()
    return Built("gather", [x, index], {"dim": _axis(x, op.option("Axis"))})


def _space(name: str, key: str) -> Rule:
    return lambda op: Built(name, [_image(op, 0, 4)], {key: op.option("BlockSize")})


def _tile(op: Op) -> Built:
    x, times = _activation(op), _numbers(op, 1)
    if len(times) != len(x.info.shape):
        _give_up()
    return Built("repeat", [x], {"repeats": [*[1] * x.lead, *laid_out(times)]})


_COMPARE: Final = _binary("compare", dtype="bool")

RULES: Final[Mapping[str, Rule]] = {
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "CONV_3D": _conv3d,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "MAX_POOL_2D": _pool("max_pool2d"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d", count_include_pad=False),
    "RELU": _unary("relu"),
    "RELU6": _unary("relu6"),
    "RELU_N1_TO_1": _unary("clip", min=-1.0, max=1.0),
    "RELU_0_TO_1": _unary("clip", min=0.0, max=1.0),
    "LEAKY_RELU": _leaky_relu,
    "PRELU": _prelu,
    "ELU": _unary("elu"),
    "GELU": _unary("gelu"),
    "HARD_SWISH": _unary("hardswish"),
    "LOGISTIC": _unary("sigmoid"),
    "TANH": _unary("tanh"),
    "SOFTMAX": _softmax("softmax"),
    "LOG_SOFTMAX": _softmax("log_softmax"),
    "EXP": _unary("exp"),
    "LOG": _unary("log"),
    "SQRT": _unary("sqrt"),
    "RSQRT": _unary("rsqrt"),
    "SQUARE": _unary("pow_scalar", exponent=2.0),
    "ABS": _unary("abs"),
    "NEG": _unary("neg"),
    "FLOOR": _unary("floor"),
    "SIGN": _unary("sign"),
    "SIN": _unary("sin"),
    "COS": _unary("cos"),
    "CAST": _cast,
    "QUANTIZE": _cast,
    "DEQUANTIZE": _cast,
    "ADD": _binary("add"),
    "SUB": _binary("sub"),
    "MUL": _binary("mul"),
    "DIV": _binary("div"),
    "MAXIMUM": _binary("maximum"),
    "MINIMUM": _binary("minimum"),
    "POW": _binary("pow"),
    "ADD_N": _add_n,
    **dict.fromkeys(("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"), _COMPARE),
    "MEAN": _reduce("mean"),
    "SUM": _reduce("sum"),
    "REDUCE_MAX": _reduce("amax"),
    "REDUCE_MIN": _reduce("amin"),
    "ARG_MAX": _argmax,
    "CONCATENATION": _concat,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), _reshape),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    "TRANSPOSE": _transpose,
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _split),
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "RESIZE_BILINEAR": _resize("bilinear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("nearest"),
    "GATHER": _gather,
    "DEPTH_TO_SPACE": _space("pixel_shuffle", "upscale_factor"),
    "SPACE_TO_DEPTH": _space("pixel_unshuffle", "downscale_factor"),
    "TILE": _tile,
}


# ---------------------------------------------------------------------------------- scratch of TensorFlow Lite Micro
# What the reference kernels request while they prepare, one entry per buffer, in the order of the requests.

_POINTER: Final = 8  # of the machine that runs the interpreter; 4 on most microcontrollers


def _elements(shape: Shape) -> int:
    return math.prod(shape)


def _reduce_scratch(op: Op) -> list[int]:
    x, axes = _x(op), _x(op, 1)
    found = [4 * len(x.info.shape), 4 * _elements(axes.info.shape)]
    if op.kind in ("MEAN", "SUM") and x.info.dtype in ("int8", "int16"):
        found.insert(0, 4 * _elements(op.outs[0].shape))
    return found


def _mirror_pad_scratch(op: Op) -> list[int]:
    return [4 * len(_x(op).info.shape)] * 2


def _transpose_conv_scratch(op: Op) -> list[int]:
    dtype, n, bias = _x(op, 2).info.dtype, _elements(op.outs[0].shape), _maybe(op, 3)
    if dtype == "int8":
        return [4 * n]
    if dtype != "int16":
        return []
    return [8 * n] + ([8 * _elements(bias.info.shape)] if bias is not None and bias.info.dtype == "int16" else [])


def _svdf_scratch(op: Op) -> list[int]:
    x, filters = _x(op).info, _x(op, 1).info.shape[0]
    units = _elements(op.outs[0].shape)
    return [4 * x.shape[0] * filters] + ([4 * units] if x.dtype == "int8" else [])


def _lstm_scratch(op: Op) -> list[int]:
    x, weight, cell = _x(op).info.shape, _x(op, 6).info.shape, _x(op, 19).info.dtype
    batch = x[1] if op.option("TimeMajor") else x[0]
    return [batch * weight[0] * ITEMSIZE[cell]] * 4


def _unpacked_scratch(op: Op) -> list[int]:
    weight = _x(op, 1)
    return [_elements(weight.info.shape)] if weight.info.four_bits else []


def _add_n_scratch(op: Op) -> list[int]:
    return [_POINTER * len(op.args)]


_SCRATCH: Final[Mapping[str, Callable[[Op], list[int]]]] = {
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ALL"), _reduce_scratch),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _unpacked_scratch),
    "MIRROR_PAD": _mirror_pad_scratch,
    "TRANSPOSE_CONV": _transpose_conv_scratch,
    "SVDF": _svdf_scratch,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm_scratch,
    "ADD_N": _add_n_scratch,
}


def scratch_of(op: Op) -> list[int]:
    """Return the bytes of each scratch buffer that the reference kernel of TensorFlow Lite Micro requests."""
    rule = _SCRATCH.get(op.kind)
    return [] if rule is None else rule(op)
