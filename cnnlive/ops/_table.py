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
from cnnlive.ops._shapes import RULES, axis_of

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
# A second input is a weight that ops compute, a third a bias: the op does not own them then, and of a
# normalisation with a computed weight nothing but running statistics.


def _conv_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    channels, out = shapes[0][1], a["out_channels"]
    first, second = (channels, out) if "output_padding" in a else (out, channels)
    weight = Weight("weight", "weight", (first, second // a["groups"], *a["kernel_size"]))
    return ((weight, Weight("bias", "bias", (out,))) if a["bias"] else (weight,))[len(shapes) - 1 :]


def _linear_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    weight = Weight("weight", "weight", (a["out_features"], shapes[0][-1]))
    return ((weight, Weight("bias", "bias", (a["out_features"],))) if a["bias"] else (weight,))[len(shapes) - 1 :]


def _affine(shape: Shape, a: Attrs) -> list[Weight]:
    if not a.get("affine", a.get("elementwise_affine", True)):
        return []
    weight = Weight("weight", "weight", shape)
    return [weight, Weight("bias", "bias", shape)] if a.get("bias", True) else [weight]


def _channel_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    shape = (shapes[0][1],)
    weights = _affine(shape, a) if len(shapes) == 1 else []
    if a.get("track_running_stats"):
        weights += [Weight("buffer", "running_mean", shape), Weight("buffer", "running_var", shape),
                    Weight("counter", "num_batches_tracked", ())]  # fmt: skip
    return tuple(weights)


def _trailing_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    return tuple(_affine(tuple(a["normalized_shape"]), a)) if len(shapes) == 1 else ()


def _element_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    if "num_parameters" in a:
        return () if len(shapes) > 1 else (Weight("weight", "weight", (a["num_parameters"],)),)
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


def _computed(rule: str, *checks: Any) -> Any:
    """Check a weight and a bias that ops compute against what the op would own, then whatever else there is."""

    def check(shapes: Sequence[Shape], a: Attrs) -> None:
        if len(shapes) > 1:
            expected = [w for w in _WEIGHTS[rule](shapes[:1], a) if w.role in ("weight", "bias")]
            if len(shapes) - 1 > len(expected):
                raise ShapeError(f"{len(shapes) - 1} computed weights; allowed: {len(expected)}")
            for w, shape in zip(expected, shapes[1:], strict=False):
                if math.prod(w.shape) != math.prod(shape):
                    raise ShapeError(f"the computed {w.role} has shape {shape}; allowed: {w.shape}")
        for other in checks:
            other(shapes, a)

    return check


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
        inputs=(1, 3), check=_computed("conv"), shape="conv", weights="conv", macs="conv", folds="base",
        saves=("input", "weight"), autocast="low"))  # fmt: skip
    register(Operator(
        name=f"conv_transpose{_n}d", summary=f"{_n}-D transposed convolution.",
        attributes={**_conv, "padding": _a(0, read.padding(_n, None), f"{_n} ints or pairs, 'same', 'valid'"),
                    "output_padding": _a(0, read.spatial(_n, 0), f"{_n} ints")},
        shape="conv", weights="conv", macs="conv", folds="base", saves=("input", "weight"), autocast="low",
        inputs=(1, 3), check=_computed("conv", _output_padding_in_a_stride)))  # fmt: skip
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
        name=f"batch_norm{_n}d", summary="Batch normalisation: per channel over batch and positions; with "
        "use_running_stats by the running statistics also in training.",
        attributes={"eps": _a(1e-5, read.number, "float"), "affine": _a(True, read.boolean, "bool"),
                    "track_running_stats": _a(True, read.boolean, "bool"),
                    "use_running_stats": _a(False, read.boolean, "bool"), "inplace": INPLACE},
        shape="same", weights="channel", alias="elementwise", overwrites=(0,), folds="norm",
        saves=lambda a: ("input", "weight") if a["use_running_stats"] else ("input", "weight", "statistics"),
        inputs=(1, 3), check=_computed("channel", _rank(*((3, 2) if _n == 1 else (_n + 2,))))))  # fmt: skip
    register(Operator(
        name=f"instance_norm{_n}d", summary="Instance normalisation: per channel and image.",
        attributes={"eps": _a(1e-5, read.number, "float"), "affine": _a(False, read.boolean, "bool"),
                    "track_running_stats": _a(False, read.boolean, "bool")},
        shape="same", weights="channel", saves=("input", "statistics"), gradient="instance_norm",
        inputs=(1, 3), check=_computed("channel", _rank(_n + 2))))  # fmt: skip
    register(Operator(
        name=f"dropout{_n}d" if _n > 1 else "dropout",
        summary="Drops whole channels in training; the identity in inference." if _n > 1
        else "Drops elements in training; the identity in inference.",
        attributes={"p": _a(0.5, read.number, "float"), "inplace": INPLACE},
        shape="same", alias="view", saves=("mask",), gradient="dropout" if _n == 1 else "noise"))  # fmt: skip

