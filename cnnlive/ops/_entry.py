"""What the table says of one operator, and how its attributes are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final, Literal, get_args

from cnnlive._types import FLOATING, ITEMSIZE, Attrs, Shape, dtype_name, is_text
from cnnlive.errors import AttributeValueError
from cnnlive.ops._shapes import END, RULES, ShapeRule, given

__all__ = ["REQUIRED", "Attribute", "Operator", "Weight"]

_ROLES: Final = ("weight", "bias", "buffer", "counter")

REQUIRED: Final = "required"


@dataclass(frozen=True, slots=True)
class Weight:
    """One resident tensor that an op owns: a parameter, or a buffer that inference reads as well."""

    role: Literal["weight", "bias", "buffer", "counter"]
    name: str
    shape: Shape

    def __post_init__(self) -> None:
        """Refuse a role that does not exist and a shape that is none: they would count as something else."""
        if self.role not in _ROLES or not all(d >= 0 for d in self.shape):
            raise AttributeValueError(
                f"weight {self.name!r}: role={self.role!r}, shape={self.shape}; allowed: "
                f"{', '.join(map(repr, _ROLES))}, sizes >= 0"
            )

    @property
    def dtype(self) -> str | None:
        """Data type; None is the floating type of the network."""
        return "int64" if self.role == "counter" else None


@dataclass(frozen=True, slots=True)
class Attribute:
    """How one attribute is read: its default (or `REQUIRED`) and a function that makes it canonical."""

    default: Any
    read: Callable[[Any], Any]
    kind: str


WeightRule = Literal["none", "conv", "linear", "channel", "trailing", "elements"]
_WORDS: Final = {
    "weights": get_args(WeightRule),
    "macs": ("none", "conv", "linear", "matmul"),
    "alias": ("none", "view", "elementwise"),
    "folds": ("", "base", "norm", "activation"),
    "dtype": ("promote", "first", "attribute", "index"),
    "autocast": ("", "low", "float32", "widest"),
}
Weights = Callable[[Sequence[Shape], Attrs], tuple[Weight, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One entry of the operator table: everything that cnnlive knows of an operator.

    Attributes
    ----------
    name : str
        How graphs name it; PyTorch's name where PyTorch has one.
    summary : str
        One line for the documentation.
    attributes : mapping of str to Attribute
        What may be set, in the order of the builder method.
    shape : str or callable
        A rule of `cnnlive.ops.RULES`, or a function ``(input_shapes, attributes) -> output_shapes``.
    inputs : (int, int or None)
        Least and most number of inputs; None is any number.
    weights : str or callable
        Which parameters the op owns: ``"none"``, ``"conv"``, ``"linear"``, ``"channel"`` (vectors per
        channel), ``"trailing"`` (the normalised shape), ``"elements"`` (a count or shape among the
        attributes), or a function ``(input_shapes, attributes) -> tuple of Weight``.
    macs : str
        Multiply-accumulates: ``"none"``, ``"conv"``, ``"linear"``, ``"matmul"``. Biases, normalisations,
        activations and pools count nothing, as in the tables of torchvision.
    alias : str
        ``"none"``: writes bytes of its own. ``"view"``: its outputs are the bytes of input 0.
        ``"elementwise"``: may overwrite an input that it has read (`overwrites`), when asked
        (``inplace=True``) or where a profile lets ops reuse what dies.
    overwrites : tuple of int
        Inputs whose bytes an elementwise op may take over.
    folds : str
        Part in the fusion of ``fuse=True``: ``"base"`` (conv, linear), ``"norm"`` (its scale and shift
        vanish in the base's weight and bias), ``"activation"``, or ``""``.
    indices : bool
        PyTorch allocates an int64 index per output element beside the output, also in inference.
    dtype : str
        Type of the outputs: ``"promote"`` the inputs, that of the ``"first"``, the ``"attribute"`` dtype, or
        ``"index"``, int64.
    saves : tuple of str, or callable from the attributes to one
        What eager PyTorch keeps for backward: ``"input"``, ``"input1"`` (the second), ``"output"``,
        ``"weight"``; and of its own ``"indices"`` (int64 per output element), ``"statistics"`` (mean and inverse
        deviation of every group that is normalised), ``"mask"`` (of a dropout), ``"clone"`` (of the input).
        A product keeps only the factors whose partner needs a gradient.
    saves_inplace, saves_to_one : tuple of str, optional
        What it keeps instead where the op works in place, or a pool reduces to one position.
    gradient : str
        How backward makes the gradients of its inputs: ``"fresh"``, a new tensor each; ``"same"``, the incoming
        gradient itself; ``"view"``, a view of it; ``"zeros"``, a new tensor of zeros that it is copied into;
        ``"join"``, the pieces joined into a new tensor; ``"none"``; or the name of a rule of
        :mod:`cnnlive.tape` for an operator that PyTorch runs as several ops.
    autocast : str
        Under mixed precision: ``"low"`` runs in 16 bits, ``"float32"`` in 32, ``"widest"`` in the widest type of
        its inputs, ``""`` in the type of its input.
    check : callable, optional
        Further demands on ``(input_shapes, attributes)``; raises ShapeError.
    """

    name: str
    summary: str
    shape: str | Callable[[Sequence[Shape], Attrs], tuple[Shape, ...]]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    inputs: tuple[int, int | None] = (1, 1)
    weights: WeightRule | Weights = "none"
    macs: Literal["none", "conv", "linear", "matmul"] = "none"
    alias: Literal["none", "view", "elementwise"] = "none"
    overwrites: tuple[int, ...] = ()
    folds: Literal["", "base", "norm", "activation"] = ""
    indices: bool = False
    dtype: Literal["promote", "first", "attribute", "index"] = "promote"
    saves: tuple[str, ...] | Callable[[Attrs], tuple[str, ...]] = ()
    saves_inplace: tuple[str, ...] | None = None
    saves_to_one: tuple[str, ...] | None = None
    gradient: str = "fresh"
    autocast: Literal["", "low", "float32", "widest"] = ""
    check: Callable[[Sequence[Shape], Attrs], None] | None = None
    rule: ShapeRule = field(init=False)

    def __post_init__(self) -> None:
        """Look the shape rule up, or wrap the user's function.

        Raises
        ------
        AttributeValueError
            If a column holds a word that the table does not know.
        """
        words: dict[str, Collection[str]] = {"shape": RULES, **_WORDS}
        for column, allowed in words.items():
            value = getattr(self, column)
            if isinstance(value, str) and value not in allowed:
                raise AttributeValueError(
                    f"operator {self.name!r}: {column}={value!r}; allowed: {', '.join(map(repr, allowed))}"
                )
        # What the count kernel reads for these are the columns of the rules of the same name.
        needs = {"conv": ("conv", "conv"), "linear": ("linear", "linear"), "matmul": ("matmul", self.weights)}
        if self.macs != "none" and (self.shape, self.weights) != needs[self.macs]:
            shape, weights = needs[self.macs]
            raise AttributeValueError(
                f"operator {self.name!r}: macs={self.macs!r} is counted from shape={shape!r} and weights={weights!r}; "
                f"allowed with others: 'none'"
            )
        rule = RULES[self.shape] if isinstance(self.shape, str) else given(self.shape, self.name)
        object.__setattr__(self, "rule", rule)

    def autocast_type(self, low: str, dtypes: Sequence[str]) -> str:
        """Return the type that inputs of these types are cast to under autocast to `low`; `autocast` is not empty."""
        if self.autocast != "widest":
            return low if self.autocast == "low" else "float32"
        return max((d for d in dtypes if d in FLOATING), key=ITEMSIZE.__getitem__, default="float32")

    def saved(self, attrs: Attrs) -> tuple[str, ...]:
        """Return what a node with these attributes keeps for backward."""
        if self.saves_inplace is not None and attrs.get("inplace"):
            return self.saves_inplace
        if self.saves_to_one is not None and all(n == 1 for n in attrs["output_size"]):
            return self.saves_to_one
        return self.saves(attrs) if callable(self.saves) else self.saves


