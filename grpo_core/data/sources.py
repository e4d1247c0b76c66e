"""Where rows come from: files, folders of `datasets`, hub repositories, the built-in tasks.

Reads only; columns are checked in `examples.py`. A row that cannot be read stands in the list as
its fault, so that all faults of a file are reported in one message. Each source imports what it
needs by itself: a JSONL file must not cost the two seconds of `import datasets`.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grpo_core.config import did_you_mean, named_path, nearest_file
from grpo_core.config.fields import DATA_FILES, is_data_file
from grpo_core.data.arithmetic import arithmetic_rows
from grpo_core.data.counting import counting_rows
from grpo_core.errors import DataError, first_line, message_of
from grpo_core.run.incomplete import incomplete

Row = Mapping[str, Any]

BUILTINS = {"builtin/arithmetic": arithmetic_rows, "builtin/counting": counting_rows}
# The hub's gsm8k has two configurations and no default one.
_HUB_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row and its name in messages: `a.jsonl:17` by line, `a.parquet[16]` by index from 0.

    A row that could not be read is the text of its fault.
    """

    line: str
    row: Row | str


@dataclass(frozen=True, slots=True)
class Source:
    """The entries of one file or split; `name` is the source as the user wrote it."""

    name: str
    entries: list[Entry]


def read_source(dataset: str, config: str, split: str) -> Source:
    """Every row of one split; a file has no splits and is read whole.

    Raises DataError where the source cannot be found or read, or holds no row.
    """
    if is_data_file(dataset):
        source = _read_file(named_path(dataset), dataset)
    elif dataset.startswith("builtin/"):
        source = _read_builtin(dataset, split)
    else:
        source = _from_hub(dataset, _load_hub(dataset, config), config, split)
    return _not_empty(source)


def read_with_test(
    dataset: str, config: str, split: str, test: str
) -> tuple[Source, Source | None]:
    """The rows of `split` and, where the source has that split too, those of `test`.

    Without a split `test` the second is None, unless the user asked for it by a name of his own:
    then it is a DataError.
    """
    if is_data_file(dataset) or test == split:
        return read_source(dataset, config, split), None
    if dataset.startswith("builtin/"):
        return read_source(dataset, config, split), read_source(dataset, config, test)
    splits = _load_hub(dataset, config)
    train = _not_empty(_from_hub(dataset, splits, config, split))
    if test == "test" and "test" not in splits:
        return train, None
    return train, _not_empty(_from_hub(dataset, splits, config, test))


def _not_empty(source: Source) -> Source:
    if not source.entries:
        raise DataError(f"{source.name}: holds no rows")
    return source


# -- files ------------------------------------------------------------------------------------


def _read_file(path: Path, name: str) -> Source:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DataError(f"dataset {name}: {what}{_nearest_message(path)} (looked in {Path.cwd()})")
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_jsonl
    try:
        if fault := incomplete(path):
            raise DataError(f"{name} {fault}")
        return Source(name, read(path, name))
    except OSError as e:
        raise DataError(f"{name}: cannot be read: {e.strerror}") from None


def _nearest_message(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; the folder {folder} is not there either"
    near = nearest_file(path, (p for p in sorted(folder.iterdir()) if is_data_file(p.name)))
    return f"; the nearest is {near}" if near else ""


def _read_jsonl(path: Path, name: str) -> list[Entry]:
    # Split at line feeds only: str.splitlines would also cut inside texts, at U+2028 and the like.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [
        Entry(f"{name}:{number}", _parse_line(line))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse_line(line: bytes) -> Row | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        return f"not UTF-8 text (byte {e.start + 1} of the line); save the file as UTF-8"
    except json.JSONDecodeError as e:
        return f"not valid JSON: {e.msg} (column {e.colno})"
    except (ValueError, RecursionError) as e:
        return f"not valid JSON: {e}"
    if not isinstance(row, dict):
        return f"a JSON {_json_kind(row)}, not an object with columns"
    return row


def _json_kind(value: Any) -> str:
    return {list: "list", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), "number"
    )


