"""Figures of the theory pages are the library's drawings, and their captions its numbers."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FILES = sorted((ROOT / "docs/theory/figures").glob("*.svg"))


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "tools/figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def without_a_screen():
    matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'cnnlive[viz]'")
    matplotlib.use("Agg")


def words(svg):
    return sorted("".join(t.itertext()) for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def test_every_figure_is_made_shown_and_there(figures):
    shown = {name for page in PAGES for name in re.findall(r"<!-- figure (.*?) -->", page.read_text(encoding="utf-8"))}
    assert shown == set(figures.SHOWN) == {file.stem for file in FILES}
    links = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"!\[.+?\]\((.*?\.svg)\)", page.read_text(encoding="utf-8"))
    }
    assert links == {file.resolve() for file in FILES}


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- figure " in p.read_text(encoding="utf-8")],
                         ids=lambda p: p.stem)  # fmt: skip
def test_captions_have_the_numbers_of_the_plans(figures, page):
    assert figures.captioned(page) == page.read_text(encoding="utf-8"), "run make docs"


@pytest.mark.parametrize("name", ["arenas-greedy", "frontiers-chain", "liveness-vgg16", "orders-branches"])
def test_the_committed_figure_says_what_is_drawn_now(figures, without_a_screen, name):
    drawn = figures.drawn(name)
    kept = (ROOT / f"docs/theory/figures/{name}.svg").read_text(encoding="utf-8")
    assert words(drawn) == words(kept), "run make docs"
    assert drawn == figures.drawn(name)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_figures_are_small_say_no_date_and_stand_on_white(file):
    svg = file.read_text(encoding="utf-8")
    assert len(svg.encode()) < 60_000
    assert "dc:date" not in svg
    ground = re.search(r'id="patch_1">\s*<path d="(.*?)" style="(.*?)"', svg)
    assert ground[2] == "fill: #ffffff"
    assert len(words(svg)) > 5


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("M 0 0 \nL 10 0 \nL 20 0 \nL 20 5 \nL 20 9 \nL 0 0 \nz\n", "M0 0H20V9L0 0z"),
        ("M 0 0 \nL 10 0 \nL 4 0 \nL 7 3.14159 \n", "M0 0H10H4L7 3.1"),
        ("M 1.06 2 \nC 1 2 3 4 5 6 \nL 5 8 ", "M1.1 2C1 2 3 4 5 6V8"),
    ],
)
def test_paths_are_shortened_without_losing_a_turn(figures, long, short):
    assert figures.path(long) == short
