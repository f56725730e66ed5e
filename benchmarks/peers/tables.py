"""Tables of what was measured, in Markdown: a short one for the README, all of it for docs/benchmarks.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["error", "full", "lost", "seconds", "short", "write"]

SECTION = re.compile(r"(<!-- peers -->\n).*?(<!-- /peers -->)", re.DOTALL)
MODULE = "cnnlive, from the module"
REAL = "a real run, measured"
NOT_COMPILED = "kernels not compiled yet"
TINY = 5e-5  # would be shown as zero
# Who starts from sizes that somebody has worked out is held against a net that is lowered.
STARTS = {"networkx": "cnnlive, lowered", "networkx, graph built": "cnnlive, lowered"}


def seconds(value: float | None) -> str:
    """Format a time with three digits and a unit; nothing for None."""
    if value is None:
        return ""
    amount, unit = value, "s"
    for smaller in ("ms", "µs"):
        if amount < 0.9995:
            amount, unit = amount * 1e3, smaller
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} {unit}"


def _percent(value: float) -> str:
    digits = 0 if abs(value) >= 0.1 else 1 if abs(value) >= 0.01 else 2
    return f"{100 * value:+.{digits}f} %"


def error(pairs: Sequence[tuple[int, int]], unit: str = " B") -> str:
    """Word how far answers are from the truth: exact, or the median and the worst of the relative errors."""
    off = [value - true for value, true in pairs]
    relative = [value / true - 1 for value, true in pairs]
    if not any(off):
        return "exact"
    worst = max(relative, key=abs)
    if abs(worst) < TINY:
        return f"exact but for {max(map(abs, off)):,}{unit}"
    middle = sorted(relative, key=abs)[len(relative) // 2]
    if abs(middle) < TINY:
        return f"exact on {off.count(0)} of {len(off)}, worst {_percent(worst)}"
    return f"{_percent(middle)}, worst {_percent(worst)}"


def _one(value: int, true: int, unit: str = " B") -> str:
    return error([(value, true)], unit).partition(", worst")[0]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False))


class _Found:
    """The results by tool, question and net."""

    def __init__(self, results: dict[str, Any]):
        self.results, self.nets = results, list(results["nets"])
        self.rows = {(row["tool"], row["question"], row["net"]): row for row in results["answers"]}
        self.tools = list(dict.fromkeys(row["tool"] for row in results["answers"]))
        self.peers = [tool for tool in self.tools if not tool.startswith("cnnlive")]
        self.cold = {row["tool"]: row for row in results["cold"]}

    def true(self, question: str, net: str) -> int:
        """Return the truth: bytes, or the second of the counts."""
        value = self.results["truth"][net][question]
        return value[1] if question == "counts" else value

    def given(self, tool: str, question: str, part: int = 1) -> list[tuple[int, int]]:
        """Return pairs of answer and truth over the nets that the tool answers; `part` of the counts."""
        pairs = []
        for net in self.nets:
            value = self.rows.get((tool, question, net), {}).get("value")
            if question == "counts" and value is not None:
                pairs.append((value[part], self.results["truth"][net]["counts"][part]))
            elif value is not None:
                pairs.append((value, self.true(question, net)))
        return [(value, true) for value, true in pairs if value is not None]

    def time(self, tool: str, question: str) -> float | None:
        """Return the median over the nets, or None."""
        if tool == REAL:
            times = [t["seconds"][question] for t in self.results["truth"].values() if question in t["seconds"]]
        else:
            rows = [self.rows.get((tool, question, net), {}) for net in self.nets]
            times = [row["seconds"] for row in rows if "value" in row]
        return median(times) if times else None

    def failed(self, tool: str, question: str) -> list[str]:
        """Return the nets that the tool fails on."""
        return [net for net in self.nets if "fails" in self.rows.get((tool, question, net), {})]

    def cells(self, tool: str, question: str) -> tuple[str, str]:
        """Return the time and the error, as texts."""
        pairs, failed = self.given(tool, question), self.failed(tool, question)
        if question == "counts" and not pairs:
            pairs = self.given(tool, question, 0)
            if pairs:
                return seconds(self.time(tool, question)), f"parameters: {error(pairs)}; no MACs"
        words = [error(pairs, "" if question == "counts" else " B")] if pairs else []
        if failed:
            words.append(f"fails on {len(failed)} of {len(self.nets)}")
        return seconds(self.time(tool, question)), "; ".join(words)

    def ahead(self, tool: str, own: str, question: str, net: str) -> bool:
        """Return whether a tool is as exact on a net as one of cnnlive's ways, and quicker."""
        theirs, ours = (self.rows.get((name, question, net), {}) for name in (tool, own))
        values = [row.get("value") for row in (theirs, ours)]
        values = [value[1] if isinstance(value, list) else value for value in values]
        if values[0] is None or values[1] is None:
            return False
        off = [abs(value - self.true(question, net)) for value in values]
        return off[0] <= off[1] and theirs["seconds"] < ours["seconds"]