register(Operator(
    name="stochastic_depth", summary="Drops a residual branch per image in training; the identity in inference.",
    attributes={"p": _a(REQUIRED, read.number, "float"), "mode": _a("row", read.text("row", "batch"), "str")},
    shape="same", alias="view", saves=("mask",), gradient="noise"))  # fmt: skip
register(Operator(
    name="linear", summary="Fully connected layer over the last dimension.",
    attributes={"out_features": _INT, "bias": _BIAS},
    inputs=(1, 3), check=_computed("linear"), shape="linear",
    weights="linear", macs="linear", folds="base", saves=("input", "weight"), gradient="linear",
    autocast="low"))  # fmt: skip
register(Operator(
    name="matmul", summary="Matrix product of two tensors, leading dimensions broadcast.",
    shape="matmul", inputs=(2, 2), macs="matmul", saves=("input", "input1"), gradient="matmul",
    autocast="low"))  # fmt: skip
register(Operator(
    name="layer_norm", summary="Layer normalisation over the trailing dimensions.",
    attributes={"normalized_shape": _a(REQUIRED, read.integers(1), "ints"), "eps": _a(1e-5, read.number, "float"),
                "elementwise_affine": _a(True, read.boolean, "bool"), "bias": _BIAS},
    shape="same", weights="trailing", saves=("input", "weight", "statistics"), autocast="float32",
    inputs=(1, 3), check=_computed("trailing", _ends_with)))  # fmt: skip
register(Operator(
    name="group_norm", summary="Group normalisation: per group of channels and image.",
    attributes={"num_groups": _INT, "eps": _a(1e-5, read.number, "float"), "affine": _a(True, read.boolean, "bool")},
    shape="same", weights="channel", saves=("input", "weight", "statistics"), autocast="float32",
    inputs=(1, 3), check=_computed("channel", _channels_divide("num_groups"))))  # fmt: skip
register(Operator(
    name="local_response_norm", summary="Local response normalisation across channels.",
    attributes={"size": _INT, "alpha": _a(1e-4, read.number, "float"), "beta": _a(0.75, read.number, "float"),
                "k": _a(1.0, read.number, "float")},
    shape="same", saves=("input", "clone"), gradient="local_response_norm", check=_has_positions))  # fmt: skip

# Where the derivative is more than one op on the incoming gradient.
_GRADIENTS: Final[dict[str, str]] = {
    "add": "same", "sub": "sub", "div": "div", "minimum": "extremum", "maximum": "extremum", "pow": "pow",
    "clip": "clip", "sqrt": "temporary", "abs": "temporary", "reciprocal": "reciprocal", "erf": "erf",
    "rsqrt": "temporary", "sin": "temporary", "cos": "temporary",
}  # fmt: skip
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
    **dict.fromkeys(("sin", "cos"), ("clone",)),
    **dict.fromkeys(("leaky_relu", "elu", "selu"), ("output",)),
    **dict.fromkeys(("mul", "div"), ("clone", "input1")),
    "pow": ("clone", "input1", "output"),
}
_SAVES_UNARY: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("exp", "sqrt", "reciprocal", "rsqrt"), ("output",)),
    **dict.fromkeys(("log", "abs", "erf", "sin", "cos"), ("input",)),
}
for _name, (_saved, _extra, _words) in _ACTIVATIONS.items():
    register(Operator(
        name=_name, summary=_words, attributes={**_extra, "inplace": INPLACE},
        shape="same", alias="elementwise", overwrites=(0,), folds="activation", saves=(_saved,),
        saves_inplace=_SAVES_INPLACE.get(_name), gradient=_GRADIENTS.get(_name, "fresh"),
        autocast="float32" if _name == "softplus" else ""))  # fmt: skip
