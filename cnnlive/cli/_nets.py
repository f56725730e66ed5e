"""Networks and execution orders that the command line names."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cnnlive.cli._complete import NETWORKS
from cnnlive.cli._options import read_dtype, read_settings, read_shapes, read_sizes
from cnnlive.cli._progress import progress_bar
from cnnlive.errors import AttributeValueError, CnnliveError, OrderError, ReadError, UnknownNetError, close_names

if TYPE_CHECKING:
    from cnnlive.graph import Graph
    from cnnlive.plan.inference import InferencePlan

#: First line of a CSV file of an order.
ORDER_HEAD: Final = "step,op,name"


def load_net(net: str, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str]) -> Graph:
    """Read or build NET."""
    with progress_bar(f"reading {net}" if Path(net).suffix.lower() in NETWORKS else f"building {net}"):
        return _load(net, train, settings, input_shapes)


def _load(net: str, train: bool | None, settings: Sequence[str], input_shapes: Sequence[str]) -> Graph:
    suffix = Path(net).suffix.lower()
    is_file = suffix in NETWORKS
    if ":" in net and not is_file:
        if settings:
            raise AttributeValueError(f"--set is for networks of the zoo, and {net} is a PyTorch model")
        from cnnlive.io.sources import load_source

        try:
            return load_source(net, input_shape=read_sizes(input_shapes, net), train=bool(train))
        except (CnnliveError, OSError):
            raise
        except Exception as error:  # code of the user's runs there, and may raise whatever it likes
            raise ReadError(f"{net}: {type(error).__name__}: {error}") from error
    if is_file and settings:
        raise AttributeValueError(f"--set is for networks of the zoo, and {net} is a file")
    if is_file and train is not None:
        raise AttributeValueError(f"--train and --eval are for the zoo and PyTorch, and {net} is a file")
    if input_shapes and suffix != ".onnx":
        raise AttributeValueError(f"--input-shape is for .onnx files and PyTorch, and {net} is neither")
    if suffix == ".onnx":
        from cnnlive.io.onnx import read_onnx

        try:
            return read_onnx(Path(net), input_shapes=read_shapes(input_shapes) or None)
        except ReadError as error:
            # The reader speaks of its argument, the command line of its option.
            words = re.sub(r"input_shapes=\{'(.*?)': \(\.\.\.\)\}", r"--input-shape \1=...", str(error))
            raise ReadError(words.replace("input_shapes", "--input-shape")) from None
    if suffix == ".tflite":
        from cnnlive.io.tflite import read_tflite

        return read_tflite(Path(net))
    if suffix == ".json":
        from cnnlive.io.json import read_json

        return read_json(Path(net))
    check_name(net)
    from cnnlive import zoo

    values = read_settings(settings)
    if "name" in values:  # the one word that load itself takes
        raise AttributeValueError(f"{net} takes no argument 'name'; allowed: {', '.join(zoo.arguments(net))}")
    return zoo.load(net, train=bool(train), **values)


def check_name(net: str) -> None:
    from cnnlive import zoo

    known = zoo.names()
    if net in known:
        return
    if not net:
        raise UnknownNetError(
            "NET is empty; allowed: a network of the zoo, an .onnx, .tflite or .json file, torchvision:NAME"
        )
    if Path(net).exists():
        if Path(net).suffix.lower() == ".csv":
            raise ReadError(f"{net} is a list of buffers, not a network; try: cnnlive arena {net}")
        raise ReadError(f"{net} is neither an .onnx, a .tflite nor a .json file, nor a network of the zoo")
    hint = close_names(net.lower(), known)
    raise UnknownNetError(
        f"unknown network {net!r}{hint} (`cnnlive zoo` lists all {len(known)}; files end in .onnx, .tflite or .json; "
        "PyTorch models are torchvision:NAME, timm:NAME or package.module:factory)"
    )


def read_order(path: str | None) -> Any:
    """Read an execution order from a file; ``program`` and ``best`` are taken as they are."""
    if path is None or path in ("program", "best"):
        return path or "program"
    allowed = (
        "allowed: op names, one a line; a JSON list of them; what --json printed; what `cnnlive order --out` wrote"
    )
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # a name may hold an end of line, in quotes
            whole = file.read()
    except UnicodeDecodeError:
        raise OrderError(f"{path} is not text; {allowed}") from None
    text = whole.strip()
    if not text:
        raise OrderError(f"{path} is empty; {allowed}")
    if text[0] not in "[{":
        if text.startswith(ORDER_HEAD):
            try:
                return [row[-1] for row in csv.reader(io.StringIO(whole, newline="")) if row][1:]
            except csv.Error as error:
                raise OrderError(f"{path} is not CSV: {error}; {allowed}") from None
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        order = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OrderError(f"{path} is not JSON: {error}") from None
    if isinstance(order, dict):
        order = order.get("order")
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise OrderError(f"{path} is no execution order; {allowed}")
    return order


@contextlib.contextmanager
def naming_order(order: str | None) -> Iterator[None]:
    """Name the file or the word of ``--order`` in an error that is about the order."""
    try:
        yield
    except OrderError as error:
        where = "" if order is None else f"--order {order}: " if order in ("program", "best") else f"{order}: "
        raise OrderError(f"{where}{error}") from None


def plan_net(
    graph: Graph, *, batch: int, dtype: str | None, dtypes: Sequence[str], weight_dtype: str | None, profile: str,
    fuse: bool | None, inplace: Any, order: str | None,
) -> InferencePlan:  # fmt: skip
    """Plan the inference of a network."""
    from cnnlive.plan.inference import plan_inference

    steps = read_order(order)
    with naming_order(order):
        return plan_inference(
            graph, batch=batch, dtype=read_dtype(dtype, dtypes), weight_dtype=weight_dtype, order=steps,
            profile=profile, fuse=fuse, inplace=inplace,
        )  # fmt: skip
