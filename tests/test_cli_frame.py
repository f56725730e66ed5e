"""What all commands have in common: help, exit codes, quiet, JSON, progress, completion, screens of all kinds."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete
from command_line import answer, complaint, run
from rich.cells import cell_len
from rich.console import Console
from tabled_space import Tabled

import cnnlive
from cnnlive import cli
from cnnlive.cli import _complete, _progress
from cnnlive.cli._help import LAST, Option

COMMANDS = sorted(cli.main.commands)
# Of each command a line that is quick.
LINES = {
    "inference": ["inference", "alexnet"],
    "training": ["training", "alexnet"],
    "fit": ["fit", "alexnet", "--budget", "2GiB", "--check"],
    "report": ["report", "alexnet"],
    "checkpoint": ["checkpoint", "alexnet", "--budget", "2GiB"],
    "frontier": ["frontier", "alexnet", "--points", "2"],
    "order": ["order", "alexnet"],
    "arena": ["arena", "alexnet"],
    "compare": ["compare", "alexnet", "--profiles", "ideal,torch", "--no-arena"],
    "ops": ["ops", "alexnet"],
    "nasbench-memory": ["nasbench-memory", "nasbench_macro", "--out", "a.csv"],
    "zoo": ["zoo"],
    "operators": ["operators", "relu"],
    "optimizers": ["optimizers", "sgd"],
    "profiles": ["profiles"],
    "completion": ["completion", "fish"],
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_exit_codes_and_headings(name):
    command, text = cli.main.commands[name], run(name, "--help").stdout
    assert command.short_help
    assert command.examples
    sections = re.findall(r"^(\S.*):$", text, re.M)
    assert sections[-3:] == [LAST, "Examples", "Exit codes"]
    assert len(set(sections)) == len(sections)
    last = text[text.index(f"\n{LAST}:") : text.index("\nExamples:")]
    assert all(f"  --{name} " in last for name in ("quiet", "json"))
    for option in command.params:
        if isinstance(option, click.Option):
            assert isinstance(option, Option), f"{option.opts} stands under no heading"
            assert option.help
            assert re.search(rf"^  .*{re.escape(option.opts[-1])}\b", text, re.M), option.opts
    for line in ["Usage: ", "  0  ", "  2  an error"]:
        assert line in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_lines_that_can_be_typed(name):
    for line in cli.main.commands[name].examples:
        words = shlex.split(line, comments=True)
        words = words[: next((k for k, word in enumerate(words) if word in ("&&", ">", ">>")), None)]
        command = cli.main.commands[words[0]]
        command.make_context(words[0], words[1:])  # no option that it does not have, nothing missing


def test_help_is_as_wide_as_the_terminal_up_to_a_hundred_columns():
    texts = {}
    for columns, most in ((60, 60), (300, 100)):
        result = subprocess.run(
            [sys.executable, "-m", "cnnlive", "fit", "--help"], check=True, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": str(columns)},
        )  # fmt: skip
        texts[columns] = result.stdout
        widest = max(map(len, result.stdout.splitlines()))
        assert most - 12 < widest <= most
    # what is too long for a line goes on as a shell reads it
    assert "--optimizer sgd \\\n      --momentum 0.9 " in texts[60]
    assert "--optimizer sgd --momentum 0.9 " in texts[300]


def test_the_options_of_a_step_are_grouped():
    text = run("training", "--help").stdout
    assert re.findall(r"^(\S.*):$", text, re.M) == [
        "Step", "Optimizer", "Memory", "Network", "Report", "Output", "Examples", "Exit codes",
    ]  # fmt: skip
    begin = {m.start(1) - m.start() for m in re.finditer(r"^  -\S+(?: [A-Z=]+)?(?:  +)(\S)", text, re.M)}
    assert len(begin) == 1, "words of all headings begin in one column"


# ---------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", [c for c in COMMANDS if c != "report"])
def test_every_command_answers_in_words_in_json_and_quietly(name, monkeypatch):
    monkeypatch.setattr("cnnlive.nas.table.benchmark", lambda _name: Tabled())  # of 24 members
    line = LINES[name]
    words = run(*line)
    assert (words.exit_code, words.stderr) == (0, "")
    assert words.stdout.strip()
    quiet = run(*line, "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    data = answer(*line)
    assert re.fullmatch(r"cnnlive-[a-z-]+-1", data["format"])
    assert run(*line, "--quiet", "--json").stdout == run(*line, "--json").stdout


@pytest.mark.parametrize(("line", "endings"), [(LINES["order"], (".txt", ".csv", ".json")),
                                               (LINES["arena"], (".csv", ".json")),
                                               (LINES["compare"], (".csv", ".json")),
                                               (LINES["checkpoint"], (".json",)),
                                               (LINES["frontier"], (".csv", ".json"))])  # fmt: skip
def test_files_are_written_quietly_too(line, endings, tmp_path):
    data = run(*line, "--json").stdout
    for ending in endings:
        out = tmp_path / f"out{ending}"
        assert run(*line, "--out", out, "--quiet").stdout == ""
        text = out.read_text(encoding="utf-8")
        assert text == data if ending == ".json" else text
        assert run(*line, "--out", out).stdout.endswith(f"\n\nwrote {out}\n")
        assert out.read_text(encoding="utf-8") == text
        assert run(*line, "--out", out, "--json").stdout == data


def test_the_exit_code_answers_for_scripts():
    line = ["fit", "alexnet", "--check", "--quiet", "--budget"]
    assert [run(*line, budget).exit_code for budget in ("4GiB", "100MiB", "a lot")] == [0, 1, 2]
    arena = ["arena", "alexnet", "--quiet", "--capacity"]
    assert [run(*arena, capacity).exit_code for capacity in ("4GiB", "1KiB")] == [0, 1]
    assert "allowed: with --check" in complaint("fit", "alexnet", "--budget", "1GiB", "--quiet")


def test_what_dominates_is_named_with_the_modules_that_hold_it():
    text = run("fit", "resnet18", "--budget", "4GiB", "--no-checkpoints").stdout
    data = answer("fit", "resnet18", "--budget", "4GiB", "--no-checkpoints")
    first = data["batches"][0]
    assert first["dominates"] == max(first["plan"]["composition"], key=first["plan"]["composition"].get)
    share = first["plan"]["composition"]["activations"] / first["plan"]["peak_bytes"]
    assert f"what dominates at batch {first['batch']}: activations that backward keeps, {100 * share:.1f} %" in text
    for row in first["modules"][:3]:
        assert re.search(rf"^    {re.escape(row['module'])} +{100 * row['share']:.1f} %$", text, re.M)
    shares = [row["share"] for row in first["modules"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.9 < sum(shares) <= 1 + 1e-12


def test_shares_of_modules_are_those_of_what_is_alive():
    from cnnlive.report.training import dominant  # noqa: PLC0415 - for this test and the next

    net = cnnlive.zoo.load("resnet18", train=True)
    plan = cnnlive.plan_training(net, batch=32)
    found = dominant(plan)
    alive = [t for t in plan.live_at_peak if t.kind == "activation"]
    of_layer1 = sum(t.nbytes for t in alive if t.op.startswith("layer1."))
    total = sum(t.nbytes for t in alive)
    assert dict(found.modules)["layer1"] == of_layer1 / total
    assert (found.largest_bytes, found.nbytes) == (max(t.nbytes for t in alive), plan.composition["activations"])
    # where the optimizer's step is the peak, parameters decide
    small = dominant(cnnlive.plan_training(net, batch=1))
    assert small.name == "optimizer_state"
    rows = cnnlive.plan_training(net, batch=1).ops
    of_layer = sum(r.parameter_bytes for r in rows if r.name.startswith("layer3.")) / sum(
        r.parameter_bytes for r in rows
    )
    assert dict(small.modules)["layer3"] == of_layer
    # a module that holds most is taken apart
    assert {"layer4.0", "layer4.1"} <= {m.module for m in small.modules}
    assert abs(sum(m.share for m in small.modules) - 1) < 1e-12


@pytest.mark.parametrize("net", ["vgg11", "densenet121", "unet", "squeezenet1_1", "googlenet", "darts_v1"])
def test_modules_that_dominate_add_up_to_all_of_it(net):
    from cnnlive.report.training import dominant  # noqa: PLC0415

    graph = cnnlive.lower(cnnlive.zoo.load(net))
    plans = [cnnlive.plan_training(graph, batch=b) for b in (1, 32)] + [cnnlive.plan_inference(graph, batch=64)]
    for plan in plans:
        found = dominant(plan)
        assert abs(sum(m.share for m in found.modules) - 1) < 1e-9
        assert len({m.module for m in found.modules}) == len(found.modules)


def test_an_op_of_a_modules_name_stands_beside_its_parts():
    from cnnlive.report.training import _by_module  # noqa: PLC0415

    assert dict(_by_module({"a": 8, "a.b": 1, "c": 1})) == {"a": 0.8, "a.b": 0.1, "c": 0.1}
    assert dict(_by_module({"a.b.c": 3, "a.b.d": 4, "e": 1})) == {"a.b.d": 0.5, "a.b.c": 0.375, "e": 0.125}
    assert _by_module({}) == ()
    assert dict(_by_module({"a": 5})) == {"a": 1.0}


# ---------------------------------------------------------------------------------- progress


def a_terminal(monkeypatch, **how):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True, width=80, **how))
    return screen


def wait_for(words, screen):
    deadline = time.monotonic() + 20
    while words not in screen.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert words in screen.getvalue()


def test_a_bar_appears_after_a_while_and_only_on_a_terminal(monkeypatch):
    screen = a_terminal(monkeypatch)
    with _progress.progress_bar("a plan", after=60) as progress:
        progress(0.5, "half of it")
    assert screen.getvalue() == ""
    with _progress.progress_bar("a plan", after=0.0) as progress:
        wait_for("a plan", screen)
        progress(0.5, "half of it")
        wait_for("half of it", screen)
    screen.truncate(0)
    with _progress.progress_bar("a plan", quiet=True) as progress:
        assert progress is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with _progress.progress_bar("a plan", after=0.0) as progress:
        assert progress is None
    assert screen.getvalue() == ""


def test_a_bar_inside_a_bar_is_the_same_bar(monkeypatch):
    screen = a_terminal(monkeypatch)
    with _progress.progress_bar("outside", after=0.0) as outer:
        outer(0.25, "a quarter")
        with _progress.progress_bar("inside") as inner:
            wait_for("inside", screen)
            inner(0.5, "half of the inside")
            wait_for("half of the inside", screen)
        wait_for("a quarter", screen)
    assert screen.getvalue().count("\x1b[?25l") == 1  # the cursor is hidden once


def test_a_bar_says_when_kernels_are_compiled(monkeypatch):
    from numba.core import event  # noqa: PLC0415 - as the bar hears it

    screen = a_terminal(monkeypatch)
    before = len(event._registered["numba:compile"])
    with _progress.progress_bar("a plan", after=0.0):
        wait_for("a plan", screen)
        with event.trigger_event("numba:compile", data={}):
            wait_for("compiling kernels, once", screen)
            assert len(event._registered["numba:compile"]) == before + 1
    assert len(event._registered["numba:compile"]) == before


def test_a_bar_has_no_colour_where_none_is_wanted(monkeypatch):
    screen = a_terminal(monkeypatch, no_color=True)
    with _progress.progress_bar("a plan", after=0.0):
        wait_for("a plan", screen)
    assert "\x1b[3" not in screen.getvalue()


@pytest.mark.skipif(shutil.which("script") is None, reason="needs the program script, which makes terminals")
@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_answers_of_a_real_terminal_are_not_disturbed_by_a_bar(more, tmp_path):
    code = "import cnnlive.cli._progress as p; p._AFTER = 0; p.progress_bar.__wrapped__.__defaults__ = (False, 0.0); "
    code += "import sys; from cnnlive.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "order", "alexnet", "--json", *more]
    line = f"{shlex.join(words)} > {tmp_path / 'out.json'}"
    done = subprocess.run(["script", "-qec", line, "/dev/null"], check=True, capture_output=True, text=True,
                          env={**os.environ, "TERM": "xterm"}, stdin=subprocess.DEVNULL)  # fmt: skip
    assert (tmp_path / "out.json").read_text() == run("order", "alexnet", "--json").stdout
    assert ("order of alexnet" in done.stdout or "building alexnet" in done.stdout) == (not more)


# ---------------------------------------------------------------------------------- completion


def completions(words, incomplete, shell=BashComplete):
    completer = shell(cli.main, {}, "cnnlive", "_CNNLIVE_COMPLETE")
    return [item.value for item in completer.get_completions(words, incomplete)]


def test_names_that_are_completed_are_those_of_the_code():
    from cnnlive._types import DTYPES  # noqa: PLC0415 - planners, which the command line imports late
    from cnnlive.nas.table import BENCHMARKS  # noqa: PLC0415
    from cnnlive.plan.arena import METHODS as ARENA_METHODS  # noqa: PLC0415
    from cnnlive.plan.arena import SHARED_METHODS  # noqa: PLC0415
    from cnnlive.plan.checkpoint import METHODS  # noqa: PLC0415
    from cnnlive.plan.optimizers import OPTIMIZERS  # noqa: PLC0415
    from cnnlive.plan.training import PRECISIONS  # noqa: PLC0415
    from cnnlive.tape import LOSSES  # noqa: PLC0415

    assert _complete.DTYPES == DTYPES
    assert _complete.BENCHMARKS == BENCHMARKS
    assert _complete.ARENA_METHODS == ARENA_METHODS
    assert _complete.SHARED_METHODS == SHARED_METHODS
    assert _complete.METHODS == METHODS
    assert _complete.OPTIMIZERS == OPTIMIZERS
    assert tuple(PRECISIONS) == _complete.PRECISIONS
    assert _complete.LOSSES == LOSSES


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "tra", ["training"]),
        (["fit"], "--bud", ["--budget"]),
        (["fit"], "vgg1", ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]),
        (["inference"], "my", ["mynet.onnx", "mynet.tflite"]),
        (["training", "vgg16", "--optimizer"], "rm", ["rmsprop"]),
        (["training", "vgg16", "--precision"], "bf", ["bfloat16"]),
        (["training", "vgg16", "--loss"], "bce", ["bce", "bce_with_logits"]),
        (["inference", "vgg16", "--profile"], "torch", ["torch", "torch_fx"]),
        (["inference", "vgg16", "--dtype"], "int", ["int8", "int16", "int32", "int64"]),
        (["inference", "vgg16", "--inplace"], "d", ["dead"]),
        (["inference", "vgg16", "--set"], "reso", ["resolution=224"]),
        (["inference", "--set"], "reso", []),
        (["compare", "vgg16", "--profiles"], "ideal,tfl", ["ideal,tflm", "ideal,tflite"]),
        (["compare", "vgg16", "--profiles"], "tflm,tfl", ["tflm,tflite"]),
        (["zoo", "--family"], "vg", ["vgg"]),
        (["zoo"], "alex", ["alexnet"]),
        (["operators"], "conv_", ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]),
        (["optimizers"], "ly", []),
        (["nasbench-memory"], "nats", ["nats_size"]),
        (["checkpoint", "vgg16", "--method"], "chen", ["chen_sqrt", "chen_greedy"]),
        (["completion"], "", ["bash", "zsh", "fish"]),
    ],
)
def test_names_are_completed(words, incomplete, expected, tmp_path):
    for name in ("mynet.onnx", "mynet.tflite", "mynotes.txt"):
        (tmp_path / name).touch()
    assert completions(words, incomplete) == expected


def test_files_are_left_to_the_shell():
    completer = ZshComplete(cli.main, {}, "cnnlive", "_CNNLIVE_COMPLETE")
    for words, incomplete in ((["inference"], "nets/my"), (["inference"], "zzz"), (["checkpoint", "x", "--read"], "p"),
                              (["inference", "vgg16", "--order"], "my")):  # fmt: skip
        (item,) = completer.get_completions(words, incomplete)
        assert (item.type, item.value) == ("file", incomplete)
    assert completions(["inference", "vgg16", "--order"], "b") == ["best"]


def test_every_option_that_takes_a_name_completes_it():
    for command in cli.main.commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and option.metavar in ("TYPE", "FILE", "NAME"):
                known = completions([command.name, "x", option.opts[-1]], "")
                files = command.name == "report" or option.name in ("out", "table")
                assert known or files, (command.name, option.opts)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell_is_printed(shell, monkeypatch):
    text = run("completion", shell).stdout
    assert f"_CNNLIVE_COMPLETE={shell}_complete" in text
    assert text.endswith("\n")
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run("completion").stdout == text
    assert answer("completion")["shell"] == shell
    assert answer("completion")["script"].strip() == text.strip()
    classes = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    made = classes[shell](cli.main, {}, "cnnlive", "_CNNLIVE_COMPLETE")
    assert text.strip() == (made.source_template % made.source_vars()).strip()


def test_another_shell_is_refused(monkeypatch):
    assert "shell 'tcsh'; allowed: bash, zsh, fish" in complaint("completion", "tcsh")
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert "SHELL is '/bin/dash'; allowed: bash" in complaint("completion")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_completes(tmp_path):
    (tmp_path / "cnnlive").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cnnlive "$@"\n')
    (tmp_path / "cnnlive").chmod(0o755)
    script = """
    compopt() { echo "left to files"; }
    eval "$(cnnlive completion bash)"
    ask() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _cnnlive_completion cnnlive
        echo "${COMPREPLY[*]}"
    }
    ask cnnlive fi
    ask cnnlive fit vgg19
    ask cnnlive fit vgg19 --optimizer adam
    ask cnnlive inference vgg19 --set ""
    ask cnnlive inference nothing_like_it
    complete -p cnnlive
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:3] == ["fit", "vgg19 vgg19_bn", "adam adamw adamax"]
    assert "resolution=224" in lines[3].split()
    assert lines[4:6] == ["left to files", ""]
    assert re.search(r"-F _cnnlive_completion cnnlive", lines[6])


