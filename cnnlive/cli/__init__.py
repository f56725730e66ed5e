"""The command line. Everything slow is imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

from cnnlive.cli._checkpoint import checkpoint, frontier
from cnnlive.cli._group import main
from cnnlive.cli._inference import inference, ops
from cnnlive.cli._layout import arena, compare, order
from cnnlive.cli._lists import operators, optimizers, profiles, zoo
from cnnlive.cli._tables import nasbench_memory
from cnnlive.cli._training import fit, training

__all__ = ["main"]

# In the order in which people meet them.
for _command in (
    inference,
    training,
    fit,
    checkpoint,
    frontier,
    order,
    arena,
    compare,
    ops,
    zoo,
    operators,
    optimizers,
    profiles,
    nasbench_memory,
):
    main.add_command(_command)
