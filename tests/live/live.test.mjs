// What the live pieces compute, apart from any page: `node --test tests/live`.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { losses, modelOf, probabilities, readSafetensors, run, skipTrigrams } from "../../code/live/transformer.js";
import { tokenizerOf } from "../../code/live/tokenizer.js";
import { visible, percent } from "../../code/live/element.js";

const code = new URL("../../code/", import.meta.url);
const json = (path) => JSON.parse(readFileSync(new URL(path, code), "utf8"));
function model(name) {
  const bytes = readFileSync(new URL(`checkpoints/${name}.safetensors`, code));
  return modelOf(readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)));
}
const close = (a, b, tolerance = 1e-4) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);

test("attention rows are distributions over what came before", () => {
  const induction = model("induction"), tokens = Array.from({ length: 24 }, (_, i) => (i * 37) % 512);
  for (const layer of run(induction, tokens).patterns) for (const pattern of layer) for (let i = 0; i < 24; i++) {
    const row = pattern.subarray(i * 24, (i + 1) * 24);
    close(row.reduce((sum, value) => sum + value, 0), 1);
    assert.ok(row.subarray(i + 1).every((value) => value === 0));
  }
});

test("a later token changes nothing before it", () => {
  const induction = model("induction"), a = run(induction, [0, 5, 9, 7]), b = run(induction, [0, 5, 9, 300]);
  for (let i = 0; i < 3 * induction.dVocab; i++) close(a.logits[i], b.logits[i]);
});

test("a repeat costs less the second time", () => {
  const induction = model("induction"), once = Array.from({ length: 20 }, (_, i) => 100 + ((i * 61) % 311));
  const found = losses(run(induction, [0, ...once, ...once]), [0, ...once, ...once], induction.dVocab);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  assert.ok(mean(found.slice(21)) < mean(found.slice(0, 20)) - 1);
});

test("probabilities sum to one, and the loss is of the token that came", () => {
  const induction = model("induction"), tokens = [0, 17, 300, 42], found = run(induction, tokens);
  close(probabilities(found, 2, induction.dVocab).reduce((sum, value) => sum + value, 0), 1);
  close(losses(found, tokens, induction.dVocab)[1], -Math.log(probabilities(found, 1, induction.dVocab)[300]));
});

test("skip-trigrams are the one-layer model: its logits for two tokens, put together from its parts", () => {
  const one = model("one-layer"), source = 700, destination = 400;
  one.weights.W_pos.data.fill(0); // the lookup leaves positions out
  const { logits, patterns } = run(one, [source, destination]), parts = skipTrigrams(one, source, destination), own = skipTrigrams(one, destination, destination);
  const { W_E, W_U } = one.weights, expected = new Float64Array(one.dVocab);
  for (let t = 0; t < one.dVocab; t++) {
    for (let m = 0; m < one.dModel; m++) expected[t] += W_E.data[destination * one.dModel + m] * W_U.data[m * one.dVocab + t];
  }
  parts.forEach((part, head) => {
    const share = 1 / (1 + Math.exp(part.scores[destination] - part.scores[source]));
    close(patterns[0][head][2], share);
    for (let t = 0; t < one.dVocab; t++) expected[t] += share * part.outputs[t] + (1 - share) * own[head].outputs[t];
  });
  const difference = expected.map((value, t) => value - logits[one.dVocab + t]); // a constant: outputs are centred
  for (const value of difference) close(value, difference[0], 1e-3);
});

test("the second tokenizer splits and joins as the first", () => {
  for (const file of ["residual/files/tokenizer.json", "residual/files/tokenizer-2048.json"]) {
    const tokenizer = tokenizerOf(json(file)), text = " either peace or war; don't";
    assert.equal(tokenizer.encode(text).map(tokenizer.show).join(""), text);
  }
});

test("what cannot be seen is shown, and shares are percent", () => {
  assert.equal(visible(" a\n"), "·a⏎");
  assert.equal(percent(0.1234), "12.3 %");
});

test("the page's own JavaScript stays small: 1,500 lines, each file one idea", () => {
  const files = readdirSync(new URL("live/", code)).filter((name) => name.endsWith(".js"));
  const lines = files.map((name) => readFileSync(new URL(`live/${name}`, code), "utf8").split("\n").length);
  assert.ok(lines.reduce((sum, n) => sum + n, 0) <= 1500, `${lines}`);
  assert.ok(Math.max(...lines) <= 220, `${files} ${lines}`);
});
