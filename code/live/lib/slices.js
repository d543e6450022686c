// @ts-check
/** Long computations that leave the page responsive. */

const SLICE = 12; // milliseconds; a frame has 16

/** Take the steps of a generator, a few milliseconds at a time, until it ends or `stopped` says so.
 * @template T @param {Iterable<T>} steps @param {(step: T) => void} each @param {() => boolean} stopped
 * @returns {Promise<boolean>} whether it came to the end */
export async function inSlices(steps, each, stopped) {
  let since = performance.now();
  for (const step of steps) {
    if (stopped()) return false;
    each(step);
    if (performance.now() - since < SLICE) continue;
    await new Promise((go) => setTimeout(go));
    since = performance.now();
  }
  return !stopped();
}
