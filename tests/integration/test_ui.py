"""The page's server as a process: what it answers, what it changes, and attacks on it."""

import errno
import json
import os
import signal
import socket
import sqlite3

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Verdict
from orchestrator.system.paths import home
from orchestrator.ui.reader import Reader
from orchestrator.worker.serving import NodeStatus, serve_alone
from tests.queue_kit import eventually, nothing_before, runs, states
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_lines, write_run
from tests.ui_kit import Server

SPEC = 'config = "base.toml"\n[params]\nlearning_rate = [1e-4, 1e-3]\n'


def fill(folder):
    """One run completed, one failed, three that wait."""
    (folder / "base.toml").write_text('model_name = "builtin/tiny"\n')
    rates = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    planned = [planned_run(f"r{n}", 0, {"learning_rate": r}) for n, r in enumerate(rates)]
    add_sweep(folder, planned)
    finish_next(write=lambda run: write_run(run.folder, 0.9, 60))
    finish_next(Outcome(Verdict.OOM, "out of memory", "bad_alloc", 4))
    return folder


@pytest.fixture
def queue(tmp_path):
    """A queue that a test may change."""
    return fill(tmp_path)


@pytest.fixture
def server(queue):
    """The page of that queue, entered by its link."""
    with Server(queue) as found:
        found.enter()
        yield found


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """The page of a queue that no test changes, in a home of its own, for all of them."""
    folder = tmp_path_factory.mktemp("untouched")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRPO_SWEEP_HOME", str(folder / "home"))
        fill(folder)
        with Server(folder) as found:
            found.enter()
            yield found


def shown_states(server):
    """The states of its runs, as the page has them."""
    return [run["state"] for run in server.get("/api/sweeps/1")["runs"]]


WAITING = ["completed", "failed", "queued", "queued", "queued"]


ADDRESSES = (
    *("/", "/static/page.js", "/static/plotly.js", "/api/queue", "/api/events", "/api/sweeps/1"),
    *("/api/sweeps/1/curves", "/api/runs/1", "/api/runs/1/curves", "/nowhere"),
)
CHANGES = (
    *("/api/runs/4/cancel", "/api/queue/pause", "/api/queue/resume", "/api/worker/start"),
    *("/api/worker/stop", "/api/preview", "/api/submit", "/api/slots/0/pause"),
)


def test_nothing_is_told_and_nothing_changed_without_a_key(untouched):
    """Every address, with no cookie; the answer holds no secret and no word of a run."""
    for path in (*ADDRESSES, f"/api/queue?token={untouched.token}"):
        status, headers, body = untouched.ask("GET", path, cookie=False)
        assert (status, "set-cookie" in headers) == (401, False), path
        assert "r0" not in body and untouched.act not in body
    origin = f"http://{untouched.host}"
    for path in CHANGES:
        keys = {"origin": origin, "x_grpo_sweep_act": untouched.act}
        assert untouched.ask("POST", path, cookie=False, **keys)[0] == 401
        assert untouched.ask("POST", path, origin=origin)[0] == 403
        assert untouched.ask("POST", path, x_grpo_sweep_act=untouched.act)[0] == 403
        assert untouched.post(path, origin="http://evil.test")[0] == 403
        assert untouched.post(path, host=f"evil.test:{untouched.port}")[0] == 403
    assert shown_states(untouched) == WAITING


def test_every_answer_carries_the_policy(untouched):
    """Refusals, files and errors too; only the library may be kept by the browser."""
    for path in (*ADDRESSES[:4], "/nowhere", "/api/runs/99"):
        for cookie in (True, False):
            _, headers, _ = untouched.ask("GET", path, cookie=cookie)
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            kept = path == "/static/plotly.js" and cookie
            assert ("no-store" in headers["cache-control"]) is not kept


