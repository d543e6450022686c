// @ts-check
/** The attention-only models of code/residual/model.py, run in the reader's browser. Shapes as there, row-major. */

/**
 * @typedef {{data: Float32Array, shape: number[]}} Weights
 * @typedef {{q: number, heads: number, dHead: number, dModel: number, dVocab: number, context: number,
 *            layers: number, weights: Record<string, Weights>}} Model
 * @typedef {{logits: Float32Array, patterns: Float32Array[][], lengths: Float32Array[][]}} Run
 */

/** Return the tensors of a safetensors file (float16 or float32): a header in JSON, then the numbers. */
export function readSafetensors(/** @type {ArrayBuffer} */ file) {
  const view = new DataView(file);
  const length = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  /** @type {Record<string, Weights>} */
  const weights = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const start = 8 + length + from;
    const n = (to - from) / (dtype === "F16" ? 2 : 4);
    const data = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      data[i] = dtype === "F16" ? half(view.getUint16(start + 2 * i, true)) : view.getFloat32(start + 4 * i, true);
    }
    weights[name] = { data, shape };
  }
  return weights;
}

/** Return a float16 as a number: sign, five bits of exponent, ten of fraction. */
function half(/** @type {number} */ bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 1024 + fraction : fraction) * SCALES[exponent];
}
const SCALES = Float64Array.from({ length: 32 }, (_, e) => (e === 31 ? NaN : 2 ** (Math.max(e, 1) - 25))); // no infinities here

/** Return the model that has these weights, with its sizes. @returns {Model} */
export function modelOf(/** @type {Record<string, Weights>} */ weights) {
  const layers = Object.keys(weights).filter((name) => name.endsWith("attn.W_O")).length;
  const [heads, dHead, dModel] = weights["blocks.0.attn.W_O"].shape;
  if (dHead % 4 || dModel % 4) throw new Error(`d_head ${dHead} and d_model ${dModel} must be multiples of four`); // see dot, add
  return { q: dHead ** -0.5, heads, dHead, dModel, dVocab: weights.W_U.shape[1], context: weights.W_pos.shape[0], layers, weights };
}

/** Run the model on a row of tokens.
 * @param {Model} model
 * @param {number[]} tokens at most `model.context`
 * @param {{off?: Set<string>, frozen?: Float32Array[][] | null}} [change] heads to switch off ("1.0"), patterns to use
 * @returns {Run} logits [pos vocab]; patterns [layer][head] as [query key]; the lengths of values, [layer][head][pos]
 */
export function run(model, tokens, { off = new Set(), frozen = null } = {}) {
  const { heads, dHead, dModel, dVocab, weights } = model, n = tokens.length;
  const x = new Float32Array(n * dModel);
  tokens.forEach((token, i) => x.set(weights.W_E.data.subarray(token * dModel, (token + 1) * dModel), i * dModel));
  const patterns = [], lengths = [];
  for (let layer = 0; layer < model.layers; layer++) {
    const placed = x.map((value, i) => value + weights.W_pos.data[i]); // positions, for queries and keys only
    const { data: W } = weights[`blocks.${layer}.attn.W_QKV`], { data: W_O } = weights[`blocks.${layer}.attn.W_O`];
    const smear = weights[`blocks.${layer}.attn.smear`]?.data;
    const out = new Float32Array(n * dModel), layerPatterns = [], layerLengths = [];
    for (let head = 0; head < heads; head++) {
      const q = project(W, head, placed, n, dHead, dModel);
      let k = project(W, heads + head, placed, n, dHead, dModel);
      const v = project(W, 2 * heads + head, x, n, dHead, dModel);
      if (smear) {
        const own = 1 / (1 + Math.exp(-smear[head]));
        k = k.map((value, i) => own * value + (1 - own) * k[i < dHead ? i : i - dHead]);
      }
      const pattern = frozen ? frozen[layer][head] : attend(q, k, n, dHead, model.q);
      layerPatterns.push(pattern);
      layerLengths.push(writtenLengths(v, W_O, head, n, dHead, dModel));
      if (off.has(`${layer}.${head}`)) continue;
      const z = new Float32Array(n * dHead);
      for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) for (let d = 0; d < dHead; d++) {
        z[i * dHead + d] += pattern[i * n + j] * v[j * dHead + d];
      }
      add(out, z, W_O.subarray(head * dHead * dModel), n, dHead, dModel);
    }
    for (let i = 0; i < x.length; i++) x[i] += out[i];
    patterns.push(layerPatterns);
    lengths.push(layerLengths);
  }
  const logits = new Float32Array(n * dVocab);
  add(logits, x, weights.W_U.data, n, dModel, dVocab);
  return { logits, patterns, lengths };
}

