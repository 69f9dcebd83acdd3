// The shortlist: chosen moments, stored in this browser, saved as CSV or as an edit decision list.

import { request } from "./api.js";
import { byId, element, formatCount, formatTime, saveFile, toast } from "./dom.js";

const STORAGE_KEY = "cmmixer-shortlist";
const COLUMNS = ["name", "folder", "label", "start_seconds", "end_seconds", "score", "query", "query_start_seconds", "query_end_seconds", "item"];

/** Returns a CSV cell that no spreadsheet takes for a formula. */
function csvCell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export class Shortlist {
  constructor() {
    try { this.rows = JSON.parse(localStorage.getItem(STORAGE_KEY)) ?? []; } catch { this.rows = []; }
    byId("shortlist-csv").addEventListener("click", () => this.#save(this.#csv(), "text/csv", "shortlist.csv"));
    byId("shortlist-edl").addEventListener("click", () => this.#saveEdl());
    byId("shortlist-clear").addEventListener("click", () => { this.rows = []; this.#store(); });
    this.show();
  }

  #indexOf(hit) { return this.rows.findIndex((row) => row.item === hit.item.id && row.start_seconds === hit.moment.start_seconds); }
  has(hit) { return this.#indexOf(hit) >= 0; }

  /** Adds a hit, or removes it; returns whether it is in the list now. */
  toggle(hit, query, target) {
    const index = this.#indexOf(hit);
    if (index >= 0) this.rows.splice(index, 1);
    else {
      this.rows.push({
        item: hit.item.id, target, name: hit.item.name, title: hit.item.title, folder: hit.item.folder_name, label: hit.item.label, score: hit.score,
        start_seconds: hit.moment.start_seconds, end_seconds: hit.moment.end_seconds,
        query: query.name, query_start_seconds: hit.query_moment.start_seconds, query_end_seconds: hit.query_moment.end_seconds,
      });
    }
    this.#store();
    return index < 0;
  }

  show() {
    const count = byId("shortlist-count");
    count.hidden = !this.rows.length;
    count.textContent = String(this.rows.length);
    byId("shortlist-facts").textContent = this.rows.length ? `${formatCount(this.rows.length, "moment", "moments")}, stored in this browser` : "Nothing yet. Press K to add a search result.";
    for (const id of ["shortlist-csv", "shortlist-edl", "shortlist-rate", "shortlist-clear"]) byId(id).hidden = !this.rows.length;
    byId("shortlist-rows").replaceChildren(...this.rows.map((row, index) => element("li", {},
      element("span", {}, element("a", { class: "hit-title", href: `#/search?item=${row.item}&start=${row.start_seconds}` }, row.title),
        element("span", { class: "hit-facts" }, `${formatTime(row.start_seconds)} – ${formatTime(row.end_seconds)} · for ${row.query} at ${formatTime(row.query_start_seconds)}`)),
      element("button", { type: "button", class: "tool", "aria-label": `Remove ${row.title}`, onclick: () => { this.rows.splice(index, 1); this.#store(); } }, "Remove"),
    )));
  }

  #store() {
    try { localStorage.setItem(STORAGE_KEY, JSON.stringify(this.rows)); } catch { /* without storage the list lasts for this visit */ }
    this.show();
  }

  #csv() {
    return [COLUMNS.join(","), ...this.rows.map((row) => COLUMNS.map((column) => csvCell(row[column])).join(","))].join("\r\n") + "\r\n";
  }

  /** Saves an edit decision list in which each moment is one event. */
  async #saveEdl() {
    const targets = new Set(this.rows.map((row) => row.target));
    const moments = this.rows.map(({ item, start_seconds, end_seconds, score, query_start_seconds, query_end_seconds }) =>
      ({ item, start_seconds, end_seconds, score, query_start_seconds, query_end_seconds }));
    try {
      const list = await request("/cutlists", { method: "POST", text: true, body: {
        moments, target: targets.size === 1 ? [...targets][0] : "any", frames_per_second: Number(byId("shortlist-rate").value), query: this.rows[0].query,
      } });
      this.#save(list, "text/plain", "shortlist.edl");
    } catch (problem) {
      toast(`${problem.title}: ${problem.detail}`);
    }
  }

  #save(text, type, name) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    saveFile(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}
