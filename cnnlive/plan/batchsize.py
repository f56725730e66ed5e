"""Does it fit, and with how many images: exact answers from the exact peak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from cnnlive._types import Result
from cnnlive.errors import GraphError, ShapeError
from cnnlive.graph import Graph
from cnnlive.lowered import Lowered, check_batch, lower
from cnnlive.plan.allocator import CudaAllocator, read_allocator
from cnnlive.plan.inference import InferencePlan, plan_inference
from cnnlive.plan.training import TrainingPlan, plan_training
from cnnlive.units import format_bytes, parse_bytes

__all__ = ["CONTEXT_BYTES", "Fit", "fits", "largest_batch"]

# What a process takes on a GPU beside its tensors: context, cuDNN and cuBLAS. Measured by others on an A100 with
# PyTorch, 1.75 to 1.85 GiB (difference between the monitor's figure and the simulated reserved bytes, nets without
# heavy dense 3x3 convolutions, GPUMemNet data, arXiv 2602.17817); other cards and versions differ. Never included
# unless asked for.
CONTEXT_BYTES: Final = 1_932_735_283

Mode = Literal["training", "inference"]


@dataclass(frozen=True, slots=True)
class Fit(Result):
    """Whether a net fits a device; made by :func:`fits`, true or false as a condition.

    Attributes
    ----------
    fits : bool
    needed_bytes : int
        What the net takes, `context_bytes` and `workspace_bytes` included: of tensors, or what the allocator
        reserves.
    budget_bytes : int
        What the device has.
    context_bytes, workspace_bytes : int
        What was set aside.
    plan : TrainingPlan or InferencePlan
        Where the figure comes from.
    """

    fits: bool
    needed_bytes: int
    budget_bytes: int
    context_bytes: int
    workspace_bytes: int
    plan: TrainingPlan | InferencePlan

    def __bool__(self) -> bool:
        return self.fits

    @property
    def free_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.budget_bytes - self.needed_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "fits": self.fits,
            "needed_bytes": self.needed_bytes,
            "budget_bytes": self.budget_bytes,
            "free_bytes": self.free_bytes,
            "context_bytes": self.context_bytes,
            "workspace_bytes": self.workspace_bytes,
            "plan": self.plan.to_dict(),
        }

    def __str__(self) -> str:
        word = "fits" if self.fits else "does not fit"
        return (
            f"{self.plan.name or 'the network'}, batch {self.plan.batch}, {word}: needs "
            f"{format_bytes(self.needed_bytes)} ({self.needed_bytes:,} B) of {format_bytes(self.budget_bytes)}"
        )


def fits(
    graph: Graph | Lowered,
    *,
    device: int | str,
    batch: int = 1,
    mode: Mode = "training",
    flavour: Literal["cuda", "cpu"] = "cuda",
    allocator: str | CudaAllocator | None = None,
    context_bytes: int | str = 0,
    workspace_bytes: int | str = 0,
    **options: Any,
) -> Fit:
    """Say whether a step of training, or an inference, fits a device.

    Parameters
    ----------
    graph : Graph or Lowered
    device : int or str
        Memory of the device: bytes, or a text such as ``"24GiB"``.
    batch : int
    mode : {"training", "inference"}
    flavour : {"cuda", "cpu"}
        The `device` of :func:`plan_training`.
    allocator : None, "cuda" or CudaAllocator
        For training: None compares what the tensors take; otherwise the steps are replayed in the CUDA caching
        allocator, with what the device has left as its capacity, and reserved bytes are compared: an allocator that
        runs out gives its unused segments back and tries again, as PyTorch does.
    context_bytes, workspace_bytes : int or str
        What else is on the device: the CUDA context and libraries (`CONTEXT_BYTES` is one measurement), workspaces of
        convolutions. Nothing is set aside unless it is given.
    **options
        As :func:`plan_training` or :func:`plan_inference` take them: ``optimizer="sgd"``, ``precision="autocast"``.

    Returns
    -------
    Fit
        Not fitting is an answer, not an error.

    Raises
    ------
    UnitError
        If an amount is none.
    GraphError, ShapeError, AttributeValueError
        As the planners.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> bool(fits(zoo.load("resnet50"), device="24GiB", batch=128, optimizer="sgd", momentum=0.9))
    True
    """
    budget = parse_bytes(device)
    context, workspace = parse_bytes(context_bytes), parse_bytes(workspace_bytes)
    room = budget - context - workspace
    plan: TrainingPlan | InferencePlan
    if mode == "inference":
        if allocator is not None:
            raise GraphError("allocator is for mode='training'; allowed with mode='inference': None")
        plan = plan_inference(graph, batch=batch, **options)
        needed, good = plan.peak_bytes, plan.peak_bytes <= room
    elif mode == "training":
        allocator = None if allocator is None else read_allocator(allocator)
        plan = plan_training(graph, batch=batch, device=flavour, allocator=allocator, **options)
        needed, good = plan.peak_bytes, plan.peak_bytes <= room
        if allocator is not None and plan.reserved_bytes is not None:
            needed, good = plan.reserved_bytes, plan.reserved_bytes <= room
            if not good and plan.peak_bytes <= room:
                limited = replace(allocator, capacity=max(room, 1))
                tight = plan_training(graph, batch=batch, device=flavour, allocator=limited, **options)
                if tight.fits and tight.reserved_bytes is not None:
                    plan, needed, good = tight, tight.reserved_bytes, True
    else:
        raise GraphError(f"mode={mode!r}; allowed: 'training', 'inference'")
    return Fit(good, needed + context + workspace, budget, context, workspace, plan)


def largest_batch(
    graph: Graph | Lowered,
    *,
    budget: int | str,
    mode: Mode = "training",
    multiple_of: int = 1,
    at_most: int = 1 << 20,
    checkpoints: bool = False,
    max_overhead: float = 0.2,
    **options: Any,
) -> int:
    """Find the largest batch that fits a budget, on request with checkpoints.

    Parameters
    ----------
    graph : Graph or Lowered
    budget : int or str
        Bytes, or a text such as ``"24GiB"``.
    mode : {"training", "inference"}
    multiple_of : int
        Only multiples of it.
    at_most : int
        No batch above it is tried.
    checkpoints : bool
        For training: activations may be recomputed, see :func:`cnnlive.plan_checkpoints`.
    max_overhead : float
        With `checkpoints`: most that recomputation may cost, as a share of forward and backward.
    **options
        As :func:`fits` takes them; with `checkpoints` also `costs`, `recompute_random` and `seed` as
        :func:`cnnlive.plan_checkpoints` does, and no `allocator`.

    Returns
    -------
    int
        0 if not even the smallest batch fits.

    Raises
    ------
    UnitError, GraphError, ShapeError, AttributeValueError
        As :func:`fits`.

    Notes
    -----
    Bisection on the exact figure, O(log at_most) plans. The peak of tensors never falls as the batch grows, so the
    answer is exact. What an allocator reserves can fall by some segments: there the answer is the end of the bisection,
    a batch that fits where the next one does not. So it is with checkpoints, where plans are found by search: the
    answer is a batch that a plan was found for, and none was found for the next one.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> largest_batch(zoo.load("resnet50"), budget="24GiB", optimizer="sgd", momentum=0.9)
    294
    >>> largest_batch(zoo.load("resnet50"), budget="24GiB", optimizer="sgd", momentum=0.9, checkpoints=True) > 600
    True
    """
    if not checkpoints:
        extra: dict[str, Any] = {}
    elif mode != "training":
        raise GraphError(f"checkpoints=True with mode={mode!r}; allowed: mode='training'")
    elif isinstance(max_overhead, bool) or not isinstance(max_overhead, int | float) or not max_overhead >= 0:
        raise GraphError(f"max_overhead={max_overhead!r}; allowed: a number of 0 or more")
    else:
        extra = {key: options.pop(key) for key in ("costs", "recompute_random", "seed") if key in options}
    net = graph if isinstance(graph, Lowered) or callable(options.get("loss")) else lower(graph)
    step, most = check_batch(multiple_of, "multiple_of"), check_batch(at_most, "at_most")
    room = parse_bytes(budget)

    def good(batch: int) -> bool:
        try:
            if not checkpoints:
                return bool(fits(net, device=room, batch=batch, mode=mode, **options))
            return _fits_checkpointed(net, room, batch, max_overhead, {**options, **extra})
        except ShapeError:
            # A net whose sizes leave 62 bits does not fit; one that is impossible at every batch is an error.
            if batch == step:
                raise
            return False

    return step * _last(good, most // step, step)


def _fits_checkpointed(net: Graph | Lowered, room: int, batch: int, max_overhead: float,
                       options: Mapping[str, Any]) -> bool:  # fmt: skip
    from cnnlive.plan.checkpoint import fits_checkpointed  # noqa: PLC0415 - loaded where it is asked for

    given = dict(options)
    aside = sum(parse_bytes(given.pop(what, 0)) for what in ("context_bytes", "workspace_bytes"))
    device = given.pop("flavour", "cuda")
    return fits_checkpointed(net, budget=room - aside, batch=batch, max_overhead=max_overhead, device=device, **given)


def _last(good: Callable[[int], bool], most: int, step: int) -> int:
    """Return the last k of 1 .. most for which ``good(k * step)`` holds, 0 if it holds for none."""
    if most < 1 or not good(step):
        return 0
    low, high = 1, 2
    while high <= most and good(high * step):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle * step):
            low = middle
        else:
            high = middle
    return low
