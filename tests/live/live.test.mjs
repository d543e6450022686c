// Tests of what the live elements compute, without a page: `node --test tests/live`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { losses, modelOf, probabilities, readSafetensors, run, skipTrigrams } from "../../code/live/lib/transformer.js";
import { tokenizerOf } from "../../code/live/lib/tokenizer.js";
import { ended, reason } from "../../code/live/lib/python.js";
import { visible, percent } from "../../code/live/lib/element.js";

const code = new URL("../../code/", import.meta.url);
const json = (path) => JSON.parse(readFileSync(new URL(path, code), "utf8"));
function model(name) {
  const bytes = readFileSync(new URL(`checkpoints/${name}.safetensors`, code));
  return modelOf(readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)));
}
const close = (a, b, tolerance = 1e-4) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);

test("each row of a pattern is a distribution over earlier positions", () => {
  const induction = model("induction"), tokens = Array.from({ length: 24 }, (_, i) => (i * 37) % 512);
  for (const layer of run(induction, tokens).patterns) for (const pattern of layer) for (let i = 0; i < 24; i++) {
    const row = pattern.subarray(i * 24, (i + 1) * 24);
    close(row.reduce((sum, value) => sum + value, 0), 1);
    assert.ok(row.subarray(i + 1).every((value) => value === 0));
  }
});

test("a later token does not change earlier logits", () => {
  const induction = model("induction"), a = run(induction, [0, 5, 9, 7]), b = run(induction, [0, 5, 9, 300]);
  for (let i = 0; i < 3 * induction.dVocab; i++) close(a.logits[i], b.logits[i]);
});

test("a repeat costs less the second time", () => {
  const induction = model("induction"), once = Array.from({ length: 20 }, (_, i) => 100 + ((i * 61) % 311));
  const nats = losses(run(induction, [0, ...once, ...once]), [0, ...once, ...once], induction.dVocab);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  assert.ok(mean(nats.slice(21)) < mean(nats.slice(0, 20)) - 1);
});

test("probabilities sum to one, and a loss is that of the next token", () => {
  const induction = model("induction"), tokens = [0, 17, 300, 42], result = run(induction, tokens);
  close(probabilities(result, 2, induction.dVocab).reduce((sum, value) => sum + value, 0), 1);
  close(losses(result, tokens, induction.dVocab)[1], -Math.log(probabilities(result, 1, induction.dVocab)[300]));
});

test("a one-layer model's logits for two tokens are the sum of its skip-trigrams and its direct path", () => {
  const layer = model("one-layer"), source = 700, destination = 400;
  layer.weights.W_pos.data.fill(0); // the lookup leaves positions out
  const { logits, patterns } = run(layer, [source, destination]), parts = skipTrigrams(layer, source, destination), own = skipTrigrams(layer, destination, destination);
  const { W_E, W_U } = layer.weights, expected = new Float64Array(layer.dVocab);
  for (let t = 0; t < layer.dVocab; t++) {
    for (let m = 0; m < layer.dModel; m++) expected[t] += W_E.data[destination * layer.dModel + m] * W_U.data[m * layer.dVocab + t];
  }
  parts.forEach((part, head) => {
    const share = 1 / (1 + Math.exp(part.scores[destination] - part.scores[source]));
    close(patterns[0][head][2], share);
    for (let t = 0; t < layer.dVocab; t++) expected[t] += share * part.outputs[t] + (1 - share) * own[head].outputs[t];
  });
  const difference = expected.map((value, t) => value - logits[layer.dVocab + t]); // a constant, because outputs are centred
  for (const value of difference) close(value, difference[0], 1e-3);
});

test("both tokenizers split a text into tokens that join to it", () => {
  for (const file of ["residual/files/tokenizer.json", "residual/files/tokenizer-2048.json"]) {
    const tokenizer = tokenizerOf(json(file)), text = " either peace or war; don't";
    assert.equal(tokenizer.encode(text).map(tokenizer.show).join(""), text);
  }
});

test("invisible characters are made visible, and shares are in percent", () => {
  assert.equal(visible(" a\n"), "·a⏎");
  assert.equal(percent(0.1234), "12.3 %");
});

test("code that ends Python is told in a sentence, and any other error is not", () => {
  const again = "All variables of this page are gone; Run starts a new Python.";
  for (const [given, why] of [
    [{ raised: "MemoryError" }, "the code needs more memory than a page has"],
    [{ died: "RuntimeError: memory access out of bounds" }, "the code needs more memory than a page has"],
    [{ died: "Maximum call stack size exceeded" }, "a function calls itself without end"],
    [{ raised: "SystemExit" }, "the code asked it to"],
    [{ died: "Program terminated with exit(1)" }, "the code asked it to"],
    [{ died: "Aborted(). Build with -sASSERTIONS for more info." }, "it broke down (Aborted())"],
  ]) assert.equal(ended(given), `Python ended: ${why}. ${again}`);
  assert.equal(ended({ raised: "ZeroDivisionError" }), "");
  assert.equal(reason({ raised: "ZeroDivisionError" }), "raised an error");
  assert.match(reason({ raised: "RecursionError" }), /calls itself without end$/);
});
