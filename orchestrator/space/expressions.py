"""Formulas and conditions of a sweep spec: text -> Expression, by a whitelisted syntax tree.

Behind `when`, `[derive]`, `[[exclude]]` and `[[require]]`. Python's parser reads the text, but only
the nodes named here are understood, and a walk over them computes the value: nothing is ever
compiled or run as Python. Every value is finite and fits 64 bits, so no text costs more than its
length. What the results are used for is `rules.py`'s and `space.py`'s business.
"""

import ast
import math
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, NoReturn

from grpo_core.config import did_you_mean
from orchestrator.errors import SpecError

# Longer or deeper is a program, not a condition.
MAX_LENGTH = 1000
MAX_DEPTH = 50
MAX_TEXT = 10_000

ALLOWED = (
    "numbers, texts in quotes, true/false, config fields, lists, comparisons, and/or/not, in, "
    "+ - * / // % **, A if C else B, and the functions "
)

# Decimal arithmetic is software: its results are the same on every machine, where those of the
# C library's log, exp and pow may differ in the last bit.
_DECIMAL = Context(prec=34, Emax=1_000_000, Emin=-1_000_000)

Value = bool | int | float | str | list[Any]


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
        return _Evaluation(self.text, env).value(self.tree)

    def holds(self, env: Mapping[str, Any]) -> bool:
        """The value of a condition; SpecError where it is neither true nor false."""
        value = self.evaluate(env)
        if not isinstance(value, bool):
            raise SpecError(
                f"{_shown(self.text)}: gives {value!r}, {_kind(value)}; "
                "a condition must be true or false, such as x > 0"
            )
        return value


def parse(text: str, known: Collection[str]) -> Expression:
    """The expression that a text stands for; `known` are the names that it may use.

    Raises SpecError with the column (in the text without blanks around it) and what is allowed.
    """
    # One line: an expression may be wrapped in the file.
    text = re.sub(r"[\t\r\n]", " ", text).strip()
    _check_text(text)
    tree = _syntax_tree(text)
    reader = _Reader(text, known)
    reader.check(tree, 0)
    return Expression(text, tuple(dict.fromkeys(reader.names)), tree)