OTHERS = (
    *("/static/../server.py", "/static/server.py", "/static/%2e%2e%2fserver.py", "/static/"),
    *("/static/page.html", "//etc/passwd", "/api/runs/1/../../static", "/api/runs/-1"),
    *("/api/runs/1e3", "/api/sweeps/99999999999999999999", "/api/runs/99999999999999999999"),
)


def test_other_addresses_lead_nowhere(untouched):
    """No file besides those of the page, and no id that is none."""
    for path in OTHERS:
        status, _, body = untouched.ask("GET", path)
        assert status in (404, 409), path
        assert "import" not in body and "root:" not in body


def test_two_hosts_are_read_as_none(untouched):
    """A proxy may read the other one."""
    assert untouched.ask("GET", "/api/queue", host=[untouched.host, "evil.test"])[0] in (400, 403)
    assert untouched.ask("GET", "/api/queue", host=None)[0] in (400, 403)


def test_a_websocket_is_refused(untouched):
    """There is none here, and browsers send cookies with them whatever the page."""
    words = {"upgrade": "websocket", "connection": "Upgrade", "sec_websocket_version": "13"}
    status, _, _ = untouched.ask(
        "GET", "/api/events", origin="http://evil.test", sec_websocket_key="x" * 22 + "==", **words
    )
    assert status == 403


NO_SPECS = (
    *((b"", "send"), (b"[]", "send"), (b'{"spec": 1}', "send"), (b"\xff\xfe", "send")),
    *((b"[" * 100_000, "send"), (b'{"spec": "  "}', "paste one")),
    (b'{"spec": "' + b"x" * 300_000 + b'"}', "longer than 256 kB"),
    (json.dumps({"spec": "config = \x00"}).encode(), "pasted.toml"),
    (json.dumps({"spec": SPEC + "learning_rat = [1]"}).encode(), "did you mean learning_rate"),
    (json.dumps({"spec": 'config = "gone.toml"'}).encode(), "gone.toml"),
)


def test_a_spec_that_cannot_be_is_refused_in_words(untouched):
    """The faults of a submit, each with its place; nothing is queued."""
    keys = {"origin": f"http://{untouched.host}", "x_grpo_sweep_act": untouched.act}
    for body, words in NO_SPECS:
        for path in ("/api/preview", "/api/submit"):
            status, _, text = untouched.ask("POST", path, body, **keys)
            assert status == 400
            assert words in json.loads(text)["error"]
    assert shown_states(untouched) == WAITING


def test_a_pasted_spec_is_shown_and_then_queued(server):
    """The dry run queues nothing, and tells what the submit then does."""
    status, shown = server.post("/api/preview", {"spec": SPEC})
    assert (status, shown["summary"], len(shown["runs"])) == (200, "2 runs", 2)
    assert shown["runs"][0]["values"] == ["1e-4"]
    assert len(runs()) == 5
    status, queued = server.post("/api/submit", {"spec": SPEC})
    assert (status, queued["message"]) == (200, "Sweep pasted: 2 runs queued.")
    assert [run.name for run in runs()[5:]] == [run["name"] for run in shown["runs"]]


def test_what_the_page_shows_is_what_the_queue_holds(untouched):
    """The failure with its reason, what comes next, the best setting, a row for every run."""
    queue = untouched.get("/api/queue")
    assert [(run["id"], run["reason"]) for run in queue["failures"]] == [(2, "out of memory")]
    assert [run["id"] for run in queue["next"]] == [3, 4, 5]
    assert (queue["worker"], queue["running"]) == (None, None)
    sweep = untouched.get("/api/sweeps/1")
    assert sweep["keys"] == ["learning_rate"]
    assert [run["values"] for run in sweep["runs"]] == [[1e-5], [1e-4], [1e-3], [1e-2], [1e-1]]
    assert sweep["best"]["settings"] == [["learning_rate", "1e-5"]]
    assert (sweep["best"]["n"], sweep["best"]["interval"]) == (1, None)
    assert sweep["best"]["sure"] == "No other setting has a result yet."
    run = untouched.get("/api/runs/2")
    assert run["attempts"][0]["evidence"] == "bad_alloc"
    assert run["can"] == ["retry"]
    assert "grpo_core" in run["command"]
    curves = untouched.get("/api/runs/1/curves")["curves"]
    assert curves["reward_mean"]["x"] == [float(update) for update in range(1, 61)]
    # 0.754 s of rollout and 0.48 s of update each.
    assert curves["reward_mean"]["t"][-1] == pytest.approx(60 * 1.234, abs=0.1)
    assert curves["em"]["x"] == [0, 50, 60]


