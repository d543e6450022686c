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

/** What is far below has its height guessed until it comes near: arrive again, where guesses were wrong. */
function arrive() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const again = () => { if (scrollY === was) target?.scrollIntoView(); was = scrollY; };
  let was = scrollY;
  if (target) for (const wait of [50, 150, 400]) setTimeout(again, wait);
}

new MutationObserver(bring).observe(document.body, { childList: true, subtree: true });
bring();
arrive();
