"""``cnnlive completion``: what a shell is told."""

# ruff: noqa: PLC0415 - imports inside the commands are what keeps the others quick

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Final

import click

from cnnlive.cli._answer import answer, output_options
from cnnlive.cli._complete import among
from cnnlive.cli._help import command
from cnnlive.errors import AttributeValueError

__all__ = ["SHELLS", "completion"]

SHELLS: Final = ("bash", "zsh", "fish")


@command(
    "Completion of commands, options and names for a shell.",
    examples=[
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/cnnlive.fish",
    ],
)
@click.argument("shell", required=False, metavar="[bash|zsh|fish]", shell_complete=among(*SHELLS))
@output_options()
def completion(shell: str | None) -> None:
    """Print a script that makes a shell complete commands, options, networks, optimizers, profiles and types.

    Without a name it is for the shell of the environment variable SHELL.
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        what = f"shell {shell!r}" if shell else f"SHELL is {os.environ.get('SHELL', '')!r}"
        raise AttributeValueError(f"{what}; allowed: {', '.join(SHELLS)}")
    from click.shell_completion import get_completion_class

    found = get_completion_class(name)
    assert found is not None
    root = click.get_current_context().find_root()
    shell_is = found(root.command, {}, "cnnlive", "_CNNLIVE_COMPLETE")
    # click's own source() asks a bash of this machine for its version, which need not be the one that reads it.
    script = shell_is.source_template % shell_is.source_vars()
    answer("completion", lambda: {"shell": name, "script": script}, lambda _screen: click.echo(script.strip()))
