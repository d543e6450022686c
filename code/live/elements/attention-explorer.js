// @ts-check
/**
 * <attention-explorer model="induction" pin="1.1" text="…">: an attention-only model that the reader types into, with
 * the pattern of every head, and heads to switch off. `pin` is the head whose pattern colours the tokens.
 */
import { element, percent, visible } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { load } from "../lib/model.js";
import { BLUE, ORANGE, board, paint } from "../lib/svg.js";

const MAX_TOKENS = 64;
const STYLE = `
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

export default class AttentionExplorer extends LiveFigure {
  static label = "Try it: type a text and see every head";
  static style = STYLE;

  // What `start` fetches.
  /** @type {any} */ core;
  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  // The parts that `build` makes.
  /** @type {any} */ input;
  /** @type {any} */ weighted;
  /** @type {any} */ frozen;
  /** @type {any} */ tokens;
  /** @type {any} */ heads;
  /** @type {any} */ status;
  /** @type {any} */ next;
  // What the reader has chosen; `update` shows it.
  /** Heads that are switched off, as "1.0". @type {Set<string>} */ off = new Set();
  /** The head whose pattern colours the tokens. */
  pinned = "0.0";
  /** The position that this head looks from; -1 for none: then colours show each token's loss. */
  position = -1;

  async start() {
    Object.assign(this, await load(this));
    this.pinned = this.getAttribute("pin") ?? `${this.model.layers - 1}.0`;
    this.build();
    this.update();
    this.input.focus();
  }

  /** Make the parts, and show them. */
  build() {
    const update = () => this.update();
    this.input = element("textarea", { rows: 3, value: this.getAttribute("text") ?? "", ariaLabel: "text for the model" });
    this.input.addEventListener("input", update);
    this.weighted = element("input", { type: "checkbox" });
    this.frozen = element("input", { type: "checkbox" });
    for (const box of [this.weighted, this.frozen]) box.addEventListener("change", update);
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
    this.status = element("p", { role: "status" });
    this.next = element("table");
    this.show(
      this.input, this.tokens, this.status, this.heads,
      element("div", { className: "bar" },
        element("label", {}, this.weighted, " weigh by the length of the value"),
        element("label", {}, this.frozen, " keep the patterns when heads are off"), all),
      this.next,
    );
  }

  /** Run the model on the reader's text, and show the result. */
  update() {
    const { core, model } = this;
    const ids = this.tokenizer.encode(this.input.value), tokens = [0, ...ids].slice(0, MAX_TOKENS);
    const names = tokens.map((/** @type {number} */ id) => this.tokenizer.show(id)), n = tokens.length;
    const whole = core.run(model, tokens);
    const run = this.off.size ? core.run(model, tokens, { off: this.off, frozen: this.frozen.checked ? whole.patterns : null }) : whole;
    this.position = Math.min(this.position, n - 1);
    const losses = core.losses(run, tokens, model.dVocab), allOn = run === whole ? losses : core.losses(whole, tokens, model.dVocab);

    const [layer, head] = this.pinned.split(".").map(Number), pattern = this.pattern(run, layer, head, n);
    this.tokens.replaceChildren(...names.map((/** @type {string} */ name, /** @type {number} */ i) => {
      const row = this.position >= 0, share = row ? pattern[this.position * n + i] : i ? Math.min(1, losses[i - 1] / Math.log(model.dVocab)) : 0;
      const tip = row ? `${percent(share)} of its attention` : i ? `${losses[i - 1].toFixed(2)} nats` : "start";
      const token = element("button", { type: "button", textContent: visible(name), title: tip, ariaPressed: String(i === this.position) });
      token.style.background = `color-mix(in srgb, ${row ? BLUE : ORANGE} ${Math.round(55 * share)}%, transparent)`;
      token.addEventListener("click", () => {
        this.position = this.position === i ? -1 : i;
        this.update();
        /** @type {HTMLElement} */ (this.tokens.children[i]).focus();
      });
      return token;
    }));
    for (const pin of /** @type {NodeListOf<HTMLElement>} */ (this.heads.querySelectorAll("button"))) {
      const [l, h] = /** @type {string} */ (pin.dataset.head).split(".").map(Number);
      pin.ariaPressed = String(pin.dataset.head === this.pinned);
      /** @type {HTMLElement} */ (pin.parentElement).classList.toggle("off", this.off.has(pin.dataset.head ?? ""));
      const map = /** @type {SVGElement} */ (pin.firstChild);
      map.setAttribute("viewBox", `0 0 ${n} ${n}`);
      paint(map, this.pattern(run, l, h, n), n, 1);
    }
    const mean = (/** @type {number[]} */ values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
    const cut = ids.length >= MAX_TOKENS ? ` Only the first ${MAX_TOKENS - 1} tokens are read.` : "";
    this.status.textContent = n < 2 ? "Type something." :
      (this.position >= 0 ? `Where head ${this.pinned} looks from “${visible(names[this.position])}”. ` : "Orange: how much each token surprised the model. Choose a token to see where the marked head looks from it. ") +
      `Mean loss ${mean(losses).toFixed(2)} nats` + (this.off.size ? `; with all heads ${mean(allOn).toFixed(2)}.` : ".") + cut;

    const from = this.position >= 0 ? this.position : n - 1;
    const p = core.probabilities(run, from, model.dVocab), all = core.probabilities(whole, from, model.dVocab);
    const best = Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, 6);
    this.next.replaceChildren(
      element("tr", {}, element("th", { scope: "col", textContent: "next token" }), element("th", { scope: "col", textContent: "now" }),
        element("th", { scope: "col", textContent: "all heads on" })),
      ...best.map((id) => element("tr", {}, element("td", { className: "token", textContent: visible(this.tokenizer.show(id)) }),
        element("td", { className: "n", textContent: percent(p[id]) }), element("td", { className: "n quiet", textContent: percent(all[id]) }))),
    );
  }

  /** Return a head's pattern, row by row; where the reader weighs it, times the length of each value. @param {any} run @param {number} layer @param {number} head @param {number} n */
  pattern(run, layer, head, n) {
    const pattern = run.patterns[layer][head];
    if (!this.weighted.checked) return pattern;
    const lengths = run.lengths[layer][head], most = Math.max(...lengths) || 1;
    return pattern.map((/** @type {number} */ value, /** @type {number} */ i) => (value * lengths[i % n]) / most);
  }
}
