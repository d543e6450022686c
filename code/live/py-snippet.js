// @ts-check
/**
 * <py-snippet>: a block of a note's Python with Run, Edit, Reset and Stop. One Python serves all snippets of a page:
 * running the third runs the first two if they have not run yet. It comes on the first Run, from this site.
 */
import { element } from "./element.js";
import { heatmap } from "./svg.js";

/** @type {Worker | null} */
let worker = null;
/** Those of the page that the worker belongs to, with the code that ran. @type {Map<PySnippet, string>} */
let ran = new Map();
/** @type {PySnippet | null} */
let running = null;
/** How often Python was ended: what waited for it then does not begin. */
let ends = 0;
/** What ends the run that waits for an answer. @type {((answer: any) => void) | null} */
let answered = null;
/** One run after the other. @type {Promise<any>} */
let queue = Promise.resolve();

/** @param {string} code @param {string} name @returns {Promise<any>} */
function ask(code, name) {
  worker ??= new Worker(new URL("py-worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    answered = resolve;
    const running = /** @type {Worker} */ (worker);
    running.onmessage = ({ data }) => resolve(data);
    running.onerror = (event) => resolve({ failed: event.message ?? "its worker did not start" });
    running.postMessage({ code, name });
  });
}

/** Forget all variables, and end what runs. @param {any} [answer] */
function stop(answer) {
  worker?.terminate();
  worker = null;
  ran = new Map();
  ends++;
  answered?.(answer ?? { stopped: true });
  answered = null;
}

export class PySnippet extends HTMLElement {
  /** @type {any} */ code;
  /** @type {any} */ editor;
  /** @type {any} */ result;
  /** @type {any} */ status;
  /** @type {Record<string, any>} */ buttons = {};
  written = "";
  /** @type {Node[]} what was written, in its colours */ lit = [];

  connectedCallback() {
    if (this.editor || !this.classList.contains("live")) return;
    this.code = this.querySelector("code");
    this.written = this.code.textContent.replace(/\n$/, "");
    this.lit = Array.from(this.code.childNodes);
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

  /** The code as it now stands. */
  get source() {
    return this.editor.hidden && !this.dataset.changed ? this.written : this.editor.value;
  }

  /** Every live snippet of the page down to this one. @returns {PySnippet[]} */
  get above() {
    const all = /** @type {PySnippet[]} */ (Array.from(document.querySelectorAll("py-snippet.live")));
    return all.slice(0, all.indexOf(this) + 1);
  }

  /** A page that is left takes its run along. */
  disconnectedCallback() {
    if (running === this) stop();
  }

  /** Run waits and runs only once; it stays enabled, for a disabled button loses the focus. @param {boolean} yes */
  busy(yes) {
    this.buttons.Run.ariaDisabled = String(yes);
    if (this.buttons.Stop.matches(":focus")) this.buttons.Run.focus();
    this.buttons.Stop.hidden = !yes;
  }

  run() {
    if (this.buttons.Run.ariaDisabled === "true") return;
    if (Array.from(ran.keys()).some((one) => !one.isConnected)) stop(); // those were of another page
    const before = ends;
    this.busy(true);
    this.status.textContent = "waits for what runs before it …";
    queue = queue.then(async () => {
      for (const one of this.above) {
        if (before !== ends || (one !== this && ran.get(one) === one.source)) continue;
        if (!(await one.once(one === this)) && one !== this) {
          if (before === ends) this.status.textContent = "did not run: one above it raised an error";
          break;
        }
      }
      this.busy(false);
      if (this.status.textContent.startsWith("waits")) this.status.textContent = "did not run: Python ended before it";
    });
  }

  /** @param {boolean} asked whether the reader asked for this one; else a snippet below needs it */
  async once(asked) {
    const code = this.source, started = performance.now();
    this.busy(true);
    running = this;
    this.status.textContent = worker ? "runs …" : "Python starts (9 MB, the first time) …";
    const answer = await ask(code, `snippet ${this.getAttribute("number")}`);
    this.busy(false);
    if (answer.stopped || answer.failed) {
      if (answer.failed) stop();
      this.status.textContent = answer.failed ? `Python did not start: ${answer.failed}. Reload the page to try again.` : "stopped; all variables of this page are gone";
      return false;
    }
    for (const one of ran.keys()) if (this.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING) ran.delete(one); // they stand on it
    ran.set(this, code);
    const took = performance.now() - started;
    this.status.textContent = answer.error ? "raised an error" : `${asked ? "ran" : "ran first"}, ${took < 1000 ? `${took.toFixed(0)} ms` : `${(took / 1000).toFixed(1)} s`}`;
    this.show(answer);
    return !answer.error;
  }

  /** @param {{text: string, error: string, array: number[][] | null}} answer */
  show({ text, error, array }) {
    const given = (text + error).trimEnd();
    const parts = given ? [element("pre", { tabIndex: 0, className: error ? "py-error" : "" }, element("code", { textContent: given }))] : [];
    if (array) {
      const map = heatmap(array, `the last value as a picture: ${array.length} rows, ${array[0].length} columns; blue is positive, orange negative`);
      map.style.setProperty("--columns", String(array[0].length));
      map.style.aspectRatio = `${array[0].length} / ${array.length}`;
      parts.push(map);
    }
    this.querySelector(":scope > .weave-gave:not([role])")?.remove(); // what it gave when the page was built
    this.result.hidden = !parts.length;
    this.result.replaceChildren(...parts);
  }

  edit() {
    if (!this.editor.hidden) return this.leave();
    this.editor.value = this.source;
    this.editor.hidden = false;
    this.code.parentElement.hidden = true;
    this.name("Done");
    this.buttons.Reset.hidden = false;
    this.fit();
    this.editor.setSelectionRange(0, 0); // at its end, long lines would be shown from their middle
    this.editor.focus();
  }

  /** Show the code again, as it was changed. */
  leave() {
    if (this.dataset.changed && this.editor.value === this.written) return this.reset();
    if (this.editor.value !== this.written) {
      this.dataset.changed = "yes";
      this.code.textContent = this.editor.value;
    }
    this.editor.hidden = true;
    this.code.parentElement.hidden = false;
    this.name("Edit");
    this.buttons.Reset.hidden = !this.dataset.changed;
    this.buttons.Edit.focus();
  }

  reset() {
    delete this.dataset.changed;
    this.editor.value = this.written;
    this.code.replaceChildren(...this.lit);
    this.editor.hidden = true;
    this.code.parentElement.hidden = false;
    this.name("Edit");
    this.buttons.Reset.hidden = true;
    this.status.textContent = "as it was written";
    this.buttons.Edit.focus();
  }

  /** What the button Edit now does. @param {string} does */
  name(does) {
    this.buttons.Edit.textContent = does;
    this.buttons.Edit.ariaLabel = `${does} snippet ${this.getAttribute("number")}`;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape") this.leave();
    event.stopPropagation(); // the page's own shortcuts (search is f, s, /)
  }

  fit() {
    this.editor.rows = this.editor.value.split("\n").length + 1;
  }
}

customElements.define("py-snippet", PySnippet);
