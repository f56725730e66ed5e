"""The operator table: one entry per operator says everything about it.

Shape rule, parameters, multiply-accumulates, aliasing, fusion and what backward saves; see
:class:`Operator` for the columns and ``docs/operators.md`` for the table.
"""

from cnnlive.ops._entry import REQUIRED, Attribute, Operator, Weight
from cnnlive.ops._shapes import END, MAX_RANK, RULES, ShapeRule
from cnnlive.ops._table import OPERATORS, operator, register, unregister, weight_columns, weights_of

__all__ = [
    "END",
    "MAX_RANK",
    "OPERATORS",
    "REQUIRED",
    "RULES",
    "Attribute",
    "Operator",
    "ShapeRule",
    "Weight",
    "operator",
    "register",
    "unregister",
    "weight_columns",
    "weights_of",
]
