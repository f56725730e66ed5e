"""Ragged batches: equal, number for number, to the planners of one graph."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, graphs_in_frames

from cnnlive import lower, plan_inference
from cnnlive.errors import ShapeError
from cnnlive.nas.batch import Batch, evaluate_batch

METRICS = ("params", "macs", "weight_bytes", "inference_peak", "inference_total")


def planned(graph, **options):
    plan = plan_inference(graph, **options)
    return (plan.network.n_parameters, plan.macs, plan.weight_bytes, plan.activation_peak_bytes, plan.peak_bytes)


def rows(found):
    return list(zip(*(found[name].tolist() for name in found), strict=True))


OPTIONS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "dtype": st.sampled_from([None, "float16", "int8"]),
        "weight_dtype": st.sampled_from([None, "float64"]),
        "profile": st.sampled_from(["ideal", "torch", "torch_fx"]),
        "inplace": st.sampled_from([None, "graph", "dead", "never"]),
        "fuse": st.sampled_from([None, True]),
    }
)


@given(many=st.lists(graphs() | graphs_in_frames(), min_size=1, max_size=3), options=OPTIONS)
def test_a_batch_gives_what_the_planner_gives_for_each_graph(many, options):
    expected = []
    for g in many:
        try:
            expected.append(planned(g, **options))
        except ShapeError:  # a reshape to literal sizes fits one batch only
            with pytest.raises(ShapeError, match="graph"):
                evaluate_batch(many, metrics=METRICS, threads=1, **options)
            return
    assert rows(evaluate_batch(many, metrics=METRICS, threads=1, **options)) == expected


def columns_of(nets):
    """The columns of lowered graphs end to end, as a user's own encoder would write them."""

    def pointer(name):
        return np.cumsum([0, *np.concatenate([np.diff(getattr(n, name)) for n in nets])])

    def together(name):
        return np.concatenate([getattr(n, name) for n in nets])

    ops = np.cumsum([0, *(n.n_ops for n in nets)])
    statistics = [
        [op + start, *rest] for n, start in zip(nets, ops, strict=False) for op, *rest in n.statistics.tolist()
    ]
    names = ("in_idx", "rule", "attr", "is_output", "kind", "dtype", "macs_rule", "weight_rule", "owner", "alias",
             "fold", "index_bytes")  # fmt: skip
    return {
        "graph_ptr": ops, "statistics": statistics, "until": np.concatenate([n.frames() for n in nets]),
        **{name: pointer(name) for name in ("in_ptr", "out_ptr", "attr_ptr")},
        **{name: together(name) for name in names},
    }  # fmt: skip


@given(many=st.lists(graphs_in_frames(), min_size=1, max_size=3),
       profile=st.sampled_from(["ideal", "torch", "torch_fx"]), inplace=st.sampled_from([None, "dead"]))  # fmt: skip
def test_plain_arrays_give_what_the_graphs_give(many, profile, inplace):
    nets = [lower(g) for g in many]
    batch = Batch.from_arrays(**columns_of(nets))
    options = {"profile": profile, "inplace": inplace}
    expected = [planned(g, **options) for g in nets]
    assert rows(evaluate_batch(batch, metrics=METRICS, threads=1, **options)) == expected
