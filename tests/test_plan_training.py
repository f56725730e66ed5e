"""Plans of training steps: figures of PyTorch, of others' GPUs, and what has to hold whatever the net."""

import csv
import json
import pickle
from itertools import pairwise
from pathlib import Path
from statistics import median

import naive
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive import Graph, lower, rules_of_thumb, zoo
from cnnlive.errors import AttributeValueError, CnnliveError, GraphError, ShapeError
from cnnlive.plan.inference import plan_inference
from cnnlive.plan.training import PRECISIONS, plan_training
from cnnlive.tape import record

DATA = Path(__file__).parent / "data"
TRUTH = Path(__file__).parents[2] / "shared" / "data" / "truth"
TABLE = json.loads((DATA / "torch_training.json").read_text(encoding="utf-8"))
OPTIMIZERS = {
    "sgd": ("sgd", {}),
    "sgdm": ("sgd", {"momentum": 0.9}),
    "sgdm_wd": ("sgd", {"momentum": 0.9, "weight_decay": 1e-4}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ("rmsprop", {}),
    "rmsprop_mom": ("rmsprop", {"momentum": 0.9}),
    "rmsprop_cen_mom": ("rmsprop", {"momentum": 0.9, "centered": True}),
    "adam_wd": ("adam", {"weight_decay": 1e-4}),
    "amsgrad": ("adam", {"amsgrad": True}),
}
MIB, GIB = 2**20, 2**30
SEGMENT = 20 * MIB
lowered = {}


def net_of(name):
    """Return a net of the zoo as it trains, lowered once; with the auxiliary heads that torchvision has by default."""
    if name not in lowered:
        lowered[name] = lower(zoo.load(name, train=name in ("googlenet", "inception_v3")))
    return lowered[name]


def optimizer_of(name):
    kind, options = OPTIMIZERS.get(name, (name, {}))
    return {"optimizer": kind, **options}


def consistent(plan):
    """Assert what holds in every plan."""
    assert plan.peak_bytes == plan.timeline.max() == sum(plan.composition.values())
    assert plan.peak_bytes == max(plan.forward_peak, plan.backward_peak, plan.optimizer_peak)
    assert min(plan.composition.values()) >= 0
    assert len(plan.timeline) == len(plan.steps)
    phase, op, made_by = plan.steps[int(plan.timeline.argmax())]
    assert (phase, op) == (plan.peak_phase, plan.peak_op)
    assert made_by == plan.peak_record
    kinds = {"activation": "activations", "temporary": "temporaries", "gradient": "gradients"}
    if plan.peak_phase == "backward" and plan.micro_batches == 1:
        for kind, name in kinds.items():
            assert sum(t.nbytes for t in plan.live_at_peak if t.kind == kind) <= plan.composition[name] + (
                plan.composition["temporaries"] if kind == "gradient" else 0
            )
    ops = plan.ops
    assert sum(row.saved_bytes for row in ops) == plan.saved_bytes
    assert sum(row.parameter_bytes for row in ops) == plan.parameter_bytes
    assert sum(row.gradient_bytes for row in ops) == plan.gradient_bytes
    assert max(row.forward_bytes for row in ops) == plan.forward_peak
    assert max(row.backward_bytes for row in ops) == plan.backward_peak
    return plan


# ---------------------------------------------------------------------------------- measured steps


@pytest.mark.parametrize("name", sorted({row[0] for row in TABLE["rows"]}))
def test_a_step_takes_what_pytorch_takes(name):
    differ = []
    for net, _, device, precision, optimizer, peak, saved, allocated, reserved in TABLE["rows"]:
        if net != name:
            continue
        plan = plan_training(
            net_of(name), batch=TABLE["batch"], device=device, precision=precision,
            allocator="cuda" if device == "cuda" else None, **optimizer_of(optimizer),
        )  # fmt: skip
        consistent(plan)
        close = reserved is None or abs(plan.reserved_bytes - reserved) <= SEGMENT
        if (plan.peak_bytes, plan.saved_bytes, plan.allocated_bytes) != (peak, saved, allocated) or not close:
            differ.append((device, precision, optimizer, plan.to_dict()))
    assert differ == []


@pytest.mark.parametrize(("name", "optimizer", "peak", "saved"), TABLE["cpu_events"])
def test_a_step_takes_what_a_run_on_the_cpu_takes(name, optimizer, peak, saved):
    net = lower(zoo.load(name, train=True))
    plan = plan_training(net, batch=TABLE["batch"], device="cpu", host_scalars=True, **optimizer_of(optimizer))
    assert (plan.peak_bytes, plan.saved_bytes) == (peak, saved)


FILES = ["truth_torchvision.csv", "truth_optimizers.csv", "truth_amp.csv", "truth_vgg16_batches.csv"]


@pytest.mark.skipif(not TRUTH.is_dir(), reason=f"the measured tables are not beside the project, at {TRUTH}")
@pytest.mark.parametrize("file", FILES)
def test_every_row_of_the_measured_tables(file):
    n, differ = 0, []
    with (TRUTH / file).open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["mode"] != "train":
                continue
            n += 1
            implementation, _, autocast = row["impl"].partition("+")
            cuda = row["engine"] == "fakecuda"
            plan = plan_training(
                net_of(row["model"]), batch=int(row["batch"]), device="cuda" if cuda else "cpu",
                implementation=implementation, precision="autocast" if autocast else "float32",
                allocator="cuda" if cuda else None, **optimizer_of(row["optimizer"]),
            )  # fmt: skip
            consistent(plan)
            # A real run holds a few numbers on the host besides.
            slack = 8 if row["engine"] == "cpu" else 0
            good = abs(plan.peak_bytes - int(row["peak_bytes"])) <= slack
            good &= plan.saved_bytes == int(row["saved_activation_bytes"])
            good &= plan.input_bytes + plan.target_bytes == int(row["input_bytes"])
            if cuda:
                good &= plan.allocated_bytes == int(row["peak_rounded_bytes"])
                good &= abs(plan.reserved_bytes - int(row["reserved_bytes"])) <= SEGMENT
            if not good:
                differ.append((row["model"], row["batch"], row["engine"], row["optimizer"], row["impl"]))
    assert n > 0
    assert differ == []


# ---------------------------------------------------------------------------------- the founding question


def test_vgg16_d_in_inference_is_its_weights_the_image_and_two_maps():
    weights, image, two_maps = 553_430_176, 4 * 3 * 224 * 224, 2 * 4 * 64 * 224 * 224
    plan = plan_inference(zoo.load("vgg16"), profile="torch")
    assert plan.peak_bytes == weights + image + two_maps == 579_722_400
    # The rule of thumb forgets the image: the caller still holds it.
    assert rules_of_thumb(zoo.load("vgg16"))["inference"].nbytes == weights + two_maps


# PyTorch, Adam: bytes by batch in units of 100 kB, on CUDA; the small batches of a CPU between two figures.
VGG16_ADAM = {1: 27678, 2: 27684, 4: 27696, 8: 27725, 16: 33618, 32: 45404, 64: 68976, 128: 116120, 256: 210407}


def test_vgg16_d_in_training_with_adam_by_batch():
    net = net_of("vgg16")
    peaks = {b: plan_training(net, batch=b, optimizer="adam").peak_bytes for b in VGG16_ADAM}
    assert {b: round(nbytes / 1e5) for b, nbytes in peaks.items()} == VGG16_ADAM
    cpu = {b: plan_training(net, batch=b, optimizer="adam", device="cpu") for b in VGG16_ADAM}
    assert all(3_036.4e6 - 5e4 <= cpu[b].peak_bytes <= 3_040.7e6 + 5e4 for b in (1, 2, 4, 8))
    assert {cpu[b].peak_phase for b in (1, 2, 4, 8)} == {"optimizer"}  # so the batch is free there
    # Masks of dropout are floats on a CPU, and bools on CUDA.
    masks = 3 * 2 * 4096
    assert all(cpu[b].peak_bytes - peaks[b] in range(masks * b + 200) for b in VGG16_ADAM if b >= 16)


def test_vgg16_d_from_16_images_on_is_exactly_linear():
    net = net_of("vgg16")
    peaks = [plan_training(net, batch=b, optimizer="adam").peak_bytes for b in range(16, 33)]
    (slope,) = {b - a for a, b in pairwise(peaks)}
    assert round(slope / 1e4) == 7366  # 73.66 MB an image
    assert round((peaks[0] - 16 * slope) / 1e5) == 21832  # 2,183.2 MB
    assert plan_training(net, batch=256, optimizer="adam").peak_bytes == peaks[0] + 240 * slope


def test_the_rule_of_thumb_beside_it_is_off_by_a_few_per_cent_and_by_the_optimizer_of_small_batches():
    net = net_of("vgg16")
    off = {}
    for batch in (1, 32, 256):
        rule = rules_of_thumb(net, batch=batch)["training_adam"].nbytes
        off[batch] = rule / plan_training(net, batch=batch, optimizer="adam").peak_bytes - 1
    assert off[1] < -0.15  # Adam's own temporaries are as large as the weights
    assert abs(off[32]) < 0.15
    assert abs(off[256]) < 0.30


# ---------------------------------------------------------------------------------- figures of others


FEATURE_MAPS = {
    "vgg16": 58, "vgg19": 63, "squeezenet1_1": 17, "squeezenet1_0": 30, "resnet18": 23, "resnet34": 35,
    "resnext50_32x4d": 132,
    "resnext101_64x4d": 273,
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_feature_maps_add_up_to_the_table_of_convnet_burden(name):
    # MiB of one image: the input and what convolutions, normalisations, pools, concatenations and sums write.
    graph = zoo.load(name)
    counted = ("input", "conv2d", "batch_norm2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "concat", "add")
    maps = [t for n in graph.nodes() if graph.op_of(n) in counted for t in graph.tensors_of(n)]
    total = sum(4 * int(np.prod(t.shape)) for t in maps) / MIB
    assert abs(total - FEATURE_MAPS[name]) < 0.75  # the table says whole MiB


# timm's training benchmark on a card of 24 GB: the largest batch of 512, 384, 256, ... that ran, and what our plan says
# of it in GiB; with SGD and Nesterov momentum, autocast. The next larger batch failed.
RAN = {
    "resnet50": 512, "resnet101": 256, "densenet121": 256, "densenet169": 256, "mobilenet_v2": 512,
    "efficientnet_b0": 512, "efficientnet_b1": 256, "convnext_tiny": 256, "inception_v3": 384, "resnext50_32x4d": 384,
    "vgg11": 512, "vgg11_bn": 384, "resnet18": 512, "regnet_y_800mf": 512,
}  # fmt: skip


@pytest.mark.parametrize("name", RAN)
def test_batches_that_ran_and_failed_on_a_card_of_24_gb_lie_on_two_sides_of_one_threshold(name):
    net = lower(zoo.load(name))  # timm's nets have no auxiliary heads

    def gib(batch):
        plan = plan_training(net, batch=batch, precision="autocast", **optimizer_of("nesterov"))
        return plan.peak_bytes / GIB

    assert gib(RAN[name]) <= 21.8
    if RAN[name] < 512:
        assert gib({256: 384, 384: 512}[RAN[name]]) >= 21.6


# GPUMemNet: most memory that the monitor saw on an A100, MiB; timm's nets, batch 8, SGD with momentum.
SEEN = {
    "mobilenet_v2": 2489, "mobilenet_v3_large": 2203, "efficientnet_b0": 2587, "mnasnet1_0": 2157,
    "resnext50_32x4d": 3059, "resnet18": 2153, "resnet50": 2875, "resnet101": 3403, "inception_v3": 3067, "vgg11": 4161,
    "vgg16": 4425, "vgg16_bn": 5073,
}  # fmt: skip


def test_reserved_bytes_and_one_constant_are_what_a_monitor_saw():
    errors = []
    for name, seen in SEEN.items():
        plan = plan_training(lower(zoo.load(name)), batch=8, allocator="cuda", **optimizer_of("sgdm"))
        assert plan.reserved_bytes / MIB < seen - 1700  # never above the measurement: the context is not in it
        errors.append(abs(plan.reserved_bytes / MIB + 1800 - seen) / seen)
    # 2.1 % over all nets of that data; here a third are nets whose 3x3 convolutions take workspaces besides.
    assert median(errors) < 0.03
    assert max(errors) < 0.08


# ---------------------------------------------------------------------------------- relations


@settings(max_examples=60)
@given(
    graph=strategies.training_graphs(),
    batch=st.integers(1, 3),
    device=st.sampled_from(["cpu", "cuda"]),
    precision=st.sampled_from([*PRECISIONS, "fp16", "amp"]),
    optimizer=st.sampled_from(["sgd", "sgdm", "adam", "rmsprop"]),
    options=st.fixed_dictionaries(
        {
            "zero_grad": st.sampled_from(["before_forward", "before_backward", "after_step"]),
            "set_to_none": st.booleans(),
            "micro_batches": st.integers(1, 3),
            "input_gradients": st.booleans(),
            "first_step": st.booleans(),
            "host_scalars": st.booleans(),
            "aux_weight": st.sampled_from([None, 0, 0.3, 1]),
            "autocast_loss": st.booleans(),
        }
    ),
)
def test_every_plan_adds_up(graph, batch, device, precision, optimizer, options):
    plan = consistent(
        plan_training(graph, batch=batch, device=device, precision=precision, **optimizer_of(optimizer), **options)
    )
    assert plan.saved_bytes <= plan.forward_peak
    assert plan.forward_end_bytes + plan.static_bytes <= plan.forward_peak or options["first_step"]
    assert json.loads(json.dumps(plan.to_dict()))["composition"] == plan.composition


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0",
                                  "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet0_5"])  # fmt: skip
def test_saved_bytes_are_those_of_the_definition(name):
    graph = zoo.load(name, train=True)
    assert plan_training(graph, device="cpu").saved_bytes == naive.saved_bytes(graph)


@settings(max_examples=30)
@given(graph=strategies.training_graphs(), device=st.sampled_from(["cpu", "cuda"]), accumulates=st.booleans())
def test_more_images_never_cost_less(graph, device, accumulates):
    net = lower(graph)
    plans = [plan_training(net, batch=b, device=device, set_to_none=not accumulates) for b in range(1, 6)]
    for few, many in pairwise(plans):
        assert few.peak_bytes <= many.peak_bytes
        assert few.saved_bytes <= many.saved_bytes
        assert few.static_bytes <= many.static_bytes


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
@pytest.mark.parametrize("from_the_end", [False, True])
def test_more_frozen_layers_never_cost_more(name, from_the_end):
    net = net_of(name)
    layers = [leaf.op for leaf in plan_training(net).tape.leaves]
    layers = list(dict.fromkeys(reversed(layers) if from_the_end else layers))
    peaks, saved = [], []
    for k in range(0, len(layers), 5):
        plan = plan_training(net, batch=2, frozen_layers=layers[:k])
        consistent(plan)
        peaks.append(plan.peak_bytes)
        saved.append(plan.saved_bytes)
        assert plan.parameter_bytes == 4 * net.n_parameters
        assert plan.optimizer_bytes <= 2 * plan.gradient_bytes + 4 * len(layers) * 2
    assert peaks == sorted(peaks, reverse=True)
    assert saved == sorted(saved, reverse=True)


def test_frozen_layers_are_named_by_op_by_module_or_by_pattern():
    net = net_of("resnet18")
    all_of_it = plan_training(net).gradient_bytes

    def frozen(patterns):
        return all_of_it - plan_training(net, frozen_layers=patterns).gradient_bytes

    assert frozen("fc") == 4 * (512 * 1000 + 1000)
    assert frozen(["fc", "conv1"]) == frozen("fc") + 4 * 64 * 3 * 49
    assert frozen("layer4") == frozen("layer4.*") == frozen(["layer4.0", "layer4.1"])
    assert frozen("*.bn?") + frozen("bn1") + frozen("*.downsample.1") == 4 * 2 * (64 * 5 + 128 * 5 + 256 * 5 + 512 * 5)
    assert frozen(()) == frozen([]) == 0


def test_where_the_gradients_are_cleared_as_measured_on_resnet18():
    # PyTorch on a CPU, batch 8, Adam; in units of 100 kB.
    net = net_of("resnet18")

    def plan(**options):
        return consistent(plan_training(net, batch=8, device="cpu", **options))

    standard, before_backward = plan(), plan(zero_grad="before_backward")
    zeros, two = plan(set_to_none=False), plan(micro_batches=2)
    found = [round(p.peak_bytes / 1e5) for p in (standard, zeros, two, before_backward)]
    assert found == [3502, 3748, 3748, 3646]
    assert [p.peak_phase for p in (standard, before_backward)] == ["backward", "forward"]
    assert before_backward.peak_op == "loss"
    assert plan(zero_grad="after_step").peak_bytes == standard.peak_bytes
    assert plan(micro_batches=7).peak_bytes == two.peak_bytes


@settings(max_examples=30)
@given(graph=strategies.training_graphs(), batch=st.integers(1, 3))
def test_gradients_that_live_longer_never_cost_less(graph, batch):
    net = lower(graph)
    standard = plan_training(net, batch=batch).peak_bytes
    for options in ({"set_to_none": False}, {"micro_batches": 2}, {"zero_grad": "before_backward"}):
        assert plan_training(net, batch=batch, **options).peak_bytes >= standard
    assert plan_training(net, batch=batch, zero_grad="after_step").peak_bytes == standard


@settings(max_examples=30)
@given(graph=strategies.training_graphs(), batch=st.integers(2, 4), device=st.sampled_from(["cpu", "cuda"]))
def test_a_tape_serves_every_batch(graph, batch, device):
    reused = lower(graph)
    first = plan_training(reused, batch=1, device=device)
    again = plan_training(reused, batch=batch, device=device)
    anew = plan_training(lower(graph), batch=batch, device=device)
    assert again.tape is first.tape
    assert again.to_dict() == anew.to_dict()
    np.testing.assert_array_equal(again.timeline, anew.timeline)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_a_net_built_at_a_batch_is_the_net_taken_to_it(name):
    data = zoo.load(name).to_dict()
    for row in data["ops"]:
        if row["op"] == "input":
            row["attributes"]["shape"] = (3, *row["attributes"]["shape"][1:])
    built = Graph.from_dict(data)
    assert plan_training(built, batch=3).to_dict() == plan_training(net_of(name), batch=3).to_dict()


def test_tied_weights_count_once_and_get_one_gradient():
    def net(tied):
        g = Graph()
        x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1, name="stem")
        x = g.op("conv2d", x, out_channels=4, kernel_size=3, padding=1, name="first")
        x = g.op("conv2d", x, out_channels=4, kernel_size=3, padding=1, tied="first" if tied else None)
        g.linear(g.flatten(x), 3)
        return plan_training(g)

    saved_by_tying = 4 * (4 * 4 * 9 + 4)
    assert net(True).parameter_bytes == net(False).parameter_bytes - saved_by_tying
    assert net(True).gradient_bytes == net(False).gradient_bytes - saved_by_tying
    assert net(True).saved_bytes == net(False).saved_bytes


