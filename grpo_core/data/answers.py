"""What an answer is, and when two are the same: numbers as numbers, texts as normalised texts.

Pure. A completion's answer stands between the last `<answer>` and `</answer>`; without the tags
there is none. Read as numbers: `1,000` = `1000`, `$18` = `18`, `18.0` = `18.` = `18`, `50%` = `50`
(the sign says nothing new: the question asked for a percentage, so `50%` is not `0.5`),
`1/2` = `0.5`, `1e3` = `1000`. Units (`18 dollars`) and LaTeX are not read: they are texts.
"""

import re
import unicodedata
from fractions import Fraction

OPEN, CLOSE = "<answer>", "</answer>"

TAGS = ("<reasoning>", "</reasoning>", OPEN, CLOSE)
"""The layout of a completion: what led to the answer, and the answer."""

# Longer than any number that is meant; bounds the arithmetic that a completion can ask of us.
MAX_NUMBER_CHARS = 64

# Hyphens, dashes and the minus sign; the slash that NFKC leaves in a fraction such as ½.
_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-") | {"\u2044": "/"})

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_VALUE = rf"{_WHOLE}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{{1,3}})?|\.[0-9]+|[0-9]+ ?/ ?[0-9]+"
_CURRENCY = r"\\?[$€£¥]"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?) ?(?:{_CURRENCY} ?)?(?P<inner>[-+]?)(?P<value>{_VALUE}) ?[€£¥$%]?\.?"
)
_WHOLE_NUMBER = re.compile(rf"[-+]?{_WHOLE}")


def reference_answer(text: str) -> str:
    """The answer of a data row: what follows the last `####` (GSM8K), else the whole text."""
    return text.rpartition("####")[2].strip()


def extract_answer(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`, stripped; None without such a pair."""
    end = text.rfind(CLOSE)
    start = text.rfind(OPEN, 0, end) if end >= 0 else -1
    return text[start + len(OPEN) : end].strip() if start >= 0 else None


def is_correct(text: str, answer: str) -> bool:
    """Exact match: whether `text` gives the answer `answer`; used by rewards and evaluation.

    `text` begins with the assistant prefix, and `answer` comes from `reference_answer`.
    """
    given = extract_answer(text)
    return given is not None and same_answer(given, answer)


def same_answer(given: str, wanted: str) -> bool:
    """Whether two answers are equal, as numbers if `wanted` is one, else as texts."""
    number = parse_number(wanted)
    if number is not None:
        return parse_number(given) == number
    return bool(given.strip()) and _normal_text(given) == _normal_text(wanted)


def parse_number(text: str) -> Fraction | None:
    """The number that `text` is as a whole, exact; None where it is anything else."""
    text = _plain(text)
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None or (match["sign"] and match["inner"]):
        return None
    try:
        number = Fraction(match["value"].replace(",", "").replace(" ", ""))
    except ZeroDivisionError:
        return None
    return -number if "-" in match["sign"] + match["inner"] else number


def is_whole_number(text: str) -> bool:
    """Whether `text` is written as a whole number: `72`, `-3`, `1,000`; not `72.0` or `$72`."""
    return _WHOLE_NUMBER.fullmatch(_plain(text)) is not None


def _plain(text: str) -> str:
    """Full-width and other compatibility forms as the plain ones, every minus sign as `-`."""
    return unicodedata.normalize("NFKC", text).translate(_SIGNS).strip()


def _normal_text(text: str) -> str:
    return " ".join(_plain(text).casefold().split()).rstrip(".")
