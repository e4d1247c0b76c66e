"use strict";
/* The figures of the report's sections, wherever these stand: in the report, or in the live page. */
const Sections = (() => {
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };

  /* Draw the figures `figures[id]` at each place [data-figure=id] below `root`, one after the other, so
     that the page can be scrolled meanwhile; `lines` are the values behind the parallel lines. */
  const draw = async (root, { figures, lines, plotly }) => {
    const plots = [...root.querySelectorAll(".plot[data-figure]")].filter((plot) => figures[plot.dataset.figure]);
    if (!plots.length) return;
    const Plotly = await plotly();
    for (const plot of plots) {
      const figure = figures[plot.dataset.figure];
      // On a touch screen a drag scrolls the page.
      const layout = { ...figure.layout, dragmode: touch ? false : "zoom" };
      await Plotly.react(plot, figure.data, layout, config);
      await new Promise((go) => setTimeout(go));
    }
    filterLines(root, figures, lines, Plotly);
  };

  /* Parallel coordinates: only the lines through the chosen values. */
  const filterLines = (root, figures, lines, Plotly) => {
    const parallel = root.querySelector(".plot[data-figure=parallel]");
    if (!parallel || !lines) return;
    const selects = [...root.querySelectorAll(".filters select")];
    const full = figures.parallel.data.map((trace) => trace.opacity);
    const filter = () => {
      const opacity = lines.map((line, i) =>
        selects.every((s) => !s.value || line[s.dataset.key] === s.value) ? full[i] : 0.06);
      Plotly.restyle(parallel, { opacity });
    };
    selects.forEach((select) => select.addEventListener("change", filter));
    if (selects.some((select) => select.value)) filter();
  };

  return { draw };
})();
