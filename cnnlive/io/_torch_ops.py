"""PyTorch's functions as ops of the table: one rule per function name, bound as PyTorch binds its arguments."""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cnnlive._types import Shape, dtype_name
from cnnlive.errors import ReadError, ShapeError, UnknownOperatorError

if TYPE_CHECKING:
    from cnnlive.io.torch import Recorder, Ref

__all__ = ["Call", "Rule", "rule_of"]

Handler = Callable[..., None]

# What becomes of a function: nothing to write down, a rule, an error as it reads values, its Python body
# entered, a tensor made from nothing, taken apart by PyTorch's dispatcher, answered with a fixed value, or a move to
# another device.
PASS, OP, DATA, ENTER, FACTORY, UNKNOWN, ANSWER, MOVE = range(8)
Rule = tuple[int, str, Any]

_DATA: Final = frozenset(
    ("item", "__bool__", "__int__", "__float__", "__index__", "__complex__", "tolist", "numpy", "nonzero", "argwhere",
     "masked_select", "unique", "unique_consecutive", "__contains__", "equal", "allclose", "bincount", "is_nonzero",
     "_local_scalar_dense", "multinomial", "histc", "__array__")
)  # fmt: skip
_PASS: Final = frozenset(
    ("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
     "is_signed", "storage_offset", "element_size", "get_device", "data_ptr", "untyped_storage", "storage", "__len__",
     "__repr__", "__format__", "__hash__", "__str__", "requires_grad_", "retain_grad", "register_hook", "has_names",
     "is_inference", "sym_size", "__dir__", "result_type", "broadcast_shapes", "is_tensor", "is_storage",
     "_assert", "_assert_async", "_assert_tensor_metadata", "is_same_size", "is_set_to", "is_shared", "is_pinned",
     "__reduce_ex__", "_is_view", "is_conj", "is_neg", "_has_compatible_shallow_copy_type", "sym_numel")
)  # fmt: skip
_FACTORIES: Final = frozenset(
    ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "linspace", "logspace", "eye",
     "tensor", "as_tensor", "scalar_tensor", "empty_strided", "tril_indices", "triu_indices", "hann_window",
     "hamming_window", "range")
)  # fmt: skip
_LIKE: Final = frozenset(
    ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "empty_like", "zeros_like", "ones_like",
     "full_like", "rand_like", "randn_like", "randint_like", "bernoulli", "new_empty_strided")
)  # fmt: skip
_GETTERS: Final = {"T": "t_all", "mT": "mT", "data": "detach", "H": "t_all", "mH": "mT"}

_HANDLERS: dict[str, Handler] = {}


class Call:
    """A call that ran: what it gave, and how to write it down."""

    __slots__ = ("inplace", "name", "out", "r")

    def __init__(self, recorder: Recorder, name: str, out: Any, inplace: bool) -> None:
        self.r = recorder
        self.name = name
        self.out = out
        self.inplace = inplace

    def emit(self, op: str, /, *inputs: Any, weights: dict[str, list[Any]] | None = None, **attrs: Any) -> None:
        """Write the op that made the result."""
        self.r.emit(op, inputs, attrs, self.out, weights)

    def step(self, op: str, /, *inputs: Any, **attrs: Any) -> Ref:
        """Write an op on the way, whose result no tensor of the caller's holds."""
        return self.r.emit(op, inputs, attrs)

    def same(self, x: Any) -> bool:
        """Whether the result is the argument itself, and nothing ran."""
        return self.out is x

    def shares(self, x: Any) -> bool:
        """Whether the result lies in the argument's bytes."""
        return bool(self.out.untyped_storage()._cdata == x.untyped_storage()._cdata)

    def refuse(self, why: str) -> UnknownOperatorError:
        """Return the error for a call that no operator describes."""
        return UnknownOperatorError(f"{self.r.where()}: {self.name} {why}; map the module to an operator with leaves=")


def rule(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler ``(call, *arguments of the function)`` under names of functions."""

    def register(handler: Handler) -> Handler:
        for name in names:
            _HANDLERS[name] = handler
        return handler

    return register


# ---------------------------------------------------------------------------------- which function is it


def _never(*_args: Any) -> bool:
    return False


def _body_of(func: Any) -> Any:
    """Return a Python function of PyTorch's without its question whether someone overrides it."""
    func = getattr(func, "__wrapped__", func)
    names = dict(func.__globals__)
    for key in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        if key in names:
            names[key] = _never
    body = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def rule_of(func: Any) -> Rule:
    """Look a function up: how it is to be treated, its name, and its handler."""
    name: str = getattr(func, "__name__", "") or str(func)
    schema = getattr(func, "_schema", None)
    if schema is not None:  # torch.ops
        namespace, _, name = schema.name.partition("::")
        if namespace not in ("aten", "cnnlive"):
            return UNKNOWN, schema.name, None
    elif name == "__get__":
        getter = getattr(getattr(func, "__self__", None), "__name__", "")
        if getter == "device":
            # The forward sees the device that it would run on; code asks for it to make tensors there.
            return ANSWER, getter, importlib.import_module("torch").device("cpu")
        if getter in ("is_cpu", "is_meta"):
            return ANSWER, getter, getter == "is_cpu"
        known = _GETTERS.get(getter)
        return (PASS, getter, None) if known is None else (OP, getter, _HANDLERS[known])
    elif name in ("__set__", "__delete__"):
        return PASS, name, None
    if getattr(func, "__module__", "") == "torch.nn.functional" and f"F.{name}" in _HANDLERS:
        return OP, name, _HANDLERS[f"F.{name}"]
    if name in _DATA:
        return DATA, name, None
    if name in _PASS:
        return PASS, name, None
    if name in ("to", "cpu", "cuda", "_to_copy", *_LIKE):
        return MOVE, name, _HANDLERS["fill" if name in _LIKE else "to"]
    if name in _FACTORIES:
        return FACTORY, name, _HANDLERS["fill"]
    handler = _HANDLERS.get(name)
    if handler is None and name.endswith("_") and not name.startswith("__"):
        handler = _HANDLERS.get(name[:-1])
    if handler is None and name.startswith("__i") and name.endswith("__"):
        handler = _HANDLERS.get(f"__{name[3:]}")
    if handler is not None:
        return OP, name, handler
    if isinstance(func, types.FunctionType):
        return ENTER, name, _body_of(func)
    return UNKNOWN, name, None


# ---------------------------------------------------------------------------------- helpers


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "untyped_storage")


