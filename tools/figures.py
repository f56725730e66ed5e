"""Draw the figures of docs/theory with the library's own drawings, and write their captions: ``make docs`` runs it.

A page, of docs/theory or another, has a section for each figure between two comments, ``<!-- figure NAME -->`` and
``<!-- /figure NAME -->``: the image and a caption whose numbers are the plan's. ``--captions`` draws nothing. Figures
are SVG with text as text on a white ground, which reads on light and on dark pages alike. The same matplotlib writes
the same bytes.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cnnlive
from cnnlive.report.plot import COLOURS
from cnnlive.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FIGURES = DOCS / "theory/figures"

Axes = Any  # of matplotlib, which is imported when something is drawn


class Shown(NamedTuple):
    """A figure: what it shows in a word, its caption, and what draws it and returns its axes."""

    alt: str
    caption: str
    draw: Callable[[], Axes]


SHOWN: dict[str, Callable[[], Shown]] = {}


def figure(name: str) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    """Enter a figure under the name that its file and its section have."""

    def enter(make: Callable[[], Shown]) -> Callable[[], Shown]:
        SHOWN[name] = functools.cache(make)
        return SHOWN[name]

    return enter


def level(ax: Axes, y: float, words: str, side: str = "right") -> Axes:
    """Draw a level of bytes into a drawing, and name it at one of its ends."""
    at, shift = (1.0, -3) if side == "right" else (0.0, 3)
    ax.axhline(y, color="black", linestyle="--", linewidth=1.1, zorder=4)
    ax.annotate(words, (at, y), (shift, 2.5), va="bottom", ha=side, xycoords=("axes fraction", "data"), fontsize=8,
                textcoords="offset points", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.72, "pad": 0.8},
                zorder=5)  # fmt: skip
    return ax


def beside(ax: Axes) -> Axes:
    """Name everything beside the axes, as the library does in figures of its own."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False, borderaxespad=0.2,
              handlelength=1.2)  # fmt: skip
    return ax


# ---------------------------------------------------------------------------------- liveness


@functools.cache
def residual_block() -> cnnlive.InferencePlan:
    """Plan the worked example of the page on liveness."""
    g = cnnlive.Graph("residual block")
    x = g.input((1, 64, 56, 56), name="x")
    y = g.conv2d(x, 64, kernel_size=3, padding=1, bias=False, name="conv1")
    y = g.relu(g.batch_norm2d(y, name="bn1"), name="relu1")
    y = g.conv2d(y, 64, kernel_size=3, padding=1, bias=False, name="conv2")
    y = g.batch_norm2d(y, name="bn2")
    g.relu(g.add(y, x, name="add"), name="relu2")
    return cnnlive.plan_inference(g)


@figure("liveness-block")
def _() -> Shown:
    plan = residual_block()
    one = plan.live_at_peak[0].nbytes
    return Shown(
        "Stacked bars of the bytes alive at each of the eight steps of a residual block",
        f"A residual block of maps of {one:,} B. While `{plan.peak_op}` runs, {len(plan.live_at_peak)} of them are "
        f"alive, {plan.activation_peak_bytes:,} B: what it reads, what it writes, and `x`, which waits for the sum.",
        plan.plot,
    )


@figure("liveness-lives")
def _() -> Shown:
    plan = residual_block()
    arena = cnnlive.plan_arena(plan)
    waits = next(b for b in plan.buffers if b.name == "x")
    return Shown(
        "The buffers of the block as rectangles, steps across and addresses upward",
        f"The same block, a rectangle for each buffer: as wide as its life `[born, dead)`, as high as its bytes. `x` "
        f"lives over the steps [{waits.born}, {waits.dead}). The height of the stack, {arena.arena_bytes:,} B, is the "
        "peak: nothing is lost between these buffers ([arenas](arenas.md)).",
        arena.plot,
    )


@figure("liveness-vgg16")
def _() -> Shown:
    net = cnnlive.zoo.load("vgg16")
    plan, rule = cnnlive.plan_inference(net), cnnlive.rules_of_thumb(net)["inference"]
    maps = rule.terms["two_maps"]

    def draw() -> Axes:
        return level(plan.plot(), maps, f"rule of thumb: {format_bytes(maps)}")

    same = "the same bytes" if maps == plan.activation_peak_bytes else "other bytes"
    return Shown(
        "Bytes alive over the ops of VGG-16, with the rule of thumb as a line",
        f"VGG-16 is a chain. Its peak is {plan.activation_peak_bytes:,} B at `{plan.peak_op}`, and the rule of thumb, "
        f"max(F_i + F_{{i+1}}), gives {same}.",
        draw,
    )


