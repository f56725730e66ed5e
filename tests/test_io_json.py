"""Graphs as JSON and as networkx graphs: exact round trips, and errors that say what is wrong."""

from __future__ import annotations

import copy
import json

import networkx as nx
import numpy as np
import pytest

from cnnlive import Graph, read_json
from cnnlive.errors import CnnliveError, CycleError, GraphError, ReadError, UnknownOperatorError


def every_kind_of_attribute():
    """Build a graph whose attributes are integers, floats, texts, truth values, None, tuples and pairs."""
    g = Graph("all kinds")
    x = g.input((2, 8, 16, 16))
    with g.scope("stem"), g.scope("0"):
        x = g.conv2d(x, 8, 3, stride=(2, 1), padding=((0, 1), (1, 0)), bias=False, name="conv")
        x = g.batch_norm2d(x, eps=1e-3, inplace=True)
    y = g.op("conv2d", x, out_channels=8, kernel_size=3, padding="same", groups=2, name="first")
    z = g.op("conv2d", y, out_channels=8, kernel_size=3, padding="same", groups=2, tied="first", name="second")
    z = g.clip(z, min=None, max=0.1)
    a, b = g.split(z, (3, 5))
    b = g.slice(b, (2, 3), (0, 1), (None, -1), (2, 1))
    a = g.interpolate(a, scale_factor=1.7, mode="bilinear")
    p, _ = g.max_pool2d_with_indices(b, 2, ceil_mode=True)
    p = g.scale(p, factor=1 / 3, offset=-0.0)
    p = g.mul(p, g.parameter((5, 1, 1), "float16", trainable=False))
    flat = g.reshape(g.adaptive_avg_pool2d(p, (1, None)), (2, -1))
    q = g.cast(g.mean(a, (2, 3)), "float16")
    last = g.linear(flat, 7)
    g.output(last, q)
    g.hold(a, until=q)
    g.hold(b, until=last)
    g.hold(y, until="second")
    g.freeze("stem", "first")
    return g


def chain():
    g = Graph("chain")
    x = g.relu(g.conv2d(g.input((1, 3, 8, 8), name="x"), 4, 3, name="conv"), name="relu")
    g.output(g.add(x, g.sigmoid(x, name="gate"), name="sum"))
    return g


def changed(**edits):
    """Return the chain as plain data, with entries of its third op, ``relu``, replaced."""
    data = chain().to_dict()
    data["ops"][2].update(edits)
    return data


# ---------------------------------------------------------------------------------- round trips


def test_a_graph_comes_back_exactly_from_text_file_and_data(tmp_path):
    g = every_kind_of_attribute()
    text = g.to_json(tmp_path / "net.json")
    for source in (
        text,
        "\n " + text,
        tmp_path / "net.json",
        str(tmp_path / "net.json"),
        g.to_dict(),
        json.loads(text),
    ):
        back = read_json(source)
        assert back.to_dict() == g.to_dict()
        assert back.to_json() == text
        assert back.name == g.name
        assert [t.name for t in back.outputs] == [t.name for t in g.outputs]
        assert (back.n_parameters, back.n_buffers) == (g.n_parameters, g.n_buffers)
        assert all(
            [(t.shape, t.dtype) for t in back.tensors_of(n)] == [(t.shape, t.dtype) for t in g.tensors_of(n)]
            for n in g.nodes()
        )


def test_an_empty_graph_comes_back():
    assert read_json(Graph("nothing").to_json()).to_dict() == Graph("nothing").to_dict()


def test_names_of_any_script_come_back(tmp_path):
    g = Graph("grüße")
    g.input((1, 2), name="入力")
    g.to_json(tmp_path / "net.json")
    assert read_json(tmp_path / "net.json").nodes() == ["入力"]


def test_reading_does_not_change_the_data():
    data = chain().to_dict()
    before = copy.deepcopy(data)
    read_json(data)
    assert data == before


# ---------------------------------------------------------------------------------- errors


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00\x80")
    for path, words in [
        (tmp_path / "missing.json", r"missing\.json' cannot be read as a graph: No such file"),
        (str(tmp_path / "missing.json"), r"missing\.json' cannot be read as a graph"),
        (tmp_path, "cannot be read as a graph"),
        (tmp_path / "bytes.json", r"bytes\.json' cannot be read as a graph"),
    ]:
        with pytest.raises(ReadError, match=words):
            read_json(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1, 2]", "JSON of type list; allowed: an object"),
        ("7", "JSON of type int"),
        ('{"a": ' * 100_000, "is not JSON"),
        ("{}", "not a cnnlive graph; 'format'"),
        ('{"format": "cnnlive-graph-1", "ops": [], "ops": []}', "the key 'ops' stands twice in one object"),
        ('{"format": "other"}', "'format' has to be 'cnnlive-graph-1'"),
    ],
)
def test_damaged_json_is_an_error_that_names_the_file(tmp_path, text, words):
    path = tmp_path / "net.json"
    path.write_text(text)
    with pytest.raises(CnnliveError, match=rf"net\.json'.*{words}"):
        read_json(path)


