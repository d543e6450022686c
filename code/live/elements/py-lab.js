// @ts-check
/**
 * <py-lab>: an exercise in Python. The reader writes into its editor; Run runs that, after the snippets above, and then
 * the lab's check, which says in a sentence what is wrong. What was written is kept in the browser until Reset.
 */
import { element } from "../lib/element.js";
import PySnippet from "./py-snippet.js";

export default class PyLab extends PySnippet {
  /** @type {any} */ verdict;

  connectedCallback() {
    if (this.editor || !this.classList.contains("live")) return;
    super.connectedCallback();
    this.verdict = element("p", { className: "weave-verdict", role: "status", hidden: true });
    this.result.before(this.verdict);
    this.buttons.Edit.hidden = true;
    this.editor.value = this.kept ?? this.original;
    this.editor.hidden = false;
    this.code.parentElement.hidden = true;
    this.changed();
  }

  /** Its name, to the reader and to those who hear the page. */
  get called() {
    return `lab ${this.getAttribute("lab")?.replaceAll("-", " ")}`;
  }

  get place() {
    return `lab:${location.pathname}:${this.getAttribute("lab")}`;
  }

  /** The reader's text from an earlier visit; null if there is none, or the browser keeps nothing. */
  get kept() {
    try {
      return localStorage.getItem(this.place);
    } catch {
      return null;
    }
  }

  /** Keep the text as it is now, and give it the room that it needs. */
  changed() {
    const written = this.editor.value !== this.original;
    this.buttons.Reset.hidden = !written;
    this.fit();
    try {
      if (written) localStorage.setItem(this.place, this.editor.value);
      else localStorage.removeItem(this.place);
    } catch {} // a browser that keeps nothing, or has no room
  }

  get request() {
    const [lab, checks, models] = ["lab", "checks", "models"].map((name) => this.getAttribute(name) ?? "");
    return { ...super.request, lab, checks: new URL(checks, document.baseURI).href, models };
  }

  /** No snippet depends on a lab. */
  remember() {}

  /** Show what the code printed, and below the code what the check says. @param {any} given */
  show(given) {
    super.show(given);
    this.verdict.hidden = !given.verdict;
    this.verdict.classList.toggle("passed", Boolean(given.passed));
    this.verdict.textContent = `${given.passed ? "✓ " : ""}${given.verdict ?? ""}`;
  }

  /** Bring back the lab as it was posed. */
  reset() {
    this.editor.value = this.original;
    this.changed();
    this.verdict.hidden = true;
    this.status.textContent = "as it was posed";
    this.editor.focus();
  }

  /** Leave the editor, which stays open. */
  leave() {
    this.buttons.Run.focus();
  }
}
