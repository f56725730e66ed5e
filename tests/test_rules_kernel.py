"""Liveness under rules of runtimes, in the kernels: which input is taken over, what shrinks, what is used again."""

import numpy as np

from cnnlive import Graph, Lowered, plan_order
from cnnlive._kernels import liveness
from cnnlive._types import column
from cnnlive.profiles import PROFILES, Profile, Takeover

INPUT, OUTPUT = 2, 4


def lives(ops, nbytes, share, held, like=()):
    """Run ``live_ranges`` on ops that write one tensor each; `ops` lists what each reads."""
    n = len(ops)
    reads = [sum(row.count(t) for row in ops) for t in range(n)]
    arrays = [np.full(n, -7) for _ in range(6)]  # filled, whatever was there
    liveness.live_ranges(
        column(range(n)), column([0, *np.cumsum([len(row) for row in ops])]), column([t for row in ops for t in row]),
        column(range(n + 1)), column(share), column(reads), column(held), column(nbytes), True, column(list(like)),
        *arrays,
    )  # fmt: skip
    return [a.tolist() for a in arrays]


def bits(*inputs, smaller=False):
    """The code of an op that may write into these inputs."""
    return ~(sum(2 << i for i in inputs) | smaller)


def test_the_input_that_a_code_names_is_taken_over_and_no_other():
    ops, nbytes, held = [[], [0], [0], [1, 2]], [8] * 4, [INPUT, 0, 0, OUTPUT]
    for code, root in ((bits(0), 1), (bits(1), 2), (bits(0, 1), 1), (3, 1), (0, 3), (bits(5), 3)):
        buffer, _, born, dead, inside, _ = lives(ops, nbytes, [0, 0, 0, code], held)
        assert buffer == [0, 1, 2, root], code
        assert dead[root] == 4
        assert inside == [-1] * 4
        assert born[:3] == [0, 1, 2]


def test_what_others_want_or_has_another_size_is_not_taken_over():
    held = [INPUT, 0, 0, OUTPUT]
    assert lives([[], [0], [1], [1, 2]], [8] * 4, [0, 0, bits(0), 0], held)[0] == [0, 1, 2, 3]  # 1 is read once more
    chain = [[], [0], [1], [2]]
    for nbytes, code, place, inside in (
        ([8, 8, 8, 1], bits(0), 1, -1),
        ([8, 8, 4, 1], bits(0), 2, -1),
        ([8, 8, 4, 1], bits(0, smaller=True), 2, 1),
        ([8, 4, 8, 1], bits(0, smaller=True), 2, -1),
    ):
        found = lives(chain, nbytes, [0, 0, code, 0], held)
        assert (found[0][2], found[4][2]) == (place, inside), nbytes
    # of bytes that a view sees in part only nothing is taken
    found = lives(chain, [8, 8, 4, 4], [0, 0, 1, bits(0, smaller=True)], held)
    assert (found[0], found[4]) == ([0, 1, 1, 3], [-1] * 4)


def test_a_smaller_output_lies_inside_and_lives_on_where_the_input_ends():
    ops, nbytes, held = [[], [0], [1], [2], [3]], [8, 16, 4, 2, 1], [INPUT, 0, 0, 0, OUTPUT]
    code = bits(0, smaller=True)
    buffer, _, born, dead, inside, _ = lives(ops, nbytes, [0, 0, code, code, 0], held)
    assert buffer == [0, 1, 2, 3, 4]
    assert inside == [-1, -1, 1, 2, -1]
    assert list(zip(born, dead, strict=True)) == [(0, 2), (1, 3), (3, 4), (4, 5), (4, 5)]
    timeline = np.empty(5, np.int64)
    peak = liveness.peak_of(column(range(5)), column(nbytes), column(born), column(dead), column([0] * 5), timeline)
    assert timeline.tolist() == [8, 24, 16, 4, 3]
    assert peak == (24, 1)
    seen = np.full(5, -1)
    need = liveness.least_needs(column([0, 0, 1, 2, 3, 4]), column([0, 1, 2, 3]), column(range(6)),
                                column([0, 0, code, code, 0]), column(held), column(buffer), column(nbytes),
                                column([0] * 5), seen)  # fmt: skip
    assert need == 24
    # nothing follows the smaller tensor: it leaves nothing behind
    assert lives(ops[:3], nbytes[:3], [0, 0, code], [INPUT, 0, OUTPUT])[2:4] == [[0, 1, 3], [2, 3, 3]]


def test_a_dead_buffer_of_the_same_number_is_used_again_the_last_freed_first():
    #      x   a    b    s: frees a, b   c    d      e: another shape
    ops = [[], [0], [0], [1, 2], [3], [4], [5]]
    held = [INPUT, 0, 0, 0, 0, 0, OUTPUT]
    like = [0, 0, 0, 1, 0, 0, 0]
    buffer, _, born, dead, _, _ = lives(ops, [8] * 7, [0] * 7, held, like)
    # c lies in b, d in a; e is an output and has a buffer of its own, as x has, which nobody may use again
    assert buffer == [0, 1, 2, 3, 2, 1, 6]
    assert [(born[i], dead[i]) for i in (1, 2, 3, 6)] == [(1, 7), (2, 6), (3, 5), (6, 7)]
    assert lives(ops, [8] * 7, [0] * 7, held, [0, 0, 0, 1, -1, 0, 0])[0] == [0, 1, 2, 3, 4, 2, 6]


def test_an_output_that_nobody_reads_is_free_at_once():
    buffer, _, _, dead, _, _ = lives([[], [0], [0], [0]], [8] * 4, [0] * 4, [INPUT, 0, 0, OUTPUT], [0] * 4)
    assert buffer == [0, 1, 1, 3]
    assert dead[1] == 3


def test_a_buffer_that_an_op_reads_twice_is_free_once():
    ops = [[], [0], [1, 1], [2], [3], [4]]
    buffer = lives(ops, [8] * 6, [0] * 6, [INPUT, 0, 0, 0, 0, OUTPUT], [0, 0, 1, 0, 0, 0])[0]
    assert buffer == [0, 1, 2, 1, 4, 5]


def test_orders_know_the_same_codes():
    # Of two branches each ends in a smaller tensor in its own bytes: the second begins when the first has shrunk.
    g = Graph()
    x = g.input((1, 1, 4, 4), "int8", name="x")
    ends = [g.conv2d(g.conv2d(x, 8, 1), 8, 3, stride=2, padding="same", groups=8) for _ in range(2)]
    g.add(*ends)
    plan = plan_order(g, profile=PROFILES["mcunet"])
    assert (plan.peak_bytes, plan.status) == (32 + 16 + 128, "optimal")
    # only the second input may be taken over, and of the first op it is read again
    both = Lowered.from_arrays([8] * 4, [[0, 1], [1, 2]], [[2], [3]])
    rules = Profile("mine", "", inplace="dead", takeover=Takeover((("op", (1,)),), from_inputs=True, to_outputs=True))
    assert plan_order(both, profile=rules).peak_bytes == 24
    wide = Lowered.from_arrays([1] * 65, [range(64)], [[64]])
    for i, nbytes in ((2, 64), (63, 65)):  # a code has no bit for the last
        rules = Profile(
            "mine", "", inplace="dead", takeover=Takeover((("op", (i,)),), from_inputs=True, to_outputs=True)
        )
        assert plan_order(wide, profile=rules).peak_bytes == nbytes
    net = Lowered.from_arrays([8, 8, 8], [[0], [1]], [[1], [2]], inplace=[[0], [1]])
    assert plan_order(net, inplace="dead").peak_bytes == 8
