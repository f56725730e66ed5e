"""The graph of a CNN: a networkx MultiDiGraph with a builder around it.

Nodes are ops keyed by a unique name, with the attribute ``op`` and the operator's parameters; an edge is
one use of a tensor, with ``output`` (index at the producer) and ``input`` (index at the consumer). Every
shape is known as soon as an op is added, and nothing is guessed: an unknown operator, attribute or shape
is an error that names the node.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import networkx

from cnnlive._builder import Builder
from cnnlive._types import Shape, is_text, promote
from cnnlive.errors import (
    AttributeValueError,
    CnnliveError,
    CycleError,
    GraphError,
    ShapeError,
    UnknownOperatorError,
    close_names,
)
from cnnlive.ops import MAX_RANK, Operator, Weight, operator, weights_of

__all__ = ["FORMAT", "Graph", "OwnedWeight", "Tensor"]

FORMAT: Final = "cnnlive-graph-1"
_MAX_ELEMENTS: Final = 2**62
# What a node carries beside the operator's parameters. "tflm" is what TensorFlow Lite Micro's planner is told of an op
# that was read from a file, see docs/tflite.md.
_BESIDES: Final = ("op", "scope", "tied", "frozen", "until", "tflm")
_TOP: Final = ("format", "name", "ops", "outputs", "parameter_order")
_ROW: Final = ("name", "inputs", "attributes", *_BESIDES)
_OUTPUT: Final = re.compile(r"[0-9]{1,9}")
_CALL: Final = re.compile(r"@[0-9]+(?=\.|$)")  # the number of a repeated call
_TRAINED: Final = ("weight", "bias")


class Tensor:
    """A light handle of one value in a graph: output `output` of node `node`."""

    __slots__ = ("graph", "node", "output")

    def __init__(self, graph: Graph, node: str, output: int) -> None:
        self.graph = graph
        self.node = node
        self.output = output

    @property
    def shape(self) -> Shape:
        """Shape at the graph's own batch size."""
        return self.graph._shapes[self.node][self.output]

    @property
    def dtype(self) -> str:
        """Name of the data type."""
        return self.graph._dtypes[self.node][self.output]

    @property
    def name(self) -> str:
        """``node`` for a first output, ``node:1`` for a second."""
        return tensor_name(self.node, self.output)

    @property
    def channels(self) -> int:
        """Size of dimension 1."""
        return self.shape[1]

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, shape={self.shape}, dtype={self.dtype})"


class OwnedWeight(NamedTuple):
    """A parameter or buffer, the op that holds it, and whether another op holds it first."""

    op: str
    weight: Weight
    shared: bool


def tensor_name(node: str, output: int) -> str:
    """Name of an output: the node's name for the first, ``name:k`` for the others."""
    return node if output == 0 else f"{node}:{output}"