def _read_parquet(path: Path, name: str) -> list[Entry]:
    # Not at the top: see the opening of this file.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(os.fspath(path))
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: cannot be read as Parquet: {first_line(e)}") from None
    return _numbered(name, table.to_pylist())


def _numbered(name: str, rows: Iterable[Row]) -> list[Entry]:
    return [Entry(f"{name}[{index}]", row) for index, row in enumerate(rows)]


# -- builtin and hub --------------------------------------------------------------------------


def _read_builtin(dataset: str, split: str) -> Source:
    rows_of = BUILTINS.get(dataset)
    if rows_of is None:
        raise DataError(
            f"dataset {dataset}: no such built-in; there are {' and '.join(BUILTINS)}"
            + did_you_mean(dataset, BUILTINS)
        )
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for known in splits:
        if split == known:
            name = f"{dataset}[{split}]"
            return Source(name, _numbered(name, rows_of(known)))
    raise _no_split(dataset, split, splits)


def _no_split(dataset: str, split: str, known: Iterable[str]) -> DataError:
    known = list(known)
    near = did_you_mean(split, known)
    return DataError(f"{dataset}: no split {split!r}; splits are {', '.join(known)}{near}")


def _load_hub(dataset: str, config: str, split: str | None = None) -> Any:
    """What `datasets.load_dataset` gives: every split by name, or the one asked for."""
    path = named_path(dataset)
    _refuse_local(dataset, path)
    # Not at the top: see the opening of this file.
    import datasets

    try:
        if _is_saved(path):
            saved = datasets.load_from_disk(os.fspath(path))
            # One that was saved by itself has no name of its own.
            return saved if isinstance(saved, dict) else {"train": saved}
        name = os.fspath(path) if path.is_dir() else dataset
        return datasets.load_dataset(name, config or _HUB_CONFIGS.get(dataset), split=split)
    # The library lets through whatever its network, cache and file readers raise.
    except Exception as e:  # noqa: BLE001
        raise DataError(_hub_fault(dataset, e)) from None


def _refuse_local(dataset: str, path: Path) -> None:
    """DataError for what lies here, or can lie nowhere else: no network is asked for it."""
    kinds = f"of local files, {' and '.join(DATA_FILES)} are read"
    if path.is_file():
        raise DataError(f"dataset {dataset}: {kinds}, not {path.suffix or 'one without a suffix'}")
    names_path = dataset.startswith(("/", ".", "~")) or dataset.count("/") > 1
    if names_path and not path.is_dir():
        raise DataError(f"dataset {dataset}: no such file or folder (looked in {Path.cwd()})")


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` of the library `datasets` made that folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _hub_fault(dataset: str, error: Exception) -> str:
    suffix = Path(dataset).suffix
    hint = "check the name, dataset_config and the network"
    if suffix in (".json", ".csv", ".txt", ".gz"):
        hint = f"of local files, {' and '.join(DATA_FILES)} are read, not {suffix}"
    elif os.environ.get("HF_HUB_OFFLINE") or isinstance(error, ConnectionError):
        hint = (
            "check the name and the network (offline, only what was downloaded before can be had)"
        )
    return (
        f"dataset {dataset}: cannot be loaded: {message_of(error)}; {hint}, "
        'or name a local file, dataset = "path.jsonl"'
    )


def _from_hub(dataset: str, splits: Any, config: str, split: str) -> Source:
    name = f"{dataset}[{split}]"
    if split in splits:
        rows = splits[split]
    elif set(split) & set("[+") and not _is_saved(
        named_path(dataset)
    ):  # the library's own syntax, such as train[:1000]
        rows = _load_hub(dataset, config, split)
    else:
        raise _no_split(dataset, split, splits)
    return Source(name, _numbered(name, rows.to_list()))
