"""The documentation is what the code says."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import cnnlive
from cnnlive import cli
from cnnlive.plan.compare import STEPS
from cnnlive.report.operators import operator_rows, operators_markdown
from cnnlive.report.rules import DEFAULTS, RULES, value_words

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import build_docs  # noqa: E402 - tools
import pages  # noqa: E402

PAGES = pages.pages()


def name_of(page):
    return str(page.relative_to(ROOT))


def run(line):
    result = CliRunner().invoke(cli.main, line.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def documented(page):
    """Return the first column of the table under each heading, and its rows."""
    sections = {}
    rows = []
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            rows = sections[line.strip("# ")] = []
        elif line.startswith("| `"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {heading: {r[0].strip("`"): r[1:] for r in rows} for heading, rows in sections.items() if rows}


# ---------------------------------------------------------------------------------- operators


def test_the_page_of_operators_is_generated():
    assert (ROOT / "docs/operators.md").read_text(encoding="utf-8") == operators_markdown(), "run make docs"


def test_every_operator_has_a_row_without_gaps():
    text = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    assert [r.name for r in operator_rows()] == sorted(cnnlive.ops.OPERATORS)
    for row in operator_rows():
        assert f"\n| `{row.name}` | " in text
        missing = [k for k, v in row._asdict().items() if not v and k not in ("attributes", "fusion")]
        assert not missing
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


# ---------------------------------------------------------------------------------- sections


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_sections_are_what_the_code_gives():
    docs = tool("generate_docs")
    for (page, name), text in docs.SECTIONS.items():
        shown = docs.section((ROOT / page).read_text(encoding="utf-8"), name).group()
        assert shown == text(), f"{page}, {name}: run make docs"


def test_the_founding_question_is_answered_on_the_first_screen():
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24])
    net = cnnlive.lower(cnnlive.zoo.load("vgg16"))
    assert "inference of one image | 579,722,400 | 579,120,288 |" in screen
    assert "(553,430,176), the image (602,112) and two maps of 64 x 224²" in screen
    assert 553_430_176 + 602_112 + 2 * 64 * 224**2 * 4 == 579_722_400
    peaks = {b: cnnlive.plan_training(net, batch=b).peak_bytes for b in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
    each = (peaks[256] - peaks[16]) // 240
    base = peaks[16] - 16 * each
    assert all(peak == base + each * batch for batch, peak in peaks.items() if batch >= 8)
    assert f"{base / 1e6:,.1f} MB + {each / 1e6:.2f} MB · B" in screen
    assert peaks[4] > base + 4 * each


# ---------------------------------------------------------------------------------- JSON


def test_the_documented_keys_of_inference_are_the_real_ones():
    page = documented("json.md")
    data = json.loads(run("inference resnet18 --profile torch_fx --json"))
    assert set(page["inference"]) == set(data)
    assert set(page["inference: live_at_peak"]) == set(data["live_at_peak"][0])
    assert set(page["inference: rule_of_thumb"]) == set(data["rule_of_thumb"])
    assert set(page["inference: rule_of_thumb.reasons"]) == set(data["rule_of_thumb"]["reasons"][0])


def test_the_documented_keys_of_the_other_commands_are_the_real_ones():
    page = documented("json.md")
    ops = json.loads(run("ops alexnet --json"))
    assert set(page["ops"]) == set(ops)
    assert set(page["ops: ops"]) == set(ops["ops"][0])
    for heading, line in {
        "zoo": "zoo",
        "zoo NET": "zoo alexnet",
        "operators": "operators",
        "optimizers": "optimizers",
        "profiles": "profiles",
    }.items():
        assert set(page[heading]) == set(json.loads(run(f"{line} --json"))), heading


def test_the_documented_keys_of_training_and_fit_are_the_real_ones():
    page = documented("json.md")
    data = json.loads(run("training squeezenet1_1 --json"))
    assert set(page["training"]) == set(data)
    for key in ("live_at_peak", "rules_of_thumb", "timeline", "ops"):
        assert set(page[f"training: {key}"]) == set(data[key][0]), key
    for more in ("", " --batch 1", " --inference"):
        data = json.loads(run(f"fit squeezenet1_1 --budget 1GB --json{more}"))
        assert set(page["fit"]) == set(data)
        assert set(page["fit: batches"]) == set(data["batches"][0])


def test_the_documented_keys_of_orders_and_arenas_are_the_real_ones():
    page = documented("json.md")
    order, arena = (json.loads(run(f"{line} --json")) for line in ("order alexnet", "arena alexnet"))
    assert set(page["order"]) == set(order)
    assert set(page["inference: live_at_peak"]) == set(order["live_at_peak"][0])
    assert set(page["arena"]) == set(arena)
    assert set(page["arena: buffers"]) == set(arena["buffers"][0])
    shared = json.loads(run("arena alexnet --shared-objects --json"))
    assert set(page["arena --shared-objects"]) == set(shared)


def test_the_documented_keys_of_comparisons_are_the_real_ones():
    page = documented("json.md")
    data = json.loads(run("compare alexnet --json"))
    assert set(page["compare"]) == set(data)
    assert all(set(page["compare: profiles"]) == set(row) for row in data["profiles"])
    steps = [step for row in data["profiles"] for step in row["steps"]]
    assert set(page["compare: profiles.steps"]) == set(steps[0])
    named = re.findall("`(.*?)`", page["compare: profiles.steps"]["name"][1])
    assert named == list(STEPS)


# Heading of docs/json.md -> a line whose answer it documents.
LINES = {
    "inference": "inference alexnet",
    "training": "training alexnet",
    "fit": "fit alexnet --budget 1GiB",
    "order": "order alexnet",
    "arena": "arena alexnet",
    "arena --shared-objects": "arena alexnet --shared-objects",
    "compare": "compare alexnet",
    "ops": "ops alexnet",
    "zoo": "zoo",
    "zoo NET": "zoo alexnet",
    "operators": "operators",
    "optimizers": "optimizers",
    "profiles": "profiles",
}


@pytest.mark.parametrize("heading", LINES)
def test_the_documented_types_are_the_real_ones(heading):
    data = json.loads(run(f"{LINES[heading]} --json"))
    kinds = {"text": str, "integer": int, "true or false": bool, "object": dict, "text or null": str | None,
             "text, object or null": str | dict | None, "integer or null": int | None,
             "true, false or null": bool | None, "number": int | float, "number or null": int | float | None,
             "list of texts or null": list | None}  # fmt: skip
    for key, (kind, _) in documented("json.md")[heading].items():
        expected = kinds.get(kind, list if kind.startswith("list") else None)
        assert isinstance(data[key], expected), key
        assert (kind != "integer") or not isinstance(data[key], bool)


def test_every_command_with_json_is_documented():
    with_json = {n for n, c in cli.main.commands.items() if any("--json" in p.opts for p in c.params)}
    assert with_json == {h for h in documented("json.md") if ":" not in h and " " not in h}


def test_the_documented_format_is_the_real_one():
    text = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    for line in LINES.values():
        assert f"`{json.loads(run(f'{line} --json'))['format']}`" in text


# ---------------------------------------------------------------------------------- what is counted


def test_the_tables_of_profiles_are_those_of_the_code():
    page = documented("profiles.md")
    assert page["Rules"] == {rule: [RULES[rule], value_words(rule, DEFAULTS[rule])] for rule in RULES}
    assert list(RULES) == [f.name for f in dataclasses.fields(cnnlive.Profile) if f.name not in ("name", "summary")]
    for p in cnnlive.PROFILES.values():
        differs = [rule for rule, default in DEFAULTS.items() if getattr(p, rule) != default]
        shown = page.get(p.name, {})
        assert {rule: cells[0] for rule, cells in shown.items()} == {
            rule: value_words(rule, getattr(p, rule)) for rule in differs
        }, p.name


# ---------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_whatever_stands_in_fences_is_run_and_prints_what_is_shown(page, tmp_path, monkeypatch, subtests):
    pages.put_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in pages.blocks(page):
        with subtests.test(str(block)):
            try:
                pages.run_block(block, names)
            except pages.Skipped as why:
                pytest.skip(str(why))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_of_a_language_that_is_run(page):
    text = page.read_text(encoding="utf-8")
    found = pages.blocks(page)
    assert {block.language for block in found} <= set(pages.RUN)
    # Whatever opens a fence in another way, with tildes or by four spaces, would not be run.
    assert len(re.findall(r"^ *(?:```|~~~)", text, re.M)) == 2 * len(found)
    assert not re.search(r"^\n {4}(>>> |\$ |import |from |cnnlive )", text, re.M)


def test_what_cannot_be_run_says_why():
    reasons = {f"{name_of(b.page)}: {b.not_run}" for page in PAGES for b in pages.blocks(page) if b.not_run}
    assert reasons == NOT_RUN


# Fences that the tests do not run, by page and reason.
NOT_RUN = set()


# What is wrong -> a fence, and words of the error.
WRONG = {
    "value": ("```pycon\n>>> 1 + 1\n3\n```\n", "Expected:\n    3\nGot:\n    2"),
    "name": ("```python\nx = 1\n```\n\n```pycon\n>>> x\n1\n>>> y\n```\n", "NameError: name 'y' is not defined"),
    "python": ("```python\n\n1 / 0\n```\n", "ZeroDivisionError"),
    "empty": ("```console\n```\n", "console: empty"),
    "output": ("```console\n$ cnnlive zoo alexnet\nnothing\n```\n", "-nothing\n+alexnet"),
    "exit code": ("```console\n$ cnnlive inference alexnett\nx\n```\n", "exit code 2; 0 is allowed"),
    "other exit code": ("```console\n$ cnnlive zoo alexnett\n$ echo $?\n0\n```\n", "unknown network 'alexnett'"),
    "program": ("```console\n$ rm -r x\n```\n", "allowed are cnnlive, cat"),
    "option": ("```sh\ncnnlive zoo --no-such-option  # words\n```\n", "No such option '--no-such-option'"),
    "target": ("```sh\nmake nothing\n```\n", "make nothing: neither"),
    "extra": ("```sh\npip install 'cnnlive[nothing]'\n```\n", "neither"),
    "script": ("```sh\npython tools/nothing.py\n```\n", "neither"),
    "toml": ("```toml\na =\n```\n", "TOMLDecodeError"),
    "json": ("```json\n{\n```\n", "JSONDecodeError"),
    "csv": ("```csv\na,b\n1\n```\n", "lines of [1, 2] values"),
    "hidden": ("```text\n$ cnnlive zoo\n```\n", "belongs in a block that is run"),
    "language": ("```rust\n```\n", "allowed are pycon, python"),
}


@pytest.fixture
def write_page(tmp_path, monkeypatch):
    """Return a function that writes a page into a repository of its own, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def write(text):
        page = tmp_path / "page.md"
        page.write_text(f"# Page\n\n{text}", encoding="utf-8")
        return page

    return write