WRONG = {
    "unknown op": (changed(op="reluu"), r"relu: unknown operator 'reluu'; did you mean relu"),
    "no op": (changed(op=None), "relu: unknown operator None"),
    "dangling": (
        changed(inputs=[["nowhere", 0]]),
        "relu reads tensor 0 of 'nowhere', which no op before it writes",
    ),
    "later": (changed(inputs=[["gate", 0]]), "relu reads tensor 0 of 'gate', which no op before it writes"),
    "output": (changed(inputs=[["conv", 1]]), "relu reads tensor 1 of 'conv'"),
    "output type": (changed(inputs=[["conv", "0"]]), "relu reads tensor '0' of 'conv'"),
    "no pairs": (changed(inputs=["conv"]), "relu reads 'conv'; allowed: an op and the number of its output"),
    "inputs type": (changed(inputs=7), "relu: inputs=7"),
    "inputs": (changed(inputs=[]), r"relu \(relu\): 0 inputs; allowed: 1"),
    "unknown attribute": (changed(attributes={"slope": 1}), r"relu \(relu\): unknown attribute 'slope'"),
    "attribute type": (changed(attributes={"inplace": "perhaps"}), r"relu \(relu\): inplace='perhaps'"),
    "attributes type": (changed(attributes=[1]), r"relu: .*attributes=\[1\]; allowed"),
    "name twice": (changed(name="conv"), "conv.*already an op of that name"),
    "name type": (changed(name=7), "non-empty text as name, not 7"),
    "tied": (changed(tied={"weight": "conv"}), r"relu \(relu\): tied names the role 'weight'"),
    "frozen": (changed(frozen=["weight"]), r"relu \(relu\): frozen names the role 'weight'; allowed: none"),
    "frozen type": (changed(frozen=7), r"relu \(relu\): frozen names the role 7; allowed: none"),
    "frozen item": (changed(frozen=[["weight"]]), r"relu \(relu\): frozen names the role \['weight'\]; allowed: none"),
    "until nothing": (changed(until={"0": "gates"}), "relu until 'gates', which is not an op; did you mean gate"),
    "until itself": (changed(until={"0": "relu"}), "relu until 'relu', which does not come after it"),
    "until before": (changed(until={"0": "conv"}), "relu until 'conv', which does not come after it"),
    "until output": (changed(until={"1": "sum"}), "relu: until names output '1'; it has 1"),
    "until name": (changed(until={"first": "sum"}), "relu: until names output 'first'; it has 1"),
    "until no text": (changed(until={"0": ["sum"]}), r"relu until \['sum'\], which is not an op"),
    "until type": (changed(until="sum"), "relu: until='sum'; allowed: a table of output to the name of a later op"),
    "no ops": ({"format": "cnnlive-graph-1"}, "the graph lacks the key 'ops'"),
    "ops type": ({"format": "cnnlive-graph-1", "ops": 3}, "ops is a int; allowed: a list"),
    "row type": ({"format": "cnnlive-graph-1", "ops": ["relu"]}, "op 0 is 'relu'; allowed: a table"),
    "key": (changed(frozne=["weight"]), "relu has the key 'frozne'; .*did you mean frozen"),
    "no name": ({"format": "cnnlive-graph-1", "ops": [{"op": "relu", "inputs": []}]}, "op 0 lacks the key 'name'"),
    "scope type": (changed(scope=1), r"relu \(relu\): scope=1; allowed: a module path"),
    "tied type": (changed(tied=7), r"relu \(relu\): tied=7; allowed: an op"),
    "operator type": (changed(op=["relu"]), r"relu: unknown operator \['relu'\]"),
    "too large": (
        changed(op="conv2d", attributes={"out_channels": 1, "kernel_size": 1, "stride": 2**63}),
        "stride=9223372036854775808; allowed: an integer of 64 bits",
    ),
    "tflm": (changed(tflm={"tensors": [0], "scratch": [-4]}), "relu: tflm=.*allowed: a table"),
    "outputs type": ({**chain().to_dict(), "outputs": "sum"}, "outputs='sum'; allowed: a list"),
    "graph name": ({**chain().to_dict(), "name": 7}, "the graph is named 7; allowed: a text"),
    "graph key": ({**chain().to_dict(), "output": []}, "the graph has the key 'output'; .*did you mean outputs"),
    "outputs": ({**chain().to_dict(), "outputs": [["sum", 1]]}, "no tensor 1 of 'sum', listed under outputs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_is_an_error_that_says_what_is_wrong(tmp_path, case):
    data, words = WRONG[case]
    with pytest.raises(CnnliveError, match=words):
        read_json(data)
    (tmp_path / "net.json").write_text(json.dumps(data))
    with pytest.raises(CnnliveError, match=rf"net\.json': .*{words}"):
        read_json(tmp_path / "net.json")


def test_an_unknown_operator_stays_that_error_in_a_file():
    with pytest.raises(UnknownOperatorError):
        read_json(json.dumps(changed(op="reluu")))


def leaves(data, path=()):
    """Yield the path of every entry of nested data."""
    if isinstance(data, dict | list):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            yield (*path, key)
            yield from leaves(data[key], (*path, key))


def test_damaged_data_either_reads_or_is_a_clear_error():
    data = json.loads(every_kind_of_attribute().to_json())
    places = list(leaves(data))
    rng = np.random.default_rng(3)
    values = [
        None,
        -1,
        0,
        2**70,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "relu",
        True,
        [],
        [0],
        [[0]],
        {},
        {"a": 1},
    ]
    refused = 0
    for _ in range(400):
        damaged = copy.deepcopy(data)
        *path, last = places[rng.integers(len(places))]
        parent = damaged
        for key in path:
            parent = parent[key]
        if rng.random() < 0.25:
            del parent[last]
        else:
            parent[last] = values[rng.integers(len(values))]
        try:
            read_json(damaged)
        except CnnliveError:
            refused += 1
    assert refused > 100


def test_damaged_text_either_reads_or_is_a_clear_error(tmp_path):
    text = chain().to_json().encode()
    rng = np.random.default_rng(5)
    path = tmp_path / "net.json"
    for _ in range(200):
        damaged = bytearray(text)
        for at in rng.integers(0, len(text), rng.integers(1, 3)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(text))] if rng.random() < 0.1 else damaged)
        try:
            read_json(path)
        except CnnliveError as error:
            assert "net.json" in str(error)  # noqa: PT017 - most damage is refused, some is harmless


