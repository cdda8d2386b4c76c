// What another threshold of the detector would make of a picture: its regions and its score.
// `told` is what the service says of it: regions and scores, the whole picture first.

import { part } from "./svg.js";

/** Return how many of the regions a threshold leaves, the whole picture among them. */
export const count = (told, threshold) => told.region_scores.filter((score, k) => k === 0 || score >= threshold).length;

const regions = (number) => (number === 1 ? "no region" : number === 2 ? "1 region" : `${number - 1} regions`);

/** Say in a sentence what a threshold makes of the picture. */
export function sentence(told, threshold) {
  const [now, own] = [threshold, told.threshold].map((each) => count(told, each));
  const made = (number) => `${regions(number)}, score ${told.scores[number - 1].toFixed(3)}`;
  if (threshold === told.threshold) return `At ${threshold.toFixed(2)}, as in the collection: ${made(now)}.`;
  return `At ${threshold.toFixed(2)}: ${made(now)}. The collection has ${told.threshold.toFixed(2)}: ${made(own)}.`;
}

/** Draw the score at each threshold, and where the threshold and that of the collection are; returns the top of the scale. */
export function drawChart(svg, told, threshold) {
  const top = Math.max(...told.scores) * 1.15 || 1;
  const height = (score) => (1 - score / top).toFixed(4);
  // From the right: the whole picture alone, then one region more at each score of one.
  const ends = [...told.region_scores.slice(1), 0];
  const line = ends.map((end, k) => `V${height(told.scores[k])}H${end}`).join("").replace("V", "M1 ");
  const upright = (x, name) => part("path", { class: name, d: `M${x} 0V1` });
  svg.replaceChildren(
    part("path", { class: "area", d: `${line}V1H1Z` }),
    upright(told.threshold, "own"), upright(threshold, "now"), part("path", { class: "curve", d: line }),
  );
  return top;
}
