"""PyTorch's CUDA caching allocator: what a trace of allocations makes it allocate and reserve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cnnlive._kernels.caching_allocator import replay
from cnnlive._types import I64, Columns, frozen
from cnnlive.errors import AttributeValueError, GraphError, LoweringError, close_names

__all__ = ["AllocatorResult", "CudaAllocator", "read_allocator", "replay_trace"]

_MIB: Final = 1 << 20
# c10/core/AllocatorConfig.h: kMinBlockSize, kSmallSize, kSmallBuffer, kMinLargeAlloc, kRoundLarge.
_MIN_BLOCK: Final = 512
_SMALL_SIZE: Final = _MIB
_SMALL_SEGMENT: Final = 2 * _MIB
_LARGE_SEGMENT_MB: Final = 20
_MIN_LARGE: Final = 10 * _MIB
_ROUND_LARGE: Final = 2 * _MIB
# One power of two each, from 1 MiB on.
_N_DIVISIONS: Final = 16
_WIDTH: Final = 256
_MODELLED: Final = (
    "expandable_segments",
    "max_split_size_mb",
    "max_non_split_rounding_mb",
    "roundup_power2_divisions",
    "large_segment_size_mb",
)
# Keys that change nothing here: other memory, locks, or what acts only below a memory fraction of 1.
_WITHOUT_EFFECT: Final = (
    "garbage_collection_threshold",
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_max_cached_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "throw_on_cudamalloc_oom",
)
_ONE_VALUE: Final = {"backend": "native", "per_process_memory_fraction": "1.0"}
_PAIR: Final = re.compile(r"([^,:\[\]]+):(\[[^\[\]]*\]|[^,:\[\]]+)(?:,|$)")


@dataclass(frozen=True, slots=True)
class CudaAllocator:
    """Options of PyTorch's CUDA caching allocator, by PyTorch's names and with its defaults.

    Attributes
    ----------
    expandable_segments : bool
        One segment per pool that grows at its end in steps of 2 MiB (small pool) or `large_segment_size_mb`
        (large pool), instead of one segment per request to the driver.
    max_split_size_mb : int, optional
        MiB from which on a free block is not split: smaller requests do not use it, larger ones only if they waste
        less than `max_non_split_rounding_mb`. At least `large_segment_size_mb`. Default: every block is split.
    roundup_power2_divisions : int or tuple of 16 int, optional
        Round requests up to one of so many equal steps between two powers of two; powers of two, 0 or 1 for none.
        A tuple has one for each power of two from 1 MiB on; the first also stands for everything below, the last
        for everything above. Default: none, multiples of 512 B.
    capacity : int, optional
        Bytes that the device can give to the allocator: its memory less CUDA's context and whatever else uses it.
        Default: unlimited.
    max_non_split_rounding_mb : int
        See `max_split_size_mb`; at least `large_segment_size_mb`.
    large_segment_size_mb : int
        MiB of the segments for requests above 1 MiB and below 10 MiB; more than 10.

    Raises
    ------
    AttributeValueError
        If a value is outside what PyTorch allows.

    Examples
    --------
    >>> CudaAllocator.from_conf("expandable_segments:True").expandable_segments
    True
    """

    expandable_segments: bool = False
    max_split_size_mb: int | None = None
    roundup_power2_divisions: int | tuple[int, ...] | None = None
    capacity: int | None = None
    max_non_split_rounding_mb: int = _LARGE_SEGMENT_MB
    large_segment_size_mb: int = _LARGE_SEGMENT_MB

    def __post_init__(self) -> None:
        if not isinstance(self.expandable_segments, bool):
            raise AttributeValueError(f"expandable_segments is {self.expandable_segments!r}; allowed: True, False")
        large = self.large_segment_size_mb
        _check("large_segment_size_mb", large, _MIN_LARGE // _MIB + 1, 1 << 39)
        _check("max_non_split_rounding_mb", self.max_non_split_rounding_mb, large, 1 << 39)
        if self.max_split_size_mb is not None:
            _check("max_split_size_mb", self.max_split_size_mb, large, 1 << 39)
        if self.capacity is not None:
            _check("capacity", self.capacity, 1, 1 << 61)
        divisions = self.roundup_power2_divisions
        if divisions is not None:
            several = divisions if isinstance(divisions, tuple) else (divisions,)
            if isinstance(divisions, tuple) and len(divisions) != _N_DIVISIONS:
                raise AttributeValueError(
                    f"roundup_power2_divisions has {len(divisions)} values; allowed: one, or {_N_DIVISIONS}"
                )
            for value in several:
                _check("roundup_power2_divisions", value, 0, 1 << 50)
                if value & (value - 1):
                    raise AttributeValueError(f"roundup_power2_divisions is {value}; allowed: powers of two, and 0")

    @classmethod
    def from_conf(cls, conf: str, *, capacity: int | None = None) -> CudaAllocator:
        """Read the text of PyTorch's environment variable ``PYTORCH_CUDA_ALLOC_CONF``.

        Parameters
        ----------
        conf : str
            ``key:value`` pairs with commas between them. Keys of PyTorch that do not change what is allocated and
            reserved are accepted whatever their value (pinned memory, locks, ``garbage_collection_threshold``,
            which acts only below a memory fraction of 1).
        capacity : int, optional
            As for the class; the variable has no such key.

        Returns
        -------
        CudaAllocator

        Raises
        ------
        AttributeValueError
            If `conf` is not such a list, a key is none of PyTorch's, a value is outside what PyTorch allows or
            chooses what is not modelled: another ``backend``, a ``per_process_memory_fraction`` below 1.

        Examples
        --------
        >>> CudaAllocator.from_conf("max_split_size_mb:128, roundup_power2_divisions:4").max_split_size_mb
        128
        """
        text = "".join(conf.split())
        options: dict[str, Any] = {}
        at = 0
        while at < len(text):
            pair = _PAIR.match(text, at)
            if pair is None:
                raise AttributeValueError(f"{conf!r} at {text[at:]!r}: allowed are key:value pairs with commas between")
            at = pair.end()
            key, value = pair.groups()
            if key == "expandable_segments":
                if value not in ("True", "False"):
                    raise AttributeValueError(f"expandable_segments is {value!r}; allowed: True, False")
                options[key] = value == "True"
            elif key == "roundup_power2_divisions":
                options[key] = _divisions(value)
            elif key in _MODELLED:
                options[key] = _integer(key, value)
            elif key in _ONE_VALUE:
                if value not in (_ONE_VALUE[key], _ONE_VALUE[key].removesuffix(".0")):
                    raise AttributeValueError(f"{key} is {value!r}, which is not modelled; allowed: {_ONE_VALUE[key]}")
            elif key not in _WITHOUT_EFFECT:
                known = sorted((*_MODELLED, *_ONE_VALUE, *_WITHOUT_EFFECT))
                raise AttributeValueError(f"unknown key {key!r}{close_names(key, known)}; allowed: {', '.join(known)}")
        return cls(capacity=capacity, **options)


def _check(name: str, value: object, least: int, most: int) -> None:
    """Refuse what is not an integer of ``least .. most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise AttributeValueError(f"{name} is {value!r}; allowed: an integer from {least} to {most}")


