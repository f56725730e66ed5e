"""Every kernel against its oracle: the plain-Python shape rules, definitions on sets, brute force."""

import itertools

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, graphs_and_orders

from cnnlive import Graph, errors, lower
from cnnlive._kernels import liveness, shapes
from cnnlive.ops import MAX_RANK, OPERATORS, RULES, operator


def column(values):
    array = np.ascontiguousarray(values, dtype=np.int64)
    array.setflags(write=False)
    return array


# ------------------------------------------------------------------ shapes and counts


def assert_shapes_equal_the_rules(graph, batch=None):
    """Propagate the lowered graph, and walk the graph itself with the Python rules."""
    net = lower(graph)
    sizes = net._propagate(batch or 0)
    if batch is None:  # what lowering takes from the graph is what the kernel finds
        assert all((getattr(net.sizes, f) == getattr(sizes, f)).all() for f in ("rank", "dims", "numel"))
    known = {}
    tensor = 0
    for name in graph.nodes():
        entry, attrs = operator(graph.op_of(name)), graph.attributes(name)
        if batch is not None and entry.name == "input":
            attrs["shape"] = (batch, *attrs["shape"][1:])
        read = [known[s] for s in naive.sources(graph, name)]
        for output, shape in enumerate(entry.rule.infer(read, attrs)):
            known[name, output] = shape
            assert net.shape(tensor, sizes) == shape, name
            assert sizes.numel[tensor] == np.prod(shape)
            assert sizes.dims[tensor, len(shape) :].tolist() == [1] * (MAX_RANK - len(shape))
            tensor += 1
    assert tensor == net.n_tensors


@given(graph=graphs(max_ops=14), batch=st.sampled_from([None, 1, 2, 7]))
def test_shapes_equal_the_rules(graph, batch):
    assert_shapes_equal_the_rules(graph, batch)


