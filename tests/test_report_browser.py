"""Reports in a real browser: they draw, answer pointer and keyboard, and say the planners' exact figures."""

from __future__ import annotations

import csv
import json
import re
import time

import browser
import numpy as np
import pytest
import shown_results

import cnnlive
from cnnlive.report.html import html_report, payload
from cnnlive.report.reasons import inference_rule, training_rules
from cnnlive.units import format_bytes

KINDS = {"timeline", "arena", "frontier", "table", "profiles", "rules", "text"}
_DATA = re.compile(r'(<script type="application/json" id="report-data">).*?(</script>)', re.DOTALL)


def small_net() -> cnnlive.Graph:
    g = cnnlive.Graph("small")
    x = g.input((2, 3, 32, 32))
    for k in range(3):
        with g.scope(f"block{k}"):
            y = g.relu(g.batch_norm2d(g.conv2d(x, 8 * (k + 1), 3, padding=1)), inplace=True)
            y = g.batch_norm2d(g.conv2d(y, 8 * (k + 1), 3, padding=1))
            x = g.relu(g.add(y, g.conv2d(x, 8 * (k + 1), 1)))
    g.linear(g.flatten(g.adaptive_avg_pool2d(x, 1)), 10)
    return g


def deep_net() -> cnnlive.Graph:
    """2,000 ops and the input, in 4 stages of 125 blocks; later stages have more channels."""
    g = cnnlive.Graph("deep")
    x = g.input((1, 3, 16, 16))
    for stage in range(4):
        for block in range(125):
            with g.scope(f"stage{stage}"), g.scope(str(block)):
                y = g.conv2d(g.relu(g.conv2d(x, 4 * (stage + 1), 3, padding=1)), 4 * (stage + 1), 3, padding=1)
                x = g.add(x, y) if block else g.relu(y)
    return g


def results_of_small() -> dict[str, object]:
    g = small_net()
    training, inference = cnnlive.plan_training(g, batch=8), cnnlive.plan_inference(g, batch=8)
    frontier = cnnlive.checkpoint_frontier(g, batch=8, points=6)
    return {
        "training": training,
        "inference": inference,
        "rules": training_rules(training),
        "inference_rule": inference_rule(g, inference),
        "frontier": frontier,
        "checkpoints": cnnlive.plan_checkpoints(g, batch=8, budget=frontier.plans[2].budget),
        "arena": cnnlive.plan_arena(g, batch=8),
        "profiles": cnnlive.compare_profiles(g, arena=True),
    }


def flat(results: dict[str, object]) -> list[object]:
    return [one for result in results.values() for one in (result if isinstance(result, tuple | list) else [result])]


def page_of(data: dict[str, object]) -> str:
    """The page with a payload that no planner made."""
    text = json.dumps(data).replace("<", "\\u003c")
    return _DATA.sub(lambda match: match[1] + text + match[2], html_report([cnnlive.plan_inference(small_net())]))


class Page:
    """A report in the browser, with what its payload says."""

    def __init__(self, window: browser.Browser, path, data):
        self.window, self.path, self.data = window, path, data
        self.sections = {section["id"]: section for section in data["sections"]}

    def first(self, kind: str, title: str = "") -> dict:
        return next(s for s in self.data["sections"] if s["kind"] == kind and title in s["title"])

    def see(self, section: dict) -> str:
        """Bring a section's drawing into sight; return its selector."""
        at = f"#{section['id']}"
        self.window.script("document.querySelector(arguments[0]).scrollIntoView()", at)
        self.window.until("return document.querySelector(arguments[0]).dataset.drawn", at)
        self.window.script(
            "const s = document.querySelector(arguments[0]); (s.querySelector('.chart') || s).scrollIntoView()", at
        )
        return at

    def traces(self, section: dict) -> dict[str, dict]:
        """What Plotly was given, by name."""
        found = self.window.script(
            "return document.querySelector(arguments[0] + ' .plot').data.map("
            "t => ({name: t.name, x: t.x, y: t.y, stacked: Boolean(t.stackgroup)}))",
            f"#{section['id']}",
        )
        return {trace["name"]: trace for trace in found}

    def point(self, section: dict, x: float, y: float) -> tuple[float, float]:
        """Pixels of the window at a place of a drawing, both from 0 to 1, y upwards."""
        left, top, width, height = self.window.box(f"#{section['id']} .over")
        return left + x * width, top + (1 - y) * height

    def focus(self, section: dict) -> None:
        self.window.script("document.querySelector(arguments[0]).focus()", f"#{section['id']} .chart")

    def rows(self, selector: str) -> list[list[str]]:
        return self.window.script(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr:not(.gap)')].map("
            "tr => [...tr.cells].map(td => td.textContent.trim()))",
            selector,
        )


@pytest.fixture(scope="module")
def window():
    window = browser.start()
    yield window
    window.close()


@pytest.fixture(scope="module")
def results():
    return results_of_small()


