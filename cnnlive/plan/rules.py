"""The textbook rules of thumb, by name and in words, on the same graph as the exact answer.

They are stated so that a user sees where the exact figure differs, and why; nothing in cnnlive uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cnnlive._types import ITEMSIZE, Result, dtype_name
from cnnlive.graph import Graph
from cnnlive.lowered import OVERWRITES, VIEW, Lowered, check_batch, check_operators, lower

__all__ = ["RuleOfThumb", "rules_of_thumb"]


@dataclass(frozen=True, slots=True)
class RuleOfThumb(Result):
    """One rule on one network.

    Attributes
    ----------
    name : str
    formula : str
        With w weights, F_i feature maps, B batch.
    words : str
        The formula in words.
    nbytes : int
        What it gives, in bytes.
    goes_wrong : str
        Where it differs from the exact figure.
    terms : dict of str to int
        The bytes it adds up.
    """

    name: str
    formula: str
    words: str
    nbytes: int
    goes_wrong: str
    terms: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "formula": self.formula,
            "words": self.words,
            "nbytes": self.nbytes,
            "goes_wrong": self.goes_wrong,
            "terms": dict(self.terms),
        }


def rules_of_thumb(graph: Graph | Lowered, *, batch: int = 1, dtype: str = "float32") -> dict[str, RuleOfThumb]:
    """Evaluate the three textbook rules on a network.

    A feature map F_i is what an op writes into bytes of its own: convolutions, pools, normalisations, sums,
    but neither views nor ops in place, and not the input. Parameters are the trained ones; running statistics
    are left out, as the rules leave them out.

    Parameters
    ----------
    graph : Graph or Lowered
    batch : int
    dtype : str
        One floating type for everything.

    Returns
    -------
    dict of str to RuleOfThumb
        ``"training_adam"``: ``2w + B·ΣF + w + w``; ``"inference"``: ``w + max(F_i + F_{i+1})`` over successive
        feature maps in program order; ``"practitioner"``: ``B·(4·ΣF + input) + 4·params``.

    Raises
    ------
    ShapeError
        If the batch is impossible.

    Notes
    -----
    O(n_ops). The formulas are those of the question "What is the memory cost of a CNN?" (Data Science Stack
    Exchange 16292) and of forum practice. For inference the rule takes the batch as a factor of the maps too.

    Examples
    --------
    >>> from cnnlive import zoo
    >>> rules_of_thumb(zoo.load("vgg16"))["inference"].nbytes
    579120288
    """
    batch = check_batch(batch)
    net = check_operators(lower(graph), "a rule of thumb")
    item = ITEMSIZE[dtype_name(dtype)]
    # The rules know maps per image; batch 1 is what they multiply.
    sizes = net.sizes_at(1)
    writes = (net.alias[net.producer] != VIEW) & (net.alias[net.producer] != OVERWRITES) & (net.kind == 0)
    maps = (sizes.numel[writes] * item).tolist()
    weights = net.n_parameters * item
    image = int(sizes.numel[net.kind == 1].sum()) * item
    total = sum(maps)
    pair = max((a + b for a, b in pairwise(maps)), default=total)
    return {
        "training_adam": RuleOfThumb(
            "training with Adam",
            "2w + B·ΣF + w + w",
            "two moments, every feature map of the batch, the weights and their gradients",
            4 * weights + batch * total,
            "in-place ops save no second map, normalisations and pools save other things than their output, "
            "gradients of activations and the optimizer's temporaries are missing",
            {"weights": weights, "gradients": weights, "moments": 2 * weights, "feature_maps": batch * total},
        ),
        "inference": RuleOfThumb(
            "inference",
            "w + max(F_i + F_{i+1})",
            "the weights and the two most expensive successive feature maps",
            weights + batch * pair,
            "right on a chain only: a branch keeps more alive, an op in place less; the input and the running "
            "statistics are missing",
            {"weights": weights, "two_maps": batch * pair},
        ),
        "practitioner": RuleOfThumb(
            "practitioner",
            "B·(4·ΣF + input) + 4·params",
            "four times every feature map, the input, and four times the parameters",
            batch * (4 * total + image) + 4 * weights,
            "counts nothing that the backward pass does",
            {"feature_maps": 4 * batch * total, "input": batch * image, "parameters": 4 * weights},
        ),
    }
