"use strict";
// Everything on the pages works without this file: links lead to other ranges of steps, forms do what buttons say, and
// live pages load themselves again. With it they change in place, and charts tell what is under the pointer.
//
// A page has parts (data-part). The same address is fetched again, and parts that have changed are put in place of the
// old ones, unless somebody is just writing in them. The server draws; nothing is computed here but places.

const PATIENCE_MILLISECONDS = 15000; // as long as the slowest page may take
const RETRY_SECONDS = 5; // between tries while the server does not answer
const FEWEST_UNITS = 6; // of a drawing's width; a shorter drag is a click
const cursor = { step: null, dragFrom: null, svg: null };

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const status = document.getElementById("status");
let shown = new Map(all("[data-part]").map((part) => [part.dataset.part, part.outerHTML]));
let timer = null;

// ------------------------------------------------------------------------------------------------ in place of loading

async function fetchPage(address) {
  const response = await fetch(address, {
    headers: { accept: "text/html" },
    signal: AbortSignal.timeout(PATIENCE_MILLISECONDS),
  });
  return { ok: response.ok, page: new DOMParser().parseFromString(await response.text(), "text/html") };
}

function isBusy(part) {
  const fields = all("input:not([type=hidden]), textarea, select", part);
  return fields.includes(document.activeElement) || fields.some((field) => "defaultValue" in field && field.value !== field.defaultValue);
}

function swap(page, everything) {
  const alerts = all(".alert").length;
  document.title = page.title;
  document.body.toggleAttribute("data-refresh", page.body.hasAttribute("data-refresh"));
  document.body.dataset.refresh = page.body.dataset.refresh ?? "";
  for (const part of all("[data-part]")) {
    const fresh = page.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!fresh || fresh.outerHTML === shown.get(part.dataset.part) || (!everything && isBusy(part))) continue;
    shown.set(part.dataset.part, fresh.outerHTML);
    const open = all("details[open][id]", part).map((each) => each.id);
    const focused = part.contains(document.activeElement) ? focusKey(document.activeElement) : null;
    const adopted = document.adoptNode(fresh);
    part.replaceWith(adopted);
    for (const id of open) adopted.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    enhance(adopted);
    if (focused) adopted.querySelector(focused)?.focus({ preventScroll: true });
  }
  if (all(".alert").length > alerts && !everything) status.textContent = "There is a new alert on this page.";
  drawCursor();
}

function focusKey(element) {
  if (element.dataset.range) return `[data-range="${element.dataset.range}"]`;
  const title = element.matches("svg.chart") && element.querySelector("title");
  return title ? `svg.chart:has(> #${CSS.escape(title.id)})` : null;
}

async function go(address, remember = true) {
  document.getElementById("content").classList.add("busy");
  try {
    const { ok, page } = await fetchPage(address);
    if (!ok) throw new Error(page.querySelector("main p")?.textContent ?? "refused");
    if (remember) history.pushState(null, "", address);
    swap(page, true);
  } catch {
    location.assign(address); // the browser says best what is wrong
  } finally {
    document.getElementById("content").classList.remove("busy");
  }
}

async function refresh() {
  let seconds = Number(document.body.dataset.refresh);
  if (!seconds) return;
  if (!document.hidden && cursor.dragFrom === null) {
    const address = location.href;
    try {
      const { ok, page } = await fetchPage(address);
      if (address === location.href) {
        if (ok) swap(page, false);
        else document.body.dataset.refresh = "";
        say(ok ? "" : (page.querySelector("main p")?.textContent ?? "The server refused to show this again."));
      }
    } catch {
      seconds = RETRY_SECONDS;
      say(`The server has not answered at ${new Date().toLocaleTimeString()}: what you see is older. Trying again.`);
    }
  }
  timer = setTimeout(refresh, 1000 * seconds);
}

