"""Who is let in, and who may act: each way in without a key is tried."""

import pytest

from orchestrator.ui.access import Access, refusal

HOST = "127.0.0.1:8377"
ACCESS = Access(frozenset({HOST, "localhost:8377"}), 8377)
COOKIE = f"grpo-sweep-8377={ACCESS.session}"
OWN = {
    "host": HOST,
    "origin": f"http://{HOST}",
    "cookie": COOKIE,
    "x-grpo-sweep-act": ACCESS.act,
    "sec-fetch-site": "same-origin",
}


def status(method="GET", path="/api/queue", query="", access=ACCESS, **changed):
    """The status of a refusal, None where the request passes; None as a value leaves it out."""
    changed = {name.replace("_", "-"): value for name, value in changed.items()}
    headers = {name: value for name, value in {**OWN, **changed}.items() if value is not None}
    found = refusal(access, method, path, query, headers)
    return None if found is None else found.status


def test_the_page_itself_passes():
    """What it asks for and what it changes, under each of its names."""
    assert status() is None
    assert status("POST", "/api/queue/pause") is None
    assert status(host="localhost:8377", origin="http://localhost:8377") is None
    assert status(origin=None) is None


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        "grpo-sweep-8377=",
        "grpo-sweep-8377=wrong",
        f"grpo-sweep-8377={ACCESS.session}x",
        f"grpo-sweep-8377={ACCESS.link}",
        f"grpo-sweep-8378={ACCESS.session}",
        f"other={ACCESS.session}",
        "grpo-sweep-8377=\xff",
        '="; \x00',
    ],
    # The keys are drawn anew in each process, and all of them must name a test alike.
    ids=range(10),
)
def test_without_the_cookie_nothing_is_answered(cookie):
    """Neither of the other secrets, nor a cookie of another port, is the key."""
    assert status(cookie=cookie) == 401
    assert status("POST", "/api/queue/pause", cookie=cookie) == 401


def test_the_link_opens_the_page_and_nothing_else():
    """Its secret stands in one address, and changes nothing."""
    key = f"token={ACCESS.link}"
    assert status(path="/", query=key, cookie=None) is None
    assert status(path="/api/queue", query=key, cookie=None) == 401
    assert status("POST", "/", query=key, cookie=None) == 401
    for wrong in ("", "token=", f"token={ACCESS.session}", f"{key}&{key}", f"t={ACCESS.link}"):
        assert status(path="/", query=wrong, cookie=None) == 401


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.test",
        "evil.test:8377",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1.evil.test:8377",
        "127.0.0.1:8377; evil.test",
        "0.0.0.0:8377",
        "[::1]:8377",
    ],
)
def test_another_name_is_refused_even_with_every_key(host):
    """DNS rebinding: a page whose name points to this machine sends its own name."""
    assert status(host=host, origin=f"http://{host}") == 403
    assert status(host=host, origin=None) == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.test", "https://127.0.0.1:8377", "http://127.0.0.1:9999"],
)
def test_another_page_is_refused_even_with_every_key(origin):
    """Another port of this machine is another page, though cookies do not tell them apart."""
    assert status(origin=origin) == 403
    assert status("POST", "/api/queue/pause", origin=origin) == 403


def test_what_another_site_asks_for_is_refused():
    """A browser says so itself; only the opened page may come from elsewhere, as from a mail."""
    for site in ("cross-site", "same-site"):
        assert status(sec_fetch_site=site) == 403
        opened = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "origin": None}
        assert status(path="/", **opened) is None
        assert status(path="/api/runs/1", **opened) == 403
        assert status(path="/", **{**opened, "sec_fetch_mode": "no-cors"}) == 403


def test_a_change_needs_its_own_token_and_its_origin():
    """A form, or a script without the page's text, has neither."""
    post = ("POST", "/api/runs/1/cancel")
    assert status(*post, x_grpo_sweep_act=None) == 403
    assert status(*post, x_grpo_sweep_act=ACCESS.session) == 403
    assert status(*post, x_grpo_sweep_act=f"{ACCESS.act}; {ACCESS.act}") == 403
    assert status(*post, origin=None) == 403
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert status(method, x_grpo_sweep_act=None) == 403


def test_a_page_that_only_shows_refuses_every_change():
    """Even from somebody who has found out the token."""
    shown = Access(ACCESS.hosts, 8377, False, ACCESS.link, ACCESS.session, ACCESS.act)
    assert status("POST", "/api/queue/pause", access=shown) == 403
    assert status(access=shown) is None


def test_secrets_are_long_differ_and_are_not_printed():
    """Three of them, 256 bits each, new for every server."""
    other = Access(ACCESS.hosts, 8377)
    secrets = {ACCESS.link, ACCESS.session, ACCESS.act, other.link, other.session, other.act}
    assert len(secrets) == 6
    assert min(map(len, secrets)) >= 43
    assert not any(secret in repr(ACCESS) for secret in secrets)


def test_the_cookie_is_for_this_page_alone():
    """No script reads it, no other site sends it, and it names its port."""
    assert ACCESS.set_cookie() == (
        f"grpo-sweep-8377={ACCESS.session}; HttpOnly; SameSite=Strict; Path=/"
    )
