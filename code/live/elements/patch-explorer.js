// @ts-check
/**
 * <patch-explorer model="house" clean="…" corrupted="…">: two sentences of as many tokens; what happens to the next token
 * when one head's output at one position is taken from the run on the other sentence, for every head and position.
 */
import { element, onWidth, percent, visible } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { forward, softmax, sweep, top } from "../lib/gpt.js";
import { load } from "../lib/model.js";
import { inSlices } from "../lib/slices.js";
import { paint, svg } from "../lib/svg.js";

const MAX_TOKENS = 16, MAX_CHARACTERS = 160, CHOICES = 8;
const CLEAN = "It is the law of your land and the law of", CORRUPTED = "It is the law of their land and the law of";
const LEFT = 34, ROW = 15; // pixels: the names of heads, and a head's row
const STYLE = `
  .sentences label, .choices label { display: grid; gap: 0.15em; } .sentences { display: grid; gap: 0.5em; }
  .choices { display: flex; flex-wrap: wrap; gap: 0.5em 1.2em; margin: 0.7em 0; align-items: end; }
  select { padding: 0.25em 0.4em; min-height: 24px; max-width: 100%; }
  fieldset { border: 0; padding: 0; margin: 0; } fieldset label { display: flex; gap: 0.4em; align-items: center; min-height: 24px; }
  legend { padding: 0; }
  .parts { display: flex; flex-wrap: wrap; gap: 1em 1.6em; align-items: flex-start; }
  .map { flex: 3 1 18rem; min-width: 0; cursor: crosshair; } .map svg { display: block; } .side { flex: 2 1 15rem; min-width: 0; }
  .map text { fill: var(--md-default-fg-color); font-size: 11px; } .map .tokens text { font-family: var(--md-code-font, monospace); }
  .side table { margin-bottom: 0.8em; } .side td, .side th { padding-right: 0.6em; white-space: nowrap; } .side th.n { font-weight: 400; }
  .side button { padding: 0.05em 0.5em; }`;

/** @typedef {{layer: number, head: number, position: number}} Site */

export default class PatchExplorer extends LiveFigure {
  static label = "Try it: patch one head at one position (8.5 MB)";
  static style = STYLE;

  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  // The parts that `build` makes.
  /** @type {any} */ sentences;
  /** @type {any} */ answers;
  /** @type {any} */ noising;
  /** @type {any} */ status;
  /** @type {any} */ bar;
  /** @type {any} */ map;
  /** @type {any} */ side;
  /** @type {any} */ parts;
  /** The runs on the two sentences, clean and corrupted. @type {any[]} */ runs = [];
  /** The last position's logits with each head patched: [layer · heads + head][position]. @type {Float32Array[][]} */ logits = [];
  /** @type {Site} */ chosen = { layer: 0, head: 0, position: 0 };
  /** Counts sweeps, so that an old one ends when a new one starts. */
  sweeps = 0;
  timer = 0;

  async start() {
    Object.assign(this, await load(this, (share) => this.progress(share)));
    this.build();
    this.update();
    this.sentences.clean.focus();
  }

