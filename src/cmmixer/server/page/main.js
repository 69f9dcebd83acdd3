// The page: its views, the search, uploads, and the keyboard.

import { queryString, request, upload } from "./api.js";
import { announce, byId, element, formatCount, showProblem, toast } from "./dom.js";
import { Filters } from "./filters.js";
import { FoldersDialog } from "./folders.js";
import { LibraryView } from "./library.js";
import { describeQuery, PlayerView } from "./player_view.js";
import { Results, thumbnail } from "./results.js";
import { Shortlist } from "./shortlist.js";
import { Timeline } from "./timeline.js";
import { redrawAll } from "./waveform.js";

const DEFAULT_BY = { audio: "video", video: "audio", any: "any" };
const TARGET_WORDS = { audio: ["sound", "sounds"], video: ["picture", "pictures"], any: ["video", "videos"] };
const VIEWS = ["start", "search", "library", "shortlist"];
const PAGE_HITS = 24;
const SUGGESTIONS = 6;
// Of a query with this many moments or fewer, the results say as much as a timeline.
const MAX_MOMENTS_WITHOUT_TIMELINE = 2;
const THEME_KEY = "cmmixer-theme";

const playerView = new PlayerView();
const shortlist = new Shortlist();
const libraryView = new LibraryView();
const filters = new Filters("filters", () => search());
const results = new Results(byId("hits"), {
  play: (hit) => play(hit),
  findSimilar: (hit) => { location.hash = `#/search${queryString({ item: hit.item.id, start: hit.moment.start_seconds, for: results.target, by: results.target })}`; },
  toggleShortlist: (hit) => shortlist.toggle(hit, playerView.query, results.target),
  isShortlisted: (hit) => shortlist.has(hit),
});
const timeline = new Timeline((segment) => play(segment));
const folders = new FoldersDialog(() => refresh());

let current = { key: "", query: null }; // the search that is shown, and the link to it
let nextOffset = null;
let searchNumber = 0; // a response to an older search is ignored
let currentUpload = null;

// Search

function play(hit) {
  results.markLoaded(hit);
  timeline.markLoaded(hit);
  playerView.playHit(hit, results.target);
}

