// The page: which view is shown, what is searched with, and the keys.

import { ask, params, upload } from "./api.js";
import { announce, counted, find, make, showProblem, toast } from "./dom.js";
import { Filters } from "./filters.js";
import { FoldersDialog } from "./folders.js";
import { Kept } from "./shortlist.js";
import { LibraryView } from "./library.js";
import { Results, thumb } from "./results.js";
import { Stage } from "./player_view.js";
import { Timeline } from "./timeline.js";
import { repaint } from "./waveform.js";

const FOUND_BY = { audio: "video", video: "audio", film: "film" };
const WORDS = { audio: ["sound", "sounds"], video: ["picture", "pictures"], film: ["film", "films"] };
const SUGGESTED = 6;
// A shorter query is told well enough by its finds.
const MOST_WITHOUT_TIMELINE = 2;

const stage = new Stage();
const kept = new Kept();
const libraryView = new LibraryView();
const filters = new Filters(find("filters"), find("toggle-filters"), find("filter-count"), () => search());
const results = new Results(find("hits"), {
  play: (hit) => play(hit),
  alike: (hit) => { location.hash = `#/search${params({ item: hit.item.id, start: hit.moment.start_seconds, for: results.target, by: results.target })}`; },
  keep: (hit) => kept.toggle(hit, stage.asked, results.target),
  isKept: (hit) => kept.has(hit),
});
const timeline = new Timeline((stretch) => play(stretch));
const folders = new FoldersDialog(() => refresh());

let shown = { key: "" };
let next = null;
let turn = 0;
let travelling = null;

// ------------------------------------------------------------------------------------------------------------ searching

function play(hit) {
  results.loaded(hit);
  timeline.loaded(hit);
  stage.lay(hit, results.target);
}

