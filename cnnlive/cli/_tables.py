"""``cnnlive nasbench-memory``."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from cnnlive.cli._answer import answer, output_options
from cnnlive.cli._complete import BENCHMARKS, DTYPES, among, complete_file, complete_profile
from cnnlive.cli._help import command, under
from cnnlive.cli._options import DTYPE_HELP, PROFILE_HELP, read_settings
from cnnlive.cli._progress import progress_bar

__all__ = ["nasbench_memory"]

_SPACE_HELP: Final = "An argument of the search space, as dataset=cifar100; repeatable."
_question = under("Question")


@command(
    "Write the memory of every member of a NAS benchmark.",
    name="nasbench-memory",
    examples=[
        "nasbench-memory nasbench201 --out nasbench201.parquet",
        "nasbench-memory nats_size --set dataset=cifar100 --train-batch 256 --out nats_size.csv",
    ],
)
@click.argument("name", shell_complete=among(*BENCHMARKS))
@_question("--batch", default=1, show_default=True, help="Images of an inference.")
@_question("--dtype", metavar="TYPE", help=DTYPE_HELP, shell_complete=among(*DTYPES))
@_question(
    "--profile", default="ideal", show_default=True, metavar="NAME", help=PROFILE_HELP, shell_complete=complete_profile
)
@_question("--train-batch", type=int, help="Images of a training step.  [default: as --batch]")
@_question("--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SPACE_HELP)
@under("Output")(
    "--out",
    "table",
    required=True,
    metavar="FILE",
    help="Ends in .parquet (needs the extra 'table') or .csv.",
    shell_complete=complete_file,
)
@output_options()
def nasbench_memory(name: str, table: str, settings: Sequence[str], **how: Any) -> None:
    """Write a table of every member of a benchmark: parameters, MACs and memory, in bytes.

    NAME is nasbench101, nasbench201, nats_size or nasbench_macro. A row has the member's name in the benchmark's own
    notation, params, macs, inference_peak (activations in program order), minimum_peak (in the best order),
    training_peak_sgd and training_peak_adam. The file appears when it is whole.
    """
    with progress_bar(f"table of {name}") as progress:
        from cnnlive.nas.table import COLUMNS, benchmark, write_table

        space = benchmark(name, **read_settings(settings))
        total = space.count()

        def tell(done: int) -> None:
            if progress is not None:
                progress(done / total, f"{done:,} of {total:,} rows of {name}")

        n = write_table(space, table, progress=tell, **how)
    data = {"benchmark": name, "file": table, "rows": n, "columns": ["name", *COLUMNS]}
    answer("nasbench-memory", lambda: data, lambda screen: screen.say(f"{n:,} rows: {table}"))
