// One picture at a time: a box is a draft until the server has stored it on disk.
// Boxes are [x1, y1, x2, y2] in whole pixels of the picture, half-open.

const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
const stage = element("stage");
const drawing = element("drawing");
const fields = ["x1", "y1", "x2", "y2"].map(element);

let session = null; // last response of the server: progress, next, can_undo
let current = null; // the picture: number, name, width, height, box, decided, problem
let draft = null; // the drawn box, or null
let past = []; // earlier drafts of this picture, for undo
let offers = []; // proposed boxes
let busy = false;
const drafts = new Map(); // drafts of pictures that were left undecided, by number

// Requests to the server

class Refused extends Error {}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused("The program does not answer, and nothing was saved. Is d2r dataset annotate still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const detail = typeof answer.detail === "string" ? answer.detail : `The server responded with status ${response.status}.`;
  throw new Refused(detail);
}

function put(path, body) {
  return ask(path, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });
}

/** Run an action that calls the server, one at a time, and show its error, if any. */
async function work(action) {
  if (busy) return;
  busy = true;
  stage.setAttribute("aria-busy", "true");
  try {
    await action();
    element("trouble").hidden = true;
  } catch (error) {
    element("trouble").textContent = error.message;
    element("trouble").hidden = false;
    if (!(error instanceof Refused)) throw error;
  } finally {
    busy = false;
    stage.removeAttribute("aria-busy");
    show();
  }
}

// Navigation

async function load(number) {
  const answer = await ask(`/api/pictures/${number}`);
  if (current && !same(draft, current.box)) drafts.set(current.number, draft);
  else if (current) drafts.delete(current.number);
  session = { ...session, ...answer };
  current = { ...answer, number };
  draft = drafts.has(number) ? drafts.get(number) : current.box?.map(Math.round) ?? null;
  current.box = current.box?.map(Math.round) ?? null;
  past = [];
  offers = [];
  if (!current.problem) {
    drawing.setAttribute("viewBox", `0 0 ${current.width} ${current.height}`);
    const picture = element("picture");
    picture.setAttribute("width", current.width);
    picture.setAttribute("height", current.height);
    picture.setAttribute("href", source(number));
    offer(number);
  }
  stage.scrollIntoView({ block: "nearest" });
  if (session.next !== null && session.next !== number) new Image().src = source(session.next);
}

const source = (number) => `/pictures/${number}.jpg?session=${session.version}`;

/** Fetch the proposals of a picture, and show them if it is still the current one. */
async function offer(number) {
  const { boxes } = await ask(`/api/pictures/${number}/proposals`).catch(() => ({ boxes: [] }));
  if (current.number !== number) return;
  offers = boxes.map((box) => whole(box));
  show();
}

async function decide(box) {
  const number = current.number;
  const answer = await put(`/api/pictures/${number}/decision`, { box });
  session = { ...session, ...answer };
  current.box = draft = box;
  current.decided = true;
  const said = box ? "Saved." : "Saved: no prominent landmark.";
  await goOn(said);
}

async function goOn(said) {
  if (session.next === null) {
    say(`${said} Every picture is decided.`);
  } else {
    await load(session.next);
    say(`${said} ${title()}`);
  }
  stage.focus({ preventScroll: true });
}

function save() {
  if (current.problem) return;
  if (!draft) say("There is no box yet. Draw one, or mark the picture as having no prominent landmark.");
  else if (current.decided && same(draft, current.box)) work(() => goOn("Already saved."));
  else work(() => decide(draft));
}

function none() {
  if (!current.problem) work(() => decide(null));
}

function undo() {
  if (past.length) {
    draft = past.pop();
    show();
    say(draft ? `Undone. ${described(draft)}` : "Undone. No box.");
    stage.focus({ preventScroll: true });
    return;
  }
  if (!session.can_undo) {
    say("There is nothing to undo.");
    return;
  }
  work(async () => {
    const { number } = await put("/api/undo");
    drafts.delete(number);
    if (number === current.number) draft = current.box; // drop what was drawn since
    await load(number);
    say(`The last decision is undone. ${title()}`);
    stage.focus({ preventScroll: true });
  });
}

function go(number) {
  if (number === null || number < 0 || number >= session.progress.pictures) return;
  work(async () => {
    await load(number);
    say(title());
  });
}

