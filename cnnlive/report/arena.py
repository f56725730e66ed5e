"""Report of an arena: how large it is and could be, the largest buffers, and a picture of what lies where and when."""

from __future__ import annotations

from string import ascii_letters
from typing import Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from cnnlive.plan.arena import ArenaPlan, SharedObjectsPlan
from cnnlive.report.text import Lines, both_bytes, grid, header, indented, percent
from cnnlive.units import format_bytes

__all__ = ["arena_data", "arena_picture", "arena_report", "shared_data", "shared_report"]

_NARROW: Final = 76
_ROWS: Final = 12
_COLUMNS: Final = 64
_LABEL: Final = 11
_STRETCH: Final = 4
#: Characters of buffers in a picture, the largest first; A to Z before a to z.
_LETTERS: Final = ascii_letters[26:] + ascii_letters[:26]
_OTHER: Final = ":"
_ORDERS: Final = {"program": "program order", "least peak": "order of least peak", "given": "order as given"}
_ANSWERS: Final = {
    "infeasible": "does not fit: proven",
    "unknown": "not known: nothing was found, and nothing is proven",
}


def _question(plan: ArenaPlan) -> dict[str, Any]:
    """Return what was asked of a network; null where plain buffers were placed."""
    keys = ("dtype", "inplace", "fuse")
    found = plan.plan.to_dict() if plan.plan is not None else dict.fromkeys(keys)
    return {key: found[key] for key in keys}