# ---------------------------------------------------------------------------------- reading attributes
# Each reader returns the canonical value or raises ValueError with what is allowed.


def integer(least: int | None = 1) -> Callable[[Any], int]:
    """Read an integer of at least `least`."""
    low = -math.inf if least is None else least

    def read(value: Any) -> int:
        # Not a number and infinity leave a remainder that is not 0.
        whole = not isinstance(value, bool) and isinstance(value, Real) and value % 1 == 0
        if not whole or value < low:
            raise ValueError("an integer" + (f" >= {least}" if least is not None else ""))
        if not -END - 1 <= value <= END:
            raise ValueError("an integer of 64 bits")  # what kernels compute with
        return int(value)

    return read


def boolean(value: Any) -> bool:
    """Read a truth value."""
    if value not in (True, False):
        raise ValueError("True or False")
    return bool(value)


def number(value: Any) -> float:
    """Read a real number."""
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError("a number") from None


def optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Read None or what `read` reads."""
    return lambda value: None if value is None else read(value)


def integers(least: int | None = None) -> Callable[[Any], tuple[int, ...]]:
    """Read one integer or a sequence of them, as a tuple."""
    one = integer(least)

    def read(value: Any) -> tuple[int, ...]:
        return tuple(one(v) for v in value) if isinstance(value, Sequence) else (one(value),)

    return read


def numbers(value: Any) -> tuple[float, ...]:
    """Read one positive number or a sequence of them, as a tuple."""
    values = tuple(number(v) for v in value) if isinstance(value, Sequence) else (number(value),)
    if not all(0 < v < math.inf for v in values):
        raise ValueError("positive numbers")
    return values


def stops(value: Any) -> tuple[int | None, ...]:
    """Read slice bounds: integers or None."""
    one = optional(integer(None))
    return tuple(one(v) for v in value) if isinstance(value, Sequence) else (one(value),)


def spatial(n: int, least: int = 1) -> Callable[[Any], tuple[int, ...]]:
    """Read an integer for all, or one for each, of `n` spatial dimensions."""
    one = integer(least)
    allowed = f"an integer >= {least} or {n} of them"

    def read(value: Any) -> tuple[int, ...]:
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != n:
                raise ValueError(allowed)
            return tuple(one(v) for v in value)
        return (one(value),) * n

    return read


def spatial_or_none(n: int) -> Callable[[Any], tuple[int | None, ...]]:
    """Read the output size of an adaptive pool: integers, None keeps the input's size."""
    one = optional(integer(1))

    def read(value: Any) -> tuple[int | None, ...]:
        if isinstance(value, Sequence):
            if len(value) != n:
                raise ValueError(f"an integer >= 1 or None, or {n} of them")
            return tuple(one(v) for v in value)
        return (one(value),) * n

    return read


