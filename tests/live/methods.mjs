// Reads one question as JSON from standard input and prints what code/live answers to it: see test_methods.py.
import { readFileSync } from "node:fs";
import { scores, wholeLoss } from "../../code/live/lib/edges.js";
import { forward, softmax, sweep, terms, top, unembed } from "../../code/live/lib/gpt.js";
import { modelOf, readSafetensors } from "../../code/live/lib/transformer.js";

const { file, asked, tokens, other, position, token } = JSON.parse(readFileSync(0, "utf8"));
const bytes = readFileSync(file), model = modelOf(readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)));
const answers = {
  run() {
    const { n, logits, streams, patterns, z, mlp } = forward(model, tokens), last = logits.subarray((n - 1) * model.dVocab), start = performance.now();
    forward(model, tokens);
    const milliseconds = performance.now() - start;
    const lens = streams.map((x) => Array.from(unembed(model, x.subarray((n - 1) * model.dModel))));
    return {
      logits: Array.from(logits), patterns: patterns.map((layer) => layer.map((pattern) => Array.from(pattern))), z: z.map((x) => Array.from(x)),
      mlp: mlp.map((x) => Array.from(x)), lens, p: Array.from(softmax(last)), top: top(last, 5), milliseconds,
    };
  },
  terms: () => terms(model, forward(model, tokens), position, token),
  sweep() {
    const run = forward(model, tokens), source = forward(model, other);
    return Array.from(sweep(model, run, source), ({ layer, head, position: at, logits }) => ({ layer, head, position: at, logit: logits[token] }));
  },
  edges: () => ({ whole: wholeLoss(model, tokens), scores: Array.from(scores(model, tokens)) }),
};
process.stdout.write(JSON.stringify(answers[asked]()));
