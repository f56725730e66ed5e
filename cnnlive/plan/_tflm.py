"""The buffers of a network that was read from a TFLite file, as TensorFlow Lite Micro's planner is told them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlive._types import I64
from cnnlive.buffers import Buffers

if TYPE_CHECKING:
    from cnnlive.lowered import Lowered
    from cnnlive.plan.inference import InferencePlan

__all__ = ["as_told", "from_a_file", "requested"]


def from_a_file(net: Lowered) -> bool:
    """Say whether a network was read from a TFLite file: its ops are final then."""
    found: bool | None = net._cache.get("from a file")
    if found is None:
        found = net._cache["from a file"] = any("tflm" in attrs for attrs in net.op_attrs)
    return found


def requested(net: Lowered) -> I64:
    """Return the bytes that the kernels of each op request while it runs, at the file's batch."""
    found: I64 | None = net._cache.get("requested")
    if found is None:
        rows = [sum(attrs.get("tflm", {}).get("scratch", ())) for attrs in net.op_attrs]
        found = net._keep("requested", net.scratch + np.array(rows, np.int64))
    return found


def as_told(plan: InferencePlan, alignment: int, pads: bool) -> Buffers:
    """Return the buffers of a plan in the order in which TensorFlow Lite Micro lists them.

    Tensors come in the order of the file, which decides between buffers of one size; then what the kernels request
    while they run, op by op. Tensors of the file that no op uses live by themselves before the first step: they take
    part in the height, and nothing else does then.

    Parameters
    ----------
    plan : InferencePlan
        Of a network that was read from a file, at the file's batch: requests of kernels do not follow another.
    alignment, pads : int, bool
        Bytes that offsets are multiples of; whether sizes are rounded up to it.

    Notes
    -----
    O(n log n). ``tensorflow/lite/micro/micro_allocation_info.cc``: the lives, and tensors before scratch.
    """
    net, lives = plan.network, plan._lives
    producer, first = net.producer.tolist(), net.out_ptr.tolist()
    rows: list[tuple[int, str, int, int, int]] = []
    for t in np.flatnonzero(lives.born < lives.dead).tolist():
        told: Any = net.op_attrs[producer[t]].get("tflm")
        place = told["tensors"][t - first[producer[t]]] if told else t
        rows.append((place, net.tensor_name(t), int(lives.born[t]), int(lives.dead[t]), int(plan._nbytes[t])))
    for attrs in net.op_attrs:
        told = attrs.get("tflm", {})
        rows += [(place, f"(unused {place})", -1, 0, nbytes) for place, nbytes in told.get("idle", ())]
    rows.sort(key=lambda row: row[0])
    for step, op in enumerate(plan.order.tolist()):
        requests = net.op_attrs[op].get("tflm", {}).get("scratch", ())
        rows += [(0, f"({net.op_names[op]} scratch {k})", step, step + 1, nbytes) for k, nbytes in enumerate(requests)]
    ids, lower, upper = ([row[k] for row in rows] for k in (1, 2, 3))
    nbytes = [-(-row[4] // alignment) * alignment if pads else row[4] for row in rows]
    return Buffers.of(lower, upper, nbytes, alignment=alignment, ids=ids, name=plan.name)