/** Parses the address: `#/search?query=ID` or `#/search?item=ID&start=4&for=audio&by=video`. */
function parseHash() {
  const [path, search] = location.hash.replace(/^#/, "").split("?");
  return { path: path || "/", values: Object.fromEntries(new URLSearchParams(search ?? "")) };
}

/** Requests the upload or library file that an address names. */
async function requestQuery({ query, item, start }) {
  const kind = query ? "query" : "item";
  const file = await request(query ? `/queries/${encodeURIComponent(query)}` : `/items/${encodeURIComponent(item)}`);
  return {
    kind, id: file.id, name: file.name, hasVideo: file.has_video, hasAudio: file.has_audio, duration: file.duration_seconds, moments: file.moments,
    ...(start === undefined ? {} : { start: Number(start) }),
  };
}

const checkedValue = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

/** Sets what is searched for and by what, as far as the query has the modalities for it. */
function setModalities(query, target, by) {
  const has = { video: query.hasVideo, audio: query.hasAudio, any: query.hasVideo || query.hasAudio };
  const newTarget = target ?? (query.hasVideo ? "audio" : "video");
  const wantedBy = by ?? DEFAULT_BY[newTarget];
  const newBy = has[wantedBy] ? wantedBy : query.hasVideo ? "video" : "audio";
  for (const input of document.querySelectorAll('input[name="for"]')) input.checked = input.value === newTarget;
  for (const input of document.querySelectorAll('input[name="by"]')) { input.checked = input.value === newBy; input.disabled = !has[input.value]; }
}

async function openSearch(values) {
  const key = JSON.stringify(values);
  showView("search");
  if (current.key === key) return;
  current = { key, query: null };
  byId("results-title").textContent = "Searching…";
  byId("hits").replaceChildren();
  byId("more-hits").hidden = true;
  timeline.show(null);
  showProblem(byId("results-problem"), null);
  try {
    const query = await requestQuery(values);
    if (current.key !== key) return;
    current = { key, query };
    byId("query-name").textContent = query.name;
    byId("query-facts").textContent = describeQuery(query);
    document.title = `${query.name} – CMMixer`;
    setModalities(query, values.for, values.by);
    playerView.showQuery(query);
    await search();
  } catch (problem) {
    byId("results-title").textContent = "No results";
    showProblem(byId("results-problem"), problem);
  }
}

async function search(offset = 0) {
  const { query } = current;
  if (!query) return;
  const number = ++searchNumber;
  const target = checkedValue("for");
  const withTimeline = offset === 0 && query.start === undefined && query.moments > MAX_MOMENTS_WITHOUT_TIMELINE;
  try {
    const page = await request(`/search${queryString({
      [query.kind]: query.id, start_seconds: query.start, for: target, by: checkedValue("by"),
      limit: PAGE_HITS, offset, timeline: withTimeline || undefined, ...filters.values,
    })}`);
    if (number !== searchNumber) return;
    showProblem(byId("results-problem"), null);
    results.show(page, target, { append: offset > 0 });
    if (offset === 0) timeline.show(page.timeline, query.duration, target);
    nextOffset = page.next_offset;
    byId("more-hits").hidden = nextOffset === null;
    const [singular, plural] = TARGET_WORDS[target];
    const count = results.rows.length;
    byId("results-title").replaceChildren(
      nextOffset === null ? formatCount(count, singular, plural) : `The best ${count} ${plural}`,
      element("small", {}, `of ${page.moments_searched.toLocaleString("en")} moments, in ${page.took_seconds.toFixed(2)} s`),
    );
    announce(`${formatCount(count, singular, plural)} found.`);
  } catch (problem) {
    if (number !== searchNumber) return;
    byId("results-title").textContent = "No results";
    byId("hits").replaceChildren();
    byId("more-hits").hidden = true;
    timeline.show(null);
    showProblem(byId("results-problem"), problem);
  }
}

/** Uploads a file and searches with it. */
async function searchWithFile(file) {
  if (!file) return;
  currentUpload?.cancel();
  location.hash = "#/";
  showView("start");
  const line = byId("upload-line");
  const bar = byId("upload-bar");
  byId("uploading").hidden = false;
  showProblem(line, null);
  line.hidden = false;
  line.className = "";
  line.textContent = `Uploading ${file.name}`;
  bar.hidden = false;
  bar.value = 0;
  byId("upload-cancel").hidden = false;
  const thisUpload = (currentUpload = upload(file, (fraction) => {
    if (fraction < 1) bar.value = fraction;
    else { bar.removeAttribute("value"); line.textContent = `Analyzing ${file.name}`; }
  }));
  try {
    const query = await thisUpload.done;
    if (thisUpload !== currentUpload) return;
    byId("uploading").hidden = true;
    location.hash = `#/search${queryString({ query: query.id })}`;
  } catch (problem) {
    if (thisUpload !== currentUpload) return;
    bar.hidden = true;
    byId("upload-cancel").hidden = true;
    if (problem.name === "AbortError") { byId("uploading").hidden = true; return; }
    line.className = "problem";
    showProblem(line, problem);
  }
}

// Views

function showView(name) {
  for (const view of VIEWS) byId(`view-${view}`).hidden = view !== name;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === (name === "start" ? "search" : name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name !== "search") { playerView.player.pause(); document.title = "CMMixer"; }
}

/** Shows the view of the address. */
function route() {
  const { path, values } = parseHash();
  window.scrollTo(0, 0);
  if (path === "/search" && (values.query || values.item)) openSearch(values);
  else if (path === "/library") { showView("library"); libraryView.load(); } else if (path === "/shortlist") { showView("shortlist"); shortlist.show(); } else { current = { key: "", query: null }; showView("start"); }
}

/** Reloads what depends on the contents of the library. */
async function refresh() {
  const library = await request("/library");
  filters.fill(library);
  libraryView.fill(library);
  if (!byId("view-library").hidden) libraryView.load();
  const offset = Math.max(0, Math.floor(Math.random() * (library.videos - SUGGESTIONS)));
  const { items } = await request(`/items${queryString({ kind: library.videos ? "video" : undefined, limit: SUGGESTIONS, offset: library.videos ? offset : 0 })}`);
  byId("from-library").hidden = !items.length;
  byId("suggestions").replaceChildren(...items.map((item) => element("li", {}, element("a", { class: "suggestion", href: `#/search${queryString({ item: item.id })}` }, thumbnail(item), element("span", { class: "hit-title" }, item.title)))));
}

// Keyboard

const DIRECTIONS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

/** Space plays or pauses what is in the player; before the first hit is chosen it plays the current result. */
function playOrPause() {
  const { current: row } = results;
  if (row && !results.rows.some((each) => each.classList.contains("loaded"))) play(row.hit);
  else playerView.player.toggle();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (event.key === "?" && !target.matches("input:not([type=range],[type=radio]), select")) { byId("help-dialog").showModal(); event.preventDefault(); return; }
  if (byId("view-search").hidden || target.matches("input, select, textarea")) return;
  const { current: row } = results;
  const clickTool = (name) => row?.querySelector(name).click();
  // An action that returns false leaves the key to the browser.
  const action = {
    " ": () => (target.matches("button:not(.hit-play), a") ? false : playOrPause()),
    Enter: () => (!row || target.closest(".hit") || target.matches("button, a") ? false : play(row.hit)),
    m: () => clickTool(".similar"),
    k: () => clickTool(".shortlist"),
    d: () => clickTool(".download"),
    l: () => playerView.toggleLoop(),
    ",": () => playerView.shift(-1),
    ".": () => playerView.shift(1),
    "/": () => filters.open(true),
  }[event.key] ?? (DIRECTIONS[event.key] ? () => results.move(DIRECTIONS[event.key]) : null);
  if (action && action() !== false) event.preventDefault();
}

// Start

function listenToControls() {
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", onKey);
  for (const id of ["pick-file", "pick-another"]) {
    byId(id).addEventListener("change", (event) => { searchWithFile(event.target.files[0]); event.target.value = ""; });
    // With Enter Chromium opens a file chooser, other browsers do not. This way all open exactly one.
    byId(id).addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); event.target.click(); } });
  }
  byId("upload-cancel").addEventListener("click", () => currentUpload?.cancel());
  byId("more-hits").addEventListener("click", () => search(nextOffset));
  byId("open-help").addEventListener("click", () => byId("help-dialog").showModal());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  for (const input of document.querySelectorAll('input[name="for"]')) input.addEventListener("change", () => { setModalities(current.query, input.value); search(); });
  for (const input of document.querySelectorAll('input[name="by"]')) input.addEventListener("change", () => search());
}

