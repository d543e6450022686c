// @ts-check
/**
 * Python for a page's snippets, in a worker so that the page stays responsive and Stop can end it.
 * Messages in: what session.py's Session.answer takes; a lab's `checks` is an address, and its `models` are names.
 * Messages out: what that gives, {failed: why Python did not start}, or {died: why it ended}.
 */
const here = (/** @type {string} */ file) => new URL(file, import.meta.url).href;
const HOME = "/home/pyodide/";

/** Fetch a file of the site. @param {string} address */
async function get(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.split("/").pop()}: ${answer.status}`);
  return answer;
}

/** Start Python; return it and its Session.answer, which takes and gives text. */
async function start() {
  const core = await get(here("../../pyodide/pyodide.asm.wasm")); // where it is missing, Pyodide would wait forever
  await core.arrayBuffer(); // the browser keeps it: it is not fetched twice
  const { loadPyodide } = await import(here("../../pyodide/pyodide.mjs"));
  const python = await loadPyodide({ indexURL: here("../../pyodide/"), packages: ["numpy", "einops"], stdin: () => null }); // nobody can answer input()
  python.FS.writeFile(`${HOME}session.py`, await (await get(here("session.py"))).text());
  const answer = python.runPython("import json, session; s = session.Session(); lambda asked: json.dumps(s.answer(json.loads(asked)))");
  return { python, answer };
}

const ready = start();
/** The files that Python has; filled by `place`. @type {Set<string>} */
const placed = new Set();

/** Give Python a file of the site. @param {any} python @param {string} address @param {string} name */
async function place(python, address, name) {
  if (!placed.has(name)) python.FS.writeFile(HOME + name, new Uint8Array(await (await get(address)).arrayBuffer()));
  placed.add(name);
}

self.onmessage = async ({ data }) => {
  let session;
  try {
    session = await ready;
    if (data.lab) {
      await place(session.python, data.checks, "labs.py");
      for (const model of data.models.split(" ").filter(Boolean)) await place(session.python, here(`../models/${model}.safetensors`), `${model}.safetensors`);
      data = { ...data, checks: `${HOME}labs.py`, models: HOME };
    }
  } catch (problem) {
    return self.postMessage({ failed: String(/** @type {Error} */ (problem).message ?? problem) });
  }
  try {
    self.postMessage(JSON.parse(session.answer(JSON.stringify(data))));
  } catch (problem) { // Python itself broke
    self.postMessage({ died: String(/** @type {Error} */ (problem).message ?? problem).trim().split("\n").pop() });
  }
};
