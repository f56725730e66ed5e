"""What there is: networks of the zoo, operators, optimizers, profiles."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

from pathlib import Path

import click

from cnnlive.cli._answer import Screen, answer, output_options
from cnnlive.cli._complete import NETWORKS, OPTIMIZERS, among, complete_family, complete_operator, complete_zoo
from cnnlive.cli._help import command, under
from cnnlive.cli._nets import check_name
from cnnlive.cli._options import as_typed
from cnnlive.errors import UnknownNetError
from cnnlive.profiles import PROFILES

__all__ = ["operators", "optimizers", "profiles", "zoo"]


@command("Reference networks, or one of them.", examples=["zoo", "zoo --family vgg", "zoo resnet50"])
@click.argument("net", required=False, shell_complete=complete_zoo)
@under("Question")("--family", help="Networks of one family only.", shell_complete=complete_family)
@output_options()
def zoo(net: str | None, family: str | None) -> None:
    """List reference networks by family; with NET its arguments and size."""
    from cnnlive import zoo as nets

    if net is not None:
        if family:
            raise click.UsageError("NET and --family exclude each other.")
        if Path(net).suffix.lower() in NETWORKS:
            raise UnknownNetError(f"{net} is a file, not a network of the zoo; try: cnnlive inference {net}")
        check_name(net)
        _zoo_net(net)
        return
    families = nets.families()
    if family is not None:
        nets.names(family)  # raises where there is no such family
        families = {family: families[family]}

    def report(screen: Screen) -> None:
        from cnnlive.report.text import note, plain_table

        rows = [(f, str(len(members)), ", ".join(members)) for f, members in families.items()]
        screen.show(plain_table([("family", "l"), ("nets", "r"), ("names", "l")], rows), widen=True)
        screen.show(note("`cnnlive zoo NET` says how large one is and what --set may set."))

    answer("zoo", lambda: {"families": families}, report)


def _zoo_net(net: str) -> None:
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

    def report(screen: Screen) -> None:
        from cnnlive.report.text import plain_table, shape_text
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
        screen.show(plain_table([(net, "l"), ("", "l")], rows), widen=True)

    answer("net", lambda: data, report)


@command("The operator table, or one operator.", examples=["operators", "operators conv2d"])
@click.argument("name", required=False, shell_complete=complete_operator)
@output_options()
def operators(name: str | None) -> None:
    """List the operator table, or one operator in full."""
    from cnnlive.report.operators import HEADS, operator_row, operator_rows

    if name is None:
        rows = operator_rows()
    else:
        from cnnlive.ops import operator

        rows = [operator_row(operator(name))]

    def report(screen: Screen) -> None:
        from cnnlive.report.text import note, plain_table

        if name is None:
            listed = [(r.name, r.summary) for r in rows]
            screen.show(plain_table([("operator", "l"), ("what it does", "l")], listed), widen=True)
            screen.show(note("`cnnlive operators NAME` says all that the table knows of one."))
            return
        cells = []
        for head, text in list(zip(HEADS, rows[0], strict=True))[1:]:
            for i, line in enumerate(text.split("; ") if head == "attributes" else [text]):
                cells.append(("" if i else head, line or "none"))
        screen.show(plain_table([(name, "l"), ("", "l")], cells), widen=True)

    answer("operators", lambda: {"operators": [row._asdict() for row in rows]}, report)


@command("The optimizers, their options and their memory.", examples=["optimizers", "optimizers adam"])
@click.argument("name", required=False, shell_complete=among(*OPTIMIZERS))
@output_options()
def optimizers(name: str | None) -> None:
    """List the optimizers: what they keep and what a step makes, in multiples of the parameters' bytes."""
    from cnnlive.report.optimizers import HEADS, optimizer_cells, optimizer_rows

    rows = optimizer_rows(name)

    def report(screen: Screen) -> None:
        from cnnlive.report.text import note, plain_table

        sides = "llrrrrl"
        table = plain_table(list(zip(HEADS, sides, strict=True)), map(optimizer_cells, rows))
        screen.show(table, widen=True)
        words = (
            "In multiples of the parameters' bytes, for square float32 matrices. state: kept between steps; single: "
            "made for one parameter in a step; foreach, fused: for all of them. Options that change no byte (lr, "
            "betas, eps) are taken as well."
        )
        screen.show(note(words))

    answer("optimizers", lambda: {"optimizers": [row._asdict() for row in rows]}, report)


@command("The rules that differ between runtimes.", examples=["profiles", "profiles --json"])
@output_options()
def profiles() -> None:
    """List the runtime profiles: the rules that differ between runtimes."""
    from dataclasses import asdict

    def report(screen: Screen) -> None:
        from cnnlive.report.rules import profile_rows
        from cnnlive.report.text import plain_table

        heads = [("profile", "l"), ("rule", "l"), ("meaning", "l"), ("value", "l")]
        screen.show(plain_table(heads, profile_rows(PROFILES.values())), widen=True)
        listed = [(p.name, p.summary) for p in PROFILES.values()]
        screen.show(plain_table([("profile", "l"), ("what it is", "l")], listed), widen=True)

    answer("profiles", lambda: {"profiles": [asdict(p) for p in PROFILES.values()]}, report)
