// @ts-check
/**
 * A card that previews a link's target: a claim's value and cell, a term's meaning, an equation. It shows on hover, on
 * focus and on a first tap; Escape closes it. Without this file the links are plain links with titles.
 */
import { element } from "./lib/element.js";

const LINKS = '.md-content a:is(.weave-claim, .weave-theorem, .weave-term, [href*="#eq-"], [href*="#thm-"])';
const card = element("div", { id: "weave-card", className: "weave-card md-typeset", hidden: true });
card.setAttribute("role", "tooltip");
/** The link whose card is shown; set by `show`, cleared by `hide`. @type {HTMLAnchorElement | null} */
let shown = null;
/** Shows or hides the card after a delay; the next event replaces it. */
let timer = 0;

/** Return the link with a preview at an event's target. @param {EventTarget | null} target @returns {HTMLAnchorElement | null} */
const linkOf = (target) => (target instanceof Element ? target.closest(LINKS) : null);

/** Return what the card of a link shows; nothing for a link without a preview.
 * @param {HTMLAnchorElement} link @returns {(Node | string)[]} */
function content(link) {
  const target = link.hash && link.pathname === location.pathname ? document.getElementById(decodeURIComponent(link.hash.slice(1))) : null;
  if (target && /^(eq|thm)-/.test(target.id)) {
    const copy = /** @type {HTMLElement} */ (((target.id.startsWith("thm-") && target.closest("p, li")) || target).cloneNode(true));
    for (const part of [copy, ...copy.querySelectorAll("[id], [tabindex]")]) {
      part.removeAttribute("id");
      part.removeAttribute("tabindex");
    }
    return [copy];
  }
  if (link.title) link.dataset.title = link.title; // the browser's own tooltip would cover ours
  link.removeAttribute("title");
  const parts = (link.dataset.title ?? "").split("\n").map((line, i) => element("p", { textContent: line, className: i ? "" : "first" }));
  if (link.classList.contains("weave-claim")) parts.push(provenance(link));
  return parts;
}

/** Return a paragraph with the commit, seeds and versions of a claim's cell, filled when provenance.json has arrived.
 * @param {HTMLAnchorElement} link */
function provenance(link) {
  const paragraph = element("p", { className: "quiet", textContent: "…" });
  const address = new URL("provenance.json", link.href);
  fetch(address).then((answer) => answer.json()).then((cells) => {
    const cell = cells.find((/** @type {any} */ entry) => Object.hasOwn(entry.values, link.hash.replace("#value-", "")));
    const seeds = cell.seeds.length ? `${cell.seeds.length > 1 ? "seeds" : "seed"} ${cell.seeds.join(", ")}; ` : "";
    paragraph.textContent = `${cell.commit ? `commit ${cell.commit}; ` : ""}${seeds}torch ${cell.packages.torch ?? "not used"}; ${cell.device}; the cell took ${cell.seconds} s`;
    if (cell.verified) paragraph.append(element("br"), element("a", { href: cell.verified, textContent: "checked by this run of CI" }));
  }).catch(() => paragraph.remove()).then(() => { if (shown === link) place(link); });
  return paragraph;
}

/** Show the card of a link; after a touch it has a link of its own to follow.
 * @param {HTMLAnchorElement} link @param {boolean} [touched] */
function show(link, touched) {
  clearTimeout(timer);
  if (shown === link) return;
  const parts = content(link);
  if (!parts.length) return hide();
  shown = link;
  if (touched) parts.push(element("p", {}, element("a", { href: link.href, textContent: "Go there" })));
  card.replaceChildren(...parts);
  (document.querySelector("main") ?? document.body).append(card); // an instant navigation removes it
  card.hidden = false;
  link.setAttribute("aria-describedby", card.id);
  place(link);
}

/** Place the card below its link, or above it where there is more room; again when its content has come.
 * @param {HTMLAnchorElement} link */
function place(link) {
  card.style.left = "0"; // else the right edge of the window would make it narrow
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

/** Do something after a delay, instead of what was to be done before. */
const schedule = (/** @type {() => void} */ act, /** @type {number} */ delay) => {
  clearTimeout(timer);
  timer = window.setTimeout(act, delay);
};

document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  const link = linkOf(event.target);
  if (link) schedule(() => show(link), 120);
  else if (card.contains(/** @type {Node} */ (event.target))) clearTimeout(timer); // the card can be read and selected
  else if (shown && document.activeElement !== shown) schedule(hide, 200);
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
/** The last press was a touch, not a mouse. */
let touch = false;
document.addEventListener("pointerdown", (event) => {
  touch = event.pointerType === "touch";
  if (!linkOf(event.target) && !card.contains(/** @type {Node} */ (event.target))) hide();
});
document.addEventListener("click", (event) => {
  const link = linkOf(event.target);
  if (link && touch && shown !== link) {
    event.preventDefault();
    event.stopImmediatePropagation(); // no instant navigation either
    show(link, true);
  } else if (link || card.contains(/** @type {Node} */ (event.target))) hide();
}, true);
