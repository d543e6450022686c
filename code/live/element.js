// @ts-check
/** What the live pieces share: making elements, asking this site for a file, showing tokens and numbers. */

/** @param {string} tag @param {Record<string, any>} [set] @param {(Node | string)[]} children @returns {any} */
export function element(tag, set = {}, ...children) {
  const made = Object.assign(document.createElement(tag), set);
  made.append(...children);
  return made;
}

/** A file that lies beside these modules. @param {string} file */
export const beside = (file) => new URL(file, import.meta.url);

/** @param {string} file @returns {Promise<Response>} */
export async function get(file) {
  const answer = await fetch(beside(file));
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  return answer;
}

/** A token as it can be seen. @param {string} text */
export const visible = (text) => text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\p{Cc}/gu, (one) => `‹${one.charCodeAt(0).toString(16).padStart(2, "0")}›`);

/** @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A trained model and its tokenizer, beside these modules. @param {string} name @param {string} tokenizer @returns {Promise<any>} */
export async function load(name, tokenizer) {
  const [core, bpe, weights, description] = await Promise.all([
    import(beside("transformer.js").href),
    import(beside("tokenizer.js").href),
    get(`${name}.safetensors`).then((answer) => answer.arrayBuffer()),
    get(tokenizer).then((answer) => answer.json()),
  ]);
  return { core, model: core.modelOf(core.readSafetensors(weights)), tokenizer: bpe.tokenizerOf(description) };
}

/** A button that starts something slow: says so, and what went wrong, and lets the reader try again.
 * @param {string} label @param {() => Promise<void>} start */
export function starter(label, start) {
  const button = element("button", { type: "button", textContent: label });
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "loading …";
    try {
      await start();
    } catch (problem) {
      button.disabled = false;
      button.textContent = `It could not be loaded (${/** @type {Error} */ (problem).message}). Try again`;
    }
  });
  return button;
}

/** The look of everything in a shadow root; what is inherited (colour, faces) comes from the page. */
export const STYLE = `
  :host { display: block; font: 0.8rem/1.45 var(--ui-font, sans-serif); color: var(--md-default-fg-color); margin: 1.2em 0; }
  button, select, textarea, input:not([type]) { font: inherit; color: inherit; background: var(--weave-wash, transparent); border: 1px solid var(--weave-edge, #777); border-radius: 3px; box-sizing: border-box; }
  button { cursor: pointer; padding: 0.25em 0.7em; min-height: 24px; }
  button:disabled { cursor: progress; }
  textarea, input:not([type]) { padding: 0.4em 0.6em; }
  :focus-visible { outline: 2px solid var(--md-accent-fg-color); outline-offset: 1px; }
  .bar { display: flex; flex-wrap: wrap; gap: 0.4em 1.1em; align-items: center; margin: 0.5em 0; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th { text-align: left; font-weight: 600; } td, th { padding: 0.1em 1em 0.1em 0; } td.n, th.n { text-align: right; }
  .token { white-space: pre; font-family: var(--md-code-font, monospace); }
  .quiet { color: var(--weave-quiet, inherit); }
  p { margin: 0.5em 0; }`;
