"""The pages of the documentation, and what stands in their fences: to run it, and to write down what it prints.

A page is run from top to bottom in a folder of its own and in one namespace. What a fence holds its language says:

``pycon``
    Examples with their output.
``python``
    Run as it stands.
``console``
    ``$ `` and a command, and below what it prints. Behind one that does not end with the exit code 0 stand
    ``$ echo $?`` and that code.
``sh``
    Commands alone. Those of cnnlive are run; of others, such as ``make docs``, what they name has to exist.
``toml``, ``json``, ``csv``
    Read.
``cpp``
    The body of a function, which a compiler reads where there is one.
``text``
    Formulas and the like, nothing that could be run.

Comments right above a fence direct this. ``<!-- file: NAME -->`` writes what it holds into the folder;
``<!-- needs: torch -->`` names a module, or ``gpu``, without which it is left out; ``<!-- not run: why -->`` says that
it cannot be run here; ``<!-- given``, code and ``-->`` is what the reader has already. ``needs`` in the first lines of
a page holds for all of it.

The reader has three things from the start: the files ``model.onnx`` and ``model.tflite``, and ``model``, a module of
PyTorch.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import doctest
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from cnnlive import cli

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))  # helpers that make files and modules
# Programs that a console may run beside cnnlive: they only show files.
SHOWING = ("cat", "echo", "grep", "head", "ls", "tail", "wc")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)
COMMENT = re.compile(r"<!-- *(needs|file|not run|given)\b:?(.*?)-->\s*\Z", re.S)
MODELS = ("model.onnx", "model.tflite")


class PageError(Exception):
    """Something on a page that is not so; the message names the page, the line and what."""


class Skipped(Exception):  # noqa: N818 - nothing is wrong
    """A block that cannot be run here, and why."""


def pages() -> list[Path]:
    """Return every page: those at the top of the repository and all of docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@dataclass
class Block:
    """What stands in one fence of a page."""

    page: Path
    line: int
    language: str
    text: str
    begin: int
    end: int
    indent: str = ""
    needs: list[str] = field(default_factory=list)
    file: str = ""
    given: str = ""
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}, {self.language}"


def blocks(page: Path) -> list[Block]:
    """Return the fences of a page in order."""
    whole = page.read_text(encoding="utf-8")
    needed = []
    head = re.match(r"(?:<!--.*?-->\s*|#[^\n]*\n\s*|)*", whole, re.S)
    for words in re.findall(r"<!-- *needs: *(.*?) *-->", head[0] if head else ""):
        needed += re.split(r"[,\s]+", words)
    found = []
    for fence in FENCE.finditer(whole):
        block = Block(page, whole.count("\n", 0, fence.start()) + 1, fence["language"].strip(),
                      textwrap.dedent(fence["text"]) if fence["indent"] else fence["text"],
                      fence.start("text"), fence.end("text"), fence["indent"], list(needed))  # fmt: skip
        above = whole[: fence.start()]
        while above.rstrip().endswith("-->"):
            start = above.rindex("<!--")
            comment = COMMENT.match(above, start)
            if comment is None:
                break
            kind, words = comment[1], textwrap.dedent(comment[2].strip("\n")).strip()
            if kind == "needs":
                block.needs += [name for name in re.split(r"[,\s]+", words) if name not in block.needs]
            elif kind == "file":
                block.file = words
            elif kind == "given":
                block.given = f"{words}\n{block.given}"
            else:
                block.not_run = words
            above = above[:start]
        found.append(block)
    return found


def missing(block: Block) -> str:
    """Return the module, device or file that a block needs and that is not here, or nothing."""
    code = ("" if block.language == "cpp" else block.given) + (
        block.text if block.language in ("pycon", "python") else ""
    )
    for name in [*block.needs, *re.findall(r"^(?:>>> )?(?:import|from) (\w+)", code, re.M)]:
        if name == "gpu":
            torch = importlib.util.find_spec("torch") and importlib.import_module("torch")
            if not torch or not torch.cuda.is_available():
                return "no GPU"
        elif importlib.util.find_spec(name) is None:
            return f"no module {name}"
    for name in MODELS:
        if name in block.text and not Path(name).exists():
            return f"no {name}"
    return ""


def own_model() -> Any:
    """Return the reader's module: a small ResNet-18."""
    if importlib.util.find_spec("torch") is None:
        raise Skipped("no module torch")
    import torch_models  # noqa: PLC0415 - needs torch

    return torch_models.resnet18()


