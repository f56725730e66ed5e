"""Cost of each kernel per op, at 10^2, 10^4 and 10^5 ops, beside the same loops uncompiled (10^2 only).

Every group holds one kernel at one size; ``extra_info`` has the nanoseconds per op (median). The uncompiled
kernel in the same run is the yardstick: their ratio is what stays put on a noisy machine.
"""

from __future__ import annotations

import numpy as np
import pytest
from nets import residual

from cnnlive import lower, plan_inference
from cnnlive._kernels import counts, liveness, shapes
from cnnlive._types import column

SIZES = (100, 10_000, 100_000)
YARDSTICK = 100


@pytest.fixture(scope="module")
def lowered():
    return {n: lower(residual(n)) for n in SIZES}


def calls(net):
    """Return a call of each kernel with its arguments and scratch made once."""
    plan = plan_inference(net)
    lives, n = plan._lives, net.n_tensors
    buffer, uses, born, dead, inside, freed, seen, found, numel, rank = (np.zeros(n, np.int64) for _ in range(10))
    dims, live, count = np.empty((n, 6), np.int64), np.empty(net.n_ops, np.int64), np.empty((net.n_ops, 5), np.int64)

    def least_needs(kernel):
        seen[:] = -1
        return kernel(net.in_ptr, net.in_idx, net.out_ptr, lives.share, lives.held, lives.buffer, plan._nbytes,
                      plan._scratch, seen)  # fmt: skip

    return {
        "propagate": (shapes.propagate, lambda k: k(
            net.rule, net.attr_ptr, net.attr, net.in_ptr, net.in_idx, net.out_ptr, 2, rank, dims, numel)),
        "count": (counts.count, lambda k: k(
            net.macs_rule, net.weight_rule, net.owner, net.attr_ptr, net.attr, net.in_ptr, net.in_idx, net.out_ptr,
            net.sizes.rank, net.sizes.dims, net.sizes.numel, count)),
        "live_ranges": (liveness.live_ranges, lambda k: k(
            lives.order, net.in_ptr, net.in_idx, net.out_ptr, lives.share, net.reads, lives.held, plan._nbytes, False,
            column([]), buffer, uses, born, dead, inside, freed)),
        "peak_of": (liveness.peak_of, lambda k: k(
            lives.order, plan._nbytes, lives.born, lives.dead, plan._scratch, live)),
        "live_at": (liveness.live_at, lambda k: k(lives.born, lives.dead, plan.peak_step, found)),
        "least_needs": (liveness.least_needs, least_needs),
        "first_violation": (liveness.first_violation, lambda k: k(
            lives.order, net.in_ptr, net.in_idx, net.producer, net.before_ptr, net.before_idx, live)),
    }  # fmt: skip


KERNELS = ("propagate", "count", "live_ranges", "peak_of", "live_at", "least_needs", "first_violation")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n_ops", SIZES)
def test_kernel(benchmark, lowered, n_ops, name):
    benchmark.group = f"kernel {name}, {n_ops} ops"
    kernel, call = calls(lowered[n_ops])[name]
    expected = call(kernel)
    assert benchmark(call, kernel) == expected
    if benchmark.stats:
        benchmark.extra_info["ns_per_op"] = round(benchmark.stats.stats.median / lowered[n_ops].n_ops * 1e9, 2)


@pytest.mark.parametrize("name", KERNELS)
def test_uncompiled(benchmark, lowered, name):
    benchmark.group = f"kernel {name}, {YARDSTICK} ops"
    kernel, call = calls(lowered[YARDSTICK])[name]
    plain = getattr(kernel, "py_func", kernel)
    assert benchmark(call, plain) == call(kernel)
