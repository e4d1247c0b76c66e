"""Breaks trainer and queue on purpose, line by line, and names the test that goes red for each.

    python -m tests.mutations            all of them
    python -m tests.mutations clip eos   those whose name contains one of the words
    python -m tests.mutations --list     what there is

Works in a temporary copy of the repository; nothing here is touched. First the tests must be green
in the copy as it is. A mutation that no test notices, or whose line is no longer there, is a
failure (exit 1). Not collected by pytest: it takes minutes.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 900

ORACLE = "tests/unit/grpo_core/update/test_oracle.py"
GRADIENT = "tests/integration/test_gradient.py"
SAMPLING = "tests/integration/test_sampling.py"
ROLLOUT_BATCH = "tests/integration/test_rollout_batch.py"
RUN = "tests/integration/test_run_oracle.py"
KILL = "tests/crash/test_trainer_kill.py::test_killed_run_ends_as_the_whole_one"
LOSS, ROLLOUT = "grpo_core/update/loss.py", "grpo_core/rollout/generate.py"
SAMPLES, SAMPLING_CODE = "grpo_core/update/micro_batches.py", "grpo_core/rollout/sampling.py"
PASSES, TRAINER = "grpo_core/update/group_passes.py", "grpo_core/training_loop.py"

WORKER = "tests/integration/test_worker.py"
CONTROL = "tests/integration/test_control.py"
PREWARM = "tests/integration/test_prewarm.py"
CLUSTER = "tests/integration/test_cluster_head.py"
TOKENS = "tests/unit/orchestrator/queue/test_claims.py"
WORKER_KILL = "tests/crash/test_worker_kill.py"
CLAIMS, LAUNCHER = "orchestrator/queue/claims.py", "orchestrator/worker/launcher.py"
STANDBY = "orchestrator/worker/standby.py"
AGENT, AGENT_CODE = "tests/unit/orchestrator/cluster/test_agent.py", "orchestrator/cluster/agent.py"
CONTENTS = "tests/unit/orchestrator/cluster/test_contents.py"
NODE_FILES = "tests/unit/orchestrator/cluster/test_files.py"


@dataclass(frozen=True)
class Mutation:
    """In the file `path`, the only `old` becomes `new`; one of `tests` should go red."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    # -- loss.py
    Mutation(
        "sign of the policy's term",
        LOSS,
        "    loss = -reward\n",
        "    loss = reward\n",
        (ORACLE,),
    ),
    Mutation(
        "the clip takes the maximum",
        LOSS,
        "return mx.minimum(free * advantage, fenced * advantage)",
        "return mx.maximum(free * advantage, fenced * advantage)",
        (ORACLE,),
    ),
    Mutation(
        "clip widths on the wrong sides",
        LOSS,
        "mx.clip(ratio, 1 - how.eps_low, 1 + how.eps_high)",
        "mx.clip(ratio, 1 - how.eps_high, 1 + how.eps_low)",
        (ORACLE,),
    ),
    Mutation(
        "KL inverted",
        LOSS,
        "divergence((batch.ref - logps) * mask",
        "divergence((logps - batch.ref) * mask",
        (ORACLE,),
    ),
    Mutation(
        "deviation with ddof 0",
        LOSS,
        "np.sqrt(squares / np.maximum(count - 1, 1))",
        "np.sqrt(squares / np.maximum(count, 1))",
        (ORACLE,),
    ),
    Mutation(
        "token mean over completions",
        LOSS,
        "        return mask / max(1, totals.tokens)\n",
        "        return mask / max(1, totals.sequences)\n",
        (ORACLE,),
    ),
    Mutation(
        "sequence ratio without its length",
        LOSS,
        "mx.exp(steps.sum(axis=1, keepdims=True) / lengths)",
        "mx.exp(steps.sum(axis=1, keepdims=True))",
        (ORACLE,),
    ),
    Mutation(
        "ratio upside down",
        LOSS,
        "steps = (logps - old) * mask",
        "steps = (old - logps) * mask",
        (ORACLE,),
    ),
    Mutation(
        "cispo's weight has a gradient",
        LOSS,
        "mx.stop_gradient(mx.minimum(ratio, 1 + how.eps_high))",
        "mx.minimum(ratio, 1 + how.eps_high)",
        (ORACLE,),
    ),
    Mutation(
        "entropy bonus as a penalty",
        LOSS,
        "loss = loss - how.entropy_coef",
        "loss = loss + how.entropy_coef",
        (ORACLE,),
    ),
    Mutation(
        "lowest entropies learn",
        LOSS,
        "np.quantile(entropies, 1 - share)",
        "np.quantile(entropies, share)",
        (ORACLE, GRADIENT),
    ),
    Mutation(
        "sampler weights upside down",
        LOSS,
        "rollout_weights((mx.stop_gradient(old) - batch.sampler) * mask, how)",
        "rollout_weights((batch.sampler - mx.stop_gradient(old)) * mask, how)",
        (ORACLE,),
    ),
    # -- update.py
    Mutation(
        "end token not in the loss",
        SAMPLES,
        "mask=padded([np.ones(len(s.completion_ids)) for s in samples], np.float32)",
        "mask=padded([np.ones(len(s.completion_ids) - 1) for s in samples], np.float32)",
        (GRADIENT,),
    ),
    Mutation(
        "mask shifted by one",
        SAMPLES,
        "mask=padded([np.ones(len(s.completion_ids)) for s in samples], np.float32)",
        "mask=padded([np.arange(len(s.completion_ids)) > 0 for s in samples], np.float32)",
        (GRADIENT,),
    ),
    Mutation(
        "log-probs at temperature 1",
        PASSES,
        "temperature=cfg.temperature,",
        "temperature=1.0,",
        (GRADIENT,),
    ),
    Mutation(
        "the prompt's own backward pass left out",
        PASSES,
        "        yield Share(mx.grad(before)(weights), {}, [])\n",
        "",
        (GRADIENT,),
    ),
    # -- rollout.py
    Mutation(
        "sampling at the inverse temperature",
        SAMPLING_CODE,
        "exp(below, 1 / temperature)",
        "exp(below, temperature)",
        (SAMPLING,),
    ),
    Mutation(
        "end token cut off",
        ROLLOUT,
        "next((i + 1 for i, token in enumerate(new) if token in policy.eos_ids), None)",
        "next((i for i, token in enumerate(new) if token in policy.eos_ids), None)",
        (SAMPLING,),
    ),
    Mutation(
        "one key for all tokens of a completion",
        SAMPLING_CODE,
        "keys + mx.array([0, step], mx.uint32)",
        "keys + mx.array([0, 0], mx.uint32)",
        (SAMPLING,),
    ),
    Mutation(
        "one key for all completions of a prompt",
        "grpo_core/model/random_keys.py",
        'derive_key("sample", seed, update, prompt, sample, round)',
        'derive_key("sample", seed, update, prompt, 0, round)',
        (SAMPLING,),
    ),
    Mutation(
        "log-probs after the filters",
        SAMPLING_CODE,
        "    logp = own.logp(token)\n",
        "    logp = source.logp(token)\n",
        (SAMPLING,),
    ),
    Mutation(
        "every completion counts as finished",
        ROLLOUT,
        "        row.finished = keep is not None\n",
        "        row.finished = True\n",
        (SAMPLING,),
    ),
    # -- rollout_batch.py, learner.py, optimizer.py, schedule.py
    Mutation(
        "overlong completions are paid for",
        "grpo_core/update/judged_groups.py",
        "cost: np.ndarray = -cfg.overlong_penalty * over",
        "cost: np.ndarray = cfg.overlong_penalty * over",
        (ROLLOUT_BATCH,),
    ),
    Mutation(
        "advantages of another group",
        "grpo_core/update/rollout_batch.py",
        "_samples(j, learnt[p], weights[p], p, cfg)",
        "_samples(j, learnt[p], weights[p - 1], p, cfg)",
        (ROLLOUT_BATCH,),
    ),
    Mutation(
        "filtered log-probs as the policy's own",
        "grpo_core/update/rollout_batch.py",
        "old_logprobs=group.logprobs[s] if",
        "old_logprobs=sampling[s] if",
        ("tests/integration/test_learner.py",),
    ),
    Mutation(
        "log-probs of the sampler computed again",
        "grpo_core/update/learner.py",
        'if follows and self.cfg.old_logprobs == "recomputed":',
        "if follows:",
        ("tests/integration/test_learner.py",),
    ),
    Mutation(
        "large arrays joined as well",
        "grpo_core/update/bundles.py",
        "if size % ALIGNED or not 0 < size <= SMALL:",
        "if size % ALIGNED:",
        ("tests/unit/grpo_core/update/test_bundles.py",),
    ),
    Mutation(
        "weights put where others were",
        "grpo_core/model/trained_weights.py",
        "holder, key = self._places[name]",
        "holder, key = next(iter(self._places.values()))",
        ("tests/integration/test_learner.py",),
    ),
    Mutation(
        "keys without the update",
        "grpo_core/update/group_draws.py",
        "sample_key(cfg.seed, self._update, p.example.index, sample, round)",
        "sample_key(cfg.seed, 0, p.example.index, sample, round)",
        (ROLLOUT_BATCH,),
    ),
    Mutation(
        "skipped groups out of the means",
        "grpo_core/update/learner.py",
        "skipped=skipped",
        "skipped=type(skipped)()",
        (ROLLOUT_BATCH,),
    ),
    Mutation(
        "gradient not clipped",
        "grpo_core/update/learner.py",
        "clip(grads, norm, self.cfg.max_grad_norm)",
        "grads",
        (RUN,),
    ),
    Mutation(
        "the policy as its own reference",
        "grpo_core/update/learner.py",
        "            with self.policy.reference():\n",
        "            if True:\n",
        (RUN,),
    ),
    Mutation(
        "bias correction one step late",
        "grpo_core/update/optimizer.py",
        "unbias_m = 1 / (1 - self.beta1**self.steps)",
        "unbias_m = 1 / (1 - self.beta1 ** (self.steps + 1))",
        (RUN,),
    ),
    Mutation(
        "decay that ends one update early",
        "grpo_core/update/schedule.py",
        "progress = (update - warmup) / (updates - warmup + 1)",
        "progress = (update - warmup) / (updates - warmup)",
        (RUN,),
    ),
    # -- trainer.py
    Mutation(
        "the rate of the update before",
        TRAINER,
        "learning_rate(self.cfg, number, self.schedule.updates)",
        "learning_rate(self.cfg, number - 1, self.schedule.updates)",
        (RUN,),
    ),
    Mutation(
        "the first rows in every batch",
        TRAINER,
        "order[at.start : at.stop]",
        "order[: at.stop - at.start]",
        (RUN,),
    ),
    Mutation(
        "the same order in every epoch",
        TRAINER,
        'shuffled(rows, "order", self.cfg.seed, epoch)',
        'shuffled(rows, "order", self.cfg.seed)',
        (RUN,),
    ),
    Mutation(
        "rollouts drawn anew in each iteration",
        TRAINER,
        "        if at.draws or self.rollouts is None:\n",
        "        if True:\n",
        (RUN,),
    ),
    Mutation(
        "neither old policy nor reference scored",
        TRAINER,
        "            self.rollouts = self.learner.score(self.rollouts)\n",
        "            pass\n",
        (RUN,),
    ),
    Mutation(
        "every iteration counts as the first",
        TRAINER,
        "self.learner.step(self.rollouts, number, at, lr, self.stop)",
        "self.learner.step(self.rollouts, number, replace(at, iteration=0), lr, self.stop)",
        (RUN,),
    ),
    Mutation(
        "a resumed run keeps its first weights",
        "grpo_core/update/learner.py",
        "        self._put(vectors[MASTERS])\n",
        "",
        (KILL,),
    ),
    Mutation(
        "a resumed run forgets Adam's step",
        TRAINER,
        "self.learner.restore(found.arrays, self.state.optimizer_steps)",
        "self.learner.restore(found.arrays, 0)",
        (KILL,),
    ),
    Mutation(
        "a resumed run leaves the log as it is",
        TRAINER,
        "        logged = self.log.cut(keep)\n",
        "        logged = []\n",
        (KILL,),
    ),
    # -- the queue
    Mutation(
        "priority is forgotten",
        CLAIMS,
        "ORDER BY priority DESC, sweep_id, position LIMIT 1",
        "ORDER BY sweep_id, position LIMIT 1",
        (CONTROL,),
    ),
    Mutation(
        "deaths are not counted before the launch",
        CLAIMS,
        "attempt = attempt + 1, deaths = deaths + 1,",
        "attempt = attempt + 1,",
        (WORKER,),
    ),
    Mutation(
        "a trainer does not hold its run's lock",
        LAUNCHER,
        "        pass_fds=(lock.fd,),\n",
        "",
        (WORKER_KILL,),
    ),
    Mutation(
        "the children of a trainer outlive it",
        LAUNCHER,
        "        processes.signal_group(self._process.pid, signal.SIGKILL)\n"
        "        _end_children(self._tokens)\n",
        "",
        (WORKER,),
    ),
    Mutation(
        "an old result is taken for a new one",
        "orchestrator/worker/attempt_runner.py",
        "return result_identity(run.folder) != attempt.result_before",
        "return True",
        (WORKER_KILL,),
    ),
    Mutation(
        "a standby of another run trains",
        STANDBY,
        "fits = standby.serves(run, attempt.n, self._command(run)) and standby.lives()",
        "fits = True",
        (PREWARM,),
    ),
    Mutation(
        "a standby outlives its worker",
        "grpo_core/run/standby.py",
        "            os._exit(ExitCode.INTERRUPTED)\n",
        "            return\n",
        (PREWARM,),
    ),
    Mutation(
        "a changed file is not noticed by the standby",
        STANDBY,
        " or standby.read != stamps(sweep.provenance, sweep.cwd)",
        "",
        (PREWARM,),
    ),
    # -- nodes of a cluster
    Mutation(
        "a node's late report ends the attempt that came after it",
        CLAIMS,
        "wall_s = ? WHERE id = ? AND token = ? AND ended IS NULL",
        "wall_s = ? WHERE id = ? AND ? IS NOT NULL AND ended IS NULL",
        (TOKENS,),
    ),
    Mutation(
        "a node that is away counts as a death of its run",
        "orchestrator/worker/verdict.py",
        "return Outcome(Verdict.INTERRUPTED, end.excuse)",
        "return Outcome(Verdict.CRASH, end.excuse)",
        (CLUSTER,),
    ),
    Mutation(
        "a node takes what began on another kind of device",
        "orchestrator/worker/place.py",
        "if began in (None, facts.backend):",
        "if began or facts:",
        (CLUSTER,),
    ),
    Mutation(
        "a head ends on nodes what a copy of its queue trains",
        "orchestrator/queue/queries.py",
        "return bool(rows[0][1]) if rows[0][0] else None",
        "return bool(rows[0][1]) if rows[0][0] else False",
        (TOKENS,),
    ),
    Mutation(
        "a node takes an older attempt of a run",
        AGENT_CODE,
        "            if of.run == order.run and of.n > order.n:\n",
        "            if of.run == order.run and of.n > order.n and False:\n",
        (AGENT,),
    ),
    Mutation(
        "a node starts an attempt twice",
        AGENT_CODE,
        "            if order.token in self._held:\n                return\n",
        "",
        (AGENT,),
    ),
    Mutation(
        "an agent does not take over what it finds",
        AGENT_CODE,
        "            attempt.adopt()\n",
        "",
        (AGENT,),
    ),
    Mutation(
        "a node trains by the files of its own paths",
        "orchestrator/cluster/attempt_here.py",
        "            own[ENV_FILES_ROOT] = str(place.tree)\n",
        "",
        (AGENT,),
    ),
    Mutation(
        "a node keeps a file that came torn",
        "orchestrator/cluster/contents.py",
        "if (found := _sum(part)) != file.sha256:",
        "if (found := file.sha256) != file.sha256:",
        (CONTENTS,),
    ),
    Mutation(
        "a node lets a checkpoint go while it is read",
        "orchestrator/cluster/files.py",
        "        if kept and self._clock() - self._read_at < _READS_S:\n            return\n",
        "",
        (NODE_FILES,),
    ),
)


