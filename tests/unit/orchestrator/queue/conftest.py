"""The open queue that the tests of this room share."""

import pytest

from orchestrator.queue.store import Store


@pytest.fixture
def store():
    """The queue of this test's home."""
    with Store.open() as opened:
        yield opened
