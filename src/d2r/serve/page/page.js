// The search page: the query, the collection and the results.

import { Refused, add, ask, ended, picture, remove, search, thresholds, token, useToken } from "./api.js";
import { BoxEditor } from "./editor.js";
import { drawMatch, facts } from "./match.js";
import { pictureCard, resultCard } from "./results.js";
import { count, drawChart, sentence } from "./threshold.js";

const element = (id) => document.getElementById(id);

let info = null; // information about the service
let query = null; // { id or file, name, source, size }
let answer = null; // answer to the last search
let opened = -1; // row of the result whose match is shown
let searching = null; // aborts the search in progress
let soon = 0; // timer of the next search
let next = null; // where the next page of the collection starts
let told = new Map(); // picture number of a result to its scores at other thresholds
let telling = null; // aborts the request for them; has the picture number as id

const editor = new BoxEditor(element("stage"), () => { describe(); searchSoon(); });
const threshold = () => Number(element("threshold").value);
const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

/** Run an action that calls the service, and show its error, if any. */
async function work(action) {
  try {
    await action();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    show("trouble", error.message);
    if (error.status === 401) askToken(error.message);
    if (!(error instanceof Refused)) throw error;
    return false;
  }
}

function show(id, text) {
  element(id).textContent = text;
  element(id).hidden = !text;
  if (text) element(id).scrollIntoView({ block: "nearest" });
}

// The query

async function choose(chosen) {
  show("trouble", "");
  element("changed").textContent = "";
  if (query?.file) URL.revokeObjectURL(query.source);
  query = chosen;
  editor.show(query.source, query.size);
  element("drop").hidden = true;
  element("chosen").hidden = false;
  element("query-name").textContent = query.name;
  element("add").hidden = !(info?.writable && query.file);
  describe();
  await searchNow();
}

function describe() {
  const { box } = editor;
  const what = box ? `Box from ${box[0]}, ${box[1]} to ${box[2]}, ${box[3]}.` : "The whole picture is the query.";
  element("stage-label").textContent = `Query picture ${query.name}. ${what}`;
  element("whole").disabled = !box;
}

async function takeFile(file) {
  if (file.size > info.limits.upload_bytes) {
    show("trouble", `${file.name}: a picture may have at most ${counted(info.limits.upload_bytes, "byte")}.`);
    return;
  }
  const source = URL.createObjectURL(file);
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(source);
    show("trouble", `${file.name}: this browser cannot show it, so you cannot draw a box on it. Use JPEG, PNG or WebP.`);
    return;
  }
  await choose({ file, name: file.name || "pasted picture", source, size: [image.naturalWidth, image.naturalHeight] });
}

/** Search with a picture of the collection. */
function take({ id, name, width, height }) {
  return work(async () => {
    element("match").close();
    await choose({ id, name, source: await picture(`/v1/pictures/${id}/image`), size: [width, height] });
    element("results").focus({ preventScroll: true });
    scrollTo({ top: 0 });
  });
}

function searchSoon() {
  clearTimeout(soon);
  searching?.abort();
  soon = setTimeout(searchNow, 350);
}

async function searchNow() {
  if (!query) return;
  clearTimeout(soon);
  searching?.abort();
  const mine = (searching = new AbortController());
  document.body.classList.add("busy");
  element("found-title").textContent = "Results";
  element("summary").textContent = "Searching …";
  element("more").hidden = true;
  element("back").hidden = false;
  const { box } = editor;
  const well = await work(async () => {
    const settings = { box, top: element("top").value, verify: element("verify").value, expand: element("expand").checked ? info.defaults.expand : 0, signal: mine.signal };
    answer = await search(query, settings);
    answer.box = box;
    told = new Map();
    show("trouble", "");
    showResults();
  });
  if (searching !== mine) return;
  document.body.classList.remove("busy");
  if (!well && !mine.signal.aborted) {
    element("summary").textContent = "";
    element("legend").hidden = true;
    element("grid").replaceChildren();
  }
}

