"""The command line. Everything slow is imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Final

import click

from cnnlive.cli._checkpoint import checkpoint, frontier
from cnnlive.cli._completion import completion
from cnnlive.cli._group import main
from cnnlive.cli._inference import inference, ops
from cnnlive.cli._layout import arena, compare, order
from cnnlive.cli._lists import operators, optimizers, profiles, zoo
from cnnlive.cli._report import report
from cnnlive.cli._tables import nasbench_memory
from cnnlive.cli._training import fit, training

__all__ = ["main"]

# In the order in which people meet them.
_SECTIONS: Final[dict[str, tuple[click.Command, ...]]] = {
    "What it takes": (inference, training, fit, ops, report),
    "What to do about it": (checkpoint, frontier, order, arena, compare),
    "Tables": (nasbench_memory,),
    "What there is": (zoo, operators, optimizers, profiles),
    "Shell": (completion,),
}
for _heading, _commands in _SECTIONS.items():
    main.add_section(_heading, *_commands)