@figure("liveness-resnet50")
def _() -> Shown:
    net = cnnlive.zoo.load("resnet50")
    plan, rule = cnnlive.plan_inference(net), cnnlive.rules_of_thumb(net)["inference"]
    return Shown(
        "Bytes alive over the ops of ResNet-50",
        f"ResNet-50 is not a chain: {plan.activation_peak_bytes:,} B at `{plan.peak_op}`, where the rule has "
        f"{rule.terms['two_maps']:,} B. The grey part waits for the end of a block.",
        plan.plot,
    )


@figure("liveness-profiles")
def _() -> Shown:
    found = cnnlive.compare_profiles(cnnlive.zoo.load("mobilenet_v2"), dtype="int8")
    peaks = {r.profile.name: r.activation_peak_bytes for r in found.rows if r.activation_peak_bytes}
    low, high = min(peaks, key=lambda name: peaks[name]), max(peaks, key=lambda name: peaks[name])
    return Shown(
        "Activation peaks and arenas of MobileNetV2 in int8 under each profile",
        f"MobileNetV2 in int8, batch 1, under the rules of {len(peaks)} profiles: from {peaks[low]:,} B (`{low}`) to "
        f"{peaks[high]:,} B (`{high}`).",
        found.plot,
    )


# ---------------------------------------------------------------------------------- training


def training(name: str, **asked: Any) -> cnnlive.TrainingPlan:
    return cnnlive.plan_training(cnnlive.zoo.load(name, train=True), **asked)


def with_rule(plan: cnnlive.TrainingPlan) -> Callable[[], Axes]:
    """Draw a step of Adam with the rule of thumb."""
    rule = rule_of(plan)
    return lambda: level(plan.plot(), rule, f"rule of thumb: {format_bytes(rule)}", "left")


def rule_of(plan: cnnlive.TrainingPlan) -> int:
    return cnnlive.rules_of_thumb(plan.network, batch=plan.batch)["training_adam"].nbytes


@figure("training-vgg16")
def _() -> Shown:
    plan = training("vgg16", batch=32, optimizer="adam")
    made = 100 * plan.composition["gradients"] / plan.gradient_bytes
    return Shown(
        "Everything alive over a training step of VGG-16 at batch 32, stacked by kind",
        f"VGG-16, batch 32, Adam. The peak, {plan.peak_bytes:,} B, is in {plan.peak_phase} at `{plan.peak_op}`: "
        f"{made:.1f} % of the gradients of parameters are made, and most of what forward saved is still there. The "
        f"rule of thumb, 2w + B·ΣF + w + w, has {rule_of(plan):,} B.",
        with_rule(plan),
    )


@figure("training-vgg16-small")
def _() -> Shown:
    plan = training("vgg16", batch=1, optimizer="adam")
    return Shown(
        "Everything alive over a training step of VGG-16 at batch 1, stacked by kind",
        f"The same net at batch 1. Backward comes to {plan.backward_peak:,} B, the {plan.peak_phase} to "
        f"{plan.peak_bytes:,} B: its foreach implementation makes {plan.composition['temporaries']:,} B of "
        "temporaries, as many as there are bytes of parameters.",
        with_rule(plan),
    )


@figure("training-resnet50")
def _() -> Shown:
    plan = training("resnet50", batch=32, optimizer="sgd", momentum=0.9)
    share = 100 * plan.composition["activations"] / plan.peak_bytes
    return Shown(
        "Everything alive over a training step of ResNet-50 at batch 32, stacked by kind",
        f"ResNet-50, batch 32, SGD with momentum. {share:.0f} % of the peak of {plan.peak_bytes:,} B are activations; "
        f"all parameters, gradients and momenta together are {3 * plan.parameter_bytes:,} B.",
        plan.plot,
    )


# ---------------------------------------------------------------------------------- orders


@functools.cache
def two_branches() -> cnnlive.OrderPlan:
    """Plan the order of the small example of the page on orders."""
    g = cnnlive.Graph("two branches")
    x = g.input((1, 4, 32, 32), name="x")
    a = g.conv2d(x, 16, kernel_size=1, name="a.conv")
    b = g.conv2d(x, 16, kernel_size=1, name="b.conv")
    a = g.avg_pool2d(a, 4, name="a.pool")
    b = g.avg_pool2d(b, 4, name="b.pool")
    g.add(a, b, name="sum")
    return cnnlive.plan_order(g)


