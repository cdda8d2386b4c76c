// Helpers for SVG drawings.

export function part(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const outline = ([x1, y1, x2, y2]) => `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
export const polygon = (corners) => `M${corners.map((corner) => corner.map((n) => n.toFixed(1)).join(" ")).join("L")}Z`;
export const corners = ([x1, y1, x2, y2]) => [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];

/** Apply an affine transform, 2 x 3, to points. */
export const mapped = (points, [[a, b, c], [d, e, f]]) => points.map(([x, y]) => [a * x + b * y + c, d * x + e * y + f]);

/** Return an outline that is visible on any picture. */
export const marked = (d, name) => [part("path", { class: `${name} ${name === "region" ? "under" : ""}`, d }), part("path", { class: name, d })];
