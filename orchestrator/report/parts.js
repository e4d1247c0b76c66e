"use strict";
/* What the report and the live page share: elements, tables that sort and filter, curves, copying.
   Every text of a run becomes a text node, never markup. */
const Parts = (() => {

  /* --- elements */

  const h = (tag, props = {}, ...kids) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...kids.flat(Infinity).filter((kid) => kid !== null && kid !== undefined && kid !== false));
    return element;
  };

  const copyButton = (text) => h("button", {
    type: "button", class: "copy", onclick: async (event) => {
      const button = event.currentTarget;
      await copy(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    },
  }, "Copy");

  // The clipboard API wants https or this machine; a phone in the network has neither.
  const copy = async (text) => {
    if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
    const area = h("textarea", { class: "off-screen", readonly: true });
    area.value = text;
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  const state = (name) => h("span", { class: `state state-${name}` }, name);

  /* --- tables: a head that sorts, below it a filter for every column */

  const CHOICES = 12;
  // What is not known stands last, whichever way round.
  const compare = (a, b, sign) => {
    const missing = (value) => value === null || value === undefined || value === "";
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (typeof a === typeof b) return sign * (a < b ? -1 : a > b ? 1 : 0);
    return sign * (typeof a === "number" ? -1 : 1);
  };

  // `0.5` is that value, `> 0.5`, `<= 3` and `1..5` are ranges; other words are part of the text.
  const matcher = (query) => {
    const text = query.trim().toLowerCase();
    const range = text.match(/^(\S+?)\s*\.\.\s*(\S+)$/);
    const bound = text.match(/^([<>]=?|=)\s*(\S+)$/);
    const isNumber = (word) => word !== "" && !Number.isNaN(Number(word));
    if (range && isNumber(range[1]) && isNumber(range[2]))
      return (value) => typeof value === "number" && value >= +range[1] && value <= +range[2];
    if (bound && isNumber(bound[2])) {
      const limit = Number(bound[2]);
      const tests = { "<": (v) => v < limit, "<=": (v) => v <= limit, ">": (v) => v > limit,
        ">=": (v) => v >= limit, "=": (v) => v === limit };
      return (value) => typeof value === "number" && tests[bound[1]](value);
    }
    if (isNumber(text))
      return (value, shown) => value === Number(text) || shown.toLowerCase().includes(text);
    return (value, shown) => shown.toLowerCase().includes(text);
  };

  /* columns: {title, num, value(row), show(row), cell(row), filter}; `filter: false` has none. */
  const table = (root, { columns, label, onopen }) => {
    let rows = [], order = null, down = false;
    const filters = columns.map(() => "");
    const shown = (column, row) => {
      const text = column.show ? column.show(row) : column.value(row);
      return text === null || text === undefined ? "–" : String(text);
    };
    const heads = columns.map((column, at) => h("th", { class: column.num ? "num" : null },
      h("button", { type: "button", onclick: () => {
        down = order === at ? !down : Boolean(column.downFirst);
        order = at;
        draw();
      } }, column.title)));
    const cells = columns.map((column) => h("th", { class: column.num ? "num" : null }));
    const body = h("tbody");
    const count = h("p", { class: "fine count", "aria-live": "polite" });
    root.replaceChildren(
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
        h("table", { class: "sortable filtered" }, h("thead", {}, h("tr", {}, heads),
          h("tr", { class: "filter-row" }, cells)), body)), count);

    const drawFilters = () => columns.forEach((column, at) => {
      if (column.filter === false) return;
      const values = [...new Set(rows.map((row) => shown(column, row)))];
      const change = (event) => { filters[at] = event.target.value; drawRows(); };
      const few = values.length <= CHOICES;
      const key = few ? JSON.stringify(values) : "free";
      if (cells[at].dataset.key === key) return;
      cells[at].dataset.key = key;
      const name = `Filter by ${column.title}`;
      if (!few) {
        const field = h("input", { type: "search", "aria-label": name, oninput: change,
          placeholder: column.num ? "> 0.5" : "…" });
        field.value = filters[at].startsWith("=") ? "" : filters[at];
        filters[at] = field.value;
        cells[at].replaceChildren(field);
        return;
      }
      const field = h("select", { "aria-label": name, onchange: change }, h("option", { value: "" }, "all"),
        values.map((value) => h("option", { value: `=${value}` }, value)));
      field.value = filters[at];
      if (field.value !== filters[at]) field.value = filters[at] = "";
      cells[at].replaceChildren(values.length > 1 ? field : "");
    });

    const passes = (row) => columns.every((column, at) => {
      const wanted = filters[at];
      if (!wanted) return true;
      if (cells[at].querySelector("select")) return `=${shown(column, row)}` === wanted;
      return matcher(wanted)(column.value(row), shown(column, row));
    });

    const drawRows = () => {
      const found = rows.filter(passes);
      if (order !== null) {
        const value = columns[order].value;
        found.sort((a, b) => compare(value(a), value(b), down ? -1 : 1));
      }
      body.replaceChildren(...found.map((row) => h("tr", {
        class: onopen ? "opens" : null, "data-id": row.id,
        onclick: onopen && ((event) => { if (!event.target.closest("button, a")) onopen(row); }),
      }, columns.map((column) => h("td", { class: column.num ? "num" : null },
        column.cell ? column.cell(row) : shown(column, row))))));
      count.textContent = found.length === rows.length ? `${rows.length} runs`
        : `${found.length} of ${rows.length} runs`;
    };
    const draw = () => {
      heads.forEach((head, at) => {
        if (at === order) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      drawRows();
    };
    return { update: (newer) => { rows = newer; drawFilters(); draw(); } };
  };

  /* --- curves: one run in colour over others in grey */

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
    const values = runs.flatMap((run) => run.y);
    const low = Math.min(...values), high = Math.max(...values);
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
    const most = Math.max(0, ...runs.map((run) => run.t.at(-1) ?? 0));
    return most >= 7200 ? [3600, "hours"] : most >= 120 ? [60, "minutes"] : [1, "seconds"];
  };

  const traces = (metric, data, view) => {
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

  /* A row of panels that share smoothing, axes and zoom. `load(metric)` gives
     {title, metrics, runs: [{id, name, x, y, t}]}; `onopen(id)` opens a run. */
  const curves = (root, { panels: names, load, onopen, plotly }) => {
    const view = { smoothing: 0, log: false, time: false, highlight: null, range: null };
    const range = h("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: "0",
      oninput: (event) => { view.smoothing = Number(event.target.value); drawAll(); } });
    const log = h("input", { type: "checkbox", onchange: (event) => { view.log = event.target.checked; drawAll(); } });
    const time = h("input", { type: "checkbox", onchange: (event) => {
      view.time = event.target.checked; view.range = null; drawAll(); } });
    const controls = h("div", { class: "curve-controls" },
      h("label", {}, "smoothing ", range), h("label", {}, log, " log scale"), h("label", {}, time, " over time"));
    const panels = names.map((metric) => {
      const panel = { metric, data: null, plot: h("div", { class: "plot", "data-metric": metric }),
        empty: h("p", { class: "empty" }, "Nothing logged yet."), unit: h("span", {}), bound: false };
      panel.choice = h("select", { "aria-label": "Metric", onchange: async (event) => {
        panel.metric = event.target.value; await fetchPanel(panel); } });
      panel.figure = h("figure", {}, h("figcaption", {}, panel.choice, " ", panel.unit), panel.plot, panel.empty);
      return panel;
    });
    root.replaceChildren(controls, h("div", { class: "panels pair" }, panels.map((panel) => panel.figure)));

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
      const runs = panel.data.runs.filter((run) => run.x.length);
      panel.plot.dataset.metric = panel.metric;
      panel.plot.hidden = !runs.length;
      panel.empty.hidden = Boolean(runs.length);
      panel.unit.textContent = view.time ? `over ${timeUnit(runs)[1]} of training` : "over updates";
      if (!runs.length) return;
      const Plotly = await plotly();
      await Plotly.react(panel.plot, traces(panel.metric, { runs }, view), layout(panel.metric, view, runs),
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

  return { h, copyButton, state, table, curves };
})();