@figure("orders-branches")
def _() -> Shown:
    plan = two_branches()
    return Shown(
        "Bytes alive in the program's order and in the best order of two branches",
        f"Two branches that widen and shrink. The program runs both wide ends before either is pooled, "
        f"{plan.program_peak_bytes:,} B; one branch after the other takes {plan.peak_bytes:,} B, proven least.",
        plan.plot,
    )


@figure("orders-nasnet")
def _() -> Shown:
    plan = cnnlive.plan_order(cnnlive.zoo.load("nasnet_a_large"))
    return Shown(
        "Bytes alive in the program's order and in the best order of NASNet-A",
        f"NASNet-A (large), {plan.network.n_ops:,} ops: {plan.program_peak_bytes:,} B in the program's order, "
        f"{plan.peak_bytes:,} B in the best one, which is proven ({plan.status}; {plan.n_states:,} sets kept).",
        plan.plot,
    )


@figure("orders-randwire")
def _() -> Shown:
    plan = cnnlive.plan_order(cnnlive.zoo.load("randwire", seed=2), max_states=50_000)
    return Shown(
        "Bytes alive in the program's order and in the best order found of a randomly wired net",
        f"A randomly wired net (`randwire`, seed 2) with `max_states=50_000`: {plan.program_peak_bytes:,} B in the "
        f"program's order, {plan.peak_bytes:,} B in the best found, and no order below {plan.lower_bound:,} B. What is "
        f"open is the {100 * plan.gap:.1f} % between the last two.",
        plan.plot,
    )


# ---------------------------------------------------------------------------------- arenas


#: Births, deaths and sizes of the small example, whose buffers are called A to E.
FIVE = ([4, 0, 2, 0, 0], [6, 3, 5, 3, 2], [4, 2, 4, 2, 4])
#: Those of an example of MiniMalloc's tests, in which no placement is as small as the bound.
SEVEN = ([0, 0, 4, 2, 1, 3, 1], [1, 3, 5, 5, 2, 4, 4], [3, 1, 3, 1, 2, 2, 1])


def buffers(columns: tuple[list[int], list[int], list[int]], name: str) -> cnnlive.Buffers:
    return cnnlive.Buffers.of(*columns, ids="ABCDEFG"[: len(columns[0])], name=name)


def side_by_side(plans: dict[str, cnnlive.ArenaPlan]) -> Axes:
    """Draw plans beside one another, with one scale."""
    from matplotlib import pyplot  # noqa: PLC0415 - imported when something is drawn

    _, axes = pyplot.subplots(1, len(plans), figsize=(7.2, 2.9), layout="constrained")
    for ax, (title, plan) in zip(axes, plans.items(), strict=True):
        plan.plot(ax=ax)
        ax.set_title(title, loc="left")
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(0, top)
    axes[-1].set_ylabel("")
    return axes[0]


@figure("arenas-greedy")
def _() -> Shown:
    given = buffers(FIVE, "five buffers")
    greedy, best = cnnlive.plan_arena(given, method="greedy_by_size"), cnnlive.plan_arena(given)
    return Shown(
        "Five buffers placed greedily by size, and placed in the least arena",
        f"Five buffers of 2 and 4 B. Greedy by size (left) puts A, C and E first and needs {greedy.arena_bytes} B; the "
        f"least arena (right) is {best.arena_bytes} B, the most that is ever alive, so that it is proven.",
        lambda: side_by_side({"greedy by size": greedy, "least arena": best}),
    )


@figure("arenas-bound")
def _() -> Shown:
    plan = cnnlive.plan_arena(buffers(SEVEN, "seven buffers"))
    return Shown(
        "Seven buffers in the least arena, which is higher than what is alive at any step",
        f"Seven buffers, at no step more than {plan.peak_load} B alive, of which no placement takes less than "
        f"{plan.arena_bytes} B. The search proved it in {plan.n_nodes} nodes.",
        lambda: level(plan.plot(), plan.peak_load, f"alive at most: {plan.peak_load} B"),
    )


@figure("arenas-mobilenet")
def _() -> Shown:
    plan = cnnlive.plan_inference(cnnlive.zoo.load("mobilenet_v1", width=0.25, resolution=96), dtype="int8", fuse=True)
    tflm, best = cnnlive.plan_arena(plan, method="tflm"), cnnlive.plan_arena(plan)
    more = 100 * (tflm.arena_bytes / best.arena_bytes - 1)
    return Shown(
        "MobileNetV1 0.25 for 96 x 96 images, placed by TensorFlow Lite Micro's rule",
        f"MobileNetV1 0.25 at 96 x 96 in int8 by the rule of TensorFlow Lite Micro: {tflm.arena_bytes:,} B, "
        f"{more:.0f} % above the {best.arena_bytes:,} B that are proven to do. The buffer on top found no gap below.",
        tflm.plot,
    )