def named_by(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the ops that a name, module path or :mod:`fnmatch` pattern names; it may leave out their ``@1``."""
    matches = re.compile(f"{fnmatch.translate(pattern)}|{fnmatch.translate(f'{pattern}.*')}").match
    return [name for name in names if matches(name) or matches(_CALL.sub("", name))]


def _check_keys(data: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str], who: str) -> None:
    """Refuse plain data with a key too many, which would be lost without a word, or too few."""
    for key in data:
        if key not in allowed:
            raise GraphError(f"{who} has the key {key!r}; allowed: {', '.join(allowed)}{close_names(key, allowed)}")
    for key in needed:
        if key not in data:
            raise GraphError(f"{who} lacks the key {key!r}")


class Graph(Builder):
    """A directed acyclic CNN.

    Parameters
    ----------
    name : str, optional
        For reports.

    Notes
    -----
    Insertion order is the program order. All methods that add an op take and return :class:`Tensor`
    handles, carry PyTorch's parameter names, and take ``name=``: the node's name, which must be free; left
    out, a free one is made from the operator's name. Adding an op costs some ten microseconds.

    Examples
    --------
    >>> g = Graph("tiny")
    >>> x = g.input((1, 3, 32, 32))
    >>> x = g.relu(g.conv2d(x, 16, kernel_size=3, padding=1), inplace=True)
    >>> g.global_avg_pool2d(x).shape
    (1, 16, 1, 1)
    >>> g.n_parameters
    448
    """

    def __init__(self, name: str = "") -> None:
        if not is_text(name):
            raise GraphError(f"the graph is named {name!r}; allowed: a text")
        self._nx: networkx.MultiDiGraph = networkx.MultiDiGraph(name=name, outputs=[], parameter_order=[])
        self._shapes: dict[str, tuple[Shape, ...]] = {}
        self._dtypes: dict[str, tuple[str, ...]] = {}
        self._positions: dict[str, int] = {}
        self._scopes: list[str] = []
        self._counters: dict[str, int] = {}
        self._version = 0
        self._lowered: tuple[int, Any] | None = None  # held for cnnlive.lower
        self._cast: tuple[int, str, Graph] | None = None  # held for cnnlive.autocast
        self._weights: tuple[int, list[OwnedWeight]] | None = None

    # ------------------------------------------------------------------ looking

    @property
    def name(self) -> str:
        """Name of the network."""
        return str(self._nx.graph["name"])

    @property
    def nx(self) -> networkx.MultiDiGraph:
        """The networkx graph itself, as a frozen view.

        Nodes carry ``op`` and the operator's parameters, edges ``output`` and ``input``;
        ``graph.nx.graph["outputs"]`` lists the marked outputs. To change a net, copy it
        (``nx.MultiDiGraph(graph.nx)``), edit the copy and read it back with :meth:`from_networkx`.
        """
        return networkx.graphviews.generic_graph_view(self._nx)

    @property
    def version(self) -> int:
        """Grows with every change; what is derived from the graph is kept until it does."""
        return self._version

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self)} ops, {self.n_parameters:,} parameters>"

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def nodes(self) -> list[str]:
        """Return the names of all ops in program order."""
        return list(self._shapes)

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the operator's parameters at a node, canonical, without ``op``, ``scope`` and what else is kept there.

        Raises
        ------
        GraphError
            If there is no such node.
        """
        data = self._data(name)
        return {k: v for k, v in data.items() if k not in _BESIDES}

    def op_of(self, name: str) -> str:
        """Return the operator at a node."""
        return str(self._data(name)["op"])

    def _data(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._nx.nodes[name])
        except KeyError:
            raise GraphError(f"there is no op named {name!r}") from None

    def tensors_of(self, name: str) -> tuple[Tensor, ...]:
        """Return the outputs of a node."""
        self._data(name)
        return tuple(Tensor(self, name, i) for i in range(len(self._shapes[name])))

    def inputs_of(self, name: str) -> tuple[Tensor, ...]:
        """Return the inputs of a node, in order."""
        return tuple(Tensor(self, u, o) for u, o in self._sources(name))

    def _sources(self, name: str) -> list[tuple[str, int]]:
        found = [(e["input"], u, e["output"]) for u, edges in self._nx.pred[name].items() for e in edges.values()]
        if len(found) > 1:
            found.sort(key=lambda f: f[0])
        return [(u, o) for _i, u, o in found]

    @property
    def inputs(self) -> list[Tensor]:
        """The network's inputs in program order."""
        return [Tensor(self, n, 0) for n, op in self._nx.nodes(data="op") if op == "input"]

    @property
    def outputs(self) -> list[Tensor]:
        """The network's outputs: those marked with :meth:`output`, or else what no op reads.

        Of an op that no other reads all outputs count, except the indices of a pool.
        """
        marked = self._nx.graph["outputs"]
        if marked:
            return [Tensor(self, n, o) for n, o in marked]
        succ, ops = self._nx.succ, self._nx.nodes
        return [
            t
            for n in self._shapes
            if not succ[n] and ops[n]["op"] != "parameter"
            for t in (self.tensors_of(n)[:1] if operator(ops[n]["op"]).indices else self.tensors_of(n))
        ]

    # ------------------------------------------------------------------ parameters

    def weights(self) -> list[OwnedWeight]:
        """Return every parameter and buffer in program order; those held before are marked as shared."""
        if self._weights is None or self._weights[0] != self._version:
            owned = []
            for name, data in self._nx.nodes(data=True):
                entry = operator(data["op"])
                if entry.weights == "none":
                    continue
                tied = data.get("tied", {})
                shapes = [self._shapes[u][o] for u, o in self._sources(name)]
                owned += [OwnedWeight(name, w, w.role in tied) for w in weights_of(entry, shapes, data)]
            self._weights = (self._version, owned)
        return self._weights[1]

    def _count(self, *roles: str) -> int:
        total = 0
        for _, weight, shared in self.weights():
            if weight.role in roles and not shared:
                n = 1
                for d in weight.shape:
                    n *= d
                total += n
        return total

    @property
    def n_parameters(self) -> int:
        """Parameters (elements), frozen ones too; shared ones count once, buffers not."""
        return self._count("weight", "bias")

    @property
    def n_buffers(self) -> int:
        """Elements stored but not trained: running means and variances, constants; without batch counters."""
        return self._count("buffer")

    # ------------------------------------------------------------------ building

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put the ops added inside under the module path `name`; scopes nest.

        A scope stands for one call of a module, which in eager PyTorch holds what it was given until it returns:
        see :meth:`cnnlive.Lowered.frames`. A second call of the same module takes the path with ``@1``, a
        third with ``@2``.

        Examples
        --------
        >>> g = Graph()
        >>> x = g.input((1, 3, 8, 8))
        >>> with g.scope("layer1"), g.scope("0"):
        ...     g.conv2d(x, 4, 1, name="conv1").name
        'layer1.0.conv1'
        """
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def _free_name(self, base: str) -> str:
        if base not in self._shapes:
            return base
        k = self._counters.get(base, 0)
        while True:
            k += 1
            if f"{base}_{k}" not in self._shapes:
                self._counters[base] = k
                return f"{base}_{k}"

    def op(
        self,
        op: str,
        *inputs: Tensor,
        name: str | None = None,
        tied: str | Mapping[str, str] | None = None,
        frozen: Sequence[str] = (),
        **attrs: Any,
    ) -> Any:
        """Add an op by the operator's name: built-in or registered.

        Parameters
        ----------
        op : str
            Operator of the table.
        *inputs : Tensor
            What it reads.
        name : str, optional
            Name of the node inside the current scope.
        tied : str or mapping of role to str, optional
            Node whose parameters this op shares, or one node per role (``weight``, ``bias``, ``buffer``). That node
            holds, in whatever role, something of as many elements; it may be this one, in a role that is not tied.
        frozen : sequence of str, optional
            Roles that are not trained: ``"weight"``, ``"bias"`` or both. See also :meth:`freeze`.
        **attrs
            The operator's attributes.

        Returns
        -------
        Tensor or tuple of Tensor
            A tuple if there is more than one output.

        Raises
        ------
        UnknownOperatorError, AttributeValueError, ShapeError, GraphError
            Each names the node, the operator, and what is allowed.
        """
        prefix = ".".join(self._scopes)
        if name is None:
            full = self._free_name(f"{prefix}.{op}" if prefix else op)
        else:
            full = f"{prefix}.{name}" if prefix else name
        tensors = self._add(full, op, inputs, attrs, prefix, tied, frozen)
        return tensors[0] if len(tensors) == 1 else tensors

    def _add(
        self,
        name: str,
        op: str,
        inputs: Sequence[Tensor],
        attrs: Mapping[str, Any],
        scope: str = "",
        tied: str | Mapping[str, str] | None = None,
        frozen: Sequence[str] = (),
    ) -> tuple[Tensor, ...]:
        """Add a node under its full name; every way into the graph ends here."""
        if not isinstance(name, str) or not name or not is_text(name):
            raise GraphError(f"an op needs a non-empty text as name, not {name!r}")
        if name in self._shapes:
            raise GraphError(f"{name} ({op}): there is already an op of that name, {self._nx.nodes[name]['op']}")
        if not isinstance(op, str):
            raise UnknownOperatorError(f"{name}: unknown operator {op!r}; allowed: a name of the operator table")
        if not isinstance(scope, str) or not is_text(scope):
            raise GraphError(f"{name} ({op}): scope={scope!r}; allowed: a module path")
        try:
            entry = operator(op)
        except CnnliveError as error:
            raise type(error)(f"{name}: {error}") from None
        for i, t in enumerate(inputs):
            if not isinstance(t, Tensor):
                raise GraphError(f"{name} ({op}): input {i} is {t!r}, not a Tensor")
            if t.graph is not self:
                raise GraphError(f"{name} ({op}): input {i}, {t.name!r}, belongs to another graph")
        least, most = entry.inputs
        if len(inputs) < least or (most is not None and len(inputs) > most):
            allowed = str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            raise GraphError(f"{name} ({op}): {len(inputs)} inputs; allowed: {allowed}")
        values = self._read_attributes(name, entry, attrs)
        shapes = tuple([self._shapes[t.node][t.output] for t in inputs])
        try:
            values = entry.rule.resolve(shapes, values)
            if entry.check is not None:
                entry.check(shapes, values)
            out = entry.rule.infer(shapes, values)
            if not out:
                raise ShapeError("the operator gives no output")
            for shape in out:
                self._check_shape(shape)
            dtypes = self._infer_dtypes(entry, inputs, values, len(out))
        except CnnliveError as error:
            raise type(error)(
                f"{name} ({op}): {error} [input shapes: {', '.join(map(str, shapes)) or 'none'}]"
            ) from None
        if scope:
            values["scope"] = scope
        if tied is not None:
            values["tied"] = self._check_tied(name, entry, shapes, values, tied)
        if frozen:
            values["frozen"] = self._check_frozen(name, entry, shapes, values, frozen)
        self._nx.add_node(name, op=op, **values)
        for i, t in enumerate(inputs):
            self._nx.add_edge(t.node, name, key=i, output=t.output, input=i)
        self._positions[name] = len(self._shapes)
        self._shapes[name] = out
        self._dtypes[name] = dtypes
        self._version += 1
        return tuple([Tensor(self, name, i) for i in range(len(out))])

    @staticmethod
    def _read_attributes(name: str, entry: Operator, attrs: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, attribute in entry.attributes.items():
            value = attrs.get(key, attribute.default)
            if isinstance(value, str) and value == "required":
                raise AttributeValueError(f"{name} ({entry.name}): {key} is missing; allowed: {attribute.kind}")
            try:
                values[key] = attribute.read(value)
            except (ValueError, TypeError) as error:
                raise AttributeValueError(
                    f"{name} ({entry.name}): {key}={value!r}; allowed: {error if str(error) else attribute.kind}"
                ) from None
        for key in attrs:
            if key not in values:
                allowed = ", ".join(entry.attributes) or "none"
                raise AttributeValueError(f"{name} ({entry.name}): unknown attribute {key!r}; allowed: {allowed}")
        return values

    @staticmethod
    def _check_shape(shape: Shape) -> None:
        if not 1 <= len(shape) <= MAX_RANK:
            raise ShapeError(f"the result {shape} has {len(shape)} dimensions; allowed: 1 to {MAX_RANK}")
        total = 1
        for d in shape:
            total *= d
        if total >= _MAX_ELEMENTS or min(shape) < 1:
            raise ShapeError(f"the result {shape} has {total} elements; allowed: 1 to 2**62 - 1")

    @staticmethod
    def _infer_dtypes(entry: Operator, inputs: Sequence[Tensor], values: Mapping[str, Any], n: int) -> tuple[str, ...]:
        if entry.dtype == "promote":
            first = promote(tuple([t.dtype for t in inputs]))
        elif entry.dtype == "attribute":
            first = values["dtype"]
            if isinstance(first, tuple):
                return first
        else:
            first = "int64" if entry.dtype == "index" else inputs[0].dtype
        if n > 1 and entry.indices:
            return (first, *["int64"] * (n - 1))
        return (first,) * n

    def _check_tied(
        self,
        name: str,
        entry: Operator,
        shapes: Sequence[Shape],
        values: Mapping[str, Any],
        tied: str | Mapping[str, str],
    ) -> dict[str, str]:
        mine = weights_of(entry, shapes, values)
        roles = {w.role for w in mine}
        if not isinstance(tied, str | Mapping):
            raise GraphError(f"{name} ({entry.name}): tied={tied!r}; allowed: an op, or a table of role to op")
        table: dict[str, str] = {str(r): tied for r in sorted(roles)} if isinstance(tied, str) else dict(tied)
        for role, other in table.items():
            if role not in roles:
                raise GraphError(
                    f"{name} ({entry.name}): tied names the role {role!r}; allowed: {', '.join(sorted(roles))}"
                )
            if other == name:
                theirs = tuple(w for w in mine if w.role not in table)
            elif isinstance(other, str) and other in self._shapes:
                source = [self._shapes[u][o] for u, o in self._sources(other)]
                data = self._nx.nodes[other]
                theirs = weights_of(operator(data["op"]), source, data)
            else:
                raise GraphError(f"{name} ({entry.name}): tied to {other!r}, which is not an op added before")
            sizes = {math.prod(w.shape) for w in theirs}
            for w in mine:
                if w.role == role and math.prod(w.shape) not in sizes:
                    raise GraphError(
                        f"{name} ({entry.name}): tied to {other!r}, which holds nothing of as many elements as the "
                        f"{w.name} of {w.shape}; it holds {[t.shape for t in theirs]}"
                    )
        return table

    @staticmethod
    def _check_frozen(
        name: str, entry: Operator, shapes: Sequence[Shape], values: Mapping[str, Any], frozen: Sequence[str]
    ) -> tuple[str, ...]:
        held = {w.role for w in weights_of(entry, shapes, values)}
        asked = tuple(frozen) if isinstance(frozen, list | tuple) else (frozen,)
        for role in asked:
            if not isinstance(role, str) or role not in _TRAINED or role not in held:
                allowed = ", ".join(r for r in _TRAINED if r in held) or "none"
                raise GraphError(f"{name} ({entry.name}): frozen names the role {role!r}; allowed: {allowed}")
        return tuple(r for r in _TRAINED if r in asked)

    def freeze(self, *patterns: str) -> None:
        """Mark weights and biases as not trained, as ``requires_grad_(False)`` does.

        A parameter that several ops share is frozen as soon as one of them is. Running statistics and constants
        are never trained; normalisations go on updating theirs.

        Parameters
        ----------
        *patterns : str
            Names of ops, module paths, or :mod:`fnmatch` patterns of them: ``"fc"``, ``"layer1"`` (all below it),
            ``"*.bn?"``. The number of a repeated call (``@1``) may be left out.

        Raises
        ------
        GraphError
            If a pattern matches no op that has weights; then nothing is changed.

        Notes
        -----
        O(n_ops) per pattern.

        Examples
        --------
        >>> g = Graph()
        >>> x = g.input((1, 3, 8, 8))
        >>> with g.scope("stem"):
        ...     x = g.conv2d(x, 4, 3, name="conv")
        >>> g.freeze("stem")
        >>> g.nx.nodes["stem.conv"]["frozen"]
        ('weight', 'bias')
        """
        found: dict[str, tuple[str, ...]] = {}
        roles: dict[str, set[str]] = {}
        for owned in self.weights():
            if owned.weight.role in _TRAINED:
                roles.setdefault(owned.op, set()).add(owned.weight.role)
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise GraphError(f"freeze takes names and patterns, not {pattern!r}")
            hits = named_by(pattern, roles)
            if not hits:
                known = dict.fromkeys([*roles, *(name.rpartition(".")[0] for name in roles)])
                raise GraphError(f"freeze: {pattern!r} matches no op that has weights{close_names(pattern, known)}")
            found |= {name: tuple(r for r in _TRAINED if r in roles[name]) for name in hits}
        for name, mine in found.items():
            self._nx.nodes[name]["frozen"] = mine
        self._version += 1

    def hold(self, tensor: Tensor, until: str | Tensor) -> None:
        """Say through which later op eager Python keeps a tensor alive, whatever reads it.

        That is a local variable that nobody rebinds, a list or a dict of features. It counts in profiles with
        ``frames`` (``"torch"``), and there takes the place of the rule of :meth:`cnnlive.Lowered.frames` for this
        tensor; its readers keep it alive in any case.

        Parameters
        ----------
        tensor : Tensor
        until : str or Tensor
            An op that was added after the tensor's own, by its name or by what it writes. Another call for the same
            tensor replaces the first.

        Raises
        ------
        GraphError
            If the tensor is not of this graph, or `until` is not a later op of it.

        Examples
        --------
        >>> g = Graph()
        >>> x = g.input((1, 1, 4, 4), name="x")
        >>> a = g.conv2d(x, 1, 1, name="a")
        >>> b = g.conv2d(a, 1, 1, name="b")
        >>> g.hold(a, until=g.conv2d(b, 1, 1, name="c"))
        >>> g.nx.nodes["a"]["until"]
        {0: 'c'}
        """
        if not isinstance(tensor, Tensor) or tensor.graph is not self:
            raise GraphError(f"{tensor!r} is not a tensor of this graph")
        if isinstance(until, Tensor) and until.graph is not self:
            raise GraphError(f"hold: {until!r} is not a tensor of this graph")
        last = until.node if isinstance(until, Tensor) else until
        place = self._positions.get(last) if isinstance(last, str) else None
        if place is None:
            raise GraphError(f"hold: {tensor.name} until {last!r}, which is not an op{close_names(last, self._shapes)}")
        if place <= self._positions[tensor.node]:
            raise GraphError(f"hold: {tensor.name} until {last!r}, which does not come after it; allowed: a later op")
        data = self._nx.nodes[tensor.node]
        data["until"] = dict(sorted({**data.get("until", {}), tensor.output: last}.items()))
        self._version += 1

    def _hold_all(self, held: Iterable[tuple[str, Any]]) -> None:
        """Read the key ``until`` of nodes that are all there; its outputs may be texts, as JSON writes them."""
        for name, table in held:
            if not isinstance(table, Mapping):
                raise GraphError(f"{name}: until={table!r}; allowed: a table of output to the name of a later op")
            for output, last in table.items():
                index = int(output) if type(output) is int or _OUTPUT.fullmatch(str(output)) else -1
                if not 0 <= index < len(self._shapes[name]):
                    raise GraphError(f"{name}: until names output {output!r}; it has {len(self._shapes[name])}")
                self.hold(Tensor(self, name, index), last)

    def output(self, *tensors: Tensor) -> None:
        """Mark tensors as outputs of the network, which live to the end of a run.

        Raises
        ------
        GraphError
            If a tensor belongs to another graph.
        """
        for t in tensors:
            if not isinstance(t, Tensor) or t.graph is not self:
                raise GraphError(f"{t!r} is not a tensor of this graph")
            if (t.node, t.output) not in self._nx.graph["outputs"]:
                self._nx.graph["outputs"].append((t.node, t.output))
        self._version += 1

    def order_parameters(self, *paths: str) -> None:
        """Say in which order the framework lists the parameters, where that is not program order.

        An optimizer goes through its parameters in that order, which shows in its temporaries.

        Parameters
        ----------
        *paths : str
            Names of ops or module paths; ops under none of them come last, in program order.

        Raises
        ------
        GraphError
            If a path is not a text.
        """
        for path in paths:
            if not isinstance(path, str):
                raise GraphError(f"order_parameters takes names of ops and module paths, not {path!r}")
        self._nx.graph["parameter_order"] = list(paths)
        self._version += 1

    @property
    def parameter_order(self) -> list[str]:
        """Ops in the order in which the framework lists their parameters; see :meth:`order_parameters`."""
        paths = {path: i for i, path in enumerate(self._nx.graph["parameter_order"])}
        if not paths:
            return list(self._shapes)

        def rank(name: str) -> int:
            while name not in paths and "." in name:
                name = name.rpartition(".")[0]
            return paths.get(name, len(paths))

        return sorted(self._shapes, key=rank)

    # ------------------------------------------------------------------ other forms

    @classmethod
    def from_networkx(cls, graph: networkx.DiGraph, name: str | None = None) -> Graph:
        """Build a graph from a networkx DAG made by hand.

        Parameters
        ----------
        graph : networkx.DiGraph or networkx.MultiDiGraph
            Nodes named by texts with the attribute ``op`` and the operator's parameters (and optionally
            ``scope``, ``tied``, ``frozen``, ``until``); edges with ``input`` (may be left out at a node with one
            input) and ``output`` (default 0). ``graph.graph["outputs"]`` may list outputs as ``(node, index)``,
            ``graph.graph["parameter_order"]`` paths as :meth:`order_parameters` takes them.
        name : str, optional
            Default: ``graph.graph["name"]``.

        Returns
        -------
        Graph
            Insertion order is kept where it is a legal order, else the closest legal one is taken.

        Raises
        ------
        CycleError
            If there is a cycle; the message lists its nodes.
        GraphError
            If an op, an edge attribute or an input is missing.

        Notes
        -----
        O((n_ops + n_edges) log n_ops). ``Graph.from_networkx(g.nx)`` equals `g`.
        """
        if not isinstance(graph, networkx.DiGraph):
            raise GraphError(f"{type(graph).__name__} is not a directed networkx graph")
        position = {n: i for i, n in enumerate(graph)}
        order: Iterable[Any] = position
        if any(position[u] >= position[v] for u, v in graph.edges()):
            try:
                order = list(networkx.lexicographical_topological_sort(graph, key=position.__getitem__))
            except networkx.NetworkXUnfeasible:
                cycle = [str(edge[0]) for edge in networkx.find_cycle(graph)]
                raise CycleError(f"the graph has a cycle: {' -> '.join([*cycle, cycle[0]])}") from None
        result = cls(str(graph.graph.get("name", "")) if name is None else name)
        held: list[tuple[str, Any]] = []
        for n in order:
            data = dict(graph.nodes[n])
            if not isinstance(n, str):
                raise GraphError(f"an op needs a non-empty text as name, not {n!r}")
            if "op" not in data:
                raise GraphError(f"node {n!r} has no attribute 'op'")
            op, scope, tied = data.pop("op"), data.pop("scope", ""), data.pop("tied", None)
            frozen, told = data.pop("frozen", ()), data.pop("tflm", None)
            if "until" in data:
                held.append((n, data.pop("until")))
            edges = [(u, e) for u, _, e in graph.in_edges(n, data=True)]
            sources: dict[int, Tensor] = {}
            for u, e in edges:
                if "input" not in e and len(edges) > 1:
                    raise GraphError(
                        f"edge {u!r} -> {n!r} has no attribute 'input' and {n!r} reads {len(edges)} tensors"
                    )
                slot, output = e.get("input", 0), e.get("output", 0)
                if type(slot) is not int or type(output) is not int:
                    raise GraphError(f"edge {u!r} -> {n!r} has input={slot!r}, output={output!r}; allowed: integers")
                if slot in sources:
                    raise GraphError(f"node {n!r} has two edges with input={slot}")
                if not 0 <= output < len(result._shapes[u]):
                    raise GraphError(f"edge {u!r} -> {n!r}: {u!r} has no output {output}")
                sources[slot] = Tensor(result, u, output)
            if sorted(sources) != list(range(len(sources))):
                raise GraphError(f"node {n!r} has edges with input={sorted(sources)}; allowed: 0 to {len(sources) - 1}")
            result._add(n, op, [sources[i] for i in range(len(sources))], data, scope, tied, frozen)
            if told is not None:
                result._tell(n, told)
        result._hold_all(held)
        result._mark(graph.graph.get("outputs", ()), graph.graph.get("parameter_order", ()))
        return result

    def _tensor(self, pair: Any, who: str, what: str) -> Tensor:
        """Return the tensor that an op and the number of its output name; the texts are what errors say around it."""
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise GraphError(f"{who} {pair!r}; allowed: an op and the number of its output")
        op, output = pair
        if not isinstance(op, str) or type(output) is not int or not 0 <= output < len(self._shapes.get(op, ())):
            raise GraphError(f"{who} tensor {output!r} of {op!r}, {what}")
        return Tensor(self, op, output)

    def _mark(self, outputs: Any, parameter_order: Any) -> None:
        """Read the lists that a graph carries beside its ops."""
        for what, rows in (("outputs", outputs), ("parameter_order", parameter_order)):
            if not isinstance(rows, list | tuple):
                raise GraphError(f"{what}={rows!r}; allowed: a list")
        for pair in outputs:
            self.output(self._tensor(pair, "the graph has no", "listed under outputs"))
        self.order_parameters(*parameter_order)

    def _tell(self, name: str, told: Any) -> None:
        """Check and keep what TensorFlow Lite Micro's planner is told of an op."""
        fine = isinstance(told, Mapping) and set(told) <= {"tensors", "scratch", "idle"}
        if fine:
            tensors, scratch, idle = (told.get(key, []) for key in ("tensors", "scratch", "idle"))
            fine = (
                all(isinstance(row, list | tuple) for row in (tensors, scratch, idle))
                and len(tensors) == len(self._shapes[name])
                and all(isinstance(row, list | tuple) and len(row) == 2 for row in idle)
            )
        if fine:
            numbers = [*tensors, *scratch, *(x for row in idle for x in row)]
            fine = all(type(x) is int and x >= 0 for x in numbers) and sum(numbers) < _MAX_ELEMENTS
        if not fine:
            raise GraphError(
                f"{name}: tflm={told!r}; allowed: a table with the numbers of the op's tensors, bytes of scratch and "
                "pairs of idle tensors and their bytes"
            )
        self._nx.nodes[name]["tflm"] = told

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as plain data, as :meth:`to_json` writes it."""
        ops = []
        for name, data in self._nx.nodes(data=True):
            row = {"name": name, "op": data["op"], "inputs": [[u, o] for u, o in self._sources(name)]}
            row |= {k: data[k] for k in ("scope", "tied") if k in data}
            if "frozen" in data:
                row["frozen"] = list(data["frozen"])
            if "until" in data:
                row["until"] = {str(output): last for output, last in data["until"].items()}
            if "tflm" in data:
                row["tflm"] = data["tflm"]
            row["attributes"] = self.attributes(name)
            ops.append(row)
        data = {
            "format": FORMAT,
            "name": self.name,
            "ops": ops,
            "outputs": [list(o) for o in self._nx.graph["outputs"]],
        }
        order = self._nx.graph["parameter_order"]
        return {**data, "parameter_order": list(order)} if order else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Build a graph from what :meth:`to_dict` returns.

        Raises
        ------
        GraphError
            If the data has another form, or a key that is not known; errors of the ops as in :meth:`op`.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise GraphError(f"not a cnnlive graph; 'format' has to be {FORMAT!r}")
        _check_keys(data, _TOP, ("ops",), "the graph")
        name, rows = data.get("name", ""), data["ops"]
        if not isinstance(rows, list | tuple):
            raise GraphError(f"ops is a {type(rows).__name__}; allowed: a list")
        graph = cls(name)
        for k, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise GraphError(f"op {k} is {row!r}; allowed: a table")
            who = str(row.get("name", f"op {k}"))
            _check_keys(row, _ROW, ("name", "op", "inputs"), who)
            inputs, attributes = row["inputs"], row.get("attributes", {})
            if not isinstance(inputs, list | tuple) or not isinstance(attributes, Mapping):
                raise GraphError(f"{who}: inputs={inputs!r}, attributes={attributes!r}; allowed: a list and a table")
            sources = [graph._tensor(pair, f"{who} reads", "which no op before it writes") for pair in inputs]
            graph._add(row["name"], row["op"], sources, attributes, row.get("scope", ""), row.get("tied"),
                       row.get("frozen", ()))  # fmt: skip
            if "tflm" in row:
                graph._tell(row["name"], row["tflm"])
        graph._hold_all((row["name"], row["until"]) for row in rows if "until" in row)
        graph._mark(data.get("outputs", ()), data.get("parameter_order", ()))
        return graph

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the graph as JSON; :func:`cnnlive.read_json` reads it back exactly.

        Parameters
        ----------
        path : path, optional
            File to write; the text is returned in any case.
        """
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text
