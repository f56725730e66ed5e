"""What VGG-16, ResNet-50 and a real ONNX file cost in memory, to use and to train; ``make demo`` runs it."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

from rich.table import Table

import cnnlive
from cnnlive.report.reasons import inference_rule
from cnnlive.report.text import inference_summary, is_ascii, open_console, show


def onnx_file() -> Path:
    """Find a DenseNet-121 among the test files that the onnx package ships."""
    spec = importlib.util.find_spec("onnx")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo reads a file of the onnx package; install it with: pip install 'cnnlive[onnx]'")
    path = Path(spec.submodule_search_locations[0]) / "backend/test/data/light/light_densenet121.onnx"
    if not path.exists():
        sys.exit(f"this version of the onnx package has no {path.name}; try another")
    return path


def main() -> None:
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # make demo | head
    console = open_console()
    graphs = [
        cnnlive.zoo.load("vgg16"),
        cnnlive.zoo.load("resnet50"),
        cnnlive.read_onnx(onnx_file()),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("peak of one inference, in bytes")
    for head in ("rule of thumb", "exact: ideal", "ideal, fused", "torch_fx"):
        table.add_column(head, justify="right")
    for graph in graphs:
        plans = [cnnlive.plan_inference(graph, profile=p, fuse=f) for p, f in
                 (("ideal", False), ("ideal", True), ("torch_fx", False))]  # fmt: skip
        rule = inference_rule(graph, plans[0])
        show(console, inference_summary(plans[-1], rule, ascii_only=is_ascii(console)), widen=False)
        print()
        table.add_row(graph.name, f"{rule.nbytes:,}", *(f"{plan.peak_bytes:,}" for plan in plans))
    show(console, table)
    print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("peak of one training step, Adam, in bytes")
    for head in ("rule of thumb", "exact", "peaks in", "reserved on CUDA"):
        table.add_column(head, justify="right")
    for graph in graphs[:2]:
        net = cnnlive.lower(graph)
        for batch in (8, 32, 128):
            step = cnnlive.plan_training(net, batch=batch, optimizer="adam", allocator="cuda")
            rule = cnnlive.rules_of_thumb(net, batch=batch)["training_adam"]
            cells = f"{rule.nbytes:,}", f"{step.peak_bytes:,}", step.peak_phase, f"{step.reserved_bytes:,}"
            table.add_row(f"{graph.name}, batch {batch}", *cells)
    show(console, table)
    print("\nTry: .venv/bin/cnnlive training resnet50 --batch 8; also: cnnlive fit, inference, ops, zoo, optimizers.")


if __name__ == "__main__":
    main()
