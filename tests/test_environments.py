"""Where the library has to work: nothing to write to, no home, a folder that is gone; forked and threaded callers."""

import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cnnlive

PACKAGE = Path(cnnlive.__file__).parent
# A path below a file: nobody can make it, not even root.
NOWHERE = os.devnull + "/none"
PLAN = (
    "import cnnlive\n"
    "g = cnnlive.Graph()\n"
    "x = g.input((1, 2, 4, 4))\n"
    "g.add(x, g.relu(g.conv2d(x, 2, 3, padding=1)))\n"
    "print(cnnlive.plan_inference(g).peak_bytes, cnnlive.__file__)\n"
)
PEAK = 3 * 128 + 4 * (2 * 2 * 9 + 2)


def run(code, cwd=None, **env):
    """Run code in a fresh interpreter; a variable that is None is not there."""
    kept = {k: v for k, v in os.environ.items() if k not in env and not k.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
        env=kept | {k: v for k, v in env.items() if v is not None},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package in which no folder can take a cache: a file stands in its place, as root may write."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, site / "cnnlive", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [site / "cnnlive", *(p for p in (site / "cnnlive").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").touch()
        folder.chmod(0o555)
    yield site
    for folder in [site / "cnnlive", *(p for p in (site / "cnnlive").rglob("*") if p.is_dir())]:
        folder.chmod(0o755)


def test_an_install_that_cannot_be_written_works_without_any_place_for_a_cache(installed):
    before = sorted(p.relative_to(installed) for p in installed.rglob("*"))
    out = run(PLAN, cwd=installed, HOME=NOWHERE, XDG_CACHE_HOME=NOWHERE, PYTHONPATH=str(installed)).split()
    assert out == [str(PEAK), str(installed / "cnnlive" / "__init__.py")]
    assert sorted(p.relative_to(installed) for p in installed.rglob("*")) == before


def test_a_cache_folder_that_cannot_be_made_is_no_error(installed):
    out = run(PLAN, cwd=installed, NUMBA_CACHE_DIR=NOWHERE, PYTHONPATH=str(installed))
    assert out.startswith(f"{PEAK} ")


def test_an_environment_without_a_home_works():
    cache = os.environ["NUMBA_CACHE_DIR"]
    code = PLAN + "import sys; from cnnlive.cli import main; main(['zoo', '--json'], standalone_mode=False)\n"
    out = run(code, HOME=None, XDG_CACHE_HOME=None, USER=None, LOGNAME=None, NUMBA_CACHE_DIR=cache)
    assert out.startswith(f"{PEAK} ")
    assert "vgg16" in out


def test_a_working_directory_that_is_gone_is_no_matter(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"{PLAN}import os, sys\nsys.path = [p for p in sys.path if p]\nos.rmdir({str(gone)!r})\n"
        "g = cnnlive.Graph()\ng.input((1, 2))\nassert cnnlive.plan_inference(g).peak_bytes == 8\n"
        "from cnnlive.io.sources import load_source\n"
        "try:\n    load_source('no_such_module_here:net')\n"
        "except cnnlive.errors.ReadError as error:\n    print(error)\n"
    )
    out = run(code, cwd=gone, NUMBA_CACHE_DIR=os.environ["NUMBA_CACHE_DIR"], PYTHONPATH=str(PACKAGE.parent))
    assert out.startswith(f"{PEAK} ")
    assert "there is no module 'no_such_module_here'" in out


# ---------------------------------------------------------------------------------- threads and forks


def small():
    g = cnnlive.Graph("small")
    x = g.input((1, 3, 8, 8), name="x")
    for _ in range(3):
        x = g.add(x, g.relu(g.batch_norm2d(g.conv2d(x, 3, 3, padding=1)), inplace=True))
    return g


def answers(graph):
    return (
        cnnlive.plan_inference(graph, batch=2).peak_bytes,
        cnnlive.plan_training(graph, batch=2, optimizer="adam").peak_bytes,
        cnnlive.plan_arena(graph).arena_bytes,
        cnnlive.read_json(graph.to_json()).to_json() == graph.to_json(),
    )


def test_the_first_plans_of_a_process_may_be_made_by_threads_at_once():
    """Nothing is imported, compiled or lowered yet, and all threads want the same graph."""
    code = (
        "import concurrent.futures, threading, cnnlive\n"
        "g = cnnlive.Graph()\n"
        "x = g.input((1, 2, 4, 4))\n"
        "g.add(x, g.relu(g.conv2d(x, 2, 3, padding=1)))\n"
        "barrier = threading.Barrier(8)\n"
        "def plan(_):\n"
        "    barrier.wait()\n"
        "    return cnnlive.plan_inference(g).peak_bytes, cnnlive.plan_training(g, optimizer='sgd').peak_bytes\n"
        "with concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
        "    found = set(pool.map(plan, range(8)))\n"
        "assert len(found) == 1, found\n"
        "print(found.pop()[0])\n"
    )
    assert run(code, NUMBA_CACHE_DIR=os.environ["NUMBA_CACHE_DIR"], PYTHONPATH=str(PACKAGE.parent)).split() == [
        str(PEAK)
    ]


def test_threads_that_read_and_plan_beside_each_other_agree():
    graph = small()
    expected = answers(graph)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda shared: answers(graph if shared else small()), [True, False] * 8)) == {expected}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_forked_while_threads_plan_give_the_same_answers():
    expected = answers(small())
    done = threading.Event()

    def work():
        while not done.is_set():
            assert answers(small()) == expected

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for _ in range(4):
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # a lock that a thread of the parent held would never be free here
                os._exit(0 if answers(small()) == expected else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        for t in threads:
            t.join()


def test_a_spawned_worker_takes_a_graph_and_returns_a_plan():
    graph = small()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        plan = pool.apply(cnnlive.plan_inference, (graph,))
    assert plan.to_dict() == cnnlive.plan_inference(graph).to_dict()