def in_order(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The keys, each after those of its needs that are keys too; else in the given order.

    Raises SpecError that names the circle where there is one.
    """
    waiting = dict(needs)
    ordered: list[str] = []
    while waiting:
        ready = next((k for k, names in waiting.items() if not waiting.keys() & set(names)), None)
        if ready is None:
            circle = _circle(waiting)
            raise SpecError(f"{circle[0]} needs itself: {' <- '.join(circle)}")
        ordered.append(ready)
        del waiting[ready]
    return tuple(ordered)


def _circle(needs: Mapping[str, Collection[str]]) -> list[str]:
    """A way from a key back to itself; every key has a need among the keys."""
    path = [next(iter(needs))]
    while True:
        following = next(name for name in needs[path[-1]] if name in needs)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


# --- text -> syntax tree


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise SpecError(
            f"{_shown(text)}: has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed"
        )
    if not text:
        raise SpecError("an empty expression; write a formula such as 32 / lora_rank")
    for column, c in enumerate(text, start=1):
        if unicodedata.category(c) in ("Cc", "Cs"):
            _fail(text, column, f"{c!r} is a control character")


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
        _fail(text, min(max(1, e.offset or 1), len(text)), _syntax_words(e))
    except (ValueError, RecursionError, MemoryError):
        raise SpecError(f"{_shown(text)}: is nested too deeply") from None


def _hint_at_foreign_signs(text: str) -> None:
    """Signs of other languages get their own word; what stands in quotes is left alone."""
    bare = _QUOTED.sub(lambda m: " " * len(m[0]), text)
    for sign, hint in _HINTS:
        if sign in bare:
            _fail(text, bare.index(sign) + 1, f"{sign} is not known here; {hint}")
    single = re.search(r"(?<![=!<>:*/+%-])=(?!=)", bare)
    if single:
        _fail(text, single.start() + 1, "= is not known here; compare with ==")
    exclamation = re.search(r"!(?!=)", bare)
    if exclamation:
        _fail(text, exclamation.start() + 1, "! is not known here; write not")


def _syntax_words(e: SyntaxError) -> str:
    message = e.msg or "invalid syntax"
    if "too many nested" in message or "too deeply" in message:
        return "is nested too deeply"
    if "integer string conversion" in message:
        return "a number does not fit 64 bits"
    return f"cannot be read ({message.partition('. Perhaps')[0]})"


# --- what may stand in the tree

# A power has a method of its own.
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SIGNS = {
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
_BOOLEANS = {"true": True, "false": False}


@dataclass
class _Reader:
    """Refuses every node that is not on the list, and collects the names."""

    text: str
    known: Collection[str]
    names: list[str] = field(default_factory=list)

    def check(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SpecError(f"{_shown(self.text)}: is nested too deeply")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            self._refuse(node, "this cannot stand here")
        for child in method(node):
            self.check(child, depth + 1)

    def _refuse(self, node: ast.expr, words: str) -> NoReturn:
        _fail_at(self.text, node, f"{words}; allowed: {ALLOWED}{', '.join(FUNCTIONS)}")

    def _constant(self, node: ast.Constant) -> list[ast.expr]:
        value = node.value
        if not isinstance(value, bool | int | float | str):
            self._refuse(node, f"{value!r} cannot stand here")
        if isinstance(value, float) and not math.isfinite(value):
            _fail_at(self.text, node, "the number is too large")
        if isinstance(value, int) and _too_large(value):
            _fail_at(self.text, node, "the number does not fit 64 bits")
        if isinstance(value, str) and not _QUOTED.fullmatch(_source(self.text, node)):
            _fail_at(self.text, node, "write a text as 'a' or \"a\", with a comma before the next")
        return []

    def _name(self, node: ast.Name) -> list[ast.expr]:
        if node.id in _BOOLEANS:
            return []
        if node.id not in self.known:
            near = did_you_mean(node.id, [*self.known, *FUNCTIONS])
            _fail_at(self.text, node, f"unknown name {node.id}{near or '; texts need quotes'}")
        self.names.append(node.id)
        return []

    def _unaryop(self, node: ast.UnaryOp) -> list[ast.expr]:
        if isinstance(node.op, ast.Invert):
            _fail_at(self.text, node, _OTHER_SIGNS[ast.Invert])
        return [node.operand]

    def _binop(self, node: ast.BinOp) -> list[ast.expr]:
        if type(node.op) not in _SIGNS:
            _fail_at(self.text, node, _OTHER_SIGNS[type(node.op)])
        return [node.left, node.right]

    def _boolop(self, node: ast.BoolOp) -> list[ast.expr]:
        return node.values

    def _compare(self, node: ast.Compare) -> list[ast.expr]:
        for op in node.ops:
            if type(op) not in _SIGNS:
                _fail_at(self.text, node, _OTHER_SIGNS[type(op)])
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
            _fail_at(self.text, node, f"{node.func.id} takes no named arguments")
        fewest, most, _ = FUNCTIONS[node.func.id]
        if not fewest <= len(node.args) <= most:
            count = f"{fewest}" if fewest == most else f"{fewest} or more"
            _fail_at(self.text, node, f"{node.func.id} takes {count} values, not {len(node.args)}")
        return node.args


# --- the tree's value


@dataclass
class _Evaluation:
    """One walk over a checked tree."""

    text: str
    env: Mapping[str, Any]

    def value(self, node: ast.expr) -> Value:
        return getattr(self, f"_{type(node).__name__.lower()}")(node)  # type: ignore[no-any-return]

    def _constant(self, node: ast.Constant) -> Value:
        return node.value  # type: ignore[return-value]

    def _name(self, node: ast.Name) -> Value:
        if node.id in _BOOLEANS:
            return _BOOLEANS[node.id]
        if node.id not in self.env:
            _fail_at(self.text, node, f"{node.id} has no value here")
        return self.env[node.id]  # type: ignore[no-any-return]

    def _list(self, node: ast.List | ast.Tuple) -> Value:
        return [self.value(item) for item in node.elts]

    _tuple = _list

    def _ifexp(self, node: ast.IfExp) -> Value:
        return self.value(node.body if self._truth(node.test, "if") else node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Value:
        ends = isinstance(node.op, ast.Or)  # The value that settles it.
        sign = _SIGNS[type(node.op)]
        return ends if any(self._truth(v, sign) is ends for v in node.values) else not ends

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return not self._truth(node.operand, "not")
        value = self._number(node.operand, _SIGNS[type(node.op)])
        return self._result(node, -value if isinstance(node.op, ast.USub) else value)

    def _binop(self, node: ast.BinOp) -> Value:
        sign = _SIGNS[type(node.op)]
        left, right = self.value(node.left), self.value(node.right)
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            return self._joined(node, left, right)
        x, y = self._as_number(node.left, left, sign), self._as_number(node.right, right, sign)
        if sign in ("/", "//", "%") and y == 0:
            _fail_at(self.text, node, f"division by zero{self._values(node)}")
        if sign == "**":
            return self._result(node, self._power(node, x, y))
        return self._result(node, _ARITHMETIC[type(node.op)](x, y))

    def _joined(self, node: ast.BinOp, left: str, right: str) -> str:
        if len(left) + len(right) > MAX_TEXT:
            _fail_at(self.text, node, f"makes a text of more than {MAX_TEXT:,} characters")
        return left + right

    def _power(self, node: ast.BinOp, base: float, exponent: float) -> float:
        if base == 0 and exponent < 0:
            _fail_at(self.text, node, f"division by zero{self._values(node)}")
        if base < 0 and exponent != int(exponent):
            _fail_at(self.text, node, f"has no real value{self._values(node)}")
        if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
            if abs(base) > 1 and exponent > 64:
                _fail_at(self.text, node, f"does not fit 64 bits{self._values(node)}")
            return base**exponent  # type: ignore[no-any-return]
        if base == 0 or exponent == 0:  # Decimal leaves 0 ** 0 undefined; Python says 1.
            return float(base**exponent)
        size = exponent * math.log10(abs(base))
        if size > 310:
            _fail_at(self.text, node, f"is too large{self._values(node)}")
        return 0.0 if size < -330 else float(_DECIMAL.power(Decimal(base), Decimal(exponent)))

    def _compare(self, node: ast.Compare) -> Value:
        left_node, left = node.left, self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if not self._compared(op, (left_node, left), (right_node, right)):
                return False
            left_node, left = right_node, right
        return True

    def _compared(
        self, op: ast.cmpop, left: tuple[ast.expr, Value], right: tuple[ast.expr, Value]
    ) -> bool:
        if isinstance(op, ast.In | ast.NotIn):
            return self._within(left, right) is isinstance(op, ast.In)
        a, b = left[1], right[1]
        if _kind(a) != _kind(b):
            _fail_at(
                self.text,
                left[0],
                f"{self._named(*left)} cannot be compared with {self._named(*right)}",
            )
        if isinstance(op, ast.Eq | ast.NotEq):
            return (a == b) is isinstance(op, ast.Eq)
        sign = _SIGNS[type(op)]
        return _ORDER[type(op)](self._as_number(*left, sign), self._as_number(*right, sign))

    def _within(self, left: tuple[ast.expr, Value], right: tuple[ast.expr, Value]) -> bool:
        item, among = left[1], right[1]
        if isinstance(among, str) and isinstance(item, str):
            return item in among
        if not isinstance(among, list):
            _fail_at(self.text, right[0], f"in needs a list, not {self._named(*right)}")
        return any(self._compared(ast.Eq(), left, (right[0], other)) for other in among)

    def _call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)  # The reader let nothing else through.
        name = node.func.id
        if name == "len":
            return self._length(node.args[0])
        values: list[float] = []
        for argument in node.args:
            value = self.value(argument)
            items = value if isinstance(value, list) and name in ("min", "max") else [value]
            values.extend(self._as_number(argument, item, name) for item in items)
        try:
            return self._result(node, FUNCTIONS[name][2](*values))
        except (ValueError, TypeError, OverflowError):
            given = ", ".join(repr(value) for value in values)
            _fail_at(self.text, node, f"{name}({given}) has no value")

    def _length(self, node: ast.expr) -> Value:
        value = self.value(node)
        if not isinstance(value, str | list):
            _fail_at(self.text, node, f"len needs a list or a text, not {self._named(node, value)}")
        return len(value)

    # --- values and how they are told

    def _truth(self, node: ast.expr, sign: str) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            _fail_at(self.text, node, f"{sign} needs a condition, not {self._named(node, value)}")
        return value

    def _number(self, node: ast.expr, sign: str) -> float:
        return self._as_number(node, self.value(node), sign)

    def _as_number(self, node: ast.expr, value: Value, sign: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "; write A if CONDITION else B" if isinstance(value, bool) else ""
            _fail_at(self.text, node, f"{sign} needs numbers, not {self._named(node, value)}{hint}")
        return value

    def _result(self, node: ast.expr, value: float) -> float:
        if isinstance(value, int) and _too_large(value):
            _fail_at(self.text, node, f"does not fit 64 bits{self._values(node)}")
        if isinstance(value, float) and not math.isfinite(value):
            _fail_at(self.text, node, f"is too large{self._values(node)}")
        return value

    def _named(self, node: ast.expr, value: Value) -> str:
        """`batch_size = 4 (a number)`, or the bare value where it is written out."""
        source = _source(self.text, node)
        text = f"{value!r} ({_kind(value)})"
        return (
            text if isinstance(node, ast.Constant | ast.List | ast.Tuple) else f"{source} = {text}"
        )

    def _values(self, node: ast.expr) -> str:
        """` (lora_rank = 0)`: the fields under a node with their values."""
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in self.env]
        told = ", ".join(f"{name} = {self.env[name]!r}" for name in dict.fromkeys(names))
        return f" ({told})" if told else ""


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list"


def _too_large(value: int) -> bool:
    return not -(2**63) <= value < 2**63


# --- functions


def _logarithm(value: float, base: int = 0) -> float:
    if value <= 0:
        raise ValueError
    if base == 10:
        return float(Decimal(value).log10(_DECIMAL))
    natural = Decimal(value).ln(_DECIMAL)
    return float(_DECIMAL.divide(natural, Decimal(base).ln(_DECIMAL)) if base else natural)


def _exponential(value: float) -> float:
    if value > 710:
        raise OverflowError
    return 0.0 if value < -750 else float(Decimal(value).exp(_DECIMAL))


def _rounded(value: float, digits: float = 0) -> float:
    if not isinstance(digits, int) or abs(digits) > 20:
        raise ValueError
    return round(value, digits) if digits else round(value)


# name: fewest and most arguments, what it does. `min` and `max` take lists too.
FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "min": (1, 100, lambda *values: min(values)),
    "max": (1, 100, lambda *values: max(values)),
    "abs": (1, 1, abs),
    "round": (1, 2, _rounded),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "int": (1, 1, int),
    "float": (1, 1, float),
    "sqrt": (1, 1, math.sqrt),
    "exp": (1, 1, _exponential),
    "log": (1, 1, _logarithm),
    "log2": (1, 1, lambda value: _logarithm(value, 2)),
    "log10": (1, 1, lambda value: _logarithm(value, 10)),
    "len": (1, 1, len),
}


# --- messages


def _fail(text: str, column: int, words: str) -> NoReturn:
    raise SpecError(f"{_shown(text)}, column {column}: {words}")


def _fail_at(text: str, node: ast.expr, words: str) -> NoReturn:
    _fail(text, _character(text, node.col_offset) + 1, words)


def _character(text: str, offset: int) -> int:
    """The index of the character at a byte offset; the syntax tree counts bytes."""
    return len(text.encode()[:offset].decode(errors="ignore"))


def _source(text: str, node: ast.expr) -> str:
    end = node.end_col_offset if node.end_col_offset is not None else len(text.encode())
    return text.encode()[node.col_offset : end].decode(errors="ignore")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:97]}...")
