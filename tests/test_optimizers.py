"""Steps of optimizers: against PyTorch's dispatcher and its CPU allocator, against hand-counted multiples."""

# ruff: noqa: PLC0415 - torch is imported where it is used
import itertools
import math
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
import torch_truth
from hypothesis import given
from hypothesis import strategies as st

from cnnlive.errors import AttributeValueError
from cnnlive.plan.optimizers import (
    OPTIMIZERS,
    Optimizer,
    host_state_bytes,
    read_optimizer,
    state_blocks,
    state_from_construction,
    step_trace,
)

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

# Sizes far apart: 3x3 and 1x1 convolutions, a depthwise one, matrices and vectors, in no order.
SHAPES = [(7, 5, 3, 3), (11,), (24, 20), (40, 30, 1, 1), (17,), (18, 1, 3, 3), (50, 60)]
MATRICES = [shape for shape in SHAPES if len(shape) == 2]

DECAY = {"weight_decay": 0.1}
NEGATED = {"maximize": True}
CAPTURED = {"capturable": True}
OPTIONS = {
    "sgd": [
        {},
        DECAY,
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, **DECAY},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "nesterov": True, **DECAY, **NEGATED},
    ],
    "adam": [{}, DECAY, {"amsgrad": True}, {**DECAY, **NEGATED}, {"decoupled_weight_decay": True, **DECAY}, CAPTURED],
    "adamw": [{}, {"amsgrad": True, **NEGATED}, {"amsgrad": True, **CAPTURED}],
    "nadam": [{}, DECAY, {"decoupled_weight_decay": True, **DECAY, **NEGATED}],
    "radam": [{}, DECAY, {"decoupled_weight_decay": True, **DECAY, **NEGATED}],
    "adamax": [{}, DECAY, NEGATED, CAPTURED],
    "adagrad": [{}, DECAY, NEGATED],
    "adadelta": [{}, DECAY, NEGATED, CAPTURED],
    "rmsprop": [{}, {"momentum": 0.9, "centered": True}, {"centered": True, **DECAY}, {**DECAY, **NEGATED}, CAPTURED],
    "rprop": [{}, NEGATED, CAPTURED],
    "asgd": [{}, DECAY, {**DECAY, **NEGATED}, CAPTURED],
    "adafactor": [{}, DECAY, NEGATED],
    "muon": [{}, {"nesterov": False, "ns_steps": 2}],
    "lion": [{}, {"caution": True}, {**NEGATED, **DECAY}],
    "adafactor_timm": [{}, {"betas": (0.9, 0.99)}, {"betas": (0.9, 0.99), "caution": True, **DECAY}],
    "adafactor_bv": [
        {},
        {"momentum": None},
        {"momentum_dtype": "float32", "caution": True},
        {"clipping_threshold": 1.0},
    ],
}
CLASSES = {"sgd": "SGD", "rmsprop": "RMSprop", "adamw": "AdamW", "nadam": "NAdam", "radam": "RAdam", "asgd": "ASGD"}
OF_TIMM = {"lion": "Lion", "adafactor_timm": "Adafactor", "adafactor_bv": "AdafactorBigVision"}
FUSED = ("sgd", "adam", "adamw", "adagrad")
SINGLE = ("muon", "adafactor_timm", "adafactor_bv")


def implementations(name):
    return ("single",) if name in SINGLE else ("single", "foreach", "fused") if name in FUSED else ("single", "foreach")


def cases(*devices):
    """Every optimizer, option set and implementation that exists on the device."""
    return [
        pytest.param(
            *(device,) * (len(devices) > 1),
            name,
            options,
            implementation,
            id=f"{device}-{name}-{'-'.join(options) or 'plain'}-{implementation}",
            marks=[needs_torch, *([needs_timm] if name in OF_TIMM else [])],
        )
        for device in devices
        for name, several in OPTIONS.items()
        for options in several
        for implementation in implementations(name)
        if "capturable" not in options or (device == "cuda" and implementation != "fused")
    ]


# ------------------------------------------------------------------ truth


def optimizer_of(name, options, implementation, parameters):
    """Construct PyTorch's or timm's optimizer."""
    import torch

    options = dict(options)
    if name in OF_TIMM:
        import timm.optim as module

        made = getattr(module, OF_TIMM[name])
        if name == "adafactor_timm":
            options["lr"] = 0.1
    else:
        made = getattr(torch.optim, CLASSES.get(name, name.capitalize()))
    if name not in SINGLE:
        options["foreach"] = implementation == "foreach"
    if implementation == "fused":
        options |= {"fused": True, "foreach": False}
    return made(parameters, **options)


