"""The documentation is what the code says."""

import dataclasses
import doctest
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cnnlive
from cnnlive import cli
from cnnlive.plan.compare import STEPS
from cnnlive.report.operators import operator_rows, operators_markdown
from cnnlive.report.rules import DEFAULTS, RULES, value_words

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


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


@pytest.fixture
def beside_a_model(tmp_path, monkeypatch):
    """Stand in a folder with the ``model.onnx`` and ``model.tflite`` that the pages speak of."""
    spec = importlib.util.find_spec("onnx")
    if spec is not None and importlib.util.find_spec("tflite") is not None:
        import tflite_models  # noqa: PLC0415 - needs the schema package

        net = tflite_models.Net("int8")
        tflite_models.residual(net)
        (tmp_path / "model.tflite").write_bytes(net.write())
        source = Path(spec.submodule_search_locations[0]) / "backend/test/data/light/light_squeezenet.onnx"
        shutil.copy(source, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_run_as_shown(page, beside_a_model):
    blocks = re.findall(r"^```pycon\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    shown = [b for b in blocks if beside_a_model or not re.search(r"\.(onnx|tflite)", b)]
    example = doctest.DocTestParser().get_doctest("\n".join(shown), {}, page.name, str(page), 0)
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_shown_output_is_real(page):
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
        command, _, shown = block.partition("\n")
        assert command.startswith("$ cnnlive ")
        assert shown == run(command.removeprefix("$ cnnlive "))


def test_the_commands_of_the_readme_exist(beside_a_model):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^cnnlive (.*?)(?:  +#.*)?$", text, re.M)
    assert len(lines) >= len(cli.main.commands)
    for line in lines:
        if beside_a_model or not re.search(r"model\.(onnx|tflite)", line):
            run(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


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
