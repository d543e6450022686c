// @ts-check
/**
 * The edges of an attention-only model without norms: what one head reads from another, each changed alone, exactly, as
 * `patch_edges` of code/residual/methods/edges.py does. Names as there: writers "embed", "0.1"; readers "1.1.k", "logits".
 */
import { add, attend, project } from "./transformer.js";

/**
 * @typedef {import("./transformer.js").Model} Model
 * @typedef {{writer: string, reader: string}} Edge
 */

/** Return a layer's name of each head. @param {Model} model @param {number} layer */
const headsOf = (model, layer) => Array.from({ length: model.heads }, (_, head) => `${layer}.${head}`);

/** Return all edges, in the order of their readers. @param {Model} model @returns {Edge[]} */
export function edgesOf(model) {
  const writers = ["embed"], edges = [];
  for (let layer = 0; layer < model.layers; layer++) {
    for (const head of headsOf(model, layer)) for (const kind of "qkv") for (const writer of writers) edges.push({ writer, reader: `${head}.${kind}` });
    writers.push(...headsOf(model, layer));
  }
  return [...edges, ...writers.map((writer) => ({ writer, reader: "logits" }))];
}

/** Return the first position whose token counts: the second half without its first token, which nothing announces. @param {number} n */
export const firstCounted = (n) => Math.ceil(n / 2) + 1;

/** Yield for each edge how much the loss on the second half rises, in nats per token, when the reader gets the writer's
 * mean over the positions of this text instead of its output at each of them.
 * @param {Model} model without smeared keys @param {number[]} tokens @returns {Generator<Edge & {score: number}, void>} */
export function* scores(model, tokens) {
  const { dModel, heads } = model, base = record(model, tokens), n = tokens.length, whole = loss(model, base.streams[model.layers], tokens);
  /** @type {Map<string, Float32Array>} */
  const changes = new Map([["embed", toMean(base.streams[0], n)]]);
  base.written.flat().forEach((term, i) => changes.set(`${Math.floor(i / heads)}.${i % heads}`, toMean(term, n)));
  for (const { writer, reader } of edgesOf(model)) {
    const change = /** @type {Float32Array} */ (changes.get(writer));
    if (reader === "logits") {
      yield { writer, reader, score: loss(model, plus(base.streams[model.layers], change), tokens) - whole };
      continue;
    }
    const [layer, head] = reader.split(".").map(Number), kind = "qkv".indexOf(reader.at(-1) ?? ""), maps = base.maps[layer][head].slice();
    maps[kind] = plus(maps[kind], map(model, layer, kind * heads + head, change, n));
    const now = written(model, layer, head, maps, n), old = base.written[layer][head];
    let x = base.streams[layer + 1].map((value, i) => value + now[i] - old[i]);
    for (let next = layer + 1; next < model.layers; next++) x = after(model, next, x, n).x;
    yield { writer, reader, score: loss(model, x, tokens) - whole };
  }
}

/** Return the mean loss of the tokens that count, in nats, if nothing is changed. @param {Model} model @param {number[]} tokens */
export const wholeLoss = (model, tokens) => loss(model, record(model, tokens).streams[model.layers], tokens);

/** Run the model; return the streams, each head's queries, keys and values, and what it writes. @param {Model} model @param {number[]} tokens */
function record(model, tokens) {
  const { dModel, weights } = model, n = tokens.length;
  let x = new Float32Array(n * dModel);
  tokens.forEach((token, i) => x.set(weights.W_E.data.subarray(token * dModel, (token + 1) * dModel), i * dModel));
  /** @type {{streams: Float32Array[], maps: Float32Array[][][], written: Float32Array[][]}} */
  const run = { streams: [x], maps: [], written: [] };
  for (let layer = 0; layer < model.layers; layer++) {
    const done = after(model, layer, x, n);
    x = done.x;
    run.maps.push(done.maps), run.written.push(done.terms), run.streams.push(x);
  }
  return run;
}

/** Run one layer on a stream. @param {Model} model @param {number} layer @param {Float32Array} x @param {number} n */
function after(model, layer, x, n) {
  const placed = x.map((value, i) => value + model.weights.W_pos.data[i]), out = x.slice(); // positions, for queries and keys only
  /** @type {Float32Array[][]} */
  const maps = [], terms = [];
  for (let head = 0; head < model.heads; head++) {
    const own = [placed, placed, x].map((input, kind) => map(model, layer, kind * model.heads + head, input, n)), term = written(model, layer, head, own, n);
    maps.push(own), terms.push(term);
    for (let i = 0; i < out.length; i++) out[i] += term[i];
  }
  return { x: out, maps, terms: /** @type {Float32Array[]} */ (/** @type {unknown} */ (terms)) };
}

/** Return x times one map. @param {Model} model @param {number} layer @param {number} which @param {Float32Array} x @param {number} n */
const map = ({ weights, dHead, dModel }, layer, which, x, n) => project(weights[`blocks.${layer}.attn.W_QKV`].data, which, x, n, dHead, dModel);

/** Return what a head writes to the stream, z W_O. @param {Model} model @param {number} layer @param {number} head @param {Float32Array[]} maps @param {number} n */
function written({ weights, dHead, dModel, q: scale }, layer, head, [q, k, v], n) {
  const pattern = attend(q, k, n, dHead, scale), z = new Float32Array(n * dHead), out = new Float32Array(n * dModel);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) for (let d = 0; d < dHead; d++) z[i * dHead + d] += pattern[i * n + j] * v[j * dHead + d];
  add(out, z, weights[`blocks.${layer}.attn.W_O`].data.subarray(head * dHead * dModel), n, dHead, dModel);
  return out;
}

/** Return the mean loss of the tokens that count, from the last stream. @param {Model} model @param {Float32Array} x @param {number[]} tokens */
function loss({ weights, dModel, dVocab }, x, tokens) {
  const first = firstCounted(tokens.length), n = tokens.length - first, logits = new Float32Array(n * dVocab);
  add(logits, x.subarray((first - 1) * dModel), weights.W_U.data, n, dModel, dVocab);
  let total = 0;
  for (let i = 0; i < n; i++) {
    let most = -Infinity, sum = 0;
    for (let t = 0; t < dVocab; t++) most = Math.max(most, logits[i * dVocab + t]);
    for (let t = 0; t < dVocab; t++) sum += Math.exp(logits[i * dVocab + t] - most);
    total += most + Math.log(sum) - logits[i * dVocab + tokens[first + i]];
  }
  return total / n;
}

/** Return what turns each row into the mean of all rows. @param {Float32Array} x @param {number} n */
function toMean(x, n) {
  const width = x.length / n, mean = new Float64Array(width);
  x.forEach((value, i) => { mean[i % width] += value / n; });
  return x.map((value, i) => mean[i % width] - value);
}

/** Return a + b. @param {Float32Array} a @param {Float32Array} b */
const plus = (a, b) => a.map((value, i) => value + b[i]);
