"""Positions of keys in a TOML text, which tomli does not give."""

import tomli
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec.positions import Position, find_positions, key_text

TEXT = """\
# a comment with = and [brackets]
name = "x # not a comment"
seeds = [0, 1,
         2]  # the last stands on its own line
text = \"\"\"
[params]
fake = 1
\"\"\"

[set]
"quoted.key" = 'C:\\path'
a.b = 1

  [params]
  learning_rate = [ 1e-5, # slow
    1e-4 ]
  kl = { dist = "uniform", min = 0 }

[[run]]
tags = ["a", "b"]
[[run]]
learning_rate = 3
[run.sub]
x = 1979-05-27 07:32:00
"""


def test_every_kind_of_key_is_found_where_it_stands():
    """Lines and columns counted by hand in TEXT."""
    found = find_positions(TEXT)
    expected = {
        ("name",): (2, 1),
        ("seeds",): (3, 1),
        ("seeds", 0): (3, 10),
        ("seeds", 2): (4, 10),
        ("text",): (5, 1),
        ("set",): (10, 1),
        ("set", "quoted.key"): (11, 1),
        ("set", "a", "b"): (12, 1),
        ("params",): (14, 3),
        ("params", "learning_rate"): (15, 3),
        ("params", "learning_rate", 0): (15, 21),
        ("params", "learning_rate", 1): (16, 5),
        ("params", "kl", "dist"): (17, 10),
        ("params", "kl", "min"): (17, 28),
        ("run", 0): (19, 1),
        ("run", 0, "tags", 1): (20, 14),
        ("run", 1, "learning_rate"): (22, 1),
        ("run", 1, "sub", "x"): (24, 1),
    }
    assert {path: found.get(path) for path in expected} == {
        path: Position(*place) for path, place in expected.items()
    }
    assert ("params", "fake") not in found


def test_key_paths_read_as_users_write_them():
    """Indices in brackets, odd keys in quotes."""
    assert key_text(("params", "learning_rate", 1)) == "params.learning_rate[1]"
    assert key_text(("set", "a b")) == 'set."a b"'
    assert key_text(("run", 0, "tags")) == "run[0].tags"


def paths_of(value, path=()):
    """Every key path of a parsed document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from paths_of(inner, (*path, key))


def toml_text(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ", # c ]\n".join(toml_text(v) for v in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


KEYS = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
SCALARS = st.integers() | st.booleans() | st.text("ab]}#,='\"\\", max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, st.lists(inner, min_size=0, max_size=0) | SCALARS, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_no_key_of_a_valid_document_is_missed(document):
    """Whatever tomli reads has a position, and it is where the key's text stands."""
    text = "".join(f"{key} = {toml_text(value)}\n" for key, value in document.items())
    document = tomli.loads(text)
    found = find_positions(text)
    lines = text.split("\n")
    assert set(paths_of(document)) <= set(found)
    for path in paths_of(document):
        if isinstance(path[-1], str):
            place = found[path]
            assert lines[place.line - 1][place.column - 1 :].startswith(path[-1])


@given(st.text("[]{}=,.\"'#ab\n 1", max_size=40))
def test_no_text_makes_the_scanner_fail(text):
    """Text that is no TOML only ends the search."""
    find_positions(text)