def _integer(key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise AttributeValueError(f"{key} is {value!r}; allowed: an integer")
    return int(value)


def _divisions(value: str) -> int | tuple[int, ...]:
    """Read ``4``, or ``[256:1,512:2,>:8]``: divisions by MiB; the first also below it, ``>`` above the last."""
    name = "roundup_power2_divisions"
    if not value.startswith("["):
        if value == "0":
            raise AttributeValueError(f"{name} is 0; allowed: a power of two")
        return _integer(name, value)
    found = [0] * _N_DIVISIONS
    last = 0
    first = True
    for pair in filter(None, value[1:-1].split(",")):
        size, colon, text = pair.partition(":")
        if not colon:
            raise AttributeValueError(f"{name} has {pair!r}; allowed: MiB and divisions, as in [256:1,512:2,>:8]")
        parts = _integer(name, text)
        if size == ">":
            found[last + 1 :] = [parts] * (_N_DIVISIONS - last - 1)
            continue
        start = _integer(name, size)
        if start < 1 or start & (start - 1):
            raise AttributeValueError(f"{name} starts at {start} MiB; allowed: powers of two")
        last = min(start.bit_length() - 1, _N_DIVISIONS - 1)
        if first:
            found[:last] = [parts] * last
            first = False
        found[last] = parts
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class AllocatorResult(Columns):
    """What the allocator did over a trace; made by :func:`replay_trace`.

    Attributes
    ----------
    allocated_bytes : int
        Largest sum of the blocks in use: ``torch.cuda.max_memory_allocated()``. Bytes, rounded as the allocator
        rounds them, and with what it did not split off.
    reserved_bytes : int
        Most bytes held from the driver: ``torch.cuda.max_memory_reserved()``.
    fits : bool
        False if an allocation found no memory; everything else then stands for the events before it.
    first_failure : int or None
        The event that found no memory.
    n_segments : int
        Segments taken from the driver over the trace; with ``expandable_segments`` extensions of one.
    n_released : int
        Segments (or free parts of an expandable one) given back because memory ran out.
    n_retries : int
        How often memory ran out and everything free was given back: ``num_alloc_retries``.
    allocated, reserved : (n_events,) int64, bytes
        Both sums after each event; as many as there are events before `first_failure`.
    """

    allocated_bytes: int
    reserved_bytes: int
    fits: bool
    first_failure: int | None
    n_segments: int
    n_released: int
    n_retries: int
    allocated: I64
    reserved: I64


_DEFAULT: Final = CudaAllocator()


def read_allocator(allocator: str | CudaAllocator) -> CudaAllocator:
    """Return the allocator that an option names: ``"cuda"`` is one with PyTorch's defaults.

    Raises
    ------
    GraphError
        If it is another text.
    """
    if isinstance(allocator, str):
        if allocator != "cuda":
            raise GraphError(f"allocator={allocator!r}; allowed: None, 'cuda' or a CudaAllocator")
        return CudaAllocator()
    return allocator


def replay_trace(events: I64, nbytes: I64, allocator: CudaAllocator = _DEFAULT) -> AllocatorResult:
    """Replay allocations and frees in a model of PyTorch's CUDA caching allocator.

    A request is rounded up to 512 B. Up to 1 MiB it is served from the small pool, whose segments have 2 MiB; above
    that from the large pool, in segments of 20 MiB for requests below 10 MiB and of the request's own size, rounded
    up to 2 MiB, from there on. Within its pool it takes the smallest free block it fits, at the lowest address; the
    rest stays free if it has at least 512 B in the small pool, more than 1 MiB in the large one, or the segment is
    expandable, and is part of the allocation otherwise. Freed blocks merge with free neighbours of their segment.
    Segments are kept. Only where `capacity` does not suffice are they given back: with ``max_split_size_mb`` first
    unsplit large ones, then all that are wholly free (of expandable ones every whole step inside free blocks).

    Parameters
    ----------
    events : (n_events,) int64
        ``b + 1`` allocates block ``b``, ``-(b + 1)`` frees it; a block may be allocated again once it is freed.
    nbytes : (n_blocks,) int64, bytes
        What each block asks for, below 2**60; 0 allocates nothing, as in PyTorch.
    allocator : CudaAllocator
        The options.

    Returns
    -------
    AllocatorResult
        Out of memory is a result, not an error.

    Raises
    ------
    LoweringError
        If the arrays are not one-dimensional and of integers, a size is negative or too large, an event names no
        block, allocates one in use or frees one that is not; or if the addresses of more than 2**62 bytes are used
        up, which takes giving back and taking again.

    Notes
    -----
    About 50 ns per event for the trace of a training step; see the kernel.

    Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.4 to 2.14. Newer segments lie at higher addresses here,
    while a driver may place them anywhere; that decides which of two equal free blocks is taken. Memory runs out
    where segments or steps would exceed `capacity`; below a memory fraction of 1 PyTorch counts otherwise with
    expandable segments, and ``garbage_collection_threshold`` would act. Not modelled: streams other than the
    current one, private pools of CUDA graphs, sharing between processes, ``empty_cache``, other backends, and what
    is not allocated as a tensor: the CUDA context and the workspaces of cuDNN and cuBLAS.

    Examples
    --------
    >>> result = replay_trace(np.array([1, 2, -1, -2]), np.array([700, 30_000_000]))
    >>> result.allocated_bytes, result.reserved_bytes, result.n_segments
    (30001152, 33554432, 2)
    """
    events = _column("events", events)
    nbytes = _column("nbytes", nbytes)
    if nbytes.size:
        for b in (int(nbytes.argmin()), int(nbytes.argmax())):
            if not 0 <= nbytes[b] < 1 << 60:
                raise LoweringError(f"block {b} has {nbytes[b]} bytes; allowed: 0 .. 2**60 - 1")
    n = events.shape[0]
    n_rows = 4 * n + 16
    n_chunks = 4 * n_rows // _WIDTH + 4
    allocated = np.empty(n, np.int64)
    reserved = np.empty(n, np.int64)
    divisions = allocator.roundup_power2_divisions
    if isinstance(divisions, int):
        divisions = (divisions,)
    status, at, peak, held, taken, released, retries = replay(
        events,
        nbytes,
        _MIN_BLOCK,
        _SMALL_SIZE,
        _SMALL_SEGMENT,
        allocator.large_segment_size_mb * _MIB,
        _MIN_LARGE,
        _ROUND_LARGE,
        (allocator.max_split_size_mb or 0) * _MIB,
        allocator.max_non_split_rounding_mb * _MIB,
        frozen(np.array(divisions or (), dtype=np.int64)),
        allocator.expandable_segments,
        allocator.capacity or 0,
        _WIDTH,
        np.empty((n_rows, 6), np.int64),
        np.empty(n_chunks * _WIDTH, np.int64),
        np.empty(n_chunks * _WIDTH, np.int64),
        np.empty((3, n_chunks), np.int64),
        np.empty(6, np.int64),
        np.empty(nbytes.shape[0], np.int64),
        allocated,
        reserved,
    )
    if status > 1:
        event = int(events[at])
        words = {
            2: f"names no block; allowed: 1 .. {nbytes.shape[0]}, and their negatives",
            3: f"allocates block {event - 1}, which is in use; allowed: a block that is not",
            4: f"frees block {-event - 1}, which is not in use; allowed: a block that is",
            5: "uses addresses beyond 2**62 bytes; allowed: less memory, or less often",
        }[status]
        raise LoweringError(f"event {at} ({event}) {words}")
    return AllocatorResult(
        allocated_bytes=peak,
        reserved_bytes=held,
        fits=status == 0,
        first_failure=at if status else None,
        n_segments=taken,
        n_released=released,
        n_retries=retries,
        allocated=frozen(allocated[:at]),
        reserved=frozen(reserved[:at]),
    )


def _column(name: str, values: I64) -> I64:
    """Return a read-only int64 view, or a copy where it takes one."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise LoweringError(f"{name} has {array.ndim} dimensions of {array.dtype}; allowed: one dimension of integers")
    return frozen(np.ascontiguousarray(array, dtype=np.int64).view())
