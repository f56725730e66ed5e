"""The one place that decides how numba compiles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(func: Callable[P, R]) -> Callable[P, R]:
    """Compile `func` on its first call, without the GIL, cached on disk where there is a place to write.

    ``CNNLIVE_JIT_CACHE=0`` switches the disk cache off. No signatures (they compile at import), no
    ``parallel`` (it kills forked children and aborts threaded callers), no ``fastmath``.
    """
    compiled = numba.njit(nogil=True, error_model="numpy")(func)
    if os.environ.get("CNNLIVE_JIT_CACHE", "1") != "0" and hasattr(compiled, "enable_caching"):
        with contextlib.suppress(RuntimeError):  # nowhere to write: compile per process then
            compiled.enable_caching()
    return cast("Callable[P, R]", compiled)
