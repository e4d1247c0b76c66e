"""Text -> syntax tree in which nothing stands but what expressions know; nothing is computed.

Python's parser reads the text, `_Checker` refuses every node that is not on its list.
"""

import ast
import math
import re
import unicodedata
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NoReturn

from grpo_core.config import did_you_mean
from orchestrator.errors import SpecError
from orchestrator.space.expression_faults import SIGNS, fail, fail_at, shown, source_of
from orchestrator.space.expression_functions import FUNCTIONS, fits_64_bits

# Longer or deeper is a program, not a condition.
MAX_LENGTH = 1000
MAX_DEPTH = 50

BOOLEANS = {"true": True, "false": False}
_ALLOWED = (
    "numbers, texts in quotes, true/false, config fields, lists, comparisons, and/or/not, in, "
    "+ - * / // % **, A if C else B, and the functions "
)
_OTHER_SIGNS = {
    ast.BitAnd: "& is not known here; write and",
    ast.BitOr: "| is not known here; write or",
    ast.BitXor: "^ is not known here; a power is **",
    ast.Invert: "~ is not known here; write not",
    ast.LShift: "<< is not known here",
    ast.RShift: ">> is not known here",
    ast.MatMult: "@ is not known here",
    ast.Is: "is cannot stand here; write ==",
    ast.IsNot: "is not cannot stand here; write !=",
}


def checked_tree(text: str, known: Collection[str]) -> tuple[ast.expr, tuple[str, ...]]:
    """The syntax tree of a text, and the names in it, all out of `known`.

    Raises SpecError with the column and what is allowed.
    """
    _check_text(text)
    tree = _syntax_tree(text)
    checker = _Checker(text, known)
    checker.check(tree, 0)
    return tree, tuple(dict.fromkeys(checker.names))


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise SpecError(
            f"{shown(text)}: has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed"
        )
    if not text:
        raise SpecError("an empty expression; write a formula such as 32 / lora_rank")
    for column, c in enumerate(text, start=1):
        if unicodedata.category(c) in ("Cc", "Cs"):
            fail(text, column, f"{c!r} is a control character")


_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_HINTS = (
    ("&&", "write and"),
    ("||", "write or"),
    ("<>", "write !="),
    ("===", "write =="),
    ("#", "a comment cannot stand here; put it on a line of its own in the file"),
    (";", "one expression, please"),
    ("`", "write texts in quotes"),
    ("$", "write the field's bare name"),
    ("?", "write A if CONDITION else B"),
)


def _syntax_tree(text: str) -> ast.expr:
    _hint_at_foreign_signs(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of odd escapes in texts.
            return ast.parse(text, mode="eval").body
    except SyntaxError as e:
        fail(text, min(max(1, e.offset or 1), len(text)), _syntax_text(e))
    except (ValueError, RecursionError, MemoryError):
        raise SpecError(f"{shown(text)}: is nested too deeply") from None


def _hint_at_foreign_signs(text: str) -> None:
    """A message of its own for signs of other languages; what stands in quotes is left alone."""
    bare = _QUOTED.sub(lambda m: " " * len(m[0]), text)
    for sign, hint in _HINTS:
        if sign in bare:
            fail(text, bare.index(sign) + 1, f"{sign} is not known here; {hint}")
    single = re.search(r"(?<![=!<>:*/+%-])=(?!=)", bare)
    if single:
        fail(text, single.start() + 1, "= is not known here; compare with ==")
    exclamation = re.search(r"!(?!=)", bare)
    if exclamation:
        fail(text, exclamation.start() + 1, "! is not known here; write not")


def _syntax_text(e: SyntaxError) -> str:
    message = e.msg or "invalid syntax"
    if "too many nested" in message or "too deeply" in message:
        return "is nested too deeply"
    if "integer string conversion" in message:
        return "a number does not fit 64 bits"
    return f"cannot be read ({message.partition('. Perhaps')[0]})"


@dataclass
class _Checker:
    """Refuses every node that it has no method for, and collects the names."""

    text: str
    known: Collection[str]
    names: list[str] = field(default_factory=list)

    def check(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SpecError(f"{shown(self.text)}: is nested too deeply")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            self._refuse(node, "this cannot stand here")
        for child in method(node):
            self.check(child, depth + 1)

    def _refuse(self, node: ast.expr, words: str) -> NoReturn:
        fail_at(self.text, node, f"{words}; allowed: {_ALLOWED}{', '.join(FUNCTIONS)}")

    def _constant(self, node: ast.Constant) -> list[ast.expr]:
        value = node.value
        if not isinstance(value, bool | int | float | str):
            self._refuse(node, f"{value!r} cannot stand here")
        if isinstance(value, float) and not math.isfinite(value):
            fail_at(self.text, node, "the number is too large")
        if isinstance(value, int) and not fits_64_bits(value):
            fail_at(self.text, node, "the number does not fit 64 bits")
        if isinstance(value, str) and not _QUOTED.fullmatch(source_of(self.text, node)):
            fail_at(self.text, node, "write a text as 'a' or \"a\", with a comma before the next")
        return []

    def _name(self, node: ast.Name) -> list[ast.expr]:
        if node.id in BOOLEANS:
            return []
        if node.id not in self.known:
            near = did_you_mean(node.id, [*self.known, *FUNCTIONS])
            fail_at(self.text, node, f"unknown name {node.id}{near or '; texts need quotes'}")
        self.names.append(node.id)
        return []

    def _unaryop(self, node: ast.UnaryOp) -> list[ast.expr]:
        if isinstance(node.op, ast.Invert):
            fail_at(self.text, node, _OTHER_SIGNS[ast.Invert])
        return [node.operand]

    def _binop(self, node: ast.BinOp) -> list[ast.expr]:
        if type(node.op) not in SIGNS:
            fail_at(self.text, node, _OTHER_SIGNS[type(node.op)])
        return [node.left, node.right]

    def _boolop(self, node: ast.BoolOp) -> list[ast.expr]:
        return node.values

    def _compare(self, node: ast.Compare) -> list[ast.expr]:
        for op in node.ops:
            if type(op) not in SIGNS:
                fail_at(self.text, node, _OTHER_SIGNS[type(op)])
        return [node.left, *node.comparators]

    def _ifexp(self, node: ast.IfExp) -> list[ast.expr]:
        return [node.test, node.body, node.orelse]

    def _list(self, node: ast.List | ast.Tuple) -> list[ast.expr]:
        return node.elts

    _tuple = _list

    def _call(self, node: ast.Call) -> list[ast.expr]:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            near = did_you_mean(name, FUNCTIONS)
            words = f"unknown function {name}{near}" if name else "this cannot be called"
            self._refuse(node, words)
        if node.keywords:
            fail_at(self.text, node, f"{node.func.id} takes no named arguments")
        fewest, most, _ = FUNCTIONS[node.func.id]
        if not fewest <= len(node.args) <= most:
            count = f"{fewest}" if fewest == most else f"{fewest} or more"
            fail_at(self.text, node, f"{node.func.id} takes {count} values, not {len(node.args)}")
        return node.args
