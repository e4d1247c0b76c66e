"""What a sweep was submitted with: files, git, packages; and what of it has changed since.

Looks, compares, decides nothing. The base config and the overrides are frozen by the queue itself;
here is what lies outside of it. A file is its SHA-256; a folder (a model) the names, sizes and
times of its files, because weights are too large to be read at every launch.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_core.run.protocol import PACKAGES, package_versions
from orchestrator.plan import environment
from orchestrator.plan.inputs import inputs, path_of, scorers
from orchestrator.plan.reward_sources import reward_sources
from orchestrator.run import Plan, PlannedRun, Run, Sweep
from orchestrator.spec.base_config import resolved_base

Provenance = Mapping[str, Any]

# Their versions decide on the numbers of a result, and so on whether two runs are the same.
_COMPUTING = ("grpo-sweep", "mlx", "mlx-lm")
_DIFF_BYTES = 200_000
_PIECE_BYTES = 65_536
# `off`: the queue keeps no text of uncommitted changes, only their hash.
ENV_DIFF = "GRPO_SWEEP_GIT_DIFF"
_SECRET = re.compile(
    r"(api|access|private|secret|auth)[_-]?key|secret|token['\"]?\s*[:=]|passw|credential|bearer "
    r"|PRIVATE KEY|\b(hf|ghp|gho|glpat|sk|pk|xox[abp])[_-]\w{16,}|\bAKIA[0-9A-Z]{16}",
    re.IGNORECASE,
)
_SECRET_FILE = re.compile(r"(^|/)(\.env\b|\.netrc|id_[a-z0-9]+\b|[^ /]*\.(pem|key|p12))")
_GIT_S = 10.0


def with_provenance(plan: Plan, known: Provenance | None = None) -> Plan:
    """The plan with what it was submitted with, and each run with its identity.

    `known` is a look that was taken before; files that are not in it are looked at now.
    """
    base = vars(resolved_base(plan))
    sources = functools.cache(reward_sources)
    settings = [{**base, **run.overrides} for run in plan.runs]
    read = {name for values in settings for name in inputs(values, plan.cwd, sources)}
    used = {name for v in settings for name in sources(scorers(v), plan.cwd).packages}
    found = look(plan.cwd, read, used) if known is None else _widened(known, read, plan.cwd)
    runs = identified(plan.runs, plan, found)
    return replace(plan, runs=tuple(runs), provenance=found)


def identified(
    runs: Iterable[PlannedRun], sweep: Sweep | Plan, known: Provenance | None
) -> list[PlannedRun]:
    """The runs of a sweep with their identities: two of one identity would train the same.

    That is an equal configuration with equal local files, as `known` has them (a file that is not
    among those is looked at now), and equal versions of what computes results and rewards.
    """
    base, files = vars(resolved_base(sweep)), dict((known or {}).get("files", {}))
    sources = functools.cache(reward_sources)
    versions = functools.cache(package_versions)
    found = []
    for run in runs:
        values = {**base, **run.overrides}
        names = inputs(values, sweep.cwd, sources)
        files |= {name: _file(name, sweep.cwd) for name in names if name not in files}
        packages = tuple(sources(scorers(values), sweep.cwd).packages)
        computed = versions((*_COMPUTING, *packages))
        found.append(replace(run, identity=_identity(run.hash, names, files, computed)))
    return found


def _widened(known: Provenance, names: Iterable[str], cwd: str) -> Provenance:
    new = {name: _file(name, cwd) for name in sorted(names) if name not in known["files"]}
    return {**known, "files": {**known["files"], **new}}


def _identity(
    config: str | None, names: Iterable[str], files: Mapping[str, Any], versions: Mapping[str, str]
) -> str | None:
    if config is None:
        return None
    read = sorted((name, files[name]) for name in names)
    parts = json.dumps([config, read, sorted(versions.items())])
    return hashlib.sha256(parts.encode()).hexdigest()


def look(cwd: str, names: Iterable[str], packages: Iterable[str] = ()) -> Provenance:
    """The state of these files and folders, of the git checkout at `cwd`, and of packages.

    Of our own and those that we need, and of the `packages` besides. With them what of the shell's
    environment a trainer may depend on, which holds nothing when it differs.
    """
    return {
        "files": {name: _file(name, cwd) for name in sorted(names)},
        "git": _git(cwd),
        "versions": package_versions(dict.fromkeys((*PACKAGES, *packages))),
        "environment": environment.kept(),
    }


def changes(then: Provenance | None, cwd: str) -> list[str]:
    """What is not as it was at the submit, a line each; none where that is not known."""
    if not then:
        return []
    now = look(cwd, then["files"], then["versions"])
    lines = [
        f"{name}: {_file_text(digest, now['files'][name])}"
        for name, digest in then["files"].items()
        if digest != now["files"][name]
    ]
    lines += _git_changes(then["git"] or {}, now["git"] or {})
    return lines + [
        f"{name}: {then['versions'].get(name, 'not there')} at the submit, "
        f"{now['versions'].get(name, 'not there')} now"
        for name in sorted({*then["versions"], *now["versions"]})
        if then["versions"].get(name) != now["versions"].get(name)
    ]


def reads_the_same(run: Run, sweep: Sweep) -> bool:
    """Whether the files that a run reads are as they were at the submit, as far as is known."""
    base = vars(resolved_base(sweep))
    files = (sweep.provenance or {}).get("files", {})
    names = inputs({**base, **run.overrides}, sweep.cwd)
    return all(files[name] == _file(name, sweep.cwd) for name in names if name in files)


def stamps(then: Provenance | None, cwd: str) -> list[tuple[int, ...] | None]:
    """When each of these files was written last: a change shows, also one that was undone."""
    return [_stamp(path_of(name, cwd)) for name in (then or {}).get("files", ())]


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _file_text(then: str | None, now: str | None) -> str:
    if now is None:
        return "was there at the submit and is gone"
    if then is None:
        return "was not there at the submit"
    return f"has changed since the submit ({then[:8]} then, {now[:8]} now)"


def _git_changes(then: Provenance, now: Provenance) -> list[str]:
    if not then or not now:
        return []
    if then["commit"] != now["commit"]:
        return [f"git: commit {then['commit'][:8]} at the submit, {now['commit'][:8]} now"]
    if then["diff_sha256"] != now["diff_sha256"]:
        return ["git: the uncommitted changes are not those of the submit"]
    return []


def _file(name: str, cwd: str) -> str | None:
    """The fingerprint of a file or folder, as a configuration names it."""
    return _fingerprint(path_of(name, cwd))


def _fingerprint(path: Path) -> str | None:
    """The content of a file, or the make-up of a folder; None where there is nothing."""
    try:
        if path.is_dir():
            return hashlib.sha256("\n".join(_listing(path)).encode()).hexdigest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _listing(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder), path.stat()) for path in files]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]


def _git(cwd: str) -> dict[str, str] | None:
    """Commit and uncommitted changes (their start, and the hash of all); None outside of git."""
    commit = _git_says(cwd, "rev-parse", "--verify", "HEAD")
    diff = _git_says(cwd, "diff", "HEAD") if commit else None
    if commit is None or diff is None:
        return None
    kept = "" if os.environ.get(ENV_DIFF) == "off" else diff.start.decode(errors="replace")
    return {
        "commit": commit.start.decode().strip(),
        "diff": without_secrets(kept),
        "diff_sha256": diff.sha256,
    }


def without_secrets(diff: str) -> str:
    """The diff without the content of lines that look like a secret, and of files that hold some.

    The queue is a file that people copy and open to others.
    """
    lines, private = [], False
    for line in diff.splitlines():
        if line.startswith("diff --git "):
            private = _SECRET_FILE.search(line) is not None
        content = line[:1] in ("+", "-", " ") and not line.startswith(("+++ ", "--- "))
        secret = content and (private or _SECRET.search(line) is not None)
        lines.append(f"{line[0]}[left out: may be a secret]" if secret else line)
    return "\n".join(lines)


@dataclass(frozen=True)
class _Said:
    """What git printed: its start, and the hash of all of it."""

    start: bytes
    sha256: str


def _git_says(cwd: str, *words: str) -> _Said | None:
    """None where git fails, is missing or takes too long. A diff may be larger than memory."""
    # Without optional locks a look never disturbs a git command of the user's.
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", cwd, *words]
    try:
        git = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    except OSError:
        return None
    limit = threading.Timer(_GIT_S, git.kill)
    limit.start()
    start, digest = b"", hashlib.sha256()
    with git:
        assert git.stdout is not None
        while piece := git.stdout.read(_PIECE_BYTES):
            start += piece[: _DIFF_BYTES - len(start)]
            digest.update(piece)
    limit.cancel()
    return _Said(start, digest.hexdigest()) if git.returncode == 0 else None