// Boxes

const same = (a, b) => String(a) === String(b);
const bound = (value, low, high) => Math.min(Math.max(value, low), high);

/** Return a non-empty box in whole pixels within the picture, from two opposite corners in any order. */
function whole([x1, y1, x2, y2]) {
  const [left, right] = side(x1, x2, current.width);
  const [top, bottom] = side(y1, y2, current.height);
  return [left, top, right, bottom];
}

function side(a, b, length) {
  const low = bound(Math.round(Math.min(a, b)), 0, length - 1);
  return [low, bound(Math.round(Math.max(a, b)), low + 1, length)];
}

function moved(box, dx, dy) {
  const x = bound(dx, -box[0], current.width - box[2]);
  const y = bound(dy, -box[1], current.height - box[3]);
  return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
}

/** Set a new draft; undo restores the old one, unless this continues the last change. */
function change(box, { goesOn = false } = {}) {
  if (same(box, draft)) return;
  if (!goesOn) past.push(draft);
  draft = box;
  show();
}

const described = (box) => `Box from ${box[0]}, ${box[1]} to ${box[2]}, ${box[3]}.`;

// Showing

function title() {
  const where = `Picture ${current.number + 1} of ${session.progress.pictures}, ${current.name}`;
  return current.problem ? `${where}: it cannot be used.` : `${where}.`;
}

let saying = 0;
/** Announce a text to screen readers; of several in quick succession, only the last. */
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => { element("said").textContent = text; }, 150);
}

function show() {
  if (!current) return;
  const focused = document.activeElement;
  const { progress } = session;
  const decided = progress.boxes + progress.none;
  element("bar").max = progress.pictures;
  element("bar").value = decided;
  const parts = [`${decided} of ${progress.pictures} decided`, `${progress.boxes} with a box`, `${progress.none} without`];
  if (progress.unreadable) parts.push(`${progress.unreadable} unreadable`);
  element("counts").textContent = parts.join(" · ");
  element("done").hidden = progress.open > 0;
  const all = progress.unreadable ? "Every picture that can be read is decided." : "Every picture is decided.";
  element("done").textContent = `${all} The boxes are in ${session.out}; you can close this page and stop the program.`;

  document.title = `${current.name} – landmark boxes`;
  element("name").textContent = current.name;
  element("place").textContent =
    `Picture ${current.number + 1} of ${progress.pictures}` + (current.landmark ? ` · ${current.landmark}` : "");
  const state = element("state");
  const changed = !same(draft, current.box);
  state.textContent = changed ? "not saved yet" : !current.decided ? "undecided" : current.box ? "box saved" : "saved: no prominent landmark";
  state.classList.toggle("saved", current.decided && !changed);
  state.hidden = Boolean(current.problem);
  element("stage-label").textContent = current.problem ? title() : `${title()} ${draft ? described(draft) : "No box."}`;

  element("problem").hidden = !current.problem;
  element("problem").textContent = `This picture is skipped because it cannot be used: ${current.problem}.`;
  drawing.classList.toggle("blank", Boolean(current.problem)); // keep its space for the message
  element("save").disabled = !draft || Boolean(current.problem);
  element("none").disabled = Boolean(current.problem);
  element("undo").disabled = !(past.length || session.can_undo);
  element("previous").disabled = current.number === 0;
  element("next").disabled = current.number === progress.pictures - 1;
  element("open").disabled = session.next === null || session.next === current.number;
  fields.forEach((field, k) => {
    field.disabled = Boolean(current.problem);
    field.max = k % 2 ? current.height : current.width;
    if (field !== document.activeElement) field.value = draft ? draft[k] : ""; // leave the field that the user is typing in
  });
  if (focused?.disabled) stage.focus({ preventScroll: true });
  showOffers();
  draw();
}

function showOffers() {
  element("proposals").hidden = offers.length === 0;
  const list = element("proposal-list");
  if (list.childElementCount === offers.length) return;
  list.replaceChildren(...offers.map((box, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = k + 1;
    button.setAttribute("aria-label", `Take proposal ${k + 1}`);
    button.addEventListener("click", () => take(k));
    for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => lookAt(k));
    for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => lookAt(-1));
    return button;
  }));
}

