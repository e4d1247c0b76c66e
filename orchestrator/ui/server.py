"""The server of the page: its addresses, and the process around them.

Answers come from `reader.py` and `actions.py`, in threads, so that a slow disk stops nobody else.
Nothing that a worker needs is held here: this process may be killed at any time.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from grpo_core.errors import GRPOError
from grpo_core.run.atomic import finite
from orchestrator.errors import (
    NothingAffected,
    QueueError,
    SpecError,
    SweepError,
    UsageError,
)
from orchestrator.report.page import json_in_html
from orchestrator.system.paths import Home
from orchestrator.ui import actions
from orchestrator.ui.access import Access, AccessGate, has_cookie
from orchestrator.ui.feed import Feed, to_json
from orchestrator.ui.reader import Reader

_FOLDER = files("orchestrator.ui")
# Of the report, whose page itself forbids all but its own two scripts.
_REPORT_POLICY = (
    "connect-src 'none'; img-src data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# So often a browser that hears nothing new hears that we are still there.
_BEAT_S = 15.0
# A spec is a page of text.
_MOST_BYTES = 256 * 1024
# Files that the page loads, by their address.
_FILES = {
    "report.css": ("orchestrator.report", "page.css", "text/css"),
    "page.css": ("orchestrator.ui", "page.css", "text/css"),
    "parts.css": ("orchestrator.report", "parts.css", "text/css"),
    "parts.js": ("orchestrator.report", "parts.js", "text/javascript"),
    "curves.js": ("orchestrator.report", "curves.js", "text/javascript"),
    "run_sheet.js": ("orchestrator.report", "run_sheet.js", "text/javascript"),
    "sections.js": ("orchestrator.report", "sections.js", "text/javascript"),
    "page.js": ("orchestrator.ui", "page.js", "text/javascript"),
}
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NothingAffected, 409),
    (SpecError, 400),
    (UsageError, 400),
    (QueueError, 503),
)

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Site:
    """What the addresses need: the queue's home, who may ask, and what is read."""

    home: Home
    access: Access
    reader: Reader
    feed: Feed


def make_app(home: Home, access: Access) -> Starlette:
    """The page of one queue as an ASGI application."""
    reader = Reader(home)
    feed = Feed(reader)
    site = Site(home, access, reader, feed)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        feed.start()
        try:
            yield
        finally:
            feed.stop()

    app = Starlette(
        routes=_routes(site),
        lifespan=lifespan,
        middleware=[Middleware(AccessGate, access=access)],
        exception_handlers={SweepError: _explain, GRPOError: _explain},
    )
    app.state.feed = feed
    return app


def _routes(site: Site) -> list[Route]:
    reader = site.reader
    return [
        Route("/", partial(_page, site)),
        Route("/static/plotly.js", _plotly),
        Route("/static/{name}", _static),
        Route("/report/{id:int}", partial(_report, reader)),
        Route("/api/events", partial(_events, site)),
        Route("/api/queue", _answer(lambda request: reader.queue())),
        Route("/api/sweeps/{id:int}", _answer(lambda request: reader.sweep(_id(request)))),
        Route("/api/sweeps/{id:int}/curves", _answer(partial(_sweep_curves, reader))),
        Route(
            "/api/sweeps/{id:int}/sections",
            _answer(lambda request: reader.sections(_id(request))),
        ),
        Route("/api/runs/{id:int}", _answer(lambda request: reader.run(_id(request)))),
        Route("/api/runs/{id:int}/curves", _answer(partial(_run_curves, reader))),
        Route("/api/runs/{id:int}/{action}", partial(_change_run, site), methods=["POST"]),
        Route("/api/slots/{slot:path}/{action}", partial(_change_slot, site), methods=["POST"]),
        Route("/api/queue/pause", _button(site, actions.pause_queue), methods=["POST"]),
        Route("/api/queue/resume", _button(site, actions.resume_queue), methods=["POST"]),
        Route("/api/worker/start", _button(site, actions.start_worker), methods=["POST"]),
        Route("/api/worker/stop", _button(site, actions.stop_worker), methods=["POST"]),
        Route("/api/preview", partial(_spec, site, actions.preview), methods=["POST"]),
        Route("/api/submit", partial(_spec, site, actions.submit), methods=["POST"]),
    ]


# --- answers


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


