// @ts-check
/** Heatmaps as SVG: opacity is size, hue is sign, so that zero is the page itself, in the light and in the dark. */
const NAMESPACE = "http://www.w3.org/2000/svg";
const LEVELS = 16;
export const BLUE = "#2f7fd6", ORANGE = "#d8652a";

/** @param {string} tag @param {Record<string, string | number>} [set] @param {Node[]} children */
export function svg(tag, set = {}, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(set)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** One path for each shade: a hundred times quicker than a rectangle for each cell.
 * @param {SVGElement} target @param {ArrayLike<number>} values row by row @param {number} columns @param {number} limit shown full */
export function paint(target, values, columns, limit) {
  const paths = new Map();
  for (let i = 0; i < values.length; i++) {
    const level = Math.min(LEVELS, Math.round((Math.abs(values[i]) / limit) * LEVELS));
    if (!level) continue;
    const key = values[i] < 0 ? -level : level;
    paths.set(key, `${paths.get(key) ?? ""}M${i % columns} ${(i / columns) | 0}h1v1h-1z`);
  }
  target.replaceChildren(...Array.from(paths, ([level, d]) =>
    svg("path", { d, fill: level < 0 ? ORANGE : BLUE, "fill-opacity": Math.abs(level) / LEVELS })));
}

/** @param {number} rows @param {number} columns @param {string} label what a listener hears */
export function board(rows, columns, label) {
  return svg("svg", {
    viewBox: `0 0 ${columns} ${rows}`, role: "img", "aria-label": label, preserveAspectRatio: "none", "shape-rendering": "crispEdges",
  });
}

/** @param {number[][]} rows @param {string} label */
export function heatmap(rows, label) {
  const values = rows.flat(), made = board(rows.length, rows[0].length, label);
  paint(made, values, rows[0].length, Math.max(...values.map(Math.abs)) || 1);
  return made;
}
