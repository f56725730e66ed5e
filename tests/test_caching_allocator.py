"""The model of PyTorch's CUDA caching allocator, against its rules written out as lists of pieces."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnnlive import errors
from cnnlive._kernels import caching_allocator
from cnnlive.plan.allocator import CudaAllocator, replay_trace

KIB, MIB = 1 << 10, 1 << 20
FREE, USED, NONE = "free", "used", "no memory"


# ------------------------------------------------------------------ the oracle: every rule, nothing clever


class Segment:
    """Pieces ``[bytes, state, block]`` from the segment's start on."""

    def __init__(self, small, pieces):
        self.small, self.pieces = small, pieces

    def merge(self):
        merged = []
        for piece in self.pieces:
            if merged and piece[1] == merged[-1][1] != USED:
                merged[-1][0] += piece[0]
            elif piece[0]:
                merged.append(list(piece))
        self.pieces = merged


class Oracle:
    def __init__(self, o: CudaAllocator):
        self.o = o
        self.limit = float("inf") if o.capacity is None else o.capacity
        self.max_split = float("inf") if o.max_split_size_mb is None else o.max_split_size_mb * MIB
        self.steps = {True: 2 * MIB, False: o.large_segment_size_mb * MIB}
        # Older segments at lower addresses; an expandable one has all the addresses it may ever need.
        self.segments = [Segment(s, [[1 << 62, NONE, None]]) for s in (True, False) if o.expandable_segments]
        self.peaks = [0, 0]
        self.counts = [0, 0, 0]

    def sum(self, *states):
        return sum(p[0] for s in self.segments for p in s.pieces if p[1] in states)

    def note(self):
        now = self.sum(USED), self.sum(USED, FREE)
        self.peaks = [max(a, b) for a, b in zip(self.peaks, now, strict=True)]
        return now

    def rounded(self, n):
        divisions = self.o.roundup_power2_divisions or 0
        power = n.bit_length() - 1
        if isinstance(divisions, tuple):
            divisions = divisions[min(max(power - 20, 0), 15)]
        if divisions > 1 and n > 512 * divisions:
            return next(v for j in range(divisions + 1) if (v := 2**power + j * (2**power // divisions)) >= n)
        return -(-n // 512) * 512

    def free_pieces(self, small):
        """List (bytes, segment, piece, bytes with what it can grow into) by best fit."""
        found = []
        for i, segment in enumerate(self.segments):
            for j, (size, state, _) in enumerate(segment.pieces):
                if segment.small == small and state == FREE:
                    after = segment.pieces[j + 1] if j + 1 < len(segment.pieces) else (0, USED)
                    found.append((size, i, j, size + (after[0] if after[1] == NONE else 0)))
        return sorted(found)

    def cached(self, want, small):
        fits = [p for p in self.free_pieces(small) if p[0] >= want]
        if not fits:
            return None
        best = 0
        if self.o.expandable_segments:
            while best + 1 < len(fits) and fits[best + 1][3] < fits[best][3]:
                best += 1
        size, i, j, _ = fits[best]
        if want < self.max_split <= size:
            return None
        if want >= self.max_split and size >= want + self.o.max_non_split_rounding_mb * MIB:
            return None
        return self.segments[i], j

    def grow(self, want, small):
        (segment,) = (s for s in self.segments if s.small == small)
        pieces = segment.pieces
        for j in range(len(pieces)):
            if pieces[j][1] == NONE:
                start = j - 1 if j and pieces[j - 1][1] == FREE else j
                room = 0
                for size, state, _ in pieces[start:]:
                    if state == USED:
                        break
                    room += size
                if room >= want:
                    break
        offset = sum(p[0] for p in pieces[:start])
        while True:
            at = next(j for j in range(len(segment.pieces)) if sum(p[0] for p in segment.pieces[:j]) == offset)
            have = segment.pieces[at][0] if segment.pieces[at][1] == FREE else 0
            if have >= want:
                return segment, at
            hole = at + (have > 0)
            size = segment.pieces[hole][0]
            more = -(-min(want - have, size) // self.steps[small]) * self.steps[small]
            if self.sum(USED, FREE) + more > self.limit:
                return None
            segment.pieces[hole : hole + 1] = [[more, FREE, None], [size - more, NONE, None]]
            segment.merge()
            self.counts[0] += 1
            self.note()

    def malloc(self, want, small):
        if self.o.expandable_segments:
            return self.grow(want, small)
        size = self.steps[small] if want < 10 * MIB else -(-want // (2 * MIB)) * 2 * MIB
        if self.sum(USED, FREE) + size > self.limit:
            return None
        self.segments.append(Segment(small, [[size, FREE, None]]))
        self.counts[0] += 1
        return self.segments[-1], 0

    def drop(self, numbers):
        self.counts[1] += len(numbers)
        self.segments = [s for i, s in enumerate(self.segments) if i not in numbers]

    def release_oversize(self, want, small):
        if self.max_split == float("inf") or self.o.expandable_segments:
            return False
        least = max(want, self.max_split)
        pieces = self.free_pieces(small)
        enough = [i for size, i, _, _ in pieces if size >= least][:1]
        if not enough:
            total = 0
            for size, i, _, _ in reversed(pieces):
                if total < least and size >= self.max_split:
                    total += size
                    enough.append(i)
            self.drop(enough)
            return total >= least
        self.drop(enough)
        return True

    def release_all(self):
        self.counts[2] += 1
        if not self.o.expandable_segments:
            self.drop([i for i, s in enumerate(self.segments) if [p[1] for p in s.pieces] == [FREE]])
        for segment in self.segments if self.o.expandable_segments else ():
            step, offset, pieces = self.steps[segment.small], 0, []
            for size, state, block in segment.pieces:
                start, end = -(-offset // step) * step, (offset + size) // step * step
                if state == FREE and start < end:
                    before, after = start - offset, offset + size - end
                    pieces += [[before, FREE, None], [end - start, NONE, None], [after, FREE, None]]
                    self.counts[1] += 1
                else:
                    pieces.append([size, state, block])
                offset += size
            segment.pieces = pieces
            segment.merge()

    def allocate(self, block, nbytes):
        want = self.rounded(nbytes)
        small = want <= MIB
        found = self.cached(want, small) or self.malloc(want, small)
        if not found and self.release_oversize(want, small):
            found = self.malloc(want, small)
        if not found:
            self.release_all()
            found = self.malloc(want, small)
        if not found:
            return False
        segment, j = found
        rest = segment.pieces[j][0] - want
        always = small or self.o.expandable_segments
        split = rest >= 512 if always else rest > MIB and want < self.max_split
        segment.pieces[j : j + 1] = [[want, USED, block], [rest, FREE, None]] if split else [[want + rest, USED, block]]
        return True

    def free(self, block):
        for segment in self.segments:
            for piece in segment.pieces:
                if piece[1] == USED and piece[2] == block:
                    piece[1:] = FREE, None
            segment.merge()

    def replay(self, events, nbytes):
        rows = []
        for event in events:
            b = abs(event) - 1
            if event > 0 and nbytes[b] and not self.allocate(b, nbytes[b]):
                return False, rows, self
            if event < 0:
                self.free(b)
            rows.append(self.note())
        return True, rows, self


# ------------------------------------------------------------------ helpers


def column(values):
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array


def run(events, nbytes, o=CudaAllocator(), width=4):  # noqa: B008 - frozen
    """Run the kernel itself, in narrow chunks so that a few blocks fill several; see the kernel for the answer."""
    n_rows = 4 * len(events) + 16
    n_chunks = 4 * n_rows // width + 4
    divisions = o.roundup_power2_divisions or ()
    allocated, reserved = np.full(len(events), -7), np.full(len(events), -7)
    answer = caching_allocator.replay(
        column(events), column(nbytes), 512, MIB, 2 * MIB, o.large_segment_size_mb * MIB, 10 * MIB, 2 * MIB,
        (o.max_split_size_mb or 0) * MIB, o.max_non_split_rounding_mb * MIB,
        column(divisions if isinstance(divisions, tuple) else [divisions]), o.expandable_segments, o.capacity or 0,
        width, np.full((n_rows, 6), -7), np.full(n_chunks * width, -7), np.full(n_chunks * width, -7),
        np.full((3, n_chunks), -7), np.full(6, -7), np.full(len(nbytes), -7), allocated, reserved,
    )  # fmt: skip
    return *answer, [*zip(allocated.tolist(), reserved.tolist(), strict=True)]


def agree(events, nbytes, o, width=4):
    fits, rows, oracle = Oracle(o).replay(events, nbytes)
    expected = (int(not fits), len(rows), *oracle.peaks, *oracle.counts)
    found = run(events, nbytes, o, width)
    assert found[:-1] == expected
    assert found[-1][: len(rows)] == rows
    result = replay_trace(np.array(events, np.int64), np.array(nbytes, np.int64), o)
    assert (result.allocated_bytes, result.reserved_bytes) == tuple(oracle.peaks)
    assert (result.n_segments, result.n_released, result.n_retries) == tuple(oracle.counts)
    assert (result.fits, result.first_failure) == (fits, None if fits else len(rows))
    assert [*zip(result.allocated.tolist(), result.reserved.tolist(), strict=True)] == rows
    return result


SIZES = [0, 1, 512, 513, 1500, 100 * KIB, 700 * KIB, MIB - 511, MIB, MIB + 1, 3 * MIB, 6 * MIB + 5, 10 * MIB - 512,
         10 * MIB - 511, 11 * MIB + 3, 18 * MIB, 19 * MIB + 1, 20 * MIB, 21 * MIB, 38 * MIB + 700 * KIB, 40 * MIB,
         45 * MIB, 61 * MIB]  # fmt: skip


@st.composite
def traces(draw, max_events=50):
    events, nbytes, live, dead = [], [], [], []
    for size, choice, which in draw(
        st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 9), st.integers(0, 99)), max_size=max_events)
    ):
        if choice < 4 and live:
            dead.append(live.pop(which % len(live)))
            events.append(-dead[-1])
        elif choice == 4 and dead:
            live.append(dead.pop(which % len(dead)))
            events.append(live[-1])
        else:
            nbytes.append(size)
            live.append(len(nbytes))
            events.append(len(nbytes))
    return events, nbytes


@st.composite
def allocators(draw):
    large = draw(st.sampled_from([20, 20, 11]))
    return CudaAllocator(
        expandable_segments=draw(st.booleans()),
        max_split_size_mb=draw(st.sampled_from([None, None, 20, 39, 41])),
        roundup_power2_divisions=draw(st.sampled_from([None, None, 1, 4, 16, (8, 2, 0, 1, *[4] * 12)])),
        capacity=draw(st.sampled_from([None, 1, 2 * MIB, 25 * MIB, 44 * MIB, 62 * MIB, 82 * MIB, 83 * MIB, 130 * MIB])),
        max_non_split_rounding_mb=draw(st.sampled_from([20, 20, 30])),
        large_segment_size_mb=large,
    )


def random_trace(seed, n, sizes, keep=0.5):
    rng = random.Random(seed)
    events, nbytes, live = [], [], []
    for _ in range(n):
        if live and rng.random() > keep:
            events.append(-live.pop(rng.randrange(len(live))))
        else:
            nbytes.append(sizes(rng))
            live.append(len(nbytes))
            events.append(len(nbytes))
    return events, nbytes


# ------------------------------------------------------------------ equal to the rules


@given(trace=traces(), o=allocators(), width=st.sampled_from([2, 3, 4, 7]))
@example(trace=([], []), o=CudaAllocator(), width=4)
def test_every_event_leaves_what_the_rules_leave(trace, o, width):
    agree(*trace, o, width)


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("capacity", [None, 60 * MIB])
@pytest.mark.parametrize("max_split", [None, 20])
def test_long_random_traces_agree_in_every_combination(expandable, capacity, max_split):
    for seed in range(3):
        o = CudaAllocator(expandable_segments=expandable, capacity=capacity, max_split_size_mb=max_split)
        agree(*random_trace(seed, 300, lambda rng: int(2 ** rng.uniform(8, 24.5)), 0.55), o, 3)


@pytest.mark.parametrize("max_split", [None, 20])
@pytest.mark.parametrize("small", [False, True])
def test_expandable_segments_short_of_memory_agree(small, max_split):
    retries = 0
    for seed in range(12):
        # What is live takes at most 3/4 of the memory: holes come and go, and few traces end early.
        rng = random.Random(seed)
        step = 128 * KIB if small else 2 * MIB
        capacity = rng.randrange(100, 160) * step
        events, nbytes, live = [], [], []
        for _ in range(150):
            size = rng.randrange(1, 9 if small else 40) * step - rng.choice([0, 512])
            if sum(nbytes[b - 1] for b in live) + size <= capacity * 3 // 4:
                nbytes.append(size)
                live.append(len(nbytes))
                events.append(len(nbytes))
            else:
                events.append(-live.pop(rng.randrange(len(live))))
        o = CudaAllocator(expandable_segments=True, capacity=capacity, max_split_size_mb=max_split)
        retries += agree(events, nbytes, o, 3).n_retries
    assert retries > 0


@pytest.mark.parametrize("expandable", [False, True])
def test_many_free_blocks_in_many_chunks_agree(expandable):
    o = CudaAllocator(expandable_segments=expandable)
    for width in (2, 4, 5, 256):
        n = 150
        rng = random.Random(width)
        nbytes = [512 * rng.randint(1, 60) for _ in range(2 * n)]
        # All are taken, every second is freed (they cannot merge), the others follow in any order.
        odd = rng.sample(range(1, n, 2), n // 2)
        even = rng.sample(range(2, n + 1, 2), n // 2)
        more = list(range(n + 1, 2 * n + 1))
        events = [*range(1, n + 1), *(-b for b in odd), *more[: n // 3], *(-b for b in even), *more[n // 3 :]]
        agree(events, nbytes, o, width)


@given(trace=traces(), o=allocators())
def test_invariants(trace, o):
    events, nbytes = trace
    result = replay_trace(np.array(events, np.int64), np.array(nbytes, np.int64), o)
    live = {}
    for event, allocated, reserved in zip(events, result.allocated, result.reserved, strict=False):
        b = abs(event) - 1
        if event > 0:
            live[b] = nbytes[b]
        else:
            del live[b]
        assert sum(-(-n // 512) * 512 for n in live.values()) <= allocated <= reserved
        assert o.capacity is None or reserved <= o.capacity
    assert result.fits == (len(result.allocated) == len(events))
    assert result.fits or o.capacity is not None
    assert result.allocated_bytes == max([0, *result.allocated])
    assert result.reserved_bytes >= max([0, *result.reserved])
    if o.capacity is None:
        assert (np.diff(result.reserved) >= 0).all()
        assert result.n_released == result.n_retries == 0


# ------------------------------------------------------------------ by hand


def rows(events, nbytes, **options):
    result = replay_trace(np.array(events), np.array(nbytes), CudaAllocator(**options))
    return [*zip(result.allocated.tolist(), result.reserved.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("nbytes", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # exactly 1 MiB is not split off
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),  # a little more is
        (2**33 + 1, 2**33 + 2 * MIB - 2 * MIB + 512, 2**33 + 2 * MIB),
    ],
)
def test_one_request_by_the_rules(nbytes, allocated, reserved):
    assert rows([1, -1], [nbytes]) == [(allocated, reserved), (0, reserved)]


def test_nothing_at_all():
    result = replay_trace(np.array([], np.int64), np.array([], np.int64))
    assert (result.allocated_bytes, result.reserved_bytes, result.n_segments) == (0, 0, 0)
    assert result.fits
    assert result.first_failure is None
    assert rows([], [5]) == []


def test_zero_bytes_allocate_nothing():
    assert rows([1, 2, -1, -2, 1], [0, 1]) == [(0, 0), (512, 2 * MIB), (512, 2 * MIB), (0, 2 * MIB), (0, 2 * MIB)]


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (1, 3, 2, 4), (2, 4, 1, 3), (3, 1, 4, 2)])
def test_freed_neighbours_merge_in_any_order(order):
    # Four blocks fill a small segment; freed, it serves two of 1 MiB.
    found = rows([1, 2, 3, 4, *(-b for b in order), 5, 6], [512 * KIB] * 4 + [MIB] * 2)
    assert found[-1] == (2 * MIB, 2 * MIB)


def test_the_smallest_free_block_that_fits_is_taken_and_of_equal_ones_the_lowest():
    # Holes of 3, 1 and 1 KiB between blocks in use; then 1 KiB goes to the second hole, and 512 B too, to the third.
    sizes = [3 * KIB, 512, KIB, 512, KIB, 512]
    events = [1, 2, 3, 4, 5, 6, -1, -3, -5, 7, 8, -2, 9]
    assert rows(events, [*sizes, KIB, 512, 3 * KIB + 512])[-1][1] == 2 * MIB
    # Had either taken from the first hole, 3.5 KiB would not fit there; the rest of the segment is filled first:
    rest = 2 * MIB - sum(sizes)
    filled = [1, 2, 3, 4, 5, 6, 7, -1, -3, -5, 8, 9, -2, 10]
    half = [*sizes, MIB, KIB, 512, 3 * KIB + 512]
    assert rest > MIB
    assert rows(filled, half)[-1][1] == 2 * MIB


def test_small_and_large_requests_never_share_a_segment():
    assert rows([1, -1, 2], [5 * MIB, KIB])[-1] == (KIB, 22 * MIB)


def test_expandable_segments_grow_at_their_end_by_whole_steps():
    options = {"expandable_segments": True}
    assert rows([1], [21 * MIB], **options) == [(21 * MIB, 40 * MIB)]
    # 19 MiB are left at the end: 25 more take only one step.
    assert rows([1, 2], [21 * MIB, 25 * MIB], **options)[-1] == (46 * MIB, 60 * MIB)
    # Without them, each has a segment of its own.
    assert rows([1, 2], [21 * MIB, 25 * MIB])[-1] == (48 * MIB, 48 * MIB)
    assert rows([1, 2], [KIB, 5 * MIB], **options)[-1] == (KIB + 5 * MIB, 22 * MIB)


def test_in_expandable_segments_everything_is_split_off():
    assert rows([1], [20 * MIB - 512], expandable_segments=True) == [(20 * MIB - 512, 20 * MIB)]
    assert rows([1], [20 * MIB - 512]) == [(20 * MIB, 20 * MIB)]


def test_a_block_above_the_split_limit_stays_whole():
    trace = [1, -1, 2], [60 * MIB, 30 * MIB]
    assert rows(*trace)[-1] == (30 * MIB, 60 * MIB)
    # 30 MiB are below 40: the free 60 are not for them. 45 are above, but would waste 15: allowed; 40 would waste 20.
    assert rows(*trace, max_split_size_mb=40)[-1] == (30 * MIB, 90 * MIB)
    assert rows([1, -1, 2], [60 * MIB, 45 * MIB], max_split_size_mb=40)[-1] == (60 * MIB, 60 * MIB)
    assert rows([1, -1, 2], [60 * MIB, 40 * MIB], max_split_size_mb=40)[-1] == (40 * MIB, 100 * MIB)
    assert rows([1, -1, 2], [60 * MIB, 40 * MIB], max_split_size_mb=40, max_non_split_rounding_mb=21)[-1][1] == 60 * MIB


def test_requests_round_up_to_divisions_of_a_power_of_two():
    # PyTorch's own example: 1200 between 1024 and 2048 in four steps is 1280; here in MiB, being above 4 times 512 B.
    assert rows([1], [1200 * MIB], roundup_power2_divisions=4)[0][0] == 1280 * MIB
    assert rows([1], [1200 * KIB], roundup_power2_divisions=4)[0][0] == 1280 * KIB
    assert rows([1], [2048], roundup_power2_divisions=4)[0][0] == 2048
    assert rows([1], [2049], roundup_power2_divisions=4)[0][0] == 2560
    assert rows([1], [2047], roundup_power2_divisions=4)[0][0] == 2048  # not above: multiples of 512 B
    by_size = (1,) * 10 + (4,) * 6
    assert rows([1], [1200 * MIB], roundup_power2_divisions=by_size)[0][0] == 1280 * MIB
    assert rows([1], [1000 * MIB + 1], roundup_power2_divisions=by_size)[0][0] == 1000 * MIB + 512


def test_cached_segments_are_given_back_when_memory_runs_out():
    trace = np.array([1, 2, -1, 3]), np.array([30 * MIB, 20 * MIB, 40 * MIB])
    roomy = replay_trace(*trace, CudaAllocator(capacity=90 * MIB))
    assert (roomy.reserved_bytes, roomy.n_released, roomy.n_retries) == (90 * MIB, 0, 0)
    tight = replay_trace(*trace, CudaAllocator(capacity=60 * MIB))
    assert (tight.fits, tight.reserved_bytes, tight.n_released, tight.n_retries) == (True, 60 * MIB, 1, 1)
    assert tight.reserved.tolist() == [30 * MIB, 50 * MIB, 50 * MIB, 60 * MIB]
    short = replay_trace(*trace, CudaAllocator(capacity=60 * MIB - 1))
    assert (short.fits, short.first_failure, short.reserved_bytes) == (False, 3, 50 * MIB)
    assert short.reserved.tolist() == [30 * MIB, 50 * MIB, 50 * MIB]


def test_a_segment_partly_in_use_is_not_given_back():
    # 60 MiB of which 2 are in use again; 70 more do not fit beside them into 100.
    trace = np.array([1, -1, 2, 3]), np.array([60, 2, 70]) * MIB
    result = replay_trace(*trace, CudaAllocator(capacity=100 * MIB))
    assert (result.fits, result.first_failure, result.n_released, result.n_retries) == (False, 3, 0, 1)
    # An expandable one grows by the 12 MiB that are missing at its end, which is one step.
    result = replay_trace(*trace, CudaAllocator(capacity=100 * MIB, expandable_segments=True))
    assert (result.fits, result.reserved[-1], result.n_released) == (True, 80 * MIB, 0)


def test_an_expandable_segment_gives_back_whole_steps_and_fills_its_holes_first():
    # 58 MiB free, 1.5 in use, 0.5 free: 80 more grow it by 80 MiB, for which the 40 MiB in whole steps at its start
    # go. 18 MiB stay behind the hole: 20 are mapped at its start, not at the end of the segment, where they would
    # merge with what is free.
    trace = np.array([1, 2, -1, 3, 4, -3]), np.array([116, 3, 160, 40]) * (MIB // 2)
    result = replay_trace(*trace, CudaAllocator(capacity=139 * MIB, expandable_segments=True))
    assert (result.reserved // MIB).tolist() == [60, 60, 60, 100, 120, 120]
    assert (result.n_segments, result.n_released, result.n_retries) == (3, 1, 1)
    # What the rest of the hole holds together with the 18 MiB is 38 MiB of addresses, but memory for 19 only.
    for size, fits in ((18, True), (19, False)):
        trace = np.array([1, 2, -1, 3, 4, 5]), np.array([116, 3, 160, 40, 2 * size]) * (MIB // 2)
        assert replay_trace(*trace, CudaAllocator(capacity=139 * MIB, expandable_segments=True)).fits == fits


def test_of_unsplit_large_segments_only_as_many_are_given_back_as_needed():
    # 50, 60 and 70 MiB are free and never split; 45 do not fit into 200, so the 50, the smallest that does, go.
    o = CudaAllocator(max_split_size_mb=40, capacity=200 * MIB)
    result = replay_trace(np.array([1, 2, 3, -1, -2, -3, 4]), np.array([50, 60, 70, 29]) * MIB, o)
    assert (result.n_released, result.n_retries, result.reserved[-1]) == (1, 0, (60 + 70 + 30) * MIB)
    # 150 MiB need all three.
    result = replay_trace(np.array([1, 2, 3, -1, -2, -3, 4]), np.array([50, 60, 70, 150]) * MIB, o)
    assert (result.n_released, result.n_retries, result.reserved[-1]) == (3, 0, 150 * MIB)
    # 190 too, and they are not enough by size: everything goes.
    result = replay_trace(np.array([1, 2, 3, -1, -2, -3, 4]), np.array([50, 60, 70, 190]) * MIB, o)
    assert (result.n_released, result.n_retries, result.reserved[-1]) == (3, 1, 190 * MIB)


def test_sizes_beyond_32_bits():
    big = 5 * 2**32 + 1
    assert rows([1, 2, -1, -2], [big, big])[1] == (2 * (big + 511), 2 * (5 * 2**32 + 2 * MIB))


def test_a_step_that_repeats_reserves_nothing_new():
    events, nbytes = random_trace(7, 200, lambda rng: rng.randrange(1, 30 * MIB), 0.5)
    live = [b for b in range(1, len(nbytes) + 1) if -b not in events]
    step = [*events, *(-b for b in live)]
    once, twice = (replay_trace(np.array(step * k), np.array(nbytes)) for k in (1, 2))
    assert twice.allocated_bytes == once.allocated_bytes
    assert twice.allocated[-1] == 0
    assert twice.reserved_bytes >= once.reserved_bytes


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([0], r"event 0 \(0\) names no block; allowed: 1 .. 2"),
        ([1, 3], r"event 1 \(3\) names no block"),
        ([-3], r"event 0 \(-3\) names no block"),
        ([2, 1, 2], r"event 2 \(2\) allocates block 1, which is in use"),
        ([1, -2], r"event 1 \(-2\) frees block 1, which is not in use"),
        ([1, -1, -1], r"event 2 \(-1\) frees block 0"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(events, words):
    for nbytes in ([1, 1], [0, 0]):
        with pytest.raises(errors.LoweringError, match=words):
            replay_trace(np.array(events), np.array(nbytes))


@pytest.mark.parametrize(
    ("events", "nbytes", "words"),
    [
        ([1], [-5], "block 0 has -5 bytes"),
        ([1], [1, 2**60], "block 1 has 1152921504606846976 bytes"),
        ([[1]], [1], "events has 2 dimensions of int64"),
        ([1], [1.0], "nbytes has 1 dimensions of float64"),
        ([True], [1], "events has 1 dimensions of bool"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(events, nbytes, words):
    with pytest.raises(errors.LoweringError, match=words):
        replay_trace(np.array(events), np.array(nbytes))


def test_the_end_of_all_addresses_is_noticed():
    # Ever larger blocks, of which memory holds one: each needs new addresses.
    events = [e for b in range(1, 10) for e in (b, -b)]
    with pytest.raises(errors.LoweringError, match=r"uses addresses beyond 2\*\*62 bytes"):
        replay_trace(np.array(events), 2**59 + 2 * MIB * np.arange(9), CudaAllocator(capacity=2**59 + 40 * MIB))
    # In an expandable segment 12 MiB that stay after each keep the hole, and 8 MiB in the step of those, for smaller
    # ones; the next starts after them.
    events = [e for b in range(1, 20, 2) for e in (b, b + 1, -b)]
    nbytes = [n for b in range(10) for n in ((2**59 // (20 * MIB) + b) * 20 * MIB + 8 * MIB, 12 * MIB)]
    o = CudaAllocator(capacity=2**59 + 1000 * MIB, expandable_segments=True)
    with pytest.raises(errors.LoweringError, match="uses addresses beyond"):
        replay_trace(np.array(events), np.array(nbytes), o)


def test_more_than_2_to_the_61_bytes_never_fit():
    result = replay_trace(np.arange(1, 6), np.full(5, 2**59))
    assert (result.fits, result.first_failure, result.reserved_bytes) == (False, 4, 2**61)


# ------------------------------------------------------------------ options


def test_the_defaults_are_those_of_pytorch():
    assert CudaAllocator.from_conf("") == CudaAllocator()
    assert CudaAllocator() == CudaAllocator(False, None, None, None, 20, 20)


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        ("expandable_segments:True", {"expandable_segments": True}),
        (" expandable_segments : False , max_split_size_mb: 128,", {"max_split_size_mb": 128}),
        ("max_split_size_mb:64,max_split_size_mb:32", {"max_split_size_mb": 32}),
        ("large_segment_size_mb:30,max_split_size_mb:30,max_non_split_rounding_mb:40",
         {"large_segment_size_mb": 30, "max_split_size_mb": 30, "max_non_split_rounding_mb": 40}),
        ("roundup_power2_divisions:4", {"roundup_power2_divisions": 4}),
        ("backend:native,per_process_memory_fraction:1.0,garbage_collection_threshold:0.8", {}),
        ("per_process_memory_fraction:1,release_lock_on_cudamalloc:True,pinned_use_background_threads:True", {}),
    ],
)  # fmt: skip
def test_the_text_of_the_environment_variable_is_read(conf, options):
    assert CudaAllocator.from_conf(conf) == CudaAllocator(**options)
    assert CudaAllocator.from_conf(conf, capacity=5) == CudaAllocator(**options, capacity=5)


# Measured: what torch 2.13's parser sets for sizes of 1, 2, 4 ... MiB.
@pytest.mark.parametrize(
    ("text", "divisions"),
    [
        ("[64:8,256:4,1024:4,>:1]", (8, 8, 8, 8, 8, 8, 8, 0, 4, 0, 4, 1, 1, 1, 1, 1)),
        ("[256:1,512:2,1024:4,>:8]", (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8)),
        ("[>:4]", (0, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4)),
        ("[]", (0,) * 16),
        ("[1:2,65536:8]", (2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8)),
        ("[131072:8]", (8,) * 16),
        ("[64:8,64:2]", (8, 8, 8, 8, 8, 8, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("[256:4,64:2,>:8]", (4, 4, 4, 4, 4, 4, 2, 8, 8, 8, 8, 8, 8, 8, 8, 8)),
    ],
)
def test_divisions_by_size_are_read_as_pytorch_reads_them(text, divisions):
    assert CudaAllocator.from_conf(f"roundup_power2_divisions:{text}").roundup_power2_divisions == divisions


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ("expandable_segment:True", "unknown key 'expandable_segment'; did you mean expandable_segments.*; allowed: "),
        ("expandable_segments:true", "expandable_segments is 'true'; allowed: True, False"),
        ("max_split_size_mb", "at 'max_split_size_mb': allowed are key:value pairs"),
        ("max_split_size_mb:", "allowed are key:value pairs"),
        ("max_split_size_mb:64,,expandable_segments:True", "at ',expandable_segments:True'"),
        ("max_split_size_mb:19", "max_split_size_mb is 19; allowed: an integer from 20"),
        ("max_split_size_mb:20.5", "max_split_size_mb is '20.5'; allowed: an integer"),
        (
            "large_segment_size_mb:30,max_split_size_mb:25",
            "max_non_split_rounding_mb is 20; allowed: an integer from 30",
        ),
        ("large_segment_size_mb:10", "large_segment_size_mb is 10; allowed: an integer from 11"),
        ("roundup_power2_divisions:3", "roundup_power2_divisions is 3; allowed: powers of two"),
        ("roundup_power2_divisions:0", "roundup_power2_divisions is 0"),
        ("roundup_power2_divisions:[64]", "has '64'; allowed: MiB and divisions"),
        ("roundup_power2_divisions:[64:8", "allowed are key:value pairs"),
        ("roundup_power2_divisions:[3:8]", "starts at 3 MiB; allowed: powers of two"),
        ("roundup_power2_divisions:[0:8]", "starts at 0 MiB"),
        ("roundup_power2_divisions:[64:6]", "roundup_power2_divisions is 6"),
        ("backend:cudaMallocAsync", "backend is 'cudaMallocAsync', which is not modelled; allowed: native"),
        ("per_process_memory_fraction:0.5", "per_process_memory_fraction is '0.5', which is not modelled"),
    ],
)
def test_a_text_that_pytorch_would_refuse_or_that_is_not_modelled_is_refused(conf, words):
    with pytest.raises(errors.AttributeValueError, match=words):
        CudaAllocator.from_conf(conf)


@pytest.mark.parametrize(
    "options",
    [
        {"expandable_segments": 1}, {"capacity": 0}, {"capacity": True}, {"capacity": 2.0**30},
        {"capacity": 2**61 + 1}, {"roundup_power2_divisions": (1,) * 15}, {"roundup_power2_divisions": -1},
        {"max_non_split_rounding_mb": 19}, {"max_split_size_mb": 0},
    ],
)  # fmt: skip
def test_options_outside_what_is_allowed_are_refused(options):
    with pytest.raises(errors.AttributeValueError, match="allowed: "):
        CudaAllocator(**options)


def test_a_result_survives_pickling_and_its_arrays_are_read_only():
    result = replay_trace(np.array([1, -1]), np.array([100]))
    copy = pickle.loads(pickle.dumps(result))
    assert copy.reserved.tolist() == [2 * MIB, 2 * MIB]
    assert not copy.reserved.flags.writeable
    assert not result.allocated.flags.writeable


def test_the_arrays_of_the_caller_stay_as_they_are():
    events, nbytes = np.array([1, -1]), np.array([100])
    replay_trace(events, nbytes)
    assert events.flags.writeable
    assert replay_trace([1, 2], (np.int32(5), 6)).allocated_bytes == 1024
