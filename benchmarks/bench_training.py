"""Training plans: the kernel alone, a plan on a lowered net, the tape, optimizers, the allocator, the largest batch.

Marks: 100 µs for a plan on a lowered ResNet-50 and 300 µs on DenseNet-121, 10 ms from the zoo's name to the answer,
150 ms to import a ResNet-50 module of PyTorch.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from nets import residual

import cnnlive
from cnnlive import from_torch, largest_batch, lower, plan_training
from cnnlive.plan import training
from cnnlive.plan.optimizers import OPTIMIZERS, read_optimizer, step_trace

CHAIN = 10_000


def captured(name, net, **options):
    """Return the function `name` that plan_training calls, and the arguments of its last call."""
    calls = []
    real = getattr(training, name)

    def recording(*arguments):
        calls.append(arguments)
        return real(*arguments)

    setattr(training, name, recording)
    try:
        plan_training(net, **options)
    finally:
        setattr(training, name, real)
    return real, calls[-1]


@pytest.fixture(scope="module")
def nets():
    return {
        "resnet50": lower(cnnlive.zoo.load("resnet50", train=True)),
        "densenet121": lower(cnnlive.zoo.load("densenet121", train=True)),
        "chain": lower(residual(CHAIN)),
    }


@pytest.mark.benchmark(group="training: kernel")
@pytest.mark.parametrize("name", ["resnet50", "chain"])
def test_train_step_kernel(benchmark, nets, name):
    kernel, arguments = captured(
        "train_step", nets[name], batch=8, loss="output" if name == "chain" else "cross_entropy"
    )
    benchmark(kernel, *arguments)
    if benchmark.stats:
        benchmark.extra_info["ns_per_op"] = round(benchmark.stats.stats.median / nets[name].n_ops * 1e9, 2)


@pytest.mark.benchmark(group="training: plan on a lowered net")
@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_plan_training_prepared(benchmark, nets, name):
    expected = plan_training(nets[name], batch=32).peak_bytes
    assert benchmark(plan_training, nets[name], batch=32).peak_bytes == expected


@pytest.mark.benchmark(group="training: plan on a lowered net")
@pytest.mark.parametrize(
    "options",
    [{"precision": "autocast"}, {"micro_batches": 4}, {"device": "cpu", "optimizer": "sgd"}, {"allocator": "cuda"}],
    ids=["autocast", "micro-batches", "cpu-sgd", "allocator"],
)
def test_plan_training_variant(benchmark, nets, options):
    expected = plan_training(nets["resnet50"], batch=32, **options).peak_bytes
    assert benchmark(plan_training, nets["resnet50"], batch=32, **options).peak_bytes == expected


@pytest.mark.benchmark(group="training: tape")
@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_record_the_tape(benchmark, nets, name):
    net = nets[name]
    tape = benchmark(training.record, net, device="cuda", dtype="float32")
    assert tape.gradient_bytes == 4 * net.n_parameters


@pytest.mark.benchmark(group="training: from the zoo's name")
@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_from_zoo_name_to_answer(benchmark, name):
    def answer():
        return plan_training(cnnlive.zoo.load(name, train=True), batch=32).peak_bytes

    expected = answer()
    assert benchmark(answer) == expected


@pytest.mark.benchmark(group="training: optimizers")
@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "muon"])
def test_optimizer_step(benchmark, nets, name):
    tape = training.record(nets["resnet50"], device="cuda", dtype="float32")
    shapes, items = [leaf.shape for leaf in tape.leaves], [leaf.itemsize for leaf in tape.leaves]
    rule = read_optimizer(name)
    trace = benchmark(step_trace, rule, shapes, items, device="cuda", first=True)
    assert int(np.sign(trace.events).sum()) == int(trace.kept.sum())


@pytest.mark.benchmark(group="training: allocator")
@pytest.mark.parametrize("conf", ["", "expandable_segments:True"], ids=["default", "expandable"])
def test_replay_in_the_allocator(benchmark, nets, conf):
    allocator = cnnlive.CudaAllocator.from_conf(conf)
    replay, arguments = captured("replay_trace", nets["resnet50"], batch=32, allocator=allocator)
    expected = replay(*arguments).reserved_bytes
    assert benchmark(replay, *arguments).reserved_bytes == expected
    if benchmark.stats:
        benchmark.extra_info["ns_per_event"] = round(benchmark.stats.stats.median / len(arguments[0]) * 1e9, 2)


@pytest.mark.benchmark(group="training: largest batch")
@pytest.mark.parametrize("allocator", [None, "cuda"], ids=["tensors", "allocator"])
def test_largest_batch(benchmark, nets, allocator):
    found = benchmark(largest_batch, nets["resnet50"], budget="24GiB", allocator=allocator)
    assert found > 200


@pytest.mark.benchmark(group="training: import from PyTorch")
def test_import_of_a_module(benchmark):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    from torch_nets import resnet50  # noqa: PLC0415 - imports torch

    module = resnet50()
    expected = plan_training(cnnlive.zoo.load("resnet50", train=True), batch=8).peak_bytes
    graph = benchmark(from_torch, module, (1, 3, 224, 224), train=True)
    assert plan_training(graph, batch=8).peak_bytes == expected
