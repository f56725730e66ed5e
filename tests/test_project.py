"""What holds for the project around the package: recipes, workflows, what is built."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cnnlive

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# GitHub's folder is not in a source distribution.
CHECKOUT = pytest.mark.skipif(not WORKFLOWS, reason="no .github here: this is no checkout")


def sections(text):
    """Return the lines of each section of second order."""
    found, name = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            name = line[3:]
        found.setdefault(name, []).append(line)
    return found


def test_every_recipe_is_shorter_than_thirty_lines_and_shows_code_that_runs():
    found = sections((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for name in ("an operator", "a profile", "a search space", "a net"):
        lines = found[f"Adding {name}"]
        assert "```pycon" in lines  # which tests/test_docs.py runs
        assert sum(1 for line in lines if line.strip()) < 30, name
    assert {"How tests are organised", "Adding a result", "Releases"} <= set(found)


def test_files_and_names_that_the_recipes_tell_of_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = [
        ROOT,
        ROOT / "tests",
        ROOT / "cnnlive/io",
        ROOT / "cnnlive",
        ROOT / "cnnlive/nas",
        ROOT / ".github/workflows",
    ]
    for name in re.findall(r"`([\w./]+\.(?:py|md|json|rst|yml))`", text):
        if WORKFLOWS or not name.endswith(".yml"):
            assert any((folder / name).exists() for folder in folders), name
    for target in re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M):
        text = text.replace(f"`make {target}`", "")
    assert not re.findall(r"`make [^`]*`", text)


# ---------------------------------------------------------------------------------- workflows


def workflow(path):
    yaml = pytest.importorskip("yaml", reason="workflows are read with PyYAML")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@CHECKOUT
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_may_read_and_nothing_else_and_ends_by_itself(path):
    data = workflow(path)
    assert data["permissions"] == {"contents": "read"}
    for job in data["jobs"].values():
        assert job["timeout-minutes"] <= 90
        assert set(job.get("permissions", {})) <= {"id-token"}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "@" in step.get("uses", "@")
    assert "secrets." not in path.read_text(encoding="utf-8")


@CHECKOUT
def test_the_workflow_of_changes_runs_what_ci_runs_on_every_version_that_is_claimed():
    data = workflow(ROOT / ".github/workflows/ci.yml")
    (job,) = data["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert (ROOT / ".ci/run").exists()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert job["strategy"]["matrix"]["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    # YAML reads the key "on" as true.
    assert set(data[True]) == {"push", "pull_request", "workflow_dispatch"}


# ---------------------------------------------------------------------------------- what is built


def test_the_version_is_one_of_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(cnnlive.__version__)} - \d{{4}}-\d\d-\d\d$", text, re.M)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The two distributions, made without anything from elsewhere."""
    pytest.importorskip("hatchling", reason="distributions are built with hatchling")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_has_the_package_and_nothing_else(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    here = {
        str(p.relative_to(ROOT)) for p in (ROOT / "cnnlive").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert names == here
    assert "cnnlive/py.typed" in names
    assert {n for n in names if not n.endswith((".py", "py.typed"))} == {
        f"cnnlive/report/assets/report.{ending}" for ending in ("css", "html", "js")
    }


def test_the_source_distribution_has_what_the_tests_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as source:
        names = {n.partition("/")[2] for n in source.getnames()}
    wanted = {
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    }
    for folder in ("cnnlive", "tests", "docs", "tools", "examples", "benchmarks"):
        kept = [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        wanted |= {str(p.relative_to(ROOT)) for p in kept if p.suffix in (".py", ".md", ".json", ".rst", ".sh")}
    assert wanted <= names, sorted(wanted - names)[:10]
