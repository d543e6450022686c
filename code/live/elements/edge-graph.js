// @ts-check
/**
 * <edge-graph model="induction" text="…">: the reader's text through an attention-only model, and what each of its edges,
 * from a part that writes to one that reads, does for the loss on the second half: each edge changed alone, exactly.
 */
import { edgesOf, firstCounted, scores, wholeLoss } from "../lib/edges.js";
import { element, onWidth } from "../lib/element.js";
import { LiveFigure } from "../lib/figure.js";
import { load } from "../lib/model.js";
import { inSlices } from "../lib/slices.js";
import { BLUE, ORANGE, svg } from "../lib/svg.js";

const LEAST_TOKENS = 6, MAX_TOKENS = 48, MAX_CHARACTERS = 300;
const TEXT = " kV7 qu%o Zax! 9Gd kV7 qu%o Zax! 9Gd";
const STYLE = `
  textarea { width: 100%; resize: vertical; }
  .threshold { display: flex; flex-wrap: wrap; gap: 0.3em 0.8em; align-items: center; } .threshold input { flex: 1 1 10rem; max-width: 20rem; accent-color: var(--md-accent-fg-color); min-height: 24px; }
  .parts { display: flex; flex-wrap: wrap; gap: 1em 1.6em; align-items: flex-start; }
  .graph { flex: 3 1 19rem; min-width: 0; } .graph svg { display: block; } .side { flex: 1 1 11rem; }
  .graph text { fill: var(--md-default-fg-color); font-size: 12px; text-anchor: middle; dominant-baseline: central; } .graph text.port { font-size: 11px; }
  .node { fill: var(--md-default-bg-color, #fff); stroke: var(--weave-edge, #777); }
  .edge { fill: none; stroke-opacity: 0.75; } .edge:hover { stroke-opacity: 1; }
  .edge.chosen { stroke-opacity: 1; stroke: var(--md-default-fg-color); }
  .side td { padding-right: 0.8em; white-space: nowrap; } .side button { padding: 0.05em 0.5em; white-space: nowrap; }
  .side button[aria-pressed="true"] { border-color: var(--md-accent-fg-color); outline: 1px solid var(--md-accent-fg-color); }
  .key { display: inline-block; width: 1.6em; height: 0.35em; vertical-align: middle; }`;

/** @typedef {{writer: string, reader: string, score: number}} Scored */

