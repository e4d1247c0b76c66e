"""Tokenised texts, remembered, and never wrong."""

import numpy as np
import pytest

from grpo_core.data.token_cache import MAX_FILES, MIN_TEXTS, cache_folder, encode_texts
from tests.byte_tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = [f"é{n}" for n in range(MIN_TEXTS)]
IDS = [TOKENIZER.encode(text, add_special_tokens=False) for text in TEXTS]


def stored(path):
    """The two arrays of a file."""
    with np.load(path) as arrays:
        return arrays["lengths"].tolist(), arrays["ids"].tolist()


def files(folder):
    return sorted(folder.iterdir())


def test_what_was_tokenised_is_remembered(tmp_path):
    """The second time, the ids come from the file: a change in it shows."""
    assert encode_texts(TOKENIZER, TEXTS, tmp_path) == IDS
    (path,) = files(tmp_path)
    assert encode_texts(TOKENIZER, TEXTS, tmp_path) == IDS
    lengths, ids = stored(path)
    np.savez(path, lengths=lengths, ids=[ids[0] + 1, *ids[1:]])
    assert encode_texts(TOKENIZER, TEXTS, tmp_path)[0] == [IDS[0][0] + 1, *IDS[0][1:]]
    assert files(tmp_path) == [path]


def test_other_texts_or_another_tokenizer_have_a_file_of_their_own(tmp_path):
    """Also where the texts are the same ones cut elsewhere."""
    encode_texts(TOKENIZER, TEXTS, tmp_path)
    encode_texts(TOKENIZER, [TEXTS[0] + TEXTS[1], "", *TEXTS[2:]], tmp_path)
    encode_texts(byte_tokenizer(begin=True), TEXTS, tmp_path)
    assert len(files(tmp_path)) == 3


def test_few_texts_are_not_worth_a_file(tmp_path):
    """They are tokenised in the time that looking takes."""
    assert encode_texts(TOKENIZER, TEXTS[:-1], tmp_path) == IDS[:-1]
    assert files(tmp_path) == []


def test_the_files_lie_in_the_users_cache_folder():
    """By default, and made when first needed."""
    assert not cache_folder().exists()
    assert encode_texts(TOKENIZER, TEXTS) == IDS
    assert len(files(cache_folder())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-4],
        lambda whole: whole + whole[-4:],
        lambda whole: b"x" * len(whole),
        lambda whole: whole[:150] + bytes([whole[150] ^ 1]) + whole[151:],
        lambda whole: whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :],
    ],
)
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    """Whatever a dying machine or a curious user left there, the ids are right."""
    encode_texts(TOKENIZER, TEXTS, tmp_path)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert encode_texts(TOKENIZER, TEXTS, tmp_path) == IDS
    assert stored(path) == ([len(ids) for ids in IDS], [token for ids in IDS for token in ids])


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    assert encode_texts(TOKENIZER, TEXTS, tmp_path / "taken" / "tokens") == IDS


def test_only_the_files_used_last_are_kept(tmp_path):
    """What killed runs left beside them goes too."""
    for n in range(MAX_FILES + 3):
        encode_texts(TOKENIZER, [f"{n}", *TEXTS], tmp_path)
    assert len(files(tmp_path)) == MAX_FILES