  /** Make the parts, and show them. */
  build() {
    const later = () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.update(), 400); };
    const field = (/** @type {string} */ tag, /** @type {Record<string, any>} */ properties, /** @type {string} */ type, /** @type {() => void} */ act) => {
      const made = element(tag, properties);
      made.addEventListener(type, act);
      return made;
    };
    const sentence = (/** @type {string} */ name, /** @type {string} */ value) =>
      field("input", { value: this.getAttribute(name) ?? value, maxLength: MAX_CHARACTERS, spellcheck: false }, "input", later);
    const select = () => field("select", {}, "change", () => this.showEffects());
    const way = (/** @type {boolean} */ checked) => field("input", { type: "radio", name: "way", checked }, "change", () => this.patch());
    this.sentences = { clean: sentence("clean", CLEAN), corrupted: sentence("corrupted", CORRUPTED) };
    this.answers = { clean: select(), corrupted: select() };
    this.noising = way(false);
    this.status = element("p", { role: "status" });
    this.bar = element("progress", { max: 1, hidden: true, ariaLabel: "heads and positions patched" });
    this.map = element("div", { className: "map", tabIndex: 0 });
    this.map.setAttribute("role", "application"); // arrow keys move in it
    this.map.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
    for (const type of ["pointermove", "pointerdown"]) this.map.addEventListener(type, (/** @type {PointerEvent} */ event) => this.point(event));
    this.side = element("div", { className: "side" });
    this.parts = element("div", { className: "parts" }, this.map, this.side);
    this.show(
      element("div", { className: "sentences" }, element("label", {}, "clean", this.sentences.clean), element("label", {}, "corrupted", this.sentences.corrupted)),
      element("div", { className: "choices" }, element("label", {}, "answer of the clean sentence", this.answers.clean),
        element("label", {}, "answer of the corrupted one", this.answers.corrupted)),
      element("fieldset", {}, element("legend", { textContent: "what is patched" }),
        element("label", {}, way(true), "denoising: the corrupted sentence, one head from the clean one"),
        element("label", {}, this.noising, "noising: the clean sentence, one head from the corrupted one")), this.status, this.bar, this.parts);
    onWidth(this.parts, () => this.draw());
  }

  /** Return a token as it is shown. @param {number} id @returns {string} */
  name(id) {
    return visible(this.tokenizer.show(id));
  }

  /** Return the logits after the last token of a run. @param {any} run @returns {Float32Array} */
  last(run) {
    return run.logits.subarray((run.n - 1) * this.model.dVocab);
  }

  /** Read the sentences, run both, and start to patch. */
  update() {
    const [clean, corrupted] = [this.sentences.clean, this.sentences.corrupted].map((input) => this.tokenizer.encode(input.value));
    this.sweeps++;
    this.bar.hidden = true;
    const problem = !clean.length || !corrupted.length ? "Type two sentences."
      : clean.length !== corrupted.length ? `The clean sentence has ${clean.length} tokens and the corrupted one ${corrupted.length}; patching needs as many in both, so that every position has its counterpart. ` +
        `They are ${clean.map((/** @type {number} */ id) => this.name(id)).join("|")} and ${corrupted.map((/** @type {number} */ id) => this.name(id)).join("|")}.`
      : clean.length > MAX_TOKENS ? `The sentences have ${clean.length} tokens; ${MAX_TOKENS} is the most that is patched here.` : "";
    this.parts.hidden = Boolean(problem);
    this.parts.style.display = problem ? "none" : "";
    if (problem) return void (this.status.textContent = problem);
    this.runs = [forward(this.model, clean), forward(this.model, corrupted)];
    this.choices();
    this.patch();
  }

  /** Offer as answers the tokens that the model expects after either sentence. */
  choices() {
    const [a, b] = this.runs.map((run) => softmax(this.last(run))), ids = [...new Set([...top(a, CHOICES), ...top(b, CHOICES)])];
    const [first] = top(a, 1), apart = (/** @type {number} */ id) => Math.log(b[id] / a[id]);
    let [second] = top(b, 1);
    if (second === first) [second] = top(b, CHOICES).filter((id) => id !== first).sort((x, y) => apart(y) - apart(x));
    for (const [list, answer] of [[this.answers.clean, first], [this.answers.corrupted, second]]) {
      list.replaceChildren(...ids.map((id) => element("option", { value: String(id), textContent: `${this.name(id)}  (${percent(a[id])}, ${percent(b[id])})` })));
      list.value = String(answer);
    }
  }

  /** The run that is patched, and the run that the patch is from. */
  get ends() {
    return this.noising.checked ? this.runs : this.runs.toReversed();
  }

  /** Patch every head at every position, a few milliseconds at a time. */
  async patch() {
    const { model } = this, mine = ++this.sweeps, [base, source] = this.ends, total = model.layers * model.heads * base.n;
    this.logits = Array.from({ length: model.layers * model.heads }, () => []);
    let done = 0, drawn = performance.now();
    this.bar.value = 0;
    this.bar.hidden = false;
    this.side.replaceChildren();
    this.status.textContent = "Patching every head at every position …";
    this.chosen = { layer: model.layers - 1, head: 0, position: base.n - 1 };
    const ended = await inSlices(sweep(model, base, source), ({ layer, head, position, logits }) => {
      this.logits[layer * model.heads + head][position] = logits;
      this.bar.value = ++done / total;
      if (performance.now() - drawn < 150) return;
      this.draw();
      drawn = performance.now();
    }, () => mine !== this.sweeps);
    if (!ended) return;
    this.bar.hidden = true;
    this.showEffects();
  }

  /** Return how much more a run expects the clean answer than the corrupted one, in logits. @param {Float32Array} logits */
  difference(logits) {
    return logits[this.answers.clean.value] - logits[this.answers.corrupted.value];
  }

  /** Return what a patch does, as a share of the way from the run that is patched to the other one; NaN if it is not known yet. @param {Site} site */
  effect({ layer, head, position }) {
    const logits = this.logits[layer * this.model.heads + head]?.[position], [from, to] = this.ends.map((run) => this.difference(this.last(run)));
    return logits && Math.abs(to - from) > 0.05 ? (this.difference(logits) - from) / (to - from) : NaN;
  }

  /** Show the map, and choose the site with the largest effect. */
  showEffects() {
    const ranked = sitesOf(this.model, this.runs[0].n).map((site) => ({ ...site, effect: this.effect(site) })).filter(({ effect }) => effect === effect && Math.abs(effect) > 5e-4)
      .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
    this.draw();
    if (!this.bar.hidden) return;
    if (!ranked.length) {
      this.status.textContent = "These two answers do not tell the two sentences apart, or no single head moves them: choose other answers or sentences.";
      return this.side.replaceChildren();
    }
    this.choose(ranked[0], ranked);
  }

  /** Draw the map. */
  draw() {
    if (!this.runs.length || this.parts.hidden) return;
    const { model, runs: [run, other], chosen } = this, values = sitesOf(this.model, this.runs[0].n).map((site) => this.effect(site));
    const names = run.tokens.map((/** @type {number} */ id, /** @type {number} */ i) => id === other.tokens[i] ? this.name(id) : `${this.name(id)}/${this.name(other.tokens[i])}`);
    const { drawing, limit } = mapOf(values, names, model, chosen, Math.max(200, this.map.clientWidth));
    this.map.replaceChildren(drawing, element("p", { className: "quiet", textContent: `Heads are layer.head. Blue goes towards the other run, orange away from it; full colour is ${percent(limit)} of the way.` }));
    this.map.ariaLabel = `effect of head ${chosen.layer}.${chosen.head} at position ${chosen.position}, ${names[chosen.position]}; arrow keys choose another`;
  }

  /** Choose a site, and show what the patch there does. @param {Site} site @param {(Site & {effect: number})[]} [ranked] sites by effect, if they are new */
  choose(site, ranked) {
    this.chosen = { layer: site.layer, head: site.head, position: site.position };
    this.draw();
    const { layer, head, position } = site, logits = this.logits[layer * this.model.heads + head]?.[position], name = `${layer}.${head}`;
    if (!logits || !this.bar.hidden) return;
    const [base, source] = this.ends, [before, after, other] = [this.last(base), logits, this.last(source)].map(softmax);
    const token = `“${this.name(base.tokens[position])}”`, answers = [this.answers.clean, this.answers.corrupted].map((list) => Number(list.value));
    const effect = this.effect(site), is = effect === effect ? `${percent(effect).replace("-", "−")} of the way there` : "by nothing that these answers could measure";
    this.status.textContent = `Head ${name} at ${token} (position ${position}), taken from the other run, moves the difference of the two answers' logits ${is}.`;
    const rows = answers.map((id) => ({ name: this.name(id), shares: [before, after, other].map((p) => p[id]) }));
    const shares = sharesOf(`Head ${name} at ${token}`, rows);
    if (!ranked) return void this.side.firstChild?.replaceWith(shares);
    this.side.replaceChildren(shares, largest(ranked, (position) => this.name(base.tokens[position]), (one) => this.choose(one)));
  }

  /** Arrow keys choose another site. @param {KeyboardEvent} event */
  key(event) {
    const { layers, heads } = this.model, row = this.chosen.layer * heads + this.chosen.head, { position } = this.chosen, n = this.runs[0].n;
    /** @type {Record<string, [number, number]>} */
    const to = { ArrowUp: [row - 1, position], ArrowDown: [row + 1, position], ArrowLeft: [row, position - 1], ArrowRight: [row, position + 1] };
    if (!to[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // the page's own shortcuts
    const [r, p] = [Math.min(layers * heads - 1, Math.max(0, to[event.key][0])), Math.min(n - 1, Math.max(0, to[event.key][1]))];
    this.choose({ layer: Math.floor(r / heads), head: r % heads, position: p });
  }

  /** Choose the site under the pointer. @param {PointerEvent} event */
  point(event) {
    const area = this.map.querySelector(".area rect")?.getBoundingClientRect(), { layers, heads } = this.model, n = this.runs[0].n;
    if (!area) return;
    const position = Math.floor((event.clientX - area.left) / area.width * n), row = Math.floor((event.clientY - area.top) / area.height * layers * heads);
    if (position < 0 || position >= n || row < 0 || row >= layers * heads) return;
    const site = { layer: Math.floor(row / heads), head: row % heads, position };
    if (event.type === "pointerdown" || site.layer !== this.chosen.layer || site.head !== this.chosen.head || position !== this.chosen.position) this.choose(site);
  }
}

/** Return the sites, row by row of the map. @param {{layers: number, heads: number}} model @param {number} n @returns {Site[]} */
const sitesOf = ({ layers, heads }, n) =>
  Array.from({ length: layers * heads * n }, (_, i) => ({ layer: Math.floor(i / n / heads), head: Math.floor(i / n) % heads, position: i % n }));

/** Draw a heatmap of heads by positions.
 * @param {number[]} values row by row; NaN where nothing is known @param {string[]} names of the positions
 * @param {{layers: number, heads: number}} model @param {Site} chosen @param {number} width in pixels */
function mapOf(values, names, { layers, heads }, chosen, width) {
  const n = names.length, rows = layers * heads, column = Math.min(46, (width - LEFT) / n), right = n * column, row = chosen.layer * heads + chosen.head;
  const limit = Math.max(0.02, ...values.map((value) => Math.abs(value) || 0)), above = 14 + 5.2 * Math.max(...names.map((name) => name.length));
  const text = (/** @type {string} */ content, /** @type {Record<string, string | number>} */ attributes) => {
    const label = svg("text", attributes);
    label.textContent = content;
    return label;
  };
  const tokens = names.map((name, i) => text(name, { transform: `translate(${LEFT + (i + 0.6) * column} ${above - 5}) rotate(-50)` }));
  const labels = Array.from({ length: rows }, (_, i) => text(`${Math.floor(i / heads)}.${i % heads}`, { x: LEFT - 6, y: above + (i + 0.78) * ROW, "text-anchor": "end" }));
  const across = Array.from({ length: layers + 1 }, (_, layer) => `M0 ${layer * heads * ROW}h${right}`), down = Array.from({ length: n + 1 }, (_, i) => `M${i * column} 0v${rows * ROW}`);
  const cells = svg("g", { transform: `scale(${column} ${ROW})`, "shape-rendering": "crispEdges" });
  paint(cells, values, n, limit);
  const area = svg("g", { transform: `translate(${LEFT} ${above})`, class: "area" }, svg("rect", { width: right, height: rows * ROW, fill: "transparent" }), cells,
    svg("path", { d: [...across, ...down].join(""), stroke: "var(--weave-edge, #777)", "stroke-width": 0.6, fill: "none", "stroke-opacity": 0.6 }),
    svg("rect", { x: chosen.position * column, y: row * ROW, width: column, height: ROW, fill: "none", stroke: "var(--md-accent-fg-color)", "stroke-width": 2 }));
  const drawing = svg("svg", { width: LEFT + right + 30, height: above + rows * ROW + 2, "aria-hidden": "true", style: "max-width: 100%; overflow: visible" }, svg("g", { class: "tokens" }, ...tokens), ...labels, area);
  return { drawing, limit };
}

/** @param {string} text */
const cell = (text, className = "n") => element("td", { textContent: text, className });

/** Return a table of the two answers' probabilities. @param {string} caption @param {{name: string, shares: number[]}[]} rows */
function sharesOf(caption, rows) {
  const column = (/** @type {string} */ text) => element("th", { scope: "col", className: "n", textContent: text });
  return element("table", {}, element("caption", { textContent: caption }),
    element("thead", {}, element("tr", {}, element("th", { scope: "col", textContent: "answer" }), column("before"), column("after"), column("other run"))),
    element("tbody", {}, ...rows.map(({ name, shares }) => element("tr", {}, cell(name, "token"), ...shares.map((p) => cell(percent(p)))))));
}

/** Return a table of the largest effects, each with a button that chooses its site.
 * @param {(Site & {effect: number})[]} ranked @param {(position: number) => string} name @param {(site: Site) => void} choose */
function largest(ranked, name, choose) {
  return element("table", {}, element("caption", { textContent: "The largest effects" }), element("tbody", {}, ...ranked.slice(0, 8).map((one) => {
    const button = element("button", { type: "button", textContent: `${one.layer}.${one.head}`, ariaLabel: `head ${one.layer}.${one.head} at position ${one.position}` });
    button.addEventListener("click", () => choose(one));
    return element("tr", {}, element("td", {}, button), cell(`${name(one.position)} (${one.position})`, "token"), cell(percent(one.effect).replace("-", "−")));
  })));
}
