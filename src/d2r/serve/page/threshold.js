// The regions and the score of a picture at another threshold of the detector.
// `told` is the answer of the service: regions and scores, the whole picture first.

import { part } from "./svg.js";

/** Return the number of regions at a threshold, including the whole picture. */
export const count = (told, threshold) => told.region_scores.filter((score, k) => k === 0 || score >= threshold).length;

const regions = (number) => (number === 1 ? "no region" : number === 2 ? "1 region" : `${number - 1} regions`);

/** Describe the regions and the score at a threshold in a sentence. */
export function sentence(told, threshold) {
  const [now, own] = [threshold, told.threshold].map((each) => count(told, each));
  const made = (number) => `${regions(number)}, score ${told.scores[number - 1].toFixed(3)}`;
  if (threshold === told.threshold) return `At ${threshold.toFixed(2)}, as in the collection: ${made(now)}.`;
  return `At ${threshold.toFixed(2)}: ${made(now)}. The collection has ${told.threshold.toFixed(2)}: ${made(own)}.`;
}

/** Draw the score over the threshold, and mark the chosen threshold and that of the collection; returns the top of the scale. */
export function drawChart(svg, told, threshold) {
  const top = Math.max(...told.scores) * 1.15 || 1;
  const height = (score) => (1 - score / top).toFixed(4);
  // From the right: the whole picture only, then one more region at each region's score.
  const ends = [...told.region_scores.slice(1), 0];
  const line = ends.map((end, k) => `V${height(told.scores[k])}H${end}`).join("").replace("V", "M1 ");
  const upright = (x, name) => part("path", { class: name, d: `M${x} 0V1` });
  svg.replaceChildren(
    part("path", { class: "area", d: `${line}V1H1Z` }),
    upright(told.threshold, "own"), upright(threshold, "now"), part("path", { class: "curve", d: line }),
  );
  return top;
}
