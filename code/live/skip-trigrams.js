// @ts-check
/** <skip-trigrams source="…" destination="…">: type two tokens, and read off the one-layer model what each head makes of them. */
import { STYLE, element, load, starter, visible } from "./element.js";

const OWN_STYLE = `
  label { display: inline-flex; gap: 0.4em; align-items: baseline; }
  input { width: 8em; font-family: var(--md-code-font, monospace); }
  .scroll { overflow-x: auto; }
  td { vertical-align: baseline; white-space: nowrap; }
  tr.looks td:first-child { border-left: 3px solid var(--md-accent-fg-color); } td:first-child { padding-left: 0.5em; border-left: 3px solid transparent; }`;

class SkipTrigrams extends HTMLElement {
  /** @type {any} */ core;
  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  /** @type {any} */ fields;
  /** @type {any} */ said;
  /** @type {any} */ table;

  connectedCallback() {
    if (this.shadowRoot) return;
    const start = starter("Try it: look up a skip-trigram in the model", async () => {
      Object.assign(this, await load("one-layer", "tokenizer-2048.json"));
      this.build();
      this.fields.source.focus();
    });
    this.attachShadow({ mode: "open" }).append(element("style", { textContent: STYLE + OWN_STYLE }), start);
  }

  build() {
    const field = (/** @type {string} */ name) => element("input", { value: this.getAttribute(name) ?? "", spellcheck: false, autocapitalize: "off" });
    this.fields = { source: field("source"), destination: field("destination") };
    for (const one of Object.values(this.fields)) one.addEventListener("input", () => this.update());
    this.said = element("p", { role: "status" });
    this.table = element("table");
    /** @type {ShadowRoot} */ (this.shadowRoot).replaceChildren(
      element("style", { textContent: STYLE + OWN_STYLE }),
      element("div", { className: "bar" },
        element("label", {}, "seen before ", this.fields.source), "… ", element("label", {}, "now at ", this.fields.destination)),
      this.said, element("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "what each head does" }, this.table),
    );
    this.update();
  }

  /** The token that a field names: its last one, a word's form after a space first. @param {string} text @returns {number} */
  token(text) {
    if (!text.trim()) return -1;
    const after = this.tokenizer.encode(text.startsWith(" ") ? text : ` ${text}`);
    return after.length === 1 ? after[0] : this.tokenizer.encode(text).at(-1) ?? -1;
  }

  update() {
    const { source, destination } = this.fields;
    const from = this.token(source.value), at = this.token(destination.value);
    if (from < 0 || at < 0) {
      this.said.textContent = "Type a word in each field.";
      return this.table.replaceChildren();
    }
    const show = (/** @type {number} */ id) => visible(this.tokenizer.show(id));
    const cut = [source, destination].filter((one) => this.tokenizer.show(this.token(one.value)).trim() !== one.value.trim());
    this.said.textContent = `${cut.map((one) => `“${one.value.trim()}” is more than one token: its last one counts. `).join("")}${show(from)} … ${show(at)}: heads in the order in which they prefer this source, here, to the mean source. ` +
      "The outputs are what a head adds to the logits where all its attention goes there, in nats.";
    const found = this.core.skipTrigrams(this.model, from, at).map((/** @type {any} */ one, /** @type {number} */ head) => ({ ...one, head }));
    found.sort((/** @type {any} */ a, /** @type {any} */ b) => b.scores[from] - a.scores[from]);
    const head = (/** @type {string} */ text) => element("th", { scope: "col", textContent: text });
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, head("head"), head("score"), head("rank of the source"), head("raises"), head("lowers"))),
      element("tbody", {}, ...found.map((/** @type {any} */ one) => this.row(one, from, show))),
    );
  }

  /** @param {{head: number, scores: Float32Array, outputs: Float32Array}} one @param {number} from @param {(id: number) => string} show */
  row({ head, scores, outputs }, from, show) {
    const rank = 1 + scores.reduce((count, score) => count + Number(score > scores[from]), 0);
    const order = Array.from(outputs.keys()).sort((a, b) => outputs[b] - outputs[a]);
    const list = (/** @type {number[]} */ ids) => ids.flatMap((id, i) => [
      i ? "  " : "", element("span", { className: "token", textContent: show(id) }), ` ${outputs[id] < 0 ? "−" : "+"}${Math.abs(outputs[id]).toFixed(1)}`]);
    const number = (/** @type {string} */ text) => element("td", { className: "n", textContent: text });
    return element("tr", { className: rank <= 100 ? "looks" : "" }, element("td", { textContent: `0.${head}` }),
      number((Math.round(10 * scores[from]) / 10 || 0).toFixed(1).replace("-", "−")), number(`${rank} of ${scores.length}`),
      element("td", {}, ...list(order.slice(0, 4))), element("td", { className: "quiet" }, ...list(order.slice(-2).reverse())));
  }
}

customElements.define("skip-trigrams", SkipTrigrams);