def test_a_first_step_makes_the_state_in_the_optimizer():
    net = net_of("resnet18")
    for optimizer in ("sgdm", "adam"):
        first, later = (
            plan_training(net, batch=2, first_step=first, **optimizer_of(optimizer)) for first in (True, False)
        )
        state = later.optimizer_bytes
        assert first.optimizer_bytes == state
        assert first.composition["optimizer_state"] == 0
        assert first.backward_peak == later.backward_peak - state
        assert first.optimizer_peak >= later.optimizer_peak - (state if optimizer == "sgdm" else 0)


def test_a_net_is_planned_in_the_type_it_was_built_with():
    def net(dtype):
        g = Graph()
        return g, g.linear(g.relu(g.conv2d(g.input((2, 3, 8, 8), dtype=dtype), 4, 3)), 5)

    (half, _), (full, _) = net("bfloat16"), net("float32")
    plan = plan_training(half, loss="mse")
    assert plan.precision == "bfloat16"
    assert plan.peak_bytes == plan_training(full, loss="mse", precision="bfloat16").peak_bytes
    assert plan_training(full, loss="mse").precision == "float32"


def test_a_mean_and_variance_of_a_kernel_have_two_gradients_to_join():
    g = Graph()
    weight = g.parameter((4, 3, 3, 3), name="weight")
    var, mean = g.op("var_mean", weight, dim=(1, 2, 3), keepdim=True)
    standard = g.div(g.sub(weight, mean), g.sqrt(var))
    x = g.op("conv2d", g.input((2, 3, 8, 8)), standard, out_channels=4, kernel_size=3, bias=False)
    g.linear(g.mean(x, (2, 3)), 5)
    plan = plan_training(g, batch=2)
    assert plan.peak_bytes == plan.timeline.max() == sum(plan.composition.values())


