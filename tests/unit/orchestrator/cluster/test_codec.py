"""What a call carries arrives as it was sent, and nothing else is taken for it."""

import dataclasses

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import codec
from orchestrator.worker.nodes import AttemptReport, Held, Input, NodeFacts, Order, Wish

RECORDS = (NodeFacts, Order, Held, AttemptReport, Input)


def over_the_wire(value):
    """As msgpack brings it: lists become tuples, and all else stays."""
    return msgpack.unpackb(msgpack.packb(codec.plain(value)), use_list=False)


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.data())
def test_records_come_back_as_they_were(kind, data):
    """Every field of every record, also those that may be missing."""
    record = data.draw(st.from_type(kind).filter(all_fit))
    assert codec.read(kind, over_the_wire(record)) == record


def all_fit(record):
    """msgpack has integers of 64 bits, and NaN is unequal to itself."""
    values = dataclasses.asdict(record).values()
    try:
        return over_the_wire(record) is not None and all(value == value for value in values)
    except (OverflowError, UnicodeEncodeError):
        return False


def test_every_call_of_a_node_can_be_sent():
    """By hand: what a head asks, in the order of the interface's arguments."""
    assert set(codec.CALLS) == {
        *("facts", "held", "lacks", "put", "start", "look", "read", "ask", "forget")
    }
    piece = (Input("a/b", "00", 3), 0, b"abc")
    assert codec.read_arguments("put", over_the_wire(piece)) == piece
    assert codec.read_arguments("ask", over_the_wire(("t", Wish.KILL))) == ("t", Wish.KILL)
    assert codec.read_arguments("facts", ()) == ()
    inputs = (Input("a", "00", 1), Input("b", "01", 2))
    assert codec.read_arguments("lacks", over_the_wire((inputs,))) == (inputs,)
    assert codec.read_answer("lacks", over_the_wire(inputs)) == inputs
    assert codec.read_answer("read", over_the_wire(b"\x00\xff")) == b"\x00\xff"
    assert codec.read_answer("forget", None) is None


@pytest.mark.parametrize(
    ("call", "values"),
    [
        ("put", ({"path": "a", "sha256": "00", "size": 3}, 0)),
        ("put", ({"path": "a", "sha256": "00"}, 0, b"")),
        ("put", ({"path": "a", "sha256": "00", "size": "3"}, 0, b"")),
        ("put", ({"path": "a", "sha256": "00", "size": 3, "more": 1}, 0, b"")),
        ("put", ({"path": "a", "sha256": "00", "size": True}, 0, b"")),
        ("put", ("a", 0, b"")),
        ("ask", ("t", "shoot")),
        ("look", (None,)),
        ("lacks", ("ab",)),
        ("lacks", 7),
    ],
)
def test_what_another_version_would_send_is_refused(call, values):
    """Never a record with a field of the wrong kind, too many or too few."""
    with pytest.raises(codec.NotOurs):
        codec.read_arguments(call, values)
