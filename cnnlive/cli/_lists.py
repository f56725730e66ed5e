"""What there is: networks of the zoo, operators, optimizers, profiles."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnnlive.cli._group import FILES
from cnnlive.cli._nets import check_name
from cnnlive.cli._options import json_option, print_json
from cnnlive.errors import UnknownNetError
from cnnlive.profiles import PROFILES

__all__ = ["operators", "optimizers", "profiles", "zoo"]


@click.command(short_help="Reference networks, or one of them.")
@click.argument("net", required=False)
@click.option("--family", help="Networks of one family only.")
@json_option
def zoo(net: str | None, family: str | None, as_json: bool) -> None:
    """List reference networks by family; with NET its arguments and size."""
    from cnnlive import zoo as nets

    if net is not None:
        if family:
            raise click.UsageError("NET and --family exclude each other.")
        if Path(net).suffix.lower() in FILES:
            raise UnknownNetError(f"{net} is a file, not a network of the zoo; try: cnnlive inference {net}")
        check_name(net)
        _zoo_net(net, as_json)
        return
    families = nets.families()
    if family is not None:
        nets.names(family)  # raises where there is no such family
        families = {family: families[family]}
    if as_json:
        print_json("zoo", {"families": families})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    rows = [(f, str(len(members)), ", ".join(members)) for f, members in families.items()]
    show(console, plain_table([("family", "l"), ("nets", "r"), ("names", "l")], rows))
    show(console, note("`cnnlive zoo NET` says how large one is and what --set may set."))


def _zoo_net(net: str, as_json: bool) -> None:
    from cnnlive import zoo as nets

    arguments = nets.arguments(net)
    graph = nets.load(net)
    data = {
        "network": net,
        "family": nets.family_of(net),
        "arguments": arguments,
        "parameters": graph.n_parameters,
        "buffers": graph.n_buffers,
        "ops": len(graph),
        "inputs": [{"name": t.name, "shape": t.shape, "dtype": t.dtype} for t in graph.inputs],
        "outputs": [{"name": t.name, "shape": t.shape, "dtype": t.dtype} for t in graph.outputs],
    }
    if as_json:
        print_json("net", data)
        return
    from cnnlive.report.text import open_console, plain_table, shape_text, show
    from cnnlive.units import format_count

    rows = [
        ("family", nets.family_of(net)),
        ("parameters", f"{graph.n_parameters:,} ({format_count(graph.n_parameters)})"),
        ("buffers", f"{graph.n_buffers:,}"),
        ("ops", f"{len(graph):,}"),
        ("inputs", shape_text(t.shape for t in graph.inputs)),
        ("outputs", shape_text(t.shape for t in graph.outputs)),
        *(
            ("" if i else "arguments", f"--set {key}={as_typed(value)}")
            for i, (key, value) in enumerate(arguments.items())
        ),
    ]
    show(open_console(), plain_table([(net, "l"), ("", "l")], rows))


def as_typed(value: Any) -> str:
    """Write a default as one types it after ``--set KEY=``."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@click.command(short_help="The operator table, or one operator.")
@click.argument("name", required=False)
@json_option
def operators(name: str | None, as_json: bool) -> None:
    """List the operator table, or one operator in full."""
    from cnnlive.report.operators import HEADS, operator_row, operator_rows

    if name is None:
        rows = operator_rows()
    else:
        from cnnlive.ops import operator

        rows = [operator_row(operator(name))]
    if as_json:
        print_json("operators", {"operators": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    if name is None:
        listed = [(r.name, r.summary) for r in rows]
        show(console, plain_table([("operator", "l"), ("what it does", "l")], listed))
        show(console, note("`cnnlive operators NAME` says all that the table knows of one."))
        return
    cells = []
    for head, text in list(zip(HEADS, rows[0], strict=True))[1:]:
        for i, line in enumerate(text.split("; ") if head == "attributes" else [text]):
            cells.append(("" if i else head, line or "none"))
    show(console, plain_table([(name, "l"), ("", "l")], cells))


@click.command(short_help="The optimizers, their options and their memory.")
@click.argument("name", required=False)
@json_option
def optimizers(name: str | None, as_json: bool) -> None:
    """List the optimizers: what they keep and what a step makes, in multiples of the parameters' bytes."""
    from cnnlive.report.optimizers import HEADS, optimizer_cells, optimizer_rows

    rows = optimizer_rows(name)
    if as_json:
        print_json("optimizers", {"optimizers": [row._asdict() for row in rows]})
        return
    from cnnlive.report.text import note, open_console, plain_table, show

    console = open_console()
    sides = "llrrrrl"
    show(console, plain_table(list(zip(HEADS, sides, strict=True)), map(optimizer_cells, rows)))
    words = (
        "In multiples of the parameters' bytes, for square float32 matrices. state: kept between steps; single: made "
        "for one parameter in a step; foreach, fused: for all of them. Options that change no byte (lr, betas, eps) "
        "are taken as well."
    )
    show(console, note(words))


@click.command(short_help="The rules that differ between runtimes.")
@json_option
def profiles(as_json: bool) -> None:
    """List the runtime profiles: the rules that differ between runtimes."""
    from dataclasses import asdict

    if as_json:
        print_json("profiles", {"profiles": [asdict(p) for p in PROFILES.values()]})
        return
    from cnnlive.report.rules import profile_rows
    from cnnlive.report.text import open_console, plain_table, show

    console = open_console()
    heads = [("profile", "l"), ("rule", "l"), ("meaning", "l"), ("value", "l")]
    show(console, plain_table(heads, profile_rows(PROFILES.values())))
    click.echo()
    show(
        console, plain_table([("profile", "l"), ("what it is", "l")], [(p.name, p.summary) for p in PROFILES.values()])
    )
