// @ts-check
/**
 * <attention-explorer model="induction" text="…">: a trained model under the reader's hands. What it computes with comes
 * on the first click, from this site. hook.py puts the weights beside this file.
 */
import { STYLE, element, load, percent, starter, visible } from "./element.js";
import { BLUE, ORANGE, board, paint } from "./svg.js";

const LONGEST = 64;
const OWN_STYLE = `
  textarea { width: 100%; resize: vertical; }
  .tokens { display: flex; flex-wrap: wrap; gap: 2px; margin: 0.6em 0; padding: 0; }
  .tokens button { padding: 0 0.15em; border-width: 0 0 2px; border-radius: 0; white-space: pre; font-family: var(--md-code-font, monospace); }
  .tokens button[aria-pressed="true"] { border-color: var(--md-accent-fg-color); }
  .heads { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.6em 0.4em; }
  .heads svg { width: 100%; aspect-ratio: 1; display: block; border: 1px solid var(--weave-edge, #777); box-sizing: border-box; }
  .heads button { padding: 0; border: 2px solid transparent; width: 100%; display: block; background: none; }
  .heads button[aria-pressed="true"] { border-color: var(--md-accent-fg-color); }
  .heads label { display: flex; gap: 0.15em; align-items: center; white-space: nowrap; font-size: 0.85em; min-height: 24px; }
  .heads input { margin: 0; }
  .off svg { opacity: 0.25; }`;

