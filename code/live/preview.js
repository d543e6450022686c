// @ts-check
/**
 * What stands behind a link, without leaving the line: a claim's value and cell, a term's meaning, an equation. Shows on
 * hover, on focus and on a first tap; Escape closes it. Without this file the links are links, with titles.
 */
import { element } from "./element.js";

const LINKS = '.md-content a:is(.weave-claim, .weave-theorem, .weave-term, [href*="#eq-"], [href*="#thm-"])';
const card = element("div", { id: "weave-card", className: "weave-card md-typeset", hidden: true });
card.setAttribute("role", "tooltip");
/** @type {HTMLAnchorElement | null} */
let shown = null;
let timer = 0;

/** @param {EventTarget | null} target @returns {HTMLAnchorElement | null} */
const linkOf = (target) => (target instanceof Element ? target.closest(LINKS) : null);

/** @param {HTMLAnchorElement} link @returns {(Node | string)[]} */
function content(link) {
  const target = link.hash && link.pathname === location.pathname ? document.getElementById(decodeURIComponent(link.hash.slice(1))) : null;
  if (target && /^(eq|thm)-/.test(target.id)) {
    const whole = /** @type {HTMLElement} */ ((target.id.startsWith("thm-") && target.closest("p, li")) || target).cloneNode(true);
    for (const one of [whole, .../** @type {HTMLElement} */ (whole).querySelectorAll("[id], [tabindex]")]) {
      /** @type {HTMLElement} */ (one).removeAttribute("id");
      /** @type {HTMLElement} */ (one).removeAttribute("tabindex");
    }
    return [whole];
  }
  if (link.title) link.dataset.says = link.title; // the browser's own tooltip would cover ours
  link.removeAttribute("title");
  const parts = (link.dataset.says ?? "").split("\n").map((line, i) => element("p", { textContent: line, className: i ? "" : "first" }));
  if (link.classList.contains("weave-claim")) parts.push(provenance(link));
  return parts;
}

/** Commit, seeds and versions of a claim's cell, from the notebook's provenance.json. @param {HTMLAnchorElement} link */
function provenance(link) {
  const place = element("p", { className: "quiet", textContent: "…" });
  const address = new URL("provenance.json", link.href);
  fetch(address).then((answer) => answer.json()).then((cells) => {
    const cell = cells.find((/** @type {any} */ one) => one.cell.endsWith(link.hash));
    const seeds = cell.seeds.length ? `${cell.seeds.length > 1 ? "seeds" : "seed"} ${cell.seeds.join(", ")}; ` : "";
    place.textContent = `${cell.commit ? `commit ${cell.commit}; ` : ""}${seeds}torch ${cell.packages.torch ?? "not used"}; ${cell.device}; the cell took ${cell.seconds} s`;
    if (cell.verified) place.append(element("br"), element("a", { href: cell.verified, textContent: "checked by this run of CI" }));
  }).catch(() => place.remove());
  return place;
}

/** @param {HTMLAnchorElement} link @param {boolean} [touched] */
function show(link, touched) {
  clearTimeout(timer);
  if (shown === link) return;
  const parts = content(link);
  if (!parts.length) return hide();
  shown = link;
  if (touched) parts.push(element("p", {}, element("a", { href: link.href, textContent: "Go there" })));
  card.replaceChildren(...parts);
  (document.querySelector("main") ?? document.body).append(card); // again after each instant navigation
  card.hidden = false;
  link.setAttribute("aria-describedby", card.id);
  const at = link.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  const above = at.bottom + card.offsetHeight + 12 > innerHeight && at.top > card.offsetHeight + 12;
  card.style.left = `${Math.max(8, Math.min(at.left, wide - card.offsetWidth - 8)) + scrollX}px`;
  card.style.top = `${(above ? at.top - card.offsetHeight - 6 : at.bottom + 6) + scrollY}px`;
}

function hide() {
  clearTimeout(timer);
  shown?.removeAttribute("aria-describedby");
  shown = null;
  card.hidden = true;
}

const soon = (/** @type {() => void} */ act, /** @type {number} */ wait) => {
  clearTimeout(timer);
  timer = window.setTimeout(act, wait);
};

document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  const link = linkOf(event.target);
  if (link) soon(() => show(link), 120);
  else if (card.contains(/** @type {Node} */ (event.target))) clearTimeout(timer); // it can be read and selected
  else if (shown && document.activeElement !== shown) soon(hide, 200);
  else clearTimeout(timer);
});
document.addEventListener("focusin", (event) => {
  const link = linkOf(event.target);
  if (link?.matches(":focus-visible")) show(link);
  else if (!card.contains(/** @type {Node} */ (event.target))) hide();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
});
let touch = false;
document.addEventListener("pointerdown", (event) => {
  touch = event.pointerType === "touch";
  if (!linkOf(event.target) && !card.contains(/** @type {Node} */ (event.target))) hide();
});
document.addEventListener("click", (event) => {
  const link = linkOf(event.target);
  if (link && touch && shown !== link) {
    event.preventDefault();
    event.stopImmediatePropagation(); // not an instant navigation either
    show(link, true);
  } else if (link || card.contains(/** @type {Node} */ (event.target))) hide();
}, true);
