// @ts-check
/**
 * <logit-lens model="house" text="…">: the reader's text through a model with norms and MLPs: at each layer, the token that
 * the stream would predict if it were the last; and the terms that make the logit of the token that the model predicts.
 */
import { element, percent, visible } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { forward, softmax, terms, top, unembed } from "../lib/gpt.js";
import { load } from "../lib/model.js";
import { BLUE, ORANGE } from "../lib/svg.js";

const MAX_TOKENS = 32, MAX_CHARACTERS = 400, BARS = 12;
const TEXT = "The children of Israel went out of the land of";
const STYLE = `
  textarea { width: 100%; resize: vertical; }
  .parts { display: flex; flex-wrap: wrap; gap: 1em 1.6em; align-items: flex-start; }
  .lens { flex: 3 1 20rem; min-width: 0; } .side { flex: 2 1 13rem; min-width: 0; }
  .lens table { table-layout: fixed; width: 100%; border-collapse: separate; border-spacing: 2px; font-size: 0.9em; }
  .lens th, .lens td { padding: 0.12em 0.25em; overflow: hidden; text-overflow: ellipsis; white-space: pre; }
  .lens thead th { white-space: normal; vertical-align: bottom; font-weight: 400; padding: 0 0.1em; font-size: 0.92em; } .lens thead th:first-child { width: 20%; text-align: right; padding-right: 0.3em; }
  .lens tbody th { text-align: right; font-weight: 400; }
  .lens td { cursor: pointer; }
  .lens td[aria-selected="true"] { outline: 2px solid var(--md-accent-fg-color); }
  .side table + table { margin-top: 0.9em; }
  .side td, .side th { padding-right: 0.6em; } .side table { width: 100%; }
  .bars { table-layout: fixed; } .bars td { white-space: nowrap; } .bars td:first-child { width: 4.8em; } .bars td:last-child { width: 3.6em; padding: 0; }
  @media (max-width: 30rem) { .lens table { font-size: 0.8em; } .lens th, .lens td { padding: 0.25em 0.15em; } }
  .term { height: 0.8em; box-sizing: border-box; border: 1.5px solid; }
  .later .term { background: none !important; }
  .sum td { border-top: 1px solid var(--weave-edge, #777); }`;

