"""What an expression is worth: against hand, against Python, and where there is no value."""

import math
import operator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.space.expressions import parse
from tests.expression_kit import ENV, fault, value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32 / lora_rank", 4.0),
        ("32 // lora_rank", 4),
        ("lora_rank % 3 + 2 ** 3 - 1", 9),
        ("-lora_rank ** 2", -64),
        ("2 ** -1", 0.5),
        ("4 ** 0.5", 2.0),
        ("0 ** 0", 1),
        ("kl_coeff ** 0.0", 1.0),
        ("kl_coeff ** 2.5", 0.0),
        ("0.1 ** 400", 0.0),
        ("(1 + 2) * 3", 9),
        ("1 < lora_rank <= 8", True),
        ("1 < lora_rank < 8", False),
        ("not lora_rank == 8 or kl_coeff > 0", False),
        ("loss_type == 'dapo' and use_compile", True),
        ("loss_type in ['grpo', \"dapo\"]", True),
        ("loss_type not in ('grpo',)", True),
        ("'da' in loss_type", True),
        ("'int' in rewards", True),
        ("rewards == ['correctness', 'int']", True),
        ("8 in [8.0]", True),
        ("use_compile == true and not false", True),
        ("1e-5 if loss_type == 'dapo' else 1e-6", 1e-05),
        ("min(lora_rank, 4) + max([1, 2])", 6),
        ("round(2.5) + round(3.14159, 2)", 5.140000000000001),
        ("int(7.9) + floor(-0.5) + ceil(0.2)", 7),
        ("abs(-3) * sqrt(16) + float(1)", 13.0),
        ("log2(8) + log10(1000) + log(1) + exp(0)", 7.0),
        ("len(rewards) + len(loss_type)", 6),
        ("loss_type + '-x'", "dapo-x"),
        ("\n  lora_rank\n  > 4\t", True),
        ("'größe' != 'a' and lora_rank > 1", True),
    ],
)
def test_a_text_means_what_it_means_in_python(text, expected):
    """Values by hand, with the type that Python gives them."""
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("32 / kl_coeff", "column 1: division by zero (kl_coeff = 0.0)"),
        ("1 % (lora_rank - 8)", "division by zero (lora_rank = 8)"),
        ("kl_coeff ** -1", "division by zero (kl_coeff = 0.0)"),
        ("(-8) ** 0.5", "has no real value"),
        ("lora_rank + '1'", "column 13: + needs numbers, not '1' (a text)"),
        ("loss_type * 3", "column 1: * needs numbers, not loss_type = 'dapo' (a text)"),
        ("use_compile * 2", "true or false); write A if CONDITION else B"),
        ("loss_type % 2", "% needs numbers"),
        ("lora_rank == '8'", "lora_rank = 8 (a number) cannot be compared with '8' (a text)"),
        ("use_compile == 1", "cannot be compared with 1 (a number)"),
        ("loss_type < 'e'", "< needs numbers, not loss_type = 'dapo' (a text)"),
        ("lora_rank in 8", "in needs a list, not 8 (a number)"),
        ("lora_rank in loss_type", "in needs a list, not loss_type = 'dapo' (a text)"),
        ("lora_rank and use_compile", "and needs a condition, not lora_rank = 8 (a number)"),
        ("not kl_coeff", "not needs a condition"),
        ("1 if lora_rank else 2", "if needs a condition"),
        ("log(kl_coeff)", "log(0.0) has no value"),
        ("sqrt(-1)", "sqrt(-1) has no value"),
        ("round(1.5, 1000)", "round(1.5, 1000) has no value"),
        ("exp(1000)", "exp(1000) has no value"),
        ("max([])", "max() has no value"),
        ("max(rewards)", "max needs numbers"),
        ("len(8)", "len needs a list or a text"),
        ("2 ** 63", "does not fit 64 bits"),
        ("10 ** 10000000000", "does not fit 64 bits"),
        ("10.0 ** 10000000000", "is too large"),
        ("1e300 * 1e300", "is too large"),
        ("lora_rank ** 100", "does not fit 64 bits (lora_rank = 8)"),
    ],
)
def test_an_operation_without_a_value_says_why_and_with_which_values(text, words):
    """Types and ranges show only when the fields have values."""
    assert words in fault(text)


def test_a_condition_stops_where_it_is_settled():
    """What guards a division keeps it from being done."""
    assert value("kl_coeff == 0 or 1 / kl_coeff > 2") is True
    assert value("kl_coeff > 0 and 1 / kl_coeff > 2") is False
    assert value("0 if kl_coeff == 0 else 1 / kl_coeff") == 0


def test_joining_many_texts_costs_no_more_than_reading_them():
    """Each side of a + is computed once; twice would be 2 ** 40 steps."""
    assert value(" + ".join(["'a'"] * 40)) == "a" * 40


def test_a_name_without_a_value_is_told():
    """The caller's environment may hold less than the known names."""
    with pytest.raises(SpecError, match="lora_rank has no value here"):
        parse("lora_rank > 1", ENV).evaluate({})


_SAFE = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_COMPARE = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne}


@st.composite
def numbers(draw, depth=3):
    """A text and the number that Python gives for it, computed while it is built."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99) | st.floats(0, 99, allow_nan=False))
        return repr(number), number
    (left, a), (right, b) = draw(numbers(depth - 1)), draw(numbers(depth - 1))
    sign = draw(st.sampled_from([*_SAFE, "/", "//", "%", "neg", "if", "min"]))
    if sign == "neg":
        return f"-({left})", -a
    if sign == "if":
        condition, truth = draw(conditions(depth - 1))
        return f"(({left}) if {condition} else ({right}))", a if truth else b
    if sign == "min":
        return f"min({left}, {right})", min(a, b)
    if sign in _SAFE:
        result = _SAFE[sign](a, b)
    else:
        assume(b != 0)
        result = {"/": operator.truediv, "//": operator.floordiv, "%": operator.mod}[sign](a, b)
    assume(math.isfinite(result))
    return f"({left}) {sign} ({right})", result


@st.composite
def conditions(draw, depth=3):
    """A condition and its truth, computed while it is built."""
    kind = draw(st.sampled_from(["compare", "chain", "not", "and", "or", "in"]))
    if depth == 0 or kind in ("compare", "chain", "in"):
        (x, a), (y, b), (z, c) = [draw(numbers(max(0, depth - 1))) for _ in range(3)]
        first, second = draw(st.sampled_from([*_COMPARE])), draw(st.sampled_from([*_COMPARE]))
        if kind == "in":
            return f"(({x}) in [{y}, {z}])", a in [b, c]
        truth = _COMPARE[first](a, b)
        if kind == "chain":
            return f"(({x}) {first} ({y}) {second} ({z}))", truth and _COMPARE[second](b, c)
        return f"(({x}) {first} ({y}))", truth
    p, t = draw(conditions(depth - 1))
    if kind == "not":
        return f"(not {p})", not t
    q, u = draw(conditions(depth - 1))
    return f"({p} {kind} {q})", (t and u) if kind == "and" else (t or u)


@settings(max_examples=200, deadline=None)
@given(numbers())
def test_numbers_are_those_of_python(pair):
    """A formula built with its value beside it evaluates to the same bits and type."""
    text, expected = pair
    found = value(text)
    assert (found, type(found)) == (expected, type(expected))


@settings(max_examples=200, deadline=None)
@given(conditions())
def test_conditions_are_those_of_python(pair):
    """A condition built with its truth beside it holds where it should."""
    text, expected = pair
    assert parse(text, ENV).holds(ENV) is expected