def arena_data(plan: ArenaPlan) -> dict[str, Any]:
    """Return plain data of an arena: what ``cnnlive arena --json`` prints.

    Parameters
    ----------
    plan : ArenaPlan

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    data = plan.to_dict()
    keys = ("network", "batch", "dtype", "profile", "inplace", "fuse", "order")
    asked = data | _question(plan)
    return {key: asked[key] for key in keys} | data


def shared_data(plan: SharedObjectsPlan) -> dict[str, Any]:
    """Return plain data of shared objects: what ``cnnlive arena --shared-objects --json`` prints.

    Parameters
    ----------
    plan : SharedObjectsPlan

    Returns
    -------
    dict
        Its keys are those of ``docs/json.md``.
    """
    return plan.to_dict()


# ---------------------------------------------------------------------------------- the picture


def _by_size(plan: ArenaPlan) -> list[int]:
    """Return the buffers that are ever alive and have bytes, the largest first, of equal ones the earlier."""
    b = plan.buffers
    order = np.lexsort((b.lower, -b.nbytes))
    return [i for i in order.tolist() if b.nbytes[i] and b.lower[i] < b.upper[i]]


def arena_picture(plan: ArenaPlan, *, width: int = _COLUMNS, height: int = _ROWS) -> list[str]:
    """Draw an arena: time from left to right, addresses from the bottom up, a letter for each of the largest buffers.

    A character shows what lies at the middle of its share of the addresses, at the fullest step of its share of the
    time, so that the peak is always seen. ``A`` is the largest buffer, then ``B`` to ``Z`` and ``a`` to ``z``; all
    others are ``:``, and what is free is blank.

    Parameters
    ----------
    plan : ArenaPlan
    width, height : int
        Most columns and rows.

    Returns
    -------
    list of str
        From the top of the arena down; empty where there is nothing to draw. ASCII only.
    """
    b, offsets, top = plan.buffers, plan.offsets, plan.arena_bytes
    order = _by_size(plan)
    if offsets is None or not top or not order:
        return []
    letter = dict(zip(order, _LETTERS, strict=False))
    shown = np.array(order)
    lower, upper, begin, end = b.lower[shown], b.upper[shown], offsets[shown], offsets[shown] + b.nbytes[shown]
    moments, load = plan.timeline.T.tolist()
    first, last = int(lower.min()), int(upper.max())
    # A short time is drawn with several columns a step.
    n_columns = min(width, (last - first) * max(1, min(_STRETCH, width // (last - first))))
    n_rows = min(height, top)
    middles = np.array([(2 * r + 1) * top // (2 * n_rows) for r in range(n_rows)])
    columns = []
    for c in range(n_columns):
        at, until = (first + k * (last - first) // n_columns for k in (c, c + 1))
        until = max(until, at + 1)
        i, j = int(np.searchsorted(moments, at, "right")) - 1, int(np.searchsorted(moments, until, "left"))
        fullest = max(range(i, j), key=load.__getitem__)
        step = max(at, moments[fullest])
        alive = np.flatnonzero((lower <= step) & (step < upper))
        alive = alive[np.argsort(begin[alive], kind="stable")]
        under = np.searchsorted(begin[alive], middles, "right") - 1
        cells = []
        for middle, k in zip(middles.tolist(), under.tolist(), strict=True):
            inside = k >= 0 and middle < end[alive[k]]
            cells.append(letter.get(int(shown[alive[k]]), _OTHER) if inside else " ")
        columns.append(cells)
    return ["".join(column[r] for column in columns) for r in reversed(range(n_rows))]


def _framed(plan: ArenaPlan, columns: int) -> RenderableType:
    """Return the picture with its axes."""
    lines = arena_picture(plan, width=max(8, min(_COLUMNS, columns - _LABEL - 4)))
    b = plan.buffers
    alive = b.lower < b.upper
    first, last = int(b.lower[alive].min()), int(b.upper[alive].max()) - 1
    labels = {0: format_bytes(plan.arena_bytes or 0), len(lines) - 1: "0"}
    rows = [f"{labels.get(r, ''):>{_LABEL - 1}} |{line}".rstrip() for r, line in enumerate(lines)]
    width = len(lines[0])
    ends = f"{first:,}", f"{last:,}" if last > first else ""
    axis = f"{'step':>{_LABEL - 1}}  {ends[0]}{ends[1].rjust(max(width - len(ends[0]), len(ends[1]) + 1))}".rstrip()
    rest = f"; {_OTHER} others" if len(_by_size(plan)) > len(_LETTERS) else ""
    head = f"what lies where and when: letters as above, then on by size{rest}; blank: free"
    return Group(head, *(Text(row, "cyan", no_wrap=True) for row in rows), Text(axis, no_wrap=True))


# ---------------------------------------------------------------------------------- reports


def _proof(plan: ArenaPlan) -> Text:
    if plan.optimal:
        order = " in any order of the ops" if plan.order == "least peak" else ""
        return Text(f"proven: no placement takes less{order}", "green")
    return Text(f"the best found; at most {100 * (plan.gap or 0):.2g} % above the least", "yellow")


def _bound_words(plan: ArenaPlan) -> str:
    if plan.lower_bound == plan.peak_load:
        return "the most alive at one step"
    if plan.lower_bound < plan.peak_load:
        return "of every order of the ops"
    return f"above {plan.peak_load:,} B, the most alive at one step: alignments, fixed offsets or the search tell"


def _amounts(plan: ArenaPlan, columns: int) -> RenderableType:
    people = columns >= _NARROW
    table = grid(*("lrrl" if people else "lrl"))

    def add(name: str, nbytes: int, words: str | Text, *, style: str = "") -> None:
        cells = both_bytes(nbytes)
        table.add_row(*(Text(t, style) for t in (name, *(cells if people else cells[1:]))), words)

    total = int(plan.buffers.nbytes.sum())
    if plan.arena_bytes is not None:
        add("arena", plan.arena_bytes, _proof(plan), style="bold")
    add("lower bound", plan.lower_bound, _bound_words(plan))
    if plan.arena_bytes is not None and plan.fragmentation_bytes is not None:
        share = f"{percent(plan.fragmentation_bytes, plan.arena_bytes)} of the arena" if plan.arena_bytes else ""
        add("fragmentation", plan.fragmentation_bytes, f"{share}: free even at the fullest step".lstrip(": "))
    if plan.capacity is not None:
        left = plan.capacity - (plan.arena_bytes or 0)
        add("capacity", plan.capacity, f"fits, {left:,} B are left" if plan.arena_bytes is not None else "as given")
    times = f", {total / plan.arena_bytes:.1f} times the arena" if plan.arena_bytes else ""
    add("all buffers", total, f"if none shared bytes{times}")
    return table


def _largest(plan: ArenaPlan, top: int) -> Lines:
    b = plan.buffers
    order = _by_size(plan)
    several = len(set(b.alignment.tolist())) > 1
    rows = []
    for k, i in enumerate(order[:top]):
        where = "" if plan.offsets is None else f"{int(plan.offsets[i]):,}"
        row = [_LETTERS[k] if k < len(_LETTERS) else _OTHER, b.ids[i], *both_bytes(int(b.nbytes[i])), where,
               f"[{b.lower[i]}, {b.upper[i]})"]  # fmt: skip
        rows.append([*row, str(b.alignment[i]), "fixed" if b.fixed[i] >= 0 else ""])
    if len(order) > top:
        rest = order[top:]
        rows.append(["", f"({len(rest):,} more)", *both_bytes(sum(int(b.nbytes[i]) for i in rest)), "", "", "", ""])
    heads = [("", "l"), ("largest buffers", "l"), ("", "r"), ("", "r"), ("offset", "r"), ("alive", "l"),
             ("alignment", "r"), ("", "l")]  # fmt: skip
    gone = {7} if not (b.fixed >= 0).any() else set()
    gone |= {6} if not several else set()
    kept = [c for c in range(len(heads)) if c not in gone]
    narrow = [kept.index(c) for c in (2, 6) if c in kept]
    return Lines([heads[c] for c in kept], [[row[c] for c in kept] for row in rows], gives=1, may_go=narrow, least=16)


def _subject(plan: ArenaPlan) -> tuple[RenderableType, str]:
    """Return what was placed, and how."""
    b = plan.buffers
    aligned = sorted(set(b.alignment.tolist()))
    words = [f"{b.n:,} buffers"]
    if plan.plan is not None:
        head: RenderableType = header(plan.plan, "arena")
        words.append(_ORDERS.get(plan.order, plan.order))
    else:
        head = Text.assemble((plan.name or "buffers", "bold"), "  arena of given buffers")
    pinned = int((b.fixed >= 0).sum())
    words += [f"{pinned:,} of them fixed"] if pinned else []
    words.append(f"method {plan.method}" + (f", {plan.n_nodes:,} nodes searched" if plan.n_nodes else ""))
    if aligned and aligned != [1]:
        words.append(f"aligned to {aligned[0]}" + (f" to {aligned[-1]}" if len(aligned) > 1 else "") + " B")
    return head, " · ".join(words)


def arena_report(plan: ArenaPlan, *, top: int = 8, columns: int = 120) -> RenderableType:
    """Report an arena on one screen: its size, the bound, the largest buffers and a picture.

    Parameters
    ----------
    plan : ArenaPlan
    top : int
        Most buffers that are listed.
    columns : int
        Width of the screen: a narrow one gets no amounts for people and a narrower picture.

    Returns
    -------
    rich renderable
    """
    head, how = _subject(plan)
    parts: list[RenderableType] = []
    if plan.arena_bytes is None:
        parts += [Text(_ANSWERS[plan.status], "bold"), plan.reason, ""]
    parts += [_amounts(plan, columns), ""]
    if _by_size(plan):
        parts += [_largest(plan, top), ""]
    if arena_picture(plan, width=1, height=1):
        parts += [_framed(plan, columns), ""]
    words = "placed: every buffer that the file lists, no two on the same bytes while both are alive."
    if plan.plan is not None:
        words = (
            "placed: every buffer of activations that `cnnlive inference` counts, scratch of ops too, no two on the "
            "same bytes while both are alive. Not in the arena: weights, the runtime's own data."
        )
        if plan.plan.workspace_bytes:
            words += f" Kernels keep a workspace of {plan.plan.workspace_bytes:,} B besides."
    return Group(head, how, "", indented(*parts), Text(words, "dim"))


def shared_report(plan: SharedObjectsPlan, *, top: int = 8, columns: int = 120) -> RenderableType:
    """Report objects that buffers share as wholes.

    Parameters
    ----------
    plan : SharedObjectsPlan
    top : int
        Most objects that are listed.
    columns : int
        Width of the screen: a narrow one gets no amounts for people.

    Returns
    -------
    rich renderable
    """
    b = plan.buffers
    people = columns >= _NARROW
    table = grid(*("lrrl" if people else "lrl"))
    proof = Text("proven: no objects take less", "green")
    if not plan.optimal:
        proof = Text(f"the best found; at most {100 * plan.gap:.2g} % above the least", "yellow")
    rows: list[tuple[str, int, str | Text]] = [
        ("objects", plan.total_bytes, proof),
        ("lower bound", plan.lower_bound, "sum of the positional maxima"),
        ("all buffers", int(b.nbytes.sum()), "if none shared bytes"),
    ]
    for k, (name, nbytes, words) in enumerate(rows):
        cells = both_bytes(nbytes)
        style = "" if k else "bold"
        table.add_row(*(Text(t, style) for t in (name, *(cells if people else cells[1:]))), words)
    held: list[list[str]] = [[] for _ in range(plan.n_objects)]
    for i, k in enumerate(plan.object_of.tolist()):
        if k >= 0:
            held[k].append(b.ids[i])
    order = np.argsort(-plan.object_bytes, kind="stable").tolist()
    lines = []
    for k in order[:top]:
        names = ", ".join(held[k][:3]) + (f", {len(held[k]) - 3:,} more" if len(held[k]) > 3 else "")
        lines.append((str(k), *both_bytes(int(plan.object_bytes[k])), f"{len(held[k]):,}", names))
    if len(order) > top:
        rest = order[top:]
        total = sum(int(plan.object_bytes[k]) for k in rest)
        lines.append((f"({len(rest):,} more)", *both_bytes(total), f"{sum(len(held[k]) for k in rest):,}", ""))
    heads = [("object", "l"), ("", "r"), ("", "r"), ("buffers", "r"), ("which", "l")]
    listed = Lines(heads, lines, gives=4, may_go=(1,), least=12)
    note = (
        "An object is used by one buffer at a time and is as large as the largest of them; nothing is placed at an "
        "offset. Not counted: weights, the runtime's own data."
    )
    return Group(
        Text.assemble((plan.name or "buffers", "bold"), f"  shared objects · {plan.method}"),
        f"{b.n:,} buffers in {plan.n_objects:,} objects",
        "",
        indented(table, "", listed),
        "",
        Text(note, "dim"),
    )
