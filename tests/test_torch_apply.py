"""Plans of recomputation carried out by real PyTorch: the same numbers, and the bytes that were predicted."""

from __future__ import annotations

import copy
import gc
import importlib
import subprocess
import sys
import weakref
from unittest import mock

import pytest
import torch_truth

from cnnlive import lower
from cnnlive.errors import BudgetError, GraphError, MissingExtraError, RematError, ShapeError

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

import test_torch_training as training  # noqa: E402
import torch_models as models  # noqa: E402

import cnnlive.torch as ct  # noqa: E402 - after the check for torch
from cnnlive.io.torch import from_torch  # noqa: E402
from cnnlive.plan.checkpoint import plan_checkpoints  # noqa: E402
from cnnlive.plan.wraps import Region, plan_wraps, simulate_wraps  # noqa: E402

checkpoint = importlib.import_module("torch.utils.checkpoint")

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 3, 32, 32)
MODELS = {"resnet18": models.resnet18, "mobilenet_v2": models.mobilenet_v2, "mixed": models.Mixed}


def build(name):
    torch.manual_seed(0)
    return MODELS[name]().train()


def planned(net, share=0.0, shape=SHAPE, **options):
    """A plan for a budget between the least one (share 0) and what keeping everything takes (share 1)."""
    options = {"device": "cpu", "host_scalars": True, "optimizer": "sgd", "momentum": 0.9, **options}
    graph = from_torch(net, shape, train=True) if callable(options.get("loss")) else from_lowered(net, shape)
    most = plan_checkpoints(graph, batch=shape[0], budget=2**50, **options).peak_bytes
    least = 1
    while True:
        try:
            return plan_checkpoints(graph, batch=shape[0], budget=int(least + share * (most - least)), **options)
        except BudgetError as error:
            least = error.minimum_bytes if error.minimum_bytes > least else least + most // 100


def from_lowered(net, shape):
    return lower(from_torch(net, shape, train=True))


def batches(n=3, shape=SHAPE):
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(shape, generator=random), torch.randint(0, 10, shape[:1], generator=random)) for _ in range(n)]


