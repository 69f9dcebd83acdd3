// Building elements without markup: text is always text, whatever a file is called.

/** An element with properties, attributes (`aria-*`, `data-*`, `class`) and children; null children are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** A line icon of 20 x 20. */
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

/** Minutes, seconds and tenths: 75.25 -> 1:15.2. */
export function clock(seconds) {
  const tenths = Math.floor(Math.max(0, seconds) * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** A length for people: 9.6 s, 2:05, 1:02:05. */
export function length(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const end = `${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(rest).padStart(2, "0")}`;
  return hours ? `${hours}:${end}` : end;
}

export const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** Tells screen readers, without showing. */
export function announce(text) {
  find("live").textContent = text;
}

/** Has the browser save what is at an address. */
export function save(address, name) {
  make("a", { href: address, download: name }).click();
}

/** A line that goes by itself. */
export function toast(text) {
  const line = make("div", { class: "toast" }, text);
  find("toasts").append(line);
  setTimeout(() => line.remove(), 6000);
}

/** Shows a problem where it belongs, or hides it. */
export function showProblem(place, problem) {
  place.hidden = !problem;
  place.replaceChildren();
  if (problem) place.append(make("strong", {}, problem.title ?? "That did not work"), problem.detail ?? String(problem.message));
}