def test_the_second_micro_batch_of_a_first_step_finds_gradients_too():
    net = lower(zoo.load("resnet18"))
    one, two = (plan_training(net, batch=4, first_step=True, micro_batches=n) for n in (1, 2))
    later = plan_training(net, batch=4, micro_batches=2)
    assert two.backward_peak > one.backward_peak
    assert later.backward_peak - two.backward_peak == later.optimizer_bytes


def test_radam_takes_more_once_it_rectifies():
    net = lower(zoo.load("vgg16"))
    early, late = (plan_training(net, optimizer="radam", device="cpu", late_step=late) for late in (False, True))
    biggest = 25088 * 4096 * 4
    assert late.optimizer_peak - early.optimizer_peak == pytest.approx(3 * biggest, rel=0.01)
    assert (early.forward_peak, early.backward_peak) == (late.forward_peak, late.backward_peak)
    adam = [plan_training(net, optimizer="adam", late_step=late).peak_bytes for late in (False, True)]
    assert adam[0] == adam[1]
    with pytest.raises(GraphError, match="first_step and late_step exclude each other"):
        plan_training(net, first_step=True, late_step=True)


def test_labels_and_images_in_every_phase():
    plan = plan_training(net_of("resnet18"), batch=4)
    assert (plan.input_bytes, plan.target_bytes) == (4 * 3 * 224 * 224 * 4, 4 * 8)
    maps = plan_training(net_of("fcn_resnet50"), batch=2)
    assert maps.target_bytes == 2 * 224 * 224 * 8
    half = plan_training(net_of("resnet18"), batch=4, precision="float16")
    assert half.input_bytes * 2 == plan.input_bytes


