"""What a terminal would act on, as text: a title, the clipboard, a link, a move of the cursor.

Completions, error messages and names of files may hold control characters, and a terminal obeys
them. Whatever programs of ours say for people passes through here.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# C0 but for tab and line feed, DEL, and C1, in which CSI and OSC have a byte of their own.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """The same text with `\\x1b` written out for an escape, and so on."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def tell(line: str) -> None:
    """A line for people, on stderr."""
    print(visible(line), file=sys.stderr, flush=True)


class VisibleStream:
    """A text stream on which control characters are written out; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.unfiltered = stream

    def write(self, text: str) -> int:
        """Write a text; as many characters count as written as it has."""
        self.unfiltered.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


@contextmanager
def visible_streams() -> Iterator[None]:
    """Within, what is printed to stdout and stderr shows its control characters."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(VisibleStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unfiltered(stream: TextIO) -> TextIO:
    """The stream itself, for who writes control characters on purpose."""
    return stream.unfiltered if isinstance(stream, VisibleStream) else stream
