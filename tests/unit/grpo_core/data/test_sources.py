"""Rows from files, the hub and the built-in task, and their names in messages."""

import json

import pytest

from grpo_core.data.sources import Entry, read_source, read_with_test
from grpo_core.errors import DataError

ROWS = [{"question": f"q{n}", "answer": str(n)} for n in range(3)]


def read(path):
    return read_source(str(path), "", "train")


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows=ROWS):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_jsonl_rows_are_named_by_their_line(tmp_path):
    """Blank lines count as lines but are no rows; a byte order mark and CR LF do no harm.

    Only a line feed ends a line, not U+2028 in a text or a CR between two tokens.
    """
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": 1}\r\n\r\n  \n{"q":\r"\xe2\x80\xa8"}')
    source = read(path)
    assert source.name == str(path)
    assert source.entries == [Entry(f"{path}:1", {"q": 1}), Entry(f"{path}:4", {"q": "\u2028"})]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"q": 1', "not valid JSON: Expecting ',' delimiter (column 8)"),
        (b"{'q': 1}", "not valid JSON: Expecting property name enclosed in double quotes (col"),
        (b'{"q": "\xff"}', "not UTF-8 text (byte 8 of the line); save the file as UTF-8"),
        (b"[1, 2]", "a JSON list, not an object with columns"),
        (b'"text"', "a JSON string, not an object with columns"),
        (b"3", "a JSON number, not an object with columns"),
        (b"null", "a JSON null, not an object with columns"),
        (b"[" * 100_000, "not valid JSON: "),
        (b'{"q": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
    ],
)
def test_a_line_that_cannot_be_read_is_its_fault(tmp_path, line, fault):
    """The rest of the file is read on, so that all faults come in one message."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"q": 1}\n')
    bad, good = read(path).entries
    assert isinstance(bad.row, str)
    assert bad.row.startswith(fault)
    assert good.row == {"q": 1}


def test_parquet_rows_are_those_of_jsonl(tmp_path):
    """Named by their index from 0, as every tool that shows Parquet counts."""
    parquet = read(write_parquet(tmp_path / "a.PARQUET"))
    assert [e.row for e in parquet.entries] == ROWS
    assert [e.row for e in read(write_jsonl(tmp_path / "a.jsonl")).entries] == ROWS
    assert parquet.entries[2].line == f"{tmp_path}/a.PARQUET[2]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian.jsonl", r"no such file; the nearest is .*train\.jsonl \(looked in "),
        ("no/train.jsonl", "no such file; the folder .*no is not there either"),
        ("folder.jsonl", "is a folder, not a file"),
        ("empty.jsonl", "holds no rows"),
        ("blank.jsonl", "holds no rows"),
        ("text.parquet", "cannot be read as Parquet: "),
        ("empty.parquet", "holds no rows"),
    ],
)
def test_a_file_that_gives_no_rows_is_an_error(tmp_path, name, message):
    """It names the file and, where one is missing, its nearest neighbour."""
    write_jsonl(tmp_path / "train.jsonl")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "text.parquet").write_text("question,answer\n")
    write_parquet(tmp_path / "empty.parquet", [])
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        read(tmp_path / name)


def test_the_file_of_a_user_that_there_is_not_is_an_error():
    """Not a traceback."""
    with pytest.raises(DataError, match="no such file"):
        read_source("~nobody-here/x.jsonl", "", "train")


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("builtin/arithmetic", "tests", r"no split 'tests'; splits are train, test; did you mean"),
        (
            "builtin/gsm8k",
            "train",
            r"no such built-in; there are builtin/arithmetic and builtin/counting",
        ),
    ],
)
def test_a_built_in_that_is_not_there_is_an_error(dataset, split, message):
    """With what there is."""
    with pytest.raises(DataError, match=message):
        read_source(dataset, "", split)


def test_the_built_in_task_comes_with_its_test_split():
    """2,000 rows and 400."""
    train, test = read_with_test("builtin/arithmetic", "", "train", "test")
    assert test is not None
    assert (len(train.entries), len(test.entries)) == (2000, 400)
    assert train.entries[0].line == "builtin/arithmetic[train][0]"


def test_one_split_for_both_uses_is_no_test_split():
    """Then rows of it are held out."""
    train, test = read_with_test("builtin/arithmetic", "", "test", "test")
    assert (len(train.entries), test) == (400, None)


# -- the hub's library, on a local folder ---------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """What `datasets` reads as a repository with the splits train and test."""
    folder = tmp_path / "repository"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl")
    write_jsonl(folder / "test.jsonl", ROWS[:2])
    return str(folder)


def test_a_repository_gives_its_splits(repository):
    """Rows named by split and index; a slice in the library's own syntax works too."""
    train, test = read_with_test(repository, "", "train", "test")
    assert [e.row for e in train.entries] == ROWS
    assert test is not None
    assert [e.line for e in test.entries] == [f"{repository}[test][0]", f"{repository}[test][1]"]
    assert [e.row for e in read_source(repository, "", "train[1:]").entries] == ROWS[1:]


