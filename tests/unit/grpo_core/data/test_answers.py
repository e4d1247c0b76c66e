"""What an answer is, and which answers are the same."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.data.answers import (
    extract_answer,
    is_correct,
    is_whole_number,
    parse_number,
    reference_answer,
    same_answer,
)

SAME = [
    ("1,000", "1000"),
    ("1000", "1,000"),
    ("1,234,567.50", "1234567.5"),
    ("$18", "18"),
    ("\\$18", "18"),
    ("18 €", "18"),
    ("18.0", "18"),
    ("18.", "18"),
    ("$18.00.", "18"),
    ("+3", "3"),
    ("-3", "-3"),
    ("\u22123", "-3"),  # minus sign
    ("\u20133", "-3"),  # en dash
    ("-$3", "-3"),
    ("$-3", "-3"),
    ("1/2", "0.5"),
    ("-1 / 2", "-.5"),
    ("\u00bd", "0.5"),  # one half as one character
    ("50%", "50"),
    ("50 %.", "50"),
    ("1e3", "1000"),
    ("2.5E-1", "0.25"),
    ("\uff11\uff18", "18"),  # full-width digits
    ("  72\n", "72"),
    ("Paris", "paris"),
    (" New \n York. ", "new york"),
    ("STRASSE", "straße"),
]

DIFFERENT = [
    ("1,000", "100"),
    ("1,00", "100"),  # no thousands are grouped so
    ("3", "-3"),
    ("--3", "3"),
    ("-$-3", "3"),
    ("50%", "0.5"),
    ("18 dollars", "18"),
    ("18 19", "18"),
    ("", "18"),
    ("1/0", "0"),
    ("1e9999", "1"),
    ("0." + "3" * 100, "0.3333"),
    ("London", "Paris"),
    ("", "Paris"),
    (" ", "."),
]


@pytest.mark.parametrize(("given_answer", "wanted"), SAME)
def test_equal_answers_are_the_same(given_answer, wanted):
    """Numbers are compared as numbers, texts without regard to case and spacing."""
    assert same_answer(given_answer, wanted)


@pytest.mark.parametrize(("given_answer", "wanted"), DIFFERENT)
def test_unequal_answers_are_not_the_same(given_answer, wanted):
    """What is not the number or text that is wanted gets no credit."""
    assert not same_answer(given_answer, wanted)


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_is_read_in_each_way_of_writing_it(n):
    """Thousands separators, a currency sign, a fraction of zeros and a period change nothing."""
    for text in (f"{n}", f"{n:,}", f"${n}", f"{n}.00", f"{n}.", f" {n} %"):
        assert parse_number(text) == n


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_read_exactly(fraction):
    """No float comes in between."""
    assert parse_number(f"{fraction.numerator}/{fraction.denominator}") == fraction


@settings(deadline=None)
@given(st.integers(-99, 99), st.integers(-99, 99))
def test_only_equal_numbers_are_the_same(a, b):
    """However they are written, 12 is not 21."""
    assert same_answer(f"${a:,}.0", f"{b}") == (a == b)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_without_an_error(text):
    """A completion may hold anything."""
    number = parse_number(text)
    assert number is None or isinstance(number, Fraction)
    assert isinstance(is_whole_number(text), bool)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>72</answer>", "72"),
        ("<answer>\n72\n</answer>\n", "72"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),
        ("<answer>a <answer>2</answer>", "2"),
        ("<answer></answer>", ""),
        ("<answer>72", None),
        ("72</answer>", None),
        ("</answer>72<answer>", None),
        ("72", None),
        ("", None),
    ],
)
def test_the_answer_stands_in_the_last_pair_of_tags(text, answer):
    """The last pair that is closed counts; without one there is no answer."""
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<reasoning>\n48+24\n</reasoning>\n<answer>\n72\n</answer>\n", True),
        ("<answer>$72.00</answer>", True),
        ("<answer>72</answer> or <answer>71</answer>", False),
        ("The answer is 72", False),
        ("#### 72", False),
        ("", False),
    ],
)
def test_exact_match_needs_the_tags_and_the_number(text, right):
    """An answer without tags gets no credit, right as it may be."""
    assert is_correct(text, "72") is right


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48/2 = <<48/2=24>>24\n#### 72", "72"),
        ("a #### b #### 1,080 ", "1,080"),
        ("72", "72"),
        ("Paris\n", "Paris"),
        ("working ####  ", ""),
    ],
)
def test_a_reference_answer_is_what_follows_the_hashes(text, answer):
    """GSM8K puts its working before `####`."""
    assert reference_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("72", True),
        ("-3", True),
        ("\u22123", True),
        ("1,000", True),
        (" 72\n", True),
        ("72.0", False),
        ("$72", False),
        ("72 apples", False),
        ("1,00", False),
        ("", False),
        ("seventy-two", False),
    ],
)
def test_a_whole_number_is_one_as_it_is_written(text, whole):
    """The int reward teaches the form, so 72.0 and $72 are none."""
    assert is_whole_number(text) is whole
