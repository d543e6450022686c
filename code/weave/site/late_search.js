// @ts-check
/** Delay the fetch of Material's search index, the largest file of a page, until the reader turns to the search; and ask
 * the index for plain words, which is all that it understands.
 * A classic script inside the page: it has to run before Material's own. */
(() => {
  const { send } = XMLHttpRequest.prototype, { open } = XMLHttpRequest.prototype, { postMessage } = Worker.prototype;
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
    if (String(args[1]).includes("/search_index.json")) {
      late.add(this);
      this.addEventListener("load", async () => { // here, for Material drops the answer as soon as it has it
        known = Array.from(new Set((await new Response(this.response).text()).toLowerCase().match(/[\p{L}\p{N}]{4,}/gu)));
      });
    }
    return open.apply(this, /** @type {any} */ (args));
  };
  XMLHttpRequest.prototype.send = function (/** @type {any[]} */ ...args) {
    if (late.has(this)) wanted.then(() => send.apply(this, /** @type {any} */ (args)));
    else send.apply(this, /** @type {any} */ (args));
  };

  /** The words of the index; filled when it has come. @type {string[]} */
  let known = [];
  /** Signs of formulas, each before its name in TeX, which is what the index has. */
  const SIGNS = "⊗otimes ⊕oplus ⊙odot ×times ∘circ ∑sum ∏prod ∫int √sqrt ∂partial ∇nabla ∞infty ⊤top ᵀtop αalpha βbeta γgamma δdelta εvarepsilon ηeta θtheta κkappa λlambda μmu πpi ρrho σsigma τtau φvarphi χchi ψpsi ωomega ΔDelta ΣSigma";
  const names = new Map(SIGNS.split(" ").map((sign) => [sign[0], ` ${sign.slice(1)} `]));

  /** Return a query as words: signs by name, no operators. A word that the index does not have may differ from one that it
   * has by a letter, or by two if it is long. @param {string} query */
  function words(query) {
    const all = Array.from(query, (sign) => names.get(sign) ?? sign).join("").match(/[\p{L}\p{N}]+(\.\p{N}+)*/gu) ?? [];
    const long = all.filter((word) => word.length > 1 || /\p{N}/u.test(word)); // a letter alone is in every second line
    const exists = (/** @type {string} */ word) => known.some((other) => other.startsWith(word.toLowerCase()));
    return (long.length ? long : all).map((word) => (word.length < 5 || !known.length || exists(word) ? word : `${word}~${word.length < 8 ? 1 : 2}`)).join(" ");
  }
  Worker.prototype.postMessage = function (/** @type {any} */ message, /** @type {any[]} */ ...rest) {
    const query = message?.type === 2 && typeof message.data === "string"; // Material's: see its SearchMessageType
    return postMessage.call(this, query ? { ...message, data: words(message.data) } : message, .../** @type {any} */ (rest));
  };
})();
