"""The graph of a CNN: a networkx MultiDiGraph with a builder around it.

Nodes are ops keyed by a unique name, with the attribute ``op`` and the operator's parameters; an edge is
one use of a tensor, with ``output`` (index at the producer) and ``input`` (index at the consumer). Every
shape is known as soon as an op is added, and nothing is guessed: an unknown operator, attribute or shape
is an error that names the node.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import networkx

from cnnlive._builder import Builder
from cnnlive._types import Shape, promote
from cnnlive.errors import AttributeValueError, CnnliveError, CycleError, GraphError, ShapeError
from cnnlive.ops import MAX_RANK, Operator, Weight, operator, weights_of

__all__ = ["FORMAT", "Graph", "OwnedWeight", "Tensor"]

FORMAT: Final = "cnnlive-graph-1"
_MAX_ELEMENTS: Final = 2**62


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
        self._nx: networkx.MultiDiGraph = networkx.MultiDiGraph(name=name, outputs=[])
        self._shapes: dict[str, tuple[Shape, ...]] = {}
        self._dtypes: dict[str, tuple[str, ...]] = {}
        self._scopes: list[str] = []
        self._counters: dict[str, int] = {}
        self._version = 0
        self._lowered: tuple[int, Any] | None = None  # held for cnnlive.lower
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
        """Return the operator's parameters at a node, canonical, without ``op``, ``scope`` and ``tied``.

        Raises
        ------
        GraphError
            If there is no such node.
        """
        data = self._data(name)
        return {k: v for k, v in data.items() if k not in ("op", "scope", "tied")}

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
        """Trainable parameters (elements); shared ones count once, buffers not."""
        return self._count("weight", "bias")

    @property
    def n_buffers(self) -> int:
        """Elements stored but not trained: running means and variances, constants; without batch counters."""
        return self._count("buffer")

    # ------------------------------------------------------------------ building

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put the ops added inside under the module path `name`; scopes nest.

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
        tensors = self._add(full, op, inputs, attrs, prefix, tied)
        return tensors[0] if len(tensors) == 1 else tensors

    def _add(
        self,
        name: str,
        op: str,
        inputs: Sequence[Tensor],
        attrs: Mapping[str, Any],
        scope: str = "",
        tied: str | Mapping[str, str] | None = None,
    ) -> tuple[Tensor, ...]:
        """Add a node under its full name; every way into the graph ends here."""
        if not isinstance(name, str) or not name:
            raise GraphError(f"an op needs a non-empty text as name, not {name!r}")
        if name in self._shapes:
            raise GraphError(f"{name} ({op}): there is already an op of that name, {self._nx.nodes[name]['op']}")
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
        self._nx.add_node(name, op=op, **values)
        for i, t in enumerate(inputs):
            self._nx.add_edge(t.node, name, key=i, output=t.output, input=i)
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
        if total >= _MAX_ELEMENTS or total < 1:
            raise ShapeError(f"the result {shape} has {total} elements; allowed: 1 to 2**62 - 1")

    @staticmethod
    def _infer_dtypes(entry: Operator, inputs: Sequence[Tensor], values: Mapping[str, Any], n: int) -> tuple[str, ...]:
        if entry.dtype == "promote":
            first = promote(tuple([t.dtype for t in inputs]))
        elif entry.dtype == "attribute":
            first = values["dtype"]
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
        table: dict[str, str] = {str(r): tied for r in sorted(roles)} if isinstance(tied, str) else dict(tied)
        for role, other in table.items():
            if role not in roles:
                raise GraphError(
                    f"{name} ({entry.name}): tied names the role {role!r}; allowed: {', '.join(sorted(roles))}"
                )
            if other == name:
                theirs = tuple(w for w in mine if w.role not in table)
            elif other in self._shapes:
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

    # ------------------------------------------------------------------ other forms

    @classmethod
    def from_networkx(cls, graph: networkx.DiGraph, name: str | None = None) -> Graph:
        """Build a graph from a networkx DAG made by hand.

        Parameters
        ----------
        graph : networkx.DiGraph or networkx.MultiDiGraph
            Nodes named by texts with the attribute ``op`` and the operator's parameters (and optionally
            ``scope``, ``tied``); edges with ``input`` (may be left out at a node with one input) and
            ``output`` (default 0). ``graph.graph["outputs"]`` may list outputs as ``(node, index)``.
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
        for n in order:
            data = dict(graph.nodes[n])
            if "op" not in data:
                raise GraphError(f"node {n!r} has no attribute 'op'")
            op, scope, tied = data.pop("op"), data.pop("scope", ""), data.pop("tied", None)
            edges = [(u, e) for u, _, e in graph.in_edges(n, data=True)]
            sources: dict[int, Tensor] = {}
            for u, e in edges:
                if "input" not in e and len(edges) > 1:
                    raise GraphError(
                        f"edge {u!r} -> {n!r} has no attribute 'input' and {n!r} reads {len(edges)} tensors"
                    )
                slot, output = e.get("input", 0), e.get("output", 0)
                if slot in sources:
                    raise GraphError(f"node {n!r} has two edges with input={slot}")
                if not 0 <= output < len(result._shapes[u]):
                    raise GraphError(f"edge {u!r} -> {n!r}: {u!r} has no output {output}")
                sources[slot] = Tensor(result, u, output)
            if sorted(sources) != list(range(len(sources))):
                raise GraphError(f"node {n!r} has edges with input={sorted(sources)}; allowed: 0 to {len(sources) - 1}")
            result._add(n, op, [sources[i] for i in range(len(sources))], data, scope, tied)
        for node, index in graph.graph.get("outputs", ()):
            if node not in result or not 0 <= index < len(result._shapes[node]):
                raise GraphError(f"the graph has no tensor {index} of {node!r}, listed under outputs")
            result.output(Tensor(result, node, index))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as plain data, as :meth:`to_json` writes it."""
        ops = []
        for name, data in self._nx.nodes(data=True):
            row = {"name": name, "op": data["op"], "inputs": [[u, o] for u, o in self._sources(name)]}
            row |= {k: data[k] for k in ("scope", "tied") if k in data}
            row["attributes"] = self.attributes(name)
            ops.append(row)
        return {
            "format": FORMAT,
            "name": self.name,
            "ops": ops,
            "outputs": [list(o) for o in self._nx.graph["outputs"]],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Build a graph from what :meth:`to_dict` returns.

        Raises
        ------
        GraphError
            If the data has another form; errors of the ops as in :meth:`op`.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise GraphError(f"not a cnnlive graph; 'format' has to be {FORMAT!r}")
        try:
            graph = cls(str(data.get("name", "")))
            for row in data["ops"]:
                sources = []
                for u, o in row["inputs"]:
                    if u not in graph or not 0 <= o < len(graph._shapes[u]):
                        raise GraphError(f"{row['name']} reads tensor {o} of {u!r}, which no op before it writes")
                    sources.append(Tensor(graph, u, o))
                graph._add(
                    row["name"],
                    row["op"],
                    sources,
                    row.get("attributes", {}),
                    row.get("scope", ""),
                    row.get("tied"),
                )
            for u, o in data.get("outputs", ()):
                if u not in graph or not 0 <= o < len(graph._shapes[u]):
                    raise GraphError(f"the graph has no tensor {o} of {u!r}, listed under outputs")
                graph.output(Tensor(graph, u, o))
        except CnnliveError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"the data is not a cnnlive graph: {type(error).__name__} {error}") from None
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
