// @ts-check
/**
 * Python for a page's snippets, away from the page so that it stays quick, and so that Stop can end it.
 * In: {name, code}. Out: what session.py's Session.run gives, or {failed: why Python did not start}.
 */
const here = (/** @type {string} */ file) => new URL(file, import.meta.url).href;

async function start() {
  const core = await fetch(here("../pyodide/pyodide.asm.wasm")); // Pyodide would wait for it for ever
  if (!core.ok) throw new Error(`pyodide.asm.wasm: ${core.status}`);
  await core.arrayBuffer(); // kept by the browser: it is not fetched twice
  const { loadPyodide } = await import(here("../pyodide/pyodide.mjs"));
  const python = await loadPyodide({ indexURL: here("../pyodide/"), packages: ["numpy", "einops"], stdin: () => null }); // nobody can answer input()
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
