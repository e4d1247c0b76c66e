"""Expressions of a sweep spec: what they mean, what is refused, and that no text hurts."""

import contextlib
import math
import operator
import random
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.space.expressions import FUNCTIONS, in_order, parse

ENV = {
    "lora_rank": 8,
    "batch_size": 4,
    "learning_rate": 1e-05,
    "kl_coeff": 0.0,
    "loss_type": "dapo",
    "use_compile": True,
    "rewards": ["correctness", "int"],
}


def value(text, **more):
    return parse(text, ENV).evaluate({**ENV, **more})


def fault(text, **more):
    """The message with which a text is refused, on reading or on evaluation."""
    with pytest.raises(SpecError) as caught:
        value(text, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        ("lora_rnk > 1", "column 1: unknown name lora_rnk; did you mean lora_rank?"),
        ("dapo == loss_type", "column 1: unknown name dapo; texts need quotes"),
        ("lora_rank = 8", "column 11: = is not known here; compare with =="),
        ("lora_rank > 1 && true", "column 15: && is not known here; write and"),
        ("lora_rank > 1 & true", "& is not known here; write and"),
        ("!use_compile", "column 1: ! is not known here; write not"),
        ("lora_rank ^ 2", "^ is not known here; a power is **"),
        ("lora_rank is 8", "is cannot stand here; write =="),
        ("lora_rank > 1 # big", "column 15: # is not known here; a comment"),
        ("lora_rank >", "cannot be read"),
        ("(lora_rank", "column 1: cannot be read ('(' was never closed)"),
        ("", "an empty expression"),
        ("  \n ", "an empty expression"),
        ("a" * 1001, "has 1,001 characters; at most 1,000"),
        ("(" * 300 + "1" + ")" * 300, "nested too deeply"),
        ("-" * 900 + "1", "nested too deeply"),
        ("1 + " * 200 + "1", "nested too deeply"),
        ("9" * 30, "does not fit 64 bits"),
        ("1e999", "the number is too large"),
        ("1j", "1j cannot stand here"),
        ("b'a' == loss_type", "cannot stand here"),
        ("None", "None cannot stand here"),
        ("loss_type in ['a' 'b']", "with a comma before the next"),
        ("'\x07'", "control character"),
        ("lora_rank.bit_length()", "this cannot be called; allowed: numbers"),
        ("rewards[0]", "this cannot stand here; allowed: numbers"),
        ("loss_type.upper", "this cannot stand here"),
        ("__import__('os')", "unknown function __import__"),
        ("eval('1')", "unknown function eval"),
        ("maxx(1, 2)", "unknown function maxx; did you mean max?"),
        ("round(1, ndigits=2)", "= is not known here"),
        ("max(**rewards)", "max takes no named arguments"),
        ("sqrt(1, 2)", "sqrt takes 1 values, not 2"),
        ("max(*rewards)", "this cannot stand here"),
        ("lambda: 1", "this cannot stand here"),
        ("f'{lora_rank}'", "this cannot stand here"),
        ("[x for x in rewards]", "this cannot stand here"),
        ("{'a': 1}", "this cannot stand here"),
        ("(x := 1)", "this cannot stand here"),
        ("1; 2", "; is not known here"),
        ("lora_rank > 1, 2", None),
    ],
)
def test_what_is_not_on_the_list_is_refused_with_its_place(text, words):
    """Each refusal says where it stands and what to write instead."""
    if words is None:
        assert value(text) == [True, 2]  # A tuple is a list; as a condition it is refused.
        with pytest.raises(SpecError, match="a condition must be true or false"):
            parse(text, ENV).holds(ENV)
    else:
        assert words in fault(text)


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


def test_a_condition_must_be_true_or_false():
    """A number is no condition, whatever Python thinks of it."""
    with pytest.raises(SpecError, match=r"'lora_rank': gives 8, a number; a condition must be"):
        parse("lora_rank", ENV).holds(ENV)


def test_the_names_are_told_in_order_of_appearance():
    """Functions, booleans and texts are no names."""
    expression = parse("max(lora_rank, 2) > 1 and loss_type == 'batch_size' or lora_rank > 3", ENV)
    assert expression.names == ("lora_rank", "loss_type")


def test_a_name_without_a_value_is_told():
    """The caller's environment may hold less than the known names."""
    with pytest.raises(SpecError, match="lora_rank has no value here"):
        parse("lora_rank > 1", ENV).evaluate({})


def test_columns_count_characters_not_bytes():
    """Letters outside of ASCII stand before the fault."""
    assert "column 19: unknown name foo" in fault("'größe' == 'ä' or foo")


