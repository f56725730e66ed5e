"""What plain arrays of buffers have to be."""

import pickle

import numpy as np
import pytest

from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError


def test_buffers_are_read_only_columns_and_pickle():
    b = Buffers.of(np.array([0, 1], np.int32), [2, 3], np.array([64, 32], np.uint64), alignment=[1, 32])
    again = pickle.loads(pickle.dumps(b))
    for x in (b, again):
        assert x.ids == ("0", "1")
        assert x.nbytes.tolist() == [64, 32]
        assert x.alignment.tolist() == [1, 32]
        assert x.fixed.tolist() == [-1, -1]
        assert all(a.dtype == np.int64 and not a.flags.writeable for a in (x.lower, x.upper, x.nbytes))
    assert len(b) == b.n == 2
    assert repr(b) == "<Buffers '': 2 buffers, 96 B>"


def test_no_buffers_at_all_are_well_formed():
    assert Buffers.of([], [], []).n == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([2], [1], [4]), r"buffer a lives in \[2, 1\), which ends before it begins"),
        (([0], [1], [-4]), "buffer a has -4 bytes; allowed: 0 or more"),
        (([0], [1], [4], 0), "buffer a has the alignment 0; allowed: 1 or more"),
        (([0], [1], [4], 1, -2), "buffer a is fixed at -2; allowed: 0 or more, or -1"),
        (([0], [1], [4], 8, 12), "buffer a is fixed at 12, which is no multiple of its alignment 8"),
        (([0, 1], [1], [4]), "lower has 2 entries and nbytes 1"),
        (([0], [1], [2**62]), "reach 2"),
        (([0], [2**62], [1]), "reach 2"),
        (([0], [1], [1], 1, 2**61), "reach 2"),
        (([0], [1], np.array([2**63], np.uint64)), "nbytes has 9223372036854775808; allowed: below"),
        (([0], [1], [1.5]), "nbytes is 1-dimensional of float64; allowed: a list of integers"),
        ((0, [1], [1]), "lower is 0-dimensional"),
    ],
)
def test_what_is_not_well_formed_is_named(arguments, words):
    lower, upper, nbytes, *rest = arguments
    with pytest.raises(ArenaError, match=words):
        Buffers.of(lower, upper, nbytes, ids=["a"], **dict(zip(("alignment", "fixed"), rest, strict=False)))


def test_two_buffers_of_one_id_are_an_error():
    with pytest.raises(ArenaError, match="two buffers have the id 'x'"):
        Buffers.of([0, 0, 0], [1, 1, 1], [1, 1, 1], ids=["x", "y", "x"])
