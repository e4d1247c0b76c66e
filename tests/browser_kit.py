"""A real page in headless Chromium, driven over its DevTools pipe; no driver, no package.

The protocol: https://chromedevtools.github.io/devtools-protocol/, JSON messages that end in NUL, on
the browser's descriptors 3 (in) and 4 (out).
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

DEADLINE_S = 90.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Puts the two pipes where the browser looks for them, whatever their numbers are here.
_LAUNCHER = """
import os, sys
read, write, *argv = sys.argv[1:]
os.dup2(int(read), 30); os.dup2(int(write), 31)
os.dup2(30, 3); os.dup2(31, 4)
os.execvp(argv[0], argv)
"""


def find_chromium():
    """The browser's path, or None where there is none."""
    found = [shutil.which(name) for name in NAMES]
    on_mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    return next((path for path in [*found, on_mac] if path and os.path.exists(path)), None)


NEEDS_CHROMIUM = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium here (apt-get install chromium)"
)

# A text that acts wherever it is taken for HTML, or for a template of plotly's.
EVIL = "</script><img src=http://a.test/x onerror=pwned=1><a href=javascript:pwned=2>%{x}"


class Page:
    """One tab. `requests`, `errors` hold every URL that it asked for and all that went wrong."""

    def __init__(self, width=1280, height=900, dark=False, scale=1, touch=False):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = ["--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"]
        flags += ["--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--disable-breakpad"]
        flags += [f"--user-data-dir={self._profile.name}"]
        numbers = (str(to_browser), str(from_browser))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *numbers, find_chromium(), *flags, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._next, self._buffer, self._session = 0, b"", None
        self.requests, self.errors, self._events = [], [], []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=touch,
        )  # fmt: skip
        self._send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=scheme)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Asked first: helpers that have left the group go with the browser.
        self._session = None
        with contextlib.suppress(AssertionError, OSError):
            self._send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    # --- what a test does

    def open(self, path):
        """Load a file from the disk, until its `load` event."""
        self.visit(Path(path).absolute().as_uri())

    def visit(self, url):
        """Load an address, until its `load` event."""
        self._events.clear()
        self._send("Page.navigate", url=url)
        self._until(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))

    def js(self, expression):
        """The value of an expression, a promise awaited; AssertionError where it throws."""
        answer = self._send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def eventually(self, expression):
        """The first true value of an expression."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def press(self, key, code=None, text=None):
        """Press and release a key, as a keyboard does."""
        number = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39}.get(key, 0)
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": number}
        more = {"text": text} if text else {}
        self._send("Input.dispatchKeyEvent", type="keyDown", **common, **more)
        self._send("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path, full=True, area=None):
        """A PNG of the whole page, of what is in view, or of an area of the page."""
        clip = {"clip": {**area, "scale": 1}} if area else self._clip(full)
        shot = self._send("Page.captureScreenshot", captureBeyondViewport=full, **clip)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, full):
        if not full:
            return {}
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "x": 0, "y": 0, "scale": 1}}

    def pdf(self, path):
        """The page as printed on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        printed = self._send("Page.printToPDF", printBackground=True, **paper)
        Path(path).write_bytes(base64.b64decode(printed["data"]))

    # --- the protocol

    def _send(self, method, **params):
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        wanted, found = self._next, []
        self._until(lambda: bool(found), lambda m: m.get("id") == wanted and found.append(m))
        assert "error" not in found[0], (method, found[0]["error"])
        return found[0]["result"]

    def _until(self, done, on_message=lambda _: None):
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            while b"\0" not in self._buffer:
                left = deadline - time.monotonic()
                ready = left > 0 and select.select([self._in], [], [], left)[0]
                assert ready, "the browser did not answer in time"
                read = os.read(self._in, 1 << 20)
                assert read, "the browser has died"
                self._buffer += read
            raw, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(raw)
            on_message(message)
            if "method" in message:
                self._note(message)

    def _note(self, event):
        self._events.append(event)
        method, params = event["method"], event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif (method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning")) or (
            method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning")
        ):
            self.errors.append(params)
