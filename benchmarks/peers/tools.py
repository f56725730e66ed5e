# ruff: noqa: PLC0415 - a tool is imported when it is asked
"""How each tool is asked. An asker takes a net and returns a call without arguments that gives the answer.

Everything that a user does once, such as making the module, is done before the call, which is what is timed. Tools that
run on meta tensors, without data, do; that is the fastest way to call them. Answers are bytes, or parameters and
multiply-accumulates. A tool that fails raises.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["BATCH", "QUESTIONS", "TOOLS", "Tool"]

BATCH = 8
QUESTIONS = {
    "training": f"peak of a training step, Adam, batch {BATCH}",
    "inference": "peak of one inference",
    "counts": "parameters and MACs",
}
STEP = {"batch": BATCH, "optimizer": "adam", "device": "cpu", "host_scalars": True}
Answer = int | tuple[int, int | None]
Asker = Callable[[Any], Callable[[], Answer]]


class Tool(NamedTuple):
    """A way to ask: its name in the tables, the package whose version counts, its askers, what was taken for what."""

    name: str
    package: str
    askers: dict[str, Asker]
    words: str


def _module(net: Any, train: bool = False, real: bool = False) -> Any:
    """Make the net's module, on the CPU where data is needed and else on meta tensors."""
    import torch

    with torch.device("cpu" if real or net.real else "meta"):
        return net.make().train(train)


def _images(net: Any, n: int, real: bool = False) -> Any:
    import torch

    return torch.zeros(n, *net.shape, device="cpu" if real or net.real else "meta")


# cnnlive


def _loaded(net: Any, train: bool) -> Any:
    import cnnlive

    options = dict(net.options)
    if "train" in options:
        train = options.pop("train")
    return cnnlive.zoo.load(net.name, train=train, **options)


def _imported(net: Any, module: Any, train: bool) -> Any:
    import cnnlive

    leaves = {type(m): "stochastic_depth" for m in module.modules() if type(m).__name__ == "StochasticDepth"}
    return cnnlive.from_torch(module, (1, *net.shape), train=train, leaves=leaves)


def _answer(graph: Any, question: str) -> Answer:
    import cnnlive

    if question == "training":
        return cnnlive.plan_training(graph, **STEP).peak_bytes
    if question == "inference":
        return cnnlive.plan_inference(graph, profile="torch").peak_bytes
    lowered = graph if isinstance(graph, cnnlive.Lowered) else cnnlive.lower(graph)
    return lowered.n_parameters, lowered.macs()


def _cnnlive(way: str) -> dict[str, Asker]:
    def asker(question: str) -> Asker:
        train = question == "training"

        def ask(net: Any) -> Callable[[], Answer]:
            import cnnlive

            if way == "module":
                module = _module(net)
                return lambda: _answer(_imported(net, module, train), question)
            if way == "name":
                return lambda: _answer(_loaded(net, train), question)
            lowered = cnnlive.lower(_imported(net, _module(net), train))
            return lambda: _answer(lowered, question)

        return ask

    return {question: asker(question) for question in QUESTIONS}


# PyTorch


def _tracked(train: bool) -> Asker:
    def ask(net: Any) -> Callable[[], Answer]:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.distributed._tools.mem_tracker import MemTracker

        from benchmarks.peers import truth

        mode = contextlib.nullcontext() if net.real else FakeTensorMode()
        with mode:
            module = net.make().train(train)
            images = torch.zeros(BATCH if train else 1, *net.shape)
            labels = torch.zeros((len(images), *(net.shape[1:] if net.maps else ())), dtype=torch.int64)
            optimizer = torch.optim.Adam(module.parameters())

        def step() -> Any:
            if not train:
                with torch.no_grad():
                    return module(images)
            return truth.adam_step(module, optimizer, images, labels)

        def call() -> int:
            with mode:
                tracker = MemTracker()
                tracker.track_external(module, images, *([optimizer, labels] if train else []))
                with tracker:
                    kept = step()
                (snapshot,) = tracker.get_tracker_snapshot("peak").values()
                del kept
                if train:
                    optimizer.zero_grad()
            return int(snapshot["Total"])

        if train:
            with mode:
                step()  # makes the optimizer's state
                optimizer.zero_grad()
        return call

    return ask


def _counted(net: Any) -> Callable[[], Answer]:
    from benchmarks.peers import truth

    module = _module(net)
    return lambda: truth.counts(module, net.shape)


# torchinfo


def _torchinfo(question: str) -> Asker:
    train = question == "training"

    def ask(net: Any) -> Callable[[], Answer]:
        import torchinfo

        module = _module(net, train)
        images = _images(net, BATCH if train else 1)

        def call() -> Answer:
            found = torchinfo.summary(
                module, input_data=images, device=images.device, mode="train" if train else "eval", verbose=0
            )
            if question == "counts":
                return int(found.total_params), int(found.total_mult_adds)
            return int(found.total_input + found.total_output_bytes + found.total_param_bytes)

        return call

    return ask


# torchsummary