function say(trouble) {
  if (trouble || status.classList.contains("failing")) status.textContent = trouble;
  status.classList.toggle("failing", trouble !== "");
}

// ------------------------------------------------------------------------------------------------------------- charts

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

function rangeAddress(first, last) {
  const address = new URL(location.href);
  address.searchParams.delete("latest");
  address.searchParams.set("first_step", Math.round(Math.min(first, last)));
  address.searchParams.set("last_step", Math.round(Math.max(first, last)));
  return address.href;
}

const follow = (key) => all(`[data-range="${key}"]`)[0]?.click();

function onKey(event) {
  const svg = event.target.closest?.("svg.chart[data-readout]");
  if (!svg || event.ctrlKey || event.metaKey || event.altKey) return;
  const { steps } = readout(svg);
  const keys = { "+": "narrower", "=": "narrower", "-": "wider", Home: "whole", End: "latest" };
  const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (keys[event.key]) follow(keys[event.key]);
  else if (arrow && event.shiftKey) follow(arrow < 0 ? "earlier" : "later");
  else if (arrow) {
    const index = cursor.step === null ? (arrow < 0 ? steps.length : -1) : nearest(steps, cursor.step);
    let next = index + arrow;
    while (steps[next] === steps[index]) next += arrow; // a bucket stands there twice
    if (steps[next] !== undefined) cursor.step = steps[next];
    drawCursor();
  } else if (event.key === "Escape") {
    Object.assign(cursor, { step: null, dragFrom: null });
    drawCursor();
  } else return;
  event.preventDefault();
}

function enhance(root) {
  for (const svg of all("svg.chart[data-readout]", root)) {
    svg.setAttribute("tabindex", "0");
    svg.closest("figure").querySelector(".readout")?.setAttribute("aria-live", "polite");
  }
  const name = localStorage.getItem("by");
  for (const field of all('input[name="by"]', root)) {
    if (name && !field.value) field.value = field.defaultValue = name;
  }
}

// ------------------------------------------------------------------------------------------------------------- events

document.addEventListener("pointermove", (event) => {
  const svg = cursor.svg ?? event.target.closest?.("svg.chart[data-readout]");
  const step = svg ? stepAt(readout(svg), unitsAt(svg, event)) : null;
  if (step === cursor.step || (!svg && document.activeElement?.matches("svg.chart"))) return;
  cursor.step = step;
  drawCursor();
});
document.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest?.("svg.chart[data-readout]");
  if (!svg || event.button !== 0 || event.pointerType === "touch") return;
  Object.assign(cursor, { svg, dragFrom: stepAt(readout(svg), unitsAt(svg, event)) });
  event.preventDefault(); // no text is selected
  svg.focus({ preventScroll: true });
});
document.addEventListener("pointerup", () => {
  const { svg, dragFrom, step } = cursor;
  Object.assign(cursor, { svg: null, dragFrom: null });
  if (!svg || step === null) return;
  const moved = Math.abs(placeOf(readout(svg), step) - placeOf(readout(svg), dragFrom));
  drawCursor();
  if (moved >= FEWEST_UNITS) go(rangeAddress(dragFrom, step));
});
document.addEventListener("dblclick", (event) => event.target.closest?.("svg.chart[data-readout]") && follow("whole"));
document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-swap]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button > 0) return;
  event.preventDefault();
  go(new URL(link.getAttribute("href"), location.href).href);
});
document.addEventListener("submit", (event) => {
  const name = event.target.elements.namedItem("by")?.value?.trim();
  if (name) localStorage.setItem("by", name);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest?.("input, textarea, select")) return;
  const field = document.querySelector('[data-key="/"]');
  if (field) event.preventDefault();
  field?.focus();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  clearTimeout(timer);
  refresh();
});
window.addEventListener("popstate", () => go(location.href, false));

document.documentElement.classList.add("scripting");
enhance(document);
timer = setTimeout(refresh, 1000 * Number(document.body.dataset.refresh || 0));
