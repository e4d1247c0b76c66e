"""SIGINT and SIGTERM, as an event loop waits for them."""

import asyncio
import signal


def asked_to_end() -> tuple[asyncio.Event, asyncio.Event]:
    """Set when this process is asked to end for the first time, and for the second."""
    first, second = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return first, second