function showResults() {
  const { results, seconds, missing } = answer;
  const taken = Math.round(1000 * Object.values(seconds).reduce((sum, each) => sum + each, 0));
  const nothing = answer.query.features ? "Nothing was found." : "Nothing was found: there is no texture to extract features from.";
  element("summary").textContent = results.length ? `${counted(results.length, "result")} for ${answer.box ? "the box" : "the whole picture"} in ${taken.toLocaleString("en")} ms` : nothing;
  if (missing) show("trouble", `${counted(missing, "picture")} could not be searched because their machine does not answer. The results are from the other pictures.`);
  element("legend").hidden = !results.length;
  element("grid").replaceChildren(...results.map((found, row) =>
    resultCard(found, row + 1, answer.query, { open: () => open(row), search: () => take(found.picture) })));
}

// The collection

async function showCollection() {
  searching?.abort();
  clearTimeout(soon);
  document.body.classList.remove("busy");
  answer = null;
  element("found-title").textContent = "The collection";
  element("summary").textContent = "";
  element("back").hidden = true;
  element("legend").hidden = true;
  element("grid").replaceChildren();
  next = 0;
  await showMore();
}

async function showMore() {
  const page = await ask(`/v1/pictures?after=${next}`);
  next = page.next;
  element("grid").append(...page.pictures.map((shown) => pictureCard(shown, take)));
  element("more").hidden = next === null;
}

// The match

const narrow = matchMedia("(max-width: 52rem)");

function open(row) {
  opened = row;
  showMatch();
  if (!element("match").open) element("match").showModal();
}

function showMatch() {
  const found = answer?.results[opened];
  if (!found) return;
  element("match-title").textContent = `${opened + 1}. ${found.picture.name}`;
  element("match-facts").textContent = facts(found);
  element("match-previous").disabled = opened === 0;
  element("match-next").disabled = opened === answer.results.length - 1;
  element("match-remove").hidden = !info.writable;
  const other = element("thresholds").open ? told.get(found.picture.id) : null;
  showThreshold(other);
  drawMatch(element("match-view"), { ...query, box: answer.box }, { ...found, query: answer.query }, {
    lines: element("match-lines").checked, regions: element("match-regions").checked ? regionsOf(found, other) : [], narrow: narrow.matches,
  });
  if (element("thresholds").open && !other && telling?.id !== found.picture.id) tellThresholds(found.picture.id);
}

function regionsOf(found, other) {
  const { regions, region_scores } = other ?? found;
  const most = other ? count(other, threshold()) : regions.length;
  return regions.slice(1, most).map((box, k) => ({ box, label: info.detector ? region_scores[k + 1].toFixed(2) : "" }));
}

function showThreshold(other) {
  element("threshold").disabled = !other;
  if (!other) {
    element("chart").replaceChildren();
    element("chart-top").textContent = "";
    return;
  }
  element("chart-top").textContent = `0 to ${drawChart(element("chart"), other, threshold()).toFixed(3)}`;
  const text = sentence(other, threshold());
  element("threshold-shown").textContent = text;
  element("threshold").setAttribute("aria-valuetext", text);
}

function stopTelling() {
  telling?.abort();
  telling = null;
}

async function tellThresholds(id) {
  stopTelling();
  const mine = (telling = Object.assign(new AbortController(), { id }));
  element("threshold-shown").textContent = "Describing the picture with all detections …";
  try {
    told.set(id, await thresholds(id, query, { box: answer.box, signal: mine.signal }));
  } catch (error) {
    if (error.name === "AbortError") return;
    element("threshold-shown").textContent = error.message;
    if (!(error instanceof Refused)) throw error;
    return;
  } finally {
    if (telling === mine) telling = null;
  }
  if (opened >= 0 && element("match").open) showMatch();
}