# ---------------------------------------------------------------------------------- networkx


def test_a_graph_comes_back_from_networkx():
    g = every_kind_of_attribute()
    assert Graph.from_networkx(g.nx).to_dict() == g.to_dict()


def test_a_plain_digraph_in_any_order_is_read():
    d = nx.DiGraph(name="by hand")
    d.add_node("last", op="add")
    d.add_node("act", op="relu")
    d.add_node("x", op="input", shape=(1, 3, 8, 8))
    d.add_edge("x", "act")
    d.add_edge("act", "last", input=1)
    d.add_edge("x", "last", input=0)
    g = Graph.from_networkx(d)
    assert g.nodes() == ["x", "act", "last"]
    assert [t.node for t in g.inputs_of("last")] == ["x", "act"]
    assert g.name == "by hand"


def test_a_cycle_is_named():
    d = nx.DiGraph()
    d.add_node("x", op="input", shape=(1, 2))
    for n in ("a", "b", "c"):
        d.add_node(n, op="relu")
    d.add_edges_from([("a", "b"), ("b", "c"), ("c", "a")], input=0)
    with pytest.raises(CycleError, match="a -> b -> c -> a"):
        Graph.from_networkx(d)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([{}, {"input": 1}], "has no attribute 'input' and 'sum' reads 2 tensors"),
        ([{"input": 0}, {"input": 0}], "two edges with input=0"),
        ([{"input": 0}, {"input": 2}], r"input=\[0, 2\]; allowed: 0 to 1"),
        ([{"input": 0}, {"input": 1, "output": 3}], "has no output 3"),
    ],
)
def test_edges_that_do_not_say_what_they_feed_are_errors(edges, words):
    d = nx.MultiDiGraph()
    d.add_node("x", op="input", shape=(1, 2))
    d.add_node("sum", op="add")
    for attrs in edges:
        d.add_edge("x", "sum", **attrs)
    with pytest.raises(GraphError, match=words):
        Graph.from_networkx(d)


def test_a_node_without_an_operator_and_an_undirected_graph_are_errors():
    d = nx.DiGraph()
    d.add_node("x")
    with pytest.raises(GraphError, match="'x' has no attribute 'op'"):
        Graph.from_networkx(d)
    with pytest.raises(GraphError, match="Graph is not a directed networkx graph"):
        Graph.from_networkx(nx.Graph())
