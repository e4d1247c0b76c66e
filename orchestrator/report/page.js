"use strict";
/* The report: its data stand in the file. The tables, the ranking and all texts can be read without
   this script. */
(() => {
  const { h, copyButton, runsTable } = Parts;
  const kept = {};
  const data = (id) => kept[id] ??= JSON.parse(document.getElementById(`data-${id}`).textContent);
  const plotly = async () => Plotly;

  /* --- curves */

  const runs = data("table").runs;
  const names = new Map(runs.map((run) => [String(run.id), run.name]));
  const curveOf = (id, [grid, y]) => ({ id: Number(id), name: names.get(id), x: data("curves").grids[grid], y,
    t: data("curves").times[id][grid] });
  const nothing = { note: "not logged", flat: true, of: {} };
  const load = async (metric) => {
    const all = data("curves").metrics, found = all[metric] ?? nothing;
    return { ...found, metrics: Object.keys(all), runs: Object.entries(found.of).map(([id, curve]) => curveOf(id, curve)) };
  };
  const loadOfRun = async (run, metric) => {
    const found = (data("curves").metrics[metric] ?? nothing).of[run.id];
    return { metrics: run.metrics, runs: found ? [curveOf(String(run.id), found)] : [] };
  };

  /* --- runs */

  const sheet = RunSheet.sheet(document.getElementById("run"), { plotly, load: loadOfRun, onerror: () => {},
    find: async (id) => {
      const run = data("details")[id];
      if (!run) throw new Error(`run ${id} is not in this report`);
      return run;
    } });
  const table = runsTable(document.getElementById("runs-table"), data("table"), { onopen: (run) => sheet.open(run.id),
    link: (run) => h("a", { href: `#run-${run.id}` }, run.name) });
  table.update(runs);
  document.querySelectorAll("#spec pre.code").forEach((box) =>
    box.before(h("p", { class: "copy-line" }, copyButton(box.textContent))));

  /* --- print: a figure cannot ask how wide the paper is; these fit A4 and Letter */

  const plots = () => [...document.querySelectorAll("main .plot")].filter((plot) => plot.data);
  const printedWidth = (plot) =>
    plot.closest(".forest") ? 210 : plot.closest(".panels") ? 320 : 670;
  addEventListener("beforeprint", () => {
    table.showAll();
    plots().forEach((plot) => Plotly.relayout(plot, { width: printedWidth(plot), autosize: false }));
  });
  addEventListener("afterprint", () =>
    plots().forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));

  const drawAll = async () => {
    const panels = document.getElementById("curve-panels");
    if (panels) {
      const view = Curves.curves(panels, { panels: data("curves").panels, groupings: data("curves").groupings, load, plotly,
        className: "curves" });
      await view.refresh();
    }
    await Sections.draw(document.getElementById("main"), { ...data("figures"), plotly });
    document.documentElement.dataset.drawn = "true";
  };
  // What can be read is painted first.
  requestAnimationFrame(() => setTimeout(drawAll));
  if (sheet.asked() !== null) sheet.open(sheet.asked());
})();
