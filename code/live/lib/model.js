// @ts-check
/** A trained model in the reader's browser, with the code that runs it. */

/** Fetch a file of this site. @param {string} file relative to this one @returns {Promise<Response>} */
async function get(file) {
  const answer = await fetch(new URL(file, import.meta.url));
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  return answer;
}

/**
 * Load the checkpoint that the attribute `model` of an element names: hook.py publishes it because the page names it.
 * @param {HTMLElement} element
 * @returns {Promise<any>} `core`, the functions of transformer.js; `model`; and `tokenizer`
 */
export async function load(element) {
  const name = element.getAttribute("model");
  if (!name) throw new Error(`<${element.localName}> names no model`);
  const [core, bpe, weights, description] = await Promise.all([
    import("./transformer.js"),
    import("./tokenizer.js"),
    get(`../models/${name}.safetensors`).then((answer) => answer.arrayBuffer()),
    get(`../models/${name}.tokenizer.json`).then((answer) => answer.json()),
  ]);
  return { core, model: core.modelOf(core.readSafetensors(weights)), tokenizer: bpe.tokenizerOf(description) };
}
