// @ts-check
/**
 * The models of code/residual/model.py that have norms, MLPs and biases (LayerNorm, exact GELU, learned positions, not
 * tied), run in the reader's browser: what each part writes, the lens, a logit's terms, and heads patched one at a time.
 */
import { add, dot } from "./transformer.js";

/**
 * @typedef {import("./transformer.js").Model} Model
 * @typedef {{n: number, tokens: number[], streams: Float32Array[], middle: Float32Array[], qkv: Float32Array[], z: Float32Array[],
 *            patterns: Float32Array[][], mlp: Float32Array[], logits: Float32Array}} Run
 *   By layer: the stream before it [pos d_model], and once more at the end; the stream between its heads and its MLP;
 *   queries, keys and values [pos 3·head·d_head]; z [pos head·d_head]; patterns [head][query key]; the MLP's output with
 *   its bias. The logits [pos vocab].
 * @typedef {{layer: number, head: number, position: number}} Site
 */

const EPS = 1e-5;

/** Return a block's weight. @param {Model} model @param {number} layer @param {string} name */
const weight = (model, layer, name) => model.weights[`blocks.${layer}.${name}`].data;

/** Run the model on a row of tokens. @param {Model} model @param {number[]} tokens @returns {Run} */
export function forward(model, tokens) {
  const { dModel, weights } = model, n = tokens.length;
  let x = new Float32Array(n * dModel);
  tokens.forEach((token, i) => {
    for (let d = 0; d < dModel; d++) x[i * dModel + d] = weights.W_E.data[token * dModel + d] + weights.W_pos.data[i * dModel + d];
  });
  /** @type {Run} */
  const run = { n, tokens, streams: [x], middle: [], qkv: [], z: [], patterns: [], mlp: [], logits: x };
  for (let layer = 0; layer < model.layers; layer++) {
    const qkv = projected(model, layer, x), { z, patterns } = mixed(model, qkv, n, 0);
    const middle = afterHeads(model, layer, x, z), mlp = neurons(model, layer, middle);
    x = plus(middle, mlp);
    run.qkv.push(qkv), run.z.push(z), run.patterns.push(patterns), run.middle.push(middle), run.mlp.push(mlp), run.streams.push(x);
  }
  run.logits = unembed(model, x);
  return run;
}

/** Return the logits of the last position when one head's z at one position is that of another run.
 * @param {Model} model @param {Run} run @param {Site} site @param {Run} source a run on as many tokens @returns {Float32Array} */
export function patched(model, run, { layer, head, position }, source) {
  const { dModel, dHead, heads, layers } = model, { n } = run, last = n - 1, width = heads * dHead;
  if (layer === layers - 1 && position < last) return run.logits.subarray(last * model.dVocab); // nothing later reads it
  const change = new Float32Array(dHead), from = position * width + head * dHead;
  for (let d = 0; d < dHead; d++) change[d] = source.z[layer][from + d] - run.z[layer][from + d];
  const here = run.middle[layer].slice(position * dModel, (position + 1) * dModel);
  add(here, change, weight(model, layer, "attn.W_O").subarray(head * dHead * dModel), 1, dHead, dModel);
  let x = run.streams[layer + 1].slice(position * dModel); // earlier positions do not see this one
  x.set(plus(here, neurons(model, layer, here)));
  for (let next = layer + 1; next < layers; next++) {
    const qkv = run.qkv[next].slice(), wanted = next === layers - 1 ? last : position;
    qkv.set(projected(model, next, x), position * 3 * width);
    const middle = afterHeads(model, next, x.subarray((wanted - position) * dModel), mixed(model, qkv, n, wanted).z);
    x = plus(middle, neurons(model, next, middle));
  }
  return unembed(model, x.subarray(x.length - dModel));
}

/** Patch each head at each position in turn, the last layers first, and yield the logits of the last position.
 * @param {Model} model @param {Run} run @param {Run} source @returns {Generator<Site & {logits: Float32Array}>} */
