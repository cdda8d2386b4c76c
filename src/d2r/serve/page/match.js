// A result beside the query (below it on a narrow screen), with their inliers.

import { fill, verdict } from "./results.js";
import { corners, mapped, marked, outline, part, polygon } from "./svg.js";

const SIDE = 600; // longer side of each picture, in units of the drawing
const GAP = 24;
const MAX_LINES = 150;
const COLOURS = 6;

/**
 * Draw a match. `query` has source, size and box; `found` is a result; `regions` are those of its picture, each with a
 * label.
 */
export function drawMatch(svg, query, found, { lines, regions, narrow }) {
  const sizes = [query.size, [found.picture.width, found.picture.height]];
  const scales = sizes.map((size) => SIDE / Math.max(...size));
  const shown = sizes.map((size, k) => size.map((side) => side * scales[k]));
  const axis = narrow ? 1 : 0;
  const total = [Math.max(shown[0][0], shown[1][0]), Math.max(shown[0][1], shown[1][1])];
  total[axis] = shown[0][axis] + shown[1][axis] + GAP;
  const origins = shown.map((size, k) => size.map((side, a) => (a === axis ? (k ? shown[0][a] + GAP : 0) : (total[a] - side) / 2)));
  const placed = (points, k) => points.map(([x, y]) => [x * scales[k] + origins[k][0], y * scales[k] + origins[k][1]]);
  svg.setAttribute("viewBox", `0 0 ${total.map((side) => side.toFixed(1)).join(" ")}`);

  const images = [0, 1].map((k) => part("image", { x: origins[k][0], y: origins[k][1], width: shown[k][0], height: shown[k][1], preserveAspectRatio: "none" }));
  images[0].setAttribute("href", query.source);
  fill(images[1], `/v1/pictures/${found.picture.id}/image`);
  svg.replaceChildren(...images);
  const mark = (points, k) => {
    const d = polygon(placed(points, k));
    svg.append(part("path", { class: "halo", d }), part("path", { class: "edge", d }));
  };
  if (query.box) mark(corners(query.box), 0);
  if (found.transform) mark(mapped(corners(found.query.box), found.transform), 1);
  const [starts, ends] = [placed(found.query_points, 0), placed(found.points, 1)];
  // Coloured in the order of their starts across the axis, so that correct matches keep the order of colours.
  const order = starts.map((_, k) => k).sort((a, b) => starts[a][1 - axis] - starts[b][1 - axis]);
  const step = Math.max(1, order.length / MAX_LINES);
  for (let k = 0; k < order.length; k += step) {
    const row = order[Math.floor(k)];
    const colour = `line-${Math.min(COLOURS - 1, Math.floor((k * COLOURS) / order.length))}`;
    const [[x1, y1], [x2, y2]] = [starts[row], ends[row]];
    if (lines) svg.append(part("path", { class: `line ${colour}`, d: `M${x1} ${y1}L${x2} ${y2}` }));
    svg.append(part("path", { class: `dot ${colour}`, d: `M${x1} ${y1}h.1M${x2} ${y2}h.1` }));
  }
  for (const { box, label } of regions) {
    const [[x1, y1], [x2, y2]] = placed([box.slice(0, 2), box.slice(2)], 1);
    svg.append(...marked(outline([x1, y1, x2, y2]), "region"));
    const size = narrow ? 26 : 17;
    const tag = part("text", { class: "tag", x: x1 + size / 3, y: y1 + size, "font-size": size });
    tag.textContent = label;
    svg.append(tag);
  }
}

export const facts = (found) => `Score ${found.score.toFixed(3)} · ${verdict(found)} · ${found.picture.width} × ${found.picture.height}`;