def test_buttons_do_what_the_commands_do(server):
    """Each changes the queue, and says what came of it."""
    assert server.post("/api/runs/4/first")[1] == {"message": "Run 4: next."}
    assert [run["id"] for run in server.get("/api/queue")["next"]] == [4, 3, 5]
    assert server.post("/api/runs/3/pause")[0] == 200
    assert server.post("/api/runs/5/cancel")[0] == 200
    assert server.post("/api/runs/2/retry")[0] == 200
    assert states() == ["completed", "queued", "paused", "queued", "cancelled"]
    assert server.post("/api/runs/3/resume")[0] == 200
    assert server.post("/api/queue/pause")[0] == 200
    assert server.get("/api/queue")["halted"] == "paused"
    assert server.post("/api/queue/resume")[0] == 200
    assert server.get("/api/queue")["halted"] is None


def test_the_second_of_two_that_click_at_once_is_told(server):
    """Nothing is done twice, and the page shows why."""
    assert server.post("/api/runs/4/cancel")[0] == 200
    status, found = server.post("/api/runs/4/cancel")
    assert status == 409
    assert "run 4 is cancelled" in found["error"]
    assert server.post("/api/runs/4/explode")[0] == 400
    assert server.post("/api/runs/99/cancel")[0] == 409
    assert server.post("/api/worker/stop") == (409, {"error": "no worker runs"})


def test_what_runs_is_named_by_what_its_sweep_varies(tmp_path):
    """Not by all that the spec sets."""
    planned = [planned_run(f"r{n}", 0, {"lora_rank": 8, "num_generations": n}) for n in (2, 4)]
    add_sweep(tmp_path, planned)
    with Store.open(home().db) as store:
        store.claims.claim("host", "boot", nothing_before)
    assert Reader(home()).queue()["running"]["settings"] == [["num_generations", "2"]]


def test_what_each_slot_trains_is_told_and_a_slot_can_be_paused(server):
    """By the page's own address; where there is one slot, nothing is said of slots."""
    assert server.get("/api/queue")["slots"] == []
    with Store.open() as store:
        for slot in ("0", "1"):
            store.claims.claim("host", "boot", nothing_before, slot)
    found = server.get("/api/queue")["slots"]
    assert [(one["slot"], one["run"]["id"], one["paused"]) for one in found] == [
        ("0", 3, False),
        ("1", 4, False),
    ]
    assert server.post("/api/slots/1/nonsense")[0] == 400
    assert server.post("/api/slots/7/pause")[0] == 409
    with Store.open() as store:
        assert store.control.pause_slot("1", ())
    assert [one["paused"] for one in server.get("/api/queue")["slots"]] == [False, True]
    assert server.post("/api/slots/1/resume") == (200, {"message": "Slot 1 goes on."})
    assert server.post("/api/slots/1/resume")[0] == 409
    with Store.open() as store:
        store.control.pause_slot("mac/0", ("mac/0",))
    assert server.post("/api/slots/mac%2F0/resume") == (200, {"message": "Slot mac/0 goes on."})


