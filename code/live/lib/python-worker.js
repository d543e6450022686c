// @ts-check
/**
 * Python for a page's snippets, in a worker so that the page stays responsive and Stop can end it.
 * Messages in: {name, code}. Messages out: what session.py's Session.run gives, or {failed: why Python did not start}.
 */
const here = (/** @type {string} */ file) => new URL(file, import.meta.url).href;

/** Start Python; return its Session.run, which takes and gives text. */
async function start() {
  const core = await fetch(here("../../pyodide/pyodide.asm.wasm")); // where it is missing, Pyodide would wait forever
  if (!core.ok) throw new Error(`pyodide.asm.wasm: ${core.status}`);
  await core.arrayBuffer(); // the browser keeps it: it is not fetched twice
  const { loadPyodide } = await import(here("../../pyodide/pyodide.mjs"));
  const python = await loadPyodide({ indexURL: here("../../pyodide/"), packages: ["numpy", "einops"], stdin: () => null }); // nobody can answer input()
  const module = await (await fetch(here("session.py"))).text();
  python.FS.writeFile("/home/pyodide/session.py", module);
  return python.runPython("import json, session; s = session.Session(); lambda code, name: json.dumps(s.run(code, name))");
}

const ready = start();

self.onmessage = async ({ data }) => {
  try {
    const run = await ready;
    self.postMessage(JSON.parse(run(data.code, data.name)));
  } catch (problem) {
    self.postMessage({ failed: String(/** @type {Error} */ (problem).message ?? problem) });
  }
};
