"use strict";
/* Draws the figures of #figures where the page has a place for them; everything else on the page
   works without this script. */
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  const plots = [...document.querySelectorAll(".plot")];

  const draw = (plot) => {
    const figure = figures[plot.dataset.figure];
    if (!figure) { plot.replaceChildren(); return Promise.resolve(); }
    // On a touch screen a drag scrolls the page.
    const layout = { ...figure.layout, dragmode: touch ? false : "zoom" };
    return Plotly.react(plot, figure.data, layout, config);
  };

  /* --- learning curves: which groups, and which of them are shown */

  const legends = [...document.querySelectorAll(".legend")];
  const curves = plots.filter((plot) => plot.dataset.figure.startsWith("curve/"));

  const showGroups = (legend) => {
    const hidden = new Set(
      [...legend.querySelectorAll("button[aria-pressed=false]")].map((b) => b.dataset.group));
    for (const plot of curves) {
      const visible = (plot.data || []).map((trace) => !hidden.has(trace.legendgroup));
      if (visible.length) Plotly.restyle(plot, { visible });
    }
  };
  for (const legend of legends) {
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
      showGroups(legend);
    });
  }
  document.querySelectorAll("input[name=grouping]").forEach((input) => {
    input.addEventListener("change", async () => {
      for (const legend of legends) legend.hidden = legend.dataset.grouping !== input.value;
      for (const plot of curves) {
        const name = plot.dataset.figure.split("/").slice(2).join("/");
        plot.dataset.figure = `curve/${input.value}/${name}`;
        await draw(plot);
      }
      showGroups(legends.find((legend) => !legend.hidden));
    });
  });

  /* --- parallel coordinates: only the lines through the chosen values */

  const parallel = plots.find((plot) => plot.dataset.figure === "parallel");
  const selects = [...document.querySelectorAll(".filters select")];
  if (parallel) {
    const lines = JSON.parse(document.getElementById("lines").textContent);
    const full = figures.parallel.data.map((trace) => trace.opacity);
    const filter = () => {
      const opacity = lines.map((line, i) =>
        selects.every((s) => !s.value || line[s.dataset.key] === s.value) ? full[i] : 0.06);
      Plotly.restyle(parallel, { opacity });
    };
    selects.forEach((select) => select.addEventListener("change", filter));
  }

  /* --- tables that sort */

  const sortValue = (cell) => {
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) =>
    typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) =>
        (down ? -1 : 1) * compare(sortValue(a.cells[column]), sortValue(b.cells[column])));
      table.tBodies[0].append(...rows);
    }));
  }

  /* --- print: a figure cannot ask how wide the paper is; these fit A4 and Letter */

  const printedWidth = (plot) =>
    plot.closest(".forest") ? 210 : plot.closest(".panels") ? 320 : 670;
  addEventListener("beforeprint", () => plots.forEach((plot) => {
    if (plot.data) Plotly.relayout(plot, { width: printedWidth(plot), autosize: false });
  }));
  addEventListener("afterprint", () => plots.forEach((plot) => {
    if (plot.data) Plotly.relayout(plot, { width: null, autosize: true });
  }));

  Promise.all(plots.map(draw)).then(() => { document.documentElement.dataset.drawn = "true"; });
})();
