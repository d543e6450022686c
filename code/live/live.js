// @ts-check
/** Runs on every page: loads the custom elements that the page has, and lays out what is far below a little at a time. */
import "./preview.js";

/** Custom elements that are not defined yet; formulas (tex-math) never are, they only have a style. */
const UNDEFINED = ":not(:defined, tex-math)";
/** The tags whose file was asked for; filled by `defineElements`, kept as long as the document. @type {Set<string>} */
const requested = new Set();

/** Define every custom element of the page whose file is in elements/: the tag is the file's name. */
function defineElements() {
  const tags = new Set(Array.from(document.querySelectorAll(UNDEFINED), (element) => element.localName));
  for (const tag of tags) {
    if (requested.has(tag)) continue;
    requested.add(tag);
    import(`./elements/${tag}.js`).then((module) => customElements.define(tag, module.default));
  }
}

const FAR = ".md-content__inner > :nth-child(n + 10):not(.near), .jp-Cell:nth-child(n + 6):not(.near)";
const whenIdle = window.requestIdleCallback ?? ((/** @type {() => void} */ act) => setTimeout(act, 30));
let layingOut = false;
/** Scrolls to where the reader wants to be, as long as the page still moves. */
let settle = () => {};

/** Show at its edge that a block scrolls sideways (weave.css). Code that does can be reached by keyboard: Material sees to it
 * only once the reader has scrolled there. */
function markWide() {
  for (const block of document.querySelectorAll("article :is(pre, pre > code, .weave-html, .weave-output, .md-typeset__scrollwrap)")) {
    const wide = block.scrollWidth > block.clientWidth + 1 && getComputedStyle(block).overflowX !== "visible";
    block.classList.toggle("weave-wide", wide);
    if (wide && block.localName === "code") block.setAttribute("tabindex", "0");
  }
}

/** Lay out the next block that is far below (site.css leaves them out at first), then go on when the browser is idle. */
function layOut() {
  const far = document.querySelector(FAR), article = /** @type {HTMLElement | null} */ (document.querySelector("article"));
  // Material measures every heading anew whenever the page's height changes: once is enough
  if (article && !(far && article.style.height)) article.style.height = far ? `${article.offsetHeight}px` : "";
  far?.classList.add("near");
  layingOut = Boolean(far);
  if (!far) markWide();
  if (layingOut) whenIdle(layOut);
  else settle();
}

/** Bring the page up to date after any change to it. */
function update() {
  if (!layingOut && document.readyState === "complete") {
    layingOut = true;
    whenIdle(layOut);
  }
  // Material makes each copy button a landmark of its own, which is noise to those who hear the page
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.setAttribute("role", "none");
  defineElements();
}

/** Whether the page is shown again: reloaded, or by Back or Forward. Material writes history.state on other pages, too. */
let again = /** @type {PerformanceNavigationTiming} */ (performance.getEntriesByType("navigation")[0])?.type !== "navigate";
addEventListener("click", () => { again = false; }, true);
addEventListener("popstate", ({ state }) => { again = state !== null; }); // null: a link within a page

/** Return the element that the address names, if there is one; a mistyped address is not an error. */
const named = () => /%(?![0-9a-f]{2})/i.test(location.hash) ? null : document.getElementById(decodeURIComponent(location.hash.slice(1)));

/** Scroll an element below the header; a value that a notebook published so far down that the end of its code is seen, too.
 * @param {HTMLElement} target */
function show(target) {
  const code = target.matches(".weave-published > li") && target.closest(".jp-Cell")?.querySelector(".jp-InputArea pre, summary");
  const above = code ? target.getBoundingClientRect().top - code.getBoundingClientRect().bottom : 0;
  if (code) target.style.scrollMarginTop = `${Math.min(above + 180, 0.7 * innerHeight)}px`;
  target.scrollIntoView();
}

/** Scroll to the address's target, or to where the reader left the page, until all is laid out or the reader does anything. */
function arrive() {
  const target = named(), left = again && history.state ? history.state.y ?? (scrollY || null) : null;
  let waiting = left === null ? Boolean(target) : left > 0;
  const above = (/** @type {Element} */ far) => left || far.compareDocumentPosition(/** @type {Element} */ (target)) & (4 | 16); // target after it, or in it
  if (waiting) for (const far of document.querySelectorAll(FAR)) if (above(far)) far.classList.add("near"); // or it grows later
  for (const event of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(event, () => { waiting = false; }, { passive: true, once: true });
  settle = () => { if (waiting) left ? scrollTo(0, left) : target && show(target); };
  for (const delay of [0, 150, 400, 1000, 2500]) setTimeout(settle, delay);
  document.fonts.ready.then(() => settle());
}

/** The path of the page that is shown: while the next one is fetched, the address is ahead of it. */
let path = location.pathname;
// Material puts the heading in view into the address, and where the reader is into the state beside it. Both are wrong if
// the page is no longer that of the address; and an address that names a cell or a value stays while that is in view.
const { replaceState } = history;
history.replaceState = (state, unused, url) => {
  if (location.pathname !== path) return;
  const cell = url && named()?.closest(".jp-CodeCell");
  const box = cell && cell.getBoundingClientRect();
  if (!box || box.bottom < 0 || box.top > innerHeight) replaceState.call(history, state, unused, url);
};

/** @type {any} */ let timer = 0;
new MutationObserver(() => { timer ||= setTimeout(() => { timer = 0; update(); }); }).observe(document.body, { childList: true, subtree: true });
update();
/** @type {any} */ (window).document$.subscribe(() => { // Material's: once for each page, by instant navigation too
  path = location.pathname;
  arrive();
});
addEventListener("hashchange", () => { if (location.pathname === path) arrive(); });
addEventListener("resize", markWide);
addEventListener("load", update);