@figure("arenas-objects")
def _() -> Shown:
    plan = cnnlive.plan_inference(cnnlive.zoo.load("squeezenet1_1"), dtype="int8", fuse=True)
    shared, arena = cnnlive.plan_shared_objects(plan), cnnlive.plan_arena(plan)
    return Shown(
        "Buffers of SqueezeNet in whole objects, one above the other",
        f"SqueezeNet 1.1 in int8, where each buffer takes a whole object: {shared.n_objects} objects, "
        f"{shared.total_bytes:,} B. In one block they take {arena.arena_bytes:,} B.",
        shared.plot,
    )


# ---------------------------------------------------------------------------------- frontiers


@functools.cache
def sixteen() -> cnnlive.Chain:
    """Return a chain of equal stages, for which Revolve's model was made."""
    return cnnlive.Chain.of([1] * 16, [2] * 16, [1] * 17, [1] * 16, name="sixteen equal stages")


@figure("frontiers-chain")
def _() -> Shown:
    chain = sixteen()
    nested, one = cnnlive.chain_frontier(chain, nested=True), cnnlive.chain_frontier(chain)
    rules = {rule: cnnlive.chain_baseline(chain, rule) for rule in ("chen_sqrt", "revolve")}
    at = rules["chen_sqrt"].minimum_bytes
    chen, revolve = (int(found.overhead[0]) for found in rules.values())
    best, least = (int(nested.plan(budget).overhead) for budget in (at, nested.minimum_bytes))

    def draw() -> Axes:
        ax = nested.plot()
        for found, colour, marker, label in (
            (one, "green", "^", "each stage run twice at most"),
            (rules["chen_sqrt"], "red", "s", "√n (Chen et al.)"),
            (rules["revolve"], "pink", "x", "Revolve"),
        ):
            ax.plot(found.peak_bytes, 100 * found.overhead / chain.step_cost, marker, color=COLOURS[colour],
                    markersize=5, label=label, zorder=3)  # fmt: skip
        return beside(ax)

    return Shown(
        "Extra time against memory for a chain of sixteen equal stages, with known rules",
        f"Sixteen equal stages of one byte. Keeping everything takes {nested.keep_all_bytes} B; plans that run each "
        f"stage twice at most reach {one.minimum_bytes} B, nested ones {nested.minimum_bytes} B. Chen's √n runs {chen} "
        f"stages again at {at} B, the best plan {best}; Revolve, which keeps nothing but inputs of stages, {revolve} "
        f"at {nested.minimum_bytes} B, the best plan {least}.",
        draw,
    )


BATCH = 64
BASELINES = {"chen_sqrt": ("red", "s", "√n segments (Chen et al.)"), "chen_greedy": ("orange", "v", "greedy segments"),
             "checkpoint_sequential": ("green", "^", "equal segments (PyTorch)"),
             "revolve": ("pink", "x", "Revolve")}  # fmt: skip


@functools.cache
def resnet50() -> cnnlive.Lowered:
    return cnnlive.lower(cnnlive.zoo.load("resnet50", train=True))


@figure("frontiers-resnet50")
def _() -> Shown:
    found = cnnlive.checkpoint_frontier(resnet50(), batch=BATCH)
    gap = max(p.gap for p in found.plans if p.budget >= found.keep_bytes / 2)
    return Shown(
        "Extra time against memory for ResNet-50 at batch 64, with the proven bound",
        f"ResNet-50, batch {BATCH}. From {found.least_bytes:,} B up to {found.keep_bytes:,} B, where nothing runs "
        f"again. From half of the memory on, plan and bound are within {100 * gap:.2f} % of the step of one another.",
        found.plot,
    )