def padding(n: int, least_in_pairs: int | None = 0) -> Callable[[Any], Any]:
    """Read padding: one integer, `n` integers, `n` pairs, ``"same"`` or ``"valid"``.

    ``"same"`` (= ``"same_upper"``) and ``"same_lower"`` give ceil(input / stride) outputs, as TensorFlow and
    ONNX define them; for a stride of 1 that is PyTorch's ``"same"``. Pairs are ONNX's form: below 0 they crop
    the other way, which a transposed convolution with a given output size needs.
    """
    one, in_pairs = integer(0), integer(least_in_pairs)
    allowed = f"an integer >= 0, {n} of them, {n} pairs (before, after), 'same', 'same_upper', 'same_lower' or 'valid'"

    def read(value: Any) -> Any:
        if isinstance(value, str):
            if value == "valid":
                return ((0, 0),) * n
            if value not in ("same", "same_upper", "same_lower"):
                raise ValueError(allowed)
            return "same_upper" if value == "same" else value
        if not isinstance(value, Sequence):
            return ((one(value), one(value)),) * n
        if len(value) != n:
            raise ValueError(allowed)
        pairs = []
        for v in value:
            pairs.append((in_pairs(v[0]), in_pairs(v[1])) if isinstance(v, Sequence) and len(v) == 2 else (one(v),) * 2)
        return tuple(pairs)

    return read


def text(*allowed: str) -> Callable[[Any], str]:
    """Read one of a few words."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(map(repr, allowed)))
        return str(value)

    return read


def listed(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Read a sequence of what `read` reads, as a tuple."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("a list of one or more")
        return tuple(read(v) for v in value)

    return read_all


def dtype(value: Any) -> str:
    """Read a data type."""
    return dtype_name(value)


def free_text(value: Any) -> str:
    """Read any text."""
    found = str(value)
    if not is_text(found):
        raise ValueError("a text")
    return found
