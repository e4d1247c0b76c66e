"""What may stand in an expression: all else is refused, with its place and a hint."""

import sys

import pytest

from orchestrator.errors import SpecError
from orchestrator.space.expressions import parse
from tests.expression_kit import ENV, fault, value


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


def test_the_names_are_told_in_order_of_appearance():
    """Functions, booleans and texts are no names."""
    expression = parse("max(lora_rank, 2) > 1 and loss_type == 'batch_size' or lora_rank > 3", ENV)
    assert expression.names == ("lora_rank", "loss_type")


def test_columns_count_characters_not_bytes():
    """Letters outside of ASCII stand before the fault."""
    assert "column 19: unknown name foo" in fault("'größe' == 'ä' or foo")


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