// Changes

function change(what, begin) {
  return work(async () => {
    if (!token()) {
      askToken("Adding and removing pictures needs the token of this service.");
      return;
    }
    const job = await ended(await begin(), ({ state, problem }) => { element("changed").textContent = `${what}: ${problem ?? state} …`; });
    element("changed").textContent = job.state === "done" ? `${what}: done.${job.problem ? ` ${job.problem}.` : ""}` : `${what}: ${job.problem}.`;
    await getInfo();
    if (element("back").hidden) await showCollection();
    else await searchNow(); // also if the first answer has not come yet
  });
}

function askToken(why) {
  element("token-why").textContent = `${why} It is kept until this tab is closed.`;
  if (!element("token").open) element("token").showModal();
}

async function getInfo() {
  const first = info === null;
  info = await ask("/v1/info");
  if (first) showVerify(info.defaults.verify); // afterwards the user's choice is kept
  element("collection").textContent = `${info.index} · ${counted(info.pictures, "picture")}`;
  element("give-token").hidden = !info.writable && !token();
  element("thresholds").hidden = !info.detector;
  if (info.detector) element("threshold").value = info.threshold;
}

function showVerify(value = element("verify").value) {
  element("verify").value = value;
  element("verify-shown").textContent = value;
}

const begin = () => work(async () => {
  show("trouble", "");
  await getInfo();
  await showCollection();
});

// User input

const pick = () => element("file").click();
element("pick").addEventListener("click", pick);
element("other").addEventListener("click", pick);
element("file").addEventListener("change", () => {
  const [file] = element("file").files;
  element("file").value = "";
  if (file && info) takeFile(file);
});
const carried = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/") || !file.type);
addEventListener("paste", (event) => {
  const file = carried(event.clipboardData);
  if (file && info) takeFile(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
for (const name of ["dragleave", "drop"]) addEventListener(name, () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  const file = carried(event.dataTransfer);
  if (file && info) takeFile(file);
  else if (info) show("trouble", "That is not a picture.");
});
element("whole").addEventListener("click", () => { editor.clear(); element("stage").focus(); });
element("add").addEventListener("click", () => change("Adding", () => add(query.file)));
element("verify").addEventListener("input", () => {
  showVerify();
  if (query) searchSoon();
});
for (const id of ["top", "expand"]) element(id).addEventListener("change", () => { if (query) searchSoon(); });
element("more").addEventListener("click", () => work(showMore));
element("back").addEventListener("click", () => work(showCollection));

element("match-close").addEventListener("click", () => element("match").close());
element("match-previous").addEventListener("click", () => open(opened - 1));
element("match-next").addEventListener("click", () => open(opened + 1));
element("match-search").addEventListener("click", () => take(answer.results[opened].picture));
element("match-remove").addEventListener("click", () => {
  const { id, name } = answer.results[opened].picture;
  if (!confirm(`Remove ${name} from the collection?`)) return;
  element("match").close();
  change("Removing", () => remove(id));
});
for (const id of ["match-lines", "match-regions"]) element(id).addEventListener("change", showMatch);
element("threshold").addEventListener("input", showMatch);
element("thresholds").addEventListener("toggle", () => {
  if (element("thresholds").open) element("match-regions").checked = true;
  else stopTelling();
  showMatch();
});
element("match").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && event.target.localName !== "input" && answer?.results[opened + step]) open(opened + step);
});
element("match").addEventListener("close", () => {
  stopTelling();
  element("grid").children[opened]?.querySelector("button")?.focus();
});
narrow.addEventListener("change", () => { if (element("match").open) showMatch(); });

element("give-token").addEventListener("click", () => askToken(""));
element("token-cancel").addEventListener("click", () => element("token").close());
element("token-form").addEventListener("submit", () => {
  useToken(element("token-field").value.trim());
  element("token-field").value = "";
  begin();
});

begin();