def _torchsummary(question: str) -> Asker:
    train = question == "training"

    def ask(net: Any) -> Callable[[], Answer]:
        import torchsummary

        module = _module(net, train, real=True)

        def call() -> Answer:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                torchsummary.summary(module, net.shape, batch_size=BATCH if train else 1, device="cpu")
            text = printed.getvalue()

            def figure(label: str) -> str:
                found = re.search(rf"{label}: ([\d,.]+)", text)
                assert found is not None, text
                return found[1].replace(",", "")

            if question == "counts":
                return int(figure("Total params")), None
            return round(float(figure(r"Estimated Total Size \(MB\)")) * 2**20)

        return call

    return ask


# fvcore, ptflops, thop


def _fvcore(question: str) -> Asker:
    train = question == "training"

    def ask(net: Any) -> Callable[[], Answer]:
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count

        module, images = _module(net, real=True), _images(net, 1, real=True)

        def call() -> Answer:
            analysis = (FlopCountAnalysis if question == "counts" else ActivationCountAnalysis)(module, images)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                total = int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
            parameters = parameter_count(module)[""]
            if question == "counts":
                return parameters, total
            return 4 * (total * (BATCH if train else 1) + parameters * (4 if train else 1))

        return call

    return ask


def _ptflops(net: Any) -> Callable[[], Answer]:
    import ptflops

    # The first op on meta tensors imports torch._dynamo, which fails while functions are patched.
    module = _module(net, real="torch._dynamo" not in sys.modules)

    def call() -> Answer:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            macs, parameters = ptflops.get_model_complexity_info(
                module, net.shape, as_strings=False, print_per_layer_stat=False
            )
        if macs is None:
            raise RuntimeError(printed.getvalue().strip().splitlines()[-1])  # it prints, and returns nothing
        return int(parameters), int(macs)

    return call


def _thop(net: Any) -> Callable[[], Answer]:
    import thop

    module, images = _module(net), _images(net, 1)

    def call() -> Answer:
        macs, parameters = thop.profile(module, inputs=(images,), verbose=False)
        return int(parameters), int(macs)

    return call


# networkx


def _networkx(built: bool) -> Asker:
    def ask(net: Any) -> Callable[[], Answer]:
        import cnnlive
        from benchmarks.peers import networkx_liveness

        graph = _imported(net, _module(net), False)
        weights = cnnlive.plan_inference(graph, profile="torch").weight_bytes
        rows = networkx_liveness.rows_of(graph)
        inputs = [name for name, _, _, reads in rows if not reads]
        if not built:
            return lambda: weights + networkx_liveness.peak(networkx_liveness.dag_of(rows), inputs)
        dag = networkx_liveness.dag_of(rows)
        return lambda: weights + networkx_liveness.peak(dag, inputs)

    return ask


TOOLS = (
    Tool("cnnlive, lowered", "cnnlive", _cnnlive("lowered"),
         "a net that was lowered before, as a search asks again"),
    Tool("cnnlive, from a name", "cnnlive", _cnnlive("name"),
         "`zoo.load`, lowered and planned anew; no torch"),
    Tool("cnnlive, from the module", "cnnlive", _cnnlive("module"),
         "`from_torch`, lowered and planned anew"),
    Tool("MemTracker", "torch", {"training": _tracked(True), "inference": _tracked(False)},
         "the peak that `torch.distributed._tools.mem_tracker` shows of the step on fake tensors; the optimizer's "
         "state is made before, not timed"),
    Tool("FlopCounterMode", "torch", {"counts": _counted},
         "parameters of the module, half of `torch.utils.flop_counter` on meta tensors: the truth of the last "
         "question"),
    Tool("torchinfo", "torchinfo", {q: _torchinfo(q) for q in QUESTIONS},
         "`Estimated Total Size`: input, weights and twice the outputs of layers with weights; `total_params`, "
         "`total_mult_adds`; on meta tensors"),
    Tool("torchsummary", "torchsummary", {q: _torchsummary(q) for q in QUESTIONS},
         "the printed `Estimated Total Size (MB)`, of 2**20 bytes: input, weights and twice all outputs; "
         "`Total params`; it runs two images on the CPU"),
    Tool("fvcore", "fvcore", {q: _fvcore(q) for q in QUESTIONS},
         "`FlopCountAnalysis`, `parameter_count`; for memory 4 B times `ActivationCountAnalysis`, times the batch, and "
         "the parameters, those four times in training (gradients and two moments), as people derive it; it runs one "
         "image on the CPU"),
    Tool("ptflops", "ptflops", {"counts": _ptflops},
         "`get_model_complexity_info`; on meta tensors, in a fresh process on the CPU"),
    Tool("thop", "thop", {"counts": _thop}, "`profile`; on meta tensors"),
    Tool("networkx, graph built", "networkx", {"inference": _networkx(True)},
         "a loop over a DAG whose sizes somebody has worked out; a plain rule: alive until the last reader, the caller "
         "keeps the input"),
    Tool("networkx", "networkx", {"inference": _networkx(False)}, "the same, with building the DAG"),
)  # fmt: skip
