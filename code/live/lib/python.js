// @ts-check
/** The one Python of a page, in a worker, and what its snippets and labs have to know of each other. */

/** `request` and `stop` write this state, all snippets read it, and `stop` throws it away. */
export const python = {
  /** Holds Python and the page's variables; made at the first run. @type {Worker | null} */
  worker: null,
  /** The snippets that have run in this worker, with the code that ran. @type {Map<any, string>} */
  ran: new Map(),
  /** The snippet or lab that runs, or that ran last. @type {any} */
  running: null,
  /** Counts the calls of `stop`: a run that was waiting when it was called does not begin. */
  stops: 0,
  /** The end of the last run: runs take turns. @type {Promise<any>} */
  queue: Promise.resolve(),
};

/** Answers the request that the worker has not answered yet. @type {((answer: any) => void) | null} */
let answer = null;

/** Ask the worker, which starts if there is none. @param {Record<string, string>} asked what session.py's Session.answer takes
 * @returns {Promise<any>} what that gives, or {stopped}, or {failed: why Python did not start}, or {died: why it ended} */
export function request(asked) {
  python.worker ??= new Worker(new URL("python-worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    answer = resolve;
    const current = /** @type {Worker} */ (python.worker);
    current.onmessage = ({ data }) => resolve(data);
    current.onerror = (event) => resolve({ failed: event.message ?? "its worker did not start" });
    current.postMessage(asked);
  });
}

/** End what runs, and forget all variables. */
export function stop() {
  python.worker?.terminate();
  python.worker = null;
  python.ran = new Map();
  python.stops++;
  answer?.({ stopped: true });
  answer = null;
}

const RECURSION = "a function calls itself without end";
/** Why Python ended, by what the error says. @type {[RegExp, string][]} */
const CAUSES = [
  [/call stack|recursion/i, RECURSION],
  [/memory|allocation/i, "the code needs more memory than a page has"],
  [/exit/i, "the code asked it to"],
];

/** Say in a sentence why Python is gone, and see to it that the next run starts anew; "" if Python goes on.
 * @param {any} given the answer to a request @returns {string} */
export function ended(given) {
  if (given.stopped) return "stopped; all variables of this page are gone";
  const cause = given.died ?? (["MemoryError", "SystemExit"].includes(given.raised) ? given.raised : "");
  if (!given.failed && !cause) return "";
  stop();
  if (given.failed) return `Python did not start: ${given.failed}. Reload the page to try again.`;
  const why = CAUSES.find(([says]) => says.test(cause))?.[1] ?? `it broke down (${cause.split(". ")[0]})`;
  return `Python ended: ${why}. All variables of this page are gone; Run starts a new Python.`;
}

/** Say what an error means, where its name does not. @param {any} given the answer to a request @returns {string} */
export function reason({ raised }) {
  if (raised === "RecursionError") return `raised an error: ${RECURSION}`;
  if (raised === "ModuleNotFoundError") return "raised an error: the Python of this page has numpy, einops and the standard library";
  return "raised an error";
}