/** What a link says: `#/search?query=ID` or `?item=ID&start=4&for=audio&by=video`. */
function told() {
  const [path, rest] = location.hash.replace(/^#/, "").split("?");
  return { path: path || "/", values: Object.fromEntries(new URLSearchParams(rest ?? "")) };
}

async function askedOf({ query, item, start }) {
  const at = start === undefined ? {} : { start: Number(start) };
  if (query) {
    const found = await ask(`/queries/${encodeURIComponent(query)}`);
    return { kind: "query", id: found.id, name: found.name, hasPicture: found.has_picture, hasSound: found.has_sound, duration: found.duration_seconds, moments: found.moments, ...at };
  }
  const found = await ask(`/items/${encodeURIComponent(item)}`);
  return { kind: "item", id: found.id, name: found.name, hasPicture: found.has_picture, hasSound: found.has_sound, duration: found.duration_seconds, moments: found.moments, ...at };
}

function chosen(name) { return document.querySelector(`input[name="${name}"]:checked`)?.value; }

/** Sets what is found and by what, as far as the query has the senses for it. */
function choose(asked, target, by) {
  const has = { video: asked.hasPicture, audio: asked.hasSound, film: asked.hasPicture || asked.hasSound };
  const wanted = target ?? (asked.hasPicture ? "audio" : "video");
  const first = by ?? FOUND_BY[wanted];
  const way = has[first] ? first : asked.hasPicture ? "video" : "audio";
  for (const input of document.querySelectorAll('input[name="for"]')) input.checked = input.value === wanted;
  for (const input of document.querySelectorAll('input[name="by"]')) { input.checked = input.value === way; input.disabled = !has[input.value]; }
}

async function openSearch(values) {
  const key = JSON.stringify(values);
  view("search");
  if (shown.key === key) return;
  shown = { key };
  find("finds-title").textContent = "Looking…";
  find("hits").replaceChildren();
  find("more-hits").hidden = true;
  timeline.show(null);
  showProblem(find("finds-problem"), null);
  try {
    const asked = await askedOf(values);
    if (shown.key !== key) return;
    shown = { key, asked };
    find("asked-name").textContent = asked.name;
    find("asked-facts").textContent = Stage.facts(asked);
    document.title = `${asked.name} – CMMixer`;
    choose(asked, values.for, values.by);
    stage.ask(asked);
    await search();
  } catch (problem) {
    find("finds-title").textContent = "Nothing to show";
    showProblem(find("finds-problem"), problem);
  }
}

async function search(offset = 0) {
  const { asked } = shown;
  if (!asked) return;
  const mine = ++turn;
  const target = chosen("for");
  const long = offset === 0 && asked.start === undefined && asked.moments > MOST_WITHOUT_TIMELINE;
  try {
    const page = await ask(`/search${params({ [asked.kind]: asked.id, start_seconds: asked.start, for: target, by: chosen("by"), limit: 24, offset, timeline: long || undefined, ...filters.values })}`);
    if (mine !== turn) return;
    showProblem(find("finds-problem"), null);
    results.show(page, target, { more: offset > 0 });
    if (offset === 0) timeline.show(page.timeline, asked.duration, target);
    next = page.next_offset;
    find("more-hits").hidden = next === null;
    const [one, many] = WORDS[target];
    const count = results.cards.length;
    find("finds-title").replaceChildren(
      next === null ? counted(count, one, many) : `The best ${count} ${many}`,
      make("small", {}, `of ${page.moments_searched.toLocaleString("en")} moments, in ${page.took_seconds.toFixed(2)} s`),
    );
    announce(`${counted(count, one, many)} found.`);
  } catch (problem) {
    if (mine !== turn) return;
    find("finds-title").textContent = "Nothing to show";
    find("hits").replaceChildren();
    find("more-hits").hidden = true;
    timeline.show(null);
    showProblem(find("finds-problem"), problem);
  }
}

async function send(file) {
  if (!file) return;
  travelling?.cancel();
  location.hash = "#/";
  view("start");
  const line = find("upload-line");
  const bar = find("upload-bar");
  find("uploading").hidden = false;
  showProblem(line, null);
  line.hidden = false;
  line.className = "";
  line.textContent = `Sending ${file.name}`;
  bar.hidden = false;
  bar.value = 0;
  find("upload-cancel").hidden = false;
  const mine = (travelling = upload(file, (part) => {
    if (part < 1) bar.value = part;
    else { bar.removeAttribute("value"); line.textContent = `Looking at and listening to ${file.name}`; }
  }));
  try {
    const query = await mine.done;
    if (mine !== travelling) return;
    find("uploading").hidden = true;
    location.hash = `#/search${params({ query: query.id })}`;
  } catch (problem) {
    if (mine !== travelling) return;
    bar.hidden = true;
    find("upload-cancel").hidden = true;
    if (problem.name === "AbortError") { find("uploading").hidden = true; return; }
    line.className = "problem";
    showProblem(line, problem);
  }
}

// ---------------------------------------------------------------------------------------------------------------- views

function view(name) {
  for (const one of ["start", "search", "library", "kept"]) find(`view-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === (name === "start" ? "search" : name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name !== "search") { stage.player.pause(); document.title = "CMMixer"; }
}

function route() {
  const { path, values } = told();
  window.scrollTo(0, 0);
  if (path === "/search" && (values.query || values.item)) openSearch(values);
  else if (path === "/library") { view("library"); libraryView.load(); } else if (path === "/kept") { view("kept"); kept.show(); } else { shown = { key: "" }; view("start"); }
}

async function refresh() {
  const library = await ask("/library");
  filters.fill(library);
  libraryView.fill(library);
  if (!find("view-library").hidden) libraryView.load();
  const offset = Math.max(0, Math.floor(Math.random() * (library.films - SUGGESTED)));
  const { items } = await ask(`/items${params({ kind: library.films ? "film" : undefined, limit: SUGGESTED, offset: library.films ? offset : 0 })}`);
  find("from-library").hidden = !items.length;
  find("suggestions").replaceChildren(...items.map((item) => make("li", {}, make("a", { class: "suggestion", href: `#/search${params({ item: item.id })}` }, thumb(item), make("span", { class: "hit-title" }, item.title)))));
}

// ----------------------------------------------------------------------------------------------------------------- keys

const MOVES = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const at = event.target;
  if (event.key === "?" && !at.matches("input:not([type=range],[type=radio]), select")) { find("help-dialog").showModal(); event.preventDefault(); return; }
  if (find("view-search").hidden || at.matches("input, select, textarea")) return;
  const current = results.current;
  const card = at.closest(".hit");
  const done = {
    " ": () => { if (at.matches("button:not(.hit-play), a")) return false; stage.player.what && results.cards.some((row) => row.classList.contains("loaded")) ? stage.player.toggle() : current ? play(current.hit) : stage.player.toggle(); return true; },
    Enter: () => { if (card || !current || at.matches("button, a")) return false; play(current.hit); return true; },
    m: () => current?.querySelector(".alike").click(),
    k: () => current?.querySelector(".keep").click(),
    d: () => current?.querySelector(".download").click(),
    l: () => stage.toggleLoop(),
    ",": () => stage.nudge(-1),
    ".": () => stage.nudge(1),
    "/": () => filters.open(true),
  }[event.key] ?? (MOVES[event.key] ? () => results.go(MOVES[event.key]) : null);
  if (done && done() !== false) event.preventDefault();
}

// ---------------------------------------------------------------------------------------------------------------- begin

function listen() {
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", key);
  for (const id of ["pick", "pick-again"]) {
    find(id).addEventListener("change", (event) => { send(event.target.files[0]); event.target.value = ""; });
    // Chromium opens a chooser of its own for Enter, other browsers do not: one of the two, always ours.
    find(id).addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); event.target.click(); } });
  }
  find("upload-cancel").addEventListener("click", () => travelling?.cancel());
  find("more-hits").addEventListener("click", () => search(next));
  find("open-help").addEventListener("click", () => find("help-dialog").showModal());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  for (const input of document.querySelectorAll('input[name="for"]')) input.addEventListener("change", () => { choose(shown.asked, input.value); search(); });
  for (const input of document.querySelectorAll('input[name="by"]')) input.addEventListener("change", () => search());

  let inside = 0;
  const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => { if (isFile(event)) { inside += 1; find("drop-veil").hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (isFile(event)) { inside -= 1; find("drop-veil").hidden = inside > 0; } });
  document.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    inside = 0;
    find("drop-veil").hidden = true;
    send(event.dataTransfer.files[0]);
  });

  const dark = matchMedia("(prefers-color-scheme: dark)");
  find("theme").addEventListener("click", () => {
    const is = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = is === "dark" ? "light" : "dark";
    try { localStorage.setItem("cmmixer-theme", document.documentElement.dataset.theme); } catch { /* for this visit */ }
    repaint();
    stage.paint();
  });
  dark.addEventListener("change", () => { repaint(); stage.paint(); });
}

function theme() {
  try {
    const saved = localStorage.getItem("cmmixer-theme");
    if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;
  } catch { /* the system's */ }
}

/** Asks for the token until the service takes it. */
function enter() {
  return new Promise((resolve) => {
    find("token-dialog").showModal();
    find("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
    find("token-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await ask("/session", { method: "POST", body: { token: find("token").value } });
        find("token-dialog").close();
        resolve();
      } catch (problem) {
        showProblem(find("token-problem"), problem);
      }
    });
  });
}

async function begin() {
  theme();
  listen();
  try {
    const welcome = await ask("/welcome");
    find("drop-hint").textContent = `or choose a file, up to ${welcome.max_upload_mb} MB`;
    if (!welcome.welcome) await enter();
    route();
    await refresh();
    await folders.resume();
  } catch (problem) {
    toast(`${problem.title ?? "That did not work"}: ${problem.detail ?? problem.message}`);
  }
}

begin();
