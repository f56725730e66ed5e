"""What holds for the whole package: layers, kernels that stand alone, cheap imports, threads and forks."""

import ast
import concurrent.futures
import doctest
import importlib
import multiprocessing
import pkgutil
import subprocess
import sys
from pathlib import Path

import kernels
import pytest

import cnnlive

ROOT = Path(cnnlive.__file__).parent
# The package itself stands for all its public names, planners and readers among them.
RANKS = {
    "errors": 0, "units": 0, "_types": 0, "_arrays": 1, "buffers": 1, "_kernels": 1, "ops": 2, "profiles": 2,
    "_builder": 3, "graph": 3, "lowered": 4, "mixed": 4, "verify": 4, "verify_remat": 4, "tape": 5, "plan": 6, "zoo": 6,
    "nas": 7, "io": 7, "torch": 8, "report": 8, "cnnlive": 8, "cli": 9, "__main__": 10,
}  # fmt: skip


# Inside one layer these may be imported by the others of it.
FIRST_OF_THEIR_LAYER = {"errors", "_builder"}


def top(module):
    return module.split(".")[1] if "." in module else module


def imports(file):
    """Modules of cnnlive that a file imports at run time; what only type checkers see does not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cnnlive":
            if node.module == "cnnlive":
                yield from (f"cnnlive.{a.name}" for a in node.names if a.name in RANKS)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "cnnlive")


FILES = sorted(p for p in ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_imports_point_from_a_higher_layer_to_a_lower_one(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    for module in map(top, imports(file)):
        if module == parts[0]:
            continue
        limit = RANKS[parts[0]] + (module in FIRST_OF_THEIR_LAYER)
        assert RANKS[module] < limit, f"{'.'.join(parts)} imports {module}"


@pytest.mark.parametrize("name", kernels.modules())
def test_a_kernel_file_stands_alone(name):
    file = ROOT / "_kernels" / f"{name}.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("__future__", "cnnlive._kernels._jit", "cnnlive._types")
        if isinstance(node, ast.Import):
            assert [a.name for a in node.names] == ["numpy"]
        # Neither module constants (frozen into the cache) nor array expressions, containers or raises.
        assert not isinstance(node, ast.Raise | ast.Try | ast.ListComp | ast.Dict | ast.Set)


def test_kernels_are_found_and_not_recursive():
    found = kernels.all_kernels()
    assert {"shapes.propagate", "counts.count", "liveness.live_ranges", "liveness.peak_of"} <= set(found)
    for name, kernel in found.items():
        plain = getattr(kernel, "py_func", kernel)
        assert plain.__name__ not in plain.__code__.co_names, name


def run(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False,
        env={**__import__("os").environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_cnnlive_imports_neither_numba_nor_numpy_nor_networkx():
    loaded = run(
        "import sys, cnnlive; print(sorted({'numba', 'numpy', 'networkx', 'onnx', 'torch'} & set(sys.modules)))"
    )
    assert loaded.strip() == "[]"


def test_planning_needs_neither_torch_nor_onnx():
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "import cnnlive\n"
        "print(cnnlive.plan_inference(cnnlive.zoo.load('resnet18'), batch=2).peak_bytes > 0)\n"
        "try:\n    cnnlive.read_onnx('x.onnx')\n"
        "except cnnlive.errors.MissingExtraError as error:\n    print(error)\n"
    )
    out = run(code)
    assert out.startswith("True\n")
    assert "cnnlive[onnx]" in out


def test_every_public_name_resolves_and_nothing_else():
    for name in cnnlive.__all__:
        assert getattr(cnnlive, name) is not None
    assert set(cnnlive.__all__) <= set(dir(cnnlive))
    with pytest.raises(AttributeError, match="no attribute 'plan_everything'"):
        _ = cnnlive.plan_everything


def test_a_read_only_place_without_a_home_still_works(tmp_path):
    code = "import cnnlive; g = cnnlive.Graph(); g.input((1, 2)); print(cnnlive.plan_inference(g).peak_bytes)"
    assert run(code, CNNLIVE_JIT_CACHE="0", NUMBA_CACHE_DIR="", HOME=str(tmp_path / "none")).strip() == "8"


def _peak(batch):
    return cnnlive.plan_inference(cnnlive.zoo.load("squeezenet1_1"), batch=batch).peak_bytes


def test_threads_give_the_same_answers():
    graph = cnnlive.zoo.load("resnet18")
    expected = {b: cnnlive.plan_inference(graph, batch=b).peak_bytes for b in range(1, 30)}
    net = cnnlive.lower(cnnlive.zoo.load("resnet18"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda b: cnnlive.plan_inference(net, batch=b).peak_bytes, [*expected] * 20))
    assert found == [*expected.values()] * 20


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_plans_after_its_parent_has():
    cnnlive.warm_up()
    expected = [_peak(b) for b in (1, 2, 3, 4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_peak, (1, 2, 3, 4)) == expected


def test_after_warming_up_nothing_is_left_to_compile():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import cnnlive, kernels\n"
        "def compiled():\n"
        "    return {name: list(getattr(k, 'signatures', [])) for name, k in kernels.all_kernels().items()}\n"
        "cnnlive.warm_up()\n"
        "warm = compiled()\n"
        "graph = cnnlive.zoo.load('unet', resolution=64)\n"
        "for options in ({}, {'profile': 'torch_fx'}, {'inplace': 'dead'}, {'fuse': True}, {'dtype': 'int8'}):\n"
        "    plan = cnnlive.plan_inference(graph, batch=3, **options)\n"
        "    cnnlive.plan_inference(graph, order=plan.order.tolist(), **options)\n"
        "    plan.live_at_peak, plan.ops\n"
        "for options in ({}, {'device': 'cpu'}, {'precision': 'autocast'}, {'micro_batches': 2}):\n"
        "    plan = cnnlive.plan_training(graph, batch=3, optimizer='sgd', momentum=0.9, **options)\n"
        "    plan.live_at_peak, plan.ops, plan.timeline\n"
        "for profile in cnnlive.PROFILES:\n"
        "    cnnlive.plan_arena(graph, batch=3, profile=profile, dtype='int8')\n"
        "for options in ({}, {'inplace': 'dead'}, {'profile': 'tinyengine', 'dtype': 'int8'}):\n"
        "    cnnlive.plan_order(graph, batch=3, **options), cnnlive.plan_arena(graph, order='best', **options)\n"
        "cnnlive.plan_order(cnnlive.zoo.load('randwire', resolution=64), max_states=100)\n"
        "cnnlive.plan_shared_objects(graph)\n"
        "allocator = cnnlive.CudaAllocator.from_conf('expandable_segments:True', capacity=1 << 40)\n"
        "cnnlive.plan_training(graph, batch=3, allocator=allocator)\n"
        "print(warm == compiled())\n"
    )
    assert run(code).strip() == "True"


def test_after_warming_up_for_search_nothing_is_left_to_compile():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import cnnlive, kernels\n"
        "from cnnlive.nas import Limit, evaluate_batch, spaces, warm_up\n"
        "def compiled():\n"
        "    return {name: list(getattr(k, 'signatures', [])) for name, k in kernels.all_kernels().items()}\n"
        "warm_up()\n"
        "warm = compiled()\n"
        "space = spaces.nats_size()\n"
        "x = space.random(5, rng=0)\n"
        "metrics = ('macs', 'inference_peak', 'minimum_peak', 'saved', 'training_peak', 'training_peak:sgd')\n"
        "space.evaluate(x, metrics)\n"
        "limit = Limit(space, peak='1MiB', params=300_000)\n"
        "limit.ok(x[0]), limit.mask(x), limit.sample(3, rng=0), space.best('macs', limit)\n"
        "space.pareto('macs', 'inference_peak'), space.mutate(x[0], {})\n"
        "evaluate_batch([space.graph(row) for row in x], metrics=metrics)\n"
        "for other in (spaces.nasbench201(), spaces.darts()):\n"
        "    other.evaluate(other.random(3, rng=0), [m for m in metrics if m != 'minimum_peak'])\n"
        "print({k for k in warm if warm[k] != compiled()[k]} or 'nothing')\n"
    )
    assert run(code).strip() == "nothing"


MODULES = sorted(m.name for m in pkgutil.walk_packages(cnnlive.__path__, "cnnlive.") if "__main__" not in m.name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module, extraglobs={"zoo": cnnlive.zoo})
    assert failures == 0