@pytest.fixture(scope="module")
def small(window, results, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "report.html"
    path.write_text(html_report(flat(results), command="cnnlive report small"), encoding="utf-8")
    return Page(window, path, payload(flat(results)))


@pytest.fixture(scope="module")
def deep(window, tmp_path_factory):
    g = deep_net()
    found = [cnnlive.plan_inference(g), cnnlive.plan_training(g), cnnlive.plan_arena(g)]
    path = tmp_path_factory.mktemp("deep") / "report.html"
    path.write_text(html_report(found), encoding="utf-8")
    return Page(window, path, payload(found))


@pytest.fixture
def on_small(small):
    return _opened(small)


@pytest.fixture
def on_deep(deep):
    return _opened(deep)


def _opened(page: Page) -> Page:
    """The page with nothing pinned, zoomed or hidden: loaded once, and again only where a test has left traces."""
    if page.window.driver.current_url.split("#")[0] != page.path.resolve().as_uri():
        page.window.open(page.path)
    for section in page.data["sections"]:
        if section["kind"] in {"timeline", "arena"} and page.window.texts(f"#{section['id']} .chart"):
            page.focus(section)
            page.window.keys("0", "Escape")
    return page


# ---------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("ci", [False, True])
def test_without_a_browser_tests_are_skipped_and_fail_in_continuous_integration(ci, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMEWEBDRIVER", raising=False)
    monkeypatch.setenv("CI", "true" if ci else "")
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="no browser on the path"):
        browser.start()


@pytest.mark.parametrize("name", ["deep", "small"])  # the small one stays open
def test_a_report_draws_every_section_without_errors_and_asks_for_nothing(name, request):
    page = request.getfixturevalue(name)
    page.window.open(page.path)
    for section in page.data["sections"]:
        page.see(section)
    assert page.window.errors() == []
    assert page.window.requests() == [page.path.resolve().as_uri()]
    assert page.window.texts(".failure") == []
    assert page.window.texts("h2") == [section["title"] for section in page.data["sections"]]
    for section in page.data["sections"]:
        selector = f"#{section['id']} " + {"timeline": ".scatterlayer .trace", "arena": ".scatterlayer .trace"}.get(
            section["kind"], ".body > *"
        )
        assert page.window.texts(selector), section["id"]


def test_the_small_report_has_every_kind_of_section(small):
    assert {section["kind"] for section in small.data["sections"]} == KINDS


def test_the_browser_itself_forbids_the_network(on_small):
    # The policy of the page, not a habit: a request that somebody adds later fails.
    found = on_small.window.driver.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:9/').then(() => done('answered'), error => done(String(error)));"
    )
    assert "TypeError" in found
    assert any("Content Security Policy" in message for message in on_small.window.errors())


def test_the_head_shows_the_key_figures(on_small):
    page, cards = on_small, on_small.data["cards"]
    assert page.window.text("h1") == "small"
    assert page.window.texts(".card .value") == [card["value"] for card in cards]
    assert page.window.text(".command code") == "cnnlive report small"
    assert page.window.texts("#sections a") == [s.get("short") or s["title"] for s in page.data["sections"]]


NAME = "<img src=x onerror=alert(1)>&amp;</script><b>"
AMOUNTS = [0, 1, 1000, 1023, 1024, 10 * 1024, 10 * 1024 - 1, 10496, 10547, 1048575, 1048576, 10747904, 10852762]
AMOUNTS += [1073689395, 1073741824, 1024**4, 3 * 1024**4 + 12345, 1024**5, 2**53 - 1]


