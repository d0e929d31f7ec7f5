"use strict";
// Everything on the pages works without this file: links lead to other ranges of steps, forms do what buttons say, and
// live pages load themselves again. With it they change in place, and charts tell what is under the pointer.
//
// A page has parts (data-part). The same address is fetched again, and parts that have changed are put in place of the
// old ones, unless somebody is just writing in them. What charts say of themselves is in readout.js, which comes first.

const PATIENCE_MILLISECONDS = 15000; // as long as the slowest page may take
const RETRY_SECONDS = 5; // between tries while the server does not answer
const FEWEST_UNITS = 6; // of a drawing's width; a shorter drag is a click
const status = document.getElementById("status");
const shown = new Map(); // what was put in place of each part last, as it came
let timer = null;
let journeys = 0; // ranges asked for so far

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
    // A picture that is here already stays: to load it anew would be seen.
    const pictures = new Map(all("img", part).map((each) => [each.src, each]));
    for (const image of all("img", adopted)) image.replaceWith(pictures.get(image.src) ?? image);
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
  const mine = ++journeys;
  document.getElementById("content").classList.add("busy");
  try {
    const { ok, page } = await fetchPage(address);
    if (mine !== journeys) return; // somebody has gone on meanwhile, and that answer may have come first
    if (!ok) throw new Error(page.querySelector("main p")?.textContent ?? "refused");
    if (remember) history.pushState(null, "", address);
    swap(page, true);
  } catch {
    if (mine === journeys) location.assign(address); // the browser says best what is wrong
  } finally {
    document.getElementById("content").classList.remove("busy");
  }
}

async function refresh() {
  let seconds = Number(document.body.dataset.refresh);
  if (!seconds) return;
  if (!document.hidden && cursor.dragFrom === null) {
    const [address, before] = [location.href, journeys];
    try {
      const { ok, page } = await fetchPage(address);
      if (address === location.href && before === journeys) {
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

// ------------------------------------------------------------------------------------------------------------- ranges

function rangeAddress(first, last) {
  const address = new URL(location.href);
  address.searchParams.delete("latest");
  address.searchParams.set("first_step", Math.round(Math.min(first, last)));
  address.searchParams.set("last_step", Math.round(Math.max(first, last)));
  return address.href;
}

const follow = (key) => all(`[data-range="${key}"]`)[0]?.click();

function onKey(event) {
  if (!chartAt(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { "+": "narrower", "=": "narrower", "-": "wider", Home: "whole", End: "latest" };
  const shifted = { ArrowLeft: "earlier", ArrowRight: "later" };
  const wanted = keys[event.key] ?? (event.shiftKey ? shifted[event.key] : undefined);
  if (!wanted) return;
  follow(wanted);
  event.preventDefault();
}

function enhance(root) {
  readable(root);
  const name = localStorage.getItem("by");
  for (const field of all('input[name="by"]', root)) {
    if (name && !field.value) field.value = field.defaultValue = name;
  }
}

// ------------------------------------------------------------------------------------------------------------- events

document.addEventListener("pointerdown", (event) => {
  const svg = chartAt(event.target);
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
document.addEventListener("dblclick", (event) => chartAt(event.target) && follow("whole"));
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

enhance(document);
timer = setTimeout(refresh, 1000 * Number(document.body.dataset.refresh || 0));