def test_nodes_of_a_cluster_are_told_and_can_be_paused(server):
    """What each has, how it stands and why it trains nothing; by themselves, beside their slots."""
    nodes = [
        NodeStatus("mini", "mini", "metal", 16_000_000_000, 2),
        NodeStatus("box", "box", "cuda", 80_000_000_000, 1, away_since="2026-01-02T03:00:00Z"),
        NodeStatus("old", unfit="it has mlx 0.1, and here it is 0.2"),
    ]
    with serve_alone(home()) as serving:
        serving.offer(["box/0", "mini/0", "mini/1"], nodes)
        assert server.post("/api/slots/mini/pause")[0] == 200
        found = server.get("/api/queue")
    mini, box, old = found["nodes"]
    assert mini == {
        **{"node": "mini", "slots": 2, "backend": "metal", "memory": "16.0 GB", "speed": None},
        **{"lacks": None, "paused": True},
    }
    assert box["lacks"].startswith("is away since ")
    assert (old["slots"], old["memory"]) == (None, "")
    assert old["lacks"] == "gets no run: it has mlx 0.1, and here it is 0.2"
    assert [(one["slot"], one["paused"]) for one in found["slots"]] == [
        ("box/0", False),
        ("mini/0", True),
        ("mini/1", True),
    ]
    assert f"Node box {box['lacks']}." in found["warnings"]
    assert server.get("/api/queue")["nodes"] == []


def test_a_run_that_is_ill_or_slow_says_so_everywhere(tmp_path):
    """At the top while it trains, in its row of the table, and where it is looked at alone."""
    add_sweep(tmp_path, [planned_run("r", 0, {}), planned_run("s", 0, {"lora_rank": 2})])
    with Store.open(home().db) as store:
        run, _ = store.claims.claim("host", "boot", nothing_before)
    rates = [900.0] * 10 + [300.0] * 5
    cut = {"reward_mean": 1.0, "truncated_frac": 0.9, "completion_length": 64.0, "update_s": 60.0}
    lines = [{"update": n, "tokens_per_s": rate, **cut} for n, rate in enumerate(rates, 1)]
    write_lines(run.folder / "training_log.jsonl", lines)
    reader = Reader(home())
    slow, ill = reader.queue()["running"]["warnings"]
    assert slow.startswith("3.0 times slower than usual since ")
    assert ill.startswith("completions cut: 90% of the completions hit the limit")
    assert [row["ill"] for row in reader.sweep(1)["runs"]] == [[ill], []]
    assert reader.run(run.id)["warnings"] == [slow, ill]


def test_a_log_is_followed_by_its_new_lines_alone(server):
    """A torn line waits; a log that was cut is read anew."""
    folder = runs()[2].folder
    path = folder / "training_log.jsonl"
    write_lines(path, [{"update": n, "reward_mean": n / 10, "update_s": 2.0} for n in (1, 2)])
    first = server.get("/api/runs/3/curves")
    assert (first["lines"], first["curves"]["reward_mean"]["y"]) == (2, [0.1, 0.2])
    with open(path, "a") as log:
        log.write('{"update": 3, "reward_mean": 0.3, "update_s": 2.0}\n{"update": 4, "rew')
    asked = f"/api/runs/3/curves?epoch={first['epoch']}&since=2"
    more = server.get(asked)
    assert (more["since"], more["lines"]) == (2, 3)
    assert more["curves"]["reward_mean"] == {"x": [3.0], "y": [0.3], "t": [6.0]}
    write_lines(path, [{"update": 1, "reward_mean": 0.9}])
    anew = server.get(asked)
    assert (anew["since"], anew["lines"], anew["curves"]["reward_mean"]["y"]) == (0, 1, [0.9])
    path.unlink()
    folder.rmdir()
    assert server.get(asked)["lines"] == 1


def test_what_a_trainer_prints_for_terminals_is_left_out(server):
    """Colours, cursor moves and NaN: the page gets text, and JSON that a browser reads."""
    folder = runs()[2].folder
    write_lines(folder / "training_log.jsonl", [])
    with open(folder / "training_log.jsonl", "a") as log:
        log.write('{"update": 1, "loss": NaN, "reward_mean": 0.5}\n')
    finish_next(Outcome(Verdict.CONFIG, "\x1b[31mred\x1b[0m\rline\x07", "\x1b]0;title\x07proof", 1))
    run = server.get("/api/runs/3")
    assert (run["state_text"], run["attempts"][0]["evidence"]) == ("failed: red\nline", "proof")


