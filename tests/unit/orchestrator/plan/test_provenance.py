"""What of the user's working tree the queue keeps: no secret, and nothing where it is off."""

import hashlib
import os
import subprocess
import tracemalloc

import pytest

from orchestrator.plan.provenance import look, without_secrets

DIFF = """\
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -1,2 +1,3 @@
 import os
-lr = 1e-5
+lr = 1e-4  # max_new_tokens = 3
+{secret}
diff --git a/.env b/.env
--- a/.env
+++ b/.env
@@ -1 +1 @@
-A=1
+A=2"""

SECRETS = [
    *("HF_TOKEN = 'hf_abcdefghijklmnopqrstuv'", "login('hf_abcdefghijklmnopqrstuv')"),
    *(
        "openai.api_key = 'x'",
        "password: hunter2",
        "AKIAABCDEFGHIJKLMNOP",
        "Authorization: Bearer x",
    ),
    *("-----BEGIN RSA PRIVATE KEY-----", "AWS_SECRET_ACCESS_KEY=x", "sk-abcdefghijklmnopqrst"),
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_diff_is_kept_without_what_looks_like_a_secret(secret):
    """The line is counted, its content is gone; so is all of a file that holds secrets."""
    left = "[left out: may be a secret]"
    assert without_secrets(DIFF.format(secret=secret)) == (
        DIFF.replace("{secret}", left).replace("-A=1", f"-{left}").replace("+A=2", f"+{left}")
    )


@pytest.mark.parametrize("off", [False, True])
def test_the_diff_can_be_off_and_a_change_shows_all_the_same(tmp_path, monkeypatch, off):
    """By its hash; of a large diff the beginning is kept."""
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "a.py").write_text("x = 1\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "a")):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "a.py").write_text("x = 2\n" * 100_000)
    if off:
        monkeypatch.setenv("GRPO_SWEEP_GIT_DIFF", "off")
    found = look(str(tmp_path), [])["git"]
    assert len(found["diff_sha256"]) == 64
    assert ("x = 2" in found["diff"]) is not off
    assert len(found["diff"]) <= 200_000


def test_a_diff_that_is_larger_than_memory_is_hashed_piece_by_piece(tmp_path, monkeypatch):
    """As after a data set was added: 40 MB of it never lie in memory at once."""
    line = b"+" + b"x" * 62 + b"\n"
    git = tmp_path / "git"
    git.write_text(
        "#!/bin/sh\n"
        'case "$*" in *rev-parse*) echo abc ;; *)\n'
        f"  yes '{line.decode().strip()}' | head -c 40960000 ;; esac\n"
    )
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tracemalloc.start()
    try:
        found = look(str(tmp_path), [])["git"]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found["diff_sha256"] == hashlib.sha256(line * 640_000).hexdigest()
    assert found["diff"] == (line * 3125).decode().rstrip("\n")
    assert peak_bytes < 4_000_000