def _machine(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in results["versions"].items())
    return f"{results['machine']}; {versions}"


def lost(results: dict[str, Any]) -> list[str]:
    """Return a sentence for each question at which a peer is as exact and quicker, or answers alone."""
    found = _Found(results)
    return [*_quicker(found), *_parameters(found), *_by_name(found), *_cold(found), *_search(results["search"]["rows"]),
            *_beyond(results["beyond"])]  # fmt: skip


def _quicker(found: _Found) -> Iterable[str]:
    names = {"training": "The peak of a training step", "inference": "The peak of an inference", "counts": "MACs"}
    for question, words in names.items():
        for tool in found.peers:
            ahead = [net for net in found.nets if found.ahead(tool, STARTS.get(tool, MODULE), question, net)]
            if ahead:
                yield (f"{words} of a module: {tool} is as exact and quicker on {len(ahead)} of {len(found.nets)} nets "
                       f"({', '.join(ahead)}).")  # fmt: skip


def _parameters(found: _Found) -> Iterable[str]:
    given = {tool: found.given(tool, "counts", 0) for tool in found.peers}
    right = [tool for tool, pairs in given.items() if len(pairs) == len(found.nets) and all(v == t for v, t in pairs)]
    if right:
        yield f"Parameters: {_join(right)} as exact."


def _by_name(found: _Found) -> Iterable[str]:
    rows = {net: found.rows.get(("cnnlive, from a name", "inference", net), {}) for net in found.nets}
    off = [net for net, row in rows.items() if row.get("value", found.true("inference", net))
           != found.true("inference", net)]  # fmt: skip
    if off:
        yield (f"The zoo's {_join(off, ('holds', 'hold'))} tensors by a rule, not as the local variables of the "
               "module do.")  # fmt: skip


def _cold(found: _Found) -> Iterable[str]:
    theirs = {tool: row["seconds"] for tool, row in found.cold.items() if tool in found.peers and "seconds" in row}
    for words, named in (("The first answer on a machine compiles kernels,", f"cnnlive, from a name, {NOT_COMPILED}"),
                         ("Later a fresh process answers from a module in", MODULE)):  # fmt: skip
        ours = found.cold.get(named, {}).get("seconds")
        less = [tool for tool, time in theirs.items() if ours is not None and time < ours]
        if less:
            yield f"{words} {seconds(ours)}; {_join(less, ('takes', 'take'))} less."


def _search(rows: dict[str, dict[str, float]]) -> Iterable[str]:
    plain = [way for way in rows if way.startswith("cnnlive") and "space" not in way]
    for way, row in rows.items():
        slower = [f"{w.removeprefix('cnnlive, ')} ({rows[w]['per_second']:,.0f})" for w in plain
                  if rows[w]["per_second"] < row["per_second"]]  # fmt: skip
        if not way.startswith("cnnlive") and slower:
            yield (f"In a search, {way}, does {row['per_second']:,.0f} candidates a second, {_off(row['worst'])}; "
                   f"cnnlive without a compiled space does fewer: {', '.join(slower)}.")  # fmt: skip


