// Reads cases as JSON from standard input and prints what code/live computes for them: see test_live.py.
import { readFileSync } from "node:fs";
import { losses, modelOf, probabilities, readSafetensors, run } from "../../code/live/lib/transformer.js";
import { tokenizerOf } from "../../code/live/lib/tokenizer.js";

const cases = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = tokenizerOf(JSON.parse(readFileSync(cases.tokenizer, "utf8")));
const answer = { encoded: (cases.texts ?? []).map(tokenizer.encode), shown: (cases.ids ?? []).map(tokenizer.show), runs: [] };
for (const { file, tokens, off, freeze } of cases.runs ?? []) {
  const bytes = readFileSync(file);
  const model = modelOf(readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)));
  const whole = run(model, tokens);
  const result = run(model, tokens, { off: new Set(off), frozen: freeze ? whole.patterns : null });
  const start = performance.now();
  run(model, tokens);
  answer.runs.push({
    logits: Array.from(result.logits),
    patterns: result.patterns.map((layer) => layer.map((pattern) => Array.from(pattern))),
    lengths: result.lengths.map((layer) => layer.map((values) => Array.from(values))),
    losses: losses(result, tokens, model.dVocab),
    last: Array.from(probabilities(result, tokens.length - 1, model.dVocab)),
    milliseconds: performance.now() - start,
  });
}
process.stdout.write(JSON.stringify(answer));
