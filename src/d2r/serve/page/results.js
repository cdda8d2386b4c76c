// The grid: pictures of the collection, or results with their scores and regions.

import { picture } from "./api.js";
import { corners, mapped, marked, outline, part, polygon } from "./svg.js";

export const verdict = ({ inliers, confirmed }) =>
  inliers === null ? "not verified"
  : `${confirmed ? "confirmed" : "similar"}, ${inliers ? `${inliers} inliers` : "no inliers"}`;

function made(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Show a picture in an image element of a drawing; retry if the service is busy. */
export async function fill(image, path, attempt = 0) {
  image.setAttribute("href", await picture(path).catch(() => ""));
  image.addEventListener("error", () => {
    if (attempt < 4) setTimeout(() => fill(image, path, attempt + 1), 1000 * (attempt + 1));
  }, { once: true });
}

/** Return a drawing of a picture; for a result, with its regions and the outline of the query. */
function drawing(shown, query) {
  const { id, width, height } = shown.picture ?? shown;
  const image = part("image", { width, height, preserveAspectRatio: "none" });
  const svg = part("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, image);
  fill(image, `/v1/pictures/${id}/thumbnail`);
  if (shown.picture) {
    for (const region of shown.regions.slice(1)) svg.append(...marked(outline(region), "region"));
    if (shown.transform) {
      const d = polygon(mapped(corners(query.box), shown.transform));
      svg.append(part("path", { class: "halo", d }), part("path", { class: "edge", d }));
    }
  }
  return svg;
}

/** Return a card for a picture of the collection; choosing it calls `search`. */
export function pictureCard(shown, search) {
  const show = made("button", { type: "button", className: "show" }, drawing(shown));
  show.setAttribute("aria-label", `Search with ${shown.name}`);
  show.addEventListener("click", () => search(shown));
  return made("li", { className: "card" }, show, made("p", { className: "name", textContent: shown.name, title: shown.name }));
}

/** Return a card for a result; its buttons call `open` and `search`. */
export function resultCard(found, rank, query, { open, search }) {
  const { name } = found.picture;
  const show = made("button", { type: "button", className: "show" }, drawing(found, query));
  show.setAttribute("aria-label", `Result ${rank}, ${name}, score ${found.score.toFixed(3)}, ${verdict(found)}: show the match`);
  show.addEventListener("click", open);
  const again = made("button", { type: "button", className: "plain", textContent: "Search with this result" });
  again.setAttribute("aria-label", `Search with this result, number ${rank}, ${name}`);
  again.addEventListener("click", search);
  const facts = made("p", { className: "facts" },
    made("span", { textContent: `${rank}. ${found.score.toFixed(3)}` }),
    made("span", { textContent: verdict(found), className: found.confirmed ? "good" : "soft" }));
  return made("li", { className: "card" }, show, facts, made("p", { className: "name", textContent: name, title: name }), again);
}