def dispatched_step(name, options, implementation, shapes, dtypes, device, steps):
    """Bytes of the last step's events on fake tensors: storages that ops return, until they die."""
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        def __init__(self, standing):
            super().__init__()
            self.events = []
            self.alive = {}
            for t in standing:
                self.watch(t)

        def watch(self, t):
            storage = t.untyped_storage()
            key, nbytes = storage._cdata, storage.nbytes()
            if t.device.type != device or key in self.alive:
                return False

            def dead(_):
                del self.alive[key]
                self.events.append(-nbytes)

            self.alive[key] = weakref.ref(storage, dead)
            return True

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            try:
                out = func(*args, **(kwargs or {}))
            except DataDependentOutputException:  # the value of a fake scalar
                return 1.0
            for t in tree_leaves(out):
                if isinstance(t, torch.Tensor) and self.watch(t):
                    self.events.append(t.untyped_storage().nbytes())
            return out

    with FakeTensorMode():
        parameters = [
            torch.nn.Parameter(torch.empty(shape, device=device, dtype=getattr(torch, dtype)))
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        optimizer = optimizer_of(name, options, implementation, parameters)
        for p in parameters:
            p.grad = torch.empty_like(p)
        for _ in range(steps):
            state = [t for kept in optimizer.state.values() for t in kept.values() if isinstance(t, torch.Tensor)]
            watch = Watch([*parameters, *(p.grad for p in parameters), *state])
            del state
            with watch:
                optimizer.step()
            events = list(watch.events)
    return events


def traced(rule, shapes, itemsizes, device, first, late=False):
    """Bytes of the events of our trace."""
    trace = step_trace(rule, shapes, itemsizes, device=device, first=first, late=late)
    return [int(trace.nbytes[abs(e) - 1]) * (1 if e > 0 else -1) for e in trace.events.tolist()]


@pytest.mark.parametrize(("device", "name", "options", "implementation"), cases("cpu", "cuda"))
def test_a_step_makes_and_frees_the_tensors_that_pytorch_dispatches(device, name, options, implementation):
    shapes = MATRICES if name == "muon" else SHAPES
    rule = read_optimizer(name, device=device, implementation=implementation, **options)
    for step in (1, 2, 7) if name == "radam" else (1, 2):
        try:
            truth = dispatched_step(name, options, implementation, shapes, ["float32"] * len(shapes), device, step)
        except (RuntimeError, AssertionError) as error:
            refusals = ("not linked with support for cuda", "not compiled with CUDA", "NVIDIA driver")
            if device == "cuda" and any(text in str(error) for text in refusals):
                pytest.skip("refuses fake CUDA tensors without a GPU")
            raise
        assert traced(rule, shapes, [4] * len(shapes), device, step == 1, late=step == 7) == truth


@needs_torch
@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in OF_TIMM and name != "muon"])
def test_parameters_of_two_types_are_taken_as_pytorch_groups_them(name):
    dtypes = ["float32", "bfloat16", "bfloat16", "float32", "float32", "bfloat16", "float32"]
    itemsizes = [4 if dtype == "float32" else 2 for dtype in dtypes]
    for implementation, step in itertools.product(("single", "foreach"), (1, 2)):
        truth = dispatched_step(name, {}, implementation, SHAPES, dtypes, "cpu", step)
        rule = read_optimizer(name, device="cpu", implementation=implementation)
        assert traced(rule, SHAPES, itemsizes, "cpu", step == 1) == truth


@needs_torch
@needs_timm
@pytest.mark.parametrize("name", ["adafactor_timm", "adafactor_bv"])
def test_half_precision_parameters_are_copied_as_timm_copies_them(name):
    for options, step in itertools.product(OPTIONS[name], (1, 2)):
        truth = dispatched_step(name, options, "single", SHAPES, ["bfloat16"] * len(SHAPES), "cuda", step)
        rule = read_optimizer(name, **options)
        assert traced(rule, SHAPES, [2] * len(SHAPES), "cuda", step == 1) == truth


