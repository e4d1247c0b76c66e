"use strict";
/* The live page: draws what the server says, asks it for more, and sends what buttons ask for. */
(() => {
  const { h, copyButton, state: badge, table, curves } = Parts;
  const $ = (id) => document.getElementById(id);
  const act = document.querySelector("meta[name=act]").content;
  const first = JSON.parse($("state").textContent);
  const folder = $("state").dataset.folder;
  let queue = first.queue, sweep = first.sweep, connected = true;
  // The sweep that somebody chose; without a choice the page follows what runs.
  let chosen = null;

  // The link's secret has done its work: the cookie goes on from here.
  if (location.search) history.replaceState(null, "", `/${location.hash}`);

  /* --- the server */

  class Refused extends Error {}
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    const kind = answer.headers.get("content-type") || "";
    const found = kind.includes("json") ? await answer.json() : { error: await answer.text() };
    if (!answer.ok) throw new Refused(found.error || answer.statusText);
    return found;
  };
  const post = (path, body) => ask(path, { method: "POST", body: body && JSON.stringify(body),
    headers: { "x-grpo-sweep-act": act, "content-type": "application/json" } });

  const toast = (text, button) => {
    (document.querySelector("dialog[open]") || document.body).append($("toasts"));
    const note = h("div", { class: "toast", role: "status" }, h("span", {}, text),
      button && h("button", { type: "button", onclick: () => { note.remove(); button.press(); } }, button.title));
    $("toasts").append(note);
    setTimeout(() => note.remove(), button ? 15000 : 6000);
  };

  /* Press a button: what came of it is said, and a refusal too. */
  const press = async (path, body) => {
    try {
      const found = await post(path, body);
      if (found.message) toast(found.message);
      return found;
    } catch (error) {
      toast(error instanceof Refused ? error.message : "The page's server does not answer.");
      return null;
    }
  };

  /* --- actions on runs */

  const TITLES = { first: "Move to front", pause: "Pause", resume: "Resume", retry: "Retry", cancel: "Cancel" };
  const change = async (id, action) => {
    if (action !== "cancel") return press(`/api/runs/${id}/${action}`);
    try {
      const found = await post(`/api/runs/${id}/cancel`);
      toast(found.message, { title: "Undo", press: () => undo(id) });
    } catch (error) { toast(error.message); }
    return null;
  };
  // A running run checkpoints before it is cancelled; only then it can be queued again.
  const undo = async (id, tries = 60) => {
    const run = await ask(`/api/runs/${id}`).catch(() => null);
    if (run && run.can.includes("retry")) { await press(`/api/runs/${id}/retry`); return; }
    if (run && run.request === "cancel" && tries > 0) {
      if (tries === 60) toast(`Run ${id} still stops; then it is queued again.`);
      setTimeout(() => undo(id, tries - 1), 1000);
    } else toast(`Run ${id} cannot be queued again any more.`);
  };
  const actions = (run) => act ? h("div", { class: "actions" }, run.can.map((action) =>
    h("button", { type: "button", class: `do ${action === "cancel" ? "risky" : ""}`, "data-action": action,
      onclick: () => change(run.id, action) }, TITLES[action]))) : null;

  /* --- drawing: a part is drawn anew only where what it shows has changed, so that a button stays
     under the finger that presses it */

  const drawn = new Map();
  const part = (id, value, draw) => {
    const key = JSON.stringify(value);
    if (drawn.get(id) === key) return;
    drawn.set(id, key);
    $(id).replaceChildren(...[draw(value)].flat().filter(Boolean));
  };

  const runLink = (run, text) => h("button", { type: "button", class: "link", onclick: () => openRun(run.id) },
    text ?? `${run.id} ${run.name}`);
  const settings = (pairs) => h("p", { class: "settings" }, pairs.map(([key, value], at) =>
    [at ? " · " : "", `${key} `, h("b", {}, value)]));

  const draw = () => {
    part("status", statusText(), (text) => text);
    part("buttons", { halted: queue.halted, worker: queue.worker, error: queue.error }, drawButtons);
    part("bands", bandsOf(), drawBands);
    const run = queue.running;
    part("now-head", run ? { id: run.id, name: run.name, sweep: run.sweep, settings: run.settings, can: run.can,
      request: run.request, attempt: run.attempt } : idleText(), run ? drawHead : drawIdle);
    drawProgress(run);
    part("now-after", { next: queue.next ?? [], done: queue.all_done, slots: queue.slots ?? [] }, drawAfter);
    drawSample(run);
    drawSweeps();
    drawBest();
    document.title = title(run);
  };

  const title = (run) => run ? `${run.progress ?? "starting"} · ${run.name} · grpo-sweep` : "grpo-sweep";

  const statusText = () => {
    if (!connected) return "The page’s server does not answer; trying again …";
    if (queue.error) return "The queue cannot be read.";
    if (queue.halted) return "The queue is paused.";
    if (!queue.worker) return "No worker runs.";
    return queue.running ? "Training." : "The worker waits for runs.";
  };

  const drawButtons = ({ halted, worker, error }) => !act || error ? [h("span", { class: "fine" }, act ? "" : "only to look")] : [
    halted ? h("button", { type: "button", class: "do", "data-do": "resume", onclick: () => press("/api/queue/resume") }, "Resume queue")
      : h("button", { type: "button", class: "do", "data-do": "pause", onclick: () => press("/api/queue/pause") }, "Pause queue"),
    worker ? h("button", { type: "button", class: "do", "data-do": "stop", onclick: () => press("/api/worker/stop") }, "Stop worker")
      : h("button", { type: "button", class: "do", "data-do": "start", onclick: start }, "Start worker"),
    h("button", { type: "button", class: "do main", "data-do": "submit", onclick: openSubmit }, "Submit …"),
  ];
  const start = async (event) => {
    event.currentTarget.disabled = true;
    const button = event.currentTarget;
    await press("/api/worker/start");
    button.disabled = false;
  };

  const waiting = () => (queue.sweeps ?? []).some((s) => ["queued", "running"].includes(s.state));
  const bandsOf = () => ({ connected, error: queue.error, halted: queue.halted, failures: queue.failures ?? [],
    warnings: queue.warnings ?? [], idle: !queue.error && !queue.worker && waiting() });
  const drawBands = (now) => [
    !now.connected && h("div", { class: "band" }, h("p", {}, "The page’s server does not answer. The training is not touched by that; start the page again with ", h("code", {}, "grpo-sweep ui"), " and open its new link.")),
    now.error && h("div", { class: "band bad" }, h("h3", {}, "The queue cannot be read"), h("p", {}, now.error)),
    now.idle && h("div", { class: "band", "data-band": "idle" }, h("p", {}, "No worker runs: nothing new is trained."),
      act && h("button", { type: "button", class: "do main", onclick: start }, "Start")),
    now.halted && h("div", { class: "band" }, h("p", {}, `Nothing is started: ${now.halted}.`),
      act && h("button", { type: "button", class: "do", onclick: () => press("/api/queue/resume") }, "Resume")),
    now.warnings.map((text) => h("div", { class: "band" }, h("p", {}, text))),
    now.failures.length > 0 && h("div", { class: "band bad", "data-band": "failures" },
      h("h3", {}, now.failures.length === 1 ? "A run failed" : `${now.failures.length} runs failed`),
      h("ul", {}, now.failures.slice(0, 5).map((run) => h("li", {}, runLink(run),
        h("span", { class: "why" }, run.reason || "no reason is known"),
        act && h("button", { type: "button", class: "do", onclick: () => change(run.id, "retry") }, "Retry"))),
      now.failures.length > 5 && h("li", { class: "soft" }, `and ${now.failures.length - 5} more, in the table below`))),
  ].flat();

  const drawHead = (run) => h("div", { class: "now-line" },
    h("div", {}, h("h1", {}, runLink(run)), settings([["sweep", run.sweep], ...run.settings]),
      run.request && h("p", { class: "callout" }, `Asked to ${run.request}: it checkpoints first.`)), actions(run));
  const idleText = () => {
    if (queue.error) return "";
    if (!(queue.sweeps ?? []).length) return "The queue is empty.";
    return waiting() ? (queue.worker ? "The next run starts in a moment." : "Nothing trains.") : "All is done.";
  };
  const drawIdle = (text) => text && h("div", { class: "quiet" }, h("h1", {}, text),
    text === "The queue is empty." && h("p", { class: "lead" }, "Try ", h("code", {}, "grpo-sweep demo"), " or submit a spec."));

  const drawProgress = (run) => {
    part("now-progress", run ? run.id : null, (id) => id && [
      h("div", { class: "progress", role: "progressbar", "aria-label": "Progress" }, h("i")),
      h("div", { class: "progress-words" }), h("dl", { class: "figures" })]);
    if (!run) return;
    const [bar, words, figures] = $("now-progress").children;
    bar.firstChild.style.width = `${100 * run.share}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * run.share)));
    words.replaceChildren(
      h("span", {}, run.progress ? ["update ", h("b", {}, run.progress.replace("/", " of "))] : (run.note || "starting")),
      h("span", {}, run.left && ["about ", h("b", {}, run.left), " left"]));
    figures.replaceChildren(...run.figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  };
  // Several runs at a time: what each slot trains, by itself or in its turn.
  const drawSlot = ({ slot, paused, run }) => h("p", { class: "slot" }, `slot ${slot}: `,
    run ? [runLink(run), ` of ${run.sweep} · ${run.progress ?? "starting"}`, run.left && ` · about ${run.left} left`] : paused ? "paused" : "free",
    run && paused && " · pauses", act && " ", act && h("button", { type: "button", class: "do", "data-slot": slot,
      onclick: () => press(`/api/slots/${encodeURIComponent(slot)}/${paused ? "resume" : "pause"}`) }, paused ? "Resume" : "Pause"));
  const drawAfter = ({ next, done, slots }) => (next.length || done || slots.length > 0) && h("div", { class: "after" },
    slots.map(drawSlot),
    next.length > 0 && h("p", {}, "next: ", next.map((run, at) => [at ? " · " : "", runLink(run),
      run.waits ? " (waits a moment after a death)" : ""])),
    done && h("p", {}, "all done ", h("b", {}, done)));

  const sampleBox = (sample, name) => h("div", { class: "sample" },
    name && h("h4", {}, name), h("pre", { class: "prompt" }, sample.prompt), h("pre", { class: "completion" }, sample.completion),
    h("p", { class: "parts" }, h("b", {}, `reward ${sample.reward ?? "–"}`),
      sample.parts.length > 0 && ` = ${sample.parts.map(([key, value]) => `${key} ${value}`).join(" + ")}`,
      sample.answer && ` · expected ${sample.answer}`));
  const drawSample = (run) => part("live-sample", run?.samples ?? [], (samples) => samples.length > 0 && [
    h("h3", {}, "Last completions ", h("span", {}, `update ${samples[0].update}`)),
    h("div", { class: "moments" }, samples.map((sample, at) => h("div", { class: "moment" },
      sampleBox(sample, samples.length > 1 ? ["Best of its group", "Worst"][at] : null))))]);

  /* --- sweeps, the best setting, the table */

  const drawSweeps = () => {
    const all = [...(queue.sweeps ?? [])].reverse();
    $("sweeps").hidden = all.length < 2;
    part("sweeps", { all: all.map(({ id, name, state }) => [id, name, state]), now: sweep?.id }, ({ all, now }) =>
      all.map(([id, name, state]) => h("button", { type: "button", "aria-pressed": String(id === now),
        onclick: () => { chosen = id; fetchSweep(id); } }, name, " ", h("span", { class: "soft" }, state))));
  };

  const drawBest = () => {
    $("best").hidden = $("runs").hidden = !sweep;
    if (!sweep) return;
    const { best, metric, name, counts, reason, created } = sweep;
    part("best", { id: sweep.id, best, metric, name, counts, reason, created }, ({ id }) => [
      h("h2", {}, name), h("p", { class: "note" }, `${counts} · submitted ${created} · `,
        h("a", { href: `/report/${id}`, target: "_blank", rel: "noopener" }, "the whole report, as of now")),
      reason && h("p", { class: "callout" }, `The sweep is paused: ${reason}`),
      !best ? h("p", { class: "empty" }, `No run has a value of ${metric} yet.`) : [
        h("p", { class: "lead" }, "Best setting: ", h("strong", {}, best.settings.map((pair) => pair.join(" ")).join(" · ") || "the base config")),
        h("dl", { class: "tiles" },
          tile("now", best.value, metric, "first"), tile("before training", best.before ?? "–", best.before ? "mean of the runs" : "not measured"),
          tile("runs", String(best.n), best.interval ? `${best.interval_kind} ${best.interval.join(" – ")}` : "one run, no interval"),
          h("div", { class: "tile sure" }, h("dt", {}, "how sure"), h("dd", {}, best.sure)))]].flat());
  };
  const tile = (name, value, words, more = "") => h("div", { class: `tile ${more}` }, h("dt", {}, name),
    h("dd", { class: "value" }, value), h("dd", { class: "words" }, words));

  let runsTable = null, tableKey = null;
  const number = (value) => {
    if (typeof value !== "number") return value;
    const plain = String(value), exponent = value.toExponential().replace("e+", "e");
    return exponent.length < plain.length ? exponent : plain;
  };
  const drawTable = () => {
    if (!sweep) return;
    const key = JSON.stringify([sweep.id, sweep.keys, sweep.tagged]);
    if (key !== tableKey) {
      tableKey = key;
      const swept = sweep.keys.map((key, at) => {
        const numeric = sweep.runs.some((run) => typeof run.values[at] === "number");
        return { title: key, num: numeric, value: (run) => run.values[at], show: (run) => number(run.values[at]) };
      });
      runsTable = table($("runs-table"), { label: "Runs of the sweep", onopen: (run) => openRun(run.id), columns: [
        { title: "id", num: true, value: (run) => run.id, filter: false },
        { title: "run", value: (run) => run.name, cell: (run) => h("span", { class: "name", title: run.name }, runLink(run, run.name)) },
        { title: "state", value: (run) => run.state, cell: (run) => [badge(run.state), run.request && ` asked to ${run.request}`] },
        { title: sweep.metric, num: true, downFirst: sweep.goal === "max", value: (run) => run.value, show: (run) => run.value_text },
        ...swept,
        { title: "seed", num: true, value: (run) => run.seed },
        { title: "updates", num: true, value: (run) => run.update, show: (run) => run.progress, filter: false },
        { title: "time", num: true, value: (run) => run.wall_s, show: (run) => run.time, filter: false },
        ...(sweep.tagged ? [{ title: "tags", value: (run) => run.tags.join(", ") }] : []),
      ] });
    }
    runsTable.update(sweep.runs);
  };

  let fetched = "", timer = null, lastFetch = 0;
  const fetchSweep = async (id) => {
    clearTimeout(timer); timer = null; lastFetch = Date.now();
    try {
      const found = await ask(`/api/sweeps/${id}`);
      if (chosen !== null && chosen !== found.id) return;
      const other = !sweep || sweep.id !== found.id;
      sweep = found;
      drawTable(); drawBest(); drawSweeps();
      if (other) await refreshCurves();
    } catch (error) { if (error instanceof Refused) toast(error.message); }
  };
  // The table is asked for anew where runs began or ended, and, while one trains, now and then.
  const followSweep = () => {
    if (queue.error) return;
    const ids = (queue.sweeps ?? []).map((s) => s.id);
    const id = chosen ?? queue.running?.sweep_id ?? sweep?.id ?? ids.at(-1);
    if (id === undefined) return;
    const line = (queue.sweeps ?? []).find((s) => s.id === id);
    const run = queue.running?.sweep_id === id ? queue.running : null;
    const key = JSON.stringify([id, line?.counts, line?.state, run?.id, run?.request]);
    const row = run && sweep?.id === id && sweep.runs.find((row) => row.id === run.id);
    if (row && run.progress) row.progress = run.progress;
    if (key === fetched && Date.now() - lastFetch < 15000) return;
    fetched = key;
    if (timer === null) timer = setTimeout(() => fetchSweep(id), Math.max(0, 700 - (Date.now() - lastFetch)));
  };

  /* --- curves */

  let loading = null;
  const plotly = () => loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "/static/plotly.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.append(script);
  });

  let live = null, liveKey = "", seen = { id: null, epoch: 0, lines: 0 }, busy = false;
  const refreshCurves = async () => {
    if (!sweep) return;
    const key = JSON.stringify([sweep.id, sweep.metric]);
    const id = sweep.id;
    if (key !== liveKey) {
      liveKey = key;
      live = curves($("live-curves"), { panels: sweep.metric === "reward_mean" ? ["reward_mean", "loss"] : ["reward_mean", sweep.metric],
        load: (metric) => ask(`/api/sweeps/${id}/curves?metric=${encodeURIComponent(metric)}`).catch(() => null),
        onopen: (id) => openRun(id), plotly });
    }
    const running = queue.running?.sweep_id === sweep.id ? queue.running : null;
    live.highlight(running?.id ?? sweep.best?.runs[0] ?? null);
    if (running) seen = { id: running.id, epoch: running.epoch, lines: running.lines };
    $("live").hidden = !sweep.runs.some((run) => run.update !== null) && !running;
    await live.refresh();
  };
  const followCurves = async () => {
    const run = queue.running;
    if (!live || busy) return;
    const shown = run && run.sweep_id === sweep?.id ? run.id : null;
    busy = true;
    try {
      if (shown !== seen.id || (shown && run.epoch !== seen.epoch)) {
        seen = { id: shown, epoch: run?.epoch ?? 0, lines: run?.lines ?? 0 };
        await refreshCurves();
      } else if (shown && run.lines !== seen.lines) {
        const more = await ask(`/api/runs/${shown}/curves?epoch=${seen.epoch}&since=${seen.lines}`);
        if (more.since !== seen.lines || more.since === 0) { await refreshCurves(); }
        else { seen.lines = more.lines; await live.extend(shown, more.curves); }
      }
    } catch (error) { if (!(error instanceof Refused) && !(error instanceof TypeError)) throw error; }
    finally { busy = false; }
  };

  /* --- a run */

  const runDialog = $("run");
  let shownRun = null;
  const openRun = async (id) => {
    let run;
    try { run = await ask(`/api/runs/${id}`); } catch (error) { toast(error.message); return; }
    shownRun = id;
    drawRun(run);
    if (!runDialog.open) runDialog.showModal();
    runDialog.scrollTop = 0;
    history.replaceState(null, "", `#run-${id}`);
  };
  runDialog.addEventListener("close", () => { shownRun = null; history.replaceState(null, "", "/"); });
  runDialog.addEventListener("click", (event) => { if (event.target === runDialog) runDialog.close(); });

  const section = (name, button, ...kids) => h("section", {}, h("h3", {}, name, button), kids);
  const drawRun = (run) => {
    const holder = h("div", { class: "run-curves" });
    const logged = run.metrics.length > 0;
    runDialog.replaceChildren(h("div", { class: "sheet" },
      h("header", {}, h("div", {}, h("h2", {}, `${run.id} ${run.name}`),
        h("p", { class: "sub" }, badge(run.state), " ", `sweep ${run.sweep}`, run.seed !== null && ` · seed ${run.seed}`,
          ` · update ${run.progress}`, run.trained !== "–" && ` · ${run.trained} trained`)),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => runDialog.close() }, "×")),
      h("p", { class: "note" }, run.state_text !== run.state && run.state_text, run.waits_for.map((text) => h("span", {}, ` Waits: ${text}.`))),
      actions(run),
      section("Settings", null, pairs(run.settings.map(([key, value, base]) =>
        [key, [h("b", {}, value), base !== null && base !== value && h("span", { class: "soft" }, ` (base: ${base})`)]]), "None: it is the base as it stands.")),
      logged && section("Curves", null, holder),
      run.late.length + run.early.length > 0 && section("What it wrote", null, h("div", { class: "moments" },
        moment("Early", run.early), moment("Late", run.late))),
      section("Command", copyButton(run.command), h("pre", { class: "box" }, run.command)),
      section("Folder", copyButton(run.folder), h("pre", { class: "box" }, run.folder), run.folder_gone && h("p", { class: "fine" }, "The folder is gone.")),
      section("Attempts", null, run.attempts.length ? run.attempts.map(attempt) : h("p", { class: "empty" }, "Not started yet.")),
      run.tail && section("End of the log", copyButton(run.tail), h("pre", { class: "box tail" }, run.tail)),
      run.last.length > 0 && section("Last values", null, pairs(run.last, "")),
      run.history.length > 0 && section("History", null, run.history.map(([at, kind, text]) =>
        h("p", { class: "fine" }, `${at} ${kind}${text && text !== "asked for" ? `: ${text}` : ""}`)))));
    if (logged) drawRunCurves(holder, run);
    const tail = runDialog.querySelector("pre.tail");
    if (tail) tail.scrollTop = tail.scrollHeight;
  };
  const drawRunCurves = (holder, run) => {
    const other = run.metrics.includes(run.objective) && run.objective !== "reward_mean" ? run.objective : "loss";
    const all = ask(`/api/runs/${run.id}/curves`);
    const view = curves(holder, { panels: ["reward_mean", other], plotly, load: async (metric) => {
      const found = await all.catch(() => null);
      const points = found?.curves[metric] ?? { x: [], y: [], t: [] };
      return found && { metrics: run.metrics, runs: [{ id: run.id, name: run.name, ...structuredClone(points) }] };
    } });
    view.highlight(run.id);
    view.refresh();
  };
  const pairs = (rows, empty) => rows.length === 0 ? h("p", { class: "fine" }, empty)
    : h("table", { class: "pairs" }, h("tbody", {}, rows.map(([key, value]) => h("tr", {}, h("td", {}, key), h("td", {}, value)))));
  const moment = (name, samples) => samples.length > 0 && h("div", { class: "moment" },
    h("h4", {}, `${name} `, h("span", {}, `update ${samples[0].update}`)), samples.map((sample) => sampleBox(sample)));
  const attempt = (one) => h("div", { class: "attempt" },
    h("p", {}, h("b", {}, `Attempt ${one.n}`), ` ${one.from} – ${one.to ?? "now"}`, one.outcome && `: ${one.outcome}`,
      one.checkpoint && `, from checkpoint ${one.checkpoint}`),
    one.reason && one.reason !== one.outcome && h("p", {}, one.reason),
    one.evidence && h("p", {}, h("code", {}, one.evidence)),
    one.changed.map((line) => h("p", { class: "soft" }, `changed: ${line}`)),
    h("p", { class: "soft" }, h("code", {}, one.log)));
  const followRun = (before) => {
    if (shownRun === null) return;
    const of = (state) => JSON.stringify([state.running?.id === shownRun && state.running.can, state.sweeps?.map((s) => s.counts)]);
    if (of(before) !== of(queue)) ask(`/api/runs/${shownRun}`).then((run) => { if (shownRun === run.id) drawRun(run); }, () => null);
  };

  /* --- submit by paste */

  const submitDialog = $("submit");
  submitDialog.addEventListener("click", (event) => { if (event.target === submitDialog) submitDialog.close(); });
  const openSubmit = () => {
    const spec = h("textarea", { class: "spec", spellcheck: "false", "aria-label": "Spec",
      placeholder: 'config = "configs/tiny.toml"\nseeds  = [0, 1]\n\n[params]\nlearning_rate = [1e-4, 1e-3]' });
    const out = h("div", {});
    const look = h("button", { type: "button", class: "do main", onclick: () => preview(spec, out, queueIt) }, "Dry run");
    const queueIt = h("button", { type: "button", class: "do", disabled: true, onclick: async () => {
      queueIt.disabled = true;
      try {
        const found = await post("/api/submit", { spec: spec.value });
        submitDialog.close();
        chosen = found.id;
        toast(found.message);
        fetchSweep(found.id);
      } catch (error) { fault(out, error); }
    } }, "Queue these runs");
    spec.addEventListener("input", () => { queueIt.disabled = true; });
    submitDialog.replaceChildren(h("div", { class: "sheet" },
      h("header", {}, h("h2", {}, "Submit a sweep"), h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => submitDialog.close() }, "×")),
      h("p", { class: "note" }, "Paste a spec. Relative paths in it start in ", h("code", {}, folder), "."),
      spec, h("div", { class: "actions" }, look, queueIt), out));
    submitDialog.showModal();
    spec.focus();
  };
  const fault = (out, error) => out.replaceChildren(h("p", { class: "fault", role: "alert" },
    error instanceof Refused ? error.message : "The page’s server does not answer."));
  const preview = async (spec, out, queueIt) => {
    try {
      const text = spec.value;
      const found = await post("/api/preview", { spec: text });
      out.replaceChildren(h("section", {}, h("h3", {}, `Sweep ${found.name}`), h("p", {}, `${found.summary}.`), h("p", { class: "note" }, found.forecast),
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Planned runs" }, h("table", {}, h("thead", {}, h("tr", {}, ["run", ...found.keys].map((key) => h("th", {}, key)))),
          h("tbody", {}, found.runs.map((run) => h("tr", {}, [run.name, ...run.values].map((value) => h("td", {}, value)))))),
        found.more > 0 && h("p", { class: "fine" }, `and ${found.more} more`)),
        h("details", {}, h("summary", {}, "The exact commands"), h("pre", { class: "box" }, found.runs.map((run) => run.command).join("\n")))));
      queueIt.disabled = spec.value !== text;
    } catch (error) { fault(out, error); }
  };

  /* --- news */

  const take = (newer) => {
    const before = queue;
    queue = newer;
    draw();
    followSweep();
    followCurves();
    followRun(before);
  };
  const listen = () => {
    const source = new EventSource("/api/events");
    source.onopen = () => { if (!connected) { connected = true; draw(); } };
    source.onmessage = (event) => { connected = true; take(JSON.parse(event.data)); };
    source.onerror = () => {
      connected = false; draw();
      // A refusal is final for the browser: a page that was left open for a night tries again.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    };
  };

  draw();
  drawTable();
  requestAnimationFrame(() => setTimeout(() => {
    listen();
    refreshCurves();
    const asked = location.hash.match(/^#run-(\d+)$/);
    if (asked) openRun(Number(asked[1]));
    document.documentElement.dataset.ready = "true";
  }));
})();
