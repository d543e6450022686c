// @ts-check
/** Fetches the pieces that a page has, when it is shown; also after an instant navigation, which loads no scripts. */
import "./preview.js";
import "./take.js";

const PIECES = ["attention-explorer", "kronecker-builder", "py-snippet", "skip-trigrams", "table-filter"];

function bring() {
  // Material makes each copy button a landmark of its own; to a listener they are noise
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.setAttribute("role", "none");
  for (const name of PIECES) if (document.querySelector(`${name}:not(:defined)`)) import(`./${name}.js`);
}

new MutationObserver(bring).observe(document.body, { childList: true, subtree: true });
bring();