@pytest.fixture(scope="module")
def odd(window, small, tmp_path_factory):
    """A page of sections that no planner makes together."""
    timeline = {
        "kind": "timeline", "id": "names", "title": NAME, "words": "", "mode": "inference",
        "kinds": [{"key": "alive", "label": NAME}], "bytes": [[5, 7]],
        "steps": {"op": [NAME, "b"], "kind": ["x", "y"], "scope": [NAME, ""]},
        "phases": [{"label": NAME, "begin": 0, "end": 2}], "peak": 1, "peak_bytes": 7, "limit": None, "plain": None,
        "buffers": None,
    }  # fmt: skip
    table = {
        "kind": "table", "id": "table", "title": NAME, "words": NAME, "scope": ["", NAME], "sort": None,
        "columns": [{"key": "name", "label": NAME, "type": "text", "hint": NAME}], "rows": {"name": [NAME, NAME]},
    }  # fmt: skip
    amounts = {
        "kind": "table", "id": "amounts", "title": "Amounts", "words": "", "scope": None, "sort": None,
        "columns": [{"key": "text", "label": "text", "type": "text"},
                    {"key": "nbytes", "label": "bytes", "type": "bytes"}],
        "rows": {"text": [format_bytes(value) for value in AMOUNTS], "nbytes": AMOUNTS},
    }  # fmt: skip
    arena = {**small.first("arena"), "id": "none", "arena_bytes": None, "status": "infeasible"}
    arena["buffers"] = {**arena["buffers"], "offset": None}
    data = {
        "format": "cnnlive-report-1", "version": "0", "title": NAME, "subtitle": NAME, "command": NAME,
        "cards": [{"label": NAME, "value": NAME, "text": NAME, "hint": NAME}],
        "sections": [table, timeline, {**small.first("timeline", "Inference"), "id": "budget", "limit": 2**40}, amounts,
                     arena, {"kind": "nothing", "id": "unknown", "title": "Unknown", "words": ""}],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("odd") / "report.html"
    path.write_text(page_of(data), encoding="utf-8")
    return Page(window, path, data)


@pytest.fixture
def on_odd(odd):
    return _opened(odd)


def test_every_kind_of_result_is_drawn(window, tmp_path):
    found = list(shown_results.results().values())
    path = tmp_path / "report.html"
    path.write_text(html_report(found), encoding="utf-8")
    window.open(path)
    page = Page(window, path, payload(found))
    for section in page.data["sections"]:
        at = page.see(section)
        assert len(window.text(f"{at} .body").strip()) > 10, section["title"]
    assert window.texts(".failure") == []
    assert window.errors() == []


# ---------------------------------------------------------------------------------- the timeline


def test_the_timeline_stacks_every_kind_and_marks_the_peak(on_small, results):
    page, plan = on_small, results["training"]
    section = page.first("timeline", "Training step")
    page.see(section)
    traces = page.traces(section)
    stacked = [trace for trace in traces.values() if trace["stacked"]]
    n = len(section["steps"]["op"])
    assert {len(trace["y"]) for trace in stacked} == {n + 1}  # steps are flat: the last one ends behind it
    totals = np.sum([trace["y"][:n] for trace in stacked], axis=0)
    assert totals.max() == plan.peak_bytes
    assert int(totals.argmax()) == section["peak"]
    assert traces["peak"]["y"] == [plan.peak_bytes]


def test_pointing_at_a_step_names_its_op_and_its_exact_bytes(on_small, results):
    page, plan = on_small, results["training"]
    section = page.first("timeline", "Training step")
    at, n = page.see(section), len(section["steps"]["op"])
    for step in (0, section["peak"], n - 2):
        page.window.move(*page.point(section, (step + 0.5) / n, 0.3))
        tip = page.window.text(f"{at} .tip")
        assert tip.startswith(section["steps"]["op"][step])
        total = sum(values[step] for values in section["bytes"])
        assert f"{format_bytes(total)}{total:,} B" in tip
        for kind, values in zip(section["kinds"], section["bytes"], strict=True):
            assert not values[step] or f"{kind['label']}{format_bytes(values[step])}{values[step]:,} B" in tip
    assert f"{plan.peak_bytes:,} B" in page.window.script(
        "return document.querySelector(arguments[0] + ' .chart').getAttribute('aria-label')", at
    )
    page.window.move(1, 1)
    assert not page.window.script("return document.querySelector(arguments[0] + ' .tip').checkVisibility()", at)


def test_a_click_pins_a_step_and_lists_what_is_alive_there(on_small):
    page = on_small
    section = page.first("timeline", "Training step")
    at, n = page.see(section), len(section["steps"]["op"])
    buffers = section["buffers"]
    step = next(step for step in range(n // 4, n) if step in buffers["dead"] and step in buffers["born"])
    page.window.press(*page.point(section, (step + 0.5) / n, 0.3))
    panel = f"{at} .panel"
    assert page.window.text(f"{panel} h3") == f"Alive at {section['steps']['op'][step]}"
    alive = [row for row in range(len(buffers["name"])) if buffers["born"][row] <= step < buffers["dead"][row]]
    constant = [
        (values[step], kind["label"])
        for kind, values in zip(section["kinds"], section["bytes"], strict=True)
        if kind["constant"] and values[step]
    ]
    expected = sorted([nbytes for nbytes, _ in constant] + [buffers["nbytes"][row] for row in alive], reverse=True)
    rows = page.rows(panel)
    assert len(rows) == len(expected)
    assert [row[1] for row in rows] == [format_bytes(nbytes) for nbytes in expected]
    assert {row[0] for row in rows} == {label for _, label in constant} | {buffers["name"][row] for row in alive}
    total = sum(values[step] for values in section["bytes"])
    assert f"{total:,} B" in page.window.text(f"{panel} > p")
    assert sum(expected) == total


def test_the_keyboard_moves_the_cursor_reads_it_out_and_pins(on_small):
    page = on_small
    section = page.first("timeline", "Inference")
    at, op = page.see(section), section["steps"]["op"]

    def said(step: int) -> bool:
        total = sum(values[step] for values in section["bytes"])
        text = page.window.text("#live")
        return text.startswith(f"{op[step]}, step {step}") and format_bytes(total) in text

    page.focus(section)
    page.window.keys("Home")
    assert said(0)
    page.window.keys("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert said(2)
    page.window.keys("End")
    assert said(len(op) - 1)
    page.window.keys("ArrowRight")  # there is nothing behind the last step
    assert said(len(op) - 1)
    page.window.keys("ArrowLeft", "Enter")
    assert page.window.text(f"{at} .panel h3") == f"Alive at {op[-2]}"
    page.window.keys("p")
    assert page.window.text(f"{at} .panel h3") == f"Alive at {op[section['peak']]}"


def test_the_line_without_checkpoints_and_the_budget_are_drawn(on_small, results):
    page, plan = on_small, results["checkpoints"]
    section = page.first("timeline", "checkpoints")
    at = page.see(section)
    assert max(page.traces(section)["plain"]["y"]) == results["training"].peak_bytes
    assert section["limit"] == plan.budget
    notes = page.window.texts(f"{at} .annotation-text")
    assert f"budget {format_bytes(plan.budget)}" in notes
    assert f"peak {format_bytes(plan.peak_bytes)}" in notes
    assert {"forward", "backward"} <= set(notes)


def test_kinds_are_shown_and_hidden(on_small):
    page = on_small
    section = page.first("timeline", "Training step")
    at = page.see(section)
    before = page.traces(section)
    key = f"{at} .key[data-kind='saved']"
    label = next(kind["label"] for kind in section["kinds"] if kind["key"] == "saved")
    assert label in before
    page.window.click(key)
    assert label not in page.traces(section)
    assert page.window.script("return document.querySelector(arguments[0]).ariaPressed", key) == "false"
    page.window.click(key)
    assert page.traces(section).keys() == before.keys()


# ---------------------------------------------------------------------------------- arena, frontier


def test_the_arena_draws_every_buffer_and_reads_it_out(on_small, results):
    page, plan = on_small, results["arena"]
    section = page.first("arena")
    at, buffers = page.see(section), section["buffers"]
    boxes = {"names"} ^ page.traces(section).keys()
    rectangles = sum(page.traces(section)[name]["x"].count(None) for name in boxes - {"names"})
    assert rectangles == sum(nbytes > 0 for nbytes in buffers["nbytes"])
    assert f"arena {format_bytes(plan.arena_bytes)}" in page.window.texts(f"{at} .annotation-text")[0]
    full = page.window.script(
        "const l = document.querySelector(arguments[0] + ' .plot').layout; return [l.xaxis.range[1], l.yaxis.range[1]]",
        at,
    )

    def middle(row: int) -> tuple[float, float]:
        x = (buffers["born"][row] + buffers["dead"][row]) / 2 / full[0]
        return page.point(section, x, (buffers["offset"][row] + buffers["nbytes"][row] / 2) / full[1])

    large = [row for row in range(len(buffers["name"])) if buffers["nbytes"][row] > plan.arena_bytes / 50]
    assert len(large) > 10
    for row in large:
        page.window.move(*middle(row))
        tip = page.window.text(f"{at} .tip")
        assert tip.startswith(buffers["name"][row])
        assert f"{buffers['nbytes'][row]:,} B" in tip
        assert f"address {buffers['offset'][row]:,} to {buffers['offset'][row] + buffers['nbytes'][row]:,}" in tip
    # A click marks the same buffer in the table, a click in the table marks the rectangle.
    page.window.press(*middle(row))
    assert page.window.script("return document.querySelector(arguments[0] + ' tr.chosen').dataset.row", at) == str(row)
    other = next(k for k in range(len(buffers["name"])) if k != row)
    page.window.click(f"{at} tr[data-row='{other}'] button")
    assert page.window.script("return document.activeElement.closest('tr').dataset.row") == str(other)
    left = page.window.script("return document.querySelector(arguments[0] + ' .box.chosen').style.left", at)
    width = page.window.box(f"{at} .over")[2]
    assert float(left.removesuffix("px")) == pytest.approx(buffers["born"][other] / full[0] * width, abs=1)


def test_the_keyboard_goes_through_the_buffers_of_an_arena(on_small):
    page = on_small
    section = page.first("arena")
    page.see(section)
    buffers = section["buffers"]
    order = sorted(range(len(buffers["name"])), key=lambda k: (buffers["born"][k], buffers["offset"][k]))
    page.focus(section)
    page.window.keys("Home", "ArrowRight")
    text = page.window.text("#live")
    assert text.startswith(buffers["name"][order[1]])
    assert format_bytes(buffers["nbytes"][order[1]]) in text
    page.window.keys("Enter")
    assert page.window.texts(f"#{section['id']} tr.chosen td:first-child")[0].strip() == buffers["name"][order[1]]


def test_the_frontier_reads_out_a_plan_and_answers_any_budget(on_small, results):
    page, found = on_small, results["frontier"]
    section = page.first("frontier")
    at, points = page.see(section), section["points"]
    traces = page.traces(section)
    assert traces["points"]["x"] == sorted(plan.peak_bytes for plan in found.plans)
    assert traces["knee"]["x"] == [found.knee.peak_bytes]
    assert traces["bound"]["y"][1:-1] == [
        points["bound"][k] for k in sorted(range(len(points["peak"])), key=points["peak"].__getitem__)
    ]
    page.focus(section)
    page.window.keys("Home")
    least = min(found.plans, key=lambda plan: plan.peak_bytes)
    tip = page.window.text(f"{at} .tip")
    assert f"{100 * least.overhead:.1f} % more time" in tip
    assert f"{least.peak_bytes:,} B" in tip
    assert "run again" in tip
    page.window.keys("Enter")
    assert page.window.text(f"{at} output").startswith(f"Budget {format_bytes(least.budget)}: peak")
    set_to = "const s = document.querySelector(arguments[0] + ' input[type=range]'); s.value = arguments[1];"
    page.window.script(set_to + "s.dispatchEvent(new Event('input'))", at, "1000")
    assert "0.0 % more time" in page.window.text(f"{at} output")
    page.window.script(set_to + "s.dispatchEvent(new Event('input'))", at, "0")
    assert "no plan" in page.window.text(f"{at} output")


# ---------------------------------------------------------------------------------- tables


def _cells(page: Page, at: str, column: int) -> list[str]:
    return [row[column] for row in page.rows(at)]


def test_tables_sort_by_every_column(on_small):
    page = on_small
    section = page.first("table", "inference")
    at = page.see(section)
    heads = page.window.texts(f"{at} th button > span:first-child")
    column = next(c for c in section["columns"] if c["type"] == "bytes")
    k = heads.index(column["label"])
    values = section["rows"][column["key"]]
    page.window.click(f"{at} .tools button[aria-pressed]")  # every row by itself, not by module
    state = "return document.querySelectorAll(arguments[0] + ' th')[arguments[1]].ariaSort"
    press = f"{at} th:nth-child({k + 1}) button"
    start = _cells(page, at, k)
    page.window.click(press)
    assert page.window.script(state, at, k) == "descending"
    assert _cells(page, at, k) == [format_bytes(v) for v in sorted(values, reverse=True)]
    page.window.script("document.querySelector(arguments[0]).focus()", press)
    page.window.keys("Enter")
    assert page.window.script(state, at, k) == "ascending"
    assert _cells(page, at, k) == [format_bytes(v) for v in sorted(values)]
    page.window.keys("Enter")
    assert page.window.script(state, at, k) == "none"
    assert _cells(page, at, k) == start
    page.window.click(f"{at} .tools button[aria-pressed]")


def _type(page: Page, at: str, text: str) -> None:
    page.window.script(
        "const i = document.querySelector(arguments[0] + ' input[type=search]'); i.value = arguments[1];"
        "i.dispatchEvent(new Event('input'))",
        at,
        text,
    )


def test_tables_filter_by_words_and_comparisons(on_small):
    page = on_small
    section = page.first("table", "inference")
    at, rows = page.see(section), section["rows"]
    page.window.click(f"{at} .tools button[aria-pressed]")
    column, shown = next((c["key"], c["label"].replace(" ", "_")) for c in section["columns"] if c["type"] == "bytes")
    n = len(rows["name"])
    for text, holds in [
        ("BLOCK1", lambda k: "block1" in rows["name"][k]),
        (f"{shown}>=64KiB", lambda k: rows[column][k] >= 65536),
        (f"{shown}<=1.5KiB", lambda k: rows[column][k] <= 1536),
        (f"operator=conv2d {shown}>0 block0", lambda k: rows["op"][k] == "conv2d" and "block0" in rows["name"][k]),
        ("operator!=conv2d", lambda k: rows["op"][k] != "conv2d"),
        ('"no such words"', lambda k: False),
    ]:
        _type(page, at, text)
        expected = [k for k in range(n) if holds(k)]
        assert _cells(page, at, 0) == [rows["name"][k] for k in expected], text
        assert page.window.text(f"{at} .said") == f"{len(expected)} of {n} rows"
    _type(page, at, "size>1MiB")
    assert "no column “size”" in page.window.text(f"{at} .said")
    _type(page, at, f"{column}>large")
    assert "“large” is no amount" in page.window.text(f"{at} .said")
    _type(page, at, "")
    assert page.window.text(f"{at} .said") == f"{n} rows"
    page.window.click(f"{at} .tools button[aria-pressed]")


def test_a_table_is_saved_as_csv(on_small, tmp_path):
    page = on_small
    section = page.first("table", "inference")
    at = page.see(section)
    page.window.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    _type(page, at, "operator=conv2d")
    page.window.script(
        "[...document.querySelectorAll(arguments[0] + ' .tools button')].find(b => b.textContent === 'CSV').click()", at
    )
    file = tmp_path / f"{section['id']}.csv"
    for _ in range(1000):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.02)
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [n for n, op in zip(section["rows"]["name"], section["rows"]["op"], strict=True) if op == "conv2d"]
    assert [row["name"] for row in rows] == names
    column = next(c for c in section["columns"] if c["type"] == "bytes")["key"]
    exact = dict(zip(section["rows"]["name"], section["rows"][column], strict=True))
    assert [int(row[column]) for row in rows] == [exact[name] for name in names]
    _type(page, at, "")


# ---------------------------------------------------------------------------------- profiles, rules


def test_runtimes_are_compared_and_explained(on_small, results):
    page, found = on_small, results["profiles"]
    section = page.first("profiles")
    at = page.see(section)
    able = [row for row in found.rows if row.arena_bytes is not None]
    assert len(page.rows(f"{at} .body > .bars")) == len(found.rows)
    for row in able:
        name = row.profile.name
        page.window.script(
            "[...document.querySelectorAll(arguments[0] + ' .choices button')]"
            ".find(b => b.textContent === arguments[1]).click()",
            at,
            name,
        )
        lines = page.rows(f"{at} .waterfall")
        assert f"{found.ideal_bytes:,} B" in lines[0][2]
        assert f"{row.arena_bytes:,} B" in lines[-1][2]
        changes = [step.nbytes for step in row.steps if step.nbytes]
        assert len(lines) == len(changes) + 2
        assert [abs(change) for change in changes] == [
            int(re.sub(r"\D", "", line[2].split("B", 1)[1].split(" B")[0])) for line in lines[1:-1]
        ]


def test_rules_of_thumb_end_at_the_exact_figure(on_small, results):
    page = on_small
    section = page.first("rules")
    at = page.see(section)
    assert page.window.script("return document.querySelectorAll(arguments[0] + ' .rule').length", at) == len(
        section["rules"]
    )
    for k, rule in enumerate(section["rules"]):
        lines = page.rows(f"{at} .rule:nth-of-type({k + 1})")
        assert f"{rule['rule_bytes']:,} B" in lines[0][2]
        assert f"{rule['exact_bytes']:,} B" in lines[-1][2]
        assert len(lines) == len(rule["reasons"]) + 2
        assert all(reason["words"] in line[0] for reason, line in zip(rule["reasons"], lines[1:-1], strict=True))
        # Bars begin where the one before ends: the last one ends at the exact figure.
        spans = page.window.script(
            "return [...document.querySelectorAll(arguments[0] + ' .track')].map(t => [...t.children].map(i =>"
            "[parseFloat(i.style.left), parseFloat(i.style.left) + parseFloat(i.style.width)]))",
            f"{at} .rule:nth-of-type({k + 1})",
        )
        reached = spans[0][0][1]
        for reason, span in zip(rule["reasons"], spans[1:-1], strict=True):
            if reason["nbytes"]:
                begin, end = span[0] if reason["nbytes"] > 0 else span[0][::-1]
                assert begin == pytest.approx(reached, abs=0.01)
                reached = end
        assert spans[-1][0][1] == pytest.approx(reached, abs=0.01)
    exact = {rule["exact_bytes"] for rule in section["rules"]}
    assert exact == {results["training"].peak_bytes, results["inference"].peak_bytes}


# ---------------------------------------------------------------------------------- two thousand layers


def test_two_thousand_steps_keep_every_maximum_at_every_zoom(on_deep):
    page = on_deep
    section = page.first("timeline", "Inference")
    at, n = page.see(section), len(section["steps"]["op"])
    assert n == 2001
    shown = [k for k, values in enumerate(section["bytes"]) if any(values)]
    pressed = page.window.script(
        "return [...document.querySelectorAll(arguments[0] + ' .key[aria-pressed=true]')].map(e => e.dataset.kind)", at
    )
    totals = np.sum([section["bytes"][k] for k in shown if section["kinds"][k]["key"] in pressed], axis=0)

    def check(low: float, high: float) -> int:
        traces = [trace for trace in page.traces(section).values() if trace["stacked"]]
        edges, columns = traces[0]["x"], np.sum([trace["y"] for trace in traces], axis=0)
        assert edges[0] == np.floor(low)
        assert edges[-1] == np.ceil(high)
        for begin, end, column in zip(edges, edges[1:], columns, strict=False):
            assert column == totals[begin:end].max()
        return len(edges) - 1

    def view() -> list[float]:
        return page.window.script("return document.querySelector(arguments[0] + ' .plot').layout.xaxis.range", at)

    bins = check(0, n)
    assert 300 < bins <= 700
    # A drag over a tenth of the drawing shows that tenth, every step by itself.
    page.window.drag(*page.point(section, 0.4, 0.5), *page.point(section, 0.5, 0.5))
    low, high = view()
    assert (low, high) == (pytest.approx(800, abs=5), pytest.approx(1000, abs=5))
    assert check(low, high) == np.ceil(high) - np.floor(low)
    assert re.fullmatch(r"steps [\d,]+.[\d,]+ of 2,001", page.window.text(f"{at} .range"))
    # A cursor that is nowhere yet comes in at the edge of what is seen.
    page.focus(section)
    page.window.keys("Escape", "ArrowRight")
    assert page.window.text("#live").startswith(f"{section['steps']['op'][int(low)]}, step {int(low):,}")
    # The wheel zooms a chart that has the focus, about the pointer.
    page.focus(section)
    x, y = page.point(section, 0.5, 0.5)
    page.window.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    page.window.until(
        "const [a, b] = document.querySelector(arguments[0] + ' .plot').layout.xaxis.range;return b - a < arguments[1]",
        at,
        0.8 * (high - low),
    )
    check(*view())
    page.window.press(x, y, clicks=1)
    page.window.press(x, y, clicks=2)
    assert view() == [0, n]
    check(0, n)
    # The keyboard reaches every step, and the view follows.
    page.window.keys("+", "+", "+", "End")
    assert page.window.text("#live").startswith(section["steps"]["op"][-1])
    assert view()[1] == n


def test_steps_are_joined_by_module(on_deep):
    page = on_deep
    section = page.first("timeline", "Training step")
    at = page.see(section)
    choices = page.window.script(
        "return [...document.querySelector(arguments[0] + ' select').options].map(o => [o.value, o.textContent])", at
    )
    assert [value for value, _ in choices] == ["0", "1", "2"]
    scopes = [scope.split(".")[0] for scope in section["steps"]["scope"]]
    phase = np.concatenate([[k] * (p["end"] - p["begin"]) for k, p in enumerate(section["phases"])])
    cuts = [0, *(s for s in range(1, len(scopes)) if (scopes[s], phase[s]) != (scopes[s - 1], phase[s - 1]))]
    ends = [*cuts[1:], len(scopes)]
    totals = np.sum(section["bytes"], axis=0)
    select = "const s = document.querySelector(arguments[0] + ' select'); s.value = arguments[1];"
    page.window.script(select + "s.dispatchEvent(new Event('change'))", at, "1")
    traces = page.traces(section)
    stacked = [trace for trace in traces.values() if trace["stacked"]]
    assert stacked[0]["x"] == [*cuts, len(scopes)]
    highest = [totals[a:b].max() for a, b in zip(cuts, ends, strict=True)]
    assert np.sum([trace["y"] for trace in stacked], axis=0)[:-1].tolist() == highest
    assert {"stage0", "stage3"} <= set(page.window.texts(f"{at} .xtick text"))
    block = next(k for k, a in enumerate(cuts) if scopes[a] == "stage1")
    page.window.move(*page.point(section, (cuts[block] + ends[block]) / 2 / len(scopes), 0.2))
    tip = page.window.text(f"{at} .tip")
    assert tip.startswith(f"stage1: steps {cuts[block]:,}\u2013{ends[block] - 1:,}")
    assert f"{highest[block]:,} B" in tip
    page.window.script(select + "s.dispatchEvent(new Event('change'))", at, "0")


def test_thousands_of_rectangles_are_a_handful_of_elements(on_deep):
    page = on_deep
    section = page.first("arena")
    at = page.see(section)
    assert len(section["buffers"]["name"]) > 1000
    assert sum(trace["x"].count(None) for trace in page.traces(section).values()) == len(section["buffers"]["name"])
    drawn = page.window.script("return document.querySelectorAll(arguments[0] + ' .plot svg *').length", at)
    assert drawn < 700
    # A zoomed drawing has the rectangles of its box alone, and their names.
    page.window.drag(*page.point(section, 0.1, 0.9), *page.point(section, 0.12, 0.02))
    zoomed = page.traces(section)
    assert 3 < sum(trace["x"].count(None) for name, trace in zoomed.items() if name != "names") < 200
    assert page.window.texts(f"{at} .textpoint text, {at} .trace text")


def test_tables_fold_by_module(on_deep):
    page = on_deep
    section = page.first("table", "inference")
    at, scope = page.see(section), section["scope"]
    groups = f"{at} tr.group button"
    assert page.window.texts(groups) == [f"▸stage{k} ({scope_count(scope, f'stage{k}')})" for k in range(4)]
    # Many rows are closed at first; a module opens one level.
    page.window.click(f"{at} button[data-path='stage1']")
    opened = page.window.texts(groups)
    assert len(opened) == 4 + 125
    assert page.window.script("return document.activeElement.dataset.path") == "stage1"
    page.window.keys("Enter")
    assert len(page.window.texts(groups)) == 4
    summed = [column for column in section["columns"] if column.get("total") == "sum"]
    assert summed
    for column in summed:
        k = page.window.texts(f"{at} th button > span:first-child").index(column["label"])
        sums = [
            sum(v for v, path in zip(section["rows"][column["key"]], scope, strict=True) if path.startswith(stage))
            for stage in ("stage0", "stage1", "stage2", "stage3")
        ]
        shown = format_bytes if column["type"] == "bytes" else "{:,}".format
        assert [row[k] for row in page.rows(at) if row[0].startswith("▸")] == [shown(value) for value in sums]
    # What is filtered is opened.
    _type(page, at, "stage2.77")
    assert [row[0] for row in page.rows(at)][-1].startswith("stage2.77")
    _type(page, at, "")


def test_long_tables_have_the_rows_that_are_looked_at(on_deep):
    page = on_deep
    section = page.first("table", "inference")
    at = page.see(section)
    page.window.click(f"{at} .tools button[aria-pressed]")
    assert page.window.text(f"{at} .said") == "2,001 rows"
    assert len(page.rows(at)) < 300
    script = (
        "const b = document.querySelector(arguments[0] + ' .rows'); b.scrollTop = arguments[1];"
        "return b.scrollHeight - b.clientHeight"
    )
    bottom = page.window.script(script, at, 0)
    page.window.script(script, at, bottom)
    page.window.until(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr:not(.gap)')].at(-1).cells[0].textContent.trim()"
        " === arguments[1]",
        at,
        section["rows"]["name"][-1],
    )
    assert len(page.rows(at)) < 300
    page.window.script(script, at, 0)
    page.window.click(f"{at} .tools button[aria-pressed]")


def scope_count(scope: list[str], module: str) -> int:
    return sum(path.split(".")[0] == module for path in scope)


# ---------------------------------------------------------------------------------- what no planner makes together


def test_a_name_is_never_markup(odd):
    page, window = odd, odd.window
    window.open(page.path)
    for section in page.data["sections"]:
        page.see(section)
    assert window.text("h1") == NAME
    assert window.script("return document.querySelectorAll('img, #main script').length") == 0
    assert page.rows("#table")[0] == [NAME]
    assert NAME in window.texts("#names .annotation-text")
    # A section that the page cannot draw says so; the others are drawn.
    assert ["no drawing of the kind" in text for text in window.texts(".failure")] == [True]
    assert len(window.errors()) == 1


def test_amounts_read_as_the_library_prints_them(on_odd):
    page, at = on_odd, "#amounts"
    page.see(page.sections["amounts"])
    assert [row[1] for row in page.rows(at)] == [row[0] for row in page.rows(at)]
    page.window.click("#units")
    assert [row[1] for row in page.rows(at)] == [f"{value:,}" for value in AMOUNTS]
    page.window.click("#units")
    assert [row[1] for row in page.rows(at)] == [row[0] for row in page.rows(at)]


def test_a_budget_far_above_is_said_in_words(on_odd):
    section = on_odd.sections["budget"]
    at = on_odd.see(section)
    assert any("1.00 TiB (1,099,511,627,776 B)" in text for text in on_odd.window.texts(f"{at} .notice"))
    high = on_odd.window.script("return document.querySelector(arguments[0] + ' .plot').layout.yaxis.range[1]", at)
    assert high < 2 * section["peak_bytes"]


def test_an_arena_without_a_placement_says_why_and_lists_its_buffers(on_odd):
    section = on_odd.sections["none"]
    at = on_odd.see(section)
    assert on_odd.window.text(f"{at} .notice").startswith("No placement: infeasible.")
    assert f"{section['lower_bound']:,} B" in on_odd.window.text(f"{at} .notice")
    assert len(on_odd.rows(at)) == len(section["buffers"]["name"])


# ---------------------------------------------------------------------------------- light, dark, phone, paper


def _theme(page: Page) -> tuple[str, str, str]:
    return tuple(
        page.window.script(
            "return [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor,"
            "document.querySelector('.plot').layout.font.color]"
        )
    )


def test_light_and_dark_follow_the_system_until_somebody_chooses(small):
    page = small
    page.window.media(scheme="dark")
    page.window.open(page.path)
    page.see(page.first("timeline"))
    dark = _theme(page)
    assert dark[0] == "dark"
    page.window.click("#theme")
    light = _theme(page)
    assert light[0] == "light"
    assert all(a != b for a, b in zip(light, dark, strict=True))  # the drawings change with the page
    page.window.open(page.path)
    page.see(page.first("timeline"))
    assert _theme(page) == light  # the choice is kept
    page.window.script("localStorage.clear()")
    page.window.media(scheme="light")
    page.window.open(page.path)
    page.see(page.first("timeline"))
    assert _theme(page) == light


def test_nothing_is_wider_than_a_phone(small, deep, odd):
    window = small.window
    try:
        for page in (small, deep, odd):
            window.size(360, 740, phone=True)
            window.open(page.path)
            for section in page.data["sections"]:
                page.see(section)
            assert window.script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    finally:
        window.size(1280, 900)
        window.script("dispatchEvent(new Event('resize'))")


def test_paper_has_every_section_in_light_colours_and_no_controls(small):
    page, window = small, small.window
    window.media(scheme="dark")
    window.open(page.path)  # no section but the first has been looked at
    try:
        window.media("print", scheme="dark")
        window.until("return document.documentElement.dataset.theme === 'light'")
        state = window.script(
            "return {drawn: [...document.querySelectorAll('section')].every(s => s.dataset.drawn),"
            "seen: [...document.querySelectorAll('.tools, .bar, .help, .choices, .tip')].filter("
            "e => e.checkVisibility()).length,"
            "widths: [...document.querySelectorAll('.plot')].map(p => p.layout.width)}"
        )
        assert state["drawn"]
        assert state["seen"] == 0
        assert all(width <= 660 for width in state["widths"])
        window.media(scheme="dark")
        window.until("return document.documentElement.dataset.theme === 'dark'")
        assert window.script("return document.querySelector('.plot').layout.width") > 900
        paper = window.paper()
        assert paper.startswith(b"%PDF")
        pages = len(re.findall(rb"/Type\s*/Page\b", paper))
        assert len(page.data["sections"]) // 2 < pages < 40
    finally:
        window.media()
    assert window.errors() == []


def test_the_keyboard_reaches_everything_and_everything_has_a_name(on_small):
    page, window = on_small, on_small.window
    window.open(page.path)
    for section in page.data["sections"]:
        page.see(section)
    window.script("document.activeElement.blur(); scrollTo(0, 0)")
    window.keys("Tab")
    assert window.script("return document.activeElement.className") == "skip"
    ids = window.script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    nameless = window.script(
        "return [...document.querySelectorAll('button, select, input, .chart, [role=region]')].filter(e =>"
        "!(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length))).length"
    )
    assert nameless == 0
    # What reacts to a press can have the focus: buttons, and rows by the button inside them.
    assert window.script("return [...document.querySelectorAll('tr.pick')].every(tr => tr.querySelector('button'))")
    assert window.script("return [...document.querySelectorAll('.chart')].every(c => c.tabIndex === 0)")
    assert window.script("return getComputedStyle(document.querySelector('.skip')).outlineStyle") != "none"


def test_a_link_opens_the_report_at_a_section(small):
    section = small.first("profiles")
    small.window.open(small.path, f"#{section['id']}")
    small.window.until("return document.querySelector(arguments[0]).dataset.drawn", f"#{section['id']}")
    small.window.until(
        "const top = document.querySelector(arguments[0]).getBoundingClientRect().top; return top > -5 && top < 200",
        f"#{section['id']}",
    )
    small.window.until(
        "return document.querySelector('#sections a[aria-current]')?.hash === arguments[0]", f"#{section['id']}"
    )
