"""Each mutation still finds the line that it changes, and the tests that should notice it."""

import pytest

from tests.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_finds_its_line_and_its_tests(mutation):
    """A line that was reworded or moved would make the mutation a no-op."""
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutation.tests)