function lookAt(index) {
  [...element("offers").children].forEach((group, k) => group.classList.toggle("looked-at", k === index));
}

function take(index) {
  if (!offers[index]) {
    say(`There is no proposal ${index + 1}.`);
    return;
  }
  change(offers[index]);
  say(`Proposal ${index + 1} taken. ${described(draft)} Enter saves it.`);
  stage.focus({ preventScroll: true });
}

const outline = ([x1, y1, x2, y2]) => `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;

function part(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Return the number of picture pixels per screen pixel. */
function unit() {
  const matrix = drawing.getScreenCTM();
  return matrix && matrix.a > 0 ? 1 / matrix.a : 1;
}

function draw() {
  if (current.problem) return;
  const one = unit();
  element("box").style.display = draft ? "" : "none";
  element("outside").setAttribute("d", draft ? `M0 0H${current.width}V${current.height}H0Z${outline(draft)}` : "");
  if (draft) {
    for (const path of document.querySelectorAll("#box > path")) path.setAttribute("d", outline(draft));
    const [x1, y1, x2, y2] = draft;
    const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const corners = [[x1, y1], [x, y1], [x2, y1], [x1, y], [x2, y], [x1, y2], [x, y2], [x2, y2]];
    element("handles").replaceChildren(...corners.map(([cx, cy]) => part("circle", { cx, cy, r: 5 * one })));
  }
  // The tags of boxes that share a corner are placed side by side.
  const taken = [];
  element("offers").classList.toggle("behind", Boolean(draft));
  element("offers").replaceChildren(...offers.map((box, k) => {
    let [x, y] = [box[0] + 14 * one, box[1] + 14 * one];
    while (taken.some(([tx, ty]) => Math.abs(tx - x) < 22 * one && Math.abs(ty - y) < 22 * one)) x += 24 * one;
    taken.push([x, y]);
    const tag = part("g", { class: "tag" });
    tag.append(part("rect", { x: x - 10 * one, y: y - 10 * one, width: 20 * one, height: 20 * one, rx: 3 * one }));
    const text = part("text", { x, y, "font-size": 13 * one });
    text.textContent = k + 1;
    tag.append(text);
    const group = part("g", {});
    group.append(part("path", { class: "offer under", d: outline(box) }), part("path", { class: "offer", d: outline(box) }), tag);
    return group;
  }));
}

// Drawing with a mouse, touch or a pen

function at(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  return [point.x, point.y];
}

/** Return the sides of the box that the pointer would move, or null for none. */
function grip([x, y], reach) {
  if (!draft) return null;
  const near = (value, low, high) => {
    const within = Math.min(reach, (high - low) / 3); // a small box can still be moved by its middle
    if (value < low - reach || value > high + reach) return null;
    if (value < low + within) return -1;
    return value > high - within ? 1 : 0;
  };
  const [h, v] = [near(x, draft[0], draft[2]), near(y, draft[1], draft[3])];
  return h === null || v === null ? null : [h, v];
}

const CURSORS = { "0,0": "move", "-1,-1": "nwse-resize", "1,1": "nwse-resize", "-1,1": "nesw-resize", "1,-1": "nesw-resize", "-1,0": "ew-resize", "1,0": "ew-resize", "0,-1": "ns-resize", "0,1": "ns-resize" };
const reachOf = (event) => (event.pointerType === "mouse" ? 9 : 20) * unit();

function dragged(start, grabbed, [x0, y0], [x, y]) {
  if (!grabbed) return whole([x0, y0, x, y]);
  const [dx, dy] = [Math.round(x - x0), Math.round(y - y0)];
  const [h, v] = grabbed;
  if (h === 0 && v === 0) return moved(start, dx, dy);
  return whole([
    start[0] + (h < 0 ? dx : 0), start[1] + (v < 0 ? dy : 0), start[2] + (h > 0 ? dx : 0), start[3] + (v > 0 ? dy : 0),
  ]);
}

let drag = null;

drawing.addEventListener("pointerdown", (event) => {
  if (busy || !current || current.problem || drag || event.button !== 0) return;
  event.preventDefault(); // do not select text or drag the picture
  stage.focus({ preventScroll: true });
  drag = { pointer: event.pointerId, from: at(event), start: draft, grabbed: grip(at(event), reachOf(event)) };
  drawing.setPointerCapture(event.pointerId);
});

drawing.addEventListener("pointermove", (event) => {
  if (!current || current.problem) return;
  if (drag?.pointer !== event.pointerId) {
    const over = grip(at(event), reachOf(event));
    drawing.style.cursor = over ? CURSORS[over] : "";
    return;
  }
  const [x, y] = at(event);
  // Ignore clicks and trembling hands.
  const far = Math.max(Math.abs(x - drag.from[0]), Math.abs(y - drag.from[1])) > 4 * unit();
  if (!drag.begun && !far) return;
  change(dragged(drag.start, drag.grabbed, drag.from, [x, y]), { goesOn: drag.begun });
  drag.begun = true;
});

function endDrag(event) {
  if (drag?.pointer !== event.pointerId) return;
  if (event.type === "pointercancel" && drag.begun) draft = past.pop();
  else if (drag.begun) say(described(draft));
  drag = null;
  show();
}
drawing.addEventListener("pointerup", endDrag);
drawing.addEventListener("pointercancel", endDrag);

// Keys work only while the picture has the focus, so that letters do nothing in a field or for users of voice control

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function nudge(event) {
  const step = Math.max(1, Math.round(Math.max(current.width, current.height) / 100));
  const [dx, dy] = ARROWS[event.key].map((sign) => sign * step);
  const box = event.shiftKey
    ? [draft[0], draft[1], bound(draft[2] + dx, draft[0] + 1, current.width), bound(draft[3] + dy, draft[1] + 1, current.height)]
    : moved(draft, dx, dy);
  change(box, { goesOn: event.repeat });
  say(described(draft));
}

function middle() {
  const [w, h] = [current.width, current.height];
  change(whole([w / 4, h / 4, (3 * w) / 4, (3 * h) / 4]));
  say(`${described(draft)} Arrows move it, Shift and arrows resize it, Enter saves it.`);
}

function onKey(event) {
  if (event.altKey || event.metaKey || event.ctrlKey) {
    if (event.key.toLowerCase() !== "z" || event.altKey || event.shiftKey) return false;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const usable = !current.problem;
  if (key === "z") undo();
  else if (key === "PageDown") go(current.number + 1);
  else if (key === "PageUp") go(current.number - 1);
  else if (!usable) return false;
  else if (key === "Enter") save();
  else if (key === "n") none();
  else if (key === "b") middle();
  else if (/^[1-9]$/.test(key)) take(Number(key) - 1);
  else if (["Escape", "Delete", "Backspace"].includes(key) && draft) { change(null); say("The box is removed."); }
  else if (ARROWS[key] && draft) nudge(event);
  else return false;
  return true;
}

stage.addEventListener("keydown", (event) => {
  if (!current || busy || drag || event.target !== stage) return;
  const repeats = ARROWS[event.key] !== undefined;
  if (event.repeat && !repeats) event.preventDefault(); // a held key must not decide twice
  else if (onKey(event)) event.preventDefault();
});

// Buttons and fields

element("save").addEventListener("click", save);
element("none").addEventListener("click", none);
element("undo").addEventListener("click", undo);
for (const [id, target] of [["previous", () => current.number - 1], ["next", () => current.number + 1], ["open", () => session.next]]) {
  element(id).addEventListener("click", (event) => {
    go(target());
    if (event.detail > 0) stage.focus({ preventScroll: true }); // clicked: give the keys back to the picture
  });
}

fields.forEach((field, k) => field.addEventListener("change", () => {
  if (!current || current.problem || field.value === "") return;
  const box = draft ? [...draft] : [0, 0, current.width, current.height];
  const length = k % 2 ? current.height : current.width;
  // The edited side stays on its side of the opposite one, which does not move.
  box[k] = k < 2 ? bound(Math.round(field.valueAsNumber), 0, box[k + 2] - 1) : bound(Math.round(field.valueAsNumber), box[k - 2] + 1, length);
  change(box);
  field.value = draft[k];
}));

new ResizeObserver(() => { if (current) draw(); }).observe(drawing);

work(async () => {
  session = await ask("/api/session");
  await load(session.next ?? 0);
  stage.focus({ preventScroll: true });
});