def test_losses_on_several_outputs():
    g = Graph()
    x = g.relu(g.conv2d(g.input((1, 3, 8, 8)), 4, 3, padding=1))
    pooled = g.flatten(g.global_avg_pool2d(x))
    g.output(g.linear(pooled, 5), g.linear(g.flatten(x), 5))
    weighted, summed, first = (consistent(plan_training(g, aux_weight=w)) for w in (None, 1, 0))
    assert weighted.tape.n_loss == summed.tape.n_loss + 1  # a product
    assert first.tape.n_loss == 2  # log-softmax and the loss of one output
    assert summed.target_bytes == first.target_bytes == 8  # the labels are the same


def test_a_loss_of_ones_own():
    g = Graph()
    x = g.conv2d(g.input((1, 3, 8, 8)), 4, 3)
    g.linear(g.flatten(x), 7)

    def squared(graph, outputs):
        (scores,) = outputs
        return graph.mean(graph.mul(scores, scores), dim=(0, 1), keepdim=True)

    before = len(g)
    plan = consistent(plan_training(g, batch=3, loss=squared, optimizer="sgd"))
    assert len(g) == before
    assert plan.target_bytes == 0
    # The output is alive to the end, as with a built-in loss: the square of it is saved through itself.
    assert plan.forward_end_bytes == plan.saved_bytes + 4
    built_in = plan_training(g, batch=3, loss="mse", optimizer="sgd")
    assert plan.saved_bytes == built_in.saved_bytes


