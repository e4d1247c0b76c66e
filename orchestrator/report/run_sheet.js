"use strict";
/* All about one run, in a dialog: the report has it in its data, the live page asks its server. */
const RunSheet = (() => {
  const { h, copyButton, state } = Parts;

  const pairs = (rows, empty) => rows.length === 0 ? h("p", { class: "fine" }, empty)
    : h("table", { class: "pairs" }, h("tbody", {}, rows.map(([key, value]) => h("tr", {}, h("td", {}, key), h("td", {}, value)))));
  const section = (name, button, ...kids) => h("section", {}, h("h3", {}, name, button), kids);

  /* --- what it wrote */

  const worth = (sample) => h("p", { class: "parts" }, h("b", {}, `reward ${sample.reward ?? "–"}`),
    sample.parts.length > 0 && ` = ${sample.parts.map(([key, value]) => `${key} ${value}`).join(" + ")}`,
    sample.answer && ` · expected ${sample.answer}`);
  const sampleBox = (sample, name) => h("div", { class: "sample" },
    name && h("h4", {}, name), h("pre", { class: "prompt" }, sample.prompt), h("pre", { class: "completion" }, sample.completion),
    worth(sample));
  const moment = (name, samples) => samples.length > 0 && h("div", { class: "moment" },
    h("h4", {}, `${name} `, h("span", {}, `update ${samples[0].update}`)), samples.map((sample) => sampleBox(sample)));
  const answer = (name, sample) => h("div", { class: "moment" }, h("h4", {}, `${name} `, h("span", {}, `update ${sample.update}`)),
    h("pre", { class: "completion" }, sample.completion), worth(sample));
  const heldOut = ({ before, after }) => h("div", { class: "held-out" }, h("pre", { class: "prompt" }, before.prompt),
    h("div", { class: "moments" }, before.update !== after.update && answer("Before", before), answer("After", after)));

  const attempt = (one) => h("div", { class: "attempt" },
    h("p", {}, h("b", {}, `Attempt ${one.n}`), ` ${one.from} – ${one.to ?? "now"}`, one.outcome && `: ${one.outcome}`,
      one.checkpoint && `, from checkpoint ${one.checkpoint}`),
    one.reason && one.reason !== one.outcome && h("p", {}, one.reason),
    one.evidence && h("p", {}, h("code", {}, one.evidence)),
    one.changed.map((line) => h("p", { class: "soft" }, `changed: ${line}`)),
    h("p", { class: "soft" }, h("code", {}, one.log)));

  /* --- the dialog */

  const body = (run, { actions, close, holder }) => h("div", { class: "sheet" },
    h("header", {}, h("div", {}, h("h2", {}, `${run.id} ${run.name}`),
      h("p", { class: "sub" }, state(run.state), " ", `sweep ${run.sweep}`, run.seed !== null && ` · seed ${run.seed}`,
        ` · update ${run.progress}`, run.trained !== "–" && ` · ${run.trained} trained`)),
    h("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "×")),
    h("p", { class: "note" }, run.state_text !== run.state && run.state_text, run.waits_for.map((text) => h("span", {}, ` Waits: ${text}.`))),
    run.warnings.map((text) => h("p", { class: "note ill" }, `⚠ ${text}`)),
    actions(run),
    section("Settings", null, pairs(run.settings.map(([key, value, base]) =>
      [key, [h("b", {}, value), base !== null && base !== value && h("span", { class: "soft" }, ` (base: ${base})`)]]), "None: it is the base as it stands.")),
    run.metrics.length > 0 && section("Curves", null, holder),
    run.held_out.length > 0 && section("The same held-out prompt", null, run.held_out.map(heldOut)),
    run.late.length + run.early.length > 0 && section("What it wrote in training", null, h("div", { class: "moments" },
      moment("Early", run.early), moment("Late", run.late))),
    section("Command", copyButton(run.command), h("pre", { class: "box" }, run.command)),
    section("Folder", copyButton(run.folder), h("pre", { class: "box" }, run.folder), run.folder_gone && h("p", { class: "fine" }, "The folder is gone.")),
    section("Attempts", null, run.attempts.length ? run.attempts.map(attempt) : h("p", { class: "empty" }, "Not started yet.")),
    run.tail && section("End of the log", copyButton(run.tail), h("pre", { class: "box tail" }, run.tail)),
    run.last.length > 0 && section("Last values", null, pairs(run.last, "")),
    run.history.length > 0 && section("History", null, run.history.map(([at, kind, text]) =>
      h("p", { class: "fine" }, `${at} ${kind}${text && text !== "asked for" ? `: ${text}` : ""}`))));

  /* `find(id)` gives a run, or throws with a message for `onerror`; `load(run, metric)` one of its
     curves as Curves wants it; `actions(run)` its buttons. The address ends in #run-ID meanwhile. */
  const sheet = (dialog, { find, load, plotly, onerror, actions = () => null }) => {
    let shown = null;
    const close = () => dialog.close();
    const draw = (run) => {
      const holder = h("div", { class: "run-curves" });
      dialog.replaceChildren(body(run, { actions, close, holder }));
      if (run.metrics.length) {
        const other = run.metrics.includes(run.objective) && run.objective !== "reward_mean" ? run.objective : "loss";
        const view = Curves.curves(holder, { panels: ["reward_mean", other], plotly, load: (metric) => load(run, metric) });
        view.highlight(run.id);
        view.refresh();
      }
      const tail = dialog.querySelector("pre.tail");
      if (tail) tail.scrollTop = tail.scrollHeight;
    };
    const open = async (id) => {
      let run;
      try { run = await find(id); } catch (error) { onerror(error); return; }
      shown = id;
      draw(run);
      if (!dialog.open) dialog.showModal();
      dialog.scrollTop = 0;
      history.replaceState(null, "", `#run-${id}`);
    };
    const asked = () => { const found = location.hash.match(/^#run-(\d+)$/); return found && Number(found[1]); };
    dialog.addEventListener("close", () => {
      shown = null;
      // Plotly holds on to what it has drawn until it is told.
      dialog.querySelectorAll(".js-plotly-plot").forEach((plot) => window.Plotly?.purge(plot));
      dialog.replaceChildren();
      history.replaceState(null, "", location.pathname + location.search);
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
    // The ids of runs in tables and texts are links.
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.('a[href^="#run-"]');
      if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      open(Number(link.hash.slice(5)));
    });
    addEventListener("hashchange", () => { if (asked() !== null && asked() !== shown) open(asked()); });
    return { open, draw, asked, shown: () => shown };
  };

  return { sheet, sampleBox };
})();