def _ints(value: Any, n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    values = tuple(int(v) for v in value)
    return values * n if len(values) == 1 else values


def _list(args: Sequence[Any]) -> tuple[int, ...]:
    """Read sizes given one by one or as one sequence."""
    if len(args) == 1 and not isinstance(args[0], int):
        return tuple(int(v) for v in args[0])
    return tuple(int(v) for v in args)


def _weighted(
    c: Call,
    op: str,
    x: Any,
    weight: Any,
    bias: Any,
    buffers: Sequence[Any] = (),
    /,
    **attrs: Any,
) -> None:
    """Write an op with weights: its parameters are the op's own, buffers and what is computed are inputs."""
    r = c.r
    if (weight is None or r.owned(weight)) and (bias is None or r.owned(bias)):
        weights = {"weight": [weight] if weight is not None else [], "bias": [bias] if bias is not None else []}
        if buffers:
            weights["buffer"] = list(buffers)
        c.emit(op, x, weights=weights, **attrs)
        return
    if weight is None:
        raise c.refuse("with a bias computed by ops and no weight")
    if bias is None or (r.owned(bias) and ("out_channels" in attrs or "out_features" in attrs)):
        c.emit(op, x, weight, weights={"bias": [bias] if bias is not None else [], "buffer": list(buffers)}, **attrs)
    else:
        c.emit(op, x, weight, bias, weights={"buffer": list(buffers)}, **attrs)


# ---------------------------------------------------------------------------------- convolutions and matrices


def _conv(n: int) -> Handler:
    def handler(
        c: Call, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> None:  # fmt: skip
        pads = padding if isinstance(padding, str) else _ints(padding, n)
        if x.dim() == n + 1:
            raise c.refuse("without a batch dimension")
        if c.r.batchy(groups, 1) and n == 2 and bias is None:
            # The batch lies in the groups of one image: a kernel for each.
            channels = weight.shape[1] * c.r.per_image(groups)
            y = c.step("reshape", x, shape=(-1, channels, *x.shape[2:]))
            y = c.step(
                "dynamic_conv2d", y, weight, kernel_size=tuple(weight.shape[2:]), stride=_ints(stride, n),
                padding=pads, dilation=_ints(dilation, n), groups=c.r.per_image(groups),
            )  # fmt: skip
            c.emit("unsqueeze", c.step("flatten", y, start_dim=0, end_dim=1), dim=0)
            return
        _weighted(
            c, f"conv{n}d", x, weight, bias, out_channels=weight.shape[0], kernel_size=tuple(weight.shape[2:]),
            stride=_ints(stride, n), padding=pads, dilation=_ints(dilation, n), groups=groups, bias=bias is not None,
        )  # fmt: skip

    return handler


def _conv_transpose(n: int) -> Handler:
    def handler(
        c: Call, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
        groups: int = 1, dilation: Any = 1,
    ) -> None:  # fmt: skip
        _weighted(
            c, f"conv_transpose{n}d", x, weight, bias, out_channels=weight.shape[1] * groups,
            kernel_size=tuple(weight.shape[2:]), stride=_ints(stride, n), padding=_ints(padding, n),
            output_padding=_ints(output_padding, n), groups=groups, bias=bias is not None, dilation=_ints(dilation, n),
        )  # fmt: skip

    return handler


for _n in (1, 2, 3):
    _HANDLERS[f"conv{_n}d"] = _conv(_n)
    _HANDLERS[f"conv_transpose{_n}d"] = _conv_transpose(_n)


@rule("convolution", "_convolution")
def _convolution(
    c: Call, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *_rest: Any,
) -> None:  # fmt: skip
    n = x.dim() - 2
    if transposed:
        _conv_transpose(n)(c, x, weight, bias, stride, padding, output_padding, groups, dilation)
    else:
        _conv(n)(c, x, weight, bias, stride, padding, dilation, groups)


def _folded(c: Call, x: Any, *shape: int) -> Any:
    """Return an operand as a product reads it: a copy where it is no view of that shape."""
    y = x.expand(*shape[:-2], *x.shape[-2:]) if len(shape) > 2 and x.shape[:-2] != shape[:-2] else x
    flat = y.reshape(-1, *shape[-2:]) if len(shape) > 2 else y.reshape(shape)
    if flat.untyped_storage()._cdata == x.untyped_storage()._cdata:
        return x
    if y is x:
        return c.step("contiguous", x)
    lead = len(shape) - x.dim()
    kept = tuple(0 if k >= lead and x.shape[k - lead] == n else n for k, n in enumerate(y.shape))
    if any(n and c.r.batchy(n, k) for k, n in enumerate(kept)):
        return c.step("contiguous", x)
    return c.step("contiguous", c.step("expand", x, shape=kept))


@rule("linear")
def _linear(c: Call, x: Any, weight: Any, bias: Any = None) -> None:
    y = x if x.dim() < 3 or x.is_contiguous() else _folded(c, x, -1, x.shape[-1])
    _weighted(c, "linear", y, weight, bias, out_features=weight.shape[0], bias=bias is not None)


@rule("matmul", "bmm", "mm", "__matmul__", "mv")
def _matmul(c: Call, x: Any, y: Any) -> None:
    if x.dim() < 2 or y.dim() < 2:
        raise c.refuse(f"of {tuple(x.shape)} and {tuple(y.shape)}")
    left, right = x, y
    if x.dim() > 2 and y.dim() == 2:
        left = _folded(c, x, -1, x.shape[-1])
    elif x.dim() > 2 or y.dim() > 2:
        # Both as one batch of matrices.
        batch = tuple(c.out.shape[:-2])
        left, right = _folded(c, x, *batch, *x.shape[-2:]), _folded(c, y, *batch, *y.shape[-2:])
    c.emit("matmul", left, right)


@rule("baddbmm", "addmm")
def _addmm(c: Call, base: Any, x: Any, y: Any, **_factors: Any) -> None:
    c.emit("add", c.step("matmul", x, y), base)


@rule("scaled_dot_product_attention")
def _attention(c: Call, q: Any, k: Any, v: Any, attn_mask: Any = None, *_rest: Any, **_options: Any) -> None:
    c.emit("scaled_dot_product_attention", q, k, v, *(() if attn_mask is None else (attn_mask,)))


# ---------------------------------------------------------------------------------- normalisation


def _norm_name(kind: str, x: Any) -> str:
    return f"{kind}{max(1, x.dim() - 2)}d"


@rule("F.batch_norm")
def _f_batch_norm(
    c: Call, x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> None:  # fmt: skip
    _batch_norm(c, x, weight, bias, running_mean, running_var, training, momentum, eps)


@rule("batch_norm")
def _batch_norm(
    c: Call, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: Any = False,
    _momentum: Any = 0.1, eps: float = 1e-5, *_rest: Any, **_options: Any,
) -> None:  # fmt: skip
    op = _norm_name("batch_norm", x)
    track = running_mean is not None
    buffers = (running_mean, running_var) if track else ()
    if (weight is None) != (bias is None) and (weight is None or c.r.owned(weight)):
        raise c.refuse("with a weight or a bias alone")
    if track and not (c.r.stored(running_mean) and c.r.stored(running_var)):
        # Running statistics made by ops: read as they are, held by nobody.
        track, buffers = False, ()
    still = c.r.training and not training
    _weighted(c, op, x, weight, bias, buffers, eps=eps, affine=weight is not None, track_running_stats=track,
              use_running_stats=still)  # fmt: skip


@rule("F.instance_norm")
def _f_instance_norm(
    c: Call, x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> None:  # fmt: skip
    _instance_norm(c, x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)


@rule("instance_norm")
def _instance_norm(
    c: Call, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, _use: Any = True,
    _momentum: Any = 0.1, eps: float = 1e-5, *_rest: Any,
) -> None:  # fmt: skip
    track = running_mean is not None
    buffers = (running_mean, running_var) if track else ()
    _weighted(
        c, _norm_name("instance_norm", x), x, weight, bias, buffers, eps=eps, affine=weight is not None,
        track_running_stats=track,
    )  # fmt: skip


@rule("layer_norm")
def _layer_norm(
    c: Call, x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_rest: Any
) -> None:
    _weighted(
        c, "layer_norm", x, weight, bias, normalized_shape=tuple(normalized_shape), eps=eps,
        elementwise_affine=weight is not None, bias=bias is not None or weight is None,
    )  # fmt: skip


@rule("rms_norm")
def _rms_norm(c: Call, x: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> None:
    _weighted(
        c, "rms_norm", x, weight, None, normalized_shape=tuple(normalized_shape), eps=1e-5 if eps is None else eps,
        elementwise_affine=weight is not None,
    )  # fmt: skip


@rule("group_norm")
def _group_norm(
    c: Call, x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_rest: Any
) -> None:
    _weighted(c, "group_norm", x, weight, bias, num_groups=num_groups, eps=eps, affine=weight is not None)


@rule("local_response_norm")
def _local_response_norm(c: Call, x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
    c.emit("local_response_norm", x, size=size, alpha=alpha, beta=beta, k=k)


@rule("_weight_norm")
def _weight_norm(c: Call, v: Any, g: Any, dim: int = 0) -> None:
    dims = [i for i in range(v.dim()) if i != dim % v.dim()]
    norm = c.step("vector_norm", v, dim=dims, keepdim=True)
    c.emit("mul", v, c.step("div", g, norm))


# ---------------------------------------------------------------------------------- activations


def _unary(op: str, *params: str, **defaults: Any) -> Handler:
    """Make the handler of a function of one tensor whose further arguments are attributes of the op."""

    def handler(c: Call, x: Any, *args: Any, **kwargs: Any) -> None:
        attrs = dict(defaults)
        inplace = bool(kwargs.pop("inplace", False))
        for key, value in zip((*params, "inplace"), args, strict=False):
            if key == "inplace":
                inplace = bool(value)
            else:
                attrs[key] = value
        attrs.update((k, v) for k, v in kwargs.items() if k in params)
        if any(_is_tensor(v) for v in attrs.values()):
            raise c.refuse("with a tensor in place of a number")
        c.emit(op, x, inplace=c.inplace or inplace, **attrs)

    return handler


for _name in (
    "relu", "relu6", "selu", "silu", "sigmoid", "tanh", "mish", "hardsigmoid", "hardswish", "exp", "log", "sqrt",
    "abs", "neg", "reciprocal", "floor", "erf", "rsqrt", "ceil", "round", "sign", "sin", "cos", "log1p",
):  # fmt: skip
    _HANDLERS[_name] = _unary(_name)
_HANDLERS["leaky_relu"] = _unary("leaky_relu", "negative_slope", negative_slope=0.01)
_HANDLERS["elu"] = _unary("elu", "alpha")
_HANDLERS["celu"] = _unary("elu", "alpha")  # the same bytes
_HANDLERS["negative"] = _HANDLERS["neg"]
_HANDLERS["absolute"] = _HANDLERS["abs"]


@rule("gelu")
def _gelu(c: Call, x: Any, approximate: str = "none") -> None:
    c.emit("gelu", x, approximate=approximate)


@rule("softplus")
def _softplus(c: Call, x: Any, *_args: Any, **_options: Any) -> None:
    c.emit("softplus", x)


@rule("hardtanh")
def _hardtanh(c: Call, x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
    inplace = inplace or c.inplace
    if (min_val, max_val) == (0, 6):
        c.emit("relu6", x, inplace=inplace)
    else:
        c.emit("clip", x, min=min_val, max=max_val, inplace=inplace)


@rule("clamp", "clip", "clamp_min", "clamp_max")
def _clamp(c: Call, x: Any, *args: Any, **bounds: Any) -> None:
    keys = ("max",) if c.name.startswith("clamp_max") else ("min", "max")
    bounds |= dict(zip(keys, args, strict=False))
    low, high = bounds.get("min"), bounds.get("max")
    if _is_tensor(low) or _is_tensor(high):
        y: Any = x
        if low is not None and high is not None:
            y = c.step("maximum" if _is_tensor(low) else "clip", x, *([low] if _is_tensor(low) else []))
            low = None
        c.emit("maximum" if low is not None else "minimum", y, low if low is not None else high, inplace=c.inplace)
        return
    c.emit("clip", x, min=low, max=high, inplace=c.inplace)


@rule("prelu", "_prelu_kernel")
def _prelu(c: Call, x: Any, weight: Any) -> None:
    _weighted(c, "prelu", x, weight, None, num_parameters=weight.numel())


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(c: Call, x: Any, dim: int | None = None, *_rest: Any, dtype: Any = None, **_options: Any) -> None:
    y: Any = x
    if dtype is not None and dtype != x.dtype:
        y = c.step("cast", x, dtype=dtype_name(dtype))
    if dim is None:
        dim = 0 if x.dim() in (0, 1, 3) else 1
    c.emit(c.name.lstrip("_"), y, dim=dim)


def _dropout(op: str) -> Handler:
    def handler(c: Call, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False, **kw: Any) -> None:
        training = kw.get("train", training)
        if (c.out is x and not (inplace or c.inplace)) or not training:
            # The identity: a name of its own for the same bytes, so that who holds x does not read this op.
            c.out = x.view_as(x)
        # A dropout in eval mode within a net that trains never drops.
        c.emit(op, x, p=0.0 if c.r.training and not training else p, inplace=inplace or c.inplace)

    return handler


for _name, _op in (
    ("dropout", "dropout"), ("dropout1d", "dropout2d"), ("dropout2d", "dropout2d"), ("dropout3d", "dropout3d"),
    ("feature_dropout", "dropout2d"), ("alpha_dropout", "dropout"), ("feature_alpha_dropout", "dropout2d"),
):  # fmt: skip
    _HANDLERS[_name] = _dropout(_op)


@rule("leaf")
def _leaf(c: Call, tensors: Any, path: str) -> None:
    c.r.leaf_call(c, tensors, path)


# ---------------------------------------------------------------------------------- pools


def _max_pool(n: int) -> Handler:
    def handler(
        c: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> None:  # fmt: skip
        indices = return_indices or isinstance(c.out, tuple)
        c.emit(
            f"max_pool{n}d", x, kernel_size=_ints(kernel_size, n), stride=_ints(stride, n) if stride else None,
            padding=_ints(padding, n), dilation=_ints(dilation, n), ceil_mode=ceil_mode, return_indices=indices,
        )  # fmt: skip

    return handler


def _avg_pool(n: int) -> Handler:
    def handler(
        c: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> None:  # fmt: skip
        del divisor_override
        c.emit(
            f"avg_pool{n}d", x, kernel_size=_ints(kernel_size, n), stride=_ints(stride, n) if stride else None,
            padding=_ints(padding, n), ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        )  # fmt: skip

    return handler


def _adaptive(kind: str, n: int) -> Handler:
    def handler(c: Call, x: Any, output_size: Any, return_indices: bool = False) -> None:
        size = (output_size,) * n if output_size is None or isinstance(output_size, int) else tuple(output_size)
        size = tuple(None if s is None else int(s) for s in size)
        attrs: dict[str, Any] = {"output_size": size}
        if kind == "max":
            attrs["return_indices"] = return_indices or isinstance(c.out, tuple)
        c.emit(f"adaptive_{kind}_pool{n}d", x, **attrs)

    return handler


for _n in (1, 2, 3):
    _HANDLERS[f"max_pool{_n}d"] = _HANDLERS[f"max_pool{_n}d_with_indices"] = _max_pool(_n)
    _HANDLERS[f"avg_pool{_n}d"] = _avg_pool(_n)
    for _kind in ("avg", "max"):
        _HANDLERS[f"adaptive_{_kind}_pool{_n}d"] = _adaptive(_kind, _n)
    _HANDLERS[f"adaptive_max_pool{_n}d_with_indices"] = _adaptive("max", _n)
    _HANDLERS[f"_adaptive_avg_pool{_n}d"] = _adaptive("avg", _n)


# ---------------------------------------------------------------------------------- arithmetic


def _binary(op: str, scalar: Callable[[Call, Any, float], None], reverse: bool = False) -> Handler:
    def handler(c: Call, x: Any, y: Any, *_rest: Any, **_options: Any) -> None:
        if reverse:
            x, y = y, x
        if not _is_tensor(y):
            scalar(c, x, float(y))
        elif not _is_tensor(x):
            _reversed(c, op, float(x), y)
        else:
            c.emit(op, x, y, inplace=c.inplace)

    return handler


def _reversed(c: Call, op: str, number: float, x: Any) -> None:
    if op == "sub":
        c.emit("scale", x, factor=-1.0, offset=number or sys.float_info.min)
    elif op == "div":
        c.emit("scale", c.step("reciprocal", x), factor=number)
    elif op == "pow":
        c.emit("exp", x)  # of one input, and its result is what backward needs: as exp
    else:
        _HANDLERS[op](c, x, number)


def _finite(value: float, otherwise: float = 1.0) -> float:
    return value if math.isfinite(value) else otherwise


def _add_number(c: Call, x: Any, y: float) -> None:
    # A sum with 0, the first of Python's sum(), is an op as any other; scale by 1 and 0 is the product.
    c.emit("scale", x, offset=y or sys.float_info.min, inplace=c.inplace)


def _sub_number(c: Call, x: Any, y: float) -> None:
    _add_number(c, x, -y)


def _mul_number(c: Call, x: Any, y: float) -> None:
    c.emit("scale", x, factor=y, inplace=c.inplace)


def _div_number(c: Call, x: Any, y: float) -> None:
    c.emit("scale", x, factor=1.0 / y if y else math.inf, inplace=c.inplace)


def _pow_number(c: Call, x: Any, y: float) -> None:
    c.emit("pow_scalar", x, exponent=y, inplace=c.inplace)


def _bound(op: str) -> Callable[[Call, Any, float], None]:
    def handler(c: Call, x: Any, y: float) -> None:
        c.r.emit("clip", [x], {"min" if op == "maximum" else "max": y, "inplace": c.inplace}, c.out)

    return handler


for _op, _scalar in (
    ("add", _add_number), ("sub", _sub_number), ("mul", _mul_number), ("div", _div_number), ("pow", _pow_number),
    ("maximum", _bound("maximum")), ("minimum", _bound("minimum")),
):  # fmt: skip
    _HANDLERS[_op] = _HANDLERS[f"__{_op}__"] = _binary(_op, _scalar)
    _HANDLERS[f"__r{_op}__"] = _binary(_op, _scalar, reverse=True)
for _name, _op in (
    ("subtract", "sub"), ("multiply", "mul"), ("divide", "div"), ("true_divide", "div"), ("floor_divide", "div"),
    ("__truediv__", "div"), ("__floordiv__", "div"), ("remainder", "div"), ("fmod", "div"), ("__mod__", "div"),
    ("__rdiv__", "__rdiv__"), ("__rtruediv__", "__rdiv__"), ("rsub", "__rsub__"), ("fmax", "maximum"),
    ("fmin", "minimum"), ("float_power", "pow"), ("atan2", "div"), ("hypot", "div"),
):  # fmt: skip
    _HANDLERS[_name] = _HANDLERS[_op]


@rule("square")
def _square(c: Call, x: Any) -> None:
    c.emit("pow_scalar", x, exponent=2.0, inplace=c.inplace)


@rule("addcmul", "addcdiv")
def _addcmul(c: Call, x: Any, y: Any, z: Any, **_options: Any) -> None:
    c.emit("addcmul", x, y, z, inplace=c.inplace)


@rule("lerp")
def _lerp(c: Call, x: Any, y: Any, weight: Any) -> None:
    if _is_tensor(weight):
        c.emit("addcmul", x, y, weight, inplace=c.inplace)
    else:
        c.emit("add", x, y, inplace=c.inplace)


def _compare(c: Call, x: Any, *others: Any, **_options: Any) -> None:
    c.emit("compare", x, *(o for o in others if _is_tensor(o)))


for _name in (
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "isnan", "isinf",
    "isfinite", "bitwise_not", "__and__", "__or__", "__xor__", "__invert__", "bitwise_and", "bitwise_or", "__eq__",
    "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "greater", "less", "not_equal",
):  # fmt: skip
    _HANDLERS[_name] = _compare


@rule("where")
def _where(c: Call, condition: Any, *values: Any, **others: Any) -> None:
    values = (*values, *others.values())
    if len(values) != 2:
        raise c.refuse("with a condition alone reads values of a tensor")
    c.emit("where", condition, *(v for v in values if _is_tensor(v)))


@rule("masked_fill")
def _masked_fill(c: Call, x: Any, mask: Any, value: Any) -> None:
    del value
    c.emit("masked_fill", x, mask, inplace=c.inplace)


# ---------------------------------------------------------------------------------- reductions


def _reduce(op: str) -> Handler:
    def handler(c: Call, x: Any, dim: Any = None, keepdim: bool = False, *_rest: Any, **kw: Any) -> None:
        keepdim = kw.get("keepdims", keepdim)
        dim = kw.get("axis", dim)
        if isinstance(dim, bool):  # std(x, unbiased)
            dim = None
        dims = tuple(range(x.dim())) if dim is None or dim == () else dim
        dims = (dims,) if isinstance(dims, int) else tuple(dims)
        if len(dims) == x.dim() and not keepdim:
            # A number: one element along one dimension.
            c.emit("reshape", c.step(op, x, dim=dims, keepdim=True), shape=(-1,))
            return
        y: Any = x
        dtype = kw.get("dtype")
        if dtype is not None and dtype != x.dtype:
            y = c.step("cast", x, dtype=dtype_name(dtype))
        c.emit(op, y, dim=dims, keepdim=keepdim)

    return handler


for _name in ("mean", "sum", "amax", "amin", "logsumexp", "std", "var", "prod", "nansum"):
    _HANDLERS[_name] = _reduce(_name if _name != "nansum" else "sum")


@rule("std_mean", "var_mean")
def _std_mean(c: Call, x: Any, dim: Any = None, *_rest: Any, keepdim: bool = False, **_options: Any) -> None:
    if dim is None or isinstance(dim, bool):
        raise c.refuse("over all dimensions, the batch among them")
    c.emit(c.name, x, dim=(dim,) if isinstance(dim, int) else tuple(dim), keepdim=keepdim)


@rule("max", "min")
def _max(c: Call, x: Any, dim: Any = None, keepdim: bool = False) -> None:
    if _is_tensor(dim):
        _HANDLERS[f"{c.name}imum"](c, x, dim)
    elif dim is None:
        _reduce(f"a{c.name}")(c, x)
    else:
        c.emit(c.name, x, dim=dim, keepdim=keepdim)


@rule("argmax", "argmin")
def _argmax(c: Call, x: Any, dim: Any = None, keepdim: bool = False) -> None:
    if dim is None:
        raise c.refuse("over all dimensions, the batch among them")
    c.emit("argmax", x, dim=dim, keepdim=keepdim)


@rule("norm", "vector_norm", "linalg_vector_norm", "linalg_norm")
def _norm(c: Call, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, **kw: Any) -> None:
    del dtype
    p = kw.get("ord", p)
    p = 2.0 if p in (None, "fro") else float(p)
    dims = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) == x.dim() and not keepdim:
        c.emit("reshape", c.step("vector_norm", x, ord=p, dim=dims, keepdim=True), shape=(-1,))
        return
    c.emit("vector_norm", x, ord=p, dim=dims, keepdim=keepdim)


@rule("cumsum", "cumprod")
def _cumsum(c: Call, x: Any, dim: int, **_options: Any) -> None:
    c.emit("cumsum", x if c.out.dtype == x.dtype else c.step("cast", x, dtype=dtype_name(c.out.dtype)), dim=dim)


@rule("topk")
def _topk(c: Call, x: Any, k: int, dim: int = -1, *_rest: Any, **_options: Any) -> None:
    c.emit("topk", x, k=k, dim=dim)


@rule("sort")
def _sort(c: Call, x: Any, dim: int = -1, *_rest: Any, **_options: Any) -> None:
    c.emit("topk", x, k=x.shape[dim], dim=dim)


# ---------------------------------------------------------------------------------- moving data


@rule("cat", "concat", "concatenate", "hstack")
def _cat(c: Call, tensors: Any, dim: int = 0, **kw: Any) -> None:
    c.emit("concat", *(t for t in tensors if t.numel()), dim=kw.get("axis", 1 if c.name == "hstack" else dim))


@rule("stack")
def _stack(c: Call, tensors: Any, dim: int = 0) -> None:
    dim %= c.out.dim()
    c.emit("concat", *[c.step("unsqueeze", t, dim=dim) for t in tensors], dim=dim)


@rule("split", "split_with_sizes", "tensor_split", "unsafe_split", "hsplit")
def _split(c: Call, x: Any, split_size: Any = None, dim: int = 0, **kw: Any) -> None:
    del split_size, kw
    c.emit("split", x, sizes=tuple(t.shape[dim] for t in c.out), dim=dim)


@rule("chunk", "unsafe_chunk")
def _chunk(c: Call, x: Any, chunks: int, dim: int = 0) -> None:
    c.emit("chunk", x, chunks=chunks, dim=dim)


@rule("unbind", "__iter__")
def _unbind(c: Call, x: Any, dim: int = 0) -> None:
    dim %= x.dim()
    if c.r.batchy(x.shape[dim], dim):
        raise c.refuse("along the batch makes as many tensors as there are images")
    pieces = c.step("split", x, sizes=(1,) * x.shape[dim], dim=dim)
    outs = list(c.out)
    for i, t in enumerate(outs):
        if x.dim() > 1:
            c.r.emit("squeeze", [(pieces[0], i)], {"dim": dim}, t)
        else:
            c.r.emit("identity", [(pieces[0], i)], {}, t)
    if c.name == "__iter__":
        c.out = iter(outs)


@rule("narrow")
def _narrow(c: Call, x: Any, dim: int, start: int, length: int) -> None:
    c.emit("slice", x, dim=dim, start=start, stop=start + length)


@rule("slice")
def _aten_slice(c: Call, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> None:
    rest: list[Any] = [slice(None)] * (dim % x.dim())
    _getitem(c, x, (*rest, slice(start, end, step)))


@rule("select")
def _select(c: Call, x: Any, dim: int, index: int) -> None:
    rest: list[Any] = [slice(None)] * (dim % x.dim())
    _getitem(c, x, (*rest, index))


@rule("__getitem__")
def _getitem(c: Call, x: Any, index: Any) -> None:
    y, arrays, axis = _indexed(c, x, index)
    if arrays is not None:
        c.emit("gather", y, arrays, dim=axis)
        return
    if y is x:
        c.emit("identity", x)
        return
    # The last step is the one that made the result.
    c.r.finish(y, c.out)


def _indexed(c: Call, x: Any, index: Any) -> tuple[Any, Any, int]:
    """Write the slices, selections and new axes of an index as steps; return what is left for an array."""
    items = list(index) if isinstance(index, tuple) else [index]
    given = sum(1 for i in items if i is not None and i is not Ellipsis)
    if Ellipsis in [i for i in items if not _is_tensor(i)]:
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (x.dim() - given)
    dims: list[int] = []
    bounds: list[tuple[Any, Any, int]] = []
    dropped: list[int] = []
    added: list[int] = []
    array, axis = None, 0
    d = kept = joined = 0
    for item in items:
        if item is None:
            added.append(kept)
            kept += 1
            continue
        size = x.shape[d]
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            if (start, stop, step) != (0, size, 1):
                if c.r.batchy(stop, d) and stop != size:
                    raise c.refuse("cuts the batch")
                dims.append(d)
                bounds.append((start, None if c.r.batchy(stop, d) else stop, step))
            kept += 1
        elif isinstance(item, int) and not isinstance(item, bool):
            i = item % size
            if item < 0 and c.r.batchy(size, d):
                dims.append(d)
                bounds.append((item, item + 1 or None, 1))
            else:
                dims.append(d)
                bounds.append((i, i + 1, 1))
            dropped.append(d)
        elif isinstance(item, list) and array is None:
            array, axis = c.step("fill", shape=(len(item),), dtype="int64"), kept
            kept += 1
        elif _is_tensor(item) and array is not None and kept == axis + 1:
            joined += 1
        elif _is_tensor(item) and array is None:
            if str(item.dtype) in ("torch.bool", "torch.uint8"):
                raise ReadError(
                    f"{c.r.where()}: indexing by a mask depends on data; map this module to an operator with leaves="
                )
            array, axis = item, kept
            joined = 1
            kept += 1
        else:
            raise c.refuse(f"by {index!r}"[:80])
        d += 1
    y: Any = x
    if dims:
        starts, stops, steps = zip(*bounds, strict=True)
        y = c.step("slice", y, dim=tuple(dims), start=starts, stop=stops, step=steps)
    if dropped and len(dropped) < x.dim():  # a number is one element along one dimension
        y = c.step("squeeze", y, dim=tuple(dropped))
    if added:
        y = c.step("unsqueeze", y, dim=tuple(added))
    if joined > 1:
        # One entry for each group of positions.
        y = c.step("flatten", y, start_dim=axis, end_dim=axis + joined - 1)
    return y, array, axis


@rule("__setitem__")
def _setitem(c: Call, x: Any, index: Any, value: Any) -> None:
    del index
    # Part of x is overwritten: x is another value from here on.
    c.out = x
    c.emit("assign", x, *((value,) if _is_tensor(value) else ()), inplace=True)
    c.out = None


@rule("copy_")
def _copy(c: Call, x: Any, value: Any, *_rest: Any, **_options: Any) -> None:
    c.emit("assign", x, value, inplace=True)


@rule("gather", "take_along_dim")
def _gather(c: Call, x: Any, dim: Any, index: Any, **_options: Any) -> None:
    if tuple(index.shape[:dim] + index.shape[dim + 1 :]) != tuple(x.shape[:dim] + x.shape[dim + 1 :]):
        raise c.refuse("with an index of another shape")
    c.emit("gather_elements", x, index, dim=dim)


@rule("index_select")
def _index_select(c: Call, x: Any, dim: int, index: Any) -> None:
    c.emit("gather", x, index, dim=dim)


@rule("index")
def _index(c: Call, x: Any, indices: Any) -> None:
    _getitem(c, x, tuple(slice(None) if i is None else i for i in indices))


@rule("F.pad", "pad")
def _pad(c: Call, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> None:
    del value
    pads = tuple(int(p) for p in pad)
    if c.same(x):
        return
    if not any(pads) and mode == "constant":
        c.emit("pad", x, pad=pads)
        return
    c.emit("pad", x, pad=pads, mode=mode)


@rule("constant_pad_nd")
def _constant_pad(c: Call, x: Any, pad: Any, value: Any = 0) -> None:
    _pad(c, x, pad, "constant", value)


def _pad_mode(mode: str) -> Handler:
    return lambda c, x, pad: _pad(c, x, pad, mode)


for _n in (1, 2, 3):
    _HANDLERS[f"reflection_pad{_n}d"] = _pad_mode("reflect")
    _HANDLERS[f"replication_pad{_n}d"] = _pad_mode("replicate")


def _target(r: Recorder, before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a reshape for every batch: sizes that follow the batch are kept (0) or the rest (-1)."""
    out: list[int] = []
    for i, d in enumerate(after):
        if not r.batchy(d, i):
            out.append(d)
        elif i < len(before) and before[i] == d:
            out.append(0)
        elif -1 not in out:
            out.append(-1)
        else:
            raise ShapeError(f"{r.where()}: reshape of {r.scaled(tuple(before))} to {r.scaled(tuple(after))} puts the "
                             "batch into two dimensions")  # fmt: skip
    return tuple(out)


def _reshaped(c: Call, x: Any, op: str = "reshape", **attrs: Any) -> None:
    """Write a change of shape: a view where the bytes are shared, else a copy first."""
    if c.same(x):
        return
    y: Any = x if c.shares(x) else c.step("contiguous", x)
    if op == "reshape":
        after = tuple(c.out.shape) or (1,)
        before = tuple(x.shape) or (1,)
        if len(after) > 1 and after[0] == 1 and c.r.batchy(before[0]):
            # A literal in front would be taken for the batch.
            y = c.step("reshape", y, shape=_target(c.r, before, after[1:]))
            c.emit("unsqueeze", y, dim=0)
            return
        attrs = {"shape": _target(c.r, before, after)}
    c.emit(op, y, **attrs)


@rule("reshape", "view", "view_as", "reshape_as", "unflatten", "_unsafe_view", "ravel", "_reshape_alias")
def _reshape(c: Call, x: Any, *args: Any, **_options: Any) -> None:
    if args and not isinstance(args[0], (int, tuple, list)) and not _is_tensor(args[0]):
        raise c.refuse(f"as {args[0]}")  # view(dtype)
    _reshaped(c, x)


@rule("flatten")
def _flatten(c: Call, x: Any, start_dim: int = 0, end_dim: int = -1) -> None:
    _reshaped(c, x, "flatten", start_dim=start_dim, end_dim=end_dim)


@rule("squeeze")
def _squeeze(c: Call, x: Any, *dims: Any, **kw: Any) -> None:
    if "dim" in kw:
        dims = (kw["dim"],)
    axes = _list(dims) if dims else tuple(range(x.dim()))
    axes = tuple(d % x.dim() for d in axes)
    axes = tuple(d for d in axes if x.shape[d] == 1)
    axes = axes[1:] if len(axes) == x.dim() else axes  # a number is one element along one dimension
    if not c.same(x):
        c.emit("squeeze", x, dim=axes) if axes else c.emit("identity", x)


@rule("unsqueeze")
def _unsqueeze(c: Call, x: Any, dim: int) -> None:
    c.emit("unsqueeze", x, dim=dim % (x.dim() + 1))


@rule("permute")
def _permute(c: Call, x: Any, *dims: Any, **kw: Any) -> None:
    c.emit("permute", x, dims=_list((kw["dims"],) if "dims" in kw else dims))


@rule("transpose", "swapaxes", "swapdims", "transpose_copy")
def _transpose(c: Call, x: Any, dim0: int, dim1: int) -> None:
    c.emit("transpose", x, dim0=dim0, dim1=dim1)


@rule("t", "t_all", "adjoint", "mT")
def _t(c: Call, x: Any, *_owner: Any) -> None:
    if x.dim() < 2:
        c.emit("identity", x)
    elif x.dim() == 2 or c.name in ("mT", "adjoint", "mH"):
        c.emit("transpose", x, dim0=-2, dim1=-1)
    else:
        c.emit("permute", x, dims=tuple(reversed(range(x.dim()))))


@rule("movedim", "moveaxis")
def _movedim(c: Call, x: Any, source: Any, destination: Any) -> None:
    rank = x.dim()
    source, destination = ([v] if isinstance(v, int) else list(v) for v in (source, destination))
    order = [d for d in range(rank) if d not in {s % rank for s in source}]
    for to, s in sorted(zip((d % rank for d in destination), (s % rank for s in source), strict=True)):
        order.insert(to, s)
    c.emit("permute", x, dims=tuple(order))


def _rows(c: Call, rank: int) -> Ref:
    """Return a view of the network's input that has its batch as first dimension, and else ones."""
    source = c.r.records[0]
    dims = range(1, len(source.shapes[0] or ()))
    y = c.r.emit("slice", [(source, 0)], {"dim": tuple(dims), "start": 0, "stop": 1})
    return c.r.emit("reshape", [y], {"shape": (0, *(1,) * (rank - 1))})


@rule("meshgrid")
def _meshgrid(c: Call, *tensors: Any, **_options: Any) -> None:
    tensors = tuple(tensors[0]) if isinstance(tensors[0], (list, tuple)) else tensors
    for t, out in zip(tensors, c.out, strict=True):
        axis = next((i for i, n in enumerate(out.stride()) if n), 0)
        spread = [1] * out.dim()
        spread[axis] = out.shape[axis]
        y = c.step("reshape", t, shape=tuple(spread))
        c.r.emit("expand", [y], {"shape": tuple(out.shape)}, out)


@rule("expand", "expand_as", "broadcast_to")
def _expand(c: Call, x: Any, *sizes: Any, **_options: Any) -> None:
    if c.same(x):
        return
    if len(sizes) == 1 and _is_tensor(sizes[0]):
        c.emit("expand_as", x, sizes[0])
        return
    lead = c.out.dim() - x.dim()
    target = []
    for i, d in enumerate(c.out.shape):
        kept = i >= lead and x.shape[i - lead] == d
        if not kept and c.r.batchy(d, i):
            if i:
                raise c.refuse("repeats by the batch in a dimension that is not the first")
            sizes = tuple(0 if k >= lead and x.shape[k - lead] == n else n for k, n in enumerate(c.out.shape))[1:]
            y: Any = x
            if any(sizes):
                y = c.step("expand", x, shape=(*(0,) * (lead == 0), *sizes))
            c.emit("expand_as", y, _rows(c, c.out.dim()))
            return
        target.append(0 if kept else d)
    c.emit("expand", x, shape=tuple(target))


@rule("repeat", "tile")
def _repeat(c: Call, x: Any, *repeats: Any, **_options: Any) -> None:
    times = _list(repeats)
    if c.r.recorded > 1 and any(n % c.r.recorded == 0 for n in times):
        if times[0] != c.r.recorded or any(n != 1 for n in times[1:]):
            raise c.refuse("repeats by the batch and more")
        c.emit("contiguous", c.step("expand_as", x, _rows(c, c.out.dim())))
        return
    c.emit("repeat", x, repeats=times)


@rule("repeat_interleave")
def _repeat_interleave(c: Call, x: Any, repeats: Any, dim: Any = None, **_options: Any) -> None:
    if _is_tensor(repeats) or dim is None:
        raise c.refuse("by counts in a tensor, or over all dimensions")
    times = [1] * x.dim()
    times[dim] = int(repeats)
    c.emit("repeat", x, repeats=tuple(times))


@rule("roll", "flip", "fliplr", "flipud", "rot90", "tril", "triu")
def _roll(c: Call, x: Any, *_args: Any, **_options: Any) -> None:
    c.emit("roll", x)


@rule("contiguous")
def _contiguous(c: Call, x: Any, **_options: Any) -> None:
    if not c.same(x):
        c.emit("contiguous", x)


@rule("clone")
def _clone(c: Call, x: Any, **_options: Any) -> None:
    c.emit("contiguous", x)


@rule("detach", "detach_", "alias", "lift_fresh", "lift_fresh_copy", "view_copy")
def _detach(c: Call, x: Any, *_owner: Any) -> None:
    if not c.same(x):
        c.emit("detach" if c.name in ("detach", "data") else "identity", x)


@rule("to", "type", "type_as", "_to_copy", "float", "half", "double", "bfloat16", "int", "long", "bool", "cpu", "cuda")
def _to(c: Call, x: Any, *_args: Any, **_options: Any) -> None:
    if c.same(x) or not _is_tensor(c.out):
        return
    if c.out.dtype == x.dtype:
        c.emit("contiguous", x)
    else:
        c.emit("cast", x, dtype=dtype_name(c.out.dtype))


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(c: Call, x: Any, groups: int) -> None:
    c.emit("channel_shuffle", x, groups=groups)


@rule("pixel_shuffle")
def _pixel_shuffle(c: Call, x: Any, upscale_factor: int) -> None:
    c.emit("pixel_shuffle", x, upscale_factor=upscale_factor)


@rule("pixel_unshuffle")
def _pixel_unshuffle(c: Call, x: Any, downscale_factor: int) -> None:
    c.emit("pixel_unshuffle", x, downscale_factor=downscale_factor)


@rule("F.interpolate")
def _interpolate(
    c: Call, x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_rest: Any, **_options: Any
) -> None:
    mode = {"nearest-exact": "nearest"}.get(mode, mode)
    if mode == "area":
        _adaptive("avg", x.dim() - 2)(c, x, tuple(c.out.shape[2:]))
        return
    factors: Any = None
    if size is None:
        factors = scale_factor if isinstance(scale_factor, (int, float)) else tuple(scale_factor)
    c.emit("interpolate", x, size=None if size is None else tuple(c.out.shape[2:]), scale_factor=factors, mode=mode)


def _upsample(mode: str) -> Handler:
    def handler(c: Call, x: Any, output_size: Any = None, *rest: Any, **kw: Any) -> None:
        scales = kw.get("scale_factors", rest[-1] if rest and isinstance(rest[-1], (list, tuple)) else None)
        if output_size is None and scales is not None:
            c.emit("interpolate", x, scale_factor=tuple(scales), mode=mode)
        else:
            c.emit("interpolate", x, size=tuple(c.out.shape[2:]), mode=mode)

    return handler


for _name, _mode in (
    ("nearest1d", "nearest"), ("nearest2d", "nearest"), ("nearest3d", "nearest"), ("linear1d", "linear"),
    ("bilinear2d", "bilinear"), ("trilinear3d", "trilinear"), ("bicubic2d", "bicubic"),
    ("_nearest_exact2d", "nearest"),
):  # fmt: skip
    _HANDLERS[f"upsample_{_name}"] = _HANDLERS[f"_upsample_{_name}_aa"] = _upsample(_mode)


@rule("grid_sample", "grid_sampler", "grid_sampler_2d")
def _grid_sample(c: Call, x: Any, grid: Any, *_rest: Any, **_options: Any) -> None:
    c.emit("grid_sample", x, grid)


@rule("unfold", "im2col")
def _unfold(c: Call, x: Any, *args: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1, **kw: Any) -> None:
    if c.shares(x):  # Tensor.unfold
        names = dict(zip(("dimension", "size", "step"), args, strict=False)) | kw
        c.emit("unfold_dim", x, dim=names["dimension"], size=names["size"], step=names["step"])
        return
    values = [kw.get("kernel_size"), dilation, padding, stride]
    values[: len(args)] = args if "kernel_size" not in kw else values[: len(args)]
    k, d, p, s = (_ints(v, 2) for v in values)
    c.emit("unfold", x, kernel_size=k, dilation=d, padding=p, stride=s)


@rule("fold", "col2im")
def _fold(
    c: Call, x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> None:
    del dilation, padding, stride
    c.emit("fold", x, output_size=_ints(output_size, 2), kernel_size=_ints(kernel_size, 2))


@rule("fill")
def _fill(c: Call, *_args: Any, **_options: Any) -> None:
    if not c.inplace:
        made(c.r, c.out)


@rule(
    "zero_", "fill_", "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "trunc_normal_", "set_", "resize_"
)
def _refill(c: Call, *_args: Any, **_options: Any) -> None:
    """Write nothing: the bytes are there already, and no input is read."""


def made(r: Recorder, out: Any) -> None:
    """Write down a tensor that is made from nothing; one whose rows follow the batch reads how many from the input."""
    shape: Shape = tuple(out.shape) or (1,)
    follows = [i for i, d in enumerate(shape) if r.batchy(d, i)]
    if follows and (follows != [0] or shape[0] != r.recorded):
        raise UnknownOperatorError(
            f"{r.where()}: a tensor of shape {r.scaled(shape)} is made whose sizes follow the batch otherwise than by "
            "its first dimension; map the module to an operator with leaves="
        )
    like = [(r.records[0], 0)] if follows else []
    r.emit("fill", like, {"shape": r.scaled(shape), "dtype": dtype_name(out.dtype)}, out)