def put_models(folder: Path) -> None:
    """Write ``model.onnx`` and ``model.tflite``, of which the pages speak, where the packages for them are there."""
    onnx = importlib.util.find_spec("onnx")
    if onnx is not None and onnx.submodule_search_locations:
        tests = Path(onnx.submodule_search_locations[0]) / "backend/test/data/light"
        shutil.copy(tests / "light_squeezenet.onnx", folder / "model.onnx")
    if importlib.util.find_spec("tflite") is not None:
        import tflite_models  # noqa: PLC0415 - needs the schema package

        net = tflite_models.Net("int8")
        tflite_models.residual(net)
        (folder / "model.tflite").write_bytes(net.write())


# ---------------------------------------------------------------------------------- running


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run what a block holds, in the folder that is the current one.

    Raises
    ------
    PageError
        If it fails, or prints something else than it shows.
    Skipped
        If it needs what is not here.
    """
    if block.file:
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text, encoding="utf-8")
    if block.not_run:
        raise Skipped(block.not_run)
    if why := missing(block):
        raise Skipped(why)
    if block.language not in RUN:
        raise PageError(f"{block}: allowed are {', '.join(RUN)}")
    if not block.text.strip():
        raise PageError(f"{block}: empty")
    try:
        if (
            "model" not in names
            and re.search(r"\bmodel\b(?!\.onnx|\.tflite)", block.text)
            and block.language == "python"
        ):
            names["model"] = own_model()
        if block.language in ("pycon", "python"):
            exec(compile(block.given, f"{block}: given", "exec"), names)
        RUN[block.language](block, names)
    except (PageError, Skipped):
        raise
    except Exception as error:
        raise PageError(f"{block}: {type(error).__name__}: {error}") from error


def run_pycon(block: Block, names: dict[str, Any]) -> None:
    """Run examples and compare what they print."""
    example = doctest.DocTestParser().get_doctest(block.text, {}, str(block), str(block.page), block.line)
    example.globs = names
    said = io.StringIO()
    if doctest.DocTestRunner(verbose=False).run(example, out=said.write, clear_globs=False).failed:
        raise PageError(f"{block}\n{said.getvalue()}")


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run Python; an error shows the line of the page."""
    exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)


def run_console(block: Block, names: dict[str, Any]) -> None:
    """Run commands and compare what they print."""
    shown, real = block.text.splitlines(), printed(block).splitlines()
    if shown != real:
        between = "\n".join(difflib.unified_diff(shown, real, "shown", "printed", lineterm=""))
        raise PageError(f"{block} does not show what it prints (`make docs` writes it down):\n{between}")


def printed(block: Block) -> str:
    """Return a console block with what its commands print now."""
    lines = []
    code = 0
    asked = True
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            continue
        lines.append(line)
        if line == "$ echo $?":
            lines.append(str(code))
            asked = True
            continue
        if not asked:
            break
        text, code = shell(line[2:])
        lines += text.splitlines()
        asked = code == 0
    if not asked:
        raise PageError(f"{block}: exit code {code}; 0 is allowed, or the lines `$ echo $?` and `{code}` after it\n"
                        f"{lines[-1] if lines else ''}")  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def run_sh(block: Block, names: dict[str, Any]) -> None:
    """Run the commands of cnnlive, and check that what others name exists."""
    for line in commands(block.text):
        words = line.split()
        if re.match(r"([A-Z_]+=\S+ +)*cnnlive ", line):
            text, code = shell(line)
            if code:
                raise PageError(f"{block}: {line}: exit code {code}\n{text}")
        elif not known(words):
            raise PageError(f"{block}: {line}: neither a command of cnnlive nor one whose words can be checked")