register(Operator(
    name="prelu", summary="x, or a learned multiple below 0.",
    attributes={"num_parameters": _a(1, read.integer(1), "int")},
    shape="same", weights="elements", alias="elementwise", overwrites=(0,), saves=("input", "weight"),
    gradient="broadcast", autocast="low", inputs=(1, 2), check=_computed("elements", _prelu_channels)))  # fmt: skip
for _name, _words in {
    "exp": "e to the x.", "log": "Natural logarithm.", "sqrt": "Square root.", "abs": "Absolute value.", "neg": "-x.",
    "reciprocal": "1 / x.", "floor": "The largest integer not above x.", "erf": "Error function.",
    "rsqrt": "1 / square root.", "sign": "-1, 0 or 1.", "sin": "Sine.", "cos": "Cosine.",
}.items():  # fmt: skip
    register(Operator(
        name=_name, summary=_words, attributes={"inplace": INPLACE}, shape="same", alias="elementwise",
        overwrites=(0,), saves=_SAVES_UNARY.get(_name, ()), saves_inplace=_SAVES_INPLACE.get(_name),
        gradient=_GRADIENTS.get(_name, "fresh"),
        autocast="float32" if _name in ("exp", "log", "reciprocal", "erf") else ""))  # fmt: skip
register(Operator(
    name="scale", summary="x times a constant plus a constant.",
    attributes={"factor": _a(1.0, read.number, "float"), "offset": _a(0.0, read.number, "float"), "inplace": INPLACE},
    shape="same", alias="elementwise", overwrites=(0,), gradient="scale"))  # fmt: skip
for _name in ("softmax", "log_softmax"):
    register(Operator(
        name=_name, summary=f"{'Logarithm of the s' if _name != 'softmax' else 'S'}oftmax over one dimension.",
        attributes={"dim": _a(-1, read.integer(None), "int")}, shape="same", saves=("output",), autocast="float32",
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
        alias="elementwise", overwrites=(0, 1), saves=_saves, saves_inplace=_SAVES_INPLACE.get(_name),
        gradient=_GRADIENTS.get(_name, "broadcast"), autocast="float32" if _name == "pow" else ""))  # fmt: skip
register(Operator(
    name="add_n", summary="Sum of any number of tensors in one op, with broadcasting.",
    shape="broadcast", inputs=(1, None), alias="elementwise", overwrites=(0,), gradient="same"))  # fmt: skip

register(Operator(
    name="concat", summary="Joins tensors along one dimension; copies.", attributes={"dim": _DIM},
    shape="concat", inputs=(1, None), gradient="narrow", autocast="widest"))  # fmt: skip
register(Operator(
    name="split", summary="Cuts along one dimension into pieces of given sizes; views.",
    attributes={"sizes": _a(REQUIRED, lambda v: read.integer(1)(v) if isinstance(v, int) else read.integers(1)(v),
                            "int or ints"), "dim": _DIM},
    shape="split", alias="view", gradient="join"))  # fmt: skip
register(Operator(
    name="chunk", summary="Cuts along one dimension into equal pieces, the last may be smaller; views.",
    attributes={"chunks": _INT, "dim": _DIM}, shape="split", alias="view", gradient="join"))  # fmt: skip
register(Operator(
    name="slice", summary="A range of one or more dimensions; a view.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int or ints"), "start": _a(None, read.stops, "int(s) or None"),
                "stop": _a(None, read.stops, "int(s) or None"), "step": _a(1, read.integers(), "int(s)")},
    shape="slice", alias="view", gradient="slice"))  # fmt: skip
register(Operator(
    name="gather", summary="The entries of one dimension that an index names, in the index's shape; copies.",
    attributes={"dim": _DIM}, shape=_gathered, inputs=(2, 2), dtype="first", saves=("input1",)))  # fmt: skip
register(Operator(
    name="pad", summary="Pads or crops; (left, right, top, bottom, ...), the last dimension first.",
    attributes={"pad": _a(REQUIRED, read.integers(), "ints"),
                "mode": _a("constant", read.text("constant", "reflect", "replicate", "circular"), "str")},
    shape="pad", check=_pad_reaches,
    saves=lambda a: ("input",) if a["mode"] in ("reflect", "replicate") else ()))  # fmt: skip
