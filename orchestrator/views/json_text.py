"""JSON that is text already, as SQLite makes it: apart from the shapes, which a status for people
must not wait for.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class JsonText:
    """A value that is JSON already."""

    text: str
