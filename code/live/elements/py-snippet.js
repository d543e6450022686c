// @ts-check
/**
 * <py-snippet>: a block of a note's Python with Run, Edit, Reset and Stop. All snippets of a page share one Python:
 * running the third runs the first two if they have not run yet. Python is fetched on the first Run, from this site.
 */
import { element } from "../lib/element.js";
import { ended, python, reason, request, stop } from "../lib/python.js";
import { heatmap } from "../lib/svg.js";

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
    const name = this.called;
    const button = (/** @type {string} */ label, /** @type {() => void} */ act) => {
      this.buttons[label] = element("button", { type: "button", textContent: label, ariaLabel: `${label} ${name}`, className: "md-button" });
      this.buttons[label].addEventListener("click", act);
      return this.buttons[label];
    };
    this.editor = element("textarea", {
      hidden: true, spellcheck: false, autocapitalize: "off", ariaLabel: `the code of ${name}; Ctrl+Enter runs it, Escape leaves it`,
    });
    this.editor.addEventListener("input", () => this.changed());
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

  /** Its name, to the reader and in tracebacks. */
  get called() {
    return `snippet ${this.getAttribute("number")}`;
  }

  /** The code as the reader has it now. */
  get source() {
    return this.editor.hidden && !this.dataset.changed ? this.original : this.editor.value;
  }

  /** What to ask Python. @returns {Record<string, string>} */
  get request() {
    return { code: this.source, name: this.called };
  }

  /** Every live snippet of the page above this one, and this one. @returns {PySnippet[]} */
  get above() {
    const all = /** @type {PySnippet[]} */ (Array.from(document.querySelectorAll("py-snippet.live")));
    return [...all.filter((snippet) => snippet.compareDocumentPosition(this) & Node.DOCUMENT_POSITION_FOLLOWING), this];
  }

  /** End the run of a snippet when the reader leaves its page. */
  disconnectedCallback() {
    if (python.running === this) stop();
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
    if (Array.from(python.ran.keys()).some((snippet) => !snippet.isConnected)) stop(); // they belong to a page that was left
    const before = python.stops;
    this.setBusy(true);
    this.status.textContent = "waits for what runs before it …";
    python.queue = python.queue.then(async () => {
      for (const snippet of this.above) {
        if (before !== python.stops || (snippet !== this && python.ran.get(snippet) === snippet.source)) continue;
        if (!(await snippet.runAlone(snippet === this)) && snippet !== this) {
          if (before === python.stops) this.status.textContent = "did not run: one above it raised an error";
          break;
        }
      }
      this.setBusy(false);
      if (this.status.textContent.startsWith("waits")) this.status.textContent = "did not run: Python ended before it";
    });
  }

  /** Run this snippet alone; return false if that failed. @param {boolean} asked by the reader, not needed by a snippet below */
  async runAlone(asked) {
    const asking = this.request, started = performance.now();
    this.setBusy(true);
    python.running = this;
    this.status.textContent = python.worker ? "runs …" : "Python starts (9 MB, the first time) …";
    const given = await request(asking);
    this.setBusy(false);
    const gone = ended(given), took = performance.now() - started;
    if (!gone) this.remember(asking.code);
    this.status.textContent = gone || (given.error ? reason(given) : `${asked ? "ran" : "ran first"}, ${took < 1000 ? `${took.toFixed(0)} ms` : `${(took / 1000).toFixed(1)} s`}`);
    if (!given.stopped && !given.failed) this.show({ text: "", error: "", array: null, ...given });
    return !gone && !given.error;
  }

  /** Keep in mind that this ran: the snippets below depend on it, and run again when they are needed. @param {string} code */
  remember(code) {
    for (const snippet of python.ran.keys()) if (this.compareDocumentPosition(snippet) & Node.DOCUMENT_POSITION_FOLLOWING) python.ran.delete(snippet);
    python.ran.set(this, code);
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
    this.buttons.Edit.ariaLabel = `${label} ${this.called}`;
  }

  /** Ctrl+Enter runs, Escape closes the editor, Enter keeps the indentation. @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      const line = this.editor.value.slice(0, this.editor.selectionStart).split("\n").pop();
      const deeper = /:\s*$/.test(line) ? "    " : "";
      document.execCommand("insertText", false, `\n${/^ */.exec(line)?.[0]}${deeper}`); // which can be undone, unlike a new value
    } else if (event.key === "Escape") this.leave();
    event.stopPropagation(); // the page's own shortcuts (search is f, s, /)
  }

  /** Do what an edit asks for. */
  changed() {
    this.fit();
  }

  /** Give the editor as many rows as the code has. */
  fit() {
    this.editor.rows = this.editor.value.split("\n").length + 1;
  }
}