def run_page(page):
    names = {}
    for block in pages.blocks(page):
        pages.run_block(block, names)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_fence_is_found(what, write_page):
    text, words = WRONG[what]
    page = write_page(text)
    with pytest.raises(pages.PageError, match=re.escape(words)):
        run_page(page)


def test_what_cpp_gets_wrong_is_found_where_there_is_a_compiler(write_page):
    if pages.shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    run_page(write_page("<!-- given\nint f();\n-->\n```cpp\nint x = f();\n```\n"))
    page = write_page("```cpp\nint x = f();\n```\n")
    with pytest.raises(pages.PageError, match="error"):
        run_page(page)


DIRECTED = """
<!-- needs: json -->

<!-- file: a.csv -->
```csv
a,b
```
- In a list:

  <!-- given
  a = 1
  -->
  ```pycon
  >>> from pathlib import Path
  >>> a, Path("a.csv").read_text()
  (1, 'a,b\\n')
  ```
<!-- needs: no_such_module -->
```python
1 / 0
```
<!-- not run: it takes a day -->
```sh
false
```
```sh
cnnlive zoo --json > zoo.json
cnnlive zoo --json >> zoo.json
cnnlive zoo >> ~/no_such_folder/zoo
```
```console
$ cnnlive zoo alexnet | head -1
$ cnnlive zoo x
$ echo $?
9
```
"""