@pytest.mark.parametrize(("name", "options", "implementation"), cases("cpu"))
def test_a_step_takes_from_the_cpu_allocator_what_is_predicted(name, options, implementation):
    import torch

    shapes = MATRICES if name == "muon" else SHAPES
    rng = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    optimizer = optimizer_of(name, options, implementation, parameters)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=rng)
    rule = read_optimizer(name, device="cpu", implementation=implementation, **options)
    for first in (True, False):
        state = [t for kept in optimizer.state.values() for t in kept.values() if isinstance(t, torch.Tensor)]
        _, trace = torch_truth.record(optimizer.step, alive=[*parameters, *(p.grad for p in parameters), *state])
        # Up to 8 bytes: Python numbers are wrapped in tensors outside of any op.
        seen = [delta for delta in trace.deltas if abs(delta) > 8]
        assert [d for d in traced(rule, shapes, [4] * len(shapes), "cpu", first) if abs(d) > 8] == seen
    state = [t for kept in optimizer.state.values() for t in kept.values() if isinstance(t, torch.Tensor)]
    blocks = state_blocks(rule, shapes, [4] * len(shapes), device="cpu")
    assert sorted(blocks.tolist()) == sorted(t.untyped_storage().nbytes() for t in state)


@needs_torch
def test_the_names_and_defaults_of_options_are_those_of_torch():
    import inspect

    import torch

    for name in OPTIONS:
        if name in OF_TIMM:
            continue
        made = getattr(torch.optim, CLASSES.get(name, name.capitalize()))
        theirs = {k: p.default for k, p in inspect.signature(made.__init__).parameters.items()}
        for option, value in read_optimizer(name).options:
            if name == "adamw" and option == "decoupled_weight_decay":  # what makes it AdamW
                continue
            assert theirs[option] == value, (name, option)
        for option in set(theirs) - {"self", "params", "foreach", "fused", "differentiable"}:
            if option == "capturable" and name in ("nadam", "radam"):
                continue
            read_optimizer(name, **{option: theirs[option]})


# ------------------------------------------------------------------ multiples, by hand


def peak(rule, shapes, device, *, first=False, late=False):
    return max(itertools.accumulate(traced(rule, shapes, [4] * len(shapes), device, first, late), initial=0))


# name, options, state, temporaries of foreach, temporaries of single: multiples of the parameters' bytes
MULTIPLES = [
    ("sgd", {}, 0, 0, 0),
    ("sgd", {"momentum": 0.9}, 1, 0, 0),
    ("sgd", {"momentum": 0.9, "weight_decay": 1e-4}, 1, 1, 1),
    ("sgd", {"momentum": 0.9, "nesterov": True}, 1, 0, 1),
    ("rmsprop", {}, 1, 1, 1),
    ("rmsprop", {"momentum": 0.9}, 2, 1, 1),
    ("rmsprop", {"momentum": 0.9, "centered": True}, 3, 1, 1),
    ("adagrad", {}, 1, 2, 1),
    ("adadelta", {}, 2, 2, 2),
    ("adam", {}, 2, 1, 2),
    ("adamw", {}, 2, 1, 2),
    ("nadam", {}, 2, 1, 2),
    ("radam", {}, 2, 1, 2),
    ("adam", {"weight_decay": 1e-4}, 2, 1, 3),
    ("adam", {"amsgrad": True}, 3, 1, 2),
    ("adamax", {}, 2, 1, 1),
    ("asgd", {}, 1, 1, 0),
    ("lion", {}, 1, 1, 1),
]


@pytest.mark.parametrize(("name", "options", "state", "foreach", "single"), MULTIPLES)
def test_state_and_temporaries_are_the_known_multiples_of_the_parameters(name, options, state, foreach, single):
    shapes = [(1000, 250)]
    weights = 1_000_000
    for implementation, temporaries in (("foreach", foreach), ("single", single)):
        rule = read_optimizer(name, implementation=implementation, **options)
        blocks = state_blocks(rule, shapes, [4], device="cuda")
        assert blocks[blocks > 4].sum() == state * weights
        assert peak(rule, shapes, "cuda") - temporaries * weights in range(21)


def test_the_single_loop_keeps_the_last_denominator_until_the_next_parameter_replaces_it():
    rule = read_optimizer("adam", device="cpu")
    # root and quotient of the second parameter, beside the quotient of the first
    assert peak(rule, [(100,), (1000,)], "cpu") == 400 + 4000 + 4000
    assert traced(rule, [(100,), (1000,)], [4, 4], "cpu", first=False)[-2:] == [-400, -4000]


def test_rprop_holds_a_sign_a_copy_and_the_signs_of_the_gradient():
    assert peak(read_optimizer("rprop", implementation="single"), [(1000,)], "cuda") == 3 * 4000


def test_radam_needs_more_once_it_rectifies():
    rule = read_optimizer("radam", device="cpu")
    assert peak(rule, [(1000,)], "cpu") == 2 * 4000
    assert peak(rule, [(1000,)], "cpu", late=True) == 5 * 4000


