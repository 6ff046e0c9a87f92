// The picture of the study page: window by dragging, zoom, findings on and off, arrow keys. Everything else is plain
// links and forms, and so is all of this but the zoom without a script.

const hidden = new Set();
let zoom = 1;

const viewer = () => document.getElementById("viewer");
const picture = () => viewer()?.querySelector("svg.picture");

function show() {
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  for (const mark of viewer()?.querySelectorAll("[data-finding]") ?? [])
    mark.classList.toggle("off", hidden.has(mark.dataset.finding));
  for (const box of viewer()?.querySelectorAll("[data-toggle]") ?? []) box.checked = !hidden.has(box.dataset.toggle);
  const svg = picture();
  if (svg) {
    svg.classList.toggle("zoomed", zoom !== 1);
    svg.style.width = zoom === 1 ? "" : `${zoom * 100}%`;
    for (const name of svg.querySelectorAll("text")) name.style.fontSize = `${name.getAttribute("font-size") / zoom}px`;
    const image = svg.querySelector("image");
    image.decode().catch(() => told(image)); // it may have failed before this script ran
  }
}

// A picture that cannot be made says why in words.
async function told(image) {
  const answer = await fetch(image.getAttribute("href"));
  const problem = document.getElementById("picture-problem");
  if (answer.ok || !problem) return;
  problem.textContent = await answer.text();
  problem.hidden = false;
}

document.addEventListener("change", (event) => {
  const finding = event.target.dataset?.toggle;
  if (finding === undefined) return;
  if (event.target.checked) hidden.delete(finding);
  else hidden.add(finding);
  show();
});

function zoomed(way) {
  zoom = way === "fit" ? 1 : Math.min(16, Math.max(0.25, zoom * (way === "in" ? 1.5 : 1 / 1.5)));
  show();
}

document.addEventListener("click", (event) => {
  const way = event.target.closest("[data-zoom]")?.dataset.zoom;
  if (way) zoomed(way);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const go = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
  const way = { "+": "in", "-": "out", 0: "fit" }[event.key];
  if (go) viewer()?.querySelector(`a[data-go="${go}"]`)?.click();
  else if (way) zoomed(way);
  else if (event.key === "h") {
    const all = [...(viewer()?.querySelectorAll("[data-toggle]") ?? [])].map((box) => box.dataset.toggle);
    const off = all.some((finding) => !hidden.has(finding));
    for (const finding of all) off ? hidden.add(finding) : hidden.delete(finding);
    show();
  } else return;
  if (go || way) event.preventDefault();
});

// Dragging: to the right widens the window, downwards raises its centre, as at a workstation.
let drag = null;

document.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest("svg.picture");
  const form = document.getElementById("window");
  if (!svg || !form || event.button !== 0 || event.pointerType === "touch") return;
  const center = Number(form.center.value), width = Number(form.width.value);
  if (!width) return;
  drag = { form, image: svg.querySelector("image"), x: event.clientX, y: event.clientY, center, width, busy: false };
  event.preventDefault();
});

document.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const step = Math.max(drag.width, 1) / 300;
  const width = Math.max(1, Math.round(drag.width + (event.clientX - drag.x) * step));
  const center = Math.round(drag.center + (event.clientY - drag.y) * step);
  drag.form.center.value = center;
  drag.form.width.value = width;
  drag.moved = true;
  if (drag.busy) return; // one picture at a time: the last one comes when the button is let go
  drag.busy = true;
  const { image } = drag, mine = drag;
  const source = new URL(image.getAttribute("href"), location.href);
  source.searchParams.set("center", center);
  source.searchParams.set("width", width);
  for (const end of ["load", "error"]) image.addEventListener(end, () => (mine.busy = false), { once: true });
  image.setAttribute("href", source.pathname + source.search);
});

document.addEventListener("pointerup", () => {
  if (drag?.moved) drag.form.requestSubmit();
  drag = null;
});

document.addEventListener("htmx:afterSwap", show);
document.addEventListener("htmx:historyRestore", show);
show();
