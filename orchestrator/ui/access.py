"""Who may see the page and who may act: link, cookie, Host, Origin, and the headers of each answer.

The threats: another user or device that knocks at the port (no answer without the secret of the
link), a web page in the same browser that posts here (SameSite=Strict, Origin, a token in a header
that another origin cannot send), and one that lets its own name point to this machine (DNS
rebinding: the Host must be ours). Follows OWASP's pages on CSRF and on DNS rebinding; pure but for
the gate at the end.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What a page of ours may do: its own scripts, no frame, no form, no network but this server.
# Plotly writes style attributes.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
ACT_HEADER = "x-grpo-sweep-act"
_READS = ("GET", "HEAD")


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Access:
    """Under which names the page is served, whether it may act, and its three secrets.

    `link` stands in the link that is printed, `session` in the cookie that it brings, and `act` in
    the page, for the header of every change.
    """

    hosts: frozenset[str]
    port: int
    control: bool = True
    link: str = field(default_factory=_secret, repr=False)
    session: str = field(default_factory=_secret, repr=False)
    act: str = field(default_factory=_secret, repr=False)

    @property
    def cookie(self) -> str:
        """Its name: cookies know no port, and two queues may have a page each."""
        return f"grpo-sweep-{self.port}"

    def url(self, host: str) -> str:
        """The link that lets a browser in."""
        return f"http://{host}:{self.port}/?token={self.link}"

    def set_cookie(self) -> str:
        """The header's value; without Secure, as this is plain HTTP."""
        return f"{self.cookie}={self.session}; HttpOnly; SameSite=Strict; Path=/"


@dataclass(frozen=True)
class AccessRefusal:
    """Why a request is not answered."""

    status: int
    text: str


_NO_KEY = AccessRefusal(401, "open the link that `grpo-sweep ui` printed")


def refusal(
    access: Access, method: str, path: str, query: str, headers: Mapping[str, str]
) -> AccessRefusal | None:
    """Why a request is refused; None where it may pass. `headers` have lower-case names."""
    host = headers.get("host", "").lower()
    if host not in access.hosts:
        return AccessRefusal(403, "this page is served under another name")
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}":
        return AccessRefusal(403, "asked for by another page")
    if _is_cross_site(method, path, headers):
        return AccessRefusal(403, "asked for by another page")
    if not (has_cookie(access, headers) or (path == "/" and has_link(access, method, query))):
        return _NO_KEY
    if method in _READS:
        return None
    return _why_not_act(access, origin, headers)


def _is_cross_site(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """What the browser itself says; a link from elsewhere may open the page, and nothing else."""
    site = headers.get("sec-fetch-site", "none")
    opened = path == "/" and method in _READS and headers.get("sec-fetch-mode") == "navigate"
    return site not in ("same-origin", "none") and not opened


def _why_not_act(
    access: Access, origin: str | None, headers: Mapping[str, str]
) -> AccessRefusal | None:
    if origin is None:
        return AccessRefusal(403, "a change must say which page asks for it")
    if not _same(headers.get(ACT_HEADER, ""), access.act):
        return AccessRefusal(403, "the page is older than this server: load it again")
    if not access.control:
        return AccessRefusal(
            403, "this page only shows; start it with: grpo-sweep ui --lan --control"
        )
    return None


def has_link(access: Access, method: str, query: str) -> bool:
    """Whether the address holds the secret of the link."""
    given = parse_qs(query).get("token", [""])
    return method in _READS and len(given) == 1 and _same(given[0], access.link)


def has_cookie(access: Access, headers: Mapping[str, str]) -> bool:
    """Whether the request carries the cookie that the link brought."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(access.cookie)
    except CookieError:
        return False
    return morsel is not None and _same(morsel.value, access.session)


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())


class AccessGate:
    """Lets through what may pass, and puts our headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks for it; a websocket is closed, as there is none here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        query = scope["query_string"].decode("latin-1")
        headers = _single(Headers(scope=scope))
        found = refusal(self._access, scope["method"], scope["path"], query, headers)
        app = self._app if found is None else PlainTextResponse(found.text, found.status)
        await app(scope, receive, send_with_headers)


def _single(headers: Headers) -> dict[str, str]:
    """One value a name: two hosts or two origins are an attempt to be read in two ways."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        found[name] = f"{found[name]}; {value}" if name in found else value
    return found