const nats = (/** @type {number} */ value) => `${value < -0.005 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const nameOf = (/** @type {{writer: string, reader: string}} */ { writer, reader }) => `${writer} → ${reader}`;
const KINDS = /** @type {Record<string, string>} */ ({ q: "queries", k: "keys", v: "values" });

/** Return an edge in words. @param {Scored} edge */
function words({ writer, reader, score }) {
  const [layer, head, kind] = reader.split("."), to = kind ? `the ${KINDS[kind]} of head ${layer}.${head}` : "the logits", from = writer === "embed" ? "the embedding" : `head ${writer}`;
  return `Without what ${to} read${kind ? "" : " directly"} from ${from}, the loss is ${Math.abs(score).toFixed(2)} nats per token ${score < 0 ? "lower" : "higher"}.`;
}

export default class EdgeGraph extends LiveFigure {
  static label = "Try it: draw every edge of the model on your text";
  static style = STYLE;

  /** @type {any} */ model;
  /** @type {any} */ tokenizer;
  /** @type {any} */ input;
  /** @type {any} */ status;
  /** @type {any} */ bar;
  /** @type {any} */ slider;
  /** @type {any} */ count;
  /** @type {any} */ graph;
  /** @type {any} */ side;
  /** @type {any} */ parts;
  /** The edges with their scores, largest first. @type {Scored[]} */ edges = [];
  /** The name of the chosen edge, if any. */
  chosen = "";
  /** What the status says when no edge is chosen. */
  summary = "";
  /** Counts computations, so that an old one ends when a new one starts. */
  turns = 0;
  timer = 0;

  async start() {
    Object.assign(this, await load(this));
    this.input = element("textarea", { rows: 2, value: this.getAttribute("text") ?? TEXT, maxLength: MAX_CHARACTERS, spellcheck: false, ariaLabel: "text for the model: its second half counts" });
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.update(), 400);
    });
    this.status = element("p", { role: "status" });
    this.bar = element("progress", { max: 1, hidden: true, ariaLabel: "edges changed" });
    this.slider = element("input", { type: "range", min: 0, max: 100, value: 30, ariaLabel: "least effect of the edges that are drawn" });
    this.slider.addEventListener("input", () => this.draw());
    this.count = element("span");
    this.graph = element("div", { className: "graph" });
    this.side = element("div", { className: "side" });
    const key = (/** @type {string} */ colour, /** @type {string} */ text) => {
      const line = element("span", { className: "key" });
      line.style.background = colour;
      return element("span", {}, line, ` ${text}`);
    };
    this.parts = element("div", {},
      element("div", { className: "threshold" }, this.slider, this.count), element("div", { className: "parts" }, this.graph, this.side),
      element("div", { className: "bar" }, key(BLUE, "the edge helps"), key(ORANGE, "the loss is lower without it")),
      element("p", { className: "quiet", textContent: "An edge is changed alone: the reader gets the writer's mean over the positions of this text in place of its output, and all else stays. " +
        "The score is the rise of the mean loss on the second half, without its first token. Heads are layer.head; q, k, v are what their queries, keys and values read." }));
    this.show(this.input, this.status, this.bar, this.parts);
    onWidth(this.parts, () => this.draw());
    this.update();
    this.input.focus();
  }

  /** Read the text, and score all edges, a few milliseconds at a time. */
  async update() {
    const { model } = this, mine = ++this.turns, tokens = this.tokenizer.encode(this.input.value), n = tokens.length;
    const problem = n < LEAST_TOKENS ? `Type a text of ${LEAST_TOKENS} tokens or more: its second half counts.`
      : n > MAX_TOKENS ? `The text has ${n} tokens; ${MAX_TOKENS} is the most that is computed here.` : "";
    this.parts.style.display = problem ? "none" : "";
    this.bar.hidden = Boolean(problem);
    if (problem) return void (this.status.textContent = problem);
    /** @type {Scored[]} */
    const edges = [], total = edgesOf(model).length, whole = wholeLoss(model, tokens);
    this.status.textContent = "Changing one edge at a time …";
    const ended = await inSlices(scores(model, tokens), (edge) => {
      edges.push(edge);
      this.bar.value = edges.length / total;
    }, () => mine !== this.turns);
    if (!ended) return;
    this.bar.hidden = true;
    this.edges = edges.sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    this.chosen = "";
    this.summary = `Loss on the second half: ${whole.toFixed(2)} nats per token, over ${n - firstCounted(n)} of ${n} tokens. The edge that matters most is ${nameOf(this.edges[0])}.`;
    this.status.textContent = this.summary;
    this.list();
    this.draw();
  }

  /** Show the ten edges with the largest scores as a table. */
  list() {
    const head = (/** @type {string} */ text, className = "") => element("th", { scope: "col", textContent: text, className });
    this.side.replaceChildren(element("table", {}, element("caption", { textContent: "The ten largest" }),
      element("thead", {}, element("tr", {}, head("edge"), head("nats", "n"))),
      element("tbody", {}, ...this.edges.slice(0, 10).map((edge) => {
        const button = element("button", { type: "button", textContent: nameOf(edge), ariaPressed: "false" });
        button.addEventListener("click", () => this.choose(edge));
        return element("tr", {}, element("td", {}, button), element("td", { className: "n", textContent: nats(edge.score) }));
      }))));
  }

  /** Mark an edge, or no longer, and say what it does. @param {Scored} edge */
  choose(edge) {
    this.chosen = this.chosen === nameOf(edge) ? "" : nameOf(edge);
    this.status.textContent = this.chosen ? words(edge) : this.summary;
    for (const button of this.side.querySelectorAll("button")) button.ariaPressed = String(button.textContent === this.chosen);
    this.draw();
  }

  /** Draw the edges above the threshold. */
  draw() {
    if (!this.edges.length) return;
    const most = Math.abs(this.edges[0].score) || 1, least = most * (this.slider.value / 100) ** 2; // finer where most edges are
    const shown = this.edges.filter(({ score }) => Math.abs(score) >= least), said = `at least ${least.toFixed(2)} nats: ${shown.length} of ${this.edges.length} edges`;
    this.count.textContent = said;
    this.slider.ariaValueText = said;
    const { layers, heads } = this.model, width = Math.min(560, Math.max(280, this.graph.clientWidth)), places = placesOf(layers, heads, width);
    /** @type {SVGElement[]} */
    const drawn = [];
    for (const edge of shown) {
      const chosen = nameOf(edge) === this.chosen;
      const line = svg("path", {
        d: route(places, edge, layers), class: chosen ? "edge chosen" : "edge", stroke: edge.score < 0 ? ORANGE : BLUE, "stroke-width": 0.8 + 6 * Math.abs(edge.score) / most,
      });
      const tip = svg("title");
      tip.textContent = `${nameOf(edge)}: ${nats(edge.score)} nats`;
      line.append(tip);
      line.addEventListener("click", () => this.choose(edge));
      drawn.splice(chosen ? drawn.length : 0, 0, line); // the chosen one on top
    }
    this.graph.replaceChildren(svg("svg", { width, height: places.height, role: "img", "aria-label": `graph of the ${said}; the ten largest are in the table` }, ...drawn, ...nodes(places, layers, heads)));
  }
}

/** Return where each part of the graph is: layers from the bottom to the top. @param {number} layers @param {number} heads @param {number} width */
function placesOf(layers, heads, width) {
  const step = 132, height = 74 + layers * step, node = width / heads, port = Math.min(20, node / 3.6);
  /** @type {{out: Record<string, [number, number]>, in: Record<string, [number, number]>}} */
  const { out, in: into } = { out: { embed: [width / 2, height - 30] }, in: { logits: [width / 2, 30] } };
  for (let layer = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) {
    const x = (head + 0.5) * node, y = height - 30 - (layer + 1) * step + 38;
    out[`${layer}.${head}`] = [x, y - 24];
    [..."qkv"].forEach((kind, i) => { into[`${layer}.${head}.${kind}`] = [x + (i - 1) * port, y + 22]; });
  }
  return { out, in: into, height, port, node, width };
}

/** Return the path of an edge: upwards, and through the gaps between the heads of the layers that it passes.
 * @param {ReturnType<typeof placesOf>} places @param {{writer: string, reader: string}} edge @param {number} layers */
function route(places, { writer, reader }, layers) {
  const from = writer === "embed" ? -1 : Number(writer.split(".")[0]), to = reader === "logits" ? layers : Number(reader.split(".")[0]);
  const end = places.in[reader], aside = reader === "logits" ? 0 : 4 * ("qkv".indexOf(reader.at(-1) ?? "") - 1); // so that lines in a gap stay apart
  let [x, y] = places.out[writer], path = `M${x} ${y}`;
  const go = (/** @type {number} */ nextX, /** @type {number} */ nextY) => {
    const middle = (y + nextY) / 2;
    path += `C${x} ${middle} ${nextX} ${middle} ${nextX} ${nextY}`;
    [x, y] = [nextX, nextY];
  };
  for (let layer = from + 1; layer < to; layer++) {
    const top = places.out[`${layer}.0`][1], straight = x + (end[0] - x) * (y - top) / (y - end[1]), gap = Math.round(straight / places.node) * places.node + aside;
    go(Math.min(places.width - 5, Math.max(5, gap)), top + 46);
    path += `V${y = top}`;
  }
  go(...end);
  return path;
}

/** Draw the parts that the edges join. @param {ReturnType<typeof placesOf>} places @param {number} layers @param {number} heads */
function nodes(places, layers, heads) {
  const label = (/** @type {string} */ text, /** @type {number} */ x, /** @type {number} */ y, name = "") => {
    const written = svg("text", { x, y, class: name });
    written.textContent = text;
    return written;
  };
  const box = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ w, /** @type {number} */ h) => svg("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 4, class: "node" });
  const [ex, ey] = places.out.embed, [lx, ly] = places.in.logits, all = [box(ex, ey + 13, 96, 26), label("embed", ex, ey + 13), box(lx, ly - 13, 96, 26), label("logits", lx, ly - 13)];
  for (let layer = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) {
    const [x, y] = places.out[`${layer}.${head}`];
    all.push(box(x, y + 23, 3 * places.port + 4, 46), label(`${layer}.${head}`, x, y + 13), ...[..."qkv"].map((kind, i) => label(kind, x + (i - 1) * places.port, y + 35, "port")));
  }
  return all;
}
