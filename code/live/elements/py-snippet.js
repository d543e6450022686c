// @ts-check
/**
 * <py-snippet>: a block of a note's Python with Run, Edit, Reset and Stop. All snippets of a page share one Python:
 * running the third runs the first two if they have not run yet. Python is fetched on the first Run, from this site.
 */
import { element } from "../lib/element.js";
import { heatmap } from "../lib/svg.js";

// The Python of the page: `run` and `stop` write this state, all snippets read it, and `stop` throws it away.
/** The worker that holds Python and the page's variables; made at the first run. @type {Worker | null} */
let worker = null;
/** The snippets that have run in this worker, with the code that ran. @type {Map<PySnippet, string>} */
let ran = new Map();
/** The snippet that runs, or that ran last. @type {PySnippet | null} */
let running = null;
/** Counts the calls of `stop`: a run that was waiting when it was called does not begin. */
let stops = 0;
/** Answers the request that the worker has not answered yet. @type {((answer: any) => void) | null} */
let answer = null;
/** The end of the last run: runs take turns. @type {Promise<any>} */
let queue = Promise.resolve();

/** Run code in the worker; `name` is what tracebacks call it. @param {string} code @param {string} name
 * @returns {Promise<any>} what Session.run gives, or {stopped} or {failed: the reason} */
function request(code, name) {
  worker ??= new Worker(new URL("../lib/python-worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    answer = resolve;
    const current = /** @type {Worker} */ (worker);
    current.onmessage = ({ data }) => resolve(data);
    current.onerror = (event) => resolve({ failed: event.message ?? "its worker did not start" });
    current.postMessage({ code, name });
  });
}

/** End what runs, and forget all variables. */
function stop() {
  worker?.terminate();
  worker = null;
  ran = new Map();
  stops++;
  answer?.({ stopped: true });
  answer = null;
}

export default class PySnippet extends HTMLElement {
  /** @type {any} */ code;
  /** @type {any} */ editor;
  /** @type {any} */ result;
  /** @type {any} */ status;
  /** @type {Record<string, any>} */ buttons = {};
  /** The author's code, as text and in its colours. */
  original = "";
  /** @type {Node[]} */ highlighted = [];

  connectedCallback() {
    if (this.editor || !this.classList.contains("live")) return;
    this.code = this.querySelector("code");
    this.original = this.code.textContent.replace(/\n$/, "");
    this.highlighted = Array.from(this.code.childNodes);
    const name = `snippet ${this.getAttribute("number")}`;
    const button = (/** @type {string} */ label, /** @type {() => void} */ act) => {
      this.buttons[label] = element("button", { type: "button", textContent: label, ariaLabel: `${label} ${name}`, className: "md-button" });
      this.buttons[label].addEventListener("click", act);
      return this.buttons[label];
    };
    this.editor = element("textarea", {
      hidden: true, spellcheck: false, autocapitalize: "off", ariaLabel: `the code of ${name}; Ctrl+Enter runs it, Escape leaves it`,
    });
    this.editor.addEventListener("input", () => this.fit());
    this.editor.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
    this.status = element("span", { role: "status" });
    this.result = element("div", { className: "weave-gave", role: "group", ariaLabel: `result of ${name}`, hidden: true });
    const bar = element("div", { className: "py-bar" },
      button("Run", () => this.run()), button("Edit", () => this.edit()),
      button("Reset", () => this.reset()), button("Stop", () => stop()), this.status);
    this.buttons.Reset.hidden = this.buttons.Stop.hidden = true;
    this.querySelector(".highlight")?.append(this.editor);
    this.querySelector(".weave-take")?.prepend(bar);
    this.append(this.result);
  }

  /** The code as the reader has it now. */
  get source() {
    return this.editor.hidden && !this.dataset.changed ? this.original : this.editor.value;
  }

  /** Every live snippet of the page down to this one. @returns {PySnippet[]} */
  get above() {
    const all = /** @type {PySnippet[]} */ (Array.from(document.querySelectorAll("py-snippet.live")));
    return all.slice(0, all.indexOf(this) + 1);
  }

  /** End the run of a snippet when the reader leaves its page. */
  disconnectedCallback() {
    if (running === this) stop();
  }

  /** Show Stop while the snippet runs or waits. Run stays enabled, because a disabled button loses the focus.
   * @param {boolean} busy */
  setBusy(busy) {
    this.buttons.Run.ariaDisabled = String(busy);
    if (this.buttons.Stop.matches(":focus")) this.buttons.Run.focus();
    this.buttons.Stop.hidden = !busy;
  }

