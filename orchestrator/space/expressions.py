"""Formulas and conditions of a sweep spec: text -> Expression, by a whitelisted syntax tree.

Behind `when`, `[derive]`, `[[exclude]]` and `[[require]]`. `expression_check.py` says what may
stand in a text, `expression_evaluate.py` computes the value; neither compiles or runs Python.
"""

import ast
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.space.expression_check import checked_tree
from orchestrator.space.expression_evaluate import Value, evaluate
from orchestrator.space.expression_faults import kind_of, shown


@dataclass(frozen=True)
class Expression:
    """A formula that was read; `names` are the config fields in it, in order of appearance."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr = field(repr=False, compare=False)

    def evaluate(self, env: Mapping[str, Any]) -> Value:
        """The value where the fields are as `env` says.

        Raises SpecError with the text, the column and the values where an operation has none.
        """
        return evaluate(self.text, self.tree, env)

    def holds(self, env: Mapping[str, Any]) -> bool:
        """The value of a condition; SpecError where it is neither true nor false."""
        value = self.evaluate(env)
        if not isinstance(value, bool):
            raise SpecError(
                f"{shown(self.text)}: gives {value!r}, {kind_of(value)}; "
                "a condition must be true or false, such as x > 0"
            )
        return value


def parse(text: str, known: Collection[str]) -> Expression:
    """The expression that a text stands for; `known` are the names that it may use.

    Raises SpecError with the column (in the text without blanks around it) and what is allowed.
    """
    # One line: an expression may be wrapped in the file.
    text = re.sub(r"[\t\r\n]", " ", text).strip()
    tree, names = checked_tree(text, known)
    return Expression(text, names, tree)
