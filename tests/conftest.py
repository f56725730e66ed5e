"""Before anything imports numba: a cache folder of its own for every state of the kernels."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_KERNELS = Path(__file__).parents[1] / "cnnlive" / "_kernels"


def _cache_folder() -> str:
    digest = hashlib.sha256()
    for file in sorted(_KERNELS.glob("*.py")):
        digest.update(file.read_bytes())
    # Neither numba's options nor its version are part of a cache entry's key.
    for name in ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT"):
        digest.update(f"{name}={os.environ.get(name, '')}".encode())
    return str(Path(tempfile.gettempdir()) / f"cnnlive-numba-{os.getuid()}-{digest.hexdigest()[:16]}")


# A worker or a command that the tests start inherits the folder.
os.environ["NUMBA_CACHE_DIR"] = _cache_folder()

# The first example compiles the kernels, which no deadline allows for.
settings.register_profile(
    "cnnlive", deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cnnlive")


@pytest.fixture(scope="session", autouse=True)
def _one_specialisation_per_kernel():
    """Another dtype, layout or writability would compile a kernel again; nothing in the suite may do so."""
    yield
    # numba must not be imported before the folder is set
    import kernels  # noqa: PLC0415
    from numba.types import unliteral  # noqa: PLC0415

    for name, kernel in kernels.all_kernels().items():
        # A kernel that calls another with a literal compiles that literal too; its type is the same.
        signatures = {tuple(map(unliteral, s)) for s in getattr(kernel, "signatures", [])}
        assert len(signatures) <= 1, f"{name} was compiled for {signatures}"


@pytest.fixture(scope="module")
def one_thread():
    """Small nets are slower in PyTorch on several threads."""
    import torch  # noqa: PLC0415 - only where it is asked for

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
