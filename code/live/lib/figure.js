// @ts-check
/** The base of the live figures: what they look like, and the button that starts them. */
import { element } from "./element.js";

/** The look of all live figures; colours and typefaces come from the page. */
const STYLE = `
  :host { display: block; font: 0.8rem/1.45 var(--ui-font, sans-serif); color: var(--md-default-fg-color); margin: 1.2em 0; }
  slot { display: none; }
  @media print { *, button, textarea { display: none !important; } slot { display: block !important; } }
  button, select, textarea, input:not([type]) { font: inherit; color: inherit; background: var(--weave-wash, transparent); border: 1px solid var(--weave-edge, #777); border-radius: 3px; box-sizing: border-box; }
  button { cursor: pointer; padding: 0.25em 0.7em; min-height: 24px; }
  button:disabled { cursor: progress; }
  textarea, input:not([type]) { padding: 0.4em 0.6em; }
  :focus-visible { outline: 2px solid var(--md-accent-fg-color); outline-offset: 1px; }
  .bar { display: flex; flex-wrap: wrap; gap: 0.4em 1.1em; align-items: center; margin: 0.5em 0; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  caption { text-align: left; font-weight: 600; padding: 0 0 0.3em; }
  th { text-align: left; font-weight: 600; } td, th { padding: 0.1em 1em 0.1em 0; } td.n, th.n { text-align: right; }
  .token { white-space: pre; font-family: var(--md-code-font, monospace); }
  progress { accent-color: var(--md-accent-fg-color); vertical-align: middle; margin-left: 0.6em; }
  .quiet { color: var(--weave-quiet, inherit); }
  p { margin: 0.5em 0; }`;

/**
 * A figure that a reader can use. At first it is a button, in the place of the sentence that the page has inside the
 * element for readers without JavaScript; on a click it starts, and only then fetches what it computes with.
 *
 * A figure is a subclass with `static label`, `static style` and `start`, which calls `show`.
 */
export class LiveFigure extends HTMLElement {
  /** What the button says. */
  static label = "Try it";
  /** The figure's own style sheet. */
  static style = "";

  connectedCallback() {
    if (this.shadowRoot) return; // moved within the page
    this.attachShadow({ mode: "open" });
    this.classList.add("live-figure"); // as wide as a recorded figure: see site.css
    const button = element("button", { type: "button", textContent: this.kind.label });
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "loading …";
      try {
        await this.start();
      } catch (problem) {
        this.shadowRoot?.querySelector("progress")?.remove();
        button.disabled = false;
        button.textContent = `It could not be loaded (${/** @type {Error} */ (problem).message}). Try again`;
      }
    });
    this.show(button);
  }

  /** The subclass, for its label and style. */
  get kind() {
    return /** @type {typeof LiveFigure} */ (this.constructor);
  }

  /** Fetch what the figure needs, and show the figure. @returns {Promise<void>} */
  async start() {
    throw new Error("this figure has no start()");
  }

  /** Show beside the button how much of a large model is loaded. @param {number} share from 0 to 1 */
  progress(share) {
    const root = /** @type {ShadowRoot} */ (this.shadowRoot);
    const bar = root.querySelector("progress") ?? root.appendChild(element("progress", { max: 1, ariaLabel: "loading the model" }));
    bar.value = share;
  }

  /** Replace all that the figure shows; on paper it is the sentence inside the element. @param {Node[]} parts */
  show(...parts) {
    /** @type {ShadowRoot} */ (this.shadowRoot).replaceChildren(element("style", { textContent: STYLE + this.kind.style }), ...parts, element("slot"));
  }
}
