"""Messages about an expression: its text, the column, and what stands there."""

import ast
from typing import Any, NoReturn

from orchestrator.errors import SpecError

# How an operation is written; what is not here, expressions do not know.
SIGNS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.USub: "-",
    ast.UAdd: "+",
    ast.And: "and",
    ast.Or: "or",
}


def kind_of(value: Any) -> str:
    """The kind of a value, as a message names it."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list"


def fail(text: str, column: int, words: str) -> NoReturn:
    """Raise a SpecError about the text at a column, counted from 1."""
    raise SpecError(f"{shown(text)}, column {column}: {words}")


def fail_at(text: str, node: ast.expr, words: str) -> NoReturn:
    """Raise a SpecError about the place of a node."""
    fail(text, _character(text, node.col_offset) + 1, words)


def _character(text: str, offset: int) -> int:
    """The index of the character at a byte offset; the syntax tree counts bytes."""
    return len(text.encode()[:offset].decode(errors="ignore"))


def source_of(text: str, node: ast.expr) -> str:
    """The part of the text that a node was read from."""
    end = node.end_col_offset if node.end_col_offset is not None else len(text.encode())
    return text.encode()[node.col_offset : end].decode(errors="ignore")


def shown(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= 100 else f"{text[:97]}...")