@pytest.mark.parametrize("words", ["cnnlive fit --bud", "cnnlive fit vgg", "cnnlive fit vgg16 --optimizer a"])
def test_completing_imports_nothing_slow(words):
    code = (
        "import sys; from cnnlive.cli import main\n"
        "try: main(prog_name='cnnlive')\n"
        "except SystemExit: pass\n"
        "print(sorted({'numba', 'numpy', 'networkx', 'rich', 'onnx'} & set(sys.modules)), file=sys.stderr)"
    )
    env = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_CNNLIVE_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("plain,")


# ---------------------------------------------------------------------------------- screens


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("name", [c for c in COMMANDS if c not in ("completion", "nasbench-memory", "report")])
def test_no_screen_is_overflown_and_none_has_colours_unasked(name, columns):
    text = run(*LINES[name], env={"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(columns)}).stdout
    assert max(map(cell_len, text.splitlines())) <= columns
    assert "\x1b" not in text
    piped = run(*LINES[name]).stdout
    assert "\x1b" not in piped
    assert "…" not in piped
    assert not any(line != line.rstrip() for line in piped.splitlines())


@pytest.mark.skipif(shutil.which("script") is None, reason="needs the program script, which makes terminals")
@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii", "TERM": "xterm"},
                                 {"PYTHONIOENCODING": "latin-1", "TERM": "dumb"},
                                 {"NO_COLOR": "1", "TERM": "xterm"}])  # fmt: skip
