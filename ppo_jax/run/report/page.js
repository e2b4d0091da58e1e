"use strict";
// Values under the pointer, and legend entries that switch what they name on and off.
const values = document.getElementById("values");

function points(path) { // of a path, in the SVG's thousandths, which charts.py writes
  path.points ??= [...path.getAttribute("d").matchAll(/(-?\d+) (-?\d+)/g)].map(([, x, y]) => [+x, +y]);
  return path.points;
}
const column = (path, name) => path.dataset[name]?.split(name === "labels" ? "|" : " ");
const text = (content) => Object.assign(document.createElement("span"), {textContent: content}).innerHTML;
const visible = (plot, kind) => [...plot.querySelectorAll("." + kind + ":not(.off)")];

function shown(number, percent) {
  const value = percent ? 100 * number : number, size = Math.abs(value);
  const words = size >= 1e4 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  return words + (percent ? " %" : "");
}

function row(path, index, percent) {
  const [y, low, high] = ["y", "low", "high"].map((name) => column(path, name)?.[index]);
  const between = low ? ` (${shown(+low, percent)} to ${shown(+high, percent)})` : "";
  const name = column(path, "labels")?.[index] ?? path.dataset.name;
  const color = path.classList.contains("near") ? "" : path.getAttribute("class").split(" ")[1];
  return `<div><i class="${color}"></i>${text(name)}: <b>${shown(+y, percent)}</b>${between}</div>`;
}

function look(plot, event) {
  const box = plot.getBoundingClientRect();
  const x = 1000 * (event.clientX - box.left) / box.width, y = 1000 * (event.clientY - box.top) / box.height;
  const away = ([px, py]) => Math.hypot((px - x) * box.width, (py - y) * box.height) / 1000; // in pixels
  const nearest = (path, distance) => points(path).reduce(
    (best, point, index) => distance(point) < best[0] ? [distance(point), index] : best, [Infinity, 0]);
  const percent = "percent" in plot.dataset, rows = [];
  for (const path of visible(plot, "line")) rows.push(row(path, nearest(path, ([px]) => Math.abs(px - x))[1], percent));
  for (const path of visible(plot, "thin")) path.classList.remove("near");
  for (const [kind, within] of [["thin", 14], ["dots", 14]]) {
    const found = visible(plot, kind).map((path) => [...nearest(path, away), path]).sort((a, b) => a[0] - b[0])[0];
    if (!found || found[0] > within) continue;
    if (kind === "thin") found[2].classList.add("near");
    rows.push(row(found[2], found[1], percent));
  }
  const [left, right] = plot.dataset.x.split(" ").map(Number), part = Math.min(Math.max(x / 1000, 0), 1);
  const at = "log" in plot.dataset ? left * (right / left) ** part : left + (right - left) * part;
  const head = "names" in plot.dataset ? "" : `<div>${shown(+at.toPrecision(3))} ${text(plot.dataset.unit)}</div>`;
  values.innerHTML = head + rows.join("");
  values.hidden = !rows.length;
  const size = values.getBoundingClientRect(), right_of = event.clientX + 16 + size.width < innerWidth;
  values.style.left = `${Math.max(4, right_of ? event.clientX + 16 : event.clientX - 16 - size.width)}px`;
  values.style.top = `${Math.min(event.clientY + 12, innerHeight - size.height - 4)}px`;
}

for (const plot of document.querySelectorAll(".plot")) {
  plot.addEventListener("pointermove", (event) => look(plot, event));
  plot.addEventListener("pointerdown", (event) => look(plot, event));
  plot.addEventListener("pointerleave", () => {
    values.hidden = true;
    for (const path of plot.querySelectorAll(".near")) path.classList.remove("near");
  });
}
const buttons = [...document.querySelectorAll(".legend button")];
function apply() {
  const off = new Set(buttons.filter((one) => one.ariaPressed === "false").map((one) => one.dataset.key));
  for (const path of document.querySelectorAll("[data-keys]"))
    path.classList.toggle("off", path.dataset.keys.split(" ").some((one) => off.has(one)));
}
for (const button of buttons)
  button.addEventListener("click", () => {
    button.ariaPressed = button.ariaPressed === "false";
    apply();
  });
apply();