class AttentionExplorer extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: "open" });
    const start = starter("Try it: type a text and see every head", () => this.start());
    root.append(element("style", { textContent: STYLE + OWN_STYLE }), start);
  }

  // what start() fetches, and the parts that build() makes
  /** @type {any} */ core;
  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  /** @type {any} */ input;
  /** @type {any} */ weighted;
  /** @type {any} */ frozen;
  /** @type {any} */ tokens;
  /** @type {any} */ heads;
  /** @type {any} */ said;
  /** @type {any} */ next;
  /** @type {Set<string>} */ off = new Set();
  pinned = "0.0";
  place = -1; // the token whose row is shown; -1: none

  async start() {
    Object.assign(this, await load(this.getAttribute("model") ?? "induction", "tokenizer.json"));
    this.pinned = this.getAttribute("pin") ?? `${this.model.layers - 1}.0`;
    this.build();
    this.update();
    this.input.focus();
  }

  build() {
    const changed = () => this.update();
    this.input = element("textarea", { rows: 3, value: this.getAttribute("text") ?? "", ariaLabel: "text for the model" });
    this.input.addEventListener("input", changed);
    this.weighted = element("input", { type: "checkbox" });
    this.frozen = element("input", { type: "checkbox" });
    for (const box of [this.weighted, this.frozen]) box.addEventListener("change", changed);
    const all = element("button", { type: "button", textContent: "all heads on" });
    all.addEventListener("click", () => {
      this.off.clear();
      for (const box of this.heads.querySelectorAll("input")) /** @type {HTMLInputElement} */ (box).checked = true;
      this.update();
    });
    this.tokens = element("div", { className: "tokens", role: "group", ariaLabel: "tokens; choose one to see where the marked head looks from there" });
    this.heads = element("div", { className: "heads" });
    for (let layer = 0; layer < this.model.layers; layer++) {
      for (let head = 0; head < this.model.heads; head++) {
        const name = `${layer}.${head}`;
        const pin = element("button", { type: "button", ariaLabel: `show where head ${name} looks` }, board(1, 1, `pattern of head ${name}`));
        pin.addEventListener("click", () => { this.pinned = name; this.update(); });
        const box = element("input", { type: "checkbox", checked: true });
        box.addEventListener("change", () => { box.checked ? this.off.delete(name) : this.off.add(name); this.update(); });
        this.heads.append(element("div", {}, pin, element("label", {}, box, `head ${name}`)));
        pin.dataset.head = name;
      }
    }
    this.said = element("p", { role: "status" });
    this.next = element("table");
    const shadow = /** @type {ShadowRoot} */ (this.shadowRoot);
    shadow.replaceChildren(
      element("style", { textContent: STYLE + OWN_STYLE }), this.input, this.tokens, this.said, this.heads,
      element("div", { className: "bar" },
        element("label", {}, this.weighted, " weigh by the length of the value"),
        element("label", {}, this.frozen, " keep the patterns when heads are off"), all),
      this.next,
    );
  }

  update() {
    const { core, model } = this;
    const ids = this.tokenizer.encode(this.input.value), tokens = [0, ...ids].slice(0, LONGEST);
    const names = tokens.map((/** @type {number} */ id) => this.tokenizer.show(id)), n = tokens.length;
    const whole = core.run(model, tokens);
    const run = this.off.size ? core.run(model, tokens, { off: this.off, frozen: this.frozen.checked ? whole.patterns : null }) : whole;
    this.place = Math.min(this.place, n - 1);
    const lost = core.losses(run, tokens, model.dVocab), before = run === whole ? lost : core.losses(whole, tokens, model.dVocab);

    const [layer, head] = this.pinned.split(".").map(Number), pattern = this.shown(run, layer, head, n);
    this.tokens.replaceChildren(...names.map((/** @type {string} */ name, /** @type {number} */ i) => {
      const row = this.place >= 0, share = row ? pattern[this.place * n + i] : i ? Math.min(1, lost[i - 1] / Math.log(model.dVocab)) : 0;
      const tip = row ? `${percent(share)} of its attention` : i ? `${lost[i - 1].toFixed(2)} nats` : "start";
      const made = element("button", { type: "button", textContent: visible(name), title: tip, ariaPressed: String(i === this.place) });
      made.style.background = `color-mix(in srgb, ${row ? BLUE : ORANGE} ${Math.round(55 * share)}%, transparent)`;
      made.addEventListener("click", () => {
        this.place = this.place === i ? -1 : i;
        this.update();
        /** @type {HTMLElement} */ (this.tokens.children[i]).focus();
      });
      return made;
    }));
    for (const pin of /** @type {NodeListOf<HTMLElement>} */ (this.heads.querySelectorAll("button"))) {
      const [l, h] = /** @type {string} */ (pin.dataset.head).split(".").map(Number);
      pin.ariaPressed = String(pin.dataset.head === this.pinned);
      /** @type {HTMLElement} */ (pin.parentElement).classList.toggle("off", this.off.has(pin.dataset.head ?? ""));
      const map = /** @type {SVGElement} */ (pin.firstChild);
      map.setAttribute("viewBox", `0 0 ${n} ${n}`);
      paint(map, this.shown(run, l, h, n), n, 1);
    }
    const mean = (/** @type {number[]} */ values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
    const cut = ids.length >= LONGEST ? ` Only the first ${LONGEST - 1} tokens are read.` : "";
    this.said.textContent = n < 2 ? "Type something." :
      (this.place >= 0 ? `Where head ${this.pinned} looks from “${visible(names[this.place])}”. ` : "Orange: how much each token surprised the model. Choose a token to see where the marked head looks from it. ") +
      `Mean loss ${mean(lost).toFixed(2)} nats` + (this.off.size ? `; with all heads ${mean(before).toFixed(2)}.` : ".") + cut;

    const from = this.place >= 0 ? this.place : n - 1;
    const p = core.probabilities(run, from, model.dVocab), all = core.probabilities(whole, from, model.dVocab);
    const best = Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, 6);
    this.next.replaceChildren(
      element("tr", {}, element("th", { scope: "col", textContent: "next token" }), element("th", { scope: "col", textContent: "now" }),
        element("th", { scope: "col", textContent: "all heads on" })),
      ...best.map((id) => element("tr", {}, element("td", { className: "token", textContent: visible(this.tokenizer.show(id)) }),
        element("td", { className: "n", textContent: percent(p[id]) }), element("td", { className: "n quiet", textContent: percent(all[id]) }))),
    );
  }

  /** A head's pattern, or, weighted, its share of what reaches each position. @param {any} run @param {number} layer @param {number} head @param {number} n */
  shown(run, layer, head, n) {
    const pattern = run.patterns[layer][head];
    if (!this.weighted.checked) return pattern;
    const lengths = run.lengths[layer][head], most = Math.max(...lengths) || 1;
    return pattern.map((/** @type {number} */ value, /** @type {number} */ i) => (value * lengths[i % n]) / most);
  }
}

customElements.define("attention-explorer", AttentionExplorer);