register(Operator(
    name="reshape", summary="Another shape for the same bytes; 0 keeps a dimension, -1 is what remains; a view.",
    attributes={"shape": _a(REQUIRED, read.integers(-1), "ints")}, shape="reshape", alias="view",
    gradient="reshape"))  # fmt: skip
register(Operator(
    name="flatten", summary="Joins a range of dimensions into one; a view.",
    attributes={"start_dim": _a(1, read.integer(None), "int"), "end_dim": _a(-1, read.integer(None), "int")},
    shape="flatten", alias="view", gradient="reshape"))  # fmt: skip
register(Operator(
    name="squeeze", summary="Drops dimensions of size 1 (None: all but the batch); a view.",
    attributes={"dim": _a(None, read.optional(read.integers()), "int, ints or None")},
    shape="squeeze", alias="view", gradient="reshape"))  # fmt: skip
register(Operator(
    name="unsqueeze", summary="Inserts dimensions of size 1; a view.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int or ints")}, shape="unsqueeze", alias="view",
    gradient="reshape"))  # fmt: skip
register(Operator(
    name="permute", summary="Reorders the dimensions; a view, as is a reshape behind it.",
    attributes={"dims": _a(REQUIRED, read.integers(), "ints")}, shape="permute", alias="view",
    gradient="permute"))  # fmt: skip
register(Operator(
    name="transpose", summary="Swaps two dimensions; a view.",
    attributes={"dim0": _a(REQUIRED, read.integer(None), "int"), "dim1": _a(REQUIRED, read.integer(None), "int")},
    shape="transpose", alias="view", gradient="permute"))  # fmt: skip
register(Operator(
    name="expand", summary="Repeats dimensions of size 1 without copying; 0 or -1 keeps a dimension; a view.",
    attributes={"shape": _a(REQUIRED, read.integers(-1), "ints")}, shape="expand", alias="view",
    gradient="same"))  # fmt: skip
register(
    Operator(
        name="contiguous",
        summary="A copy in memory order, as PyTorch makes of what was permuted.",
        shape="same",
        gradient="same",
    )
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
    shape="resize", autocast="float32", check=_mode_fits))  # fmt: skip
for _name, _saves in (("mean", ()), ("sum", ()), ("amax", ("input", "output"))):
    register(Operator(
        name=_name, gradient={"mean": "fresh", "sum": "spread", "amax": "amax"}[_name],
        autocast="float32" if _name == "sum" else "", summary={"mean": "Mean", "sum": "Sum", "amax": "Maximum"}[_name]
        + " over dimensions (None: all but the batch).",
        attributes={"dim": _a(None, read.optional(read.integers()), "int, ints or None"),
                    "keepdim": _a(False, read.boolean, "bool")},
        shape="reduce", saves=_saves))  # fmt: skip
register(Operator(
    name="argmax", summary="Position of the maximum along a dimension, as int64.",
    attributes={"dim": _a(REQUIRED, read.integers(), "int"), "keepdim": _a(False, read.boolean, "bool")},
    shape="reduce", dtype="index", gradient="none", check=_one_axis))  # fmt: skip
register(Operator(
    name="vector_norm", summary="p-norm (ord) over dimensions (None: all but the batch).",
    attributes={"ord": _a(2.0, read.number, "float"), "keepdim": _a(False, read.boolean, "bool"),
                "dim": _a(None, read.optional(read.integers()), "int, ints or None")},
    shape="reduce", saves=("input", "output"), gradient="vector_norm", autocast="float32"))  # fmt: skip
register(
    Operator(name="identity", summary="Hands its input on; a view.", shape="same", alias="view", gradient="identity")
)
register(Operator(
    name="cast", summary="Copies into another data type.", attributes={"dtype": _a(REQUIRED, read.dtype, "dtype")},
    shape="same", dtype="attribute"))  # fmt: skip

# ---------------------------------------------------------------------------------- what modules in PyTorch also use