const signed = (/** @type {number} */ value) => `${value < -0.005 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const title = (/** @type {string} */ text, /** @type {string} */ className = "") => element("th", { scope: "col", textContent: text, className });

export default class LogitLens extends LiveFigure {
  static label = "Try it: type a sentence and see what each layer predicts (8.5 MB)";
  static style = STYLE;

  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  /** @type {any} */ input;
  /** @type {any} */ status;
  /** @type {any} */ grid;
  /** @type {any} */ side;
  /** @type {any} */ whole;
  /** What `run` computes: the run, and the lens's logits by column, row by row. @type {any} */ run;
  /** @type {Float32Array[]} */ lens = [];
  /** The chosen cell: position, and column of the grid (0: the embedding; then after each layer). */
  chosen = [-1, -1];
  timer = 0;

  async start() {
    Object.assign(this, await load(this, (share) => this.progress(share)));
    this.input = element("textarea", { rows: 2, value: this.getAttribute("text") ?? TEXT, maxLength: MAX_CHARACTERS, ariaLabel: "text for the model" });
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.update(), 150);
    });
    this.status = element("p", { role: "status" });
    this.grid = element("table");
    this.grid.setAttribute("role", "grid");
    this.grid.ariaLabel = "what the stream predicts, by position and layer; arrow keys choose a cell";
    this.grid.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
    this.whole = element("input", { type: "checkbox" });
    this.whole.addEventListener("change", () => this.explain());
    this.side = element("div", { className: "side" });
    this.show(this.input, this.status, element("div", { className: "parts" }, element("div", { className: "lens" }, this.grid), this.side));
    this.update();
    this.input.focus();
  }

  /** The number of columns. */
  get columns() {
    return this.model.layers + 1;
  }

  /** Return a token as it is shown. @param {number} id @returns {string} */
  name(id) {
    return visible(this.tokenizer.show(id));
  }

  /** Return where the stream of a column is. @param {number} column */
  place(column) {
    return column ? `after layer ${column - 1}` : "after the embedding";
  }

  /** Run the model on the reader's text, and show the lens. */
  update() {
    const { model } = this, all = this.tokenizer.encode(this.input.value), tokens = all.slice(0, MAX_TOKENS);
    if (!tokens.length) {
      this.status.textContent = "Type a sentence.";
      this.side.replaceChildren();
      return this.grid.replaceChildren();
    }
    this.run = forward(model, tokens);
    this.lens = [...this.run.streams.slice(0, -1).map((/** @type {Float32Array} */ x) => unembed(model, x)), this.run.logits];
    const [last] = top(this.logits(tokens.length - 1, model.layers), 1);
    this.status.textContent = `After this text the model expects “${this.name(last)}”. Each row is a token, each column a layer; the bluer, the more probable.` +
      (all.length > MAX_TOKENS ? ` Only the first ${MAX_TOKENS} of ${all.length} tokens are read.` : "");
    const head = element("tr", {}, title("read"), title("embed"), ...Array.from({ length: model.layers }, (_, layer) => title(`after ${layer}`)));
    this.grid.replaceChildren(element("thead", {}, head), element("tbody", {}, ...tokens.map((/** @type {number} */ token, /** @type {number} */ position) => this.row(token, position))));
    this.select(tokens.length - 1, model.layers, false);
  }

  /** Return the lens's logits at a cell. @param {number} position @param {number} column */
  logits(position, column) {
    return this.lens[column].subarray(position * this.model.dVocab, (position + 1) * this.model.dVocab);
  }

  /** Return a row of the grid. @param {number} token @param {number} position */
  row(token, position) {
    const cells = Array.from({ length: this.columns }, (_, column) => {
      const p = softmax(this.logits(position, column)), [best] = top(p, 1), name = this.name(best), share = percent(p[best]);
      const cell = element("td", { className: "token", textContent: name, tabIndex: -1, title: `“${name}” ${share}` });
      cell.setAttribute("role", "gridcell");
      cell.ariaLabel = `“${name}” ${share}, ${this.place(column)}`;
      cell.style.background = `color-mix(in srgb, ${BLUE} ${Math.round(55 * p[best])}%, transparent)`;
      cell.addEventListener("click", () => this.select(position, column, true));
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row", className: "token", textContent: this.name(token) }), ...cells);
  }

  /** Choose a cell. @param {number} position @param {number} column @param {boolean} focus */
  select(position, column, focus) {
    const rows = this.grid.tBodies[0].rows;
    for (const cell of this.grid.querySelectorAll("td")) cell.ariaSelected = "false", cell.tabIndex = -1;
    this.chosen = [position, column];
    const cell = rows[position].cells[column + 1];
    cell.ariaSelected = "true";
    cell.tabIndex = 0;
    if (focus) cell.focus();
    this.explain();
  }

  /** Arrow keys choose another cell. @param {KeyboardEvent} event */
  key(event) {
    const [position, column] = this.chosen, rows = this.run.n, columns = this.columns;
    /** @type {Record<string, [number, number]>} */
    const to = {
      ArrowUp: [position - 1, column], ArrowDown: [position + 1, column], ArrowLeft: [position, column - 1], ArrowRight: [position, column + 1],
      Home: [position, 0], End: [position, columns - 1], PageUp: [0, column], PageDown: [rows - 1, column],
    };
    const cell = to[event.key];
    if (!cell) return;
    event.preventDefault();
    event.stopPropagation(); // the page's own shortcuts
    this.select(Math.min(rows - 1, Math.max(0, cell[0])), Math.min(columns - 1, Math.max(0, cell[1])), true);
  }

  /** Show the terms of the logit at the chosen cell's position, and the lens's five best tokens in the cell. */
  explain() {
    const { model, run } = this, [position, column] = this.chosen, end = this.logits(position, model.layers), [token] = top(end, 1);
    const all = terms(model, run, position, token).map((term) => ({ ...term, later: term.step >= column }));
    const sum = all.reduce((total, { value }) => total + value, 0), here = this.name(run.tokens[position]), name = this.name(token);
    all.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const shown = this.whole.checked ? all : all.slice(0, BARS), others = all.slice(shown.length);
    if (others.length) shown.push({ label: `${others.length} others`, step: -1, value: others.reduce((total, { value }) => total + value, 0), later: false });
    const least = Math.min(0, ...shown.map(({ value }) => value)), most = Math.max(0, ...shown.map(({ value }) => value));
    const rows = shown.map((term) => this.bar(term, least, most));
    const p = softmax(this.logits(position, column)), then = all.filter(({ later }) => !later).reduce((total, { value }) => total + value, 0);
    this.side.replaceChildren(
      element("table", {}, element("caption", { textContent: `The lens ${this.place(column)}, at “${here}”` }),
        element("thead", {}, element("tr", {}, title("token"), title("probability", "n"))),
        element("tbody", {}, ...top(p, 5).map((id) => element("tr", {}, element("td", { className: "token", textContent: this.name(id) }), element("td", { className: "n", textContent: percent(p[id]) }))))),
      element("table", { className: "bars" }, element("caption", { textContent: `What makes the logit of “${name}” at “${here}”` }),
        element("tbody", {}, ...rows,
          element("tr", { className: "sum" }, element("td", { colSpan: 2, textContent: `sum (the logit: ${end[token].toFixed(2).replace("-", "−")})` }), element("td", { className: "n", textContent: signed(sum) })))),
      element("p", { className: "quiet", textContent: (column < model.layers ? `Hollow bars are not written yet ${this.place(column)}: the rest, with all biases, comes to ${signed(then)}. ` : "") +
        "Heads are layer.head; the final norm's scale is held as it is." }),
      element("label", {}, this.whole, ` all ${all.length} terms`),
    );
  }

  /** Return a term as a row with a bar. @param {{label: string, value: number, later: boolean}} term @param {number} least @param {number} most of all the bars */
  bar({ label, value, later }, least, most) {
    const colour = value < 0 ? ORANGE : BLUE, bar = element("div", { className: "term" }), percentOf = (/** @type {number} */ x) => 100 * x / (most - least);
    bar.style.cssText = `width: ${percentOf(Math.abs(value))}%; margin-left: ${percentOf(Math.min(0, value) - least)}%; background: ${colour}; border-color: ${colour}`;
    return element("tr", { className: later ? "later" : "" }, element("td", { textContent: label, title: later ? "not written yet in the chosen cell" : "" }), element("td", {}, bar),
      element("td", { className: "n", textContent: signed(value) }));
  }
}
