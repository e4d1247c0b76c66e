"use strict";
/* Learning curves of the report and the live page: of any logged metric, smoothed, on a logarithmic
   axis, over updates or over time, zoomed together; single runs, or groups of them with a band. */
const Curves = (() => {
  const { h } = Parts;

  /* --- one run in colour over others in grey */

  const ACCENT = "#3574d4", GREY = "rgba(139,147,161,0.38)";
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // The exponential mean of TensorBoard and W&B, without its pull to the first value's zero.
  const smooth = (values, weight) => {
    if (!weight) return values;
    let sum = 0, norm = 0;
    return values.map((value) => {
      sum = sum * weight + (1 - weight) * value;
      norm = norm * weight + (1 - weight);
      return sum / norm;
    });
  };

  const isShare = (metric) => metric === "em" || metric.endsWith("_frac");

  // A share that never moved would get an axis from -1 to 1 around it.
  const flatRange = (metric, runs) => {
    let low = Infinity, high = -Infinity;
    for (const run of runs) for (const y of run.y) { low = Math.min(low, y); high = Math.max(high, y); }
    return isShare(metric) && low === high ? { range: [Math.max(0, low - 0.1), Math.min(1, low + 0.1)] } : {};
  };

  const layout = (metric, view, runs) => ({
    height: 250, margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { size: 12, family: 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif' },
    hoverlabel: { bgcolor: "#20242b", bordercolor: "#4a5260", font: { color: "#fff", size: 12 }, align: "left" },
    xaxis: { automargin: true, zeroline: false, ticks: "", nticks: 6,
      rangemode: "tozero", ...(view.range ? { range: [...view.range] } : {}) },
    yaxis: { automargin: true, zeroline: false, ticks: "", nticks: 5,
      ...(view.log ? {} : flatRange(metric, runs)),
      type: view.log ? "log" : "linear", tickformat: isShare(metric) && !view.log ? ".0%" : "" },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  });

  // Minutes or hours, as what was trained asks for.
  const timeUnit = (runs) => {
    const most = runs.reduce((longest, run) => Math.max(longest, run.t.at(-1) ?? 0), 0);
    return most >= 7200 ? [3600, "hours"] : most >= 120 ? [60, "minutes"] : [1, "seconds"];
  };

  const runTraces = (metric, data, view) => {
    const [unit, name] = timeUnit(data.runs);
    const xs = (run) => (view.time ? run.t.map((s) => s / unit) : run.x);
    const hover = (run, ys) => ys.map((y, at) => {
      const shown = isShare(metric) ? `${(100 * y).toFixed(1)}%` : y.toPrecision(4);
      const where = view.time ? `after ${xs(run)[at].toFixed(1)} ${name}` : `at update ${run.x[at]}`;
      return `${shown} ${where}<br>${escape(run.name)}`;
    });
    const grey = { x: [], y: [], text: [], customdata: [] };
    for (const run of data.runs.filter((run) => run.id !== view.highlight)) {
      const ys = smooth(run.y, view.smoothing);
      grey.x.push(...xs(run), null);
      grey.y.push(...ys, null);
      grey.text.push(...hover(run, ys), "");
      grey.customdata.push(...run.y.map(() => run.id), null);
    }
    const found = [];
    if (grey.x.length) found.push({ ...grey, type: "scatter", mode: "lines", hoverinfo: "text",
      line: { color: GREY, width: 1 } });
    const run = data.runs.find((run) => run.id === view.highlight);
    if (run) {
      const ys = smooth(run.y, view.smoothing);
      if (view.smoothing) found.push({ x: xs(run), y: run.y, type: "scatter", mode: "lines",
        hoverinfo: "skip", line: { color: "rgba(53,116,212,0.28)", width: 1.5 } });
      found.push({ x: xs(run), y: ys, text: hover(run, ys), hoverinfo: "text", type: "scatter",
        mode: run.x.length <= 12 ? "lines+markers" : "lines", marker: { size: 6 },
        customdata: run.x.map(() => run.id), line: { color: ACCENT, width: 2.4 } });
    }
    return found;
  };

  /* --- groups: the mean of some runs and a band around it, as results/curves.py has it */

  const BAND_OF_QUARTILES = 5;
  const quantile = (ordered, q) => {
    const place = q * (ordered.length - 1), low = Math.floor(place);
    const high = Math.min(low + 1, ordered.length - 1);
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low);
  };
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /* `whole`: up to which point all runs are there. Beyond, some have ended, and a mean of those that
     go on is another curve: where the worst were pruned, it seems to rise. */
  const band = (runs, smoothing) => {
    const at = new Map();
    for (const run of runs) {
      const ys = smooth(run.y, smoothing);
      run.x.forEach((x, i) => {
        if (!at.has(x)) at.set(x, { x, ys: [], ts: [] });
        at.get(x).ys.push(ys[i]);
        at.get(x).ts.push(run.t[i]);
      });
    }
    const points = [...at.values()].sort((a, b) => a.x - b.x).map(({ x, ys, ts }) => {
      const ordered = ys.sort((a, b) => a - b), few = ordered.length < BAND_OF_QUARTILES;
      return { x, t: mean(ts), n: ordered.length, mean: mean(ordered),
        low: few ? ordered[0] : quantile(ordered, 0.25), high: few ? ordered.at(-1) : quantile(ordered, 0.75) };
    });
    const most = Math.max(0, ...points.map((point) => point.n));
    return { points, most, whole: 1 + points.findLastIndex((point) => point.n === most) };
  };

  const rgba = (colour, alpha) =>
    `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(",")},${alpha})`;
  const shownValue = (metric, value) => isShare(metric) ? `${(100 * value).toFixed(1)}%` : String(Number(value.toPrecision(4)));

  const groupTraces = (metric, data, view, grouping) => {
    const byId = new Map(data.runs.map((run) => [run.id, run]));
    const of = (ids) => band(ids.map((id) => byId.get(id)).filter(Boolean), view.smoothing);
    const [unit, name] = timeUnit(data.runs);
    const x = (point) => (view.time ? point.t / unit : point.x);
    const where = (point) => view.time ? `after ${x(point).toFixed(1)} ${name}` : `at update ${point.x}`;
    const hover = (point, group, found) => {
      const runs = point.n < found.most ? `${point.n} of ${found.most} runs` : `${point.n} runs`;
      const spread = found.most > 1
        ? `<br>${runs}: ${shownValue(metric, point.low)} … ${shownValue(metric, point.high)}` : "";
      return `${shownValue(metric, point.mean)} ${where(point)}${spread}<br>${escape(group.label)}`;
    };
    // A band is dense where up to three groups are drawn; more of them are lighter.
    const density = 0.16 * Math.min(1, 3 / Math.max(1, grouping.groups.length));
    const traces = [];
    const grey = grouping.others.map(of).flatMap((found) => [...found.points, null]);
    // All the others as one line with gaps: hundreds of them cost a browser no more than one.
    if (grey.length) traces.push({ x: grey.map((point) => point && x(point)), y: grey.map((point) => point && point.mean),
      type: "scatter", mode: "lines", line: { color: GREY, width: 1 }, hoverinfo: "skip" });
    grouping.groups.forEach((group) => {
      const found = of(group.runs), points = found.points.slice(0, found.whole);
      if (!points.length) return;
      const visible = !view.hidden.has(`${grouping.name}/${group.label}`);
      if (found.most > 1) traces.push({ visible, type: "scatter", mode: "lines", hoverinfo: "skip",
        x: [...points.map(x), ...points.map(x).reverse()], y: [...points.map((p) => p.high), ...points.map((p) => p.low).reverse()],
        fill: "toself", fillcolor: rgba(group.colour, density), line: { width: 0 } });
      traces.push({ visible, type: "scatter", mode: "lines+markers", hoverinfo: "text",
        x: points.map(x), y: points.map((p) => p.mean), hovertext: points.map((p) => hover(p, group, found)),
        line: { color: group.colour, width: 2 }, marker: { size: 6, symbol: group.symbol, maxdisplayed: 8 } });
      // Those that go on, dotted, with a gap wherever one fewer is left.
      const rest = found.points.slice(found.whole).flatMap((p, i) =>
        p.n === found.points[found.whole + i - 1].n ? [p] : [null, p]);
      if (rest.length) traces.push({ visible, type: "scatter", mode: "lines+markers", hoverinfo: "text",
        x: rest.map((p) => p && x(p)), y: rest.map((p) => p && p.mean), hovertext: rest.map((p) => p ? hover(p, group, found) : ""),
        line: { color: group.colour, width: 1.5, dash: "dot" }, marker: { size: 5, symbol: `${group.symbol}-open`, maxdisplayed: 8 } });
    });
    return traces;
  };

  let made = 0;
  /* A row of panels that share smoothing, axes and zoom. `load(metric)` gives {title, unit, note, flat,
     summary, metrics, runs: [{id, name, x, y, t}]}; `onopen(id)` opens a run. With `groupings`
     [{name, groups: [{label, colour, symbol, mark, runs}], others}] runs are drawn in groups. */
  const curves = (root, { panels: names, load, onopen, plotly, groupings = [], className = "pair" }) => {
    const view = { smoothing: 0, log: false, time: false, highlight: null, range: null,
      grouping: groupings[0], hidden: new Set() };
    const set = (name, value) => h("input", { type: "checkbox", name, onchange: (event) => value(event.target.checked) });
    const range = h("input", { type: "range", name: "smoothing", min: "0", max: "0.98", step: "0.02", value: "0",
      oninput: (event) => { view.smoothing = Number(event.target.value); drawAll(); } });
    const log = set("log", (on) => { view.log = on; drawAll(); });
    const time = set("time", (on) => { view.time = on; view.range = null; drawAll(); });
    const controls = h("div", { class: "curve-controls" },
      h("label", {}, "smoothing ", range), h("label", {}, log, " log scale"), h("label", {}, time, " over time"));

    // Which groups, and which of them are shown; a choice outlives groups that have got a run more.
    const grouper = h("div", {}), radio = `grouping${made++ || ""}`;
    const regroup = (newer) => {
      groupings = newer;
      view.grouping = groupings.find((grouping) => grouping.name === view.grouping?.name) ?? groupings[0];
      const choice = groupings.length > 1 && h("fieldset", { class: "choice" }, h("legend", {}, "One line for each"),
        groupings.map((grouping) => h("label", {}, h("input", { type: "radio", name: radio, value: grouping.name,
          checked: grouping === view.grouping, onchange: () => { view.grouping = grouping; drawLegends(); drawAll(); } }),
        h("span", {}, grouping.name))));
      const legends = groupings.map(legendOf);
      const drawLegends = () => legends.forEach((legend, at) => { legend.hidden = groupings[at] !== view.grouping; });
      drawLegends();
      grouper.replaceChildren(...[choice, legends].flat().filter(Boolean));
    };
    const legendOf = (grouping) => h("div", { class: "legend" }, grouping.groups.map((group, number) => {
      const key = `${grouping.name}/${group.label}`, mark = h("i", { class: "mark", "aria-hidden": "true" }, group.mark);
      mark.style.color = group.colour;
      return h("button", { type: "button", "aria-pressed": String(!view.hidden.has(key)), "data-group": number, onclick: (event) => {
        const hide = !view.hidden.has(key);
        if (hide) view.hidden.add(key); else view.hidden.delete(key);
        event.currentTarget.setAttribute("aria-pressed", String(!hide));
        drawAll();
      } }, mark, group.label);
    }), grouping.others.length > 0 && h("span", { class: "others" }, h("i"), `${grouping.others.length} other settings`));
    regroup(groupings);

    const panels = names.map((metric) => {
      const panel = { metric, data: null, plot: h("div", { class: "plot", role: "img", "data-metric": metric }),
        empty: h("p", { class: "empty" }, "Nothing logged yet."), note: h("p", { class: "fine" }), unit: h("span", {}), bound: false };
      panel.choice = h("select", { "aria-label": "Metric", onchange: async (event) => {
        panel.metric = event.target.value; await fetchPanel(panel); } });
      panel.figure = h("figure", { class: "curve" }, h("figcaption", {}, panel.choice, " ", panel.unit), panel.plot, panel.empty, panel.note);
      return panel;
    });
    root.replaceChildren(grouper, controls, h("div", { class: `panels ${className}` }, panels.map((panel) => panel.figure)));

    const fetchPanel = async (panel) => {
      const metric = panel.metric, data = await load(metric);
      if (panel.metric !== metric || !data) return;
      panel.data = data;
      const all = [...new Set([...data.metrics, metric])];
      const key = JSON.stringify(all);
      if (panel.choice.dataset.key !== key) {
        panel.choice.dataset.key = key;
        panel.choice.replaceChildren(...all.map((name) => h("option", { value: name }, name)));
      }
      panel.choice.value = metric;
      await draw(panel);
    };
    const draw = async (panel) => {
      if (!panel.data) return;
      const data = panel.data, metric = panel.metric;
      const runs = data.flat ? [] : data.runs.filter((run) => run.x.length);
      panel.plot.dataset.metric = metric;
      panel.plot.setAttribute("aria-label", data.summary || metric);
      if (view.grouping) panel.plot.dataset.figure = `curve/${view.grouping.name}/${metric}`;
      panel.plot.hidden = !runs.length;
      panel.empty.hidden = Boolean(runs.length);
      panel.empty.textContent = data.note || "Nothing logged yet.";
      panel.note.textContent = runs.length && data.note ? data.note : "";
      panel.unit.textContent = [data.unit, view.time && runs.length && `over ${timeUnit(runs)[1]}`].filter(Boolean).join(", ");
      panel.unit.title = panel.unit.textContent;
      if (!runs.length) return;
      const Plotly = await plotly();
      const found = view.grouping ? groupTraces(metric, { runs }, view, view.grouping) : runTraces(metric, { runs }, view);
      await Plotly.react(panel.plot, found, layout(metric, view, runs),
        { responsive: true, displayModeBar: false, doubleClick: "reset" });
      if (!panel.bound) bind(panel);
    };
    const bind = (panel) => {
      panel.bound = true;
      panel.plot.on("plotly_relayout", (change) => {
        const zoomed = change["xaxis.range[0]"] !== undefined;
        if (!zoomed && !change["xaxis.autorange"]) return;
        view.range = zoomed ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
        panels.filter((other) => other !== panel).forEach(draw);
      });
      panel.plot.on("plotly_click", (event) => {
        const id = event.points[0]?.customdata;
        if (onopen && id) onopen(id);
      });
    };
    const drawAll = () => Promise.all(panels.map(draw));
    return {
      refresh: () => Promise.all(panels.map(fetchPanel)),
      regroup,
      highlight: (id) => { view.highlight = id; },
      // Points of the run in colour that have just been logged.
      extend: (id, series) => {
        for (const panel of panels) {
          const run = panel.data?.runs.find((run) => run.id === id);
          const more = series[panel.metric];
          if (!run || !more) continue;
          for (const axis of ["x", "y", "t"]) run[axis].push(...more[axis]);
        }
        return drawAll();
      },
    };
  };

  return { curves };
})();
