"use strict";
/* The live page: draws what the server says, asks it for more, and sends what buttons ask for. */
(() => {
  const { h, stateOf, runsTable } = Parts;
  const { curves } = Curves;
  const { sampleBox } = RunSheet;
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

  const runLink = (run, text) => h("button", { type: "button", class: "link", onclick: () => sheet.open(run.id) },
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
    part("now-after", { next: queue.next ?? [], done: queue.all_done, slots: queue.slots ?? [],
      nodes: queue.nodes ?? [] }, drawAfter);
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
      h("div", { class: "progress-words" }), h("dl", { class: "figures" }), h("div")]);
    if (!run) return;
    const [bar, words, figures, warnings] = $("now-progress").children;
    bar.firstChild.style.width = `${100 * run.share}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * run.share)));
    words.replaceChildren(
      h("span", {}, run.progress ? ["update ", h("b", {}, run.progress.replace("/", " of "))] : (run.note || "starting")),
      h("span", {}, run.left && ["about ", h("b", {}, run.left), " left"]));
    figures.replaceChildren(...run.figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    warnings.replaceChildren(...run.warnings.map((text) => h("p", { class: "note ill" }, `⚠ ${text}`)));
  };
  // Several runs at a time: what each slot trains, by itself or in its turn.
  const pauseButton = (slot, paused) => act && h("button", { type: "button", class: "do", "data-slot": slot,
    onclick: () => press(`/api/slots/${encodeURIComponent(slot)}/${paused ? "resume" : "pause"}`) }, paused ? "Resume" : "Pause");
  const drawSlot = ({ slot, paused, run }) => h("p", { class: "slot" }, `slot ${slot}: `,
    run ? [runLink(run), ` of ${run.sweep} · ${run.progress ?? "starting"}`, run.left && ` · about ${run.left} left`] : paused ? "paused" : "free",
    run && paused && " · pauses", " ", pauseButton(slot, paused));
  const drawNode = ({ node, slots, backend, memory, speed, lacks, paused }) => h("tr", {}, h("td", { class: "strong" }, node),
    h("td", {}, slots), h("td", {}, backend), h("td", {}, memory), h("td", {}, speed ?? "–"),
    h("td", {}, lacks ?? (paused ? "paused" : "there")), act && h("td", {}, pauseButton(node, paused)));
  const drawNodes = (nodes) => nodes.length > 0 && h("div", { class: "scroll" }, h("table", { class: "nodes", "aria-label": "Nodes" },
    h("thead", {}, h("tr", {}, ["Node", "Slots", "Backend", "Memory a slot", "Speed", "Now"].map((title) => h("th", { scope: "col" }, title)),
      act && h("th", { scope: "col", "aria-label": "Pause or resume" }))),
    h("tbody", {}, nodes.map(drawNode))));
  const drawAfter = ({ next, done, slots, nodes }) => (next.length || done || slots.length > 0 || nodes.length > 0) && h("div", { class: "after" },
    drawNodes(nodes), slots.map(drawSlot),
    next.length > 0 && h("p", {}, "next: ", next.map((run, at) => [at ? " · " : "", runLink(run),
      run.waits ? " (waits a moment after a death)" : ""])),
    done && h("p", {}, "all done ", h("b", {}, done)));

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

  let shownTable = null, tableKey = null;
  const drawTable = () => {
    if (!sweep) return;
    const key = JSON.stringify([sweep.id, sweep.keys, sweep.tagged]);
    if (key !== tableKey) {
      tableKey = key;
      shownTable = runsTable($("runs-table"), sweep, { onopen: (run) => sheet.open(run.id), link: (run) => runLink(run, run.name),
        stateCell: (run) => [stateOf(run), run.request && ` asked to ${run.request}`] });
    }
    shownTable.update(sweep.runs);
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
      followSections();
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
        onopen: (id) => sheet.open(id), plotly });
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

  const logged = new Map();
  const sheet = RunSheet.sheet($("run"), { plotly, actions, onerror: (error) => toast(error.message),
    find: (id) => { logged.clear(); return ask(`/api/runs/${id}`); },
    load: async (run, metric) => {
      if (!logged.has(run.id)) logged.set(run.id, ask(`/api/runs/${run.id}/curves`).catch(() => null));
      const found = await logged.get(run.id);
      const points = found?.curves[metric] ?? { x: [], y: [], t: [] };
      return found && { metrics: run.metrics, runs: [{ id: run.id, name: run.name, ...points }] };
    } });
  const followRun = (before) => {
    const id = sheet.shown();
    if (id === null) return;
    const of = (state) => JSON.stringify([state.running?.id === id && state.running.can, state.sweeps?.map((s) => s.counts)]);
    if (of(before) === of(queue)) return;
    logged.clear();
    ask(`/api/runs/${id}`).then((run) => { if (sheet.shown() === run.id) sheet.draw(run); }, () => null);
  };

  /* --- the report's sections: read where they are looked at, again where runs began or ended, and
     now and then while one trains */

  const SECTIONS_EVERY_MS = 30000;
  let sections = { key: "", at: 0, busy: false, seen: false, curves: null, curvesKey: "" };
  new IntersectionObserver((entries) => {
    sections.seen = entries.some((entry) => entry.isIntersecting);
    followSections();
  }, { rootMargin: "300px" }).observe($("sections"));

  const followSections = async () => {
    if (!sweep || !sections.seen || sections.busy || queue.error) return;
    const line = (queue.sweeps ?? []).find((s) => s.id === sweep.id);
    const key = JSON.stringify([sweep.id, line?.counts, line?.state]);
    const trains = queue.running?.sweep_id === sweep.id;
    if (key === sections.key && !(trains && Date.now() - sections.at > SECTIONS_EVERY_MS)) return;
    sections.busy = true;
    try {
      const found = await ask(`/api/sweeps/${sweep.id}/sections`);
      // Of a sweep that is no longer looked at nothing is shown.
      if (found.id === sweep.id) { await drawSections(found); sections.key = key; }
    } catch (error) { if (!(error instanceof Refused) && !(error instanceof TypeError)) throw error; }
    finally { sections.at = Date.now(); sections.busy = false; }
    $("sections").setAttribute("aria-busy", "false");
  };

  // Only a section that says something new is replaced: what somebody has opened or chosen stays.
  const drawSections = async (found) => {
    const root = $("sections"), text = new Map(Object.entries(found.html));
    [...root.children].forEach((part) => { if (!text.has(part.dataset.part)) { forget(part); part.remove(); } });
    for (const [name, html] of text) {
      const key = JSON.stringify([html, figuresIn(html, found)]);
      let holder = root.querySelector(`:scope > [data-part="${name}"]`);
      if (holder && holder.key === key) continue;
      if (!holder) { holder = h("div", { "data-part": name }); root.append(holder); }
      holder.key = key;
      const open = [...holder.querySelectorAll("details")].map((details) => details.open);
      forget(holder);
      // Made by the server's template, which escapes every value; the policy runs no script in it.
      holder.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      holder.querySelectorAll("details").forEach((details, at) => { details.open = open[at] ?? false; });
      await Sections.draw(holder, { figures: found.figures, lines: found.lines, plotly });
    }
    const panels = $("curve-panels");
    if (panels) {
      const key = JSON.stringify([found.id, found.curves.panels]);
      if (sections.curvesKey !== key || !panels.firstChild) {
        sections.curvesKey = key;
        sections.curves = curves(panels, { ...found.curves, plotly, className: "curves",
          load: (metric) => ask(`/api/sweeps/${found.id}/curves?metric=${encodeURIComponent(metric)}`).catch(() => null) });
      } else sections.curves.regroup(found.curves.groupings);
      await sections.curves.refresh();
    }
    root.dataset.drawn = String(found.id);
  };
  const figuresIn = (html, found) => [...html.matchAll(/data-figure="([^"]*)"/g)].map((match) => found.figures[match[1]]);
  const forget = (part) => part.querySelectorAll(".js-plotly-plot").forEach((plot) => window.Plotly.purge(plot));

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
    followSections();
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
    if (sheet.asked() !== null) sheet.open(sheet.asked());
    document.documentElement.dataset.ready = "true";
  }));
})();