  /** Run this snippet, after those above it that have not run as they are now. */
  run() {
    if (this.buttons.Run.ariaDisabled === "true") return;
    if (Array.from(ran.keys()).some((snippet) => !snippet.isConnected)) stop(); // they belong to a page that was left
    const before = stops;
    this.setBusy(true);
    this.status.textContent = "waits for what runs before it …";
    queue = queue.then(async () => {
      for (const snippet of this.above) {
        if (before !== stops || (snippet !== this && ran.get(snippet) === snippet.source)) continue;
        if (!(await snippet.runAlone(snippet === this)) && snippet !== this) {
          if (before === stops) this.status.textContent = "did not run: one above it raised an error";
          break;
        }
      }
      this.setBusy(false);
      if (this.status.textContent.startsWith("waits")) this.status.textContent = "did not run: Python ended before it";
    });
  }

  /** Run this snippet alone; return false if that failed. @param {boolean} asked by the reader, not needed by a snippet below */
  async runAlone(asked) {
    const code = this.source, started = performance.now();
    this.setBusy(true);
    running = this;
    this.status.textContent = worker ? "runs …" : "Python starts (9 MB, the first time) …";
    const given = await request(code, `snippet ${this.getAttribute("number")}`);
    this.setBusy(false);
    if (given.stopped || given.failed) {
      if (given.failed) stop();
      this.status.textContent = given.failed ? `Python did not start: ${given.failed}. Reload the page to try again.` : "stopped; all variables of this page are gone";
      return false;
    }
    // the snippets below depend on this one, and run again when they are needed
    for (const snippet of ran.keys()) if (this.compareDocumentPosition(snippet) & Node.DOCUMENT_POSITION_FOLLOWING) ran.delete(snippet);
    ran.set(this, code);
    const took = performance.now() - started;
    this.status.textContent = given.error ? "raised an error" : `${asked ? "ran" : "ran first"}, ${took < 1000 ? `${took.toFixed(0)} ms` : `${(took / 1000).toFixed(1)} s`}`;
    this.show(given);
    return !given.error;
  }

  /** Show what the snippet printed or raised, and an array as a picture.
   * @param {{text: string, error: string, array: number[][] | null}} given */
  show({ text, error, array }) {
    const output = (text + error).trimEnd();
    const parts = output ? [element("pre", { tabIndex: 0, className: error ? "py-error" : "" }, element("code", { textContent: output }))] : [];
    if (array) {
      const map = heatmap(array, `the last value as a picture: ${array.length} rows, ${array[0].length} columns; blue is positive, orange negative`);
      map.style.setProperty("--columns", String(array[0].length));
      map.style.aspectRatio = `${array[0].length} / ${array.length}`;
      parts.push(map);
    }
    this.querySelector(":scope > .weave-gave:not([role])")?.remove(); // the output from when the page was built
    this.result.hidden = !parts.length;
    this.result.replaceChildren(...parts);
  }

  /** Open the editor, or close it. */
  edit() {
    if (!this.editor.hidden) return this.leave();
    this.editor.value = this.source;
    this.editor.hidden = false;
    this.code.parentElement.hidden = true;
    this.nameEdit("Done");
    this.buttons.Reset.hidden = false;
    this.fit();
    this.editor.setSelectionRange(0, 0); // with the cursor at the end, long lines would be scrolled to their middle
    this.editor.focus();
  }

  /** Close the editor, and show the code as the reader changed it. */
  leave() {
    if (this.dataset.changed && this.editor.value === this.original) return this.reset();
    if (this.editor.value !== this.original) {
      this.dataset.changed = "yes";
      this.code.textContent = this.editor.value;
    }
    this.editor.hidden = true;
    this.code.parentElement.hidden = false;
    this.nameEdit("Edit");
    this.buttons.Reset.hidden = !this.dataset.changed;
    this.buttons.Edit.focus();
  }

  /** Bring back the author's code. */
  reset() {
    delete this.dataset.changed;
    this.editor.value = this.original;
    this.code.replaceChildren(...this.highlighted);
    this.editor.hidden = true;
    this.code.parentElement.hidden = false;
    this.nameEdit("Edit");
    this.buttons.Reset.hidden = true;
    this.status.textContent = "as it was written";
    this.buttons.Edit.focus();
  }

  /** Say what the button Edit does now. @param {string} label */
  nameEdit(label) {
    this.buttons.Edit.textContent = label;
    this.buttons.Edit.ariaLabel = `${label} snippet ${this.getAttribute("number")}`;
  }

  /** Ctrl+Enter runs, Escape closes the editor. @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape") this.leave();
    event.stopPropagation(); // the page's own shortcuts (search is f, s, /)
  }

  /** Give the editor as many rows as the code has. */
  fit() {
    this.editor.rows = this.editor.value.split("\n").length + 1;
  }
}