async def _explain(_: Request, error: Exception) -> Response:
    """An error of ours as a message; the page shows it where it was asked for."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
    return _json({"error": str(error)}, status)


def _answer(read: Callable[[Request], Any]) -> Handler:
    """A reading, done in a thread."""

    async def handler(request: Request) -> Response:
        return _json(await run_in_threadpool(read, request))

    return handler


def _button(site: Site, act: Callable[[Home], str]) -> Handler:
    """A change of the queue or of its worker; what came of it in words."""

    async def handler(_: Request) -> Response:
        message = await run_in_threadpool(act, site.home)
        site.feed.nudge()
        return _json({"message": message})

    return handler


async def _change_run(site: Site, request: Request) -> Response:
    action = request.path_params["action"]
    message = await run_in_threadpool(actions.change_run, site.home, _id(request), action)
    site.feed.nudge()
    return _json({"message": message})


async def _change_slot(site: Site, request: Request) -> Response:
    slot, action = (request.path_params[name] for name in ("slot", "action"))
    message = await run_in_threadpool(actions.change_slot, site.home, slot, action)
    site.feed.nudge()
    return _json({"message": message})


async def _spec(site: Site, read: Callable[[Home, str], Any], request: Request) -> Response:
    text = await _body(request)
    found = await run_in_threadpool(read, site.home, text)
    site.feed.nudge()
    return _json(found)


async def _body(request: Request) -> str:
    """The text of a spec; UsageError where it is too long, or none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise UsageError(f"longer than {_MOST_BYTES // 1024} kB: submit it as a file")
    try:
        text = json.loads(body)["spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise UsageError('send {"spec": TEXT}')
    return text


def _id(request: Request) -> int:
    """No id of SQLite is larger."""
    return min(int(request.path_params["id"]), 2**63 - 1)


def _sweep_curves(reader: Reader, request: Request) -> Any:
    return reader.sweep_curves(_id(request), request.query_params.get("metric", "reward_mean"))


def _run_curves(reader: Reader, request: Request) -> Any:
    epoch, since = (_number(request.query_params.get(name)) for name in ("epoch", "since"))
    return reader.run_curves(_id(request), epoch, since or 0)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


# --- the page, its files, and what is new


async def _page(site: Site, request: Request) -> Response:
    """The page with what it shows at first in it: one answer, and something is to be seen."""
    state = await run_in_threadpool(_first_state, site.reader)
    text = _template().render(
        state=json_in_html(finite(state)),
        act=site.access.act if site.access.control else "",
        folder=actions.folder_of_specs(),
    )
    response = HTMLResponse(text)
    if not has_cookie(site.access, request.headers):
        response.headers["set-cookie"] = site.access.set_cookie()
    return response


async def _report(reader: Reader, request: Request) -> Response:
    """The report of a sweep as it stands now, as `grpo-sweep report` writes it."""
    text = await run_in_threadpool(reader.report, _id(request))
    return HTMLResponse(text, headers={"content-security-policy": _REPORT_POLICY})


def _first_state(reader: Reader) -> dict[str, Any]:
    """The queue and the sweep that is looked at first; or why it cannot be read."""
    try:
        latest = reader.latest_sweep()
        sweep = None if latest is None else reader.sweep(latest)
        return {"queue": reader.queue(), "sweep": sweep}
    except QueueError as e:
        return {"queue": {"error": str(e)}, "sweep": None}


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(str(_FOLDER)), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        return Response("no such file", 404)
    package, file, kind = _FILES[name]
    return Response(files(package).joinpath(file).read_bytes(), media_type=kind)


async def _plotly(_: Request) -> Response:
    """The plotting library, out of its package; it changes only with that."""
    headers = {"cache-control": "private, max-age=86400"}
    return Response(_plotly_js(), media_type="text/javascript", headers=headers)


@cache
def _plotly_js() -> bytes:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()


async def _events(site: Site, _: Request) -> Response:
    """Server-sent events: the state of the queue, each time that it has changed."""
    return StreamingResponse(_stream(site.feed), media_type="text/event-stream")


async def _stream(feed: Feed) -> AsyncIterator[str]:
    feed.join()
    try:
        number = -1 if feed.number else 0
        yield "retry: 2000\n\n"
        while not feed.over:
            found = await feed.newer(number, _BEAT_S)
            if found is None:
                yield ": still here\n\n"
            else:
                number, text = found
                # JSON holds no line break of its own.
                yield f"id: {number}\ndata: {text}\n\n"
    finally:
        feed.leave()


# --- the process


class _Server(uvicorn.Server):
    """Lets the browsers that wait for news go before it waits for their connections to end."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn calls it after a signal."""
        self._feed.stop()
        await super().shutdown(sockets)


def serve(home: Home, access: Access, listening: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    app = make_app(home, access)
    config = uvicorn.Config(
        app,
        log_level="warning",
        # The link's secret stands in the first address.
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        limit_concurrency=200,
        timeout_graceful_shutdown=2,
    )
    _Server(config, app.state.feed).run(sockets=[listening])