def main() -> int:
    """The exit code: 0 if every chosen mutation was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutations whose name or file has one")
    parser.add_argument("--list", action="store_true", help="show the mutations and stop")
    args = parser.parse_args()
    chosen = [m for m in MUTATIONS if _is_meant(m, args.words)]
    if args.list:
        print("\n".join(f"{m.path}: {m.name}" for m in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder) / "repository"
        _copy_to(copy)
        return _try_all(copy, chosen)


def _is_meant(mutation: Mutation, words: list[str]) -> bool:
    text = f"{mutation.path} {mutation.name}".lower()
    return not words or any(word.lower() in text for word in words)


def _copy_to(copy: Path) -> None:
    """What the tests need; not the history, no environments, no results."""
    skip = shutil.ignore_patterns(".*", "__pycache__", "outputs", "dist", "build", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=skip)


def _try_all(copy: Path, chosen: list[Mutation]) -> int:
    tests = tuple(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
    red = _red_tests(copy, tests)
    if red:
        print(f"without any mutation: {red}; nothing can be told", file=sys.stderr)
        return 1
    missed = [mutation for mutation in chosen if not _is_noticed(copy, mutation)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} noticed")
    for mutation in missed:
        print(f"MISSED {mutation.path}: {mutation.name}", file=sys.stderr)
    return 1 if missed else 0


def _is_noticed(copy: Path, mutation: Mutation) -> bool:
    file = copy / mutation.path
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        print(
            f"{mutation.path}: {mutation.name}: its line is there {text.count(mutation.old)} times"
        )
        return False
    started = time.monotonic()
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        red = _red_tests(copy, mutation.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    seconds = time.monotonic() - started
    print(f"{mutation.path}: {mutation.name}: {red or 'NO TEST'} ({seconds:.0f} s)", flush=True)
    return bool(red)


def _red_tests(copy: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails, or what else went wrong; empty if all pass."""
    # The copy must win over the checkout that is installed for development.
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("-x", "-m", "not storm and not slow", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"no end within {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else f"pytest exit {done.returncode}: {done.stdout[-300:]}"


if __name__ == "__main__":
    sys.exit(main())
