"""The console on which views are drawn: colours and moves are its own, and texts hold none."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from grpo_core.terminal import visible


class VisibleConsole(Console):
    """A console that writes out the control characters of every text that it shows."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of a renderable; rich's own commands to the terminal stay what they are."""
        for piece in super().render(renderable, options):
            text = piece.text if piece.control else visible(piece.text)
            yield piece if text == piece.text else Segment(text, piece.style)