def test_comments_direct_how_a_fence_is_run(write_page, tmp_path):
    page = write_page(DIRECTED)
    names = {}
    found = pages.blocks(page)
    assert [block.needs for block in found] == [
        ["json"],
        ["json"],
        ["json", "no_such_module"],
        ["json"],
        ["json"],
        ["json"],
    ]
    for block in found[:2]:
        pages.run_block(block, names)
    for block, why in zip(found[2:4], ("no module no_such_module", "it takes a day"), strict=True):
        with pytest.raises(pages.Skipped, match=why):
            pages.run_block(block, names)
    pages.run_block(found[4], names)
    assert (tmp_path / "zoo.json").read_text(encoding="utf-8").count("cnnlive-zoo-1") == 2
    shown = pages.rewritten(page, tmp_path)
    assert re.search(r"\$ cnnlive zoo alexnet .*\n.+\n\$ cnnlive zoo x\n.*unknown.*\n\$ echo \$\?\n2\n```\n$", shown)
    page.write_text(shown, encoding="utf-8")
    pages.run_block(pages.blocks(page)[-1], names)


def test_the_page_of_the_command_line_has_every_command():
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert set(cli.main.commands) - set(re.findall(r"cnnlive ([a-z-]+)", text)) == set()


def anchors(page):
    """Return the anchors that a code host and the site give the headings of a page."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = Counter()
    slugs = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        slugs.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return slugs


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]+))?\)", text):
        if re.match(r"https?:", target):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_the_readme_names_targets_that_the_makefile_has():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)`", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.M), (page.name, target)


def test_the_demo_prints_the_founding_figures(capsys):
    pytest.importorskip("onnx")
    tool("demo").main()
    text = capsys.readouterr().out
    for words in ("vgg16", "579,120,288", "579,722,400", "4,540,375,812", "light_densenet121.onnx", "too low"):
        assert words in text


# ---------------------------------------------------------------------------------- the site

MODULES = ("nas", "nas.adapters", "nas.spaces", "ops", "torch", "verify", "errors", "zoo")
OBJECT = re.compile(r"^\.\. (?:auto(?:function|class|exception)|py:data):: (\S+)", re.M)


def listed():
    """Return the names that the pages of the reference show."""
    texts = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/reference").glob("*.rst"))]
    return [name for text in texts for name in OBJECT.findall(text)]


def test_the_reference_has_every_public_name_once():
    expected = {f"cnnlive.{name}" for name in cnnlive.__all__ if not hasattr(getattr(cnnlive, name), "__path__")}
    for name in MODULES:
        module = importlib.import_module(f"cnnlive.{name}")
        public = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        expected |= {f"cnnlive.{name}.{n}" for n in public}
    modules = {f"cnnlive.{name}" for name in MODULES}
    expected -= modules | {"cnnlive.errors.CnnliveError"}  # the last is cnnlive.CnnliveError
    names = Counter(listed())
    assert {name for name, times in names.items() if times > 1} == set()
    assert expected - set(names) == set()


def test_the_reference_shows_only_what_is_there():
    for name in listed():
        parts = name.split(".")
        for i in range(len(parts) - 1, 0, -1):
            if importlib.util.find_spec(".".join(parts[:i])) is not None:
                found = sys.modules.get(".".join(parts[:i])) or importlib.import_module(".".join(parts[:i]))
                break
        for part in parts[i:]:
            found = getattr(found, part)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="https://a.example/x.js"></script>', 1),
        ("<img alt='' src='//a.example/x.png'>", 1),
        ('<link rel="stylesheet" type="text/css" href="http://a.example/x.css">', 1),
        ("@import url(https://a.example/font.css);", 1),
        ("a { background: url('//a.example/x.png') }", 1),
        ('<a href="https://a.example">words</a> <link rel="next" href="x.html"> <script src="x.js"></script>', 0),
        ("a { background: url(data:image/png;base64,AAAA) }", 0),
    ],
)
def test_what_a_page_would_fetch_from_elsewhere_is_found(text, found, tmp_path):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert len(build_docs.fetched(tmp_path)) == found


def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", "docs", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_links_of_a_site_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "a b.html").write_text('<p id="x">', encoding="utf-8")
    good = (
        '<a href="a%20b.html#x"> <a href="#y"> <p id="y"> <a href="https://a.example/no#no"> <a href="a%20b.html?q=1">'
    )
    page = tmp_path / "page.html"
    page.write_text(good, encoding="utf-8")
    assert build_docs.broken(tmp_path) == []
    page.write_text(
        f'{good} <a href="no.html"> <img src="no.png"> <a href="a%20b.html#no"> <a href="#no">', encoding="utf-8"
    )
    assert build_docs.broken(tmp_path) == [
        f"page.html: {link}" for link in ("#no", "a%20b.html#no", "no.html", "no.png")
    ]