# --- against an oracle

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


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-5, 5))
def test_powers_and_logarithms_are_within_a_bit_of_the_c_library(x, y):
    """Computed in decimal so that every machine agrees, and still the right number."""
    assert value(f"{x!r} ** {y!r}") == pytest.approx(x**y, rel=1e-15)
    assert value(f"log({x!r})") == pytest.approx(math.log(x), rel=1e-15, abs=1e-300)
    assert value(f"exp({y!r})") == pytest.approx(math.exp(y), rel=1e-15)
    assert value(f"log10({x!r})") == pytest.approx(math.log10(x), rel=1e-14, abs=1e-300)


# --- no text hurts

PIECES = [
    *ENV,
    *FUNCTIONS,
    *"+-*/%()[]{}<>=!&|^~.,:;'\"\\#@$?`_ \t\n",
    *("**", "//", "==", "and", "or", "not", "in", "is", "if", "else", "lambda", "for", "None"),
    *("1", "0", "2.5", "1e-5", "1e308", "99999999999999999999", "0x1f", "1j", "True", "true"),
    *("__import__", "os", "__class__", "'a'", '"b"', "f'{1}'", "b'x'", "\x00", "\x1b", "é", "𝐱"),
    *("\ud800", "10**10**10", "'a'*9999999", "1<<9999", ":=", "yield", "await", "\u2028"),
]
GOOD = [
    "lora_rank * batch_size <= 64",
    "32 / lora_rank",
    "loss_type in ['grpo', 'dapo'] and kl_coeff > 0",
    "max(lora_rank, batch_size) ** 2 > 10 or not use_compile",
    "1e-5 if loss_type == 'dapo' else 10 ** -6",
]


def _mutated(rng):
    """A good text with a few pieces dropped, doubled or put in."""
    text = list(rng.choice(GOOD))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.randint(0, 3)] = rng.choice(([], [rng.choice(PIECES)]))
    return "".join(text)


def test_ten_thousand_random_texts_only_ever_raise_our_error():
    """Soup of tokens and mutated good texts: a value or a SpecError of one line."""
    rng = random.Random(6)
    texts = [
        "".join(rng.choices(PIECES, k=rng.randint(1, 12))) if rng.random() < 0.5 else _mutated(rng)
        for _ in range(10_000)
    ]
    values = 0
    for text in texts:
        try:
            value(text)
            values += 1
        except SpecError as e:
            assert "\n" not in str(e)
    assert values > 100  # The soup holds good texts too.


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_unicode_text_is_a_value_or_our_error(text):
    """Whatever stands in a file."""
    with contextlib.suppress(SpecError):
        value(text)


def test_no_python_is_compiled(monkeypatch):
    """The only use of the compiler is Python's parser for the syntax tree."""
    flags = []
    real = compile

    def spy(source, filename, mode, *args, **kwargs):
        flags.append((kwargs.get("flags") or args[0]) & 0x400)
        return real(source, filename, mode, *args, **kwargs)

    monkeypatch.setattr(sys.modules["ast"], "compile", spy, raising=False)
    assert value("lora_rank * 2") == 16
    assert flags == [0x400]  # PyCF_ONLY_AST


# --- order


def test_keys_come_after_what_they_need_and_else_in_order():
    """Needs that are no keys do not count."""
    assert in_order({"c": ["b", "x"], "b": [], "a": ["c"]}) == ("b", "c", "a")
    assert in_order({"z": [], "y": [], "x": []}) == ("z", "y", "x")


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"a": ["a"]}, "a needs itself: a <- a"),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b needs itself: b <- c <- b"),
    ],
)
def test_a_circle_is_named(needs, words):
    """The way round is told, without what only leads to it."""
    with pytest.raises(SpecError, match=words):
        in_order(needs)


@given(st.dictionaries(st.integers(0, 8), st.frozensets(st.integers(0, 8)), max_size=9))
def test_an_order_exists_exactly_where_no_circle_is(graph):
    """Against a brute-force closure of the needs."""
    needs = {str(k): [str(v) for v in sorted(values)] for k, values in graph.items()}
    reach = {k: set(v) & needs.keys() for k, v in needs.items()}
    for _ in needs:
        reach = {k: v | {w for u in v for w in reach[u]} for k, v in reach.items()}
    if any(k in v for k, v in reach.items()):
        with pytest.raises(SpecError, match="needs itself"):
            in_order(needs)
    else:
        order = in_order(needs)
        assert sorted(order) == sorted(needs)
        assert all(order.index(n) < order.index(k) for k in needs for n in reach[k])
