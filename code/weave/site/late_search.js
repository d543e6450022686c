// @ts-check
/** Delay the fetch of Material's search index, the largest file of a page, until the reader turns to the search.
 * A classic script inside the page: it has to run before Material's own. */
(() => {
  const { send } = XMLHttpRequest.prototype, { open } = XMLHttpRequest.prototype;
  /** @type {Promise<void>} */
  const wanted = new Promise((resolve) => {
    const resolveIfSearch = (/** @type {Event} */ event) => {
      const key = event instanceof KeyboardEvent && ["f", "s", "/"].includes(event.key);
      const search = event.target instanceof Element && event.target.closest(".md-search, [for=__search]");
      if (key || search) resolve();
    };
    for (const name of ["focusin", "pointerover", "pointerdown", "keydown"]) addEventListener(name, resolveIfSearch, { passive: true });
    if (new URLSearchParams(location.search).has("q")) resolve();
  });
  const late = new WeakSet();
  XMLHttpRequest.prototype.open = function (/** @type {any[]} */ ...args) {
    if (String(args[1]).includes("/search_index.json")) late.add(this);
    return open.apply(this, /** @type {any} */ (args));
  };
  XMLHttpRequest.prototype.send = function (/** @type {any[]} */ ...args) {
    if (late.has(this)) wanted.then(() => send.apply(this, /** @type {any} */ (args)));
    else send.apply(this, /** @type {any} */ (args));
  };
})();
