"""What each ONNX operator becomes: one small function per operator, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from cnnlive._types import Shape, dtype_name
from cnnlive.graph import Tensor
from cnnlive.io._onnx_fold import Constant

if TYPE_CHECKING:
    from cnnlive.io.onnx import Node, _Reader

__all__ = ["RULES", "Weights"]

Value: TypeAlias = Tensor | Constant
Args: TypeAlias = Sequence[Value | None]
# By role: the constants that an op holds, each in the shape in which the op holds it.
Weights: TypeAlias = Mapping[str, Sequence[tuple[Constant, Shape]]]
Result: TypeAlias = Tensor | Sequence[Tensor]
Rule: TypeAlias = Callable[["_Reader", "Node", Args], Result]


# ---------------------------------------------------------------------------------- reading the arguments


def _x(r: _Reader, node: Node, args: Args, i: int = 0) -> Tensor:
    """Return input `i` as a tensor; a constant becomes a parameter."""
    if len(args) <= i or args[i] is None:
        node.fail(f"input {i} is missing")
    value = args[i]
    assert value is not None
    return r.operand(value)


def _weight(node: Node, args: Args, i: int, what: str) -> Constant:
    """Return input `i`, which has to be stored in the file."""
    value = args[i] if len(args) > i else None
    if value is None:
        node.fail(f"the {what} is missing")
    if isinstance(value, Tensor):
        node.fail(f"the {what} {node.inputs[i]!r} is computed while the network runs; allowed: a constant")
    return value


def _maybe(node: Node, args: Args, i: int, what: str) -> Constant | None:
    """Return input `i`, stored in the file, or None."""
    return _weight(node, args, i, what) if len(args) > i and args[i] is not None else None


def _numbers(node: Node, args: Args, i: int, what: str) -> list[Any] | None:
    """Return the elements of the constant input `i`, or None if it is not given."""
    constant = _maybe(node, args, i, what)
    if constant is None:
        return None
    known = constant.known()
    if known is None:
        node.fail(f"the {what} {node.inputs[i]!r} has {constant.size} elements or is stored outside the file")
    return list(known.reshape(-1).tolist())


def _ints(node: Node, args: Args, i: int, key: str) -> list[int] | None:
    """Return integers that older opsets give as the attribute `key` and newer ones as input `i`."""
    given = _numbers(node, args, i, key)
    if given is None and key in node.attrs:
        given = list(node.attrs[key])
    return None if given is None else [int(v) for v in given]


def _axis(node: Node, rank: int, default: int) -> int:
    axis = int(node.attrs.get("axis", default))
    if not -rank <= axis < rank:
        node.fail(f"axis={axis} is outside the {rank} dimensions of the input")
    return axis % rank


def _spatial_rank(node: Node, x: Tensor) -> int:
    n = len(x.shape) - 2
    if not 1 <= n <= 3:
        node.fail(f"the input has shape {x.shape}; allowed: batch, channels and 1 to 3 spatial dimensions")
    return n


def _per_dimension(node: Node, key: str, n: int, default: int) -> list[int]:
    values = [int(v) for v in node.attrs.get(key, [default] * n)]
    if len(values) != n:
        node.fail(f"{key} has {len(values)} entries; allowed: {n}")
    return values


def _pads(node: Node, n: int) -> list[tuple[int, int]]:
    values = [int(v) for v in node.attrs.get("pads", [0] * 2 * n)]
    if len(values) != 2 * n:
        node.fail(f"pads has {len(values)} entries; allowed: {2 * n}")
    return list(zip(values[:n], values[n:], strict=True))


def _auto_pad(node: Node, n: int) -> Any:
    """Return padding as cnnlive's attribute."""
    mode = node.text("auto_pad", "NOTSET")
    words = {"NOTSET": None, "VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
    if mode not in words:
        node.fail(f"auto_pad={mode!r}; allowed: {', '.join(words)}")
    return words[mode] or _pads(node, n)


# ---------------------------------------------------------------------------------- convolutions and matrices


def _kernel(node: Node, w: Constant, n: int) -> Shape:
    if len(w.shape) != n + 2:
        node.fail(f"the weight {w.storage!r} has shape {w.shape}; allowed: {n + 2} dimensions for this input")
    kernel = w.shape[2:]
    if tuple(node.attrs.get("kernel_shape", kernel)) != kernel:
        node.fail(f"kernel_shape={node.attrs['kernel_shape']} differs from the weight {w.storage!r} of {w.shape}")
    return kernel


def _with_bias(weight: tuple[Constant, Shape], bias: Constant | None) -> Weights:
    groups: dict[str, Sequence[tuple[Constant, Shape]]] = {"weight": [weight]}
    if bias is not None:
        groups["bias"] = [(bias, (bias.size,))]
    return groups


def _conv(r: _Reader, node: Node, args: Args) -> Result:
    x, w, b = _x(r, node, args), _weight(node, args, 1, "weight"), _maybe(node, args, 2, "bias")
    n = _spatial_rank(node, x)
    kernel = _kernel(node, w, n)
    return r.emit(
        node, f"conv{n}d", x, weights=_with_bias((w, w.shape), b), out_channels=w.shape[0],
        kernel_size=kernel, stride=_per_dimension(node, "strides", n, 1), padding=_auto_pad(node, n),
        dilation=_per_dimension(node, "dilations", n, 1), groups=int(node.attrs.get("group", 1)),
        bias=b is not None,
    )  # fmt: skip


def _conv_transpose(r: _Reader, node: Node, args: Args) -> Result:
    x, w, b = _x(r, node, args), _weight(node, args, 1, "weight"), _maybe(node, args, 2, "bias")
    n = _spatial_rank(node, x)
    kernel, groups = _kernel(node, w, n), int(node.attrs.get("group", 1))
    stride, dilation = _per_dimension(node, "strides", n, 1), _per_dimension(node, "dilations", n, 1)
    extra = _per_dimension(node, "output_padding", n, 0)
    pads = _auto_pad(node, n)
    if "output_shape" in node.attrs:
        target: list[int] | None = [int(v) for v in node.attrs["output_shape"]][-n:]
    else:
        target = [size * s for size, s in zip(x.shape[2:], stride, strict=True)] if isinstance(pads, str) else None
        target = None if pads == "valid" else target
    if target is None:
        pairs = [(0, 0)] * n if isinstance(pads, str) else pads
    else:
        pairs = []
        for i in range(n):
            full = stride[i] * (x.shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilation[i] + 1
            total = full - target[i]
            # A size beyond what the kernel reaches is padding below zero, behind the input.
            small, large = total // 2, total - total // 2
            pairs.append((0, total) if total < 0 else (small, large) if pads == "same_upper" else (large, small))
    return r.emit(
        node, f"conv_transpose{n}d", x, weights=_with_bias((w, w.shape), b),
        out_channels=w.shape[1] * groups, kernel_size=kernel, stride=stride, padding=pairs,
        output_padding=extra, groups=groups, dilation=dilation, bias=b is not None,
    )  # fmt: skip


def _gemm(r: _Reader, node: Node, args: Args) -> Result:
    b = args[1] if len(args) > 1 else None
    c = args[2] if len(args) > 2 else None
    a = _x(r, node, args)
    if len(a.shape) != 2:
        node.fail(f"the first input has shape {a.shape}; allowed: 2 dimensions")
    if node.attrs.get("transA", 0):
        (a,) = r.emit(node, "transpose", a, dim0=0, dim1=1)
    if isinstance(b, Constant):
        if len(b.shape) != 2:
            node.fail(f"the weight {b.storage!r} has shape {b.shape}; allowed: 2 dimensions")
        out, features = b.shape if node.attrs.get("transB", 0) else b.shape[::-1]
        bias = c if isinstance(c, Constant) and c.size == out and c.shape in ((out,), (1, out)) else None
        (y,) = r.emit(node, "linear", a, weights=_with_bias((b, (out, features)), bias), out_features=out,
                      bias=bias is not None)  # fmt: skip
        c = None if bias is not None else c
    else:
        other = _x(r, node, args, 1)
        if node.attrs.get("transB", 0):
            (other,) = r.emit(node, "transpose", other, dim0=0, dim1=1)
        (y,) = r.emit(node, "matmul", a, other)
    return y if c is None else r.emit(node, "add", y, r.operand(c))


def _matmul(r: _Reader, node: Node, args: Args) -> Result:
    b = args[1] if len(args) > 1 else None
    if isinstance(b, Constant) and len(b.shape) == 2:
        weights = {"weight": [(b, b.shape[::-1])]}
        return r.emit(node, "linear", _x(r, node, args), weights=weights, out_features=b.shape[1], bias=False)
    return r.emit(node, "matmul", _x(r, node, args), _x(r, node, args, 1))


# ---------------------------------------------------------------------------------- normalisation


def _affine(scale: Constant, bias: Constant | None) -> dict[str, Sequence[tuple[Constant, Shape]]]:
    groups: dict[str, Sequence[tuple[Constant, Shape]]] = {"weight": [(scale, scale.shape)]}
    if bias is not None:
        groups["bias"] = [(bias, bias.shape)]
    return groups


def _batch_norm(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    if not node.attrs.get("spatial", 1):
        node.fail("spatial=0; allowed: statistics per channel")
    if node.attrs.get("training_mode", 0):
        node.fail("training_mode=1; allowed: a network exported for inference")
    scale, bias, mean, var = (
        _weight(node, args, 1 + i, w) for i, w in enumerate(("scale", "bias", "mean", "variance"))
    )
    groups = _affine(scale, bias) | {"buffer": [(mean, mean.shape), (var, var.shape)]}
    n = 1 if len(x.shape) == 2 else _spatial_rank(node, x)
    eps = node.attrs.get("epsilon", 1e-5)
    return r.emit(node, f"batch_norm{n}d", x, weights=groups, eps=eps, affine=True, track_running_stats=True)


def _instance_norm(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    groups = _affine(_weight(node, args, 1, "scale"), _weight(node, args, 2, "bias"))
    return r.emit(node, f"instance_norm{_spatial_rank(node, x)}d", x, weights=groups,
                  eps=node.attrs.get("epsilon", 1e-5), affine=True)  # fmt: skip


def _layer_norm(r: _Reader, node: Node, args: Args) -> Result:
    x, bias = _x(r, node, args), _maybe(node, args, 2, "bias")
    axis = _axis(node, len(x.shape), -1)
    return r.emit(
        node, "layer_norm", x, weights=_affine(_weight(node, args, 1, "scale"), bias),
        normalized_shape=x.shape[axis:], eps=node.attrs.get("epsilon", 1e-5), elementwise_affine=True,
        bias=bias is not None,
    )  # fmt: skip


def _group_norm(r: _Reader, node: Node, args: Args) -> Result:
    x, scale, bias = _x(r, node, args), _weight(node, args, 1, "scale"), _weight(node, args, 2, "bias")
    groups = int(node.attrs["num_groups"])
    eps = node.attrs.get("epsilon", 1e-5)
    if scale.size == bias.size == groups != x.shape[1]:  # opset 18: a scale per group, not per channel
        result = r.emit(node, "group_norm", x, num_groups=groups, eps=eps, affine=False)
        r.hold(scale)
        r.hold(bias)
        return result
    return r.emit(node, "group_norm", x, weights=_affine(scale, bias), num_groups=groups, eps=eps, affine=True)


def _lrn(r: _Reader, node: Node, args: Args) -> Result:
    return r.emit(node, "local_response_norm", _x(r, node, args), size=int(node.attrs["size"]),
                  alpha=node.attrs.get("alpha", 1e-4), beta=node.attrs.get("beta", 0.75),
                  k=node.attrs.get("bias", 1.0))  # fmt: skip


# ---------------------------------------------------------------------------------- activations


def _unary(op: str, **attributes: str) -> Rule:
    """Make the rule of an operator with one input; `attributes` names ONNX's attribute for each of ours."""

    def rule(r: _Reader, node: Node, args: Args) -> Result:
        attrs = {ours: node.attrs[theirs] for ours, theirs in attributes.items() if theirs in node.attrs}
        return r.emit(node, op, _x(r, node, args), **attrs)

    return rule


def _gelu(r: _Reader, node: Node, args: Args) -> Result:
    return r.emit(node, "gelu", _x(r, node, args), approximate=node.text("approximate", "none"))


def _limit(node: Node, args: Args, i: int, key: str) -> float | None:
    if node.opset < 11:
        value = node.attrs.get(key)
    else:
        given = _numbers(node, args, i, key)
        value = given[0] if given else None
    # Before opset 11 the largest float stands for "no limit".
    return None if value is None or abs(value) > 3.4e38 else float(value)


def _clip(r: _Reader, node: Node, args: Args) -> Result:
    return _clipped(r, node, _x(r, node, args), _limit(node, args, 1, "min"), _limit(node, args, 2, "max"))


def _clipped(r: _Reader, node: Node, x: Tensor, least: float | None, most: float | None) -> Result:
    if least == 0 and most in (None, 6):
        return r.emit(node, "relu" if most is None else "relu6", x)
    return r.emit(node, "clip", x, min=least, max=most)


def _prelu(r: _Reader, node: Node, args: Args) -> Result:
    x, slope = _x(r, node, args), args[1]
    if isinstance(slope, Constant) and len(x.shape) > 1:
        channels = x.shape[1]
        per_channel = slope.shape[-(len(x.shape) - 1) :] == (channels, *[1] * (len(x.shape) - 2))
        if slope.size == 1 or (slope.size == channels and per_channel):
            weights = {"weight": [(slope, (slope.size,))]}
            return r.emit(node, "prelu", x, weights=weights, num_parameters=slope.size)
    return r.emit(node, "mul", x, _x(r, node, args, 1))  # as many bytes; both multiply by a stored tensor


def _softmax(op: str) -> Rule:
    def rule(r: _Reader, node: Node, args: Args) -> Result:
        x = _x(r, node, args)
        # Before opset 13 everything from the axis on is one dimension; no byte depends on that.
        return r.emit(node, op, x, dim=_axis(node, len(x.shape), 1 if node.opset < 13 else -1))

    return rule


def _dropout(r: _Reader, node: Node, args: Args) -> Result:
    ratio = _numbers(node, args, 1, "ratio") or [node.attrs.get("ratio", 0.5)]
    return r.emit(node, "dropout", _x(r, node, args), p=ratio[0])


# ---------------------------------------------------------------------------------- pools


def _pool_window(node: Node, x: Tensor, n: int) -> dict[str, Any]:
    """Return kernel, stride, padding, dilation and rounding of a pool as cnnlive's attributes."""
    kernel, stride = _per_dimension(node, "kernel_shape", n, 0), _per_dimension(node, "strides", n, 1)
    dilation, padding = _per_dimension(node, "dilations", n, 1), _auto_pad(node, n)
    ceil = bool(node.attrs.get("ceil_mode", 0)) and not isinstance(padding, str)
    if ceil and node.opset < 22 and min(*kernel, *stride) > 0:
        # There a last window may lie in the padding alone, which opset 22 and ceil_mode here rule out;
        # padding up to that window gives it without ceil_mode.
        for i, (before, after) in enumerate(padding):
            span = x.shape[2 + i] + before + after - dilation[i] * (kernel[i] - 1) - 1
            padding[i] = (before, after + (-span % stride[i] if span >= 0 else 0))
        ceil = False
    return {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil,
    }


def _max_pool(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    n = _spatial_rank(node, x)
    indices = len(node.outputs) > 1 and bool(node.outputs[1])
    return r.emit(node, f"max_pool{n}d", x, **_pool_window(node, x, n), return_indices=indices)


def _average_pool(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    n = _spatial_rank(node, x)
    window = _pool_window(node, x, n)
    pairs = zip(window["kernel_size"], window.pop("dilation"), strict=True)
    window["kernel_size"] = [d * (k - 1) + 1 for k, d in pairs]
    counted = bool(node.attrs.get("count_include_pad", 0))
    return r.emit(node, f"avg_pool{n}d", x, **window, count_include_pad=counted)


def _global_pool(kind: str) -> Rule:
    def rule(r: _Reader, node: Node, args: Args) -> Result:
        x = _x(r, node, args)
        return r.emit(node, f"adaptive_{kind}_pool{_spatial_rank(node, x)}d", x, output_size=1)

    return rule


# ---------------------------------------------------------------------------------- arithmetic


def _number(value: Value | None, rank: int) -> float | None:
    """Return a number written into the graph; a stored weight of one element stays a weight."""
    if not isinstance(value, Constant) or value.trainable or len(value.shape) > rank:
        return None
    return value.scalar()


def _binary(op: str) -> Rule:
    def rule(r: _Reader, node: Node, args: Args) -> Result:
        a, b = args
        if isinstance(a, Tensor):
            number = _number(b, len(a.shape))
            if number is not None and op == "add":
                return r.emit(node, "scale", a, offset=number)
            if number is not None and op == "sub":
                return r.emit(node, "scale", a, offset=-number)
            if number is not None and op == "mul":
                return r.emit(node, "scale", a, factor=number)
            if number and op == "div":
                return r.emit(node, "scale", a, factor=1 / number)
        elif isinstance(b, Tensor):
            number = _number(a, len(b.shape))
            if number is not None and op in ("add", "sub"):
                return r.emit(node, "scale", b, offset=number, factor=1 if op == "add" else -1)
            if number is not None and op == "mul":
                return r.emit(node, "scale", b, factor=number)
        return r.emit(node, op, _x(r, node, args), _x(r, node, args, 1))

    return rule


def _extreme(op: str) -> Rule:
    """Make the rule of Min and Max, which take any number of tensors."""

    def rule(r: _Reader, node: Node, args: Args) -> Result:
        tensors = [a for a in args if isinstance(a, Tensor)]
        numbers = [_number(a, len(tensors[0].shape)) for a in args if isinstance(a, Constant)]
        if len(tensors) == len(numbers) == 1 and numbers[0] is not None:
            least, most = (numbers[0], None) if op == "maximum" else (None, numbers[0])
            return _clipped(r, node, tensors[0], least, most)
        return _chain(r, node, args, op)

    return rule


def _chain(r: _Reader, node: Node, args: Args, op: str) -> Tensor:
    """Combine any number of tensors two by two, in the bytes of the first result where it fits."""
    result = _x(r, node, args)
    if len(args) == 1:
        return r.emit(node, "identity", result)[0]
    for i in range(1, len(args)):
        other = _x(r, node, args, i)
        fits = i > 1 and np.broadcast_shapes(result.shape, other.shape) == result.shape
        (result,) = r.emit(node, op, result, other, inplace=fits)
    return result


def _sum(r: _Reader, node: Node, args: Args) -> Tensor:
    if len(args) <= 2:
        return _chain(r, node, args, "add")
    return r.emit(node, "add_n", *(_x(r, node, args, i) for i in range(len(args))))[0]


def _mean(r: _Reader, node: Node, args: Args) -> Result:
    total = _sum(r, node, args)
    if len(args) == 1:
        return total
    return r.emit(node, "scale", total, factor=1 / len(args), inplace=True)


# ---------------------------------------------------------------------------------- moving data


def _concat(r: _Reader, node: Node, args: Args) -> Result:
    tensors = [_x(r, node, args, i) for i in range(len(args))]
    return r.emit(node, "concat", *tensors, dim=int(node.attrs["axis"]))


def _split(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    axis = _axis(node, len(x.shape), 0)
    sizes = _ints(node, args, 1, "split") or node.equal_parts(x.shape[axis])
    if len(sizes) != len(node.outputs):
        node.fail(f"{len(sizes)} parts for {len(node.outputs)} outputs")
    return r.emit(node, "split", x, sizes=sizes, dim=axis)


def _slice(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    starts, ends = _ints(node, args, 1, "starts"), _ints(node, args, 2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        node.fail("starts and ends have to be given, with as many entries each")
    if not starts:
        return r.emit(node, "identity", x)
    axes = _ints(node, args, 3, "axes") or list(range(len(starts)))
    return r.emit(node, "slice", x, dim=axes, start=starts, stop=ends,
                  step=_ints(node, args, 4, "steps") or [1] * len(starts))  # fmt: skip


def _pad(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    rank = len(x.shape)
    pads = _ints(node, args, 1, "pads") or []
    axes = [a % rank for a in _ints(node, args, 3, "axes") or range(rank)]
    if len(pads) != 2 * len(axes):
        node.fail(f"pads has {len(pads)} entries; allowed: {2 * len(axes)}")
    pairs = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pairs[axis] = (pads[i], pads[len(axes) + i])
    while len(pairs) > 1 and pairs[0] == (0, 0):
        pairs.pop(0)
    mode = node.text("mode", "constant")
    return r.emit(node, "pad", x, pad=[p for pair in reversed(pairs) for p in pair],
                  mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode))  # fmt: skip


def _reshaped(r: _Reader, node: Node, x: Tensor, target: Sequence[int]) -> Result:
    """Add a reshape whose first dimension scales with the batch if it can."""
    batch = r.batch
    first = target[0] if target else 0
    if first > 0 and first != x.shape[0] and first % batch == 0:
        known = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
        if -1 in known:
            i = known.index(-1)
            known[i] = math.prod(x.shape) // max(-math.prod(known), 1)
        if math.prod(known) == math.prod(x.shape):
            target = [-1, *known[1:]]
    return r.emit(node, "reshape", x, shape=target)


def _reshape(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    target = _ints(node, args, 1, "shape")
    if target is None:
        node.fail("the shape is missing")
    if node.attrs.get("allowzero", 0) and 0 in target:
        node.fail(f"the shape {target} has no elements, as allowzero=1 says")
    return _reshaped(r, node, x, target)


def _flatten(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    rank = len(x.shape)
    axis = int(node.attrs.get("axis", 1))
    if not -rank <= axis <= rank:
        node.fail(f"axis={axis} is outside the {rank} dimensions of the input")
    axis += rank if axis < 0 else 0
    if axis == 1 and rank > 1:
        return r.emit(node, "flatten", x, start_dim=1)
    return _reshaped(r, node, x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _squeeze(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    axes = _ints(node, args, 1, "axes")
    if axes is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1]
    for a in axes:
        if x.shape[a] != 1:
            node.fail(f"dimension {a} of {x.shape} is not 1 and cannot be squeezed")
    return r.emit(node, "squeeze", x, dim=axes)


def _unsqueeze(r: _Reader, node: Node, args: Args) -> Result:
    return r.emit(node, "unsqueeze", _x(r, node, args), dim=_ints(node, args, 1, "axes") or [])


def _transpose(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    return r.emit(node, "permute", x, dims=node.attrs.get("perm", list(range(len(x.shape)))[::-1]))


def _expand(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    target = _ints(node, args, 1, "shape") or []
    target = [1] * (len(x.shape) - len(target)) + target
    lead = len(target) - len(x.shape)
    return r.emit(node, "expand", x, shape=[0 if i >= lead and d == 1 else d for i, d in enumerate(target)])


def _tile(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    repeats = _ints(node, args, 1, "repeats") or []
    if len(repeats) != len(x.shape) or min(repeats) < 1 or max(repeats) > 1024:
        node.fail(f"repeats={repeats} for an input of shape {x.shape}; allowed: 1 to 1024 for each dimension")
    dims = [i for i, n in enumerate(repeats) if n > 1]
    if not dims:
        return r.emit(node, "identity", x)
    if len(dims) > 1:
        node.fail(f"repeats={repeats}; allowed: one dimension at a time")
    return r.emit(node, "concat", *[x] * repeats[dims[0]], dim=dims[0])


def _gather(r: _Reader, node: Node, args: Args) -> Result:
    x, index = _x(r, node, args), args[1]
    axis = _axis(node, len(x.shape), 0)
    n = x.shape[axis]
    values = index.known() if isinstance(index, Constant) else None
    if values is None:  # they are many, stored outside the file, or computed: a copy
        return r.emit(node, "gather", x, _x(r, node, args, 1), dim=axis)
    found = values.reshape(-1).tolist()
    if not found or any(not -n <= i < n for i in found):
        node.fail(f"indices of shape {values.shape}; allowed: one or more, each from {-n} to {n - 1}")
    positions = [int(i) % n for i in found]
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    last = positions[-1]
    evenly = step != 0 and positions == list(range(positions[0], last + (1 if step > 0 else -1), step))
    if values.ndim > 1 or not evenly:
        return r.emit(node, "gather", x, _x(r, node, args, 1), dim=axis)
    stop = last + 1 if step > 0 else (last - 1 if last else None)  # a slice to the beginning has no stop
    (part,) = r.emit(node, "slice", x, dim=axis, start=positions[0], stop=stop, step=step)
    return part if values.shape else r.emit(node, "squeeze", part, dim=axis)


def _space(op: str, key: str) -> Rule:
    def rule(r: _Reader, node: Node, args: Args) -> Result:
        factor: dict[str, Any] = {key: int(node.attrs["blocksize"])}
        return r.emit(node, op, _x(r, node, args), **factor)

    return rule


# ---------------------------------------------------------------------------------- sizes and types

_RESIZE_MODES: Final = {"nearest": "nearest", "cubic": "bicubic"}
_LINEAR: Final = ("linear", "bilinear", "trilinear")


def _resize(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    n, rank = _spatial_rank(node, x), len(x.shape)
    axes = [int(a) % rank for a in node.attrs.get("axes", range(rank))]
    place = 1 if node.op_type == "Upsample" or node.opset < 11 else 2
    scales, sizes = (
        _numbers(node, args, place, "scales") or node.attrs.get("scales"),
        _numbers(node, args, 3, "sizes"),
    )
    out = list(x.shape)
    if sizes:
        if len(sizes) != len(axes):
            node.fail(f"sizes has {len(sizes)} entries; allowed: {len(axes)}")
        policy = node.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            sizes = [math.floor(x.shape[a] * ratio + 0.5) for a in axes]
        for a, size in zip(axes, sizes, strict=True):
            out[a] = int(size)
    elif scales:
        if len(scales) != len(axes):
            node.fail(f"scales has {len(scales)} entries; allowed: {len(axes)}")
        for a, scale in zip(axes, scales, strict=True):
            out[a] = math.floor(np.float32(x.shape[a]) * np.float32(scale))  # scales are float32 in the file
    else:
        node.fail("neither scales nor sizes are given")
    if tuple(out[:2]) != x.shape[:2]:
        node.fail(f"resizes {x.shape} to {tuple(out)}; allowed: spatial dimensions only")
    mode = node.text("mode", "nearest")
    return r.emit(node, "interpolate", x, size=out[2:], mode=_LINEAR[n - 1] if mode == "linear" else
                  _RESIZE_MODES.get(mode, mode))  # fmt: skip


def _argmax(r: _Reader, node: Node, args: Args) -> Result:
    x = _x(r, node, args)
    axis = _axis(node, len(x.shape), 0)
    return r.emit(node, "argmax", x, dim=axis, keepdim=bool(node.attrs.get("keepdims", 1)))


def _reduce(op: str, **more: Any) -> Rule:
    def rule(r: _Reader, node: Node, args: Args) -> Result:
        x = _x(r, node, args)
        axes = _ints(node, args, 1, "axes") or []
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return r.emit(node, "identity", x)
        keep = bool(node.attrs.get("keepdims", 1))
        return r.emit(node, op, x, dim=axes or range(len(x.shape)), keepdim=keep, **more)

    return rule


def _to(r: _Reader, node: Node, x: Tensor, dtype: str) -> Result:
    dtype = dtype_name(dtype)
    return r.emit(node, "identity", x) if dtype == x.dtype else r.emit(node, "cast", x, dtype=dtype)


def _cast(r: _Reader, node: Node, args: Args) -> Result:
    return _to(r, node, _x(r, node, args), node.dtype("to"))


def _cast_like(r: _Reader, node: Node, args: Args) -> Result:
    like = args[1]
    if like is None:
        node.fail("input 1 is missing")
    return _to(r, node, _x(r, node, args), like.dtype)


def _quantize(r: _Reader, node: Node, args: Args) -> Result:
    zero = _maybe(node, args, 2, "zero point")
    return _to(r, node, _x(r, node, args), "uint8" if zero is None else zero.dtype)


def _dequantize(r: _Reader, node: Node, args: Args) -> Result:
    return _to(r, node, _x(r, node, args), _weight(node, args, 1, "scale").dtype)


RULES: Final[Mapping[str, Rule]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "LRN": _lrn,
    "Relu": _unary("relu"),
    "LeakyRelu": _unary("leaky_relu", negative_slope="alpha"),
    "PRelu": _prelu,
    "Elu": _unary("elu", alpha="alpha"),
    "Celu": _unary("elu", alpha="alpha"),
    "Selu": _unary("selu"),
    "Gelu": _gelu,
    "Swish": _unary("silu"),
    "Sigmoid": _unary("sigmoid"),
    "Tanh": _unary("tanh"),
    "Softplus": _unary("softplus"),
    "Mish": _unary("mish"),
    "HardSigmoid": _unary("hardsigmoid"),
    "HardSwish": _unary("hardswish"),
    "Clip": _clip,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Dropout": _dropout,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "Add": _binary("add"),
    "Sub": _binary("sub"),
    "Mul": _binary("mul"),
    "Div": _binary("div"),
    "Pow": _binary("pow"),
    "Min": _extreme("minimum"),
    "Max": _extreme("maximum"),
    "Sum": _sum,
    "Mean": _mean,
    "Exp": _unary("exp"),
    "Log": _unary("log"),
    "Sqrt": _unary("sqrt"),
    "Abs": _unary("abs"),
    "Neg": _unary("neg"),
    "Reciprocal": _unary("reciprocal"),
    "Floor": _unary("floor"),
    "Erf": _unary("erf"),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "DepthToSpace": _space("pixel_shuffle", "upscale_factor"),
    "SpaceToDepth": _space("pixel_unshuffle", "downscale_factor"),
    "Resize": _resize,
    "Upsample": _resize,
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("amax"),
    "ArgMax": _argmax,
    "ReduceL1": _reduce("vector_norm", ord=1),
    "ReduceL2": _reduce("vector_norm", ord=2),
    "Identity": _unary("identity"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
