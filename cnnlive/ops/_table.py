"""The operator table: one entry per operator, read by shape inference, counting, aliasing and training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from cnnlive._types import Attrs, Shape
from cnnlive.errors import AttributeValueError, GraphError, ShapeError, UnknownOperatorError, close_names
from cnnlive.ops import _entry as read
from cnnlive.ops._entry import REQUIRED, Attribute, Operator, Weight
from cnnlive.ops._shapes import axis_of

__all__ = ["OPERATORS", "operator", "register", "unregister", "weights_of"]

_TABLE: dict[str, Operator] = {}
OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(_TABLE)

# The keyword that any op takes beside its own attributes.
INPLACE: Final = Attribute(False, read.boolean, "bool")


def operator(name: str) -> Operator:
    """Return the entry of an operator.

    Raises
    ------
    UnknownOperatorError
        If no operator has that name.
    """
    entry = _TABLE.get(name)
    if entry is None:
        raise UnknownOperatorError(
            f"unknown operator {name!r}{close_names(name, _TABLE)} (cnnlive.ops.register adds operators)"
        )
    return entry


def register(entry: Operator) -> Operator:
    """Add an operator of your own; it takes the same path as a built-in one.

    Raises
    ------
    GraphError
        If the name is taken.

    Examples
    --------
    >>> from cnnlive.ops import Operator, register, unregister
    >>> entry = register(Operator(name="swish2", summary="x * sigmoid(x)", shape="same", alias="elementwise"))
    >>> unregister("swish2")
    """
    if entry.name in _TABLE:
        raise GraphError(f"the operator {entry.name!r} is already registered")
    _TABLE[entry.name] = entry
    return entry


def unregister(name: str) -> None:
    """Take an operator out of the table again."""
    operator(name)
    del _TABLE[name]


# ---------------------------------------------------------------------------------- parameters
# The definition of what an op owns, tensor by tensor. cnnlive._kernels.counts counts the same.


def _conv_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    channels, out = shapes[0][1], a["out_channels"]
    first, second = (channels, out) if "output_padding" in a else (out, channels)
    weight = Weight("weight", "weight", (first, second // a["groups"], *a["kernel_size"]))
    return (weight, Weight("bias", "bias", (out,))) if a["bias"] else (weight,)


def _linear_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    weight = Weight("weight", "weight", (a["out_features"], shapes[0][-1]))
    return (weight, Weight("bias", "bias", (a["out_features"],))) if a["bias"] else (weight,)


def _affine(shape: Shape, a: Attrs) -> list[Weight]:
    if not a.get("affine", a.get("elementwise_affine", True)):
        return []
    weight = Weight("weight", "weight", shape)
    return [weight, Weight("bias", "bias", shape)] if a.get("bias", True) else [weight]


def _channel_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    shape = (shapes[0][1],)
    weights = _affine(shape, a)
    if a.get("track_running_stats"):
        weights += [Weight("buffer", "running_mean", shape), Weight("buffer", "running_var", shape),
                    Weight("counter", "num_batches_tracked", ())]  # fmt: skip
    return tuple(weights)


def _trailing_weights(_shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    return tuple(_affine(tuple(a["normalized_shape"]), a))


def _element_weights(_shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    if "num_parameters" in a:
        return (Weight("weight", "weight", (a["num_parameters"],)),)
    role: Any = "weight" if a["trainable"] else "buffer"
    return (Weight(role, "value", tuple(a["shape"])),)


_WEIGHTS: Final = {
    "none": lambda _shapes, _a: (),
    "conv": _conv_weights,
    "linear": _linear_weights,
    "channel": _channel_weights,
    "trailing": _trailing_weights,
    "elements": _element_weights,
}


def weights_of(entry: Operator, shapes: Sequence[Shape], attrs: Attrs) -> tuple[Weight, ...]:
    """Return the parameters and buffers that an op owns, given its input shapes and attributes."""
    rule = entry.weights
    if isinstance(rule, str):
        return _WEIGHTS[rule](shapes, attrs)
    found: Any = rule(shapes, attrs)
    if not isinstance(found, tuple | list) or not all(isinstance(w, Weight) for w in found):
        raise AttributeValueError(f"the weights of {entry.name} are {found!r}; allowed: a tuple of Weight")
    return tuple(found)


# ---------------------------------------------------------------------------------- demands on shapes


def _channels_divide(key: str) -> Any:
    def check(shapes: Sequence[Shape], a: Attrs) -> None:
        if len(shapes[0]) < 2 or shapes[0][1] % a[key]:
            raise ShapeError(f"{key}={a[key]} does not divide the channels of the input {shapes[0]}")

    return check


def _has_positions(shapes: Sequence[Shape], _a: Attrs) -> None:
    if len(shapes[0]) < 3:
        raise ShapeError(f"the input has shape {shapes[0]}, allowed: batch, channels and one dimension more at least")


def _rank(*allowed: int) -> Any:
    def check(shapes: Sequence[Shape], _a: Attrs) -> None:
        if len(shapes[0]) not in allowed:
            raise ShapeError(f"the input has shape {shapes[0]}, allowed: {' or '.join(map(str, allowed))} dimensions")

    return check


def _ends_with(shapes: Sequence[Shape], a: Attrs) -> None:
    size = tuple(a["normalized_shape"])
    if tuple(shapes[0][-len(size) :]) != size:
        raise ShapeError(f"the input has shape {shapes[0]}, which does not end with normalized_shape={size}")
    if len(size) == len(shapes[0]):
        raise ShapeError(f"normalized_shape={size} takes in the batch, the first dimension of the input {shapes[0]}")


def _prelu_channels(shapes: Sequence[Shape], a: Attrs) -> None:
    n = a["num_parameters"]
    if n != 1 and (len(shapes[0]) < 2 or shapes[0][1] != n):
        raise ShapeError(f"num_parameters={n} is neither 1 nor the channels of the input {shapes[0]}")


def _gathered(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x, index = shapes
    axis = axis_of(a["dim"], len(x))
    return ((*x[:axis], *index, *x[axis + 1 :]),)


def _axis_exists(shapes: Sequence[Shape], a: Attrs) -> None:
    axis_of(a["dim"], len(shapes[0]))


def _one_axis(_shapes: Sequence[Shape], a: Attrs) -> None:
    if len(a["dim"]) != 1:
        raise ShapeError(f"dim={a['dim']}; allowed: one dimension")


def _groups_of_channels(shapes: Sequence[Shape], a: Attrs) -> None:
    _has_positions(shapes, a)
    _channels_divide("groups")(shapes, a)


def _windows_meet_the_input(_shapes: Sequence[Shape], a: Attrs) -> None:
    # PyTorch allows half a kernel; ONNX less than a kernel, and behind the input the rest of a stride too.
    if isinstance(a["padding"], str):
        return
    dilation = a.get("dilation", (1,) * len(a["kernel_size"]))
    for k, d, s, (before, after) in zip(a["kernel_size"], dilation, a["stride"], a["padding"], strict=True):
        extent = d * (k - 1) + 1
        if before >= extent or after >= extent + s - 1:
            raise ShapeError(f"padding={a['padding']} leaves windows of {k} with dilation {d} in the padding alone")


def _output_padding_in_a_stride(_shapes: Sequence[Shape], a: Attrs) -> None:
    for extra, s, d in zip(a["output_padding"], a["stride"], a["dilation"], strict=True):
        if extra >= max(s, d):
            raise ShapeError(
                f"output_padding={a['output_padding']} is not below stride={a['stride']} or dilation={a['dilation']}"
            )


def _pad_reaches(shapes: Sequence[Shape], a: Attrs) -> None:
    pad, mode = a["pad"], a["mode"]
    for size, before, after in zip(reversed(shapes[0]), pad[::2], pad[1::2], strict=False):
        if size + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(f"pad={pad} crops more than there is of a dimension of {size}")
        if max(before, after) > size - (mode == "reflect") and mode in ("reflect", "circular"):
            raise ShapeError(f"pad={pad} in mode {mode!r} reaches beyond a dimension of {size}")


_LINEAR_RANK: Final = {"linear": 3, "bilinear": 4, "trilinear": 5}


def _mode_fits(shapes: Sequence[Shape], a: Attrs) -> None:
    rank = _LINEAR_RANK.get(a["mode"])
    if rank is not None and len(shapes[0]) != rank:
        raise ShapeError(f"mode={a['mode']!r} is for {rank} dimensions; the input has shape {shapes[0]}")


# ---------------------------------------------------------------------------------- the entries


def _a(default: Any, reader: Any, kind: str) -> Attribute:
    return Attribute(default, reader, kind)


_BIAS = _a(True, read.boolean, "bool")
_INT = _a(REQUIRED, read.integer(1), "int")
_DIM = _a(1, read.integer(None), "int")
_DTYPE = _a("float32", read.dtype, "dtype")


def _windows(n: int) -> dict[str, Attribute]:
    return {
        "kernel_size": _a(REQUIRED, read.spatial(n), f"{n} ints"),
        "stride": _a(1, read.spatial(n), f"{n} ints"),
        "padding": _a(0, read.padding(n), f"{n} ints or pairs, 'same', 'valid'"),
    }


for _n in (1, 2, 3):
    _conv = {
        "out_channels": _INT,
        **_windows(_n),
        "dilation": _a(1, read.spatial(_n), f"{_n} ints"),
        "groups": _a(1, read.integer(1), "int"),
        "bias": _BIAS,
    }
    register(Operator(
        name=f"conv{_n}d", summary=f"{_n}-D convolution; depthwise with groups = channels.", attributes=_conv,
        shape="conv", weights="conv", macs="conv", folds="base", saves=("input", "weight")))  # fmt: skip
    register(Operator(
        name=f"conv_transpose{_n}d", summary=f"{_n}-D transposed convolution.",
        attributes={**_conv, "padding": _a(0, read.padding(_n, None), f"{_n} ints or pairs, 'same', 'valid'"),
                    "output_padding": _a(0, read.spatial(_n, 0), f"{_n} ints")},
        shape="conv", weights="conv", macs="conv", folds="base", saves=("input", "weight"),
        check=_output_padding_in_a_stride))  # fmt: skip
    # A pool's stride of None is its kernel size; the builder and the graph fill it in.
    _pool = {
        **_windows(_n),
        "stride": _a(None, read.optional(read.spatial(_n)), f"{_n} ints, None: the kernel"),
    }
    _ceil = {"ceil_mode": _a(False, read.boolean, "bool")}
    _indices = {"return_indices": _a(False, read.boolean, "bool")}
    register(Operator(
        name=f"max_pool{_n}d", summary=f"{_n}-D maximum over windows; with return_indices a second, int64 output.",
        attributes={**_pool, "dilation": _a(1, read.spatial(_n), f"{_n} ints"), **_ceil, **_indices},
        shape="pool", indices=True, saves=("input", "indices"), check=_windows_meet_the_input))  # fmt: skip
    register(Operator(
        name=f"avg_pool{_n}d", summary=f"{_n}-D mean over windows.",
        attributes={**_pool, **_ceil, "count_include_pad": _a(True, read.boolean, "bool")},
        shape="pool", saves=("input",), check=_windows_meet_the_input))  # fmt: skip
    register(Operator(
        name=f"adaptive_avg_pool{_n}d", summary=f"{_n}-D mean pool to a given output size.",
        attributes={"output_size": _a(REQUIRED, read.spatial_or_none(_n), f"{_n} ints or None")},
        shape="adaptive_pool", saves=("input",), saves_to_one=()))  # fmt: skip
    register(Operator(
        name=f"adaptive_max_pool{_n}d", summary=f"{_n}-D maximum pool to a given output size.",
        attributes={"output_size": _a(REQUIRED, read.spatial_or_none(_n), f"{_n} ints or None"), **_indices},
        shape="adaptive_pool", indices=True, saves=("input", "indices")))  # fmt: skip
    register(Operator(
        name=f"batch_norm{_n}d", summary="Batch normalisation: per channel over batch and positions.",
        attributes={"eps": _a(1e-5, read.number, "float"), "affine": _a(True, read.boolean, "bool"),
                    "track_running_stats": _a(True, read.boolean, "bool"), "inplace": INPLACE},
        shape="same", weights="channel", alias="elementwise", overwrites=(0,), folds="norm",
        saves=("input", "weight", "statistics"), check=_rank(*((3, 2) if _n == 1 else (_n + 2,)))))  # fmt: skip
    register(Operator(
        name=f"instance_norm{_n}d", summary="Instance normalisation: per channel and image.",
        attributes={"eps": _a(1e-5, read.number, "float"), "affine": _a(False, read.boolean, "bool"),
                    "track_running_stats": _a(False, read.boolean, "bool")},
        shape="same", weights="channel", saves=("input", "statistics"), check=_rank(_n + 2)))  # fmt: skip
    register(Operator(
        name=f"dropout{_n}d" if _n > 1 else "dropout",
        summary="Drops whole channels in training; the identity in inference." if _n > 1
        else "Drops elements in training; the identity in inference.",
        attributes={"p": _a(0.5, read.number, "float"), "inplace": INPLACE},
        shape="same", alias="view", saves=("mask",)))  # fmt: skip

register(Operator(
    name="stochastic_depth", summary="Drops a residual branch per image in training; the identity in inference.",
    attributes={"p": _a(REQUIRED, read.number, "float"), "mode": _a("row", read.text("row", "batch"), "str")},
    shape="same", alias="view", saves=("mask",)))  # fmt: skip
register(Operator(
    name="linear", summary="Fully connected layer over the last dimension.",
    attributes={"out_features": _INT, "bias": _BIAS},
    shape="linear", weights="linear", macs="linear", folds="base", saves=("input", "weight")))  # fmt: skip
register(Operator(
    name="matmul", summary="Matrix product of two tensors, leading dimensions broadcast.",
    shape="matmul", inputs=(2, 2), macs="matmul", saves=("input", "input1")))  # fmt: skip
register(Operator(
    name="layer_norm", summary="Layer normalisation over the trailing dimensions.",
    attributes={"normalized_shape": _a(REQUIRED, read.integers(1), "ints"), "eps": _a(1e-5, read.number, "float"),
                "elementwise_affine": _a(True, read.boolean, "bool"), "bias": _BIAS},
    shape="same", weights="trailing", saves=("input", "weight", "statistics"), check=_ends_with))  # fmt: skip
register(Operator(
    name="group_norm", summary="Group normalisation: per group of channels and image.",
    attributes={"num_groups": _INT, "eps": _a(1e-5, read.number, "float"), "affine": _a(True, read.boolean, "bool")},
    shape="same", weights="channel", saves=("input", "weight", "statistics"),
    check=_channels_divide("num_groups")))  # fmt: skip
register(Operator(
    name="local_response_norm", summary="Local response normalisation across channels.",
    attributes={"size": _INT, "alpha": _a(1e-4, read.number, "float"), "beta": _a(0.75, read.number, "float"),
                "k": _a(1.0, read.number, "float")},
    shape="same", saves=("input", "clone"), check=_has_positions))  # fmt: skip

# name: (what backward keeps, extra attributes)
_ACTIVATIONS: Final[dict[str, tuple[str, dict[str, Attribute], str]]] = {
    "relu": ("output", {}, "max(x, 0)."),
    "relu6": ("input", {}, "min(max(x, 0), 6)."),
    "leaky_relu": ("input", {"negative_slope": _a(0.01, read.number, "float")}, "x, or a small multiple below 0."),
    "elu": ("input", {"alpha": _a(1.0, read.number, "float")}, "x, or alpha (exp x - 1) below 0."),
    "selu": ("input", {}, "Scaled exponential linear unit."),
    "gelu": ("input", {"approximate": _a("none", read.text("none", "tanh"), "str")}, "x times the normal CDF of x."),
    "silu": ("input", {}, "x sigmoid(x), also called swish."),
    "sigmoid": ("output", {}, "1 / (1 + exp -x)."),
    "tanh": ("output", {}, "Hyperbolic tangent."),
    "softplus": ("input", {}, "log(1 + exp x)."),
    "mish": ("input", {}, "x tanh(softplus x)."),
    "hardsigmoid": ("input", {}, "min(max(x / 6 + 1/2, 0), 1)."),
    "hardswish": ("input", {}, "x hardsigmoid(x)."),
    "clip": ("input", {"min": _a(None, read.optional(read.number), "float or None"),
                       "max": _a(None, read.optional(read.number), "float or None")}, "x held between min and max."),
}  # fmt: skip
# In place these lose the input that backward needs: PyTorch copies it first, or is content with the output.
_SAVES_INPLACE: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("relu6", "silu", "hardswish", "hardsigmoid", "mish", "clip", "log", "abs", "erf"), ("clone",)),
    **dict.fromkeys(("leaky_relu", "elu", "selu"), ("output",)),
    **dict.fromkeys(("mul", "div"), ("clone", "input1")),
    "pow": ("clone", "input1", "output"),
}
_SAVES_UNARY: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("exp", "sqrt", "reciprocal"), ("output",)),
    **dict.fromkeys(("log", "abs", "erf"), ("input",)),
}
for _name, (_saved, _extra, _words) in _ACTIVATIONS.items():
    register(Operator(
        name=_name, summary=_words, attributes={**_extra, "inplace": INPLACE},
        shape="same", alias="elementwise", overwrites=(0,), folds="activation", saves=(_saved,),
        saves_inplace=_SAVES_INPLACE.get(_name)))  # fmt: skip
register(Operator(
    name="prelu", summary="x, or a learned multiple below 0.",
    attributes={"num_parameters": _a(1, read.integer(1), "int")},
    shape="same", weights="elements", alias="elementwise", overwrites=(0,), saves=("input", "weight"),
    check=_prelu_channels))  # fmt: skip
for _name, _words in {
    "exp": "e to the x.", "log": "Natural logarithm.", "sqrt": "Square root.", "abs": "Absolute value.", "neg": "-x.",
    "reciprocal": "1 / x.", "floor": "The largest integer not above x.", "erf": "Error function.",
}.items():  # fmt: skip
    register(Operator(
        name=_name, summary=_words, attributes={"inplace": INPLACE}, shape="same", alias="elementwise",
        overwrites=(0,), saves=_SAVES_UNARY.get(_name, ()), saves_inplace=_SAVES_INPLACE.get(_name)))  # fmt: skip
register(Operator(
    name="scale", summary="x times a constant plus a constant.",
    attributes={"factor": _a(1.0, read.number, "float"), "offset": _a(0.0, read.number, "float"), "inplace": INPLACE},
    shape="same", alias="elementwise", overwrites=(0,)))  # fmt: skip
for _name in ("softmax", "log_softmax"):
    register(Operator(
        name=_name, summary=f"{'Logarithm of the s' if _name != 'softmax' else 'S'}oftmax over one dimension.",
        attributes={"dim": _a(-1, read.integer(None), "int")}, shape="same", saves=("output",),
        check=_axis_exists))  # fmt: skip

for _name, _saves, _words in (
    ("add", (), "Sum with broadcasting."), ("sub", (), "Difference with broadcasting."),
    ("mul", ("input", "input1"), "Product with broadcasting."),
    ("div", ("input", "input1"), "Quotient with broadcasting."),
    ("minimum", ("input", "input1"), "Element-wise minimum with broadcasting."),
    ("maximum", ("input", "input1"), "Element-wise maximum with broadcasting."),
    ("pow", ("input", "input1", "output"), "Power with broadcasting."),
):  # fmt: skip
    register(Operator(
        name=_name, summary=_words, attributes={"inplace": INPLACE}, shape="broadcast", inputs=(2, 2),
        alias="elementwise", overwrites=(0, 1), saves=_saves, saves_inplace=_SAVES_INPLACE.get(_name)))  # fmt: skip
register(Operator(
    name="add_n", summary="Sum of any number of tensors in one op, with broadcasting.",
    shape="broadcast", inputs=(1, None), alias="elementwise", overwrites=(0,)))  # fmt: skip

register(Operator(
    name="concat", summary="Joins tensors along one dimension; copies.", attributes={"dim": _DIM},
    shape="concat", inputs=(1, None)))  # fmt: skip
register(Operator(
    name="split", summary="Cuts along one dimension into pieces of given sizes; views.",
    attributes={"sizes": _a(REQUIRED, lambda v: read.integer(1)(v) if isinstance(v, int) else read.integers(1)(v),
                            "int or ints"), "dim": _DIM},
    shape="split", alias="view"))  # fmt: skip
register(Operator(
    name="chunk", summary="Cuts along one dimension into equal pieces, the last may be smaller; views.",
    attributes={"chunks": _INT, "dim": _DIM}, shape="split", alias="view"))  # fmt: skip
register(Operator(
    name="slice", summary="A range of one or more dimensions; a view.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int or ints"), "start": _a(None, read.stops, "int(s) or None"),
                "stop": _a(None, read.stops, "int(s) or None"), "step": _a(1, read.integers(), "int(s)")},
    shape="slice", alias="view"))  # fmt: skip
register(Operator(
    name="gather", summary="The entries of one dimension that an index names, in the index's shape; copies.",
    attributes={"dim": _DIM}, shape=_gathered, inputs=(2, 2), dtype="first", saves=("input1",)))  # fmt: skip
register(Operator(
    name="pad", summary="Pads or crops; (left, right, top, bottom, ...), the last dimension first.",
    attributes={"pad": _a(REQUIRED, read.integers(), "ints"),
                "mode": _a("constant", read.text("constant", "reflect", "replicate", "circular"), "str")},
    shape="pad", check=_pad_reaches))  # fmt: skip
register(Operator(
    name="reshape", summary="Another shape for the same bytes; 0 keeps a dimension, -1 is what remains; a view.",
    attributes={"shape": _a(REQUIRED, read.integers(-1), "ints")}, shape="reshape", alias="view"))  # fmt: skip
register(Operator(
    name="flatten", summary="Joins a range of dimensions into one; a view.",
    attributes={"start_dim": _a(1, read.integer(None), "int"), "end_dim": _a(-1, read.integer(None), "int")},
    shape="flatten", alias="view"))  # fmt: skip
register(Operator(
    name="squeeze", summary="Drops dimensions of size 1 (None: all but the batch); a view.",
    attributes={"dim": _a(None, read.optional(read.integers()), "int, ints or None")},
    shape="squeeze", alias="view"))  # fmt: skip
register(Operator(
    name="unsqueeze", summary="Inserts dimensions of size 1; a view.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int or ints")}, shape="unsqueeze", alias="view"))  # fmt: skip
register(Operator(
    name="permute", summary="Reorders the dimensions; a view, as is a reshape behind it.",
    attributes={"dims": _a(REQUIRED, read.integers(), "ints")}, shape="permute", alias="view"))  # fmt: skip
register(Operator(
    name="transpose", summary="Swaps two dimensions; a view.",
    attributes={"dim0": _a(REQUIRED, read.integer(None), "int"), "dim1": _a(REQUIRED, read.integer(None), "int")},
    shape="transpose", alias="view"))  # fmt: skip
register(Operator(
    name="expand", summary="Repeats dimensions of size 1 without copying; 0 or -1 keeps a dimension; a view.",
    attributes={"shape": _a(REQUIRED, read.integers(-1), "ints")}, shape="expand", alias="view"))  # fmt: skip
register(
    Operator(name="contiguous", summary="A copy in memory order, as PyTorch makes of what was permuted.", shape="same")
)
register(Operator(
    name="channel_shuffle", summary="Interleaves groups of channels; copies.", attributes={"groups": _INT},
    shape="same", check=_groups_of_channels))  # fmt: skip
register(Operator(
    name="pixel_shuffle", summary="Channels to space by a factor; copies.",
    attributes={"upscale_factor": _INT}, shape="pixel_shuffle"))  # fmt: skip
register(Operator(
    name="pixel_unshuffle", summary="Space to channels by a factor; copies.",
    attributes={"downscale_factor": _INT}, shape="pixel_shuffle"))  # fmt: skip
register(Operator(
    name="interpolate", summary="Resizes to a size or by a factor.",
    attributes={"size": _a(None, read.optional(read.integers(1)), "ints or None"),
                "scale_factor": _a(None, read.optional(read.numbers), "floats or None"),
                "mode": _a("nearest", read.text("nearest", "linear", "bilinear", "bicubic", "trilinear", "area"),
                           "str")},
    shape="resize", check=_mode_fits))  # fmt: skip
for _name, _saves in (("mean", ()), ("sum", ()), ("amax", ("input", "output"))):
    register(Operator(
        name=_name, summary={"mean": "Mean", "sum": "Sum", "amax": "Maximum"}[_name]
        + " over dimensions (None: all but the batch).",
        attributes={"dim": _a(None, read.optional(read.integers()), "int, ints or None"),
                    "keepdim": _a(False, read.boolean, "bool")},
        shape="reduce", saves=_saves))  # fmt: skip
register(Operator(
    name="argmax", summary="Position of the maximum along a dimension, as int64.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int"), "keepdim": _a(False, read.boolean, "bool")},
    shape="reduce", dtype="index", check=_one_axis))  # fmt: skip
register(Operator(
    name="vector_norm", summary="p-norm (ord) over dimensions (None: all but the batch).",
    attributes={"ord": _a(2.0, read.number, "float"), "keepdim": _a(False, read.boolean, "bool"),
                "dim": _a(None, read.optional(read.integers()), "int, ints or None")},
    shape="reduce", saves=("input", "output")))  # fmt: skip
register(Operator(name="identity", summary="Hands its input on; a view.", shape="same", alias="view"))
register(Operator(
    name="cast", summary="Copies into another data type.", attributes={"dtype": _a(REQUIRED, read.dtype, "dtype")},
    shape="same", dtype="attribute"))  # fmt: skip
register(Operator(
    name="input", summary="An input of the network; the first dimension is the batch.",
    attributes={"shape": _a(REQUIRED, read.integers(1), "ints"), "dtype": _DTYPE},
    shape="input", inputs=(0, 0), dtype="attribute"))  # fmt: skip
register(Operator(
    name="parameter", summary="A stored tensor used as an operand; counted among the weights, never as an activation.",
    attributes={"shape": _a(REQUIRED, read.integers(1), "ints"), "dtype": _DTYPE,
                "trainable": _a(True, read.boolean, "bool")},
    shape="constant", inputs=(0, 0), weights="elements", dtype="attribute"))  # fmt: skip


def weight_columns(entry: Operator, shapes: Sequence[Shape], a: Attrs) -> tuple[int, int, int, int, int, int]:
    """Encode what an op owns as ``(rule, weights, biases, buffers, counters, attribute)`` for the count kernel.

    Rules: 0 literal element counts; 1 conv; 2 linear; 3 per channel; 4 the trailing `attribute` dimensions.
    For rules 1 to 4 the four counts are how many such tensors there are.
    """
    rule = entry.weights
    if rule == "none":
        return (0, 0, 0, 0, 0, 0)
    # The kernel reads kernel sizes and features from the columns of the shape rule of that name.
    if rule == entry.shape == "conv":
        return (1, 1, int(a["bias"]), 0, 0, 0)
    if rule == entry.shape == "linear":
        return (2, 1, int(a["bias"]), 0, 0, 0)
    counts = {"weight": 0, "bias": 0, "buffer": 0, "counter": 0}
    literal = rule not in ("channel", "trailing")
    for w in weights_of(entry, shapes, a):
        counts[w.role] += math.prod(w.shape) if literal else 1
    code = 0 if literal else 3 if rule == "channel" else 4
    attribute = len(a["normalized_shape"]) if rule == "trailing" else 0
    return (code, counts["weight"], counts["bias"], counts["buffer"], counts["counter"], attribute)
