// The boxes of the review page: dragged, they write their edges into the form, which is what counts; typed edges move
// them. Edges are columns and rows of the frame, since one unit of the inner drawing is one pixel.

const field = (key) => document.querySelector(`[data-box="${key}"]`);
const keyOf = (rect) => `${rect.closest("[data-finding]").dataset.finding}-${rect.dataset.region}`;
const sizeOf = (grid) => [grid.viewBox.baseVal.width, grid.viewBox.baseVal.height];

function edges(key) {
  const [left, top, right, bottom] = field(key).value.split(/[\s,]+/).filter(Boolean).map(Number);
  return left < right && top < bottom ? [left, top, right, bottom] : null;
}

function draw(rect) {
  const box = edges(keyOf(rect));
  if (!box) return;
  const [left, top, right, bottom] = box;
  const grid = rect.ownerSVGElement;
  const shown = grid.getScreenCTM();
  Object.entries({ x: left, y: top, width: right - left, height: bottom - top }).forEach(([name, value]) => rect.setAttribute(name, value));
  rect.parentNode.querySelectorAll("path").forEach((outline) => (outline.style.display = moved(keyOf(rect)) ? "none" : ""));
  follow(rect, left, top);
  if (!shown?.a) return; // closed, so without a size
  // Of a small box they leave a middle that it can be dragged by.
  const [width, height] = [Math.min(12 / shown.a, (right - left) / 3), Math.min(12 / shown.d, (bottom - top) / 3)];
  for (const corner of corners(rect)) {
    const place = Number(corner.dataset.corner);
    corner.setAttribute("x", (place % 2 ? right : left) - width / 2);
    corner.setAttribute("y", (place > 1 ? bottom : top) - height / 2);
    corner.setAttribute("width", width);
    corner.setAttribute("height", height);
  }
}

// The name goes with its box; it stands in the outer drawing, whose rows are as high as people see them.
function follow(rect, left, top) {
  const grid = rect.ownerSVGElement;
  const place = [...grid.querySelectorAll("rect[data-region]")].indexOf(rect);
  const name = grid.ownerSVGElement.querySelectorAll("text.mark")[place];
  const [wasLeft, wasTop] = field(keyOf(rect)).dataset.at.split(" ").map(Number);
  const aspect = grid.height.baseVal.value / grid.viewBox.baseVal.height;
  name?.setAttribute("transform", `translate(${left - wasLeft} ${(top - wasTop) * aspect})`);
}

const moved = (key) => field(key).value !== field(key).defaultValue;

function corners(rect) {
  const known = [...rect.parentNode.querySelectorAll(".corner")];
  if (known.length) return known;
  return [0, 1, 2, 3].map((place) => {
    const corner = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    corner.classList.add("corner");
    corner.dataset.corner = place;
    rect.parentNode.append(corner);
    return corner;
  });
}

const drawAll = () => document.querySelectorAll("rect[data-region]").forEach(draw);

let drag = null;

function place(event, grid) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(grid.getScreenCTM().inverse());
  return [point.x, point.y];
}

document.addEventListener("pointerdown", (event) => {
  const target = event.target.closest(".review .mark rect");
  if (!target || event.button !== 0) return;
  const rect = target.parentNode.querySelector("[data-region]");
  const box = edges(keyOf(rect));
  if (!box) return;
  drag = { rect, corner: target.dataset.corner, from: place(event, rect.ownerSVGElement), box };
  target.setPointerCapture(event.pointerId);
  event.preventDefault();
});

document.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const grid = drag.rect.ownerSVGElement;
  const [columns, rows] = sizeOf(grid);
  const [x, y] = place(event, grid);
  let [left, top, right, bottom] = drag.box;
  let [across, down] = [x - drag.from[0], y - drag.from[1]];
  if (drag.corner === undefined) {
    across = Math.min(Math.max(across, -left), columns - right);
    down = Math.min(Math.max(down, -top), rows - bottom);
    [left, right, top, bottom] = [left + across, right + across, top + down, bottom + down];
  } else {
    if (drag.corner % 2) right = Math.min(Math.max(right + across, left + 1), columns);
    else left = Math.max(Math.min(left + across, right - 1), 0);
    if (drag.corner > 1) bottom = Math.min(Math.max(bottom + down, top + 1), rows);
    else top = Math.max(Math.min(top + down, bottom - 1), 0);
  }
  const input = field(keyOf(drag.rect));
  input.value = [left, top, right, bottom].map((edge) => Math.round(edge * 10) / 10).join(" ");
  const finding = drag.rect.closest("[data-finding]").dataset.finding;
  document.querySelector(`[name="v${finding}"][value="modify"]`).checked = true;
  drawAll();
});

for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (drag = null));
document.addEventListener("input", drawAll);
document.addEventListener("change", () => {
  for (const verdict of document.querySelectorAll("[data-judged]")) {
    const gone = verdict.querySelector('[value="reject"]').checked;
    verdict.querySelector("select[name^=why]").required = gone;
    for (const rect of document.querySelectorAll(`.mark[data-finding="${verdict.dataset.judged}"] rect`)) rect.classList.toggle("gone", gone);
  }
});
document.addEventListener("toggle", drawAll, true);
addEventListener("resize", drawAll);
document.querySelectorAll(".scripted").forEach((element) => (element.hidden = false));
drawAll();
