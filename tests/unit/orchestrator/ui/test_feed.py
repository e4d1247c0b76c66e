"""The thread that looks at the queue for the page."""

import json
from types import SimpleNamespace

import pytest

from orchestrator.errors import QueueBusy
from orchestrator.system.paths import Home
from orchestrator.ui.feed import Feed


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (AttributeError("'list' object has no attribute 'keys'"), "AttributeError: 'list'"),
        (QueueBusy("queue.db is locked"), "queue.db is locked"),
    ],
)
def test_a_look_that_fails_says_so_and_is_made_again(tmp_path, monkeypatch, fault, said):
    """Whatever a row of the queue does to us, the page lives; at the next look all may be well."""
    looks = iter([fault, {"running": None, "sweeps": []}])

    def queue():
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    feed = Feed(SimpleNamespace(home=Home(tmp_path), queue=queue))
    told = []
    monkeypatch.setattr(feed, "_call", lambda text: told.append(json.loads(text)))
    feed._look()
    feed._look()
    assert told[0].keys() == {"error"}
    assert told[0]["error"].startswith(said)
    assert told[1:] == [{"running": None, "sweeps": []}]
