"""`grpo-sweep ui`: the queue as a page in the browser, live."""

import contextlib
import html
import io
import os
import socket
from collections.abc import Iterator

import click

from orchestrator.cli.output import say
from orchestrator.errors import UsageError
from orchestrator.system.network import lan_names
from orchestrator.system.paths import Home, home

PORT = 8377
# Without --port the next free one of so many is taken.
_TRIED = 20
_LOCAL = "127.0.0.1"
# Browsers that wait until they are let in.
_BACKLOG = 128


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help=f"Listen there.  [default: {PORT}]")
@click.option("--lan", is_flag=True, help="Also for other devices, such as a phone; only to look.")
@click.option("--control", is_flag=True, help="With --lan: the buttons work from there, too.")
@click.option("--open", "to_open", is_flag=True, help="Show it in the browser.")
def ui(port: int | None, lan: bool, control: bool, to_open: bool) -> None:
    """Show the queue as a page in the browser: what runs, what won, what failed, and buttons.

    The link that it prints is a key: whoever has it may press the buttons. The page only reads
    what the training writes, so it may be ended at any time.

    \b
    Examples:
      grpo-sweep ui --open
      grpo-sweep ui --lan                 a QR code for the phone; it can look, not touch
    """
    if control and not lan:
        raise UsageError("--control goes with --lan: on this machine the buttons always work")
    # Not at the top: what serves the page is loaded by this command alone.
    from orchestrator.ui.access import Access
    from orchestrator.ui.server import serve

    with _listen("0.0.0.0" if lan else _LOCAL, port) as listening:
        own_port = listening.getsockname()[1]
        names = [_LOCAL, "localhost", *(lan_names() if lan else [])]
        hosts = frozenset(f"{name.lower()}:{own_port}" for name in names)
        access = Access(hosts, own_port, control=control or not lan)
        link = access.url(lan_names()[0] if lan else _LOCAL)
        print(link, flush=True)
        _explain(link, lan, control)
        with _opened(home(), access.url(_LOCAL)) if to_open else contextlib.nullcontext():
            serve(home(), access, listening)


def _listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; UsageError where the port, or each that was tried, is taken."""
    ports = [port] if port is not None else range(PORT, PORT + _TRIED)
    for number in ports:
        try:
            return socket.create_server((host, number), backlog=_BACKLOG)
        except OSError as e:
            # Its own words name the address too, as Python writes a pair.
            fault = e.strerror if e.errno is None else os.strerror(e.errno)
    raise UsageError(f"port {ports[0]}: {fault}; name another with --port")


def _explain(link: str, lan: bool, control: bool) -> None:
    if lan:
        # Not at the top: only --lan draws a code.
        import segno

        drawn = io.StringIO()
        segno.make(link, error="m").terminal(drawn, compact=True)
        say(drawn.getvalue())
        may = "may look and press the buttons" if control else "may look, not touch"
        say(f"whoever in this network has the link {may}; it is not encrypted")
    say("Ctrl-C ends the page; the training goes on")


@contextlib.contextmanager
def _opened(where: Home, link: str) -> Iterator[None]:
    """Show the link in the browser by a file that only its owner may read.

    As a word of a command line, its secret would stand in the list of processes.
    """
    page = where.make().root / "open-ui.html"
    words = f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(link)}">'
    page.unlink(missing_ok=True)
    with open(os.open(page, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(words)
    try:
        click.launch(page.as_uri())
        yield
    finally:
        page.unlink(missing_ok=True)
