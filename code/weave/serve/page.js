// @ts-check
/**
 * The page of an author at work: when it is built anew, what changed is put in its place and shown; below stands what
 * runs. Everything else on the page (what a reader typed, where it is scrolled to) stays as it is.
 */
const parser = new DOMParser();
const strip = document.createElement("div");
strip.setAttribute("role", "status");
strip.style.cssText = "position: fixed; z-index: 9; inset: auto 0 0; padding: 0.35em 1em; font: 13px var(--ui-font, sans-serif);"
  + "color: var(--md-default-bg-color); background: var(--md-default-fg-color); opacity: 0.92";
strip.hidden = true;
document.body.append(strip);

/** @param {Document} page @returns {Element[]} what an article is made of */
const parts = (page) => Array.from(page.querySelector("article")?.children ?? []);
/** The number of the build that a page is of. @param {Document} page */
const build = (page) => page.querySelector("article")?.dataset.build;
/** Everything around the article: navigation, the table of contents, the title. @param {Document} page */
function around(page) {
  const copy = /** @type {Document} */ (page.cloneNode(true));
  copy.querySelector("article")?.replaceWith(copy.createElement("article"));
  return copy.documentElement.outerHTML;
}
const get = async () => parser.parseFromString(await (await fetch(location.href)).text(), "text/html");

/** The page as it came, before its scripts touched it. @type {Document | undefined} */
let before;
let address = "";

async function refresh() {
  const now = await get(), then = before;
  before = now;
  if (!then || address !== location.pathname) { // just arrived
    address = location.pathname;
    if (build(now) !== build(document)) location.reload(); // a file was saved between the page and this script
    return;
  }
  if (around(now) !== around(then)) return location.reload();
  const old = parts(then), fresh = parts(now), live = parts(document);
  let start = 0, end = 0;
  while (start < Math.min(old.length, fresh.length) && old[start].outerHTML === fresh[start].outerHTML) start++;
  while (end < Math.min(old.length, fresh.length) - start && old[old.length - 1 - end].outerHTML === fresh[fresh.length - 1 - end].outerHTML) end++;
  if (start + end === old.length && old.length === fresh.length) return;
  if (live.length !== old.length) return location.reload();
  const changed = fresh.slice(start, fresh.length - end).map((one) => /** @type {Element} */ (document.importNode(one, true)));
  const article = /** @type {Element} */ (document.querySelector("article"));
  for (const one of live.slice(start, old.length - end)) one.remove();
  const next = live[old.length - end] ?? null;
  for (const one of changed) article.insertBefore(one, next?.parentNode === article ? next : null);
  show(changed[0] ?? live[start - 1]);
}

/** Bring what was edited into view, and let it be seen for a moment. @param {Element | undefined} place */
function show(place) {
  if (!place) return;
  const { top, bottom } = place.getBoundingClientRect();
  if (bottom < 60 || top > innerHeight - 60) place.scrollIntoView({ block: "center" });
  place.animate([{ backgroundColor: "color-mix(in srgb, var(--md-accent-fg-color) 25%, transparent)" }, {}], 900);
}

let queue = refresh();
new EventSource(new URL("events", import.meta.url)).onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.reload) location.reload(); // how everything looks
  else if (event.built !== undefined) queue = queue.then(refresh).catch(() => location.reload());
  if (event.running) {
    strip.hidden = !event.running.length;
    strip.textContent = event.running.map((/** @type {any} */ one) => `${one.notebook} runs: ${one.name} (${one.cell} of ${one.of})`).join(" · ");
  }
};