def test_fused_steps_allocate_nothing():
    for name, device in itertools.product(FUSED, ("cpu", "cuda")):
        trace = step_trace(
            read_optimizer(name, implementation="fused", **({"momentum": 0.9} if name == "sgd" else {})),
            SHAPES,
            [4] * len(SHAPES),
            device=device,
            first=False,
        )
        assert len(trace.nbytes) == len(trace.events) == 0


def test_torchs_adafactor_stores_twice_the_weight_of_a_1x1_convolution_and_timms_two_vectors():
    shape = (64, 32, 1, 1)
    assert state_blocks(read_optimizer("adafactor"), [shape], [4], device="cuda").tolist() == [8192, 8192]
    timm = state_blocks(read_optimizer("adafactor_timm"), [shape], [4], device="cuda")
    assert timm.tolist() == [64 * 4, 32 * 4, 4]


def test_steps_are_counted_on_the_host_unless_fused_or_capturable():
    shapes, itemsizes = [(10,), (20,)], [4, 4]
    adam = read_optimizer("adam")
    assert state_blocks(adam, shapes, itemsizes, device="cuda").tolist() == [40, 40, 80, 80]
    assert host_state_bytes(adam, shapes, itemsizes, device="cuda") == 8
    assert state_blocks(adam, shapes, itemsizes, device="cpu").tolist() == [4, 40, 40, 4, 80, 80]
    assert host_state_bytes(adam, shapes, itemsizes, device="cpu") == 0
    assert host_state_bytes(read_optimizer("nadam"), shapes, itemsizes, device="cuda") == 16
    for options in ({"implementation": "fused"}, {"capturable": True}):
        there = read_optimizer("adam", **options)
        assert state_blocks(there, shapes, itemsizes, device="cuda").tolist() == [4, 40, 40, 4, 80, 80]
        assert host_state_bytes(there, shapes, itemsizes, device="cuda") == 0


def test_lion_holds_one_chunk_at_a_time():
    shapes = [(100,), (100,), (100,)]
    assert peak(read_optimizer("lion"), shapes, "cuda") == 1200
    assert peak(read_optimizer("lion", chunk_elements=200), shapes, "cuda") == 800
    assert peak(read_optimizer("lion", chunk_elements=10), shapes, "cuda") == 400


def test_without_parameters_nothing_happens():
    for name in OPTIMIZERS:
        trace = step_trace(read_optimizer(name), [], [], device="cuda", first=True)
        assert len(trace.nbytes) == len(trace.events) == len(trace.kept) == 0


# ------------------------------------------------------------------ relations


@given(
    name=st.sampled_from(OPTIMIZERS),
    shapes=st.lists(st.lists(st.integers(1, 40), max_size=4).map(tuple), max_size=6),
    itemsize=st.sampled_from([2, 4, 8]),
    device=st.sampled_from(["cpu", "cuda"]),
    first=st.booleans(),
    choice=st.integers(0, 2**16),
)
def test_every_block_is_freed_once_or_kept_and_state_is_what_is_kept(name, shapes, itemsize, device, first, choice):
    if name == "muon":
        shapes, itemsize = [shape for shape in shapes if len(shape) == 2], max(itemsize, 4)
    options = OPTIONS[name][choice % len(OPTIONS[name])]
    if device == "cpu" and "capturable" in options:
        options = {}
    several = implementations(name)
    rule = read_optimizer(name, implementation=several[choice % len(several)], **options)
    itemsizes = [itemsize] * len(shapes)
    trace = step_trace(rule, shapes, itemsizes, device=device, first=first)
    made = trace.events[trace.events > 0] - 1
    freed = -trace.events[trace.events < 0] - 1
    assert made.tolist() == list(range(len(trace.nbytes)))
    assert sorted(freed) == np.flatnonzero(trace.kept == 0).tolist()
    position = {int(e): k for k, e in enumerate(trace.events)}
    assert all(position[b + 1] < position[-(b + 1)] for b in freed.tolist())
    state = state_blocks(rule, shapes, itemsizes, device=device)
    if first and not state_from_construction(rule):
        assert sorted(trace.nbytes[trace.kept == 1]) == sorted(state)
    else:
        assert not trace.kept.any()
    for array in (trace.nbytes, trace.events, trace.kept, state):
        assert array.dtype == np.int64
        assert not array.flags.writeable


def test_doubling_the_element_size_doubles_what_is_as_large_as_a_parameter():
    rule = read_optimizer("adamw", device="cpu")
    small = [d for d in traced(rule, SHAPES, [4] * len(SHAPES), "cpu", first=True) if abs(d) > 4]
    large = [d for d in traced(rule, SHAPES, [8] * len(SHAPES), "cpu", first=True) if abs(d) > 4]
    assert large == [2 * d for d in small]