def trained(net, data=None, criterion=F.cross_entropy):
    """Train a few steps; return everything that came of it."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    found = []
    for x, y in data or batches():
        optimizer.zero_grad()
        out = net(x)
        loss = criterion(out, y)
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in net.parameters())]
        optimizer.step()
    return [*found, *net.state_dict().values(), torch.get_rng_state()]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def peak_of(net, x, function, **options):
    """Bytes of one step on the CPU, by the events of the allocator."""
    real = torch_truth.training_step(net, x, function, optimizer=training.OPTIMIZERS["sgd"][0], **options)
    return max(real.forward_peak, real.backward_peak, training.optimizer_peak(real))


# ---------------------------------------------------------------------------------- op by op


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_trains_to_the_same_bits(name, share):
    plain, net = build(name), build(name)
    plan = planned(net, share)
    ct.apply(plan, net)
    assert same(trained(net), trained(plain))
    assert ct.applied(net).recomputed == plan.remat.recomputed
    assert ct.applied(net).recomputed


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_under_a_plan_takes_the_bytes_it_predicts(name, share):
    net = build(name)
    plan = planned(net, share)
    x, y = batches(1)[0]
    assert peak_of(ct.apply(plan, net), x, lambda out: F.cross_entropy(out, y)) == plan.peak_bytes


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", training.NETS)
def test_nets_of_every_kind_take_the_bytes_and_give_the_gradients(name, share):
    net, shape = training.build(name), (3, 3, 16, 16)
    loss = training.TRAINED_WITH.get(name, "cross_entropy")
    x = torch.randn(shape)
    function = training.criterion(loss, net(x))
    plan = planned(net, share, shape, loss=loss)
    results = []
    for under in (False, True):
        torch.manual_seed(3)
        one = copy.deepcopy(net)
        if under:
            ct.apply(plan, one)
        function(one(x)).backward()
        results.append([*(p.grad for p in one.parameters() if p.grad is not None), *one.buffers()])
    assert same(*results)
    ct.apply(plan, net)
    for options in ({}, {"forward_context": lambda: ct.applied(net)}):
        assert peak_of(net, x, function, **options) == plan.peak_bytes


def test_random_ops_that_run_again_draw_the_same_numbers():
    def dropping():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                             nn.Dropout2d(0.2), nn.Conv2d(8, 4, 3, padding=1), nn.Dropout(0.1),
                             training.Head(4))  # fmt: skip

    plain, net = dropping(), dropping()
    assert not any("bernoulli" in op for op in planned(net).remat.recomputed)
    plan = planned(net, recompute_random=True)
    assert any("bernoulli" in op for op in plan.remat.recomputed)
    ct.apply(plan, net)
    assert same(trained(net), trained(plain))
    assert ct.applied(net).recomputed == plan.remat.recomputed


def test_autocast_is_planned_and_run():
    plain, net = build("resnet18"), build("resnet18")
    plan = planned(net, 0.2, precision="autocast_bfloat16")

    def criterion(out, y):
        return F.cross_entropy(out.float(), y)

    class Cast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    ct.apply(plan, net)
    assert same(trained(Cast(net), criterion=criterion), trained(Cast(plain), criterion=criterion))
    assert ct.applied(net).recomputed == plan.remat.recomputed
    # what runs again under autocast of the caller's is cast no second time
    x, y = batches(1)[0]
    for one in (plain, net):
        loss = criterion(Cast(one)(x), y)
        with torch.autocast("cpu", torch.float16):
            loss.backward()
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


@pytest.mark.parametrize("method", ["chain", "nested", "checkpoint_sequential", "chen_greedy"])
def test_plans_of_other_methods_are_carried_out_as_well(method):
    plain, net = build("resnet18"), build("resnet18")
    plan = planned(net, 0.2, method=method)
    ct.apply(plan, net)
    x, y = batches(1)[0]
    assert same(trained(net), trained(plain))
    assert ct.applied(net).recomputed == plan.remat.recomputed
    assert peak_of(net, x, lambda out: F.cross_entropy(out, y)) == plan.peak_bytes


def test_inputs_that_take_gradients_and_layers_that_stand_still():
    plain, net = build("resnet18"), build("resnet18")
    for one in (plain, net):
        one.layer1.requires_grad_(False)
    plan = planned(net, 0.0, input_gradients=True)
    ct.apply(plan, net)
    x, y = batches(1)[0]
    found = []
    for one in (plain, net):
        given = x.clone().requires_grad_()
        F.cross_entropy(one(given), y).backward()
        found.append([given.grad, *(p.grad for p in one.parameters() if p.requires_grad)])
    assert same(*found)
    assert ct.applied(net).recomputed == plan.remat.recomputed
    assert peak_of(net, x.requires_grad_(), lambda out: F.cross_entropy(out, y)) == plan.peak_bytes


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("zeros", {"set_to_none": False}),
        ("two", {"micro_batches": 2}),
        ("before_backward", {"zero_grad": "before_backward"}),
    ],
)
def test_other_ways_of_stepping_take_the_bytes_they_are_planned_for(way, options):
    net = build("resnet18")
    plan = planned(net, 0.1, **options)
    ct.apply(plan, net)
    x, y = batches(1)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step():
        return training.way_of_stepping(way, net, optimizer, x, lambda out: F.cross_entropy(out, y))

    step()
    for p in net.parameters():
        p.grad = None
    state = [s["momentum_buffer"] for s in optimizer.state.values()]

    def two_steps():
        with torch.profiler.record_function("truth phase: first"):
            step()
        with torch.profiler.record_function("truth phase: second"):
            return step()

    _, trace = torch_truth.record(two_steps, alive=[*net.parameters(), *net.buffers(), x, y, *state])
    assert plan.peak_bytes == trace.peak("second")


def test_a_smaller_batch_runs_by_the_same_schedule_and_a_larger_one_is_refused():
    plain, net = build("resnet18"), build("resnet18")
    ct.apply(planned(net, 0.1), net)
    data = batches(2, (2, *SHAPE[1:]))
    assert same(trained(net, data), trained(plain, data))
    assert ct.applied(net).recomputed
    with pytest.raises(ShapeError, match=r"a batch of 4, where the plan of ResNet is for 3; allowed: 1 to 3"):
        net(torch.randn(4, *SHAPE[1:]))


def test_gradients_accumulate_over_forwards_and_over_two_that_are_open_at_once():
    plain, net = build("mobilenet_v2"), build("mobilenet_v2")
    ct.apply(planned(net, 0.1), net)
    found = []
    for one in (plain, net):
        torch.manual_seed(4)
        (x, y), (u, v) = batches(2)
        F.cross_entropy(one(x), y).backward()
        F.cross_entropy(one(u), v).backward()
        (F.cross_entropy(one(x), y) + F.cross_entropy(one(u), v)).backward()
        found.append([p.grad for p in one.parameters()] + list(one.buffers()))
    assert same(*found)


def test_backward_may_run_twice():
    plain, net = build("resnet18"), build("resnet18")
    ct.apply(planned(net), net)
    x, y = batches(1)[0]
    for one in (plain, net):
        loss = F.cross_entropy(one(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


def test_gradients_of_gradients():
    def smooth():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(inplace=True),
                             nn.Conv2d(6, 6, 3), nn.Softplus(), nn.Conv2d(6, 4, 3), nn.Tanh(),
                             training.Head(4))  # fmt: skip

    plain, net = smooth(), smooth()
    ct.apply(planned(net, 0.0, (2, 3, 12, 12)), net)
    x, y = batches(1, (2, 3, 12, 12))[0]
    for one in (plain, net):
        grads = torch.autograd.grad(F.cross_entropy(one(x), y), list(one.parameters()), create_graph=True)
        sum(g.square().sum() for g in grads).backward()
    assert sum(ct.applied(net).recomputed.values()) > 0
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


def test_backward_that_goes_another_way_finds_what_it_needs():
    plain, net = training.build("auxiliary"), training.build("auxiliary")
    shape = (3, 3, 16, 16)
    ct.apply(planned(net, 0.0, shape), net)
    x, y = batches(1, shape)[0]
    for one in (plain, net):
        main, aux = one(x)
        F.cross_entropy(aux, y).backward(retain_graph=True)
        F.cross_entropy(main, y).backward()
        main, aux = one(x)
        torch.autograd.grad(F.cross_entropy(main, y), list(one.more.parameters()), retain_graph=True)
        F.cross_entropy(main, y).backward(retain_graph=True)
        F.cross_entropy(aux, y).backward()
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


def test_evaluation_and_no_grad_pass_through():
    net = build("mobilenet_v2")
    x = torch.randn(9, *SHAPE[1:])  # a batch that no plan is for
    plain = copy.deepcopy(net)
    ct.apply(planned(net), net)
    with torch.no_grad():
        torch.manual_seed(5)
        mine = net(x)
        torch.manual_seed(5)
        assert torch.equal(mine, plain(x))
    net.eval()
    plain.eval()
    assert torch.equal(net(x), plain(x))
    net(x).sum().backward()
    assert not ct.applied(net).recomputed


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 4, 3))

    def forward(self, x):
        return self.body(x)


def test_a_loss_of_ones_own_runs_in_the_context_of_the_plan():
    torch.manual_seed(0)
    plain = Squares().train()
    net = copy.deepcopy(plain)
    shape = (4, 3, 24, 24)

    def loss(out):
        return (torch.sigmoid(out) * torch.tanh(out)).mean((0, 1, 2, 3), keepdim=True)

    def as_ops(graph, outputs):
        product = graph.mul(graph.sigmoid(outputs[0]), graph.tanh(outputs[0]))
        return graph.mean(product, dim=(0, 1, 2, 3), keepdim=True)

    plan = planned(net, 0.0, shape, loss=as_ops)
    ct.apply(plan, net)
    x = torch.randn(shape)
    with pytest.raises(RematError, match=r"forward ended where the plan of Squares has sigmoid.*inside the context"):
        net(x)
    net.load_state_dict(plain.state_dict())
    loss(plain(x)).backward()
    with ct.applied(net):
        value = loss(net(x))
    value.backward()
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])
    assert same(list(net.buffers()), list(plain.buffers()))
    assert peak_of(net, x, loss, forward_context=lambda: ct.applied(net), targets=()) == plan.peak_bytes


# ---------------------------------------------------------------------------------- what may go wrong


def test_another_module_is_an_error_that_names_the_op_and_both_sizes():
    net = build("resnet18")
    plan = planned(net)
    other = models.resnet18()
    other.layer2[0].conv2 = nn.Conv2d(8, 16, 3, padding=1)
    ct.apply(plan, other)
    message = (
        r"layer2.0.conv2: aten.convolution.default makes 3,072 bytes where the plan of ResNet has "
        r"layer2.0.conv2 \(conv2d\), which makes 1,536 bytes; allowed: the module"
    )
    with pytest.raises(RematError, match=message):
        other(torch.randn(SHAPE))
    with torch.no_grad(), pytest.raises(RuntimeError, match="running_mean should contain"):
        other(torch.randn(SHAPE))  # nothing of the plan is left over
    short = nn.Sequential(*list(build("mobilenet_v2"))[:3])
    ct.apply(planned(build("mobilenet_v2")), short)
    with pytest.raises(RematError, match=r"forward ended where the plan of Sequential has"):
        short(torch.randn(SHAPE))
    longer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    ct.apply(planned(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)), 1.0), longer)
    with pytest.raises(RematError, match=r"has 1 \(relu_\), which makes no new bytes"):
        longer(torch.randn(SHAPE))


def test_what_is_not_a_plan_or_a_module_is_refused():
    net = build("mixed")
    plan = planned(net)
    with pytest.raises(GraphError, match="str is no plan to apply; allowed: CheckpointPlan, WrapPlan"):
        ct.apply("plan", net)
    with pytest.raises(GraphError, match="applied to a torch.nn.Module; this is a function"):
        ct.apply(plan, lambda x: x)
    with pytest.raises(GraphError, match="Mixed runs under no plan"):
        ct.applied(net)
    ct.apply(plan, net)
    with pytest.raises(GraphError, match=r"Mixed runs under a plan already; remove\(module\) ends that"):
        ct.apply(plan, net)
    with ct.applied(net), pytest.raises(GraphError, match="entered twice"), ct.applied(net):
        pass


def test_a_module_stays_what_it_is_and_a_plan_can_be_removed():
    net = build("mixed")
    keys, own = list(net.state_dict()), dict(net.__dict__)
    assert ct.apply(planned(net), net) is net
    assert list(net.state_dict()) == keys
    assert len(list(net.parameters())) == 10
    assert net.eval().training is False
    twin = copy.deepcopy(net.train())
    x, y = batches(1)[0]
    F.cross_entropy(twin(x), y).backward()
    assert ct.applied(twin).recomputed
    assert not ct.applied(net).recomputed
    assert ct.remove(twin) is twin
    ct.applied(net)
    assert repr(ct.applied(net)).startswith("<Applied <CheckpointPlan")
    ct.remove(net)
    assert net.__dict__ == own


def test_what_is_overwritten_after_forward_is_an_error_as_it_is_without_a_plan():
    net = build("resnet18")
    plan = planned(net)
    ct.apply(plan, net)
    x, y = batches(1)[0]
    again = next(name for name in plan.remat.recomputed if "conv" in name)
    for parameter, message in (
        (net.fc.weight, r"a tensor of \(32, 10\) that backward needs was modified"),
        (net.get_submodule(again).weight, rf"{again} \(conv2d\): a tensor that aten.convolution.default reads was"),
    ):
        loss = F.cross_entropy(net(x), y)
        with torch.no_grad():
            parameter.add_(1)
        with pytest.raises(RematError, match=message):
            loss.backward()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Sigmoid())
    ct.apply(planned(net, 1.0, loss="mse"), net)
    out = net(x)
    loss = out.mean()
    with torch.no_grad():
        out.add_(1)
    with pytest.raises(RematError, match=r"what 2 \(sigmoid\) made was modified by an op in place after forward"):
        loss.backward()


def test_a_hook_that_overwrites_runs_again_with_its_op_and_is_refused_where_autograd_has_saved():
    plain, net = build("resnet18"), build("resnet18")
    plan = planned(net)
    for one in (plain, net):
        one.layer1[0].bn2.register_forward_pre_hook(lambda _m, args: args[0].mul_(2))
    ct.apply(plan, net)
    assert same(trained(net), trained(plain))
    net.layer1[0].conv2.register_forward_pre_hook(lambda _m, args: args[0].mul_(2))
    with pytest.raises(
        RematError, match=r"layer1.0.conv2: aten.mul_.Tensor overwrites what an earlier op made, where the"
    ):
        net(torch.randn(SHAPE))


def test_a_forward_without_backward_leaves_nothing_behind():
    net = build("mobilenet_v2")
    ct.apply(planned(net, 0.3), net)
    x, y = batches(1)[0]
    gc.collect()
    gc.disable()
    try:
        seen = []
        handle = net[3].register_forward_hook(lambda _m, _i, out: seen.append(weakref.ref(out.untyped_storage())))
        out = net(x)
        assert seen[0]() is not None
        del out
        assert seen[0]() is None
        F.cross_entropy(net(x), y).backward()
        assert all(ref() is None for ref in seen)
    finally:
        gc.enable()
        handle.remove()


def test_an_error_in_forward_leaves_no_mode_behind():
    net = build("mixed")
    ct.apply(planned(net), net)
    net.head[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net(torch.randn(SHAPE))
    with pytest.raises(ZeroDivisionError), ct.applied(net):
        net(torch.randn(SHAPE))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_without_torch_the_error_names_the_extra():
    code = (
        "import sys\nsys.modules['torch'] = None\nimport cnnlive.torch\n"
        "try:\n    cnnlive.torch.apply(None, None)\n"
        "except cnnlive.errors.MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'cnnlive[torch]'" in done.stdout
    code = "import sys, cnnlive, cnnlive.torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch is built without CUDA")
@pytest.mark.parametrize("name", [*MODELS, *training.NETS])
def test_cudas_ops_are_those_of_the_plan(name, monkeypatch):
    """On tensors without data, which need no GPU: forward is aligned, then each step of the schedule runs."""
    make, shape = (MODELS[name], SHAPE) if name in MODELS else (training.NETS[name], (3, 3, 16, 16))
    plan = planned(make().train(), 0.0, shape, device="cuda", loss=training.TRAINED_WITH.get(name, "cross_entropy"))
    runs = []
    begin = ct._Run.__init__

    def noting(run, *args):
        begin(run, *args)
        runs.append(run)

    monkeypatch.setattr(ct._Run, "__init__", noting)
    monkeypatch.setattr(
        ct, "_seen", lambda _s, dtype, size, stride, _o: torch.empty_strided(size, stride, dtype=dtype, device="cuda")
    )
    with torch._subclasses.FakeTensorMode(), torch.device("cuda"):
        net = ct.apply(plan, make().train())
        out = net(torch.empty(shape))
        for step in runs[0].program.steps:
            if 0 <= step.record < runs[0].program.n_graph:
                runs[0].reach(step.record)
    assert out is not None
    again = {k: n for k, n in plan.remat.recomputed.items() if n}
    assert ct.applied(net).recomputed == again


# ---------------------------------------------------------------------------------- modules and policies


def wrapped(net, kind, share, shape=SHAPE, **options):
    """A plan of modules to wrap, for a budget between the least and what keeping everything takes."""
    step = planned(net, 1.0, shape, recompute_random=True).step
    least = plan_wraps(step, 1, kind=kind, recompute_random=True, **options)
    budget = int(least.least_bytes + share * (least.keep_bytes - least.least_bytes))
    return plan_wraps(step, budget, kind=kind, recompute_random=True, **options)


@pytest.mark.filterwarnings("ignore:A saved_tensors_hooks context:FutureWarning")
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("name", MODELS)
def test_wrapped_modules_train_to_the_same_bits_statistics_among_them(name, kind, share):
    plain, net = build(name), build(name)
    own = {name: dict(part.__dict__) for name, part in net.named_modules()}
    plan = wrapped(net, kind, share)
    assert plan.regions
    ct.apply(plan, net)
    assert same(trained(net), trained(plain))
    x, y = batches(1)[0]
    net.eval(), plain.eval()
    assert torch.equal(net(x), plain(x))
    net.train()
    assert peak_of(net, x, lambda out: F.cross_entropy(out, y)) == plan.peak_bytes
    ct.remove(net)
    assert {name: dict(part.__dict__) for name, part in net.named_modules()} == own


class Attend(nn.Module):
    """Pixels that attend to pixels, by products that are no modules."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        q, k = self.query(x).flatten(2), self.key(x).flatten(2)
        a = torch.softmax(torch.bmm(q.transpose(1, 2), k), -1)
        return torch.bmm(x.flatten(2), a).view_as(x)