ONE_OP = {
    "opaque": ((2, 6, 9), {"kind": "mystery", "shapes": ((2, 5), (2, 3, 4)), "dtype": ("int8", "float32")}),
    "conv1d": ((2, 6, 9), {"out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}),
    "conv2d": (
        (2, 6, 9, 8),
        {"out_channels": 4, "kernel_size": (3, 1), "dilation": 2, "padding": ((2, 0), (0, 1))},
    ),
    "conv3d": (
        (1, 2, 5, 5, 5),
        {"out_channels": 3, "kernel_size": 2, "stride": (1, 2, 3), "padding": "same_lower"},
    ),
    "conv_transpose1d": (
        (1, 4, 5),
        {"out_channels": 6, "kernel_size": 4, "stride": 3, "padding": 1, "output_padding": 2},
    ),
    "conv_transpose2d": (
        (1, 4, 5, 3),
        {"out_channels": 6, "kernel_size": 3, "stride": 2, "padding": "same", "groups": 2},
    ),
    "conv_transpose3d": ((1, 2, 3, 3, 3), {"out_channels": 1, "kernel_size": 2, "stride": 2, "bias": False}),
    "linear": ((3, 5, 7), {"out_features": 2}),
    "max_pool1d": ((1, 2, 10), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "max_pool2d": (
        (1, 2, 10, 11),
        {"kernel_size": 3, "dilation": 2, "stride": 3, "padding": 1, "return_indices": True},
    ),
    "max_pool3d": ((1, 2, 6, 6, 6), {"kernel_size": 2}),
    "avg_pool2d": ((1, 2, 7, 7), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
    "adaptive_avg_pool3d": ((1, 2, 7, 6, 5), {"output_size": (None, 2, 1)}),
    "adaptive_max_pool2d": ((1, 2, 7, 6), {"output_size": 3, "return_indices": True}),
    "layer_norm": ((2, 3, 4, 5), {"normalized_shape": (4, 5)}),
    "group_norm": ((2, 6, 4), {"num_groups": 3}),
    "instance_norm2d": ((2, 6, 4, 4), {"affine": True, "track_running_stats": True}),
    "prelu": ((2, 6, 4), {"num_parameters": 6}),
    "split": ((1, 7, 3), {"sizes": (2, 4, 1)}),
    "chunk": ((1, 7, 3), {"chunks": 3}),
    "slice": ((4, 9, 9), {"dim": (1, 2), "start": (-5, 8), "stop": (None, 0), "step": (2, -3)}),
    "pad": ((1, 2, 5, 5), {"pad": (1, 2, -1, 0, 3, 0)}),
    "reshape": ((6, 4, 2), {"shape": (0, -1)}),
    "flatten": ((2, 3, 4, 5), {"start_dim": -3, "end_dim": 2}),
    "squeeze": ((1, 3, 1, 1), {"dim": None}),
    "unsqueeze": ((2, 3), {"dim": (1, -1)}),
    "permute": ((2, 3, 4), {"dims": (2, 0, -2)}),
    "transpose": ((2, 3, 4), {"dim0": -1, "dim1": 0}),
    "expand": ((2, 1, 4), {"shape": (3, 2, 5, -1)}),
    "channel_shuffle": ((1, 6, 2, 2), {"groups": 3}),
    "pixel_shuffle": ((1, 8, 3, 2), {"upscale_factor": 2}),
    "pixel_unshuffle": ((1, 2, 6, 4), {"downscale_factor": 2}),
    "interpolate": ((1, 2, 7, 5), {"scale_factor": (1.3, 0.4)}),
    "mean": ((2, 3, 4, 5), {"dim": (-1, 1), "keepdim": True}),
    "sum": ((2, 3, 4, 5), {"dim": None}),
    "amax": ((2, 3, 4), {"dim": 0}),
    "argmax": ((2, 3, 4), {"dim": -2, "keepdim": True}),
    "cast": ((2, 3), {"dtype": "int8"}),
    "gather": ((2, 4, 6), {}),
    "std_mean": ((2, 3, 4), {"dim": (1, -1)}),
    "var_mean": ((2, 3, 4), {"dim": 2, "keepdim": True}),
    "max": ((2, 3, 4), {"dim": -1}),
    "min": ((2, 3, 4), {"dim": 1, "keepdim": True}),
    "topk": ((2, 3, 4), {"k": 2}),
    "cumsum": ((2, 3, 4), {"dim": 1}),
    "repeat": ((2, 3), {"repeats": (4, 1, 2)}),
    "grid_sample": ((2, 2, 2, 2), {}),
    "unfold": ((2, 3, 5, 6), {"kernel_size": (2, 3), "padding": (1, 0), "stride": 2}),
    "fold": ((2, 8, 9), {"output_size": 4, "kernel_size": 2}),
    "as_strided": ((2, 7, 3), {"shape": (0, 9)}),
    "unfold_dim": ((2, 7, 3), {"dim": 1, "size": 3, "step": 2}),
    "dynamic_conv2d": ((2, 4, 6, 6), {"kernel_size": 3}),
    "rms_norm": ((2, 3, 4), {"normalized_shape": (3, 4)}),
    "scaled_dot_product_attention": ((2, 3, 4, 5), {}),
    "fill": ((2, 3), {"shape": (1, 5)}),
}


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_every_operator_propagates_and_counts_as_defined(op):
    shape, attrs = ONE_OP.get(op, ((2, 4, 6, 6), {}))
    entry = OPERATORS[op]
    if op in ("input", "parameter"):
        shape, attrs = None, {"shape": (3, 2)}
    elif op not in ONE_OP:
        rank = {"1d": 3, "2d": 4, "3d": 5}.get(op[-2:], 4)
        shape = (2, 4, *[6] * (rank - 2))
        needed = {"kernel_size": 2, "output_size": 2, "out_channels": 4, "size": 3, "p": 0.1}
        attrs = {k: needed[k] for k, a in entry.attributes.items() if a.default == "required"}
    graph = Graph(op)
    inputs = [graph.input(shape) for _ in range(max(1, entry.inputs[0]))] if shape else []
    graph.op(op, *inputs, name="it", **attrs)
    assert_shapes_equal_the_rules(graph)
    net = lower(graph)
    parameters, buffers, counters = naive.weight_elements(graph)
    assert net.counts[:, 1:3].sum() == net.n_parameters == graph.n_parameters == parameters
    assert net.counts[:, 3].sum() == net.n_buffers == graph.n_buffers == buffers
    assert net.counts[:, 4].sum() == counters
    assert net.macs() == naive.macs(graph)


@given(graph=graphs(max_ops=14))
def test_counts_equal_the_definition(graph):
    net = lower(graph)
    assert (net.n_parameters, net.n_buffers, int(net.counts[:, 4].sum())) == naive.weight_elements(graph)
    assert net.macs() == naive.macs(graph)


@given(
    n=st.integers(1, 20), k=st.integers(1, 5), s=st.integers(1, 4), before=st.integers(0, 2), after=st.integers(0, 2),
    d=st.integers(1, 3), ceil=st.booleans(),
)  # fmt: skip
def test_a_window_stands_at_every_position_that_fits(n, k, s, before, after, d, ceil):
    reach = d * (k - 1) + 1
    before, after = min(before, k // 2), min(after, k // 2)  # as PyTorch demands of pools
    starts = range(-before, n + after, s)
    if ceil:  # hanging over the end by less than a stride, but starting before the end
        fits = [p for p in starts if p + reach < n + after + s and p < n]
    else:
        fits = [p for p in starts if p + reach <= n + after]
    assert max(0, shapes.window(n, k, s, before, after, d, 0, int(ceil))) == len(fits)
    assert shapes.window(n, k, s, before, after, d, 1, 0) == -(-n // s)


IMPOSSIBLE = {
    "conv2d": lambda g, x: g.conv2d(x, 4, 5),
    "conv_transpose2d": lambda g, x: g.conv_transpose2d(x, 4, 1, padding=2),
    "max_pool2d": lambda g, x: g.max_pool2d(x, 5),
    "interpolate": lambda g, x: g.interpolate(x, scale_factor=0.25),
    "slice": lambda g, x: g.slice(x, dim=2, start=4),
    "pad": lambda g, x: g.pad(x, (-2, -2)),
    "chunk": lambda g, x: g.chunk(x, 5, dim=2),
    "split": lambda g, x: g.split(x, (1, 4), dim=2),
    "pixel_unshuffle": lambda g, x: g.pixel_unshuffle(x, 5),
    "reshape": lambda g, x: g.reshape(x, (0, 100)),
    "squeeze": lambda g, x: g.squeeze(g.slice(x, dim=2, start=4), dim=2),
    "matmul": lambda g, x: g.matmul(x, g.parameter((5, 2))),
    "concat": lambda g, x: g.concat([x, g.parameter((1, 1, 5, 5))]),
    "add": lambda g, x: g.add(x, g.parameter((1, 1, 5, 5))),
    "expand": lambda g, x: g.expand(g.slice(x, dim=2, start=4), (0, 0, 7, 0)),
}


@pytest.mark.parametrize("op", sorted(IMPOSSIBLE))
def test_a_shape_that_fits_at_one_size_only_is_refused_at_another(op):
    # Built at 5 x 5, then the lowered arrays are given 3 x 3.
    g = Graph()
    IMPOSSIBLE[op](g, g.input((1, 4, 5, 5)))
    net = lower(g)
    attr = net.attr.copy()
    start = net.attr_ptr[0]
    assert attr[start : start + 4].tolist() == [1, 4, 5, 5]
    attr[start + 2 : start + 4] = (3, 3)
    n = net.n_tensors
    status, at = shapes.propagate(
        net.rule, net.attr_ptr, column(attr), net.in_ptr, net.in_idx, net.out_ptr, 0, np.empty(n, np.int64),
        np.empty((n, 6), np.int64), np.empty(n, np.int64),
    )  # fmt: skip
    refused = net.op_kinds[at] if status else None
    expected = {"squeeze": "slice", "expand": "slice"}.get(op, op)
    assert (status, refused) == (1, expected)


def propagate(rule, attr_rows, inputs, n_out, batch=0):
    attr_ptr = column(np.cumsum([0, *map(len, attr_rows)]))
    in_ptr = column(np.cumsum([0, *map(len, inputs)]))
    out_ptr = column(np.cumsum([0, *n_out]))
    n = int(out_ptr[-1])
    rank, dims, numel = np.empty(n, np.int64), np.empty((n, 6), np.int64), np.empty(n, np.int64)
    status, op = shapes.propagate(
        column(rule), attr_ptr, column(list(itertools.chain(*attr_rows))), in_ptr,
        column(list(itertools.chain(*inputs))), out_ptr, batch, rank, dims, numel,
    )  # fmt: skip
    return status, op, rank, dims, numel


@pytest.mark.parametrize(
    ("rule", "attr", "shape"),
    [
        (3, [2, 4, 2, 0, 0, *[1, 1, 0, 0, 1, 0] * 2], (1, 3, 4, 4)),  # groups do not divide the channels
        (3, [2, 4, 1, 0, 0, *[1, 1, 0, 0, 1, 0] * 2], (1, 3, 4)),  # one dimension too few
        (3, [1, 4, 1, 0, 0, *[9, 1, 0, 0, 1, 0]], (1, 3, 4)),  # 1-D: the kernel is larger than the input
        (4, [2, 0, 0, *[2, 2, 0, 0, 1] * 2], (1, 3, 4)),
        (5, [1, 1], (1, 3, 4)),
        (18, [1], (1, 3, 4)),
        (20, [2, 1], (1, 4, 4)),
        (20, [2, 1], (1, 3, 4, 4)),
        (20, [3, 0], (1, 3, 4, 3)),
        (21, [2, 3, 4], (3, 3, 4)),
        (15, [1, 2], (1, 1, 4)),  # two chunks of one channel
        (10, [0, -1, 5], (1, 3, 4)),  # twelve elements in rows of five
    ],
)
def test_the_kernel_refuses_what_does_not_fit(rule, attr, shape):
    n_out = 2 if rule == 15 else 1
    status, op, *_ = propagate([0, rule], [list(shape), attr], [[], [0]], [1, n_out])
    assert (status, op) == (1, 1)


@pytest.mark.parametrize("factor", [0.1, 1 / 3, 0.5, 1.0, 1.3, 2.0, 7.25, 2.0**60, 2.0**53 + 2])
def test_scale_factors_reach_the_kernel_as_they_are(factor):
    rule = RULES["resize"]
    attrs = {"size": None, "scale_factor": (factor,)}
    for n in (3, 7, 10, 100):
        if int(n * factor) < 1 or int(n * factor) >= 2**62:
            continue
        status, *_, numel = propagate([0, 14], [[1, 1, n], rule.encode([(1, 1, n)], attrs)], [[], [0]], [1, 1])
        assert (status, numel[1]) == (0, rule.infer([(1, 1, n)], attrs)[0][2])


@pytest.mark.parametrize("bounds", list(itertools.product((None, 0, 1, 3, 9, -1, -3, -9), repeat=2)), ids=str)
@pytest.mark.parametrize("step", [1, 2, 9, -1, -2])
def test_slices_are_those_of_python(bounds, step):
    rule, n = RULES["slice"], 4
    resolved = rule.resolve([(1, n)], {"dim": (1,), "start": (bounds[0],), "stop": (bounds[1],), "step": (step,)})
    expected = len(range(n)[bounds[0] : bounds[1] : step])
    status, *_, numel = propagate([0, 16], [[1, n], rule.encode([(1, n)], resolved)], [[], [0]], [1, 1])
    assert (status, numel[1] if status == 0 else 0) == ((0, expected) if expected else (1, 0))


def test_sizes_that_are_given_are_taken():
    rule = RULES["resize"]
    columns = rule.encode([(1, 1, 5, 6)], {"size": (3, 9), "scale_factor": None})
    status, _, rank, dims, _ = propagate([0, 14], [[1, 1, 5, 6], columns], [[], [0]], [1, 1])
    assert (status, dims[1, : rank[1]].tolist()) == (0, [1, 1, 3, 9])


def test_literal_shapes_may_scale_with_the_batch():
    status, _, _, dims, _ = propagate([0, 1], [[1, 5], [2, 1, 3, 7, 1, 0, 4]], [[], [0]], [1, 2], batch=4)
    assert (status, dims[1:, :2].tolist()) == (0, [[12, 7], [4, 1]])


def test_concatenated_ranks_and_dimensions_have_to_agree():
    assert propagate([0, 0, 8], [[1, 2, 3], [1, 2], [1]], [[], [], [0, 1]], [1, 1, 1])[:2] == (1, 2)
    assert propagate([0, 0, 8], [[1, 2, 3], [1, 2, 4], [1]], [[], [], [0, 1]], [1, 1, 1])[:2] == (1, 2)


def test_sizes_of_62_bits_are_told_from_smaller_ones():
    assert propagate([0], [[2**31, 2**30]], [[]], [1])[:2] == (0, 1)
    assert propagate([0], [[2**31, 2**31]], [[]], [1])[:2] == (2, 0)
    assert propagate([0], [[2**62, 1, 1]], [[]], [1])[:2] == (2, 0)
    assert propagate([0], [[1, 2**61, 1]], [[]], [1], batch=1)[4].tolist() == [2**61]


def test_multiply_accumulates_of_62_bits_are_refused():
    g = Graph()
    x = g.input((1, 2**30, 1, 1))
    g.linear(g.flatten(x), 2**32)
    with pytest.raises(errors.ShapeError, match=r"2\*\*62 multiply-accumulates"):
        lower(g)


# ------------------------------------------------------------------ liveness


@given(data=st.data(), n=st.integers(1, 12), steps=st.integers(1, 10))
def test_peak_equals_the_sum_over_what_is_alive(data, n, steps):
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    lives = [sorted(data.draw(st.tuples(*[st.integers(0, steps)] * 2))) for _ in range(n)]
    lives = [(b if b < steps else 0, d if b < steps else 0) for b, d in lives]
    scratch = data.draw(st.lists(st.integers(0, 5), min_size=steps, max_size=steps))
    order = data.draw(st.permutations(range(steps)))
    born, dead = zip(*lives, strict=True)
    live = np.empty(steps, np.int64)
    found = np.empty(n, np.int64)
    peak, step = liveness.peak_of(column(order), column(sizes), column(born), column(dead), column(scratch), live)
    expected = [
        sum(size for size, (b, d) in zip(sizes, lives, strict=True) if b <= s < d) + scratch[order[s]]
        for s in range(steps)
    ]
    assert live.tolist() == expected
    assert (peak, step) == (max(expected), expected.index(max(expected)))
    for s in range(steps):
        alive = [t for t, (b, d) in enumerate(lives) if b <= s < d]
        assert found[: liveness.live_at(column(born), column(dead), s, found)].tolist() == alive


def test_back_to_back_tensors_may_share_bytes():
    live = np.empty(3, np.int64)
    peak = liveness.peak_of(column([0, 1, 2]), column([5, 7]), column([0, 2]), column([2, 3]), column([0, 0, 0]), live)
    assert peak == (7, 2)
    assert live.tolist() == [5, 5, 7]


@given(drawn=graphs_and_orders(max_ops=9), data=st.data())
def test_the_first_violation_is_found_where_there_is_one(drawn, data):
    graph, _ = drawn
    net = lower(graph)
    order = data.draw(st.permutations(range(net.n_ops)))
    names = [net.op_names[op] for op in order]
    op, earlier = liveness.first_violation(
        column(order),
        net.in_ptr,
        net.in_idx,
        net.producer,
        net.before_ptr,
        net.before_idx,
        np.empty(net.n_ops, np.int64),
    )
    assert (op < 0) == naive.is_legal(graph, names)
    if op >= 0:
        assert names.index(net.op_names[op]) < names.index(net.op_names[earlier])
        done = names[: names.index(net.op_names[op])]
        fine = {(u, n) for n in done for u, _ in naive.sources(graph, n)} | set(naive.overwriter_conflicts(graph))
        assert all(names.index(u) < names.index(n) for u, n in fine if n in done)


def test_codes_of_the_rules_are_what_the_kernel_branches_on():
    codes = {name: rule.code for name, rule in RULES.items()}
    assert codes == {
        "input": 0, "constant": 1, "same": 2, "conv": 3, "pool": 4, "adaptive_pool": 5, "linear": 6, "matmul": 7,
        "concat": 8, "broadcast": 9, "reshape": 10, "flatten": 11, "permute": 12, "transpose": 12, "reduce": 13,
        "resize": 14, "split": 15, "slice": 16, "pad": 17, "squeeze": 18, "unsqueeze": 19, "pixel_shuffle": 20,
        "expand": 21,
    }  # fmt: skip


# ------------------------------------------------------------------ by hand


def test_a_matrix_product_counts_a_multiplication_per_output_and_inner_position():
    g = Graph()
    g.matmul(g.input((2, 3, 5, 7)), g.parameter((7, 4)))
    assert lower(g).macs() == (2 * 3 * 5 * 4) * 7
    g = Graph()
    g.matmul(g.input((5, 7)), g.parameter((6, 7, 4)))  # six products of one matrix
    assert lower(g).macs() == (6 * 5 * 4) * 7


def test_every_role_is_counted_where_it_is_owned():
    g = Graph()
    x = g.input((1, 4, 8, 8))
    conv = {"out_channels": 4, "kernel_size": 3}
    g.op("conv2d", x, **conv, name="c")
    g.op("conv2d", x, **conv, tied={"weight": "c"})
    g.op("conv2d", x, **conv, tied={"bias": "c"})
    g.op("batch_norm2d", x, name="n")
    g.op("batch_norm2d", x, tied={"buffer": "n"})
    g.op("batch_norm2d", x, tied={"counter": "n"})
    g.op("batch_norm2d", x, tied="n")
    net = lower(g)
    # weights, biases, running statistics, batch counters
    assert net.counts[1:, 1:].tolist() == [
        [144, 4, 0, 0], [0, 4, 0, 0], [144, 0, 0, 0],
        [4, 4, 8, 1], [4, 4, 0, 1], [4, 4, 8, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert (net.n_parameters, net.n_buffers) == (g.n_parameters, g.n_buffers) == (148 + 4 + 144 + 3 * 8, 16)


def test_lives_by_hand():
    # p is stored, x comes in, a reads both, v looks at a, r takes over what v was the last to look at.
    p, x, a, v, r = range(5)
    nbytes, held, share = [8] * 5, [1, 2, 0, 0, 4], [0, 0, 0, 1, 2]
    buffer, uses, born, dead, inside, freed = (np.full(5, -7) for _ in range(6))  # filled, whatever was there
    liveness.live_ranges(
        column([p, x, a, v, r]), column([0, 0, 0, 2, 3, 4]), column([x, p, a, v]), column(range(6)), column(share),
        column([1, 1, 1, 1, 0]), column(held), column(nbytes), True, column([]), buffer, uses, born, dead,
        inside, freed,
    )  # fmt: skip
    assert buffer.tolist() == [p, x, a, a, a]
    assert born.tolist() == [0, 0, 2, 0, 0]  # an input lives from the first step
    assert dead.tolist() == [0, 3, 5, 0, 0]  # an output to the end; what is stored or shared has no life of its own


def test_an_order_that_violates_nothing_has_no_ops_to_name():
    nothing = np.empty(2, np.int64)
    found = liveness.first_violation(
        column([0, 1]), column([0, 0, 1]), column([0]), column([0, 1]), column([0, 0, 0]), column([]), nothing
    )
    assert found == (-1, -1)
    assert nothing.tolist() == [0, 1]


def test_a_product_whose_inner_dimension_is_the_batch_fits_one_batch_only():
    g = Graph()
    g.matmul(g.input((3, 3)), g.input((3, 3)))
    assert lower(g).sizes_at(3).numel.tolist() == [9, 9, 9]
    with pytest.raises(errors.ShapeError, match=r"matmul \(matmul\) at batch 2: the shapes are impossible"):
        lower(g).sizes_at(2)  # 2 x 3 and 2 x 3


def test_dimensions_of_one_at_the_end_do_not_make_two_shapes_equal():
    g = Graph()
    column_of_four, row_of_four = g.input((4, 1)), g.parameter((4,))
    g.add(column_of_four, row_of_four, name="table")
    assert_shapes_equal_the_rules(g)
    assert g.outputs[0].shape == (4, 4)


def test_a_product_has_the_rows_of_the_first_and_the_columns_of_the_second():
    g = Graph()
    for first, second, product in (
        ((5, 7), (7, 4), (5, 4)),
        ((2, 3, 5, 7), (7, 4), (2, 3, 5, 4)),
        ((5, 7), (2, 3, 7, 4), (2, 3, 5, 4)),
        ((2, 1, 5, 7), (3, 7, 4), (2, 3, 5, 4)),
    ):
        assert g.matmul(g.input(first), g.parameter(second)).shape == product
    assert_shapes_equal_the_rules(g)


@pytest.mark.parametrize("factors", [(0.1, 1.0), (1.0, 0.1)])
def test_a_factor_that_leaves_nothing_of_any_dimension_is_refused(factors):
    columns = RULES["resize"].encode([(1, 1, 50, 50)], {"size": None, "scale_factor": factors})
    assert propagate([0, 14], [[1, 1, 50, 50], columns], [[], [0]], [1, 1])[:2] == (0, 2)
    assert propagate([0, 14], [[1, 1, 9, 9], columns], [[], [0]], [1, 1])[:2] == (1, 1)


@pytest.mark.parametrize(("batch", "first"), [(0, 5), (1, 1), (7, 7)])
def test_a_batch_replaces_the_first_dimension_and_0_keeps_it(batch, first):
    assert propagate([0], [[5, 3]], [[]], [1], batch=batch)[3].tolist() == [[first, 3, 1, 1, 1, 1]]


def test_all_six_dimensions_are_followed():
    g = Graph()
    x = g.input((2, 3, 1, 2, 4, 5))
    y = g.add(g.relu(x), g.parameter((7, 1, 1, 5)))  # same, then broadcast into the third dimension
    assert y.shape == (2, 3, 7, 2, 4, 5)
    g.concat([y, y], dim=-1)
    g.permute(y, (5, 4, 3, 2, 1, 0))
    g.split(y, (1, 4), dim=5)
    g.slice(y, 5, 1, 3)
    g.pad(y, (1, 1))
    g.linear(y, 9)
    g.sum(y, 5)
    g.expand(g.mean(y, 5, True), (2, 3, 7, 2, 4, 6))
    g.matmul(y, g.parameter((5, 8)))
    g.flatten(y, 4)
    g.reshape(g.flatten(y), (2, 3, 7, 2, 4, -1))
    g.unsqueeze(g.squeeze(g.mean(y, 5, True), 5), 5)
    assert_shapes_equal_the_rules(g)
    assert_shapes_equal_the_rules(g, 3)
    assert lower(g).sizes.numel[:4].tolist() == [240, 240, 35, 1680]


def test_several_dimensions_are_inserted_dropped_and_reduced_at_once():
    g = Graph()
    x = g.input((2, 3))
    shapes = {(0, 1): (1, 1, 2, 3), (0, 2): (1, 2, 1, 3), (1, 2): (2, 1, 1, 3), (0, 2, 4): (1, 2, 1, 3, 1)}
    for dims, shape in shapes.items():
        y = g.unsqueeze(x, dims)
        assert y.shape == shape
        assert g.squeeze(y, dims).shape == (2, 3)
        assert g.mean(g.expand(y, (7, *y.shape[1:])) if shape[0] == 1 else y, dims).shape == (2, 3)
    assert_shapes_equal_the_rules(g)