/** Return x times one map of W: queries, keys, then values, of each head. Shape [pos d_head].
 * @type {(W: Float32Array, map: number, x: Float32Array, n: number, dHead: number, dModel: number) => Float32Array} */
export function project(W, map, x, n, dHead, dModel) {
  const projected = new Float32Array(n * dHead);
  for (let i = 0; i < n; i++) {
    for (let d = 0; d < dHead; d++) {
      const row = (map * dHead + d) * dModel;
      projected[i * dHead + d] = dot(W, row, x, i * dModel, dModel);
    }
  }
  return projected;
}

/** Return the dot product of n numbers from a[i] and b[j] on. Four sums at once, so that none waits for another.
 * @type {(a: Float32Array, i: number, b: Float32Array, j: number, n: number) => number} */
export function dot(a, i, b, j, n) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (const end = i + n; i < end; i += 4, j += 4) {
    s0 += a[i] * b[j]; s1 += a[i + 1] * b[j + 1]; s2 += a[i + 2] * b[j + 2]; s3 += a[i + 3] * b[j + 3];
  }
  return s0 + s1 + s2 + s3;
}

/** Add x W to out, four rows of W at a time, so that each sum is read and written a quarter as often, and two rows of x, so
 * that W is read half as often.
 * @type {(out: Float32Array, x: Float32Array, W: Float32Array, n: number, rows: number, columns: number) => void} */
export function add(out, x, W, n, rows, columns) {
  for (let i = 0; i < n; i += 2) for (let row = 0; row < rows; row += 4) {
    const W0 = row * columns, W1 = W0 + columns, W2 = W1 + columns, W3 = W2 + columns, at = i * rows + row, to = i * columns;
    const a = x[at], b = x[at + 1], c = x[at + 2], d = x[at + 3];
    if (i + 1 === n) {
      for (let j = 0; j < columns; j++) out[to + j] += a * W[W0 + j] + b * W[W1 + j] + c * W[W2 + j] + d * W[W3 + j];
      continue;
    }
    const next = at + rows, e = x[next], f = x[next + 1], g = x[next + 2], h = x[next + 3];
    for (let j = 0; j < columns; j++) {
      const w0 = W[W0 + j], w1 = W[W1 + j], w2 = W[W2 + j], w3 = W[W3 + j];
      out[to + j] += a * w0 + b * w1 + c * w2 + d * w3;
      out[to + columns + j] += e * w0 + f * w1 + g * w2 + h * w3;
    }
  }
}

/** Return softmax(q kᵀ scale), causal. @type {(q: Float32Array, k: Float32Array, n: number, d: number, s: number) => Float32Array} */
export function attend(q, k, n, dHead, scale) {
  const pattern = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    let most = -Infinity, total = 0;
    for (let j = 0; j <= i; j++) {
      const score = pattern[i * n + j] = scale * dot(q, i * dHead, k, j * dHead, dHead);
      most = Math.max(most, score);
    }
    for (let j = 0; j <= i; j++) total += pattern[i * n + j] = Math.exp(pattern[i * n + j] - most);
    for (let j = 0; j <= i; j++) pattern[i * n + j] /= total;
  }
  return pattern;
}

