// @ts-check
/** Material fetches its search index, the largest file of a page, as the page opens. It can wait until the reader turns
 * to the search. A classic script: it must be there before Material's own. */
(() => {
  const { send } = XMLHttpRequest.prototype, { open } = XMLHttpRequest.prototype;
  /** @type {Promise<void>} */
  const wanted = new Promise((resolve) => {
    const turned = (/** @type {Event} */ event) => {
      const key = event instanceof KeyboardEvent && ["f", "s", "/"].includes(event.key);
      const search = event.target instanceof Element && event.target.closest(".md-search, [for=__search]");
      if (key || search) resolve();
    };
    for (const name of ["focusin", "pointerover", "pointerdown", "keydown"]) addEventListener(name, turned, { passive: true });
    if (new URLSearchParams(location.search).has("q")) resolve();
  });
  const late = new WeakSet();
  XMLHttpRequest.prototype.open = function (/** @type {any[]} */ ...given) {
    if (String(given[1]).includes("/search_index.json")) late.add(this);
    return open.apply(this, /** @type {any} */ (given));
  };
  XMLHttpRequest.prototype.send = function (/** @type {any[]} */ ...given) {
    if (late.has(this)) wanted.then(() => send.apply(this, /** @type {any} */ (given)));
    else send.apply(this, /** @type {any} */ (given));
  };
})();