# ---------------------------------------------------------------------------------- forms and errors


def test_a_plan_can_be_pickled_and_printed():
    plan = plan_training(net_of("squeezenet1_1"), batch=2, allocator="cuda")
    again = pickle.loads(pickle.dumps(plan))
    assert again.to_dict() == plan.to_dict()
    np.testing.assert_array_equal(again.timeline, plan.timeline)
    assert again.live_at_peak == plan.live_at_peak
    assert again.ops == plan.ops
    text = str(plan)
    assert f"{plan.peak_bytes:,} B" in text
    assert f"{plan.reserved_bytes:,} B" in text
    assert plan.peak_op in repr(plan)


def test_what_is_alive_at_the_peak_is_what_it_consists_of():
    for name, optimizer in (("resnet18", "adam"), ("squeezenet1_1", "sgdm"), ("vgg16", "adam")):
        plan = plan_training(net_of(name), batch=2, **optimizer_of(optimizer))
        alive = plan.live_at_peak
        assert sum(t.nbytes for t in alive if t.kind == "activation") == plan.composition["activations"]
        assert alive == sorted(alive, key=lambda t: -t.nbytes)
        if plan.peak_phase == "backward":
            made = plan.composition["gradients"] + plan.composition["temporaries"]
            assert sum(t.nbytes for t in alive if t.kind != "activation") == made