/** W_O W_Oᵀ of each head, by the weights W_O; `writtenLengths` fills it, and it goes with the model.
 * @type {WeakMap<Float32Array, Float32Array[]>} */
const GRAMS = new WeakMap();

/** Return the length of each position's value once it is written to the stream, ‖v W_O‖ (Kobayashi et al. 2020).
 * @type {(v: Float32Array, W_O: Float32Array, head: number, n: number, dHead: number, dModel: number) => Float32Array} */
function writtenLengths(v, W_O, head, n, dHead, dModel) {
  const known = GRAMS.get(W_O) ?? [], gram = known[head] ?? new Float32Array(dHead * dHead);
  GRAMS.set(W_O, known);
  if (!known[head]) for (let a = 0; a < dHead; a++) {
    for (let b = 0; b < dHead; b++) {
      let sum = 0;
      for (let m = 0; m < dModel; m++) sum += W_O[(head * dHead + a) * dModel + m] * W_O[(head * dHead + b) * dModel + m];
      gram[a * dHead + b] = sum;
    }
  }
  known[head] = gram;
  return Float32Array.from({ length: n }, (_, i) => {
    let sum = 0;
    for (let a = 0; a < dHead; a++) for (let b = 0; b < dHead; b++) sum += v[i * dHead + a] * gram[a * dHead + b] * v[i * dHead + b];
    return Math.sqrt(Math.max(0, sum));
  });
}

/** Return the probabilities of the token after position `i`. */
export function probabilities(/** @type {Run} */ run, /** @type {number} */ i, /** @type {number} */ dVocab) {
  const row = run.logits.subarray(i * dVocab, (i + 1) * dVocab), most = Math.max(...row);
  const p = row.map((value) => Math.exp(value - most)), total = p.reduce((sum, value) => sum + value, 0);
  return p.map((value) => value / total);
}

/** Return the loss of each token after the first, in nats. */
export function losses(/** @type {Run} */ run, /** @type {number[]} */ tokens, /** @type {number} */ dVocab) {
  return tokens.slice(1).map((token, i) => -Math.log(probabilities(run, i, dVocab)[token]));
}

/** Return a one-layer model's skip-trigrams "source … destination out", positions left out. For each head: how much the
 * destination prefers each source to the mean source (in nats of score), and how much seeing it raises each output above
 * the mean output (in nats, at full attention).
 * @param {Model} model @param {number} source @param {number} destination
 * @returns {{scores: Float32Array, outputs: Float32Array}[]} */
export function skipTrigrams(model, source, destination) {
  const { heads, dHead, dModel, dVocab, weights: { W_E, W_U, ...blocks } } = model;
  const { data: W } = blocks["blocks.0.attn.W_QKV"], { data: W_O } = blocks["blocks.0.attn.W_O"];
  const row = (/** @type {number} */ token) => W_E.data.subarray(token * dModel, (token + 1) * dModel);
  return Array.from({ length: heads }, (_, head) => {
    const q = project(W, head, row(destination), 1, dHead, dModel), v = project(W, 2 * heads + head, row(source), 1, dHead, dModel);
    const wanted = new Float32Array(dModel), written = new Float32Array(dModel); // W_K q, the key that the head looks for; v W_O
    for (let d = 0; d < dHead; d++) for (let m = 0; m < dModel; m++) {
      wanted[m] += q[d] * W[((heads + head) * dHead + d) * dModel + m] * model.q;
      written[m] += v[d] * W_O[(head * dHead + d) * dModel + m];
    }
    const scores = new Float32Array(dVocab), outputs = new Float32Array(dVocab);
    for (let t = 0; t < dVocab; t++) for (let m = 0; m < dModel; m++) {
      scores[t] += W_E.data[t * dModel + m] * wanted[m];
      outputs[t] += written[m] * W_U.data[m * dVocab + t];
    }
    return { scores: centred(scores), outputs: centred(outputs) };
  });
}

/** Return the values less their mean. @param {Float32Array} values */
function centred(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => value - mean);
}
