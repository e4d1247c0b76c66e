"""The local page as a process, and requests to it as a browser or an attacker sends them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.queue_kit import eventually


class Server:
    """`grpo-sweep ui` in a process of its own; its link is read from its stdout."""

    def __init__(self, folder, *words, port=None):
        self.folder = Path(folder)
        self.err = self.folder / "ui.err"
        out = self.folder / "ui.out"
        port_words = [] if port is None else ["--port", str(port)]
        with open(out, "wb") as stdout, open(self.err, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator", "ui", *port_words, *words],
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=dict(os.environ),
                start_new_session=True,
            )
        eventually(lambda: out.read_text().endswith("\n") or self.process.poll() is not None)
        self.link = out.read_text().strip()
        assert self.link, self.err.read_text()
        found = urlsplit(self.link)
        self.port = found.port
        self.token = parse_qs(found.query)["token"][0]
        self.host = f"127.0.0.1:{self.port}"
        self.cookie = self.act = ""

    def enter(self):
        """Open the link as a browser does, and keep what it brings."""
        status, headers, body = self.ask("GET", f"/?token={self.token}", cookie=False)
        assert status == 200, body
        self.cookie = headers["set-cookie"].partition(";")[0]
        self.act = re.search(r'name="act" content="([^"]*)"', body)[1]
        return headers, body

    def ask(self, method, path, body=None, cookie=True, **headers):
        """(status, headers, text) of one request; `headers` with _ for -, None leaves one out."""
        given = {"host": self.host}
        if cookie:
            given["cookie"] = self.cookie
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, values in given.items():
                for value in [values] if isinstance(values, str) else values or []:
                    connection.putheader(name, value)
            data = b"" if body is None else body
            if method == "POST":
                connection.putheader("content-length", str(len(data)))
            connection.endheaders(data if method == "POST" else None)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read().decode()
        finally:
            connection.close()

    def get(self, path):
        """The JSON of a page's own reading."""
        status, _, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path, value=None, **headers):
        """A page's own change: (status, JSON or text)."""
        data = b"" if value is None else json.dumps(value).encode()
        own = {"origin": f"http://{self.host}", "x_grpo_sweep_act": self.act}
        status, found, body = self.ask("POST", path, data, **{**own, **headers})
        is_json = found.get("content-type", "").startswith("application/json")
        return status, json.loads(body) if is_json else body

    def stop(self, number=signal.SIGINT):
        """End it; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def visit(page, link):
    """Open the page in a browser, until it follows the queue."""
    page.visit(link)
    page.eventually("document.documentElement.dataset.ready === 'true'")
