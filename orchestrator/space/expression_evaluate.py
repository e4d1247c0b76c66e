"""A checked syntax tree -> its value, for given values of the config fields.

Nothing is compiled or run as Python: a walk over the nodes computes the value. Every number on the
way is finite and fits 64 bits, so no text costs more than its length.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.space.expression_check import BOOLEANS
from orchestrator.space.expression_faults import SIGNS, fail_at, kind_of, source_of
from orchestrator.space.expression_functions import DECIMAL, FUNCTIONS, fits_64_bits

Value = bool | int | float | str | list[Any]

# Longer is no value of a field.
MAX_TEXT = 10_000

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


def evaluate(text: str, tree: ast.expr, env: Mapping[str, Any]) -> Value:
    """The value of a checked tree where the fields are as `env` says.

    Raises SpecError with the text, the column and the values where an operation has none.
    """
    return _Evaluation(text, env).value(tree)


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
        if node.id in BOOLEANS:
            return BOOLEANS[node.id]
        if node.id not in self.env:
            fail_at(self.text, node, f"{node.id} has no value here")
        return self.env[node.id]  # type: ignore[no-any-return]

    def _list(self, node: ast.List | ast.Tuple) -> Value:
        return [self.value(item) for item in node.elts]

    _tuple = _list

    def _ifexp(self, node: ast.IfExp) -> Value:
        return self.value(node.body if self._truth(node.test, "if") else node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Value:
        ends = isinstance(node.op, ast.Or)  # The value that settles it.
        sign = SIGNS[type(node.op)]
        return ends if any(self._truth(v, sign) is ends for v in node.values) else not ends

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return not self._truth(node.operand, "not")
        value = self._number(node.operand, SIGNS[type(node.op)])
        return self._result(node, -value if isinstance(node.op, ast.USub) else value)

    def _binop(self, node: ast.BinOp) -> Value:
        sign = SIGNS[type(node.op)]
        left, right = self.value(node.left), self.value(node.right)
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            return self._joined(node, left, right)
        x, y = self._as_number(node.left, left, sign), self._as_number(node.right, right, sign)
        if sign in ("/", "//", "%") and y == 0:
            fail_at(self.text, node, f"division by zero{self._values(node)}")
        if sign == "**":
            return self._result(node, self._power(node, x, y))
        return self._result(node, _ARITHMETIC[type(node.op)](x, y))

    def _joined(self, node: ast.BinOp, left: str, right: str) -> str:
        if len(left) + len(right) > MAX_TEXT:
            fail_at(self.text, node, f"makes a text of more than {MAX_TEXT:,} characters")
        return left + right

    def _power(self, node: ast.BinOp, base: float, exponent: float) -> float:
        if base == 0 and exponent < 0:
            fail_at(self.text, node, f"division by zero{self._values(node)}")
        if base < 0 and exponent != int(exponent):
            fail_at(self.text, node, f"has no real value{self._values(node)}")
        if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
            if abs(base) > 1 and exponent > 64:
                fail_at(self.text, node, f"does not fit 64 bits{self._values(node)}")
            return base**exponent  # type: ignore[no-any-return]
        if base == 0 or exponent == 0:  # Decimal leaves 0 ** 0 undefined; Python says 1.
            return float(base**exponent)
        size = exponent * math.log10(abs(base))
        if size > 310:
            fail_at(self.text, node, f"is too large{self._values(node)}")
        return 0.0 if size < -330 else float(DECIMAL.power(Decimal(base), Decimal(exponent)))

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
        if kind_of(a) != kind_of(b):
            fail_at(
                self.text,
                left[0],
                f"{self._named(*left)} cannot be compared with {self._named(*right)}",
            )
        if isinstance(op, ast.Eq | ast.NotEq):
            return (a == b) is isinstance(op, ast.Eq)
        sign = SIGNS[type(op)]
        return _ORDER[type(op)](self._as_number(*left, sign), self._as_number(*right, sign))

    def _within(self, left: tuple[ast.expr, Value], right: tuple[ast.expr, Value]) -> bool:
        item, among = left[1], right[1]
        if isinstance(among, str) and isinstance(item, str):
            return item in among
        if not isinstance(among, list):
            fail_at(self.text, right[0], f"in needs a list, not {self._named(*right)}")
        return any(self._compared(ast.Eq(), left, (right[0], other)) for other in among)

    def _call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)  # The check let nothing else through.
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
            fail_at(self.text, node, f"{name}({given}) has no value")

    def _length(self, node: ast.expr) -> Value:
        value = self.value(node)
        if not isinstance(value, str | list):
            fail_at(self.text, node, f"len needs a list or a text, not {self._named(node, value)}")
        return len(value)

    # --- values, and how messages show them

    def _truth(self, node: ast.expr, sign: str) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            fail_at(self.text, node, f"{sign} needs a condition, not {self._named(node, value)}")
        return value

    def _number(self, node: ast.expr, sign: str) -> float:
        return self._as_number(node, self.value(node), sign)

    def _as_number(self, node: ast.expr, value: Value, sign: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "; write A if CONDITION else B" if isinstance(value, bool) else ""
            fail_at(self.text, node, f"{sign} needs numbers, not {self._named(node, value)}{hint}")
        return value

    def _result(self, node: ast.expr, value: float) -> float:
        if isinstance(value, int) and not fits_64_bits(value):
            fail_at(self.text, node, f"does not fit 64 bits{self._values(node)}")
        if isinstance(value, float) and not math.isfinite(value):
            fail_at(self.text, node, f"is too large{self._values(node)}")
        return value

    def _named(self, node: ast.expr, value: Value) -> str:
        """`batch_size = 4 (a number)`, or the bare value where it is written out."""
        source = source_of(self.text, node)
        text = f"{value!r} ({kind_of(value)})"
        return (
            text if isinstance(node, ast.Constant | ast.List | ast.Tuple) else f"{source} = {text}"
        )

    def _values(self, node: ast.expr) -> str:
        """` (lora_rank = 0)`: the fields under a node with their values."""
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in self.env]
        values = ", ".join(f"{name} = {self.env[name]!r}" for name in dict.fromkeys(names))
        return f" ({values})" if values else ""