def test_sizes_past_32_bits_are_exact():
    shape = (1 << 20, 1 << 13)
    assert peak(read_optimizer("adam", implementation="single"), [shape], "cuda") == 2 * 4 * math.prod(shape)


# ------------------------------------------------------------------ what can be asked for


def test_the_implementation_is_the_one_that_pytorch_takes_on_the_device():
    assert read_optimizer("adam").implementation == "foreach"
    assert read_optimizer("adam", device="cpu").implementation == "single"
    assert read_optimizer("adafactor").implementation == "single"
    assert read_optimizer("adagrad", implementation="fused").implementation == "fused"


def test_a_description_can_be_taken_over_and_changed():
    rule = read_optimizer("adam", device="cpu", amsgrad=True, lr=0.1, betas=(0.8, 0.9))
    assert read_optimizer(rule) == rule
    assert hash(read_optimizer(rule)) == hash(rule)
    other = read_optimizer(rule, implementation="foreach", amsgrad=False)
    assert (other.implementation, other["amsgrad"]) == ("foreach", False)
    assert rule["amsgrad"] is True
    assert isinstance(rule, Optimizer)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adma", {}, r"unknown optimizer 'adma'; allowed: sgd, .*did you mean adam"),
        (3, {}, r"unknown optimizer 3; allowed: sgd"),
        ("adam", {"amsgard": True}, r"option 'amsgard' of optimizer adam; allowed: .*did you mean amsgrad"),
        ("nadam", {"capturable": True}, r"option 'capturable' of optimizer nadam; allowed: weight_decay"),
        ("adam", {"amsgrad": 2}, r"option 'amsgrad' of optimizer adam is 2; allowed: True or False"),
        ("adam", {"weight_decay": -1}, r"option 'weight_decay' of optimizer adam is -1; allowed: a number, 0 or more"),
        ("adam", {"weight_decay": float("nan")}, r"is nan; allowed: a number, 0 or more"),
        ("sgd", {"momentum": "much"}, r"is 'much'; allowed: a number, 0 or more"),
        ("sgd", {"momentum": None}, r"is None; allowed: a number, 0 or more"),
        ("sgd", {"nesterov": True}, r"option 'nesterov' of optimizer sgd needs a momentum above 0 and no dampening"),
        ("muon", {"ns_steps": 1.5}, r"is 1.5; allowed: a whole number, 0 or more"),
        (
            "adafactor_timm",
            {"betas": 0.9},
            r"option 'betas' of optimizer adafactor_timm is 0.9; allowed: None, or a pair",
        ),
        ("adafactor_timm", {"betas": (0.9, 1.0)}, r"allowed: None, or a pair of numbers in \[0, 1\)"),
        ("adafactor_bv", {"momentum_dtype": "int8"}, r"is 'int8'; allowed: float32, float16, bfloat16"),
        ("rprop", {"implementation": "fused"}, r"implementation 'fused' of optimizer rprop; allowed: single, foreach"),
        ("muon", {"implementation": "foreach"}, r"implementation 'foreach' of optimizer muon; allowed: single"),
        ("adam", {"device": "tpu"}, r"device 'tpu' of an optimizer; allowed: cpu, cuda"),
        ("lion", {"implementation": "single", "chunk_elements": 5}, r"'chunk_elements' .* foreach implementation"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_allowed(name, options, message):
    with pytest.raises(AttributeValueError, match=message):
        read_optimizer(name, **options)


def test_what_an_optimizer_cannot_step_is_refused():
    muon = read_optimizer("muon")
    with pytest.raises(AttributeValueError, match=r"muon takes matrices only; parameter 1 has shape \(4, 3, 1, 1\)"):
        step_trace(muon, [(4, 3), (4, 3, 1, 1)], [4, 4], device="cuda", first=False)
    with pytest.raises(AttributeValueError, match="known for float32 and float64; parameter 0 has 2 bytes"):
        state_blocks(muon, [(4, 3)], [2], device="cuda")
    with pytest.raises(AttributeValueError, match="'capturable' of optimizer adam is for device cuda only"):
        step_trace(read_optimizer("adam", capturable=True), [(4,)], [4], device="cpu", first=False)
    with pytest.raises(AttributeValueError, match="2 shapes of parameters with 1 sizes of their elements"):
        state_blocks(read_optimizer("adam"), [(4,), (5,)], [4], device="cuda")
    with pytest.raises(AttributeValueError, match="optimizer adam has no option 'momentum'; it has: amsgrad"):
        read_optimizer("adam")["momentum"]
