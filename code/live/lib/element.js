// @ts-check
/** Small helpers of the live elements: making DOM elements, and writing tokens and shares as a reader sees them. */

/** Return a new element with these properties and children.
 * @param {string} tag @param {Record<string, any>} [properties] @param {(Node | string)[]} children @returns {any} */
export function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

/** Return a token's text with its spaces and control characters made visible. @param {string} text */
export const visible = (text) => text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\p{Cc}/gu, (control) => `‹${control.charCodeAt(0).toString(16).padStart(2, "0")}›`);

/** Return a share between 0 and 1 in percent. @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Act whenever an element has another width. @param {Element} observed @param {() => void} act */
export function onWidth(observed, act) {
  let before = 0;
  new ResizeObserver(([{ contentRect: { width } }]) => {
    if (width !== before) act();
    before = width;
  }).observe(observed);
}
