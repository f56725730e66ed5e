"""Shape rules: the definition of what shape comes out, in plain Python, and its encoding for the kernel.

A rule has three functions. ``resolve`` makes the attributes canonical once the input shapes are known
(negative axes become positive, a literal batch becomes "keep"), ``infer`` is the definition and words
every error, ``encode`` flattens the attributes into the int64 columns that
:mod:`cnnlive._kernels.shapes` reads. The kernel gives the same shapes as ``infer`` (a property test
holds them equal); where it fails, ``infer`` is asked for the words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cnnlive._types import Attrs, Shape
from cnnlive.errors import AttributeValueError, ShapeError

__all__ = ["END", "MAX_RANK", "RULES", "ShapeRule"]

MAX_RANK: Final = 6
MAX_PARTS: Final = 65_536  # tensors that one op writes where it is told a size or a count only
END: Final = 2**63 - 1  # a slice without a stop

Shapes = Sequence[Shape]
PADDING_CODES: Final = {"explicit": 0, "same_upper": 1, "same_lower": 2}


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """One way in which output shapes follow from input shapes and attributes."""

    name: str
    code: int
    infer: Callable[[Shapes, Attrs], tuple[Shape, ...]]
    encode: Callable[[Shapes, Attrs], list[int]]
    resolve: Callable[[Shapes, dict[str, Any]], dict[str, Any]] = lambda _shapes, attrs: attrs


def axis_of(dim: int, rank: int, what: str = "dim") -> int:
    """Return a non-negative axis."""
    if not -rank <= dim < rank:
        raise ShapeError(f"{what}={dim} is outside the {rank} dimensions of the input; allowed: {-rank} to {rank - 1}")
    return dim % rank


def axes_of(dims: Sequence[int], rank: int, what: str = "dim") -> tuple[int, ...]:
    """Return distinct non-negative axes in the order given."""
    axes = tuple(axis_of(d, rank, what) for d in dims)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what}={tuple(dims)} names a dimension twice")
    return axes


# ---------------------------------------------------------------------------------- input and user rules


def _infer_input(_shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    return (a["shape"],)


def _encode_input(_shapes: Shapes, a: Attrs) -> list[int]:
    return list(a["shape"])


def given(function: Callable[[Shapes, Attrs], tuple[Shape, ...]], name: str = "given") -> ShapeRule:
    """Make a shape rule from a Python function, for operators that no built-in rule describes.

    The kernels see its result at the graph's own batch size as constants; an output whose first dimension
    is a multiple of the first input's first dimension is taken to scale with the batch.
    """

    def infer(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
        found = function(shapes, a)
        if not isinstance(found, tuple | list) or not all(
            isinstance(s, tuple | list) and all(type(d) is int for d in s) for s in found
        ):
            raise ShapeError(f"the shape function of {name} returned {found!r}; allowed: a tuple of tuples of integers")
        return tuple(tuple(s) for s in found)

    def encode(shapes: Shapes, a: Attrs) -> list[int]:
        columns: list[int] = []
        batch = shapes[0][0] if shapes and shapes[0] else 0
        for shape in infer(shapes, a):
            scales = bool(shape) and batch > 0 and shape[0] % batch == 0
            columns += [len(shape), int(scales)]
            columns += [shape[0] // batch if scales else d for d in shape[:1]] + list(shape[1:])
        return columns

    return ShapeRule(name, 1, infer, encode)


# ---------------------------------------------------------------------------------- elementwise


def _infer_same(shapes: Shapes, _a: Attrs) -> tuple[Shape, ...]:
    return (tuple(shapes[0]),)


def broadcast(shapes: Shapes) -> Shape:
    """Broadcast as numpy does."""
    rank = max(len(s) for s in shapes)
    out = []
    for axis in range(rank):
        size = 1
        for s in shapes:
            i = axis - (rank - len(s))
            if i < 0 or s[i] == 1:
                continue
            if size not in (1, s[i]):
                raise ShapeError("the input shapes do not broadcast: " + " and ".join(map(str, shapes)))
            size = s[i]
        out.append(size)
    return tuple(out)


def _infer_broadcast(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    out = broadcast(shapes)
    if a.get("inplace") and out != tuple(shapes[0]):
        raise ShapeError(f"inplace=True writes into the first input of shape {shapes[0]}, but the result is {out}")
    return (out,)


def _no_columns(_shapes: Shapes, _a: Attrs) -> list[int]:
    return []


# ---------------------------------------------------------------------------------- windows


def _check_rank(shape: Shape, rank: int) -> None:
    if len(shape) != rank:
        raise ShapeError(
            f"the input has shape {shape}, allowed: {rank} dimensions (batch, channels, {rank - 2} spatial)"
        )


def _window(n: int, k: int, s: int, pads: tuple[int, int], d: int, mode: str, ceil: bool = False) -> int:
    """Count the positions of a window along one dimension; < 1 if the window does not fit."""
    if mode != "explicit":
        return -(-n // s)
    before, after = pads
    span = n + before + after - d * (k - 1) - 1
    if not ceil:
        return span // s + 1
    # The last window may hang over the end, if it starts inside the input or the padding before it.
    out = -(-span // s) + 1
    return out - 1 if (out - 1) * s >= n + before else out


def _pads(a: Attrs) -> tuple[str, Sequence[tuple[int, int]]]:
    padding = a["padding"]
    if isinstance(padding, str):
        return padding, [(0, 0)] * len(a["kernel_size"])
    return "explicit", padding


def _infer_conv(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, kernel = shapes[0], a["kernel_size"]
    _check_rank(shape, len(kernel) + 2)
    channels, groups, out_channels = shape[1], a["groups"], a["out_channels"]
    if channels % groups or out_channels % groups:
        raise ShapeError(f"groups={groups} divides not both in_channels={channels} and out_channels={out_channels}")
    mode, pads = _pads(a)
    out = []
    for i, k in enumerate(kernel):
        n, s, d = shape[2 + i], a["stride"][i], a["dilation"][i]
        if "output_padding" in a:
            if mode != "explicit":
                size = n * s
            else:
                size = (n - 1) * s - pads[i][0] - pads[i][1] + d * (k - 1) + a["output_padding"][i] + 1
        else:
            size = _window(n, k, s, pads[i], d, mode)
        if size < 1:
            raise ShapeError(
                f"a kernel of {k} with dilation {d} and padding {a['padding']} does not fit the input {shape} "
                f"along spatial dimension {i}"
            )
        out.append(size)
    return ((shape[0], out_channels, *out),)


def _encode_conv(_shapes: Shapes, a: Attrs) -> list[int]:
    mode, pads = _pads(a)
    kernel = a["kernel_size"]
    extra = a.get("output_padding")
    columns = [len(kernel), a["out_channels"], a["groups"], int(extra is not None), PADDING_CODES[mode]]
    for i, k in enumerate(kernel):
        columns += (k, a["stride"][i], pads[i][0], pads[i][1], a["dilation"][i], extra[i] if extra else 0)
    return columns


def _resolve_pool(_shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    if a["stride"] is None:
        a["stride"] = a["kernel_size"]
    return a


def _infer_pool(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, kernel = shapes[0], a["kernel_size"]
    _check_rank(shape, len(kernel) + 2)
    mode, pads = _pads(a)
    dilation = a.get("dilation", (1,) * len(kernel))
    out = []
    for i, k in enumerate(kernel):
        size = _window(shape[2 + i], k, a["stride"][i], pads[i], dilation[i], mode, a["ceil_mode"])
        if size < 1:
            raise ShapeError(
                f"a window of {k} with dilation {dilation[i]} and padding {a['padding']} does not fit the input "
                f"{shape} along spatial dimension {i}"
            )
        out.append(size)
    result = (shape[0], shape[1], *out)
    return (result, result) if a.get("return_indices") else (result,)


def _encode_pool(_shapes: Shapes, a: Attrs) -> list[int]:
    mode, pads = _pads(a)
    kernel = a["kernel_size"]
    dilation = a.get("dilation", (1,) * len(kernel))
    columns = [len(kernel), PADDING_CODES[mode], int(a["ceil_mode"])]
    for i, k in enumerate(kernel):
        columns += (k, a["stride"][i], pads[i][0], pads[i][1], dilation[i])
    return columns


def _infer_adaptive(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, size = shapes[0], a["output_size"]
    _check_rank(shape, len(size) + 2)
    result = (*shape[:2], *(shape[2 + i] if n is None else n for i, n in enumerate(size)))
    return (result, result) if a.get("return_indices") else (result,)


def _encode_adaptive(_shapes: Shapes, a: Attrs) -> list[int]:
    return [0 if n is None else n for n in a["output_size"]]


# ---------------------------------------------------------------------------------- matrices


def _infer_linear(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    return ((*shapes[0][:-1], a["out_features"]),)


def _infer_matmul(shapes: Shapes, _a: Attrs) -> tuple[Shape, ...]:
    x, y = shapes
    if len(x) < 2 or len(y) < 2:
        raise ShapeError(f"matmul of {x} and {y}; allowed: two or more dimensions each")
    if x[-1] != y[-2]:
        raise ShapeError(f"matmul of {x} and {y}: the inner dimensions {x[-1]} and {y[-2]} differ")
    return ((*broadcast((x[:-2], y[:-2])), x[-2], y[-1]),)


# ---------------------------------------------------------------------------------- moving data


def _resolve_dim(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a["dim"] = axis_of(a["dim"], len(shapes[0]))
    return a


def _infer_concat(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    dim, first = a["dim"], shapes[0]
    total = 0
    for s in shapes:
        if len(s) != len(first) or s[:dim] != first[:dim] or s[dim + 1 :] != first[dim + 1 :]:
            raise ShapeError(f"shapes {first} and {s} differ outside the concatenated dimension {dim}")
        total += s[dim]
    return ((*first[:dim], total, *first[dim + 1 :]),)


def _encode_dim(_shapes: Shapes, a: Attrs) -> list[int]:
    return [a["dim"]]


def _check_parts(n: int, size: int) -> None:
    if -(-n // size) > MAX_PARTS:
        raise ShapeError(f"a dimension of {n} cut by {size} has {-(-n // size)} parts; allowed: up to {MAX_PARTS}")


def _infer_split(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, dim = shapes[0], a["dim"]
    n = shape[dim]
    if "chunks" in a:
        size = -(-n // a["chunks"])
        _check_parts(n, size)
        sizes = [min(size, n - start) for start in range(0, n, size)]
    else:
        sizes = list(a["sizes"])
        if sum(sizes) != n:
            raise ShapeError(
                f"sizes {tuple(sizes)} add up to {sum(sizes)}, not to the {n} of dimension {dim} of {shape}"
            )
    return tuple((*shape[:dim], size, *shape[dim + 1 :]) for size in sizes)


def _resolve_split(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a = _resolve_dim(shapes, a)
    if isinstance(a.get("sizes"), int):
        n, size = shapes[0][a["dim"]], a["sizes"]
        _check_parts(n, size)
        a["sizes"] = tuple(min(size, n - start) for start in range(0, n, size))
    return a


def _encode_split(_shapes: Shapes, a: Attrs) -> list[int]:
    return [a["dim"], a["chunks"]] if "chunks" in a else [a["dim"], 0, *a["sizes"]]


def _resolve_slice(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a["dim"] = axes_of(a["dim"], len(shapes[0]))
    for key in ("start", "stop", "step"):
        if len(a[key]) == 1:
            a[key] *= len(a["dim"])
        if len(a[key]) != len(a["dim"]):
            raise AttributeValueError(f"{key} has {len(a[key])} entries for {len(a['dim'])} dimensions")
    backwards = [step < 0 for step in a["step"]]
    # Without a bound a slice runs to the end that its step leads to.
    a["start"] = tuple((END if b else 0) if v is None else v for v, b in zip(a["start"], backwards, strict=True))
    a["stop"] = tuple((-END if b else END) if v is None else v for v, b in zip(a["stop"], backwards, strict=True))
    if 0 in a["step"]:
        raise AttributeValueError("step=0; allowed: any other integer")
    return a


def _infer_slice(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    out = list(shapes[0])
    for dim, start, stop, step in zip(a["dim"], a["start"], a["stop"], a["step"], strict=True):
        out[dim] = len(range(*slice(start, stop, step).indices(out[dim])))
        if out[dim] == 0:
            raise ShapeError(f"slice [{start}:{stop}:{step}] of dimension {dim} of {shapes[0]} is empty")
    return (tuple(out),)


def _encode_slice(_shapes: Shapes, a: Attrs) -> list[int]:
    columns = []
    for dim, start, stop, step in zip(a["dim"], a["start"], a["stop"], a["step"], strict=True):
        columns += [dim, start, stop, step]
    return columns


def _infer_pad(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, pad = shapes[0], a["pad"]
    if len(pad) % 2 or len(pad) > 2 * len(shape):
        raise ShapeError(
            f"pad={pad} has {len(pad)} entries; allowed: an even count, at most two per dimension of {shape}"
        )
    out = list(shape)
    for i in range(len(pad) // 2):
        out[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    if min(out) < 1:
        raise ShapeError(f"pad={pad} leaves nothing of the input {shape}")
    return (tuple(out),)


def _encode_pad(_shapes: Shapes, a: Attrs) -> list[int]:
    return list(a["pad"])


def _resolve_reshape(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    # A literal equal to the batch means the batch: the graph may be planned at another one.
    target = a["shape"]
    if target and shapes[0] and target[0] == shapes[0][0] and target[0] != -1:
        a["shape"] = (0, *target[1:])
    return a


def _infer_reshape(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, target = shapes[0], a["shape"]
    out = []
    for i, d in enumerate(target):
        if d == 0 and i >= len(shape):
            raise ShapeError(f"shape {target} keeps dimension {i}, which the input {shape} does not have")
        out.append(shape[i] if d == 0 else d)
    total = math.prod(shape)
    if target.count(-1) > 1:
        raise ShapeError(f"shape {target} has more than one -1")
    if -1 in target:
        known = math.prod(d for d in out if d != -1)
        if total % known:
            raise ShapeError(f"{total} elements of the input {shape} do not fill {target}")
        out[target.index(-1)] = total // known
    elif math.prod(out) != total:
        raise ShapeError(f"{total} elements of the input {shape} do not fill {tuple(out)}")
    return (tuple(out),)


def _encode_reshape(_shapes: Shapes, a: Attrs) -> list[int]:
    return list(a["shape"])


def _resolve_flatten(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    rank = len(shapes[0])
    a["start_dim"] = axis_of(a["start_dim"], rank, "start_dim")
    a["end_dim"] = axis_of(a["end_dim"], rank, "end_dim")
    if a["start_dim"] > a["end_dim"]:
        raise ShapeError(f"start_dim={a['start_dim']} lies behind end_dim={a['end_dim']}")
    return a


def _infer_flatten(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, start, end = shapes[0], a["start_dim"], a["end_dim"]
    return ((*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]),)


def _encode_flatten(_shapes: Shapes, a: Attrs) -> list[int]:
    return [a["start_dim"], a["end_dim"]]


def _resolve_permute(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a["dims"] = axes_of(a["dims"], len(shapes[0]), "dims")
    if len(a["dims"]) != len(shapes[0]):
        raise ShapeError(f"dims={a['dims']} is not a permutation of the {len(shapes[0])} dimensions of the input")
    return a


def _infer_permute(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    return (tuple(shapes[0][d] for d in a["dims"]),)


def _encode_permute(_shapes: Shapes, a: Attrs) -> list[int]:
    return list(a["dims"])


def _resolve_transpose(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a["dim0"] = axis_of(a["dim0"], len(shapes[0]), "dim0")
    a["dim1"] = axis_of(a["dim1"], len(shapes[0]), "dim1")
    return a


def _transposed(shapes: Shapes, a: Attrs) -> list[int]:
    dims = list(range(len(shapes[0])))
    dims[a["dim0"]], dims[a["dim1"]] = dims[a["dim1"]], dims[a["dim0"]]
    return dims


def _infer_transpose(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    return (tuple(shapes[0][d] for d in _transposed(shapes, a)),)


def _resolve_squeeze(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    shape = shapes[0]
    if a["dim"] is None:
        # The batch stays a dimension, also at a batch of one.
        a["dim"] = tuple(i for i in range(1, len(shape)) if shape[i] == 1)
    else:
        a["dim"] = tuple(sorted(d for d in axes_of(a["dim"], len(shape)) if shape[d] == 1))
    return a


def _infer_squeeze(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    for d in a["dim"]:
        if shapes[0][d] != 1:
            raise ShapeError(f"dimension {d} of {shapes[0]} is not 1 and cannot be squeezed")
    return (tuple(n for i, n in enumerate(shapes[0]) if i not in a["dim"]),)


def _encode_dims(_shapes: Shapes, a: Attrs) -> list[int]:
    return list(a["dim"])


def _resolve_unsqueeze(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    a["dim"] = tuple(sorted(axes_of(a["dim"], len(shapes[0]) + len(a["dim"]))))
    return a


def _infer_unsqueeze(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    out = list(shapes[0])
    for d in a["dim"]:
        out.insert(d, 1)
    return (tuple(out),)


def _resolve_expand(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    shape, target = shapes[0], a["shape"]
    lead = len(target) - len(shape)
    if lead >= 0:
        a["shape"] = tuple(0 if i >= lead and d in (-1, shape[i - lead]) else d for i, d in enumerate(target))
    return a


def _infer_expand(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape, target = shapes[0], a["shape"]
    lead = len(target) - len(shape)
    if lead < 0:
        raise ShapeError(f"shape {target} has fewer dimensions than the input {shape}")
    out = []
    for i, d in enumerate(target):
        n = shape[i - lead] if i >= lead else 1
        if d not in (0, n) and (n != 1 or d < 1):
            raise ShapeError(f"the input {shape} does not expand to {target}: dimension {i}")
        out.append(n if d == 0 else d)
    return (tuple(out),)


def _resolve_reduce(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    rank = len(shapes[0])
    dims = a["dim"]
    a["dim"] = tuple(range(1, rank)) if dims is None else tuple(sorted(axes_of(dims, rank)))
    return a


def _infer_reduce(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    if a["keepdim"]:
        return (tuple(1 if i in a["dim"] else n for i, n in enumerate(shapes[0])),)
    return (tuple(n for i, n in enumerate(shapes[0]) if i not in a["dim"]),)


def _encode_reduce(_shapes: Shapes, a: Attrs) -> list[int]:
    return [int(a["keepdim"]), *a["dim"]]


def _infer_resize(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape = shapes[0]
    size, scale = a["size"], a["scale_factor"]
    if (size is None) == (scale is None):
        raise AttributeValueError("give either size or scale_factor")
    _check_rank(shape, len(size or scale) + 2)
    out = size or tuple(int(n * f) for n, f in zip(shape[2:], scale, strict=True))
    if min(out) < 1:
        raise ShapeError(f"scale_factor={scale} leaves nothing of the input {shape}")
    return ((*shape[:2], *out),)


def _resolve_resize(shapes: Shapes, a: dict[str, Any]) -> dict[str, Any]:
    n = len(shapes[0]) - 2
    for key in ("size", "scale_factor"):
        if a[key] is not None and len(a[key]) == 1:
            a[key] *= n
    return a


def _encode_resize(_shapes: Shapes, a: Attrs) -> list[int]:
    if a["size"] is not None:
        return [0, *a["size"]]
    columns = [1]
    for f in a["scale_factor"]:
        # The double itself, as 53-bit integer times a power of two: the kernel multiplies as infer does.
        mantissa, exponent = math.frexp(f)
        columns += [int(mantissa * 2**53), exponent - 53]
    return columns


def _infer_pixel_shuffle(shapes: Shapes, a: Attrs) -> tuple[Shape, ...]:
    shape = shapes[0]
    _check_rank(shape, 4)
    n, c, h, w = shape
    if "upscale_factor" in a:
        r = a["upscale_factor"]
        if c % (r * r):
            raise ShapeError(f"{c} channels are not a multiple of upscale_factor squared, {r * r}")
        return ((n, c // (r * r), h * r, w * r),)
    r = a["downscale_factor"]
    if h % r or w % r:
        raise ShapeError(f"height {h} and width {w} are not multiples of downscale_factor={r}")
    return ((n, c * r * r, h // r, w // r),)


def _encode_pixel_shuffle(_shapes: Shapes, a: Attrs) -> list[int]:
    return [a["upscale_factor"], 1] if "upscale_factor" in a else [a["downscale_factor"], 0]


_PERMUTE: Final = 12

# "constant" is a literal and "transpose" a permutation to the kernel; every other rule has a code of its own.
RULES: Final[dict[str, ShapeRule]] = {
    rule.name: rule
    for rule in (
        ShapeRule("input", 0, _infer_input, _encode_input),
        ShapeRule("constant", 1, _infer_input, lambda _s, a: [len(a["shape"]), 0, *a["shape"]]),
        ShapeRule("same", 2, _infer_same, _no_columns),
        ShapeRule("conv", 3, _infer_conv, _encode_conv),
        ShapeRule("pool", 4, _infer_pool, _encode_pool, _resolve_pool),
        ShapeRule("adaptive_pool", 5, _infer_adaptive, _encode_adaptive),
        ShapeRule("linear", 6, _infer_linear, lambda _s, a: [a["out_features"]]),
        ShapeRule("matmul", 7, _infer_matmul, _no_columns),
        ShapeRule("concat", 8, _infer_concat, _encode_dim, _resolve_dim),
        ShapeRule("broadcast", 9, _infer_broadcast, _no_columns),
        ShapeRule("reshape", 10, _infer_reshape, _encode_reshape, _resolve_reshape),
        ShapeRule("flatten", 11, _infer_flatten, _encode_flatten, _resolve_flatten),
        ShapeRule("permute", _PERMUTE, _infer_permute, _encode_permute, _resolve_permute),
        ShapeRule("transpose", _PERMUTE, _infer_transpose, _transposed, _resolve_transpose),
        ShapeRule("reduce", 13, _infer_reduce, _encode_reduce, _resolve_reduce),
        ShapeRule("resize", 14, _infer_resize, _encode_resize, _resolve_resize),
        ShapeRule("split", 15, _infer_split, _encode_split, _resolve_split),
        ShapeRule("slice", 16, _infer_slice, _encode_slice, _resolve_slice),
        ShapeRule("pad", 17, _infer_pad, _encode_pad),
        ShapeRule("squeeze", 18, _infer_squeeze, _encode_dims, _resolve_squeeze),
        ShapeRule("unsqueeze", 19, _infer_unsqueeze, _encode_dims, _resolve_unsqueeze),
        ShapeRule("pixel_shuffle", 20, _infer_pixel_shuffle, _encode_pixel_shuffle),
        ShapeRule("expand", 21, _infer_expand, _encode_reshape, _resolve_expand),
    )
}
