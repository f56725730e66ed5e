/* The page of cnnlive's report: reads the payload, draws every section, answers pointer and keyboard.

   Python writes the payload (cnnlive/report/html.py), Plotly draws the axes and the shapes, and everything that lies
   over a drawing (cursor, readout, selection) is of this file. What a person can change is in `state`, or in the view
   of the one section it belongs to. Every amount comes from the payload: nothing is computed here but sums of columns.

   Order: amounts, elements, state and colours, charts, tables, sections by kind, the page. */
"use strict";
(() => {
  // ------------------------------------------------------------------------------------------------ amounts

  const UNITS = { "": 1, b: 1, k: 1e3, kb: 1e3, m: 1e6, mb: 1e6, g: 1e9, gb: 1e9, t: 1e12, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 };

  /* As Python's format(value, ".2f"): exact ties go to the even digit. */
  function fixed(value, digits) {
    const scaled = value * 10 ** digits;
    const low = Math.floor(scaled);
    const whole = scaled - low === 0.5 ? low + (low % 2) : Math.round(scaled);
    return (whole / 10 ** digits).toFixed(digits);
  }

  /* As cnnlive.units.format_bytes. */
  function formatBytes(nbytes) {
    if (nbytes < 0) return "−" + formatBytes(-nbytes);
    if (nbytes < 1024) return `${nbytes} B`;
    let value = nbytes;
    for (const unit of ["KiB", "MiB", "GiB"]) {
      value /= 1024;
      if (value < 1023.95) return `${fixed(value, value < 10 ? 2 : 1)} ${unit}`;
    }
    return `${fixed(value / 1024, 2)} TiB`;
  }

  /* An integer with thousands separators; JSON numbers above 2**53 are rounded, and the text says so. */
  function count(value) {
    const digits = BigInt(Math.trunc(value)).toString().replace("-", "−").replace(/\B(?=(\d{3})+$)/g, ",");
    return Number.isSafeInteger(value) ? digits : `about ${digits}`;
  }

  const exact = (nbytes) => `${count(nbytes)} B`;
  const both = (nbytes) => (Math.abs(nbytes) < 1024 ? exact(nbytes) : `${formatBytes(nbytes)} (${exact(nbytes)})`);
  const signed = (nbytes) => (nbytes > 0 ? "+" : "") + formatBytes(nbytes);
  const percent = (fraction) => `${fixed(100 * fraction, 1)} %`;
  const steps = (begin, end) => (end - begin === 1 ? `step ${count(begin)}` : `steps ${count(begin)}–${count(end - 1)}`);
  const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

  /* "1.5 MiB" -> bytes; null where the text is no amount. */
  function parseAmount(text) {
    const match = /^(-?\d+(?:[.,_]\d+)*)\s*([a-z]*)$/i.exec(text.trim());
    const factor = match && UNITS[match[2].toLowerCase()];
    const amount = factor ? Number(match[1].replace(/[,_]/g, "")) * factor : NaN;
    return Number.isNaN(amount) ? null : amount;
  }

  // Math.max(...values) has no room for the arguments of a hundred thousand values.
  const largest = (values, least = -Infinity) => values.reduce((a, b) => (b > a ? b : a), least);
  const smallest = (values, most = Infinity) => values.reduce((a, b) => (b < a ? b : a), most);
  const depthOf = (paths) => largest(paths.map((path) => (path ? path.split(".").length : 0)), 0);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const tail = (text, most) => (text.length <= most ? text : `…${text.slice(1 - most)}`);
  const short = (text, most = 30) => (text.length <= most ? text : `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(1 - Math.floor(most / 2))}`);

  // ------------------------------------------------------------------------------------------------ elements

  /* An element; `on*` are listeners, `true` is an empty attribute, null and false are left out; texts are never HTML. */
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    return fill(node, children.flat());
  }
  function fill(node, children) {
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }

  const button = (label, onclick, attributes) => el("button", { type: "button", onclick, ...attributes }, label);
  const p = (kind, ...children) => el("p", { class: kind }, ...children);
  const swatch = (colour) => el("span", { class: "swatch", style: `background:var(--${colour})`, "aria-hidden": "true" });

  function select(label, options, value, onchange) {
    const items = options.map(([key, text]) => el("option", { value: key, selected: key === value }, text));
    const box = el("select", { onchange: () => onchange(box.value) }, items);
    return el("label", {}, label, box);
  }

  const chip = (colour, label, more) => el("li", {}, el("span", { class: "key" }, swatch(colour), label, more && el("b", {}, more)));
  const chips = (items) => el("ul", { class: "keys", "aria-label": "Colours" }, items);

  const live = document.getElementById("live");
  function announce(text) {
    live.textContent = text;
  }

  function kept(name, value) {
    try {
      if (value === undefined) return localStorage.getItem(`cnnlive-${name}`);
      localStorage.setItem(`cnnlive-${name}`, value);
    } catch {
      /* storage is forbidden: the choice lasts as long as the page */
    }
    return null;
  }

  function download(name, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async function copy(text, pressed) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el("textarea", { class: "unseen" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy"); // where the clipboard is for secure pages alone
      area.remove();
    }
    const label = pressed.textContent;
    pressed.textContent = "copied";
    announce("copied");
    setTimeout(() => (pressed.textContent = label), 1200);
  }

  // ------------------------------------------------------------------------------------------------ state, colours

  const state = {
    theme: document.documentElement.dataset.theme,
    exact: kept("exact") === "1", // tables show bytes in place of units
    print: false,
    views: [], // what can be drawn again: {redraw()}
  };
  const PRINT_WIDTH = 640; // pixels that fit an A4 or letter page between the margins
  const NAMES = ["blue", "orange", "green", "pink", "sky", "red", "yellow", "grey"];
  const OF_KIND = {
    weights: "blue", parameters: "blue", buffers: "sky", optimizer_state: "green", optimizer: "green", inputs: "grey",
    gradients: "orange", saved: "red", activations: "yellow", temporaries: "pink", temporary: "pink", read: "sky", written: "red",
    held: "grey", scratch: "yellow", context: "grey", fixed: "grey", forward: "red", backward: "pink", alive: "blue", workspace: "yellow", allocator: "pink",
  };
  let colours = {};

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const names = [...NAMES, "text", "muted", "line", "line-strong", "surface", "accent", "shade", "danger"];
    for (const name of names) colours[name] = style.getPropertyValue(`--${name}`).trim();
    colours.sans = style.getPropertyValue("--sans").trim();
  }

  function faded(hex, opacity) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${opacity})`;
  }

  /* Letters on a colour: white or black, whichever stands out more (WCAG's relative luminance). */
  function inkOn(hex) {
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    return 1.05 / (light + 0.05) > (light + 0.05) / 0.05 ? "#ffffff" : "#000000";
  }

  /* One colour name per kind: the usual one, else the first that is free. */
  function kindColours(keys) {
    const names = keys.map((key) => OF_KIND[key]);
    return names.map((name, i) => {
      if (name && names.indexOf(name) === i) return name;
      return (names[i] = NAMES.find((free) => !names.includes(free)) || NAMES[i % NAMES.length]);
    });
  }

  function redrawAll() {
    readColours();
    for (const view of state.views) view.redraw();
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    redrawAll();
  }

  // ------------------------------------------------------------------------------------------------ charts

  const MOST_BINS = 700; // more columns than this no screen shows apart
  const LETTER = 6.3; // pixels, mean width of a letter of an axis label

  /* Ticks of an axis of bytes, at round numbers of one binary unit. */
  function byteTicks(low, high, most) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const unit = clamp(Math.floor(Math.log2(Math.max(high, 1) / 1.5) / 10), 0, 4);
    const factor = 1024 ** unit;
    const rough = Math.max((high - low) / factor / most, unit ? 0 : 1); // no half bytes
    const ten = 10 ** Math.floor(Math.log10(rough || 1));
    const step = [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= rough) || 1;
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const tickvals = [];
    for (let k = Math.ceil(low / factor / step - 1e-9); k * step * factor <= high; k++) tickvals.push(k * step * factor);
    return { tickvals, ticktext: tickvals.map((value) => (value === 0 ? "0" : `${(value / factor).toFixed(digits)} ${units[unit]}`)) };
  }

  // What drawings are made of, as Plotly takes it: lines and marks of data, lines and bands across, notes.
  const run = (name, x, y, line, more) => ({ type: "scatter", mode: "lines", name, x, y, line: { shape: "hv", ...line }, ...more });
  const mark = (name, x, y, size, color) => ({
    type: "scatter", mode: "markers", name, x: [x], y: [y], cliponaxis: false,
    marker: { size, symbol: "diamond", color, line: { color: colours.surface, width: 1.5 } },
  });
  const across = (y, color, dash) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color, width: 1.5, dash } });
  const upright = (x, color, dash) => ({ type: "line", layer: "below", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: 1, dash } });
  const band = (x0, x1, fillcolor) => ({ type: "rect", layer: "below", yref: "paper", x0, x1, y0: 0, y1: 1, fillcolor, line: { width: 0 } });
  const note = (text, color, more) => ({ text: escaped(text), showarrow: false, font: { size: 11, color }, ...more });
  const bytesAxis = (range) => ({ range, tickmode: "array", ...byteTicks(...range, 6) });

  /* Where a note beside a point has room: to its right, to its left, else at the end of the drawing. */
  function beside(chart, x, text) {
    const px = chart.left(x);
    const long = text.length * (LETTER + 0.6) + 12;
    if (px + long < chart.inner.width) return { x, xanchor: "left", xshift: 9 };
    if (px > long) return { x, xanchor: "right", xshift: -9 };
    return { xref: "paper", x: 1, xanchor: "right" };
  }

  /* Runs of neighbouring steps of one module path, cut to `depth` names; `cuts` are steps where a run ends anyway. */
  function scopeRuns(scopes, depth, cuts = new Set()) {
    const runs = [];
    for (let step = 0; step < scopes.length; step++) {
      const name = scopes[step].split(".").slice(0, depth).join(".");
      const last = runs[runs.length - 1];
      if (last && last.name === name && !cuts.has(step)) last.end = step + 1;
      else runs.push({ name, begin: step, end: step + 1 });
    }
    return runs;
  }

  /* Names of steps or of blocks under an axis of steps: level where they fit, else slanted, some left out. */
  class StepAxis {
    constructor(ops, scopes, cuts) {
      this.ops = ops;
      this.levels = []; // runs by depth, from few to many
      const deepest = scopes ? depthOf(scopes) : 0;
      for (let depth = 1; depth <= deepest; depth++) {
        const runs = scopeRuns(scopes, depth, cuts);
        const before = this.levels[this.levels.length - 1];
        if (runs.length > 1 && runs.length < ops.length && runs.length !== (before && before.runs.length)) this.levels.push({ depth, runs });
      }
      this.each = ops.map((name, step) => ({ name, begin: step, end: step + 1 }));
    }

    runsOf(depth) {
      const level = this.levels.find((one) => one.depth === depth);
      return level ? level.runs : this.each;
    }

    /* Where blocks begin that are wide enough to be told apart by a line. */
    lines(view, width) {
      const [low, high] = [view[0], view[1]];
      const steps = this.ops.length;
      const wide = (runs) => runs.length <= 24 && runs.length * 40 * (high - low) < width * steps;
      const level = this.levels.findLast(({ runs }) => wide(runs));
      return level ? level.runs.slice(1).map((run) => run.begin) : [];
    }

    /* `wanted`: runs to be named; null: the most that leave room. */
    layout(view, width, wanted) {
      const [low, high] = view;
      const pixels = width / (high - low);
      const seen = (runs) => runs.filter((run) => run.end > low && run.begin < high);
      let runs = wanted && seen(wanted);
      if (!runs) {
        runs = seen(this.each);
        for (let at = this.levels.length - 1; at >= 0 && runs.length * 15 > width; at--) runs = seen(this.levels[at].runs);
      }
      if (runs.length * 15 > width * 4 && !this.levels.length) {
        const numbers = { tickmode: "auto", nticks: width < 420 ? 5 : 9, tickformat: ",d", ticks: "outside", tickcolor: colours["line-strong"] };
        return { axis: numbers, room: 34, lines: [] };
      }
      const middle = (run) => (Math.max(run.begin, low) + Math.min(run.end, high)) / 2;
      const text = (run) => short(run.name || (run.end - run.begin === 1 ? this.ops[run.begin] : "·"), 24);
      // Level names where most of the axis has room for them, the long ones by their ends; else slanted ones.
      const long = (run) => (Math.min(run.end, high) - Math.max(run.begin, low)) * pixels;
      const letters = (run) => Math.floor((long(run) - 8) / LETTER);
      const level = sum(runs.filter((run) => text(run).length <= letters(run)).map(long)) > 0.85 * sum(runs.map(long));
      const named = [];
      let free = -Infinity;
      for (const run of runs) {
        const at = (middle(run) - low) * pixels;
        if (named.length && named[named.length - 1].name === run.name) continue; // goes on behind a part left out
        if ((level ? letters(run) >= Math.min(5, text(run).length) : at - free >= 15) && run.name !== "") {
          named.push(run);
          free = at;
        }
      }
      const shown = (run) => (level ? tail(text(run), letters(run)) : text(run));
      const longest = largest(named.map((run) => text(run).length), 0);
      return {
        axis: {
          tickmode: "array", tickvals: named.map(middle), ticktext: named.map((run) => escaped(shown(run))), ticks: "",
          tickangle: level ? 0 : -45, ticklabelstandoff: level ? 4 : 0,
        },
        room: level ? 34 : clamp(18 + longest * LETTER * 0.72, 40, 132),
        lines: this.lines(view, width),
      };
    }
  }

  /* A drawing that zooms, shows a cursor and reads out what lies under it.

     options: label, height, zoom ("", "x" or "xy"), full() -> {x, y} the whole range (y may be null), draw(chart) ->
     {data, layout, bottom}, hover(x, y, chart) -> {at, readout} | null, pick(x, y, chart), key(event, chart) -> handled,
     forget() the place of the cursor. */
  class Chart {
    constructor(options) {
      this.options = options;
      this.margin = { l: 70, r: 14, t: 26, b: 40 };
      this.view = options.full();
      this.plot = el("div", { class: "plot" });
      this.cursor = el("div", { class: "cursor", hidden: true });
      this.pin = el("div", { class: "pinned", hidden: true });
      this.brush = el("div", { class: "brush", hidden: true });
      this.box = el("div", { class: "box", hidden: true });
      this.chosen = el("div", { class: "box chosen", hidden: true });
      this.over = el("div", { class: "over" }, this.chosen, this.box, this.pin, this.cursor, this.brush);
      this.tip = el("div", { class: "tip", hidden: true });
      this.frame = el("div", {
        class: `chart${options.zoom ? " zooms" : ""}`, tabindex: "0", role: "application", "aria-roledescription": "chart", "aria-label": options.label,
        onpointerdown: (event) => this.press(event), onpointermove: (event) => this.move(event), onpointerup: (event) => this.release(event),
        onpointerleave: () => this.leave(), onpointercancel: () => this.leave(), ondblclick: () => this.reset(),
        onkeydown: (event) => this.key(event), onblur: () => this.leave(),
      }, this.plot, this.over, this.tip);
      this.frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      new ResizeObserver(() => {
        if (!state.print && this.drawn && this.frame.clientWidth !== this.width) requestAnimationFrame(() => this.redraw());
      }).observe(this.frame);
      state.views.push(this);
    }

    get inner() {
      return { width: Math.max(this.width - this.margin.l - this.margin.r, 20), height: Math.max(this.height - this.margin.t - this.margin.b, 20) };
    }
    left(x) {
      return ((x - this.view.x[0]) / (this.view.x[1] - this.view.x[0])) * this.inner.width;
    }
    top(y) {
      return (1 - (y - this.range[0]) / (this.range[1] - this.range[0])) * this.inner.height;
    }

    redraw() {
      this.width = state.print ? PRINT_WIDTH : this.frame.clientWidth;
      if (!this.width) return;
      this.margin.l = this.width < 520 ? 58 : 70;
      this.margin.r = this.width < 520 ? 8 : 14;
      this.height = this.options.height;
      const { data, layout, bottom } = this.options.draw(this);
      this.margin.b = bottom;
      this.height = this.options.height + Math.max(0, bottom - 40); // long names do not eat the drawing
      this.range = layout.yaxis.range;
      const axis = { gridcolor: colours.line, linecolor: colours["line-strong"], zeroline: false, fixedrange: true, automargin: false };
      Plotly.react(
        this.plot,
        data,
        {
          ...layout, width: this.width, height: this.height, margin: { ...this.margin, pad: 0 }, showlegend: false, hovermode: false,
          paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: colours.sans, size: 11, color: colours.muted },
          xaxis: { ...axis, showgrid: false, range: this.view.x, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
        },
        { staticPlot: true, displayModeBar: false, responsive: false },
      );
      this.drawn = true;
      const { width, height } = this.inner;
      Object.assign(this.over.style, { left: `${this.margin.l}px`, top: `${this.margin.t}px`, width: `${width}px`, height: `${height}px` });
      this.place();
    }

    /* Put what lies over the drawing where it belongs at this zoom. */
    place() {
      const line = (node, x) => {
        node.hidden = x === null || x === undefined;
        if (!node.hidden) node.style.left = `${this.left(x)}px`;
      };
      line(this.cursor, this.cursorX);
      line(this.pin, this.pinX);
      for (const [node, box] of [[this.box, this.boxAt], [this.chosen, this.chosenAt]]) {
        node.hidden = !box;
        if (!box) continue;
        const [x0, x1, y0, y1] = [this.left(box.x[0]), this.left(box.x[1]), this.top(box.y[1]), this.top(box.y[0])];
        Object.assign(node.style, { left: `${x0}px`, top: `${y0}px`, width: `${Math.max(x1 - x0, 3)}px`, height: `${Math.max(y1 - y0, 3)}px` });
      }
    }

    setView(x, y) {
      const full = this.options.full();
      const least = this.options.least || 0;
      const within = ([low, high], [a, b]) => {
        const span = clamp(high - low, Math.min(least, b - a), b - a);
        const from = clamp((low + high - span) / 2, a, b - span);
        return [from, from + span];
      };
      this.view = { x: within(x, full.x), y: full.y && y ? y : full.y };
      this.redraw();
      if (this.options.zoomed) this.options.zoomed(this);
    }
    reset() {
      const full = this.options.full();
      this.setView(full.x, full.y);
    }
    zoomBy(factor, x = (this.view.x[0] + this.view.x[1]) / 2, y = null) {
      const about = ([low, high], at) => [at - (at - low) * factor, at + (high - at) * factor];
      const full = this.options.full();
      let range = this.view.y;
      if (full.y && this.options.zoom === "xy") {
        range = about(range, y === null ? (range[0] + range[1]) / 2 : y);
        range = [Math.max(range[0], full.y[0]), Math.min(range[1], full.y[1])];
      }
      this.setView(about(this.view.x, x), range);
    }
    /* Move the view so that x is seen. */
    bring(x) {
      const [low, high] = this.view.x;
      if (x >= low && x <= high) return;
      this.setView([x - (high - low) / 2, x + (high - low) / 2], this.view.y);
    }

    /* Pointer position in the drawing: pixels and values. */
    where(event) {
      const frame = this.frame.getBoundingClientRect();
      const px = event.clientX - frame.left - this.margin.l;
      const py = event.clientY - frame.top - this.margin.t;
      const { width, height } = this.inner;
      return {
        px, py, inside: px >= 0 && px <= width && py >= -this.margin.t && py <= height,
        x: this.view.x[0] + (px / width) * (this.view.x[1] - this.view.x[0]),
        y: this.range[0] + (1 - py / height) * (this.range[1] - this.range[0]),
      };
    }

    press(event) {
      if (event.button !== 0) return;
      this.down = { ...this.where(event), touch: event.pointerType === "touch" };
      if (this.down.inside && this.options.zoom && !this.down.touch) this.frame.setPointerCapture(event.pointerId);
    }

    move(event) {
      const at = this.where(event);
      if (this.down && this.down.inside && this.options.zoom && !this.down.touch && Math.hypot(at.px - this.down.px, at.py - this.down.py) > 5) {
        this.dragging = true;
        const { width, height } = this.inner;
        const [x0, x1] = [this.down.px, at.px].map((px) => clamp(px, 0, width)).sort((a, b) => a - b);
        const high = this.options.zoom === "xy" ? [this.down.py, at.py].map((py) => clamp(py, 0, height)).sort((a, b) => a - b) : [0, height];
        this.brush.hidden = false;
        Object.assign(this.brush.style, { left: `${x0}px`, width: `${x1 - x0}px`, top: `${high[0]}px`, height: `${high[1] - high[0]}px` });
        this.tip.hidden = true;
        return;
      }
      if (!this.dragging) this.point(at.inside ? at : null);
    }

    release(event) {
      const { down, dragging } = this;
      this.down = null;
      this.dragging = false;
      this.brush.hidden = true;
      if (!down || !down.inside) return;
      const at = this.where(event);
      if (!dragging) {
        this.point(at);
        if (Math.hypot(at.px - down.px, at.py - down.py) < 6 && this.options.pick) this.options.pick(at.x, at.y, this);
        return;
      }
      const sorted = (a, b) => [Math.min(a, b), Math.max(a, b)];
      const x = Math.abs(at.px - down.px) > 5 ? sorted(down.x, at.x) : this.view.x;
      const full = this.options.full();
      const y = full.y && Math.abs(at.py - down.py) > 5 ? sorted(down.y, at.y).map((value) => clamp(value, ...full.y)) : this.view.y;
      this.setView(x, y);
    }

    leave() {
      this.down = null;
      this.dragging = false;
      this.brush.hidden = true;
      this.point(null);
    }

    /* Show what lies under the pointer, or nothing. */
    point(at) {
      this.show(at && this.options.hover(at.x, at.y, this), at);
    }

    /* Show the cursor, the readout and the box of what was found: {x, readout, said, box}; `at`: pixels of the pointer. */
    show(found, at, said = false) {
      this.cursorX = found ? found.x : null;
      this.boxAt = found ? found.box : null;
      this.place();
      this.tip.hidden = !found;
      if (!found) return;
      this.tip.replaceChildren(...found.readout);
      const px = this.margin.l + (at ? at.px : this.left(found.x));
      const room = this.tip.offsetWidth + 18;
      const left = px + room <= this.width ? px + 16 : px - room;
      this.tip.style.left = `${clamp(left, 2, Math.max(2, this.width - room))}px`;
      const py = this.margin.t + (at ? clamp(at.py, 0, this.inner.height) - 20 : 8);
      this.tip.style.top = `${Math.max(2, Math.min(py, this.height - this.tip.offsetHeight - 4))}px`;
      if (said) announce(found.said || this.tip.textContent);
    }

    wheel(event) {
      // A page that is scrolled over a chart goes on scrolling: zoom is for the chart in focus, or with Ctrl.
      const at = this.where(event);
      if (!this.options.zoom || !at.inside || !(event.ctrlKey || document.activeElement === this.frame)) return;
      event.preventDefault();
      this.zoomBy(1.0015 ** clamp(event.deltaY, -300, 300), at.x, at.y);
      this.point(at);
    }

    key(event) {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      let handled = true;
      if (this.options.zoom && (event.key === "+" || event.key === "=")) this.zoomBy(0.5, this.cursorX ?? undefined);
      else if (this.options.zoom && event.key === "-") this.zoomBy(2, this.cursorX ?? undefined);
      else if (this.options.zoom && event.key === "0") this.reset();
      else if (event.key === "Escape") {
        this.point(null);
        this.options.forget();
      }
      else handled = this.options.key ? this.options.key(event, this) : false;
      if (handled) event.preventDefault();
    }

    zoomTools() {
      return el("span", { class: "joined", role: "group", "aria-label": "Zoom" },
        button("−", () => this.zoomBy(2), { "aria-label": "Zoom out", title: "Zoom out (−)" }),
        button("+", () => this.zoomBy(0.5), { "aria-label": "Zoom in", title: "Zoom in (+)" }),
        button("whole", () => this.reset(), { "aria-label": "Show the whole range", title: "Show the whole range (0, double click)" }));
    }
  }

  /* Step a cursor through `most` places by the keyboard; null where the key is another one. A cursor that is nowhere
     (`at` null) comes in at the edges `first` and `last` of what is seen. */
  function stepped(key, at, most, page, first = 0, last = most - 1) {
    const [right, left] = at === null || at === undefined ? [first - 1, last + 1] : [at, at];
    const moves = { ArrowRight: right + 1, ArrowLeft: left - 1, PageDown: right + page, PageUp: left - page, Home: 0, End: most - 1 };
    return key in moves ? clamp(moves[key], 0, most - 1) : null;
  }

  /* Rows of a readout: [swatch or null, label, bytes]. */
  function amounts(rows) {
    const cells = ([sign, label, nbytes]) => [el("td", {}, sign, label), el("td", {}, formatBytes(nbytes)), el("td", {}, exact(nbytes))];
    return el("table", {}, rows.map((row) => el("tr", {}, cells(row))));
  }

  /* A line of help; what stands in braces is a key. */
  const help = (text) => p("help", ...text.split(/[{}]/).map((part, k) => (k % 2 ? el("kbd", {}, part) : part)));
  const KEYS = "Keys: {←} {→} move the cursor, {Home} {End} jump, {Enter} pins";
  const zoomHelp = (drag) => help(`${KEYS}, {+} {−} {0} zoom. Drag ${drag} to zoom, double-click for the whole; the wheel zooms a chart that was clicked.`);

  // ------------------------------------------------------------------------------------------------ tables

  const ROW = 32; // pixels, the height of a row in report.css
  const LAZY = 400; // tables with more rows are in the page only where they are looked at
  const OPEN = 60; // trees with more rows are closed at first
  const PRINTED = 60; // rows of a table on paper
  const PRINTED_BESIDE = 10; // rows of a table that belongs to a drawing

  /* How a filter names a column: as its heading does, in one word; and a comparison to show. */
  const nameOf = (column) => column.label.toLowerCase().replace(/\s+/g, "_");
  const bare = (name) => name.toLowerCase().replace(/[\s_-]+/g, "");
  function comparison(columns) {
    const column = columns.find((one) => one.type === "bytes") || columns.find((one) => one.type !== "text") || columns[0];
    return nameOf(column) + ({ bytes: ">1MiB", text: "=word" }[column.type] || ">1000");
  }

  /* "conv bytes>1MiB kind=relu" -> a function of rows; throws a text where a column or an amount is none. */
  function parseFilter(text, columns, rows) {
    const tests = [];
    const named = (name) => columns.find((column) => bare(column.label) === bare(name)) || columns.find((column) => bare(column.key) === bare(name));
    for (const [, quoted, plain] of text.matchAll(/"([^"]*)"|(\S+)/g)) {
      const match = quoted === undefined && /^([^<>=!:\s]+)(<=|>=|!=|=|<|>)(.*)$/.exec(plain);
      if (!match) {
        const word = (quoted ?? plain).toLowerCase();
        const texts = columns.filter((column) => column.type === "text");
        if (word) tests.push((row) => texts.some((column) => String(rows[column.key][row] ?? "").toLowerCase().includes(word)));
        continue;
      }
      const [, name, operator, value] = match;
      const column = named(name);
      if (!column) throw new Error(`no column “${name}”; columns: ${columns.map(nameOf).join(", ")}`);
      const cells = rows[column.key];
      if (!value) continue; // still being typed
      if (column.type === "text") {
        if (!["=", "!="].includes(operator)) throw new Error(`“${name}” is text: = and != compare it`);
        tests.push((row) => (String(cells[row] ?? "").toLowerCase() === value.toLowerCase()) === (operator === "="));
        continue;
      }
      const amount = parseAmount(value);
      if (amount === null) throw new Error(`“${value}” is no amount; write 4096, 256KiB or 1.5MiB`);
      const compare = {
        "<": (a) => a < amount, ">": (a) => a > amount, "<=": (a) => a <= amount, ">=": (a) => a >= amount,
        "=": (a) => a === amount, "!=": (a) => a !== amount,
      }[operator];
      tests.push((row) => cells[row] !== null && compare(cells[row]));
    }
    return (row) => tests.every((test) => test(row));
  }

  /* Rows that sort, filter, fold by module, and are in the page only where they are looked at.

     options: caption, columns [{key, label, type, hint, total}], rows {key: []}, scope [] | null, sort, descending, file (name of
     the CSV file, null: no tools), beside (belongs to a drawing), pick(row) | null, mark(row) -> colour name | null. */
  class DataTable {
    constructor(options) {
      Object.assign(this, { sort: null, descending: false, scope: null, pick: null, mark: null, file: null, beside: false }, options);
      this.count = this.rows[this.columns[0].key].length;
      this.tree = Boolean(this.scope && this.scope.some((path) => path));
      this.open = new Set();
      this.closedAtFirst = this.count > OPEN;
      this.matches = null;
      this.chosen = null;
      this.heads = this.columns.map((column) => this.head(column));
      this.body = el("tbody");
      const head = el("thead", {}, el("tr", {}, this.heads.map((one) => one.cell)));
      this.table = el("table", {}, el("caption", { class: "unseen" }, this.caption), this.columnWidths(), head, this.body);
      const onscroll = () => this.count > LAZY && this.paint();
      this.rowsBox = el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": this.caption, onscroll }, this.table);
      this.said = el("span", { class: "said", role: "status" });
      this.node = el("div", { class: "data" }, this.tools(), this.rowsBox);
      this.build();
      if (this.tree && !this.closedAtFirst) this.setAll(true);
      this.refresh();
      state.views.push(this);
    }

    tools() {
      if (this.file === null) return null;
      this.input = el("input", {
        type: "search", placeholder: `filter: words, or ${comparison(this.columns)}`, "aria-label": `Filter: ${this.caption}`,
        spellcheck: "false", oninput: () => this.filter(this.input.value),
      });
      const tree = this.tree && [
        button("by module", () => this.setTree(!this.tree), { "aria-pressed": "true" }),
        button("open all", () => this.setAll(true)),
        button("close all", () => this.setAll(false)),
      ];
      if (tree) [this.treeButton, this.openButton, this.closeButton] = tree;
      const copied = button("copy", () => copy(this.csv("\t"), copied), { title: "Copy the rows shown, to paste into a spreadsheet" });
      const saved = button("CSV", () => download(this.file, this.csv(",")), { title: "Save the rows shown as a CSV file" });
      return el("div", { class: "tools" }, el("span", { class: "filter" }, this.input), this.said, tree, saved, copied);
    }

    head(column) {
      const arrow = el("span", { class: "arrow", "aria-hidden": "true" });
      const press = button("", () => this.sortBy(column.key), { title: column.hint });
      press.append(el("span", {}, column.label), arrow);
      return { column, arrow, cell: el("th", { scope: "col", class: column.type === "text" ? null : "number", "aria-sort": "none" }, press) };
    }

    columnWidths() {
      const step = Math.ceil(this.count / 5000);
      this.widths = this.columns.map((column, at) => {
        let most = column.label.length + 4;
        for (let row = 0; row < this.count; row += step) most = Math.max(most, this.text(column, row).length);
        if (column.total && this.scope) {
          const values = this.rows[column.key].filter((value) => value !== null);
          const all = column.total === "max" ? values.reduce((a, b) => Math.max(a, b), 0) : sum(values);
          most = Math.max(most, this.show(column, all).length * 1.1 + (column.total === "max" ? 4 : 0));
        }
        if (at === 0 && this.scope) most += 6;
        return clamp(most * 7.6 + 30, 70, at > 0 ? 270 : innerWidth < 560 ? 170 : 340);
      });
      this.cols = this.widths.map(() => el("col"));
      return el("colgroup", {}, this.cols);
    }

    text(column, row) {
      return this.show(column, this.rows[column.key][row]);
    }
    show(column, value) {
      if (value === null || value === undefined) return column.type === "text" ? "" : "–";
      if (column.type === "bytes") return state.exact ? count(value) : formatBytes(value);
      if (column.type === "int") return count(value);
      if (column.type === "percent") return percent(value);
      return column.type === "float" ? String(Math.abs(value) >= 1e15 ? value : +value.toPrecision(6)) : String(value);
    }

    // ---- the tree of modules: {path, name, children, rows, size, totals}

    build() {
      if (!this.scope) return;
      const root = { path: "", name: "", children: new Map(), rows: [] };
      this.scope.forEach((path, row) => {
        let node = root;
        const parts = path ? path.split(".") : [];
        parts.forEach((part, depth) => {
          if (!node.children.has(part)) node.children.set(part, { path: parts.slice(0, depth + 1).join("."), name: part, children: new Map(), rows: [] });
          node = node.children.get(part);
        });
        node.rows.push(row);
      });
      this.root = root;
    }

    /* Totals of what passes the filter; a node with one child and no rows of its own is one line with its child. */
    total(node) {
      const rows = this.matches ? node.rows.filter(this.matches) : node.rows;
      const children = [...node.children.values()].map((child) => this.total(child)).filter((child) => child.size);
      const [only] = children;
      if (node !== this.root && !rows.length && children.length === 1 && !only.single) return { ...only, name: `${node.name}.${only.name}` };
      const size = rows.length + sum(children.map((child) => child.size));
      const totals = {};
      for (const { key, total } of this.columns) {
        if (!total) continue;
        const values = [...rows.map((row) => this.rows[key][row]), ...children.map((child) => child.totals[key])];
        const parts = values.filter((value) => value !== null && value !== undefined);
        totals[key] = parts.length === 0 ? null : total === "max" ? largest(parts) : sum(parts);
      }
      const first = smallest(children.map((child) => child.first), smallest(rows));
      return { path: node.path, name: node.name, rows, children, size, totals, single: size === 1, first };
    }

    compare(valueOf) {
      const { sort, descending } = this;
      if (!sort) return (a, b) => valueOf(a) - valueOf(b);
      return (a, b) => {
        const [x, y] = [valueOf(a), valueOf(b)];
        const gone = (x === null || x === undefined) - (y === null || y === undefined);
        if (gone || x === null || x === undefined) return gone;
        const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return descending ? -order : order;
      };
    }

    refresh() {
      const { sort } = this;
      const lines = [];
      let shown = 0;
      if (this.tree) {
        const key = (item) => {
          if (!sort) return item.row ?? item.node.first;
          if (item.row !== undefined) return this.rows[sort][item.row];
          return sort in item.node.totals ? item.node.totals[sort] : sort === this.columns[0].key ? item.node.name : this.rows[sort][item.node.first];
        };
        const walk = (node, depth) => {
          const items = [...node.rows.map((row) => ({ row })), ...node.children.map((child) => (child.single ? { row: child.first } : { node: child }))];
          for (const item of items.sort(this.compare(key))) {
            if (item.row !== undefined) lines.push({ row: item.row, depth });
            else {
              const open = this.open.has(item.node.path) || this.matches !== null;
              lines.push({ node: item.node, depth, open });
              if (open) walk(item.node, depth + 1);
            }
          }
        };
        const root = this.total(this.root);
        shown = root.size;
        walk(root, 0);
      } else {
        for (let row = 0; row < this.count; row++) if (!this.matches || this.matches(row)) lines.push({ row, depth: 0 });
        shown = lines.length;
        if (sort) lines.sort(this.compare((line) => this.rows[sort][line.row]));
      }
      this.lines = lines;
      for (const { column, arrow, cell } of this.heads) {
        const on = column.key === sort;
        cell.setAttribute("aria-sort", on ? (this.descending ? "descending" : "ascending") : "none");
        arrow.textContent = on ? (this.descending ? "▼" : "▲") : "";
      }
      if (this.treeButton) {
        this.treeButton.setAttribute("aria-pressed", String(this.tree));
        this.openButton.disabled = this.closeButton.disabled = !this.tree || this.matches !== null;
      }
      this.said.classList.remove("wrong");
      this.said.textContent = shown === this.count ? plural(this.count, "row") : `${count(shown)} of ${plural(this.count, "row")}`;
      this.shownCount = shown;
      this.paint(true);
    }

    paint(again = false) {
      const total = this.lines.length;
      let [first, last] = [0, total];
      if (state.print) last = Math.min(total, this.beside ? PRINTED_BESIDE : PRINTED);
      else if (total > LAZY) {
        // Whole screens at a time, so that scrolling rarely writes rows.
        const screen = 40;
        first = clamp(Math.floor(this.rowsBox.scrollTop / ROW / screen) * screen - screen, 0, Math.max(0, total - 1));
        last = Math.min(total, first + 4 * screen);
      }
      if (!again && this.painted && this.painted[0] === first && this.painted[1] === last) return;
      this.painted = [first, last];
      const across = { colspan: this.columns.length };
      const gap = (rows) => (rows > 0 ? [el("tr", { class: "gap", "aria-hidden": "true" }, el("td", { ...across, style: `height:${rows * ROW}px` }))] : []);
      const more = () => (last < total ? [el("tr", {}, el("td", across, `and ${plural(total - last, "row")} more, in the interactive report`))] : []);
      const wide = sum(this.widths);
      this.table.style.width = state.print ? "100%" : `${wide}px`;
      this.cols.forEach((col, at) => (col.style.width = state.print ? `${(100 * this.widths[at]) / wide}%` : `${this.widths[at]}px`));
      this.table.setAttribute("aria-rowcount", String(total + 1));
      const lines = this.lines.slice(first, last).map((line, k) => this.line(line, first + k + 2));
      const after = state.print ? more() : gap(total - last);
      this.body.replaceChildren(...(state.print ? [] : gap(first)), ...lines, ...after);
    }

    line(line, index) {
      const indent = `padding-left:${0.75 + 1.05 * line.depth}rem`;
      const number = (column) => (column.type === "text" ? null : "number");
      const told = (column, value) => (column.type === "bytes" && value !== null && value !== undefined ? exact(value) : null);
      return line.node ? this.group(line, index, indent, number, told) : this.row(line, index, indent, number, told);
    }

    group({ node, open }, index, indent, number, told) {
      const fold = button("", () => this.toggle(node.path), { "aria-expanded": String(open), "data-path": node.path, disabled: this.matches !== null });
      const twist = el("span", { class: "twist", "aria-hidden": "true" }, open ? "▾" : "▸");
      fold.append(twist, node.name, " ", el("span", { class: "count" }, `(${count(node.size)})`));
      const cells = this.columns.map((column, at) => {
        if (at === 0) return el("td", { style: indent, title: node.path }, fold);
        const value = node.totals[column.key];
        if (!column.total || value === null) return el("td", { class: number(column) });
        return el("td", { class: "number", title: told(column, value) }, column.total === "max" ? "max " : null, this.show(column, value));
      });
      return el("tr", { class: "group", "aria-rowindex": index }, cells);
    }

    row({ row }, index, indent, number, told) {
      const cells = this.columns.map((column, at) => {
        const value = this.rows[column.key][row];
        const text = this.show(column, value);
        const title = told(column, value) || (text.length > 24 ? text : null);
        if (at > 0) return el("td", { class: number(column), title }, text);
        const sign = this.mark && this.mark(row);
        const name = this.pick ? button(text, null, { class: "plain" }) : text;
        return el("td", { class: number(column), style: indent, title }, sign && [swatch(sign), " "], name);
      });
      const onclick = this.pick && (() => this.pick(row));
      return el("tr", { class: `${this.pick ? "pick" : ""}${row === this.chosen ? " chosen" : ""}`, "aria-rowindex": index, "data-row": row, onclick }, cells);
    }

    sortBy(key) {
      const column = this.columns.find((one) => one.key === key);
      const first = column.type !== "text"; // numbers: the largest first
      if (this.sort !== key) [this.sort, this.descending] = [key, first];
      else if (this.descending === first) this.descending = !first;
      else [this.sort, this.descending] = [null, false];
      this.refresh();
      announce(this.sort ? `sorted by ${column.label}, ${this.descending ? "descending" : "ascending"}` : "in the order of the report");
    }

    filter(text) {
      try {
        this.matches = text.trim() ? parseFilter(text, this.columns, this.rows) : null;
      } catch (error) {
        this.said.classList.add("wrong");
        this.said.textContent = error.message;
        return;
      }
      this.rowsBox.scrollTop = 0;
      this.refresh();
    }

    setTree(on) {
      this.tree = on;
      this.refresh();
    }
    setAll(open) {
      this.open.clear();
      const walk = (node) => node.children.forEach((child) => { this.open.add(child.path); walk(child); });
      if (open) walk(this.root);
      this.refresh();
    }
    toggle(path) {
      if (!this.open.delete(path)) this.open.add(path);
      this.refresh();
      const same = [...this.body.querySelectorAll("button[data-path]")].find((one) => one.dataset.path === path);
      if (same) same.focus({ preventScroll: true });
    }

    /* Mark a row, open what hides it and bring it into sight (inside the table: the page stays). */
    choose(row) {
      this.chosen = row;
      if (row !== null && this.tree && this.scope[row]) {
        const parts = this.scope[row].split(".");
        parts.forEach((_, depth) => this.open.add(parts.slice(0, depth + 1).join(".")));
      }
      const pressed = this.body.contains(document.activeElement) && document.activeElement.closest("tr").dataset.row;
      this.refresh();
      const at = this.lines.findIndex((line) => line.row === row);
      if (at >= 0) this.scrollTo(at);
      const again = pressed && this.body.querySelector(`tr[data-row="${pressed}"] button`);
      if (again) again.focus({ preventScroll: true }); // rows are made anew, the focus stays where it was
    }

    scrollTo(at) {
      const box = this.rowsBox;
      if (at * ROW < box.scrollTop || (at + 2) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = Math.max(0, at * ROW - box.clientHeight / 3);
      this.paint(true);
    }

    csv(separator) {
      const quote = (value) => (/[",\t\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
      const rows = [];
      for (let row = 0; row < this.count; row++) if (!this.matches || this.matches(row)) rows.push(row);
      if (this.sort) rows.sort((a, b) => this.compare((one) => this.rows[this.sort][one])(a, b));
      const lines = rows.map((row) => [...(this.scope ? [this.scope[row]] : []), ...this.columns.map((column) => this.rows[column.key][row] ?? "")]);
      const names = [...(this.scope ? ["module"] : []), ...this.columns.map((column) => column.key)];
      return [names, ...lines].map((cells) => cells.map((value) => quote(String(value))).join(separator)).join("\n") + "\n";
    }

    redraw() {
      this.paint(true);
    }
  }

  // ------------------------------------------------------------------------------------------------ sections by kind

  /* Columns of at most `most` bins over steps [begin, end): for each the first step with the largest total, so that no
     peak is lost at any zoom. */
  function maxima(totals, begin, end, most) {
    const n = end - begin;
    const columns = clamp(n, 1, Math.max(1, most));
    return Array.from({ length: columns }, (_, k) => {
      const [from, to] = [begin + Math.floor((k * n) / columns), begin + Math.floor(((k + 1) * n) / columns)];
      return { begin: from, end: to, top: highest(totals, from, to) };
    });
  }
  function highest(values, begin, end) {
    let best = begin;
    for (let step = begin + 1; step < end; step++) if (values[step] > values[best]) best = step;
    return best;
  }

  function timeline(section, body) {
    const { op, kind: operators, scope: scopes } = section.steps;
    const n = op.length;
    const keys = section.kinds.map((one) => one.key);
    const names = kindColours(keys);
    const used = keys.map((_, k) => k).filter((k) => section.bytes[k].some((value) => value > 0));
    // Constant memory that dwarfs all else is hidden at first, and the page says so.
    const constant = used.filter((k) => section.kinds[k].constant);
    const atPeak = (ks) => sum(ks.map((k) => section.bytes[k][section.peak]));
    const dwarfs = section.mode === "inference" && constant.length < used.length && atPeak(constant) > 0.6 * section.peak_bytes;
    const hidden = new Set(dwarfs ? constant : []);
    const cuts = new Set(section.phases.flatMap((phase) => [phase.begin, phase.end]));
    const axis = new StepAxis(op, scopes, cuts);
    const view = { depth: 0, cursor: null, pinned: null, totals: null, bins: [] };
    const phaseOf = (step) => section.phases.find((phase) => phase.begin <= step && step < phase.end);
    const limit = section.limit ?? null;
    const plain = section.plain && section.plain.length === n ? section.plain : null;

    const whole = Float64Array.from({ length: n }, (_, step) => sum(section.bytes.map((values) => values[step])));
    function retotal() {
      const drawn = used.filter((k) => !hidden.has(k));
      view.totals = hidden.size ? Float64Array.from({ length: n }, (_, step) => sum(drawn.map((k) => section.bytes[k][step]))) : whole;
    }
    retotal();

    function binsOf(chart) {
      const [low, high] = chart.view.x;
      const [begin, end] = [clamp(Math.floor(low), 0, n - 1), clamp(Math.ceil(high), 1, n)];
      const most = Math.min(MOST_BINS, Math.floor(chart.inner.width));
      if (view.depth) {
        const runs = axis.runsOf(view.depth).filter((run) => run.end > begin && run.begin < end);
        if (runs.length <= most) return runs.map((run) => ({ ...run, top: highest(view.totals, run.begin, run.end) }));
      }
      return maxima(view.totals, begin, end, most);
    }
    const binAt = (x) => view.bins.find((bin) => bin.begin <= x && x < bin.end);

    function draw(chart) {
      view.bins = binsOf(chart);
      const { bins } = view;
      const x = [...bins.map((bin) => bin.begin), bins[bins.length - 1].end];
      // Steps are flat: the last bin's value stands at its end once more.
      const held = (values) => [...values, values[values.length - 1]];
      const data = used.filter((k) => !hidden.has(k)).map((k) => {
        const ys = held(bins.map((bin) => section.bytes[k][bin.top]));
        const colour = colours[names[k]];
        return run(section.kinds[k].label, x, ys, { width: 0.6, color: colour }, { stackgroup: "bytes", fillcolor: faded(colour, 0.86) });
      });
      if (plain) data.push(run("plain", x, held(bins.map((bin) => highestOf(plain, bin))), { width: 1.6, color: colours.text, dash: "dot" }));
      let most = largest(bins.map((bin) => Math.max(view.totals[bin.top], plain ? highestOf(plain, bin) : 0)), 1);
      const limitSeen = limit !== null && limit < 1.6 * most;
      if (limitSeen) most = Math.max(most, limit);
      const shapes = [];
      const annotations = [];
      const clear = { bgcolor: faded(colours.surface, 0.82), borderpad: 2 };
      section.phases.forEach((phase, k) => {
        if (k % 2) shapes.push(band(phase.begin, phase.end, colours.shade));
        const [from, to] = [Math.max(phase.begin, chart.view.x[0]), Math.min(phase.end, chart.view.x[1])];
        const pixels = ((to - from) / (chart.view.x[1] - chart.view.x[0])) * chart.inner.width;
        if (pixels <= phase.label.length * LETTER + 6) return;
        annotations.push(note(phase.label, colours.muted, { x: (from + to) / 2, y: 1, yref: "paper", yanchor: "bottom" }));
      });
      if (limitSeen) {
        shapes.push(across(limit, colours.danger, "dash"));
        const at = { xref: "paper", x: 0, xanchor: "left", y: limit, yanchor: "bottom" };
        annotations.push(note(`budget ${formatBytes(limit)}`, colours.danger, { ...clear, ...at }));
      }
      const labels = axis.layout(chart.view.x, chart.inner.width, view.depth ? axis.runsOf(view.depth) : null);
      shapes.push(...labels.lines.map((at) => upright(at, colours.line)));
      const peak = hidden.size ? highest(view.totals, 0, n) : section.peak;
      const left = whole[peak] - view.totals[peak];
      const bin = binAt(peak);
      if (bin && view.totals[peak] > 0) {
        const at = (Math.max(bin.begin, chart.view.x[0]) + Math.min(bin.end, chart.view.x[1])) / 2;
        data.push(mark("peak", at, view.totals[peak], 9, colours.text));
        const text = `peak ${formatBytes(view.totals[peak])}${left ? `, and ${formatBytes(left)} not drawn` : ""}`;
        const above = { y: view.totals[peak], yanchor: "bottom", yshift: 2 };
        annotations.push(note(`<b>${text}</b>`, colours.text, { ...clear, ...above, ...beside(chart, at, text) }));
      }
      return { data, bottom: labels.room, layout: { shapes, annotations, xaxis: labels.axis, yaxis: bytesAxis([0, most * 1.13]) } };
    }
    const highestOf = (values, bin) => values[highest(values, bin.begin, bin.end)];

    const alive = (step) => {
      if (!section.buffers) return [];
      const { nbytes, born, dead } = section.buffers;
      const rows = [];
      for (let row = 0; row < nbytes.length; row++) if (born[row] <= step && step < dead[row]) rows.push(row);
      return rows.sort((a, b) => nbytes[b] - nbytes[a]);
    };
    const place = (step) => [
      `step ${count(step)}`, operators[step] !== op[step] && operators[step], (phaseOf(step) || {}).label,
      scopes[step] && !op[step].startsWith(scopes[step]) && `in ${scopes[step]}`,
    ].filter(Boolean).join(" · ");

    function readout(bin, step) {
      const joined = bin.end - bin.begin > 1 && step === bin.top;
      const head = view.depth && joined ? `${bin.name || "(net)"}: ${steps(bin.begin, bin.end)}` : op[step];
      const parts = [el("p", {}, el("b", {}, head))];
      const span = steps(bin.begin, bin.end);
      parts.push(p("muted", !joined ? place(step) : view.depth ? `highest at ${op[step]}, ${place(step)}` : `${place(step)}, the highest of ${span}`));
      const rows = used.filter((k) => section.bytes[k][step]).reverse();
      const label = (k) => section.kinds[k].label + (hidden.has(k) ? " (not drawn)" : "");
      parts.push(amounts([[null, el("b", {}, "total"), whole[step]], ...rows.map((k) => [swatch(names[k]), label(k), section.bytes[k][step]])]));
      if (plain) parts.push(p("part", `${section.plain_label || "without checkpoints"}: ${both(plain[step])}`));
      const large = alive(step).slice(0, 4);
      const { buffers } = section;
      if (large.length) parts.push(p("part", "largest buffers alive"), amounts(large.map((row) => [null, short(buffers.name[row]), buffers.nbytes[row]])));
      return { x: joined ? bin.top + 0.5 : step + 0.5, readout: parts, said: `${op[step]}, ${place(step)}, ${both(whole[step])}` };
    }

    function hover(x) {
      const bin = binAt(x);
      if (!bin) return null;
      view.cursor = bin.top;
      return readout(bin, bin.top);
    }

    function key(event, chart) {
      if (event.key === "Enter" || event.key === " ") {
        if (view.cursor !== null) pinAt(view.cursor, true);
        return true;
      }
      if (event.key === "p") return toPeak(), true;
      const edges = [Math.floor(chart.view.x[0]), Math.ceil(chart.view.x[1]) - 1];
      let step;
      if (view.depth && ["ArrowLeft", "ArrowRight", "PageUp", "PageDown"].includes(event.key)) {
        const runs = axis.runsOf(view.depth);
        const runAt = (one) => runs.findIndex((run) => run.begin <= one && one < run.end);
        const run = runs[stepped(event.key, view.cursor === null ? null : runAt(view.cursor), runs.length, 10, ...edges.map(runAt))];
        step = highest(view.totals, run.begin, run.end);
      } else step = stepped(event.key, view.cursor, n, Math.max(1, Math.round((chart.view.x[1] - chart.view.x[0]) / 20)), ...edges);
      if (step === null) return false;
      moveTo(step);
      return true;
    }

    function moveTo(step) {
      chart.bring(step + 0.5);
      view.cursor = step;
      const bin = binAt(step + 0.5);
      const shown = view.depth || step === bin.top ? bin : { begin: step, end: step + 1, top: step };
      chart.show(readout(shown, step), null, true);
    }

    function toPeak() {
      chart.frame.focus({ preventScroll: true });
      const peak = highest(view.totals, 0, n);
      moveTo(peak);
      pinAt(peak, true);
    }

    // What is alive at the pinned step.
    const panel = el("div", { class: "panel" });
    function pinAt(step, said) {
      view.pinned = step;
      chart.pinX = step === null ? null : step + 0.5;
      chart.place();
      state.views = state.views.filter((one) => one !== view.table);
      panel.replaceChildren();
      panel.hidden = step === null || !section.buffers; // chains and wraps know no single buffers
      if (panel.hidden) return;
      const { buffers } = section;
      const rows = alive(step);
      const constants = used.filter((k) => section.kinds[k].constant && section.bytes[k][step]);
      const column = (key) => rows.map((row) => buffers[key][row]);
      const opAt = (at) => (at >= n ? "the end" : at < 0 ? "the start" : op[at]);
      const cells = {
        name: [...constants.map((k) => section.kinds[k].label), ...column("name")],
        nbytes: [...constants.map((k) => section.bytes[k][step]), ...column("nbytes")],
        what: [...constants.map(() => "constant"), ...column("what")],
        kind: [...constants.map((k) => section.kinds[k].label), ...column("kind")],
        since: [...constants.map(() => "the start"), ...column("born").map(opAt)],
        until: [...constants.map(() => "the end"), ...column("dead").map((at) => opAt(at - 1))],
      };
      cells.share = cells.nbytes.map((nbytes) => nbytes / (whole[step] || 1));
      view.table = new DataTable({
        caption: `alive at step ${step}`, rows: cells, sort: "nbytes", descending: true, beside: true,
        columns: told([
          { key: "name", label: "buffer", type: "text" }, { key: "nbytes", label: "bytes", type: "bytes" }, { key: "share", label: "share", type: "percent" },
          { key: "what", label: "what", type: "text" }, { key: "kind", label: "kind", type: "text" },
          { key: "since", label: "from", type: "text", hint: "the op that makes it" },
          { key: "until", label: "last needed by", type: "text", hint: "the last op that holds it" },
        ], cells),
      });
      const rest = whole[step] - sum(cells.nbytes);
      const more = rest > 0 ? `, and ${both(rest)} without a row of their own` : "";
      panel.append(
        el("h3", {}, `Alive at ${op[step]}`),
        el("p", {}, `${place(step)} · ${both(whole[step])} in ${plural(cells.name.length, "row")}${more}`),
        view.table.node,
      );
      if (said) announce(`pinned ${op[step]}: ${plural(cells.name.length, "row")}, the largest ${cells.name[cells.nbytes.indexOf(largest(cells.nbytes))]}`);
    }

    const range = el("span", { class: "range" });
    const chart = new Chart({
      label: `${section.title}: bytes alive by step, ${plural(n, "step")}. Peak ${both(section.peak_bytes)} at ${op[section.peak]}.`,
      height: 400, zoom: "x", least: Math.min(4, n), full: () => ({ x: [0, n], y: null }), draw, hover, key, forget: () => (view.cursor = null),
      pick: (x) => { const bin = binAt(x); if (bin) pinAt(bin.top, true); },
      zoomed: ({ view: { x: [low, high] } }) => {
        const seen = steps(Math.max(0, Math.floor(low)), Math.min(n, Math.ceil(high)));
        range.textContent = high - low > n - 0.5 ? plural(n, "step") : `${seen} of ${count(n)}`;
      },
    });
    range.textContent = plural(n, "step");

    const legend = el("ul", { class: "keys", "aria-label": "Kinds of memory" }, used.slice().reverse().map((k) => {
      const press = button("", () => {
        if (!hidden.delete(k)) hidden.add(k);
        if (hidden.size === used.length) hidden.delete(k); // one kind stays
        press.setAttribute("aria-pressed", String(!hidden.has(k)));
        retotal();
        chart.redraw();
      }, { class: "key", "aria-pressed": String(!hidden.has(k)), "data-kind": keys[k], title: "Show or hide this kind" });
      press.append(swatch(names[k]), section.kinds[k].label, el("b", {}, formatBytes(section.bytes[k][section.peak])));
      return el("li", {}, press);
    }));
    const depths = [["0", "every step"], ...axis.levels.map(({ depth, runs }) => [String(depth), `modules, depth ${depth} (${count(runs.length)} blocks)`])];
    const scope = axis.levels.length > 0 && select("Steps", depths, "0", (value) => {
      view.depth = Number(value);
      view.cursor = null;
      chart.redraw();
    });
    const far = limit !== null && limit >= 1.6 * Math.max(section.peak_bytes, plain ? largest(plain) : 0);
    const unchanging = constant.map((k) => section.kinds[k].label).join(", ");
    fill(body, [
      el("div", { class: "tools" }, scope, chart.zoomTools(), button("peak", toPeak, { title: "Show and pin the peak (p)" }), range),
      legend,
      far && p("notice", `The budget of ${both(limit)} lies far above the drawing.`),
      dwarfs && p("notice", `${formatBytes(atPeak(constant))} of ${unchanging} never change and are not drawn at first; press their names to see them.`),
      plain && p("notice", `Dotted line: ${section.plain_label || "the same step without checkpoints"}.`),
      chart.frame,
      zoomHelp("across the drawing"),
      panel,
    ]);
    chart.redraw();
    pinAt(section.peak, false);
    return chart;
  }

  /* Plotly's texts know a few tags: names are shown as they are, only our own <b> is a tag. */
  function escaped(text) {
    const bold = /^<b>(.*)<\/b>$/s.exec(text);
    const plain = (bold ? bold[1] : text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
    return bold ? `<b>${plain}</b>` : plain;
  }

  const RAMP = ["blue", "sky", "green", "yellow", "orange", "red", "pink", "grey"];
  const LABELLED = 400; // names inside rectangles, at most
  const OUTLINED = 600; // rectangles with an outline, at most

  /* Without the columns in which no row says anything. */
  const told = (columns, rows) => columns.filter((column) => column.type !== "text" || rows[column.key].some((value) => value));

  function arena(section, body) {
    const { buffers } = section;
    const n = buffers.name.length;
    const { name, nbytes, born, dead } = buffers;
    const placed = buffers.offset && section.arena_bytes !== null;
    const end = largest(dead, Math.max(section.steps.length, 1));
    const bound = section.lower_bound;
    if (!placed) {
      body.append(el("p", { class: "notice" }, `No placement: ${section.status}. What is alive at once takes at least ${both(bound)}.`));
      if (n) body.append(bufferTable().node);
      return null;
    }
    const { offset } = buffers;
    const names = Array.from({ length: end }, (_, k) => section.steps[k] ?? String(k));
    const axis = new StepAxis(names, section.steps.length === end ? section.scopes : null);
    const view = { by: "", colour: [], groups: [], cursor: null, chosen: null };
    const capacity = section.capacity ?? null;
    const high = Math.max(section.arena_bytes, bound || 0, capacity !== null && capacity < 1.5 * section.arena_bytes ? capacity : 0, 1);

    // Colours: by block of modules where there are some, else by the time of birth.
    const parts = (row, depth) => (buffers.scope[row] || "").split(".").slice(0, depth).join(".");
    const deepest = depthOf(buffers.scope);
    const choices = [];
    for (let depth = 1; depth <= deepest; depth++) {
      const groups = new Set(Array.from({ length: n }, (_, row) => parts(row, depth)));
      const known = choices.some(([, , size]) => size === groups.size);
      if (groups.size > 1 && groups.size <= 200 && !known) choices.push([String(depth), `module, depth ${depth} (${groups.size})`, groups.size]);
    }
    const kindsOfOps = new Set(buffers.op);
    if (kindsOfOps.size > 1 && kindsOfOps.size <= 24) choices.push(["op", `operator (${kindsOfOps.size})`, -1]);
    choices.push(["born", "time of birth", -2]);
    function colourBy(by) {
      view.by = by;
      const eighth = (row) => Math.min(7, Math.floor((8 * born[row]) / end));
      const groupOf = { op: (row) => buffers.op[row], born: eighth }[by] || ((row) => parts(row, Number(by)));
      const groups = new Map();
      for (let row = 0; row < n; row++) {
        const key = groupOf(row);
        if (!groups.has(key)) groups.set(key, { key, rows: [], nbytes: 0 });
        groups.get(key).rows.push(row);
      }
      view.groups = [...groups.values()].sort((a, b) => (by === "born" ? a.key - b.key : 0));
      view.groups.forEach((group, k) => {
        group.colour = RAMP[k % RAMP.length];
        const rows = group.rows;
        group.label = by === "born" ? steps(Math.ceil((group.key * end) / 8), Math.ceil(((group.key + 1) * end) / 8)) : group.key || "(net)";
        group.largest = largest(rows.map((row) => nbytes[row]));
        for (const row of rows) view.colour[row] = group.colour;
      });
    }
    // The finest division that the eye still follows (colours repeat, neighbours differ); by birth where there is none.
    const fitting = choices.filter(([, , size]) => size > 1 && size <= 4 * RAMP.length);
    colourBy(fitting.length ? fitting[fitting.length - 1][0] : choices[0][0]);

    function draw(chart) {
      const [x0, x1] = chart.view.x;
      const [y0, y1] = chart.view.y;
      const data = [];
      const byColour = new Map();
      const labels = { x: [], y: [], text: [], color: [] };
      const { width, height } = chart.inner;
      for (let row = 0; row < n; row++) {
        const [a, b, low, top] = [born[row], dead[row], offset[row], offset[row] + nbytes[row]];
        if (b <= x0 || a >= x1 || top < y0 || low > y1 || b <= a || !nbytes[row]) continue;
        const colour = view.colour[row];
        if (!byColour.has(colour)) byColour.set(colour, { x: [], y: [] });
        const one = byColour.get(colour);
        one.x.push(a, b, b, a, a, null);
        one.y.push(low, low, top, top, low, null);
        const wide = ((Math.min(b, x1) - Math.max(a, x0)) / (x1 - x0)) * width;
        const tall = ((Math.min(top, y1) - Math.max(low, y0)) / (y1 - y0)) * height;
        const letters = Math.floor((wide - 8) / 5.8);
        if (tall > 13 && letters >= 4 && labels.x.length < LABELLED) {
          labels.x.push((Math.max(a, x0) + Math.min(b, x1)) / 2);
          labels.y.push((Math.max(low, y0) + Math.min(top, y1)) / 2);
          labels.text.push(escaped(tail(name[row], letters)));
          labels.color.push(inkOn(colours[colour]));
        }
      }
      // One filled path per colour; outlines, a path each, only where they can be told apart.
      const mode = sum([...byColour.values()].map((one) => one.x.length)) / 6 > OUTLINED ? "none" : "lines";
      for (const [colour, { x, y }] of byColour) {
        const fillcolor = faded(colours[colour], 0.9);
        data.push({ type: "scatter", mode, name: colour, x, y, fill: "toself", fillcolor, line: { color: colours.surface, width: 0.9 } });
      }
      const { color, ...texts } = labels;
      if (color.length) data.push({ type: "scatter", mode: "text", name: "names", ...texts, textfont: { size: 10, color } });
      const shapes = [];
      const annotations = [];
      const level = (y, text, colour, dash, below) => {
        if (y < y0 || y > y1) return;
        shapes.push(across(y, colour, dash));
        annotations.push(note(text, colour, { xref: "paper", x: 1, xanchor: "right", y, yanchor: below ? "top" : "bottom" }));
      };
      const same = bound === section.arena_bytes;
      const what = section.title.split(" · ")[0].toLowerCase();
      level(section.arena_bytes, `${what} ${formatBytes(section.arena_bytes)}${same ? " = lower bound" : ""}`, colours.text, "solid");
      if (!same && bound) level(bound, `lower bound ${formatBytes(bound)}`, colours.danger, "dash", true);
      if (capacity !== null && high >= capacity) level(capacity, `capacity ${formatBytes(capacity)}`, colours.danger, "dot");
      const under = axis.layout(chart.view.x, width, null);
      return { data, bottom: under.room, layout: { shapes, annotations, xaxis: under.axis, yaxis: bytesAxis(chart.view.y) } };
    }

    const boxOf = (row) => ({ x: [born[row], dead[row]], y: [offset[row], offset[row] + nbytes[row]] });
    const opAt = (step) => section.steps[step] ?? `step ${count(step)}`;
    function readout(row) {
      const life = `alive from ${opAt(born[row])} (step ${count(born[row])}) to ${opAt(dead[row] - 1)} (step ${count(dead[row] - 1)})`;
      return {
        x: (born[row] + dead[row]) / 2,
        box: boxOf(row),
        said: `${name[row]}, ${both(nbytes[row])} at address ${count(offset[row])}, ${life}`,
        readout: [
          el("p", {}, swatch(view.colour[row]), el("b", {}, name[row])),
          p("muted", [buffers.what[row], buffers.op[row] !== name[row] && buffers.op[row]].filter(Boolean).join(" · ")),
          amounts([[null, "bytes", nbytes[row]]]),
          el("p", {}, `address ${count(offset[row])} to ${count(offset[row] + nbytes[row])}`),
          p("part", life),
        ],
      };
    }
    function rowAt(x, y) {
      for (let row = n - 1; row >= 0; row--) if (born[row] <= x && x < dead[row] && offset[row] <= y && y < offset[row] + nbytes[row]) return row;
      return null;
    }
    function hover(x, y) {
      const row = rowAt(x, y);
      view.cursor = row;
      return row === null ? null : { ...readout(row), x: undefined };
    }
    function choose(row, said) {
      view.chosen = row;
      chart.chosenAt = row === null ? null : boxOf(row);
      chart.place();
      table.choose(row);
      if (said && row !== null) announce(`chosen ${name[row]}, ${both(nbytes[row])}`);
    }
    // The keyboard goes through the buffers in the order of birth, from the bottom up.
    const order = Array.from({ length: n }, (_, row) => row).sort((a, b) => born[a] - born[b] || offset[a] - offset[b]);
    function key(event) {
      if (event.key === "Enter" || event.key === " ") return choose(view.cursor, true), true;
      const at = stepped(event.key, view.cursor === null ? null : order.indexOf(view.cursor), n, 10);
      if (at === null) return false;
      view.cursor = order[at];
      chart.bring((born[order[at]] + dead[order[at]]) / 2);
      chart.show(readout(order[at]), null, true);
      return true;
    }

    function bufferTable() {
      const column = (key, label, type = "text", hint = null) => ({ key, label, type, hint });
      const columns = [column("name", "buffer"), column("nbytes", "bytes", "bytes"), column("what", "what"), column("op", "operator")];
      if (placed) columns.push(column("offset", "address", "int", "bytes from the start of the arena"));
      columns.push(column("born", "from step", "int"), column("dead", "to before step", "int", "its bytes are free from this step on"));
      const chosen = placed && { pick: (row) => choose(row === view.chosen ? null : row, true), mark: (row) => view.colour[row] };
      return new DataTable({
        caption: `${section.title}: buffers`, columns: told(columns, buffers), rows: buffers, beside: true, file: `${section.id}.csv`,
        sort: "nbytes", descending: true, ...chosen,
      });
    }

    const legend = chips([]);
    function drawLegend() {
      const byBirth = (a, b) => born[a.rows[0]] - born[b.rows[0]];
      const several = view.groups.length > RAMP.length;
      const shown = several ? [...view.groups].sort((a, b) => b.largest - a.largest).slice(0, 10).sort(byBirth) : view.groups;
      const rest = several && el("li", { class: "said" }, `the largest ${shown.length} of ${count(view.groups.length)}; colours repeat`);
      legend.replaceChildren();
      fill(legend, [...shown.map((group) => chip(group.colour, group.label, plural(group.rows.length, "buffer"))), rest]);
    }
    drawLegend();
    const range = el("span", { class: "range" }, `${plural(n, "buffer")}, ${section.status}`);
    const chart = new Chart({
      label: `${section.title}: ${plural(n, "buffer")} in ${both(section.arena_bytes)}, lower bound ${both(bound)}`,
      height: 460, zoom: "xy", least: 2, full: () => ({ x: [0, end], y: [0, high * 1.06] }), draw, hover, key,
      forget: () => (view.cursor = null),
      pick: (x, y) => {
        const row = rowAt(x, y);
        choose(row === view.chosen ? null : row, true);
      },
    });
    const table = bufferTable();
    const colour = select("Colour by", choices.map(([value, label]) => [value, label]), view.by, (value) => {
      colourBy(value);
      drawLegend();
      chart.redraw();
      table.redraw();
    });
    body.append(el("div", { class: "tools" }, colour, chart.zoomTools(), range), legend, chart.frame, zoomHelp("a box"), el("h3", {}, "Buffers"), table.node);
    chart.redraw();
    return chart;
  }

  function frontier(section, body) {
    const { points } = section;
    const n = points.peak.length;
    const order = Array.from({ length: n }, (_, k) => k).sort((a, b) => points.peak[a] - points.peak[b]);
    const at = (key) => (points[key] ? order.map((k) => points[key][k]) : null);
    const [budget, peak, overhead, bound, recomputed] = ["budget", "peak", "overhead", "bound", "recomputed"].map(at);
    const modules = section.modules ? order.map((k) => section.modules[k]) : null;
    const knee = order.indexOf(section.knee);
    const view = { cursor: null };
    const right = largest(peak, section.keep_bytes);
    const left = smallest(peak, section.least_bound ?? Infinity);
    const pad = Math.max(right - left, right * 0.05, 1) * 0.06;
    const low = Math.max(0, left - pad);
    const most = largest([...overhead, ...(bound || [])], 0.001) * 1.12;

    function draw(chart) {
      const data = [];
      const shapes = [];
      const annotations = [];
      const shut = faded(colours.grey, 0.28);
      if (bound) {
        // The bound of a budget holds for every smaller one: between two budgets it is that of the larger.
        const line = { shape: "vh", width: 1, color: colours.grey };
        data.push(run("bound", [low, ...budget, right + pad], [bound[0], ...bound, bound[n - 1]], line, { fill: "tozeroy", fillcolor: shut }));
      }
      if (section.least_bound > low) shapes.push(band(low, section.least_bound, shut)); // null where nothing is proven
      data.push(run("plans", [...peak, right + pad], [...overhead, overhead[n - 1]], { width: 2, color: colours.blue }));
      const dots = { size: n > 80 ? 4 : 8, color: colours.blue, line: { color: colours.surface, width: 1 } };
      data.push({ type: "scatter", mode: "markers", name: "points", x: peak, y: overhead, cliponaxis: false, marker: dots });
      if (knee >= 0) {
        data.push(mark("knee", peak[knee], overhead[knee], 14, colours.red));
        const text = `knee: ${formatBytes(peak[knee])}, ${percent(overhead[knee])} more time`;
        const above = { y: overhead[knee], yanchor: "bottom", yshift: 8, bgcolor: faded(colours.surface, 0.85) };
        annotations.push(note(`<b>${text}</b>`, colours.text, { ...above, ...beside(chart, peak[knee], text) }));
      }
      shapes.push(upright(section.keep_bytes, colours.muted, "dot"));
      annotations.push(note("everything kept", colours.muted, { x: section.keep_bytes, xanchor: "right", y: 1, yref: "paper", yanchor: "bottom" }));
      const ticks = byteTicks(low, right + pad, chart.inner.width < 420 ? 3 : 7);
      const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find((one) => most / one <= 7) || most / 5;
      const tickvals = Array.from({ length: Math.floor(most / step) + 1 }, (_, k) => k * step);
      const ticktext = tickvals.map((value) => `${+(100 * value).toPrecision(6)} %`);
      const title = (text, standoff) => ({ text, font: { size: 11 }, standoff });
      const xaxis = { ...ticks, tickmode: "array", showgrid: true, title: title("peak memory", 6) };
      const yaxis = { range: [0, most], tickmode: "array", tickvals, ticktext, title: chart.width < 520 ? undefined : title("more time", 4) };
      return { data, bottom: 48, layout: { shapes, annotations, xaxis, yaxis } };
    }

    const proven = (k) => (bound ? ` (no plan below ${percent(bound[k])})` : "");
    const again = (k) => (recomputed ? `${plural(recomputed[k], "op")} run again` : "");
    const wordsOf = (k) => [`${percent(overhead[k])} more time${proven(k)}`, again(k)].filter(Boolean).join(", ");
    function readout(k) {
      const cheapest = bound && overhead[k] - bound[k] < 5e-4;
      const most = modules && modules[k].length ? `: most of ${modules[k].slice(0, 6).join(", ")}` : "";
      return {
        x: peak[k],
        said: `peak ${both(peak[k])}: ${wordsOf(k)}`,
        readout: [
          el("p", {}, el("b", {}, `${percent(overhead[k])} more time`), k === knee && " · knee"),
          amounts([[null, "peak", peak[k]], [null, "budget", budget[k]]]),
          bound && p("part", cheapest ? "proven: no plan is cheaper" : `proven: no plan below ${percent(bound[k])}`),
          recomputed && p("part", again(k) + most),
        ].filter(Boolean),
      };
    }
    function hover(x, y, chart) {
      // The nearest point, sideways above all.
      const far = (k) => Math.hypot(chart.left(peak[k]) - chart.left(x), 0.3 * (chart.top(overhead[k]) - chart.top(y)));
      view.cursor = peak.reduce((best, _, k) => (far(k) < far(best) ? k : best), 0);
      return readout(view.cursor);
    }
    function key(event, chart) {
      if (event.key === "Enter" || event.key === " ") return view.cursor !== null && take(budget[view.cursor]), true;
      const next = stepped(event.key, view.cursor, n, 5);
      if (next === null) return false;
      view.cursor = next;
      chart.show(readout(next), null, true);
      return true;
    }
    const chart = new Chart({
      label: `${section.title}: ${plural(n, "plan")}, from ${both(peak[0])} at ${percent(overhead[0])} more time to ${both(right)}`,
      height: 400, zoom: "", full: () => ({ x: [low, right + pad], y: null }), draw, hover, key,
      forget: () => (view.cursor = null),
      pick: () => view.cursor !== null && take(budget[view.cursor]),
    });

    // The plan for any budget: the last one whose peak is within it.
    const output = el("output", { for: `${section.id}-budget` });
    const oninput = () => answer(low + (slider.value / 1000) * (right - low));
    const slider = el("input", { type: "range", id: `${section.id}-budget`, min: "0", max: "1000", step: "1", oninput });
    function answer(bytes) {
      const k = peak.findLastIndex((value) => value <= bytes);
      chart.pinX = bytes;
      chart.place();
      const words = k < 0 ? (bytes < section.least_bound ? "proven: no plan fits" : "no plan found") : `peak ${both(peak[k])}, ${wordsOf(k)}`;
      output.replaceChildren(el("b", {}, `Budget ${formatBytes(Math.round(bytes))}: `), words);
      slider.setAttribute("aria-valuetext", `${formatBytes(Math.round(bytes))}: ${words}`);
    }
    function take(bytes) {
      slider.value = String(Math.round(((bytes - low) / (right - low)) * 1000));
      answer(bytes);
      announce(output.textContent);
    }
    const proves = bound && chip("grey", "proven: no plan lies here");
    body.append(
      chips([chip("blue", "plans found"), proves, knee >= 0 && chip("red", "knee: less memory than here costs much more")]),
      chart.frame,
      help(`${KEYS} the budget.`),
      el("div", { class: "slider" }, el("label", { for: `${section.id}-budget` }, "Budget"), slider, output),
    );
    chart.redraw();
    take(budget[Math.max(knee, 0)]);
    live.textContent = "";
    return chart;
  }

  function table(section, body) {
    // The tree hangs on the first column, which is therefore the first text; the module path is the tree itself.
    const columns = section.columns.filter((column) => !(section.scope && column.key === "scope"));
    const first = columns.findIndex((column) => column.type === "text");
    if (section.scope && first > 0) columns.unshift(...columns.splice(first, 1));
    const sorted = columns.find((column) => column.key === section.sort);
    const { title: caption, rows, scope, id } = section;
    const order = sorted && { sort: section.sort, descending: sorted.type !== "text" };
    const words = "several terms must all hold, quotes keep words together.";
    body.append(new DataTable({ caption, columns, rows, scope, file: `${id}.csv`, ...order }).node);
    body.append(p("help", "Press a heading to sort. Filter by words, or compare: ", el("code", {}, comparison(columns)), `; ${words}`));
    return null;
  }

  /* Rows of a table, each with a bar: {name, why, from, to, colour, amount, exact, sum}; the scale is that of all rows. */
  function bars(heads, rows) {
    const ends = rows.flatMap((row) => row.spans.flatMap(([from, to]) => [from, to]));
    const [low, high] = [smallest(ends, 0), largest(ends, 1)];
    const at = (value) => (100 * (value - low)) / (high - low);
    const bar = ([from, to, colour, title]) => {
      const [left, right] = [at(Math.min(from, to)), at(Math.max(from, to))];
      return el("i", { title, style: `left:${left}%;width:${right - left}%;background:var(--${colour})` });
    };
    const line = ({ name, why, spans, amount, exact: bytes, sum: total }) =>
      el("tr", { class: total ? "sum" : null },
        el("td", { class: "name" }, name, why && el("span", { class: "why" }, why)),
        el("td", { class: "bar-cell" }, el("div", { class: "track" }, spans.filter(([from, to]) => from !== to).map(bar))),
        el("td", { class: "amount" }, amount, bytes && el("small", {}, bytes)));
    const head = el("tr", {}, heads.map((text, k) => el("th", { scope: "col", class: k === 2 ? "amount" : null }, text)));
    return el("table", { class: "bars" }, el("thead", {}, head), el("tbody", {}, rows.map(line)));
  }

  /* Steps from one total to another as rows for `bars`. */
  function waterfall(first, steps, last) {
    let from = first.nbytes;
    const rows = steps.map(({ name, why, change }) => {
      const spans = [[from, from + change, change < 0 ? "green" : "orange"]];
      from += change;
      return { name, why, spans, amount: signed(change), exact: `${change > 0 ? "+" : ""}${exact(change)}` };
    });
    return [barOf(first, "sky", true), ...rows, barOf(last, "blue", true)];
  }
  function barOf({ name, why, nbytes }, colour, total = false) {
    return { name, why, sum: total, spans: [[0, nbytes, colour]], amount: formatBytes(nbytes), exact: exact(nbytes) };
  }

  function profiles(section, body) {
    const { profiles: all, ideal_bytes: ideal } = section;
    const runs = (one) => one.activation_bytes !== null && one.activation_bytes !== undefined;
    const held = (one) => one.arena_bytes ?? one.activation_bytes;
    const rows = all.map((one) => {
      if (!runs(one)) return { name: one.name, why: one.reason || one.summary, spans: [], amount: "cannot run" };
      const row = barOf({ name: one.name, why: one.summary, nbytes: held(one) }, "blue");
      row.spans = [[0, one.activation_bytes, "blue", `activations: ${both(one.activation_bytes)}`]];
      const lost = held(one) - one.activation_bytes;
      if (lost > 0) row.spans.push([one.activation_bytes, held(one), "orange", `lost to placement: ${both(lost)}`]);
      return row;
    });
    const chosen = el("div", { class: "waterfall" });
    const buttons = new Map();
    function choose(name) {
      const one = all.find((profile) => profile.name === name);
      buttons.forEach((press, key) => press.setAttribute("aria-pressed", String(key === name)));
      const steps = section.steps.filter((step) => step.profile === name && step.change);
      const words = [
        `${one.arena_bytes === null ? "activations" : "arena"} ${both(held(one))}${one.over > 0 ? ` (${percent(one.over)} above its peak)` : ""}`,
        `weights ${both(one.weight_bytes ?? 0)}`,
        one.workspace_bytes && `of it workspace ${both(one.workspace_bytes)}`,
        `peak at ${one.peak_op}`,
      ];
      const last = { name, why: steps.length ? null : "the same as ideal", nbytes: held(one) };
      const between = steps.map((step) => ({ name: step.name, why: step.label, change: step.change }));
      const from = { name: "ideal", why: "liveness alone", nbytes: ideal };
      chosen.replaceChildren(p("notice", words.filter(Boolean).join("; ")), bars(["rule", "bytes", ""], waterfall(from, between, last)));
    }
    const able = all.filter(runs);
    for (const one of able) buttons.set(one.name, button(one.name, () => choose(one.name), { "aria-pressed": "false", title: one.summary }));
    const lost = rows.some((row) => row.spans.length > 1) && chip("orange", "lost to placement in the arena");
    body.append(
      chips([chip("blue", "activations alive at once"), lost]),
      bars(["runtime", "activations, or their arena", ""], rows),
      el("h3", {}, "From ideal to a runtime"),
      el("div", { class: "choices", role: "group", "aria-label": "Runtime" }, ...buttons.values()),
      chosen,
    );
    // First the one that is farthest from ideal.
    const off = (one) => Math.abs(held(one) - ideal);
    if (able.length) choose(able.reduce((best, one) => (off(one) > off(best) ? one : best)).name);
    return null;
  }

  function rules(section, body) {
    const sentence = (text) => text[0].toUpperCase() + text.slice(1);
    for (const rule of section.rules) {
      const { rule_bytes: said, exact_bytes: truth, difference } = rule;
      const known = truth !== null && truth !== undefined;
      const off = known && truth ? percent(Math.abs(difference / truth)) : "";
      const verdict = !known ? "" : difference === 0 ? "The rule is exact here." : `The rule says ${off} too ${difference < 0 ? "much" : "little"}.`;
      const words = [rule.words && `${rule.words}.`, verdict].filter(Boolean).map(sentence).join(" ");
      const terms = rule.terms || [];
      let rows;
      if (known) {
        const first = { name: "rule of thumb", why: terms.map((term) => `${term.label} ${formatBytes(term.nbytes)}`).join(" + "), nbytes: said };
        const reasons = rule.reasons.map((reason) => ({ name: reason.label, why: reason.words, change: reason.nbytes }));
        rows = waterfall(first, reasons, { name: "exact", nbytes: truth });
      } else {
        const each = terms.map((term) => barOf({ name: term.label, nbytes: term.nbytes }, "sky"));
        rows = [...each, barOf({ name: "rule of thumb", nbytes: said }, "blue", true)];
      }
      const head = el("h3", {}, rule.name, " ", el("code", {}, rule.formula));
      const wrong = rule.goes_wrong && p("help", `Where the rule goes wrong: ${rule.goes_wrong}.`);
      body.append(el("div", { class: "rule" }, head, p("notice", words), bars(["", "bytes", ""], rows), wrong));
    }
    return null;
  }

  function text(section, body) {
    body.classList.add("text");
    body.append(...section.paragraphs.map((words) => el("p", {}, words)));
    return null;
  }

  const SECTIONS = { timeline, arena, frontier, table, profiles, rules, text };

  // ------------------------------------------------------------------------------------------------ the page

  const main = document.getElementById("main");
  const pending = new Map(); // sections that nobody has looked at yet: node -> draw

  function drawSection(node) {
    const draw = pending.get(node);
    if (!draw) return;
    pending.delete(node);
    draw();
    node.style.minHeight = "";
    node.dataset.drawn = "true";
  }
  function drawEverything() {
    for (const node of [...pending.keys()]) drawSection(node);
  }

  function head(data) {
    const card = ({ label, value, text, hint }) =>
      el("li", { class: "card" }, el("dl", {},
        el("dt", {}, label), el("dd", { class: "value" }, value),
        text && text !== value && el("dd", { class: "exact" }, text), hint && el("dd", { class: "hint" }, hint)));
    const copied = button("copy", () => copy(data.command, copied), { "aria-label": "Copy the command" });
    return el("header", { class: "head", id: "top" },
      el("h1", {}, data.title),
      data.subtitle && p("subtitle", data.subtitle),
      data.command && p("command", el("code", {}, data.command), copied),
      el("ul", { class: "cards", "aria-label": "Key figures" }, data.cards.map(card)));
  }

  function place(section, nav, seen) {
    const body = el("div", { class: "body" });
    const node = el("section", { class: `section ${section.kind}`, id: section.id, "aria-labelledby": `${section.id}-title` },
      el("h2", { id: `${section.id}-title` }, section.title), section.words && p("words", section.words), body);
    node.style.minHeight = "30rem"; // so that a link to a later section stays right while this one is not drawn
    const link = el("a", { href: `#${section.id}` }, section.short || section.title);
    nav.append(link);
    main.append(node);
    pending.set(node, () => {
      try {
        if (!SECTIONS[section.kind]) throw new Error(`no drawing of the kind “${section.kind}”; known: ${Object.keys(SECTIONS).join(", ")}`);
        SECTIONS[section.kind](section, body);
      } catch (error) {
        body.append(el("p", { class: "failure" }, `This section could not be drawn: ${error.message}`));
        console.error(error);
      }
    });
    seen.push({ node, link });
  }

  /* Draw a section when it comes near the window; mark the one that is read in the navigation. */
  function watch(sections) {
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        near.unobserve(entry.target);
        drawSection(entry.target);
      }
    }, { rootMargin: "600px 0px" });
    let asked = false;
    const mark = () => {
      asked = false;
      const above = sections.filter(({ node }) => node.getBoundingClientRect().top < innerHeight * 0.35);
      const current = innerHeight + scrollY >= document.documentElement.scrollHeight - 2 ? sections[sections.length - 1] : above[above.length - 1];
      for (const { node, link } of sections) {
        const on = Boolean(current) && node === current.node;
        if (on === link.hasAttribute("aria-current")) continue;
        if (on) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        if (on) link.parentNode.scrollLeft = link.offsetLeft - link.parentNode.offsetLeft - 60;
      }
    };
    addEventListener("scroll", () => asked || ((asked = true), requestAnimationFrame(mark)), { passive: true });
    for (const { node } of sections) near.observe(node);
    mark();
  }

  function switches() {
    const theme = document.getElementById("theme");
    const units = document.getElementById("units");
    const label = () => {
      theme.textContent = state.theme === "dark" ? "light" : "dark";
      theme.setAttribute("aria-label", `Change to the ${theme.textContent} theme`);
      units.setAttribute("aria-pressed", String(state.exact));
    };
    theme.addEventListener("click", () => {
      state.theme = state.theme === "dark" ? "light" : "dark";
      kept("theme", state.theme);
      label();
      setTheme(state.theme);
    });
    units.addEventListener("click", () => {
      state.exact = !state.exact;
      kept("exact", state.exact ? "1" : "0");
      label();
      for (const view of state.views) if (view instanceof DataTable) view.redraw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
      if (kept("theme")) return;
      state.theme = event.matches ? "dark" : "light";
      label();
      setTheme(state.theme);
    });
    label();
  }

  /* On paper: every section, light, drawings as wide as the page. */
  function printing(on) {
    if (on === state.print) return;
    state.print = on;
    if (on) drawEverything();
    setTheme(on ? "light" : state.theme);
  }

  function start() {
    const data = JSON.parse(document.getElementById("report-data").textContent);
    if (data.format !== "cnnlive-report-1") throw new Error(`the payload is “${data.format}”, this page reads cnnlive-report-1`);
    readColours();
    switches();
    const nav = document.getElementById("sections");
    const sections = [];
    main.append(head(data));
    for (const section of data.sections) place(section, nav, sections);
    const made = `Made by cnnlive ${data.version}. Amounts are exact; KiB, MiB, GiB are powers of 1024.`;
    document.getElementById("footer").append(p("made", `${made} Drawn by Plotly ${Plotly.version}; nothing is loaded from anywhere.`));
    watch(sections);
    addEventListener("beforeprint", () => printing(true));
    addEventListener("afterprint", () => printing(false));
    matchMedia("print").addEventListener("change", (event) => printing(event.matches));
    const asked = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (asked) asked.scrollIntoView();
  }

  try {
    start();
  } catch (error) {
    main.append(el("p", { class: "failure" }, `The report could not be drawn: ${error.message}`));
    throw error;
  }
})();