def test_a_policy_saves_products_that_are_no_modules():
    def attending():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Attend(), nn.BatchNorm2d(8), training.Head(8))

    plain, net = attending(), attending()
    step = planned(net, 1.0).step
    names = [n for n, k in zip(step.plan.network.op_names, step.plan.network.op_kinds, strict=True) if k == "matmul"]
    assert len(names) == 2
    assert all(name.startswith("1.") for name in names)
    for saved in (names[:1], names[1:], ["1.key"], ["1.query", *names]):
        plan = simulate_wraps(step, [Region("1", tuple(saved))])
        one, other = copy.deepcopy(net), copy.deepcopy(plain)
        ct.apply(plan, one)
        seen = []
        contexts = checkpoint.create_selective_checkpoint_contexts

        def noting(policy, seen=seen, contexts=contexts):
            def note(context, func, *args, **kwargs):
                answer = policy(context, func, *args, **kwargs)
                if not context.is_recompute and answer == checkpoint.CheckpointPolicy.MUST_SAVE:
                    seen.append(tuple(context.op_output.shape))
                return answer

            return contexts(note)

        with mock.patch.object(checkpoint, "create_selective_checkpoint_contexts", noting):
            F.cross_entropy(one(torch.ones(SHAPE)), torch.tensor([1, 2, 3])).backward()
        shapes = {"1.query": (3, 4, 16, 16), "1.key": (3, 4, 16, 16), names[0]: (3, 256, 256), names[1]: (3, 8, 256)}
        assert seen == [shapes[name] for name in sorted(saved, key=list(shapes).index)]
        one = copy.deepcopy(net)
        ct.apply(plan, one)
        assert same(trained(one), trained(other))