def test_it_ends_at_once_by_ctrl_c_with_a_browser_that_waits(server):
    """An open stream does not hold it, and the secret was never printed."""
    with socket.create_connection(("127.0.0.1", server.port)) as waiting:
        lines = ("GET /api/events HTTP/1.1", f"host: {server.host}", f"cookie: {server.cookie}")
        waiting.sendall("\r\n".join((*lines, "", "")).encode())
        found = b""
        while b"data: " not in found:
            found += waiting.recv(65536)
        assert server.stop() in (130, -signal.SIGINT)
    said = server.err.read_text()
    assert "Traceback" not in said
    assert server.token not in said and server.act not in said


def test_a_queue_that_cannot_be_read_is_said_and_read_again(tmp_path):
    """Missing, then there, then newer than this program, then removed."""
    with Server(tmp_path) as server:
        server.enter()
        assert server.get("/api/queue")["sweeps"] == []
        add_sweep(tmp_path, [planned_run("r0", 0, {})])
        assert [sweep["name"] for sweep in server.get("/api/queue")["sweeps"]] == ["s"]
        with sqlite3.connect(home().db) as db:
            db.execute("PRAGMA user_version = 9999")
        db.close()
        status, _, body = server.ask("GET", "/api/queue")
        assert status == 503
        assert "newer" in json.loads(body)["error"]
        status, _, page = server.ask("GET", "/")
        assert status == 200 and "newer" in page
        home().db.unlink()
        assert server.get("/api/queue")["sweeps"] == []


def test_a_port_that_is_taken_is_said(tmp_path, capfd):
    """A named one is not changed in silence; without a name the next free one is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 2
    said = capfd.readouterr().err
    why = os.strerror(errno.EADDRINUSE)
    assert f"port {port}: {why}; name another with --port" in said
    with Server(tmp_path) as first:
        other = tmp_path / "other"
        other.mkdir()
        with Server(other) as second:
            assert first.port != second.port


def test_control_without_lan_is_a_usage_error(capfd):
    """On this machine there is nothing that it would allow."""
    assert main(["ui", "--control"]) == 2
    assert "--lan" in capfd.readouterr().err


@pytest.mark.parametrize("control", [False, True])
def test_in_the_network_it_only_shows_unless_told(queue, control):
    """A QR code on stderr, the same data, and every change refused without --control."""
    with Server(queue, "--lan", *(["--control"] if control else [])) as server:
        server.host = server.link.split("/")[2]
        server.enter()
        assert server.get("/api/queue")["failures"]
        assert bool(server.act) is control
        status, _ = server.post("/api/runs/4/cancel")
        assert status == (200 if control else 403)
        assert states()[3] == ("cancelled" if control else "queued")
        assert "▀" in server.err.read_text() or "█" in server.err.read_text()
        # The key is the link alone, from wherever it comes.
        assert server.ask("GET", "/api/queue", cookie=False)[0] == 401


def test_the_worker_is_started_and_stopped(server):
    """It outlives the page: killed at once, the page takes nothing along."""
    assert server.post("/api/queue/pause")[0] == 200
    status, found = server.post("/api/worker/start")
    assert (status, "pid" in found["message"]) == (200, True)
    pid = server.get("/api/queue")["worker"]["pid"]
    assert pid is not None
    assert server.post("/api/worker/start")[0] == 409
    server.stop(signal.SIGKILL)
    with Server(server.folder) as again:
        again.enter()
        assert again.get("/api/queue")["worker"] == {"pid": pid}
        assert again.post("/api/worker/stop")[0] == 200
        eventually(lambda: again.get("/api/queue")["worker"] is None)