export function* sweep(model, run, source) {
  const width = model.heads * model.dHead, same = run.logits.subarray((run.n - 1) * model.dVocab);
  for (let layer = model.layers - 1; layer >= 0; layer--) for (let position = run.n - 1; position >= 0; position--) {
    for (let head = 0; head < model.heads; head++) {
      const at = position * width + head * model.dHead, site = { layer, head, position };
      let moved = false;
      for (let d = 0; d < model.dHead; d++) moved ||= run.z[layer][at + d] !== source.z[layer][at + d];
      yield { ...site, logits: moved ? patched(model, run, site, source) : same };
    }
  }
}

/** Return the terms of a logit at a position, with the final norm's scale as it is: they sum to the logit. All biases are
 * one term. Elhage et al. 2021; `residual.methods.attribution` has the formula.
 * @param {Model} model @param {Run} run @param {number} position @param {number} token
 * @returns {{label: string, step: number, value: number}[]} `step`: the layer that writes the term, -1 for none of them */
export function terms(model, run, position, token) {
  const { dModel, dHead, heads, dVocab, weights: { W_E, W_pos, W_U, b_U, "ln_final.w": w, "ln_final.b": b } } = model;
  const start = position * dModel, stream = run.streams[model.layers].subarray(start, start + dModel), { scale } = moments(stream);
  const read = new Float64Array(dModel); // what the logit reads the stream with; centred, so that terms need not be
  let bias = b_U.data[token], mean = 0;
  for (let d = 0; d < dModel; d++) {
    const u = W_U.data[d * dVocab + token];
    read[d] = (u * w.data[d]) / scale;
    bias += u * b.data[d];
    mean += read[d] / dModel;
  }
  for (let d = 0; d < dModel; d++) read[d] -= mean;
  const along = (/** @type {Float32Array} */ x, from = 0) => {
    let sum = 0;
    for (let d = 0; d < dModel; d++) sum += x[from + d] * read[d];
    return sum;
  };
  const found = [{ label: "embed", step: -1, value: along(W_E.data, run.tokens[position] * dModel) }, { label: "pos", step: -1, value: along(W_pos.data, start) }];
  for (let layer = 0; layer < model.layers; layer++) {
    const W_O = weight(model, layer, "attn.W_O"), after = along(weight(model, layer, "mlp.b_out"));
    for (let head = 0; head < heads; head++) {
      let value = 0;
      for (let d = 0; d < dHead; d++) value += run.z[layer][(position * heads + head) * dHead + d] * along(W_O, (head * dHead + d) * dModel);
      found.push({ label: `${layer}.${head}`, step: layer, value });
    }
    found.push({ label: `mlp.${layer}`, step: layer, value: along(run.mlp[layer], start) - after });
    bias += along(weight(model, layer, "attn.b_O")) + after;
  }
  return [...found, { label: "biases", step: -1, value: bias }];
}

/** Return the logits that a stream [pos d_model] would have if it were the last one: the logit lens, and the end itself.
 * @param {Model} model @param {Float32Array} x */
export function unembed(model, x) {
  const { dModel, dVocab, weights } = model, n = x.length / dModel;
  const logits = tiled(weights.b_U.data, n);
  add(logits, normed(x, weights["ln_final.w"].data, weights["ln_final.b"].data), weights.W_U.data, n, dModel, dVocab);
  return logits;
}

/** Return the probabilities of one row of logits. @param {Float32Array} row */
export function softmax(row) {
  let most = -Infinity, total = 0;
  for (const value of row) most = Math.max(most, value);
  const p = row.map((value) => Math.exp(value - most));
  for (const value of p) total += value;
  return p.map((value) => value / total);
}

/** Return the `count` largest entries' places, largest first. @param {Float32Array} values @param {number} count */
export function top(values, count) {
  /** @type {number[]} */
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === count && values[i] <= values[best[count - 1]]) continue;
    let at = best.length;
    while (at && values[best[at - 1]] < values[i]) at--;
    best.splice(at, 0, i);
    best.length = Math.min(best.length, count);
  }
  return best;
}

// Parts of a layer, each for the rows of x

/** Return the queries, keys and values. @param {Model} model @param {number} layer @param {Float32Array} x */
function projected(model, layer, x) {
  const { dModel, dHead, heads } = model, W = weight(model, layer, "attn.W_QKV"), n = x.length / dModel, width = 3 * heads * dHead;
  const seen = normed(x, weight(model, layer, "ln1.w"), weight(model, layer, "ln1.b")), out = tiled(weight(model, layer, "attn.b_QKV"), n);
  for (let row = 0; row < width; row++) for (let i = 0; i < n; i++) out[i * width + row] += dot(W, row * dModel, seen, i * dModel, dModel);
  return out;
}

