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

/** Lay out the next block that is far below (site.css leaves them out at first), then go on when the browser is idle. */
function layOut() {
  const far = document.querySelector(FAR), article = /** @type {HTMLElement | null} */ (document.querySelector("article"));
  // Material measures every heading anew whenever the page's height changes: once is enough
  if (article && !(far && article.style.height)) article.style.height = far ? `${article.offsetHeight}px` : "";
  far?.classList.add("near");
  layingOut = Boolean(far);
  // code that scrolls can be reached by keyboard: Material sees to it only once the reader has scrolled there
  if (!far) for (const code of document.querySelectorAll("pre > code")) if (code.scrollWidth > code.clientWidth) code.setAttribute("tabindex", "0");
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

/** Scroll to the address's target, or to where the reader left the page, until all is laid out or the reader does anything. */
function arrive() {
  const target = /%(?![0-9a-f]{2})/i.test(location.hash) ? null : document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const left = again && history.state ? history.state.y ?? (scrollY || null) : null;
  let waiting = left === null ? Boolean(target) : left > 0;
  for (const event of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(event, () => { waiting = false; }, { passive: true, once: true });
  settle = () => { if (waiting) left ? scrollTo(0, left) : target?.scrollIntoView(); };
  for (const delay of [50, 150, 400, 1000, 2500]) setTimeout(settle, delay);
}

/** @type {any} */ let timer = 0;
new MutationObserver(() => { timer ||= setTimeout(() => { timer = 0; update(); }); }).observe(document.body, { childList: true, subtree: true });
update();
/** @type {any} */ (window).document$.subscribe(arrive); // Material's: once for each page, by instant navigation too
addEventListener("load", update);