def commands(text: str) -> Iterator[str]:
    """Give the commands of a block of shell, each in one line, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s+)#.*", "", line).strip()  # noqa: PLW2901
        if line:
            yield line


def known(words: list[str]) -> bool:
    """Say whether a command that is not run names only what exists."""
    words = [w for w in words if not re.fullmatch(r"[A-Z_]+=\S+", w)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    match words:
        case ["make", *targets]:
            return all(re.search(rf"^{re.escape(t)}:", makefile, re.M) for t in targets)
        case ["pip", "install", *what] | [_, "-m", "pip", "install", *what]:
            extras = ",".join(re.findall(r"\[([\w,]+)\]", " ".join(what)))
            groups = [b for a, b in itertools.pairwise(what) if a == "--group"]
            return all(e in project["project"]["optional-dependencies"] for e in extras.split(",") if e) and all(
                g in project["dependency-groups"] for g in groups
            )
        case ["python" | ".venv/bin/python", script, *_] if script.endswith(".py"):
            return (ROOT / script).exists() or Path(script).exists()
        case ["python" | ".venv/bin/python", "-m", module, *_]:
            file = ROOT / module.replace(".", "/")
            return file.with_suffix(".py").exists() or file.is_dir() or importlib.util.find_spec(module) is not None
        case ["git", "clone" | "add" | "commit" | "switch" | "push", *_]:
            return True
        case ["cd", folder]:
            return folder == "cnnlive" or (ROOT / folder).is_dir()
        case ["eval", *_]:
            return bool(re.fullmatch(r'eval "\$\(_CNNLIVE_COMPLETE=(bash|zsh)_source cnnlive\)"', " ".join(words)))
        case ["_CNNLIVE_COMPLETE=fish_source", "cnnlive", *_]:
            return True
    return False


def shell(line: str) -> tuple[str, int]:
    """Run one line, and return what it prints and its exit code; cnnlive runs in this process."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = list(lexer)
    env = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    if words[0] != "cnnlive":
        if words[0] not in SHOWING:
            raise PageError(f"{line}: allowed are cnnlive, {', '.join(SHOWING)}")
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        return result.stdout + result.stderr, result.returncode
    where = next((i for i, word in enumerate(words) if word in ("|", ">", ">>")), len(words))
    answer = CliRunner().invoke(cli.main, words[1:where], env=env)
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    text = answer.output
    if words[where : where + 1] in ([">"], [">>"]):
        name = words[where + 1]
        if not name.startswith(("~", "/")):  # what lies outside of the folder stays as it is
            with Path(name).open("w" if words[where] == ">" else "a", encoding="utf-8") as file:
                file.write(answer.stdout)
        text = answer.stderr
    elif words[where : where + 1] == ["|"]:
        rest = line.partition("|")[2]
        result = subprocess.run(["bash", "-c", rest], input=text, capture_output=True, text=True, check=False)
        return result.stdout + result.stderr, result.returncode
    return text, answer.exit_code


def run_csv(block: Block, names: dict[str, Any]) -> None:
    """Read lines of values: all as many as the first has."""
    rows = list(csv.reader(block.text.splitlines()))
    if len({len(row) for row in rows}) != 1:
        raise PageError(f"{block}: lines of {sorted({len(row) for row in rows})} values; allowed: as many in each")


def run_cpp(block: Block, names: dict[str, Any]) -> None:
    """Let a compiler read a block, in a function behind what is given."""
    compiler = shutil.which("c++")
    if compiler is None:
        raise Skipped("no C++ compiler")
    source = f"{block.given}\nvoid block() {{\n{block.text}}}\n"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if result.returncode:
        raise PageError(f"{block}\n{result.stderr}")


def run_text(block: Block, names: dict[str, Any]) -> None:
    """See to it that nothing that could be run hides here."""
    if found := re.search(r"^(>>> |\$ |cnnlive |import |from \w+ import )", block.text, re.M):
        raise PageError(f"{block}: {found[0]!r} belongs in a block that is run")


RUN = {
    "pycon": run_pycon,
    "python": run_python,
    "console": run_console,
    "sh": run_sh,
    "toml": lambda block, _: tomllib.loads(block.text),
    "json": lambda block, _: json.loads(block.text),
    "csv": run_csv,
    "cpp": run_cpp,
    "text": run_text,
}


def rewritten(page: Path, folder: Path) -> str:
    """Return a page with what its commands print now; they run in `folder`.

    Other blocks run, in order, where a command names a file that one above it speaks of.
    """
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    asked = [block for block in found if block.language == "console" and not block.not_run]
    files = {word for block in asked for word in re.findall(r"[\w-]+\.[a-z]+\b", block.text)} - set(MODELS)
    begins = {block.begin for block in asked}
    here = Path.cwd()
    os.chdir(folder)
    changes = []
    try:
        for i, block in enumerate(found):
            if block.begin in begins:
                if not missing(block):
                    lines = textwrap.indent(printed(block), block.indent, lambda line: line != "\n")
                    changes.append((block.begin, block.end, lines))
            elif any(word in block.text or word == block.file for word in files) and any(
                later.begin in begins for later in found[i:]
            ):
                with contextlib.suppress(PageError, Skipped):  # the tests say what is wrong with it
                    run_block(block, names)
    finally:
        os.chdir(here)
    for begin, end, lines in reversed(changes):
        text = text[:begin] + lines + text[end:]
    return text
