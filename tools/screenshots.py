"""Write the two pictures of a report that README.md shows: ``python tools/screenshots.py``.

Needs a browser with its driver (as ``tests/test_report_browser.py``) and the extra ``report``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402 - beside the tests

import cnnlive  # noqa: E402
from cnnlive import zoo  # noqa: E402
from cnnlive.report.html import write_report  # noqa: E402

PICTURES = ROOT / "docs" / "images"
WIDTH = 1200
MOST = 250_000  # bytes of a picture


def picture(window: browser.Browser, section: str, place: tuple[float, float], name: str) -> None:
    """Write a section of the page, from its title to the end of its drawing, the pointer at `place` of the drawing."""
    window.script("document.querySelector(arguments[0]).scrollIntoView()", section)
    window.until("return document.querySelector(arguments[0]).dataset.drawn", section)
    window.script("document.querySelector(arguments[0]).scrollIntoView()", section)
    left, top, width, height = window.box(f"{section} .over")
    window.move(left + place[0] * width, top + (1 - place[1]) * height)
    window.until("return document.querySelector(arguments[0]).checkVisibility()", f"{section} .tip")
    begin = window.box(section)
    chart = window.box(f"{section} .chart")
    scrolled = window.script("return scrollY")
    height = chart[1] + chart[3] + 10 - begin[1]
    file = PICTURES / name
    window.picture(file, clip=(0, begin[1] + scrolled - 8, WIDTH, height + 8))
    size = file.stat().st_size
    if size > MOST:
        raise SystemExit(f"{file}: {size:,} bytes, more than {MOST:,}")
    print(f"{file.relative_to(ROOT)}: {size:,} bytes")


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    net = zoo.load("resnet50", train=True)
    results = [cnnlive.plan_training(net, batch=32), cnnlive.plan_arena(zoo.load("resnet50"))]
    found = browser.find()
    if isinstance(found, str):
        raise SystemExit(found)
    window = browser.Browser(*found, WIDTH, 1000)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            write_report(path, results)
            window.open(path)
            window.command("Emulation.setScrollbarsHidden", hidden=True)
            window.script("document.body.insertAdjacentHTML('beforeend', '<style>.help {visibility: hidden}</style>')")
            picture(window, "#timeline", (0.62, 0.75), "report-timeline.png")
            picture(window, "#arena", (0.105, 0.42), "report-arena.png")
    finally:
        window.close()


if __name__ == "__main__":
    main()
