// @ts-check
/** Fetches the pieces that a page has, when it is shown; also after an instant navigation, which loads no scripts. */
import "./preview.js";

const PIECES = ["attention-explorer", "kronecker-builder", "py-snippet", "skip-trigrams", "table-filter"];

const FAR = ".md-content__inner > :nth-child(n + 10):not(.near), .jp-Cell:nth-child(n + 6):not(.near)";
const idle = window.requestIdleCallback ?? ((/** @type {() => void} */ act) => setTimeout(act, 30));
let laying = false;

/** Lay out what is far below, a little at a time: see site.css. */
function lay() {
  const far = document.querySelector(FAR), article = /** @type {HTMLElement | null} */ (document.querySelector("article"));
  // Material measures every heading anew whenever the page's height changes: once is enough
  if (article && !(far && article.style.height)) article.style.height = far ? `${article.offsetHeight}px` : "";
  far?.classList.add("near");
  laying = Boolean(far);
  // code that scrolls is reached by keyboard: Material sees to it only when the reader has scrolled there
  if (!far) for (const code of document.querySelectorAll("pre > code")) if (code.scrollWidth > code.clientWidth) code.setAttribute("tabindex", "0");
  if (laying) idle(lay);
}

function bring() {
  if (!laying && document.readyState === "complete") {
    laying = true;
    idle(lay);
  }
  // Material makes each copy button a landmark of its own; to a listener they are noise
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.setAttribute("role", "none");
  for (const name of PIECES) if (document.querySelector(`${name}:not(:defined)`)) import(`./${name}.js`);
}

/** What is far below has its height guessed until it is laid out: arrive again, as long as the reader does nothing. */
function arrive() {
  const target = /%(?![0-9a-f]{2})/i.test(location.hash) ? null : document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const left = history.state && (history.state.y ?? scrollY); // the page is shown again, where it was left
  let still = left ? left > 0 : Boolean(target) && !history.state;
  for (const does of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(does, () => { still = false; }, { passive: true, once: true });
  for (const wait of [50, 150, 400, 1000, 2500]) setTimeout(() => { if (still) left > 0 ? scrollTo(0, left) : target?.scrollIntoView(); }, wait);
}

/** @type {any} */ let waiting = 0;
new MutationObserver(() => { waiting ||= setTimeout(() => { waiting = 0; bring(); }); }).observe(document.body, { childList: true, subtree: true });
bring();
/** @type {any} */ (window).document$.subscribe(arrive); // Material's: once for each page, by instant navigation too
addEventListener("load", bring);
