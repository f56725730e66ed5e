"""Mixed precision as PyTorch's autocast does it: a graph with its casts written out."""

from __future__ import annotations

from typing import Any, Final

from cnnlive._types import FLOATING, dtype_name
from cnnlive.errors import DTypeError, GraphError
from cnnlive.graph import Graph, Tensor
from cnnlive.ops import Operator, operator, weights_of

__all__ = ["autocast"]

_LOW: Final = ("float16", "bfloat16")
_ROLES: Final = ("weight", "bias")


def autocast(graph: Graph, dtype: str = "float16") -> Graph:
    """Write out the casts that PyTorch's autocast makes in inference.

    Convolutions, linear layers and products of matrices run in 16 bits, what is sensitive in 32 (the column
    ``autocast`` of the operator table says which), the rest in the type of its input. The parameters of the former
    become ops of their own, each with a cast. Autocast keeps those to its end: here they are outputs, behind the
    network's own. Plan the result with ``weight_dtype="float32"``: what the other ops store stays in 32 bits.

    Parameters
    ----------
    graph : Graph
    dtype : {"float16", "bfloat16"}

    Returns
    -------
    Graph
        A new graph; ops keep their names, casts are named after what they cast.

    Raises
    ------
    DTypeError
        If `dtype` is not a type of 16 bits.
    GraphError
        If `graph` is lowered already.

    Notes
    -----
    O(n_ops + n_edges). Source: PyTorch, aten/src/ATen/autocast_mode.cpp (casts of leaves that take gradients are
    kept, those of activations and of frozen parameters are not).

    Examples
    --------
    >>> g = Graph()
    >>> x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, name="conv")
    >>> autocast(g).nodes()
    ['input', 'conv.bias', 'conv.weight', 'conv.bias.cast', 'conv.weight.cast', 'conv.input.cast', 'conv']
    """
    if not isinstance(graph, Graph):
        raise GraphError(f"autocast writes casts into a Graph, and {graph!r} is none; lower what it returns")
    low = dtype_name(dtype)
    if low not in _LOW:
        raise DTypeError(f"autocast to {low!r}; allowed: {', '.join(map(repr, _LOW))}")
    kept = graph._cast
    if kept is None or kept[:2] != (graph.version, low):
        kept = graph._cast = (graph.version, low, _Caster(graph, low).run())
    return kept[2]


class _Caster:
    """Copies a graph op by op."""

    def __init__(self, graph: Graph, low: str) -> None:
        self.source = graph
        self.low = low
        self.copy = Graph(graph.name)
        self.kept: dict[str, Tensor] = {}  # casts that autocast keeps, by the parameter
        self.weights: dict[str, Tensor] = {}
        self.trained: set[str] = set()

    def run(self) -> Graph:
        """Copy all ops."""
        source, copy = self.source, self.copy
        held: list[tuple[str, int, str]] = []
        for name, data in source._nx.nodes(data=True):
            values = source.attributes(name)
            held += [(name, output, last) for output, last in data.get("until", {}).items()]
            scope, tied, frozen = data.get("scope", ""), data.get("tied"), data.get("frozen", ())
            ins = [Tensor(copy, u, o) for u, o in source._sources(name)]
            entry = operator(data["op"])
            if data["op"] == "parameter" and data["trainable"]:
                self.trained.add(name)
            if entry.autocast == "low":
                shapes = [t.shape for t in ins]
                for w in reversed(weights_of(entry, shapes, values)):
                    if w.role in _ROLES:
                        ins.insert(1, self.stored(name, w.role, w.shape, scope, tied or {}, frozen))
                tied = None if tied is None else {r: h for r, h in tied.items() if r not in _ROLES} or None
                frozen = ()
            if entry.autocast:
                target = entry.autocast_type(self.low, [t.dtype for t in ins])
                ins = [self.cast(name, t, target, scope) for t in reversed(ins)][::-1]
            copy._add(name, data["op"], ins, self.attributes(entry, values, len(ins)), scope, tied, frozen)
        for name, output, until in held:
            copy.hold(Tensor(copy, name, output), until)
        copy.output(*[Tensor(copy, t.node, t.output) for t in source.outputs], *self.kept.values())
        copy.order_parameters(*source._nx.graph["parameter_order"])
        return copy

    @staticmethod
    def attributes(entry: Operator, values: dict[str, Any], n_inputs: int) -> dict[str, Any]:
        """Return the attributes of the copy: a bias that was owned is an input now."""
        return values if entry.autocast != "low" or "bias" not in values else {**values, "bias": n_inputs > 2}

    def stored(
        self, name: str, role: str, shape: tuple[int, ...], scope: str, tied: dict[str, str], frozen: tuple[str, ...]
    ) -> Tensor:
        """Return the op that stores a parameter, which several ops may share."""
        holder = tied.get(role, name)
        key = f"{holder}.{role}"
        found = self.weights.get(key)
        if found is None or found.shape != shape:
            found = self.copy._add(key, "parameter", (), {"shape": shape, "trainable": True}, scope)[0]
            self.weights[key] = found
            if role not in frozen:
                self.trained.add(key)
        return found

    def cast(self, name: str, tensor: Tensor, target: str, scope: str) -> Tensor:
        """Return a tensor in another type."""
        if tensor.dtype == target or tensor.dtype not in FLOATING:
            return tensor
        stored = tensor.node in self.trained
        if stored and tensor.node in self.kept:
            return self.kept[tensor.node]
        label = f"{tensor.node}.cast" if stored else self.copy._free_name(f"{name}.input.cast")
        made = self.copy._add(label, "cast", (tensor,), {"dtype": target}, scope)[0]
        if stored:
            self.kept[tensor.node] = made
        return made
