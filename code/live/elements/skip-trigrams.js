// @ts-check
/**
 * <skip-trigrams model="one-layer" source="…" destination="…">: two tokens to type, and what each head of a one-layer
 * model makes of them.
 */
import { element, visible } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { load } from "../lib/model.js";

const STYLE = `
  label { display: inline-flex; gap: 0.4em; align-items: baseline; }
  input { width: 8em; font-family: var(--md-code-font, monospace); }
  .scroll { overflow-x: auto; }
  td { vertical-align: baseline; } td.n, .pair { white-space: nowrap; } .pair { margin-right: 0.7em; }
  th { vertical-align: bottom; line-height: 1.25; padding-bottom: 0.3em; } td.list { min-width: 9em; }
  tr.looks td:first-child { border-left: 3px solid var(--md-accent-fg-color); } td:first-child { padding-left: 0.5em; border-left: 3px solid transparent; }`;

export default class SkipTrigrams extends LiveFigure {
  static label = "Try it: look up a skip-trigram in the model";
  static style = STYLE;

  /** @type {any} */ core;
  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  /** @type {any} */ fields;
  /** @type {any} */ status;
  /** @type {any} */ table;

  async start() {
    Object.assign(this, await load(this));
    const field = (/** @type {string} */ name) => element("input", { value: this.getAttribute(name) ?? "", spellcheck: false, autocapitalize: "off" });
    this.fields = { source: field("source"), destination: field("destination") };
    for (const field of Object.values(this.fields)) field.addEventListener("input", () => this.update());
    this.status = element("p", { role: "status" });
    this.table = element("table");
    this.show(
      element("div", { className: "bar" },
        element("label", {}, "seen before ", this.fields.source), "… ", element("label", {}, "now at ", this.fields.destination)),
      this.status, element("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "what each head does" }, this.table),
    );
    this.update();
    this.fields.source.focus();
  }

  /** Return the last token of a field's text, as it is after a space if that is one token; -1 for an empty field. @param {string} text @returns {number} */
  token(text) {
    if (!text.trim()) return -1;
    const after = this.tokenizer.encode(text.startsWith(" ") ? text : ` ${text}`);
    return after.length === 1 ? after[0] : this.tokenizer.encode(text).at(-1) ?? -1;
  }

  /** Show what each head does with the two tokens. */
  update() {
    const { source, destination } = this.fields;
    const from = this.token(source.value), at = this.token(destination.value);
    if (from < 0 || at < 0) {
      this.status.textContent = "Type a word in each field.";
      return this.table.replaceChildren();
    }
    const show = (/** @type {number} */ id) => visible(this.tokenizer.show(id));
    const cut = [source, destination].filter((field) => this.tokenizer.show(this.token(field.value)).trim() !== field.value.trim());
    this.status.textContent = `${cut.map((field) => `“${field.value.trim()}” is more than one token: its last one counts. `).join("")}${show(from)} … ${show(at)}: heads in the order in which they prefer this source, here, to the mean source. ` +
      "The outputs are what a head adds to the logits where all its attention goes there, in nats.";
    const heads = this.core.skipTrigrams(this.model, from, at).map((/** @type {any} */ values, /** @type {number} */ head) => ({ ...values, head }));
    heads.sort((/** @type {any} */ a, /** @type {any} */ b) => b.scores[from] - a.scores[from]);
    const title = (/** @type {string} */ text) => element("th", { scope: "col", textContent: text });
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, title("head"), title("score"), title("rank of the source"), title("raises"), title("lowers"))),
      element("tbody", {}, ...heads.map((/** @type {any} */ head) => this.row(head, from, show))),
    );
  }

  /** Return a head's row of the table. @param {{head: number, scores: Float32Array, outputs: Float32Array}} values @param {number} from @param {(id: number) => string} show */
  row({ head, scores, outputs }, from, show) {
    const rank = 1 + scores.reduce((count, score) => count + Number(score > scores[from]), 0);
    const order = Array.from(outputs.keys()).sort((a, b) => outputs[b] - outputs[a]);
    const list = (/** @type {number[]} */ ids) => ids.flatMap((id) => [
      element("span", { className: "pair" }, element("span", { className: "token", textContent: show(id) }), ` ${outputs[id] < 0 ? "−" : "+"}${Math.abs(outputs[id]).toFixed(1)}`), " "]);
    const number = (/** @type {string} */ text) => element("td", { className: "n", textContent: text });
    return element("tr", { className: rank <= 100 ? "looks" : "" }, element("td", { textContent: `0.${head}` }),
      number((Math.round(10 * scores[from]) / 10 || 0).toFixed(1).replace("-", "−")), number(`${rank} of ${scores.length}`),
      element("td", { className: "list" }, ...list(order.slice(0, 4))), element("td", { className: "list quiet" }, ...list(order.slice(-2).reverse())));
  }
}