def test_a_repository_without_a_test_split_has_none(tmp_path):
    """Only a split that was asked for by another name must be there."""
    folder = tmp_path / "repository"
    folder.mkdir()
    write_parquet(folder / "train.parquet")
    train, test = read_with_test(str(folder), "", "train", "test")
    assert (len(train.entries), test) == (3, None)
    with pytest.raises(DataError, match=r"no split 'trial'; splits are train; did you mean train"):
        read_with_test(str(folder), "", "train", "trial")


@pytest.mark.parametrize(
    ("dataset", "config", "message"),
    [
        ("no-such/repository", "", r"cannot be loaded: .*; check the name and the network"),
        ("data.csv", "", r"of local files, \.jsonl and \.parquet are read, not \.csv"),
        ("REPOSITORY", "hard", "cannot be loaded: BuilderConfig 'hard' not found"),
    ],
)
def test_a_repository_that_cannot_be_had_is_an_error(
    monkeypatch, repository, dataset, config, message
):
    """Offline, unknown, or without that configuration: what to try stands in the message."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=message):
        read_source(dataset.replace("REPOSITORY", repository), config, "train")


def test_a_folder_that_was_saved_to_disk_is_read(tmp_path):
    """One data set by itself is the split train; several have their names."""
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(
        str(tmp_path / "two")
    )
    train, test = read_with_test(str(tmp_path / "one"), "", "train", "test")
    assert ([e.row for e in train.entries], test) == (ROWS, None)
    train, test = read_with_test(str(tmp_path / "two"), "", "train", "test")
    assert test is not None
    assert (len(train.entries), [e.row for e in test.entries]) == (3, ROWS[:1])
    with pytest.raises(DataError, match=r"no split 'train\[:1\]'; splits are train"):
        read_source(str(tmp_path / "one"), "", "train[:1]")


@pytest.mark.parametrize("name", ["rows.csv", "rows", "./nowhere", "/no/where", "~/x", "a/b/c"])
def test_what_can_only_lie_here_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    """A network that does not answer costs minutes."""
    import datasets

    monkeypatch.chdir(tmp_path)
    for file in ("rows.csv", "rows"):
        (tmp_path / file).write_text("question,answer\n")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=r"are read, not|no such file or folder \(looked in"):
        read_source(name, "", "train")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_git_lfs_pointer_is_no_data(tmp_path, name):
    """Said in place of what is wrong with it as JSON or Parquet."""
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid x\nsize 1\n")
    with pytest.raises(DataError, match="is a Git LFS pointer, not the file itself; run `git lfs"):
        read(tmp_path / name)


def test_what_the_hub_says_after_its_first_line_is_kept(monkeypatch):
    """The first one is a number; what is to be done stands in the others."""
    import datasets

    text = "401 Client Error. (Request ID: 1)\n\nCannot access gated repo.\nPlease log in.\nMore."

    def refuse(*_, **__):
        raise OSError(text)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    words = r"401 Client Error\. \(Request ID: 1\); Cannot access gated repo; Please log in; check"
    with pytest.raises(DataError, match=words):
        read_source("owner/gated", "", "train")
