// Reads cases from standard input and answers with what code/live computes: see test_live.py.
import { readFileSync } from "node:fs";
import { losses, modelOf, probabilities, readSafetensors, run } from "../../code/live/transformer.js";
import { tokenizerOf } from "../../code/live/tokenizer.js";

const asked = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = tokenizerOf(JSON.parse(readFileSync(asked.tokenizer, "utf8")));
const answer = { encoded: (asked.texts ?? []).map(tokenizer.encode), shown: (asked.ids ?? []).map(tokenizer.show), runs: [] };
for (const { file, tokens, off, freeze } of asked.runs ?? []) {
  const bytes = readFileSync(file);
  const model = modelOf(readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)));
  const whole = run(model, tokens);
  const found = run(model, tokens, { off: new Set(off), frozen: freeze ? whole.patterns : null });
  const start = performance.now();
  run(model, tokens);
  answer.runs.push({
    logits: Array.from(found.logits),
    patterns: found.patterns.map((layer) => layer.map((pattern) => Array.from(pattern))),
    lengths: found.lengths.map((layer) => layer.map((values) => Array.from(values))),
    losses: losses(found, tokens, model.dVocab),
    last: Array.from(probabilities(found, tokens.length - 1, model.dVocab)),
    milliseconds: performance.now() - start,
  });
}
process.stdout.write(JSON.stringify(answer));
