"""Tables of the memory of every member of a benchmark's search space, written to Parquet or CSV."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from cnnlive.errors import AttributeValueError, MissingExtraError, SpaceError, close_names
from cnnlive.nas.base import METRICS, read_setting

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cnnlive._types import I64
    from cnnlive.nas.base import SearchSpace
    from cnnlive.profiles import Profile

__all__ = ["BENCHMARKS", "COLUMNS", "benchmark", "native_name", "write_table"]

#: Functions of `cnnlive.nas.spaces` whose members can all be listed.
BENCHMARKS: Final = ("nasbench101", "nasbench201", "nats_size", "nasbench_macro")
#: Column -> metric; before them stands `name`, the member in the benchmark's own notation.
COLUMNS: Final[Mapping[str, str]] = {
    "params": "params",
    "macs": "macs",
    "inference_peak": "inference_peak",
    "minimum_peak": "minimum_peak",
    "training_peak_sgd": "training_peak:sgd",
    "training_peak_adam": "training_peak:adam",
}
SUFFIXES: Final = (".parquet", ".csv")


def benchmark(name: str, **arguments: Any) -> SearchSpace:
    """Return the space of a benchmark of `BENCHMARKS`.

    Raises
    ------
    AttributeValueError
        For an unknown benchmark, or an argument that it does not take.
    """
    from cnnlive.nas import spaces  # noqa: PLC0415 - builds what only this needs

    if name not in BENCHMARKS:
        raise AttributeValueError(f"unknown benchmark {name!r}{close_names(name, BENCHMARKS)}; "
                                  f"allowed: {', '.join(BENCHMARKS)}")  # fmt: skip
    try:
        space: SearchSpace = getattr(spaces, name)(**arguments)
    except TypeError as error:
        raise AttributeValueError(f"{name}: {error}") from None
    return space


def write_table(
    space: SearchSpace,
    path: str | os.PathLike[str],
    *,
    batch: int = 1,
    dtype: str | None = None,
    profile: str | Profile = "ideal",
    train_batch: int | None = None,
    chunk: int = 65536,
    threads: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write one row per member of a space: its name and the metrics of `COLUMNS`.

    Parameters
    ----------
    space : SearchSpace
    path : path
        Ends in ``.parquet`` (needs the extra ``table``) or ``.csv``. What was there is replaced once the table is
        whole; until then, and if anything fails or interrupts, it stays as it was.
    batch, dtype, profile
        Of inference.
    train_batch : int, optional
        Images of a training step; by default `batch`. Training is in the types that the nets are built with.
    chunk : int
        Members that are evaluated and held at a time.
    threads, executor
        As in the space's `evaluate`.
    progress : callable, optional
        Called with the number of rows written so far, after each chunk.

    Returns
    -------
    int
        Number of rows. A Parquet file says in its metadata what the numbers are of (keys ``cnnlive.*``).

    Raises
    ------
    AttributeValueError
        If the name of the file has another ending.
    MissingExtraError
        If ``pyarrow`` is needed and not installed.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise AttributeValueError(f"{path} has an ending of no table; allowed: {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        # Known now, not when the work is done.
        code = errno.EISDIR if path.is_dir() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(path))
    infer = read_setting(batch=batch, dtype=dtype, profile=profile)
    train = read_setting(batch=batch if train_batch is None else train_batch)
    questions: list[tuple[list[str], dict[str, Any]]] = [
        ([m for m in COLUMNS.values() if not m.startswith("training")],
         {"batch": infer.batch, "dtype": infer.dtype, "profile": infer.profile}),
        ([m for m in COLUMNS.values() if m.startswith("training")], {"batch": train.batch}),
    ]  # fmt: skip
    about = {
        "space": space.name, "batch": infer.batch, "dtype": infer.dtype or "as built", "profile": infer.profile.name,
        "train_batch": train.batch, **{column: METRICS[m.partition(":")[0]] for column, m in COLUMNS.items()},
    }  # fmt: skip
    done = 0
    with _replacing(path) as unfinished, (_parquet if form == ".parquet" else _csv)(unfinished, about) as write:
        for rows in space.members(chunk):
            if not len(rows):
                continue
            found: dict[str, I64] = {}
            for metrics, how in questions:
                found.update(space.evaluate(rows, metrics, threads=threads, executor=executor, **how))
            write([native_name(space, row) for row in rows], [found[metric] for metric in COLUMNS.values()])
            done += len(rows)
            if progress is not None:
                progress(done)
    return done


def native_name(space: SearchSpace, x: I64) -> str:
    """Return a member in its space's own notation as one text, which `space.encode` reads.

    Of NAS-Bench-101 that is the edges of the pruned cell and its labels, as ``111001000111001000001:12021`` (see the
    space's `text`); of the others what `decode` gives.

    Raises
    ------
    SpaceError
        If the space's notation is no text.
    """
    native = space.text(x) if hasattr(space, "text") else space.decode(x)
    if not isinstance(native, str):
        raise SpaceError(f"members of {space!r} have no text as name: {native!r}")
    return native


# ---------------------------------------------------------------------------------- files


class _Write(Protocol):
    def __call__(self, names: Sequence[str], columns: Sequence[I64], /) -> None: ...


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file beside `path`, which becomes `path` if all goes well and else is removed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _csv(path: Path, _about: Mapping[str, Any]) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *COLUMNS])

        def write(names: Sequence[str], columns: Sequence[I64]) -> None:
            writer.writerows(zip(names, *(column.tolist() for column in columns), strict=True))

        yield write


@contextlib.contextmanager
def _parquet(path: Path, about: Mapping[str, Any]) -> Iterator[_Write]:
    try:
        import pyarrow  # noqa: PLC0415 - optional dependency
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError(
            "writing Parquet needs the package pyarrow, installed by the extra 'table': pip install 'cnnlive[table]'; "
            "a file that ends in .csv needs nothing"
        ) from None
    fields = [("name", pyarrow.string()), *((column, pyarrow.int64()) for column in COLUMNS)]
    schema = pyarrow.schema(fields, metadata={f"cnnlive.{key}": str(value) for key, value in about.items()})
    with path.open("wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:

        def write(names: Sequence[str], columns: Sequence[I64]) -> None:
            arrays = [pyarrow.array(names, pyarrow.string()), *map(pyarrow.array, columns)]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))

        yield write