SMALL = Graph("small")
SMALL.linear(SMALL.flatten(SMALL.conv2d(SMALL.input((1, 1, 4, 4)), 2, 3, name="conv")), 2, name="fc")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, ShapeError, r"batch=0"),
        ({"batch": True}, CnnliveError, r"batch=True"),
        ({"batch": 2.5}, CnnliveError, r"batch=2\.5"),
        ({"device": "tpu"}, GraphError, r"device='tpu'; allowed: 'cpu', 'cuda'"),
        ({"precision": "int8"}, GraphError, r"precision='int8'; allowed: 'float32', .*'autocast'"),
        ({"loss": "hinge"}, GraphError, r"loss='hinge'; allowed: 'cross_entropy', 'mse'"),
        ({"zero_grad": "never"}, GraphError, r"zero_grad='never'; allowed: 'before_forward'"),
        ({"micro_batches": 0}, GraphError, r"micro_batches=0; allowed: an integer >= 1"),
        ({"micro_batches": True}, GraphError, r"micro_batches=True"),
        ({"micro_batches": 1.0}, GraphError, r"micro_batches=1\.0"),
        ({"frozen_layers": "conv2"}, GraphError, r"'conv2'.*conv"),
        ({"frozen_layers": ["conv", "nothing.*"]}, GraphError, r"'nothing\.\*'"),
        ({"frozen_layers": ["conv", "fc"]}, GraphError, r"small has no parameter that takes a gradient"),
        ({"optimizer": "adma"}, AttributeValueError, r"adma.*adam"),
        ({"optimizer": "sgd", "momentun": 0.9}, AttributeValueError, r"momentun.*momentum"),
        ({"implementation": "parallel"}, AttributeValueError, r"parallel.*foreach"),
        ({"allocator": "cpu"}, GraphError, r"allocator='cpu'; allowed: None, 'cuda' or a CudaAllocator"),
    ],
)
def test_what_is_not_an_option_is_named_with_what_is(options, error, words):
    with pytest.raises(error, match=words):
        plan_training(SMALL, **options)


