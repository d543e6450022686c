// @ts-check
/** <kronecker-builder>: two small matrices to type into and their tensor product; a chosen entry shows its two factors. */
import { element } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { board, paint, svg } from "../lib/svg.js";

const STYLE = `
  .parts { display: flex; flex-wrap: wrap; gap: 1em 2em; align-items: flex-start; }
  fieldset { border: 0; padding: 0; margin: 0; } legend { font-style: italic; padding: 0; margin-bottom: 0.3em; }
  .grid { display: grid; gap: 3px; width: max-content; }
  .grid input { width: 3.4em; text-align: right; padding: 0.3em; font-variant-numeric: tabular-nums; }
  .grid input.chosen { outline: 3px solid var(--md-accent-fg-color); }
  .grid input:invalid { border-color: var(--weave-error, #a3271b); color: var(--weave-error, #a3271b); }
  .product { width: min(100%, 26rem); cursor: crosshair; border: 1px solid var(--weave-edge, #777); background: none; padding: 0; display: block; }
  .product svg { display: block; width: 100%; }
  text { font-size: 0.3px; text-anchor: middle; dominant-baseline: central; fill: var(--md-default-fg-color); }
  select { padding: 0.2em 0.4em; }`;

export default class KroneckerBuilder extends LiveFigure {
  static label = "Try it: build a tensor product";
  static style = STYLE;

  /** @type {Record<string, number[][]>} */
  matrices = { A: [[1, 0, 0], [0.5, 0.5, 0], [0.1, 0.6, 0.3]], B: [[1, 0], [2, -1]] };
  /** @type {Record<string, HTMLInputElement[][]>} */ inputs = {};
  /** Row and column of the chosen entry of the product. */
  chosen = [4, 2];
  /** Show B ⊗ A instead of A ⊗ B. */
  swapped = false;
  /** @type {any} */ product;
  /** @type {any} */ status;

  async start() {
    const order = element("select", {}, element("option", { textContent: "A ⊗ B" }), element("option", { textContent: "B ⊗ A" }));
    order.addEventListener("change", () => { this.swapped = order.selectedIndex === 1; this.update(); });
    this.product = element("div", { tabIndex: 0, className: "product" });
    this.product.setAttribute("role", "application"); // arrow keys move in it
    this.product.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
    this.product.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.point(event));
    this.product.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => this.point(event));
    this.status = element("p", { role: "status" });
    this.show(
      element("div", { className: "parts" }, this.grid("A"), this.grid("B"),
        element("label", {}, "order ", order)),
      this.status, this.product, element("p", { className: "quiet", textContent: "Point at an entry, or move with the arrow keys. Change a number and see what moves." }));
    this.update();
    this.product.focus();
  }

  /** Return a matrix as fields to type into. @param {string} name */
  grid(name) {
    const rows = this.matrices[name];
    this.inputs[name] = rows.map((row, i) => row.map((value, j) => {
      const input = element("input", { value: String(value), inputMode: "decimal", ariaLabel: `${name}, row ${i + 1}, column ${j + 1}` });
      input.addEventListener("input", () => {
        const number = Number(input.value.replace(",", ".").replace("−", "-")), valid = Math.abs(number) < 1e100; // so that products are finite
        input.setCustomValidity(valid ? "" : "not a number: the previous one stays");
        if (valid) this.matrices[name][i][j] = number;
        this.update();
      });
      return input;
    }));
    const grid = element("div", { className: "grid" }, ...this.inputs[name].flat());
    grid.style.gridTemplateColumns = `repeat(${rows[0].length}, auto)`;
    return element("fieldset", {}, element("legend", { textContent: name }), grid);
  }

  /** The names of the two factors, in their order. @returns {[string, string]} */
  get order() {
    return this.swapped ? ["B", "A"] : ["A", "B"];
  }

  /** Show the product, and the factors of the chosen entry. */
  update() {
    const [first, second] = this.order, left = this.matrices[first], right = this.matrices[second];
    const p = right.length, q = right[0].length, rows = left.length * p, columns = left[0].length * q;
    const values = Array.from({ length: rows * columns }, (_, n) => {
      const r = Math.floor(n / columns), c = n % columns;
      return left[Math.floor(r / p)][Math.floor(c / q)] * right[r % p][c % q];
    });
    const [r, c] = (this.chosen = [Math.min(this.chosen[0], rows - 1), Math.min(this.chosen[1], columns - 1)]);
    const [i, j, k, l] = [Math.floor(r / p), Math.floor(c / q), r % p, c % q];
    const colours = svg("g"), lines = svg("g", { stroke: "currentColor", "stroke-width": 0.03 });
    paint(colours, values, columns, Math.max(...values.map(Math.abs)) || 1);
    for (let at = p; at < rows; at += p) lines.append(svg("path", { d: `M0 ${at}h${columns}` }));
    for (let at = q; at < columns; at += q) lines.append(svg("path", { d: `M${at} 0v${rows}` }));
    const n = (/** @type {number} */ value) => String(Math.round(value * 100) / 100).replaceAll("-", "−");
    const digits = values.map((value, at) => {
      const text = svg("text", { x: (at % columns) + 0.5, y: Math.floor(at / columns) + 0.5 });
      text.textContent = n(value);
      if (text.textContent.length > 5) text.style.fontSize = `${1.5 / text.textContent.length}px`; // to fit into its cell
      return text;
    });
    const mark = svg("rect", { x: c + 0.04, y: r + 0.04, width: 0.92, height: 0.92, fill: "none", stroke: "var(--md-accent-fg-color)", "stroke-width": 0.08 });
    const map = board(rows, columns, `${first} ⊗ ${second}, ${rows} by ${columns}`);
    map.append(colours, lines, ...digits, mark);
    this.product.replaceChildren(map);
    this.product.ariaLabel = `entry row ${r + 1}, column ${c + 1} of ${first} ⊗ ${second}; arrow keys choose another`;
    for (const name of ["A", "B"]) for (const input of this.inputs[name].flat()) input.classList.remove("chosen");
    this.inputs[first][i][j].classList.add("chosen");
    this.inputs[second][k][l].classList.add("chosen");
    this.status.textContent = `Row ${r + 1} is the pair (${i + 1}, ${k + 1}), column ${c + 1} the pair (${j + 1}, ${l + 1}), the second running fastest: ` +
      `${first}[${i + 1}, ${j + 1}] · ${second}[${k + 1}, ${l + 1}] = ${n(left[i][j])} · ${n(right[k][l])} = ${n(values[r * columns + c])}`;
  }

  /** Choose the entry under the pointer. @param {PointerEvent} event */
  point(event) {
    const map = this.product.firstChild, box = map.getBoundingClientRect(), [, , columns, rows] = map.getAttribute("viewBox").split(" ").map(Number);
    const at = [Math.floor(((event.clientY - box.top) / box.height) * rows), Math.floor(((event.clientX - box.left) / box.width) * columns)];
    if (at[0] >= 0 && at[0] < rows && at[1] >= 0 && at[1] < columns && String(at) !== String(this.chosen)) {
      this.chosen = at;
      this.update();
    }
  }

  /** Choose the next entry in the direction of an arrow key. @param {KeyboardEvent} event */
  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    this.chosen = [Math.max(0, this.chosen[0] + step[0]), Math.max(0, this.chosen[1] + step[1])];
    this.update();
  }
}