def test_a_real_terminal_gets_what_it_can_show(how):
    words = [sys.executable, "-m", "cnnlive", "training", "squeezenet1_1"]
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | how
    done = subprocess.run(["script", "-qec", shlex.join(words), "/dev/null"], capture_output=True, check=False,
                          stdin=subprocess.DEVNULL, env=env)  # fmt: skip
    text = done.stdout.decode(how.get("PYTHONIOENCODING", "utf-8"))
    assert done.returncode == 0, text
    coloured, text = text, re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)
    assert "2w + B*sum F" in text or "2w + B·ΣF" in text
    assert ("\x1b[3" in coloured) == (how["TERM"] == "xterm" and "NO_COLOR" not in how)
    assert text.isascii() == ("PYTHONIOENCODING" in how)
    assert "?" not in text


def test_wide_characters_keep_columns_aligned(tmp_path):
    g = cnnlive.Graph("網")
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1, name="卷積一")
    y = g.relu(x, name="層" * 30 + "末")
    g.output(g.relu(y, name="relu"))
    g.to_json(tmp_path / "wide.json")
    for columns in (50, 81, 200):
        env = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(columns)}
        lines = run("ops", tmp_path / "wide.json", env=env).stdout.splitlines()
        rows = [line for line in lines if re.match(r" +\d ", line)]
        assert len(rows) == 4
        assert "層末 " in rows[2]
        assert len({cell_len(line) for line in rows}) == 1
        assert max(map(cell_len, lines)) <= columns
