// @ts-check
/** A trained model in the reader's browser, with the code that runs it. */

/** Fetch a file of this site. @param {string} file relative to this one @returns {Promise<Response>} */
async function get(file) {
  const answer = await fetch(new URL(file, import.meta.url));
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  return answer;
}

/** Return the bytes of an answer, and say on the way which share of them is there.
 * @param {Response} answer @param {(share: number) => void} heard @returns {Promise<ArrayBuffer>} */
async function bytes(answer, heard) {
  const total = Number(answer.headers.get("Content-Length")), reader = answer.body?.getReader();
  if (!total || !reader) return answer.arrayBuffer();
  /** @type {BlobPart[]} */
  const parts = [];
  for (let got = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    parts.push(value);
    heard(Math.min(1, (got += value.length) / total)); // of a compressed file, the total is too small
  }
}

/**
 * Load the checkpoint that the attribute `model` of an element names: hook.py publishes it because the page names it.
 * @param {HTMLElement} element
 * @param {(share: number) => void} [heard] is told how much is loaded
 * @returns {Promise<any>} `core`, the functions of transformer.js; `model`; and `tokenizer`
 */
export async function load(element, heard = () => {}) {
  const name = element.getAttribute("model");
  if (!name) throw new Error(`<${element.localName}> names no model`);
  const [core, bpe, weights, description] = await Promise.all([
    import("./transformer.js"),
    import("./tokenizer.js"),
    get(`../models/${name}.safetensors`).then((answer) => bytes(answer, heard)),
    get(`../models/${name}.tokenizer.json`).then((answer) => answer.json()),
  ]);
  return { core, model: core.modelOf(core.readSafetensors(weights)), tokenizer: bpe.tokenizerOf(description) };
}
