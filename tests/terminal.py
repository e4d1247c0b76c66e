"""A command in a terminal of its own: a real pty of a given size, what it shows, keys into it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

from tests.queue_kit import DEADLINE_S

_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[=>])")


class Terminal:
    """Runs a command on a pty; use it as a context manager."""

    def __init__(self, words, columns=80, lines=40, **env):
        self._master, slave = pty.openpty()
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.raw = ""
        # The size is the terminal's own; pytest-xdist sets these.
        outer = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**outer, "TERM": "xterm-256color", **env},
            start_new_session=True,
            # Its own terminal, so that Ctrl-C comes as a signal; no test here has threads.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    @property
    def text(self):
        """Everything that was shown, without colours and moves."""
        return _ESCAPE.sub("", self.raw).replace("\r", "")

    @property
    def modes(self):
        """The terminal's own settings now."""
        return termios.tcgetattr(self._slave)

    def read(self, wait_s=0.05):
        """Take in what has come."""
        while select.select([self._master], [], [], wait_s)[0]:
            data = os.read(self._master, 65536)
            if not data:
                return
            self.raw += data.decode(errors="replace")

    def until(self, pattern):
        """Read until the text since the last call holds a pattern; the match."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.text[-2000:]}"
            self.read()
        return found

    def forget(self):
        """Look only at what comes from now on."""
        self.raw = ""

    def type(self, keys):
        """As a person would."""
        os.write(self._master, keys.encode())

    def wait(self):
        """Read to the end; the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text[-2000:]
            self.read()
        self.read(0)
        return self.process.returncode