@figure("frontiers-baselines")
def _() -> Shown:
    net = resnet50()
    found = cnnlive.checkpoint_frontier(net, batch=BATCH)
    rules = {rule: cnnlive.checkpoint_frontier(net, batch=BATCH, method=rule) for rule in BASELINES}
    half = found.keep_bytes // 2
    ours = min(p.overhead for p in found.plans if p.peak_bytes <= half)
    best = min(p.overhead for rule in rules.values() for p in rule.plans if p.peak_bytes <= half)

    def draw() -> Axes:
        ax = found.plot(x="peak")
        top = 45.0
        for rule, (colour, marker, label) in BASELINES.items():
            points = {(p.peak_bytes, 100 * p.overhead) for p in rules[rule].plans if p.overhead}
            shown = sorted(point for point in points if point[1] < top)
            ax.plot(*zip(*shown, strict=True), marker, color=COLOURS[colour], markersize=5, label=label, zorder=3,
                    linestyle="none")  # fmt: skip
        ax.set_ylim(top=top)
        return beside(ax)

    return Shown(
        "The frontier of ResNet-50 with the plans of known rules",
        f"The same step, with what known rules find on its blocks. Within half of the memory ({format_bytes(half)}) "
        f"the best of them takes {100 * best:.1f} % more time, the choice op by op {100 * ours:.1f} %.",
        draw,
    )


@figure("frontiers-step")
def _() -> Shown:
    plan = cnnlive.plan_checkpoints(resnet50(), batch=BATCH, budget="3GiB")
    return Shown(
        "Bytes alive over the step with recomputation and with everything kept",
        f"One plan of it, within 3 GiB: {plan.peak_bytes:,} B instead of {plan.keep_bytes:,} B for "
        f"{100 * plan.overhead:.2f} % more time, at most {100 * plan.gap:.2f} % above the least. Orange marks are the "
        f"{len(plan.recomputed)} ops that run again.",
        plan.plot,
    )


# ---------------------------------------------------------------------------------- files and sections


def drawn(name: str) -> str:
    """Return a figure as SVG."""
    import matplotlib  # noqa: PLC0415 - imported when something is drawn
    from matplotlib import pyplot  # noqa: PLC0415

    style = {"svg.fonttype": "none", "svg.hashsalt": "cnnlive", "font.family": "DejaVu Sans", "font.size": 9.0,
             "figure.facecolor": "white", "savefig.facecolor": "white", "axes.titlesize": 9.0,
             "axes.linewidth": 0.7, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0}  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        ax = SHOWN[name]().draw()
        file = io.StringIO()
        ax.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(ax.figure)
    return smaller(file.getvalue())


def smaller(svg: str) -> str:
    """Round coordinates to hundredths of a point, shorten level and upright lines, name fonts that are everywhere."""
    svg = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(r' d="([^"]*)"', lambda m: f' d="{path(m[1])}"', svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "'DejaVu Sans', Verdana, sans-serif", svg)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", svg)


def path(d: str) -> str:
    """Write a path with level and upright lines as such, several in one direction as one."""
    out: list[str] = []
    x = y = before = 0.0
    last = ""
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        at = [round(float(n), 1) for n in numbers.split()]
        words = [f"{n:.1f}".removesuffix(".0") for n in at]
        kind = command
        if command == "L" and at[1] == y:
            kind = "H"
        elif command == "L" and at[0] == x:
            kind = "V"
        if kind in "HV":
            here, there = (x, at[0]) if kind == "H" else (y, at[1])
            if last == kind and (there - here) * (here - before) >= 0:
                out.pop()
            else:
                before = here
            out.append(kind + words["HV".index(kind)])
        else:
            out.append(kind + " ".join(words))
        last = kind
        if at:
            x, y = at[-2:]
    return "".join(out)


def section(text: str, name: str) -> re.Match[str] | None:
    """Find what stands between the two comments of a figure."""
    return re.search(rf"(?<=<!-- figure {name} -->\n).*?(?=<!-- /figure {name} -->)", text, re.DOTALL)


def markdown(name: str, page: Path) -> str:
    """Return what a page says of a figure: the image and its caption."""
    shown = SHOWN[name]()
    link = os.path.relpath(FIGURES / f"{name}.svg", page.parent)
    caption = textwrap.fill(f"*{shown.caption}*", 120, break_long_words=False, break_on_hyphens=False)
    return f"![{shown.alt}]({link})\n\n{caption}\n"


def captioned(page: Path) -> str:
    """Return the text of a page with its figures' sections as they should be."""
    text = page.read_text(encoding="utf-8")
    for name in SHOWN:
        found = section(text, name)
        if found is not None:
            text = text[: found.start()] + markdown(name, page) + text[found.end() :]
    return text


def main(captions_only: bool) -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in () if captions_only else SHOWN:
        (FIGURES / f"{name}.svg").write_text(drawn(name), encoding="utf-8")
        print(f"wrote docs/theory/figures/{name}.svg")
    for page in sorted(DOCS.rglob("*.md")):
        text = captioned(page)
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print(f"wrote the captions of {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main("--captions" in sys.argv[1:])
