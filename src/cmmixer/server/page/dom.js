// Helpers for the document. Elements are built without markup, so a file name is always shown as text.

/** Creates an element with attributes, `on…` listeners and children; null children are left out. */
export function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) created.addEventListener(name.slice(2), value);
    else created.setAttribute(name, value === true ? "" : String(value));
  }
  created.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return created;
}

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** Creates a 20 x 20 line icon from an SVG path. */
export function icon(path, filled = false) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  if (filled) line.setAttribute("class", "filled");
  svg.append(line);
  return svg;
}

/** Formats a time as minutes, seconds and tenths: 75.25 -> 1:15.2. */
export function formatTime(seconds) {
  const tenths = Math.floor(Math.max(0, seconds) * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** Formats a duration: 9.6 s, 2:05, 1:02:05. */
export function formatDuration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const end = `${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(rest).padStart(2, "0")}`;
  return hours ? `${hours}:${end}` : end;
}

export const formatCount = (count, singular, plural) => `${count.toLocaleString("en")} ${count === 1 ? singular : plural}`;

/** Has screen readers say a text without showing it. */
export function announce(text) {
  byId("live").textContent = text;
}

/** Has the browser save the file at an address. */
export function saveFile(address, name) {
  element("a", { href: address, download: name }).click();
}

/** Shows a message for a few seconds. */
export function toast(text) {
  const line = element("div", { class: "toast" }, text);
  byId("toasts").append(line);
  setTimeout(() => line.remove(), 6000);
}

/** Shows an error in an element, or hides the element where there is none. */
export function showProblem(place, problem) {
  place.hidden = !problem;
  place.replaceChildren();
  if (problem) place.append(element("strong", {}, problem.title ?? "Something went wrong"), problem.detail ?? String(problem.message));
}