def _beyond(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    for net in dict.fromkeys(row["net"] for row in rows):
        failures = {row["tool"]: row["fails"] for row in rows if row["net"] == net}
        able = [tool for tool, failure in failures.items() if failure is None]
        if failures.get(MODULE) and able:
            yield f"A module with {_article(net)} is an error in cnnlive; {_join(able, ('answers', 'answer'))}."


def _join(names: Sequence[str], verb: tuple[str, str] = ("is", "are")) -> str:
    """List names with the verb that follows them."""
    *others, last = names
    return f"{', '.join(others)} and {last} {verb[1]}" if others else f"{last} {verb[0]}"


def _article(net: str) -> str:
    return net if net[0].islower() else f"an {net}"


def _off(worst: float) -> str:
    return "exactly" if not worst else f"{_percent(worst)} off at worst"


def short(results: dict[str, Any]) -> str:
    """Return the README's section."""
    found = _Found(results)
    rows = []
    for tool in [*(tool for tool in found.tools if not tool.endswith("graph built")), REAL]:
        cells = []
        for question in results["questions"]:
            if tool == REAL:
                time = found.time(tool, question)
                cells += [seconds(time), "the truth" if time is not None else ""]
            else:
                cells += found.cells(tool, question)
        fresh = [seconds(found.cold.get(tool, {}).get("seconds"))]
        if (first := found.cold.get(f"{tool}, {NOT_COMPILED}", {}).get("seconds")) is not None:
            fresh.append(f"{seconds(first)} the first time")
        rows.append([tool, *cells, "; ".join(filter(None, fresh))])
    header = ["", f"training step, batch {results['batch']}", "error", "inference", "error", "MACs", "error",
              "fresh process"]  # fmt: skip
    text = [
        _wrap(
            f"`make peers` asks what else there is the same questions about the same {len(found.nets)} nets "
            f"({', '.join(found.nets)}). Times are medians over the nets. Errors, the median and the worst, are "
            "against what real runs of PyTorch allocate on a CPU. A fresh process answers its first question about a "
            f"{results['cold_net']}. One run on {_machine(results)}."
        ),
        "",
        *_table(header, rows),
        "",
        _wrap("Lost: " + " ".join(lost(results))),
        "",
        "[docs/benchmarks.md](docs/benchmarks.md) has every net, and what was taken for which tool's answer.",
    ]
    return "\n".join(text)


def _per_net(found: _Found, question: str, cell: Callable[[dict[str, Any], str], str], truth: bool) -> list[str]:
    tools = [tool for tool in found.tools if any((tool, question, net) in found.rows for net in found.nets)]
    rows = []
    for net in found.nets:
        first = [f"{found.true(question, net):,}"] if truth else []
        rows.append([net, *first, *(cell(found.rows[tool, question, net], net) for tool in tools)])
    return _table(["", *(["measured"] if truth else []), *tools], rows)


def full(results: dict[str, Any]) -> str:
    """Return the section of docs/benchmarks.md."""
    found = _Found(results)
    names = {"training": f"Peak of a training step with Adam, batch {results['batch']}",
             "inference": "Peak of one inference, one image",
             "counts": "Parameters and multiply-accumulates"}  # fmt: skip
    text = [_wrap(f"One run of {results['seconds']:.0f} s on {_machine(results)}."), ""]
    text += ["### What was taken for what", ""]
    for tool, words in results["tools"].items():
        text += textwrap.wrap(f"- **{tool}**: {words}.", 118, subsequent_indent="  ", break_long_words=False,
                              break_on_hyphens=False)  # fmt: skip
    text.append("")
    for question, title in names.items():

        def value(row: dict[str, Any], net: str, question: str = question) -> str:
            if "value" not in row:
                return f"fails: {row['fails'].partition(':')[0]}"
            found_value, true = row["value"], found.true(question, net)
            if question == "counts":
                parameters, macs = found_value
                right = results["truth"][net]["counts"][0]
                words = "no MACs" if macs is None else _one(macs, true, "")
                return words if parameters == right else f"{words}; parameters {_percent(parameters / right - 1)}"
            return _one(found_value, true)

        def took(row: dict[str, Any], net: str) -> str:
            return seconds(row.get("seconds"))

        text += [f"### {title}", "", *_per_net(found, question, value, True), ""]
        text += ["Medians:", "", *_per_net(found, question, took, False), ""]
    text += ["### The first answer of a fresh process", "",
             _wrap(f"About a {results['cold_net']}, from the start of Python; imports and making the net included. "
                   "networkx is given a small net of which somebody has worked out all sizes."), "",
             *_table(["", "question", "time"], ([tool, row["question"], seconds(row.get("seconds")) or row["fails"]]
                                                for tool, row in found.cold.items())), ""]  # fmt: skip
    searched = results["search"]
    text += ["### A search", "",
             _wrap(f"Peaks of inference of members of `{searched['space']}`, from genotypes. Errors are the worst of "
                   f"five candidates. The space is compiled once, in {seconds(searched['prepared'])}."), "",
             *_table(["", "candidates per second", "error"],
                     ([way, f"{row['per_second']:,.3g}" if row["per_second"] < 100 else f"{row['per_second']:,.0f}",
                       _off(row["worst"])] for way, row in searched["rows"].items())), ""]  # fmt: skip
    beyond = results["beyond"]
    nets = list(dict.fromkeys(row["net"] for row in beyond))
    given = {(row["tool"], row["net"]): row["fails"] for row in beyond}
    tools = dict.fromkeys(row["tool"] for row in beyond)
    text += ["### Nets that are no graphs of a CNN", "",
             _wrap("A module whose forward branches on the values of its image, and an LSTM: does a tool answer its "
                   "first question at all?"), "",
             *_table(["", *nets], ([tool, *("answers" if given[tool, net] is None else f"fails: `{given[tool, net]}`"
                                            for net in nets)] for tool in tools)), ""]  # fmt: skip
    text += ["### What cnnlive loses", "", *(f"- {sentence}" for sentence in lost(results))]
    return "\n".join(text)


def write(file: Path, text: str) -> bool:
    """Put the text between the lines ``<!-- peers -->`` and ``<!-- /peers -->`` of a file; False without them."""
    old = file.read_text(encoding="utf-8")
    new, n = SECTION.subn(lambda found: f"{found[1]}{text}\n{found[2]}", old)
    if n:
        file.write_text(new, encoding="utf-8")
    return bool(n)
