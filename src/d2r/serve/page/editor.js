// A box on a picture, drawn and adjusted by mouse, touch and keys.
// Boxes are [x1, y1, x2, y2] in whole pixels of the picture, half-open; null means the whole picture.

import { outline, part } from "./svg.js";

const bound = (value, low, high) => Math.min(Math.max(value, low), high);
const same = (a, b) => String(a) === String(b);
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CURSORS = { "0,0": "move", "-1,-1": "nwse-resize", "1,1": "nwse-resize", "-1,1": "nesw-resize", "1,-1": "nesw-resize", "-1,0": "ew-resize", "1,0": "ew-resize", "0,-1": "ns-resize", "0,1": "ns-resize" };

export class BoxEditor {
  /** `changed(box)` is called after each complete change. */
  constructor(stage, changed) {
    this.stage = stage;
    this.drawing = stage.querySelector("#drawing");
    this.changed = changed;
    this.box = null;
    this.size = [1, 1];
    this.drag = null;
    this.drawing.addEventListener("pointerdown", (event) => this.#down(event));
    this.drawing.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) this.drawing.addEventListener(name, (event) => this.#up(event));
    stage.addEventListener("keydown", (event) => { if (!this.drag && this.#key(event)) event.preventDefault(); });
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  show(source, [width, height], box = null) {
    this.size = [width, height];
    this.box = box;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const picture = this.drawing.querySelector("image");
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    picture.setAttribute("href", source);
    this.draw();
  }

  clear() {
    if (this.box) this.#set(null);
  }

  #set(box) {
    this.box = box;
    this.draw();
    this.changed(box);
  }

  draw() {
    const [width, height] = this.size;
    const group = this.drawing.querySelector("#box");
    group.style.display = this.box ? "" : "none";
    this.drawing.querySelector("#outside").setAttribute("d", this.box ? `M0 0H${width}V${height}H0Z${outline(this.box)}` : "");
    if (!this.box) return;
    for (const path of group.querySelectorAll(":scope > path")) path.setAttribute("d", outline(this.box));
    const [x1, y1, x2, y2] = this.box;
    const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const places = [[x1, y1], [x, y1], [x2, y1], [x1, y], [x2, y], [x1, y2], [x, y2], [x2, y2]];
    const r = 5 * this.#unit();
    group.querySelector("#handles").replaceChildren(...places.map(([cx, cy]) => part("circle", { cx, cy, r })));
  }

  /** Return the number of picture pixels per screen pixel. */
  #unit() {
    const matrix = this.drawing.getScreenCTM();
    return matrix && matrix.a > 0 ? 1 / matrix.a : 1;
  }

  #at(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.drawing.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  #whole([x1, y1, x2, y2]) {
    const side = (a, b, length) => {
      const low = bound(Math.round(Math.min(a, b)), 0, length - 1);
      return [low, bound(Math.round(Math.max(a, b)), low + 1, length)];
    };
    const [[left, right], [top, bottom]] = [side(x1, x2, this.size[0]), side(y1, y2, this.size[1])];
    return [left, top, right, bottom];
  }

  #moved(box, dx, dy) {
    const x = bound(dx, -box[0], this.size[0] - box[2]);
    const y = bound(dy, -box[1], this.size[1] - box[3]);
    return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
  }

  /** Return the sides of the box that the pointer would move, or null to draw a new box. */
  #grip([x, y], event) {
    if (!this.box) return null;
    const reach = (event.pointerType === "mouse" ? 9 : 20) * this.#unit();
    const near = (value, low, high) => {
      const within = Math.min(reach, (high - low) / 3); // a small box can still be moved by its middle
      if (value < low - reach || value > high + reach) return null;
      if (value < low + within) return -1;
      return value > high - within ? 1 : 0;
    };
    const [h, v] = [near(x, this.box[0], this.box[2]), near(y, this.box[1], this.box[3])];
    return h === null || v === null ? null : [h, v];
  }

  #down(event) {
    if (this.drag || event.button !== 0) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    const from = this.#at(event);
    this.drag = { pointer: event.pointerId, from, start: this.box, grip: this.#grip(from, event) };
    this.drawing.setPointerCapture(event.pointerId);
  }

  #move(event) {
    if (this.drag?.pointer !== event.pointerId) {
      const over = this.#grip(this.#at(event), event);
      this.drawing.style.cursor = over ? CURSORS[over] : "";
      return;
    }
    const { from, start, grip } = this.drag;
    const [x, y] = this.#at(event);
    // Ignore clicks and trembling hands.
    if (!this.drag.begun && Math.max(Math.abs(x - from[0]), Math.abs(y - from[1])) <= 4 * this.#unit()) return;
    this.drag.begun = true;
    if (!grip) this.box = this.#whole([...from, x, y]);
    else {
      const [dx, dy] = [Math.round(x - from[0]), Math.round(y - from[1])];
      const [h, v] = grip;
      this.box = h === 0 && v === 0
        ? this.#moved(start, dx, dy)
        : this.#whole([start[0] + (h < 0 ? dx : 0), start[1] + (v < 0 ? dy : 0), start[2] + (h > 0 ? dx : 0), start[3] + (v > 0 ? dy : 0)]);
    }
    this.draw();
  }

  #up(event) {
    if (this.drag?.pointer !== event.pointerId) return;
    const { begun, start } = this.drag;
    this.drag = null;
    if (event.type === "pointercancel") this.box = start;
    this.draw();
    if (begun && !same(this.box, start)) this.changed(this.box);
  }

  #key(event) {
    if (event.altKey || event.metaKey || event.ctrlKey) return false;
    const [width, height] = this.size;
    if (event.key.toLowerCase() === "b") this.#set(this.#whole([width / 4, height / 4, (3 * width) / 4, (3 * height) / 4]));
    else if (["Escape", "Delete", "Backspace"].includes(event.key) && this.box) this.#set(null);
    else if (ARROWS[event.key] && this.box) {
      const step = Math.max(1, Math.round(Math.max(width, height) / 100));
      const [dx, dy] = ARROWS[event.key].map((sign) => sign * step);
      const [x1, y1, x2, y2] = this.box;
      this.#set(event.shiftKey ? [x1, y1, bound(x2 + dx, x1 + 1, width), bound(y2 + dy, y1 + 1, height)] : this.#moved(this.box, dx, dy));
    } else return false;
    return true;
  }
}
