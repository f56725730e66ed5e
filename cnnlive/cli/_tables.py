"""``cnnlive nasbench-memory``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from cnnlive.cli._options import DTYPE_HELP, PROFILE_HELP, read_settings

__all__ = ["nasbench_memory"]

_TABLE_EXAMPLES: Final = """\b
Examples:
  cnnlive nasbench-memory nasbench201 --out nasbench201.parquet
  cnnlive nasbench-memory nats_size --set dataset=cifar100 --train-batch 256 --out nats_size.csv"""
_SPACE_HELP: Final = "An argument of the search space, as dataset=cifar100; repeatable."


@click.command(
    "nasbench-memory", short_help="Write the memory of every member of a NAS benchmark.", epilog=_TABLE_EXAMPLES
)
@click.argument("name")
@click.option("--out", required=True, metavar="FILE", help="Ends in .parquet (needs the extra 'table') or .csv.")
@click.option("--batch", default=1, show_default=True, help="Images of an inference.")
@click.option("--dtype", metavar="TYPE", help=DTYPE_HELP)
@click.option("--profile", default="ideal", show_default=True, metavar="NAME", help=PROFILE_HELP)
@click.option("--train-batch", type=int, help="Images of a training step.  [default: as --batch]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SPACE_HELP)
def nasbench_memory(name: str, out: str, settings: Sequence[str], **how: Any) -> None:
    """Write a table of every member of a benchmark: parameters, MACs and memory, in bytes.

    NAME is nasbench101, nasbench201, nats_size or nasbench_macro. A row has the member's name in the benchmark's own
    notation, params, macs, inference_peak (activations in program order), minimum_peak (in the best order),
    training_peak_sgd and training_peak_adam. The file appears when it is whole.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cnnlive.nas.table import benchmark, write_table

    space = benchmark(name, **read_settings(settings))
    console = Console(stderr=True)
    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)
        bar.update(task, total=space.count())
        n = write_table(space, out, progress=lambda done: bar.update(task, completed=done), **how)
    click.echo(f"{n:,} rows: {out}")
