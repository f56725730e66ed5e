"""Liveness as a user of networkx would write it: a DAG of ops in the order they run, and one loop over it.

A node has ``nbytes``, what the op allocates, and ``buffer``, the node whose bytes its output lies in: itself, or for a
view and an op in place the node that it changes. An edge says that an op reads what another wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import networkx as nx

__all__ = ["dag_of", "macro_dag", "peak", "rows_of"]

Row = tuple[str, int, str, tuple[str, ...]]


def peak(dag: nx.DiGraph, kept: Iterable[str] = ()) -> int:
    """Return the most bytes alive at once; what nobody reads, and what is `kept`, is never let go."""
    buffer = dag.nodes(data="buffer")
    readers = dict.fromkeys(dag, 0)
    for source, _ in dag.edges:
        readers[buffer[source]] += 1
    for op in kept:
        readers[buffer[op]] += 1
    live = most = 0
    for op, nbytes in dag.nodes(data="nbytes"):
        live += nbytes
        most = max(most, live)
        for source in dag.predecessors(op):
            owner = buffer[source]
            readers[owner] -= 1
            if not readers[owner]:
                live -= dag.nodes[owner]["nbytes"]
    return most


def dag_of(rows: Sequence[Row]) -> nx.DiGraph:
    """Build the graph from rows of an op's name, bytes, buffer and the ops that it reads, in the order they run."""
    dag = nx.DiGraph()
    for name, nbytes, buffer, reads in rows:
        dag.add_node(name, nbytes=nbytes, buffer=buffer)
        dag.add_edges_from((source, name) for source in reads)
    return dag


def rows_of(graph: Any) -> list[Row]:
    """Take the rows from a graph of cnnlive's: its ops in order, what they read, and the bytes of its plan."""
    import cnnlive  # noqa: PLC0415 - the rest needs networkx alone

    plan = cnnlive.plan_inference(graph)
    reads: dict[str, list[str]] = {}
    for source, op, _ in sorted(graph.nx.edges(keys=True), key=lambda edge: edge[2]):
        reads.setdefault(op, []).append(source)
    rows: list[Row] = []
    buffer: dict[str, str] = {}
    for op in plan.ops:
        sources = tuple(dict.fromkeys(reads.get(op.name, ())))
        buffer[op.name] = op.name if op.output_bytes or not sources else buffer[sources[0]]
        rows.append((op.name, op.output_bytes, buffer[op.name], sources))
    return rows


def macro_dag(layers: Iterable[int]) -> tuple[nx.DiGraph, int]:
    """Return the graph of a member of NAS-Bench-Macro at batch 1 in float32, and the bytes of its weights.

    What somebody has to write who has networkx alone: shapes, sizes, what works in place, what has how many weights.
    """
    dag = nx.DiGraph()
    dag.add_node("image", nbytes=4 * 3 * 32 * 32, buffer="image")
    weights = 0

    def add(nbytes: int, *reads: str, inplace: bool = False) -> str:
        name = f"op{len(dag)}"
        dag.add_node(name, nbytes=0 if inplace else nbytes, buffer=dag.nodes[reads[0]]["buffer"] if inplace else name)
        dag.add_edges_from((source, name) for source in reads)
        return name

    def conv_bn(x: str, inputs: int, outputs: int, size: int, kernel: int = 1, groups: int = 1, relu: bool = True):
        nonlocal weights
        weights += 4 * (outputs * (inputs // groups) * kernel * kernel + 4 * outputs) + 8
        nbytes = 4 * outputs * size * size
        x = add(nbytes, add(nbytes, x))
        return add(nbytes, x, inplace=True) if relu else x

    size, inputs = 32, 32
    x = conv_bn("image", 3, 32, size, 3)
    places = ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
    for kind, (outputs, stride) in zip(layers, places, strict=True):
        if kind:
            kernel, wide = (3, 3 * inputs) if kind == 1 else (5, 6 * inputs)
            y = conv_bn(x, inputs, wide, size)
            size //= stride
            y = conv_bn(y, wide, wide, size, kernel, wide)
            y = conv_bn(y, wide, outputs, size, relu=False)
            x = add(4 * outputs * size * size, y, x) if stride == 1 else y
        elif stride > 1:
            size //= stride
            x = conv_bn(x, inputs, outputs, size, relu=False)
        inputs = outputs
    x = conv_bn(x, inputs, 1280, size)
    x = add(0, add(4 * 1280, x), inplace=True)
    add(4 * 10, x)
    return dag, weights + 4 * (1280 * 10 + 10)