/** Accepts files that are dropped anywhere on the page. */
function listenToDrops() {
  let depth = 0; // of the elements that a dragged file has entered and not left
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => { if (hasFile(event)) { depth += 1; byId("drop-overlay").hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (hasFile(event)) { depth -= 1; byId("drop-overlay").hidden = depth > 0; } });
  document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    byId("drop-overlay").hidden = true;
    searchWithFile(event.dataTransfer.files[0]);
  });
}

/** Applies the stored theme, and lets the reader change it. */
function setUpTheme() {
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => { redrawAll(); playerView.draw(); };
  try {
    const stored = localStorage.getItem(THEME_KEY);
    if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  } catch { /* without storage the theme of the system is used */ }
  byId("theme").addEventListener("click", () => {
    const theme = root.dataset.theme ?? (systemDark.matches ? "dark" : "light");
    root.dataset.theme = theme === "dark" ? "light" : "dark";
    try { localStorage.setItem(THEME_KEY, root.dataset.theme); } catch { /* without storage it lasts for this visit */ }
    redraw();
  });
  systemDark.addEventListener("change", redraw);
}

/** Asks for the token until the service accepts it. */
function requestToken() {
  return new Promise((resolve) => {
    byId("token-dialog").showModal();
    byId("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
    byId("token-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await request("/session", { method: "POST", body: { token: byId("token").value } });
        byId("token-dialog").close();
        resolve();
      } catch (problem) {
        showProblem(byId("token-problem"), problem);
      }
    });
  });
}

async function start() {
  setUpTheme();
  listenToControls();
  listenToDrops();
  try {
    const session = await request("/session");
    byId("drop-hint").textContent = `or choose a file, up to ${session.max_upload_mb} MB`;
    if (!session.authorized) await requestToken();
    route();
    await refresh();
    await folders.resume();
  } catch (problem) {
    toast(`${problem.title ?? "Something went wrong"}: ${problem.detail ?? problem.message}`);
  }
}

start();
