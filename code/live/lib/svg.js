// @ts-check
/** Heatmaps as SVG: opacity shows size and hue shows sign, so that zero is the page's own background, light or dark. */
const NAMESPACE = "http://www.w3.org/2000/svg";
const LEVELS = 16;
export const BLUE = "#2f7fd6", ORANGE = "#d8652a";

/** Return a new SVG element with these attributes and children.
 * @param {string} tag @param {Record<string, string | number>} [attributes] @param {Node[]} children */
export function svg(tag, attributes = {}, ...children) {
  const created = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, String(value));
  created.append(...children);
  return created;
}

/** Replace the content of an SVG element with a heatmap: one path for each shade, a hundred times faster than a
 * rectangle for each cell.
 * @param {SVGElement} target @param {ArrayLike<number>} values row by row @param {number} columns
 * @param {number} limit the size that is shown at full opacity */
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

/** Return an empty SVG with a unit square for each cell.
 * @param {number} rows @param {number} columns @param {string} label for those who hear the page */
export function board(rows, columns, label) {
  return svg("svg", {
    viewBox: `0 0 ${columns} ${rows}`, role: "img", "aria-label": label, preserveAspectRatio: "none", "shape-rendering": "crispEdges",
  });
}

/** Return a matrix as a heatmap, scaled to its largest entry. @param {number[][]} rows @param {string} label */
export function heatmap(rows, label) {
  const values = rows.flat(), map = board(rows.length, rows[0].length, label);
  paint(map, values, rows[0].length, Math.max(...values.map(Math.abs)) || 1);
  return map;
}