def test_a_policy_counts_what_runs():
    net = build("resnet18")
    plan = simulate_wraps(planned(net, 1.0).step, [Region("layer1.0", ("layer1.0.conv2",))])
    ct.apply(plan, net)
    x = torch.randn(SHAPE)
    net(x=x)
    extra = net.layer1[0].conv2.register_forward_hook(lambda m, _i, out: m.forward(out))
    message = r"layer1.0: the graph has 2 convolutions and products there, and aten.convolution.default is one more;"
    with pytest.raises(RematError, match=message):
        net(x)
    extra.remove()
    net.layer1[0].conv1.forward = lambda x: x.clone()
    with pytest.raises(RematError, match=r"layer1.0: the graph has 2 convolutions and products there, and 1 ran; all"):
        net(x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = training.conv_norm(3, 8, act=nn.ReLU()), training.Head(8)
        self.forward = self.run  # as other libraries put a forward of theirs in place

    def run(self, x, *, scale):
        return self.head(self.body(x) * scale)


def test_a_forward_put_in_place_by_others_is_kept_and_takes_keywords():
    shape = (3, 3, 16, 16)
    torch.manual_seed(0)
    net = Scaled()
    x, scale = torch.randn(shape), torch.rand(3, 1, 1, 1)
    graph = lower(from_torch(net, example_inputs={"x": x, "scale": scale}, train=True))
    with pytest.raises(BudgetError) as failed:
        plan_checkpoints(graph, batch=3, budget=1, device="cpu")
    plan = plan_checkpoints(graph, batch=3, budget=failed.value.minimum_bytes + 1000, device="cpu")
    forward = net.__dict__["forward"]
    found = []
    for one in (None, plan, simulate_wraps(plan.step, [Region("body", ("body.0",))])):
        if one is not None:
            ct.apply(one, net)
        net.zero_grad()
        net(x, scale=scale).sum().backward()
        found.append([p.grad for p in net.parameters()])
        if one is not None:
            ct.remove(net)
        assert net.__dict__["forward"] == forward
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_a_policy_of_another_net_is_an_error(monkeypatch):
    net = build("resnet18")
    step = planned(net, 1.0).step
    plan = simulate_wraps(step, [Region("layer1.0", ("layer1.0.conv1",))])
    with monkeypatch.context() as older:
        older.delattr(checkpoint, "CheckpointPolicy")
        with pytest.raises(MissingExtraError, match=r"needs PyTorch 2.5 or later; this is .* plan.modules\(\)"):
            ct.apply(plan, net)
    other = models.resnet18()
    other.layer1[0].downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    ct.apply(plan, other)
    other(torch.randn(SHAPE))  # imported as it is: the plan's convolution is there
    other = models.resnet18()
    other.layer1[0].conv1 = nn.Identity()
    ct.apply(plan, other)
    with pytest.raises(RematError, match=r"saves 'layer1.0.conv1' in 'layer1.0', which has no such convolution"):
        other(torch.randn(SHAPE))
    with pytest.raises(RematError, match=r"wraps 'layer1.0', which Sequential does not have"):
        ct.apply(plan, nn.Sequential(nn.Conv2d(3, 3, 1)))
    net.layer1[0].register_forward_hook(lambda m, _i, out: m.conv1(out))
    ct.apply(plan, net)
    with pytest.raises(GraphError, match="'layer1.0' runs before the module that the plan is applied to"):
        net.layer1[0](torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("name", ["dense", "unet", "squeeze-excite", "convnext", "dropouts", "stochastic depth"])
def test_nets_of_other_kinds_run_wrapped(name, kind):
    shape = (3, 3, 16, 16)
    plain = training.build(name)
    net = copy.deepcopy(plain)
    plan = wrapped(net, kind, 0.0, shape)
    ct.apply(plan, net)
    function = training.criterion("cross_entropy", plain(torch.randn(shape)))
    net.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    for one in (plain, net):
        torch.manual_seed(6)
        for _ in range(2):
            function(one(x)).backward()
    assert plan.regions
    assert same([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])
    assert same(list(net.buffers()), list(plain.buffers()))


# ---------------------------------------------------------------------------------- torchvision's own


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvisions_nets_take_the_bytes_and_give_the_gradients(name, share):
    zoo = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    shape = (4, 3, 96, 96)
    torch.manual_seed(0)
    plain = getattr(zoo, name)(num_classes=10).train()
    net = copy.deepcopy(plain)
    plan = planned(net, share, shape)
    ct.apply(plan, net)
    data = batches(2, shape)
    assert same(trained(net, data), trained(plain, data))
    assert ct.applied(net).recomputed == plan.remat.recomputed
    x, y = data[0]
    assert peak_of(net, x, lambda out: F.cross_entropy(out, y)) == plan.peak_bytes


# PyTorch 2.14 warns of hooks around a policy, and the instrument that counts what is saved is such a hook
@pytest.mark.filterwarnings("ignore:A saved_tensors_hooks context:FutureWarning")
@pytest.mark.parametrize("kind", ["modules", "policy"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvisions_nets_run_wrapped(name, kind):
    zoo = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    shape = (4, 3, 96, 96)
    torch.manual_seed(0)
    plain = getattr(zoo, name)(num_classes=10).train()
    net = copy.deepcopy(plain)
    plan = wrapped(net, kind, 0.3, shape)
    ct.apply(plan, net)
    data = batches(2, shape)
    assert same(trained(net, data), trained(plain, data))
    x, y = data[0]
    assert peak_of(net, x, lambda out: F.cross_entropy(out, y)) == plan.peak_bytes