def _reduced_twice(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = shapes[0]
    dims = [axis_of(d, len(x)) for d in a["dim"]]
    if a["keepdim"]:
        out = tuple(1 if i in dims else n for i, n in enumerate(x))
    else:
        out = tuple(n for i, n in enumerate(x) if i not in dims)
    return (out, out)


def _most(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = shapes[0]
    axis = axis_of(a["dim"], len(x))
    if a["k"] > x[axis]:
        raise ShapeError(f"k={a['k']} of the {x[axis]} of dimension {a['dim']} of {x}")
    out = (*x[:axis], a["k"], *x[axis + 1 :])
    return (out, out)


def _repeated(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x, times = shapes[0], a["repeats"]
    if len(times) < len(x):
        raise ShapeError(f"repeats={times} for an input {x}; allowed: one for each dimension at least")
    x = (1,) * (len(times) - len(x)) + tuple(x)
    return (tuple(n * t for n, t in zip(x, times, strict=True)),)


def _sampled(shapes: Sequence[Shape], _a: Attrs) -> tuple[Shape, ...]:
    x, grid = shapes
    if len(x) != len(grid) or grid[-1] != len(x) - 2 or grid[0] != x[0]:
        raise ShapeError(f"a grid of shape {grid} for an input {x}; allowed: (batch, positions, {len(x) - 2})")
    return ((*x[:2], *grid[1:-1]),)


def _columns(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = shapes[0]
    _rank(4)(shapes, a)
    windows = 1
    for n, k, d, p, s in zip(x[2:], a["kernel_size"], a["dilation"], a["padding"], a["stride"], strict=True):
        count = (n + 2 * p - d * (k - 1) - 1) // s + 1
        if count < 1:
            raise ShapeError(f"a window of {k} with dilation {d} and padding {p} does not fit the input {x}")
        windows *= count
    return ((x[0], x[1] * math.prod(a["kernel_size"]), windows),)


def _overlapping(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = list(shapes[0])
    axis = axis_of(a["dim"], len(x))
    if a["size"] > x[axis]:
        raise ShapeError(f"size={a['size']} of the {x[axis]} of dimension {a['dim']} of {shapes[0]}")
    x[axis] = (x[axis] - a["size"]) // a["step"] + 1
    return ((*x, a["size"]),)


def _convolved_alone(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x, weight = shapes
    if not x[0] or weight[0] % x[0]:
        raise ShapeError(f"kernels of shape {weight} for an input {x}; allowed: as many for each image")
    return RULES["conv"].infer((x,), {**a, "out_channels": weight[0] // x[0]})


def _folded(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = shapes[0]
    area = math.prod(a["kernel_size"])
    if len(x) != 3 or x[1] % area:
        raise ShapeError(f"the input has shape {x}; allowed: (batch, channels times {area}, windows)")
    return ((x[0], x[1] // area, *a["output_size"]),)


def _attended(shapes: Sequence[Shape], _a: Attrs) -> tuple[Shape, ...]:
    q, k, v = shapes[:3]
    if q[-1] != k[-1] or k[-2] != v[-2]:
        raise ShapeError(f"attention of {q} over keys {k} and values {v}")
    return ((*q[:-1], v[-1]),)


def _filled(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    return ((shapes[0][0], *a["shape"][1:]) if shapes else tuple(a["shape"]),)


def _seen_otherwise(shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    x = shapes[0]
    if any(d == 0 and i >= len(x) for i, d in enumerate(a["shape"])):
        raise ShapeError(f"shape {a['shape']} keeps a dimension that the input {x} does not have")
    return (tuple(x[i] if d == 0 else d for i, d in enumerate(a["shape"])),)


def _indexed(shapes: Sequence[Shape], _a: Attrs) -> tuple[Shape, ...]:
    x, index = shapes
    if len(x) != len(index):
        raise ShapeError(f"an index of shape {index} for an input {x}; allowed: as many dimensions")
    return (tuple(index),)


def _rms_weights(shapes: Sequence[Shape], a: Attrs) -> tuple[Weight, ...]:
    if not a["elementwise_affine"] or len(shapes) > 1:
        return ()
    return (Weight("weight", "weight", tuple(a["normalized_shape"])),)


_DIMS: Final = _a(None, read.optional(read.integers()), "int, ints or None")
_KEEP: Final = _a(False, read.boolean, "bool")
_ONE_DIM: Final = _a(REQUIRED, read.integer(None), "int")

_kept: tuple[str, ...]
for _name, _kept, _words in (
    ("amin", ("input", "output"), "Minimum over dimensions (None: all but the batch)."),
    ("logsumexp", ("input", "output"), "log(sum(exp x)) over dimensions (None: all but the batch)."),
    ("std", ("input", "output"), "Standard deviation over dimensions (None: all but the batch)."),
    ("var", ("input",), "Variance over dimensions (None: all but the batch)."),
):
    register(Operator(
        name=_name, summary=_words, attributes={"dim": _DIMS, "keepdim": _KEEP}, shape="reduce", saves=_kept,
        gradient="amax" if _name == "amin" else "temporary"))  # fmt: skip
for _name, _kept, _words in (
    ("std_mean", ("input", "output"), "Standard deviation and mean over dimensions, as two outputs."),
    ("var_mean", ("input",), "Variance and mean over dimensions, as two outputs."),
):
    register(Operator(
        name=_name, summary=_words, shape=_reduced_twice, saves=_kept,
        attributes={"dim": _a(REQUIRED, read.integers(), "int or ints"), "keepdim": _KEEP}))  # fmt: skip
for _name in ("max", "min"):
    register(Operator(
        name=_name, summary=f"The {_name}imum along a dimension, and its positions as a second, int64 output.",
        attributes={"dim": _a(REQUIRED, read.integers(), "int"), "keepdim": _KEEP}, shape=_reduced_twice, indices=True,
        saves=("indices",), check=_one_axis))  # fmt: skip
register(Operator(
    name="topk", summary="The k largest along a dimension, and their positions as a second, int64 output.",
    attributes={"k": _INT, "dim": _a(-1, read.integer(None), "int")}, shape=_most, indices=True,
    saves=("indices",)))  # fmt: skip
register(Operator(
    name="cumsum", summary="Running sum along a dimension.", attributes={"dim": _ONE_DIM}, shape="same",
    check=_axis_exists))  # fmt: skip
register(Operator(
    name="pow_scalar", summary="x to a constant power.",
    attributes={"exponent": _a(2.0, read.number, "float"), "inplace": INPLACE}, shape="same", alias="elementwise",
    overwrites=(0,), saves=("input",), saves_inplace=("clone",), gradient="reciprocal"))  # fmt: skip
register(Operator(
    name="addcmul", summary="The first input plus the product of two more, in one op with broadcasting.",
    attributes={"inplace": INPLACE}, shape="broadcast", inputs=(3, 3), alias="elementwise", overwrites=(0,),
    saves=("input1", "input2"), gradient="addcmul"))  # fmt: skip
register(Operator(
    name="compare", summary="Comparison or logical operation; with a number if there is one input.",
    attributes={"dtype": _a("bool", read.dtype, "dtype")}, shape="broadcast", inputs=(1, 2), dtype="attribute",
    gradient="none"))  # fmt: skip
register(Operator(
    name="where", summary="The second input where the first holds, else the third or a number.",
    shape="broadcast", inputs=(2, 3), saves=("input",), gradient="broadcast"))  # fmt: skip
register(Operator(
    name="masked_fill", summary="The first input, with a number where the second holds.",
    attributes={"inplace": INPLACE}, shape="broadcast", inputs=(2, 2), alias="elementwise", overwrites=(0,),
    dtype="first", saves=("input1",)))  # fmt: skip
register(Operator(
    name="assign", summary="The first input, with part of it overwritten by the second or by a number.",
    attributes={"inplace": INPLACE}, shape="same", inputs=(1, 2), alias="elementwise", overwrites=(0,),
    dtype="first"))  # fmt: skip
register(Operator(
    name="expand_as", summary="Repeats dimensions of size 1 up to the shape of the second input; a view.",
    shape="broadcast", inputs=(2, 2), alias="view", dtype="first", gradient="same"))  # fmt: skip
register(Operator(
    name="repeat", summary="Repeats each dimension so many times; copies.",
    attributes={"repeats": _a(REQUIRED, read.integers(1), "ints")}, shape=_repeated))  # fmt: skip
register(Operator(
    name="unfold_dim", summary="Overlapping pieces of one dimension, as a last dimension; a view.",
    attributes={"dim": _ONE_DIM, "size": _INT, "step": _INT}, shape=_overlapping, alias="view"))  # fmt: skip
register(Operator(name="roll", summary="Moves or mirrors elements along dimensions; copies.", shape="same"))
register(Operator(
    name="gather_elements", summary="For each position of the index, the entry of a dimension that it names; copies.",
    attributes={"dim": _DIM}, shape=_indexed, inputs=(2, 2), dtype="first", saves=("input1",)))  # fmt: skip
register(Operator(
    name="grid_sample", summary="Samples at the positions of a grid.", shape=_sampled, inputs=(2, 2), dtype="first",
    saves=("input", "input1"), autocast="float32"))  # fmt: skip
register(Operator(
    name="unfold", summary="Windows of an image as columns; copies.",
    attributes={"kernel_size": _a(REQUIRED, read.spatial(2), "2 ints"), "dilation": _a(1, read.spatial(2), "2 ints"),
                "padding": _a(0, read.spatial(2, 0), "2 ints"), "stride": _a(1, read.spatial(2), "2 ints")},
    shape=_columns))  # fmt: skip
register(Operator(
    name="fold", summary="Sums columns back into an image.",
    attributes={"output_size": _a(REQUIRED, read.spatial(2), "2 ints"),
                "kernel_size": _a(REQUIRED, read.spatial(2), "2 ints")},
    shape=_folded))  # fmt: skip
register(Operator(
    name="dynamic_conv2d", summary="2-D convolution with a kernel of its own for each image, the second input.",
    attributes={**_windows(2), "dilation": _a(1, read.spatial(2), "2 ints"), "groups": _a(1, read.integer(1), "int")},
    shape=_convolved_alone, inputs=(2, 2), dtype="first", saves=("input", "input1"), autocast="low"))  # fmt: skip
register(Operator(
    name="rms_norm", summary="Division by the root of the mean square over the trailing dimensions.",
    attributes={"normalized_shape": _a(REQUIRED, read.integers(1), "ints"), "eps": _a(1e-5, read.number, "float"),
                "elementwise_affine": _a(True, read.boolean, "bool")},
    inputs=(1, 2), shape="same", weights=_rms_weights, saves=("input", "weight", "statistics"), autocast="float32",
    check=_ends_with))  # fmt: skip
register(Operator(
    name="scaled_dot_product_attention", summary="Softmax attention of queries over keys and values, and a mask.",
    shape=_attended, inputs=(3, 4), dtype="first", saves=("input", "input1", "input2", "output"),
    autocast="low"))  # fmt: skip
register(Operator(
    name="as_strided", summary="Another view of the bytes that the input lies in; 0 keeps a dimension.",
    attributes={"shape": _a(REQUIRED, read.integers(0), "ints")}, shape=_seen_otherwise, alias="view"))  # fmt: skip
register(Operator(
    name="detach", summary="Hands its input on, and no gradient back; a view.", shape="same", alias="view",
    gradient="none"))  # fmt: skip
register(Operator(
    name="fill", summary="A tensor made at run time: zeros, a range, noise; with an input, as many rows as that has.",
    attributes={"shape": _a(REQUIRED, read.integers(1), "ints"), "dtype": _DTYPE}, inputs=(0, 1), shape=_filled,
    dtype="attribute", gradient="none"))  # fmt: skip


def _literal(_shapes: Sequence[Shape], a: Attrs) -> tuple[Shape, ...]:
    if len(a["shapes"]) != len(a["dtype"]):
        raise ShapeError(f"{len(a['shapes'])} shapes and {len(a['dtype'])} types; allowed: one type for each shape")
    return tuple(a["shapes"])


register(Operator(
    name="opaque", summary="Whatever the file it was read from calls `kind`; its outputs are literal.",
    attributes={"kind": _a(REQUIRED, read.free_text, "str"),
                "shapes": _a(REQUIRED, read.listed(read.integers(1)), "shapes"),
                "dtype": _a(REQUIRED, read.listed(read.dtype), "dtypes")},
    shape=_literal, inputs=(0, None), dtype="attribute", saves=("input",)))  # fmt: skip
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
        return (1, int(len(shapes) < 2), int(a["bias"] and len(shapes) < 3), 0, 0, 0)
    if rule == entry.shape == "linear":
        return (2, int(len(shapes) < 2), int(a["bias"] and len(shapes) < 3), 0, 0, 0)
    counts = {"weight": 0, "bias": 0, "buffer": 0, "counter": 0}
    literal = rule not in ("channel", "trailing")
    for w in weights_of(entry, shapes, a):
        counts[w.role] += math.prod(w.shape) if literal else 1
    code = 0 if literal else 3 if rule == "channel" else 4
    attribute = len(a["normalized_shape"]) if rule == "trailing" else 0
    return (code, counts["weight"], counts["bias"], counts["buffer"], counts["counter"], attribute)
