"""What a node may be called: its name stands in slots, in files and in the history."""

import pytest

from orchestrator.cluster.serving import check_name, default_name
from orchestrator.errors import UsageError


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mini.local", "mini"),
        ("Ada's Mac", "Ada-s-Mac"),
        ("10.0.0.7", "node10"),
        ("", "node"),
        ("ü", "node"),
        ("9" * 80, "node" + "9" * 60),
    ],
)
def test_a_machine_lends_its_name(host, name):
    """As far as it can be one; a number would be a slot of the head's."""
    assert default_name(host) == check_name(name) == name


@pytest.mark.parametrize("name", ["", "0", "12", "a/b", "../a", "-a", "a b", "n" * 65, "1\n"])
def test_what_cannot_be_a_name_is_refused(name):
    """With what can."""
    with pytest.raises(UsageError, match="letters, digits, dot, dash and underscore"):
        check_name(name)