def test_a_net_that_cannot_have_the_loss_says_so():
    g = Graph()
    x = g.linear(g.input((1, 4)), 3)
    g.output(g.op("sum", x, dim=1))
    with pytest.raises(GraphError, match=r"loss='cross_entropy' needs class scores; the output sum has shape \(1,\)"):
        plan_training(g)
    assert plan_training(g, loss="mse").target_bytes == 4


def test_a_loss_of_ones_own_needs_the_graph():
    with pytest.raises(GraphError, match="a loss of your own adds ops to the graph, and a lowered net takes none"):
        plan_training(lower(SMALL), loss=lambda graph, outputs: outputs[0])


def test_a_net_of_parameters_that_stand_still_has_nothing_to_train():
    g = Graph("still")
    g.linear(g.flatten(g.conv2d(g.input((1, 1, 4, 4)), 2, 3, name="conv")), 2, name="fc")
    g.freeze("conv", "fc")
    with pytest.raises(GraphError, match="still has no parameter that takes a gradient"):
        plan_training(g)
    # Inputs may take one all the same.
    assert plan_training(g, input_gradients=True).gradient_bytes == 4 * 16


def test_a_tape_of_inference_has_no_loss():
    net = net_of("resnet18")
    tape = record(net, train=False)
    assert (tape.root, tape.n_loss, len(tape.targets)) == (-1, 0, 0)


def test_gradients_of_inputs_grow_with_the_batch():
    def net(batch):
        g = Graph("two layers")
        g.conv2d(g.conv2d(g.input((batch, 3, 8, 8)), 4, 3), 8, 3)
        return g

    for options in ({}, {"micro_batches": 2}, {"zero_grad": "before_backward"}):
        planned, built = (
            plan_training(g, batch=4, loss="mse", input_gradients=True, **options) for g in map(net, (1, 4))
        )
        assert planned.to_dict() == built.to_dict()
        assert planned.ops == built.ops
    assert planned.gradient_bytes == 4 * (4 * 3 * 8 * 8 + 4 * 28 + 8 * 37)
