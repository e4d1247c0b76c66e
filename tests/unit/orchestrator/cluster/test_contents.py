"""Files by their content: pieces, sums, names in trees, and what makes room."""

import errno
import os

import pytest

from orchestrator.cluster.contents import Contents
from orchestrator.worker.nodes import NodeRefused
from tests.agent_kit import an_input, put


@pytest.fixture
def contents(tmp_path):
    """An empty store."""
    return Contents(tmp_path / "contents")


def test_a_file_is_lacking_until_its_last_piece(contents, tmp_path):
    """Pieces in order; each may come twice."""
    file = an_input("data/a.jsonl", b"abcdef")
    for offset, piece in ((0, b"abc"), (0, b"abc"), (0, b"ab"), (2, b"cde"), (5, b"f"), (0, b"a")):
        assert contents.lacks([file, file]) == ([] if (offset, piece) == (0, b"a") else [file])
        contents.put(file, offset, piece)
    contents.lay(file, tmp_path / "deep/er/a", written=False)
    assert (tmp_path / "deep/er/a").read_bytes() == b"abcdef"


def test_an_empty_file_is_a_file(contents, tmp_path):
    """One piece of nothing makes it."""
    file = put(contents, "__init__.py", b"")
    assert contents.lacks([file]) == []
    contents.lay(file, tmp_path / "x", written=False)
    assert (tmp_path / "x").read_bytes() == b""


def test_a_gap_is_refused_and_what_is_there_stays(contents):
    """The head goes on where it was."""
    file = an_input("a", b"abcdef")
    contents.put(file, 0, b"ab")
    with pytest.raises(NodeRefused, match="a: a piece from 4, but 2 bytes are here"):
        contents.put(file, 4, b"ef")
    contents.put(file, 2, b"cdef")
    assert contents.lacks([file]) == []


def test_a_torn_file_is_refused_and_can_be_sent_again(contents):
    """Its sum is not what was said."""
    file = an_input("a", b"abcdef")
    contents.put(file, 0, b"abc")
    with pytest.raises(NodeRefused, match="must be sent again"):
        contents.put(file, 3, b"dxf")
    assert contents.lacks([file]) == [file]
    contents.put(file, 0, b"abcdef")
    assert contents.lacks([file]) == []


@pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (5, b"ab"), (0, b"abcdefg")])
def test_a_piece_outside_of_the_file_is_refused(contents, offset, data):
    """Whatever the other side has counted."""
    with pytest.raises(NodeRefused, match="a piece from"):
        contents.put(an_input("a", b"abcdef"), offset, data)


def test_a_sum_cannot_lead_out_of_the_folder(contents):
    """It is a name of a file here."""
    wrong = an_input("a", b"abc").__class__("a", "../../etc/passwd", 3)
    with pytest.raises(NodeRefused, match="no SHA-256"):
        contents.put(wrong, 0, b"abc")


def test_what_is_written_to_is_a_copy(contents, tmp_path):
    """The next run that reads the same content finds it as it was."""
    file = put(contents, "log", b"abc")
    contents.lay(file, tmp_path / "own", written=True)
    with open(tmp_path / "own", "ab") as log:
        log.write(b"def")
    contents.lay(file, tmp_path / "other", written=False)
    assert (tmp_path / "other").read_bytes() == b"abc"


def test_a_file_by_two_names_that_are_one_is_laid_once(contents, tmp_path):
    """A configuration may say `data/a` here and `./data/a` there; another file is another thing."""
    file, other = put(contents, "a", b"abc"), put(contents, "b", b"def")
    contents.lay(file, tmp_path / "x", written=False)
    contents.lay(file, tmp_path / "x", written=False)
    assert (tmp_path / "x").read_bytes() == b"abc"
    with pytest.raises(FileExistsError):
        contents.lay(other, tmp_path / "x", written=False)


def test_what_came_in_part_makes_room_too(tmp_path):
    """Its head may never come back."""
    contents = Contents(tmp_path / "contents", keep_bytes=4)
    contents.put(an_input("a", b"abcdefgh"), 0, b"abcde")
    contents.trim()
    assert list((tmp_path / "contents").iterdir()) == []


def test_what_no_tree_holds_makes_room_the_longest_unused_first(tmp_path):
    """What a tree still holds costs nothing and stays."""
    contents = Contents(tmp_path / "contents", keep_bytes=4)
    held, old, new = (put(contents, name, content) for name, content in FILES)
    contents.lay(held, tmp_path / "tree", written=False)
    for file, at in ((old, 1_000), (new, 2_000)):
        os.utime(tmp_path / "contents" / file.sha256, (at, at))
    contents.trim()
    assert contents.lacks([held, old, new]) == [old]


FILES = (("held", b"aaaaaaaa"), ("old", b"bbb"), ("new", b"ccc"))


def test_a_full_disk_is_said_and_no_part_is_left(contents, tmp_path, monkeypatch):
    """The part would keep the disk full; what is not in use makes room as well."""
    cached, file = put(contents, "cached", b"cached"), an_input("a", b"abcdef")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.cluster.contents.sync", full)
        with pytest.raises(NodeRefused, match="a: cannot be kept: No space left on device"):
            contents.put(file, 0, b"abcdef")
    assert list((tmp_path / "contents").iterdir()) == []
    contents.put(file, 0, b"abcdef")
    assert contents.lacks([file, cached]) == [cached]
