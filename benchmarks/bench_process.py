"""Fresh processes: the import, and the first answer with a warm and with an empty kernel cache."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IMPORT = "import time; t = time.perf_counter(); import cnnlive; print(time.perf_counter() - t)"
ANSWER = "import cnnlive; print(cnnlive.plan_inference(cnnlive.zoo.load('resnet50')).activation_peak_bytes)"


def run(*command, **env):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    return done.stdout


@pytest.mark.benchmark(group="fresh process")
def test_bare_interpreter(benchmark):
    benchmark.pedantic(run, args=("-c", "pass"), rounds=7, warmup_rounds=1)


@pytest.mark.benchmark(group="fresh process")
def test_import_cnnlive(benchmark):
    out = benchmark.pedantic(run, args=("-c", IMPORT), rounds=7, warmup_rounds=1)
    benchmark.extra_info["import_ms"] = round(float(out) * 1e3, 2)
    assert "numba" not in run("-X", "importtime", "-c", "import cnnlive")


@pytest.mark.benchmark(group="fresh process")
def test_first_answer_with_a_warm_cache(benchmark, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    run("-c", ANSWER, NUMBA_CACHE_DIR=cache)
    out = benchmark.pedantic(run, args=("-c", ANSWER), kwargs={"NUMBA_CACHE_DIR": cache}, rounds=7, warmup_rounds=1)
    assert out.split() == ["9633792"]


@pytest.mark.benchmark(group="fresh process")
def test_first_answer_with_a_cold_cache(benchmark, tmp_path_factory):
    def setup():
        return ("-c", ANSWER), {"NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("cold"))}

    assert benchmark.pedantic(run, setup=setup, rounds=3).split() == ["9633792"]


@pytest.mark.benchmark(group="fresh process")
def test_command_line_with_a_warm_cache(benchmark, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    command = ("-m", "cnnlive", "inference", "resnet50")
    run(*command, NUMBA_CACHE_DIR=cache)
    out = benchmark.pedantic(run, args=command, kwargs={"NUMBA_CACHE_DIR": cache}, rounds=7, warmup_rounds=1)
    assert "9,633,792" in out
