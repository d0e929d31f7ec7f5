"use strict";
// Charts tell what is under the pointer, and to the keyboard: on the pages, and in reports, which carry this file within.
//
// The server draws, and writes what it drew beside each drawing (data-readout); nothing is computed here but places.

const cursor = { step: null, dragFrom: null, svg: null };
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const chartAt = (target) => target.closest?.("svg.chart[data-readout]") ?? null;

const data = new WeakMap();

function readout(svg) {
  if (!data.has(svg)) data.set(svg, JSON.parse(svg.dataset.readout));
  return data.get(svg);
}

const stepAt = ({ plot: [left, right], range: [low, high] }, x) =>
  low + ((Math.min(Math.max(x, left), right) - left) / (right - left)) * (high - low);
const placeOf = ({ plot: [left, right], range: [low, high] }, step) => left + ((step - low) / (high - low)) * (right - left);

function unitsAt(svg, event) {
  const box = svg.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
}

function nearest(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function figure(value) {
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const raised = [...String(Number(exponent))].map((each) => (each === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[each])).join("");
    return `${Number(mantissa)} × 10${raised}`;
  }
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

function told(values, steps, index) {
  const same = [index - 1, index, index + 1].filter((each) => steps[each] === steps[index]);
  const known = same.map((each) => values[each]).filter((value) => value !== null);
  if (!known.length) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return low === high ? figure(low) : `${figure(low)} to ${figure(high)}`;
}

const part = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

function drawCursor() {
  for (const svg of all("svg.chart[data-readout]")) {
    all(".cursor, .selection", svg).forEach((each) => each.remove());
    const output = svg.closest("figure").querySelector(".readout");
    if (cursor.step === null) {
      output.replaceChildren();
      continue;
    }
    const { plot, range, steps, curves } = readout(svg);
    if (cursor.step < range[0] || cursor.step > range[1] || !steps.length) continue;
    const index = nearest(steps, cursor.step);
    const place = placeOf({ plot, range }, steps[index]);
    svg.append(part("path", { class: "cursor", d: `M${place} ${plot[2]}V${plot[3]}` }));
    const pieces = Object.entries(curves).map(([name, values]) => [name, told(values, steps, index)]);
    const words = pieces.filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`);
    const bold = document.createElement("b");
    bold.textContent = `step ${steps[index].toLocaleString("en")}`;
    output.replaceChildren(bold, words.length ? ` · ${words.join(" · ")}` : "");
    if (cursor.dragFrom !== null) {
      const from = placeOf({ plot, range }, cursor.dragFrom);
      const to = placeOf({ plot, range }, cursor.step);
      const box = { x: Math.min(from, to), width: Math.abs(to - from), y: plot[2], height: plot[3] - plot[2] };
      svg.append(part("rect", { class: "selection", ...box }));
    }
  }
}

function moveCursor(svg, arrow) {
  const { steps } = readout(svg);
  const index = cursor.step === null ? (arrow < 0 ? steps.length : -1) : nearest(steps, cursor.step);
  let next = index + arrow;
  while (steps[next] === steps[index]) next += arrow; // a bucket stands there twice
  if (steps[next] !== undefined) cursor.step = steps[next];
  drawCursor();
}

function readable(root) {
  for (const svg of all("svg.chart[data-readout]", root)) {
    const around = svg.parentElement;
    const output = svg.closest("figure").querySelector(".readout") ?? around.insertBefore(document.createElement("output"), svg);
    output.className = "readout";
    output.setAttribute("aria-live", "polite");
    svg.setAttribute("tabindex", "0");
  }
}

document.addEventListener("pointermove", (event) => {
  const svg = cursor.svg ?? chartAt(event.target);
  const step = svg ? stepAt(readout(svg), unitsAt(svg, event)) : null;
  if (step === cursor.step || (!svg && document.activeElement?.matches("svg.chart"))) return;
  cursor.step = step;
  drawCursor();
});
document.addEventListener("keydown", (event) => {
  const svg = chartAt(event.target);
  if (!svg || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (arrow) moveCursor(svg, arrow);
  else if (event.key === "Escape") {
    Object.assign(cursor, { step: null, dragFrom: null });
    drawCursor();
  } else return;
  event.preventDefault();
});

document.documentElement.classList.add("scripting");
readable(document);
