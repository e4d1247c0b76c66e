"""A real child process that keeps the trainer's contract (design, section 3) without a model.

Takes the trainer's command line. Beside `output_dir` it obeys overrides of its own:
updates=N, update_s=S (how long one takes), save_steps=N, die="U:SIGNAL" or "U:CODE" (at update U,
only while `die_file`, if named, does not exist; it is made then), gain=G (log em = G * update),
nan_from=U (log a loss that is not finite from then on), child=true (start a child that
inherits everything and sleeps; child=away: one in a session of its own, as setsid makes it),
deaf=true (ignore SIGTERM), say="a line for stderr".
Exits 99 if another trainer holds the GPU lock: no test may ever see that.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

stop = False


def note(_number, _frame):
    global stop
    stop = True


def parse(argv):
    values = {"updates": "3", "update_s": "0.02", "save_steps": "1"}
    for word, item in pairwise(argv):
        if word == "--set":
            key, _, value = item.partition("=")
            values[key] = value
    return values


def write_json(path, document):
    beside = path.with_name(f".grpo-tmp-{path.name}")
    beside.write_text(json.dumps(document))
    os.replace(beside, path)


def resume(folder):
    """The newest whole checkpoint, the log cut at it."""
    done = max((int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*")), default=0)
    log = folder / "training_log.jsonl"
    if log.exists():
        lines = [x for x in log.read_text().splitlines(True) if x.endswith("\n")]
        # The evaluation at the end is no update's: it is logged again.
        rows = [(x, json.loads(x)) for x in lines]
        kept = [x for x, row in rows if row["update"] <= done and "split" not in row]
        beside = folder / ".grpo-tmp-log"
        beside.write_text("".join(kept))
        os.replace(beside, log)
    return done


def save(folder, update):
    beside = folder / f".grpo-tmp-checkpoint-{update}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    state = json.dumps({"update": update}).encode()
    (beside / "trainer_state.json").write_bytes(state)
    sums = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    (beside / "manifest.json").write_text(json.dumps({"files": {"trainer_state.json": sums}}))
    if not (folder / f"checkpoint-{update}").exists():
        os.rename(beside, folder / f"checkpoint-{update}")


def maybe_die(values, update):
    at, _, how = values.get("die", "").partition(":")
    if not at or int(at) != update:
        return
    if mark := values.get("die_file"):
        if os.path.exists(mark):
            return
        Path(mark).touch()
    print(values.get("say", "about to die"), file=sys.stderr, flush=True)
    if how.isdigit():
        raise SystemExit(int(how))
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(60)


def curve(values, update, updates):
    """What a stop rule looks at, where the overrides ask for it."""
    line = {}
    if "gain" in values:
        line |= {"em": float(values["gain"]) * update, "updates_total": updates}
    if update >= int(values.get("nan_from", updates + 1)):
        line |= {"loss": None}
    return line


def train(values, folder):
    updates, save_steps = int(values["updates"]), int(values["save_steps"])
    for update in range(resume(folder) + 1, updates + 1):
        deadline = time.monotonic() + float(values["update_s"])
        while time.monotonic() < deadline and not stop:
            time.sleep(0.005)
        if stop:
            save(folder, update - 1)
            return 75, update - 1
        maybe_die(values, update)
        with open(folder / "training_log.jsonl", "a") as log:
            line = {"update": update, "loss": 1 / update, "update_s": float(values["update_s"])}
            line |= curve(values, update, updates)
            log.write(json.dumps(line) + "\n")
        if update % save_steps == 0:
            save(folder, update)
    with open(folder / "training_log.jsonl", "a") as log:
        log.write(json.dumps({"update": updates, "em": 0.5, "split": "test", "n": 8}) + "\n")
    return 0, updates


def main():
    values = parse(sys.argv[1:])
    if "--prewarm" in sys.argv and sys.stdin.readline() != "go\n":
        return 75
    signal.signal(signal.SIGTERM, signal.SIG_IGN if values.get("deaf") else note)
    folder = Path(values["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    if result.exists() and json.loads(result.read_text())["status"] == "completed":
        print("finished before")
        return 0
    gpu = os.open(os.environ["GRPO_GPU_LOCK"], os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(gpu, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 99
    result.unlink(missing_ok=True)
    with open(folder / "starts", "a") as starts:
        starts.write(f"{os.getpid()}\n")
    if values.get("child"):
        away = values["child"] == "away"
        child = subprocess.Popen(["sleep", "600"], close_fds=away, start_new_session=away)
        (folder / "child").write_text(str(child.pid))
    if halvings := os.environ.get("GRPO_MICRO_BATCH_HALVINGS"):
        print(f"halvings {halvings}", file=sys.stderr, flush=True)
    code, update = train(values, folder)
    status = "completed" if code == 0 else "interrupted"
    reason = "all updates done" if code == 0 else "stopped by SIGTERM"
    write_json(result, {"status": status, "exit_code": code, "reason": reason, "updates": update})
    return code


if __name__ == "__main__":
    sys.exit(main())