/** Return what each head moves to the positions from `first` on, and its pattern.
 * @param {Model} model @param {Float32Array} qkv of all n positions @param {number} n @param {number} first */
function mixed({ dHead, heads, q: scale }, qkv, n, first) {
  const width = heads * dHead, z = new Float32Array((n - first) * width);
  const patterns = Array.from({ length: heads }, (_, head) => {
    const pattern = new Float32Array((n - first) * n), K = width + head * dHead, V = K + width;
    for (let i = first; i < n; i++) {
      const row = (i - first) * n, to = (i - first) * width + head * dHead;
      let most = -Infinity, total = 0;
      for (let j = 0; j <= i; j++) {
        const score = pattern[row + j] = scale * dot(qkv, i * 3 * width + head * dHead, qkv, j * 3 * width + K, dHead);
        if (score > most) most = score;
      }
      for (let j = 0; j <= i; j++) total += pattern[row + j] = Math.exp(pattern[row + j] - most);
      for (let j = 0; j <= i; j++) {
        const share = pattern[row + j] /= total, from = j * 3 * width + V;
        for (let d = 0; d < dHead; d++) z[to + d] += share * qkv[from + d];
      }
    }
    return pattern;
  });
  return { z, patterns };
}

/** Return the stream after the heads. @param {Model} model @param {number} layer @param {Float32Array} x @param {Float32Array} z */
function afterHeads(model, layer, x, z) {
  const n = x.length / model.dModel, out = plus(x, tiled(weight(model, layer, "attn.b_O"), n));
  add(out, z, weight(model, layer, "attn.W_O"), n, model.heads * model.dHead, model.dModel);
  return out;
}

/** Return the MLP's output. @param {Model} model @param {number} layer @param {Float32Array} x */
function neurons(model, layer, x) {
  const { dModel } = model, n = x.length / dModel, inward = tiled(weight(model, layer, "mlp.b_in"), n), width = inward.length / n;
  add(inward, normed(x, weight(model, layer, "ln2.w"), weight(model, layer, "ln2.b")), weight(model, layer, "mlp.W_in"), n, dModel, width);
  for (let i = 0; i < inward.length; i++) inward[i] = gelu(inward[i]);
  const out = tiled(weight(model, layer, "mlp.b_out"), n);
  add(out, inward, weight(model, layer, "mlp.W_out"), n, width, dModel);
  return out;
}

/** Return x Φ(x), with Φ to 1e-7 (Abramowitz and Stegun 1964, equation 7.1.26). @param {number} x */
function gelu(x) {
  const t = 1 / (1 + 0.3275911 * Math.SQRT1_2 * Math.abs(x));
  const tail = 0.5 * t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x / 2);
  return x * (x < 0 ? tail : 1 - tail);
}

/** Return LayerNorm of each row. @param {Float32Array} x @param {Float32Array} w @param {Float32Array} b */
function normed(x, w, b) {
  const width = w.length, out = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    const { mean, scale } = moments(x.subarray(start, start + width));
    for (let d = 0; d < width; d++) out[start + d] = ((x[start + d] - mean) / scale) * w[d] + b[d];
  }
  return out;
}

/** Return a row's mean and the scale that LayerNorm divides by. @param {Float32Array} row */
function moments(row) {
  let mean = 0, square = 0;
  for (let d = 0; d < row.length; d++) mean += row[d] / row.length;
  for (let d = 0; d < row.length; d++) square += (row[d] - mean) ** 2 / row.length;
  return { mean, scale: Math.sqrt(square + EPS) };
}

/** Return a row n times. @param {Float32Array} row @param {number} n */
function tiled(row, n) {
  const out = new Float32Array(n * row.length);
  for (let i = 0; i < n; i++) out.set(row, i * row.length);
  return out;
}

/** Return a + b. @param {Float32Array} a @param {Float32Array} b */
function plus(a, b) {
  const out = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) out[i] = a[i] + b[i];
  return out;
}
