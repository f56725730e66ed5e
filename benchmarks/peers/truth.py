# ruff: noqa: PLC0415 - torch is imported where it is used
"""What is true: bytes from the events of PyTorch's CPU allocator in real runs, counts from PyTorch itself.

``tests/torch_truth.py`` has the instrument; here are the two runs that the tools are asked about.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))

import torch_truth

__all__ = ["adam_step", "counts", "inference", "training"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the profiler's library writes straight to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def inference(module: Any, shape: tuple[int, ...]) -> int:
    """Return the peak of one inference of one image, weights included; a first run warms up."""
    import torch

    module.eval()
    with _quiet():
        return torch_truth.inference(module, torch.zeros(1, *shape)).peak_bytes


def adam_step(module: Any, optimizer: Any, images: Any, labels: Any) -> Any:
    """Run the step that every tool is asked about; return what a user's loop holds behind it."""
    import torch

    optimizer.zero_grad()
    out = module(images)
    loss = torch.nn.functional.cross_entropy(out, labels)
    loss.backward()
    optimizer.step()
    return out, loss


def training(module: Any, shape: tuple[int, ...], batch: int, maps: bool = False) -> int:
    """Return the peak of a step with Adam whose state exists: a step with two images made it."""
    import torch

    module.train()
    optimizer = torch.optim.Adam(module.parameters())

    def given(n: int) -> tuple[Any, Any]:
        return torch.zeros(n, *shape), torch.zeros((n, *(shape[1:] if maps else ())), dtype=torch.int64)

    adam_step(module, optimizer, *given(2))
    optimizer.zero_grad()
    images, labels = given(batch)
    state = [t for values in optimizer.state.values() for t in values.values()]
    standing = [*module.parameters(), *module.buffers(), *state, images, labels]
    with _quiet():
        _, trace = torch_truth.record(lambda: adam_step(module, optimizer, images, labels), alive=standing)
    return trace.peak()


def counts(module: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return parameters, and half of what PyTorch's FLOP counter counts at one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module.eval()
    device = next(module.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape, device=device))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2
