"""The operator table in words: what ``docs/operators.md`` and ``cnnlive operators`` show."""

# ruff: noqa: RUF001 - the multiplication sign is meant

from __future__ import annotations

from typing import Final, NamedTuple

from cnnlive.ops import OPERATORS, REQUIRED, Operator

__all__ = ["HEADS", "OperatorRow", "operator_row", "operator_rows", "operators_markdown"]

HEADS: Final = (
    "operator", "what it does", "attributes", "inputs", "parameters", "multiply-accumulates", "output shape",
    "bytes", "fusion", "backward keeps",
)  # fmt: skip


class OperatorRow(NamedTuple):
    """One operator in words."""

    name: str
    summary: str
    attributes: str
    inputs: str
    parameters: str
    macs: str
    shape: str
    bytes: str
    fusion: str
    saves: str


_WEIGHTS: Final = {
    "none": "none",
    "conv": "weight (out, in / groups, kernel), bias (out)",
    "linear": "weight (out, in), bias (out)",
    "channel": "weight and bias (channels)",
    "trailing": "weight and bias (normalized_shape)",
    "elements": "as the attributes say",
}
_MACS: Final = {
    "none": "0",
    "conv": "output elements × in / groups × kernel",
    "linear": "output elements × in_features",
    "matmul": "output elements × inner dimension",
}
_SHAPES: Final = {
    "input": "its attribute `shape`",
    "constant": "its attribute `shape`",
    "same": "that of the input",
    "conv": "(batch, out_channels, one position per window)",
    "pool": "(batch, channels, one position per window)",
    "adaptive_pool": "(batch, channels, output_size)",
    "linear": "the last dimension becomes out_features",
    "matmul": "leading dimensions broadcast, (…, n, k) × (…, k, m) gives (…, n, m)",
    "concat": "sizes along dim add up",
    "broadcast": "broadcast as in numpy",
    "reshape": "as asked, the same number of elements",
    "flatten": "a range of dimensions joined",
    "permute": "dimensions in the order asked",
    "transpose": "two dimensions swapped",
    "reduce": "dimensions of dim dropped, or 1 with keepdim",
    "resize": "(batch, channels, size or input × scale_factor, rounded down)",
    "split": "one output per piece along dim",
    "slice": "the ranges of dim",
    "pad": "padded sizes",
    "squeeze": "dimensions of size 1 dropped",
    "unsqueeze": "dimensions of size 1 added",
    "pixel_shuffle": "channels moved to positions",
    "expand": "as asked, 1 grows to any size",
}
_SAVES: Final = {
    "input": "input",
    "input1": "second input",
    "input2": "third input",
    "output": "output",
    "weight": "weight",
    "indices": "int64 indices",
    "statistics": "statistics per channel, group or row",
    "mask": "mask",
    "clone": "copy of the input",
}
_FUSION: Final = {
    "": "",
    "base": "others fold into it",
    "norm": "folds into a convolution or linear layer (with running statistics)",
    "activation": "folds into a convolution or linear layer",
}


def _attributes(entry: Operator) -> str:
    words = []
    for name, attribute in entry.attributes.items():
        required = isinstance(attribute.default, str) and attribute.default == REQUIRED
        words.append(f"{name}{'' if required else f'={attribute.default!r}'}: {attribute.kind}")
    return "; ".join(words)


def _inputs(entry: Operator) -> str:
    least, most = entry.inputs
    return str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most}"


def _parameters(entry: Operator) -> str:
    if not isinstance(entry.weights, str):
        return "a function of its own"
    words = _WEIGHTS[entry.weights]
    if "output_padding" in entry.attributes:
        return "weight (in, out / groups, kernel), bias (out)"
    if "track_running_stats" in entry.attributes:
        words += "; buffers running_mean, running_var (channels) and a counter"
    if "num_parameters" in entry.attributes:
        return "weight (num_parameters)"
    if "trainable" in entry.attributes:
        return "weight (shape), a buffer if not trainable"
    return words


def _macs(entry: Operator) -> str:
    if "output_padding" in entry.attributes:
        return "input elements × out / groups × kernel"
    return _MACS[entry.macs]


def _bytes(entry: Operator) -> str:
    if entry.alias == "view":
        return "view of the input"
    words = "own bytes"
    if entry.alias == "elementwise" and entry.overwrites:
        one = "its input" if entry.inputs[1] == 1 else "the first input"
        words += f", or may overwrite {'either input' if len(entry.overwrites) > 1 else one}"
    if entry.indices:
        words += ", int64 indices beside them (torch_fx)"
    return words


def operator_row(entry: Operator) -> OperatorRow:
    """Say in words what the table says of one operator.

    Parameters
    ----------
    entry : Operator

    Returns
    -------
    OperatorRow
    """
    return OperatorRow(
        entry.name,
        entry.summary,
        _attributes(entry),
        _inputs(entry),
        _parameters(entry),
        _macs(entry),
        _SHAPES[entry.shape] if isinstance(entry.shape, str) else "a function of its own",
        _bytes(entry),
        _FUSION[entry.folds],
        _saves(entry),
    )


def _saves(entry: Operator) -> str:
    def words(saved: tuple[str, ...]) -> str:
        return ", ".join(_SAVES[s] for s in saved) or "nothing"

    if callable(entry.saves):
        return "as the attributes say"
    text = words(entry.saves)
    if entry.saves_inplace is not None:
        text += f"; in place: {words(entry.saves_inplace)}"
    if entry.saves_to_one is not None:
        text += f"; to one position: {words(entry.saves_to_one)}"
    return text


def operator_rows() -> list[OperatorRow]:
    """Return a row per operator, by name."""
    return [operator_row(OPERATORS[name]) for name in sorted(OPERATORS)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def operators_markdown() -> str:
    """Return the text of ``docs/operators.md``.

    Returns
    -------
    str
    """
    rows = operator_rows()
    head = f"""# Operators

{len(rows)} operators. This page is generated from the operator table (`make docs`); a test holds it equal.

Every operator is an entry of one table (`cnnlive/ops/_table.py`), which shape inference, aliasing and the
counts of parameters and multiply-accumulates read. An operator of your own takes the same entry: see
`cnnlive.ops.register`.

An attribute without a default has to be given. Biases, normalisations, activations and pools count no
multiply-accumulates, as in the tables of torchvision. "Own bytes" is a buffer of its own; an elementwise op
may take over an input's bytes where the graph asks (`inplace=True`) or a profile allows. "Backward keeps" is
what eager PyTorch saves for the backward pass.

Shapes and demands are PyTorch's, held equal on random cases, with these exceptions. Taken here and not there, mostly
as ONNX has it: `padding="same"` with a stride, asymmetric padding, pools padded by more than half a kernel (but less
than a whole one), `clip` without bounds, steps below zero in `slice`, `reflect`, `replicate` and `circular` padding of
any dimension, `bicubic` for any number of dimensions, None for a 1-D adaptive pool. Taken there and
not here: inputs without a batch dimension, results without elements or dimensions, products with a vector. A 0 in
`reshape` keeps a dimension, as in ONNX. Integers stay integers: `div`, `sum` and `sigmoid` of them give their type.
"""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
    for row in rows:
        name, summary, attributes, *rest = row
        code = "; ".join(f"`{_cell(a)}`" for a in attributes.split("; ")) if attributes else ""
        lines.append("| " + " | ".join([f"`{name}`", _cell(summary), code, *map(_cell, rest)]) + " |")
    return head + "\n" + "\n".join(lines) + "\n"
