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
  // A browser draws so many rows at once; there is a button for more.
  const ROWS = 100;
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
    let rows = [], order = null, down = false, most = ROWS;
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
    const count = h("span", { "aria-live": "polite" });
    const more = h("button", { type: "button", class: "do", onclick: () => { most *= 4; drawRows(); } });
    root.replaceChildren(
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
        h("table", { class: "sortable filtered" }, h("thead", {}, h("tr", {}, heads),
          h("tr", { class: "filter-row" }, cells)), body)), h("p", { class: "fine count" }, count, more));

    const drawFilters = () => columns.forEach((column, at) => {
      if (column.filter === false) return;
      const values = [...new Set(rows.map((row) => shown(column, row)))];
      const change = (event) => { filters[at] = event.target.value; most = ROWS; drawRows(); };
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
      body.replaceChildren(...found.slice(0, most).map((row) => h("tr", {
        class: onopen ? "opens" : null, "data-id": row.id,
        onclick: onopen && ((event) => { if (!event.target.closest("button, a")) onopen(row); }),
      }, columns.map((column) => h("td", { class: column.num ? "num" : null },
        column.cell ? column.cell(row) : shown(column, row))))));
      const first = found.length > most ? `, the first ${most} of them ` : "";
      count.textContent = (found.length === rows.length ? `${rows.length} runs`
        : `${found.length} of ${rows.length} runs`) + first;
      more.hidden = found.length <= most;
      more.textContent = `Show ${Math.min(3 * most, found.length - most)} more`;
    };
    const draw = () => {
      heads.forEach((head, at) => {
        if (at === order) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      drawRows();
    };
    return {
      update: (newer) => { rows = newer; drawFilters(); draw(); },
      // For paper, which has no buttons.
      showAll: () => { most = Infinity; drawRows(); },
    };
  };

  // 1e-5 rather than 0.00001.
  const number = (value) => {
    if (typeof value !== "number") return value;
    const plain = String(value), exponent = value.toExponential().replace("e+", "e");
    return exponent.length < plain.length ? exponent : plain;
  };

  /* The state of a run in a table, with a mark where something ails it. */
  const stateOf = (run) => [state(run.state), run.ill.length > 0 &&
    h("span", { class: "ill", title: run.ill.join("\n"), role: "img", "aria-label": run.ill.join("; ") }, " ⚠")];

  /* The table of a sweep's runs, {keys, metric, goal, tagged, runs}: what is swept in columns. */
  const runsTable = (root, sweep, { onopen, link, stateCell = stateOf }) =>
    table(root, { label: "Runs of the sweep", onopen, columns: [
      { title: "id", num: true, value: (run) => run.id, filter: false },
      { title: "run", value: (run) => run.name, cell: (run) => h("span", { class: "name", title: run.name }, link(run)) },
      { title: "state", value: (run) => run.state, cell: stateCell },
      { title: sweep.metric, num: true, downFirst: sweep.goal === "max", value: (run) => run.value, show: (run) => run.value_text },
      ...sweep.keys.map((key, at) => ({ title: key, num: sweep.runs.some((run) => typeof run.values[at] === "number"),
        value: (run) => run.values[at], show: (run) => number(run.values[at]) })),
      { title: "seed", num: true, value: (run) => run.seed },
      { title: "updates", num: true, value: (run) => run.update, show: (run) => run.progress, filter: false },
      { title: "time", num: true, value: (run) => run.wall_s, show: (run) => run.time, filter: false },
      ...(sweep.tagged ? [{ title: "tags", value: (run) => run.tags.join(", ") }] : []),
    ] });

  return { h, copyButton, state, stateOf, table, runsTable };
})();
